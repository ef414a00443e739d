"""btop, ptob: numbers of pages."""

import json

import pytest

from crashpy.command import Address, UsageError
from crashpy.commands.btop import PageNumber, btop
from crashpy.commands.btop import lines as btop_lines
from crashpy.commands.ptob import PageAddress, ptob
from crashpy.commands.ptob import lines as ptob_lines
from crashpy.numbers import NumberError


def test_addresses_are_hexadecimal(opened):
    dump = opened("vmcore-null").dump
    assert list(btop(dump, words=("512a000", "0x1fff"))) == [
        PageNumber(Address(0x512A000), Address(0x512A)),
        PageNumber(Address(0x1FFF), Address(1)),
    ]


def test_page_numbers_are_decimal_first(opened):
    dump = opened("vmcore-null").dump
    found = list(ptob(dump, words=("16", "0x16", "1a")))
    assert [one.address for one in found] == [0x10000, 0x16000, 0x1A000]


def test_page_numbers_wrap_round(opened):
    (found,) = ptob(opened("vmcore-null").dump, words=("0xffffffffffffffff",))
    assert found.address == 0xFFFFFFFFFFFFF000


def test_their_lines():
    assert list(btop_lines([PageNumber(Address(0x1000), Address(1))])) == ["1000: 1"]
    assert list(ptob_lines([PageAddress(Address(1), Address(0x1000))])) == ["1: 1000"]


@pytest.mark.parametrize("command", [btop, ptob])
def test_bad_words(opened, command):
    dump = opened("vmcore-null").dump
    with pytest.raises(NumberError):
        list(command(dump, words=("xyz",)))
    with pytest.raises(UsageError):
        list(command(dump))


def test_json(opened):
    (line,) = opened("vmcore-null").run("btop 2000 --json")
    assert json.loads(line) == {"address": "0x2000", "page_number": "0x2"}
