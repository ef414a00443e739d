"""CPUs: lists of them as users write them, sums that count those a panic took offline."""

from __future__ import annotations

from drgn import Object, Program
from drgn.helpers.linux.cpumask import for_each_possible_cpu, for_each_present_cpu
from drgn.helpers.linux.percpu import per_cpu_ptr

from crashpy.command import CommandError
from crashpy.numbers import dtol


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


def cpu_list(words: str, count: int) -> list[int]:
    """``0,2-4``, ``a``, ``all``: CPUs below `count`, ascending (crash's make_cpumask()).

    Raises CommandError for what is no such list.
    """
    found: set[int] = set()
    queue = [word for word in words.split(",") if word]
    while queue:
        word = queue.pop(0)
        if word in ("a", "all"):
            found.update(range(count))
            continue
        ends, more = (parts := [part for part in word.split("-") if part])[:2], parts[2:]
        numbers = [dtol(end) for end in ends]
        if not numbers or not all(number < count for number in numbers):
            raise CommandError(f"invalid cpu specification: {words}")
        found.update(range(numbers[0], numbers[-1] + 1))
        if more and not queue:  # as strtok() leaves it
            queue.append("-".join(more))
    return sorted(found)


def per_cpu_offsets(prog: Program) -> list[int]:
    """What to add to a per-CPU address for CPU 0, 1, ... (__per_cpu_offset[])."""
    count = cpu_count(prog)
    try:
        table = prog["__per_cpu_offset"]
    except LookupError:  # !CONFIG_SMP
        return [0]
    return [table[cpu].value_() for cpu in range(count)]
