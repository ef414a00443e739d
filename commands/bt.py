"""bt: what every task was doing, by the return addresses on its stack."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from drgn import FaultError

from crashpy.command import (
    Address,
    CommandError,
    Option,
    UsageError,
    command,
    flag,
    operands,
    value,
)
from crashpy.dump import Dump
from crashpy.kernel.percpu import cpu_list
from crashpy.kernel.stack import (
    NO_STACK,
    Frame,
    Item,
    Note,
    Options,
    Registers,
    StackEnd,
    StackError,
    Trace,
    Unwinder,
    Words,
    stacks,
)
from crashpy.numbers import can_evaluate, evaluate, htol, is_hexadecimal
from crashpy.output import Report, Unended
from crashpy.settings import Settings
from crashpy.tasks import Task, named
from crashpy.text import task_header

USAGE = """[-a|-c cpu(s)|-g|-r|-t|-T|-l|-e|-E|-f|-F|-o|-O|-v|-p] [-R ref] [-s [-x|d]]
     [-I ip] [-S sp] [-n idle] [pid | task]"""

STACK_END_MAGIC = 0x57AC6E9D


@dataclass(frozen=True)
class Backtrace:
    """One task's way into the kernel, the innermost call first."""

    pid: int
    task: Address  # struct task_struct *
    cpu: int  # where it last ran
    comm: str
    trace: tuple[Item, ...]
    titled: bool = True  # with a line that introduces the task

    @property
    def frames(self) -> list[Frame]:
        return [item for item in self.trace if isinstance(item, Frame)]


@dataclass(frozen=True)
class Memory:
    """The words of a stack (`bt -r`)."""

    pid: int
    task: Address  # struct task_struct *
    cpu: int
    comm: str
    address: Address
    words: tuple[Address, ...]
    symbols: tuple[str, ...]  # of each word; empty for none
    unreadable: Address | None = None  # what comes next and is not in the dump
    titled: bool = True


@dataclass(frozen=True)
class Unknown:
    """A word that names no task."""

    word: str


@dataclass(frozen=True)
class Remark:
    """Something else than a trace."""

    text: str
    apart: bool = False  # after an empty line, where something came before


Record = Backtrace | Memory | Unknown | Remark


def stack_address(word: str) -> int:
    if not (address := htol(word)):
        raise CommandError("invalid stack address for this task: 0")
    return address


def idle(word: str) -> bool:
    if word != "idle":
        raise CommandError(NOT_HERE.format("-n"))
    return True


NOT_HERE = "{} option not supported or applicable on this architecture or kernel"


