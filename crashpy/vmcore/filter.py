"""Which pages a dump level leaves out: makedumpfile's rules, from VMCOREINFO alone.

The rules are those of makedumpfile 1.7.8's __exclude_unnecessary_pages(), applied to
whole memory sections at once; no page type's value is written down here, all of them
come from the dump's VMCOREINFO.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntFlag
from typing import TYPE_CHECKING

import numpy as np

from crashpy.command import CommandError
from crashpy.vmcore.memory import CannotFilter, Memory, Unmapped, damaged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crashpy.vmcore.memory import Bits, Flags


class Level(IntFlag):
    """makedumpfile's -d bits: what is left out."""

    ZERO = 1
    CACHE = 2  # page cache without private data
    PRIVATE_CACHE = 4
    USER = 8
    FREE = 16


SECTION_HAS_MAP = 3  # SECTION_MARKED_PRESENT | SECTION_HAS_MEM_MAP
SECTION_MAP_MASK = ~0x3F
CLASSES = (
    *("free", "unaccepted", "cache", "private cache", "user", "hugetlb", "hwpoison", "offline"),
)


@dataclass
class Tally:
    """How many pages each rule leaves out."""

    pages: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLASSES, 0))


class StructPages:
    """Struct pages in bulk. What was read last is kept: several filters may share it."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._address = -1
        self._room = np.empty(0, np.uint8)

    def read(self, address: int, size: int) -> NDArray[np.uint8]:
        """Those that the dump lacks are zero: nothing to leave out. Valid until the next call."""
        page_size = self._memory.page_size
        if address % page_size:  # a section's struct pages begin on a page's boundary
            raise CommandError(f"{self._memory.vmcore.path}: cannot filter: struct pages lie askew")
        room = -(-size // page_size) * page_size
        if address != self._address or room > len(self._room):
            if room > len(self._room):
                self._room = np.empty(room, np.uint8)
            self._fill(address, self._room[:room])
            self._address = address
        return self._room[:size]

    def _fill(self, address: int, raw: NDArray[np.uint8]) -> None:
        memory, page_size = self._memory, self._memory.page_size
        at = 0
        while at < len(raw):
            try:
                physical, size = memory.translate(address + at)
            except Unmapped:
                raw[at : at + page_size] = 0
                at += page_size
                continue
            size = min(size, len(raw) - at)
            pfns = np.arange(physical // page_size, (physical + size) // page_size)
            memory.read_into(pfns, raw[at : at + size].reshape(-1, page_size))
            at += size


class Filter:
    """Decides section by section. Needs memory for one section's struct pages only."""

    def __init__(
        self,
        memory: Memory,
        level: int,
        pages: StructPages | None = None,
        *,
        judging: bool = False,
    ) -> None:
        """Raises CommandError where VMCOREINFO lacks what the level needs.

        Not of a dump that was made with it, unless that is to be judged.
        """
        self.memory = memory
        self.pages = pages or StructPages(memory)
        self.level = Level(level)
        self.tally = Tally()
        # A dump that was made so, and is damaged now, is taken as it is.
        self._unfiltered = judging or bool(level & ~(memory.level | Level.ZERO))
        try:
            # makedumpfile does not look at a page where only zero pages go and no page can
            # be poisoned: then pages that are offline stay, too.
            self.wanted = bool(level & ~Level.ZERO) or memory.number("PG_hwpoison") is not None
            if self.wanted:
                self._learn()
        except CommandError:
            if self._unfiltered:
                raise
            self.wanted = False

    def _learn(self) -> None:
        """What VMCOREINFO says of struct page."""
        memory, number = self.memory, self.memory.number
        size = memory.size("page")
        columns = {
            name: memory.offset(f"page.{name}")
            for name in ("flags", "mapping", "private", "_mapcount", "compound_head")
        }
        if columns["compound_head"] is None:  # renamed in Linux 7.1
            columns["compound_head"] = memory.offset("page.compound_info")
        if columns["compound_head"] is None:  # before 4.4 the pages of a compound do not tell
            del columns["compound_head"]
        lacking = [f"OFFSET(page.{name})" for name, at in columns.items() if at is None]
        if size is None or lacking:
            raise CannotFilter(
                f"{memory.vmcore.path}: cannot filter: VMCOREINFO lacks"
                f" {', '.join(lacking) or 'SIZE(page)'}"
            )
        if size % 8 or not 32 <= size <= 512:
            raise damaged(memory.vmcore, f"SIZE(page)={size}")
        self._size = size
        self._column = {
            name: self._inside(name, at, 4 if name == "_mapcount" else 8)
            for name, at in columns.items()
            if at is not None
        }

        def bit(name: str, default: int | None) -> np.uint64 | None:
            known = number(name)
            known = default if known is None else known
            if known is None:
                return None
            if not 0 <= known < 64:
                raise damaged(memory.vmcore, f"NUMBER({name})={known}")
            return np.uint64(1 << known)

        def mapcount(name: str) -> int | None:
            """As the signed number that struct page's field reads as."""
            known = number(name)
            return None if known is None else (known & 0xFFFFFFFF ^ 1 << 31) - (1 << 31)

        def byte(name: str, within: int) -> int | None:
            at = memory.offset(name)
            return None if at is None else self._inside(name, at, 1, within)

        self._lru, self._private = bit("PG_lru", 5), bit("PG_private", 11)
        self._swapcache, self._slab = bit("PG_swapcache", 15), bit("PG_slab", 7)
        self._swapbacked, self._hwpoison = bit("PG_swapbacked", None), bit("PG_hwpoison", None)
        self._head = np.uint64((number("PG_head_mask") or 0) & (1 << 64) - 1)
        self._buddy = mapcount("PAGE_BUDDY_MAPCOUNT_VALUE")
        self._offline = mapcount("PAGE_OFFLINE_MAPCOUNT_VALUE")
        self._slab_type = mapcount("PAGE_SLAB_MAPCOUNT_VALUE")
        self._huge_type = mapcount("PAGE_HUGETLB_MAPCOUNT_VALUE")
        self._unaccepted = mapcount("PAGE_UNACCEPTED_MAPCOUNT_VALUE")
        self._huge_flag = bit("PG_hugetlb", None)
        self._huge_dtor = number("HUGETLB_PAGE_DTOR")
        self._order_at = byte("page.compound_order", size)
        self._dtor_at = byte("page.compound_dtor", size)
        self._folio_order_at = byte("folio._folio_order", 2 * size)
        self._orders = memory.length("zone.free_area") or 11
        if not 1 <= self._orders <= 64:
            raise damaged(memory.vmcore, f"LENGTH(zone.free_area)={self._orders}")

    def _inside(self, name: str, at: int, width: int, within: int = 0) -> int:
        """An offset, if there is a field of that width in a struct page."""
        if at % width or not 0 <= at <= (within or self._size) - width:
            raise damaged(self.memory.vmcore, f"OFFSET({name})={at}")
        return at

    def sections(self) -> Iterator[tuple[int, int, Bits]]:
        """(first pfn, end pfn, 1 for each page to keep), in order; covers max_mapnr pages.

        A run that is left out may reach into the next section.
        """
        memory = self.memory
        carry = np.zeros(0, np.uint8)  # 1 where an earlier run reaches
        at = 0
        maps = self._sound_maps() if self.wanted else iter(())
        step = 1 << 16
        following = next(maps, None)
        while at < memory.max_mapnr:
            if following and following[0] == at:
                first, end, address = following
                following = next(maps, None)
            else:
                end = min(at + step, memory.max_mapnr)
                if following:
                    end = min(end, following[0])
                first, address = at, None
            there = memory.existed(first, end)
            keep = there.copy()
            reach = min(len(carry), len(keep))
            keep[:reach] &= carry[:reach] ^ 1
            carry = carry[reach:]
            if address is not None and there.any():
                overflow = self._section(first, keep, there, address)
                if len(overflow) > len(carry):
                    carry = np.concatenate((carry, np.zeros(len(overflow) - len(carry), np.uint8)))
                carry[: len(overflow)] |= overflow
            yield first, end, keep
            at = end

    def _sound_maps(self) -> Iterator[tuple[int, int, int]]:
        """As maps(). A damaged dump that lacks them is taken as it is, if that was asked for."""
        try:
            yield from self.maps()
        except Unmapped as error:
            if self._unfiltered:
                raise CommandError(
                    f"{self.memory.vmcore.path}: cannot filter: its struct pages cannot be found"
                    f" ({error}): level {int(self.memory.level)} takes what can be read"
                ) from None

    def maps(self) -> Iterator[tuple[int, int, int]]:
        """(first pfn, end pfn, address of its struct page) of each memory section."""
        memory = self.memory
        bits, size = memory.number("SECTION_SIZE_BITS"), memory.size("mem_section")
        root, map_at = memory.symbol("mem_section"), memory.offset("mem_section.section_mem_map")
        if bits is None or size is None or root is None or map_at is None:
            raise CannotFilter(
                f"{memory.vmcore.path}: cannot filter: not a kernel with SPARSEMEM, or VMCOREINFO"
                " lacks mem_section"
            )
        if (
            not 20 <= bits <= 40
            or not 16 <= size <= 4096
            or size % 8
            or map_at % 8
            or map_at >= size
        ):
            raise damaged(memory.vmcore, "what it says of memory sections")
        pages = (1 << bits) // memory.page_size
        each = memory.page_size // size
        sections = -(-memory.max_mapnr // pages)
        roots = -(-sections // each)
        for index, address in enumerate(np.frombuffer(memory.virtual(root, 8 * roots), "<u8")):
            if not address:
                continue
            count = min(each, sections - index * each)
            table = np.frombuffer(memory.virtual(int(address), count * size), "<u8")
            for place, word in enumerate(table.reshape(count, -1)[:, map_at // 8].tolist()):
                if word & SECTION_HAS_MAP != SECTION_HAS_MAP:
                    continue
                first = (index * each + place) * pages
                start = (word & SECTION_MAP_MASK) + first * self._size & (1 << 64) - 1
                yield first, min(first + pages, memory.max_mapnr), start

    def _section(self, first: int, keep: Bits, there: Bits, address: int) -> Bits:
        """Clear what is left out of one section; 1 for each page beyond it that is, too."""
        raw = self.pages.read(address, len(keep) * self._size)
        drop, order = self._rules(raw.reshape(-1, self._size), first)
        starts = np.flatnonzero(drop & there.astype(bool))
        if not len(starts):
            return np.zeros(0, np.uint8)
        ends = starts + np.left_shift(1, order[starts])
        starts, ends = _walked(starts, ends)
        count = len(keep)
        room = max(int(ends.max()), count) + 1
        edges = np.bincount(starts, minlength=room) - np.bincount(ends, minlength=room)
        covered = np.cumsum(edges[:-1]) > 0
        keep[covered[:count]] = 0
        return covered[count:].astype(np.uint8)

    def _rules(self, pages: NDArray[np.uint8], first: int) -> tuple[Flags, NDArray[np.int64]]:
        """Which struct pages begin a run to leave out, and the order of each run."""
        level, tally = self.level, self.tally.pages
        words, halves = pages.view("<u8"), pages.view("<i4")
        flags = words[:, self._column["flags"] // 8]
        kind = halves[:, self._column["_mapcount"] // 4]
        slab = flags & self._slab != 0
        if self._slab_type is not None:
            slab |= kind == self._slab_type
        anon = (words[:, self._column["mapping"] // 8] & np.uint64(1)).astype(bool) & ~slab
        order, huge = self._compound(pages, flags, kind, first)
        swap = flags & self._swapcache != 0
        if self._swapbacked is not None:
            swap &= flags & self._swapbacked != 0
        cache = (flags & self._lru != 0) | swap
        private = flags & self._private != 0
        todo = np.ones(len(pages), bool)
        if (head_at := self._column.get("compound_head")) is not None:
            # The tail pages of a compound go or stay with its head.
            todo = words[:, head_at // 8] & np.uint64(1) == 0
        drop = np.zeros(len(pages), bool)

        def leave_out(name: str, which: Flags) -> None:
            nonlocal todo
            drop[which] = True
            tally[name] += int(np.left_shift(1, order[which]).sum())
            todo = todo & ~which

        if level & Level.FREE and self._buddy is not None:
            buddy = todo & (kind == self._buddy) & ~slab
            free_order = words[:, self._column["private"] // 8]
            sound = buddy & (free_order < self._orders)
            order[sound] = free_order[sound]
            leave_out("free", sound)
            todo = todo & ~buddy
        if level & Level.FREE and self._unaccepted is not None:
            which = todo & (kind == self._unaccepted)
            order[which] = self._orders - 1
            leave_out("unaccepted", which)
        if level & Level.CACHE:
            leave_out("cache", todo & cache & ~private & ~anon)
        if level & Level.PRIVATE_CACHE:
            which = todo & cache & ~anon
            leave_out("cache", which & ~private)
            leave_out("private cache", which & private)
        if level & Level.USER:
            leave_out("user", todo & anon)
            leave_out("hugetlb", todo & huge)
        if self._hwpoison is not None:
            leave_out("hwpoison", todo & (flags & self._hwpoison != 0))
        if self._offline is not None:
            leave_out("offline", todo & ~slab & (kind == self._offline))
        return drop, order

    def _compound(
        self,
        pages: NDArray[np.uint8],
        flags: NDArray[np.uint64],
        kind: NDArray[np.int32],
        first: int,
    ) -> tuple[NDArray[np.int64], Flags]:
        """Order of each compound head, else 0; which heads are hugetlb pages."""
        order = np.zeros(len(pages), np.int64)
        huge = np.zeros(len(pages), bool)
        heads = np.flatnonzero(flags & self._head)
        # makedumpfile looks at 512 struct pages at a time, and not beyond them.
        heads = heads[((heads & 511) != 511) & (heads + 1 < len(pages))]
        if not len(heads):
            return order, huge
        following = flags[heads + 1]
        if self._huge_type is not None or self._huge_flag is not None:  # since Linux 6.6
            orders = (following & np.uint64(0xFF)).astype(np.int64)
            if self._huge_type is not None:
                huge[heads] = kind[heads] == self._huge_type
            elif self._huge_flag is not None:
                huge[heads] = following & self._huge_flag != 0
        else:
            at = self._folio_order_at
            at = at - self._size if at is not None and at >= self._size else self._order_at
            orders = (
                pages[heads + 1, at].astype(np.int64) if at is not None else np.zeros_like(heads)
            )
            if self._huge_dtor is not None and self._dtor_at is not None:
                huge[heads] = pages[heads + 1, self._dtor_at] == self._huge_dtor
        aligned = (heads + first) & ((1 << np.minimum(orders, 62)) - 1) == 0
        order[heads] = np.where((orders < 64) & aligned, orders, 0)
        return order, huge


def _walked(
    starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The runs that a walk from page to page meets: one inside an earlier run is skipped."""
    reach = np.maximum.accumulate(ends)
    inside = np.zeros(len(starts), bool)
    inside[1:] = starts[1:] < reach[:-1]
    if not (ends[inside] > np.concatenate(([0], reach[:-1]))[inside]).any():
        return starts, ends
    kept, end = [], 0  # damaged struct pages: runs that overlap without nesting
    for index, (start, stop) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        if start >= end:
            kept.append(index)
            end = stop
    return starts[kept], ends[kept]
