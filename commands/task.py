"""task: a task's task_struct and thread_info."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crashpy.command import Address, CommandError, command, flag, operands, value
from crashpy.gdb.types import members
from crashpy.gdb.values import Style
from crashpy.tasks import Task, is_number, named
from crashpy.text import task_header

from .struct import Compound, Contents, compound, contents, contents_lines, member_lines

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.settings import Settings


@dataclass(frozen=True)
class TaskContents:
    """The structures of a task, or the members asked for."""

    pid: int
    task: Address  # struct task_struct *
    cpu: int
    comm: str
    members: tuple[str, ...]  # none asks for all
    task_struct: Contents = field(repr=False)
    thread_info: Contents | None = field(default=None, repr=False)

    def having(self, member: str) -> list[Contents]:
        """The structures that have a member; of a path, the task_struct."""
        if "." in member or "[" in member:
            return [self.task_struct]
        both = (self.task_struct, self.thread_info)
        return [part for part in both if part is not None and member in members(part.of.type)]

    def __json__(self) -> dict[str, Any]:
        found: dict[str, Any] = {"pid": self.pid, "task": self.task}
        found |= {"cpu": self.cpu, "comm": self.comm}
        parts = [part for part in (self.task_struct, self.thread_info) if part is not None]
        for part in parts:
            asked = tuple(m for m in self.members if part in self.having(m))
            if self.members and not asked:
                continue
            shown = Contents(part.of, part.address, asked, part.data, part.target, part.fault)
            found[part.of.name] = shown.__json__()["value"]
        return found


@command(
    flag("-x", "radix", "in hexadecimal", value=16),
    flag("-h", "radix", "the same", value=16),
    flag("-d", "radix", "in decimal", value=10),
    value("-R", "reference", "member[,member]", str, "only these members", repeat=True),
    operands("tasks", "pid | taskp", str, "these tasks; members may stand among them"),
    usage="[-R member[,member]] [-dx] [pid | taskp] ...",
)
def task(
    dump: Dump, *, tasks: Sequence[str | Task] = (), reference: Sequence[str] = ()
) -> Iterator[TaskContents]:
    """the task_struct and the thread_info of tasks

    Without PID or task address: of the current context. -R shows only some members of
    either structure, separated by commas: names, or paths like se.load.weight. A word
    that is a member or a list of them needs no -R.

    -x, -d  in hexadecimal, in decimal

    EXAMPLES
      crash> task -R pid,comm 1
      PID: 1        TASK: ffffa0bb801c0000  CPU: 0    COMMAND: "init"
        pid = 1,
        comm = "init\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000",

      crash> task -x 1
      crash> task se.vruntime
      crash> foreach active task -R flags
    """
    task_struct = compound(dump.gdb, "task_struct")
    if task_struct is None:
        raise CommandError("invalid structure name: task_struct")
    thread_info = compound(dump.gdb, "thread_info")
    if isinstance(reference, str):
        reference = (reference,)
    wanted = ",".join(reference).replace(",", " ").split()
    chosen: list[Task] = []
    given = False
    own = members(task_struct.type)
    for word in tasks:
        if isinstance(word, Task):
            chosen.append(word)
        elif is_number(word):
            given = True
            found = named(dump, word)
            if not found:
                dump.report(f"invalid task or pid value: {word}\n")
            chosen += found
        elif "," in word or "." in word or "[" in word or word in own:
            wanted += word.replace(",", " ").split()
        else:
            dump.report(f"invalid task, pid, or task_struct member: {word}\n")
    if not chosen and not given:
        chosen.append(dump.context)
    for each in chosen:
        yield TaskContents(
            each.pid,
            Address(each.address),
            each.cpu,
            each.comm,
            tuple(wanted),
            contents(dump, task_struct, each.address),
            _thread_info(dump, thread_info, task_struct, each),
        )


def _thread_info(
    dump: Dump, of: Compound | None, task_struct: Compound, each: Task
) -> Contents | None:
    """On the stack before Linux kernel commit 15f4eae70d36 (in v4.9), since then in the task."""
    if of is None or not of.size:
        return None
    place = members(task_struct.type).get("thread_info")
    return contents(dump, of, each.stack if place is None else each.address + place.offset)


@task.check
def exclusive(names: Sequence[str]) -> None:
    if "-d" in names and ("-x" in names or "-h" in names):
        raise CommandError("-d and -x are mutually exclusive")


@task.text
def lines(
    records: Iterable[TaskContents],
    *,
    settings: Settings,
    radix: int | None = None,
    header: bool = True,
) -> Iterator[str]:
    """A line for the task and the structures as `struct` shows them (crash's do_task())."""
    style = Style.of(settings, radix)
    for record in records:
        if header:
            yield task_header(record.pid, record.task, record.cpu, record.comm)
        if record.members:
            yield from _members(record, style)
        else:
            yield from contents_lines(record.task_struct, style, "task")
            if record.thread_info is not None:
                yield ""
                yield from contents_lines(record.thread_info, style, "task")
        yield ""


def _members(record: TaskContents, style: Style) -> Iterator[str]:
    for member in record.members:
        found = record.having(member)
        if not found:
            text = f"{member}: not a task_struct or thread_info member"
            record.task_struct.target.dump.report(text)
        for part in found:
            if part.data is not None:
                yield from member_lines(part, member, style)
