"""files: the open files of tasks, what a dentry is, the page cache of an inode."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from drgn import FaultError, Program, offsetof

from crashpy.command import Address, UsageError, command, flag, operands, value
from crashpy.faults import skipping
from crashpy.kernel.vfs import Dentry, Inode, Path, Vfs, read_or_complain, remember, shared
from crashpy.numbers import htol, is_number
from crashpy.tasks import HEXADECIMAL, Task, named
from crashpy.text import centered, task_header

if TYPE_CHECKING:
    from crashpy.dump import Dump


@dataclass(frozen=True)
class OpenFile:
    fd: int
    file: Address  # struct file *
    dentry: Address | None = None  # struct dentry *; what could not be read is None
    inode: Address | None = None  # struct inode *
    mapping: Address | None = None  # inode.i_mapping; with -c only
    cached_pages: int | None = None  # i_mapping.nrpages; with -c only
    type: str | None = None  # REG, DIR, CHR, BLK, FIFO, SOCK, LNK, UNKN
    path: str | None = None


@dataclass(frozen=True)
class TaskFiles:
    pid: int
    task: Address  # struct task_struct *
    cpu: int
    comm: str
    root: str | None  # None where the task has left its fs_struct
    cwd: str | None
    files: tuple[OpenFile, ...]
    # How crash shows it: with the task's header, after and before an empty line. All
    # three are `foreach`'s own business where it asks.
    header: bool = field(default=False, repr=False)
    after_another: bool = field(default=False, repr=False)
    named_by_pid: bool = field(default=False, repr=False)
    found: bool = field(default=True, repr=False)  # what -R looks for


@command(
    flag(
        "-c",
        "cached",
        "the mapping (address_space) and how many pages it caches, not file and dentry",
    ),
    value("-R", "reference", "reference", str, "only descriptors that this names", repeat=True),
    operands("tasks", "pid | taskp", str, "these tasks' files"),
    usage="[-d dentry] | [-p inode] | [-c] [-R reference] [pid | taskp] ... ",
)
def files(
    dump: Dump,
    *,
    tasks: Sequence[str | Task] = (),
    cached: bool = False,
    reference: Sequence[str] = (),
) -> Iterator[TaskFiles]:
    """open files

    The root and working directory of a task, and for each of its file descriptors
    the struct file, dentry, inode, type and path. Without PID or task address: of
    the current context.

    -R looks for the number of a descriptor, an address of any column, a type (REG,
    SOCK, ...) or a part of a path, and shows nothing of tasks without it: it is meant
    for `foreach files -R /dev/null`.

    A path is made of the names of the dentries, through the mounts: pipes have none,
    and a deleted file still shows where it was.

    EXAMPLES
      files 1                       the files that init has open
      files -c 126                  and how many of their pages are in memory
      foreach files -R /mnt/ext/rw  who has this file open
    """
    if isinstance(reference, str):
        reference = (reference,)
    if len(reference) > 1:
        dump.report("only one -R option allowed")
        raise UsageError
    reader = _Reader.of(dump.prog, cached)
    wanted = reference[0] if reference else None
    if not tasks:
        yield from reader.read(dump.context, wanted, header=True)
    for count, chosen in enumerate(tasks):
        if isinstance(chosen, Task):
            yield from reader.read(chosen, wanted)
            continue
        matching = named(dump, chosen)
        if not matching:
            dump.report(f"invalid task or pid value: {chosen}")
        for task in matching:
            yield from reader.read(
                task,
                wanted,
                header=True,
                after_another=count > 0,
                named_by_pid=len(matching) > 1 or task.address != _number(chosen),
            )


class _Reader:
    """Remembers what tasks share: threads all, processes what they inherited."""

    def __init__(self, prog: Program, cached: bool) -> None:
        self._prog = prog
        self._vfs = Vfs.of(prog)
        self._cached = cached
        task = prog.type("struct task_struct")
        fs, files_struct = offsetof(task, "fs"), offsetof(task, "files")
        self._start = min(fs, files_struct)
        self._size = abs(fs - files_struct) + 8
        self._at = fs - self._start, files_struct - self._start
        self._directories: dict[int, tuple[str, str]] = {}
        self._lists: dict[int, tuple[int, tuple[OpenFile, ...]]] = {}
        self._files: dict[tuple[int, int], OpenFile] = {}

    @classmethod
    def of(cls, prog: Program, cached: bool) -> _Reader:
        return shared(prog, (cls, cached), lambda: cls(prog, cached))

    def read(
        self,
        task: Task,
        reference: str | None,
        *,
        header: bool = False,
        after_another: bool = False,
        named_by_pid: bool = False,
    ) -> Iterator[TaskFiles]:
        with skipping(f"the files of task {task.address:x}"):
            data = self._prog.read(task.address + self._start, self._size)
            fs, files_struct = (int.from_bytes(data[at : at + 8], "little") for at in self._at)
            root, cwd = self._root_and_cwd(fs) if fs else (None, None)
            size, open_files = self._open_files(files_struct) if files_struct else (0, ())
            record = TaskFiles(
                task.pid,
                Address(task.address),
                task.cpu,
                task.comm,
                root,
                cwd,
                open_files,
                header,
                after_another,
                named_by_pid,
            )
            if reference is not None:
                record = _referring(record, reference, size)
            # crash ends a PID's turn with an empty line, whether -R finds something or not.
            if record.found or named_by_pid:
                yield record

    def _root_and_cwd(self, fs: int) -> tuple[str, str]:
        found = self._directories.get(fs)
        if found is None:
            root, cwd = self._vfs.root_and_cwd(fs)
            found = self._path(root), self._path(cwd)
            remember(self._directories, fs, found)
        return found

    def _path(self, path: Path) -> str:
        if not path.dentry:
            return ""
        try:
            return self._vfs.path(path)
        except FaultError:
            return ""

    def _open_files(self, files_struct: int) -> tuple[int, tuple[OpenFile, ...]]:
        found = self._lists.get(files_struct)
        if found is None:
            table = self._vfs.descriptors(files_struct)
            found = table.size, tuple([self._open_file(fd, file) for fd, file in table.files])
            remember(self._lists, files_struct, found, 256)
        return found

    def _open_file(self, fd: int, file: int) -> OpenFile:
        found = self._files.get((fd, file))
        if found is None:
            found = self._new(fd, file)
            remember(self._files, (fd, file), found)
        return found

    def _new(self, fd: int, file: int) -> OpenFile:
        vfs = self._vfs
        dentry = address = None
        try:
            path = vfs.file(file)
            dentry = Address(path.dentry)
            if not dentry:
                return OpenFile(fd, Address(file), dentry)
            address = Address(vfs.dentry(dentry).inode)
            if not address:
                return OpenFile(fd, Address(file), dentry, address)
            inode = vfs.inode(address)
            shown = vfs.path(path)
            if shown.startswith("/pts/") and vfs.mount(path.vfsmount).device == "devpts":
                shown = "/dev" + shown
            mapping = pages = None
            if self._cached:
                mapping = Address(inode.mapping)
                pages = vfs.cached_pages(mapping)
        except FaultError:
            return OpenFile(fd, Address(file), dentry, address)
        return OpenFile(
            fd, Address(file), dentry, address, mapping, pages, *_type_and_path(inode, shown)
        )


def _type_and_path(inode: Inode, path: str) -> tuple[str, str]:
    kind = inode.type
    return kind, "" if kind == "SOCK" and path == "/" else path


def _number(word: str) -> int | None:
    matched = HEXADECIMAL.fullmatch(word)
    return int(matched[1], 16) if matched else None


def _names(path: str | None, part: str) -> bool:
    """crash's FILENAME_COMPONENT(): `/` names the root only."""
    return path is not None and (path == "/" if part == "/" else part in path)


