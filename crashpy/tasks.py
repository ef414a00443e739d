"""The tasks of the dump, in crash's order, read in bulk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from drgn import FaultError, Object
from drgn.helpers.linux.cpumask import for_each_present_cpu
from drgn.helpers.linux.pid import for_each_pid, pid_task
from drgn.helpers.linux.sched import cpu_curr, idle_task

from crashpy.command import CommandError
from crashpy.faults import skipping

if TYPE_CHECKING:
    from crashpy.dump import Dump


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


class TaskTable:
    """Every task once: the idle task of each CPU first, then by PID."""

    def __init__(self, dump: Dump) -> None:
        self._dump = dump
        self._prog = dump.prog

    @cached_property
    def all(self) -> list[Task]:
        prog = self._prog
        found: list[Task] = []
        # By present CPU: a panic takes the other CPUs offline as it stops them, so
        # drgn's for_each_task(idle=True) misses their idle tasks.
        for cpu in for_each_present_cpu(prog):
            found.append(self._read(idle_task(prog, cpu)))
        kind = prog["PIDTYPE_PID"].value_()
        for pid in for_each_pid(prog):
            with skipping(f"struct pid {pid.value_():x}"):
                if task := pid_task(pid, kind):
                    found.append(self._read(task))
        return found

    def __iter__(self) -> Iterator[Task]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)

    def _read(self, task: Object) -> Task:
        from drgn.helpers.linux.sched import task_cpu

        return Task(
            address=task.value_(),
            pid=task.pid.value_(),
            tgid=task.tgid.value_(),
            cpu=task_cpu(task),
            comm=task.comm.string_().decode(errors="backslashreplace"),
            parent=task.parent.value_(),
            mm=task.mm.value_(),
            stack=task.stack.value_(),
            flags=task.flags.value_(),
        )

    @cached_property
    def active(self) -> dict[int, Task]:
        """CPU number -> the task that was on it."""
        found = {}
        for cpu in for_each_present_cpu(self._prog):
            try:
                task = self.at(cpu_curr(self._prog, cpu).value_())
            except FaultError:
                continue
            if task is not None:
                found[cpu] = task
        return found

    @cached_property
    def panic(self) -> Task:
        """The task that was running when the kernel died; of a live dump, CPU 0's."""
        cpu = self._prog["panic_cpu"].counter.value_() if "panic_cpu" in self._prog else -1
        return self.active.get(cpu) or next(iter(self.active.values()))

    @cached_property
    def _by_address(self) -> dict[int, Task]:
        return {task.address: task for task in self.all}

    @cached_property
    def _by_pid(self) -> dict[int, list[Task]]:
        found: dict[int, list[Task]] = {}
        for task in self.all:
            found.setdefault(task.pid, []).append(task)
        return found

    def at(self, address: int) -> Task | None:
        return self._by_address.get(address)

    def with_pid(self, pid: int) -> list[Task]:
        return self._by_pid.get(pid, [])

    def is_active(self, task: Task) -> bool:
        return self.active.get(task.cpu) is task

    def object(self, task: Task) -> Object:
        """``struct task_struct *``"""
        return Object(self._prog, "struct task_struct *", value=task.address)


def choose(dump: Dump, words: Sequence[str]) -> list[Task]:
    """The tasks that `pid | task` words name; the context where there are none.

    A word is a decimal PID, a task address, or a hexadecimal PID, in this order
    (crash's str_to_context()). Raises CommandError for a word that names none.
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


def named(dump: Dump, word: str) -> list[Task]:
    """The tasks one `pid | task` word names: several for PID 0, none for anything else."""
    bases = (10, 16) if word.isdecimal() else (16,)
    for base in bases:
        try:
            value = int(word, base)
        except ValueError:
            return []
        if found := dump.tasks.with_pid(value):
            return found
        if (task := dump.tasks.at(value)) is not None:
            return [task]
    return []
