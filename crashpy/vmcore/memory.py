"""A dump's physical memory in bulk, for programs that filter and write dumps.

Everything here is found from the dump's own headers and VMCOREINFO: no debug
information, no drgn. Pages travel as numpy arrays, thousands at a time.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from crashpy.command import CommandError
from crashpy.vmcore.elf import PT_LOAD, Segment
from crashpy.vmcore.files import Bytes, FlattenedFile, overlay
from crashpy.vmcore.kdump import DESCRIPTOR, KdumpHeader
from crashpy.vmcore.recognise import Vmcore
from crashpy.vmcore.unpack import unpacker

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bits = NDArray[np.uint8]  # one byte, 0 or 1, a page
    Flags = NDArray[np.bool_]
    Pages = NDArray[np.uint8]  # page_size bytes a page

KERNEL_MAP = 0xFFFFFFFF80000000  # x86-64's __START_KERNEL_map
PAGE_SIZES = ("4096", "16384", "65536")
# Physical memory may have holes; beyond these bounds an ELF file's headers are damaged.
MOST_MEMORY, MOST_HOLES = 1 << 42, 4096  # bytes, times the file's size
MAPPED_AT = 1 << 21  # bytes: the direct map begins at a multiple of it
MOST_TABLES = 64  # page tables kept in memory
MOST_UNMAPPED = 1 << 24  # bytes in a row inside the kernel's image
ONE = np.uint8(1)
PRESENT = 1  # page table entry


def page_desc(order: str) -> np.dtype[np.void]:
    """A page's descriptor, as it lies in a file of that byte order."""
    fields = {"offset": "i8", "size": "u4", "flags": "u4", "page_flags": "u8"}
    return np.dtype([(name, order + form) for name, form in fields.items()])


def zero_pages(pages: Pages) -> Flags:
    """Which of them hold nothing but zeroes."""
    zero: Flags = np.bitwise_or.reduce(pages.view("<u8"), axis=1) == 0
    return zero


def damaged(vmcore: Vmcore, what: str) -> CommandError:
    return CommandError(f"{vmcore.path}: its VMCOREINFO is damaged: {what}")


class CannotFilter(CommandError):
    """Nobody knows how this kernel or this machine keeps its pages; nothing is damaged."""


class Unmapped(LookupError):
    """A kernel address that the page tables do not map, or whose page the dump lacks."""


