"""The modules of a dump and their symbols, from the kernel's memory and from their files."""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

from drgn import FaultError, Object, Program, offsetof

from crashpy.elf import STT_FILE, ElfSymbols
from crashpy.symbols import CLONES, Symbol, stripped

# What crash calls the kinds of a module's memory (enum mod_mem_type, Linux 6.4).
KINDS = ("TEXT", "DATA", "RODATA", "RO_AFTER_INIT", "INIT_TEXT", "INIT_DATA", "INIT_RODATA")
TEXT, INIT_TEXT = 0, 4
PER_CPU_SECTIONS = (".data..percpu", ".data.percpu")
MOST_MEMORY = 1 << 28  # bytes of one region of a module
MOST_MODULES = 4096
MOST = 1 << 20  # symbols of one module, against garbage in its struct


@dataclass(frozen=True, slots=True)
class Region:
    """A piece of a module's memory. Up to Linux 6.3 there are two, TEXT and INIT_TEXT."""

    kind: int  # index into KINDS
    base: int
    size: int  # bytes

    @property
    def end(self) -> int:
        return self.base + self.size


@dataclass(frozen=True, slots=True)
class Span:
    """The symbols of one region: `first` and `last` are crash's markers of its ends."""

    kind: int
    symbols: Sequence[Symbol]
    first: int
    last: int

    def __iter__(self) -> Iterator[Symbol]:
        return (self.symbols[i] for i in range(self.first, self.last + 1))

    def inner(self) -> Iterator[Symbol]:
        """Without the last one, where crash's loops stop."""
        return (self.symbols[i] for i in range(self.first, self.last))


@dataclass(frozen=True, slots=True)
class LoadedSection:
    name: str
    address: int
    size: int
    is_code: bool


