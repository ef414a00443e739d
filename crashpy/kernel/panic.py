"""Why the kernel died and which task it was, decided as crash decides it."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

from drgn import FaultError, Program

from crashpy.kernel.pid import byte_order, word_code
from crashpy.kernel.printk import log_text

# By severity, crash's panic_msg[] and panic_keywords[].
MESSAGES = (
    "SysRq : Crash",
    "SysRq : Trigger a crash",
    "SysRq : Netdump",
    "Kernel panic: ",
    "Kernel panic - ",
    "Kernel BUG at",
    "kernel BUG at",
    "Unable to handle kernel paging request",
    "Unable to handle kernel NULL pointer dereference",
    "BUG: unable to handle kernel ",
    "general protection fault: ",
    "double fault: ",
    "divide error: ",
    "stack segment: ",
    "[Hardware Error]: ",
    "Bad mode in ",
    "Oops: ",
)
KEYWORDS = (
    "Unable to handle kernel",
    "BUG: unable to handle kernel",
    "Kernel BUG at",
    "kernel BUG at",
    "Bad mode in",
    "Oops",
    "Kernel panic",
)

# Return addresses in these name the task, in this order of trust.
KEXEC = ("crash_kexec", "machine_kexec", "__crash_kexec")
PANIC = ("panic", "vpanic")
DIE = ("die",)


def panic_message(prog: Program) -> tuple[str, bool]:
    """The line of the log that says why, and whether SysRq asked for it (get_panicmsg())."""
    lines = log_text(prog)
    for message in MESSAGES:
        for line in lines:
            if message in line:
                return line, "SysRq :" in line
    pressed = _variable(prog, "sysrq_pressed")
    for line in lines:
        if "sysrq" in line and pressed is not None:
            return (line if pressed else ""), False
        if any(keyword in line for keyword in KEYWORDS):
            return line, False
    return "", False


def panic_cpu(prog: Program, online: Iterable[int]) -> int | None:
    """The CPU that the kernel itself noted as the one that panicked.

    ``crashing_cpu`` is set on the way into kexec, ``panic_cpu`` (since Linux 4.4)
    by every panic; both are -1 before.
    """
    cpus = set(online)
    for name in ("crashing_cpu", "panic_cpu"):
        cpu = _variable(prog, name)
        # A panic without kexec takes the other CPUs offline, never its own.
        if cpu is not None and cpu in cpus:
            return cpu
    return None


def _variable(prog: Program, name: str) -> int | None:
    try:
        variable = prog[name]
        value = variable.counter if hasattr(variable, "counter") else variable
        number: int = value.value_()
    except (LookupError, FaultError, AttributeError):
        return None
    return number


def panic_by_stack(prog: Program, stacks: Mapping[int, tuple[int, int]]) -> int | None:
    """The task whose stack holds a return into kexec, panic() or die().

    `stacks`: task -> lowest address and size of its stack. None where there is no
    such task, or several (get_active_set_panic_task()).
    """
    ranges = {}
    for names in (KEXEC, PANIC, DIE):
        for name in names:
            try:
                symbol = prog.symbol(name)
            except LookupError:
                continue
            ranges[name] = range(symbol.address + 1, symbol.address + symbol.size)
    callers: dict[str, set[int]] = {name: set() for name in ranges}
    code = word_code(prog)
    for task, (base, size) in stacks.items():
        try:
            data = prog.read(base, size)
        except FaultError:
            continue
        words = struct.unpack(
            f"{byte_order(prog)}{len(data) // struct.calcsize('=' + code)}{code}", data
        )
        found = set(words)
        for name, addresses in ranges.items():
            if any(word in addresses for word in found):
                callers[name].add(task)

    def who(names: Sequence[str]) -> set[int]:
        return set().union(*(callers.get(name, set()) for name in names))

    if kexec := who(KEXEC):
        return [task for task in stacks if task in kexec][-1]
    panicked, died = who(PANIC), who(DIE)
    if len(panicked) == 1 and died <= panicked:
        return next(iter(panicked))
    if not panicked and len(died) == 1:
        return next(iter(died))
    return None


def sysrq_on_stack(prog: Program, base: int, size: int) -> bool:
    """Whether the stack holds a return into sysrq_handle_crash() below any into kexec.

    So crash tells (SYSRQ) from (PANIC) where the dump was made without kexec.
    """
    ranges = []
    for name in ("crash_kexec", "machine_kexec", "sysrq_handle_crash"):
        try:
            symbol = prog.symbol(name)
        except LookupError:
            continue
        ranges.append((range(symbol.address, symbol.address + symbol.size), name))
    try:
        data = prog.read(base, size)
    except FaultError:
        return False
    code = word_code(prog)
    count = len(data) // struct.calcsize("=" + code)
    for word in struct.unpack(f"{byte_order(prog)}{count}{code}", data):
        for addresses, name in ranges:
            if word in addresses:
                return name == "sysrq_handle_crash"
    return False


def panic_by_log(prog: Program, active: Mapping[int, int]) -> int | None:
    """The task on the CPU that the log names behind its first word of a panic."""
    keyword = False
    for line in log_text(prog):
        if not keyword:
            start = next((line.index(k) for k in KEYWORDS if k in line), None)
            if start is None:
                continue
            keyword, line = True, line[start:]
        if (cpu := _cpu_of(line)) is not None and cpu in active:
            return active[cpu]
    return None


def _cpu_of(line: str) -> int | None:
    _, found, rest = line.partition("CPU: ")
    if not found:
        if not line.startswith("CPU "):
            return None
        rest = line[len("CPU ") :]
    word = (rest.split() or [""])[0]
    return int(word) if word.isdecimal() else None
