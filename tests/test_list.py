"""list: where lists end, and what it shows of their entries."""

import json

import pytest

from crashpy.command import Address
from crashpy.commands.list import Empty, Entry, lines
from crashpy.settings import Settings


@pytest.fixture(scope="module")
def session(opened):
    return opened("vmcore-null")


def shown(session, line):
    return list(session.run(line))


def test_text():
    records = [Entry(Address(0xFFFF888000001000)), Empty()]
    assert list(lines(iter(records), settings=Settings())) == ["ffff888000001000", "(empty)"]


def test_arguments_in_any_order(session):
    tasks = shown(session, "list task_struct.tasks -h init_task")
    assert len(tasks) == len({*tasks}) > 50
    for line in (
        "list -h init_task -o task_struct.tasks",
        "list -h task_struct.tasks init_task",
        "list init_task -h task_struct.tasks",
    ):
        assert shown(session, line) == tasks
    assert [tasks[0], *tasks[:0:-1]] == shown(session, "list task_struct.tasks -r -h init_task")
    assert shown(session, "list -B task_struct.tasks -h init_task") == tasks
    assert shown(session, "list -H init_task.tasks") == ["list: invalid argument: init_task.tasks"]


def test_members(session):
    found = shown(session, "list task_struct.tasks -s task_struct.pid,comm -h init_task")
    assert found[1:3] == ["  pid = 0,", r'  comm = "swapper/0\000\000\000\000\000\000",']
    found = shown(session, "list task_struct.tasks -S task_struct.comm,flags,mm -x -h init_task")
    assert found[1:4] == ['  comm = "swapper/0"', "  flags = 0x4200002", "  mm = 0x0"]


def test_an_unknown_member(session):
    found = shown(session, "list -H modules module.list -s module.nosuch,state")
    assert found[1:3] == [
        "list: invalid data structure member reference: nosuch",
        "  state = MODULE_STATE_LIVE,",
    ]
    assert shown(session, "list -H modules module.list -S module.nosuch") == [
        "list: Can't get offset of 'module.nosuch'"
    ]
    assert shown(session, "list -H modules -s nosuch")[1:] == [
        "list: invalid structure name: nosuch"
    ]


@pytest.mark.parametrize("start", ["ffffa0bb80168688", "ffffa0bb809bb6d8"])
def test_a_loop_that_leaves_the_start_out(session, start):
    *entries, error = shown(session, f"list {start}")
    assert entries[-1] in entries[:-1]
    assert error == f"\nlist: duplicate list entry: {entries[-1]}"
    found = shown(session, f"list -B {start}")
    assert found[-1] == error.lstrip()
    lengths = [line for line in found if "length" in line]
    first = entries.index(entries[-1])
    assert lengths == [
        f"list: loop detected, loop length: {len(entries) - 1 - first}",
        f"list: length from start to loop: {first:x}",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("list", "list: starting address required"),
        ("list 0 1 2", "list: too many arguments"),
        ("list -q modules", "Usage:"),
        ("list zz", "list: invalid argument: zz"),
        ("list 1000", "list: invalid kernel virtual address: 1000"),
        ("list -x -d modules", "list: -d and -x are mutually exclusive"),
        ("list -o 8 -o 8 modules", "list: offset value 8 (0x8) already entered"),
        ("list -l 8 -H modules", "list: -l option can only be used with -s or -S option"),
        ("list -s a -S b modules", "list: -S and -s options are mutually exclusive"),
    ],
)
def test_what_makes_no_sense(session, line, message):
    assert shown(session, line)[0] == message


def test_records(session):
    first, *_ = session.run("list --json -H modules module.list -s module.state")
    found = json.loads(first)
    assert found["address"].startswith("0xffffffffc0")
    assert found["structures"][0]["value"]["state"] == "MODULE_STATE_LIVE"
