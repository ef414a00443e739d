"""Bytes of a dump by offset, whatever they are wrapped in.

A dump may be inside .gz, .bz2, .xz or .zst (unpacked to memory, as nothing of a
dump's size is ever written to disk) and inside makedumpfile's flattened format
(read through an index of its records, no copy).
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, cast

FLATTENED = b"makedumpfile\0\0\0\0"
CHUNK = 1 << 16


class Decompressor(Protocol):
    """One stream, member or frame; a file may hold several, one after the other."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


@dataclass(frozen=True)
class Packing:
    name: str
    magic: bytes
    start: Callable[[], Decompressor]

    def unpack(self, raw: IO[bytes]) -> Iterator[bytes]:
        """What can be unpacked; PackingError when the end of it is missing or damaged."""
        stream = self.start()
        begun = False
        while chunk := raw.read(CHUNK):
            while chunk:
                begun = True
                try:
                    data = stream.decompress(chunk)
                except Exception as error:
                    # zlib.error, OSError, LZMAError, ZstdError have no base of their own
                    raise PackingError(f"its {self.name} data is damaged ({error})") from error
                yield data
                chunk = b""
                if stream.eof:
                    chunk = stream.unused_data.lstrip(b"\0")  # streams may be padded
                    stream, begun = self.start(), False
        if begun:
            raise PackingError(f"its {self.name} data ends early: the file is cut short")


class PackingError(Exception):
    """The packed file is damaged or cut short."""


def _gzip() -> Decompressor:
    import zlib

    return zlib.decompressobj(31)


def _bzip2() -> Decompressor:
    import bz2

    return bz2.BZ2Decompressor()


def _xz() -> Decompressor:
    import lzma

    return lzma.LZMADecompressor()


def _zstd() -> Decompressor:
    import zstandard

    return cast(Decompressor, zstandard.ZstdDecompressor().decompressobj())


PACKINGS = (
    Packing("gzip", b"\x1f\x8b\x08", _gzip),
    Packing("bzip2", b"BZh", _bzip2),
    Packing("xz", b"\xfd7zXZ\0", _xz),
    Packing("zstd", b"\x28\xb5\x2f\xfd", _zstd),
)


def packed_with(start: bytes) -> Packing | None:
    """The compression that a file starting with these bytes is packed with."""
    return next((how for how in PACKINGS if start.startswith(how.magic)), None)


def first_bytes(raw: IO[bytes], size: int) -> bytes:
    """How a file starts, inside of its packing if it has one."""
    head = raw.read(size)
    packing = packed_with(head)
    if packing is None:
        return head
    raw.seek(0)
    start = b""
    with contextlib.suppress(PackingError):
        for data in packing.unpack(raw):
            start += data[:size]
            if len(start) >= size:
                break
    return start[:size]


def write_sparse(fd: int, pieces: Iterable[bytes]) -> None:
    """Write a file, leaving holes for blocks of zeros."""
    at = 0
    for piece in pieces:
        for start in range(0, len(piece), CHUNK):
            block = piece[start : start + CHUNK]
            if block.strip(b"\0"):
                view = memoryview(block)
                while view:
                    view = view[os.pwrite(fd, view, at + len(block) - len(view)) :]
            at += len(block)
    os.ftruncate(fd, at)


class Bytes(Protocol):
    """What the readers of headers need."""

    fd: int  # the file as drgn shall see it
    size: int

    def read(self, offset: int, size: int) -> bytes: ...


