"""What a session does with a line: which command, where its output goes, what becomes of errors."""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from drgn import FaultError, Program

from crashpy.command import CommandError, UsageError, command, flag, operands
from crashpy.dump import Dump
from crashpy.output import Console, Report, Unended
from crashpy.session import Session


@dataclass(frozen=True)
class Number:
    number: int


@command(
    flag("-b", "bad", "fail half-way"),
    operands("numbers", "number", int, "numbers"),
    usage="[-b] [number ...]",
)
def count(
    dump: Dump, *, session: Session, bad: bool = False, numbers: Sequence[int] = (1, 2, 3)
) -> Iterator[Number]:
    """count

    EXAMPLES
    """
    session.heard = list(numbers)
    for number in numbers:
        yield Number(number)
        dump.report(f"that was {number}")
        if bad:
            raise CommandError("enough")


@count.text
def lines(found):
    for item in found:
        yield f"number {item.number}"


@command(words=True)
def fails(_dump: Dump, *, words: Sequence[str] = ()) -> Iterator[str]:
    yield "before"
    raise {
        "value": ValueError("negative\nshift"),
        "fault": FaultError("could not read memory", 0x1234),
        "deep": RecursionError("too deep"),
        "usage": UsageError("invalid option -- 'z'"),
        "type": LookupError("could not find 'struct nosuch'"),
    }[words[0]]


@pytest.fixture
def session(tmp_path, monkeypatch) -> Session:
    monkeypatch.chdir(tmp_path)
    session = Session(
        Dump(Program(), "vmlinux", "vmcore"), console=Console(io.StringIO(), io.StringIO())
    )
    session.extensions[Path("test")] = {"count": count, "fails": fails}
    session.settings.silent = True
    return session


def shown(session: Session) -> str:
    return session.console.out.getvalue()


def run(session: Session, line: str) -> list[str]:
    return list(session.run(line))


def test_reports_come_where_they_belong(session):
    assert run(session, "count 7 8") == [
        "number 7",
        "count: that was 7",
        "number 8",
        "count: that was 8",
    ]
    assert session.failures == 2


def test_an_error_ends_a_command_and_keeps_what_it_printed(session):
    assert run(session, "count -b 4 5") == ["number 4", "count: that was 4", "count: enough"]


def test_bad_words_show_the_usage(session):
    assert run(session, "count -z") == [
        "Usage:",
        "  count [-b] [number ...]",
        'Enter "help count" for details.',
    ]
    assert session.console.err.getvalue() == "count: invalid option -- 'z'\n"
    assert run(session, "fails usage")[1] == 'No usage data for the "fails" command is available.'


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("value", "fails: ValueError: negative shift"),
        ("fault", "fails: could not read memory: 0x1234"),
        ("deep", "fails: RecursionError: too deep"),
        ("type", "fails: could not find 'struct nosuch'"),
    ],
)
def test_whatever_a_command_raises_is_one_line(session, what, message):
    assert run(session, f"fails {what}") == ["before", message]
    assert "Traceback" not in session.console.err.getvalue()
    session.settings.debug = 1
    assert run(session, f"fails {what}") == ["before", message]
    assert ("Traceback" in session.console.err.getvalue()) == (what in ("value", "deep", "type"))


def test_unknown_words(session):
    assert run(session, "nosuch 1") == ["crash: command not found: nosuch"]
    assert run(session, "continue") == ["crash: prohibited gdb command: continue"]
    assert run(session, "") == run(session, "  # comment") == run(session, "// comment") == []


def test_output_to_a_file(session):
    assert run(session, "count 1 > out file") == ["count: that was 1"]
    assert run(session, "count 2 >> out file") == ["count: that was 2"]
    expected = "number 1\ncount: that was 1\nnumber 2\ncount: that was 2\n"
    assert Path("out file").read_text() == expected
    assert run(session, "count > /nosuch/f") == ["crash: unable to open /nosuch/f"]


def test_where_errors_go(session):
    session.settings.error = "redirect"
    assert run(session, "count 1 > out") == []
    assert Path("out").read_text() == "number 1\ncount: that was 1\n"
    assert run(session, "count 1") == ["number 1", "count: that was 1"]
    session.settings.error = "errors"
    assert run(session, "count 1 > out") == []
    assert run(session, "count 1") == ["number 1"]
    assert Path("out").read_text() == "number 1\n"
    assert Path("errors").read_text() == "count: that was 1\n" * 2


def test_output_to_a_pipe(session, capfd):
    assert run(session, "count 5 6 | grep 6") == ["count: that was 5", "count: that was 6"]
    assert capfd.readouterr().out == "number 6\ncount: that was 6\n"


def test_a_reader_that_has_enough_ends_the_command(session, capfd):
    numbers = " ".join(map(str, range(20000)))
    assert len(run(session, f"count {numbers} | head -1")) < 20000
    assert capfd.readouterr().out == "number 0\n"


