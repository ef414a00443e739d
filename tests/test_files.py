"""files: its lines, its records, what goes wrong."""

import json

import pytest

from crashpy.command import Address, UsageError, to_json
from crashpy.commands.files import OpenFile, TaskFiles, files, lines

NULL = OpenFile(
    0,
    Address(0xFFFF800000000100),
    Address(0xFFFF800000000200),
    Address(0xFFFF800000000300),
    type="CHR",
    path="/dev/null",
)
TASK = TaskFiles(7, Address(0xFFFF800000000000), 1, "sh", "/", "/tmp", (NULL,), header=True)


def test_a_task_and_its_files():
    assert list(lines([TASK])) == [
        'PID: 7        TASK: ffff800000000000  CPU: 1    COMMAND: "sh"',
        "ROOT: /    CWD: /tmp",
        " FD       FILE            DENTRY           INODE       TYPE PATH",
        "  0 ffff800000000100 ffff800000000200 ffff800000000300 CHR  /dev/null",
    ]


def test_what_could_not_be_read_is_not_made_up():
    unread = OpenFile(3, Address(0xFFFF800000000400))
    task = TaskFiles(7, Address(0), 1, "sh", None, None, (unread,))
    shown = list(lines([task]))[-1]
    assert shown == f"  3 ffff800000000400 {'--':^16} {'--':^16} --   --"


def test_a_file_without_dentry():
    empty = OpenFile(3, Address(0xFFFF800000000400), Address(0))
    task = TaskFiles(7, Address(0), 1, "sh", None, None, (empty,))
    shown = list(lines([task]))[-1]
    assert shown == "  3 ffff800000000400 0000000000000000        ?         ?    ?"


def test_records_are_typed(opened):
    dump = opened("vmcore-null").dump
    (found,) = files(dump, tasks=["1"])
    assert (found.pid, found.comm, found.root, found.cwd) == (1, "init", "/", "/")
    assert {file.fd: file.path for file in found.files} == {
        0: "/dev/console",
        1: "/dev/console",
        2: "/dev/console",
        10: "/init",
    }
    shown = json.loads(to_json(found))
    assert shown["files"][0]["file"].startswith("0xffff")
    assert "header" not in shown


def test_reference_keeps_what_it_names(opened):
    dump = opened("vmcore-null").dump
    (found,) = files(dump, tasks=["1"], reference=["/init"])
    assert [file.fd for file in found.files] == [10]
    every = list(files(dump, tasks=list(dump.tasks), reference=["/init"]))
    assert [found.pid for found in every] == [1]


def test_cached_pages(opened):
    (found,) = files(opened("vmcore-null").dump, tasks=["1"], cached=True)
    assert [file.cached_pages for file in found.files] == [0, 0, 0, 1]


def test_two_references_are_refused(opened):
    with pytest.raises(UsageError):
        list(files(opened("vmcore-null").dump, reference=["a", "b"]))


@pytest.mark.parametrize(
    ("line", "last"),
    [
        ("files zzz", "files: invalid task or pid value: zzz"),
        ("files -d xyz", 'files: invalid input: "xyz"'),
        ("files -d 0", 'files: invalid kernel virtual address: 0  type: "fill_dentry_cache"'),
        ("files -p 10", 'files: invalid kernel virtual address: 10  type: "inode buffer"'),
    ],
)
def test_errors_are_crash_s(opened, line, last):
    assert list(opened("vmcore-null").run(line))[-1] == last
