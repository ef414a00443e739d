"""Write a dump as an ELF core, laid out as makedumpfile lays it out.

Each segment of the source is written where the kernel sees it: its image, and all memory
by the direct map. A debugger that knows no page tables finds both there, and nothing else.
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from crashpy.vmcore.elf import ET_CORE, KERNEL_HALF, PN_XNUM, PT_LOAD, PT_NOTE, Elf, machine_number
from crashpy.vmcore.filter import Level
from crashpy.vmcore.memory import ElfMemory, Memory, zero_pages
from crashpy.vmcore.recognise import ELF_INCOMPLETE
from crashpy.vmcore.selection import Selection
from crashpy.vmcore.sinks import Sink, rewritable
from crashpy.vmcore.write import Progress, Written, evenly, notes_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH = 256  # pages read and written at a time: no more is lost where room ends
# So many pages left out in a row split a segment; fewer are written nevertheless
# (makedumpfile's PFN_EXCLUDED).
LONG_HOLE = 256
NOTES_ALIGNED = 4  # bytes
ADDRESSES = (1 << 64) - 1
GONE, LEFT_OUT, KEPT = range(3)  # what there is of a page


@dataclass(frozen=True)
class _Stretch:
    """Memory that the kernel sees in one piece: physical addresses, and where it sees them."""

    start: int
    end: int
    vaddr: int | None  # None: nobody knows


@dataclass(frozen=True)
class _Run:
    """A segment: the first bytes of it are written, the others left out."""

    start: int  # physical address, at the begin of a page
    size: int  # bytes
    filled: int  # bytes
    vaddr: int
    cut: bool  # the memory goes on behind it
    before: tuple[_Stretch, ...]  # what the file has already


def write_elf(sink: Sink, selection: Selection, *, progress: Progress | None = None) -> Written:
    """An ELF core: a segment for each run of pages, long holes at the end of one."""
    size = selection.memory.page_size
    if selection.asked & Level.ZERO:
        _leave_zero_pages_out(selection)
    runs = list(_runs(selection))
    count = sum(-(-run.filled // size) for run in runs)
    notes = _notes(selection)
    headers_end = 64 + 56 * (1 + len(runs))
    sections_at = headers_end if 1 + len(runs) >= PN_XNUM else 0
    notes_at = sections_at + 64 if sections_at else headers_end
    at = notes_at + len(notes)
    sizes = len(notes), len(notes), _alignment(selection.memory)
    heads = [struct.pack("<IIQQQQQQ", PT_NOTE, 0, notes_at, 0, 0, *sizes)]
    places = []
    for run in runs:
        place = 0 if run.cut and not run.filled else at
        heads.append(
            struct.pack(
                "<IIQQQQQQ", PT_LOAD, 7, place, run.vaddr, run.start, run.filled, run.size, 0
            )
        )
        places.append(place)
        at += run.filled
    header = functools.partial(_header, selection.memory, sections_at, len(heads))
    draft = ELF_INCOMPLETE if rewritable(sink) else 0
    sink.write(0, header(draft) + b"".join(heads))
    if sections_at:  # then the first section header tells how many segments there are
        sink.write(sections_at, struct.pack("<IIQQQQIIQQ", *[0] * 7, len(heads), 0, 0))
    sink.write(notes_at, notes)
    done = lost = 0
    buffer = np.empty((BATCH, size), np.uint8)
    for run, place in zip(runs, places, strict=True):
        for low in range(0, run.filled, BATCH * size):
            some = min(BATCH * size, run.filled - low)
            first = (run.start + low) // size
            pfns = np.arange(first, first + -(-some // size))
            pages = buffer[: len(pfns)]
            good = selection.read_into(pfns, pages)
            if not good.all():
                lost += int((_new(pfns * size, run.before) & ~good).sum())
            sink.write(place + low, pages.reshape(-1).data[:some])
            done += len(pfns)
            if progress:
                progress(done, count)
    if draft:
        sink.write(0, header(0))
    return Written(count, 0, lost, at)


def _header(memory: Memory, sections_at: int, segments: int, flags: int) -> bytes:
    many = bool(sections_at)
    return b"\x7fELF\x02\x01\x01" + struct.pack(
        "<9xHHIQQQIHHHHHH", ET_CORE, machine_number(memory.vmcore.machine), 1, 0, 64,
        sections_at, flags, 64, 56, PN_XNUM if many else segments,
        64 if many else 0, 1 if many else 0, 0,
    )  # fmt: skip


def _notes(selection: Selection) -> bytes:
    """The source's notes, and one more where something was erased."""
    notes = notes_of(selection.memory)
    erased = notes.eraseinfo + selection.eraseinfo
    if not erased:
        return notes.raw
    name = b"ERASEINFO\0"
    head = struct.pack("<III", len(name), len(erased), 0) + name.ljust(12, b"\0")
    raw = notes.raw.ljust(-(-len(notes.raw) // 4) * 4, b"\0")
    return raw + head + erased.ljust(-(-len(erased) // 4) * 4, b"\0")


def _alignment(memory: Memory) -> int:
    """Of notes: as the source says, where kernels differ."""
    if not isinstance(memory, ElfMemory):
        return NOTES_ALIGNED
    segments = Elf(memory.vmcore.file).segments
    return next((s.align for s in segments if s.type == PT_NOTE), NOTES_ALIGNED)


def _leave_zero_pages_out(selection: Selection) -> None:
    size = selection.memory.page_size
    kept = np.frombuffer(selection.kept, np.uint8)
    buffer = np.empty((BATCH, size), np.uint8)
    for pfns in evenly(selection.pfns(), BATCH):
        pages = buffer[: len(pfns)]
        good = selection.read_into(pfns, pages)
        gone = pfns[zero_pages(pages) & good]
        np.bitwise_and.at(kept, gone // 8, ~(1 << (gone % 8)).astype(np.uint8))


def _stretches(memory: Memory) -> list[_Stretch]:
    """As the source's own segments tell, or else as the kernel's page tables do.

    QEMU's tell physical addresses for virtual ones, packed dumps nothing.
    """
    if isinstance(memory, ElfMemory):
        found = [_Stretch(s.paddr, s.paddr + s.memsz, s.vaddr) for s in memory.loads]
    else:
        found = [_Stretch(0, memory.max_mapnr * memory.page_size, None)]
    base = memory.direct_map
    if base is None or any((stretch.vaddr or 0) >= KERNEL_HALF for stretch in found):
        return found
    direct = [replace(each, vaddr=base + each.start & ADDRESSES) for each in found]
    return direct if memory.image is None else [_Stretch(*memory.image), *direct]


def _runs(selection: Selection) -> Iterator[_Run]:
    """Segments: memory without a gap, cut behind each long hole."""
    before: tuple[_Stretch, ...] = ()
    for stretch in _stretches(selection.memory):
        yield from _runs_of(selection, stretch, before)
        before = (*before, stretch)


def _runs_of(
    selection: Selection, stretch: _Stretch, before: tuple[_Stretch, ...]
) -> Iterator[_Run]:
    size = selection.memory.page_size
    # What a filtered dump lacks must not come back as pages of zeroes.
    long_hole = 1 if selection.memory.filtered else LONG_HOLE
    first = stored = last = -1  # pfns; `stored` and `last` are the ends

    def run(end: int, *, cut: bool = False) -> _Run:
        start = first * size
        vaddr = 0 if stretch.vaddr is None else stretch.vaddr + start - stretch.start & ADDRESSES
        length, filled = (min(pfn * size, stretch.end) - start for pfn in (end, stored))
        return _Run(start, length, filled, vaddr, cut, before)

    for kind, a, b in _kinds(selection, stretch):
        if kind == GONE:
            if first >= 0:
                yield run(last)
            first = -1
            continue
        if kind == KEPT:
            if first >= 0 and a - stored >= long_hole:
                yield run(a, cut=True)
                first = -1
            if first < 0:
                first = a
            stored = b
        elif first < 0:
            first = stored = a
        last = b
    if first >= 0:
        yield run(last)


def _kinds(selection: Selection, stretch: _Stretch) -> Iterator[tuple[int, int, int]]:
    """Runs of pages of which there is the same: what, first pfn, end."""
    size, step = selection.memory.page_size, 1 << 16
    begin, end = -(-stretch.start // size), -(-stretch.end // size)
    in_segment = isinstance(selection.memory, ElfMemory)  # its last page may be a part of one
    for low in range(begin, end, step):
        high = min(low + step, end)
        skip = low % 8
        existed, kept = (
            np.unpackbits(
                np.frombuffer(bitmap, np.uint8)[low // 8 : -(-high // 8)], bitorder="little"
            )[skip : skip + high - low].astype(bool)
            for bitmap in (selection.existed, selection.kept)
        )
        existed |= in_segment
        kinds = np.where(existed, np.where(kept, KEPT, LEFT_OUT), GONE)
        edges = (np.flatnonzero(np.diff(kinds)) + 1).tolist()
        for a, b in itertools.pairwise([0, *edges, len(kinds)]):
            yield int(kinds[a]), low + a, low + b


def _new(addresses: NDArray[np.int64], before: tuple[_Stretch, ...]) -> NDArray[np.bool_]:
    """Which physical addresses were not written before: the image is in the direct map, too."""
    new = np.ones(len(addresses), bool)
    for stretch in before:
        new &= (addresses < stretch.start) | (addresses >= stretch.end)
    return new
