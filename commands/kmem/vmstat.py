"""kmem -V: the kernel's counters of memory and of what happened to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from drgn import Program
from drgn.helpers.linux.percpu import per_cpu

from crashpy.dump import Dump
from crashpy.faults import skipping
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


def lines(stats: Iterable[VmStat]) -> Iterator[str]:
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
