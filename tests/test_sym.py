"""sym: its text, and what its words stand for."""

import json

import pytest

from crashpy.command import Address, CommandError, UsageError
from crashpy.commands.sym import (
    Count,
    Nearby,
    NoneFound,
    Translation,
    Unknown,
    lines,
    marker,
    sym,
    translated,
)
from crashpy.settings import Settings
from crashpy.symbols import Symbol

SCHEDULE = Translation(Address(0xFFFFFFFFA5D5C1DE), "T", "schedule", 0, None, "./core.c: 6833")


def test_a_symbol_with_its_line():
    assert translated(SCHEDULE) == "ffffffffa5d5c1de (T) schedule ./core.c: 6833"


@pytest.mark.parametrize(
    ("found", "radix", "text"),
    [
        (Translation(Address(0x1010), "t", "f", 16, None), 10, "1010 (t) f+16"),
        (Translation(Address(0x1010), "t", "f", 16, None), 16, "1010 (t) f+0x10"),
        (Translation(Address(0x1000), "t", "f", 0, "loop", ""), 10, "1000 (t) f [loop] "),
        (Translation(Address(0x10), "D", "x", 0xFFFFFFFFFFFFFFFE, None), 10, "10 (D) x+-2"),
        (
            Translation(Address(0x1000), "m", "_MODULE_START_loop", 0, "loop"),
            10,
            "1000 (m) (loop module)",
        ),
        (Translation(Address(1), "T", "f", 0, None, None, ".text"), 10, "1 (T) f [.text]"),
    ],
)
def test_forms_of_a_symbol(found, radix, text):
    assert translated(found, radix) == text
    assert list(lines([found], settings=Settings(radix=radix))) == [text]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("_MODULE_TEXT_START_loop", "1000 MODULE TEXT START: loop"),
        ("_MODULE_RO_AFTER_INIT_END_ext2", "1000 MODULE RO_AFTER_INIT END: ext2"),
        ("_MODULE_INIT_TEXT_START_ext2", "1000 MODULE INIT_TEXT START: ext2"),
        ("_MODULE_START_loop", "1000 MODULE START: loop"),
        ("_MODULE_INIT_END_loop", "1000 MODULE INIT END: loop"),
        ("_MODULE_SECTION_START [.text]", "1000 [.text]: section start"),
        ("_MODULE_SECTION_END [.bss]", "1000 [.bss]: section end"),
        ("_MODULE_PERCPU_START_x", "1000 MODULE PERCPU START: x"),
    ],
)
def test_markers(name, text):
    assert marker(Symbol(name, 0x1000, "m", "loop")) == text


def test_what_is_not_found():
    records = [
        Unknown("x", ()),
        Unknown("sched", (Translation(Address(1), "t", "schedule", 0, None),)),
        Unknown("ffff", None),
        NoneFound("x"),
        Nearby(Address(0x1000), "(loop module)+4096"),
        Count("x", 2, "xy"),
        Count("x", 0, None),
    ]
    assert list(lines(records)) == [
        "symbol not found: x",
        "possible alternatives:",
        "  (none found)",
        "symbol not found: sched",
        "possible alternatives:",
        "  1 (t) schedule",
        "symbol not found: ffff",
        "(none found)",
        "1000 (?) (loop module)+4096",
        "2 found (xy)",
        "0 found ",
    ]


@pytest.fixture(scope="module")
def dump(opened):
    return opened("vmcore-null").dump


def test_symbols_of_one_name_come_all(dump):
    found = list(sym(dump, words=["cleanup_module"]))
    assert {f.module for f in found} >= {"loop", "dummy", "ext2", "minix"}


@pytest.mark.parametrize("words", [(), ("-n",), ("-x",), ("-q",), ("-m",)])
def test_words_without_sense(dump, words):
    with pytest.raises(UsageError):
        list(sym(dump, words=words))


def test_an_address_without_symbol_has_no_next_one(dump):
    module = dump.symbols.module("loop")
    region = module.regions[-1]
    found = dump.symbols.at(region.base + region.size - 1)
    if found is None:
        with pytest.raises(CommandError):
            list(sym(dump, words=["-n", f"{region.base + region.size - 1:x}"]))


def test_json(opened):
    session = opened("vmcore-null")
    (line,) = session.run("sym schedule --json")
    assert json.loads(line)["name"] == "schedule"
    assert json.loads(line)["line"] == "./kernel/sched/core.c: 6833"
    assert all(json.loads(text) for text in session.run("sym -m loop --json"))
