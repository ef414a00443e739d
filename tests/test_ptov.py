"""ptov: the direct map, and per-CPU objects."""

import json

import pytest

from crashpy.command import Address, UsageError
from crashpy.commands.ptov import DirectMapped, PerCpu, lines, ptov


def test_text_of_a_physical_address():
    mapped = DirectMapped(Address(0x1000), Address(0xFFFF888000001000))
    assert list(lines([mapped, mapped])) == [
        "VIRTUAL           PHYSICAL        ",
        "ffff888000001000  1000            ",
        "",
        "VIRTUAL           PHYSICAL        ",
        "ffff888000001000  1000            ",
    ]


def test_text_of_a_per_cpu_offset():
    found = [
        PerCpu(Address(0x20), 0, Address(0xFFFF888000000020), first=True),
        PerCpu(Address(0x20), 1, Address(0xFFFF888000001020), offline=True),
    ]
    assert list(lines(found)) == [
        "PER-CPU OFFSET: 20",
        "  CPU    VIRTUAL         ",
        "  [0]  ffff888000000020",
        "  [1]  ffff888000001020 [OFFLINE]",
    ]


def test_the_direct_map_is_what_the_page_tables_say(opened):
    dump = opened("vmcore-null").dump
    (found,) = ptov(dump, words=("1c0000",))
    assert dump.prog.read(found.virtual, 64) == dump.prog.read(0x1C0000, 64, True)


def test_per_cpu_objects_are_the_kernels(opened):
    from drgn.helpers.linux.percpu import per_cpu

    dump = opened("vmcore-null").dump
    symbol = dump.symbols.named("runqueues")
    found = list(ptov(dump, words=(f"{symbol.address:x}:1,3",)))
    assert [one.cpu for one in found] == [1, 3]
    assert found[1].virtual == per_cpu(dump.prog["runqueues"], 3).address_


def test_no_words(opened):
    with pytest.raises(UsageError):
        list(ptov(opened("vmcore-null").dump))


def test_json(opened):
    (line,) = opened("vmcore-null").run("ptov 29220:0 --json")
    assert json.loads(line)["cpu"] == 0
    assert json.loads(line)["offset"] == "0x29220"
