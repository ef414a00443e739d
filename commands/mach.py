"""mach: the machine: its address spaces, stacks, memory map, processors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from drgn import Architecture, FaultError, Object, Program, TypeKind

from crashpy.command import Address, CommandError, command, flag, getopt
from crashpy.gdb.memory import KERNEL_MAP, MODULES
from crashpy.gdb.percpu import offline
from crashpy.gdb.values import Style
from crashpy.kernel.clock import tick_rate
from crashpy.kernel.mm import has_symbol
from crashpy.kernel.percpu import cpu_count
from crashpy.text import size

from .struct import Contents, compound, contents, contents_lines

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.kernel.stack.areas import Area
    from crashpy.settings import Settings

GIB = 1 << 30
KINDS = {
    0: "(invalid type)",
    1: "E820_RAM",
    2: "E820_RESERVED",
    3: "E820_ACPI",
    4: "E820_NVS",
    5: "E820_UNUSABLE",
    12: "E820_PRAM",
    128: "E820_RESERVED_KERN",
}


@dataclass(frozen=True)
class Stack:
    cpu: int
    base: Address
    available: bool  # False where the dump does not hold its first byte
    offline: bool = False  # and `set offline hide` was said


@dataclass(frozen=True)
class Stacks:
    """The stacks of one purpose, one of each CPU."""

    name: str  # IRQ, NMI, DOUBLEFAULT, ...
    size_bytes: int
    stacks: tuple[Stack, ...]


@dataclass(frozen=True)
class Machine:
    """What is not in the dump is None."""

    type: str
    memory_bytes: int | None
    cpus: int
    offline: int
    hypervisor: str | None  # None of bare hardware, and where the kernel does not say
    mhz: int | None
    hz: int  # ticks of a second
    page_size: int
    virtual_base: Address | None  # of all memory, mapped in one piece
    vmalloc_base: Address | None
    vmemmap_base: Address | None  # of the array of struct page
    start_map: Address  # of the kernel's text
    modules_base: Address
    stack_size_bytes: int
    stacks: tuple[Stacks, ...]


@dataclass(frozen=True)
class MemoryRange:
    """An entry of the firmware's map of physical memory."""

    start: Address
    end: Address  # the first address behind it
    type: str


@dataclass(frozen=True)
class MemoryMap:
    ranges: tuple[MemoryRange, ...]


@dataclass(frozen=True)
class Cpu:
    cpu: int
    cpuinfo: Contents | None  # struct cpuinfo_x86; None of a CPU that is hidden

    def __json__(self) -> dict[str, Any]:
        return {"cpu": self.cpu, "cpuinfo_x86": self.cpuinfo}


Record = Machine | MemoryMap | Cpu
LETTERS = {f"-{letter}": flag(f"-{letter}", letter, "") for letter in "cmxd"}


@command(usage="[-m | -c -[xd] | -o]", words=True)
def mach(
    dump: Dump, *, words: Sequence[str] = (), settings: Settings | None = None
) -> Iterator[Record]:
    """the machine: its address spaces, stacks, memory map, processors

    Memory, CPUs and their speed, the rate of ticks, where the kernel's address space is
    divided, and the interrupt and exception stacks of each CPU.

    -m  the map of physical memory that the firmware gave (E820)
    -c  the struct cpuinfo_x86 of each CPU; with -x in hexadecimal, with -d in decimal

    EXAMPLES
      crash> mach -m
            PHYSICAL ADDRESS RANGE         TYPE
      0000000000000000 - 0000000000001000  E820_RESERVED
      0000000000001000 - 000000000009fc00  E820_RAM
      ...

      crash> mach
      mach -c                  what is known of each processor
    """
    platform = dump.prog.platform
    if platform is None or platform.arch != Architecture.X86_64:
        raise CommandError("only x86-64 machines are known to this command")
    given: list[str] = []
    for option, _ in getopt(words, LETTERS)[0]:
        letter = option.dest
        if letter == "m":
            yield memory_map(dump.prog)
        elif letter in "xd" and "xd".replace(letter, "") in given:
            raise CommandError("-d and -x are mutually exclusive")
        given.append(letter)
    hide = settings is not None and settings.offline == "hide"
    if "c" in given:
        yield from _processors(dump, hide)
    elif "m" not in given:
        yield machine(dump, hide=hide)


def machine(dump: Dump, *, hide: bool = False) -> Machine:
    """What `mach` shows; with `hide` the stacks of offline CPUs are told from others."""
    from .sys import system

    prog = dump.prog
    known = system(dump)
    return Machine(
        known.machine,
        known.memory_bytes,
        cpu_count(prog),
        known.offline,
        _hypervisor(prog),
        known.mhz,
        tick_rate(prog),
        dump.page_size,
        _base(prog, "page_offset_base"),
        _base(prog, "vmalloc_base"),
        _base(prog, "vmemmap_base"),
        Address(KERNEL_MAP),
        _modules_base(dump),
        dump.tasks.stack_size,
        tuple(_stacks(dump, hide)),
    )


def _base(prog: Program, name: str) -> Address | None:
    """They are variables since they are random (CONFIG_RANDOMIZE_MEMORY)."""
    fixed = {
        "page_offset_base": 0xFFFF888000000000,
        "vmalloc_base": 0xFFFFC90000000000,
        "vmemmap_base": 0xFFFFEA0000000000,
    }
    try:
        return Address(prog[name].value_())
    except LookupError:
        return Address(fixed[name])
    except FaultError:
        return None


def _modules_base(dump: Dump) -> Address:
    """Behind what is reserved for the kernel's image, which is more where that is random."""
    prog = dump.prog
    size_bytes = dump.vmcoreinfo.get("NUMBER(KERNEL_IMAGE_SIZE)", "")
    if size_bytes.isdecimal():
        return Address(KERNEL_MAP + int(size_bytes))
    random = has_symbol(prog, "page_offset_base") or "KERNELOFFSET" in dump.vmcoreinfo
    return Address(KERNEL_MAP + GIB if random else MODULES[0])


