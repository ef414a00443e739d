"""The tasks of the dump, in crash's order, read in bulk."""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from drgn import FaultError, Object, sizeof
from drgn.helpers.linux.cpumask import for_each_online_cpu, for_each_present_cpu
from drgn.helpers.linux.percpu import per_cpu

from crashpy.command import CommandError
from crashpy.kernel.pid import Layout, indexed_tasks, linked_tasks
from crashpy.kernel.sched import PF_EXITING, PF_KTHREAD, TaskStates, task_states

if TYPE_CHECKING:
    from crashpy.dump import Dump

log = logging.getLogger("crashpy")


@dataclass(frozen=True, slots=True)
class Task:
    """What every command wants to know of a task."""

    address: int  # struct task_struct *
    pid: int
    tgid: int
    cpu: int  # where it last ran
    comm: str
    parent: int  # struct task_struct *, 0 for none
    mm: int  # struct mm_struct *, 0 for a kernel thread
    stack: int  # lowest address of the kernel stack (task_struct.stack)
    flags: int  # PF_*
    state: int = 0  # __state and exit_state together
    policy: int = 0  # SCHED_*
    signal: int = 0  # struct signal_struct *
    last_run_ns: int = 0  # sched_info.last_arrival, by the clock of its run queue
    start_time_ns: int = 0  # since boot
    utime_ns: int = 0
    stime_ns: int = 0
    stack_pointer: int | None = None  # where it was switched away; None where that is not kept

    @property
    def kthread(self) -> bool:
        return bool(self.flags & PF_KTHREAD)

    @property
    def exiting(self) -> bool:
        return bool(self.flags & PF_EXITING)


MEMBERS = {
    "pid": "pid",
    "tgid": "tgid",
    "comm": "comm",
    "parent": "parent",
    "mm": "mm",
    "stack": "stack",
    "flags": "flags",
    "policy": "policy",
    "signal": "signal",
    "last_run_ns": "sched_info.last_arrival",
    "start_time_ns": "start_time",
    "utime_ns": "utime",
    "stime_ns": "stime",
    "exit_state": "exit_state",
}
# One member per meaning, the newest name first.
ALTERNATIVES = {
    # Linux kernel commit 2f064a59a11f ("sched: Change task_struct::state") (in v5.14)
    "state": ("__state", "state"),
    # thread_info moved into task_struct (v4.9), then task_struct.cpu into thread_info
    # by Linux kernel commit bcf9033e5449 ("sched: move CPU field back into
    # thread_info if THREAD_INFO_IN_TASK=y") (in v5.16)
    "cpu": ("thread_info.cpu", "cpu"),
    "stack_pointer": ("thread.sp", "thread.ksp", "thread.cpu_context.sp"),
}


