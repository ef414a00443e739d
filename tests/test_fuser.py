"""fuser: who uses a file, and how."""

import json

import pytest
from drgn import FaultError

import crashpy
from crashpy.command import Address
from crashpy.commands.files import files
from crashpy.commands.fuser import Unused, User, fuser, lines

TASK = Address(0xFFFF800000001000)


def test_text():
    found = [
        User("/a", 7, TASK, "sh", ("root", "fd")),
        User("/a", 8, TASK, "a-name-of-15-ch", ("mmap",)),
        Unused("/b"),
    ]
    assert list(lines(found)) == [
        " PID         TASK        COMM             USAGE",
        '    7  ffff800000001000  "sh"             root fd ',
        '    8  ffff800000001000  "a-name-of-15-c  mmap ',
        "No users of /b found",
    ]


def test_a_path_its_inode_and_its_dentry(opened):
    dump = opened("vmcore-null").dump
    [task] = files(dump, tasks=("1",))
    file = next(each for each in task.files if each.path == "/dev/console")
    by_path = {user.pid for user in fuser(dump, names=("/dev/console",))}
    assert 1 in by_path
    for address in (file.inode, file.dentry):
        assert {user.pid for user in fuser(dump, names=(f"{address:x}",))} == by_path
        assert {user.pid for user in fuser(dump, names=(f"0x{address:x}",))} == by_path


def test_the_root_is_everybodys(opened):
    dump = opened("vmcore-null").dump
    uses = {user.pid: user.uses for user in fuser(dump, names=("/",))}
    assert {"root", "cwd"} <= set(uses[1])


def test_json(opened):
    first = next(iter(opened("vmcore-null").run("fuser --json /dev/console")))
    assert json.loads(first)["uses"] == ["fd"]


@pytest.mark.parametrize("word", ["null", "1000", "zz", "ffffffffffffffff"])
def test_words_that_name_nothing(opened, word):
    assert list(opened("vmcore-null").run(f"fuser {word}")) == [f"fuser: invalid argument: {word}"]


def test_a_file_that_nobody_uses(opened):
    assert list(opened("vmcore-null").run("fuser /nosuch")) == ["No users of /nosuch found"]


def test_a_hole_costs_one_task(examples, caplog):
    dump = crashpy.open(str(examples / "vmlinux.zst"), str(examples / "vmcore-null"))

    def fail(address, *_):
        raise FaultError("not there", address)

    init = dump.tasks.object(dump.tasks.with_pid(1)[0])
    before = {user.pid for user in fuser(dump, names=("/dev/console",))}
    dump.prog.add_memory_segment(init.fs.address_of_().value_(), 8, fail)
    after = {user.pid for user in fuser(dump, names=("/dev/console",))}
    assert before - after == {1}
    assert "skipped the files of task" in caplog.text
