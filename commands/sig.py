"""sig: how tasks handle signals, and what waits for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from drgn import FaultError, Object, offsetof, sizeof

from crashpy.command import Address, CommandError, command, flag, operands, value
from crashpy.faults import skipping
from crashpy.gdb.types import members
from crashpy.kernel.pid import Layout
from crashpy.kernel.vfs import shared
from crashpy.numbers import htol, is_number
from crashpy.tasks import Task, named
from crashpy.text import task_header

from .struct import compound

if TYPE_CHECKING:
    from crashpy.dump import Dump

MOST_QUEUED = 1 << 20  # RLIMIT_SIGPENDING is far below
SIGNALS, FIRST_REAL_TIME = 64, 32  # _NSIG, SIGRTMIN
NAMES = """\
HUP INT QUIT ILL TRAP ABRT/IOT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD/CLD CONT
STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO/POLL PWR SYS/UNUSED"""
HANDLERS = {(1 << 64) - 1: "SIG_ERR", 0: "SIG_DFL", 1: "SIG_IGN"}
# Of sigaction.sa_flags, in the order in which they are shown.
FLAGS = {
    "SA_NOCLDSTOP": 0x1,
    "SA_RESTORER": 0x04000000,
    "SA_NOCLDWAIT": 0x2,
    "SA_SIGINFO": 0x4,
    "SA_ONSTACK": 0x08000000,
    "SA_RESTART": 0x10000000,
    "SA_NODEFER": 0x40000000,
    "SA_RESETHAND": 0x80000000,
}
TIF_SIGPENDING = 2
LONGEST_LINE = 80
QUEUED = 13 * " "  # before a signal that waits; crash indents these lines no further


class Action(NamedTuple):
    """What a task does with a signal. There are 64 of them for each task."""

    signal: int
    sigaction: int  # struct k_sigaction *
    handler: int  # void (*)(int); 0 is SIG_DFL, 1 SIG_IGN
    mask: int  # sigset_t
    flags: int  # SA_*

    def __json__(self) -> dict[str, Any]:
        number, *words = self
        return dict(zip(self._fields, (number, *map(Address, words)), strict=True))


@dataclass(frozen=True)
class Queued:
    signal: int
    siginfo: Address  # struct kernel_siginfo *


@dataclass(frozen=True)
class Pending:
    """A ``struct sigpending``."""

    signals: Address  # sigset_t
    queue: tuple[Queued, ...]


@dataclass(frozen=True)
class Thread:
    pid: int
    task: Address  # struct task_struct *
    cpu: int
    comm: str
    sigpending: bool
    blocked: Address  # sigset_t
    pending: Pending


@dataclass(frozen=True)
class Signals:
    """Of a task, or with -g of a thread group."""

    signal_struct: Address  # struct signal_struct *, 0 of a task that has left it
    threads_left: int | None  # signal_struct.nr_threads
    actions: tuple[Action, ...]  # none of a task that has left its sighand_struct
    shared_pending: Pending | None  # None where there is no signal_struct
    threads: tuple[Thread, ...]
    group: bool = field(default=False, repr=False)
    header: bool = field(default=True, repr=False)


@dataclass(frozen=True)
class SignalName:
    signal: int
    name: str
    alias: str | None = None


@dataclass(frozen=True)
class SignalSet:
    signals: tuple[str, ...]


@command(
    flag("-l", "names", "the numbers and names of all signals"),
    value("-s", "sigset", "sigset", str, "the names of the signals in a mask"),
    value("-R", "reference", "reference", str, "not supported", repeat=True),
    flag("-g", "group", "the whole thread group of each task"),
    operands("tasks", "pid | taskp", str, "these tasks"),
    usage="[[-l] | [-s sigset]] | [-g] [pid | taskp] ...",
)
def sig(
    dump: Dump,
    *,
    tasks: Sequence[str | Task] = (),
    group: bool = False,
    reference: Sequence[str] = (),
) -> Iterator[Signals]:
    """signals: their handlers, what is blocked, what waits

    For each task the k_sigaction, handler, mask and flags of every signal, the blocked
    signals, and those pending for the task alone (PRIVATE_PENDING) and for its thread
    group (SHARED_PENDING), with the siginfo of each that is queued. Without PID or task
    address: of the current context.

    EXAMPLES
      crash> sig -s 0000000000010002
      SIGINT SIGCHLD

      crash> sig 1
      crash> sig -g 126
      crash> foreach user sig
    """
    if isinstance(reference, str):
        reference = (reference,)
    chosen: list[Task] = []
    wrong = False
    known = compound(dump.gdb, "task_struct")
    for word in tasks:
        if isinstance(word, Task):
            chosen.append(word)
        elif is_number(word):
            found = named(dump, word)
            if not found:
                wrong = True
                dump.report(f"invalid task or pid value: {word}\n")
            chosen += found
        elif "," in word or (known is not None and word in members(known.type)):
            reference = (*reference, word)
        else:
            dump.report(f"invalid task or pid value: {word}\n")
    if not chosen and not wrong:
        chosen.append(dump.context)
    reader = shared(dump.prog, _Reader, lambda: _Reader(dump))
    idle = False  # the idle tasks are one group, shown once
    for task in chosen:
        if not group:
            if reference:
                among = "sig: " if isinstance(tasks[0] if tasks else None, Task) else ""
                raise CommandError(f"{among}-R not supported yet")
            with skipping(f"the signals of task {task.address:x}"):
                yield reader.signals(task, (task,))
            continue
        leader = task if task.pid == task.tgid else dump.tasks.leader(task)
        if leader is None or (leader.pid == 0 and idle):
            continue
        others = [t for t in dump.tasks.group(leader.tgid) if t.address != leader.address]
        idle |= any(t.pid == 0 for t in others)
        with skipping(f"the signals of task {leader.address:x}"):
            yield replace(reader.signals(leader, (leader, *others)), group=True)


class _Reader:
    """Where everything is, in this kernel."""

    def __init__(self, dump: Dump) -> None:
        self._dump = dump
        self._prog = prog = dump.prog
        pending = {"signals": "{}.signal.sig[0]", "first": "{}.list.next"}
        members = {name: path.format("pending") for name, path in pending.items()}
        members |= {"signal": "signal", "sighand": "sighand", "blocked": "blocked.sig[0]"}
        task = prog.type("struct task_struct")
        self._task = Layout(prog, task, {**members, "flags": "thread_info.flags"})
        self._pending_list = offsetof(task, "pending.list")
        signal = prog.type("struct signal_struct")
        members = {name: path.format("shared_pending") for name, path in pending.items()}
        self._signal = Layout(prog, signal, {**members, "count": "nr_threads"})
        self._shared_list = offsetof(signal, "shared_pending.list")
        queue = prog.type("struct sigqueue")
        self._queued = Layout(prog, queue, {"next": "list.next", "number": "info.si_signo"})
        self._link, self._info = offsetof(queue, "list"), offsetof(queue, "info")
        self._actions_at = offsetof(prog.type("struct sighand_struct"), "action")
        self._size = sizeof(prog.type("struct k_sigaction"))
        action = prog.type("struct sigaction")
        names = ("sa_handler", "sa_flags", "sa_mask.sig[0]")
        self._action = Layout(prog, action, {name: name for name in names})

    def signals(self, task: Task, threads: Sequence[Task]) -> Signals:
        """Raises FaultError where the task itself cannot be read."""
        found = self._task.read(self._prog, task.address)
        each = tuple(map(self.thread, threads))
        signal = found["signal"]
        if not signal:
            return Signals(Address(0), None, (), None, each)
        shared = self._signal.read(self._prog, signal)
        return Signals(
            Address(signal),
            shared.get("count"),
            self._actions(found["sighand"]),
            self._pending(shared, signal + self._shared_list),
            each,
        )

    def _actions(self, sighand: int) -> tuple[Action, ...]:
        """Of all signals, read at once."""
        if not sighand:
            text = 'invalid kernel virtual address: 0  type: "sighand_struct buffer"'
            self._dump.report(text)
            return ()
        start = sighand + self._actions_at
        try:
            data = self._prog.read(start, SIGNALS * self._size)
        except FaultError as fault:
            self._dump.report(f"the actions of sighand_struct {sighand:x}: {fault}")
            return ()
        names = ("sa_handler", "sa_mask.sig[0]", "sa_flags")
        handler, mask, flags = map(self._action.names.index, names)
        actions = []
        for number in range(SIGNALS):
            at = number * self._size
            words = self._action.tuple(data, at)
            action = Action(number + 1, start + at, words[handler], words[mask], words[flags])
            actions.append(action)
        return tuple(actions)

    def thread(self, task: Task) -> Thread:
        found = self._task.read(self._prog, task.address)
        flags = found.get("flags")
        if flags is None:  # thread_info is on the stack before Linux 4.9
            flags = int(Object(self._prog, "struct thread_info *", task.stack).flags)
        return Thread(
            task.pid,
            Address(task.address),
            task.cpu,
            task.comm,
            bool(flags >> TIF_SIGPENDING & 1),
            Address(found["blocked"]),
            self._pending(found, task.address + self._pending_list),
        )

    def _pending(self, found: dict[str, Any], head: int) -> Pending:
        return Pending(Address(found["signals"]), tuple(self._queue(found["first"], head)))

    def _queue(self, at: int, head: int) -> Iterator[Queued]:
        seen: set[int] = set()
        with skipping("the rest of the signals that wait"):
            while at not in (head, 0) and at not in seen and len(seen) < MOST_QUEUED:
                seen.add(at)
                found = self._queued.read(self._prog, at - self._link)
                yield Queued(found["number"], Address(at - self._link + self._info))
                at = found["next"]


@sig.text
def lines(records: Iterable[Signals], *, header: bool = True) -> Iterator[str]:
    """Its dump_signal_data()."""
    for record in records:
        first, *_ = record.threads
        if header or record.group:
            yield task_header(first.pid, first.task, first.cpu, first.comm)
        yield from _group_lines(record)
        if record.group:
            yield from _shared_lines(record)
            for thread in record.threads:
                yield ""
                yield "  " + task_header(thread.pid, thread.task, thread.cpu, thread.comm)
                for line in _thread_lines(thread):
                    yield line if line.startswith(QUEUED) else f"  {line}"
        elif record.signal_struct:
            yield from _thread_lines(first)
            yield from _shared_lines(record)
        if header or record.group:
            yield ""


def _group_lines(record: Signals) -> Iterator[str]:
    line = f"SIGNAL_STRUCT: {record.signal_struct:x}  "
    if record.threads_left is not None:
        line += f"NR_THREADS: {record.threads_left}"
    yield line
    if not record.signal_struct:
        return
    yield f" SIG {'SIGACTION':^16} {'HANDLER':>10} {'MASK':^16} {'FLAGS':<16}"
    for number, address, *what in record.actions:
        yield f"{f'[{number}]':>4} {address:<16x} {_action(*what)}"


@cache
def _action(handler: int, mask: int, flags: int) -> str:
    """Most are the same."""
    name = HANDLERS.get(handler, f"{handler:x}")
    names = [name for name, bit in FLAGS.items() if flags & bit]
    meaning = f"({'|'.join(names)})" if names else ""
    return f"{name:>10} {mask:016x} {flags:x} {meaning}"


def _thread_lines(thread: Thread) -> Iterator[str]:
    yield f"SIGPENDING: {'yes' if thread.sigpending else 'no'}"
    yield f"   BLOCKED: {thread.blocked:016x}"
    yield "PRIVATE_PENDING"
    yield from _pending_lines(thread.pending)


def _shared_lines(record: Signals) -> Iterator[str]:
    if record.shared_pending is not None:
        yield "SHARED_PENDING"
        yield from _pending_lines(record.shared_pending)


def _pending_lines(pending: Pending) -> Iterator[str]:
    yield f"    SIGNAL: {pending.signals:016x}"
    if not pending.queue:
        yield "  SIGQUEUE: (empty)"
        return
    yield f"  SIGQUEUE:  SIG  {'SIGINFO':^16}"
    for each in pending.queue:
        yield f"{QUEUED}{each.signal:3}  {each.siginfo:x}"


@sig.mode("-l", "the numbers and names of all signals", first=True)
def signal_names(dump: Dump) -> Iterator[SignalName]:  # noqa: ARG001
    """the numbers and names of all signals"""
    for number in range(1, SIGNALS + 1):
        name, _, alias = _name(number).partition("/")
        yield SignalName(number, name, f"SIG{alias}" if alias else None)


def _name(number: int) -> str:
    """With its other name behind a slash."""
    if number < FIRST_REAL_TIME:
        return f"SIG{NAMES.split()[number - 1]}"
    if number in (FIRST_REAL_TIME, SIGNALS):
        return "SIGRTMIN" if number == FIRST_REAL_TIME else "SIGRTMAX"
    above, below = number - FIRST_REAL_TIME, SIGNALS - number
    return f"SIGRTMIN+{above}" if above <= below else f"SIGRTMAX-{below}"


@signal_names.text
def name_lines(names: Iterable[SignalName]) -> Iterator[str]:
    for each in names:
        yield f"{f'[{each.signal}]':>4} {each.name}" + (f"/{each.alias}" if each.alias else "")


@sig.mode("-s", "the names of the signals in a mask", metavar="sigset", dest="sigset", first=True)
def signal_set(dump: Dump, *, sigset: str = "0") -> Iterator[SignalSet]:  # noqa: ARG001
    """the names of the signals in a mask"""
    mask = htol(sigset)
    numbers = [n for n in range(1, SIGNALS + 1) if mask >> n - 1 & 1]
    yield SignalSet(tuple(_name(number).partition("/")[0] for number in numbers))


@signal_set.text
def set_lines(sets: Iterable[SignalSet]) -> Iterator[str]:
    for each in sets:
        line = ""
        for name in each.signals:
            more = f" {name}" if line else name
            if len(line) + len(more) > LONGEST_LINE:
                yield line
                line, more = "", name
            line += more
        yield line or "(none)"
