"""What is about to be done.

Plan      changes of this machine: shown as diffs and commands, then done whole or undone
SavePlan  what becomes of a dump, as the configuration says: for `crashpy save`
"""

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
from typing import TYPE_CHECKING

from crashpy.kdump.system import Refused, System
from crashpy.kdump.urls import Url

if TYPE_CHECKING:
    from crashpy.kdump.config import Config

SECRET = r"KDUMP_SMTP_PASSWORD|FTP_PASSWORD|smtp-password"
_SECRET_LINE = re.compile(rf"^(\s*#?\s*(?:export\s+)?(?:{SECRET})\s*=)(.*)$", re.MULTILINE)
_SECRET_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s:@/\"']*):[^\s\"']*@")
HIDDEN = "(hidden)"
PRIVATE = "/etc/crashpy.conf"  # from the start, whatever is in it yet


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
        """Whether the new text holds a password, or belongs to a file that may."""
        return bool(_secrets(self.new)) or self.name == PRIVATE


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
    replace_file(copy, (edit.old or "").encode("utf-8", "surrogateescape"), like=path)
    return str(copy)


def _write(system: System, edit: Edit) -> None:
    path = system.path(edit.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = edit.new.encode("utf-8", "surrogateescape")
    replace_file(path, data, like=path, private=edit.private)


def replace_file(path: Path, data: bytes, *, like: Path, private: bool = False) -> None:
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
                replace_file(path, data, like=backup)
    for copy in backups:
        with contextlib.suppress(OSError):
            Path(copy).unlink()


# What becomes of a dump.


@dataclass(frozen=True)
class Mail:
    """Who is told about a dump, and through whom."""

    server: str  # HOST or HOST:PORT; "": this machine's own
    user: str
    password: str = field(repr=False)
    to: tuple[str, ...]
    cc: tuple[str, ...]


@dataclass(frozen=True)
class SavePlan:
    """Everything that saving a dump needs to know, whatever distribution's file said it."""

    target: Url
    device: str = ""  # kind of file system and device that the target's path is on, to be mounted
    levels: tuple[int, ...] = (31,)  # the next one is for when the disk is full with the first
    format: str = "zlib"  # values.FORMATS
    compression: str = ""  # of the whole file once more: bzip2, gzip, lz4, xz
    options: tuple[str, ...] = ()  # more of makedumpfile's
    threads: int = 1  # 0: as many as there are CPUs
    keep: int | None = None  # dumps that stay, the new one too; None: all
    free_bytes: int = 0  # that must stay free on a local disk
    dmesg: bool = True
    copy_kernel: bool = False
    host_tag: str = "hostname"  # or ip: what a remote dump's folder starts with
    ssh_keys: tuple[str, ...] = ()  # none: root's own
    host_key: str = ""  # the one key that is trusted, base64; "": known_hosts; "*": any
    net_timeout_seconds: int = 30
    mount_options: str = ""
    tries: int = 1
    before: str = ""  # commands of the shell
    before_aborts: bool = False  # nothing is saved when it fails
    after: str = ""
    transfer: str = ""  # a command that does all the work instead
    finally_: str = "reboot"  # values.ACTIONS
    failure: str = "reboot"
    verbose: int = 0  # KDUMP_VERBOSE: 1 syslog, 2 progress, 4 standard output, 8 debug
    mail: Mail | None = None


def save_plan(config: Config) -> SavePlan:
    """What the configuration wants done with a dump; Refused names what cannot be."""
    return config.dialect.save_plan(config)
