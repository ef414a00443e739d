"""`:cpuspec`: a variable of one CPU, of some, of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crashpy.kernel.percpu import cpu_count, cpu_list

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.symbols import Symbol


def chosen_cpus(dump: Dump, spec: str) -> list[int]:
    """The CPUs that a cpuspec means: the context's, `a`, or ``1,3,5-7`` (make_cpumask())."""
    if not spec:
        return [dump.context.cpu]
    return cpu_list(spec, cpu_count(dump.prog))


def is_per_cpu(dump: Dump, symbol: Symbol) -> bool:
    """Whether a symbol lies in the kernel's or a module's static per-CPU memory."""
    table = dump.symbols
    start, end = table.named("__per_cpu_start"), table.named("__per_cpu_end")
    if start is None or end is None or symbol.address < start.address:
        return False
    if symbol.address < end.address:
        return True
    return symbol.module is not None and symbol.address < 1 << 32


def offline(dump: Dump, cpu: int) -> bool:
    """Whether a CPU is not online; those that the panic stopped count as offline too."""
    from drgn.helpers.linux.cpumask import for_each_online_cpu

    return cpu not in set(for_each_online_cpu(dump.prog))
