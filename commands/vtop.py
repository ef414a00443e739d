"""vtop: virtual to physical addresses, with the way through the page tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from drgn import FaultError

from crashpy.command import Address, CommandError, Option, UsageError, command, getopt
from crashpy.faults import skipping
from crashpy.kernel.mm import Area, Mm, Swap
from crashpy.kernel.pages import kernel_address, mem_map
from crashpy.kernel.paging import Paging, Walk, is_zero_page
from crashpy.kernel.vfs import Vfs
from crashpy.numbers import htol
from crashpy.tasks import Task, named

from .kmem.pages import PageInfo, page_infos, page_lines
from .pte import Entry, decoded, entry_lines
from .vm import AREAS_HEADER, MemoryArea

if TYPE_CHECKING:
    from crashpy.dump import Dump

FLAGS = {f"-{letter}": Option(f"-{letter}", letter, "") for letter in "uk"}
OPTIONS = FLAGS | {"-c": Option("-c", "c", "", metavar="pid | taskp")}
FOREACH_OPTIONS = FLAGS | {"-c": Option("-c", "c", "")}


@dataclass(frozen=True)
class TableEntry:
    table: str  # PGD, P4D, PUD, PMD or PTE
    physical: Address  # where the entry is
    entry: Address


@dataclass(frozen=True)
class Place:
    """A page that is not in memory: where it is instead."""

    file: str  # file or device
    offset: Address  # of swap in pages, of a file in bytes
    swap: bool


@dataclass(frozen=True)
class Translation:
    virtual: Address
    task: Address  # struct task_struct *, the owner of the page tables
    user: bool
    accessible: bool  # in an area of the task, or the kernel's
    physical: Address | None = None
    readable: bool = True  # False where the dump lacks a page table on the way
    pgd: Address | None = None  # pgd_t *
    steps: tuple[TableEntry, ...] = ()
    page: Address | None = None  # physical address of the page, as mapped
    page_bytes: int = 0
    zero_page: bool = False
    last: Entry | None = None  # the entry of the page
    area: MemoryArea | None = None
    place: Place | None = None
    page_struct: PageInfo | None = None
    after_another: bool = field(default=False, repr=False)

    def __json__(self) -> dict[str, Any]:
        hidden = "after_another"
        return {name: value for name, value in vars(self).items() if name != hidden}


@command(usage="[-c [pid | taskp]] [-u|-k] address ...", words=True)
def vtop(
    dump: Dump, *, words: Sequence[str] = (), tasks: Sequence[Task] = ()
) -> Iterator[Translation]:
    """virtual to physical addresses

    The physical address behind a hexadecimal virtual one; the entries of the page
    tables on the way to it, and the flags of the last; of a user address the area
    it is in; and its struct page. Of a page that is not in memory: where it is in
    swap or in its file.

    -c task    a user address of this PID or task address, not of the current context
    -u         it is a user address
    -k         it is a kernel address

    EXAMPLES
      crash> vtop ffffa0bb801c0000
      VIRTUAL           PHYSICAL
      ffffa0bb801c0000  1c0000

      PGD DIRECTORY: ffffffffa6416000
      PAGE DIRECTORY: 6400067
         PUD: 6400770 => 6401067
         PMD: 6401000 => 6402067
         PTE: 6402e00 => 80000000001c0163
        PAGE: 1c0000

            PTE         PHYSICAL  FLAGS
      80000000001c0163   1c0000   (PRESENT|RW|ACCESSED|DIRTY|GLOBAL|NX)

            PAGE       PHYSICAL      MAPPING       INDEX CNT FLAGS
      ffffc75ec0007000   1c0000                0        0  1 40 head

      vtop -c 1 5e5000             an address of process 1
      foreach user vtop 400000     the same address of every task
    """
    found, addresses = getopt(words, FOREACH_OPTIONS if tasks else OPTIONS)
    chosen = tasks[0] if tasks else dump.context
    for option, argument in found:
        if option.dest == "c" and argument is not None:
            matching = named(dump, argument)
            if not matching:
                raise CommandError(f"invalid task or pid value: {argument}")
            chosen = matching[0]
    if not addresses:
        raise UsageError
    given = {option.dest for option, _ in found}
    if {"u", "k"} <= given:
        raise CommandError("-u and -k options are mutually exclusive")
    for count, word in enumerate(addresses):
        address = htol(word)
        user = "u" in given if given & {"u", "k"} else _is_user(dump, address)
        make = _of_user if user else _of_kernel
        yield make(dump, address, chosen, count > 0 and not tasks)


def _is_user(dump: Dump, address: int) -> bool:
    if address < Paging.of(dump.prog).user_end:
        return True
    if kernel_address(dump.prog, address):
        return False
    raise CommandError(f"ambiguous address: {address:x}  (requires -u or -k)")


def _of_user(dump: Dump, address: int, task: Task, after_another: bool) -> Translation:
    area, pgd = None, 0
    mm = Mm.of(dump.prog)
    if task.mm:
        with skipping(f"the memory of task {task.address:x}"):
            areas = mm.areas(task.mm)
            area = next((a for a in areas if a.start <= address < a.end), None)
            pgd = mm.space(task.mm).pgd
    basic = Address(address), Address(task.address)
    if area is None:
        return Translation(*basic, True, accessible=False, after_another=after_another)
    walk = Paging.of(dump.prog).walk(dump.prog, pgd, address)
    physical = None if walk.page is None else walk.page + address % walk.size
    path = _path_of(dump, area)
    return Translation(
        *basic,
        True,
        accessible=True,
        **_walked(dump, walk, pgd, physical),
        zero_page=walk.page is not None and is_zero_page(dump.prog, walk.page),
        area=MemoryArea(
            Address(area.address),
            Address(area.start),
            Address(area.end),
            Address(area.flags),
            path,
        ),
        place=None if walk.page is not None else _place(dump, walk, area, path, address),
        after_another=after_another,
    )


def _of_kernel(dump: Dump, address: int, task: Task, after_another: bool) -> Translation:
    prog = dump.prog
    basic = Address(address), Address(task.address)
    if not kernel_address(prog, address):
        return Translation(*basic, False, accessible=False, after_another=after_another)
    pgd: int = prog["init_mm"].pgd.value_()
    walk = Paging.of(prog).walk(prog, pgd, address)
    physical = None if walk.page is None else walk.page + address % walk.size
    if physical is None:
        # The kernel may have taken a page out of the direct map; it is there all the same.
        inside = address - mem_map(prog).direct_map
        if mem_map(prog).page(inside // dump.page_size) is not None:
            physical = inside
    return Translation(
        *basic,
        False,
        accessible=True,
        **_walked(dump, walk, pgd, physical),
        after_another=after_another,
    )


def _walked(dump: Dump, walk: Walk, pgd: int, physical: int | None) -> dict[str, Any]:
    """What translations of user and kernel addresses have in common."""
    if walk.fault is not None:
        with skipping("a page table"):
            raise FaultError(walk.fault, 0)
    mapped = walk.page is not None
    shown = mapped or (len(walk.steps) == Paging.of(dump.prog).levels and walk.entry)
    page = None
    if physical is not None and mem_map(dump.prog).page(physical // dump.page_size) is not None:
        page = next(page_infos(dump, [physical], physical=True), None)
    return {
        "physical": None if physical is None else Address(physical),
        "readable": walk.fault is None,
        "pgd": Address(pgd),
        "steps": tuple(
            TableEntry(s.table, Address(s.physical), Address(s.entry)) for s in walk.steps
        ),
        "page": None if walk.page is None else Address(walk.page),
        "page_bytes": walk.size,
        "last": decoded(dump, walk.entry) if shown else None,
        "page_struct": page,
    }


def _path_of(dump: Dump, area: Area) -> str:
    if not area.file:
        return ""
    vfs = Vfs.of(dump.prog)
    try:
        path = vfs.file(area.file)
        return vfs.path(path) if path.dentry else ""
    except FaultError:
        return ""


def _place(dump: Dump, walk: Walk, area: Area, path: str, address: int) -> Place | None:
    if len(walk.steps) == Paging.of(dump.prog).levels and walk.entry:
        swap = Swap.of(dump.prog)
        if swap.exists:
            name, page = swap.location(walk.entry)
            return Place(name, Address(page), swap=True)
    if not path:
        return None
    size = dump.page_size
    offset = ((address - area.start) // size + area.pgoff) * size % 2**64
    return Place(path, Address(offset), swap=False)


@vtop.text
def lines(translations: Iterable[Translation]) -> Iterator[str]:
    """Its do_vtop(); the titles of the page come once."""
    titled = False
    for one in translations:
        if one.after_another:
            yield ""
        width = 10 if one.user else 16
        yield f"{'VIRTUAL':<{width}}  {'PHYSICAL':<16}"
        if not one.accessible:
            if one.user:
                yield f"{one.virtual:<10x}  (not accessible)"
            else:
                yield f"{one.virtual:<8x}  (not a kernel virtual address)"
            yield ""
            continue
        if one.physical is not None:
            shown = f"{one.physical:<16x}"
        else:
            shown = "(not mapped)" if one.readable else "--"
        yield f"{one.virtual:<{width}x}  {shown}"
        yield ""
        yield from _walk_lines(one)
        yield ""
        if one.area is not None:
            area = one.area
            yield AREAS_HEADER
            yield (f"{area.vma:^16x} {area.start:10x} {area.end:10x} {area.flags:6x} {area.file}")
            if one.place is not None:
                yield ""
                yield _place_line(one.place)
            yield ""
        if one.page_struct is not None:
            header, line = page_lines((one.page_struct,))
            if not titled:
                yield header
            titled = True
            yield line


def _walk_lines(one: Translation) -> Iterator[str]:
    steps = iter(one.steps)
    if not one.user and one.pgd is not None:
        yield f"PGD DIRECTORY: {one.pgd:x}"
        if (first := next(steps, None)) is not None:
            yield f"PAGE DIRECTORY: {first.entry:x}"
    for step in steps:
        yield f"   {step.table}: {step.physical:x} => {step.entry:x}"
    if one.page is not None:
        yield _page_line(one)
    if one.last is not None:
        yield ""
        yield from entry_lines(one.last)


def _page_line(one: Translation) -> str:
    line = f"  PAGE: {one.page:x}"
    if one.page_bytes >> 30:
        return line + "  (1GB)"
    if one.page_bytes >> 21:
        return line + ("  (2MB, ZERO PAGE)" if one.zero_page else "  (2MB)")
    if one.user:
        return line + ("  (ZERO PAGE)" if one.zero_page else "  ")
    return line


def _place_line(place: Place) -> str:
    if place.swap:
        return f"SWAP: {place.file}  OFFSET: {int(place.offset)}"
    return f"FILE: {place.file}  OFFSET: {place.offset:x}"
