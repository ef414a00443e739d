"""task: the structures of tasks, and members of them."""

import json

import pytest


@pytest.fixture(scope="module")
def session(opened):
    return opened("vmcore-null")


def shown(session, line):
    return list(session.run(line))


def test_both_structures(session):
    found = shown(session, "task 1")
    assert found[0].startswith("PID: 1 ")
    assert found[1] == "struct task_struct {"
    assert found[found.index("struct thread_info {") - 1] == ""
    assert found[-2:] == ["}", ""]


def test_members_of_either_structure(session):
    header, *found = shown(session, "task -R pid,flags -R cpu 1")
    assert header == 'PID: 1        TASK: ffffa0bb801c0000  CPU: 0    COMMAND: "init"'
    assert found == ["  pid = 1,", "  flags = 4194560,", "  flags = 2,", "  cpu = 0", ""]


def test_members_without_a_letter(session):
    assert shown(session, "task 1 pid comm") == shown(session, "task -R pid,comm 1")
    assert shown(session, "task -x 1 -R flags")[1:3] == ["  flags = 0x400100,", "  flags = 0x2,"]


def test_an_unknown_member_costs_only_itself(session):
    found = shown(session, "task -R nosuch,pid 1")
    assert found[1:] == [
        "task: nosuch: not a task_struct or thread_info member",
        "  pid = 1,",
        "",
    ]


def test_words_that_mean_nothing(session):
    assert shown(session, "task 99999999") == ["task: invalid task or pid value: 99999999\n"]
    assert shown(session, "task -x -d") == ["task: -d and -x are mutually exclusive"]
    found = shown(session, "task nosuch -R pid")
    assert found[0] == "task: invalid task, pid, or task_struct member: nosuch\n"
    assert found[2] == "  pid = 156,"


def test_records(session):
    (line,) = session.run("task --json -R pid,cpu,se.load.weight 1")
    found = json.loads(line)
    assert (found["pid"], found["comm"]) == (1, "init")
    assert found["task_struct"] == {"pid": 1, "se.load.weight": 1048576}
    assert found["thread_info"] == {"cpu": 0}
    (line,) = session.run("task --json 1")
    assert json.loads(line)["task_struct"]["pid"] == 1


def test_in_foreach(session):
    found = shown(session, "foreach 1 2 task -R pid")
    assert [line for line in found if line.startswith("  ")] == ["  pid = 1,", "  pid = 2,"]
