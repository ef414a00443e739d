"""sys: what machine this was, its system calls, configuration and taints."""

from __future__ import annotations

import contextlib
import functools
import itertools
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from drgn import FaultError, Object, Program, TypeKind
from drgn.helpers.linux.cpumask import num_online_cpus, num_present_cpus

from crashpy.command import Address, CommandError, UsageError, command, flag, operands, value
from crashpy.dump import Dump
from crashpy.kernel.clock import date_seconds, uptime_seconds
from crashpy.kernel.pid import byte_order, read_variable, word_code
from crashpy.numbers import stol
from crashpy.settings import Settings
from crashpy.tasks import is_number
from crashpy.text import GIB, MIB, calendar, duration, size

SYSCALL_HEADER = "NUM  SYSTEM CALL                FILE AND LINE NUMBER"


@dataclass(frozen=True)
class System:
    """What is not in the dump is None."""

    kernel: str
    livepatch: bool
    transition: bool  # a live patch was on its way in or out
    tainted: bool
    debuginfo: str | None
    dumpfiles: tuple[str, ...]
    tag: str  # "  [PARTIAL DUMP]"
    cpus: int | None
    offline: int
    date_s: int | None  # since 1970
    uptime_s: int | None
    load_average: tuple[float, float, float] | None
    tasks: int | None
    nodename: str
    release: str
    version: str
    machine: str
    mhz: int | None
    memory_bytes: int | None
    panic: str | None  # None: a live system


def _refused(word: str) -> None:
    if word == "anic":
        raise CommandError("cannot panic a dumpfile!")
    raise UsageError


@command(
    flag("-c", "syscalls", "the system call table, or the calls of these names and numbers"),
    value("-p", "panic", "anic", _refused, "-panic of crash: refused, as nothing here writes"),
    operands("words", "config|name|number", str, "config: the kernel's configuration"),
    usage="[-c [name|number]] [-t] [-i] config",
)
def sys(
    dump: Dump,
    *,
    syscalls: bool = False,
    words: Sequence[str] = (),
    panic: None = None,  # noqa: ARG001
) -> Iterator[System | SystemCall | ConfigLine]:
    """show the machine, its system calls, its configuration or its taints

    Without an option: what is also shown before the first prompt. UPTIME counts
    timer ticks, at the rate of this kernel; MEMORY is all page frames; PANIC is the
    gravest message of the log.

    With `config` the configuration that a kernel with CONFIG_IKCONFIG carries.
    -panic is refused: nothing here writes to a system.

    EXAMPLES
      sys                    the machine and why it died
      sys -c write           the system calls with `write` in their names
      sys -c 59              one system call
      sys -t                 what tainted the kernel
      sys config             its configuration
    """
    if syscalls:
        return system_calls(dump, words)
    if words:
        return _configurations(dump, words)
    return iter([system(dump)])


def system(dump: Dump) -> System:
    """The machine: crash's display_sys_stats()."""
    prog = dump.prog
    sysname = dump.utsname
    online = present = None
    with contextlib.suppress(FaultError, LookupError):
        online, present = num_online_cpus(prog), num_present_cpus(prog)
    taints = _value(prog, "tainted_mask") or 0
    return System(
        kernel=dump.kernel,
        livepatch="K" in taint_letters(prog) or _has_kpatch(dump),
        transition=bool(_value(prog, "klp_transition_patch")),
        tainted=bool(taints),
        debuginfo=dump.debuginfo,
        dumpfiles=tuple(file.path for file in dump.files)
        if len(dump.files) > 1
        else (dump.vmcore,),
        tag=dump.tag,
        cpus=present,
        offline=max(0, (present or 0) - (online or present or 0)),
        date_s=date_seconds(prog),
        uptime_s=_uptime(prog),
        load_average=_load_average(prog),
        tasks=len(dump.tasks) or None,
        nodename=sysname[1],
        release=sysname[2],
        version=sysname[3],
        machine=sysname[4],
        mhz=(_value(prog, "cpu_khz", 4) or 0) // 1000 or None,
        memory_bytes=_memory(prog, dump.page_size),
        panic=None if dump.live else dump.tasks.panic_message()[0],
    )