@command(
    flag("-a", "active", "the task on each CPU"),
    flag("-A", "vectors", "the same with vector registers (not on x86-64)"),
    value("-c", "cpus", "CPUS", str, "the tasks on these CPUs: 1,3-5 or all", repeat=True),
    value("-n", "skip_idle", "idle", idle, "without the stacks of idle tasks"),
    flag("-p", "panic", "the task that panicked"),
    flag("-g", "group", "all threads of the task's group"),
    flag("-r", "raw", "the stack's words"),
    flag("-t", "text", "every return address from the stack pointer up"),
    flag("-T", "all_text", "every return address on the stack"),
    flag("-l", "lines", "with file and line"),
    flag("-e", "exceptions", "look for exception frames"),
    flag("-f", "full", "with the stack's words"),
    Option("-F", "names", "the words by symbol and slab cache; twice: with address", repeat=True),
    flag("-o", "old", "the old method, which may show calls that had returned"),
    flag("-s", "offsets", "functions with offset"),
    flag("-x", "hexadecimal", "offsets in hexadecimal"),
    flag("-d", "decimal", "offsets in decimal"),
    value("-R", "references", "REF", str, "only traces with this symbol or value", repeat=True),
    value("-I", "ip", "IP", str, "start with this instruction"),
    value("-S", "sp", "SP", stack_address, "start at this stack address"),
    operands("tasks", "pid | task", str, "these tasks"),
    usage=USAGE,
)
def bt(
    dump: Dump,
    *,
    active: bool = False,
    vectors: bool = False,
    cpus: Sequence[str] = (),
    skip_idle: bool = False,
    panic: bool = False,
    group: bool = False,
    raw: bool = False,
    text: bool = False,
    all_text: bool = False,
    lines: bool = False,
    exceptions: bool = False,
    full: bool = False,
    names: Sequence[bool] = (),
    old: bool = False,
    hexadecimal: bool = False,
    decimal: bool = False,
    references: Sequence[str] = (),
    ip: str | None = None,
    sp: int | None = None,
    tasks: Sequence[str] | Sequence[Task] = (),
    settings: Settings | None = None,
) -> Iterator[Record]:
    """backtraces: the calls that had not returned, of tasks and CPUs

    Without arguments the task in context. Each line is one call: its number, the stack
    address that holds its return address, the function, the return address, and the
    function's module. Where an exception, an interrupt or a system call came in, its
    registers follow; where another stack goes on, a line says so.

    A task that was on a CPU starts where that CPU was stopped: in machine_kexec or
    panic, or in the NMI that stopped it; the others where they gave up their CPU.

    Sizes of frames are taken from the kernel's ORC tables. A call marked with * is the
    next address of kernel code on the stack, because its size could not be told.

    EXAMPLES
      bt                        why the machine died
      bt -a                     what each CPU was doing
      bt -l 1                   the calls of PID 1 with file and line
      bt -FF 1                  with the stack's words, by symbol and slab object
      foreach UN bt             where every blocked task waits
      foreach bt -R mutex_lock  who stands in a mutex
      bt -E                     exceptions that came in on the CPUs' own stacks
      bt --json -a              the same for a program to read
    """
    if vectors:
        raise CommandError(NOT_HERE.format("-A"))
    if hexadecimal and decimal:
        raise CommandError("-d and -x are mutually exclusive")
    if not stacks(dump).native:
        ours = {"-t": text, "-T": all_text, "-e": exceptions, "-o": old, "-S": sp, "-I": ip}
        if letter := next((letter for letter, given in ours.items() if given), None):
            raise CommandError(NOT_HERE.format(letter))
    if len(references) > 1:
        yield Remark("only one -R option allowed")
    if len(cpus) > 1:
        yield Remark("only one -c option allowed")
        raise UsageError
    if lines and dump.symtab is not None:  # of modules whose files are loaded they are
        yield Remark("line numbers are not available")
    options = Options(
        text=text or all_text,
        all_text=all_text,
        old=old,
        full=full or bool(names),
        names=bool(names),
        lines=lines,
        ip=_instruction(dump, ip),
        sp=sp,
        reference=references[0] if references else None,
        radix=settings.radix if settings else 10,
    )
    kind = Kind(raw=raw, exceptions=exceptions, skip_idle=skip_idle)
    one = _Tracer(dump, options, kind)
    for letter, given in (("-c", cpus), ("-a", active), ("-p", panic)):
        if given and stacks(dump).live:
            raise CommandError(f"{letter} option not supported on a live system or live dump")
    if panic and not dump.tasks.panic_found:
        raise CommandError("no panic task found!")
    if cpus:
        if group:
            raise CommandError("-c option cannot be used with the -g option")
        yield from _on_cpus(dump, cpus[0], one, settings)
    elif active:
        if group:
            raise CommandError("-a option cannot be used with the -g option")
        for _, task in sorted(dump.tasks.active.items()):
            yield from one.traced(task)
    elif not tasks:
        task = dump.tasks.panic if panic and not group else dump.context
        if group and task.pid:
            yield from one.group(task)
        else:
            yield from one.traced(task, alone=True)
    else:
        yield from _chosen(dump, tasks, one, group)


def _chosen(
    dump: Dump, tasks: Sequence[str] | Sequence[Task], one: _Tracer, group: bool
) -> Iterator[Record]:
    for word in tasks:
        if isinstance(word, Task):
            yield from one.traced(word)
            continue
        found = named(dump, word)
        if not found:
            yield Unknown(word)
        for number, task in enumerate(found, 1):
            if group and task.pid:
                yield from one.group(task)
            else:
                yield from one.traced(task, alone=number == len(found))


def _instruction(dump: Dump, word: str | None) -> int | None:
    if word is None:
        return None
    if is_hexadecimal(word):
        return htol(word)
    if can_evaluate(word):
        return evaluate(dump, word)
    if (address := stacks(dump).address_of(word)) is None:
        raise CommandError(f'cannot convert "{word}"')
    return address


def _on_cpus(dump: Dump, word: str, one: _Tracer, settings: Settings | None) -> Iterator[Record]:
    for cpu in cpu_list(word, stacks(dump).areas.cpus):
        if _hidden(dump, cpu, settings):
            yield Remark(f"CPU {cpu} is OFFLINE.", apart=True)
            continue
        if (task := dump.tasks.active.get(cpu)) is None:
            raise CommandError(f"cannot determine active task on cpu {cpu}")
        yield from one.traced(task, alone=True)


def _hidden(dump: Dump, cpu: int, settings: Settings | None) -> bool:
    if settings is None or settings.offline != "hide":
        return False
    from drgn.helpers.linux.cpumask import for_each_online_cpu

    return cpu not in set(for_each_online_cpu(dump.prog))