@dataclass(eq=False)
class Module:
    """One module. Its symbols are read when they are first asked for."""

    prog: Program
    name: str
    address: int  # struct module *
    regions: tuple[Region, ...]  # those with a size, by kind
    by_kind: bool  # memory by kind (Linux 6.4), otherwise one core and one init area
    per_cpu: int  # void * into the static per-CPU space, 0 for none
    text_size: int  # bytes of the core area that are code, where there is only one
    strip: bool = True  # cut the endings of the names of copies of functions
    per_cpu_size: int = 0  # bytes; known once a file is loaded
    file: str = ""  # that its symbols and debugging information were loaded from
    sections: tuple[LoadedSection, ...] = ()  # of that file
    text_start: int = 0  # of that file's .text
    elf: ElfSymbols | None = None  # that file
    _loaded: tuple[Span, ...] | None = field(default=None, repr=False)
    _by_name: dict[str, list[Symbol]] | None = field(default=None, repr=False)
    _read: dict[int, bytes] = field(default_factory=dict, repr=False)

    @property
    def base(self) -> int:
        return self.regions[0].base if self.regions else 0

    @property
    def size(self) -> int:
        """Bytes, without the memory that is freed after initialisation."""
        return sum(r.size for r in self.regions if r.kind < INIT_TEXT)

    def region(self, address: int) -> Region | None:
        for region in self.regions:
            if region.base <= address < region.base + region.size:
                return region
        return None

    def holds(self, address: int) -> bool:
        return self.region(address) is not None or self.in_per_cpu(address)

    def in_per_cpu(self, address: int) -> bool:
        return self.per_cpu <= address < self.per_cpu + self.per_cpu_size

    def is_text(self, address: int) -> bool:
        """Code as far as crash knows: the file's sections tell, else the region does."""
        region = self.region(address)
        if region is None:
            return False
        if self._loaded is not None:
            return any(
                s.is_code and s.address <= address < s.address + s.size for s in self.sections
            )
        if self.by_kind:
            return region.kind in (TEXT, INIT_TEXT)
        return region.kind == INIT_TEXT or address < self.base + self.text_size

    @property
    def spans(self) -> tuple[Span, ...]:
        return self._exported if self._loaded is None else self._loaded

    @property
    def symbols(self) -> Sequence[Symbol]:
        """All of them by address, with crash's markers."""
        spans = self.spans
        if self._loaded is not None and spans:
            return spans[0].symbols
        return [symbol for span in spans for symbol in span]

    # From the kernel's memory

    def _memory(self, region: Region) -> bytes:
        """A whole region, kept; empty when it cannot be read."""
        if region.kind not in self._read:
            self._read[region.kind] = b""
            if region.size > MOST_MEMORY:  # garbage
                return b""
            with suppress(FaultError, ValueError):
                self._read[region.kind] = self.prog.read(region.base, region.size)
        return self._read[region.kind]

    def _bytes(self, address: int) -> bytes:
        """Memory from an address to the end of its region; empty where it cannot be read."""
        region = self.region(address)
        return b"" if region is None else self._memory(region)[address - region.base :]

    @cached_property
    def struct(self) -> Object:
        """``struct module``, read"""
        return Object(self.prog, "struct module", address=self.address).read_()

    @cached_property
    def _kallsyms(self) -> tuple[bytes, bytes]:
        """The ELF symbol table that the kernel kept of the module, and its strings."""
        try:
            module = self.struct
            try:
                table = module.core_kallsyms
            except AttributeError:
                table = module
            number = min(table.num_symtab.value_(), MOST)
            symbols = self._bytes(table.symtab.value_())[: 24 * number]
            return symbols[: len(symbols) // 24 * 24], self._bytes(table.strtab.value_())
        except (AttributeError, FaultError):
            return b"", b""

    @property
    def has_kallsyms(self) -> bool:
        return all(self._kallsyms)

    def may_hold(self, text: bytes) -> bool:
        """Whether a symbol's name may contain this: cheap, and sure when it says no."""
        if self._loaded is not None or not self.has_kallsyms:
            return True
        return text in self._kallsyms[1]

    def named(self, name: str) -> list[Symbol]:
        """All symbols of a name, markers as well, by address."""
        if self._loaded is None:
            if "_MODULE_" not in name and not self.may_hold(name.encode("latin-1", "replace")):
                return []
            return [s for s in self.symbols if s.name == name]
        if self._by_name is None:
            self._by_name = {}
            for symbol in self.symbols:
                self._by_name.setdefault(symbol.name, []).append(symbol)
        return self._by_name.get(name, [])

    def _shown(self, name: str) -> str:
        return stripped(name) if self.strip else name

    def _marker(self, region: Region, end: str) -> str:
        if self.by_kind:
            return f"_MODULE_{KINDS[region.kind]}_{end}_{self.name}"
        return f"_MODULE_{'INIT_' if region.kind == INIT_TEXT else ''}{end}_{self.name}"

    def _exports(self) -> Iterator[tuple[int, str]]:
        """Address and name of what the module exports (struct kernel_symbol)."""
        kind = self.prog.type("struct kernel_symbol")
        size = kind.size or 0
        members = {m.name for m in kind.members or ()}
        relative = "value_offset" in members
        module = self.struct
        try:
            tables = [
                (module.syms, module.num_syms),
                (module.gpl_syms, module.num_gpl_syms),
            ]
        except AttributeError:
            tables = [(module.syms, module.num_syms)]
        for pointer, number in tables:
            start = pointer.value_()
            data = self._bytes(start)[: size * min(number.value_(), MOST)]
            for at in range(0, len(data) // size * size, size):
                if relative:  # 32-bit distances from themselves
                    value, name_at = struct.unpack_from("<ii", data, at)
                    value += start + at
                    name_at += start + at + 4
                else:
                    value, name_at = struct.unpack_from("<QQ", data, at)
                name = self._bytes(name_at)[:512].partition(b"\0")[0].decode("latin-1")
                if name:
                    yield value & 0xFFFFFFFFFFFFFFFF, self._shown(name)

    @cached_property
    def _exported(self) -> tuple[Span, ...]:
        """What crash has of a module without its file (store_module_symbols_6_4() and _v2())."""
        name, regions = self.name, self.regions
        found = [Symbol(self._marker(r, "START"), r.base, "m", name) for r in regions]
        at: dict[tuple[int, str], int] = {}
        try:
            for address, symbol in self._exports():
                at.setdefault((address, symbol), len(found))
                found.append(Symbol(symbol, address, "?", name))
        except (LookupError, AttributeError, FaultError):
            pass
        found += self._from_kallsyms(found, at)
        for r in regions:
            end = r.end - 1 if self.by_kind else r.end
            found.append(Symbol(self._marker(r, "END"), end, "m", name))
        text_start = found[0] if found else None
        found.sort(key=lambda s: (s.address, s is not text_start))
        return _spans(found, [(r.kind, self._marker(r, "START"), self._marker(r, "END"))
                              for r in regions])  # fmt: skip

    def _from_kallsyms(
        self, exported: list[Symbol], at: dict[tuple[int, str], int]
    ) -> Iterator[Symbol]:
        """Symbols of the kernel's own table that are not among the exported ones."""
        symtab, strtab = self._kallsyms
        text = strtab.decode("latin-1")
        bounds = [(r.base, r.base + r.size) for r in self.regions]
        module = self.name
        clones = self.strip and any(ending in text for ending in CLONES)
        for start, info, _, section, value, _ in struct.iter_unpack("<IBBHQQ", symtab[24:]):
            for low, high in bounds:
                if low <= value < high:
                    break
            else:
                continue
            if not section or start >= len(text):
                continue
            end = text.find("\0", start)
            name = text[start:end]
            if not name:
                continue
            if clones:
                name = stripped(name)
            if 32 <= info < 127:  # crash takes ELF's st_info for the letter of old kernels
                letter = chr(info)
            else:
                letter = "t" if info == 2 else "T" if info == 0x12 else "?"
            known = at.get((value, name)) if at else None
            if known is None:
                yield Symbol(name, value, letter, module)
            else:
                exported[known] = Symbol(name, value, letter, module)

    # From its file

    def load(self, file: str, elf: ElfSymbols, *, sections: bool = False) -> None:
        """Take the symbols of the module's file; with `sections` marks of its sections too.

        Where a section was loaded follows from the first symbol that both the file
        and the kernel's table name (crash's calculate_load_order_6_4()).
        """
        order = _by_value(elf)
        first: dict[str, int] = {}
        for index in order:
            first.setdefault(elf.name(index), index)
        found = self._locate(elf, first)
        names = {n: i for i, n in reversed(list(enumerate(s.name for s in elf.sections)))}
        at = {names[name]: address for name, address in found.items() if name in names}
        symbols = list(self._from_file(elf, order, at, names))
        known = {s.name for s in symbols}
        for span in self._exported if self.by_kind else self._exported[:1]:
            for symbol in span:
                if symbol.name not in known:
                    known.add(symbol.name)
                    symbols.append(symbol)
        self.sections = tuple(
            LoadedSection(s.name, found[s.name], s.size, s.is_code)
            for i, s in enumerate(elf.sections)
            if names.get(s.name) == i and s.name in found
        )
        if sections:
            for section in self.sections:
                for end, where in (("START", 0), ("END", section.size)):
                    name = f"_MODULE_SECTION_{end} [{section.name}]"
                    symbols.append(Symbol(name, section.address + where, "S", self.name))
            symbols = _merge_sorted(symbols, _compare)
        else:
            text_start = self._marker(self.regions[0], "START") if self.regions else ""
            symbols.sort(key=lambda s: (s.address, s.name != text_start))
        self.file, self.elf, self._by_name = file, elf, None
        self.text_start = found.get(".text", 0)
        if self.by_kind:
            self._loaded = _spans(
                symbols,
                [(r.kind, self._marker(r, "START"), self._marker(r, "END")) for r in self.regions],
            )
        else:
            self._loaded = (Span(TEXT, symbols, 0, len(symbols) - 1), *self._exported[1:])

    def unload(self) -> None:
        self._loaded = self._by_name = None
        self.file, self.elf = "", None
        self.sections = ()
        self.per_cpu_size = self.text_start = 0

    def _locate(self, elf: ElfSymbols, first: dict[str, int]) -> dict[str, int]:
        """Section name -> address, of those sections that crash finds."""
        found: dict[str, int] = {}
        sizes = {s.name: s.size for s in reversed(elf.sections)}
        if self.per_cpu:
            for name in PER_CPU_SECTIONS:
                if name in sizes:
                    found[name] = self.per_cpu
                    self.per_cpu_size = sizes[name]
        extents = [(a, a + sizes[n]) for n, a in found.items()] if self.by_kind else []
        for span in self._exported if self.by_kind else self._exported[:1]:
            for symbol in span.inner():
                address = symbol.address
                if symbol.is_marker or any(low <= address < high for low, high in extents):
                    continue
                index = first.get(symbol.name)
                if index is None:
                    continue
                section = elf.heads[index] >> 48
                if not 0 < section < len(elf.sections):
                    continue
                name = elf.sections[section].name
                if name in found:
                    continue
                start = found[name] = address - elf.values[index]
                extents.append((start, start + sizes[name]))
        return found

    def _from_file(
        self, elf: ElfSymbols, order: Iterable[int], at: dict[int, int], names: dict[str, int]
    ) -> Iterator[Symbol]:
        """The file's symbols that lie in the sections which were found."""
        unused: list[dict[str, list[Symbol]]] = []
        for span in self._exported if self.by_kind else self._exported[:1]:
            by_name: dict[str, list[Symbol]] = {}
            for symbol in reversed(list(span)):
                by_name.setdefault(symbol.name, []).append(symbol)
            unused.append(by_name)
        for index in order:
            section = elf.heads[index] >> 48
            if not 0 < section < len(elf.sections):
                continue
            section = names[elf.sections[section].name]
            name = elf.name(index)
            if section not in at or not name or name[0] == ".":
                continue
            same = None
            for by_name in unused:
                if candidates := by_name.get(name):
                    same = candidates.pop()
            address = same.address if same is not None else elf.values[index] + at[section]
            yield Symbol(self._shown(name), address, elf.letter(index), self.name)


def modules_of(prog: Program, *, strip: bool = True) -> tuple[list[Module], str | None]:
    """The modules of a dump by address; why there may be more, where the list breaks off."""
    try:
        head = prog["modules"].address_of_().value_()
        kind = prog.type("struct module")
    except LookupError:
        return [], None
    found: list[Module] = []
    broken = None
    seen: set[int] = set()
    try:
        offset = offsetof(kind, "list")
        at = prog.read_u64(head)
        while at != head:
            if at in seen or len(seen) > MOST_MODULES:
                broken = f"the list of modules runs in a circle at {at:x}"
                break
            if at < offset:
                raise FaultError("no module can be there", at)
            seen.add(at)
            module = Object(prog, kind, address=at - offset).read_()
            found.append(_module(prog, at - offset, module, strip))
            at = module.list.next.value_()
    except (FaultError, ValueError, AttributeError, LookupError) as error:
        broken = f"the list of modules: {error}"
    return sorted(found, key=lambda m: m.base), broken


def _module(prog: Program, address: int, module: Object, strip: bool) -> Module:
    name = module.name.string_().decode("latin-1")
    text_size = 0
    try:
        pieces = [(m.base.value_(), m.size.value_()) for m in module.mem]
        by_kind = True
    except AttributeError:
        by_kind = False
        pieces = [(0, 0)] * (INIT_TEXT + 1)
        try:
            core, init = module.core_layout, module.init_layout
            pieces[TEXT] = core.base.value_(), core.size.value_()
            pieces[INIT_TEXT] = init.base.value_(), init.size.value_()
            text_size = core.text_size.value_()
        except AttributeError:  # up to Linux 4.4
            pieces[TEXT] = module.module_core.value_(), module.core_size.value_()
            pieces[INIT_TEXT] = module.module_init.value_(), module.init_size.value_()
            text_size = module.core_text_size.value_()
    regions = tuple(
        Region(kind, base, size) for kind, (base, size) in enumerate(pieces[: len(KINDS)]) if size
    )
    try:
        per_cpu = module.percpu.value_()
    except AttributeError:
        per_cpu = 0
    found = Module(prog, name, address, regions, by_kind, per_cpu, text_size, strip)
    found.__dict__["struct"] = module
    return found


def _spans(symbols: list[Symbol], markers: list[tuple[int, str, str]]) -> tuple[Span, ...]:
    """The stretch between each pair of markers."""
    places = {s.name: i for i, s in enumerate(symbols) if s.is_marker}
    return tuple(
        Span(kind, symbols, places[start], places[end])
        for kind, start, end in markers
        if start in places and end in places
    )


def _by_value(elf: ElfSymbols) -> list[int]:
    """All symbols of a relocatable file but the first: undefined ones, then by value and name."""
    defined = [
        i for i in range(1, len(elf)) if elf.heads[i] >> 48 and elf.heads[i] >> 32 & 15 != STT_FILE
    ]
    return sorted(defined, key=lambda i: (elf.values[i], elf.name(i)))


def _compare(one: Symbol, two: Symbol) -> int:
    """crash's compare_syms(): how markers of sections go among the others at one address."""
    if one.address != two.address:
        return -1 if one.address < two.address else 1
    if two.name.startswith(("_MODULE_TEXT_START_", "_MODULE_START_")):
        return 1
    start, end = "_MODULE_SECTION_START ", "_MODULE_SECTION_END "
    if one.name.startswith(end):
        if not two.is_marker or two.name.startswith("_MODULE_END_"):
            return -1
        same = one.name.removeprefix(end) == two.name.removeprefix(start)
        return -1 if two.name.startswith(start) and not same else 1
    if two.name.startswith(end):
        if one.name.startswith("_MODULE_END_") or not one.is_marker:
            return 1
        same = one.name.removeprefix(start) == two.name.removeprefix(end)
        return 1 if one.name.startswith(start) and same else -1
    if two.name.startswith(start):
        return -1 if one.name.startswith("_MODULE_START_") else 1
    return 0


def _merge_sorted(symbols: list[Symbol], compare: Callable[[Symbol, Symbol], int]) -> list[Symbol]:
    """Sorted by halves as glibc's qsort() does, which matters as `_compare` is no order."""
    if len(symbols) < 2:
        return symbols
    half = len(symbols) // 2
    left = _merge_sorted(symbols[:half], compare)
    right = _merge_sorted(symbols[half:], compare)
    found: list[Symbol] = []
    i = j = 0
    while i < len(left) and j < len(right):
        if compare(left[i], right[j]) <= 0:
            found.append(left[i])
            i += 1
        else:
            found.append(right[j])
            j += 1
    return found + left[i:] + right[j:]


def search(module: Module, address: int) -> tuple[Symbol, int] | None:
    """The symbol of the module that an address lies in (crash's value_search_module())."""
    for span in module.spans:
        symbols = span.symbols
        if not symbols[span.first].address <= address <= symbols[span.last].address:
            continue
        at = bisect_left(symbols, address, span.first, span.last + 1, key=lambda s: s.address)
        while at <= span.last and symbols[at].address == address:
            symbol = symbols[at]
            if symbol.is_marker:
                if symbol.is_end:
                    break
                if at < span.last and symbols[at + 1].is_marker:
                    at += 1
                    continue
                at += _same_next(symbols, at, span.last)
            if symbols[at].name.startswith("."):
                at += _same_next(symbols, at, span.last)
            return symbols[at], 0
        if at > span.last or symbols[at].address == address:
            continue
        below = at - 1
        while below > span.first and symbols[below].is_marker:
            below -= 1
        if symbols[below].is_marker:
            below = at - 1
        return symbols[below], address - symbols[below].address
    return None


def _same_next(symbols: Sequence[Symbol], at: int, last: int) -> bool:
    return at < last and symbols[at + 1].address == symbols[at].address
