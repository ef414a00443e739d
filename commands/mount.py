"""mount: the file systems that a task sees mounted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

from drgn import FaultError, Object, Program

from crashpy.command import Address, CommandError, command, flag, operands, value
from crashpy.faults import skipping
from crashpy.kernel.vfs import Path, Vfs
from crashpy.numbers import htol, is_hexadecimal
from crashpy.tasks import Task, named

if TYPE_CHECKING:
    from crashpy.dump import Dump

MOST = 1 << 20  # mounts in a namespace: sysctl fs.mount-max is 100000 by default
NOT_HERE = "{} option not supported or applicable on this architecture or kernel"


@dataclass(frozen=True)
class Mounted:
    mount: Address  # struct mount *, or before 3.3 struct vfsmount *
    vfsmount: Address  # struct vfsmount *
    superblock: Address  # struct super_block *
    type: str | None  # of the file system; what could not be read is None
    device: str | None
    directory: str


@command(
    flag("-f", "files", "open files of each file system: before Linux 3.13"),
    flag("-i", "inodes", "dirty inodes of each file system: before Linux 2.6.32"),
    value("-n", "task", "pid|task", str, "what this task sees"),
    operands("selectors", "mount|vfsmount|superblock|dev|dir|dentry|inode", str, "only these"),
    usage="[-f][-i] [-n pid|task] [mount|vfsmount|superblock|dev|dir|dentry|inode]",
)
def mount(
    dump: Dump,
    *,
    files: bool = False,
    inodes: bool = False,
    task: str = "",
    selectors: Sequence[str] = (),
) -> Iterator[Mounted]:
    """mounted file systems

    The struct mount, superblock, type, device and directory of what is mounted in the
    mount namespace of the first task, or with -n of another one. Operands select some:
    the address of a mount, vfsmount or superblock, of a dentry or inode in the file
    system, a device, a directory, or a type.

    Kernels since 3.13 keep no list of the open files of a file system, and since 2.6.32
    none of its dirty inodes: -f and -i say so.

    EXAMPLES
      crash> mount /proc
           MOUNT           SUPERBLK     TYPE   DEVNAME   DIRNAME
      ffffa0bb8017c780 ffffa0bb8018d800 proc   proc      /proc

      mount -n 126             as process 126 sees them
      mount ext2               all of one type
    """
    for given, member, letter in ((inodes, "s_dirty", "-i"), (files, "s_files", "-f")):
        if given:
            if not dump.prog.type("struct super_block").has_member(member):
                dump.report(f"the super_block.{member} linked list does not exist in this kernel")
            raise CommandError(NOT_HERE.format(letter))
    of = _first_task(dump)
    if task:
        matching = named(dump, task)
        if not matching:
            raise CommandError(f"invalid task or pid value: {task}")
        of = matching[0]
    if not selectors:
        yield from _mounts(dump, of)
        return
    found = list(_mounts(dump, of))
    for selector in selectors:
        selected = list(_selected(found, selector))
        yield from selected or _containing(dump.prog, found, selector)


def _first_task(dump: Dump) -> Task:
    """init; where the dump has lost it, the next one."""
    tasks = [task for task in dump.tasks if task.pid]
    return min(tasks, key=lambda task: task.pid, default=dump.context)


def _mounts(dump: Dump, task: Task) -> Iterator[Mounted]:
    namespaces = dump.tasks.object(task).nsproxy
    try:
        namespace = namespaces.mnt_ns
        if not namespaces or not namespace:
            raise LookupError
        namespace.ns.inum.value_()
    except (LookupError, FaultError):  # a task that is exiting has left its namespaces
        raise CommandError("cannot determine mount list location!") from None
    vfs = Vfs.of(dump.prog)
    seen = set()
    with skipping("the rest of the mounts"):
        for found in islice(_in_namespace(namespace), MOST):
            address = found.value_()
            if address in seen:  # a corrupted list
                break
            seen.add(address)
            with skipping(f"mount {address:x}"):
                superblock = found.mnt.mnt_sb
                if not superblock:  # somebody reads /proc/mounts (v5.8 - v6.8)
                    continue
                vfsmount = found.mnt.address_of_().value_()
                own = vfs.mount(vfsmount)
                yield Mounted(
                    Address(address),
                    Address(vfsmount),
                    Address(superblock.value_()),
                    _type(dump, superblock.value_()),
                    own.device or None,
                    vfs.path(Path(own.mountpoint, own.parent)),
                )


def _in_namespace(namespace: Object) -> Iterator[Object]:
    """``struct mount *``. drgn's for_each_mount() may turn for ever in a corrupted list."""
    from drgn.helpers.linux.list import list_for_each_entry
    from drgn.helpers.linux.rbtree import rbtree_inorder_for_each_entry

    try:
        head = namespace.member_("list").address_of_()
    except LookupError:
        # Since Linux kernel commit 2eea9ce4310d ("mounts: keep list of mounts in an
        # rbtree") (in v6.8)
        root = namespace.mounts.address_of_()
        return rbtree_inorder_for_each_entry("struct mount", root, "mnt_node")
    return list_for_each_entry("struct mount", head, "mnt_list")


def _type(dump: Dump, superblock: int) -> str | None:
    try:
        name: bytes = Object(
            dump.prog, "struct super_block *", value=superblock
        ).s_type.name.string_()
    except FaultError:
        return None
    return name.decode(errors="backslashreplace")


def _selected(mounts: Iterable[Mounted], word: str) -> Iterator[Mounted]:
    if word.startswith("0x") and is_hexadecimal(word):
        word = word[2:]
    address = htol(word) if is_hexadecimal(word) else None
    for one in mounts:
        if address in (one.mount, one.vfsmount, one.superblock) or any(
            text is not None and _same_path(text, word)
            for text in (one.type, one.device, one.directory)
        ):
            yield one


def _containing(prog: Program, mounts: Sequence[Mounted], word: str) -> Iterator[Mounted]:
    """The mounts of the file system that a dentry or inode belongs to."""
    if not is_hexadecimal(word):
        return
    address, vfs = htol(word), Vfs.of(prog)
    superblocks = set()
    for read in (vfs.dentry, vfs.inode):
        try:
            superblocks.add(read(address).superblock)
        except (FaultError, ValueError, OverflowError):
            continue
    yield from (one for one in mounts if one.superblock in superblocks)


def _same_path(one: str, other: str) -> bool:
    """Slashes may be doubled, or follow (crash's PATHEQ())."""
    return _plain(one) == _plain(other)


def _plain(path: str) -> str:
    while "//" in path:
        path = path.replace("//", "/")
    return path.removesuffix("/")


@mount.text
def lines(mounts: Iterable[Mounted], *, selectors: Sequence[str] = ()) -> Iterator[str]:
    """Its show_mounts(); of a selection that finds nothing, nothing."""
    header = f"{'MOUNT':^16} {'SUPERBLK':^16} {'TYPE':<6} {'DEVNAME':<9} DIRNAME"
    rest = iter(mounts)
    first = next(rest, None)  # what goes wrong before it comes without titles
    if first is not None or not selectors:
        yield header
    for one in chain((first,), rest) if first is not None else ():
        place = f"{one.type or 'unknown':<6} {one.device or '(unknown)':<9} "
        while len(place) > 17 and place[-2] == " ":
            place = place[:-1]
        yield f"{one.mount:16x} {one.superblock:16x} {place}{one.directory:<10}"