class TaskTable:
    """Every task once: the idle task of each CPU first, then by PID."""

    def __init__(self, dump: Dump) -> None:
        self._dump = dump
        self._prog = dump.prog

    @cached_property
    def all(self) -> list[Task]:
        holes: list[str] = []

        def hole(what: str, fault: Exception) -> None:
            holes.append(f"{what}: {fault}")

        found: dict[int, Task] = {}

        def add(address: int) -> None:
            if address in found:
                return
            try:
                found[address] = self._read(address)
            except (FaultError, ValueError, OverflowError) as fault:
                hole(f"task {address:x}", fault)

        # By present CPU: a panic takes the other CPUs offline as it stops them, so
        # drgn's for_each_task(idle=True) misses their idle tasks.
        for _, idle in self._run_queues.values():
            add(idle)
        try:
            for address in indexed_tasks(self._prog, hole):
                add(address)
        except (FaultError, LookupError) as fault:
            hole("the index of PIDs", fault)
        if holes:
            by_index = len(found)
            for address in linked_tasks(self._prog, list(found)):
                add(address)
            message = (
                f"holes in the list of tasks ({len(holes)}, the first: {holes[0]}); "
                f"{len(found) - by_index} more tasks found by other links"
            )
            log.warning("%s", message)
            self._dump.missing.append(message)
        for cpu, (current, _) in self._run_queues.items():
            if current and current not in found:
                add(current)
                if current in found:
                    log.warning(
                        "WARNING: active task %x on cpu %d not found in PID hash", current, cpu
                    )
        return sorted(found.values(), key=lambda t: (t.pid, t.cpu if t.pid == 0 else 0))

    def __iter__(self) -> Iterator[Task]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)

    @cached_property
    def _layout(self) -> Layout:
        type_ = self._prog.type("struct task_struct")
        members = dict(MEMBERS)
        for name, paths in ALTERNATIVES.items():
            for path in paths:
                if Layout(self._prog, type_, {name: path}).names:
                    members[name] = path
                    break
        return Layout(self._prog, type_, members)

    def _read(self, address: int) -> Task:
        values: dict[str, Any] = self._layout.read(self._prog, address)
        values["comm"] = bytes(values["comm"]).split(b"\0", 1)[0].decode(errors="backslashreplace")
        values["state"] |= values.pop("exit_state", 0)
        if "cpu" not in values:  # thread_info lies at the end of the stack
            from drgn.helpers.linux.sched import task_cpu

            values["cpu"] = task_cpu(Object(self._prog, "struct task_struct *", address))
        for name in ("start_time_ns", "utime_ns", "stime_ns"):
            if not isinstance(values.get(name, 0), int):  # struct timespec before 3.17
                seconds, nanoseconds = _timespec(values[name])
                values[name] = seconds * 1_000_000_000 + nanoseconds
        return Task(address=address, **values)

    @cached_property
    def _run_queues(self) -> dict[int, tuple[int, int]]:
        """CPU number -> rq.curr and rq.idle, ``struct task_struct *`` each."""
        found = {}
        queues = self._prog["runqueues"]
        try:
            cpus = list(for_each_present_cpu(self._prog))
        except (FaultError, LookupError):
            cpus = [0]
        for cpu in cpus:
            try:
                queue = per_cpu(queues, cpu)
                found[cpu] = (queue.curr.value_(), queue.idle.value_())
            except FaultError as fault:
                log.warning("skipped run queue of CPU %d: %s", cpu, fault)
        return found

    @cached_property
    def active(self) -> dict[int, Task]:
        """CPU number -> the task that was on it."""
        found = {}
        for cpu, (current, _) in self._run_queues.items():
            if (task := self.at(current)) is not None:
                found[cpu] = task
        return found

    @cached_property
    def _panic(self) -> Task | None:
        from crashpy.kernel.panic import panic_by_log, panic_by_stack, panic_cpu

        prog, active = self._prog, self.active
        cpu = panic_cpu(prog, self.online)
        if cpu is not None and cpu in active:
            return active[cpu]
        size = self.stack_size
        stacks = {task.address: (task.stack, size) for task in active.values()}
        found = panic_by_stack(prog, stacks)
        if found is None:
            found = panic_by_log(prog, {cpu: task.address for cpu, task in active.items()})
        return None if found is None else self.at(found)

    @property
    def panic(self) -> Task:
        """The task that was running when the kernel died; the first where none panicked."""
        if self._panic is not None:
            return self._panic
        if not self.all:
            raise CommandError("no task could be read from this dump")
        return self.all[0]

    @property
    def panic_found(self) -> bool:
        """False of a machine that was dumped alive."""
        return self._panic is not None

    @cached_property
    def online(self) -> frozenset[int]:
        """The numbers of the CPUs that are online."""
        try:
            return frozenset(for_each_online_cpu(self._prog))
        except (FaultError, LookupError):
            return frozenset(self._run_queues)

    @property
    def cpus(self) -> int:
        """One more than the highest CPU number (crash's kt->cpus)."""
        return max(self._run_queues, default=0) + 1

    @cached_property
    def stack_size(self) -> int:
        """THREAD_SIZE"""
        for name in ("union thread_union", "union task_union"):
            try:
                return sizeof(self._prog.type(name))
            except LookupError:
                continue
        return 4 * 4096

    @cached_property
    def states(self) -> TaskStates:
        return task_states(self._prog)

    def state(self, task: Task) -> str:
        """RU, IN, UN, ID, ZO, ..."""
        return self.states.short(task.state)

    def state_verbose(self, task: Task) -> str:
        """TASK_RUNNING, TASK_UNINTERRUPTIBLE|TASK_NOLOAD, ..."""
        return self.states.verbose(task.state)

    @cached_property
    def _by_address(self) -> dict[int, Task]:
        return {task.address: task for task in self.all}

    @cached_property
    def _by_pid(self) -> dict[int, list[Task]]:
        found: dict[int, list[Task]] = {}
        for task in self.all:
            found.setdefault(task.pid, []).append(task)
        return found

    @cached_property
    def _by_tgid(self) -> dict[int, list[Task]]:
        found: dict[int, list[Task]] = {}
        for task in self.all:
            found.setdefault(task.tgid, []).append(task)
        return found

    def at(self, address: int) -> Task | None:
        return self._by_address.get(address)

    def with_pid(self, pid: int) -> list[Task]:
        return self._by_pid.get(pid, [])

    def group(self, tgid: int) -> list[Task]:
        """The threads of a thread group; of 0 the idle tasks."""
        return self._by_tgid.get(tgid, [])

    def leader(self, task: Task) -> Task | None:
        """The leader of the task's thread group."""
        return next((t for t in self.with_pid(task.tgid) if t.tgid == task.tgid), None)

    @cached_property
    def _active_addresses(self) -> set[int]:
        addresses = {task.address for task in self.active.values()}
        if self._panic is not None:
            addresses.add(self._panic.address)
        return addresses

    def is_active(self, task: Task) -> bool:
        return task.address in self._active_addresses

    def panic_message(self) -> tuple[str, bool]:
        """Why the kernel died, and whether SysRq asked for it."""
        return self._panic_message

    @cached_property
    def _panic_message(self) -> tuple[str, bool]:
        from crashpy.kernel.panic import panic_message, sysrq_on_stack

        message, sysrq = panic_message(self._prog)
        if self._panic is not None and not sysrq:
            sysrq = sysrq_on_stack(self._prog, self._panic.stack, self.stack_size)
        return message, sysrq

    def object(self, task: Task) -> Object:
        """``struct task_struct *``"""
        return Object(self._prog, "struct task_struct *", value=task.address)


