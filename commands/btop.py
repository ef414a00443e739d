"""btop: bytes to page numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crashpy.command import Address, UsageError, command
from crashpy.numbers import htol

if TYPE_CHECKING:
    from crashpy.dump import Dump


@dataclass(frozen=True)
class PageNumber:
    address: Address
    page_number: Address  # in hexadecimal, as an address is


@command(usage="address ...", words=True)
def btop(dump: Dump, *, words: Sequence[str] = ()) -> Iterator[PageNumber]:
    """the page number of an address

    Divides hexadecimal addresses by the size of a page. A physical address
    gives the number of its page frame.

    EXAMPLES
      crash> btop 512a000
      512a000: 512a
    """
    if not words:
        raise UsageError
    for word in words:
        address = htol(word)
        yield PageNumber(Address(address), Address(address // dump.page_size))


@btop.text
def lines(numbers: Iterable[PageNumber]) -> Iterator[str]:
    return (f"{one.address:x}: {one.page_number:x}" for one in numbers)
