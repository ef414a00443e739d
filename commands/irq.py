"""irq: interrupts, their handlers, counts and CPUs."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from drgn import FaultError, Object, Program, sizeof

from crashpy.command import Address, CommandError, UsageError, command, flag, operands, value
from crashpy.faults import skipping
from crashpy.kernel.percpu import cpu_count, cpu_list
from crashpy.numbers import dtol
from crashpy.text import centered

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.settings import Settings

MOST_ACTIONS = 1024  # of one interrupt that is shared
VECTORS = 256


@dataclass(frozen=True)
class Action:
    address: Address  # struct irqaction *
    name: str | None


@dataclass(frozen=True)
class Interrupt:
    irq: int
    descriptor: Address | None  # struct irq_desc *; None where there is none
    actions: tuple[Action, ...]


@command(
    flag("-u", "used", "only interrupts that have a descriptor"),
    flag("-s", "counts", "how often each CPU took each interrupt"),
    value("-c", "cpus", "cpu", str, "with -s: only these CPUs", repeat=True),
    operands("indexes", "index", str, "only these interrupts"),
    usage="[[[index ...] | -u ] | -d | -b | -a | -s [-c cpu]]",
)
def irq(
    dump: Dump,
    *,
    used: bool = False,
    counts: bool = False,
    cpus: Sequence[str] = (),
    indexes: Sequence[str] = (),
    settings: Settings | None = None,
) -> Iterator[Interrupt | Columns | Counts]:
    """interrupts

    The struct irq_desc of each interrupt number and the struct irqaction and name of
    each of its handlers.

    -u  only interrupt numbers that have a descriptor
    -d  the functions in the interrupt descriptor table
    -b  the functions of the softirqs
    -a  the CPUs that each interrupt may go to
    -s  how often each CPU took each interrupt; with -c only CPUs `1`, `0,2-3`, `a`

    EXAMPLES
      crash> irq 4
       IRQ   IRQ_DESC/_DATA      IRQACTION      NAME
        4   ffffa0bb80170400  ffffa0bb808cb300  "ttyS0"

      crash> irq -s -c 0,2
                 CPU0       CPU2
        0:         82          0  IO-APIC-edge     timer
        4:          0         24  IO-APIC-edge     ttyS0
    """
    if len(cpus) > 1:
        dump.report("only one -c option allowed")
        raise UsageError
    number = _number_of_interrupts(dump.prog)
    if counts:
        yield from _counts(dump, number, cpus[0] if cpus else None, settings)
        return
    if indexes:
        for word in indexes:
            index = dtol(word)
            if index >= number:
                raise CommandError(f"invalid IRQ value: {index}  ({number - 1} max)")
            yield _interrupt(index, _descriptor(dump.prog, index))
        return
    descriptors = dict(_descriptors(dump, number))
    for index in range(number):
        descriptor = descriptors.get(index)
        if descriptor is not None or not used:
            yield _interrupt(index, descriptor)


def _number_of_interrupts(prog: Program) -> int:
    from drgn.helpers.linux.irq import irq_get_nr_irqs

    try:
        return int(irq_get_nr_irqs(prog))
    except (LookupError, FaultError):
        raise CommandError("cannot determine number of IRQs") from None


def _descriptor(prog: Program, index: int) -> Object | None:
    from drgn.helpers.linux.irq import irq_to_desc

    with skipping(f"the descriptor of IRQ {index}"):
        found = irq_to_desc(prog, index)
        return found if found else None
    return None


def _descriptors(dump: Dump, number: int) -> Iterator[tuple[int, Object]]:
    """Of all interrupts, by number."""
    from drgn.helpers.linux.irq import for_each_irq_desc

    with skipping("the rest of the interrupt descriptors"):
        for index, descriptor in islice(for_each_irq_desc(dump.prog), number):
            if 0 <= index < number:
                yield int(index), descriptor


def _interrupt(index: int, descriptor: Object | None) -> Interrupt:
    if descriptor is None:
        return Interrupt(index, None, ())
    actions: tuple[Action, ...] = ()
    with skipping(f"the actions of IRQ {index}"):
        actions = tuple(_actions(descriptor))
    return Interrupt(index, Address(descriptor.value_()), actions)


def _actions(descriptor: Object) -> Iterator[Action]:
    action = descriptor.action.read_()
    for _ in range(MOST_ACTIONS):
        if not action:
            return
        yield Action(Address(action.value_()), _string(action.name))
        action = action.next.read_()


def _string(text: Object) -> str | None:
    try:
        return text.string_().decode(errors="backslashreplace") if text else None
    except FaultError:
        return None


@irq.text
def lines(records: Iterable[Interrupt | Columns | Counts]) -> Iterator[str]:
    titled = False
    for record in records:
        if isinstance(record, Columns):
            yield "     " + "".join(f"{f'CPU{cpu}':>10} " for cpu in record.cpus)
        elif isinstance(record, Counts):
            yield _count_line(record)
        else:
            if not titled:
                titled = True
                titles = centered("IRQ_DESC/_DATA", 16), centered("IRQACTION", 16)
                yield f" IRQ  {titles[0]}  {titles[1]}  NAME"
            yield from _interrupt_lines(record)


def _interrupt_lines(record: Interrupt) -> Iterator[str]:
    descriptor = "(unused)" if record.descriptor is None else f"{record.descriptor:x}"
    start = f"{centered(str(record.irq), 4, right=True)}  {centered(descriptor, 16)}  "
    for action in record.actions:
        name = "" if action.name is None else f'"{action.name}"'
        yield f"{start}{centered(f'{action.address:x}', 16)}  {name}"
        start = " " * 24
    if not record.actions:
        yield f"{start}{'(unused)':^16}  "


@dataclass(frozen=True)
class Columns:
    """The CPUs whose counts follow."""

    cpus: tuple[int, ...]


@dataclass(frozen=True)
class Counts:
    irq: int
    counts: dict[int, int | None]  # by CPU
    chip: str | None
    handler: str | None  # irq_desc.name: edge, level
    names: tuple[str, ...]  # of the actions


def _counts(
    dump: Dump, number: int, words: str | None, settings: Settings | None
) -> Iterator[Columns | Counts]:
    from drgn.helpers.linux.irq import irq_desc_kstat_cpu

    count = cpu_count(dump.prog)
    cpus = list(range(count)) if words is None else cpu_list(words, count)
    if settings is not None and settings.offline == "hide":
        for cpu in cpus:
            if cpu not in dump.tasks.online:
                dump.report(f"CPU{cpu} is OFFLINE.")
        cpus = [cpu for cpu in cpus if cpu in dump.tasks.online]
    yield Columns(tuple(cpus))
    for index, descriptor in _descriptors(dump, number):
        with skipping(f"IRQ {index}"):
            actions = tuple(_actions(descriptor))
            if not actions:
                continue
            found: dict[int, int | None] = dict.fromkeys(cpus)
            for cpu in cpus:
                with skipping(f"the count of IRQ {index} on CPU {cpu}"):
                    found[cpu] = irq_desc_kstat_cpu(descriptor, cpu)
            chip = descriptor.irq_data.chip
            yield Counts(
                index,
                found,
                _string(chip.name) if chip else None,
                _string(descriptor.name),
                tuple(action.name for action in actions if action.name),
            )


def _count_line(record: Counts) -> str:
    line = f"{record.irq:3}: "
    for count in record.counts.values():
        line += f"{'--' if count is None else count:>10} "
    if record.chip is not None:
        line += f"{record.chip:>8}"
    if record.handler is not None:
        line += f"-{record.handler:<8}"
    return f"{line} {','.join(record.names)}"


@dataclass(frozen=True)
class Affinity:
    irq: int
    names: tuple[str, ...]  # of the actions
    cpus: tuple[int, ...]


@irq.mode("-a", "the CPUs that each interrupt may go to", first=True)
def irq_affinity(dump: Dump) -> Iterator[Affinity]:
    """the CPUs that each interrupt may go to"""
    from drgn.helpers.linux.irq import irq_desc_affinity_mask

    prog, count = dump.prog, cpu_count(dump.prog)
    for index, descriptor in _descriptors(dump, _number_of_interrupts(prog)):
        with skipping(f"IRQ {index}"):
            actions = tuple(_actions(descriptor))
            if not actions:
                continue
            bits = irq_desc_affinity_mask(descriptor).bits
            words = -(-count // 64)
            mask = 0
            for word in range(min(words, sizeof(bits) // 8)):
                mask |= bits[word].value_() << 64 * word
            cpus = tuple(cpu for cpu in range(count) if mask >> cpu & 1)
            yield Affinity(index, tuple(a.name for a in actions if a.name), cpus)


@irq_affinity.text
def affinity_lines(found: Iterable[Affinity]) -> Iterator[str]:
    yield "IRQ NAME                 AFFINITY"
    for one in found:
        yield f"{one.irq:3} {','.join(one.names):<20} {_ranges(one.cpus)}"


def _ranges(cpus: Sequence[int]) -> str:
    """``0,2-3`` (crash's display_cpu_affinity())."""
    parts: list[list[int]] = []
    for cpu in cpus:
        if parts and parts[-1][1] == cpu - 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in parts)


