"""The kernel's and the modules' symbols, as crash keeps them.

The kernel's come from the ELF symbol table of vmlinux, the modules' from the
copies that the kernel keeps in memory for kallsyms. Both tables stay as they are;
what is built is an order by address, and a Symbol only for what is looked at.
"""

from __future__ import annotations

import logging
import mmap
import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from drgn import FaultError, Object, Program

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.lines import Lines

log = logging.getLogger("crashpy")

# gcc's and clang's endings of the names of copies of a function (crash's strip_symbol_end()).
CLONES = (".isra.", ".part.", ".llvm.")
# The memory of a module by kind (enum mod_mem_type, Linux 6.4), and what crash calls it.
REGIONS = ("TEXT", "DATA", "RODATA", "RO_AFTER_INIT", "INIT_TEXT", "INIT_DATA", "INIT_RODATA")
INIT = 4  # the first region that is freed once the module runs


@dataclass(frozen=True, slots=True)
class Symbol:
    name: str
    address: int
    kind: str  # nm's letter: T, t, D, B, ...
    module: str | None = None  # its module's name; None in the kernel


@dataclass(frozen=True, slots=True)
class Section:
    """A section of an ELF file, as far as symbols need it."""

    name: str
    address: int
    size: int
    flags: int  # SHF_*
    nobits: bool

    @property
    def is_code(self) -> bool:
        return bool(self.flags & 4)  # SHF_EXECINSTR

    @property
    def letter(self) -> str:
        """nm's letter of a local symbol in this section (bfd's decode_section_type())."""
        if self.is_code:
            return "t"
        if self.flags & 2 and not self.nobits:  # SHF_ALLOC
            return "d" if self.flags & 1 else "r"  # SHF_WRITE
        if self.nobits:
            return "b"
        return "n" if not self.flags & 1 else "?"


class ElfSymbols:
    """The symbol table of an ELF file, mapped: nothing is copied."""

    def __init__(self, path: str) -> None:
        with Path(path).open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        data = self._map
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError(f"{path}: not a little-endian 64-bit ELF file")
        (start,) = struct.unpack_from("<Q", data, 40)
        size, number, names_index = struct.unpack_from("<HHH", data, 58)
        headers = [struct.unpack_from("<IIQQQQIIQQ", data, start + i * size) for i in range(number)]
        names_at = headers[names_index][4]
        self.sections: list[Section] = []
        table = strings = (0, 0)
        for name, kind, flags, address, offset, length, link, *_ in headers:
            end = data.find(b"\0", names_at + name)
            text = data[names_at + name : end].decode(errors="replace")
            self.sections.append(Section(text, address, length, flags, kind == 8))
            if kind == 2:  # SHT_SYMTAB
                table = offset, length // 24 * 24
                strings = headers[link][4], headers[link][5]
        self._offsets = {s.name: h[4] for s, h in zip(self.sections, headers, strict=True)}
        view = memoryview(data)
        self.table = view[table[0] : sum(table)]
        self.strings: bytes = data[strings[0] : sum(strings)]

    def section(self, name: str) -> bytes:
        """The content of the first section of a name, decompressed; empty without one."""
        for section in self.sections:
            if section.name == name and not section.nobits:
                start = self._offsets[name]
                data: bytes = self._map[start : start + section.size]
                if section.flags & 0x800:  # SHF_COMPRESSED
                    from crashpy.lines import inflated

                    return inflated(data)
                return data
        return b""


def stripped(name: str) -> str:
    """A function's name without what the compiler appended for a copy of it."""
    for ending in CLONES:
        head, found, _ = name.partition(ending)
        if found:
            return head
    return name


