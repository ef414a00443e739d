"""Places that take dumps: folders, FTP, SFTP and SSH servers, NFS exports, CIFS shares.

What may be cut off is written as NAME-incomplete, synced where the place can, and renamed
when it is complete. Whatever goes wrong becomes one sentence, and none holds a password.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import posixpath
import re
import socket
import stat
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Concatenate, ParamSpec, Protocol, TypeVar, cast

from crashpy.command import CommandError
from crashpy.kdump.ledger import Ledger
from crashpy.kdump.urls import Url
from crashpy.vmcore.sinks import FlattenedSink

INCOMPLETE = "-incomplete"
PATIENCE = 60  # seconds for a server to answer
SYNC_PATIENCE = 900  # to put on its disk what it has been sent
CHUNK = 1 << 20

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Login:
    """What a URL does not say."""

    user: str = ""
    password: str | None = field(default=None, repr=False)
    domain: str = ""  # cifs
    identity: str | None = None  # a private key's file
    host_key: str | None = None  # "TYPE BASE64", "BASE64" or "*"; else known_hosts decides
    known_hosts: str | None = None  # the file; else the user's and the system's
    tls: bool = False  # ftp


@dataclass(frozen=True)
class Entry:
    """What a folder holds. None: the place does not tell."""

    name: str
    kind: str  # file, folder, link, mount (a folder that is one), other
    size_bytes: int | None = None
    changed_s: float | None = None  # since 1970, by the clock of the place

    @property
    def folder(self) -> bool:
        return self.kind == "folder"


class DumpSink(Protocol):
    """Takes a dump's bytes at offsets; finish() makes them last."""

    def write(self, offset: int, data: bytes | memoryview) -> None: ...
    def finish(self) -> None: ...
    def give_up(self, *, keep: bool = False) -> None: ...


class Stream(Protocol):
    """Takes a file's bytes one after the other."""

    def write(self, data: bytes | memoryview) -> None: ...
    def finish(self) -> None: ...
    def give_up(self, *, keep: bool = False) -> None: ...


class Target:
    """A folder somewhere. Paths are relative to it, with `/` between their parts.

    Every method raises CommandError with what is wrong. A subclass has _sink(), or
    _stream() if it is flattened: the rest follows.
    """

    flattened = False  # the place takes streams only: its dumps are flattened

    def __init__(self, url: Url) -> None:
        self.url = url

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def title(self) -> str:
        """For people: without a password."""
        return str(self.url)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return posixpath.basename(self.url.path)

    def path(self, relative: str) -> str:
        """As the place itself names it."""
        return posixpath.join(self.url.path, relative) if relative else self.url.path

    def local(self, file: str) -> Path | None:  # noqa: ARG002
        """The file's path on this machine, where it has one."""
        return None

    def entries(self, folder: str = "") -> list[Entry]:
        """What is in a folder, by name."""
        raise NotImplementedError

    def names(self, folder: str = "") -> list[str]:
        return [entry.name for entry in self.entries(folder)]

    def size(self, file: str) -> int | None:
        """Bytes; None where there is no such file, or the place does not tell."""
        raise NotImplementedError

    def free(self) -> int | None:
        """Bytes that may still be written, where the place tells."""
        return None

    def make_folder(self, folder: str) -> None:
        raise NotImplementedError

    def rename(self, old: str, new: str) -> None:
        """The new name may be taken: it is replaced."""
        raise NotImplementedError

    def remove(self, file: str) -> None:
        raise NotImplementedError

    def remove_folder(self, folder: str) -> None:
        """With all that is in it."""
        for entry in self.entries(folder):
            inside = f"{folder}/{entry.name}"
            (self.remove_folder if entry.folder else self.remove)(inside)
        self._remove_empty(folder)

    def _remove_empty(self, folder: str) -> None:
        raise NotImplementedError

    def sink(self, file: str, ledger: Ledger | None = None) -> DumpSink:
        """Where a dump goes; a place of streams gets it flattened.

        The ledger learns what is written.
        """
        if self.flattened:
            return _Flattened(self.stream(file, ledger))
        sink = self._sink(file)
        return sink if ledger is None else _Noted(sink, ledger)

    def stream(self, file: str, ledger: Ledger | None = None) -> Stream:
        """Where a file goes, from its start to its end."""
        if not self.flattened:
            return _Sequential(self.sink(file, ledger))
        stream = self._stream(file)
        return stream if ledger is None else _NotedStream(stream, ledger)

    def _sink(self, file: str) -> DumpSink:
        raise NotImplementedError

    def _stream(self, file: str) -> Stream:
        raise NotImplementedError

    def store(self, file: str, data: bytes) -> None:
        """A small file, whole or not at all; replaces the one that is there."""
        draft = file + INCOMPLETE
        stream = self.stream(draft)
        try:
            stream.write(data)
            stream.finish()
        except BaseException:
            stream.give_up()
            raise
        self.rename(draft, file)

    def read(
        self, file: str, offset: int = 0, most: int | None = None
    ) -> Generator[bytes, None, None]:
        """The file's bytes from there on, a piece at a time, and no more than `most`."""
        left = most
        with contextlib.closing(self._read(file, offset, most)) as pieces:
            for data in pieces:
                if left is None:
                    yield data
                    continue
                yield data[:left]
                left -= len(data)
                if left <= 0:
                    return

    def _read(self, file: str, offset: int, most: int | None) -> Generator[bytes, None, None]:
        """As read(); may give more than `most`."""
        raise NotImplementedError

    def close(self) -> None:
        """Leave; nothing raises here."""


