"""One dump saved: filtered, packed, sent, checked, and only then the old ones deleted.

A saved dump is a dated folder with README.txt, dmesg and vmcore, as SUSE's kdump makes
it. Nothing in it is called vmcore before it is complete and has been read back.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from crashpy.command import CommandError
from crashpy.kdump import engine, sums
from crashpy.kdump.ledger import Ledger
from crashpy.kdump.plan import SavePlan, hide
from crashpy.kdump.report import NAME, SAVED, SKIPPED, Report, about, now, readme
from crashpy.kdump.targets import INCOMPLETE, DumpSink, NoRoom, Target
from crashpy.vmcore.codecs import codec
from crashpy.vmcore.filter import Level
from crashpy.vmcore.kdump import DESCRIPTOR
from crashpy.vmcore.memory import Memory, Unmapped, memory_of
from crashpy.vmcore.recognise import Vmcore
from crashpy.vmcore.selection import Selection
from crashpy.vmcore.sinks import rewritable
from crashpy.vmcore.write import Progress

if TYPE_CHECKING:
    from crashpy.kdump.inventory import SavedDump

SAMPLED = 512  # pages packed beforehand to tell how large the dump will be
WATCH = 16 << 20  # bytes written between two looks at the free space
DUMP, LOG = "vmcore", "dmesg"


@dataclass
class Saving:
    """What is to be saved, and how."""

    core: Vmcore
    plan: SavePlan
    others: Sequence[Vmcore] = ()  # the other files of a split core
    verify: bool = True
    keep_incomplete: bool = False  # what was written of a dump that failed
    tool: engine.Tool | None = None  # makedumpfile, where it is to do the work
    progress: Progress | None = None
    say: Callable[[str], None] = lambda _: None
    _memory: Memory | None = field(default=None, init=False)
    _selected: dict[int, Selection] = field(default_factory=dict, init=False)
    _doubts: tuple[str, ...] = field(default=(), init=False)

    @property
    def threads(self) -> int:
        return self.plan.threads or len(os.sched_getaffinity(0))

    @property
    def memory(self) -> Memory:
        if self._memory is None:
            self._memory = memory_of([self.core, *self.others])
        return self._memory

    def dry_run(self, target: Target) -> Iterator[str]:
        """What save_to() would do, in sentences. Nothing is written."""
        level, needed = self._level_that_fits(target)
        how = self.tool or "crashpy"
        yield f"save {self.core.path} to {self.place(target, self._folder(target))}"
        free = target.free()
        room = "it does not tell how much is free" if free is None else f"{free >> 20} MiB are free"
        yield f"level {level}, format {self.plan.format}, written by {how}"
        yield f"about {needed >> 20} MiB; {room} there"
        for dump in self._superfluous(target, None):
            yield f"then delete {self.place(target, dump.folder)}"

    def save_to(self, target: Target) -> str:
        """The folder that the dump is in then. Raises CommandError."""
        level, _ = self._level_that_fits(target)
        folder = self._new_folder(target)
        told = self._about(target, level)
        try:
            told = replace(told, dmesg=self._save_log(target, folder))
            self._tell(target, folder, replace(told, provisional=True))
            lost = self._save_dump(target, folder, level) if self.plan.format != "log" else None
        except BaseException as error:
            self._tell_failure(target, folder, told, error)
            raise
        faults = [f"{lost} pages could not be read"] if lost else []
        if lost == 0 and self._inherited:  # lost struct pages tell nothing
            faults.append(self._inherited)
        told = replace(told, notes=(*told.notes, *faults))
        status = SKIPPED if lost is None else SAVED
        self._tell(target, folder, replace(told, vmcore=status, dumped=now()))
        if lost == 0 and not faults:  # what is not whole costs no old dump
            self._delete_old(target, folder)
        if faults:
            raise CommandError(
                f"{self.core.path}: {'; '.join(faults)}; the others are saved in"
                f" {self.place(target, folder)}"
            )
        return folder

    @staticmethod
    def place(target: Target, folder: str) -> str:
        return f"{str(target.url).rstrip('/')}/{folder}"

    @cached_property
    def _inherited(self) -> str:
        """What is wrong with the core itself: no reason not to save it."""
        from crashpy.convert import inherited

        return inherited(self.memory)

    # Before

    def _level_that_fits(self, target: Target) -> tuple[int, int]:
        """The first of the levels with room for its dump, and about how many bytes that has."""
        free = target.free()
        for level in self.plan.levels:
            needed = self._estimated(level)
            if free is None or free - needed >= self.plan.free_bytes:
                return level, needed
            if level != self.plan.levels[-1]:
                self.say(f"level {level} needs {needed >> 20} MiB: trying the next one")
        raise NoRoom(
            f"{target.url}: about {needed >> 20} MiB are needed and"
            f" {self.plan.free_bytes >> 20} MiB are to stay free, but {(free or 0) >> 20} MiB are"
            " free there"
        )

    def _estimated(self, level: int) -> int:
        if self.plan.format == "log":
            return 0
        if self.plan.format == "raw":
            return self.core.file.size
        return estimated(self._selection(level), self.plan.format)

    def _selection(self, level: int) -> Selection:
        if level not in self._selected:
            self._selected[level], doubt = engine.chosen(self.memory, level)
            if doubt:
                self.say(doubt)
                self._doubts = (doubt,)
        return self._selected[level]

    def _folder(self, target: Target) -> str:
        """YYYY-MM-DD-HH-MM; on servers with the machine's name or address before it."""
        name = datetime.now().strftime("%Y-%m-%d-%H-%M")
        if target.url.protocol != "file":
            name = f"{self._tag(target)}-{name}"
        try:
            there = set(target.names())
        except CommandError:  # a place may take dumps and show none
            there = set()
        numbered = (f"{name}.{number}" for number in range(2, 1000))
        return name if name not in there else next(n for n in numbered if n not in there)

    def _new_folder(self, target: Target) -> str:
        for _ in range(10):
            folder = self._folder(target)
            try:
                target.make_folder(folder)
            except CommandError:
                if folder not in target.names():
                    raise
                continue  # somebody else was faster
            return folder
        raise CommandError(f"{target.url}: others make the same folders there")

    def _tag(self, target: Target) -> str:
        """What the names of this machine's dumps start with on a server."""
        tag = self.host if self.plan.host_tag != "ip" else _own_address(target.url.host)
        return re.sub(r"[/:\\\s]", "_", tag) or "localhost"

    @property
    def host(self) -> str:
        """The name of the machine that crashed."""
        return node_name(self.memory) or socket.gethostname()

    # While

    def _save_log(self, target: Target, folder: str) -> str:
        """What became of the kernel's log."""
        from crashpy.convert import log_of

        if not self.plan.dmesg:
            return SKIPPED
        try:
            text = log_of(self.memory)
        except Exception as error:  # noqa: BLE001  a damaged log must not cost the dump
            return f"failed: {error}"
        target.store(f"{folder}/{LOG}", text.encode(errors="surrogateescape"))
        return SAVED

    def _save_dump(self, target: Target, folder: str, level: int) -> int:
        """Pages that could not be read from the core."""
        file, ledger = f"{folder}/{DUMP}", Ledger()
        draft = f"{file}{INCOMPLETE}"
        if self.plan.format == "raw":
            lost = self._copy(target, draft, ledger)
        else:
            lost = self._filter(target, draft, ledger, level)
        try:
            if self.verify:
                whole = not (lost or self._inherited)
                total = self._verify(target, draft, ledger, whole=whole)
                target.store(f"{folder}/{sums.NAME}", sums.text({DUMP: total}).encode())
            target.rename(draft, file)
        except BaseException:
            if not self.keep_incomplete:
                with contextlib.suppress(CommandError):
                    target.remove(draft)
            raise
        return lost

    def _filter(self, target: Target, file: str, ledger: Ledger, level: int) -> int:
        sink = target.sink(file, ledger)
        watched = _Watched(sink, target, self.plan.free_bytes)
        plan = self.plan
        try:
            if self.tool:
                done = engine.makedumpfile(
                    watched, self.tool, self.core.path, level, plan.format,
                    threads=self.threads, options=plan.options,
                )  # fmt: skip
            else:
                done = engine.native(
                    watched, self._selection(level), plan.format,
                    threads=self.threads, progress=self.progress,
                )  # fmt: skip
            sink.finish()
        except BaseException:
            sink.give_up(keep=self.keep_incomplete)
            raise
        return done.lost_pages

    def _copy(self, target: Target, file: str, ledger: Ledger) -> int:
        """The core as it is."""
        stream = target.stream(file, ledger)
        watch = _Watch(target, self.plan.free_bytes)
        try:
            with Path(self.core.path).open("rb") as core:
                while data := core.read(1 << 20):
                    watch.look(len(data))
                    stream.write(data)
            stream.finish()
        except BaseException:
            stream.give_up(keep=self.keep_incomplete)
            raise
        return 0

    def _verify(self, target: Target, file: str, ledger: Ledger, *, whole: bool) -> str:
        """Read all of it back; its SHA-256."""
        from crashpy.convert import check, recognised

        self.say("reading it back")
        try:
            total = ledger.compare(target.read(file))
        except CommandError as error:
            raise CommandError(f"{self.place(target, file)}: {error}") from None
        path = target.local(file)
        if path is None or not whole or self.plan.format == "raw":
            return total
        saved = recognised(str(path))
        try:
            findings = check([saved])
        finally:
            saved.close()
        if findings:
            raise CommandError(f"{path}: {findings[0]}")
        return total

    # README.txt

    def _about(self, target: Target, level: int) -> Report:
        flat = " (flattened)" if target.flattened and self.plan.format != "raw" else ""
        filtered = self.plan.format not in ("raw", "log")
        told = about(self.core.vmcoreinfo, Report(release=self.core.release))
        return replace(
            told,
            dumped=now(),
            host=self.host,
            level=self._selection(level).level if filtered else None,
            notes=self._doubts,
            format=self.plan.format + flat,
        )

    def _tell(self, target: Target, folder: str, told: Report) -> None:
        target.store(f"{folder}/{NAME}", readme(told).encode(errors="replace"))

    def _tell_failure(
        self, target: Target, folder: str, told: Report, error: BaseException
    ) -> None:
        """As well as it goes: the first error is the one to be told."""
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else hide(str(error))
        with contextlib.suppress(Exception):
            self._tell(target, folder, replace(told, vmcore=f"failed: {reason}", dumped=now()))
        with contextlib.suppress(Exception):
            if not target.names(folder):
                target.remove_folder(folder)

    # After

    def _delete_old(self, target: Target, newest: str) -> None:
        for dump in self._superfluous(target, newest):
            target.remove_folder(dump.folder)
            self.say(f"deleted the old dump {self.place(target, dump.folder)}")

    def _superfluous(self, target: Target, newest: str | None) -> list[SavedDump]:
        """Old dumps beyond those that stay; `newest` None: it is still to be written."""
        from crashpy.kdump.inventory import dumps_below
        from crashpy.kdump.retention import too_many

        if self.plan.keep is None:
            return []
        local = target.url.protocol == "file"
        tags = ("", self.host) if local else (self._tag(target),)
        mine = [
            replace(dump, host="")  # locally, not every layout tells it
            for dump in dumps_below(target, details=False, depth=1)
            if dump.host in tags and "/" not in dump.folder
        ]
        if newest is None:
            return too_many(mine, self.plan.keep - 1) if self.plan.keep > 1 else mine
        return too_many(mine, self.plan.keep, spare=[newest])


