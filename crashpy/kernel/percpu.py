"""Sums over CPUs that count those that a panic took offline."""

from __future__ import annotations

from drgn import Object, Program
from drgn.helpers.linux.cpumask import for_each_possible_cpu, for_each_present_cpu
from drgn.helpers.linux.percpu import per_cpu_ptr


def percpu_counter_sum(counter: Object) -> int:
    """The value of a ``struct percpu_counter``.

    The kernel walks online CPUs only: one that goes offline in order folds its share into
    the count and clears it (percpu_counter_cpu_dead()). A CPU stopped by a panic does not,
    so here every possible CPU counts; the share of the orderly ones is 0.
    """
    total: int = counter.count.value_()
    try:
        shares = counter.counters
    except AttributeError:  # !CONFIG_SMP
        return total
    for cpu in for_each_possible_cpu(counter.prog_):
        total += per_cpu_ptr(shares, cpu)[0].value_()
    return total


def cpu_count(prog: Program) -> int:
    """How many CPUs crash looks at (kt->cpus): up to the highest one present."""
    return max(for_each_present_cpu(prog), default=0) + 1


def per_cpu_offsets(prog: Program) -> list[int]:
    """What to add to a per-CPU address for CPU 0, 1, ... (__per_cpu_offset[])."""
    count = cpu_count(prog)
    try:
        table = prog["__per_cpu_offset"]
    except LookupError:  # !CONFIG_SMP
        return [0]
    return [table[cpu].value_() for cpu in range(count)]
