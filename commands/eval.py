"""eval: one number in four bases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crashpy.command import UsageError, command
from crashpy.numbers import evaluate, signed

if TYPE_CHECKING:
    from crashpy.dump import Dump

UNITS = (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10))
HEADER = "   bits set: "


@dataclass(frozen=True)
class Number:
    value: int  # unsigned long
    signed: int  # long
    bits: tuple[int, ...] | None  # those that are set, highest first; None when not asked for


@command(usage="[-b][-l] (expression) | value", words=True)
def eval(dump: Dump, *, words: Sequence[str] = ()) -> Iterator[Number]:
    """evaluate a number or an expression of two

    Shows it in hexadecimal, decimal, octal and binary. A number is decimal, or
    hexadecimal with 0x or with a letter among its digits, and may end in k, m or g.
    A symbol stands for its address. Operators are + - * / % & | ^ << >> and # (power);
    an expression with | or > belongs in parentheses.

    -b  also the numbers of the bits that are set
    -l  64 bits also where a long has 32

    EXAMPLES
      crash> eval 128m + 4k
      hexadecimal: 8001000  (131076KB)
          decimal: 134221824
            octal: 1000010000
           binary: 0000000000000000000000000000000000001000000000000001000000000000

      crash> eval -b (1 << 32)
    """
    bits, rest = _options(words)
    if not rest:
        raise UsageError
    text = ""
    for word in rest:
        if word.startswith("("):
            text = word  # crash looks at the first word in parentheses only
            break
        text += word + " "
    else:
        text = f"({text.strip()})"
    value = evaluate(dump, text)
    shown = tuple(i for i in range(63, -1, -1) if value >> i & 1) if bits else None
    yield Number(value, signed(value), shown)


def _options(words: Sequence[str]) -> tuple[bool, Sequence[str]]:
    """-b and -l, read by hand: a minus may belong to the expression."""
    if words[:1] in (("-lb",), ("-bl",)):
        return True, words[1:]
    if words[:1] == ("-l",):
        if words[1:2] == ("-b",) and len(words) > 2:
            return True, words[2:]
        return False, words[1:]
    if words[:1] == ("-b",):
        if words[1:2] == ("-l",):
            if len(words) == 2:
                raise UsageError
            return True, words[2:]
        return (True, words[1:]) if len(words) > 1 else (False, words)  # minus hexadecimal b
    return False, words


@eval.text
def lines(numbers: Iterable[Number]) -> Iterator[str]:
    """crash's print_number(), two blanks after the first two values included."""
    for number in numbers:
        value = number.value
        unit = next(
            (f"({value // size}{name})" for name, size in UNITS if value and value % size == 0), ""
        )
        yield f"hexadecimal: {value:x}  {unit}"
        yield f"    decimal: {value}  " + (f"({number.signed})" if number.signed < 0 else "")
        yield f"      octal: {value:o}"
        yield f"     binary: {value:064b}"
        if number.bits is None:
            continue
        line = HEADER
        for bit in number.bits:
            line += f"{bit} "
            if len(line) >= 77:
                yield line
                line = " " * len(HEADER)
        yield line
