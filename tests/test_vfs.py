"""Paths and file types; what a corrupted tree of dentries does not do."""

import pytest
from drgn import FaultError

from crashpy.command import CommandError
from crashpy.kernel.vfs import Dentry, Inode, Mount, Path, Vfs, read_or_complain, remember


class Tree(Vfs):
    """Dentries and mounts that are not in any dump."""

    def __init__(self, dentries, mounts=()):
        self._prog = None
        self._dentries = dict(dentries)
        self._mounts = dict(mounts)
        self._paths = {}

    def dentry(self, address):
        try:
            return self._dentries[address]
        except KeyError:
            raise FaultError("not there", address) from None


def dentry(name, parent):
    return Dentry(name, parent, 0, 0)


ROOT = {1: dentry("/", 1), 2: dentry("usr", 1), 3: dentry("bin", 2)}


def test_a_path_is_the_names_up_to_the_root():
    assert Tree(ROOT).path(Path(3, 0)) == "/usr/bin"
    assert Tree(ROOT).path(Path(1, 0)) == "/"


def test_a_path_goes_through_the_mounts():
    dentries = ROOT | {10: dentry("/", 10), 11: dentry("data", 10)}
    mounts = {100: Mount(200, 3, "/dev/sda"), 200: Mount(200, 1, "rootfs")}
    tree = Tree(dentries, mounts)
    assert tree.path(Path(11, 100)) == "/usr/bin/data"
    assert tree.path(Path(10, 100)) == "/usr/bin"
    assert tree.path(Path(1, 200)) == "/"


def test_a_path_without_root_begins_with_a_name():
    assert Tree({5: dentry("[eventfd]", 5)}).path(Path(5, 0)) == "[eventfd]"


def test_a_pipe_has_no_path():
    assert Tree({5: dentry("", 5)}).path(Path(5, 0)) == ""


def test_a_name_that_cannot_be_had_cuts_the_path():
    assert Tree(ROOT | {2: dentry("", 1)}).path(Path(3, 0)) == "bin"


def test_a_loop_of_dentries_comes_to_an_end():
    loop = {1: dentry("a", 2), 2: dentry("b", 1)}
    assert Tree(loop).path(Path(1, 0)).endswith("a")


def test_a_loop_of_mounts_comes_to_an_end():
    mounts = {100: Mount(200, 1, ""), 200: Mount(100, 1, "")}
    assert Tree(ROOT, mounts).path(Path(3, 100))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        (0o100644, "REG"),
        (0o040755, "DIR"),
        (0o020600, "CHR"),
        (0o060600, "BLK"),
        (0o010600, "FIFO"),
        (0o120777, "LNK"),
        (0o140777, "SOCK"),
        (0o000600, "UNKN"),
    ],
)
def test_types_of_files(mode, kind):
    assert Inode(mode, 0, 0).type == kind


def test_caches_are_bounded():
    cache = {}
    for key in range(100):
        remember(cache, key, None, 10)
    assert len(cache) <= 10


def test_the_pages_of_a_file(opened):
    prog = opened("vmcore-null").dump.prog
    vfs = Vfs.of(prog)
    task = opened("vmcore-null").dump.tasks.with_pid(1)[0]
    files_struct = opened("vmcore-null").dump.tasks.object(task).files.value_()
    descriptors = dict(vfs.descriptors(files_struct).files)
    init = vfs.inode(vfs.dentry(vfs.file(descriptors[10]).dentry).inode)
    assert vfs.path(vfs.file(descriptors[10])) == "/init"
    assert len(list(vfs.pages(init.mapping))) == vfs.cached_pages(init.mapping) == 1


def test_an_address_that_is_none_is_named_in_crash_s_words(opened):
    prog = opened("vmcore-null").dump.prog
    with pytest.raises(CommandError, match='invalid kernel virtual address: 10  type: "thing"'):
        read_or_complain(prog, 0x10, "thing", prog.read_u64)


def test_a_pointer_near_the_last_address(opened):
    """Of a damaged task: what lies behind it is not there, and no number too big."""
    vfs = Vfs.of(opened("vmcore-null").dump.prog)
    for ask in (vfs.file, vfs.root_and_cwd, vfs.descriptors):
        with pytest.raises(FaultError):
            ask((1 << 64) - 1)
