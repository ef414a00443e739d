"""runq: queues, clocks, task groups."""

import json
from dataclasses import replace

import pytest

from crashpy.command import Address
from crashpy.commands.runq import (
    Group,
    GroupQueue,
    Groups,
    Lag,
    NoTasks,
    OnQueue,
    Queued,
    RunQueue,
    Timestamps,
    lines,
    runq,
)
from crashpy.settings import Settings

SH = Queued(7, Address(0xFFFF800000001000), "sh", 120)
SHOWN = 'PID: 7      TASK: ffff800000001000  COMMAND: "sh"'
QUEUE = RunQueue(1, Address(0x1000), SH.task, SH, Address(0x2000), (), Address(0x3000), (SH,))


def test_text_of_a_queue():
    assert list(lines([QUEUE, replace(QUEUE, cpu=2, offline=True)])) == [
        "CPU 1 RUNQUEUE: 1000",
        f"  CURRENT: {SHOWN}",
        "  RT PRIO_ARRAY: 2000",
        "     [no tasks queued]",
        "  CFS RB_ROOT: 3000",
        f"     [120] {SHOWN}",
        "",
        "CPU 2 [OFFLINE]",
    ]


def test_a_task_that_is_lost():
    assert "  CURRENT: ffff800000001000" in lines([replace(QUEUE, running=None)])


def test_text_of_clocks():
    stamps = Timestamps(3, 1000, SH, 20)
    assert list(lines([stamps])) == [" CPU 3: 1000", f"        0020  {SHOWN}"]
    assert next(iter(lines([stamps], settings=Settings(radix=16)))) == " CPU 3: 3e8"
    assert list(lines([replace(stamps, cpu=12, running=None)])) == ["CPU 12: 1000", ""]
    assert list(lines([replace(stamps, offline=True)])) == [" CPU 3: [OFFLINE]"]


def test_text_of_durations():
    day = 86400 * 1_000_000_000
    long = Timestamps(0, 11 * day, SH, 0, milliseconds=True, cpus=16)
    short = Timestamps(10, 11 * day, SH, 11 * day - 4_999_999, milliseconds=True, cpus=16)
    ahead = replace(short, last_run_ns=12 * day)
    assert list(lines([long, short, ahead])) == [
        f"  CPU 0: [11 00:00:00.000]  {SHOWN}",
        f" CPU 10: [ 0 00:00:00.004]  {SHOWN}",
        f" CPU 10: [ 0 00:00:00.000]  {SHOWN}",
    ]


def test_text_of_lags():
    found = [Lag(11, 90, 0, 12), Lag(1, 10, 80_000_000, 12)]
    assert list(lines(found)) == ["  CPU 11: 0.00 secs", "   CPU 1: 0.08 secs"]


def test_text_of_those_that_say_they_wait():
    assert list(lines([OnQueue(0, (SH,)), OnQueue(1, ())])) == [
        "CPU 0",
        f"     [120] {SHOWN}",
        "",
        "CPU 1",
        "     [no tasks queued]",
    ]


def test_text_of_groups():
    group = Group(Address(0x10), Address(0x20), "a", throttled=True, depth=1)
    entries = (
        replace(SH, current=True),
        group,
        replace(SH, depth=1),
        replace(group, depth=2, name=None, throttled=False),
        NoTasks(2),
    )
    fair = GroupQueue("CFS", "ROOT", Address(0x1), Address(0x2), entries)
    real = GroupQueue("RT", "ROOT", Address(0x1), Address(0x3), (replace(group, priority=98),))
    assert list(lines([Groups(0, SH.task, SH, (real, fair))])) == [
        "CPU 0",
        f"  CURRENT: {SHOWN}",
        "  ROOT_TASK_GROUP: 1  RT_RQ: 3",
        "     [ 98] TASK_GROUP: 10  RT_RQ: 20 <a> (THROTTLED)",
        "  ROOT_TASK_GROUP: 1  CFS_RQ: 2",
        f"     [120] {SHOWN} [CURRENT]",
        "     TASK_GROUP: 10  CFS_RQ: 20  <a> (THROTTLED)",
        f"        [120] {SHOWN}",
        "        TASK_GROUP: 10  CFS_RQ: 20 ",
        "           [no tasks queued]",
    ]


@pytest.mark.parametrize("dump", ["vmcore-null", "vmcore-abba", "vmcore-irq"])
def test_the_fair_queue_has_what_it_counts(opened, dump):
    from drgn.helpers.linux.percpu import per_cpu

    dump = opened(dump).dump
    for queue in runq(dump):
        rq = per_cpu(dump.prog["runqueues"], queue.cpu)
        waiting = rq.cfs.nr_running.value_() - bool(rq.cfs.curr)
        assert len(queue.fair) == waiting
        assert len(queue.real_time) == rq.rt.rt_nr_running.value_()


def test_only_some_cpus(opened):
    dump = opened("vmcore-null").dump
    assert [queue.cpu for queue in runq(dump, cpus=("1,3",))] == [1, 3]
    assert [one.cpu for one in runq(dump, groups=True, cpus=("2",))] == [2]


def test_the_latest_clock_comes_first(opened):
    found = list(runq(opened("vmcore-null").dump, lag=True))
    assert found[0].behind_ns == 0
    assert [one.behind_ns for one in found] == sorted(one.behind_ns for one in found)


def test_offline_cpus_are_named(opened):
    dump = opened("vmcore-null").dump
    hide = Settings(offline="hide")
    for how in ({}, {"timestamps": True}, {"milliseconds": True}, {"groups": True}):
        assert [one.offline for one in runq(dump, settings=hide, **how)] == [
            cpu not in dump.tasks.online for cpu in range(4)
        ]


def test_json(opened):
    found = [json.loads(line) for line in opened("vmcore-null").run("runq -g --json")]
    assert [one["cpu"] for one in found] == [0, 1, 2, 3]
    assert found[1]["queues"][0]["entries"][0]["current"]
