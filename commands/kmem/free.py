"""kmem -f, -F: the free lists of the page allocator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from crashpy.command import Address
from crashpy.dump import Dump
from crashpy.faults import skipping
from crashpy.kernel import buddy
from crashpy.kernel.lists import Words, linked
from crashpy.kernel.pages import kernel_address, kernel_to_physical, mem_map, nodes
from crashpy.text import centered

ZONE_HEADER = "ZONE  NAME        SIZE    FREE      MEM_MAP       START_PADDR  START_MAPNR"
AREA_HEADER = "AREA    SIZE  FREE_AREA_STRUCT"
NODES_APART = "-" * 74


@dataclass(frozen=True)
class FreeZone:
    """A zone of memory."""

    node: int
    zone: int
    name: str | None
    spanned_pages: int
    free_pages: int
    mem_map: Address | None  # struct page * of the first page
    start: Address  # physical
    start_mapnr: int  # pages from the node's first one
    several_nodes: bool = field(default=False, repr=False)


class FreeList(NamedTuple):
    """The free blocks of a size and a migrate type. A tuple: each zone has dozens."""

    node: int
    zone: int
    order: int
    block_kib: int
    head: Address  # struct list_head *
    blocks: int
    pages: int
    listed: tuple[Address, ...] | None = None  # struct page * of each block, with -F

    def __json__(self) -> dict[str, Any]:
        return self._asdict()


@dataclass(frozen=True)
class FreeTotal:
    free_pages: int  # by the zones' counters
    found: int  # on the lists


@dataclass(frozen=True)
class Lookup:
    """An address that is looked for on the lists."""

    address: Address


@dataclass(frozen=True)
class FreeBlock:
    """The free block that an address is in."""

    address: Address
    physical: bool  # so the address
    zone: FreeZone
    order: int
    block_kib: int
    head: Address  # struct list_head *
    block: Address  # struct page * of its first page
    pages: int
    place: int  # of the address: 1 in the first page


Record = FreeZone | FreeList | FreeTotal | Lookup | FreeBlock


class Lists:
    """The free lists of one program, and what is remembered while they are followed."""

    def __init__(self, dump: Dump) -> None:
        self.prog = dump.prog
        self.pages = mem_map(self.prog)
        self._report = dump.report
        self._lru = self.pages.page_type.member("lru").offset
        self._several = len(nodes(self.prog)) > 1
        self._words = Words(self.prog)
        self._seen: set[int] = set()

    def zone(self, zone: buddy.Zone) -> FreeZone:
        first = self.pages.page(zone.start_pfn) if zone.spanned_pages else None
        node = self.pages.page(zone.node.first_pfn) or 0
        return FreeZone(
            node=zone.node.identifier,
            zone=zone.number,
            name=zone.name,
            spanned_pages=zone.spanned_pages,
            free_pages=zone.free_pages,
            mem_map=None if first is None else Address(first),
            start=Address(zone.start_pfn * self.pages.page_size),
            start_mapnr=0 if first is None else (first - node) // self.pages.entry,
            several_nodes=self._several,
        )

    def lists(self, zone: buddy.Zone) -> Iterator[tuple[FreeList, list[int]]]:
        """The lists, and their entries: each the page.lru of a block's first page."""
        for found in buddy.free_lists(self.prog, zone):
            chain = linked(self._words, found.head, self._seen)
            if chain.duplicate is not None:
                self._report(f"duplicate list entry: {chain.duplicate:x}")
                self._report(
                    f"corrupted free list {found.kind} from free_area struct: {found.area:x}"
                )
            if chain.fault is not None:
                with skipping(f"some of the free list {found.head:x}"):
                    raise chain.fault
            yield (
                FreeList(
                    node=zone.node.identifier,
                    zone=zone.number,
                    order=found.order,
                    block_kib=(self.pages.page_size << found.order) // 1024,
                    head=Address(found.head),
                    blocks=len(chain.entries),
                    pages=len(chain.entries) << found.order,
                ),
                chain.entries,
            )

    def page(self, entry: int) -> Address:
        return Address(entry - self._lru)

    def entry(self, page: int) -> int:
        return page + self._lru


def free_pages(dump: Dump, *, listed: bool = False) -> Iterator[Record]:
    """Every zone with its lists, and whether its counter agrees with them."""
    lists = Lists(dump)
    total = found = 0
    for zone in buddy.zones(dump.prog):
        yield lists.zone(zone)
        total += zone.free_pages
        if not zone.free_pages:
            continue
        for one, entries in lists.lists(zone):
            found += one.pages
            if listed:
                one = one._replace(listed=tuple(map(lists.page, entries)))
            yield one
    yield FreeTotal(total, found)


