"""kmem -n: nodes, sections and blocks of memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from drgn import FaultError, Program, TypeKind, offsetof, sizeof
from drgn.helpers.linux.device import bus_to_subsys

from crashpy.command import Address, CommandError
from crashpy.dump import Dump
from crashpy.faults import skipping
from crashpy.kernel import buddy
from crashpy.kernel.lists import Words, linked
from crashpy.kernel.mm import has_symbol, physical_digits
from crashpy.kernel.pages import (
    SECTION_MAP_MASK,
    MemMap,
    Node,
    mem_map,
    nodes,
    present_sections,
    section_pages,
)
from crashpy.text import centered

NODE_HEADER = "NODE    SIZE      PGLIST_DATA       BOOTMEM_DATA       NODE_ZONES   "
MAP_HEADER = "    MEM_MAP          START_PADDR    START_MAPNR"
ZONE_HEADER = "ZONE  NAME         SIZE       MEM_MAP      START_PADDR  START_MAPNR"
SECTION_HEADER = "NR      SECTION        CODED_MEM_MAP        MEM_MAP       STATE PFN"
# Bits of section_mem_map (enum section_map_bits), crash's letters for them.
STATES = "PMOED"
# drivers/base/memory.c, as long as these were macros.
BLOCK_STATES = {
    1 << 0: "ONLINE",
    1 << 1: "GOING_OFFLINE",
    1 << 2: "OFFLINE",
    1 << 3: "GOING_ONLINE",
    1 << 4: "CANCEL_ONLINE",
    1 << 5: "CANCEL_OFFLINE",
}


@dataclass(frozen=True)
class MemoryNode:
    """A memory node."""

    node: int
    pages: int  # spanned
    pgdat: Address  # struct pglist_data *
    bootmem: Address | None  # struct bootmem_data *; None since 4.20
    zones: tuple[Address, ...]  # struct zone *
    mem_map: Address | None  # struct page * of the first page
    start: Address  # physical
    start_mapnr: int  # page frame


@dataclass(frozen=True)
class NodeZone:
    """A zone of the node before it."""

    zone: int
    name: str | None
    pages: int  # spanned
    mem_map: Address | None  # struct page * of the first page
    start: Address  # physical
    start_mapnr: int  # page frame


@dataclass(frozen=True)
class MemorySection:
    """A section of memory (CONFIG_SPARSEMEM)."""

    section: int
    address: Address  # struct mem_section *
    coded_mem_map: Address
    mem_map: Address  # struct page * of the first page
    state: str  # P: present, M: has a mem_map, O: online, E: early, D: device memory
    pfn: int


@dataclass(frozen=True)
class MemoryBlock:
    """What is made online or offline at once (CONFIG_MEMORY_HOTPLUG)."""

    block: Address  # struct memory_block *
    name: str
    start: Address  # physical
    end: Address | None  # the last byte; None where the kernel does not tell
    node: int | None
    state: str
    start_section: int
    digits: int = field(default=8, repr=False)  # of the highest physical address


Record = MemoryNode | NodeZone | MemorySection | MemoryBlock


def memory_nodes(dump: Dump) -> Iterator[Record]:
    """Nodes with their zones, then sections, then blocks."""
    prog = dump.prog
    pages = mem_map(prog)
    zones = list(buddy.zones(prog))
    for node in nodes(prog):
        with skipping(f"node {node.number}"):
            yield _node(prog, pages, node)
        for zone in zones:
            if zone.node.number == node.number:
                yield _zone(pages, zone)
    if "mem_section" in prog:
        yield from _sections(prog, pages)
        yield from _blocks(prog)


def _node(prog: Program, pages: MemMap, node: Node) -> MemoryNode:
    pgdat = node.pgdat
    bootmem = prog.type("struct pglist_data").has_member("bdata")
    first = pages.page(node.first_pfn)
    return MemoryNode(
        node=node.identifier,
        pages=node.pages,
        pgdat=Address(pgdat),
        bootmem=Address(pgdat.bdata) if bootmem else None,
        zones=tuple(Address(zone.address_) for zone in pgdat.node_zones),
        mem_map=None if first is None else Address(first),
        start=Address(node.first_pfn * pages.page_size),
        start_mapnr=node.first_pfn,
    )


def _zone(pages: MemMap, zone: buddy.Zone) -> NodeZone:
    first = pages.page(zone.start_pfn) if zone.spanned_pages else None
    return NodeZone(
        zone=zone.number,
        name=zone.name,
        pages=zone.spanned_pages,
        mem_map=None if first is None else Address(first),
        start=Address(zone.start_pfn * pages.page_size),
        start_mapnr=zone.start_pfn if zone.spanned_pages else 0,
    )


def _sections(prog: Program, pages: MemMap) -> Iterator[MemorySection]:
    each = section_pages(prog)
    for number, address, coded in present_sections(prog):
        plain = coded & SECTION_MAP_MASK
        first = plain + number * each * pages.entry & 0xFFFF_FFFF_FFFF_FFFF
        state = "".join(letter for bit, letter in enumerate(STATES) if coded >> bit & 1)
        yield MemorySection(
            number, Address(address), Address(plain), Address(first), state, number * each
        )


def _blocks(prog: Program) -> Iterator[MemoryBlock]:
    """The devices on the bus `memory`."""
    try:
        kind = prog.type("struct memory_block")
        bus = prog["memory_subsys"].address_of_()
        device = prog.type("struct device_private")
    except LookupError:  # !CONFIG_MEMORY_HOTPLUG
        return
    with skipping("memory blocks"):
        subsystem = bus_to_subsys(bus)
        if not subsystem:
            raise CommandError("cannot determine subsys_private for memory.")
        words = Words(prog)
        chain = linked(words, subsystem.klist_devices.k_list.address_ or 0, set())
        blocks = BlockLayout(prog)
        to_device = offsetof(device, "device") - offsetof(device, "knode_bus.n_node")
        for entry in chain.entries:
            with skipping(f"memory block of {entry:x}"):
                block = words.at(entry + to_device) - offsetof(kind, "dev")
                yield blocks.read(words, block)
        if chain.fault is not None:
            raise chain.fault


class BlockLayout:
    """Where the members of a ``struct memory_block`` are."""

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        kind = prog.type("struct memory_block")
        self._start = offsetof(kind, "start_section_nr")
        self._end = offsetof(kind, "end_section_nr") if kind.has_member("end_section_nr") else None
        self._node = offsetof(kind, "nid") if kind.has_member("nid") else None
        self._name = offsetof(kind, "dev.kobj.name")
        state = kind.member("state")
        self._state, self._state_size = state.offset, sizeof(state.type)
        self._states = block_states(
            [(e.name, e.value) for e in state.type.enumerators or ()]
            if state.type.kind == TypeKind.ENUM
            else ()
        )
        self._bytes = section_pages(prog) * prog["PAGE_SIZE"].value_()
        self._digits = physical_digits(prog)
        self._size = None
        if has_symbol(prog, "memory_block_size_probed"):
            self._size = prog.read_word(prog.symbol("memory_block_size_probed").address)

    def read(self, words: Words, block: int) -> MemoryBlock:
        """Raises FaultError."""
        first = words.at(block + self._start)
        start = first * self._bytes
        end = None
        if self._size is not None:
            end = start + self._size - 1
        elif self._end is not None:
            end = (words.at(block + self._end) + 1) * self._bytes - 1
        number = self._prog.read_u64 if self._state_size == 8 else self._prog.read_u32
        try:
            name = self._prog.read_c_string(words.at(block + self._name), max_size=255)
        except FaultError:
            name = b""
        return MemoryBlock(
            block=Address(block),
            name=name.decode(errors="backslashreplace"),
            start=Address(start),
            end=None if end is None else Address(end),
            node=None if self._node is None else self._prog.read_u32(block + self._node),
            state=self._states.get(number(block + self._state), "UNKNOWN"),
            start_section=first,
            digits=self._digits,
        )


def block_states(enumerators: Iterable[tuple[str, int]]) -> Mapping[int, str]:
    """The names of enum memory_block_state, which has been there for few years."""
    named = {value: name.removeprefix("MEM_") for name, value in enumerators}
    return named or BLOCK_STATES


def lines(records: Iterable[Record], *, radix: int = 10) -> Iterator[str]:
    """Its dump_memory_nodes(), dump_mem_sections() and dump_memory_blocks()."""
    before: type[Record] | None = None
    for record in records:
        new = type(record) is not before
        if isinstance(record, MemoryNode):
            if before is not None:
                yield from ("", "-" * len(ZONE_HEADER), "")
            yield from _node_lines(record)
        elif isinstance(record, NodeZone):
            yield _zone_line(record)
        elif isinstance(record, MemorySection):
            if new:
                yield from ("", "-" * 67, "", SECTION_HEADER)
            yield _section_line(record, radix)
        else:
            if new:
                yield from ("", _block_header(record))
            yield _block_line(record)
        before = type(record)


def _node_lines(node: MemoryNode) -> Iterator[str]:
    bootmem = "----" if node.bootmem is None else f"{node.bootmem:x}"
    first, *zones = node.zones
    yield NODE_HEADER
    yield (
        f" {node.node:2}   {centered(str(node.pages), 8)}  {centered(f'{node.pgdat:x}', 16)}  "
        f"{centered(bootmem, 16)}  {centered(f'{first:x}', 16)}"
    )
    yield from (" " * 52 + f"{zone:x}" for zone in zones)
    mem_map = 0xFFFF_FFFF_FFFF_FFFF if node.mem_map is None else node.mem_map
    yield MAP_HEADER
    yield (
        f"{centered(f'{mem_map:x}', 16)}  {centered(f'{node.start:x}', 16, right=True)}  "
        f"{centered(str(node.start_mapnr), 11, right=True)}"
    )
    yield ""
    yield ZONE_HEADER


def _zone_line(zone: NodeZone) -> str:
    name = "(unknown)" if zone.name is None else zone.name
    return (
        f" {zone.zone:2}   {name:<9} {zone.pages:7}  {zone.mem_map or 0:>16x}  "
        f"{zone.start:>11x}  {zone.start_mapnr:>11}"
    )


def _section_line(section: MemorySection, radix: int) -> str:
    pfn = f"{section.pfn:x}" if radix == 16 else str(section.pfn)
    return (
        f"{section.section:2}  {centered(f'{section.address:x}', 16)}  "
        f"{centered(f'{section.coded_mem_map:x}', 16, right=True)}  "
        f"{centered(f'{section.mem_map:x}', 16, right=True)}  {centered(section.state, 5)} "
        f"{pfn:<16}"
    )


def _block_header(block: MemoryBlock) -> str:
    range_ = "PHYSICAL START" if block.end is None else "PHYSICAL RANGE"
    start = f"{centered('MEM_BLOCK', 16)} {centered('NAME', 10)}   "
    if block.node is None:
        return f"{start}{centered(range_, 2 * block.digits)}    {'STATE':<7} START_SECTION_NO"
    return f"{start}{centered(range_, 2 * block.digits + 2)}   NODE  {'STATE':<7} START_SECTION_NO"


def _block_line(block: MemoryBlock) -> str:
    if block.end is None:
        range_ = centered(f"{block.start:x}", 2 * block.digits + 3)
    else:
        range_ = f"{block.start:>{block.digits}x} - {block.end:>{block.digits}x}"
    end = f"{block.state:<7} {block.start_section:<12}"
    if block.node is None:
        return f" {block.block:<16x} {centered(block.name, 10)} {range_}  {end}"
    node = centered(str(block.node), 4)
    return f" {block.block:<16x} {centered(block.name, 12)} {range_} {node}  {end}"