@dataclass(frozen=True)
class Kind:
    raw: bool = False
    exceptions: bool = False
    skip_idle: bool = False


class _Tracer:
    """Makes the records of tasks, one after another."""

    def __init__(self, dump: Dump, options: Options, kind: Kind) -> None:
        self._dump = dump
        self._all: Unwinder = stacks(dump)
        self._all.refresh()
        self._options = options
        self._kind = kind
        self._titled = options.reference is None

    def group(self, task: Task) -> Iterator[Record]:
        leader = self._dump.tasks.with_pid(task.tgid)
        for thread in leader[:1]:
            yield from self.traced(thread)
        for thread in self._dump.tasks:
            if thread.tgid == task.tgid and thread.pid != task.tgid:
                yield from self.traced(thread)

    def traced(self, task: Task, *, alone: bool = False) -> Iterator[Record]:
        """One task; where it cannot be traced on, the words for that. Alone it ends the command."""
        if self._kind.raw:
            yield from self._raw(task)
            return
        options = self._options
        if self._skips(task):
            yield self._record(task, ())
            return
        trace = Trace(self._all, task, options)
        failure = None
        try:
            items = self._exceptions(trace) if self._kind.exceptions else trace.run()
        except (StackError, FaultError) as error:
            failure = str(error)
            items = [*trace.items, Note(failure, error=True)]
        reference = trace.reference
        if reference is None or reference.found or self._kind.exceptions:
            yield self._record(task, tuple(items))
        elif remarks := tuple(i for i in items if _is_remark(i)):
            yield self._record(task, remarks)
        if failure is not None and alone:
            raise _Stopped(failure)

    def _record(self, task: Task, items: tuple[Item, ...]) -> Backtrace:
        return Backtrace(task.pid, Address(task.address), task.cpu, task.comm, items, self._titled)

    def _skips(self, task: Task) -> bool:
        return (
            self._kind.skip_idle
            and task.pid == 0
            and task.address in self._all.active
            and not (self._dump.tasks.panic_found and task is self._dump.tasks.panic)
        )

    def _exceptions(self, trace: Trace) -> list[Item]:
        if not trace.task.stack:
            return [Note(NO_STACK)]
        return trace.search()

    def _raw(self, task: Task) -> Iterator[Record]:
        everything = self._all
        start = self._options.sp or task.stack
        end = start + everything.stack_size
        data, at = b"", start
        while at < end:
            size = min(4096 - at % 4096, end - at)
            try:
                data += self._dump.prog.read(at, size)
            except (FaultError, OverflowError, ValueError):
                break
            at += size
        words = struct.unpack(f"<{len(data) // 8}Q", data[: len(data) & ~7])
        text, radix = everything.symbol_text, self._options.radix
        yield Memory(
            task.pid,
            Address(task.address),
            task.cpu,
            task.comm,
            Address(start),
            tuple(map(Address, words)),
            tuple(text(w, radix) for w in words),
            None if at >= end else Address(at),
            self._titled,
        )


class _Stopped(CommandError):
    """Its words are shown already."""


@dataclass(frozen=True)
class StackSearch:
    """What looks like exception frames on one of a CPU's own stacks."""

    cpu: int
    stack: str  # "IRQ STACK", "NMI EXCEPTION STACK"
    offline: bool  # and not to be shown
    frames: tuple[Item, ...]


@bt.mode("-E", "look for exception frames on the CPUs' interrupt and exception stacks")
def bt_search(
    dump: Dump,
    *,
    cpus: Sequence[str] = (),
    lines: bool = False,
    settings: Settings | None = None,
) -> Iterator[StackSearch]:
    """exception frames on interrupt and exception stacks"""
    everything = stacks(dump)
    if not everything.native:
        raise CommandError(NOT_HERE.format("-E"))
    areas = everything.areas
    chosen = cpu_list(cpus[0], areas.cpus) if cpus else range(areas.cpus)
    wanted = [areas.irq[cpu] for cpu in chosen if cpu in areas.irq]
    for cpu in chosen:
        for area in areas.exception.get(cpu, ()):
            if not area.available:
                break
            wanted.append(area)
    for area in wanted:
        kind = "IRQ STACK" if area.name == "IRQ" else f"{area.name} EXCEPTION STACK"
        hidden = _hidden(dump, area.cpu, settings)
        found: Sequence[Item] = ()
        if not hidden:
            trace = Trace(everything, dump.context, Options(lines=lines))
            try:
                found = trace.search(area)
            except StackError as error:
                found = [Note(str(error), error=True)]
        yield StackSearch(area.cpu, kind, hidden, tuple(found))


