"""The dumps below a folder, in whichever distribution's layout, and which of them are too many."""

from __future__ import annotations

import contextlib
import io
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from crashpy.command import CommandError
from crashpy.kdump import report
from crashpy.kdump.layouts import NOTIFIED, FolderName, folder_name, kind
from crashpy.vmcore.files import FLATTENED, first_bytes
from crashpy.vmcore.kdump import INCOMPLETE, SIGNATURE
from crashpy.vmcore.recognise import ELF_INCOMPLETE, parse_vmcoreinfo

MOST_FOLDERS = 20000  # looked into below one place
DEEPEST = 4  # HOST/var/crash/2026-11-24-02-39
HEAD = 1 << 16  # bytes at the start of a dump, in which its VMCOREINFO is
TAIL = 1 << 17  # bytes at the end of a log, in which the panic is
END_OF_FLATTENED = b"\xff" * 16
SETTLED_SECONDS = 3600  # what was not touched for so long is not being written any more


@dataclass(frozen=True)
class Entry:
    """What is in a folder."""

    name: str
    kind: str  # file, folder, link, mount, other
    size_bytes: int | None = None
    changed_s: float | None = None  # since 1970, by the clock of the place


class Place(Protocol):
    """Somewhere that holds files: paths are relative to it, "" is itself.

    Everything raises CommandError (or OSError) with a sentence.
    """

    title: str  # for people: without a password
    name: str  # the last part of its path

    def entries(self, folder: str = "") -> Sequence[Entry]: ...
    def read(self, file: str, offset: int = 0, most: int | None = None) -> Iterator[bytes]: ...
    def free(self) -> int | None: ...
    def remove_folder(self, folder: str) -> None: ...


@dataclass(frozen=True)
class SavedDump:
    """One dump, and what was saved beside it."""

    place: str  # a folder, or a URL without its password
    folder: str  # below the place; empty: the place itself
    layout: str  # suse, suse11, rhel, debian; empty: the folder's name tells nothing
    host: str
    saved: datetime | None  # as the folder is named: the saving machine's clock and zone
    state: str  # complete, incomplete, log, unreadable
    why: str = ""  # why it is not complete
    files: tuple[str, ...] = ()  # the dump's own, several when it was split
    log: str = ""  # the file with the kernel's log
    size_bytes: int = 0  # of all that is in the folder
    changed_s: float | None = None  # since 1970: when something was last written
    counter: int = 0  # of those saved in one minute
    notified: bool = False  # a mail was sent
    release: str = ""
    crashed: datetime | None = None
    panic: str = ""

    @property
    def name(self) -> str:
        return self.folder.rpartition("/")[2]

    @property
    def group(self) -> tuple[str, str]:
        """Dumps of one machine in one folder: retention counts each group for itself."""
        return self.folder.rpartition("/")[0], self.host

    @property
    def order(self) -> tuple[datetime, int, str]:
        """The oldest first."""
        return self.saved or datetime.min, self.counter, self.folder


# Finding


def dumps_below(
    place: Place, *, details: bool = True, warn: Callable[[str], None] = lambda _: None
) -> list[SavedDump]:
    """Every dump below a place, the oldest first.

    `details` are what must be read from the dump and its log: release, crash, panic.
    Symbolic links are not followed; what cannot be read is told, and passed over.
    """
    found = []
    pending = [("", place.entries(""))]
    looked = 0
    while pending:
        folder, entries = pending.pop()
        if dump := _dump_in(place, folder, entries, details):
            found.append(dump)
            continue
        for entry in entries:
            path = _join(folder, entry.name)
            if entry.kind != "folder" or entry.name.startswith(".") or path.count("/") >= DEEPEST:
                continue
            looked += 1
            if looked > MOST_FOLDERS:
                warn(f"more than {MOST_FOLDERS} folders: the rest was not looked into")
                pending.clear()
                break
            try:
                pending.append((path, place.entries(path)))
            except (CommandError, OSError) as error:
                if named := folder_name(entry.name):
                    found.append(_unreadable(place, path, named, _reason(error, path)))
                else:
                    warn(_reason(error, path))
    return sorted(found, key=lambda dump: dump.order)


