"""kmem -v: the kernel's mapped areas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from crashpy.command import Address, CommandError
from crashpy.dump import Dump
from crashpy.kernel.pages import kernel_address
from crashpy.kernel.vmalloc import KernelPages, VmapArea, vmap_areas
from crashpy.text import centered

HEADER = "   VMAP_AREA         VM_STRUCT                 ADDRESS RANGE                SIZE"
BLOCK = 64  # lines handed on together


@dataclass(frozen=True)
class MappedArea:
    """An area of vmalloc(), vmap(), ioremap(), or of a module."""

    vmap_area: Address  # struct vmap_area *
    vm_struct: Address  # struct vm_struct *
    start: Address
    end: Address
    bytes: int


@dataclass(frozen=True)
class Areas:
    """The areas that follow are all there are, or those of an address."""

    address: Address | None
    count: int  # of all areas


Record = Areas | MappedArea


def areas(dump: Dump) -> list[VmapArea]:
    try:
        return vmap_areas(dump.prog, dump.report)
    except LookupError as error:
        raise CommandError("cannot resolve: vmap_area_list") from error


def record(area: VmapArea) -> MappedArea:
    address, vm_struct, start, end = map(Address, area)
    return MappedArea(address, vm_struct, start, end, end - start)


def mapped_areas(dump: Dump) -> Iterator[Record]:
    """Every area, by address."""
    found = areas(dump)
    yield Areas(None, len(found))
    yield from map(record, found)


def look_up(dump: Dump, address: int, *, physical: bool) -> Iterator[Record]:
    """The area around an address; those in which a physical one is mapped."""
    found = areas(dump)
    yield Areas(Address(address), len(found))
    if physical or not kernel_address(dump.prog, address):
        yield from map(record, mapping(dump, found, address))
    else:
        yield from (record(area) for area in found if area.start <= address < area.end)


def mapping(dump: Dump, found: Iterable[VmapArea], physical: int) -> Iterator[VmapArea]:
    pages = KernelPages(dump.prog)
    return (area for area in found if pages.find(area, physical) is not None)


def lines(records: Iterable[Record]) -> Iterator[str]:
    """Its dump_vmap_area(); the header comes once."""
    header, together = False, BLOCK
    rows: list[str] = []
    for one in records:
        if isinstance(one, MappedArea):
            rows.append(line(one))
        else:
            together = BLOCK if one.address is None else 1
            if one.count and not header:
                rows.append(HEADER)
                header = True
        if len(rows) >= together:
            yield "\n".join(rows)
            rows = []
    if rows:
        yield "\n".join(rows)


def line(area: MappedArea) -> str:
    return (
        f"{centered(f'{area.vmap_area:x}', 16)}  {centered(f'{area.vm_struct:x}', 16)}  "
        f"{area.start:>16x} - {area.end:<16x}  {area.bytes:7}"
    )