@dataclass(frozen=True)
class Gate:
    vector: int
    function: Address
    symbol: str  # with its offset; empty where no symbol is near


@irq.mode("-d", "the interrupt descriptor table", first=True)
def irq_gates(dump: Dump, *, settings: Settings | None = None) -> Iterator[Gate]:
    """the functions in the interrupt descriptor table"""
    try:
        table = dump.prog.symbol("idt_table").address
    except LookupError:
        raise CommandError(
            "-d option not supported or applicable on this architecture or kernel"
        ) from None
    radix = settings.radix if settings is not None else 10
    data = dump.prog.read(table, 16 * VECTORS)
    for vector, (low, high) in enumerate(struct.iter_unpack("QQ", data)):
        function = (high & 0xFFFFFFFF) << 32 | low >> 32 & 0xFFFF0000 | low & 0xFFFF
        yield Gate(vector, Address(function), dump.symbols.format(function, radix))


@irq_gates.text
def gate_lines(gates: Iterable[Gate]) -> Iterator[str]:
    for gate in gates:
        yield f"{f'[{gate.vector}]':>5} {gate.symbol or f'{gate.function:016x}'}"


@dataclass(frozen=True)
class SoftIrq:
    number: int
    action: Address
    symbol: str | None
    module: str | None


@irq.mode("-b", "the functions of the softirqs", first=True)
def irq_softirqs(dump: Dump) -> Iterator[SoftIrq]:
    """the functions of the softirqs"""
    try:
        vectors = dump.prog["softirq_vec"]
    except LookupError:
        raise CommandError("bottom-half option not supported") from None
    for number, vector in enumerate(vectors):
        if action := vector.action.value_():
            found = dump.symbols.at(action)
            name = found[0].name if found is not None and not found[1] else None
            module = dump.symbols.module_of(action)
            yield SoftIrq(number, Address(action), name, module.name if module else None)


@irq_softirqs.text
def softirq_lines(found: Iterable[SoftIrq]) -> Iterator[str]:
    yield f"SOFTIRQ_VEC {centered('ACTION', 16, right=True)}"
    for one in found:
        action = centered(f"{one.action:x}", 16, right=True)
        line = f"{f'    [{one.number}]':<11} {action}  <{one.symbol or '(null)'}>"
        yield line + (f"  [{one.module}]" if one.module else "")
