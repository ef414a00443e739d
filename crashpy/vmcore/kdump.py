"""The header of a kdump-compressed file, as makedumpfile and QEMU write it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from crashpy.vmcore.elf import Note, parse_notes
from crashpy.vmcore.files import Bytes

SIGNATURE = b"KDUMP   "
DISKDUMP = b"DISKDUMP"

# header.status
INCOMPLETE, EXCLUDED_VMEMMAP = 0x8, 0x10

DESCRIPTOR = 24  # bytes of a page_desc, on every machine


@dataclass(frozen=True)
class KdumpHeader:
    """The main and the sub header (makedumpfile's diskdump_mod.h)."""

    file: Bytes = field(repr=False)
    order: str  # struct's "<" or ">"
    bits: int
    version: int
    utsname: tuple[str, ...]  # sysname, nodename, release, version, machine, domainname
    timestamp: int  # seconds
    status: int
    block_size: int
    sub_hdr_size: int  # blocks
    bitmap_blocks: int
    max_mapnr: int
    phys_base: int
    dump_level: int
    split: bool
    start_pfn: int  # of this file, when split
    end_pfn: int
    vmcoreinfo: bytes
    notes: list[Note]
    headers_end: int  # where the header, VMCOREINFO and the notes end

    @property
    def incomplete(self) -> bool:
        return bool(self.status & INCOMPLETE)

    @property
    def bitmap_offset(self) -> int:
        return (1 + self.sub_hdr_size) * self.block_size

    @property
    def descriptors_offset(self) -> int:
        return (1 + self.sub_hdr_size + self.bitmap_blocks) * self.block_size

    @property
    def stored_bitmap(self) -> tuple[int, int]:
        """Offset and size of the bitmap of the pages that are in the file."""
        size = -(-self.max_mapnr // 8)
        half = self.bitmap_blocks * self.block_size // 2
        return self.bitmap_offset + (half if half >= size else 0), size

    @cached_property
    def stored_pages(self) -> int:
        """How many page descriptors the file has: set bits of its second bitmap."""
        at, _ = self.stored_bitmap
        first, end = (self.start_pfn, self.end_pfn) if self.split else (0, self.max_mapnr)
        end = min(end, self.max_mapnr)
        count, step = 0, 1 << 22
        for offset in range(first // 8, -(-end // 8), step):
            size = min(step, -(-end // 8) - offset)
            bits = int.from_bytes(self.file.read(at + offset, size), "little")
            if offset * 8 < first:
                bits &= -1 << first - offset * 8
            if (offset + size) * 8 > end:
                bits &= (1 << end - offset * 8) - 1
            count += bits.bit_count()
        return count

    def page_existed(self, pfn: int) -> bool:
        """The machine had this page: its bit in the first bitmap."""
        if not 0 <= pfn < self.max_mapnr:
            return False
        byte = self.file.read(self.bitmap_offset + pfn // 8, 1)
        return bool(byte and byte[0] >> pfn % 8 & 1)

    def stored_ranges(self) -> Iterator[tuple[int, int]]:
        """Physical address and size of each run of pages that the file holds."""
        at, bitmap = self.stored_bitmap
        first = -1
        for offset in range(0, bitmap, 1 << 16):
            for i, byte in enumerate(self.file.read(at + offset, min(1 << 16, bitmap - offset))):
                pfn = (offset + i) * 8
                if (byte == 0xFF and first >= 0) or (byte == 0 and first < 0):
                    continue
                for bit in range(8):
                    stored = byte >> bit & 1
                    if stored and first < 0:
                        first = pfn + bit
                    elif not stored and first >= 0:
                        yield first * self.block_size, (pfn + bit - first) * self.block_size
                        first = -1
        if first >= 0:
            yield first * self.block_size, (bitmap * 8 - first) * self.block_size

    @cached_property
    def first_stored_pfn(self) -> int | None:
        return next((at // self.block_size for at, _ in self.stored_ranges()), None)

    @cached_property
    def needed_size(self) -> int:
        """Where the page data ends: a shorter file was cut."""
        count = self.stored_pages
        end = self.descriptors_offset + count * DESCRIPTOR
        if end > self.file.size:
            return end
        tail = min(count, 4096)  # written in order, but the shared zero page
        raw = self.file.read(end - tail * DESCRIPTOR, tail * DESCRIPTOR)
        raw = raw[: len(raw) - len(raw) % DESCRIPTOR]
        for offset, size, _flags, _ in struct.iter_unpack(self.order + "QIIQ", raw):
            if size <= self.block_size:
                end = max(end, offset + size)
        return end


def read_header(file: Bytes) -> KdumpHeader | None:
    """The header in whichever byte order and word size makes sense, as libkdumpfile tries them."""
    main = file.read(0, 464)
    if main[:8] not in (SIGNATURE, DISKDUMP) or len(main) < 464:
        return None
    for order in "<", ">":
        for bits in 64, 32:
            at = 424 if bits == 64 else 412
            status, block_size, sub_size, bitmap_blocks, mapnr = struct.unpack_from(
                order + "IIiII", main, at
            )
            sane = block_size in (4096, 8192, 16384, 65536) and 0 < sub_size < 1 << 16
            if not sane or 8 * bitmap_blocks * block_size < mapnr:
                continue
            most = 8 * bitmap_blocks * block_size
            seconds = struct.unpack_from(order + ("Q" if bits == 64 else "I"), main, at - 16)[0]
            if bits == 32:
                seconds = struct.unpack_from(order + "I", main, 404)[0]
            version = struct.unpack_from(order + "I", main, 8)[0]
            names = (main[12 + 65 * i : 77 + 65 * i].split(b"\0")[0] for i in range(6))
            utsname = tuple(name.decode(errors="replace") for name in names)
            sub = file.read(block_size, min(sub_size * block_size, 1 << 24))
            return KdumpHeader(
                file=file,
                order=order,
                bits=bits,
                version=version,
                utsname=utsname,
                timestamp=seconds,
                status=status,
                block_size=block_size,
                sub_hdr_size=sub_size,
                bitmap_blocks=bitmap_blocks,
                **_sub_header(file, sub, order, bits, version, mapnr, block_size, sub_size, most),
            )
    return None


def _sub_header(
    file: Bytes,
    sub: bytes,
    order: str,
    bits: int,
    version: int,
    mapnr: int,
    block_size: int,
    blocks: int,
    most: int,
) -> dict[str, Any]:
    """The fields that came in with each header_version; what is not there is empty."""
    if bits == 64:
        form, size = order + "QIIQQQQQQQQQQQ", 104
    else:
        # i386 packs the 64-bit fields, arm pads them: a VMCOREINFO that lies
        # inside the sub header tells which (libkdumpfile's rule).
        form, size = order + "=IIIIIQIQIQIQQQ".replace("=", ""), 80
        where = int.from_bytes(sub[20:28], "little" if order == "<" else "big")
        if where and not block_size < where <= (1 + blocks) * block_size:
            form, size = order + "IIIII4xQI4xQI4xQI4xQQQ", 96
    fields = struct.unpack(form, sub[:size].ljust(size, b"\0"))
    (phys_base, level, split, start, end, info_at, info_size, note_at, note_size) = fields[:9]
    start64, end64, mapnr64 = fields[11:14]
    known = version >= 1
    vmcoreinfo = notes = b""
    headers_end = (1 + blocks) * block_size
    if version >= 3 and info_size:
        vmcoreinfo = file.read(info_at, min(info_size, 1 << 20)).rstrip(b"\0")
        headers_end = max(headers_end, info_at + info_size)
    if version >= 4 and note_size:
        notes = file.read(note_at, min(note_size, 1 << 26))
        headers_end = max(headers_end, note_at + note_size)
    return {
        # no more than there are bits for, whatever a damaged header says
        "max_mapnr": min(mapnr64, most) if version >= 6 else mapnr,
        "phys_base": phys_base,
        "dump_level": level if known else 0,
        "split": bool(version >= 2 and split),
        "start_pfn": start64 if version >= 6 else start,
        "end_pfn": end64 if version >= 6 else end,
        "vmcoreinfo": vmcoreinfo,
        "notes": list(parse_notes(notes, order, note_at)),
        "headers_end": headers_end,
    }
