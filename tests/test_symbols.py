"""The symbol table: order, choice among symbols, names, lines."""

import struct

import pytest

from crashpy.elf import ElfSymbols, Section
from crashpy.symbols import KernelSymbols, Symbol, stripped

TEXT = 0xFFFFFFFF81000000
SECTIONS = (
    Section("", 0, 0, 0, True),
    Section(".text", TEXT, 0x1000, 6, False),
    Section(".rodata", TEXT + 0x1000, 0x1000, 2, False),
    Section(".data", TEXT + 0x2000, 0x1000, 3, False),
    Section(".bss", TEXT + 0x3000, 0x1000, 3, True),
    Section(".data..percpu", 0, 0x1000, 3, False),
)
LOCAL_FUNCTION, GLOBAL_FUNCTION, GLOBAL_OBJECT, WEAK_FUNCTION = 0x02, 0x12, 0x11, 0x22


def elf(*symbols):
    """A table of (name, st_info, section, address)."""
    table, strings = bytearray(24), "\0"
    for name, info, section, address in symbols:
        table += struct.pack("<IBBHQQ", len(strings), info, 0, section, address, 16)
        strings += f"{name}\0"
    return ElfSymbols(memoryview(bytes(table)), strings, SECTIONS)


def kernel(*symbols, bias=0):
    every = [
        ("__per_cpu_start", GLOBAL_OBJECT, 5, 0),
        (".hidden", LOCAL_FUNCTION, 1, TEXT),
        ("_text", GLOBAL_FUNCTION, 1, TEXT),
        ("_stext", GLOBAL_FUNCTION, 1, TEXT),
        ("vmlinux.c", 4, 0xFFF1, 0),
        *symbols,
    ]
    return KernelSymbols(elf(*every), bias)


def test_the_order_is_by_address_then_name():
    found = kernel(("zebra", GLOBAL_FUNCTION, 1, TEXT + 16), ("ant", LOCAL_FUNCTION, 1, TEXT + 16))
    assert [s.name for s in found] == ["__per_cpu_start", "_stext", "_text", "ant", "zebra"]


def test_only_what_lies_in_sections_moves():
    found = kernel(("absolute", 0x10, 0xFFF1, 0xFFFFFFFFFF600000), bias=0x1000000)
    assert [s.address for s in found][1:] == [0xFFFFFFFF82000000] * 2 + [0xFFFFFFFFFF600000]


@pytest.mark.parametrize(
    ("info", "section", "letter"),
    [
        (LOCAL_FUNCTION, 1, "t"),
        (GLOBAL_FUNCTION, 1, "T"),
        (GLOBAL_OBJECT, 2, "R"),
        (GLOBAL_OBJECT, 3, "D"),
        (0x01, 4, "b"),
        (WEAK_FUNCTION, 1, "W"),
        (0x21, 3, "V"),
        (0x10, 0xFFF1, "A"),
        (0x10, 0, "U"),
    ],
)
def test_letters_are_those_of_nm(info, section, letter):
    assert elf(("x", info, section, TEXT)).letter(1) == letter


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("f.part.0", "f"),
        ("f.isra.0.cold", "f"),
        ("f.part.0.isra.0", "f.part.0"),
        ("f.cold", "f.cold"),
        ("f.constprop.0", "f.constprop.0"),
    ],
)
def test_the_endings_of_copies_are_cut(name, shown):
    assert stripped(name) == shown


def test_names_are_found_with_and_without_the_ending_of_copies():
    found = kernel(
        ("f.part.0", LOCAL_FUNCTION, 1, TEXT + 32),
        ("f", GLOBAL_FUNCTION, 1, TEXT + 16),
        ("of", GLOBAL_FUNCTION, 1, TEXT + 64),
    )
    assert [s.address - TEXT for s in found.named("f")] == [16, 32]
    assert found.named("f.part.0") == []
    assert [s.name for s in found.containing("f")] == ["f", "f", "of"]
    assert found.named("hidden") == found.named("") == []


def test_names_inside_of_other_names_are_found():
    """Linkers keep one string for `of` and `f`."""
    table = bytearray(24)
    for start, address in ((1, TEXT), (7, TEXT + 16), (8, TEXT + 32)):
        table += struct.pack("<IBBHQQ", start, GLOBAL_FUNCTION, 0, 1, address, 0)
    found = KernelSymbols(ElfSymbols(memoryview(bytes(table)), "\0_text\0of\0", SECTIONS), 0)
    assert [s.name for s in found] == ["_text", "of", "f"]
    assert [s.address for s in found.named("f")] == [TEXT + 32]
    assert [s.name for s in found.containing("f")] == ["of", "f"]
    assert found.starting("o") == ["of"]


def test_an_empty_table_finds_nothing():
    nothing = KernelSymbols(ElfSymbols(memoryview(bytes(24)), "\0", SECTIONS), 0)
    assert list(nothing) == []
    assert nothing.named("x") == nothing.containing("x") == []
    assert nothing.floor(TEXT) is None


# On a dump


@pytest.fixture(scope="module")
def symbols(opened):
    return opened("vmcore-null").dump.symbols


def test_an_address_has_the_symbol_below_it(symbols):
    schedule = symbols.named("schedule")
    assert schedule.kind == "T"
    assert symbols.at(schedule.address) == (schedule, 0)
    assert symbols.at(schedule.address + 5) == (schedule, 5)
    assert symbols.format(schedule.address + 5) == "schedule+5"
    assert symbols.format(schedule.address + 31, 16) == "schedule+0x1f"
    assert symbols.is_text(schedule.address)


def test_data_is_no_text(symbols):
    assert not symbols.is_text(symbols.named("jiffies").address)
    assert not symbols.is_text(0)


def test_modules_have_symbols_without_their_files(symbols):
    found = symbols.named("loop_queue_rq")
    assert (found.kind, found.module) == ("t", "loop")
    assert symbols.at(found.address + 1) == (found, 1)
    assert symbols.module_of(found.address).name == "loop"
    assert symbols.is_text(found.address)
    assert symbols.line(found.address) is None


def test_neighbours_are_each_others(symbols):
    for name in ("schedule", "loop_queue_rq"):
        symbol = symbols.named(name)
        assert symbols.previous(symbols.next(symbol)).address == symbol.address


def test_addresses_of_nothing_have_no_symbol(symbols):
    for address in (0, 1, 0xFFFF888000000000, 0xFFFFFFFFFFFFFFFF, 1 << 64):
        assert symbols.at(address) is None
        assert symbols.format(address) == ""
        assert symbols.line(address) is None


def test_lines_are_those_of_the_innermost_function(symbols):
    assert symbols.line(symbols.named("schedule").address) == "./kernel/sched/core.c: 6833"


def test_every_symbol_is_found_at_its_address(symbols):
    every = list(symbols)
    addresses = [s.address for s in every]
    assert addresses == sorted(addresses)
    for symbol in every[500::997]:
        found, offset = symbols.at(symbol.address)
        assert (found.address, offset) == (symbol.address, 0)
        assert symbol.address in [s.address for s in symbols.all_named(symbol.name)]


def test_completion(symbols):
    assert "schedule_timeout" in symbols.starting("schedule_t")
    assert "loop_queue_rq" in symbols.starting("loop_q")


def test_a_symbol_in_json():
    assert Symbol("x", 0xFFFF, "T").__json__() == {
        "name": "x", "address": 0xFFFF, "kind": "T", "module": None,
    }  # fmt: skip
