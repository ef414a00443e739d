"""sys: the machine, its calls, taints and configuration."""

import json
import time

from crashpy.command import Address
from crashpy.commands.sys import (
    SystemCall,
    Taints,
    _call_line,
    _letter,
    system,
    system_lines,
    taints_lines,
)
from crashpy.text import calendar, centered, duration, size


def test_the_machine(opened):
    told = system(opened("vmcore-null").dump)
    assert told.cpus == 4
    assert told.offline == 0
    assert told.tasks == 112
    assert told.tainted
    assert told.uptime_s == 15
    assert told.memory_bytes == 133672960
    assert told.panic == "Oops: Oops: 0000 [#1] SMP"
    shown = list(system_lines(told))
    assert shown[0] == "      KERNEL: vmlinux  [TAINTED]"
    assert shown[1] == "    DUMPFILE: vmcore-null  [PARTIAL DUMP]"
    assert shown[-1] == '       PANIC: "Oops: Oops: 0000 [#1] SMP" (check log for details)'


def test_the_machine_as_json(opened):
    (line,) = opened("vmcore-null").run("sys --json")
    assert json.loads(line)["release"] == "6.12.117-sample"


def test_what_is_not_in_the_dump_is_said(opened):
    import dataclasses

    told = dataclasses.replace(
        system(opened("vmcore-null").dump), cpus=None, date_s=None, uptime_s=None, tasks=None
    )
    shown = "\n".join(system_lines(told))
    assert "CPUS: --" in shown
    assert "UPTIME: --" in shown
    assert "TASKS: --" in shown


def test_system_calls(opened):
    session = opened("vmcore-null")
    assert list(session.run("sys -c 59")) == [
        "NUM  SYSTEM CALL                FILE AND LINE NUMBER",
        " 59  __x64_sys_execve           ../fs/exec.c: 2152",
    ]
    assert list(session.run("sys -c nosuchcall")) == []
    assert _call_line(SystemCall(10, Address(1), "f", None), 16) == (
        "  a  f                          "
    )


def test_configuration(opened):
    config = list(opened("vmcore-null").run("sys config"))
    assert config[0] == "#"
    assert "CONFIG_SMP=y" in config
    assert "" not in config


def test_nothing_is_panicked(opened):
    assert list(opened("vmcore-null").run("sys -panic")) == ["sys: cannot panic a dumpfile!"]


def test_taints(opened):
    assert list(opened("vmcore-null").run("sys -t")) == ["TAINTED_MASK: 1000  O"]
    assert list(taints_lines([Taints(None, "")])) == ["TAINTED_MASK: --  "]


def test_of_taints_and_identity_the_first_is_shown(opened):
    session = opened("vmcore-null")
    assert list(session.run("sys -t -i")) == list(session.run("sys -t"))
    assert list(session.run("sys -i -t")) == list(session.run("sys -i"))


def test_dull_letters_are_left_out():
    class Letter:
        def __init__(self, letter):
            self.letter = letter

        def value_(self):
            return ord(self.letter)

    assert _letter(1, Letter("P"), Letter("G")) == "P"
    assert _letter(0, Letter("P"), Letter("G")) == ""
    assert _letter(0, Letter("X"), Letter("Y")) == "Y"


def test_layouts(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert calendar(1795422938) == "Mon Nov 23 08:35:38 UTC 2026"
    assert duration(59) == "00:00:59"
    assert duration(2 * 86400 + 3661) == "2 days, 01:01:01"
    assert size(0) == "0"
    assert size(1 << 30) == "1 GB"
    assert size(536346624) == "511.5 MB"
    assert size(4096) == "4 KB"
    assert centered("TASK", 9) == "  TASK   "
    assert centered("TASK", 9, right=True) == "   TASK  "


def test_the_tick_rate_is_what_makes_jiffies_agree_with_the_clock(opened):
    from crashpy.kernel.clock import _since_boot, monotonic_ns, tick_rate, uptime_seconds

    prog = opened("vmcore-null").dump.prog
    assert tick_rate(prog) == 250
    assert abs(uptime_seconds(prog) - monotonic_ns(prog) / 1e9) < 2
    assert _since_boot((-300 * 250 & 0xFFFFFFFF) + 100, 250) == 100
    assert _since_boot((1 << 32) + 5, 250) == 75005
