"""Numbers as crash reads them."""

from types import SimpleNamespace

import pytest

from crashpy.command import CommandError
from crashpy.numbers import (
    NumberError,
    can_evaluate,
    dtol,
    evaluate,
    htol,
    is_decimal,
    is_hexadecimal,
    signed,
    stol,
)


class Symbols:
    def named(self, name):
        return SimpleNamespace(address=0xFFFFFFFF81000000) if name == "start" else None


@pytest.fixture
def dump():
    said = []
    return SimpleNamespace(symbols=Symbols(), report=said.append, said=said)


def test_what_is_a_number():
    assert is_decimal("12")
    assert not is_decimal("12a")
    assert not is_decimal("")
    assert is_hexadecimal("0xff")
    assert is_hexadecimal("abc")
    assert not is_hexadecimal("xx")


def test_decimal_comes_before_hexadecimal():
    assert stol("10") == 10
    assert stol("10", hexadecimal=True) == 16
    assert stol("1a") == 26
    assert htol("0xFF") == 255


@pytest.mark.parametrize(
    ("read", "word", "message"),
    [
        (stol, "xyz", "not a valid number: xyz"),
        (htol, "xyz", 'invalid input: "xyz"'),
        (htol, "0x11112222333344445", 'input string too large: "11112222333344445" (17 vs 16)'),
        (dtol, "1 2", '1 2: " " is not a digit 0 - 9'),
    ],
)
def test_what_crash_says_of_a_word_that_is_none(read, word, message):
    with pytest.raises(NumberError) as error:
        read(word)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("10", 10),
        ("1k", 1024),
        ("0x10", 16),
        ("(1 << 32)", 1 << 32),
        ("(128m + 8)", (128 << 20) + 8),
        ("(3 - 5)", (1 << 64) - 2),
        ("(2 # 10)", 1024),
        ("~0", (1 << 64) - 1),
        ("-1", (1 << 64) - 1),
        ("start", 0xFFFFFFFF81000000),
        ("(start + 4k)", 0xFFFFFFFF81001000),
        ("~start", 0x7EFFFFFF),
    ],
)
def test_expressions(dump, expression, value):
    assert evaluate(dump, expression) == value


@pytest.mark.parametrize(
    "expression", ["((1))", "(1 + 2", "nosuch", "1 +", "1 < 2", "(1 + 2 + 3)", "k", "12kk"]
)
def test_expressions_that_make_no_sense(dump, expression):
    with pytest.raises(CommandError, match="invalid expression"):
        evaluate(dump, expression)


def test_a_remark_on_the_part_that_is_wrong(dump):
    with pytest.raises(CommandError):
        evaluate(dump, "(1 2)")
    assert dump.said == ['1 2: " " is not a digit 0 - 9']


def test_division_by_zero_does_not_end_the_session(dump):
    with pytest.raises(CommandError, match="division by zero"):
        evaluate(dump, "(1 / 0)")


def test_what_looks_like_an_expression():
    assert can_evaluate("(1)")
    assert can_evaluate("a+1")
    assert not can_evaluate("12")
    assert not can_evaluate("+1")


def test_signed():
    assert signed((1 << 64) - 2) == -2
    assert signed(5) == 5
