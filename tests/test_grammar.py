"""One input line, as crash reads it."""

import pytest

from crashpy.command import CommandError
from crashpy.grammar import (
    BUILTIN_ALIASES,
    Alias,
    History,
    Order,
    RecallError,
    argument_file,
    argument_lines,
    parse,
    spaced,
    unaliased,
    words,
)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("", []),
        ("  ps \t -p  1\n", ["ps", "-p", "1"]),
        ('alias kp "kmem -p | grep x"', ["alias", "kp", "kmem -p | grep x"]),
        ('alias kp ""', ["alias", "kp", ""]),
        ("eval (1 + (2 << 3))", ["eval", "(1 + (2 << 3))"]),
        ("p (struct rq *)0 + 1", ["p", "(struct rq *)0", "+", "1"]),
        ("p (1 + 2", ["p", "(1 + 2"]),
        ('ps "a b"c', ["ps", "a b", "c"]),
        ('"ps" 1', ["ps", "1"]),
        ('"ps"x 1', ["ps", "1"]),  # what touches the quote is lost, in crash too
        ('say "never closed', ["say", "never closed"]),
        ("py prog['a b']", ["py", "prog['a", "b']"]),
        ("(1 + 2) 3", ["(1", "+", "2)", "3"]),  # only from the second word on
        ('ps "', ["ps"]),
    ],
)
def test_words(line, found):
    assert words(line) == found


@pytest.mark.parametrize(
    ("line", "order"),
    [
        ("ps -p", Order("ps -p")),
        ("ps | grep sh | wc", Order("ps ", "|", "grep sh | wc")),
        ("ps ! head", Order("ps ", "|", "head")),
        ("ps > a file", Order("ps ", ">", "a file")),
        ("ps >>f", Order("ps ", ">>", "f")),
        ("p a->b", Order("p a->b")),
        ("p a->b > f", Order("p a->b ", ">", "f")),
        ("eval (1 > 2)", Order("eval (1 > 2)")),
        ("ps '>' \"|\"", Order("ps '>' \"|\"")),
        ("!ls -l | wc", Order("", "!", "ls -l | wc")),
        ("!", Order("", "!")),
        ("|", Order("", "!")),
    ],
)
def test_redirection(line, order):
    assert parse(line) == order


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ps |", "no shell command after '|'"),
        ("ps ||", "pipe to nowhere?"),
        ("ps >", "no file name after >"),
        ("ps >> ", "no file name after >>"),
    ],
)
def test_redirection_to_nothing(line, message):
    with pytest.raises(CommandError, match=f"^{message.replace('|', '[|]').replace('?', '[?]')}$"):
        parse(line)


def test_a_star_and_an_input_file_may_touch_what_follows():
    assert spaced("*list_head") == "* list_head"
    assert spaced("<file") == "< file"
    assert spaced("* list_head") == "* list_head"
    assert spaced("*") == "*"


def test_aliases():
    assert unaliased("px jiffies > f", BUILTIN_ALIASES) == "p -x jiffies > f"
    assert unaliased("last", BUILTIN_ALIASES) == "ps -l"
    assert unaliased("lasting", BUILTIN_ALIASES) == "lasting"
    assert unaliased("\\px 1", BUILTIN_ALIASES) == "\\px 1"
    piped = {"k": Alias(("ps", "|", "grep"))}
    assert parse(unaliased("k sh", piped)) == Order("ps ", "|", "grep sh")
    assert len(BUILTIN_ALIASES) == 15


def test_words_from_a_file(tmp_path):
    path = tmp_path / "pids"
    path.write_text("1\n# no\n\n2 3\n")
    assert argument_file(["-p", "<", str(path), "x"]) == (1, 3, path)
    assert argument_file([f"<{path}"]) == (0, 1, path)
    assert argument_file(["a", "<<", str(path)]) is None
    assert argument_file(["<", "nosuchfile"]) is None
    with pytest.raises(CommandError, match="requires a file"):
        argument_file(["1", "<"])
    with pytest.raises(CommandError, match="multiple"):
        argument_file([f"<{path}", f"<{path}"])
    with path.open() as file:
        assert list(argument_lines(file)) == [["1"], ["2", "3"]]


def test_history():
    history = History(["set", "ps 1", "sys"])

    def recalled(line):
        return history.recalled(line, lambda name: name == "7")

    assert list(history.listing()) == ["[1] set", "[2] ps 1", "[3] sys"]
    assert recalled("r") == recalled("!!") == "sys"
    assert recalled("r 2") == recalled("r2") == recalled("!2") == "ps 1"
    assert recalled("r s") == "sys"
    assert recalled("r set") == "set"
    assert recalled("!7") is None
    assert recalled("!ls") is None
    assert recalled("rd 1") is None
    with pytest.raises(CommandError, match="command 9 not entered yet!"):
        recalled("r 9")
    with pytest.raises(RecallError, match=r"^invalid repeat request: r zz$"):
        recalled("r zz")
    with pytest.raises(RecallError):
        recalled("r 0")
    with pytest.raises(CommandError, match="no commands entered!"):
        History().recalled("!!", bool)