class PlainFile:
    """A file by pread(2)."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size = os.lseek(fd, 0, os.SEEK_END)

    def read(self, offset: int, size: int) -> bytes:
        """The bytes there are: fewer than `size` past the end of the file."""
        if offset < 0 or offset >= self.size or size <= 0:
            return b""
        return os.pread(self.fd, min(size, self.size - offset), offset)


class FlattenedFile:
    """makedumpfile -F and QEMU: records of (offset, size, data) in any order.

    Later records overwrite earlier ones: headers and bitmaps are written again
    at the end.
    """

    def __init__(self, inner: PlainFile) -> None:
        self.inner = inner
        self.fd = inner.fd
        self.complete = False  # the end record was there
        self._starts: list[int] = []  # sorted; no two extents overlap
        self.extents: list[tuple[int, int, int]] = []  # start, end, where in the file
        self._index()
        self.size = self.extents[-1][1] if self.extents else 0

    def _index(self) -> None:
        records: list[tuple[int, int, int]] = []
        at = 4096
        while len(head := self.inner.read(at, 16)) == 16:
            offset = int.from_bytes(head[:8], "big", signed=True)
            size = int.from_bytes(head[8:], "big", signed=True)
            if offset == size == -1:
                self.complete = True
                break
            if offset < 0 or size <= 0:
                break
            records.append((offset, offset + size, at + 16))
            at += 16 + size
        # Stable sort by start; then the newest record wins where they overlap.
        order = sorted(range(len(records)), key=lambda i: (records[i][0], i))
        plain: list[tuple[int, int, int]] = []
        clean = all(records[a][1] <= records[b][0] for a, b in itertools.pairwise(order))
        if clean:
            plain = [records[i] for i in order]
        else:
            for record in records:
                overlay(plain, record)
        self.extents = plain
        self._starts = [start for start, _, _ in plain]

    def read(self, offset: int, size: int) -> bytes:
        out = bytearray()
        end = offset + size
        i = max(bisect.bisect_right(self._starts, offset) - 1, 0)
        while offset < end and i < len(self.extents):
            start, stop, at = self.extents[i]
            i += 1
            if stop <= offset:
                continue
            if start > offset:  # a gap is a hole of the sparse file it stands for
                hole = min(start, end) - offset
                out += bytes(hole)
                offset += hole
                if offset >= end:
                    break
            take = min(stop, end) - offset
            data = self.inner.read(at + offset - start, take)
            out += data
            if len(data) < take:
                break
            offset += take
        return bytes(out)


def overlay(extents: list[tuple[int, int, int]], new: tuple[int, int, int]) -> None:
    """Put an extent over those that are there, cutting what it covers."""
    start, end, _ = new
    first = bisect.bisect_left(extents, (start, 0, 0))
    if first and extents[first - 1][1] > start:
        first -= 1
    last = first
    pieces = []
    while last < len(extents) and extents[last][0] < end:
        s, e, at = extents[last]
        if s < start:
            pieces.append((s, start, at))
        if e > end:
            pieces.append((end, e, at + end - s))
        last += 1
    extents[first:last] = sorted([*pieces, new])


def memory_file(name: str) -> int:
    """A file that lives in memory alone."""
    return os.memfd_create(name, os.MFD_CLOEXEC)


def open_bytes(path: str | Path, *, ordered: bool = True) -> tuple[Bytes, str, str]:
    """A file's bytes, what they were packed with, and how unpacking failed, if it did.

    `ordered` is for readers that need a file which is in order: of a flattened one that
    was cut short a copy is made in memory.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    how = damage = ""
    start = os.pread(fd, 16, 0)
    if packing := packed_with(start):
        how, target = packing.name, memory_file(Path(path).name)

        def pieces() -> Iterator[bytes]:
            nonlocal damage
            with os.fdopen(fd, "rb") as raw:
                try:
                    yield from packing.unpack(raw)
                except PackingError as error:
                    damage = str(error)

        write_sparse(target, pieces())
        fd = target
        start = os.pread(fd, 16, 0)
    plain = PlainFile(fd)
    if start != FLATTENED:
        return plain, how, damage
    flat = FlattenedFile(plain)
    if not flat.complete and flat.size:
        damage = damage or "its flattened form has no end record: the file is cut short"
        if not ordered:
            return flat, how, damage
        # libkdumpfile refuses it: put what there is in order, in memory.
        target = memory_file(Path(path).name)
        write_sparse(target, (flat.read(at, CHUNK) for at in range(0, flat.size, CHUNK)))
        os.close(fd)
        return PlainFile(target), how, damage
    return flat, how, damage
