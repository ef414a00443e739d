"""pte: what an entry of a page table says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crashpy.command import Address, command, operands
from crashpy.numbers import htol
from crashpy.text import centered

if TYPE_CHECKING:
    from crashpy.dump import Dump

# arch/x86/include/asm/pgtable_types.h
PRESENT, PROTNONE, PSE = 1 << 0, 1 << 8, 1 << 7
FLAGS = (
    (PRESENT, "PRESENT"),
    (1 << 1, "RW"),
    (1 << 2, "USER"),
    (1 << 3, "PWT"),
    (1 << 4, "PCD"),
    (1 << 5, "ACCESSED"),
    (1 << 6, "DIRTY"),
    (PSE, "PSE"),
    (PROTNONE, "PROTNONE"),
    (1 << 8, "GLOBAL"),
    (1 << 63, "NX"),
)


@dataclass(frozen=True)
class Entry:
    pte: Address
    physical: Address | None  # None of a page in swap
    flags: tuple[str, ...]
    swap: str | None = None  # file or device
    swap_page: int | None = None  # where in it


@command(
    operands("contents", "contents", str, "hexadecimal entries of a page table"),
    usage="contents ...",
)
def pte(dump: Dump, *, contents: Sequence[str] = ()) -> Iterator[Entry]:
    """what an entry of a page table means

    The physical address and the flags in the hexadecimal contents of a page table
    entry; of a page that is not in memory, the file or device it is swapped to
    and the page in that.

    EXAMPLES
      crash> pte d8e067
       PTE    PHYSICAL  FLAGS
      d8e067   d8e000   (PRESENT|RW|USER|ACCESSED|DIRTY)
    """
    for one in contents:
        yield decoded(dump, htol(one))


def decoded(dump: Dump, entry: int) -> Entry:
    """Its x86_64_translate_pte()."""
    from crashpy.kernel.mm import Swap
    from crashpy.kernel.paging import Paging

    if entry and not entry & (PRESENT | PROTNONE):
        swap = Swap.of(dump.prog)
        name, page = swap.location(entry) if swap.exists else ("(unknown swap location)", 0)
        return Entry(Address(entry), None, (), name, page)
    flags = [name for bit, name in FLAGS if entry & bit]
    # One bit says PROTNONE of a page that is not present, GLOBAL of any.
    absent = "PROTNONE" if entry & PRESENT else "PSE"
    physical = Paging.of(dump.prog).address(entry)
    return Entry(Address(entry), Address(physical), tuple(f for f in flags if f != absent))


@pte.text
def lines(entries: Iterable[Entry]) -> Iterator[str]:
    for entry in entries:
        yield from entry_lines(entry)


def entry_lines(entry: Entry) -> Iterator[str]:
    contents = f"{entry.pte:x}"
    width = max(len(contents), len("PTE"))
    start = centered("PTE", width)
    contents = centered(contents, width, right=True)
    if entry.physical is None:
        swap, page = entry.swap or "", f"{entry.swap_page}"
        name, number = max(len(swap), len("SWAP")), max(len(page), len("OFFSET"))
        yield f"{start}  {centered('SWAP', name)}  {centered('OFFSET', number)}"
        swap, page = centered(swap, name, right=True), centered(page, number, right=True)
        yield f"{contents}  {swap}  {page}"
        return
    physical = f"{entry.physical:x}"
    width = max(len(physical), len("PHYSICAL"))
    yield f"{start}  {centered('PHYSICAL', width)}  FLAGS"
    flags = "|".join(entry.flags) if entry.pte else "no mapping"
    yield f"{contents}  {centered(physical, width, right=True)}  ({flags})"
