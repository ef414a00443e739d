"""struct, union, *: at the prompt, on a sample dump."""

import json
import re

import pytest


@pytest.fixture(scope="module")
def session(opened):
    return opened("vmcore-null")


def shown(session, line):
    return list(session.run(line))


def test_a_definition(session):
    assert shown(session, "struct list_head") == [
        "struct list_head {",
        "    struct list_head *next;",
        "    struct list_head *prev;",
        "}",
        "SIZE: 16",
    ]
    assert shown(session, "struct -ox list_head")[1] == "   [0x0] struct list_head *next;"


def test_members_in_the_order_asked_for(session):
    assert shown(session, "struct task_struct.comm,pid init_task") == [
        r'  comm = "swapper/0\000\000\000\000\000\000",',
        "  pid = 0,",
    ]


def test_options_anywhere(session):
    before = shown(session, "struct -x task_struct.flags init_task")
    assert before == shown(session, "struct task_struct.flags init_task -x")
    assert re.fullmatch(r"  flags = 0x[0-9a-f]+,", before[0])


def test_paths(session):
    assert shown(session, "struct task_struct.pid_links[1].next init_task") == [
        "  pid_links[1].next = 0x0,"
    ]
    assert shown(session, "struct task_struct.comm[2] init_task") == ["  comm[2] = 97 'a'"]
    assert shown(session, "struct task_struct.pid_links[99] init_task") == [
        "struct: invalid data structure member reference: pid_links[99]"
    ]


def test_what_comes_before_a_member_that_is_not_there(session):
    assert shown(session, "struct task_struct.pid,nosuch init_task") == [
        "  pid = 0,",
        "struct: invalid data structure reference: task_struct.nosuch",
    ]


def test_counts(session):
    three = shown(session, "struct list_head.next init_task 3")
    assert len(three) == 5
    assert three[1] == three[3] == ""
    assert len(shown(session, "struct list_head -c -2 init_task")) == 9


def test_an_embedded_list_head(session):
    [address] = shown(session, "p -x (long)&init_task.tasks")
    address = address.split("0x")[1]
    whole = shown(session, f"struct task_struct.comm -l task_struct.tasks {address}")
    assert whole == shown(session, "struct task_struct.comm init_task")


def test_per_cpu(session):
    lines = shown(session, "struct rq.cpu runqueues:0,2")
    assert [line for line in lines if line.startswith("  ")] == ["  cpu = 0,", "  cpu = 2,"]
    assert re.fullmatch(r"\[0\]: [0-9a-f]{16}", lines[0])


def test_raw(session):
    [line] = shown(session, "struct -r task_struct.comm init_task")
    assert line.endswith(":  2f72657070617773 0000000000000030   swapper/0.......")


def test_pointers(session):
    lines = shown(session, "struct -p task_struct.cred init_task")
    assert re.fullmatch(r"  const struct cred \*cred = 0x[0-9a-f]+", lines[0])
    assert lines[1] == "  -> <init_cred> {"
    assert lines[-1] == "     }"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("struct nosuch", "struct: invalid data structure reference: nosuch"),
        (
            "struct task_struct.nosuch",
            "struct: invalid data structure reference: task_struct.nosuch",
        ),
        ("struct task_struct.", "struct: invalid format: task_struct."),
        ("struct pid_t", "struct: data type mismatch: pid_t is not a struct"),
        ("union list_head", "union: data type mismatch: list_head is not a union"),
        ("struct list_head 12345", "struct: invalid kernel virtual address: 12345"),
        ("struct list_head -c 2", "struct: no kernel virtual address argument entered"),
        ("struct list_head init_task 2 3", "struct: too many arguments!"),
        ("struct -x -d list_head", "struct: -d and -x are mutually exclusive"),
        ("struct -p list_head", "struct: -p option requires address argument"),
    ],
)
def test_errors(session, line, message):
    assert shown(session, line) == [message]


def test_the_name_alone_is_enough(session):
    assert shown(session, "task_struct.pid init_task") == ["  pid = 0,"]
    assert shown(session, "* list_head") == shown(session, "struct list_head")


def test_memory_that_is_not_there(session):
    first, *_ = shown(session, "struct list_head ffffffffffffffff")
    assert first.startswith("struct list_head struct: ")
    assert 'type: "gdb_readmem_callback"' in first


def test_json(session):
    [line] = shown(session, "struct --json task_struct.pid,comm,se.load.weight init_task")
    found = json.loads(line)
    assert found["value"] == {"pid": 0, "comm": "swapper/0", "se.load.weight": 1048576}
    [line] = shown(session, "struct --json list_head")
    assert json.loads(line)["members"]["prev"]["offset"] == 8
