"""A kdump-compressed file page by page, in Python alone.

libkdumpfile is several times faster, but it maps the file and dies of SIGBUS where
one was cut short, and some builds lack a compression. For these dumps this reader
stands in: slow, and bounded by what the file really holds.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Callable
from functools import cached_property

from drgn import FaultError

from crashpy.vmcore.kdump import DESCRIPTOR, KdumpHeader

BLOCK = 4096  # bytes of bitmap that are counted at once
KEPT = 4096  # pages


class PageReader:
    """Physical memory of one file; a hole raises FaultError."""

    def __init__(self, header: KdumpHeader) -> None:
        self._header = header
        self._size = header.block_size
        self._descriptor = struct.Struct(header.order + "QIIQ")
        self._kept: dict[int, bytes] = {}

    def read(self, address: int, count: int, _offset: int = 0, _physical: bool = True) -> bytes:
        """Has drgn's signature for the readers of memory segments."""
        size = self._size
        start = address % size
        if start + count <= size:
            return self._page(address // size)[start : start + count]
        first, last = address // size, (address + count - 1) // size
        data = b"".join(map(self._page, range(first, last + 1)))
        return data[start : start + count]

    @cached_property
    def _counts(self) -> list[int]:
        """How many pages are stored before each block of the bitmap."""
        header = self._header
        at, size = header.stored_bitmap
        counts = (
            int.from_bytes(header.file.read(at + i, min(BLOCK, size - i)), "little").bit_count()
            for i in range(0, size, BLOCK)
        )
        return [0, *itertools.accumulate(counts)]

    @cached_property
    def _before(self) -> int:
        """Pages of the bitmap that are in the earlier files of a split set."""
        return self._rank(self._header.start_pfn) if self._header.split else 0

    def _rank(self, pfn: int) -> int:
        at, _ = self._header.stored_bitmap
        block, bit = divmod(pfn, BLOCK * 8)
        bits = self._header.file.read(at + block * BLOCK, bit // 8 + 1)
        below = int.from_bytes(bits, "little") & (1 << bit) - 1
        return self._counts[block] + below.bit_count()

    def _page(self, pfn: int) -> bytes:
        page = self._kept.get(pfn)
        if page is None:
            page = self._load(pfn)
            if len(self._kept) >= KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[pfn] = page
        return page

    def _load(self, pfn: int) -> bytes:
        header, size = self._header, self._size
        address = pfn * size
        if not header.page_existed(pfn):
            raise FaultError("no such page", address)
        at, _ = header.stored_bitmap
        byte = header.file.read(at + pfn // 8, 1)
        if not byte or not byte[0] >> pfn % 8 & 1:
            raise FaultError("page excluded", address)
        if header.split and not header.start_pfn <= pfn < header.end_pfn:
            raise FaultError("page in another file of the split dump", address)
        place = header.descriptors_offset + (self._rank(pfn) - self._before) * DESCRIPTOR
        raw = header.file.read(place, DESCRIPTOR)
        if len(raw) < DESCRIPTOR:
            raise FaultError("page lost: the dump is cut short", address)
        offset, stored, flags, _ = self._descriptor.unpack(raw)
        if not offset or stored > size:
            raise FaultError("page lost: its descriptor is empty or damaged", address)
        data = header.file.read(offset, stored)
        if len(data) < stored:
            raise FaultError("page lost: the dump is cut short", address)
        try:
            page = unpack_page(data, flags, size)
        except Exception as error:
            # zlib.error, ZstdError, IndexError: whatever garbage leads to
            raise FaultError(f"page damaged ({error})", address) from error
        if len(page) != size:
            raise FaultError("page damaged: wrong size", address)
        return page


def unpack_page(data: bytes, flags: int, size: int) -> bytes:
    """One page as makedumpfile packed it."""
    if flags & 0x1:
        return zlib.decompress(data)
    if flags & 0x2:
        return unlzo(data, size)
    if flags & 0x4:
        return unsnappy(data)
    if flags & 0x20:
        return _zstd()(data, size)
    return data


def _zstd() -> Callable[[bytes, int], bytes]:
    import zstandard

    decompressor = zstandard.ZstdDecompressor()
    return lambda data, size: decompressor.decompress(data, max_output_size=size)


def unsnappy(data: bytes) -> bytes:
    """Snappy's raw format: a length, then literals and copies."""
    at = shift = 0
    length = 0
    while True:  # varint
        byte = data[at]
        at += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    out = bytearray()
    while at < len(data):
        tag = data[at]
        at += 1
        kind, count = tag & 3, tag >> 2
        if kind == 0:
            if count >= 60:
                extra = count - 59
                count = int.from_bytes(data[at : at + extra], "little")
                at += extra
            out += data[at : at + count + 1]
            at += count + 1
            continue
        if kind == 1:
            count, back = (count & 7) + 4, tag >> 5 << 8 | data[at]
            at += 1
        else:
            width = 2 if kind == 2 else 4
            count, back = count + 1, int.from_bytes(data[at : at + width], "little")
            at += width
        _copy(out, back, count)
    if len(out) != length:
        raise ValueError("snappy: wrong length")
    return bytes(out)


def unlzo(data: bytes, limit: int) -> bytes:
    """LZO1X as its stream is documented in Linux (Documentation/staging/lzo.rst)."""
    out = bytearray()
    at = 0

    def length(start: int, bits: int) -> tuple[int, int]:
        """A count of `bits` bits; 0 means that more bytes follow."""
        nonlocal at
        count = start & (1 << bits) - 1
        if count:
            return count, at
        count = (1 << bits) - 1
        while data[at] == 0:
            count += 255
            at += 1
        count += data[at]
        at += 1
        return count, at

    literals = 0  # copied by the previous instruction: 0, 1-3, or 4 for more
    if data[0] > 17:
        literals = data[0] - 17
        at = 1 + literals
        out += data[1:at]
        literals = min(literals, 4)
    while len(out) <= limit:
        code = data[at]
        at += 1
        if code >= 64:
            count = (code >> 5) + 1
            back = (data[at] << 3) + (code >> 2 & 7) + 1
            at += 1
            tail = code & 3
        elif code >= 32:
            count = length(code, 5)[0] + 2
            word = int.from_bytes(data[at : at + 2], "little")
            at += 2
            back, tail = (word >> 2) + 1, word & 3
        elif code >= 16:
            high = (code & 8) << 11
            count = length(code, 3)[0] + 2
            word = int.from_bytes(data[at : at + 2], "little")
            at += 2
            back, tail = high + (word >> 2) + 0x4000, word & 3
            if back == 0x4000:
                return bytes(out)
        elif literals == 0:
            count = length(code, 4)[0] + 3
            out += data[at : at + count]
            at += count
            literals = 4
            continue
        else:
            back = (data[at] << 2) + (code >> 2) + 1
            count, tail = 2, code & 3
            if literals == 4:
                back, count = back + 0x800, 3
            at += 1
        _copy(out, back, count)
        out += data[at : at + tail]
        at += tail
        literals = tail
    raise ValueError("lzo: more than a page")


def _copy(out: bytearray, back: int, count: int) -> None:
    """Repeat what was written `back` bytes ago; it may overlap what it writes."""
    start = len(out) - back
    if start < 0 or not back:
        raise ValueError("copy from before the start")
    if back >= count:
        out += out[start : start + count]
        return
    piece = bytes(out[start:])
    out += (piece * (count // back + 1))[:count]
