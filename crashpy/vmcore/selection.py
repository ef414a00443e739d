"""Which pages of a dump go into a new one, and what of them is erased."""

from __future__ import annotations

import itertools
import mmap
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from crashpy.vmcore.filter import Filter
from crashpy.vmcore.memory import Memory

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crashpy.vmcore.erase import Erasure
    from crashpy.vmcore.memory import Flags, Pages

Bitmap = bytearray | mmap.mmap

IN_MEMORY = 1 << 24  # bytes of a bitmap: of a machine with 512 GiB


@dataclass
class Selection:
    """Which pages of a memory go into the new dump: two bitmaps, a bit a page."""

    memory: Memory
    asked: int  # the dump level that was asked for
    level: int  # the one that results: a source filtered before adds its own
    existed: Bitmap  # makedumpfile's first bitmap
    kept: Bitmap  # its second
    left_out: dict[str, int] = field(default_factory=dict)  # pages by class
    erasures: list[Erasure] = field(default_factory=list)

    @property
    def pages(self) -> int:
        return sum(
            int.from_bytes(self.kept[at : at + 65536], "little").bit_count()
            for at in range(0, len(self.kept), 65536)
        )

    def pfns(self, first: int = 0, end: int | None = None) -> Iterator[NDArray[np.int64]]:
        """The kept pages' numbers in ascending order, a few thousand at a time."""
        end = self.memory.max_mapnr if end is None else end
        step = 1 << 18
        for low in range(first // 8 * 8, end, step):
            raw = np.frombuffer(self.kept, np.uint8)[low // 8 : (low + step) // 8]
            found = np.flatnonzero(np.unpackbits(raw, bitorder="little")) + low
            if low < first or low + step > end:
                found = found[(found >= first) & (found < end)]
            if len(found):
                yield found

    def read_into(self, pfns: NDArray[np.int64], out: Pages) -> Flags:
        """As Memory.read_into; without what is to be erased."""
        good = self.memory.read_into(pfns, out)
        for erasure in self.erasures:
            erasure.apply(pfns, out)
        return good

    @property
    def eraseinfo(self) -> bytes:
        """What is erased, in makedumpfile's words."""
        return "".join(erasure.said(self.kept) for erasure in self.erasures).encode()


def _bitmap(pages: int) -> Bitmap:
    """Room for a bit a page: in a file that has no name where that is a lot."""
    size = -(-pages // 8)
    if size <= IN_MEMORY:
        return bytearray(size)
    with tempfile.TemporaryFile() as file:
        file.truncate(size)
        return mmap.mmap(file.fileno(), size)


def select(memory: Memory, level: int) -> Selection:
    """Decide which pages a dump level keeps. A dump that was filtered stays so."""
    asked = level
    chosen = Filter(memory, level)
    existed, kept = _bitmap(memory.max_mapnr), _bitmap(memory.max_mapnr)
    for first, end, keep in chosen.sections():
        there = memory.existed(first, end)
        existed[first // 8 : -(-end // 8)] = np.packbits(there, bitorder="little").tobytes()
        keep &= memory.left_out(first, end) ^ 1
        kept[first // 8 : -(-end // 8)] = np.packbits(keep, bitorder="little").tobytes()
    return Selection(memory, asked, level | memory.level, existed, kept, chosen.tally.pages)


def split_ranges(selection: Selection, parts: int) -> list[tuple[int, int]]:
    """Ranges of page numbers with about as many kept pages each.

    They begin at multiples of 64: crash counts the bits of a bitmap by words from there.
    """
    share = -(-selection.pages // parts)
    edges, counted = [0], 0
    for pfns in selection.pfns():
        at = 0
        while len(edges) < parts and counted + len(pfns) - at >= share:
            at += share - counted
            edges.append(int(pfns[at - 1]) // 64 * 64 + 64)
            counted = 0
        counted += len(pfns) - at
    last = selection.memory.max_mapnr
    edges = [min(edge, last) for edge in edges] + [last] * (parts + 1 - len(edges))
    return list(itertools.pairwise(edges))
