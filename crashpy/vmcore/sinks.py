"""Where a dump that is written goes: a file that has its name when it is complete, a pipe."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, Protocol

from crashpy.command import CommandError
from crashpy.vmcore.files import FLATTENED, FlattenedFile

# What says that the rest of the dump has no room, and not that writing went wrong.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CHUNK = 1 << 22
PIECE = 1 << 20  # bytes read from a pipe at a time


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
        path = path.resolve() if path.is_symlink() else path  # the link stays one
        self._path, self._draft = path, draft_of(path)
        self._limit = limit  # bytes
        if path.exists() and not path.is_file():
            raise CommandError(f"{path}: is there, and no file that could be replaced")
        if path.exists() and not force:
            raise CommandError(f"{path}: exists already (--force replaces it)")
        self.fd = _opened_alone(self._draft)

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


def draft_of(path: Path) -> Path:
    """The provisional name of a file."""
    return path.with_name(path.name + "-incomplete")


def _opened_alone(draft: Path) -> int:
    """The file to write, empty; an error where another process writes it just now."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        fd = os.open(draft, flags, 0o600)
        try:
            _lock(fd)
            if draft.exists() and os.path.samestat(draft.stat(), os.fstat(fd)):  # not yet renamed
                os.ftruncate(fd, 0)
                os.fchmod(fd, 0o600)
                return fd
        except BlockingIOError:
            os.close(fd)
            raise CommandError(f"{draft}: another program is writing it") from None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _lock(fd: int) -> None:
    """Raises BlockingIOError where somebody else has it; some file systems know no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise


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


def put_in_place(flat: IO[bytes], sink: Sink) -> bool:
    """As unflatten(), from a pipe; whether its end record came."""
    head = flat.read(4096)
    if not head.startswith(FLATTENED):
        return False
    for offset, size in _records(flat):
        if size <= 0 or offset < 0:
            return offset == size == -1
        while size:
            data = flat.read(min(size, PIECE))
            if not data:
                return False
            sink.write(offset, data)
            offset, size = offset + len(data), size - len(data)
    return False


def _records(flat: IO[bytes]) -> Iterator[tuple[int, int]]:
    while len(head := flat.read(16)) == 16:
        yield (
            int.from_bytes(head[:8], "big", signed=True),
            int.from_bytes(head[8:], "big", signed=True),
        )


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