@bt_search.text
def search_lines(
    searches: Iterable[StackSearch], *, settings: Settings | None = None
) -> Iterator[str]:
    """As crash's x86_64_eframe_search()."""
    radix = settings.radix if settings else 10
    for search in searches:
        title = f"CPU {search.cpu} {search.stack}:"
        if search.offline:
            yield f"{title} [OFFLINE]"
            yield ""
            continue
        yield title
        if not search.frames:
            yield "(none found)"
        for item in search.frames:
            yield from item_lines(item, radix=radix, found=True)
        yield ""


@dataclass(frozen=True)
class StackCheck:
    """A task whose stack does not end with the magic number, or cannot be read."""

    pid: int
    task: Address  # struct task_struct *
    cpu: int
    comm: str
    stack: Address  # where the magic number has to be
    value: Address | None  # what is there; None: it cannot be read


@bt.mode("-v", "check all stacks for overflow")
def bt_overflows(dump: Dump) -> Iterator[StackCheck]:
    """stacks that have overflown"""
    magics = 0
    found: list[StackCheck] = []
    for task in dump.tasks:
        try:
            word = dump.prog.read_u64(task.stack)
        except FaultError:
            word = None
        if word == STACK_END_MAGIC:
            magics += 0 < task.pid < 10
            continue
        # The first task's stack has no such word.
        if task.pid == 0 and task.address == _init_task(dump):
            continue
        found.append(
            StackCheck(
                task.pid,
                Address(task.address),
                task.cpu,
                task.comm,
                Address(task.stack),
                None if word is None else Address(word),
            )
        )
    if not magics:
        raise CommandError(NOT_HERE.format("-v"))
    yield from found


def _init_task(dump: Dump) -> int | None:
    try:
        return int(dump.prog.symbol("init_task").address)
    except LookupError:
        return None


@bt_overflows.text
def overflow_lines(overflows: Iterable[StackCheck]) -> Iterator[str]:
    """As crash's check_stack_overflow()."""
    none = True
    for overflow in overflows:
        if overflow.value is None:
            yield Report(
                f"bt: invalid kernel virtual address: {overflow.stack:x}  "
                'type: "stack overflow check"'
            )
            continue
        none = False
        yield task_header(overflow.pid, overflow.task, overflow.cpu, overflow.comm)
        yield (
            f"  possible stack overflow: {overflow.stack:x}: {overflow.value:x} != STACK_END_MAGIC"
        )
        yield ""
    if none:
        yield "No stack overflows detected"


@dataclass(frozen=True)
class Method:
    """Which method bt uses from now on."""

    old: bool


@bt.mode("-O", "make the old method the default, or the new one again")
def bt_method(dump: Dump) -> Iterator[Method]:
    """which method is the default"""
    everything = stacks(dump)
    everything.old = not everything.old
    yield Method(everything.old)


@bt_method.text
def method_lines(methods: Iterable[Method]) -> Iterator[str]:
    for method in methods:
        yield Report(f"bt: use {'old' if method.old else 'new'} bt method by default")


# The text


@bt.text
def lines(
    records: Iterable[Record],
    *,
    offsets: bool = False,
    hexadecimal: bool = False,
    decimal: bool = False,
    names: Sequence[bool] = (),
    references: Sequence[str] = (),
    exceptions: bool = False,
    settings: Settings | None = None,
    header: bool = True,
) -> Iterator[str]:
    """As crash's x86_64_low_budget_back_trace_cmd() and print_task_header()."""
    radix = settings.radix if settings else 10
    style = Style(
        radix=radix,
        offsets=(16 if hexadecimal else 10 if decimal else radix) if offsets else 0,
        addresses=len(names) > 1,
    )
    started = False
    try:
        for record in records:
            if isinstance(record, Unknown):
                if started:
                    yield ""
                yield Report(f"bt: invalid task or pid value: {record.word}")
                started = True
            elif isinstance(record, Remark):
                if started and record.apart:
                    yield ""
                yield Report(f"bt: {record.text}")
                started |= record.apart
            else:
                found = not record.titled and bool(references) and not exceptions
                if isinstance(record, Memory) or all(map(_is_remark, record.trace)):
                    found = False
                if header and (record.titled or found):
                    if started and record.titled:
                        yield ""
                    yield task_header(record.pid, record.task, record.cpu, record.comm)
                if isinstance(record, Memory):
                    yield from memory_lines(record)
                else:
                    yield from trace_lines(record.trace, style, exceptions)
                    if found:
                        yield ""
                started |= record.titled
    except _Stopped:
        return