def _referring(record: TaskFiles, reference: str, size: int) -> TaskFiles:
    """The record with the files that `reference` names (crash's open_file_reference())."""
    descriptor = address = None
    if is_number(reference):
        if reference.isdecimal() and int(reference) <= size:
            descriptor = int(reference)
        else:
            descriptor = address = htol(reference)
    kept = tuple(
        file
        for file in record.files
        if file.fd == descriptor
        or (address is not None and address in (file.file, file.dentry, file.inode, file.mapping))
        or file.type == reference
        or _names(file.path, reference)
    )
    found = bool(kept) or _names(record.root, reference) or _names(record.cwd, reference)
    return replace(record, files=kept, found=found)


FILES_HEADER = f" FD {'FILE':^16} {'DENTRY':^16} {'INODE':^16} TYPE PATH"
CACHED_HEADER = f" FD {'INODE':^16} {'I_MAPPING':^16} NRPAGES TYPE PATH"


@files.text
def lines(
    found: Iterable[TaskFiles], *, cached: bool = False, reference: Sequence[str] = ()
) -> Iterator[str]:
    """Its open_files_dump()."""
    for task in found:
        header = task_header(task.pid, task.task, task.cpu, task.comm)
        directories = f"ROOT: {task.root}    CWD: {task.cwd}" if task.root is not None else None
        if reference:
            if task.found:
                yield header
                if directories:
                    yield directories + " "
        else:
            if task.header:
                if task.after_another:
                    yield ""
                yield header
            if directories:
                yield directories
        if task.files:
            yield CACHED_HEADER if cached else FILES_HEADER
            yield from (_file_line(file, cached) for file in task.files)
        elif not reference:
            yield "No open files"
        if reference and task.found:
            yield ""
        if task.named_by_pid:
            yield ""


