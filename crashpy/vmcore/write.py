"""Write a dump: kdump-compressed, ELF, flattened, or split into several files.

Layouts are makedumpfile's (diskdump_mod.h, header version 6). Nothing is called by its
final name before it is complete: a file is written as NAME-incomplete, synced, renamed.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np

from crashpy.command import CommandError
from crashpy.vmcore.codecs import Codec, Packed, in_order
from crashpy.vmcore.elf import ET_CORE, PN_XNUM, PT_LOAD, PT_NOTE
from crashpy.vmcore.files import FLATTENED
from crashpy.vmcore.filter import Filter, Level
from crashpy.vmcore.kdump import DESCRIPTOR, INCOMPLETE, SIGNATURE
from crashpy.vmcore.memory import KdumpMemory, Memory, Unmapped, page_desc

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERSION = 6  # of the kdump header
SUB_HEADER = 104  # bytes, of a 64-bit machine
PRSTATUS = 1  # NT_PRSTATUS
BATCH = 1024  # pages read, packed and written at a time
# So many pages left out in a row split an ELF segment; fewer are written nevertheless
# (makedumpfile's PFN_EXCLUDED).
LONG_HOLE = 256

Progress = Callable[[int, int], None]  # pages done, of how many


class Sink(Protocol):
    """Somewhere that takes bytes at offsets."""

    def write(self, offset: int, data: bytes | memoryview) -> None: ...


class FileSink:
    """A file under its provisional name until it is complete."""

    def __init__(self, path: Path, *, force: bool = False) -> None:
        self._path = path
        self._draft = path.with_name(path.name + "-incomplete")
        if path.exists() and not force:
            raise CommandError(f"{path}: exists already (--force replaces it)")
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._fd = os.open(self._draft, flags, 0o600)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        while view:
            done = os.pwrite(self._fd, view, offset)
            view, offset = view[done:], offset + done

    def finish(self) -> None:
        """All is written: make it last, and give it its name."""
        os.fsync(self._fd)
        os.close(self._fd)
        self._draft.rename(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def give_up(self, *, keep: bool) -> Path | None:
        """Something failed: what was written stays under its provisional name, or goes."""
        with contextlib.suppress(OSError):
            os.close(self._fd)
        if keep:
            return self._draft
        self._draft.unlink(missing_ok=True)
        return None


class FlattenedSink:
    """makedumpfile's flattened form: a stream of (offset, size, data), for pipes."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        out.write(FLATTENED.ljust(16, b"\0") + struct.pack(">qq", 1, 1) + bytes(4096 - 32))

    def write(self, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        if view:
            self._out.write(struct.pack(">qq", offset, len(view)))
            self._out.write(view)

    def finish(self) -> None:
        self._out.write(struct.pack(">qq", -1, -1))
        self._out.flush()


@dataclass
class Selection:
    """Which pages of a memory go into the new dump: two bitmaps, a bit a page."""

    memory: Memory
    asked: int  # the dump level that was asked for
    level: int  # the one that results: a source filtered before adds its own
    existed: bytearray  # makedumpfile's first bitmap
    kept: bytearray  # its second
    left_out: dict[str, int] = field(default_factory=dict)  # pages by class

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


def select(memory: Memory, level: int) -> Selection:
    """Decide which pages a dump level keeps. A dump that was filtered stays so."""
    asked = level
    chosen = Filter(memory, level)
    size = -(-memory.max_mapnr // 8)
    existed, kept = bytearray(size), bytearray(size)
    for first, end, keep in chosen.sections():
        there = memory.existed(first, end)
        existed[first // 8 : -(-end // 8)] = np.packbits(there, bitorder="little").tobytes()
        if isinstance(memory, KdumpMemory):
            keep &= memory.stored(first, end)
        kept[first // 8 : -(-end // 8)] = np.packbits(keep, bitorder="little").tobytes()
    if isinstance(memory, KdumpMemory):
        level |= memory.level
    return Selection(memory, asked, level, existed, kept, chosen.tally.pages)


@dataclass(frozen=True)
class Notes:
    """The ELF notes of a dump as they stand in it."""

    raw: bytes
    vmcoreinfo: tuple[int, int]  # where in `raw`, and how long
    cpus: int  # how many NT_PRSTATUS


def notes_of(memory: Memory) -> Notes:
    """Notes of the source, whichever form it has."""
    vmcore = memory.vmcore
    if vmcore.header is not None:
        header = vmcore.header
        sub = header.file.read(header.block_size, SUB_HEADER)
        offset, size = struct.unpack_from(header.order + "QQ", sub, 48)
        raw = header.file.read(offset, size) if header.version >= 4 else b""
    else:
        from crashpy.vmcore.elf import Elf

        segments = [s for s in Elf(vmcore.file).segments if s.type == PT_NOTE]
        raw = b"".join(vmcore.file.read(s.offset, s.filesz) for s in segments)
    place, cpus, at = (0, 0), 0, 0
    while at + 12 <= len(raw):
        name_size, size, kind = struct.unpack_from("<III", raw, at)
        if not name_size and not size:
            break
        name = raw[at + 12 : at + 12 + name_size].rstrip(b"\0")
        start = at + 12 + (name_size + 3 & ~3)
        if name == b"VMCOREINFO":
            place = start, size
        elif kind == PRSTATUS:
            cpus += 1
        at = start + (size + 3 & ~3)
    return Notes(raw, place, cpus)


def _utsname(memory: Memory) -> bytes:
    if memory.vmcore.header is not None:
        return memory.vmcore.header.file.read(12, 390)
    address, offset = memory.symbol("init_uts_ns"), memory.offset("uts_namespace.name")
    if address is None or offset is None:
        return bytes(390)
    try:
        return memory.virtual(address + offset, 390)
    except Unmapped:
        return bytes(390)


def _timestamp(memory: Memory) -> int:
    if memory.vmcore.header is not None:
        return memory.vmcore.header.timestamp
    return int(memory.info.get("CRASHTIME", "0"))


@dataclass(frozen=True)
class Written:
    """What became of a dump."""

    pages: int
    zero_pages: int
    lost_pages: int  # in the source, but not to be read
    bytes: int


def write_kdump(
    sink: Sink,
    selection: Selection,
    codec: Codec,
    *,
    part: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> Written:
    """A kdump-compressed file of the pages selected; of a split set, those of `part`.

    Pages are written in their order, the table of descriptors beside them as it grows,
    so that memory use does not depend on the dump's size.
    """
    memory, level = selection.memory, selection.level
    size = memory.page_size
    notes = notes_of(memory)
    first, end = part or (0, memory.max_mapnr)
    count = sum(len(pfns) for pfns in selection.pfns(first, end)) if part else selection.pages
    bitmap = -(-len(selection.kept) // size) * size
    sub_blocks = -(-(SUB_HEADER + len(notes.raw)) // size)
    bitmap_at = (1 + sub_blocks) * size
    table_at = bitmap_at + 2 * bitmap
    data_at = table_at + count * DESCRIPTOR

    def head(status: int) -> bytes:
        return struct.pack(
            "<8si390s6xqqIiiIIIIIIi",
            SIGNATURE, VERSION, _utsname(memory), _timestamp(memory), 0, status, size, sub_blocks,
            2 * bitmap // size, min(memory.max_mapnr, 0xFFFFFFFF), 0, 0, 0, 0, notes.cpus,
        ).ljust(size, b"\0")  # fmt: skip

    info_at, info_size = notes.vmcoreinfo
    notes_at = size + SUB_HEADER if notes.raw else 0
    sub = struct.pack(
        "<QiiQQQQQQQQQQQ",
        memory.phys_base & (1 << 64) - 1, level, 1 if part else 0,
        first & 0xFFFFFFFF if part else 0, end & 0xFFFFFFFF if part else 0,
        notes_at + info_at if info_size else 0, info_size, notes_at, len(notes.raw), 0, 0,
        first if part else 0, end if part else 0, memory.max_mapnr,
    )  # fmt: skip
    sink.write(0, head(codec.flag | INCOMPLETE))
    sink.write(size, (sub + notes.raw).ljust(sub_blocks * size, b"\0"))
    sink.write(bitmap_at, bytes(selection.existed).ljust(bitmap, b"\0"))
    sink.write(bitmap_at + bitmap, bytes(selection.kept).ljust(bitmap, b"\0"))
    at = data_at
    if level & Level.ZERO:
        sink.write(at, bytes(size))
        at += size
    done = zeros = lost = 0
    pack = functools.partial(_packed, selection, codec, threading.local())
    pfns = _evenly(selection.pfns(first, end), codec.at_once)
    for batch in in_order(codec.threads, pack, pfns):
        packed = batch.packed
        table = np.zeros(len(batch.good), page_desc("<"))
        table["offset"][batch.zero], table["size"][batch.zero] = data_at, size
        ends = np.cumsum(packed.sizes)
        table["offset"][batch.rows] = at + ends - packed.sizes
        table["size"][batch.rows] = packed.sizes
        table["flags"][batch.rows] = packed.flags
        if len(packed.data):
            sink.write(at, packed.data)
        at += len(packed.data)
        sink.write(table_at + done * DESCRIPTOR, table.tobytes())
        done += len(table)
        zeros += int(batch.zero.sum())
        lost += int(len(table) - batch.good.sum())
        if progress:
            progress(done, count)
    sink.write(0, head(codec.flag))
    return Written(count, zeros, lost, at)


@dataclass(frozen=True)
class _Batch:
    """Pages read: those that could be, those of zeroes that the level shares, the others."""

    good: NDArray[np.bool_]
    zero: NDArray[np.bool_]
    rows: NDArray[np.intp]
    packed: Packed


def _packed(selection: Selection, codec: Codec, local: Any, pfns: NDArray[np.int64]) -> _Batch:
    """These pages read and packed, by whichever thread comes to it."""
    if not hasattr(local, "buffer"):
        local.buffer = np.empty((codec.at_once, selection.memory.page_size), np.uint8)
    pages = local.buffer[: len(pfns)]
    good = selection.memory.read_into(pfns, pages)
    zero = _zero(pages) & good if selection.level & Level.ZERO else np.zeros(len(pfns), bool)
    rows = np.flatnonzero(good & ~zero)
    return _Batch(good, zero, rows, codec.pack(pages, rows))


def _evenly(chunks: Iterator[NDArray[np.int64]], count: int) -> Iterator[NDArray[np.int64]]:
    """The same page numbers, `count` at a time whatever the chunks."""
    left: NDArray[np.int64] = np.empty(0, np.int64)
    for chunk in chunks:
        left = np.concatenate((left, chunk)) if len(left) else chunk
        while len(left) >= count:
            yield left[:count]
            left = left[count:]
    if len(left):
        yield left


def _zero(pages: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pages hold nothing but zeroes."""
    zero: NDArray[np.bool_] = np.bitwise_or.reduce(pages.view("<u8"), axis=1) == 0
    return zero


def split_ranges(selection: Selection, parts: int) -> list[tuple[int, int]]:
    """Ranges of page numbers with about as many kept pages each, on byte boundaries."""
    share = -(-selection.pages // parts)
    edges, counted = [0], 0
    for pfns in selection.pfns():
        at = 0
        while len(edges) < parts and counted + len(pfns) - at >= share:
            at += share - counted
            edges.append(int(pfns[at - 1]) // 8 * 8 + 8)
            counted = 0
        counted += len(pfns) - at
    last = selection.memory.max_mapnr
    edges = [min(edge, last) for edge in edges] + [last] * (parts + 1 - len(edges))
    return list(itertools.pairwise(edges))


@dataclass(frozen=True)
class _Run:
    first: int  # pfn
    end: int  # of the machine's memory
    stored: int  # pages from `first` on that are written


def write_elf(sink: Sink, selection: Selection, *, progress: Progress | None = None) -> Written:
    """An ELF core: a segment for each run of pages, long holes at the end of one."""
    memory = selection.memory
    size = memory.page_size
    notes = notes_of(memory)
    if selection.asked & Level.ZERO:
        _leave_zero_pages_out(selection)
    runs = list(_runs(selection))
    count = sum(run.stored for run in runs)
    header_end = 64 + 56 * (1 + len(runs))
    sections_at = -(-header_end // 8) * 8 if 1 + len(runs) >= PN_XNUM else 0
    notes_at = sections_at + 64 if sections_at else -(-header_end // 8) * 8
    at = -(-(notes_at + len(notes.raw)) // size) * size
    heads = [
        struct.pack("<IIQQQQQQ", PT_NOTE, 0, notes_at, 0, 0, len(notes.raw), len(notes.raw), 0)
    ]
    places = []
    for run in runs:
        physical = run.first * size
        heads.append(
            struct.pack(
                "<IIQQQQQQ", PT_LOAD, 7, at, _virtual(memory, physical), physical,
                run.stored * size, (run.end - run.first) * size, 0,
            )
        )  # fmt: skip
        places.append(at)
        at += run.stored * size
    many = len(heads) >= PN_XNUM
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    elf = ident + struct.pack(
        "<HHIQQQIHHHHHH", ET_CORE, 62, 1, 0, 64, sections_at, 0, 64, 56,
        PN_XNUM if many else len(heads), 64 if many else 0, 1 if many else 0, 0,
    )  # fmt: skip
    sink.write(0, elf + b"".join(heads))
    if many:  # then the first section header tells how many segments there are
        sink.write(sections_at, struct.pack("<IIQQQQIIQQ", *[0] * 7, len(heads), 0, 0))
    sink.write(notes_at, notes.raw)
    done = lost = 0
    buffer = np.empty((BATCH, size), np.uint8)
    for run, place in zip(runs, places, strict=True):
        for low in range(run.first, run.first + run.stored, BATCH):
            pfns = np.arange(low, min(low + BATCH, run.first + run.stored))
            pages = buffer[: len(pfns)]
            good = memory.read_into(pfns, pages)
            lost += int(len(pfns) - good.sum())
            sink.write(place + (low - run.first) * size, pages.reshape(-1).data)
            done += len(pfns)
            if progress:
                progress(done, count)
    return Written(count, 0, lost, at)


def _virtual(memory: Memory, physical: int) -> int:
    """The direct map's address of physical memory, as far as the source tells it."""
    for segment in memory.vmcore.segments:
        if segment.paddr <= physical < segment.paddr + segment.memsz:
            return segment.vaddr + physical - segment.paddr & (1 << 64) - 1
    return 0


def _leave_zero_pages_out(selection: Selection) -> None:
    size = selection.memory.page_size
    kept = np.frombuffer(selection.kept, np.uint8)
    buffer = np.empty((BATCH, size), np.uint8)
    for pfns in _evenly(selection.pfns(), BATCH):
        pages = buffer[: len(pfns)]
        good = selection.memory.read_into(pfns, pages)
        gone = pfns[_zero(pages) & good]
        np.bitwise_and.at(kept, gone // 8, ~(1 << (gone % 8)).astype(np.uint8))


def _runs(selection: Selection) -> Iterator[_Run]:
    """Segments: memory without a gap, cut behind each long hole."""
    memory = selection.memory
    # What a filtered dump lacks must not come back as pages of zeroes.
    long_hole = 1 if isinstance(memory, KdumpMemory) else LONG_HOLE
    step = 1 << 16
    first = end = stored = -1
    for low in range(0, memory.max_mapnr, step):
        high = min(low + step, memory.max_mapnr)
        bits = [
            np.unpackbits(
                np.frombuffer(bitmap, np.uint8)[low // 8 : -(-high // 8)], bitorder="little"
            )[: high - low]
            for bitmap in (selection.existed, selection.kept)
        ]
        there, kept = (bit.astype(bool) for bit in bits)
        kinds = there.astype(np.int8) + (there & kept)
        edges = np.flatnonzero(np.diff(kinds)) + 1
        for a, b in zip([0, *edges.tolist()], [*edges.tolist(), len(kinds)], strict=True):
            kind, a, b = int(kinds[a]), a + low, b + low
            if kind == 0:
                if first >= 0:
                    yield _Run(first, end, stored - first)
                first = -1
                continue
            if kind == 2:
                if first >= 0 and a - stored >= long_hole:
                    yield _Run(first, a, stored - first)
                    first = -1
                if first < 0:
                    first = a
                stored = b
            elif first < 0:
                first = stored = a
            end = b
    if first >= 0:
        yield _Run(first, end, stored - first)


def unflatten(
    read: Callable[[int, int], bytes], extents: Sequence[tuple[int, int, int]], sink: Sink
) -> int:
    """Put a flattened dump's records where they belong; the size of the result in bytes."""
    end = 0
    for start, stop, at in extents:
        while start < stop:
            take = min(stop - start, 1 << 22)
            sink.write(start, read(at, take))
            start, at = start + take, at + take
        end = max(end, stop)
    return end