class _Sequential:
    def __init__(self, sink: DumpSink) -> None:
        self._sink = sink
        self._at = 0
        self.finish, self.give_up = sink.finish, sink.give_up

    def write(self, data: bytes | memoryview) -> None:
        self._sink.write(self._at, data)
        self._at += len(data)


class _Noted:
    def __init__(self, sink: DumpSink, ledger: Ledger) -> None:
        self._sink, self._ledger = sink, ledger
        self.finish, self.give_up = sink.finish, sink.give_up

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self._sink.write(offset, data)
        self._ledger.note(offset, data)


class _NotedStream:
    def __init__(self, stream: Stream, ledger: Ledger) -> None:
        self._stream, self._ledger = stream, ledger
        self.finish, self.give_up = stream.finish, stream.give_up

    def write(self, data: bytes | memoryview) -> None:
        self._stream.write(data)
        self._ledger.note(self._ledger.end, data)


class _Flattened:
    """A dump in makedumpfile's flattened form, a megabyte at a time."""

    rewritable = False

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = _Buffer(stream)
        self._flat = FlattenedSink(cast(BinaryIO, self._buffer))
        self.write = self._flat.write
        self.give_up = stream.give_up

    def finish(self) -> None:
        self._flat.finish()
        self._stream.finish()


class _Buffer:
    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._pending = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self._pending += data
        if len(self._pending) >= CHUNK:
            self.flush()

    def flush(self) -> None:
        if self._pending:
            self._stream.write(bytes(self._pending))
            self._pending.clear()


# Errors


class NoRoom(CommandError):
    """The disk is full, or would be."""


class HasUrl(Protocol):
    @property
    def url(self) -> Url: ...


Place = TypeVar("Place", bound=HasUrl)