class KernelSymbols:
    """vmlinux's own symbols, ordered as crash orders them: by address, then by name."""

    def __init__(self, elf: ElfSymbols, bias: int) -> None:
        self._elf = elf
        self.bias = bias
        self._strings = elf.strings
        words = elf.table.cast("B").cast("Q")
        self._values = words[1::3]
        self._heads = words[0::3]  # st_name, st_info, st_other, st_shndx
        self.start = min((s.address for s in elf.sections if s.name == ".text"), default=0)
        self.end = max((s.address + s.size for s in elf.sections[1:]), default=0)
        values = self._values.tolist()
        first = self._first_value()
        heads = self._heads.tolist()
        wanted = [i for i, v in enumerate(values) if v >= first and heads[i] >> 48]
        wanted.sort(key=values.__getitem__)
        self._order = array("I", [*self._per_cpu(values, heads, first), *wanted])
        self._skip_to_text(first, len(self._order) - len(wanted))

    def _first_value(self) -> int:
        return self.start

    def _per_cpu(self, values: list[int], heads: list[int], first: int) -> list[int]:
        """The symbols below the kernel's text that count: the static per-CPU ones."""
        low = [
            (v, self.raw_name(i), i)
            for i, v in enumerate(values)
            if v < first and heads[i] >> 48 and heads[i] >> 32 & 15 != 4
        ]
        low.sort()
        found: list[int] = []
        inside = False
        for _, name, i in low:
            if name == "__per_cpu_start":
                inside = True
            elif not inside:
                continue
            if name.startswith("per_cpu") or name == "__per_cpu_end" or self.kind(i) in "VdD":
                found.append(i)
        return found

    def _skip_to_text(self, first: int, at: int) -> None:
        """Names that sort before `_stext` at the address of the text do not count."""
        self._sort_run(at)
        while at < len(self._order) and self._values[self._order[at]] == first:
            if self.raw_name(self._order[at]) in ("_text", "_stext"):
                break
            del self._order[at]

    def _sort_run(self, at: int) -> int:
        """Put the symbols of one address in the order of their names; the end of the run."""
        order, values = self._order, self._values
        value = values[order[at]]
        end = at + 1
        while end < len(order) and values[order[end]] == value:
            end += 1
        if end > at + 1:
            order[at:end] = array("I", sorted(order[at:end], key=self.raw_name))
        return end

    def __len__(self) -> int:
        return len(self._order)

    def raw_name(self, index: int) -> str:
        start = self._heads[index] & 0xFFFFFFFF
        if not start and self._heads[index] >> 32 & 15 == 3:
            return self._elf.sections[self._heads[index] >> 48].name
        return self._strings[start : self._strings.index(0, start)].decode(errors="replace")

    def kind(self, index: int) -> str:
        """nm's letter (bfd_decode_symclass())."""
        head = self._heads[index]
        section, info = head >> 48, head >> 32 & 0xFF
        bind, kind = info >> 4, info & 15
        if section == 0xFFF2:
            return "C"
        if section == 0:
            return ("v" if kind == 1 else "w") if bind == 2 else "U"
        if kind == 10:
            return "i"
        if bind == 2:
            return "V" if kind == 1 else "W"
        if bind == 10:
            return "u"
        if section >= len(self._elf.sections):
            letter = "a"
        else:
            letter = self._elf.sections[section].letter
        return letter if bind == 0 else letter.upper()

    def relocated(self, value: int) -> int:
        """Symbols outside of all sections are offsets or absolute: they stay."""
        return value + self.bias if self.start <= value <= self.end else value

    def symbol(self, position: int) -> Symbol:
        index = self._order[position]
        return Symbol(
            stripped(self.raw_name(index)),
            self.relocated(self._values[index]),
            self.kind(index),
        )

    def __iter__(self) -> Iterator[Symbol]:
        at = 0
        while at < len(self._order):
            end = self._sort_run(at)
            for position in range(at, end):
                yield self.symbol(position)
            at = end

    def address(self, position: int) -> int:
        return self.relocated(self._values[self._order[position]])

    def floor(self, address: int) -> int | None:
        """The position of the first symbol at the address, else of the last one below it."""
        position = bisect_left(range(len(self._order)), address, key=self.address)
        if position < len(self._order) and self.address(position) == address:
            self._sort_run(position)
            return position
        if not position:
            return None
        value = self.address(position - 1)
        self._sort_run(bisect_left(range(position), value, key=self.address))
        return position - 1

    @cached_property
    def _by_name(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for position, symbol in enumerate(self):
            found.setdefault(symbol.name, []).append(position)
        return found

    def named(self, name: str) -> list[int]:
        """Positions of all symbols of a name, in order."""
        return self._by_name.get(name, [])


@dataclass(eq=False)
class LoadedModule:
    """A module of the dump and the symbols that lie in it."""

    name: str
    address: int  # struct module *
    regions: dict[str, tuple[int, int]]  # "TEXT" or, up to 6.3, "" and "INIT": base, size in bytes
    per_cpu: int  # void * in the static per-CPU space, 0 for none
    symbols: dict[str, list[Symbol]] = field(default_factory=dict)

    @property
    def base(self) -> int:
        return next(iter(self.regions.values()))[0]

    def region(self, address: int) -> str | None:
        for name, (base, size) in self.regions.items():
            if size and base <= address < base + size:
                return name
        return None


class SymbolTable:
    def __init__(self, dump: Dump) -> None:
        self._dump = dump
        self._prog: Program = dump.prog

    @cached_property
    def kernel(self) -> KernelSymbols:
        module = self._prog.main_module()
        path, bias = module.loaded_file_path, module.loaded_file_bias
        if module.debug_file_path:
            path, bias = module.debug_file_path, module.debug_file_bias
        if path is None:
            raise LookupError("no symbol table of the kernel")
        return KernelSymbols(ElfSymbols(path), bias or 0)

    @cached_property
    def modules(self) -> list[LoadedModule]:
        """The modules of the dump by address."""
        try:
            head = self._prog["modules"].address_of_()
        except KeyError:
            return []
        found: list[LoadedModule] = []
        kind = self._prog.type("struct module")
        from drgn.helpers.linux.list import list_for_each_entry

        for module in list_for_each_entry(kind, head, "list"):
            try:
                found.append(self._module(module.read_()))
            except (FaultError, ValueError) as error:
                log.warning("module %x: %s", module.value_(), error)
            if len(found) > 4096:
                break
        return sorted(found, key=lambda m: m.base)

    def _module(self, module: Object) -> LoadedModule:
        address = module.value_()
        module = module[0].read_()
        name = module.name.string_().decode(errors="replace")
        regions: dict[str, tuple[int, int]] = {}
        try:
            for i, memory in enumerate(module.mem):
                regions[REGIONS[i]] = memory.base.value_(), memory.size.value_()
        except AttributeError:
            core, init = module.core_layout, module.init_layout
            regions[""] = core.base.value_(), core.size.value_()
            regions["INIT"] = init.base.value_(), init.size.value_()
        found = LoadedModule(name, address, regions, module.percpu.value_())
        self._read_symbols(found, module)
        return found

    def _read_symbols(self, found: LoadedModule, module: Object) -> None:
        try:
            table = module.core_kallsyms
        except AttributeError:
            table = module
        prog = self._prog
        number = table.num_symtab.value_()
        symtab = prog.read(table.symtab.value_(), 24 * number)
        strtab_at = table.strtab.value_()
        region = found.region(strtab_at)
        if region is None:
            return
        base, size = found.regions[region]
        strtab = prog.read(strtab_at, base + size - strtab_at)
        lists: dict[str, list[tuple[int, int, Symbol]]] = {r: [] for r in found.regions}
        for start, info, _, section, value, _ in struct.iter_unpack("<IBBHQQ", symtab[24:]):
            region = found.region(value)
            if region is None or not section or start >= len(strtab):
                continue
            name = strtab[start : strtab.find(b"\0", start)].decode(errors="replace")
            if not name:
                continue
            if 32 <= info < 127:
                letter = chr(info)
            else:
                letter = {2: "t", 0x12: "T"}.get(info, "?")
            symbol = Symbol(stripped(name), value, letter, found.name)
            lists[region].append((value, len(lists[region]), symbol))
        for region, entries in lists.items():
            entries.sort(key=lambda e: e[:2])
            found.symbols[region] = [s for _, _, s in entries]

    def __iter__(self) -> Iterator[Symbol]:
        """Every symbol, by address."""
        yield from self.kernel
        for module in self.modules:
            for symbols in module.symbols.values():
                yield from symbols

    def named(self, name: str) -> Symbol | None:
        """The first symbol of that name (crash's symbol_search())."""
        return next(iter(self.all_named(name)), None)

    def all_named(self, name: str) -> list[Symbol]:
        found = [self.kernel.symbol(p) for p in self.kernel.named(name)]
        found += (
            s for m in self.modules for symbols in m.symbols.values() for s in symbols
            if s.name == name
        )  # fmt: skip
        return found

    def module_of(self, address: int) -> LoadedModule | None:
        for module in self.modules:
            if module.region(address) is not None:
                return module
        return None

    def at(self, address: int) -> tuple[Symbol, int] | None:
        """The symbol an address lies in and the offset into it (crash's value_search())."""
        kernel = self.kernel
        if not len(kernel):
            return None
        if address <= kernel.address(len(kernel) - 1):
            if address < kernel.start + kernel.bias:
                return None
            position = kernel.floor(address)
            if position is None:
                return None
            symbol = kernel.symbol(position)
            return symbol, address - symbol.address
        module = self.module_of(address)
        if module is None:
            return None
        region = module.region(address)
        assert region is not None
        symbols = module.symbols.get(region, [])
        position = bisect_right(symbols, address, key=lambda s: s.address) - 1
        if position < 0:
            return None
        symbol = symbols[position]
        while position and symbols[position - 1].address == address:
            position -= 1
            symbol = symbols[position]
        return symbol, address - symbol.address

    def is_text(self, address: int) -> bool:
        """Whether it is an address of kernel or module code (crash's is_kernel_text())."""
        value = address - self.kernel.bias
        if any(s.is_code and s.address <= value < s.address + s.size for s in self._code):
            return True
        found = self.at(address)
        if found is not None and found[0].kind in "Tt":
            return True
        module = self.module_of(address)
        return module is not None and module.region(address) in ("TEXT", "INIT_TEXT", "")

    @cached_property
    def _code(self) -> Sequence[Section]:
        return [s for s in self.kernel._elf.sections if s.is_code]

    def format(self, address: int) -> str:
        """``name`` or ``name+offset`` (crash's value_to_symstr()); empty for no symbol."""
        found = self.at(address)
        if found is None:
            return ""
        symbol, offset = found
        return f"{symbol.name}+{offset}" if offset else symbol.name

    def line(self, address: int) -> str | None:
        """``FILE: LINE`` of a text address as crash's `sym`, `bt -l`, `dis -l` show it."""
        return self._lines.at(address)

    @cached_property
    def _lines(self) -> Lines:
        from crashpy.lines import Lines

        return Lines(self.kernel._elf, self.kernel.bias)