def _reason(error: Exception, path: str) -> str:
    if isinstance(error, OSError):
        return f"{path}: {error.strerror or error}"
    return str(error)


def _unreadable(place: Place, folder: str, named: FolderName, why: str) -> SavedDump:
    return SavedDump(
        place=place.title,
        folder=folder,
        layout=named.layout,
        host=named.host,
        saved=named.time,
        counter=named.counter,
        state="unreadable",
        why=why,
    )


def _dump_in(
    place: Place, folder: str, entries: Sequence[Entry], details: bool
) -> SavedDump | None:
    """The dump of this folder; None where it holds none."""
    named = folder_name(folder.rpartition("/")[2] or place.name)
    files = {entry.name: entry for entry in entries if entry.kind == "file"}
    kinds = {name: kind(name) for name in files}
    dumps = sorted((name for name, what in kinds.items() if what == "dump"), key=_natural)
    if not named and not dumps:
        return None
    if named and entries and not any(kinds.values()):
        return None  # somebody else's folder that is called like a time
    told = report.Report()
    if report.NAME in kinds:
        told = report.parse(_text(place, _join(folder, report.NAME)))
    state, why = _state(kinds, [files[name] for name in dumps], told)
    changes = [entry.changed_s for entry in entries if entry.changed_s is not None]
    dump = SavedDump(
        place=place.title,
        folder=folder,
        layout=named.layout if named else "",
        host=(named.host if named else "") or told.host,
        saved=named.time if named else told.dumped and told.dumped.replace(tzinfo=None),
        state=state,
        why=why,
        files=tuple(dumps),
        log=next((name for name, what in sorted(kinds.items()) if what == "log"), ""),
        size_bytes=sum(entry.size_bytes or 0 for entry in files.values()),
        changed_s=max(changes, default=None),
        counter=named.counter if named else 0,
        notified=NOTIFIED in files,
        release=told.release,
        crashed=told.crashed,
    )
    return _looked_into(place, dump, files) if details else dump


def _state(
    kinds: Mapping[str, str], dumps: Sequence[Entry], told: report.Report
) -> tuple[str, str]:
    """What the names of the files and README.txt tell."""
    if told.provisional:
        return "incomplete", "saving was cut off before it was done"
    if dumps and all(entry.size_bytes == 0 for entry in dumps):
        return "incomplete", "the dump is empty"
    if dumps and told.finished is False:
        return "incomplete", f"vmcore status: {told.vmcore}"
    if dumps:
        return "complete", ""
    if "draft" in kinds.values():
        return "incomplete", "saving was cut off while the dump was written"
    if told.vmcore.startswith((report.SKIPPED, "deleted")):
        return "log", f"vmcore status: {told.vmcore}"
    if "log" in kinds.values():
        return "incomplete", "the log was saved, the dump was not"
    return "incomplete", "nothing was saved"


def _looked_into(place: Place, dump: SavedDump, files: Mapping[str, Entry]) -> SavedDump:
    """With what its files tell, as far as they can be read."""
    for name in dump.files:
        file, size = _join(dump.folder, name), files[name].size_bytes
        head = _read(place, file, 0, HEAD)
        info = vmcoreinfo_in(head)
        dump = replace(
            dump,
            release=info.get("OSRELEASE", "") or dump.release,
            crashed=report.crash_time(info) or dump.crashed,
        )
        if dump.state == "complete" and (why := _cut_off(place, file, size, head)):
            dump = replace(dump, state="incomplete", why=why)
    if dump.log:
        size = files[dump.log].size_bytes or 0
        text = _text(place, _join(dump.folder, dump.log), max(0, size - TAIL))
        dump = replace(dump, panic=panic_in(text.splitlines()))
    return dump


