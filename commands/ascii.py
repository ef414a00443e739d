"""ascii: the characters in a number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crashpy.command import command
from crashpy.numbers import htol

if TYPE_CHECKING:
    from crashpy.dump import Dump

CONTROL = [
    *("NUL", "SOH", "STX", "ETX", "EOT", "ENQ", "ACK", "BEL", "BS", "HT", "LF", "VT", "FF"),
    *("CR", "SO", "SI", "DLE", "DC1", "DC2", "DC3", "DC4", "NAK", "SYN", "ETB", "CAN", "EM"),
    *("SUB", "ESC", "FS", "GS", "RS", "US"),
]


@dataclass(frozen=True)
class Characters:
    value: int | None  # unsigned long; None asks for the chart
    characters: str  # lowest byte first


@command(usage="value ...", words=True)
def ascii(dump: Dump, *, words: Sequence[str] = ()) -> Iterator[Characters]:  # noqa: ARG001
    """the characters in hexadecimal numbers

    The lowest byte comes first, as in memory. Without a number, the chart of ASCII.

    EXAMPLES
      crash> ascii 62696c2f7273752f
      62696c2f7273752f: /usr/lib
    """
    if not words:
        yield Characters(None, "")
    for word in words:
        value = htol(word)
        yield Characters(value, "".join(map(shown, value.to_bytes(8, "little"))))


def shown(byte: int) -> str:
    """One character, or its name or number in angle brackets."""
    if 0x20 <= byte < 0x7F:
        return chr(byte)
    if byte > 0x7F:
        return f"<{byte:02x}>"
    return f"<{CONTROL[byte] if byte < 0x20 else 'DEL'}>"


@ascii.text
def lines(found: Iterable[Characters]) -> Iterator[str]:
    for item in found:
        if item.value is None:
            yield from chart()
        else:
            yield f"{item.value:016x}: {item.characters}"


def chart() -> Iterator[str]:
    """ASCII by column of sixteen."""
    yield ""
    yield "      0    1   2   3   4   5   6   7"
    yield "    +-------------------------------"
    for low in range(16):
        cells = [f"{CONTROL[low]:>3}", f"{CONTROL[16 + low]:>3}"]
        cells += [chr(high * 16 + low) for high in range(2, 8)]
        if low == 0:
            cells[2] = " SP"
            row = " ".join(cells[:3]) + "  " + "   ".join(cells[3:])
        elif low == 15:
            row = " ".join(cells[:2]) + "  " + "   ".join(cells[2:7]) + "  DEL"
        else:
            row = " ".join(cells[:2]) + "  " + "   ".join(cells[2:])
        yield f"  {low:X} | {row}"
    yield ""
