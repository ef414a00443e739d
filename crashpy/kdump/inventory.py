"""The dumps below a folder, in whichever distribution's layout, and which of them are too many."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath

from crashpy.command import CommandError, to_json
from crashpy.kdump import report
from crashpy.kdump.config import Config
from crashpy.kdump.layouts import NOTIFIED, FolderName, folder_name, kind
from crashpy.kdump.logins import add_options, login_of
from crashpy.kdump.plan import SavePlan, hide, save_plan
from crashpy.kdump.system import System
from crashpy.kdump.targets import Entry, Target, open_target
from crashpy.kdump.urls import parse
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
SETTLED_SECONDS = 3600  # what was not touched for so long is not being written any more
UNSURE_SECONDS = 48 * 3600  # likewise, where only a folder's name tells, in an unknown zone


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
        size_bytes=sum(entry.size_bytes or 0 for entry in files.values()),
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
        size = files[dump.log].size_bytes or 0
        text = _text(place, _join(dump.folder, dump.log), max(0, size - TAIL))
        dump = replace(dump, panic=panic_in(text.splitlines()))
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
    now_s = now_s or time.time()
    if dump.changed_s is not None:
        return now_s - dump.changed_s > SETTLED_SECONDS
    return dump.saved is not None and now_s - dump.saved.timestamp() > UNSURE_SECONDS


# What a person sees


def table(dumps: Sequence[SavedDump]) -> Iterator[str]:
    """A line for each dump, and one more for what is wrong with it."""
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
        yield "  ".join([*cells, row[5]]).rstrip()
        if number and (why := dumps[number - 1].why):
            yield f"    {printable(why)}"


def _when(dump: SavedDump) -> str:
    """The crash; where it is not known, when the folder says that it was saved."""
    if dump.crashed:
        return f"{dump.crashed.astimezone():%Y-%m-%d %H:%M:%S}"
    return f"{dump.saved:%Y-%m-%d %H:%M}" if dump.saved else "--"


def megabytes(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def printable(text: str) -> str:
    """A name may hold anything; a line break in it is shown as \\n."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


# The verbs


def list_main(words: Sequence[str]) -> int:
    """`crashpy save list`: exit status 0, or 1 with a sentence on standard error."""
    parser = _parser("list", "the dumps below a folder or a URL, the oldest first")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    asked = parser.parse_args(words)
    with told("save list") as complaints:
        _list(asked)
    return 1 if complaints else 0


def _list(asked: argparse.Namespace) -> None:
    with open_place(asked) as place:
        dumps = dumps_below(place, warn=lambda sentence: complain("list", sentence))
    if asked.json:
        _say(to_json(dump) for dump in dumps)
    else:
        _say(table(dumps) if dumps else [f"{place.url}: no dump there"])


def prune_main(words: Sequence[str]) -> int:
    """`crashpy save prune`: deletes what is too many, and asks before it does."""
    parser = _parser("prune", "delete the oldest dumps of each machine")
    add = parser.add_argument
    add("--keep", type=_at_least_one, metavar="N", help="so many complete dumps stay")
    add("--free", type=_at_least_one, metavar="MIB", help="delete until so much is free")
    add("--dry-run", action="store_true", help="show what would be deleted")
    add("--yes", action="store_true", help="do not ask")
    asked = parser.parse_args(words)
    failed = 0
    with told("save prune") as complaints:
        failed = _prune(asked)
    return 1 if complaints or failed else 0


def _prune(asked: argparse.Namespace) -> int:
    keep, free = asked.keep, asked.free and asked.free << 20
    if not (keep or free) and not asked.place:
        plan = _own_plan()
        keep, free = plan.keep, plan.free_bytes
    if not (keep or free):
        raise CommandError("say how many stay, --keep N, or how much shall be free, --free MIB")
    with open_place(asked) as place:
        dumps = dumps_below(place, warn=lambda sentence: complain("prune", sentence))
        going = too_many(dumps, keep) if keep else []
        if free:
            going += _for_space(place, dumps, going, free)
        if not going:
            _say([f"{place.url}: {len(dumps)} dumps, none of them too many"])
            return 0
        _say(f"delete {line}" for line in [*table(going)][1:])
        total = megabytes(sum(dump.size_bytes for dump in going))
        if asked.dry_run:
            return 0
        if not asked.yes and not _agreed(f"Delete {len(going)} of {len(dumps)} dumps, {total}?"):
            raise CommandError("nothing was deleted")
        return delete(place, going, lambda sentence: complain("prune", sentence))


def _for_space(
    place: Target, dumps: Sequence[SavedDump], going: Sequence[SavedDump], wanted: int
) -> list[SavedDump]:
    """What else must go until so many bytes are free."""
    free = place.free()
    if free is None:
        raise CommandError(f"{place.url}: the place does not tell how much is free: use --keep")
    free += sum(dump.size_bytes for dump in going)
    more = []
    for dump in to_free(dumps):
        if free < wanted and dump not in going:
            more.append(dump)
            free += dump.size_bytes
    if free < wanted:
        missing = megabytes(wanted - free)
        raise CommandError(
            f"{place.url}: {missing} are missing even without all dumps that may be deleted:"
            " nothing was deleted"
        )
    return more


def delete(place: Target, dumps: Iterable[SavedDump], complain: Callable[[str], None]) -> int:
    """Delete folders; 1 when one of them could not be, after the others."""
    failed = 0
    for dump in dumps:
        try:
            _refuse_mounts(place, dump.folder)
            place.remove_folder(dump.folder)
        except CommandError as error:
            complain(str(error))
            failed = 1
    return failed


def _refuse_mounts(place: Target, folder: str) -> None:
    """Another file system that is mounted inside is none of our business."""
    for entry in place.entries(folder):
        path = _join(folder, entry.name)
        if entry.kind == "mount":
            raise CommandError(f"{place.url}: {path}: another disk is mounted there: not deleted")
        if entry.folder:
            _refuse_mounts(place, path)


# What the verbs share


def open_place(asked: argparse.Namespace) -> Target:
    """A folder or a URL; without one, where this machine saves its dumps."""
    text: str | None = asked.place
    if text is None:
        url = _own_plan().target
    else:
        url = parse(text if "://" in text else str(Path(text).absolute()))
    return open_target(url, login_of(asked))


def add_place(parser: argparse.ArgumentParser) -> None:
    """What open_place() asks for."""
    parser.add_argument(
        "place", nargs="?", metavar="DIR|URL", help="default: where this machine saves its dumps"
    )
    add_options(parser)


def _own_plan() -> SavePlan:
    """What this machine's configuration says of its dumps."""
    try:
        return save_plan(Config.read(System()))
    except CommandError as error:
        raise CommandError(f"name a folder or a URL, as {error}") from None


def _parser(verb: str, about: str) -> argparse.ArgumentParser:
    usage = f"crashpy save {verb} [OPTION]... [DIR|URL]"
    parser = argparse.ArgumentParser(f"crashpy save {verb}", usage=usage, description=about)
    add_place(parser)
    return parser


def _at_least_one(word: str) -> int:
    if int(word) < 1:
        raise ValueError(word)
    return int(word)


def complain(verb: str, sentence: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"crashpy save {verb}: {printable(hide(sentence))}\n")


def _say(lines: Iterable[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise CommandError("there is nobody to ask: give --yes, or --dry-run")
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
