"""timer: wheels and clocks."""

import json
from dataclasses import replace

import pytest

from crashpy.command import Address, CommandError
from crashpy.commands.timer import (
    Clock,
    HighResolutionTimer,
    Jiffies,
    Timer,
    TimerBase,
    high_resolution_lines,
    lines,
    timer,
)
from crashpy.settings import Settings

ONE = Timer(Address(0xFFFF800000001000), 110, 10, Address(0xFFFFFFFF81000000), "f")
BASE = TimerBase(0, "BASE_STD", Address(0x1000), (ONE, replace(ONE, ticks_to_expiry=-1000)))


def test_text_of_a_wheel():
    empty = TimerBase(0, "BASE_DEF", Address(0x2000), (), first=False)
    other = TimerBase(1, "BASE_STD", Address(0x3000), ())
    offline = TimerBase(2, "", Address(0), (), offline=True)
    assert list(lines([Jiffies(100), BASE, empty, other, offline])) == [
        "JIFFIES",
        "    100",
        "",
        "TIMER_BASES[0][BASE_STD]: 1000",
        "  EXPIRES     TTE       TIMER_LIST     FUNCTION",
        "      110     10  ffff800000001000  ffffffff81000000  <f>",
        "      110  -1000  ffff800000001000  ffffffff81000000  <f>",
        "TIMER_BASES[0][BASE_DEF]: 2000",
        "  EXPIRES     TTE     TIMER_LIST     FUNCTION",
        "  (none)",
        "",
        "TIMER_BASES[1][BASE_STD]: 3000",
        "  EXPIRES     TTE     TIMER_LIST     FUNCTION",
        "  (none)",
        "TIMER_BASES[2]: [OFFLINE]",
    ]


def test_text_of_clocks():
    found = HighResolutionTimer(
        Address(0xFFFF800000001000), 1000, 1200, 200, Address(0xFFFFFFFF81000000), "f"
    )
    lost = HighResolutionTimer(found.timer, None, None, None, None, None)
    clock = Clock(0, Address(0x10), 0, Address(0x20), "ktime_get", 1000, (lost, found))
    assert list(high_resolution_lines([clock, replace(clock, number=1, timers=())])) == [
        "CPU: 0  HRTIMER_CPU_BASE: 10",
        "  CLOCK: 0  HRTIMER_CLOCK_BASE: 20  [ktime_get]",
        "    CURRENT  ",
        "      1000   ",
        "  SOFTEXPIRES  EXPIRES  TTE      HRTIMER           FUNCTION    ",
        "  (destroyed timer)",
        "      1000       1200   200  ffff800000001000  ffffffff81000000  <f>",
        "",
        "  CLOCK: 1  HRTIMER_CLOCK_BASE: 20  [ktime_get]",
        "  (empty)",
    ]
    offline = replace(clock, cpu=1, offline=True)
    assert list(high_resolution_lines([offline, offline])) == [
        "CPU: 1  [OFFLINE]",
        "",
        "CPU: 1  [OFFLINE]",
    ]


def test_every_base_of_every_cpu(opened):
    dump = opened("vmcore-null").dump
    now, *bases = timer(dump)
    assert [(base.cpu, base.name) for base in bases[:4]] == [
        (0, "BASE_LOCAL"),
        (0, "BASE_GLOBAL"),
        (0, "BASE_DEF"),
        (1, "BASE_LOCAL"),
    ]
    for base in bases:
        times = [one.expires for one in base.timers]
        assert times == sorted(times)
        for one in base.timers:
            assert one.ticks_to_expiry == one.expires - now.jiffies
    # Deferrable timers are in the base that crash does not know.
    assert any("idle_worker_timeout" in t.symbol for b in bases[2::3] for t in b.timers)


def test_the_next_timer_of_a_clock_is_its_first(opened):
    from drgn import Object

    dump = opened("vmcore-null").dump
    for line in opened("vmcore-null").run("timer -r --json"):
        clock = json.loads(line)
        base = Object(dump.prog, "struct hrtimer_clock_base", address=int(clock["base"], 16))
        leftmost = base.active.rb_root.rb_leftmost.value_()
        first = int(clock["timers"][0]["timer"], 16) if clock["timers"] else 0
        assert bool(leftmost) == bool(first)
        if first:
            assert Object(dump.prog, "struct hrtimer", address=first).node.node.address_ == leftmost


def test_only_some_cpus(opened):
    run = opened("vmcore-null").run
    assert {json.loads(line)["cpu"] for line in run("timer -r -C 1,3 --json")} == {1, 3}
    assert list(run("timer -C 0 -C 1")) == list(run("timer -C 1"))


def test_offline_cpus_are_named(opened):
    dump = opened("vmcore-null").dump
    offline = {cpu for cpu in range(4) if cpu not in dump.tasks.online}
    found = list(timer(dump, settings=Settings(offline="hide")))[1:]
    assert {one.cpu for one in found if one.offline} == offline


def test_bad_words(opened):
    with pytest.raises(CommandError, match="invalid cpu specification: 99"):
        list(timer(opened("vmcore-null").dump, cpus="99"))