def _cut_off(place: Place, file: str, size: int | None, head: bytes) -> str:
    """Why a file with a final name is not all there; a flattened one ends with a mark."""
    if head.startswith(FLATTENED) and size is not None:
        end = _read(place, file, max(0, size - 16), 16)
        return "" if end == END_OF_FLATTENED else "its end is missing"
    status, flags = (int.from_bytes(head[at : at + 4], "little") for at in (424, 48))
    if head.startswith(SIGNATURE) and status & INCOMPLETE:
        return "its writer ran out of space"
    if head.startswith(b"\x7fELF\2\1") and flags & ELF_INCOMPLETE:
        return "its writer ran out of space"
    return ""


def vmcoreinfo_in(head: bytes) -> dict[str, str]:
    """VMCOREINFO from the start of a dump of any form; empty where it is not there."""
    start = first_bytes(io.BytesIO(head), HEAD)
    at = start.find(b"OSRELEASE=")
    return parse_vmcoreinfo(start[at:].split(b"\0")[0]) if at >= 0 else {}


def panic_in(lines: Sequence[str]) -> str:
    """The line of a log that says why the kernel died, chosen as crash chooses it."""
    from crashpy.kernel.panic import MESSAGES

    for message in MESSAGES:
        for line in lines:
            if message in line:
                text = re.sub(r"^(<\d+>)?\[ *\d+\.\d+\] (\[ *[TC]\d+\] )?", "", line)
                return "".join(c if c.isprintable() else " " for c in text).strip()
    return ""


def _read(place: Place, file: str, offset: int, most: int) -> bytes:
    """A part of a file; less, or nothing, where it cannot be read."""
    data = bytearray()
    with contextlib.suppress(CommandError, OSError):
        for piece in place.read(file, offset, most):
            data += piece
    return bytes(data[:most])


def _text(place: Place, file: str, offset: int = 0) -> str:
    return _read(place, file, offset, TAIL).decode(errors="replace")


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _natural(name: str) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


# Keeping


def too_many(
    dumps: Iterable[SavedDump],
    keep: int,
    *,
    spare: Collection[str] = (),
    now_s: float | None = None,
) -> list[SavedDump]:
    """What is to go, the oldest first, when so many dumps of each machine stay.

    A complete dump goes when `keep` newer complete ones are there, so a failed saving
    never costs one; what is not complete goes when `keep` newer dumps of any kind are
    there. `spare` are folders that stay whatever their names tell, as the one just saved.
    """
    if keep < 1:
        raise ValueError("at least one dump stays")
    gone = []
    for group in _groups(dumps):
        complete = 0
        for newer, dump in enumerate(reversed(group)):
            whole = dump.state == "complete"
            surplus = (complete if whole else newer) >= keep
            complete += whole
            if surplus and dump.folder not in spare and _may_go(dump, now_s):
                gone.append(dump)
    return sorted(gone, key=lambda dump: dump.order)


def to_free(
    dumps: Iterable[SavedDump], *, spare: Collection[str] = (), now_s: float | None = None
) -> list[SavedDump]:
    """What may go for want of space, in this order: what is not complete, then the oldest.

    The newest complete dump of each machine stays.
    """
    may: list[SavedDump] = []
    for group in _groups(dumps):
        newest = next((d for d in reversed(group) if d.state == "complete"), None)
        may += [
            dump
            for dump in group
            if dump is not newest and dump.folder not in spare and _may_go(dump, now_s)
        ]
    return sorted(may, key=lambda dump: (dump.state == "complete", dump.order))


def _groups(dumps: Iterable[SavedDump]) -> Iterator[list[SavedDump]]:
    """Dumps of one machine in one folder, the oldest first."""
    groups: dict[tuple[str, str], list[SavedDump]] = {}
    for dump in sorted(dumps, key=lambda dump: dump.order):
        groups.setdefault(dump.group, []).append(dump)
    yield from groups.values()


def _may_go(dump: SavedDump, now_s: float | None) -> bool:
    """Not what no kdump script has named, nor what cannot be seen, nor what is being written."""
    if not dump.layout or not dump.folder or dump.state == "unreadable":
        return False
    if dump.state == "complete":
        return True
    changed = dump.changed_s
    if changed is None and dump.saved:
        changed = dump.saved.timestamp()
    return changed is not None and (now_s or time.time()) - changed > SETTLED_SECONDS
