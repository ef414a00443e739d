"""vm: its lines, its records, what goes wrong."""

import json

import pytest

from crashpy.command import Address, CommandError, UsageError, to_json
from crashpy.commands.vm import MemoryArea, Pages, TaskMemory, lines, vm

MEMORY = TaskMemory(
    7,
    Address(0xFFFF800000000000),
    1,
    "sh",
    Address(0xFFFF800000001000),
    Address(0xFFFF800000002000),
    1724,
    2260,
    header=True,
)
AREA = MemoryArea(
    Address(0xFFFF800000003000),
    Address(0x400000),
    Address(0x403000),
    Address(0x71),
    "/bin/sh",
    headed=True,
)


def test_an_address_space_and_its_areas():
    assert list(lines([MEMORY, AREA])) == [
        'PID: 7        TASK: ffff800000000000  CPU: 1    COMMAND: "sh"',
        "       MM               PGD          RSS    TOTAL_VM",
        "ffff800000001000  ffff800000002000  1724k    2260k  ",
        "      VMA           START       END     FLAGS FILE",
        "ffff800000003000     400000     403000     71 /bin/sh",
    ]


@pytest.mark.parametrize(
    ("pages", "shown"),
    [
        (Pages(Address(0x400000), 1, [0x559E000]), ["400000       559e000"]),
        (
            Pages(Address(0x400000), 2, None, "/swap", [5, 9]),
            ["400000      SWAP: /swap  OFFSET: 5", "401000      SWAP: /swap  OFFSET: 9"],
        ),
        (
            Pages(Address(0x400000), 2, None, file="/100%", file_offset=Address(0xF000)),
            ["400000      FILE: /100%  OFFSET: f000", "401000      FILE: /100%  OFFSET: 10000"],
        ),
        (Pages(Address(0x400000), 1, None), ["400000      (not mapped)"]),
        (Pages(Address(0x400000), 1, None, readable=False), ["400000      --"]),
    ],
)
def test_where_pages_are(pages, shown):
    text = "\n".join(lines([AREA, pages])).split("\n")
    assert text[2:] == ["VIRTUAL     PHYSICAL", *shown]


def test_many_pages_come_in_pieces():
    pieces = list(lines([Pages(Address(0), 1 << 20, None)]))
    assert sum(piece.count("\n") + 1 for piece in pieces) == (1 << 20) + 1
    assert max(map(len, pieces)) < 1 << 16


def test_records_are_typed(opened):
    dump = opened("vmcore-null").dump
    memory, *areas = vm(dump, tasks=["1"])
    assert (memory.pid, memory.rss_kib, memory.total_vm_kib) == (1, 1724, 2260)
    assert areas[0].file == "/bin/busybox"
    assert json.loads(to_json(areas[0]))["start"] == "0x400000"


def test_pages_as_json(opened):
    records = vm(opened("vmcore-null").dump, tasks=["1"], pages=True)
    first = next(record for record in records if isinstance(record, Pages))
    shown = json.loads(to_json(first))
    assert shown["pages"] == len(shown["physical"]) == 1
    assert shown["physical"][0].startswith("0x")


def test_structures_as_json(opened):
    *_, structure = vm(opened("vmcore-null").dump, tasks=["1"], mm_struct=True)
    assert json.loads(to_json(structure))["type"] == "mm_struct"


def test_a_kernel_thread_has_no_areas(opened):
    (memory,) = vm(opened("vmcore-null").dump, tasks=["2"])
    assert memory.mm == memory.rss_kib == 0


@pytest.mark.parametrize(
    "words", [["-p", "-m"], ["-m", "-v"], ["-v", "-f", "1"], ["-R", "x", "-p"]]
)
def test_options_that_do_not_go_together(words):
    with pytest.raises(UsageError):
        vm.parse(words)


def test_decimal_and_hexadecimal_at_once():
    with pytest.raises(CommandError, match="-d and -x are mutually exclusive"):
        vm.parse(["-x", "-d"])


@pytest.mark.parametrize("words", [["-p", "-R", "x"], ["-f", "1", "-p"], ["-x", "-m"], ["-R", "a"]])
def test_options_that_do(words):
    assert vm.parse(words)


@pytest.mark.parametrize(
    ("line", "last"),
    [
        ("vm zzz", "vm: invalid task or pid value: zzz"),
        ("vm -P 0 1", "(not found)"),
        ("vm -M 10 2", "vm: invalid mm_struct address: 10"),
        ("vm -f xyz", 'vm: invalid input: "xyz"'),
        ("vm -f 75", "75: (READ|EXEC|MAYREAD|MAYWRITE|MAYEXEC)"),
    ],
)
def test_short_answers(opened, line, last):
    assert list(opened("vmcore-null").run(line))[-1] == last