def test_the_shell(session):
    assert run(session, "!echo a; echo b") == ["a", "b"]
    assert run(session, 'echo a "b  c"') == ["a b  c"]
    [line] = run(session, "!printf x")
    assert isinstance(line, Unended)


def test_commands_from_a_file(session):
    Path("list").write_text("# no\n\ncount 1 > one\nnosuch\n!echo hi\n< list\nexit\ncount 2\n")
    assert run(session, "< list") == [
        "count: that was 1",
        "crash: command not found: nosuch",
        "hi",
        "crash: embedded input files not allowed!",
    ]
    assert session.finished
    session.finished, session.settings.silent = False, False
    echoed = run(session, "<list")
    assert [line for line in echoed if line.startswith("crash> ")] == [
        "crash> count 1 > one",
        "crash> nosuch",
        "crash> < list",
        "crash> exit",
    ]


def test_files_that_hold_no_commands(session):
    assert run(session, "< nosuch") == ["crash: nosuch: No such file or directory"]
    assert run(session, "<") == ["crash: no input file entered!"]
    Path("elf").write_bytes(b"\x7fELF")
    assert run(session, "< elf") == ["crash: input from executable files not supported yet!"]


def test_words_from_a_file(session):
    Path("words").write_text("1\n# no\n2 3\n-b 4\n5\n")
    assert [line for line in run(session, "count < words") if line.startswith("number")] == [
        f"number {n}" for n in (1, 2, 3, 4, 5)
    ]


def test_aliases(session):
    run(session, 'alias two "count 2"')
    assert run(session, "two 3")[::2] == ["number 2", "number 3"]
    assert run(session, "\\two") == ["crash: command not found: two"]
    assert "two" in session.words()
    assert session.resolved("two") == "count"


def test_json(session):
    assert json.loads(run(session, "count --json 1")[0]) == {"number": 1}
    session.settings.output = "json"
    assert run(session, "count 1")[0] == '{"number": 1}'


def test_what_is_typed_at_the_prompt(session):
    for line in ("count 1", "h", "r 1", "r zz", "!1"):
        session.enter(line)
    assert session.history.lines == ["count 1", "count 1", "count 1"]
    shown_lines = shown(session).splitlines()
    assert shown_lines.count("number 1") == 3
    assert "[1] count 1" in shown_lines
    assert "crash> count 1" in shown_lines
    assert "invalid repeat request: r zz" in shown_lines


def test_ctrl_c_stops_the_line_not_the_session(session):
    class Interrupted(Console):
        def show(self, lines):
            next(iter(lines))
            raise KeyboardInterrupt

    out = session.console
    session.console = Interrupted(out.out, out.err)
    session.execute("count")
    assert session.interrupted
    session.console = out
    session.execute("count 1")
    assert not session.interrupted
    assert shown(session).startswith("number 1\n")


def test_a_message_of_another_command(session):
    with session.speaking_as("bt"):
        session.report("what")
    assert session._reports == ["bt: what"]
    assert isinstance(session._reports[0], Report)


def test_minimal_mode(session):
    session.minimal = True
    assert not session.knows("ps")
    assert session.knows("exit")
    assert run(session, "ps") == [
        "crash: ps: command not available in minimal mode\n"
        "NOTE: minimal mode commands: log, dis, rd, sym, eval, set, extend and exit"
    ]


def test_every_line_for_gdb(session):
    session.settings.gdb = True
    assert session.prompt == "gdb> "
    assert run(session, "crash count 1")[0] == "number 1"


def test_the_names_of_commands_are_known_without_importing_them(session):
    names = session.names()
    assert names[0] == "*"
    assert names[-1] == "q"
    assert {"alias", "exit", "help", "kmem", "repeat", "set", "union"} <= set(names)
    assert not session.knows("__init__")


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("jiffies", ["p", "jiffies"]),
        ("list_head", ["struct", "list_head"]),
        ("task_struct.pid,comm init_task", ["struct", "task_struct.pid,comm", "init_task"]),
        ("atomic_t", ["whatis", "atomic_t"]),
        ("atomic_t 1000", ["struct", "atomic_t", "1000"]),
        ("sigval", ["union", "sigval"]),
        ("pid_type", ["whatis", "pid_type"]),
        ("enum pid_type", ["whatis", "enum", "pid_type"]),
        ("pid_t", ["whatis", "pid_t"]),
        ("pid_t 1000", ["rd", "-32", "1000"]),
        ("u64 jiffies", ["p", "jiffies"]),
        ("nosuch", None),
        ("(1)", None),
    ],
)
def test_variables_and_types_stand_for_commands(opened, line, command):
    assert opened("vmcore-null")._data(line.split()) == command


def test_streams_survive_what_they_cannot_hold(session):
    session.console = Console(io.TextIOWrapper(io.BytesIO(), "ascii"), io.StringIO())
    session.console.show(["caf\u00e9 \udcff \ud800"])
    assert session.console.out.buffer.getvalue()
