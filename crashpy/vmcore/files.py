"""Bytes of a dump by offset, whatever they are wrapped in.

A dump may be inside .gz, .bz2, .xz or .zst (unpacked to memory, as nothing of a
dump's size is ever written to disk) and inside makedumpfile's flattened format
(read through an index of its records, no copy).
"""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol, cast

FLATTENED = b"makedumpfile\0\0\0\0"
CHUNK = 1 << 20

# Packed with: magic -> (name, how to open a stream that unpacks).
Opener = Callable[[IO[bytes]], IO[bytes]]


def _gzip(raw: IO[bytes]) -> IO[bytes]:
    import gzip

    return cast("IO[bytes]", gzip.GzipFile(fileobj=raw))


def _bzip2(raw: IO[bytes]) -> IO[bytes]:
    import bz2

    return bz2.BZ2File(raw)


def _xz(raw: IO[bytes]) -> IO[bytes]:
    import lzma

    return lzma.LZMAFile(raw)


def _zstd(raw: IO[bytes]) -> IO[bytes]:
    import zstandard

    return cast(
        "IO[bytes]", zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
    )


PACKED: dict[bytes, tuple[str, Opener]] = {
    b"\x1f\x8b\x08": ("gzip", _gzip),
    b"BZh": ("bzip2", _bzip2),
    b"\xfd7zXZ\0": ("xz", _xz),
    b"\x28\xb5\x2f\xfd": ("zstd", _zstd),
}


def packed_with(start: bytes) -> tuple[str, Opener] | None:
    """The compression that a file starting with these bytes is packed with."""
    return next((how for magic, how in PACKED.items() if start.startswith(magic)), None)


def unpack(opener: Opener, raw: IO[bytes], write: Callable[[bytes], object]) -> str | None:
    """Hand all unpacked bytes to `write`; a damaged end is returned in words."""
    import zlib

    try:
        stream = opener(raw)
        while chunk := stream.read(CHUNK):
            write(chunk)
    except (EOFError, OSError, ValueError, zlib.error) as error:
        return str(error) or type(error).__name__
    except Exception as error:  # noqa: BLE001 (lzma.LZMAError, ZstdError: no common base)
        return str(error) or type(error).__name__
    return None


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
        self._extents: list[tuple[int, int, int]] = []  # start, end, where in the file
        self._index()
        self.size = self._extents[-1][1] if self._extents else 0

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
                _overlay(plain, record)
        self._extents = plain
        self._starts = [start for start, _, _ in plain]

    def read(self, offset: int, size: int) -> bytes:
        out = bytearray()
        end = offset + size
        i = max(bisect.bisect_right(self._starts, offset) - 1, 0)
        while offset < end and i < len(self._extents):
            start, stop, at = self._extents[i]
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


def _overlay(extents: list[tuple[int, int, int]], new: tuple[int, int, int]) -> None:
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


def open_bytes(path: str | Path) -> tuple[Bytes, str, str | None]:
    """A file's bytes, what they were packed with, and how unpacking failed, if it did."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    how, damage = "", None
    start = os.pread(fd, 16, 0)
    if packing := packed_with(start):
        how, opener = packing
        target = memory_file(Path(path).name)
        with os.fdopen(fd, "rb") as raw, os.fdopen(target, "wb", closefd=False) as out:
            damage = unpack(opener, raw, out.write)
        fd = target
        start = os.pread(fd, 16, 0)
    plain = PlainFile(fd)
    if start == FLATTENED:
        return FlattenedFile(plain), how, damage
    return plain, how, damage