def _timespec(data: bytes) -> tuple[int, int]:
    seconds, nanoseconds = struct.unpack("<qq", data)
    return seconds, nanoseconds


def choose(dump: Dump, words: Sequence[str]) -> list[Task]:
    """The tasks that `pid | task` words name; the context where there are none.

    Raises CommandError for a word that names none. What `named` tells apart.
    """
    if not words:
        return [dump.context]
    chosen: list[Task] = []
    for word in words:
        found = named(dump, word)
        if not found:
            raise CommandError(f"invalid task or pid value: {word}")
        chosen += found
    return chosen


HEXADECIMAL = re.compile(r"(?:0[xX])?([0-9a-fA-F]{1,16})")


def is_number(word: str) -> bool:
    """Whether it is a decimal or hexadecimal number (crash's IS_A_NUMBER())."""
    return HEXADECIMAL.fullmatch(word) is not None or (word.isascii() and word.isdecimal())


def named(dump: Dump, word: str) -> list[Task]:
    """The tasks one `pid | task` word names: several for PID 0, none for anything else.

    A decimal PID goes before a hexadecimal one; a number that could be a PID and
    a task is refused (crash's str_to_context()).
    """
    tasks = dump.tasks
    if (matched := HEXADECIMAL.fullmatch(word)) is None:
        return []
    hexadecimal = int(matched[1], 16)
    decimal = int(word) if word.isdecimal() else None
    as_pid: list[Task] = []
    as_task: list[Task] = []
    hex_pid: list[Task] = []
    if decimal is not None:
        as_pid = tasks.with_pid(decimal)
        as_task = _listed(tasks.at(decimal))
    if hexadecimal != decimal:
        hex_pid = tasks.with_pid(hexadecimal)
        as_task = as_task or _listed(tasks.at(hexadecimal))
    if as_task:
        return [] if as_pid or hex_pid else as_task
    return as_pid or hex_pid


def _listed(task: Task | None) -> list[Task]:
    return [] if task is None else [task]


POSIX_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": " \\t",
    "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": "!-/:-@\\[-`{-~",
    "space": "\\s",
    "upper": "A-Z",
    "xdigit": "0-9a-fA-F",
}


def name_pattern(word: str) -> re.Pattern[str]:
    """The POSIX extended regular expression of a word in single quotes.

    Raises CommandError where it is none.
    """
    pattern = word[1:-1]
    translated = re.sub(
        r"\[:(\w+):\]", lambda m: POSIX_CLASSES.get(m[1], m[0]), pattern.replace("[[]", "\\[")
    )
    try:
        return re.compile(translated)
    except re.error:
        raise CommandError(f"invalid regular expression: {pattern}") from None


def is_quoted(word: str) -> bool:
    return len(word) > 1 and word[0] == word[-1] == "'"


def bare_name(word: str) -> str:
    """A command name as a task can have it: without its backslash, cut to 15 bytes."""
    name = word.removeprefix("\\").encode(errors="surrogateescape")[:15]
    return name.decode(errors="backslashreplace")