def _file_line(file: OpenFile, cached: bool) -> str:
    if file.type is None:
        missing = f"{'--':^16}"
        dentry = missing if file.dentry is None else f"{file.dentry:016x}"
        if file.dentry == 0:
            return f"{file.fd:3} {_centred(file.file)} {dentry} {'?':^16} ?    ?"
        inode = missing if file.inode is None else f"{file.inode:016x}"
        if file.inode == 0:
            return f"{file.fd:3} {_centred(file.file)} {dentry} {inode} ?    ?"
        return f"{file.fd:3} {_centred(file.file)} {dentry} {inode} --   --"
    if cached:
        return (
            f"{file.fd:3} {_centred(file.inode)} {_centred(file.mapping)} "
            f"{file.cached_pages:7} {file.type:4} {file.path}"
        )
    return (
        f"{file.fd:3} {_centred(file.file)} {_centred(file.dentry)} {_centred(file.inode)} "
        f"{file.type:4} {file.path}"
    )


def _centred(address: int | None) -> str:
    if address is not None and address >> 60:
        return f"{address:x}"
    return centered(f"{address or 0:x}", 16, right=True)


@dataclass(frozen=True)
class DentryInfo:
    dentry: Address  # struct dentry *
    inode: Address  # struct inode *, 0 for a negative dentry
    superblock: Address  # struct super_block *
    type: str | None
    path: str  # empty where no mount of the superblock is in the first task's namespace


@files.mode(
    "-d",
    "inode, superblock, type and path of a dentry",
    metavar="dentry",
    type=htol,
    dest="dentry",
)
def files_dentry(dump: Dump, *, dentry: int) -> Iterator[DentryInfo]:
    """inode, superblock, type and path of a dentry"""
    vfs = Vfs.of(dump.prog)
    entry: Dentry = read_or_complain(dump.prog, dentry, "fill_dentry_cache", vfs.dentry)
    inode: Inode | None = None
    if entry.inode:
        inode = read_or_complain(dump.prog, entry.inode, "fill_inode_cache", vfs.inode)
    superblock = inode.superblock if inode else entry.superblock
    kind, path = None, _path_of(dump, dentry, superblock) if superblock else ""
    if inode:
        kind, path = _type_and_path(inode, path)
    yield DentryInfo(Address(dentry), Address(entry.inode), Address(superblock), kind, path)


