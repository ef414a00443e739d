"""Files of the machine changed all together or not at all, whatever happens meanwhile.

What is about to be changed is copied first, and noted in a journal. When a step fails, or
the program is told to end, the copies go back to where they came from; when it is killed or
the machine stops, the next `crashpy setup` that writes finds the journal and does so then.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import os
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

from crashpy.kdump.system import Refused, System

JOURNAL = "/etc/.crashpy-setup"


@contextlib.contextmanager
def writing(system: System) -> Iterator[None]:
    """One writer at a time: a lock on the folder /etc, which leaves no file behind."""
    folder = system.path("/etc")
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Refused(f"{folder}: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Refused("another crashpy setup is writing: wait until it is done") from None
    finally:
        os.close(handle)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Being told to end is an error like others, so that what was begun is undone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: FrameType | None) -> None:
        raise Refused(f"told to end by {signal.Signals(number).name}")

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Change:
    """Files that are changed together."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._journal = system.path(JOURNAL)
        self._copies: dict[Path, Path | None] = {}  # None: the file is new

    def begin(self, private: Mapping[str, bool]) -> None:
        """Note which files are to be changed, and copy them; who may read each copy."""
        for name in private:
            path = self._system.path(name)
            self._copies[path] = _free_name(path) if path.exists() else None
        if not self._copies:
            return
        rows = {str(path): str(copy or "") for path, copy in self._copies.items()}
        replace_file(self._journal, json.dumps(rows).encode(), like=self._journal, private=True)
        for (path, copy), owner_s in zip(self._copies.items(), private.values(), strict=True):
            if copy:
                replace_file(copy, path.read_bytes(), like=path, private=owner_s)

    def write(self, name: str, data: bytes, *, private: bool) -> None:
        path = self._system.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data, like=path, private=private)

    def undo(self) -> None:
        if self._journal.exists():
            _restore(self._copies)
            _remove(self._journal)

    def done(self) -> list[str]:
        """The copies, which stay. A journal that stayed would undo it all the next time."""
        self._journal.unlink(missing_ok=True)
        return [str(copy) for copy in self._copies.values() if copy]


def recover(system: System) -> list[str]:
    """Undo a change that was cut off; the files that are as they were again."""
    journal = system.path(JOURNAL)
    if not journal.exists() and not [*_drafts(journal)]:
        return []
    with writing(system):
        for draft in _drafts(journal):
            _remove(draft)
        if not journal.exists():
            return []
        try:
            rows = json.loads(journal.read_bytes())
            copies = {Path(name): Path(copy) if copy else None for name, copy in rows.items()}
        except (ValueError, TypeError, AttributeError):
            raise Refused(f"{journal}: damaged: compare the *.bak files, and remove it") from None
        _restore(copies)
        _remove(journal)
    return [str(path) for path in copies]


def _restore(copies: Mapping[Path, Path | None]) -> None:
    """Renaming takes no room: it works on a full disk, too.

    What was never changed is left alone: perhaps it cannot be.
    """
    for path, copy in copies.items():
        with contextlib.suppress(FileNotFoundError):
            if copy and path.is_file() and path.read_bytes() == copy.read_bytes():
                copy.unlink()
            elif copy:
                copy.replace(path)
            else:
                path.unlink()
        for name in filter(None, (path, copy)):
            for draft in _drafts(name):
                _remove(draft)
        if path.parent.is_dir():
            _sync(path.parent)


def _drafts(path: Path) -> Iterator[Path]:
    """What a write of this file leaves behind when it is killed."""
    return path.parent.glob(f".{glob.escape(path.name)}.????????")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _free_name(path: Path) -> Path:
    name = f"{path.name}.{time.strftime('%Y%m%d-%H%M%S')}.bak"
    copy = path.with_name(name)
    for number in range(2, 100):
        if not copy.exists():
            break
        copy = path.with_name(name.replace(".bak", f"-{number}.bak"))
    return copy


def replace_file(path: Path, data: bytes, *, like: Path, private: bool = False) -> None:
    """Write a file whole or not at all, with the mode, owner and labels of another."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            mode = 0o644
            if like.exists():
                found = like.stat()
                mode = stat.S_IMODE(found.st_mode)
                if (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), found.st_uid, found.st_gid)
                _copy_labels(like, temporary)
            os.fchmod(file.fileno(), mode & 0o600 if private else mode)
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _copy_labels(source: Path, target: Path) -> None:
    """SELinux labels and other extended attributes, where the file system has them."""
    try:
        for name in os.listxattr(source):
            os.setxattr(target, name, os.getxattr(source, name))
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.EACCES):
            raise
