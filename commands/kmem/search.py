"""kmem ADDRESS: whatever is at an address."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from drgn import sizeof

from crashpy.command import Address, CommandError
from crashpy.dump import Dump
from crashpy.kernel.pages import direct_mapped, kernel_address, kernel_to_physical, mem_map
from crashpy.kernel.slab import Slub
from crashpy.kernel.vfs import shared
from crashpy.kernel.vmalloc import KernelPages, VmapArea
from crashpy.tasks import Task

from ..set import Context, context, context_lines
from ..sym import Translation, translated
from . import free, pages, slab, vmalloc
from .free import FreeBlock
from .pages import PageInfo
from .vmalloc import MappedArea

NOWHERE = 0xFFFF_FFFF_FFFF_FFFF  # crash's BADADDR


@dataclass(frozen=True)
class Search:
    """An address; what is known of it follows."""

    address: Address
    physical: bool


@dataclass(frozen=True)
class SlabObject:
    """The cache that an address belongs to, its slab, and its object."""

    records: tuple[slab.Record, ...]


@dataclass(frozen=True)
class Unmapped:
    """No struct page is of this address."""

    address: Address
    physical: bool


@dataclass(frozen=True)
class Found:
    """A thing that is at the address."""

    what: str  # symbol, task, area, slab, free, page
    found: Translation | Context | tuple[MappedArea, ...] | SlabObject | FreeBlock | PageInfo


Record = Search | Found | Unmapped


class Searcher:
    """What the addresses of a command line are looked for in."""

    def __init__(self, dump: Dump) -> None:
        self.dump, self.prog = dump, dump.prog
        self._pages = mem_map(dump.prog)

    def look_up(self, given: int, *, physical: bool) -> Iterator[Record]:
        """Everything that crash has to say of an address, in its order (kmem_search())."""
        physical = physical or not kernel_address(self.prog, given)
        yield Search(Address(given), physical)
        address = direct_mapped(self.prog, given) if physical else given
        if address == NOWHERE:
            address = None
        if address is not None and self._is_symbolic(address):
            yield from self._symbol(address, named=True)
        behind: int | None = None
        if physical:
            mapped = list(vmalloc.mapping(self.dump, self._areas, given))
            if mapped:
                at = self._mapping.find(mapped[0], given) or 0
                yield from self._task(self._on_stack(at))
                yield from self._symbol(at, named=False)
                yield Found("area", tuple(map(vmalloc.record, mapped)))
                behind = given
        elif (area := self._around(given)) is not None:
            yield from self._task(self._on_stack(given))
            behind = kernel_to_physical(self.prog, given)
            if behind is not None:
                yield Found("area", (vmalloc.record(area),))
        if behind is None:
            yield from self._elsewhere(given, address, physical)
        yield from self._page(
            given if behind is None else behind,
            physical=physical or behind is not None,
            there=address is not None,
        )

    def _is_symbolic(self, address: int) -> bool:
        symbols = self.dump.symbols
        image = shared(self.prog, Searcher, self._image)
        return address in image or symbols.module_of(address) is not None

    def _image(self) -> range:
        """The addresses of the kernel's code and data. These names are long to find."""
        start, end = self.dump.symbols.named("_stext"), self.dump.symbols.named("_end")
        return range(start.address, end.address + 1) if start and end else range(0)

    def _symbol(self, address: int, *, named: bool) -> Iterator[Found]:
        """The symbol before it; `named`: and the module that it is of."""
        symbols = self.dump.symbols
        if (found := symbols.at(address)) is None:
            return
        symbol, offset = found
        module = symbols.module_of(symbol.address) if named else None
        line = None
        if not symbol.name.startswith("_MODULE_START_") and symbols.is_text(address):
            line = symbols.line(address) or ""
        name = module.name if module else None
        translation = Translation(Address(address), symbol.kind, symbol.name, offset, name, line)
        yield Found("symbol", translation)

    def _task(self, task: Task | None) -> Iterator[Found]:
        if task is not None:
            yield Found("task", context(self.dump, task))

    def _on_stack(self, address: int) -> Task | None:
        size = self.dump.tasks.stack_size
        return next((t for t in self.dump.tasks if 0 <= address - t.stack < size), None)

    def _in_task_struct(self, address: int) -> Task | None:
        try:  # the registers at its end may take less room than the type has for them
            size = self.prog["arch_task_struct_size"].value_()
        except LookupError:
            size = sizeof(self.prog.type("struct task_struct"))
        return next((t for t in self.dump.tasks if 0 <= address - t.address < size), None)

    @cached_property
    def _areas(self) -> list[VmapArea]:
        try:
            return vmalloc.areas(self.dump)
        except CommandError:
            return []

    @cached_property
    def _mapping(self) -> KernelPages:
        return KernelPages(self.prog)

    def _around(self, address: int) -> VmapArea | None:
        return next((a for a in self._areas if a.start <= address < a.end), None)

    @cached_property
    def _allocator(self) -> Slub | None:
        try:
            return slab.slub(self.dump)
        except CommandError:
            return None

    def _elsewhere(self, given: int, address: int | None, physical: bool) -> Iterator[Found]:
        """In a slab, on a free list, in the structure or on the stack of a task."""
        if address is not None and self._in_slab(address):
            assert self._allocator is not None
            found = slab.lookup(self.dump, self._allocator, address, whole=False)
            yield Found("slab", SlabObject(tuple(found)))
        block = free.find(self.dump, given, physical=physical)
        if block is not None:
            yield Found("free", block)
        if address is not None:
            yield from self._task(self._in_task_struct(address) or self._on_stack(address))

    def _in_slab(self, address: int) -> bool:
        """Whether it is of a slab, or the struct page of one."""
        physical = kernel_to_physical(self.prog, address)
        page = None
        if physical is None:
            slab.warning(self.dump, f"cannot make virtual-to-physical translation: {address:x}")
        elif (page := self._pages.page(physical // self._pages.page_size)) is None:
            slab.warning(self.dump, f"cannot find mem_map page for address: {address:x}")
        if (allocator := self._allocator) is None:
            return False
        if page is not None and allocator.slab_of(page) is not None:
            return True
        if self._pages.pfn(address) is None:
            return False
        return allocator.slab_of(address, head=False) is not None

    def _page(self, address: int, *, physical: bool, there: bool) -> Iterator[Record]:
        frame = pages.frame(self.prog, self._pages, address, physical) if there else None
        if frame is None:
            yield Unmapped(Address(address), physical)
        elif self._pages.section(frame) is None:
            behind = address if physical else kernel_to_physical(self.prog, address)
            yield Unmapped(Address(address if behind is None else behind), physical)
        else:
            for info in pages.page_infos(self.dump, [address], physical=physical):
                yield Found("page", info)


def lines(records: Iterable[Record], *, radix: int = 10) -> Iterator[str]:
    """An empty line behind each thing but the last, and between addresses."""
    searches = 0
    for record in records:
        if isinstance(record, Search):
            if searches:
                yield ""
            searches += 1
        elif isinstance(record, Unmapped):
            kind = "physical" if record.physical else "kernel virtual"
            yield f"{record.address:x}: {kind} address not found in mem map"
        elif isinstance(record.found, PageInfo):
            yield from pages.page_lines((record.found,))
        else:
            yield from _thing_lines(record.found, radix)
            yield ""


def _thing_lines(
    found: Translation | Context | tuple[MappedArea, ...] | SlabObject | FreeBlock, radix: int
) -> Iterator[str]:
    if isinstance(found, Translation):
        yield translated(found, radix)
    elif isinstance(found, Context):
        yield from context_lines(found)
    elif isinstance(found, SlabObject):
        yield from slab.lines(found.records)
    elif isinstance(found, FreeBlock):
        yield from free.block_lines(found)
    else:
        yield vmalloc.HEADER
        yield from map(vmalloc.line, found)