def _path_of(dump: Dump, dentry: int, superblock: int) -> str:
    """Through the last mount of its file system that the first task sees, as crash does."""
    prog, vfs, found = dump.prog, Vfs.of(dump.prog), 0
    with skipping("the mounts of task 1"):
        for init in dump.tasks.with_pid(1):
            for vfsmount, of in vfs.mounts_of(dump.tasks.object(init)):
                if of == superblock:
                    found = vfsmount
    for name in ("pipe_mnt", "sock_mnt"):
        if not found and name in prog and prog[name].mnt_sb.value_() == superblock:
            found = prog[name].value_()
    return vfs.path(Path(dentry, found)) if found else ""


@files_dentry.text
def dentry_lines(found: Iterable[DentryInfo]) -> Iterator[str]:
    """Its display_dentry_info()."""
    yield f"{'DENTRY':^16} {'INODE':^16} {'SUPERBLK':^16} TYPE PATH"
    for d in found:
        superblock = centered(f"{d.superblock:x}", 16)
        yield f"{d.dentry:16x} {d.inode:16x} {superblock} {d.type or 'N/A':4} {d.path}"


@dataclass(frozen=True)
class CachedInode:
    inode: Address  # struct inode *
    pages: int  # i_mapping.nrpages
    digits: int = field(default=8, repr=False)  # of a physical address on this machine


@dataclass(frozen=True, slots=True)
class CachedPage:
    page: Address  # struct page *
    physical: Address
    mapping: Address  # struct address_space *
    index: int  # in the file, in pages
    count: int  # _refcount
    flags: Address
    flag_names: tuple[str, ...]


@files.mode("-p", "an inode's pages in the page cache", metavar="inode", type=htol, dest="inode")
def files_pages(dump: Dump, *, inode: int) -> Iterator[CachedInode | CachedPage]:
    """the pages of an inode that are in the page cache"""
    from crashpy.kernel.mm import physical_digits
    from crashpy.kernel.pages import flag_names, mem_map

    prog = dump.prog
    vfs = Vfs.of(prog)
    mapping = read_or_complain(prog, inode, "inode buffer", vfs.inode).mapping
    pages = read_or_complain(prog, mapping, "address_space buffer", vfs.cached_pages)
    yield CachedInode(Address(inode), pages, physical_digits(prog))
    if not pages:
        return
    kind = prog.type("struct page")
    # Since Linux kernel commit acc53a0b4c15 ("mm: rename page->index to
    # page->__folio_index") (in v6.16)
    index_name = "index" if kind.has_member("index") else "__folio_index"
    at = {name: offsetof(kind, name) for name in ("flags", "mapping", index_name, "_refcount")}
    size = max(at.values()) + 8
    memory, names = mem_map(prog), flag_names(prog)
    count = 0
    for _, page in vfs.pages(mapping):
        pfn = memory.pfn(page)
        if pfn is None:
            continue
        count += 1
        with skipping(f"page {page:x}"):
            data = prog.read(page, size)
            flags, owner, index = (
                struct.unpack_from("Q", data, at[name])[0]
                for name in ("flags", "mapping", index_name)
            )
            yield CachedPage(
                Address(page),
                Address(pfn * memory.page_size),
                Address(owner),
                index,
                struct.unpack_from("i", data, at["_refcount"])[0],
                Address(flags),
                tuple(name for mask, name in names if flags & mask),
            )
    if count != pages:
        dump.report(f"xarray page count: {count}  nrpages: {pages}")


@files_pages.text
def pages_lines(found: Iterable[CachedInode | CachedPage]) -> Iterator[str]:
    """Its dump_inode_page_cache_info(), and kmem -p's line for each page."""
    width, headed = 8, False
    for record in found:
        if isinstance(record, CachedInode):
            yield f"{'INODE':^16}  NRPAGES"
            yield f"{_centred(record.inode)}  {record.pages:7}"
            yield ""
            width = record.digits
            continue
        if not headed:
            headed = True
            yield f"{'PAGE':^16} {'PHYSICAL':>{width}}      MAPPING       INDEX CNT FLAGS"
        names = " " + ",".join(record.flag_names) if record.flag_names else ""
        yield (
            f"{record.page:<16x} {record.physical:{width}x} {record.mapping:16x} "
            f"{record.index:8x} {record.count:2} {record.flags:x}{names}"
        )
