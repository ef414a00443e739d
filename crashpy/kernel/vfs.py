"""Files, dentries, inodes and mounts, read at offsets: a listing touches thousands of them.

drgn's d_path() gives the kernel's own idea of a path (`socket:[8]`, ` (deleted)`).
Here is the path that crash shows: the names of the dentries, through the mounts.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from drgn import FaultError, Object, Program, ProgramFlags, offsetof, sizeof

from crashpy.command import CommandError

K = TypeVar("K")
V = TypeVar("V")

_LONGEST_PATH = 1500  # crash's BUFSIZE; also what ends a walk through a corrupted tree
_MOST_DEPTH = 4096
_LAST = (1 << 64) - 1  # no address is behind it, whatever a damaged pointer says
_MOST_DESCRIPTORS = 1 << 26  # fdtable.max_fds of a kernel: sysctl fs.nr_open at most
_MOST_REMEMBERED = 1 << 16

_TWO_POINTERS = struct.Struct("QQ")

_S_IFMT = 0o170000
_FILE_TYPES = {
    0o010000: "FIFO",
    0o020000: "CHR",
    0o040000: "DIR",
    0o060000: "BLK",
    0o100000: "REG",
    0o120000: "LNK",
    0o140000: "SOCK",
}


class Dentry(NamedTuple):
    name: str  # "" where the dump has none of the length that d_name.len says
    parent: int  # struct dentry *
    inode: int  # struct inode *, 0 for a negative dentry
    superblock: int  # struct super_block *


class Inode(NamedTuple):
    mode: int
    mapping: int  # struct address_space *
    superblock: int  # struct super_block *

    @property
    def type(self) -> str:
        return _FILE_TYPES.get(self.mode & _S_IFMT, "UNKN")


class Path(NamedTuple):
    """A ``struct path``, or a ``struct file``'s."""

    dentry: int  # struct dentry *
    vfsmount: int  # struct vfsmount *


class Mount(NamedTuple):
    parent: int  # struct vfsmount * of the mount it is mounted on; its own of a root
    mountpoint: int  # struct dentry *
    device: str  # mnt_devname


@dataclass(frozen=True)
class Descriptors:
    """What a ``struct files_struct`` holds."""

    size: int  # fdtable.max_fds
    files: tuple[tuple[int, int], ...]  # descriptor, struct file *


