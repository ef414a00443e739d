"""mount: what is mounted, and what a selector finds."""

import json

import pytest

from crashpy.command import Address, CommandError
from crashpy.commands.mount import Mounted, lines, mount

PROC = Mounted(
    Address(0xFFFF800000001000),
    Address(0xFFFF800000001020),
    Address(0xFFFF800000002000),
    "proc",
    "proc",
    "/proc",
)


def test_text():
    lost = Mounted(PROC.mount, PROC.vfsmount, PROC.superblock, None, None, "/a")
    assert list(lines([PROC, lost])) == [
        "     MOUNT           SUPERBLK     TYPE   DEVNAME   DIRNAME",
        "ffff800000001000 ffff800000002000 proc   proc      /proc     ",
        "ffff800000001000 ffff800000002000 unknown (unknown) /a        ",
    ]


def test_titles_without_mounts():
    assert len(list(lines([]))) == 1
    assert not list(lines([], selectors=("/nosuch",)))


@pytest.mark.parametrize(
    ("word", "directories"),
    [
        ("/proc", ["/proc"]),
        ("/proc//", ["/proc"]),
        ("tmpfs", ["/tmp", "/dev/shm"]),
        ("/dev/loop0", ["/mnt/ext", "/mnt/bind"]),
        ("nosuch", []),
        ("1234", []),
    ],
)
def test_selectors(opened, word, directories):
    found = mount(opened("vmcore-null").dump, selectors=(word,))
    assert [one.directory for one in found] == directories


def test_addresses_select(opened):
    dump = opened("vmcore-null").dump
    (proc,) = mount(dump, selectors=("/proc",))
    root = dump.prog["init_task"].fs.root  # of another mount than /proc
    for address in (proc.mount, proc.vfsmount, proc.superblock):
        assert list(mount(dump, selectors=(f"{address:x}",))) == [proc]
        assert list(mount(dump, selectors=(f"0x{address:x}",))) == [proc]
    for address in (root.dentry.value_(), root.dentry.d_inode.value_()):
        (found,) = mount(dump, selectors=(f"{address:x}",))
        assert found.directory == "/"


def test_another_namespace(opened):
    dump = opened("vmcore-null").dump
    (task,) = [task for task in dump.tasks if task.comm == "wl-ns-init"]
    theirs = {one.mount for one in mount(dump, task=f"{task.address:x}")}
    assert theirs
    assert theirs.isdisjoint(one.mount for one in mount(dump))


def test_what_newer_kernels_do_not_keep(opened):
    assert list(opened("vmcore-null").run("mount -f")) == [
        "mount: the super_block.s_files linked list does not exist in this kernel",
        "mount: -f option not supported or applicable on this architecture or kernel",
    ]


def test_no_such_task(opened):
    with pytest.raises(CommandError, match="invalid task or pid value: 99999"):
        list(mount(opened("vmcore-null").dump, task="99999"))


def test_json(opened):
    (line,) = opened("vmcore-null").run("mount /proc --json")
    assert json.loads(line)["type"] == "proc"
