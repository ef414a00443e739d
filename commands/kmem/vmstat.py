"""kmem -V: the kernel's counters of memory; -z: those of each zone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from drgn import FaultError, Object, Program
from drgn.helpers.linux.percpu import per_cpu

from crashpy.command import Address, CommandError
from crashpy.dump import Dump
from crashpy.faults import skipping
from crashpy.kernel.pages import nodes
from crashpy.kernel.percpu import cpu_count

# Table, its enum, the enumerator that ends it. One table, vm_stat, until 75ef71840539
# ("mm, vmstat: add infrastructure for per-node vmstats") (4.8).
GLOBAL = (
    ("vm_zone_stat", "zone_stat_item", "NR_VM_ZONE_STAT_ITEMS"),
    ("vm_node_stat", "node_stat_item", "NR_VM_NODE_STAT_ITEMS"),
    ("vm_numa_stat", "numa_stat_item", "NR_VM_NUMA_STAT_ITEMS"),
)
OLD_GLOBAL = (("vm_stat", "zone_stat_item", "NR_VM_ZONE_STAT_ITEMS"),)


@dataclass(frozen=True)
class VmStat:
    """A counter of the whole machine."""

    table: str  # VM_ZONE_STAT, VM_NODE_STAT, ...
    name: str
    value: int  # pages, but for the few whose name says otherwise


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
    stats: tuple[tuple[str, int], ...]
    all_unreclaimable: bool | None = None  # None: not known of this kernel
    pages_scanned: int | None = None


def items(prog: Program, enum: str, end: str) -> list[str]:
    """The names of an enum's values from 0 to `end`; of two for one value, the last."""
    values = dict((value, name) for name, value in prog.type(f"enum {enum}").enumerators or ())
    count = prog.constant(end).value_()
    return [values.get(number, "") for number in range(count)]


def global_stats(prog: Program) -> Iterator[VmStat]:
    """Every counter of the tables that this kernel has."""
    for table, enum, end in GLOBAL if "vm_zone_stat" in prog else OLD_GLOBAL:
        try:
            counters = prog[table]
            names = items(prog, enum, end)
        except LookupError:
            continue
        for name, counter in zip(names, counters, strict=False):
            yield VmStat(table.upper(), name, counter.counter.value_())


def vm_stats(dump: Dump) -> Iterator[VmStat]:
    """The tables of counters, and how often each event happened on all CPUs."""
    prog = dump.prog
    yield from global_stats(prog)
    try:
        states = prog["vm_event_states"]
        names = items(prog, "vm_event_item", "NR_VM_EVENT_ITEMS")
    except LookupError:  # !CONFIG_VM_EVENT_COUNTERS
        return
    totals = [0] * len(names)
    for cpu in range(cpu_count(prog)):
        with skipping(f"vm_event_states of CPU {cpu}"):
            events = per_cpu(states, cpu).event.value_()
            totals = [total + count for total, count in zip(totals, events, strict=False)]
    mask = (1 << 64) - 1
    for name, total in zip(names, totals, strict=True):
        yield VmStat("VM_EVENT_STATES", name, total & mask)


def vm_stat_lines(stats: Iterable[VmStat]) -> Iterator[str]:
    """A heading for each table (dump_vm_stat(), dump_vm_event_state())."""
    tables: dict[str, list[VmStat]] = {}
    for stat in stats:
        tables.setdefault(stat.table, []).append(stat)
    counters = [s for table, found in tables.items() if table != "VM_EVENT_STATES" for s in found]
    for number, (table, found) in enumerate(tables.items()):
        if number or table == "VM_EVENT_STATES":
            yield ""
        yield f"  {table}:"
        aligned = found if table == "VM_EVENT_STATES" else counters
        width = max(len(stat.name) for stat in aligned)
        for stat in found:
            yield f"{stat.name:>{width}}: {stat.value}"


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
    # _watermark since a9214443c24d ("mm: move watermark boost ...") (5.0): crash too shows
    # them without the boost.
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
        stats=tuple(
            (name, counter.counter.value_())
            for name, counter in zip(names, zone.vm_stat, strict=False)
        ),
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


def zones_lines(zones: Iterable[Zone]) -> Iterator[str]:
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
    width = max((len(name) for name, _ in zone.stats), default=0)
    for name, value in zone.stats:
        yield f"{name:>{width}}: {value}"
    reclaim = ""
    if zone.all_unreclaimable is not None:
        reclaim += f"  ALL_UNRECLAIMABLE: {'yes' if zone.all_unreclaimable else 'no'}  "
    if zone.pages_scanned is not None:
        reclaim += f"PAGES_SCANNED: {zone.pages_scanned}  "
    yield reclaim
    yield ""