def explained(
    method: Callable[Concatenate[Place, P], R],
) -> Callable[Concatenate[Place, P], R]:
    """For methods of targets and their sinks: errors of the place as one sentence."""

    @functools.wraps(method)
    def call(self: Place, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with explaining(self.url):
            return method(self, *args, **kwargs)

    return call


@contextlib.contextmanager
def explaining(url: Url) -> Iterator[None]:
    try:
        yield
    except CommandError as error:
        if str(error).startswith(str(url)):
            raise
        raise type(error)(f"{url}: {error}") from None
    except (OSError, EOFError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        raise (NoRoom if full else CommandError)(f"{url}: {reason(error)}") from None
    except Exception as error:
        # the libraries' errors have no base class in common
        if type(error).__module__.partition(".")[0] not in LIBRARIES:
            raise
        raise CommandError(f"{url}: {reason(error)}") from None


LIBRARIES = ("ftplib", "paramiko", "smbprotocol", "spnego")
BROKEN = "the server broke the connection"


def reason(error: BaseException) -> str:
    """What is wrong, in words for whoever reads it."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, TimeoutError):
        return "the server does not answer"
    if isinstance(error, socket.gaierror):
        return "no such host"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: no server listens there"
    broken = re.search(r"closed|dropped|not active", text, re.IGNORECASE)
    if broken or isinstance(error, (EOFError, ConnectionError)):
        return BROKEN
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return text


def kind_of(mode: int | None) -> str:
    """Entry's word for the mode of a file."""
    kinds = {stat.S_IFDIR: "folder", stat.S_IFREG: "file", stat.S_IFLNK: "link"}
    return kinds.get(stat.S_IFMT(mode or 0), "other")


def parse_listing(lines: list[str]) -> Iterator[Entry]:
    """The lines of `ls -lA`, which FTP servers send as well."""
    for line in lines:
        words = line.split(None, 8)
        if len(words) == 9 and words[4].isdigit() and words[8] not in (".", ".."):
            kind = {"d": "folder", "-": "file", "l": "link"}.get(line[0], "other")
            name = words[8].partition(" -> ")[0] if kind == "link" else words[8]
            yield Entry(name, kind, int(words[4]))


# Folders


class FileTarget(Target):
    """A folder of this machine, or one that is mounted."""

    def __init__(self, url: Url, folder: Path | None = None) -> None:
        super().__init__(url)
        self._folder = folder or Path(url.path)
        if not self._folder.is_dir():
            state = "is no folder" if self._folder.exists() else "no such folder"
            raise CommandError(f"{url}: {state}")

    def path(self, relative: str) -> str:
        return str(self._folder / relative)

    def local(self, file: str) -> Path | None:
        return self._folder / file

    @explained
    def entries(self, folder: str = "") -> list[Entry]:
        return [_entry(path) for path in sorted((self._folder / folder).iterdir())]

    @explained
    def size(self, file: str) -> int | None:
        path = self._folder / file
        return path.stat().st_size if path.is_file() else None

    @explained
    def free(self) -> int | None:
        system = os.statvfs(self._folder)
        return system.f_bavail * system.f_frsize

    @explained
    def make_folder(self, folder: str) -> None:
        path = self._folder / folder
        path.mkdir(0o700)
        _sync_folder(path.parent)

    @explained
    def rename(self, old: str, new: str) -> None:
        path = self._folder / new
        (self._folder / old).rename(path)
        _sync_folder(path.parent)

    @explained
    def remove(self, file: str) -> None:
        (self._folder / file).unlink()

    @explained
    def _remove_empty(self, folder: str) -> None:
        (self._folder / folder).rmdir()

    @explained
    def _sink(self, file: str) -> DumpSink:
        return _Local(self.url, self._folder / file)

    def _read(self, file: str, offset: int, most: int | None) -> Generator[bytes, None, None]:
        with explaining(self.url), (self._folder / file).open("rb") as source:
            source.seek(offset)
            while data := source.read(min(CHUNK, most or CHUNK)):
                yield data


def _sync_folder(path: Path) -> None:
    """Make last what the folder's files are called."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _entry(path: Path) -> Entry:
    status = path.lstat()
    kind = kind_of(status.st_mode)
    kind = "mount" if kind == "folder" and path.is_mount() else kind
    return Entry(path.name, kind, status.st_size, status.st_mtime)


class _Local:
    def __init__(self, url: Url, path: Path) -> None:
        self.url, self._path = url, path
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._file = os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0)

    @explained
    def write(self, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        while view:
            done = os.pwrite(self._file.fileno(), view, offset)
            view, offset = view[done:], offset + done

    @explained
    def finish(self) -> None:
        os.fsync(self._file.fileno())
        # whoever reads it back shall see what the disk has
        os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self._file.close()

    def give_up(self, *, keep: bool = False) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
            if not keep:
                self._path.unlink(missing_ok=True)


def open_target(url: Url, login: Login | None = None) -> Target:
    """Raises CommandError with what is wrong."""
    login = login or Login()
    if url.protocol == "file":
        return FileTarget(url)
    if url.protocol == "ftp":
        from crashpy.kdump.ftp import FtpTarget

        return FtpTarget(url, login)
    if url.protocol in ("sftp", "ssh"):
        from crashpy.kdump.ssh import SftpTarget, SshTarget

        return (SftpTarget if url.protocol == "sftp" else SshTarget)(url, login)
    from crashpy.kdump.mounted import open_share

    return open_share(url, login)
