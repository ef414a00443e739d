"""ptov: physical addresses and per-CPU offsets to kernel addresses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drgn.helpers.linux.mm import pfn_to_virt

from crashpy.command import Address, UsageError, command, operands
from crashpy.numbers import WORD, htol

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.settings import Settings


@dataclass(frozen=True)
class DirectMapped:
    physical: Address
    virtual: Address  # in the direct map


@dataclass(frozen=True)
class PerCpu:
    offset: Address
    cpu: int
    virtual: Address
    offline: bool = False  # and `set offline hide` asks to say so
    # How crash shows it.
    first: bool = field(default=False, repr=False)  # of this operand
    width: int = field(default=5, repr=False)  # of the column CPU


@command(
    operands("words", "address|offset:cpuspec", str, "what to translate"),
    usage="[address | offset:cpuspec]",
)
def ptov(
    dump: Dump, *, words: Sequence[str] = (), settings: Settings | None = None
) -> Iterator[DirectMapped | PerCpu]:
    """the kernel address of a physical address, or of a per-CPU offset

    A hexadecimal physical address gives its place in the direct map of all memory.
    OFFSET:CPUSPEC gives where each of the CPUs has the per-CPU object with that offset
    (what `sym` shows of a per-CPU symbol). CPUSPEC is empty for the CPU of the current
    context, or `1,3-5`, or `a` or `all` for every CPU.

    EXAMPLES
      crash> ptov 56e000
      VIRTUAL           PHYSICAL
      ffffa0bb8056e000  56e000

      crash> ptov 29220:0,1
      PER-CPU OFFSET: 29220
        CPU    VIRTUAL
        [0]  ffffa0bb87229220
        [1]  ffffa0bb872a9220
    """
    if not words:
        raise UsageError
    for word in words:
        number, colon, cpus = word.partition(":")
        if colon:
            yield from _per_cpu(dump, number, cpus, settings)
            continue
        physical = htol(number)
        start: int = pfn_to_virt(dump.prog, 0).value_()
        yield DirectMapped(Address(physical), Address(physical + start & WORD))


def _per_cpu(dump: Dump, number: str, words: str, settings: Settings | None) -> Iterator[PerCpu]:
    from crashpy.kernel.percpu import cpu_list, per_cpu_offsets

    starts = per_cpu_offsets(dump.prog)
    cpus = cpu_list(words, len(starts)) if words else [dump.context.cpu]
    offset = htol(number)
    hide = settings is not None and settings.offline == "hide"
    for cpu in cpus:
        yield PerCpu(
            Address(offset),
            cpu,
            Address(offset + starts[cpu] & WORD),
            offline=hide and cpu not in dump.tasks.online,
            first=cpu == cpus[0],
            width=len(f"[{len(starts) - 1}]") + 2,
        )


@ptov.text
def lines(found: Iterable[DirectMapped | PerCpu]) -> Iterator[str]:
    another = False
    for one in found:
        if isinstance(one, DirectMapped):
            if another:
                yield ""
            yield f"{'VIRTUAL':<16}  {'PHYSICAL':<16}"
            yield f"{one.virtual:<16x}  {one.physical:<16x}"
        else:
            if one.first:
                if another:
                    yield ""
                yield f"PER-CPU OFFSET: {one.offset:x}"
                yield f"  {'CPU':<{one.width}}  {'VIRTUAL':<16}"
            cpu = f"[{one.cpu}]"
            yield f"  {cpu:<{one.width}}{one.virtual:x}" + " [OFFLINE]" * one.offline
        another = True
