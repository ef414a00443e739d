"""swap: files and partitions that are swapped to."""

import json

import pytest
from drgn import FaultError

import crashpy
from crashpy.command import Address
from crashpy.commands.swap import SwapSpace, lines, swap


def test_text():
    found = [
        SwapSpace(Address(0xFFFF800000001000), True, 7192568, 1200580, -1, "/dev/dm-1"),
        SwapSpace(Address(0xFFFF800000002000), False, 0, 0, 5, None),
    ]
    assert list(lines(found)) == [
        "SWAP_INFO_STRUCT    TYPE       SIZE       USED     PCT  PRI  FILENAME",
        "ffff800000001000  PARTITION  7192568k   1200580k   16%   -1  /dev/dm-1",
        "ffff800000002000    FILE        0k         0k       0%    5  (unknown)",
    ]


def test_nothing_is_swapped_to():
    assert list(lines([])) == [
        "SWAP_INFO_STRUCT    TYPE       SIZE       USED     PCT  PRI  FILENAME"
    ]


def test_sizes_are_the_kernels(opened):
    from drgn.helpers.linux.swap import swap_total_usage

    dump = opened("vmcore-null").dump
    found = list(swap(dump))
    usage = swap_total_usage(dump.prog)
    assert sum(one.size_kib for one in found) == 4 * usage.pages
    assert sum(one.used_kib for one in found) == 4 * usage.used_pages
    assert [one.path for one in found] == ["/mnt/disk/swapfile"]


def test_json(opened):
    (line,) = opened("vmcore-null").run("swap --json")
    found = json.loads(line)
    assert found["swap_info"].startswith("0xffff")
    assert (found["partition"], found["size_kib"]) == (False, 4092)


def test_a_hole_costs_one_swap_space(examples, caplog):
    dump = crashpy.open(str(examples / "vmlinux.zst"), str(examples / "vmcore-null"))

    def fail(address, *_):
        raise FaultError("not there", address)

    [one] = swap(dump)
    dump.prog.add_memory_segment(one.swap_info, 64, fail)
    assert list(swap(dump)) == []
    assert "skipped swap space 0" in caplog.text


@pytest.mark.parametrize("line", ["swap x", "swap --"])
def test_words_are_ignored(opened, line):
    assert list(opened("vmcore-null").run(line)) == list(opened("vmcore-null").run("swap"))