def _is_remark(item: Item) -> bool:
    """Whether it is shown even of a task that does not have what -R asks for."""
    return isinstance(item, Note) and (item.error or item.text == NO_STACK)


@dataclass(frozen=True)
class Style:
    radix: int = 10
    offsets: int = 0  # the radix of functions' offsets; 0: without
    addresses: bool = False  # slab caches with the object's address


def trace_lines(items: Iterable[Item], style: Style, found: bool = False) -> Iterator[str]:
    offsets = style.offsets
    for item in items:
        if type(item) is Frame:
            number, name = item.number, item.function
            if offsets and item.offset:
                name += f"+{item.offset:#x}" if offsets == 16 else f"+{item.offset}"
            more = f" [{item.module}]" if item.module else ""
            if number is None:
                yield f"  [{item.sp:16x}] {name} at {item.ip:x}{more}"
                continue
            if item.guessed:
                more += " *"
            yield f"{f'#{number}':>3} [{item.sp:8x}] {name} at {item.ip:x}{more}"
            if item.line:
                yield f"    {item.line}"
        else:
            yield from item_lines(item, style.radix, found, style.addresses)


def item_lines(
    item: Item, radix: int = 10, found: bool = False, addresses: bool = False
) -> Iterator[str]:
    match item:
        case Registers():
            yield from register_lines(item, radix, found)
        case Words():
            yield from word_lines(item, addresses)
        case StackEnd():
            yield f"--- <{item.stack}> ---"
        case Note(error=True):
            yield Report(f"bt: {item.text}")
        case Note():
            yield item.text


def register_lines(r: Registers, radix: int = 10, found: bool = False) -> Iterator[str]:
    """A struct pt_regs; `found` by searching for one."""
    if found:
        yield ""
        yield f"  {'USER' if r.user else 'KERNEL'}-MODE EXCEPTION FRAME AT: {r.address:x}"
    if r.function is not None:
        offset = ""
        if r.offset:
            offset = f"+{r.offset:#x}" if radix == 16 else f"+{r.offset}"
        yield f"    [exception RIP: {r.function}{offset}]"
    elif r.where is not None:
        yield f"    [exception RIP: {r.where}]"
    yield f"    RIP: {r.rip:016x}  RSP: {r.rsp:016x}  RFLAGS: {r.rflags:08x}"
    yield f"    RAX: {r.rax:016x}  RBX: {r.rbx:016x}  RCX: {r.rcx:016x}"
    yield f"    RDX: {r.rdx:016x}  RSI: {r.rsi:016x}  RDI: {r.rdi:016x}"
    yield f"    RBP: {r.rbp:016x}   R8: {r.r8:016x}   R9: {r.r9:016x}"
    yield f"    R10: {r.r10:016x}  R11: {r.r11:016x}  R12: {r.r12:016x}"
    yield f"    R13: {r.r13:016x}  R14: {r.r14:016x}  R15: {r.r15:016x}"
    if r.orig_rax is None:
        yield f"    CS: {r.cs:04x}  SS: {r.ss:04x}"
    else:
        yield f"    ORIG_RAX: {r.orig_rax:016x}  CS: {r.cs:04x}  SS: {r.ss:04x}"
    if r.line:
        yield f"    {r.line}"


def word_lines(words: Words, addresses: bool = False) -> Iterator[str]:
    """Two words a line (crash's x86_64_display_full_frame())."""
    values = words.words
    shown = [f"{word:016x} " for word in values]
    if words.names is not None:
        for i, name in enumerate(words.names):
            if name is not None:
                if addresses and name[0] == "[":
                    name = f"[{values[i]:x}:{name[1:]}"
                shown[i] = f"{name:16} "
    address = words.address
    for i in range(0, len(shown), 2):
        yield f"    {address + 8 * i:x}: {''.join(shown[i : i + 2])}"


def memory_lines(memory: Memory) -> Iterator[str]:
    """Two words a line (crash's raw_stack_dump())."""
    shown = [
        f"{symbol or f'{word:016x}':16} "
        for word, symbol in zip(memory.words, memory.symbols, strict=True)
    ]
    address = memory.address
    for i in range(0, len(shown), 2):
        line = f"{address + 8 * i:16x}:  {''.join(shown[i : i + 2])}"
        last = i + 2 >= len(shown)
        yield Unended(line) if last and memory.unreadable is not None else line
    if memory.unreadable is not None:
        yield Report(
            f'bt: invalid kernel virtual address: {memory.unreadable:x}  type: "64-bit KVADDR"'
        )
