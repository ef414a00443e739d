"""Symbols that come from no ELF file: the table made of them, and what drgn asks it."""

import pytest
from drgn import Program, SymbolBinding, SymbolKind

from crashpy.opening.symtab import Columns, SymbolFinder, table_of
from crashpy.symbols import KernelSymbols

BIAS = 0x1000000
TEXT = 0xFFFFFFFF82000000
SYMBOLS = [
    (0, "A", "__per_cpu_start"),
    (0x40, "A", "runqueues"),
    (0x100, "A", "__per_cpu_end"),
    (TEXT, "T", "_stext"),
    (TEXT, "T", "_text"),
    (TEXT + 0x10, "t", "helper"),
    (TEXT + 0x40, "T", "do_it"),
    (TEXT + 0x40, "W", "weak_one"),
    (TEXT + 0x80, "T", "_etext"),
    (TEXT + 0x1000, "D", "_sdata"),
    (TEXT + 0x1000, "d", "state"),
    (TEXT + 0x1100, "D", "_edata"),
    (TEXT + 0x2000, "B", "__bss_start"),
    (TEXT + 0x3000, "B", "__bss_stop"),
    (TEXT + 0x4000, "B", "_end"),
    (TEXT + 0x5000, "D", "behind_the_end"),
]


def columns(symbols):
    return Columns(*([each[i] for each in symbols] for i in range(3)))


@pytest.fixture(scope="module")
def table():
    return table_of(columns(SYMBOLS[::-1]), BIAS)


@pytest.fixture(scope="module")
def kernel(table):
    return KernelSymbols(table, BIAS)


def test_every_symbol_moved_as_kaslr_moved_it(kernel):
    for address, letter, name in SYMBOLS:
        [found] = kernel.named(name)
        assert (found.address, found.kind) == (address, letter.replace("A", "D"))
    assert kernel.last == TEXT + 0x5000


def test_sections_come_first_at_their_addresses(kernel):
    assert [kernel.name(p) for p in kernel.run(TEXT + 0x1000)] == [".data", "_sdata", "state"]


def test_drgn_is_told_what_lies_at_an_address(table):
    finder, prog = SymbolFinder(table, BIAS), Program()
    [found] = finder(prog, None, TEXT + 0x48, True)
    assert (found.name, found.address, found.size) == ("do_it", TEXT + 0x40, 0x40)
    assert (found.binding, found.kind) == (SymbolBinding.GLOBAL, SymbolKind.FUNC)
    assert {s.name for s in finder(prog, None, TEXT + 0x48, False)} == {"do_it", "weak_one"}
    assert finder(prog, None, 0x48, True) == []  # every small number would be per CPU


def test_drgn_is_told_where_a_name_is(table):
    finder, prog = SymbolFinder(table, BIAS), Program()
    assert [s.address for s in finder(prog, "runqueues", None, False)] == [0x40]
    assert finder(prog, "helpe", None, False) == []
    assert finder(prog, "", None, False) == []
    assert len(finder(prog, None, None, False)) == len(SYMBOLS)


def test_no_symbols():
    nothing = SymbolFinder(table_of(columns([]), 0), 0)
    assert nothing(Program(), None, TEXT, True) == []
    assert nothing(Program(), "x", None, True) == []
