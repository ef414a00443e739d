"""What is about to be done: shown as diffs and commands, then done whole or undone."""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import os
import re
import shlex
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from crashpy.kdump.system import Refused, System

SECRET = r"KDUMP_SMTP_PASSWORD|FTP_PASSWORD"
_SECRET_LINE = re.compile(rf"^(\s*#?\s*(?:export\s+)?(?:{SECRET})=)(.*)$", re.MULTILINE)
_SECRET_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s:@/\"']*):[^\s\"']*@")
HIDDEN = "(hidden)"


def hide(text: str) -> str:
    """The text without the passwords in it."""
    text = _SECRET_LINE.sub(lambda m: m[1] + (HIDDEN if m[2].strip("\"' ") else m[2]), text)
    return _SECRET_URL.sub(rf"\1:{HIDDEN}@", text)


@dataclass(frozen=True)
class Edit:
    """A file of the machine: what it held, and what it shall hold."""

    name: str
    old: str | None  # None: there is no such file
    new: str

    def diff(self) -> Iterator[str]:
        old, new = hide(self.old or ""), hide(self.new)
        yield from difflib.unified_diff(
            old.splitlines(),
            new.splitlines(),
            self.name if self.old is not None else "/dev/null",
            self.name,
            lineterm="",
        )
        if _secrets(self.old or "") != _secrets(self.new):
            yield f"({self.name}: a password changes; it is not shown)"

    @property
    def private(self) -> bool:
        """Whether the new text holds a password."""
        return bool(_secrets(self.new))


def _secrets(text: str) -> list[str]:
    named = [m[2].strip("\"' ") for m in _SECRET_LINE.finditer(text) if "#" not in m[1]]
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return [
        *filter(None, named),
        *(m[0] for line in lines for m in _SECRET_URL.finditer(line)),
    ]


@dataclass
class Plan:
    """Files to change, then commands to run, then what must be true."""

    edits: list[Edit] = field(default_factory=list)
    commands: list[tuple[str, ...]] = field(default_factory=list)
    checks: list[Callable[[System], None]] = field(default_factory=list)  # raise Refused
    notes: list[str] = field(default_factory=list)  # what the person should know

    @property
    def empty(self) -> bool:
        return not self.edits and not self.commands

    def lines(self) -> Iterator[str]:
        """The plan as it is shown."""
        for edit in self.edits:
            yield from edit.diff()
        for argv in self.commands:
            yield f"run: {hide(shlex.join(argv))}"
        for note in self.notes:
            yield f"note: {note}"

    def carry_out(self, system: System) -> list[str]:
        """Do all of it, or none; where the files as they were have been kept."""
        with writing(system):
            for edit in self.edits:
                if system.read(edit.name) != edit.old:
                    raise Refused(
                        f"{system.shown(edit.name)}: somebody else changed it meanwhile:"
                        " nothing was written, look and try again"
                    )
            backups: list[str] = []
            written: list[Edit] = []
            try:
                for edit in self.edits:
                    if edit.old is not None:
                        backups.append(_backup(system, edit))
                    written.append(edit)
                    _write(system, edit)
                for edit in self.edits:
                    if system.read(edit.name) != edit.new:
                        raise Refused(f"{system.shown(edit.name)}: does not read as written")
                for argv in self.commands:
                    system.run(argv)
                for check in self.checks:
                    check(system)
            except BaseException as error:
                _undo(system, written, backups)
                if isinstance(error, OSError):
                    name = error.filename or "writing"
                    raise Refused(f"{name}: {error.strerror}: nothing was changed") from None
                if isinstance(error, Refused) and written:
                    raise Refused(f"{error}; the files are as they were") from None
                raise
            return backups


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


def _backup(system: System, edit: Edit) -> str:
    """Keep the file as it is, beside it; the name of the copy."""
    path = system.path(edit.name)
    name = f"{path.name}.{time.strftime('%Y%m%d-%H%M%S')}.bak"
    copy = path.with_name(name)
    for number in range(2, 100):
        if not copy.exists():
            break
        copy = path.with_name(name.replace(".bak", f"-{number}.bak"))
    _replace(copy, (edit.old or "").encode("utf-8", "surrogateescape"), like=path)
    return str(copy)


def _write(system: System, edit: Edit) -> None:
    path = system.path(edit.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = edit.new.encode("utf-8", "surrogateescape")
    _replace(path, data, like=path, private=edit.private)


def _replace(path: Path, data: bytes, *, like: Path, private: bool = False) -> None:
    """Write a file whole or not at all, with the mode, owner and labels of another."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
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
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _copy_labels(source: Path, target: Path) -> None:
    """SELinux labels and other extended attributes, where the file system has them."""
    try:
        for name in os.listxattr(source):
            os.setxattr(target, name, os.getxattr(source, name))
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.EACCES):
            raise


def _undo(system: System, written: list[Edit], backups: list[str]) -> None:
    for edit in written:
        path = system.path(edit.name)
        with contextlib.suppress(OSError):
            if edit.old is None:
                path.unlink(missing_ok=True)
            elif system.read(edit.name) != edit.old:
                data = edit.old.encode("utf-8", "surrogateescape")
                backup = next((Path(b) for b in backups if b.startswith(f"{path}.")), path)
                _replace(path, data, like=backup)
    for copy in backups:
        with contextlib.suppress(OSError):
            Path(copy).unlink()
