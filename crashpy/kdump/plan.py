"""What is about to be done.

Plan      changes of this machine: shown as diffs and commands, then done whole or undone
SavePlan  what becomes of a dump, as the configuration says: for `crashpy save`
"""

from __future__ import annotations

import contextlib
import difflib
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crashpy.kdump.system import Refused, System
from crashpy.kdump.urls import Url
from crashpy.kdump.writing import Change, interruptible, writing

if TYPE_CHECKING:
    from crashpy.kdump.config import Config

SECRET = r"KDUMP_SMTP_PASSWORD|FTP_PASSWORD|smtp-password"
_QUOTED = r"\"(?:\\.|[^\"\\])*\"|'[^']*'"  # it may go on over lines
_OTHERS = rf"(?:(?:export\s+)?\w+=(?:{_QUOTED}|[^\s;\"'])*[ \t;]+)*"  # in the same line
_SECRET_WORD = re.compile(
    rf"^(\s*{_OTHERS}(?:export\s+)?(?:{SECRET})=)((?:{_QUOTED}|\\.|[^\s;\"'\\])+)",
    re.MULTILINE | re.DOTALL,
)
_SECRET_LINE = re.compile(rf"^(\s*#?\s*(?:export\s+)?(?:{SECRET})\s*=)(.*)$", re.MULTILINE)
# As kdump's own parser has it: from the first `:` to the last `@`, whatever stands between.
# In quotes it may hold blanks.
_SECRET_URL = re.compile(
    r"((?:(?P<quote>[\"'])|\b)[A-Za-z][A-Za-z0-9+.-]*://[^\s:]*):"
    r"(?:\S*@|(?(quote)[^\"'\n]*@|(?!)))"
)
HIDDEN = "(hidden)"
PRIVATE = "/etc/crashpy.conf"  # from the start, whatever is in it yet


def hide(text: str) -> str:
    """The text without the passwords in it."""
    for pattern in (_SECRET_WORD, _SECRET_LINE):
        text = pattern.sub(lambda m: m[1] + (HIDDEN if m[2].strip("\"' ") else m[2]), text)
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
        return self.holds_password or self.name == PRIVATE

    @property
    def holds_password(self) -> bool:
        return bool(_secrets(self.new))


def _secrets(text: str) -> list[str]:
    found = [*_SECRET_WORD.finditer(text), *_SECRET_LINE.finditer(text)]
    named = [m[2].strip("\"' ") for m in found if not m[1].lstrip().startswith("#")]
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
    opposites: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)  # of commands

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

    def add(self, other: Plan) -> None:
        """Do what another plan does, too."""
        self.edits += other.edits
        self.commands += other.commands
        self.checks += other.checks
        self.notes += other.notes
        self.opposites |= other.opposites

    def carry_out(self, system: System) -> list[str]:
        """Do all of it, or none; where the files as they were have been kept."""
        with writing(system), interruptible():
            for edit in self.edits:
                if system.read(edit.name) != edit.old:
                    raise Refused(
                        f"{system.shown(edit.name)}: somebody else changed it meanwhile:"
                        " nothing was written, look and try again"
                    )
            change = Change(system)
            ran: list[tuple[str, ...]] = []
            try:
                change.begin({edit.name: bool(_secrets(edit.old or "")) for edit in self.edits})
                for edit in self.edits:
                    data = edit.new.encode("utf-8", "surrogateescape")
                    change.write(edit.name, data, private=edit.private)
                for edit in self.edits:
                    if system.read(edit.name) != edit.new:
                        raise Refused(f"{system.shown(edit.name)}: does not read as written")
                for argv in self.commands:
                    ran.append(argv)
                    system.run(argv)
                for check in self.checks:
                    check(system)
                return change.done()
            except BaseException as error:
                self._undo(change)
                for argv in reversed(ran):
                    if opposite := self.opposites.get(argv):
                        with contextlib.suppress(Refused):
                            system.run(opposite)
                if isinstance(error, OSError):
                    name = error.filename or "writing"
                    raise Refused(f"{name}: {error.strerror}: nothing was changed") from None
                if isinstance(error, Refused) and self.edits:
                    raise Refused(f"{error}; the files are as they were") from None
                raise

    @staticmethod
    def _undo(change: Change) -> None:
        try:
            change.undo()
        except OSError as error:
            raise Refused(
                f"{error.filename}: {error.strerror}: a file cannot be put back: compare the *.bak"
                " files; the next `crashpy setup` tries it again"
            ) from None


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
