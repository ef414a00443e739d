"""Where a dump that is written goes: a file that has its name when it is complete, a pipe."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from pathlib import Path
from typing import BinaryIO, Protocol

from crashpy.command import CommandError
from crashpy.vmcore.files import FLATTENED, FlattenedFile

# What says that the rest of the dump has no room, and not that writing went wrong.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CHUNK = 1 << 22


class Sink(Protocol):
    """Somewhere that takes bytes at offsets."""

    def write(self, offset: int, data: bytes | memoryview) -> None: ...


def rewritable(sink: Sink) -> bool:
    """Whether what was written may be replaced. In a flattened stream both would be there, and
    crash takes the one or the other; but a stream that breaks off has no end, and so needs no mark.
    """
    return bool(getattr(sink, "rewritable", True))


class FileSink:
    """A file under its provisional name until it is complete."""

    def __init__(self, path: Path, *, force: bool = False, limit: int | None = None) -> None:
        self._path = path
        self._draft = path.with_name(path.name + "-incomplete")
        self._limit = limit  # bytes
        if path.exists() and not force:
            raise CommandError(f"{path}: exists already (--force replaces it)")
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self.fd = os.open(self._draft, flags, 0o600)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        self.make_room(offset + len(view))
        while view:
            done = os.pwrite(self.fd, view, offset)
            view, offset = view[done:], offset + done

    def make_room(self, end: int) -> None:
        """Raises OSError where the file may not grow so far."""
        if self._limit is not None and end > self._limit:
            sentence = f"has no room within the limit of {self._limit} bytes"
            raise OSError(errno.EFBIG, sentence, str(self._path))

    def finish(self) -> None:
        """All is written: make it last, and give it its name."""
        os.fsync(self.fd)
        os.close(self.fd)
        self._draft.rename(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def give_up(self, *, keep: bool) -> Path | None:
        """Something failed: what was written stays under its provisional name, or goes."""
        with contextlib.suppress(OSError):
            os.close(self.fd)
        if keep:
            return self._draft
        self._draft.unlink(missing_ok=True)
        return None


class FlattenedSink:
    """makedumpfile's flattened form: a stream of (offset, size, data), for pipes."""

    rewritable = False

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


def unflatten(source: FlattenedFile, sink: FileSink) -> None:
    """Put a flattened dump's records where they belong."""
    for start, last, at in source.extents:
        end = min(last, start + source.inner.size - at)  # the last record may be cut short
        sink.make_room(end)
        while start < end:
            done = _copied(source.inner.fd, sink.fd, at, start, min(end - start, CHUNK))
            start, at = start + done, at + done


def _copied(source: int, target: int, at: int, place: int, count: int) -> int:
    """Copy some bytes, inside the kernel where the file systems can; how many."""
    try:
        if done := os.copy_file_range(source, target, count, at, place):
            return done
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
    data = os.pread(source, count, at)
    if not data:
        raise OSError(errno.EIO, "the flattened dump got shorter")
    return os.pwrite(target, data, place)