def _value(prog: Program, name: str, size: int = 8) -> int | None:
    try:
        return read_variable(prog, name, size)
    except (LookupError, FaultError):
        return None


def _uptime(prog: Program) -> int | None:
    try:
        return uptime_seconds(prog)
    except (LookupError, FaultError):
        return None


def _load_average(prog: Program) -> tuple[float, float, float] | None:
    try:
        # Fixed point with 11 bits, rounded as /proc/loadavg does it.
        one, five, fifteen = ((n.value_() + (1 << 11) // 200) for n in prog["avenrun"])
    except (LookupError, FaultError):
        return None
    a, b, c = ((n >> 11) + ((n & 2047) * 100 >> 11) / 100 for n in (one, five, fifteen))
    return a, b, c


def _memory(prog: Program, page_size: int) -> int | None:
    """All page frames of all nodes; what is close below a gigabyte counts as one."""
    from drgn.helpers.linux.mmzone import for_each_online_pgdat

    try:
        total: int = page_size * sum(
            node.node_present_pages.value_() or node.node_spanned_pages.value_()
            for node in for_each_online_pgdat(prog)
        )
    except (LookupError, FaultError):
        return None
    gigabytes = -(-total // GIB) * GIB
    return gigabytes if gigabytes - total <= 64 * MIB else total


def _has_kpatch(dump: Dump) -> bool:
    from drgn.helpers.linux.list import list_for_each_entry

    try:
        modules = list_for_each_entry("struct module", dump.prog["modules"].address_of_(), "list")
        some = itertools.islice(modules, 4096)
        return any(module.name.string_() == b"kpatch" for module in some)
    except (LookupError, FaultError):
        return False


@sys.text
def lines(
    records: Iterable[System | SystemCall | ConfigLine], *, settings: Settings | None = None
) -> Iterator[str]:
    header = False
    for record in records:
        if isinstance(record, System):
            yield from system_lines(record)
        elif isinstance(record, ConfigLine):
            yield record.text
        else:
            if not header:
                yield SYSCALL_HEADER
            header = True
            yield _call_line(record, 10 if settings is None else settings.radix)


def system_lines(s: System) -> Iterator[str]:
    """What crash shows before its first prompt, too."""

    def known(value: object) -> object:
        return "--" if value is None else value

    tags = ((s.livepatch, "LIVEPATCH"), (s.transition, "TRANSITION"), (s.tainted, "TAINTED"))
    yield f"      KERNEL: {s.kernel}" + "".join(f"  [{tag}]" for there, tag in tags if there)
    if s.debuginfo:
        yield f"   DEBUGINFO: {s.debuginfo}"
    if len(s.dumpfiles) > 1:
        first, *others = s.dumpfiles
        yield f"   DUMPFILES: {first}{s.tag}"
        yield from (f"              {other}{s.tag}" for other in others)
    else:
        yield f"    DUMPFILE: {s.dumpfiles[0]}{s.tag}"
    yield f"        CPUS: {known(s.cpus)}" + (f" [OFFLINE: {s.offline}]" if s.offline else "")
    yield f"        DATE: {'--' if s.date_s is None else calendar(s.date_s)}"
    yield f"      UPTIME: {'--' if s.uptime_s is None else duration(s.uptime_s)}"
    load = s.load_average
    yield "LOAD AVERAGE: " + ("--" if load is None else ", ".join(f"{n:.2f}" for n in load))
    yield f"       TASKS: {known(s.tasks)}"
    yield f"    NODENAME: {s.nodename}"
    yield f"     RELEASE: {s.release}"
    yield f"     VERSION: {s.version}"
    yield f"     MACHINE: {s.machine}  ({'unknown' if s.mhz is None else s.mhz} Mhz)"
    yield f"      MEMORY: {'--' if s.memory_bytes is None else size(s.memory_bytes)}"
    if s.panic is not None:
        details = " (check log for details)" if "Oops: " in s.panic else ""
        yield f'       PANIC: "{s.panic}"{details}'


@dataclass(frozen=True)
class SystemCall:
    number: int
    address: Address  # what sys_call_table[] points to
    name: str | None  # None: to no function
    source: str | None  # "../fs/read_write.c: 748"


def system_calls(dump: Dump, words: Sequence[str] = ()) -> Iterator[SystemCall]:
    """The entries of sys_call_table[], or those that the words name, word by word."""
    prog, symbols = dump.prog, dump.symbols
    try:
        table = prog["sys_call_table"]
    except LookupError:
        raise CommandError("cannot resolve: sys_call_table") from None
    assert table.address_ is not None
    count = table.type_.length if table.type_.kind == TypeKind.ARRAY else None
    count = count or 256
    code = word_code(prog)
    entries = struct.unpack(
        f"{byte_order(prog)}{count}{code}",
        prog.read(table.address_, count * struct.calcsize(f"={code}")),
    )
    folder = _build_folder(prog)
    unknown = symbols.named("sys_ni_syscall")

    shared = {address for address, uses in Counter(entries).items() if uses > 1}
    sources: dict[int, str | None] = {}

    def entry(number: int, name: str | None) -> SystemCall:
        address = entries[number]
        if name is not None and address not in sources:
            sources[address] = _source(dump, address, folder, exact=address in shared)
        return SystemCall(number, Address(address), name, sources.get(address))

    @functools.cache
    def name_of(number: int) -> str | None:
        address = entries[number]
        if unknown and address == unknown.address:
            return "sys_ni_syscall"
        found = symbols.at(address)
        return found[0].name if found is not None and found[1] == 0 else None

    if not words:
        yield from (entry(number, name_of(number)) for number in range(count))
    for word in words:
        if is_number(word):
            if (number := stol(word)) < count:
                yield entry(number, name_of(number))
            continue
        for number in range(count):
            if (name := name_of(number)) is not None and word in name:
                yield entry(number, name)


def _build_folder(prog: Program) -> str:
    """Where the kernel was built, as its line tables begin their file names."""
    try:
        name = prog.source_location("schedule")[0].filename
    except LookupError:
        return ""
    return name[: name.index("kernel/")] if "kernel/" in name else ""


def _source(dump: Dump, address: int, folder: str, *, exact: bool) -> str | None:
    """The first line of the function that is not inlined from a header file.

    drgn's rows come quickly; gdb's, `exact`, are statements always, as it takes to
    tell sys_ni_syscall() from its body, but reading a unit's table takes its time.
    """
    for at in range(address, address + 4096):
        found = dump.symbols.at(at) if at > address else None
        if found is not None and at - found[1] != address:
            return None
        try:
            row = dump.prog.source_location(at)[0]
        except LookupError:
            return None
        name = row.filename
        if exact and (line := dump.symbols.line(at)) is not None and f"{name}: " in line:
            return f"../{line[line.index(name) :].removeprefix(folder)}"
        if not (name.endswith(".h") and "include/" in name) and name.startswith(folder):
            return f"../{name.removeprefix(folder)}: {row.line}"
    return None


def _call_line(call: SystemCall, radix: int) -> str:
    number = f"{call.number:3x}" if radix == 16 else f"{call.number:3}"
    if call.name is None:
        return f"{number}  invalid sys_call_table entry: {call.address:x} "
    return f"{number}  {call.name:<26} {call.source or ''}"


@dataclass(frozen=True)
class ConfigLine:
    text: str


def _configurations(dump: Dump, words: Sequence[str]) -> Iterator[ConfigLine]:
    for word in words:
        if word != "config":
            raise UsageError
        yield from configuration(dump.prog)


def configuration(prog: Program) -> Iterator[ConfigLine]:
    """The configuration that the kernel carries, without its empty lines."""
    for line in _packed_configuration(prog).decode(errors="backslashreplace").split("\n"):
        if text := line.lstrip():
            yield ConfigLine(text)


def _packed_configuration(prog: Program) -> bytes:
    try:
        start = prog.symbol("kernel_config_data").address
    except LookupError:
        raise CommandError("kernel_config_data does not exist in this kernel") from None
    try:
        # Linux kernel commit 13610aa908dc ("kernel/configs: use .incbin directive to
        # embed config_data.gz") (in v5.1)
        length = prog.symbol("kernel_config_data_end").address - start
    except LookupError:
        # A variable with IKCFG_ST before the data, IKCFG_ED and a NUL behind.
        length = len(prog["kernel_config_data"]) - 17
        start += 8
    try:
        return zlib.decompress(prog.read(start, length), 31)
    except (FaultError, zlib.error) as error:
        raise CommandError(f"cannot read kernel_config_data: {error}") from None


@dataclass(frozen=True)
class Taints:
    mask: int | None  # None: not in the dump
    letters: str  # of what is set, and of what is shown when it is not


@sys.mode("-t", "what tainted the kernel", first=True)
def sys_taints(dump: Dump) -> Iterator[Taints]:
    """what tainted the kernel"""
    return iter([Taints(_value(dump.prog, "tainted_mask"), taint_letters(dump.prog))])


@sys_taints.text
def taints_lines(taints: Iterable[Taints]) -> Iterator[str]:
    for t in taints:
        yield f"TAINTED_MASK: {'--' if t.mask is None else f'{t.mask:x}'}  {t.letters}"


def taint_letters(prog: Program) -> str:
    """The letters of an oops's ``Tainted:``, without the dull ones (show_kernel_taints())."""
    mask = _value(prog, "tainted_mask")
    if mask is None:
        return ""
    letters = ""
    try:
        if "taint_flags" in prog:
            # Linux kernel commit 7fd8329ba502 ("taint/module: Clean up global and module
            # taint flags handling") (in v4.10)
            for bit, taint in enumerate(prog["taint_flags"]):
                letters += _letter(mask >> bit & 1, taint.c_true, taint.c_false)
        else:
            for taint in prog["tnts"]:
                bit = taint.bit.value_()
                letters += _letter(mask >> bit & 1, taint.member_("true"), taint.member_("false"))
    except (LookupError, FaultError, AttributeError):
        pass
    return letters


def _letter(is_set: int, true: Object, false: Object) -> str:
    letter = chr((true if is_set else false).value_() & 0xFF)
    return letter if is_set or letter not in " -G" else ""


@dataclass(frozen=True)
class Identity:
    field: str  # DMI_BIOS_VENDOR, ...
    text: str


@sys.mode("-i", "the DMI strings: vendor, product, firmware", first=True)
def sys_identity(dump: Dump) -> Iterator[Identity]:
    """the DMI strings: vendor, product, firmware"""
    prog = dump.prog
    try:
        strings = prog["dmi_ident"]
    except LookupError:
        raise CommandError("dmi_ident does not exist in this kernel") from None
    for name, number in prog.type("enum dmi_field").enumerators or ():
        if number >= len(strings):
            return
        try:
            if strings[number]:
                yield Identity(name, strings[number].string_().decode(errors="backslashreplace"))
        except FaultError:
            yield Identity(name, "--")


@sys_identity.text
def identity_lines(identities: Iterable[Identity]) -> Iterator[str]:
    # As wide as the longest name of all, DMI_CHASSIS_ASSET_TAG.
    return (f"  {i.field:>{FIELD_WIDTH}}: {i.text}" for i in identities)


FIELD_WIDTH = len("DMI_CHASSIS_ASSET_TAG") + 2
