"""Symbols that come from no ELF file, kept as if they did: kallsyms, System.map.

crashpy.symbols works on ELF symbol tables; one is made here of addresses, nm's letters
and names. The same table answers drgn, so that there is one copy of the names.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, islice
from operator import gt, or_
from typing import NamedTuple

from drgn import Program, Symbol, SymbolBinding, SymbolKind

from crashpy.elf import (
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_WRITE,
    SHN_ABS,
    STB_LOCAL,
    STB_WEAK,
    STT_GNU_IFUNC,
    STT_OBJECT,
    STT_SECTION,
    ElfSymbols,
    Section,
)

LAST = ""  # the last of all symbols: KASLR moves what lies in a section
# Sections that symbols tell the ends of: name, first symbol, last one, flags, is it empty in a
# file. The order of arch/x86/kernel/vmlinux.lds.S.
SECTIONS = (
    (".text", "_stext", "_etext", SHF_ALLOC | SHF_EXECINSTR, False),
    (".rodata", "__start_rodata", "__end_rodata", SHF_ALLOC, False),
    (".data", "_sdata", "_edata", SHF_ALLOC | SHF_WRITE, False),
    (".init.text", "_sinittext", "_einittext", SHF_ALLOC | SHF_EXECINSTR, False),
    (".bss", "__bss_start", "__bss_stop", SHF_ALLOC | SHF_WRITE, True),
    (".brk", "__bss_stop", "_end", SHF_ALLOC | SHF_WRITE, True),
    (".init.scratch", "__init_scratch_begin", LAST, SHF_ALLOC | SHF_WRITE, False),
)
PER_CPU = len(SECTIONS) + 1
LETTERS = {"t": 1, "r": 2, "d": 3, "b": 5, "g": 3, "s": 5}  # letter -> index of its section
# Below this lie x86-64's per-CPU offsets: looked up by address they would make every
# NULL print as __per_cpu_start.
LOWEST_KERNEL_ADDRESS = 1 << 32
MOST = (1 << 64) - 1
STB_GLOBAL = 1
RANK = {STB_GLOBAL: 0, STB_WEAK: 1, STB_LOCAL: 2}
BINDINGS = {
    STB_GLOBAL: SymbolBinding.GLOBAL,
    STB_WEAK: SymbolBinding.WEAK,
    STB_LOCAL: SymbolBinding.LOCAL,
}


class Columns(NamedTuple):
    """Symbols: the one at a place of each list."""

    addresses: list[int]
    letters: list[str]  # nm's
    names: list[str]

    def sorted(self) -> Columns:
        """By address; these themselves where they are."""
        values = self.addresses
        if not any(map(gt, values, islice(values, 1, None))):
            return self
        order = sorted(range(len(values)), key=values.__getitem__)
        letters, names = self.letters, self.names
        return Columns(
            [values[i] for i in order], [letters[i] for i in order], [names[i] for i in order]
        )


def table_of(found: Columns, bias: int) -> ElfSymbols:
    """An ELF symbol table of these, as it was before KASLR moved it.

    It is in the order of its values, and its names are in the order of the table; symbols
    of sections follow. Sizes are 0: nothing tells them.
    """
    values, letters, names = found.sorted()
    bounds = {name: 0 for _, first, last, *_ in SECTIONS for name in (first, last)}
    bounds |= {name: values[i] for i, name in enumerate(names) if name in bounds}
    bounds[LAST] = values[-1] if values else 0
    if not bounds["__init_scratch_begin"]:
        bounds["_end"] = max(bounds["_end"], bounds[LAST])
    low = bisect_left(values, LOWEST_KERNEL_ADDRESS)
    # kallsyms has but one letter for all that is per CPU, see make_local()
    keys = [_key(letter.replace("A", "D"), PER_CPU) << 32 for letter in letters[:low]]
    known = {letter: _key(letter) << 32 for letter in set(letters)}
    keys += map(known.__getitem__, islice(letters, low, None))
    sections = list(_sections(bounds, bias))
    table = array("Q", bytes(24 * (len(values) + 1)))
    places = accumulate((len(name) + 1 for name in names), initial=1)
    table[3::3] = array("Q", map(or_, keys, places))
    moved = ((value - bias) & MOST for value in islice(values, low, None))
    table[4::3] = array("Q", [*values[:low], *moved])
    for index, section in enumerate(sections):
        if section.size:
            table.extend([STT_SECTION << 32 | index << 48, section.address, 0])
    strings = "\0".join(["", *names, ""])
    return ElfSymbols(memoryview(table).cast("B"), strings, sections)


def _key(letter: str, section: int = 0) -> int:
    """st_info | st_shndx << 16 of which nm makes that letter."""
    if letter in "wW":
        return STB_WEAK << 4 | 1 << 16
    if letter in "vV":
        return STB_WEAK << 4 | STT_OBJECT | 3 << 16
    bind = (STB_LOCAL if letter.islower() else STB_GLOBAL) << 4
    if letter == "i":
        return bind | STT_GNU_IFUNC | 1 << 16
    return bind | (section or LETTERS.get(letter.lower(), SHN_ABS)) << 16


def _sections(bounds: dict[str, int], bias: int) -> Iterable[Section]:
    yield Section("", 0, 0, 0, True)
    for name, first, last, flags, nobits in SECTIONS:
        low, high = bounds[first], bounds[last]
        there = 0 < low <= high
        yield Section(name, low - bias if there else 0, high - low if there else 0, flags, nobits)
    yield Section(".data..percpu", 0, 0, SHF_ALLOC | SHF_WRITE, False)


class SymbolFinder:
    """Answers drgn's questions for symbols from such a table."""

    def __init__(self, table: ElfSymbols, bias: int) -> None:
        self.table = table
        self.bias = bias
        sections = sum(section.size > 0 for section in table.sections)
        self._count = len(table) - sections
        self._named: dict[str, list[int]] = {}

    def __call__(
        self,
        prog: Program | None,  # noqa: ARG002  drgn's signature
        name: str | None,
        address: int | None,
        one: bool,
    ) -> Sequence[Symbol]:
        if address is not None:
            found = self._at(address)
            if name is not None:
                found = [index for index in found if self.table.name(index) == name]
        else:
            found = list(range(1, self._count)) if name is None else self.named(name)
        if one:  # of several a global one, else a weak one, as drgn chooses
            found = sorted(found, key=lambda index: RANK[self._bind(index)])[:1]
        return [self._symbol(index) for index in found]

    def named(self, name: str) -> list[int]:
        """Indices of the symbols of that name."""
        found = self._named.get(name)
        if found is None:
            found = self._named[name] = []
            heads, strings, needle = self.table.heads, self.table.strings, f"\0{name}\0"
            at = strings.find(needle)
            while at >= 0:
                place = at + 1
                found.append(_index(heads, place, self._count))
                at = strings.find(needle, place)
        return found

    def _at(self, address: int) -> list[int]:
        if address < LOWEST_KERNEL_ADDRESS:
            return []
        values = self.table.values
        end = bisect_right(values, address - self.bias, 1, self._count)
        start = bisect_left(values, values[end - 1], 1, end)
        return list(range(start, end))

    def is_ambiguous(self, name: str) -> bool:
        """Whether several files keep a symbol of that name to themselves."""
        found = self.named(name)
        return len(found) > 1 and all(self._bind(index) == STB_LOCAL for index in found)

    def make_local(self, names: Iterable[str]) -> None:
        """Per-CPU variables that one file keeps to itself: kallsyms has one letter for all."""
        table, wanted = self.table, set(names)
        for index in range(1, bisect_left(table.values, LOWEST_KERNEL_ADDRESS, 1, self._count)):
            if table.name(index) in wanted:
                table.heads[index] &= ~(15 << 36)

    def _room(self, value: int) -> int:
        """How far it is to the next symbol."""
        values = self.table.values
        following = bisect_right(values, value, 1, self._count)
        room: int = values[following] - value if following < self._count else 0
        return room

    def _bind(self, index: int) -> int:
        return self.table.heads[index] >> 36 & 15

    def _symbol(self, index: int) -> Symbol:
        value = self.table.values[index]
        letter = self.table.letter(index)
        binding = BINDINGS[self._bind(index)]
        return Symbol(
            self.table.name(index),
            value + self.bias if value >= LOWEST_KERNEL_ADDRESS else value,
            self._room(value),
            binding,
            SymbolKind.FUNC if letter in "tTwWi" else SymbolKind.OBJECT,
        )


def _index(heads: Sequence[int], place: int, count: int) -> int:
    """The symbol whose name begins there."""
    return bisect_left(heads, place, 1, count, key=lambda head: head & 0xFFFFFFFF)
