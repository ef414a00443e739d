"""A kdump-compressed file page by page, in Python alone.

libkdumpfile is several times faster, but it maps the file and dies of SIGBUS where
one was cut short, and some builds lack a compression. For these dumps this reader
stands in: slow, and bounded by what the file really holds.
"""

from __future__ import annotations

import itertools
import struct
from functools import cached_property

from drgn import FaultError

from crashpy.vmcore.kdump import DESCRIPTOR, KdumpHeader
from crashpy.vmcore.unpack import unpacker

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
            page = unpacker(flags, size)(data)
        except Exception as error:
            # zlib.error, ZstdError, IndexError: whatever garbage leads to
            raise FaultError(f"page damaged ({error})", address) from error
        if len(page) != size:
            raise FaultError("page damaged: wrong size", address)
        return page
