"""C expressions as gdb evaluates them."""

import contextlib
from types import SimpleNamespace

import pytest
from drgn import Architecture, Platform, Program

from crashpy.gdb.expressions import GdbError, evaluate
from crashpy.gdb.target import Target
from crashpy.gdb.values import Style, show_object


@pytest.fixture(scope="module")
def target():
    prog = Program(Platform(Architecture.X86_64))
    return Target(SimpleNamespace(prog=prog, symbols=None, files=()))


def shown(target, text):
    value, _ = evaluate(target, text)
    return show_object(target, value, Style())


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3", "9"),
        ("7 / 2", "3"),
        ("-7 / 2", "-3"),
        ("7 / 2.0", "3.5"),
        ("7.5 / 0", "inf"),
        ("7 % 3", "1"),
        ("1 << 4 | 1", "17"),
        ("5 > 3 ? 10 : 20", "10"),
        ("0 && 1 / 0", "0"),
        ("1 || 1 / 0", "1"),
        ("!5", "0"),
        ("~0", "-1"),
        ("~0UL", "18446744073709551615"),
        ("1, 2", "2"),
        ("010", "8"),
        ("0x80000000", "2147483648"),
        ("2147483648", "2147483648"),
        ("-1", "-1"),
        ("(unsigned char)-1", "255 '\\377'"),
        ("(char)65", "65 'A'"),
        ("'A'", "65 'A'"),
        ("'\\n'", "10 '\\n'"),
        ('"hello"', '"hello"'),
        ('sizeof("hello")', "6"),
        ("sizeof(long)", "8"),
        ("sizeof(char (*)[16])", "8"),
        ("(void *)16", "(void *) 0x10"),
        ("(long *)16 + 2", "(long *) 0x20"),
        ("(long *)32 - (long *)16", "2"),
        ("(void *)16 == 16", "1"),
        ("1.5", "1.5"),
        ("(float)1 / 3", "0.333333343"),
        ("$nosuch", "void"),
        ("(void)1", "void"),
    ],
)
def test_values(target, expression, text):
    assert shown(target, expression) == text


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("nosuch", 'No symbol "nosuch" in current context.'),
        ("1 +", "A syntax error in expression, near `'."),
        ("1 2", "A syntax error in expression, near `2'."),
        ("(1", "A syntax error in expression, near `'."),
        ("int", "Attempt to use a type name as an expression"),
        ("1 / 0", "Division by zero"),
        ("*1.5", "Attempt to take contents of a non-pointer value."),
        ("&1", "Attempt to take address of value not located in memory."),
        ("5 = 6", "cannot write to a dump"),
        ("(struct nosuch *)0", "No struct type named nosuch."),
        ("99999999999999999999", "Numeric constant too large."),
        ("`", "Invalid character '`' in expression."),
    ],
)
def test_what_gdb_refuses(target, expression, message):
    with pytest.raises(GdbError) as error:
        evaluate(target, expression)
    assert str(error.value) == message


def test_too_long_a_shift_is_warned_of(target):
    value, warnings = evaluate(target, "1 << 40")
    assert value.value_() == 0
    assert warnings == ["left shift count >= width of type"]


def test_history(target):
    target.history[:] = [evaluate(target, "5")[0], evaluate(target, "6")[0]]
    assert shown(target, "$1 + $") == "11"
    assert shown(target, "$$") == "5"
    with pytest.raises(GdbError, match=r"History has not yet reached \$3"):
        evaluate(target, "$3")


@pytest.mark.parametrize("text", ["(" * 3000, "-" * 3000 + "1", "1" + "+1" * 500, "((int)" * 400])
def test_no_input_is_too_deep(target, text):
    with contextlib.suppress(GdbError):
        evaluate(target, text)