@dataclass(frozen=True)
class _Paging:
    """How a machine's page tables are read."""

    root: int  # physical address of the kernel's top table
    page_shift: int
    address_bits: int  # of a virtual address
    target: int  # bits of an entry that are a physical address
    leaf_mask: int  # of an entry above the last level that maps memory itself ...
    leaf: int  # ... these bits are so

    @property
    def shifts(self) -> range:
        """Bits of an address below the index into each table, from the top one down."""
        each = self.page_shift - 3
        levels = -(-(self.address_bits - self.page_shift) // each)
        return range(self.page_shift + (levels - 1) * each, self.page_shift - 1, -each)

    def index(self, address: int, shift: int) -> int:
        known = address & (1 << self.address_bits) - 1
        return known >> shift & (1 << self.page_shift - 3) - 1


class Memory:
    """Physical pages of a dump by page frame number (pfn).

    Subclasses say which pages existed and which are there, and read them.
    """

    page_size: int
    max_mapnr: int  # one more than the last pfn
    level = 0  # the dump level that it was made with, as far as it tells
    filtered: bool  # pages may have been left out when the dump was made

    def __init__(self, files: Sequence[Vmcore]) -> None:
        self.files = files  # of a split set all
        self.vmcore = vmcore = files[0]
        self.info = vmcore.vmcoreinfo
        self.phys_base = self.number("phys_base") or self.number("PHYS_OFFSET") or 0
        self._tables: dict[int, tuple[int, ...]] = {}

    # What VMCOREINFO says

    def number(self, name: str) -> int | None:
        return self._said("NUMBER", name, 0)

    def offset(self, name: str) -> int | None:
        return self._said("OFFSET", name, 10)

    def symbol(self, name: str) -> int | None:
        return self._said("SYMBOL", name, 16)

    def size(self, name: str) -> int | None:
        return self._said("SIZE", name, 10)

    def length(self, name: str) -> int | None:
        return self._said("LENGTH", name, 10)

    def _said(self, kind: str, name: str, base: int) -> int | None:
        word = self.info.get(f"{kind}({name})")
        if word is None:
            return None
        try:
            return int(word, base)
        except ValueError:
            raise damaged(self.vmcore, f"{kind}({name})={word}") from None

    # Pages

    def existed(self, first: int, end: int) -> Bits:
        """1 for each pfn of the range that the machine had (makedumpfile's first bitmap)."""
        raise NotImplementedError

    def stored(self, first: int, end: int) -> Bits:
        """1 for each pfn of the range whose content the dump holds."""
        raise NotImplementedError

    def left_out(self, first: int, end: int) -> Bits:
        """1 for each pfn of the range that was left out on purpose when the dump was made."""
        raise NotImplementedError

    def read_into(self, pfns: NDArray[np.int64], out: Pages) -> Flags:
        """Fill ``out[i]`` with the page ``pfns[i]`` (ascending); say which could be read.

        The others, not stored, lost or damaged, become zero.
        """
        raise NotImplementedError

    def physical(self, address: int, size: int) -> bytes:
        """Bytes at a physical address. Raises Unmapped where a page is missing."""
        pieces = []
        while size:
            pfn, start = divmod(address, self.page_size)
            if pfn >= self.max_mapnr or not self.stored(pfn, pfn + 1)[0]:
                raise Unmapped(f"physical address {address:#x} is not in the dump")
            page = np.empty((1, self.page_size), np.uint8)
            if not self.read_into(np.array([pfn]), page)[0]:
                raise Unmapped(f"physical address {address:#x} cannot be read from the dump")
            take = min(size, self.page_size - start)
            pieces.append(page[0, start : start + take].tobytes())
            address, size = address + take, size - take
        return b"".join(pieces)

    # Kernel virtual addresses

    @property
    def translates(self) -> bool:
        """Whether this machine's page tables can be read."""
        ours = self.vmcore.machine in ("x86_64", "aarch64")
        return ours and self.vmcore.bits == 64 and self.vmcore.order == "<"

    @cached_property
    def _paging(self) -> _Paging:
        top = self.symbol("init_top_pgt") or self.symbol("swapper_pg_dir")
        if top is None:
            raise CannotFilter(f"{self.vmcore.path}: VMCOREINFO does not tell the page tables")
        if self.vmcore.machine == "x86_64":
            levels = 5 if self.number("pgtable_l5_enabled") else 4
            root = top - KERNEL_MAP + self.phys_base
            return _Paging(root, 12, 12 + 9 * levels, 0xFFFFFFFFFF000, 0x80, 0x80)
        offset, bits = self.number("kimage_voffset"), self.number("VA_BITS")
        if self.vmcore.machine == "aarch64" and offset is not None and bits is not None:
            shift = self.page_size.bit_length() - 1
            return _Paging(top - offset, shift, bits, 0xFFFFFFFFF000, 0x2, 0)
        raise CannotFilter(
            f"{self.vmcore.path}: cannot filter: page tables of {self.vmcore.machine} are not known"
        )

    def translate(self, address: int) -> tuple[int, int]:
        """The physical address, and how many bytes from there on lie in one mapping."""
        paging = self._paging
        table = paging.root
        for shift in paging.shifts:
            if table not in self._tables:
                if len(self._tables) >= MOST_TABLES:
                    del self._tables[next(iter(self._tables))]
                raw = self.physical(table, self.page_size)
                self._tables[table] = struct.unpack(f"<{len(raw) // 8}Q", raw)
            entry = self._tables[table][paging.index(address, shift)]
            if not entry & PRESENT:
                raise Unmapped(f"kernel address {address:#x} is not mapped")
            start = entry & paging.target & -self.page_size
            if shift == paging.page_shift or entry & paging.leaf_mask == paging.leaf:
                inside = address & (1 << shift) - 1
                return (start & -(1 << shift)) + inside, (1 << shift) - inside
            table = start
        raise AssertionError("the last level returns")

    @cached_property
    def direct_map(self) -> int | None:
        """Where the kernel sees physical address 0; None where the dump does not tell.

        The table of memory sections is allocated so early that it is seen there, and nowhere
        else.
        """
        root = self.symbol("mem_section")
        if root is None or not self.translates:
            return None
        try:
            base = root - self.translate(root)[0]
        except (Unmapped, CommandError):
            return None
        return base if base > 0 and base % MAPPED_AT == 0 else None

    @cached_property
    def image(self) -> tuple[int, int, int] | None:
        """Physical addresses of the kernel itself, from _stext on, and where it sees that."""
        start = self.symbol("_stext")
        if start is None or not self.translates:
            return None
        start &= -self.page_size
        end = at = start
        try:
            first = self.translate(start)[0]
            while at - end < MOST_UNMAPPED:
                try:
                    physical, room = self.translate(at)
                except Unmapped:  # what only the start needed is free now
                    at += self.page_size
                    continue
                if physical != at - start + first:
                    break
                at = end = at + room
        except (Unmapped, CommandError):
            return None
        return first, first + end - start, start

    def virtual(self, address: int, size: int) -> bytes:
        """Bytes at a kernel address. Raises Unmapped."""
        pieces = []
        while size:
            physical, room = self.translate(address)
            take = min(size, room)
            pieces.append(self.physical(physical, take))
            address, size = address + take, size - take
        return b"".join(pieces)


class ElfMemory(Memory):
    """/proc/vmcore and ELF files, full or made by makedumpfile -E."""

    def __init__(self, vmcore: Vmcore) -> None:
        super().__init__([vmcore])
        told = self.info.get("PAGESIZE", "4096")
        if told not in PAGE_SIZES:
            raise damaged(vmcore, f"PAGESIZE={told}")
        self.page_size = int(told)
        self.loads: list[Segment] = [s for s in vmcore.segments if s.type == PT_LOAD]
        size = self.page_size
        self.max_mapnr = max((-(-(s.paddr + s.memsz) // size) for s in self.loads), default=0)
        if self.max_mapnr * size > max(MOST_MEMORY, MOST_HOLES * vmcore.file.size):
            raise CommandError(f"{vmcore.path}: its program headers are damaged: copy it again")
        self._memory, self._stored = _Ranges(size), _Ranges(size)
        self._content, self._left_out = _Ranges(size), _Ranges(size)
        self._partial: dict[int, tuple[int, int]] = {}  # by pfn: place, bytes
        for s in self.loads:
            low, filled, end = -(-s.paddr // size), s.paddr + s.filesz, s.paddr + s.memsz
            more = int(self._counts_partial and s.filesz == s.memsz and end % size > 0)
            self._memory.add(s.paddr // size, end // size + more, 0)
            self._stored.add(low, filled // size + more, 0)
            self._content.add(low, filled // size, s.offset + low * size - s.paddr)
            if more:
                self._partial[end // size] = s.offset + s.filesz - end % size, end % size
            if s.filesz < s.memsz:
                self._left_out.add(-(-filled // size), end // size, 0)
        self.filtered = not self._left_out.empty

    @property
    def _counts_partial(self) -> bool:
        """Whether a page counts that a segment ends in the midst of.

        It does in makedumpfile where both bitmaps have room in 4 MiB, with no bit to spare:
        then it keeps them in a file, and that is filled by another function.
        """
        return self.max_mapnr % 4 == 0 and self.max_mapnr // 4 <= 4 << 20

    def existed(self, first: int, end: int) -> Bits:
        return self._memory.bits(first, end)

    def stored(self, first: int, end: int) -> Bits:
        return self._stored.bits(first, end)

    def left_out(self, first: int, end: int) -> Bits:
        return self._left_out.bits(first, end) & (self._stored.bits(first, end) ^ ONE)

    def read_into(self, pfns: NDArray[np.int64], out: Pages) -> Flags:
        size = self.page_size
        good = np.ones(len(pfns), bool)
        where = self._content.places(pfns)
        breaks = np.flatnonzero(np.diff(where) != size) + 1
        starts = [0, *breaks.tolist()]
        ends = [*starts[1:], len(where)]
        flat = out.reshape(-1)
        file = self.vmcore.file
        flattened = isinstance(file, FlattenedFile)
        for a, b, at in zip(starts, ends, where[starts].tolist(), strict=True):
            target = flat[a * size : b * size]
            got = 0
            try:
                if at >= 0 and flattened:
                    data = file.read(at, (b - a) * size)
                    got = len(data)
                    target[:got] = np.frombuffer(data, np.uint8)
                elif at >= 0:
                    got = _read_fully(file.fd, target, at)
            except OSError:  # memory or a disk that fails: what of it can be read?
                good[a:b] = _read_each(file, target, size, at)
                continue
            if got < len(target):
                target[got:] = 0
                good[a + got // size : b] = False
        for pfn, (at, count) in self._partial.items():
            row = int(np.searchsorted(pfns, pfn))
            if row < len(pfns) and pfns[row] == pfn:
                data = file.read(at, count)
                out[row] = np.frombuffer(data.ljust(size, b"\0"), np.uint8)
                good[row] = len(data) == count
        return good


class _Ranges:
    """Ranges of pfns and where each is in the file; of those that overlap the last one counts."""

    def __init__(self, page_size: int) -> None:
        self._size = page_size
        self._extents: list[tuple[int, int, int]] = []  # in bytes: start, end, place

    def add(self, first: int, end: int, place: int) -> None:
        if first < end:
            overlay(self._extents, (first * self._size, end * self._size, place))
            self.__dict__.pop("_table", None)

    @cached_property
    def _table(self) -> NDArray[np.int64]:
        """First pfn, end pfn, place less that of pfn 0; sorted, ended by one that is beyond all."""
        beyond = 1 << 62
        rows = [
            (start // self._size, end // self._size, place - start)
            for start, end, place in self._extents
        ]
        return np.array([*rows, (beyond, beyond, 0)], np.int64).T

    @property
    def empty(self) -> bool:
        return not self._extents

    def bits(self, first: int, end: int) -> Bits:
        found = np.zeros(end - first, np.uint8)
        starts, ends, _ = self._table
        for index in range(int(np.searchsorted(ends, first, "right")), len(starts)):
            if starts[index] >= end:
                break
            found[max(int(starts[index]) - first, 0) : int(ends[index]) - first] = 1
        return found

    def places(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where in the file each page is, -1 for those that are not there."""
        starts, ends, shifts = self._table
        index = np.searchsorted(ends, pfns, "right")
        return np.where(pfns >= starts[index], pfns * self._size + shifts[index], -1)


def _read_fully(fd: int, target: Pages, at: int) -> int:
    view = target.data
    got = 0
    while got < len(view):
        step = os.preadv(fd, [view[got:]], at + got)
        if not step:
            break
        got += step
    return got


def _read_each(file: Bytes, target: Pages, size: int, at: int) -> list[bool]:
    """Page by page; those that cannot be read become zero."""
    good = []
    for start in range(0, len(target), size):
        data = b""
        with contextlib.suppress(OSError):
            data = file.read(at + start, size)
        good.append(len(data) == size)
        whole = data if good[-1] else bytes(size)
        target[start : start + size] = np.frombuffer(whole, np.uint8)
    return good


class KdumpMemory(Memory):
    """kdump-compressed files, one or a split set."""

    filtered = True

    def __init__(self, files: Sequence[Vmcore]) -> None:
        super().__init__(files)
        self.parts = [_Part(file) for file in files]
        header = self.parts[0].header
        self.page_size, self.max_mapnr = header.block_size, header.max_mapnr
        self.level = header.dump_level
        covered = 0
        for part in sorted(self.parts, key=lambda part: part.first):
            covered = max(covered, part.end) if part.first <= covered else covered
        self.whole = covered >= self.max_mapnr  # no file of a split set is missing

    def existed(self, first: int, end: int) -> Bits:
        return self.parts[0].bits(0, first, end)

    def stored(self, first: int, end: int) -> Bits:
        bits = self.parts[0].bits(1, first, end)
        if not self.parts[0].header.split:
            return bits
        there = np.zeros(len(bits), np.uint8)  # every file of a set has the bits of all of it
        for part in self.parts:
            there[max(part.first - first, 0) : max(part.end - first, 0)] = 1
        return bits & there

    def left_out(self, first: int, end: int) -> Bits:
        return self.parts[0].bits(1, first, end) ^ ONE  # not what a missing part has

    def misfits(self) -> Iterator[str]:
        """What in the bitmaps and the descriptors contradicts itself, in words."""
        step = 1 << 18
        if any(
            (self.stored(low, high) & (self.existed(low, high) ^ ONE)).any()
            for low in range(0, self.max_mapnr, step)
            for high in [min(low + step, self.max_mapnr)]
        ):
            yield "its bitmaps are damaged: a page that the machine did not have is stored"
        if any(part.shifted() for part in self.parts):
            yield (
                "its bitmap of stored pages does not fit the descriptors of the pages: pages are"
                " taken for others"
            )
        if shared := sum(part.overlaps() for part in self.parts):
            yield (
                f"the descriptors of its pages are damaged: {shared} of them begin inside the data"
                " of another page"
            )
        yield from self._contradictions()

    def _contradictions(self) -> Iterator[str]:
        """What the headers say otherwise than VMCOREINFO, which the kernel wrote."""
        header = self.parts[0].header
        if not 0 <= header.dump_level <= 31:
            yield f"its header is damaged: it tells the dump level {header.dump_level}"
        noted = next((n.desc for n in header.notes if n.name == b"VMCOREINFO"), None)
        if noted and header.vmcoreinfo and noted.rstrip(b"\0") != header.vmcoreinfo:
            yield "its header is damaged: it tells another place of VMCOREINFO than its notes"
        kernels, named = self.info.get("OSRELEASE", ""), header.utsname[2]
        if kernels and named and kernels != named:
            yield f"its header or its VMCOREINFO is damaged: a kernel {named}, or {kernels}"
        if self.vmcore.machine == "x86_64" and "CRASHTIME" in self.info:  # QEMU has its own
            base = self.phys_base & (1 << 64) - 1
            if header.phys_base != base:
                yield (
                    "its header or its VMCOREINFO is damaged: the kernel lies at physical address"
                    f" {header.phys_base:#x}, or {base:#x}"
                )

    def read_into(self, pfns: NDArray[np.int64], out: Pages) -> Flags:
        good = np.zeros(len(pfns), bool)
        for part in self.parts:
            a, b = np.searchsorted(pfns, [part.first, part.end])
            if b > a:
                good[a:b] = part.read_into(pfns[a:b], out[a:b])
        out[~good] = 0
        return good


class _Part:
    """One kdump-compressed file: where a pfn's descriptor is, and what it says."""

    STEP = 1 << 15  # pfns between two remembered counts of stored pages

    def __init__(self, vmcore: Vmcore) -> None:
        assert vmcore.header is not None
        self.header: KdumpHeader = vmcore.header
        self.file = vmcore.file
        header = self.header
        self.first, self.end = (
            (header.start_pfn, min(header.end_pfn, header.max_mapnr))
            if header.split
            else (0, header.max_mapnr)
        )
        half = header.bitmap_blocks * header.block_size // 2
        whole = -(-header.max_mapnr // 8)
        # A file with room for one bitmap only has no separate first one.
        self._bitmaps = header.bitmap_offset, header.bitmap_offset + (half if half >= whole else 0)
        self._counts = self._rank()
        self._blocks: dict[int, tuple[NDArray[np.int64], NDArray[Any]]] = {}
        self._lock = threading.Lock()
        self._description = page_desc(header.order)
        self.stored = int(self._counts[-1])  # pages
        self._data_at = header.descriptors_offset + self.stored * DESCRIPTOR

    def bits(self, which: int, first: int, end: int) -> Bits:
        low = first // 8
        raw = self.file.read(self._bitmaps[which] + low, -(-end // 8) - low)
        bits = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")
        bits = bits[first - 8 * low : end - 8 * low]
        if len(bits) < end - first:
            bits = np.concatenate((bits, np.zeros(end - first - len(bits), np.uint8)))
        return bits

    def _rank(self) -> NDArray[np.int64]:
        """How many pages are stored before each STEP pfns."""
        ends = range(0, self.header.max_mapnr + self.STEP, self.STEP)
        counts = [0]
        for at in ends[:-1]:
            first, end = max(at, self.first), min(at + self.STEP, self.end)
            counts.append(int(self.bits(1, first, end).sum()) if end > first else 0)
        return np.cumsum(counts)

    def _block(self, number: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Of STEP pfns: their ranks (1, 2, ... for the stored ones, else 0), the descriptors."""
        with self._lock:  # several threads may read
            if number not in self._blocks:
                if len(self._blocks) > 1:
                    del self._blocks[next(iter(self._blocks))]
                self._blocks[number] = self._load_block(number)
            return self._blocks[number]

    def _load_block(self, number: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
        first = number * self.STEP
        bits = self.bits(1, first, first + self.STEP)
        bits[: max(self.first - first, 0)] = 0
        bits[max(self.end - first, 0) :] = 0
        where = self.header.descriptors_offset + int(self._counts[number]) * DESCRIPTOR
        raw = self.file.read(where, int(bits.sum()) * DESCRIPTOR)
        table = np.frombuffer(raw[: len(raw) - len(raw) % DESCRIPTOR], self._description)
        return np.cumsum(bits, dtype=np.int64) * bits, table

    def shifted(self) -> bool:
        """Whether there are more or fewer descriptors than set bits.

        The data begins where the descriptors end: at the least of their offsets, among the
        first of them but for a page of zeroes that all share.
        """
        raw = self.file.read(self.header.descriptors_offset, min(4096, self.stored) * DESCRIPTOR)
        table = np.frombuffer(raw[: len(raw) - len(raw) % DESCRIPTOR], self._description)
        offsets = table["offset"][table["offset"] > 0]
        if not len(offsets):
            return False
        gap = int(offsets.min()) - self._data_at
        return gap < 0 or (0 < gap < self.header.block_size and gap % DESCRIPTOR == 0)

    def overlaps(self) -> int:
        """How many pages' data begin inside that of another: they lie one behind the other.

        Pages with the same content may share one place.
        """
        odd: dict[tuple[int, int], int] = {}  # offset, size: how many
        for places, fits in self._places():
            for place in map(tuple, places[~fits].tolist()):
                odd[place] = odd.get(place, 0) + 1
        odd.pop((self._data_at, self.header.block_size), None)  # the page of all zeroes
        for places, fits in self._places() if odd else ():
            for place in map(tuple, places[fits].tolist()):
                odd.pop(place, None)
        return sum(odd.values())

    def _places(self) -> Iterator[tuple[NDArray[np.int64], Flags]]:
        """Offset and size of each page's data; whether it lies behind all before it."""
        end = self._data_at
        for number in range(len(self._counts) - 1):
            count = int(self._counts[number + 1] - self._counts[number])
            at = self.header.descriptors_offset + int(self._counts[number]) * DESCRIPTOR
            raw = self.file.read(at, count * DESCRIPTOR)
            table = np.frombuffer(raw[: len(raw) - len(raw) % DESCRIPTOR], self._description)
            table = table[(table["offset"] > 0) & (table["size"] <= self.header.block_size)]
            places = np.stack((table["offset"], table["size"].astype(np.int64)), axis=1)
            if len(places):
                reach = np.maximum.accumulate(np.concatenate(([end], places.sum(axis=1))))
                yield places, places[:, 0] >= reach[:-1]
                end = int(reach[-1])

    def descriptors(self, pfns: NDArray[np.int64]) -> NDArray[Any]:
        """A page_desc for each pfn (ascending); offset 0 for those that the file lacks."""
        found = np.zeros(len(pfns), self._description)
        for number in range(int(pfns[0]) // self.STEP, int(pfns[-1]) // self.STEP + 1):
            a, b = np.searchsorted(pfns, [number * self.STEP, (number + 1) * self.STEP])
            if a == b:
                continue
            ranks, table = self._block(number)
            rank = ranks[pfns[a:b] - number * self.STEP]
            there = (rank > 0) & (rank <= len(table))
            found[a:b][there] = table[rank[there] - 1]
        return found

    def read_into(self, pfns: NDArray[np.int64], out: Pages) -> Flags:
        """As Memory.read_into, but what is not good is left as it was."""
        size = self.header.block_size
        table = self.descriptors(pfns)
        good: Flags = (table["offset"] > 0) & (table["size"] <= size)
        shared = good & (table["offset"] == self._data_at) & (table["size"] == size)
        shared &= table["flags"] == 0
        if shared.sum() > 1:  # the page of zeroes that all zero pages share
            page = self.file.read(self._data_at, size)
            out[shared] = np.frombuffer(page.ljust(size, b"\0"), np.uint8)
            good[shared] = len(page) == size
        else:
            shared[:] = False
        rows = np.flatnonzero(good & ~shared)
        whole = memoryview(out.reshape(-1).data)
        data = self._spanned(table[rows])
        places = zip(rows.tolist(), data, table["flags"][rows].tolist(), strict=True)
        for row, piece, flags in places:
            try:
                page = piece if flags == 0 else unpacker(flags, size)(piece)
            except Exception:  # noqa: BLE001  each library raises its own
                page = b""
            if len(page) == size:
                whole[row * size : (row + 1) * size] = page
            else:
                good[row] = False
        return good

    def _spanned(self, table: NDArray[Any]) -> Iterator[bytes]:
        """The data of each descriptor: read at once where it lies together, as it does."""
        offsets, sizes = table["offset"].astype(np.int64), table["size"].astype(np.int64)
        if not len(offsets):
            return
        first = int(offsets.min())
        end = int(offsets.max()) + self.header.block_size
        together = end - first <= 2 * len(table) * self.header.block_size
        span = b""
        if together:
            try:
                span = self.file.read(first, end - first)
            except OSError:  # a disk that fails: what of it can be read?
                together = False
        for at, length in zip(offsets.tolist(), sizes.tolist(), strict=True):
            if together:
                yield span[at - first : at - first + length]
                continue
            data = b""
            with contextlib.suppress(OSError):
                data = self.file.read(at, length)
            yield data


def memory_of(files: Sequence[Vmcore]) -> Memory:
    """The memory of a dump, or of the files of a split set."""
    if files[0].form == "kdump":
        return KdumpMemory(files)
    return ElfMemory(files[0])
