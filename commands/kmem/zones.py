"""kmem -z: the zones of memory and their counters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from drgn import FaultError, Object

from crashpy.command import Address, CommandError
from crashpy.dump import Dump
from crashpy.faults import skipping
from crashpy.kernel.pages import nodes

from .vmstat import items


@dataclass(frozen=True)
class Zone:
    """A zone of memory and its counters."""

    node: int
    zone: int
    address: Address  # struct zone *
    name: str
    spanned_pages: int
    present_pages: int
    min_pages: int  # watermarks
    low_pages: int
    high_pages: int
    stats: Mapping[str, int]  # pages
    all_unreclaimable: bool | None = None  # None: not known of this kernel
    pages_scanned: int | None = None


def zones(dump: Dump) -> Iterator[Zone]:
    """Every zone of every node, the unpopulated ones too."""
    prog = dump.prog
    try:
        names = items(prog, "zone_stat_item", "NR_VM_ZONE_STAT_ITEMS")
    except LookupError as error:
        raise CommandError("zone struct has unknown size field") from error
    for node in nodes(prog):
        for number, zone in enumerate(node.pgdat.node_zones):
            with skipping(f"zone {number} of node {node.number}"):
                yield _zone(zone.read_(), Address(zone.address_), node.number, number, names)


def _zone(zone: Object, address: Address, node: int, number: int, names: list[str]) -> Zone:
    try:
        name = zone.name.string_().decode(errors="backslashreplace")
    except FaultError:
        name = "(unknown) "
    # _watermark since a921444382b4 ("mm: move zone watermark accesses behind an accessor")
    # (5.0). crash too shows the marks without the boost.
    try:
        marks = zone.member_("_watermark")
    except LookupError:
        marks = zone.watermark
    return Zone(
        node=node,
        zone=number,
        address=address,
        name=name,
        spanned_pages=zone.spanned_pages.value_(),
        present_pages=zone.present_pages.value_(),
        min_pages=marks[0].value_(),
        low_pages=marks[1].value_(),
        high_pages=marks[2].value_(),
        stats={
            name: counter.counter.value_()
            for name, counter in zip(names, zone.vm_stat, strict=False)
        },
        all_unreclaimable=_all_unreclaimable(zone),
        pages_scanned=(
            zone.pages_scanned.value_() if zone.type_.has_member("pages_scanned") else None
        ),
    )


def _all_unreclaimable(zone: Object) -> bool | None:
    """Until 4.12 a zone kept in mind that reclaim had failed."""
    if zone.type_.has_member("all_unreclaimable"):
        return bool(zone.all_unreclaimable.value_())
    try:
        bit = zone.prog_.constant("ZONE_ALL_UNRECLAIMABLE").value_()
    except LookupError:
        return None
    return bool(zone.flags.value_() >> bit & 1)


def lines(zones: Iterable[Zone]) -> Iterator[str]:
    """A paragraph for each zone (dump_zone_stats())."""
    for zone in zones:
        yield from _zone_lines(zone)


def _zone_lines(zone: Zone) -> Iterator[str]:
    yield (f'NODE: {zone.node}  ZONE: {zone.zone}  ADDR: {zone.address:x}  NAME: "{zone.name}"')
    if not zone.spanned_pages:
        yield "  [unpopulated]"
        yield ""
        return
    present = ""
    if zone.present_pages < zone.spanned_pages:
        present = f"  PRESENT: {zone.present_pages}"
    marks = f"{zone.min_pages}/{zone.low_pages}/{zone.high_pages}"
    yield f"  SIZE: {zone.spanned_pages}{present}  MIN/LOW/HIGH: {marks}"
    yield "  VM_STAT:"
    width = max(map(len, zone.stats), default=0)
    for name, value in zone.stats.items():
        yield f"{name:>{width}}: {value}"
    reclaim = ""
    if zone.all_unreclaimable is not None:
        reclaim += f"  ALL_UNRECLAIMABLE: {'yes' if zone.all_unreclaimable else 'no'}  "
    if zone.pages_scanned is not None:
        reclaim += f"PAGES_SCANNED: {zone.pages_scanned}  "
    yield reclaim
    yield ""
