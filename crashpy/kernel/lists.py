"""Linked lists of the kernel that may be long: their links are read a page at a time."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from drgn import Architecture, FaultError, Program

from crashpy.kernel.pages import byte_order, mem_map
from crashpy.kernel.paging import Paging

PIECE, MOST_PIECES = 4096, 1 << 14
HUGE = 1 << 21  # the pages that x86-64 maps the array of struct pages with
LETTERS = {4: "I", 8: "Q"}  # struct's, by size


class Words:
    """Words of memory, many of them near others that are asked for, too."""

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        self.size: int = prog.type("unsigned long").size or 8
        self._odd, self._shift = self.size - 1, self.size.bit_length() - 1
        self._swapped = byte_order(prog) != sys.byteorder
        self._pieces: dict[int, Sequence[int]] = {}
        self._huge: dict[int, int | None] = {}  # page -> physical address
        platform = prog.platform
        native = platform is not None and platform.arch == Architecture.X86_64
        pages = mem_map(prog)
        ends = [(s.mem_map, s.mem_map + s.pages * pages.entry) for s in pages.sections if native]
        start, end = min(ends, default=(0, 0))[0], max(ends, default=(0, 0))[1]
        self._mapped = range(start, end)

    def at(self, address: int) -> int:
        """Raises FaultError."""
        if address & self._odd:
            return self._prog.read_word(address)
        try:
            return self._pieces[address // PIECE][address % PIECE >> self._shift]
        except KeyError:
            return self._piece(address)[address % PIECE >> self._shift]

    def _piece(self, address: int) -> Sequence[int]:
        data = self._read(address // PIECE * PIECE)
        words = array(LETTERS[self.size], data)
        if self._swapped:
            words.byteswap()
        if len(self._pieces) >= MOST_PIECES:
            self._pieces.clear()
        self._pieces[address // PIECE] = words
        return words

    def _read(self, address: int) -> bytes:
        """A piece; of the array of struct pages without a walk of page tables for each."""
        if address not in self._mapped:
            return self._prog.read(address, PIECE)
        page = address // HUGE
        if page not in self._huge:
            pgd = self._prog["init_mm"].pgd.value_()
            walk = Paging.of(self._prog).walk(self._prog, pgd, page * HUGE)
            where = walk.page if walk.size >= HUGE else None
            self._huge[page] = None if where is None else where + page * HUGE % walk.size
        if (physical := self._huge[page]) is None:
            return self._prog.read(address, PIECE)
        return self._prog.read(physical + address % HUGE, PIECE, True)


class Chain(NamedTuple):
    """What is on a list."""

    entries: list[int]  # struct list_head *
    duplicate: int | None = None  # the entry where it runs in circles
    fault: FaultError | None = None  # of the entry that the dump lacks


def linked(words: Words, head: int, seen: set[int]) -> Chain:
    """The entries behind a ``struct list_head``; behind a hole, those from the other end.

    Each goes to `seen`: one that is there already is on two lists, or twice on this.
    """
    entries: list[int] = []
    duplicate, fault = _follow(words, head, 0, entries, seen)
    if fault is not None:
        behind: list[int] = []
        _follow(words, head, words.size, behind, seen)
        entries += reversed(behind)
    return Chain(entries, duplicate, fault)


def _follow(
    words: Words, head: int, link: int, entries: list[int], seen: set[int]
) -> tuple[int | None, FaultError | None]:
    """By `next`, or by `prev`, as far as it goes."""
    at = words.at
    try:
        entry = at(head + link)
        while entry != head:
            if entry in seen:
                return entry, None
            following = at(entry + link)
            seen.add(entry)
            entries.append(entry)
            entry = following
    except FaultError as error:
        return None, error
    return None, None
