"""CIFS shares without mounting: for whoever may not mount."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import ntpath
import stat
from collections.abc import Callable, Generator
from typing import Any, Concatenate, ParamSpec, TypeVar

from crashpy.command import CommandError
from crashpy.kdump.targets import (
    BROKEN,
    CHUNK,
    PATIENCE,
    Entry,
    HasUrl,
    Login,
    NoRoom,
    Target,
    explaining,
)
from crashpy.kdump.urls import Url

P = ParamSpec("P")
R = TypeVar("R")
Place = TypeVar("Place", bound=HasUrl)

# What the server may answer, in words.
ANSWERS = {
    "LogonFailure": "wrong user or password",
    "BadNetworkName": "the server has no such share",
    "AccessDenied": "Permission denied",
    "DiskFull": "No space left on device",
    "SMBConnectionClosed": BROKEN,
}
STATUSES = {0xC0000022: "AccessDenied", 0xC000007F: "DiskFull", 0xC00000CC: "BadNetworkName"}


def explained(
    method: Callable[Concatenate[Place, P], R],
) -> Callable[Concatenate[Place, P], R]:
    """As targets.explained, for what smbprotocol raises."""

    @functools.wraps(method)
    def call(self: Place, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with explaining(self.url), _in_words():
            return method(self, *args, **kwargs)

    return call


@contextlib.contextmanager
def _in_words() -> Generator[None, None, None]:
    from smbprotocol.exceptions import SMBException, SMBOSError

    try:
        yield
    except SMBOSError as error:
        words = ANSWERS.get(STATUSES.get(error.ntstatus, ""), error.strerror)
        name = ntpath.basename(str(error.filename or "").rstrip("\\"))
        raise CommandError(f"{name}: {words}") from None
    except SMBException as error:
        kind = type(error).__name__
        words = ANSWERS.get(kind, "") or str(error).splitlines()[0]
        raise (NoRoom if kind == "DiskFull" else CommandError)(words) from None
    except ValueError as error:  # Connection.connect()'s own
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise CommandError(str(error)) from None


class SmbTarget(Target):
    def __init__(self, url: Url, login: Login) -> None:
        super().__init__(url)
        try:
            import smbclient
        except ImportError:
            raise CommandError(
                f"{url}: cifs without mounting needs the package smbprotocol:"
                " pip install 'crashpy[save]'"
            ) from None
        logging.getLogger("smbprotocol").addHandler(logging.NullHandler())
        self._smb = smbclient
        self._options: dict[str, Any] = {"connection_cache": {}, "port": url.port or 445}
        try:
            self._log_in(login)
        except BaseException:
            self.close()
            raise

    @explained
    def _log_in(self, login: Login) -> None:
        url = self.url
        user = url.user or login.user
        if user and login.domain:
            user = f"{login.domain}\\{user}"
        if not user:  # guests have no key to sign with, nor to check the negotiation by
            self._smb.ClientConfig(require_secure_negotiate=False)
        self._smb.register_session(
            url.host,
            username=user or "guest",
            password=(url.password if url.password is not None else login.password) or "",
            connection_timeout=PATIENCE,
            require_signing=bool(user),
            **self._options,
        )
        if not stat.S_ISDIR(self._smb.stat(self.path(""), **self._options).st_mode):
            raise CommandError("is no folder")

    def path(self, relative: str) -> str:
        parts = [self.url.share, *self.url.path.split("/"), *relative.split("/")]
        return "\\\\" + "\\".join([self.url.host, *filter(None, parts)])

    @explained
    def entries(self, folder: str = "") -> list[Entry]:
        found = []
        for entry in self._smb.scandir(self.path(folder), **self._options):
            told = entry.smb_info
            kind = "link" if entry.is_symlink() else "folder" if entry.is_dir() else "file"
            changed = told.last_write_time.timestamp()
            found.append(Entry(entry.name, kind, told.end_of_file, changed))
        return sorted(found, key=lambda entry: entry.name)

    @explained
    def size(self, file: str) -> int | None:
        status = self._status(file)
        return None if status is None else int(status.st_size)

    def _status(self, file: str) -> Any:
        """None where there is no such file."""
        try:
            return self._smb.stat(self.path(file), **self._options)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise

    @explained
    def free(self) -> int | None:
        volume = self._smb.stat_volume(self.path(""), **self._options)
        free: int = volume.caller_available_size
        return free

    @explained
    def make_folder(self, folder: str) -> None:
        self._smb.mkdir(self.path(folder), **self._options)

    @explained
    def rename(self, old: str, new: str) -> None:
        source, goal = self.path(old), self.path(new)
        if self._status(new):
            self._smb.remove(goal, **self._options)  # Samba does not rename over a file
        self._smb.rename(source, goal, **self._options)

    @explained
    def remove(self, file: str) -> None:
        self._smb.remove(self.path(file), **self._options)

    @explained
    def _remove_empty(self, folder: str) -> None:
        self._smb.rmdir(self.path(folder), **self._options)

    @explained
    def _sink(self, file: str) -> _SmbSink:
        return _SmbSink(self.url, self._smb, self.path(file), self._options)

    def _read(self, file: str, offset: int, most: int | None) -> Generator[bytes, None, None]:
        with explaining(self.url), _in_words():
            source = self._smb.open_file(
                self.path(file), "rb", buffering=0, share_access="rwd", **self._options
            )
            with source:
                source.seek(offset)
                while data := source.read(min(CHUNK, most or CHUNK)):
                    yield data

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._smb.reset_connection_cache(
                fail_on_error=False, connection_cache=self._options["connection_cache"]
            )


class _SmbSink:
    def __init__(self, url: Url, library: Any, path: str, options: dict[str, Any]) -> None:
        self.url = url
        self._smb, self._path, self._options = library, path, options
        self._file = library.open_file(path, "wb", buffering=0, **options)

    @explained
    def write(self, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        self._file.seek(offset)
        while view:
            view = view[self._file.write(view[:CHUNK]) :]

    @explained
    def finish(self) -> None:
        self._file.flush()
        self._file.close()

    def give_up(self, *, keep: bool = False) -> None:
        with contextlib.suppress(Exception):
            self._file.close()
        if not keep:
            with contextlib.suppress(Exception):
                self._smb.remove(self._path, **self._options)
