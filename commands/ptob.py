"""ptob: page numbers to bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crashpy.command import Address, UsageError, command
from crashpy.numbers import WORD, stol

if TYPE_CHECKING:
    from crashpy.dump import Dump


@dataclass(frozen=True)
class PageAddress:
    page_number: Address  # in hexadecimal, as an address is
    address: Address


@command(usage="page_number ...", words=True)
def ptob(dump: Dump, *, words: Sequence[str] = ()) -> Iterator[PageAddress]:
    """the address of a page number

    Multiplies page frame numbers by the size of a page. A number is decimal, or
    hexadecimal with 0x or with a letter among its digits; what is shown is
    hexadecimal.

    EXAMPLES
      crash> ptob 512a
      512a: 512a000

      crash> ptob 16 0x16
      10: 10000
      16: 16000
    """
    if not words:
        raise UsageError
    for word in words:
        number = stol(word)
        yield PageAddress(Address(number), Address(number * dump.page_size & WORD))


@ptob.text
def lines(addresses: Iterable[PageAddress]) -> Iterator[str]:
    return (f"{one.page_number:x}: {one.address:x}" for one in addresses)
