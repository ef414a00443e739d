"""Numbers as crash reads them from a command line: decimal, hexadecimal, expressions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crashpy.command import CommandError

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.symbols import SymbolTable

WORD = (1 << 64) - 1
UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
LONGEST_HEX = 16  # digits of an address
OPERATORS = "#><+-&|*/%^"


class NumberError(CommandError):
    """A word that is no number, with crash's remark on it."""


def is_decimal(word: str) -> bool:
    """Digits and blanks (crash's decimal())."""
    return any(c.isdigit() for c in word) and all(c in "0123456789 " for c in word)


def is_hexadecimal(word: str) -> bool:
    """Hexadecimal digits with any number of x among them (crash's hexadecimal())."""
    digits = word.removesuffix(" ")
    return (
        all(c in "0123456789abcdefABCDEFxX" for c in digits)
        and any(c not in "xX" for c in digits)
    )  # fmt: skip


def is_number(word: str) -> bool:
    return is_decimal(word) or is_hexadecimal(word)


def dtol(word: str) -> int:
    """A decimal number."""
    digits = word.lstrip(" ")
    for char in digits:
        if char not in "0123456789":
            raise NumberError(f'{word}: "{char}" is not a digit 0 - 9')
    if not digits:
        raise NumberError(f"not a valid number: {word}")
    return min(int(digits), WORD)


def htol(word: str) -> int:
    """A hexadecimal number, with or without 0x."""
    digits = word[2:] if word[:2] in ("0x", "0X") else word
    if len(digits) > LONGEST_HEX:
        raise NumberError(f'input string too large: "{digits}" ({len(digits)} vs {LONGEST_HEX})')
    if any(c not in "0123456789abcdefABCDEFxXh" for c in digits):
        raise NumberError(f'invalid input: "{digits}"')
    digits = digits.translate({ord(c): None for c in "xXh"})
    return int(digits, 16) if digits else 0


def stol(word: str, *, hexadecimal: bool = False) -> int:
    """A decimal number, else a hexadecimal one; the other way round where asked."""
    if hexadecimal and is_hexadecimal(word):
        return htol(word)
    if is_decimal(word):
        return dtol(word)
    if is_hexadecimal(word):
        return htol(word)
    raise NumberError(f"not a valid number: {word}")


def signed(value: int) -> int:
    """A 64-bit word read with its sign."""
    value &= WORD
    return value - (1 << 64) if value >> 63 else value


def can_evaluate(word: str) -> bool:
    """Whether a word looks like an expression (crash's can_eval())."""
    if (
        word.startswith("(")
        and word.endswith(")")
        and len(word) > 2
        and word.count("(") == word.count(")") == 1
    ):
        return True
    at = next((i for i, c in enumerate(word) if c in "><+-&|*/%^"), -1)
    return 0 < at < len(word) - 1


def evaluate(dump: Dump, expression: str, *, hexadecimal: bool = False) -> int:
    """The value of ``number``, ``symbol`` or ``(a op b)`` as a 64-bit word (crash's eval()).

    Numbers may carry a unit (k, m, g) and a ``~``. What is wrong with one of them is
    reported; CommandError says that the whole makes no sense.
    """
    value = _evaluated(dump, expression, hexadecimal)
    if value is None:
        raise CommandError(f"invalid expression: {expression}")
    return value & WORD


def _evaluated(dump: Dump, expression: str, hexadecimal: bool) -> int | None:
    text = expression
    if "(" in text or ")" in text:
        if not (text.startswith("(") and text.endswith(")") and text.index(")") == len(text) - 1):
            return None
        text = text[1:-1]
        if "(" in text:
            return None
    if text.startswith("-"):
        text = "0" + text
    at = next((i for i, c in enumerate(text) if c in OPERATORS), -1)
    if at < 0:
        return _operand(dump, text, hexadecimal)
    operator = text[at]
    if operator in "<>":
        if text[at + 1 : at + 2] != operator:
            return None
        left, right = text[:at].strip(), text[at + 2 :].strip()
    else:
        left, right = text[:at].strip(), text[at + 1 :].strip()
    if not left or not right:
        return None
    a = _operand(dump, left, hexadecimal)
    if a is None:
        return None
    b = _operand(dump, right, hexadecimal)
    if b is None:
        return None
    return _applied(operator, a, b)


def _applied(operator: str, a: int, b: int) -> int:
    if operator == "+":
        return a + b
    if operator == "-":
        return a - b
    if operator == "&":
        return a & b
    if operator == "|":
        return a | b
    if operator == "^":
        return a ^ b
    if operator == "*":
        return a * b
    if operator == "<":
        return a << (b & 63)
    if operator == ">":
        return a >> (b & 63)
    if operator == "#":
        return pow(a, b, 1 << 64)
    if not b:
        raise CommandError("division by zero")
    return a // b if operator == "/" else a % b


def _operand(dump: Dump, word: str, hexadecimal: bool) -> int | None:
    """A symbol's value, or a number with its unit (crash's calculate())."""
    table: SymbolTable = dump.symbols
    if (symbol := table.named(word)) is not None:
        return symbol.address
    complement = word.startswith("~")
    word = word[1:] if complement else word
    if complement and (symbol := table.named(word)) is not None:
        return ~symbol.address & WORD
    factor = UNITS.get(word[-1:].lower(), 1)
    if factor > 1:
        word = word[:-1]
    if not is_number(word):
        return None
    try:
        value = stol(word, hexadecimal=hexadecimal) * factor
    except NumberError as error:
        dump.report(str(error))
        return None
    return (~value if complement else value) & WORD
