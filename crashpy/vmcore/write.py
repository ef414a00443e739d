"""Write a dump kdump-compressed: one file, or one of a split set.

Layouts are makedumpfile's (diskdump_mod.h, header version 6). A file says that it is
incomplete until all of it is written.
"""

from __future__ import annotations

import functools
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from crashpy.vmcore.codecs import AT_ONCE, Codec, Packed, in_order
from crashpy.vmcore.elf import PT_NOTE, Elf
from crashpy.vmcore.filter import Level
from crashpy.vmcore.kdump import DESCRIPTOR, INCOMPLETE, SIGNATURE
from crashpy.vmcore.memory import Memory, Unmapped, page_desc, zero_pages
from crashpy.vmcore.selection import Selection as Selection
from crashpy.vmcore.selection import select as select
from crashpy.vmcore.sinks import FileSink as FileSink
from crashpy.vmcore.sinks import FlattenedSink as FlattenedSink
from crashpy.vmcore.sinks import Sink as Sink
from crashpy.vmcore.sinks import rewritable

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERSION = 6  # of the kdump header
SUB_HEADER = 104  # bytes, of a 64-bit machine
PRSTATUS = 1  # NT_PRSTATUS
MOST_NOTES = 1 << 26  # bytes; more is a damaged header

Progress = Callable[[int, int], None]  # pages done, of how many


@dataclass(frozen=True)
class Notes:
    """The ELF notes of a dump as they stand in it."""

    raw: bytes
    vmcoreinfo: tuple[int, int]  # where in `raw`, and how long
    cpus: int  # how many NT_PRSTATUS
    eraseinfo: bytes = b""  # of a kdump-compressed file: what was erased before


def notes_of(memory: Memory) -> Notes:
    """Notes of the source, whichever form it has."""
    vmcore = memory.vmcore
    erased = b""
    if vmcore.header is not None:
        header = vmcore.header
        sub = header.file.read(header.block_size, SUB_HEADER)
        offset, size = struct.unpack_from(header.order + "QQ", sub, 48)
        raw = header.file.read(offset, min(size, MOST_NOTES)) if header.version >= 4 else b""
        if header.version >= 5:
            at, length = struct.unpack_from(header.order + "QQ", sub, 64)
            erased = header.file.read(at, min(length, MOST_NOTES))
    else:
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
    return Notes(raw, place, cpus, erased)


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
    word = memory.info.get("CRASHTIME", "")
    return int(word) if word.isdecimal() else 0


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
    size, shared = selection.memory.page_size, bool(selection.level & Level.ZERO)
    first, end = part or (0, selection.memory.max_mapnr)
    layout = _Layout(selection, notes_of(selection.memory), part)
    draft = INCOMPLETE if rewritable(sink) else 0
    sink.write(0, layout.header(codec.flag | draft))
    sink.write(size, layout.sub_header())
    sink.write(layout.bitmap_at, memoryview(selection.existed))
    sink.write(layout.bitmap_at + layout.bitmap, memoryview(selection.kept))
    zero_at = at = layout.data_at
    if shared:
        sink.write(at, bytes(size))
        at += size
    done = zeros = lost = 0
    pack = functools.partial(_packed, selection, codec, threading.local())
    pfns = evenly(selection.pfns(first, end), AT_ONCE)
    for batch in in_order(codec.threads, pack, pfns):
        packed = batch.packed
        table = np.zeros(len(batch.good), page_desc("<"))
        table["offset"][batch.zero], table["size"][batch.zero] = zero_at, size
        ends = np.cumsum(packed.sizes)
        table["offset"][batch.rows] = at + ends - packed.sizes
        table["size"][batch.rows] = packed.sizes
        table["flags"][batch.rows] = packed.flags
        if len(packed.data):
            sink.write(at, packed.data)
        at += len(packed.data)
        sink.write(layout.table_at + done * DESCRIPTOR, table.tobytes())
        done += len(table)
        zeros += int(batch.zero.sum())
        lost += int(len(table) - batch.good.sum())
        if progress:
            progress(done, layout.count)
    if erased := layout.notes.eraseinfo + selection.eraseinfo:
        sink.write(at, erased)
        sink.write(size, layout.sub_header(at, len(erased)))
        at += len(erased)
    if draft:
        sink.write(0, layout.header(codec.flag))
    return Written(layout.count, zeros, lost, at)


class _Layout:
    """Where everything is in a kdump-compressed file, and its two headers."""

    def __init__(self, selection: Selection, notes: Notes, part: tuple[int, int] | None) -> None:
        size = selection.memory.page_size
        self.memory, self.level = selection.memory, selection.level
        self.notes, self.part = notes, part
        self.count = sum(len(pfns) for pfns in selection.pfns(*part)) if part else selection.pages
        self.sub_blocks = -(-(SUB_HEADER + len(notes.raw)) // size)
        self.bitmap = -(-len(selection.kept) // size) * size  # bytes of each
        self.bitmap_at = (1 + self.sub_blocks) * size
        self.table_at = self.bitmap_at + 2 * self.bitmap
        self.data_at = self.table_at + self.count * DESCRIPTOR

    def header(self, status: int) -> bytes:
        memory, size = self.memory, self.memory.page_size
        return struct.pack(
            "<8si390s6xqqIiiIIIIIIi",
            SIGNATURE, VERSION, _utsname(memory), _timestamp(memory), 0, status, size,
            self.sub_blocks, 2 * self.bitmap // size, min(memory.max_mapnr, 0xFFFFFFFF),
            0, 0, 0, 0, self.notes.cpus,
        ).ljust(size, b"\0")  # fmt: skip

    def sub_header(self, erased_at: int = 0, erased: int = 0) -> bytes:
        """With the notes that follow it."""
        memory, notes = self.memory, self.notes
        first, end = self.part or (0, 0)
        info_at, info_size = notes.vmcoreinfo
        notes_at = memory.page_size + SUB_HEADER if notes.raw else 0
        sub = struct.pack(
            "<QiiQQQQQQQQQQQ",
            memory.phys_base & (1 << 64) - 1, self.level, 1 if self.part else 0,
            first & 0xFFFFFFFF, end & 0xFFFFFFFF,
            notes_at + info_at if info_size else 0, info_size, notes_at, len(notes.raw),
            erased_at, erased, first, end, memory.max_mapnr,
        )  # fmt: skip
        return (sub + notes.raw).ljust(self.sub_blocks * memory.page_size, b"\0")


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
        local.buffer = np.empty((AT_ONCE, selection.memory.page_size), np.uint8)
    pages = local.buffer[: len(pfns)]
    good = selection.read_into(pfns, pages)
    zero = zero_pages(pages) & good if selection.level & Level.ZERO else np.zeros(len(pfns), bool)
    rows = np.flatnonzero(good & ~zero)
    return _Batch(good, zero, rows, codec.pack(pages, rows))


def evenly(chunks: Iterator[NDArray[np.int64]], count: int) -> Iterator[NDArray[np.int64]]:
    """The same page numbers, `count` at a time whatever the chunks."""
    left: NDArray[np.int64] = np.empty(0, np.int64)
    for chunk in chunks:
        left = np.concatenate((left, chunk)) if len(left) else chunk
        while len(left) >= count:
            yield left[:count]
            left = left[count:]
    if len(left):
        yield left
