"""fuser: the tasks that use a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import dropwhile, islice
from typing import TYPE_CHECKING

from drgn import FaultError, offsetof

from crashpy.command import Address, CommandError, UsageError, command, operands
from crashpy.faults import skipping
from crashpy.gdb.memory import is_kernel
from crashpy.kernel.mm import Mm
from crashpy.kernel.vfs import Path, Vfs
from crashpy.numbers import NumberError, htol, is_hexadecimal
from crashpy.tasks import Task

from .files import FILES_HEADER, files
from .files import lines as file_lines

if TYPE_CHECKING:
    from crashpy.dump import Dump


WORD = (1 << 64) - 1


@dataclass(frozen=True)
class User:
    """A task that uses a file."""

    file: str  # as it was asked for
    pid: int
    task: Address  # struct task_struct *
    comm: str
    uses: tuple[str, ...]  # root, cwd, fd, mmap


@dataclass(frozen=True)
class Unused:
    file: str


@command(
    operands("names", "pathname | inode", str, "whose users; a path from / on"),
    usage="[pathname | inode]",
)
def fuser(dump: Dump, *, names: Sequence[str] = ()) -> Iterator[User | Unused]:
    """the tasks that use a file

    The file is named by its path, or by the address of its inode, dentry or struct file.
    USAGE tells how: as the task's root or current directory (root, cwd), by a file
    descriptor (fd), mapped into its memory (mmap). A path that ends so counts as well.

    EXAMPLES
      crash> fuser /dev/console
       PID         TASK        COMM             USAGE
          1  ffffa0bb801c0000  "init"           fd
    """
    if not names:
        raise UsageError
    for name in names:
        if not name.startswith("/"):
            try:
                address = htol(name)
            except NumberError:
                address = 0
            if not is_kernel(dump, address) or address == WORD:
                raise CommandError(f"invalid argument: {name}")
        if name.startswith("0x") and is_hexadecimal(name):
            name = name[2:]
        yield from _users(dump, name)


def _users(dump: Dump, name: str) -> Iterator[User | Unused]:
    found = False
    for task in dump.tasks:
        with skipping(f"the files of task {task.address:x}"):
            if uses := tuple(_uses(dump, task, name)):
                found = True
                yield User(name, task.pid, Address(task.address), task.comm, uses)
    if not found:
        yield Unused(name)


def _uses(dump: Dump, task: Task, name: str) -> Iterator[str]:
    """By the lines of `files` and `vm` with inodes in them, as crash looks for it."""
    line = _directories(dump, task)
    _, there, rest = line.partition(name)
    if there and rest[:1] in ("", " "):
        if "CWD:" in rest:
            yield "root"
            if _mentions(rest, name):
                yield "cwd"
        else:
            yield "cwd"
    if any(_mentions(row, name) for row in _descriptors(dump, task)):
        yield "fd"
    if task.mm and any(_mentions(row, name) for row in _areas(dump, task.mm)):
        yield "mmap"


def _mentions(line: str, name: str) -> bool:
    """Whether a blank or the end follows the first time that a line has the name."""
    _, there, rest = line.partition(name)
    return bool(there) and rest[:1] in ("", " ")


def _directories(dump: Dump, task: Task) -> str:
    prog, vfs = dump.prog, Vfs.of(dump.prog)
    fs = prog.read_u64(task.address + offsetof(prog.type("struct task_struct"), "fs"))
    if not fs:
        return ""
    root, cwd = vfs.root_and_cwd(fs)
    return f"ROOT: {_named(vfs, root)}    CWD: {_named(vfs, cwd)}"


def _named(vfs: Vfs, path: Path) -> str:
    """Inode and path."""
    if not path.dentry:
        return ""
    try:
        return f"{vfs.dentry(path.dentry).inode:x} {vfs.path(path)}"
    except FaultError:
        return ""


def _descriptors(dump: Dump, task: Task) -> Iterator[str]:
    rows = file_lines(files(dump, tasks=(task,)))
    return islice(dropwhile(lambda row: row != FILES_HEADER, rows), 1, None)


def _areas(dump: Dump, mm: int) -> Iterator[str]:
    vfs = Vfs.of(dump.prog)
    for area in Mm.of(dump.prog).areas(mm):
        row = f"{area.address:x} {area.start:x} {area.end:x} {area.flags:x}"
        if area.file:
            with skipping(f"the file of area {area.address:x}"):
                row += f" {_named(vfs, vfs.file(area.file))}"
        yield row


@fuser.text
def lines(users: Iterable[User | Unused]) -> Iterator[str]:
    last = None
    for user in users:
        if isinstance(user, Unused):
            yield f"No users of {user.file} found"
            continue
        if user.file != last:
            yield f" PID   {'TASK':^16}  COMM             USAGE"
            last = user.file
        comm = f'"{user.comm}"'[:15]
        yield f"{user.pid:>5}  {user.task:16x}  {comm:16} {' '.join(user.uses)} "