def find(dump: Dump, address: int, *, physical: bool) -> FreeBlock | None:
    """The free block of an address of any kind."""
    pages = mem_map(dump.prog)
    if physical:
        where: int | None = address
    elif (pfn := pages.pfn(address)) is not None:
        where = pfn * pages.page_size
    else:
        where = kernel_to_physical(dump.prog, address)
    if where is None:
        return None
    pfn = where // pages.page_size
    if (wanted := pages.page(pfn)) is None:
        dump.report(f"cannot determine page for {address:x}")
        return None
    lists = Lists(dump)
    for zone in buddy.zones(dump.prog):
        if not zone.free_pages or not 0 <= pfn - zone.start_pfn < zone.spanned_pages:
            continue
        for one, entries in lists.lists(zone):
            # The first page of a block is a multiple of its size, as numbers of frames go.
            first = pages.page(pfn >> one.order << one.order)
            if first is None or lists.entry(first) not in entries:
                continue
            return FreeBlock(
                address=Address(address),
                physical=physical,
                zone=lists.zone(zone),
                order=one.order,
                block_kib=one.block_kib,
                head=one.head,
                block=Address(first),
                pages=1 << one.order,
                place=(wanted - first) // pages.entry + 1,
            )
    return None


def look_up(dump: Dump, address: int, *, physical: bool) -> Iterator[Record]:
    yield Lookup(Address(address))
    physical = physical or not kernel_address(dump.prog, address)
    if (found := find(dump, address, physical=physical)) is not None:
        yield found


def lines(records: Iterable[Record]) -> Iterator[str]:
    """Its dump_free_pages_zones_v2()."""
    first = True  # of the zones
    lookups = 0
    area_header = False
    rows: list[str] = []  # a zone's lists as one string: to hand on each line takes its time
    for record in records:
        if isinstance(record, FreeList):
            rows += _list_lines(record, area_header)
            area_header = False
            continue
        if rows:
            yield "\n".join(rows)
            rows = []
        if isinstance(record, FreeZone):
            if record.several_nodes and record.zone == 0:
                yield from ("NODE", f" {record.node:2}") if first else _next_node(record)
            elif not first:
                yield ""
            yield ZONE_HEADER
            yield zone_line(record)
            first, area_header = False, True
        elif isinstance(record, FreeTotal):
            agrees = record.free_pages == record.found
            yield ""
            yield (
                f"nr_free_pages: {record.free_pages}  "
                f"({'verified' if agrees else f'found {record.found}'})"
            )
        elif isinstance(record, Lookup):
            if lookups:
                yield ""
            lookups += 1
        else:
            yield from block_lines(record)


def _next_node(zone: FreeZone) -> tuple[str, ...]:
    return "", NODES_APART, "", "NODE", f" {zone.node:2}"


def zone_line(zone: FreeZone) -> str:
    name = "(unknown)" if zone.name is None else zone.name
    return (
        f"{zone.zone:3}   {name:<9} {zone.spanned_pages:6}  {zone.free_pages:6}  "
        f"{centered(f'{zone.mem_map or 0:x}', 16)}  "
        f"{centered(f'{zone.start:x}', 11, right=True)}  "
        f"{centered(str(zone.start_mapnr), 11, right=True)}"
    )


def _list_lines(one: FreeList, header: bool) -> Iterator[str]:
    start = _area(one)
    if one.listed is None:
        if header:
            yield f"{AREA_HEADER}  BLOCKS  PAGES"
        yield f"{start}{one.blocks:6} {one.pages:6}"
        return
    yield AREA_HEADER
    yield start
    if one.listed:
        yield "\n".join([f"{page:x}" for page in one.listed])


def _area(one: FreeList | FreeBlock) -> str:
    return f"{one.order:3}  {f'{one.block_kib}k':>7}  {centered(f'{one.head:x}', 16)}  "


def block_lines(found: FreeBlock) -> Iterator[str]:
    """The list that has the block, and the page's place in it."""
    if found.zone.several_nodes:
        yield from ("NODE", f" {found.zone.node:2}")
    yield ZONE_HEADER
    yield zone_line(found.zone)
    yield AREA_HEADER
    yield _area(found)
    line = f"{found.block:x}  "
    if found.order:
        inside = found.physical and found.address % (found.block_kib * 1024 // found.pages)
        nth = ordinal(found.place)
        line += f"({found.address:x} is {'in ' if inside else ''}{nth} of {found.pages} pages)"
    yield line


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th; 11st as well (crash's ordinal())."""
    return f"{number}{dict(zip('123', ('st', 'nd', 'rd'), strict=True)).get(str(number)[-1], 'th')}"
