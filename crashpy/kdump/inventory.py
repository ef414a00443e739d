"""The dumps below a folder, in whichever distribution's layout, and `crashpy save list`."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import PurePosixPath

from crashpy.command import CommandError, to_json
from crashpy.kdump import report
from crashpy.kdump.layouts import NOTIFIED, FolderName, folder_name, kind
from crashpy.kdump.targets import Entry, Target
from crashpy.kdump.verbs import complain, megabytes, open_place, place_parser, printable, say
from crashpy.save import told
from crashpy.vmcore.files import FLATTENED, first_bytes
from crashpy.vmcore.kdump import INCOMPLETE, SIGNATURE
from crashpy.vmcore.recognise import ELF_INCOMPLETE, parse_vmcoreinfo, recognise

MOST_FOLDERS = 20000  # looked into below one place
DEEPEST = 4  # folders inside each other: HOST/var/crash/2026-11-24-02-39
HEAD = 1 << 16  # bytes at the start of a dump, in which its VMCOREINFO is
TAIL = 1 << 17  # bytes at the end of a log, in which the panic is
ELF_MAGIC = b"\x7fELF"
END_OF_FLATTENED = b"\xff" * 16


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
    files: tuple[str, ...] = ()  # the dump's own, or what there is of it; several when split
    log: str = ""  # the file with the kernel's log
    size_bytes: int = 0  # of all that is in the folder
    changed_s: float | None = None  # since 1970: when what is not complete was last written
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
        named = folder_name(self.name)
        return self.folder.rpartition("/")[0], named.host if named else ""

    @property
    def order(self) -> tuple[datetime, int, str]:
        """The oldest first."""
        return self.saved or datetime.min, self.counter, self.folder


# Finding


def dumps_below(
    place: Target,
    *,
    details: bool = True,
    depth: int = DEEPEST,
    warn: Callable[[str], None] = lambda _: None,
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
            if not entry.folder or entry.name.startswith(".") or path.count("/") >= depth:
                continue
            looked += 1
            if looked > MOST_FOLDERS:
                warn(f"more than {MOST_FOLDERS} folders: the rest was not looked into")
                pending.clear()
                break
            try:
                pending.append((path, place.entries(path)))
            except CommandError as error:
                if named := folder_name(entry.name):
                    found.append(_unreadable(place, path, named, str(error)))
                else:
                    warn(str(error))
    return sorted(found, key=lambda dump: dump.order)


def _unreadable(place: Target, folder: str, named: FolderName, why: str) -> SavedDump:
    return SavedDump(
        place=str(place.url),
        folder=folder,
        layout=named.layout,
        host=named.host,
        saved=named.time,
        counter=named.counter,
        state="unreadable",
        why=why,
    )


def _dump_in(
    place: Target, folder: str, entries: Sequence[Entry], details: bool
) -> SavedDump | None:
    """The dump of this folder; None where it holds none."""
    named = folder_name(folder.rpartition("/")[2] or PurePosixPath(place.url.path).name)
    files = {entry.name: entry for entry in entries if entry.kind == "file"}
    kinds = {name: kind(name) for name in files}
    dumps, drafts = (
        sorted((name for name, what in kinds.items() if what == wanted), key=_natural)
        for wanted in ("dump", "draft")
    )
    if not named and not dumps:
        return None
    if named and entries and not any(kinds.values()):
        return None  # somebody else's folder that is called like a time
    told = report.Report()
    if report.NAME in kinds:
        told = report.parse(_text(place, _join(folder, report.NAME)))
    state, why = _state(kinds, [files[name] for name in dumps], told)
    dump = SavedDump(
        place=str(place.url),
        folder=folder,
        layout=named.layout if named else "",
        host=(named.host if named else "") or told.host,
        saved=named.time if named else told.dumped and told.dumped.replace(tzinfo=None),
        state=state,
        why=why,
        files=tuple(dumps or drafts),
        log=next((name for name, what in sorted(kinds.items()) if what == "log"), ""),
        size_bytes=_size(place, folder, entries),
        counter=named.counter if named else 0,
        notified=NOTIFIED in files,
        release=told.release,
        crashed=told.crashed,
    )
    if details:
        dump = _looked_into(place, dump, files)
    if dump.state != "complete":
        times = [entry.changed_s for entry in entries if entry.changed_s is not None]
        dump = replace(dump, changed_s=max(times, default=None))
    return dump


def _size(place: Target, folder: str, entries: Sequence[Entry]) -> int:
    """Of all files, those in folders of it too, as a bundle has."""
    size = 0
    for entry in entries:
        if entry.kind == "file":
            size += entry.size_bytes or 0
        elif entry.folder:
            with contextlib.suppress(CommandError):
                path = _join(folder, entry.name)
                size += _size(place, path, place.entries(path))
    return size


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


def _looked_into(place: Target, dump: SavedDump, files: Mapping[str, Entry]) -> SavedDump:
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
        log, size = _join(dump.folder, dump.log), files[dump.log].size_bytes or 0
        text = _text(place, log, max(0, size - TAIL))
        dump = replace(dump, panic=panic_in(text.splitlines()))
        if not dump.release:
            said = re.search(r"Linux version (\S+)", _text(place, log) if size > TAIL else text)
            dump = replace(dump, release=said[1] if said else "")
    return dump


def _cut_off(place: Target, file: str, size: int | None, head: bytes) -> str:
    """Why a file with a final name is not all there; a flattened one ends with a mark."""
    if head.startswith(FLATTENED) and size is not None:
        end = _read(place, file, max(0, size - 16), 16)
        return "" if end == END_OF_FLATTENED else "its end is missing"
    if head.startswith((SIGNATURE, ELF_MAGIC)) and (path := place.local(file)):
        return _damage(str(path))
    status, flags = (int.from_bytes(head[at : at + 4], "little") for at in (424, 48))
    if head.startswith(SIGNATURE) and status & INCOMPLETE:
        return "its writer ran out of space"
    if head.startswith(ELF_MAGIC + b"\2\1") and flags & ELF_INCOMPLETE:
        return "its writer ran out of space"
    return ""


def _damage(path: str) -> str:
    """What the headers of a file of this machine tell, its size among them."""
    try:
        vmcore = recognise(path)
    except (CommandError, OSError) as error:
        return str(error).removeprefix(f"{path}: ")
    if vmcore is None:
        return ""
    vmcore.close()
    return "its writer ran out of space" if vmcore.incomplete else vmcore.damage


def vmcoreinfo_in(head: bytes) -> dict[str, str]:
    """VMCOREINFO from the start of a dump of any form; empty where it is not there."""
    start = first_bytes(io.BytesIO(head), HEAD)
    at = start.find(b"OSRELEASE=")
    return parse_vmcoreinfo(start[at:].partition(b"\0")[0]) if at >= 0 else {}


def panic_in(lines: Sequence[str]) -> str:
    """The line of a log that says why the kernel died, chosen as crash chooses it."""
    from crashpy.kernel.panic import MESSAGES

    for message in MESSAGES:
        for line in lines:
            if message in line:
                text = re.sub(r"^(<\d+>)?\[ *\d+\.\d+\] (\[ *[TC]\d+\] )?", "", line)
                return "".join(c if c.isprintable() else " " for c in text).strip()
    return ""


def _read(place: Target, file: str, offset: int, most: int) -> bytes:
    """A part of a file; less, or nothing, where it cannot be read."""
    data = bytearray()
    with contextlib.suppress(CommandError):
        for piece in place.read(file, offset, most):
            data += piece
    return bytes(data)


def read_text(place: Target, dump: SavedDump, file: str) -> str:
    """A text beside a dump, of a log its end; empty where it cannot be read."""
    path = _join(dump.folder, file)
    size = 0
    with contextlib.suppress(CommandError):
        size = place.size(path) or 0
    return _text(place, path, max(0, size - TAIL))


def _text(place: Target, file: str, offset: int = 0) -> str:
    return _read(place, file, offset, TAIL).decode(errors="replace")


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _natural(name: str) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


# What a person sees


def table(dumps: Sequence[SavedDump], before: str = "") -> Iterator[str]:
    """A line for each dump, and one more for what is wrong with it.

    What stands before each of them takes the place of the headings.
    """
    rows = [
        (
            printable(dump.folder) or ".",
            _when(dump),
            printable(dump.release) or "--",
            megabytes(dump.size_bytes),
            dump.state,
            dump.panic,
        )
        for dump in dumps
    ]
    rows.insert(0, ("DUMP", "CRASHED", "KERNEL", "SIZE", "STATE", "PANIC"))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for number, row in enumerate(rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        cells[3] = row[3].rjust(widths[3])
        if number or not before:
            yield before + "  ".join([*cells, row[5]]).rstrip()
        if number and (why := dumps[number - 1].why):
            yield f"    {printable(why)}"


def _when(dump: SavedDump) -> str:
    """The crash; where it is not known, when the folder says that it was saved."""
    if dump.crashed:
        return f"{dump.crashed.astimezone():%Y-%m-%d %H:%M:%S}"
    return f"{dump.saved:%Y-%m-%d %H:%M}" if dump.saved else "--"


# The verb


def list_main(words: Sequence[str]) -> int:
    """`crashpy save list`: exit status 0, or 1 with a sentence on standard error."""
    parser = place_parser("list", "the dumps below a folder or a URL, the oldest first")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    asked = parser.parse_args(words)
    with told("save list") as complaints:
        _list(asked)
    return 1 if complaints else 0


def _list(asked: argparse.Namespace) -> None:
    with open_place(asked) as place:
        dumps = dumps_below(place, warn=lambda sentence: complain("list", sentence))
    if asked.json:
        say(to_json(dump) for dump in dumps)
    else:
        say(table(dumps) if dumps else [f"{place.url}: no dump there"])