class Vfs:
    """The virtual file system of one program; remembers what it has read."""

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        self._dentries: dict[int, Dentry] = {}
        self._inodes: dict[int, Inode] = {}
        self._mounts: dict[int, Mount] = {}
        self._files: dict[int, Path] = {}
        self._paths: dict[Path, str] = {}

        dentry = prog.type("struct dentry")
        self._d_len = offsetof(dentry, "d_name.len")
        self._d_name = offsetof(dentry, "d_name.name")
        self._d_parent = offsetof(dentry, "d_parent")
        self._d_inode = offsetof(dentry, "d_inode")
        self._d_sb = offsetof(dentry, "d_sb")
        self._dentry_size = sizeof(dentry)

        inode = prog.type("struct inode")
        self._i_mode = offsetof(inode, "i_mode")
        self._i_mapping = offsetof(inode, "i_mapping")
        self._i_sb = offsetof(inode, "i_sb")
        self._inode_size = max(self._i_mode, self._i_mapping, self._i_sb) + 8
        self._nrpages = offsetof(prog.type("struct address_space"), "nrpages")

        self._f_path = _path_offsets(prog, "struct file", "f_path")
        self._root = _path_offsets(prog, "struct fs_struct", "root")
        self._pwd = _path_offsets(prog, "struct fs_struct", "pwd")
        self._fdt = offsetof(prog.type("struct files_struct"), "fdt")
        fdtable = prog.type("struct fdtable")
        self._max_fds = offsetof(fdtable, "max_fds")
        self._fd = offsetof(fdtable, "fd")
        self._open_fds = offsetof(fdtable, "open_fds")
        self._fdtable_size = sizeof(fdtable)

        try:
            # Since Linux kernel commit 7d6fec45a5131 ("vfs: start hiding vfsmount
            # guts series") (in v3.3), struct mount surrounds struct vfsmount.
            mount = prog.type("struct mount")
            self._mnt = offsetof(mount, "mnt")
        except LookupError:
            mount = prog.type("struct vfsmount")
            self._mnt = 0
        self._mnt_parent = offsetof(mount, "mnt_parent")
        self._mnt_mountpoint = offsetof(mount, "mnt_mountpoint")
        self._mnt_devname = offsetof(mount, "mnt_devname")
        self._mount_size = max(self._mnt_parent, self._mnt_mountpoint, self._mnt_devname) + 8

    @classmethod
    def of(cls, prog: Program) -> Vfs:
        """The one of this program."""
        return shared(prog, cls, lambda: cls(prog))

    def dentry(self, address: int) -> Dentry:
        """Raises FaultError."""
        found = self._dentries.get(address)
        if found is None:
            data = self._prog.read(address, self._dentry_size)
            found = Dentry(
                self._name(address, data),
                _u64(data, self._d_parent),
                _u64(data, self._d_inode),
                _u64(data, self._d_sb),
            )
            remember(self._dentries, address, found)
        return found

    def _name(self, address: int, data: bytes) -> str:
        (length,) = struct.unpack_from("I", data, self._d_len)
        pointer = _u64(data, self._d_name)
        if not 0 < length < _LONGEST_PATH or not pointer:
            return ""
        at = pointer - address
        try:
            if 0 <= at <= len(data) - length:  # a short name is inside the dentry
                name = data[at : at + length + 1]
            else:
                name = self._prog.read(pointer, length + 1)
        except FaultError:
            return ""
        if name.find(b"\0") not in (length, -1):
            return ""
        return name[:length].decode(errors="backslashreplace")

    def inode(self, address: int) -> Inode:
        """Raises FaultError."""
        found = self._inodes.get(address)
        if found is None:
            data = self._prog.read(address, self._inode_size)
            (mode,) = struct.unpack_from("H", data, self._i_mode)
            found = Inode(mode, _u64(data, self._i_mapping), _u64(data, self._i_sb))
            remember(self._inodes, address, found)
        return found

    def cached_pages(self, mapping: int) -> int:
        """How many pages a ``struct address_space`` holds. Raises FaultError."""
        pages: int = self._prog.read_u64(mapping + self._nrpages)
        return pages

    def pages(self, mapping: int) -> Iterator[tuple[int, int]]:
        """Index and ``struct page *`` of each page in a page cache. Raises FaultError.

        Every page of a folio of several: crash's do_xarray_iter() takes the sibling
        entries after it for pages, and gives up.
        """
        from drgn.helpers.linux.fs import address_space_for_each_page

        prog = self._prog
        try:
            head = prog.read_u64(
                mapping + offsetof(prog.type("struct address_space"), "i_pages.xa_head")
            )
            page_size = sizeof(prog.type("struct page"))
            node = prog.type("struct xa_node")
        except LookupError:
            # Before Linux kernel commit b93b016313b3 ("page cache: use xa_lock") (in v4.17)
            # and f8d5d0cc145c ("xarray: Add definition of struct xarray") (in v4.20).
            for index, page in address_space_for_each_page(
                Object(prog, "struct address_space *", value=mapping)
            ):
                yield index, page.value_()
            return
        slots = offsetof(node, "slots")
        count = node.member("slots").type.length or 64
        # The nodes still to be read, and the folios between them, in order of their index.
        todo = [(head, 0, 0, -1)]
        while todo:
            entry, index, above, siblings = todo.pop()
            if entry & 3 == 2 and entry > 4096:  # xa_is_node()
                data = prog.read(entry & ~3, slots + 8 * count)
                shift = data[0]
                if siblings >= 0 and shift >= above:  # a corrupted tree never goes down
                    continue
                entries = struct.unpack_from(f"{count}Q", data, slots)
                children: list[tuple[int, int, int, int]] = []
                for slot, child in enumerate(entries):
                    if child & 3 == 2 and child < 4 * count:  # xa_is_sibling()
                        if children:
                            first, at, level, n = children[-1]
                            children[-1] = (first, at, level, n + 1)
                    elif child:
                        children.append((child, index + (slot << shift), shift, 0))
                todo += reversed(children)
            elif entry and not entry & 3:  # no shadow of an evicted page
                for n in range((1 + max(siblings, 0)) << above):
                    yield index + n, entry + n * page_size

    def mount(self, vfsmount: int) -> Mount:
        """The mount around a ``struct vfsmount``. Raises FaultError."""
        found = self._mounts.get(vfsmount)
        if found is None:
            data = self._prog.read((vfsmount - self._mnt) % 2**64, self._mount_size)
            try:
                device = self._prog.read_c_string(_u64(data, self._mnt_devname), max_size=256)
            except FaultError:
                device = b""
            found = Mount(
                (_u64(data, self._mnt_parent) + self._mnt) % 2**64,
                _u64(data, self._mnt_mountpoint),
                device.decode(errors="backslashreplace"),
            )
            remember(self._mounts, vfsmount, found)
        return found

    def file(self, address: int) -> Path:
        """The ``f_path`` of a ``struct file``. Raises FaultError."""
        found = self._files.get(address)
        if found is None:
            found = self._path_at(address, self._f_path)
            remember(self._files, address, found)
        return found

    def root_and_cwd(self, fs_struct: int) -> tuple[Path, Path]:
        """The two paths of a ``struct fs_struct``. Raises FaultError."""
        return self._path_at(fs_struct, self._root), self._path_at(fs_struct, self._pwd)

    def _path_at(self, address: int, offsets: tuple[int, int]) -> Path:
        """The pointers of a ``struct path`` are neighbours."""
        dentry, mnt = offsets
        first = min(offsets)
        one, other = _TWO_POINTERS.unpack(self._prog.read(address + first & _LAST, 16))
        return Path(one, other) if dentry < mnt else Path(other, one)

    def descriptors(self, files_struct: int) -> Descriptors:
        """The open files of a ``struct files_struct``, by descriptor. Raises FaultError."""
        prog = self._prog
        table = prog.read_u64(files_struct + self._fdt & _LAST)
        if not table:
            return Descriptors(0, ())
        data = prog.read(table, self._fdtable_size)
        (size,) = struct.unpack_from("I", data, self._max_fds)
        fd, open_fds = _u64(data, self._fd), _u64(data, self._open_fds)
        if not 0 < size <= _MOST_DESCRIPTORS or not fd or not open_fds:
            return Descriptors(0, ())
        bits = prog.read(open_fds, size // 8).rstrip(b"\0")
        if not bits:
            return Descriptors(size, ())
        pointers = struct.unpack(f"{8 * len(bits)}Q", prog.read(fd, 64 * len(bits)))
        return Descriptors(
            size,
            tuple(
                (n, file) for n, file in enumerate(pointers) if file and bits[n >> 3] >> (n & 7) & 1
            ),
        )

    def path(self, path: Path) -> str:
        """What crash shows for it (its get_pathname()).

        It stops where a name cannot be had, and shows the end of the path that it has.
        Raises FaultError.
        """
        found = self._paths.get(path)
        if found is None:
            found = self._walk(path)
            remember(self._paths, path, found)
        return found

    def _walk(self, path: Path) -> str:
        shown = ""
        at, vfsmount = path
        for _ in range(_MOST_DEPTH):
            dentry = self.dentry(at)
            name = dentry.name
            if not name:
                break
            if at == path.dentry:
                shown = name
            elif len(shown) + len(name) < _LONGEST_PATH:
                separator = "" if name == "/" or shown.startswith("/") else "/"
                shown = name + separator + shown
            above = dentry.parent
            if above == at:  # the root of its file system
                if not vfsmount:
                    break
                shown = shown[1:] if shown.startswith("//") else shown
                mount = self.mount(vfsmount)
                if mount.parent == vfsmount:
                    break
                above, vfsmount = mount.mountpoint, mount.parent
            if not above:
                break
            at = above
        return shown[:-1] if shown != "/" and shown.endswith("/") else shown

    def mounts_of(self, task: Object) -> Iterator[tuple[int, int]]:
        """``struct vfsmount *`` and ``struct super_block *`` of the mounts a task sees."""
        from drgn.helpers.linux.fs import for_each_mount

        for mount in for_each_mount(task.nsproxy.mnt_ns):
            yield mount.mnt.address_of_().value_(), mount.mnt.mnt_sb.value_()


def read_or_complain(prog: Program, address: int, what: str, read: Callable[[int], V]) -> V:
    """What an operand points to. Raises CommandError in the words of crash's readmem()."""
    from crashpy.kernel.pages import kernel_address, kernel_to_physical

    try:
        if kernel_address(prog, address):
            return read(address)
    except FaultError:
        physical = kernel_to_physical(prog, address)
        if physical is not None:
            end = prog["max_pfn"].value_() * prog["PAGE_SIZE"].value_()
            why = "page excluded" if physical < end else "seek error"
            raise CommandError(
                f'{why}: kernel virtual address: {address:x}  type: "{what}"'
            ) from None
    raise CommandError(f'invalid kernel virtual address: {address:x}  type: "{what}"')


def _path_offsets(prog: Program, struct_name: str, member: str) -> tuple[int, int]:
    kind = prog.type(struct_name)
    return offsetof(kind, f"{member}.dentry"), offsetof(kind, f"{member}.mnt")


def _u64(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 8], "little")


def shared(prog: Program, key: object, make: Callable[[], V]) -> V:
    """What is read once of a dump; of a running machine, every time."""
    if prog.flags & ProgramFlags.IS_LIVE:
        return make()
    if key not in prog.cache:
        prog.cache[key] = make()
    found: V = prog.cache[key]
    return found


def remember(cache: dict[K, V], key: K, value: V, most: int = _MOST_REMEMBERED) -> None:
    """Bounded: a machine may hold millions of dentries."""
    if len(cache) >= most:
        cache.clear()
    cache[key] = value
