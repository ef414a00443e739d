"""pte: flags, swap, entries that are closed."""

import json

import pytest

from crashpy.command import Address
from crashpy.commands.pte import Entry, entry_lines


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (
            Entry(Address(0xD8E067), Address(0xD8E000), ("PRESENT", "RW")),
            [" PTE    PHYSICAL  FLAGS", "d8e067   d8e000   (PRESENT|RW)"],
        ),
        (
            Entry(Address(0), Address(0), ()),
            ["PTE  PHYSICAL  FLAGS", " 0       0     (no mapping)"],
        ),
        (
            Entry(Address(0x1E), None, (), "/mnt/swap", 7),
            ["PTE    SWAP     OFFSET", " 1e  /mnt/swap     7  "],
        ),
    ],
)
def test_text(entry, text):
    assert list(entry_lines(entry)) == text


def test_one_bit_has_two_names(opened):
    run = opened("vmcore-null").run
    assert list(run("pte 101"))[1].endswith("(PRESENT|GLOBAL)")
    assert next(iter(run("pte 80"))).split() == ["PTE", "SWAP", "OFFSET"]
    # Closed to its task, and the address complemented.
    closed = json.loads(next(iter(run("pte 3ffffffff100 --json"))))
    assert closed["flags"] == ["PROTNONE", "GLOBAL"]
    assert closed["physical"] == "0x0"


def test_entries_of_swapped_pages_name_the_file(opened):
    (line,) = opened("vmcore-null").run("pte 2 --json")
    assert json.loads(line)["swap"] == "/mnt/disk/swapfile"


def test_a_swap_area_that_does_not_exist(opened):
    shown = list(opened("vmcore-null").run("pte 8000000000000000"))
    assert "(unknown swap location)" in shown[1]