def _hypervisor(prog: Program) -> str | None:
    for variable, pointer in (("pv_info", False), ("x86_hyper", True)):
        try:
            found = prog[variable]
            if pointer and not found:
                return None
            name: str = found.name.string_().decode(errors="backslashreplace")
        except (LookupError, AttributeError, FaultError):
            continue
        return None if name == "bare hardware" else name
    return None


def _stacks(dump: Dump, hide: bool) -> Iterator[Stacks]:
    from crashpy.kernel.stack import stacks

    areas = stacks(dump).areas
    irq = list(areas.irq.values())
    if irq:
        yield _purpose(dump, irq, hide)
    first = areas.exception.get(0, [])
    for index in range(len(first)):
        own = (known[index] for known in areas.exception.values() if index < len(known))
        yield _purpose(dump, list(own), hide)


def _purpose(dump: Dump, areas: Sequence[Area], hide: bool) -> Stacks:
    found = (
        Stack(a.cpu, Address(a.base), a.available, hide and offline(dump, a.cpu)) for a in areas
    )
    return Stacks(areas[0].name, areas[0].top - areas[0].base, tuple(found))


def memory_map(prog: Program) -> MemoryMap:
    """What `mach -m` shows."""
    # Linux kernel commits 544a0f47e780 ("x86/boot/e820: Rename e820_table_saved to
    # e820_table_firmware") and the like (in v4.12) renamed all of it.
    for name in ("e820", "e820_table"):
        if name in prog:
            table = prog[name]
            break
    else:
        raise CommandError("neither e820 or e820_table symbols exist")
    if table.type_.kind == TypeKind.POINTER:
        table = table[0]
    modern = table.type_.has_member("nr_entries")
    entries, count = (table.entries, table.nr_entries) if modern else (table.map, table.nr_map)
    most = entries.type_.length or 0
    return MemoryMap(tuple(_range(entries[i].read_()) for i in range(min(count.value_(), most))))


def _range(entry: Object) -> MemoryRange:
    start, kind = entry.addr.value_(), entry.member_("type").value_()
    end = (start + entry.size.value_()) % 2**64
    return MemoryRange(Address(start), Address(end), KINDS.get(kind, f"type {kind}"))


def _processors(dump: Dump, hide: bool) -> Iterator[Cpu]:
    from drgn.helpers.linux.percpu import per_cpu

    of = compound(dump.gdb, "cpuinfo_x86")
    if of is None:
        raise CommandError("invalid structure name: cpuinfo_x86")
    for cpu in range(cpu_count(dump.prog)):
        if hide and offline(dump, cpu):
            yield Cpu(cpu, None)
            continue
        address = per_cpu(dump.prog["cpu_info"], cpu).address_of_().value_()
        yield Cpu(cpu, contents(dump, of, address))


@mach.text
def lines(
    records: Iterable[Record], *, settings: Settings, words: Sequence[str] = ()
) -> Iterator[str]:
    """Its x86_64_cmd_mach()."""
    letters = [option.dest for option, _ in getopt(words, LETTERS)[0]]
    radix = next((r for letter, r in (("x", 16), ("d", 10)) if letter in letters), None)
    style = Style.of(settings, radix)
    for record in records:
        if isinstance(record, Machine):
            yield from machine_lines(record)
        elif isinstance(record, MemoryMap):
            yield "      PHYSICAL ADDRESS RANGE         TYPE"
            for one in record.ranges:
                yield f"{one.start:016x} - {one.end:016x}  {one.type}"
        else:
            if record.cpu:
                yield ""
            yield f"CPU {record.cpu}:{'' if record.cpuinfo else ' [OFFLINE]'}"
            if record.cpuinfo:
                yield from contents_lines(record.cpuinfo, style, "mach")


def machine_lines(m: Machine) -> Iterator[str]:
    def shown(address: int | None) -> str:
        return "--" if address is None else f"{address:x}"

    yield f"          MACHINE TYPE: {m.type}"
    yield f"           MEMORY SIZE: {'--' if m.memory_bytes is None else size(m.memory_bytes)}"
    yield f"                  CPUS: {m.cpus}" + (f" [OFFLINE: {m.offline}]" if m.offline else "")
    if m.hypervisor is not None:
        yield f"            HYPERVISOR: {m.hypervisor}"
    yield f"       PROCESSOR SPEED: {'(unknown)' if m.mhz is None else f'{m.mhz} Mhz'}"
    yield f"                    HZ: {m.hz}"
    yield f"             PAGE SIZE: {m.page_size}"
    yield f"   KERNEL VIRTUAL BASE: {shown(m.virtual_base)}"
    yield f"   KERNEL VMALLOC BASE: {shown(m.vmalloc_base)}"
    yield f"   KERNEL VMEMMAP BASE: {shown(m.vmemmap_base)}"
    yield f"      KERNEL START MAP: {m.start_map:x}"
    yield f"   KERNEL MODULES BASE: {m.modules_base:x}"
    yield f"     KERNEL STACK SIZE: {m.stack_size_bytes}"
    for kind in m.stacks:
        yield f"{kind.name:>11} STACK SIZE: {kind.size_bytes}"
        yield f"{f'{kind.name} STACKS:':>23}"
        for stack in kind.stacks:
            remarks = (not stack.available, " [unavailable]"), (stack.offline, " [OFFLINE]")
            cpu = f"CPU {stack.cpu}"
            yield f"{cpu:>22}: {stack.base:016x}" + "".join(text for said, text in remarks if said)
