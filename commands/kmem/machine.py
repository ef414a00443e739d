"""kmem -o: where each CPU's own variables are; kmem -h: sizes of huge pages."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from drgn import FaultError

from crashpy.command import Address, CommandError
from crashpy.dump import Dump
from crashpy.kernel.percpu import per_cpu_offsets
from crashpy.text import size


@dataclass(frozen=True)
class PerCpuOffset:
    """What is added to the address of a per-CPU variable."""

    cpu: int
    offset: Address
    hidden: bool  # the CPU is offline, and `set offline hide` is in force


@dataclass(frozen=True)
class HugePages:
    """A size of huge pages."""

    hstate: Address  # struct hstate *
    page_bytes: int
    free: int
    total: int
    name: str


Record = PerCpuOffset | HugePages


def per_cpu(dump: Dump, hidden: Collection[int] = ()) -> Iterator[PerCpuOffset]:
    for cpu, offset in enumerate(per_cpu_offsets(dump.prog)):
        yield PerCpuOffset(cpu, Address(offset), cpu in hidden)


def huge_pages(dump: Dump) -> Iterator[HugePages]:
    """Every size that the machine has set up."""
    try:
        states = dump.prog["hstates"]
    except LookupError:
        dump.report("hstates[] array does not exist")
        raise CommandError(unsupported("h")) from None
    for state in states:
        try:
            read = state.read_()
        except FaultError:  # the array is one piece
            return
        if order := read.order.value_():
            yield HugePages(
                hstate=Address(state.address_),
                page_bytes=dump.page_size << order,
                free=read.free_huge_pages.value_(),
                total=read.nr_huge_pages.value_(),
                name=read.name.string_().decode(errors="backslashreplace"),
            )


def unsupported(letter: str) -> str:
    """Its option_not_supported()."""
    return f"-{letter} option not supported or applicable on this architecture or kernel"


def lines(records: Iterable[Record]) -> Iterator[str]:
    """A title, which both have even when nothing follows it."""
    header = True
    for record in records:
        if isinstance(record, PerCpuOffset):
            if header:
                yield "PER-CPU OFFSET VALUES:"
            yield f"{f'CPU {record.cpu}':>7}: {record.offset:x}{' [OFFLINE]' * record.hidden}"
        else:
            if header:
                yield "     HSTATE        SIZE    FREE   TOTAL  NAME"
            short = size(record.page_bytes).replace(" ", "", 1)
            yield (
                f"{record.hstate:x}  {short:>5}  {record.free:>6}  {record.total:>6}  {record.name}"
            )
        header = False
