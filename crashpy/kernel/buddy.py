"""The page allocator: the zones of memory and their lists of free blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from drgn import FaultError, Program, TypeKind, offsetof, sizeof

from crashpy.faults import skipping
from crashpy.kernel.pages import Node, nodes


@dataclass(frozen=True, slots=True)
class Zone:
    """A ``struct zone``."""

    node: Node
    number: int
    address: int
    name: str | None  # None: the dump lacks it
    start_pfn: int
    spanned_pages: int
    free_pages: int  # vm_stat[NR_FREE_PAGES]


class FreeList(NamedTuple):
    """Where free blocks of a size and of a migrate type are."""

    order: int  # of the blocks: each is 1 << order pages
    area: int  # struct free_area *
    kind: int  # enum migratetype
    head: int  # struct list_head *


def zones(prog: Program) -> Iterator[Zone]:
    """Every zone of every node, the unpopulated ones too."""
    free = prog.constant("NR_FREE_PAGES").value_()
    for node in nodes(prog):
        for number, zone in enumerate(node.pgdat.node_zones):
            with skipping(f"zone {number} of node {node.number}"):
                read = zone.read_()
                yield Zone(
                    node=node,
                    number=number,
                    address=zone.address_ or 0,
                    name=_name(prog, read.name.value_()),
                    start_pfn=read.zone_start_pfn.value_(),
                    spanned_pages=read.spanned_pages.value_(),
                    free_pages=read.vm_stat[free].counter.value_(),
                )


def _name(prog: Program, address: int) -> str | None:
    try:
        return prog.read_c_string(address, max_size=255).decode(errors="backslashreplace")
    except FaultError:
        return None


def free_lists(prog: Program, zone: Zone) -> Iterator[FreeList]:
    """The lists of a zone, by order, then by migrate type. Nothing is read for them."""
    kind, link = prog.type("struct free_area"), sizeof(prog.type("struct list_head"))
    areas = prog.type("struct zone").member("free_area")
    lists = kind.member("free_list").type
    count = (lists.length or 0) if lists.kind == TypeKind.ARRAY else 1
    first = zone.address + offsetof(prog.type("struct zone"), "free_area")
    for order in range(areas.type.length or 0):
        area = first + order * sizeof(kind)
        for number in range(count):
            yield FreeList(order, area, number, area + number * link)
