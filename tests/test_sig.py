"""sig: handlers, masks, what waits."""

import json

import pytest
from drgn import FaultError

import crashpy
from crashpy.command import Address
from crashpy.commands.sig import (
    Action,
    Pending,
    Queued,
    Signals,
    SignalSet,
    Thread,
    lines,
    set_lines,
    sig,
    signal_names,
    signal_set,
)

QUEUE = Pending(Address(2), (Queued(2, Address(0xFFFF800000005000)),))
NOTHING = Pending(Address(0), ())
THREAD = Thread(7, Address(0xFFFF800000001000), 1, "sh", True, Address(0x10000), QUEUE)
SIGNALS = Signals(
    Address(0xFFFF800000002000),
    2,
    (
        Action(1, 0xFFFF800000003008, 0, 0, 0),
        Action(2, 0xFFFF800000003028, 0x525892, 1, 0x10000004),
    ),
    NOTHING,
    (THREAD,),
)


def test_text():
    assert list(lines([SIGNALS])) == [
        'PID: 7        TASK: ffff800000001000  CPU: 1    COMMAND: "sh"',
        "SIGNAL_STRUCT: ffff800000002000  NR_THREADS: 2",
        " SIG    SIGACTION        HANDLER       MASK       FLAGS           ",
        " [1] ffff800000003008    SIG_DFL 0000000000000000 0 ",
        " [2] ffff800000003028     525892 0000000000000001 10000004 (SA_SIGINFO|SA_RESTART)",
        "SIGPENDING: yes",
        "   BLOCKED: 0000000000010000",
        "PRIVATE_PENDING",
        "    SIGNAL: 0000000000000002",
        "  SIGQUEUE:  SIG      SIGINFO     ",
        "               2  ffff800000005000",
        "SHARED_PENDING",
        "    SIGNAL: 0000000000000000",
        "  SIGQUEUE: (empty)",
        "",
    ]


def test_text_of_a_task_that_has_left():
    gone = Signals(Address(0), None, (), None, (THREAD,))
    assert list(lines([gone]))[1:] == ["SIGNAL_STRUCT: 0  ", ""]


def test_names(opened):
    dump = opened("vmcore-null").dump
    names = {each.signal: (each.name, each.alias) for each in signal_names(dump)}
    assert names[6] == ("SIGABRT", "SIGIOT")
    assert [names[n][0] for n in (32, 33, 48, 49, 63, 64)] == [
        *("SIGRTMIN", "SIGRTMIN+1", "SIGRTMIN+16", "SIGRTMAX-15", "SIGRTMAX-1", "SIGRTMAX"),
    ]


def test_sets(opened):
    [found] = signal_set(opened("vmcore-null").dump, sigset="0x10002")
    assert found == SignalSet(("SIGINT", "SIGCHLD"))
    assert list(set_lines([SignalSet(())])) == ["(none)"]
    assert all(len(line) <= 80 for line in set_lines([SignalSet(("SIGRTMIN+1",) * 30)]))


def test_a_process_is_its_threads(opened):
    dump = opened("vmcore-null").dump
    group = max(dump.tasks, key=lambda task: len(dump.tasks.group(task.tgid)) * bool(task.pid))
    threads = dump.tasks.group(group.tgid)
    [found] = sig(dump, tasks=(str(group.pid),), group=True)
    assert {thread.pid for thread in found.threads} == {task.pid for task in threads}
    assert len(found.actions) == 64


def test_handlers_are_the_kernels(opened):
    dump = opened("vmcore-null").dump
    [found] = sig(dump, tasks=("1",))
    init = dump.tasks.object(dump.tasks.with_pid(1)[0])
    for action in found.actions:
        kernel = init.sighand.action[action.signal - 1]
        assert action.sigaction == kernel.address_of_().value_()
        assert action.handler == kernel.sa.sa_handler.value_()
        assert action.flags == kernel.sa.sa_flags.value_()


def test_json(opened):
    [line] = opened("vmcore-null").run("sig --json 1")
    found = json.loads(line)
    assert found["threads"][0]["comm"] == "init"
    assert found["actions"][1]["handler"].startswith("0x")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sig 99999", "sig: invalid task or pid value: 99999\n"),
        ("sig -R pid", "sig: -R not supported yet"),
        ("foreach 1 sig -R pid", "sig: sig: -R not supported yet"),
        ("sig -s zz", 'sig: invalid input: "zz"'),
    ],
)
def test_words_that_make_no_sense(opened, line, said):
    assert next(iter(opened("vmcore-null").run(line))) == said


def test_a_hole_costs_one_task(examples, caplog):
    dump = crashpy.open(str(examples / "vmlinux.zst"), str(examples / "vmcore-null"))

    def fail(address, *_):
        raise FaultError("not there", address)

    first, *others = sig(dump, tasks=("1", "2", "3"))
    dump.prog.add_memory_segment(first.signal_struct, 8, fail)
    assert list(sig(dump, tasks=("1", "2", "3"))) == others
    assert "skipped the signals of task" in caplog.text
