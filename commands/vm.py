"""vm: the address spaces of tasks, their areas, and where each page of them is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from drgn import FaultError

from crashpy.command import Address, CommandError, UsageError, command, flag, operands, value
from crashpy.faults import skipping
from crashpy.kernel.mm import (
    Area,
    GenericPageTable,
    Mm,
    PageTable,
    Run,
    Swap,
    cached_resident_pages,
    checked_mm,
    has_symbol,
    page_table,
    physical_digits,
)
from crashpy.kernel.vfs import Vfs, remember, shared
from crashpy.numbers import htol, is_number
from crashpy.tasks import Task, named
from crashpy.text import centered, task_header

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.gdb.target import Target
    from crashpy.settings import Settings


@dataclass(frozen=True)
class TaskMemory:
    pid: int
    task: Address  # struct task_struct *
    cpu: int
    comm: str
    mm: Address  # struct mm_struct *, 0 of a kernel thread
    pgd: Address  # pgd_t *
    rss_kib: int | None
    total_vm_kib: int
    # How crash shows it. The task's header is `foreach`'s own business where it asks.
    header: bool = field(default=False, repr=False)
    after_another: bool = field(default=False, repr=False)
    totals: bool = field(default=True, repr=False)  # the MM and PGD lines
    digits: int = field(default=8, repr=False)  # of a physical address on this machine
    last: bool = field(default=False, repr=False)  # of what -R found in this task


@dataclass(frozen=True)
class MemoryArea:
    vma: Address  # struct vm_area_struct *
    start: Address
    end: Address
    flags: Address  # VM_*
    file: str  # the path; empty of an anonymous area
    # Whether crash repeats the titles before it.
    headed: bool = field(default=False, repr=False)
    last: bool = field(default=False, repr=False)


@dataclass(frozen=True, slots=True)
class Pages:
    """Pages one after the other: all in memory, all in swap, all in a file, all nowhere."""

    start: Address
    pages: int
    physical: Sequence[int] | None  # address of each page
    swap: str | None = None  # file or device
    swap_pages: Sequence[int] | None = None  # where in it each page is
    file: str | None = None  # of pages that are not mapped, but have a place in a file
    file_offset: Address | None = None  # of the first page
    readable: bool = True  # False where the dump lacks their page table
    page_bytes: int = 4096
    last: bool = False

    def __json__(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"start": self.start, "pages": self.pages}
        shown["physical"] = None if self.physical is None else [*map(Address, self.physical)]
        for name in ("swap", "swap_pages", "file", "file_offset", "readable"):
            shown[name] = getattr(self, name)
        return shown


@dataclass(frozen=True)
class NoArea:
    """`-P` names no area of this task."""

    vma: Address
    found: bool = False


@dataclass(frozen=True)
class Structure:
    """A structure of the kernel, shown as gdb shows it."""

    type: str
    address: Address
    data: bytes = field(repr=False)
    target: Target = field(repr=False)

    def __json__(self) -> dict[str, Any]:
        from crashpy.gdb.values import plain_value

        kind = self.target.prog.type(f"struct {self.type}")
        members = plain_value(self.target, kind, self.data, 0, self.address)
        return {"type": self.type, "address": self.address, "value": members}


Record = TaskMemory | MemoryArea | Pages | NoArea | Structure


@command(
    flag("-p", "pages", "where each page of each area is"),
    value("-P", "area", "vma", htol, "where each page of this area is"),
    value("-M", "mm", "mm", str, "the mm_struct of a task that is exiting and has left it"),
    value("-R", "reference", "reference", str, "only areas and pages that this names", repeat=True),
    flag("-m", "mm_struct", "the mm_struct, as gdb shows it"),
    flag("-v", "vm_area_structs", "each vm_area_struct, as gdb shows it"),
    flag("-x", "radix", "with -m and -v: numbers in hexadecimal", value=16),
    flag("-d", "radix", "with -m and -v: numbers in decimal", value=10),
    operands("tasks", "pid | task", str, "the memory of these tasks"),
    usage=(
        "[-p | -P vma | -M mm | -v | -m | -x | -d | [-R reference] [pid | task]]\n"
        "     [-f vm_flags]"
    ),
)
def vm(
    dump: Dump,
    *,
    tasks: Sequence[str | Task] = (),
    pages: bool = False,
    area: int | None = None,
    mm: str | None = None,
    reference: Sequence[str] = (),
    mm_struct: bool = False,
    vm_area_structs: bool = False,
) -> Iterator[Record]:
    """virtual memory

    The mm_struct, page directory, resident and total size of a task's address space,
    and its areas: vm_area_struct, start, end, flags, file. Without PID or task
    address: of the current context.

    With -p each page has a line: its physical address; or where it is in a swap file or
    device; or, of a file that is not in memory, its offset there; or `(not mapped)`.
    -R looks for a number (address of an mm_struct, area or page, physical address,
    FLAGS, offset in swap or in a file) or a part of a path, and shows nothing of tasks
    without it: it is meant for `foreach vm -R libc`. FLAGS are named as crash names
    them; newer kernels use some of the bits for something else.

    EXAMPLES
      vm 1                     the address space of init
      vm -p 126                where each page of process 126 is
      foreach vm -R swapfile   what is swapped out, of all tasks
      vm -f 8100073            READ|WRITE|MAYREAD|...
    """
    if isinstance(reference, str):
        reference = (reference,)
    if len(reference) > 1:
        dump.report("only one -R option allowed")
        raise UsageError
    forced = _forced_mm(dump, mm) if mm is not None else None
    want = _Want(
        pages, area, forced, reference[0] if reference else None, mm_struct, vm_area_structs
    )
    reader = _Reader.of(dump)
    if not tasks:
        yield from reader.read(dump.context, want, header=True)
    shown = 0
    for chosen in tasks:
        if isinstance(chosen, Task):
            yield from reader.read(chosen, want)
            continue
        matching = named(dump, chosen)
        if not matching:
            gap = "\n" if shown else ""
            dump.report(f"{gap}invalid task or pid value: {chosen}")
            shown += 1
        for task in matching:
            yield from reader.read(task, want, header=True, after_another=shown > 0)
            shown += want.reference is None


def _forced_mm(dump: Dump, word: str) -> int:
    from crashpy.kernel.pages import kernel_address

    address = htol(word)
    if not kernel_address(dump.prog, address):
        raise CommandError(f"invalid mm_struct address: {word}")
    return address


@vm.check
def _one_of_a_kind(given: Sequence[str]) -> None:
    """Its cmd_vm(): one of -p, -P, -m, -v, -R, but -R may follow -p; -f comes before any."""
    if "-x" in given and "-d" in given:
        raise CommandError("-d and -x are mutually exclusive")
    kinds = [name for name in given if name in ("-p", "-P", "-m", "-v", "-R", "-f")]
    if "-f" in kinds:
        if kinds[0] != "-f":
            raise UsageError
    elif kinds[:2] == ["-p", "-R"]:
        if len(kinds) > 2 and set(kinds[2:]) != {"-R"}:
            raise UsageError
    elif len(kinds) > 1 and set(kinds) != {"-R"}:
        raise UsageError


@dataclass(frozen=True)
class _Want:
    pages: bool
    area: int | None
    forced_mm: int | None
    reference: str | None
    mm_struct: bool
    vm_area_structs: bool


class _Reader:
    """Remembers what the threads of a process share."""

    def __init__(self, dump: Dump) -> None:
        self.dump = dump
        self._prog = dump.prog
        self._mm = Mm.of(dump.prog)
        self._vfs = Vfs.of(dump.prog)
        self._page_kib = self._mm.page_size // 1024
        self._digits = physical_digits(dump.prog)
        self._zombie = dump.tasks.states.zombie
        self._listings: dict[int, tuple[MemoryArea, ...]] = {}

    @classmethod
    def of(cls, dump: Dump) -> _Reader:
        return shared(dump.prog, cls, lambda: cls(dump))

    def read(
        self, task: Task, want: _Want, *, header: bool = False, after_another: bool = False
    ) -> Iterator[Record]:
        with skipping(f"the memory of task {task.address:x}"):
            memory = self._totals(task, want, header, after_another)
            if want.reference is not None:
                yield from _Search(self, memory, want.reference)
                return
            yield memory
            mm: int = memory.mm
            if not mm and want.forced_mm is not None:
                mm = checked_mm(self._prog, want.forced_mm)
            if not mm:
                return
            if want.mm_struct:
                yield self._structure("mm_struct", mm)
            elif want.vm_area_structs:
                for area in self._mm.areas(mm):
                    yield self._structure("vm_area_struct", area.address)
            elif want.pages or want.area is not None:
                yield from self._translated(mm, want.area)
            else:
                yield from self._listed(mm)

    def _listed(self, mm: int) -> tuple[MemoryArea, ...]:
        found = self._listings.get(mm)
        if found is None:
            areas = self._mm.areas(mm)
            found = tuple([self.area(area, headed=n == 0) for n, area in enumerate(areas)])
            remember(self._listings, mm, found, 64)
        return found

    def _translated(self, mm: int, only: int | None) -> Iterator[Record]:
        table = self.table_of(mm)
        areas = [a for a in self._mm.areas(mm) if only is None or a.address == only]
        for area in areas:
            yield self.area(area, headed=True)
            yield from self.pages(area, mm, table)
        if only is not None and not areas:
            yield NoArea(Address(only))

    def _totals(self, task: Task, want: _Want, header: bool, after_another: bool) -> TaskMemory:
        """Its get_task_mem_usage()."""
        pgd = total = 0
        rss: int | None = 0
        mm = 0 if task.state & self._zombie else task.mm
        if mm:
            space = self._mm.space(mm)
            if not task.exiting or space.users > 0:
                pgd, total = space.pgd, space.total_pages
                rss = space.resident_pages
                if rss is not None:
                    rss += cached_resident_pages(self.dump, task)
        return TaskMemory(
            task.pid,
            Address(task.address),
            task.cpu,
            task.comm,
            Address(mm),
            Address(pgd),
            None if rss is None else rss * self._page_kib,
            total * self._page_kib,
            header,
            after_another,
            totals=not want.mm_struct and not want.vm_area_structs and want.area is None,
            digits=self._digits,
        )

    def area(self, area: Area, *, headed: bool) -> MemoryArea:
        return MemoryArea(
            Address(area.address),
            Address(area.start),
            Address(area.end),
            Address(area.flags),
            self.file_of(area),
            headed,
        )

    def file_of(self, area: Area) -> str:
        if not area.file:
            return ""
        try:
            path = self._vfs.file(area.file)
            return self._vfs.path(path) if path.dentry else ""
        except FaultError:
            return ""

    def areas_of(self, mm: int) -> list[Area]:
        return self._mm.areas(mm)

    def table_of(self, mm: int) -> PageTable | GenericPageTable:
        return page_table(self._prog, mm, self._mm.space(mm).pgd)

    def pages(self, area: Area, mm: int, table: PageTable | GenericPageTable) -> Iterator[Pages]:
        file = self.file_of(area)
        if area.address in self._mm.disordered(mm):
            self.dump.report(f"vm_area_struct {area.address:x}: its range makes no sense")
            return
        for run in table.runs(area.start, area.end):
            yield from self._placed(run, area, file)

    def _placed(self, run: Run, area: Area, file: str) -> Iterator[Pages]:
        start, page = Address(run.start), self._mm.page_size
        if run.physical is not None or not run.readable:
            yield Pages(start, run.pages, run.physical, readable=run.readable, page_bytes=page)
            return
        if run.swap is not None and (swap := Swap.of(self._prog)).exists:
            places = [swap.location(entry) for entry in run.swap]
            for device, same in groupby(places, lambda place: place[0]):
                pages = [page for _, page in same]
                yield Pages(start, len(pages), None, device, pages, page_bytes=page)
                start = Address(start + len(pages) * page)
        elif file:
            offset = Address((area.pgoff * page + run.start - area.start) % 2**64)
            yield Pages(start, run.pages, None, file=file, file_offset=offset, page_bytes=page)
        else:
            yield Pages(start, run.pages, None, page_bytes=page)

    def _structure(self, name: str, address: int) -> Structure:
        kind = self._prog.type(f"struct {name}")
        data = self._prog.read(address, kind.size or 0)
        return Structure(name, Address(address), data, _target(self.dump))


def _target(dump: Dump) -> Target:
    from crashpy.gdb.target import Target

    return shared(dump.prog, _target, lambda: Target(dump))


class _Search:
    """What -R finds in one task (crash's handle_each_vm_area() and vm_area_page_dump())."""

    def __init__(self, reader: _Reader, memory: TaskMemory, reference: str) -> None:
        self._reader = reader
        self._memory = memory
        self._reference = reference
        self._hex = htol(reference) if is_number(reference) else None
        self._decimal = None
        if self._hex is not None:
            self._decimal = int(reference) if reference.isdecimal() else 0
        self._shown = self._paged = False

    def __iter__(self) -> Iterator[Record]:
        held: TaskMemory | MemoryArea | Pages | None = None
        for record in self._found():
            if held is not None:
                yield held
            held = record
        if held is not None:
            yield replace(held, last=True)

    def _found(self) -> Iterator[TaskMemory | MemoryArea | Pages]:
        memory = self._memory
        if self._hex is not None and self._hex in (memory.mm, memory.pgd):
            yield memory
            return
        if not memory.mm:
            return
        table = self._reader.table_of(memory.mm)
        for area in self._reader.areas_of(memory.mm):
            for record in self._area(area, table):
                if not self._shown:
                    self._shown = True
                    yield memory
                yield record

    def _area(
        self, area: Area, table: PageTable | GenericPageTable
    ) -> Iterator[MemoryArea | Pages]:
        record = self._reader.area(area, headed=True)
        itself = self._hex is not None and self._hex in (area.address, area.flags)
        itself = itself or self._names(record.file)
        if itself:
            # Titles come again after pages only.
            headed = not self._shown or self._paged
            self._paged = False
            yield self._reader.area(area, headed=headed)
        for run in self._reader.pages(area, self._memory.mm, table):
            for found in self._matching(run):
                if not itself:
                    itself = True
                    yield record
                self._paged = True
                yield found

    def _names(self, path: str) -> bool:
        if not path:
            return False
        part = self._reference
        return path == "/" if part == "/" else part in path

    def _matching(self, run: Pages) -> Iterator[Pages]:
        """The pages of a run that the reference names, one by one."""
        numbers: set[int] = set()
        wanted = self._hex
        if run.swap_pages is not None:
            if self._names(run.swap or ""):
                numbers.update(range(run.pages))
            numbers.update(n for n, page in enumerate(run.swap_pages) if page == self._decimal)
        if wanted is not None and wanted % run.page_bytes == 0:
            numbers.add((wanted - run.start) // run.page_bytes)
            if run.file_offset is not None:
                numbers.add((wanted - run.file_offset) // run.page_bytes)
            if run.physical is not None and wanted in run.physical:
                numbers.update(n for n, page in enumerate(run.physical) if page == wanted)
        for number in sorted(numbers):
            if 0 <= number < run.pages:
                yield _one(run, number)


def _one(run: Pages, number: int) -> Pages:
    offset = run.file_offset
    return Pages(
        Address(run.start + number * run.page_bytes),
        1,
        None if run.physical is None else (run.physical[number],),
        run.swap,
        None if run.swap_pages is None else (run.swap_pages[number],),
        run.file,
        None if offset is None else Address(offset + number * run.page_bytes),
        run.readable,
        run.page_bytes,
    )


TOTALS_HEADER = f"{'MM':^16}  {'PGD':^16}  {'RSS':^6}  {'TOTAL_VM':^8}"
AREAS_HEADER = f"{'VMA':^16} {centered('START', 10, right=True)} {centered('END', 10, right=True)}"
AREAS_HEADER += "  FLAGS FILE"


@vm.text
def lines(
    found: Iterable[Record],
    *,
    settings: Settings | None = None,
    reference: Sequence[str] = (),
    radix: int = 0,
) -> Iterator[str]:
    """Its vm_area_dump()."""
    digits, headed = 8, False
    for record in found:
        if isinstance(record, Pages):  # first: of them there are most
            if not headed:
                headed = True
                yield f"{'VIRTUAL':10}  {'PHYSICAL':{digits}}"
            yield from _blocks(_page_lines(record, digits))
        elif isinstance(record, MemoryArea):
            if record.headed:
                yield AREAS_HEADER
            yield (
                f"{record.vma:^16x} {record.start:10x} {record.end:10x} "
                f"{record.flags:6x} {record.file}"
            )
            headed = False
        elif isinstance(record, TaskMemory):
            digits = record.digits
            if record.header or reference:
                if record.after_another and not reference:
                    yield ""
                yield task_header(record.pid, record.task, record.cpu, record.comm)
            if record.totals:
                yield from _totals_lines(record)
        elif isinstance(record, NoArea):
            yield "(not found)"
        else:
            yield from _structure_lines(record, settings, radix)
        if reference and not isinstance(record, NoArea | Structure) and record.last:
            yield ""


def _totals_lines(memory: TaskMemory) -> Iterator[str]:
    rss = "--" if memory.rss_kib is None else f"{memory.rss_kib}k"
    yield TOTALS_HEADER
    yield (f"{memory.mm:^16x}  {memory.pgd:^16x}  {rss:^6}  {f'{memory.total_vm_kib}k':^8}")


def _blocks(lines: Iterable[str]) -> Iterator[str]:
    """Many lines as one string: there may be millions, each the work of a dozen bytecodes."""
    lines = iter(lines)
    while block := "\n".join(islice(lines, 1024)):
        yield block


def _page_lines(run: Pages, digits: int) -> Iterable[str]:
    """A line a page: `map` makes them without going back and forth to Python."""
    page, size = run.page_bytes, run.pages * run.page_bytes
    addresses = range(run.start, run.start + size, page)
    if run.physical is not None:
        return map(f"%-10x  %{digits}x".__mod__, zip(addresses, run.physical))  # noqa: B905
    if run.swap is not None and run.swap_pages is not None:
        line = f"%-10x  SWAP: {_escaped(run.swap)}  OFFSET: %d"
        return map(line.__mod__, zip(addresses, run.swap_pages))  # noqa: B905
    if run.file is not None and run.file_offset is not None:
        offsets = range(run.file_offset, run.file_offset + size, page)
        line = f"%-10x  FILE: {_escaped(run.file)}  OFFSET: %x"
        return map(line.__mod__, zip(addresses, offsets))  # noqa: B905
    if not run.readable:
        return map("%-10x  --".__mod__, addresses)
    return map("%-10x  (not mapped)".__mod__, addresses)


def _escaped(name: str) -> str:
    return name.replace("%", "%%")


def _structure_lines(structure: Structure, settings: Settings | None, radix: int) -> Iterator[str]:
    from crashpy.gdb.values import Style, show
    from crashpy.settings import Settings

    style = Style.of(settings or Settings(), radix or None)
    kind = structure.target.prog.type(f"struct {structure.type}")
    text = show(structure.target, kind, structure.data, structure.address, style)
    yield from f"struct {structure.type} {text}".split("\n")


@dataclass(frozen=True)
class Flags:
    flags: Address  # vm_area_struct.vm_flags
    names: tuple[str, ...]


# As crash's do_vm_flags() names the bits: what newer kernels do with some of them,
# it does not know.
_FLAGS = {
    0x1: "READ",
    0x2: "WRITE",
    0x4: "EXEC",
    0x8: "SHARED",
    0x10: "MAYREAD",
    0x20: "MAYWRITE",
    0x40: "MAYEXEC",
    0x80: "MAYSHARE",
    0x100: "GROWSDOWN",
    0x200: "NOHUGEPAGE",
    0x400: "PFNMAP",
    0x800: "DENYWRITE",
    0x1000: "EXECUTABLE",
    0x2000: "LOCKED",
    0x4000: "IO",
    0x8000: "SEQ_READ",
    0x10000: "RAND_READ",
    0x20000: "DONTCOPY",
    0x40000: "DONTEXPAND",
    0x80000: "RESERVED",
    0x400000: "HUGETLB",
    0x100000: "ACCOUNT",
    0x800000: "NONLINEAR",
    0x1000000: "HUGEPAGE",
    0x2000000: "INSERTPAGE",
    0x4000000: "ALWAYSDUMP",
    0x8000000: "CAN_NONLINEAR",
    0x10000000: "MIXEDMAP",
    0x20000000: "SAO",
    0x40000000: "PFN_AT_MMAP",
    0x80000000: "MERGEABLE",
}


@vm.mode(
    "-f", "the names of the bits of a FLAGS column", metavar="vm_flags", type=htol, dest="bits"
)
def vm_flags(dump: Dump, *, bits: int) -> Iterator[Flags]:
    """the names of the bits of vm_flags"""
    names = dict(_FLAGS)
    if has_symbol(dump.prog, "expand_upwards"):
        names[0x200] = "GROWSUP"
    try:
        dump.prog.type("struct mm_struct").member("pmd_huge_pte")
    except LookupError:
        names[0x1000000] = "MAPPED_COPY"
    yield Flags(Address(bits), tuple(name for mask, name in names.items() if bits & mask))


@vm_flags.text
def flags_lines(found: Iterable[Flags]) -> Iterator[str]:
    return (f"{one.flags:x}: ({'|'.join(one.names)})" for one in found)