class _Watch:
    """Stops before the disk space that is to stay free is used up."""

    def __init__(self, target: Target, reserve: int) -> None:
        self._target, self._reserve = target, reserve
        self._since = 0

    def look(self, size: int) -> None:
        """So many bytes are about to be written."""
        self._since += size
        if not self._reserve or self._since < WATCH:
            return
        self._since = 0
        free = self._target.free()
        if free is not None and free - size < self._reserve:
            raise NoRoom(
                f"{self._target.url}: no more than the {self._reserve >> 20} MiB are free that are"
                " to stay free"
            )


class _Watched:
    def __init__(self, sink: DumpSink, target: Target, reserve: int) -> None:
        self._sink, self._watch = sink, _Watch(target, reserve)
        self.rewritable = rewritable(sink)
        self.finish, self.give_up = sink.finish, sink.give_up

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self._watch.look(len(data))
        self._sink.write(offset, data)


def estimated(selection: Selection, form: str) -> int:
    """About how many bytes the dump will have: some of its pages, evenly spread, are packed."""
    import numpy as np

    memory, pages = selection.memory, selection.pages
    if form in ("elf", "plain") or not pages:
        return pages * memory.page_size
    chosen, passed = [], 0
    step = max(pages // SAMPLED, 1)
    for pfns in selection.pfns():
        chosen.append(pfns[-passed % step :: step])
        passed += len(pfns)
    sample = np.concatenate(chosen)
    content = np.empty((len(sample), memory.page_size), np.uint8)
    memory.read_into(sample, content)
    zero = ~content.any(axis=1) if selection.level & Level.ZERO else np.zeros(len(sample), bool)
    packed = int(codec(form).pack(content, np.flatnonzero(~zero)).sizes.sum())
    return packed * pages // len(sample) + pages * DESCRIPTOR + 2 * len(selection.kept)


def node_name(memory: Memory) -> str:
    """What the kernel called its machine; empty where the dump does not tell."""
    if memory.vmcore.header is not None:
        return memory.vmcore.header.utsname[1]
    address, offset = memory.symbol("init_uts_ns"), memory.offset("uts_namespace.name")
    if address is None or offset is None:
        return ""
    try:
        names = memory.virtual(address + offset, 130)
    except (Unmapped, CommandError):
        return ""
    name = names[65:].split(b"\0")[0].decode("ascii", "replace")
    return name if name.isprintable() else ""


def _own_address(host: str) -> str:
    """The address that this machine has for that server."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # sends nothing
            address: str = probe.getsockname()[0]
            return address
    return ""
