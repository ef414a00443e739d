"""NFS exports without mounting, by the library libnfs: where the kernel has no nfs."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import errno
import functools
import os
from collections.abc import Generator
from typing import Any

from crashpy.command import CommandError
from crashpy.kdump.targets import (
    BROKEN,
    CHUNK,
    PATIENCE,
    Entry,
    Login,
    NoRoom,
    Target,
    explained,
    explaining,
    kind_of,
)
from crashpy.kdump.urls import Url

LIBRARIES = ("libnfs.so.13", "libnfs.so.14")  # 4.0 and 5.0: 6.0 has other signatures
SMALLEST_PIECE = 1 << 10


class _Stat(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            *("dev", "ino", "mode", "nlink", "uid", "gid", "rdev"),
            *("size", "blksize", "blocks", "atime", "mtime", "ctime"),
            *("atime_nsec", "mtime_nsec", "ctime_nsec", "used"),
        )
    ]


class _Statvfs(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            *("bsize", "frsize", "blocks", "bfree", "bavail"),
            *("files", "ffree", "favail", "fsid", "flag", "namemax"),
        )
    ]


class _Dirent(ctypes.Structure):
    _fields_ = [("next", ctypes.c_void_p), ("name", ctypes.c_char_p)]  # and more


@functools.cache
def _library() -> ctypes.CDLL:
    for name in LIBRARIES:
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(name)
            break
    else:
        raise CommandError(
            "nfs needs root and the kernel's nfs module, or the library libnfs"
            " (Debian: libnfs13, others: libnfs)"
        )
    library.nfs_init_context.restype = ctypes.c_void_p
    library.nfs_get_error.restype = ctypes.c_char_p
    library.nfs_parse_url_dir.restype = ctypes.c_void_p
    library.nfs_readdir.restype = ctypes.POINTER(_Dirent)
    return library


class _Client:
    """libnfs, its failures as errors. Everything it is given is an argument of C."""

    def __init__(self) -> None:
        self._library = _library()
        self._context = ctypes.c_void_p(self._library.nfs_init_context())

    def call(self, function: str, *arguments: Any) -> int:
        result: int = getattr(self._library, function)(self._context, *arguments)
        if result < 0:
            text = (self._library.nfs_get_error(self._context) or b"").decode(errors="replace")
            raise _failure(-result, text)
        return result

    def mount(self, url: Url, version: int) -> None:
        host = f"[{url.host}]" if ":" in url.host else url.host
        port = f"&nfsport={url.port}" if url.port else ""
        settings = f"nfs://{host}/?version={version}&autoreconnect=0{port}"
        self._library.nfs_destroy_url(
            ctypes.c_void_p(self._library.nfs_parse_url_dir(self._context, settings.encode()))
        )
        self._library.nfs_set_timeout(self._context, PATIENCE * 1000)
        try:
            self.call("nfs_mount", url.host.encode(), os.fsencode(url.path))
        except FileNotFoundError:
            raise CommandError("no such folder, or it is not exported") from None
        except CommandError:  # that it could not connect is told in many ways
            raise CommandError("no NFS server answers there") from None

    def open(self, path: bytes, flags: int) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        self.call("nfs_open2", path, flags, 0o600, ctypes.byref(handle))
        return handle

    def close(self, handle: ctypes.c_void_p) -> None:
        self.call("nfs_close", handle)

    def stat(self, path: bytes) -> _Stat:
        found = _Stat()
        self.call("nfs_lstat64", path, ctypes.byref(found))
        return found

    def names(self, path: bytes) -> list[bytes]:
        folder = ctypes.c_void_p()
        self.call("nfs_opendir", path, ctypes.byref(folder))
        found = []
        while entry := self._library.nfs_readdir(self._context, folder):
            found.append(entry.contents.name)
        self._library.nfs_closedir(self._context, folder)
        return [name for name in found if name not in (b".", b"..")]

    def leave(self) -> None:
        if self._context:
            self._library.nfs_destroy_context(self._context)
            self._context = ctypes.c_void_p()


def _failure(number: int, text: str) -> Exception:
    if "encode" in text:
        return _TooLong()
    if number in (errno.ENOSPC, errno.EDQUOT):
        return NoRoom(os.strerror(number))
    if number in (errno.EINTR, errno.EIO, errno.ETIMEDOUT, errno.ECONNRESET, errno.EFAULT):
        return CommandError(BROKEN)
    return OSError(number, os.strerror(number))


class _TooLong(Exception):
    """libnfs 4.0 cannot send as much at a time as it says."""


class NfsTarget(Target):
    def __init__(self, url: Url, login: Login) -> None:  # noqa: ARG002
        super().__init__(url)
        with explaining(url):
            self._client = _Client()
        try:
            self._mount()
        except BaseException:
            self.close()
            raise

    @explained
    def _mount(self) -> None:
        try:
            self._client.mount(self.url, 4)
        except (CommandError, OSError):
            if self.url.port:  # version 3 asks the portmapper where the server listens
                raise
            self._client.leave()
            self._client = _Client()
            self._client.mount(self.url, 3)

    def _inside(self, relative: str) -> bytes:
        """Below the export, as libnfs has it."""
        return os.fsencode(f"/{relative}")

    @explained
    def entries(self, folder: str = "") -> list[Entry]:
        found = []
        for name in sorted(self._client.names(self._inside(folder))):
            status = self._client.stat(self._inside(f"{folder}/") + name)
            kind = kind_of(status.mode)
            found.append(Entry(os.fsdecode(name), kind, status.size, status.mtime))
        return found

    @explained
    def size(self, file: str) -> int | None:
        try:
            size: int = self._client.stat(self._inside(file)).size
        except FileNotFoundError:
            return None
        return size

    @explained
    def free(self) -> int | None:
        found = _Statvfs()
        self._client.call("nfs_statvfs64", b"/", ctypes.byref(found))
        return int(found.bavail * found.frsize)

    @explained
    def make_folder(self, folder: str) -> None:
        self._client.call("nfs_mkdir2", self._inside(folder), 0o700)

    @explained
    def rename(self, old: str, new: str) -> None:
        self._client.call("nfs_rename", self._inside(old), self._inside(new))

    @explained
    def remove(self, file: str) -> None:
        self._client.call("nfs_unlink", self._inside(file))

    @explained
    def _remove_empty(self, folder: str) -> None:
        self._client.call("nfs_rmdir", self._inside(folder))

    @explained
    def _sink(self, file: str) -> _NfsSink:
        return _NfsSink(self.url, self._client, self._inside(file))

    def _read(self, file: str, offset: int, most: int | None) -> Generator[bytes, None, None]:
        with explaining(self.url):
            size = min(CHUNK, most or CHUNK)
            buffer = ctypes.create_string_buffer(size)
            handle = self._client.open(self._inside(file), os.O_RDONLY)
            try:
                while got := self._client.call(
                    "nfs_pread", handle, ctypes.c_uint64(offset), ctypes.c_uint64(size), buffer
                ):
                    yield buffer.raw[:got]
                    offset += got
            finally:
                with contextlib.suppress(CommandError, OSError):
                    self._client.close(handle)

    def close(self) -> None:
        self._client.leave()


class _NfsSink:
    def __init__(self, url: Url, client: _Client, path: bytes) -> None:
        self.url = url
        self._client, self._path = client, path
        self._handle = client.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self._piece = CHUNK

    @explained
    def write(self, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        while view:
            piece = bytes(view[: self._piece])
            try:
                done = self._client.call(
                    "nfs_pwrite", self._handle,
                    ctypes.c_uint64(offset), ctypes.c_uint64(len(piece)), piece,
                )  # fmt: skip
            except _TooLong:
                if len(piece) <= SMALLEST_PIECE:
                    raise CommandError("libnfs cannot write") from None
                self._piece = len(piece) // 2
                continue
            view, offset = view[done:], offset + done

    @explained
    def finish(self) -> None:
        self._client.call("nfs_fsync", self._handle)
        self._client.close(self._handle)

    def give_up(self, *, keep: bool = False) -> None:
        with contextlib.suppress(CommandError, OSError):
            self._client.close(self._handle)
        if not keep:
            with contextlib.suppress(CommandError, OSError):
                self._client.call("nfs_unlink", self._path)
