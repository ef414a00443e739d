"""The kernel's stacks that are not a task's own: interrupt, exception and entry stacks."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from drgn import FaultError, Object, Program, sizeof
from drgn.helpers.linux.cpumask import for_each_present_cpu
from drgn.helpers.linux.percpu import per_cpu

MOST = 7  # entries of the TSS's interrupt stack table

# What crash calls the stack that a vector's handler uses, by a part of the handler's name.
NAMES = (
    ("nmi", "NMI"),
    ("debug", "DEBUG"),
    ("stack", "STACKFAULT"),
    ("double", "DOUBLEFAULT"),
    ("machine", "MCE"),
    ("vmm", "VC"),
)
MEMBERS = {
    "DEBUG": "DB_stack",
    "NMI": "NMI_stack",
    "DOUBLEFAULT": "DF_stack",
    "MCE": "MCE_stack",
    "VC": "VC_stack",
}


@dataclass(frozen=True, slots=True)
class Area:
    """A stack."""

    name: str
    cpu: int
    base: int
    top: int
    index: int = 0  # in the interrupt stack table
    available: bool = True

    def holds(self, address: int) -> bool:
        return self.base <= address < self.top


class Areas:
    """The per-CPU stacks of a dump."""

    def __init__(self, prog: Program, function_at: Callable[[int], str | None]) -> None:
        self._prog = prog
        self.cpus = max(for_each_present_cpu(prog), default=-1) + 1
        self.irq: dict[int, Area] = dict(self._irq_stacks())
        self.exception: dict[int, list[Area]] = {}
        self._read_exception_stacks(self._names(function_at))

    def in_irq(self, address: int) -> Area | None:
        return next((a for a in self.irq.values() if a.base <= address < a.top), None)

    def in_exception(self, address: int) -> Area | None:
        for stacks in self.exception.values():
            for area in stacks:
                if not area.available:
                    break
                if area.base <= address < area.top:
                    return area
        return None

    def in_alternate(self, cpu: int, address: int) -> bool:
        """Whether the address is in an interrupt or exception stack of this CPU."""
        if (area := self.irq.get(cpu)) and area.holds(address):
            return True
        return any(area.holds(address) for area in self.exception.get(cpu, ()))

    def entry_frame(self, cpu: int, address: int) -> int | None:
        """The struct pt_regs that an entry into the kernel on its entry stack leaves there."""
        for start, end in self._entry_stacks(cpu):
            if start <= address < end:
                return end - 168
        return None

    def _entry_stacks(self, cpu: int) -> Iterator[tuple[int, int]]:
        prog = self._prog
        try:
            words = per_cpu(prog["entry_stack_storage"], cpu).stack.words
            size = sizeof(words)
            start = _address(words)
            yield start, start + size
            # Entries run on its mapping in the cpu_entry_area, where crash does not look.
            top = per_cpu(prog["cpu_tss_rw"], cpu).x86_tss.sp0.value_()
            yield top - size, top
        except (LookupError, AttributeError, FaultError):
            return

    def _irq_stacks(self) -> list[tuple[int, Area]]:
        size = self._irq_size()
        found = []
        for cpu in range(self.cpus):
            try:
                base = self._irq_base(cpu, size)
            except FaultError:
                continue
            if base is None:
                break
            found.append((cpu, Area("IRQ", cpu, base, base + size)))
        return found

    def _irq_size(self) -> int:
        for name, member in (("union irq_stack_union", "irq_stack"), ("struct irq_stack", "stack")):
            try:
                size = sizeof(self._prog.type(name).member(member).type)
            except LookupError:
                continue
            if size:
                return size
        return 16384

    def _irq_base(self, cpu: int, size: int) -> int | None:
        prog = self._prog
        try:
            # Linux kernel commit d7b6d709a76a ("x86/percpu: Move irq_stack variables next to
            # current_task") (in v6.2), undone in v6.15.
            pointer = per_cpu(prog["pcpu_hot"], cpu).hardirq_stack_ptr.value_()
        except (KeyError, AttributeError):
            try:
                pointer = per_cpu(prog["hardirq_stack_ptr"], cpu).value_()
            except KeyError:
                try:
                    return _address(per_cpu(prog["irq_stack_union"], cpu))
                except KeyError:
                    return None
        # From 5.8 on it points at the last word of the stack.
        top = pointer if pointer & 0xFFF == 0 else pointer + 8
        return int(top) - size

    def _names(self, function_at: Callable[[int], str | None]) -> list[str]:
        """The names of the interrupt stack table's stacks, from the IDT's handlers."""
        names = ["(unknown)"] * MOST
        try:
            table = self._prog.read(_address(self._prog["idt_table"]), 16 * 256)
        except (LookupError, FaultError):
            return names
        for low, bits, middle, high in struct.iter_unpack("<HxxHHIxxxx", table):
            index = bits & 7
            if not index:
                continue
            handler = function_at(low | middle << 16 | high << 32) or ""
            for part, name in NAMES:
                if part in handler:
                    names[index - 1] = name
        return names

    def _read_exception_stacks(self, names: list[str]) -> None:
        tops: dict[int, list[int]] = {}
        for cpu in range(self.cpus):
            try:
                table = self._table(cpu)
            except (LookupError, AttributeError, FaultError):
                break
            if not table[0]:
                break
            tops[cpu] = table
        sizes = self._sizes(names, tops.get(0, [0] * MOST))
        for cpu, table in tops.items():
            stacks = self.exception[cpu] = []
            for index, (name, top, size) in enumerate(zip(names, table, sizes, strict=True)):
                if not top:
                    break
                base = top - size
                stacks.append(Area(name, cpu, base, top, index, self._readable(base)))

    def _table(self, cpu: int) -> list[int]:
        prog = self._prog
        try:
            found = per_cpu(prog["orig_ist"], cpu).ist
        except KeyError:
            for name in ("cpu_tss_rw", "cpu_tss", "init_tss"):
                try:
                    tss = per_cpu(prog[name], cpu)
                    break
                except KeyError:
                    continue
            else:
                raise
            found = tss.x86_tss.ist
        return [int(x) for x in found.read_()]

    def _sizes(self, names: list[str], tops: list[int]) -> list[int]:
        for name in ("struct cea_exception_stacks", "struct exception_stacks"):
            try:
                kind = self._prog.type(name)
                if not kind.has_member("NMI_stack"):
                    continue
            except LookupError:
                continue
            sizes = []
            for stack in names:
                member = MEMBERS.get(stack)
                known = member is not None and kind.has_member(member)
                size = sizeof(kind.member(member).type) if member and known else 0
                sizes.append(size)
            return sizes
        size = tops[1] - tops[0] if tops[0] and tops[1] else 4096
        return [size * 2 if name == "DEBUG" else size for name in names]

    def _readable(self, address: int) -> bool:
        try:
            self._prog.read(address, 1)
        except FaultError:
            return False
        return True


def _address(variable: Object) -> int:
    return int(variable.address_of_().value_())
