"""ps: selection, forms, text."""

import json

import pytest

from crashpy.command import Address, CommandError
from crashpy.commands.ps import (
    Arguments,
    LastRun,
    Limit,
    Limits,
    OfCpu,
    Process,
    TaskName,
    Times,
    ages_lines,
    arguments_lines,
    last_run_lines,
    limits_lines,
    lines,
    policies,
    ps,
    times_lines,
)
from crashpy.settings import Settings

INIT = TaskName(1, Address(0xFFFF888100000000), 0, "init")


def process(**changed):
    values = {
        "pid": 1,
        "ppid": 0,
        "cpu": 0,
        "task": Address(0xFFFF888100000000),
        "stack_pointer": Address(0xFFFFC90000013CF8),
        "state": "IN",
        "memory_percent": 1.34,
        "vsz_kib": 2260,
        "rss_kib": 1724,
        "comm": "init",
        "kthread": False,
        "active": False,
        "online": True,
    }
    return Process(**(values | changed))


def test_the_table():
    assert list(lines([process(), process(kthread=True, active=True, comm="ksoftirqd/0")])) == [
        "      PID    PPID  CPU       TASK        ST  %MEM      VSZ      RSS  COMM",
        "        1       0   0  ffff888100000000  IN   1.3     2260     1724  init",
        ">       1       0   0  ffff888100000000  IN   1.3     2260     1724  [ksoftirqd/0]",
    ]


def test_the_stack_pointer_of_a_running_task_is_not_known():
    assert list(lines([process(), process(stack_pointer=None)], stack=True)) == [
        "      PID    PPID  CPU      KSTACKP      ST  %MEM      VSZ      RSS  COMM",
        "        1       0   0  ffffc90000013cf8  IN   1.3     2260     1724  init",
        "        1       0   0         --         IN   1.3     2260     1724  init",
    ]


def test_what_is_not_in_the_dump_is_not_zero():
    lost = process(memory_percent=None, vsz_kib=None, rss_kib=None, ppid=None)
    assert list(lines([lost], header=False)) == [
        "        1      -1   0  ffff888100000000  IN    --       --       --  init"
    ]


def test_an_offline_cpu_is_marked_where_offline_cpus_are_hidden():
    settings = Settings(offline="hide")
    stopped = process(active=True, online=False)
    assert next(lines([stopped], header=False, settings=settings)).startswith("-       1")


def test_times():
    times = Times(INIT, 90061, 230460439, 1, 2)
    assert list(times_lines([times]))[1:] == [
        "    RUN TIME: 1 days, 01:01:01",
        "  START TIME: 230460439",
        "       UTIME: 1",
        "       STIME: 2",
        "",
    ]


def test_last_runs():
    run = LastRun(INIT, "IN", 5, 86_400_123_000_000, width=3)
    header = 'PID: 1        TASK: ffff888100000000  CPU: 0    COMMAND: "init"'
    assert list(last_run_lines([run])) == [f"[  5] [IN]  {header}"]
    assert list(ages_lines([OfCpu(0, False), run, OfCpu(1, True)])) == [
        "CPU: 0",
        f"[1 00:00:00.123] [IN]  {header}",
        "",
        "CPU: 1 [OFFLINE]",
    ]


def test_arguments_and_environment():
    told = Arguments(INIT, ("init", "-x"), ("HOME=/", "TERM=linux"))
    assert list(arguments_lines([told]))[1:] == [
        "ARG: init -x ",
        "ENV: HOME=/",
        "     TERM=linux",
        "",
    ]
    assert len(list(arguments_lines([Arguments(INIT, None, None)]))) == 1


def test_limits():
    limits = Limits(INIT, (Limit("CPU", None, None), Limit("NPROC", 0, 8388608)))
    assert list(limits_lines([limits]))[1:] == [
        "  RLIMIT     CURRENT       MAXIMUM  ".replace("RLIMIT", "RLIMIT"[-6:]),
        "    CPU   (unlimited)   (unlimited)",
        "  NPROC        0          8388608  ",
        "",
    ]


@pytest.mark.parametrize(
    ("word", "numbers"),
    [("FIFO", {1}), ("fifo,RR", {1, 2}), ("0x6", {6}), ("3", {3}), ("idle", {5})],
)
def test_policies(word, numbers):
    assert policies(word) == numbers


def test_a_policy_that_is_none():
    with pytest.raises(CommandError, match="bogus: invalid scheduling policy"):
        policies("FIFO,bogus")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ps -u -k", "ps: -u and -k are mutually exclusive"),
        ("ps -a -t", "ps: -a, -t, -c, -p, -g, -l, -m, -S, -r and -A flags are all mutually"),
        ("ps -S 1", "ps: -S option takes no arguments"),
        ("ps -l -G", "ps: -G not supported with -l option"),
        ("ps -C 0", "ps: -C option is only applicable with -l and -m"),
        ("ps -l -C 99", "ps: invalid cpu specification: 99"),
        ("ps -l -C x", 'ps: x: "x" is not a digit 0 - 9'),
        ("ps '['", "ps: invalid regular expression: ["),
        ("ps 99999", "ps: invalid task or pid value: 99999"),
    ],
)
def test_what_does_not_go_together(opened, line, message):
    assert next(opened("vmcore-null").run(line)).startswith(message)


def test_selection(opened):
    dump = opened("vmcore-null").dump
    everyone = list(ps(dump))
    assert len(everyone) == len(dump.tasks)
    assert len(list(ps(dump, user=True))) + len(list(ps(dump, kernel=True))) == len(everyone)
    assert {p.pid for p in ps(dump, leaders=True)} == {t.tgid for t in dump.tasks}
    assert [p.pid for p in ps(dump, active=True)] == [
        t.pid for t in dump.tasks if dump.tasks.is_active(t)
    ]
    assert {p.comm for p in ps(dump, tasks=["'^kworker'"])} == {
        t.comm for t in dump.tasks if t.comm.startswith("kworker")
    }
    assert [p.pid for p in ps(dump, tasks=["2", "1"])] == [1, 2]


def test_json(opened):
    rows = [json.loads(line) for line in opened("vmcore-null").run("ps -A --json")]
    assert len(rows) == 4
    assert {"pid", "task", "state", "rss_kib", "memory_percent", "active"} <= set(rows[0])
    assert rows[0]["task"].startswith("0x")


@pytest.mark.parametrize("form", ["p", "c", "g", "t", "l", "m", "a", "r", "S"])
def test_every_form_is_json(opened, form):
    shown = opened("vmcore-abba").run(f"ps -{form} --json")
    assert [json.loads(line) for line in shown if not line.startswith(("ps: ", "\n"))]


def test_the_first_line_comes_before_the_last_task(opened):
    shown = opened("vmcore-null").run("ps")
    assert "PID" in next(shown)
    assert "swapper/0" in next(shown)
    shown.close()
