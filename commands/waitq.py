"""waitq: the tasks that wait on a wait queue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crashpy.command import Address, CommandError, UsageError, command
from crashpy.gdb.memory import Memory, UnreadableError, is_kernel
from crashpy.gdb.types import members
from crashpy.numbers import htol, is_number
from crashpy.tasks import Task
from crashpy.text import task_header

from .struct import compound

if TYPE_CHECKING:
    from crashpy.dump import Dump

WORD = (1 << 64) - 1
# Of a queue: its structure and the list in it, an entry's structure, the list that it is
# linked by, and what tells its task.
NAMES = (
    # Since Linux kernel commit ac6424b981bc ("sched/wait: Rename wait_queue_t =>
    # wait_queue_entry_t") and its neighbours (in v4.13)
    ("wait_queue_head", "head", "wait_queue_entry", "entry", "private"),
    ("__wait_queue_head", "task_list", "__wait_queue", "task_list", "private"),
)


@dataclass(frozen=True)
class Waiter:
    pid: int
    task: Address  # struct task_struct *
    cpu: int
    comm: str
    entry: Address  # struct wait_queue_entry *


@dataclass(frozen=True)
class Empty:
    """Nobody waits there."""

    queue: Address  # struct wait_queue_head *
    name: str | None  # the symbol it was asked for by


@dataclass(frozen=True)
class Remark:
    """What is wrong with the words, in crash's way."""

    text: str


@command(usage=" [ symbol ] | [ struct.member struct_addr ] | [ address ]", words=True)
def waitq(dump: Dump, *, words: Sequence[str] = ()) -> Iterator[Waiter | Empty | Remark]:
    """the tasks that wait on a wait queue

    The queue (struct wait_queue_head) is given by its symbol, by the address of a
    structure that has it as a member, or by its own address. Tasks in select() and
    poll() are found by their stacks; waiters that are no tasks (epoll, work) are
    left out.

    EXAMPLES
      crash> waitq log_wait
      wait queue "log_wait" (ffffffffa645b670) is empty

      crash> waitq signal_struct.wait_chldexit ffffa0bb8019c800
      PID: 1        TASK: ffffa0bb801c0000  CPU: 0    COMMAND: "init"
    """
    if not 1 <= len(words) <= 2:
        raise UsageError
    word, name = words[0], None
    if is_number(word):
        queue = htol(word)
    elif "." in word:
        of, _, member = word.partition(".")
        if len(words) != 2:
            yield Remark(f"must supply an address for {of}")
            return
        queue = htol(words[1])
        found = compound(dump.gdb, of)
        place = members(found.type).get(member) if found is not None else None
        if place is None:
            yield Remark(f"{member} is not a member of {of}")
            return
        queue = (queue + place.offset) & WORD
    else:
        if not word:
            raise CommandError("The length of the symbol name is zero!")
        symbol = dump.symbols.named(word)
        if symbol is None:
            raise CommandError(f'cannot resolve "{word}"')
        queue, name = symbol.address, word
    if queue and is_kernel(dump, queue):
        yield from _waiters(dump, queue, name)


def _waiters(dump: Dump, queue: int, name: str | None) -> Iterator[Waiter | Empty]:
    head, link, private = _offsets(dump)
    memory = Memory(dump)
    entries = list(_entries(memory, queue + head))
    if not entries:
        yield Empty(Address(queue), name)
        return
    for at in entries:
        entry = (at - link) & WORD
        waiting = _pointer(memory, entry + private, "wait_queue_t.task")
        task = dump.tasks.at(waiting) or _by_stack(dump, waiting)
        if task is not None:
            yield Waiter(task.pid, Address(task.address), task.cpu, task.comm, Address(entry))


def _offsets(dump: Dump) -> tuple[int, int, int]:
    """Of the list in a queue, and of the list and the task in an entry."""
    for head, listed, entry, link, private in NAMES:
        queue, waiter = compound(dump.gdb, head), compound(dump.gdb, entry)
        if queue is not None and waiter is not None:
            inside = members(waiter.type)
            return (
                members(queue.type)[listed].offset,
                inside[link].offset,
                inside[private].offset,
            )
    raise CommandError("cannot determine wait queue structures")


def _entries(memory: Memory, head: int) -> Iterator[int]:
    """The list_heads behind a list's own."""
    seen = {head}
    at = _pointer(memory, head, "first list entry")
    while at and at != head:
        if at in seen:
            raise CommandError(f"\nduplicate list entry: {at:x}")
        seen.add(at)
        yield at
        following = _pointer(memory, at, "list entry")
        if following == at:
            return
        at = following


def _pointer(memory: Memory, address: int, caller: str) -> int:
    try:
        return int.from_bytes(memory.read(address & WORD, 8, caller), "little")
    except UnreadableError as error:
        raise CommandError(str(error) or f"page excluded: {address & WORD:x}") from error


def _by_stack(dump: Dump, address: int) -> Task | None:
    """Whose stack an address is on."""
    size = dump.tasks.stack_size
    return next((t for t in dump.tasks if t.stack <= address < t.stack + size), None)


@waitq.text
def lines(found: Iterable[Waiter | Empty | Remark]) -> Iterator[str]:
    for each in found:
        if isinstance(each, Remark):
            yield each.text
        elif isinstance(each, Empty):
            name = f'"{each.name}" ({each.queue:x})' if each.name else f"{each.queue:x}"
            yield f"wait queue {name} is empty"
        else:
            yield task_header(each.pid, each.task, each.cpu, each.comm)
