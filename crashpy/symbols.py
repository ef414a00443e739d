"""The kernel's and the modules' symbols, as crash keeps them.

The kernel's come from the ELF symbol table of vmlinux, the modules' from the
copies that the kernel keeps in memory for kallsyms. Both tables stay as they are;
what is built is an order by address, and a Symbol only for what is looked at.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property, partial
from itertools import pairwise, repeat
from typing import TYPE_CHECKING, Any, NamedTuple

from drgn import Program, RelocatableModule

from crashpy.command import Address
from crashpy.elf import EM_X86_64, STT_FILE, STT_FUNC, ElfSymbols

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.lines import Lines, SourceFile
    from crashpy.modules import Module

# gcc's and clang's endings of the names of copies of a function (crash's strip_symbol_end()).
CLONES = (".isra.", ".part.", ".llvm.")

FIRST = ("_text", "_stext")  # where the kernel's symbols begin
CHUNK = 4096  # symbols that a listing prepares at once
# Names of markers that crash takes for symbols when they are asked for: those up to Linux 6.3.
MARKERS = ("_MODULE_START_", "_MODULE_END_", "_MODULE_INIT_START_", "_MODULE_INIT_END_")


class Symbol(NamedTuple):
    """One symbol. A tuple, as there are 200000 of them in a listing."""

    name: str
    address: int
    kind: str  # nm's letter: T, t, D, B, ...
    module: str | None = None  # its module's name; None in the kernel

    @property
    def is_marker(self) -> bool:
        """Not a symbol of the module but the end of one of its pieces, added by crash."""
        return self.name.startswith("_MODULE_")

    @property
    def is_end(self) -> bool:
        """A marker of the end of a module's memory."""
        return "_END_" in self.name and not self.name.startswith("_MODULE_SECTION_")

    def __json__(self) -> dict[str, Any]:
        address = Address(self.address)
        return {"name": self.name, "address": address, "kind": self.kind, "module": self.module}


def stripped(name: str) -> str:
    """A function's name without what the compiler appended for a copy of it."""
    for ending in CLONES:
        if ending in name:
            return name.partition(ending)[0]
    return name


class KernelSymbols:
    """vmlinux's own symbols in crash's order, by address, then by name.

    A symbol is a position in this order. Sorting names costs more than sorting
    addresses, so those at one address are put in order when they are looked at.
    """

    def __init__(self, elf: ElfSymbols, bias: int, *, strip: bool = True) -> None:
        self.elf = elf
        self._shown: Callable[[str], str] = stripped if strip else str
        self.bias = bias
        self._values = elf.values
        values = elf.values.tolist()
        order = sorted(range(len(values)), key=values.__getitem__)
        if elf.machine == EM_X86_64:
            # Only what is in a section moves with KASLR; the rest are absolute values.
            self.start = next((s.address for s in elf.sections if s.name == ".text"), 0)
            text = [i for i, s in enumerate(elf.sections) if s.name == ".text"][:1]
            moved = elf.sections[text[0] :] if text else ()
            self.end = max((s.address + s.size for s in moved), default=0)
        else:
            names = [elf.name(i) for i in range(len(values))]
            first = [v for v, name in zip(values, names, strict=True) if name in FIRST]
            self.start, self.end = min(first, default=0), (1 << 64) - 1
            order = [i for i in order if not names[i].startswith("$")]  # what ARM's ABI maps
        cut = bisect_left(order, self.start, key=values.__getitem__)
        low = self._static_per_cpu(order[:cut])
        self._order = array("I", low)
        self._order.extend(order[cut:])
        self._low = frozenset(low)
        self._first = self._skip_to_text(len(low))
        self._named: dict[str, list[Symbol]] = {}
        self._lookups = 0
        self._sorted = False

    def _static_per_cpu(self, indexes: list[int]) -> list[int]:
        """Of the symbols below the text those that count (x86_64_verify_symbol())."""
        elf = self.elf
        heads = elf.heads
        low = [
            (self._values[i], elf.name(i), i)
            for i in indexes
            if heads[i] >> 48 and heads[i] >> 32 & 15 != STT_FILE
        ]
        low.sort()
        found: list[int] = []
        inside = False
        for _, name, i in low:
            inside = inside or name == "__per_cpu_start"
            if inside and (
                name == "__per_cpu_start"
                or name == "__per_cpu_end"
                or name.startswith("per_cpu")
                or elf.letter(i) in "VdD"
            ):
                found.append(i)
        return found

    def _skip_to_text(self, at: int) -> tuple[int, str]:
        """Names that sort before `_stext` at the address of the text do not count.

        Address and name of the first symbol that does.
        """
        if at == len(self._order):
            return 0, ""
        end = self._sort_run(at)
        names = [self.elf.name(i) for i in self._order[at:end]]
        skipped = next((n for n, name in enumerate(names) if name in FIRST), 0)
        del self._order[at : at + skipped]
        return self._values[self._order[at]], names[skipped]

    def _sort_run(self, at: int) -> int:
        """Put the symbols of one address in the order of their names; the end of the run.

        `at` is the run's first position.
        """
        order, values = self._order, self._values
        value = values[order[at]]
        end = at + 1
        while end < len(order) and values[order[end]] == value:
            end += 1
        if end > at + 1:
            order[at:end] = array("I", sorted(order[at:end], key=self.elf.name))
        return end

    def _sort_all(self) -> None:
        if self._sorted:
            return
        values = list(map(self._values.__getitem__, self._order))
        at = 0
        for here, (one, two) in enumerate(pairwise(values)):
            if one == two and here >= at:
                at = self._sort_run(here)
        self._sorted = True

    def __len__(self) -> int:
        return len(self._order)

    def symbol(self, position: int) -> Symbol:
        index = self._order[position]
        name, value = self.elf.name(index), self._values[index]
        if "." in name:
            name = self._shown(name)
        if self.start <= value <= self.end:
            value += self.bias
        return Symbol(name, value, self.elf.letter(index))

    def name(self, position: int) -> str:
        return self._shown(self.elf.name(self._order[position]))

    def __iter__(self) -> Iterator[Symbol]:
        self._sort_all()
        elf, shown = self.elf, self._shown
        start, end, bias = self.start, self.end, self.bias
        strings, stop = elf.strings, elf.strings.index
        new = partial(tuple.__new__, Symbol)  # without the call of Symbol's own __new__()
        for at in range(0, len(self._order), CHUNK):
            indexes = self._order[at : at + CHUNK].tolist()
            heads = list(map(elf.heads.__getitem__, indexes))
            starts = [head & 0xFFFFFFFF for head in heads]
            names = [strings[s : stop("\0", s)] if s else "" for s in starts]
            names = [
                shown(name) if "." in name else name or elf.name(index)
                for name, index in zip(names, indexes, strict=True)
            ]
            values = map(elf.values.__getitem__, indexes)
            addresses = [v + bias if start <= v <= end else v for v in values]
            kinds = map(elf.letter_of, [head >> 32 for head in heads])
            yield from map(new, zip(names, addresses, kinds, repeat(None), strict=False))

    def address(self, position: int) -> int:
        value = self._values[self._order[position]]
        return value + self.bias if self.start <= value <= self.end else value

    @cached_property
    def last(self) -> int:
        """The highest address that counts as the kernel's (crash's in_ksymbol_range())."""
        position = len(self) - 1
        while position > 0 and "xen_elfnote" in self.name(position):
            position -= 1
        return self.address(position) if position >= 0 else 0

    def floor(self, address: int) -> int | None:
        """The position of the first symbol at the address, else of the last one below it."""
        value = address - self.bias
        if not self.start <= value <= self.end:
            return self._slow_floor(address)
        order, values = self._order, self._values
        position = bisect_right(order, value, key=values.__getitem__) - 1
        if position < 0:
            return None
        below = values[order[position]]
        if position and values[order[position - 1]] == below:
            first = bisect_left(order, below, hi=position, key=values.__getitem__)
            self._sort_run(first)
            return first if below == value else position
        return position

    def _slow_floor(self, address: int) -> int | None:
        """The same among symbols that do not move."""
        places = range(len(self._order))
        position = bisect_left(places, address, key=self.address)
        if position < len(places) and self.address(position) == address:
            self._sort_run(position)
            return position
        if not position:
            return None
        below = self.address(position - 1)
        self._sort_run(bisect_left(places, below, hi=position, key=self.address))
        return position - 1

    def run(self, address: int) -> range:
        """The positions of all symbols at an address, in order."""
        places = range(len(self._order))
        first = bisect_left(places, address, key=self.address)
        if first == len(places) or self.address(first) != address:
            return range(0)
        return range(first, self._sort_run(first))

    # By name. ELF's names end in NUL and may begin inside of others: `is_name` has a 1
    # where one begins, so that searches run over the strings, not over the symbols.

    @cached_property
    def _starts(self) -> array[int]:
        return array("I", self.elf.table.cast("I")[0::6].tolist())

    @cached_property
    def _is_name(self) -> bytearray:
        found = bytearray(len(self.elf.strings) + 1)
        for start in self._starts:
            found[start] = 1
        return found

    @cached_property
    def _clones(self) -> dict[str, list[int]]:
        """Names that are shown without their ending: shown name -> where they begin."""
        found: dict[str, list[int]] = {}
        if self._shown is not stripped:
            return found
        strings = self.elf.strings
        seen = set()
        for match in re.finditer("|".join(map(re.escape, CLONES)), strings):
            begin, end = strings.rfind("\0", 0, match.start()) + 1, strings.index("\0", match.end())
            if begin in seen:
                continue
            seen.add(begin)
            for start in range(begin, match.start() + 1):
                if self._is_name[start]:
                    found.setdefault(self._shown(strings[start:end]), []).append(start)
        return found

    @cached_property
    def _by_start(self) -> array[int]:
        """The symbols in the order of where their names begin."""
        starts = self._starts
        return array("I", sorted(range(len(starts)), key=starts.__getitem__))

    def _indexes(self, starts: Sequence[int]) -> Iterator[int]:
        """The symbols whose names begin there."""
        if len(starts) > 4:
            wanted = set(starts)
            yield from (i for i, start in enumerate(self._starts) if start in wanted)
            return
        self._lookups += len(starts)
        for start in starts:
            if self._lookups > 16:  # sorting pays
                by_start, key = self._by_start, self._starts.__getitem__
                at = bisect_left(by_start, start, key=key)
                while at < len(by_start) and key(by_start[at]) == start:
                    yield by_start[at]
                    at += 1
                continue
            at = -1
            with suppress(ValueError):
                while True:
                    at = self._starts.index(start, at + 1)
                    yield at

    def _symbols(self, starts: Sequence[int]) -> Iterator[Symbol]:
        """The symbols whose names begin there and that count, in crash's order."""
        elf = self.elf
        heads, values = elf.heads, self._values
        found = []
        for index in self._indexes(starts):
            if not heads[index] >> 48:
                continue
            value, name = values[index], elf.name(index)
            if value > self.start or index in self._low or (value, name) >= self._first:
                found.append((value, name, index))
        found.sort()
        for value, name, index in found:
            if self.start <= value <= self.end:
                value += self.bias
            yield Symbol(self._shown(name), value, elf.letter(index))

    def named(self, name: str) -> list[Symbol]:
        """All symbols of a name, in order."""
        found = self._named.get(name)
        if found is None:
            starts = list(self._clones.get(name, ()))
            if name:
                strings, is_name, ended = self.elf.strings, self._is_name, f"{name}\0"
                at = strings.find(ended)
                while at >= 0:
                    if is_name[at]:
                        starts.append(at)
                    at = strings.find(ended, at + 1)
            if name.startswith("."):
                starts.append(0)  # symbols of sections have no name of their own
            found = [s for s in self._symbols(starts) if s.name == name] if starts else []
            self._named[name] = found
        return found

    def containing(self, text: str) -> list[Symbol]:
        """All symbols whose names contain the text, in order."""
        if not text:
            return list(self)
        strings, is_name = self.elf.strings, self._is_name
        starts: list[int] = []
        begin, low = -1, 0
        at = strings.find(text)
        while at >= 0:
            previous, begin = begin, strings.rfind("\0", 0, at) + 1
            # Of several occurrences in one string only the last one's reach is new.
            low = begin if begin != previous else low
            start = is_name.find(1, low, at + 1)
            while start >= 0:
                starts.append(start)
                start = is_name.find(1, start + 1, at + 1)
            low = at + 1
            at = strings.find(text, at + 1)
        if any(text in section.name for section in self.elf.sections):
            starts.append(0)
        return [s for s in self._symbols(starts) if text in s.name]

    def starting(self, prefix: str) -> list[str]:
        """The names that begin so, for completion."""
        strings, is_name = self.elf.strings, self._is_name
        names = set()
        at = strings.find(prefix)
        while at >= 0:
            if is_name[at]:
                names.add(self._shown(strings[at : strings.index("\0", at)]))
            at = strings.find(prefix, at + 1)
        return sorted(names)


class SymbolTable:
    """All symbols of a dump. Addresses and names are searched as crash searches them."""

    def __init__(self, dump: Dump) -> None:
        self._dump = dump
        self._prog: Program = dump.prog
        self.strip = True  # cut the endings of the names of copies of functions
        self._module_lines: dict[str, Lines] = {}
        self.modules_broken: str | None = None  # why the list of modules may lack some

    def _kernel_files(self) -> Iterator[tuple[ElfSymbols, int]]:
        """vmlinux and its debug file, and how far each was moved."""
        try:
            main = self._prog.main_module()
        except LookupError:
            return
        loaded, debug = main.loaded_file_bias, main.debug_file_bias
        either = (debug if loaded is None else loaded) or 0
        seen = set()
        for path, bias in (
            (self._dump.kernel_file, either),
            (main.loaded_file_path, loaded),
            (main.debug_file_path, debug),
        ):
            if path and path not in seen:
                seen.add(path)
                with suppress(OSError, ValueError):
                    yield ElfSymbols.open(path), either if bias is None else bias

    @cached_property
    def kernel(self) -> KernelSymbols:
        for elf, bias in self._kernel_files():
            return KernelSymbols(elf, bias, strip=self.strip)
        if (known := self._dump.symtab) is not None:
            bias = int(self._dump.vmcoreinfo.get("KERNELOFFSET", "0"), 16)
            return KernelSymbols(known, bias, strip=self.strip)
        return KernelSymbols(ElfSymbols(memoryview(bytes(24)), "\0", []), 0)

    @cached_property
    def modules(self) -> list[Module]:
        """The modules of the dump by address."""
        from crashpy.modules import modules_of

        found, self.modules_broken = modules_of(self._prog, strip=self.strip)
        return found

    def read_modules_again(self) -> None:
        for cached in ("modules", "_regions", "_bounds"):
            self.__dict__.pop(cached, None)

    def forget_lines(self) -> None:
        """Of files of modules that were unloaded."""
        self._module_lines.clear()

    def module(self, name: str) -> Module | None:
        return next((m for m in self.modules if m.name == name), None)

    @cached_property
    def _regions(self) -> list[tuple[int, int, Module]]:
        found = [(r.base, r.base + r.size, m) for m in self.modules for r in m.regions]
        return sorted(found, key=lambda r: r[:2])

    def module_of(self, address: int) -> Module | None:
        """The module whose memory or per-CPU data an address lies in."""
        at = bisect_right(self._regions, address, key=lambda r: r[0]) - 1
        if at >= 0 and address < self._regions[at][1]:
            return self._regions[at][2]
        return next((m for m in self.modules if m.per_cpu_size and m.in_per_cpu(address)), None)

    def __iter__(self) -> Iterator[Symbol]:
        """Every symbol, by address; not crash's markers."""
        yield from self.kernel
        for module in self.modules:
            yield from (s for s in module.symbols if not s.is_marker)

    def _module_symbols(self, name: str) -> list[Symbol]:
        """Of all modules, lowest address first, as in crash's hash table."""
        wants_marker = any(marker in name for marker in MARKERS)
        found = [
            symbol
            for module in self.modules
            for symbol in module.named(name)
            if wants_marker or not symbol.is_marker
        ]
        return sorted(found, key=lambda s: s.address)

    def named(self, name: str) -> Symbol | None:
        """The first symbol of that name (crash's symbol_search())."""
        if found := self.kernel.named(name):
            return found[0]
        return next(iter(self._module_symbols(name)), None)

    def all_named(self, name: str) -> list[Symbol]:
        """Every symbol of that name, the first one first, in crash's order."""
        found = list(self.kernel.named(name))
        more = self._module_symbols(name)
        if not more:
            return found
        first = None if found else more[0]
        # crash goes on from the first one, module by module, kind of memory by kind.
        reached = first is None
        if first is not None:
            found.append(first)
        for module in self.modules:
            if not module.named(name):
                continue
            for span in module.spans:
                for symbol in span.inner():
                    if symbol is first:
                        reached = True
                    elif reached and symbol.name == name:
                        found.append(symbol)
        return found

    def containing(self, text: str) -> Iterator[Symbol]:
        """Every symbol whose name contains the text (crash's symbol_query())."""
        yield from self.kernel.containing(text)
        encoded = text.encode("latin-1", "replace")
        for module in self.modules:
            if not module.may_hold(encoded):
                continue
            if not module.by_kind:
                yield from self._containing_in(
                    module.spans[0].inner() if module.spans else (), text
                )
                continue
            if module.file:
                symbols: Sequence[Symbol] = module.symbols[:-1]
                yield from (s for s in symbols if text in s.name and not s.is_marker)
                continue
            for span in module.spans:
                yield from (s for s in span.inner() if text in s.name and not s.is_marker)
        for module in self.modules:
            if not module.by_kind and len(module.spans) > 1:
                yield from self._containing_in(module.spans[1].inner(), text)

    @staticmethod
    def _containing_in(symbols: Iterator[Symbol] | Sequence[Symbol], text: str) -> Iterator[Symbol]:
        for symbol in symbols:
            if text in symbol.name and not symbol.name.startswith("_MODULE_START_"):
                yield symbol

    def starting(self, prefix: str) -> list[str]:
        """The names that begin so, for completion."""
        names = set(self.kernel.starting(prefix))
        for module in self.modules:
            if module.may_hold(prefix.encode()):
                names |= {
                    s.name for s in module.symbols if s.name.startswith(prefix) and not s.is_marker
                }
        return sorted(names)

    def in_range(self, address: int) -> bool:
        """Whether crash takes it for an address of kernel or module (in_ksymbol_range())."""
        kernel = self.kernel
        # crash compares with the text's address before relocation.
        if len(kernel) and kernel.start <= address <= kernel.last:
            return True
        return self.module_of(address) is not None

    def at(self, address: int) -> tuple[Symbol, int] | None:
        """The symbol an address lies in and the offset into it (crash's value_search())."""
        kernel = self.kernel
        if len(kernel) and kernel.start <= address <= kernel.last:
            position = kernel.floor(address)
            if position is not None:
                symbol = kernel.symbol(position)
                if symbol.address == address:
                    symbol = self._better(position, symbol)
                return symbol, address - symbol.address
        module = self.module_of(address)
        if module is None:
            return None
        from crashpy.modules import search

        return search(module, address)

    def _better(self, position: int, symbol: Symbol) -> Symbol:
        """The next symbol at the same address where the first one is a mere alias."""
        kernel = self.kernel
        for is_alias in (
            symbol.name.startswith(".text."),
            symbol.name.startswith(("SyS_", "compat_SyS_")),
            "_text_start" in symbol.name,
        ):
            if is_alias and position + 1 < len(kernel):
                following = kernel.symbol(position + 1)
                if following.address == symbol.address:
                    return following
        return symbol

    def next(self, symbol: Symbol) -> Symbol | None:
        """The symbol after one (crash's next_symbol())."""
        if symbol.module is None:
            kernel = self.kernel
            run = kernel.run(symbol.address)
            if run and run.stop < len(kernel):
                kernel.run(kernel.address(run.stop))
                return kernel.symbol(run.stop)
            if any(m.by_kind for m in self.modules):
                return None
            return next((s for m in self.modules for s in _plain(m)), None)
        return self._neighbour(symbol, 1)

    def previous(self, symbol: Symbol) -> Symbol | None:
        """The symbol before one (crash's prev_symbol())."""
        if symbol.module is None:
            kernel = self.kernel
            run = kernel.run(symbol.address)
            same = [p for p in run if kernel.name(p) == symbol.name]
            if not same or not same[0]:
                return None
            kernel.floor(kernel.address(same[0] - 1))
            if same[0] == run.start:  # the last one of the run below
                below = kernel.run(kernel.address(same[0] - 1))
                return kernel.symbol(below.stop - 1)
            return kernel.symbol(same[0] - 1)
        return self._neighbour(symbol, -1)

    def _neighbour(self, symbol: Symbol, step: int) -> Symbol | None:
        module = self.module(symbol.module or "")
        if module is None:
            return None
        if not module.by_kind:
            every = [s for m in self.modules for s in _plain(m)]
            every += [s for m in self.modules for s in _plain(m, init=True)]
            at = next((i for i, s in enumerate(every) if s is symbol), None)
            if at is None:
                return None
            if at + step < 0:
                return self.kernel.symbol(len(self.kernel) - 1) if len(self.kernel) else None
            return every[at + step] if at + step < len(every) else None
        for span in module.spans:
            places = range(span.first, span.last + 1)
            at = next((i for i in places if span.symbols[i] is symbol), None)
            if at is None:
                continue
            edge = span.last if step > 0 else span.first
            if at == edge:
                return self._over_the_edge(symbol.address, step)
            near = span.symbols[at + step]
            return self._over_the_edge(near.address, step) if near.is_marker else near
        return None

    def _over_the_edge(self, address: int, step: int) -> Symbol | None:
        """The first symbol of the next piece of module memory, or the last of the previous."""
        spans = [span for module in self.modules for span in module.spans]
        while True:
            if step > 0:
                starts = [(s.symbols[s.first].address, s) for s in spans]
                beyond = [found for found in starts if found[0] > address]
                if not beyond:
                    return None
                _, span = min(beyond, key=lambda found: found[0])
                for symbol in span.inner():
                    if not symbol.is_marker and symbol.address > address:
                        return symbol
                address = span.symbols[span.last].address
            else:
                ends = [(s.symbols[s.last].address, s) for s in spans]
                beyond = [found for found in ends if found[0] < address]
                if not beyond:
                    return None
                _, span = max(beyond, key=lambda found: found[0])
                for i in range(span.last, span.first, -1):
                    symbol = span.symbols[i]
                    if not symbol.is_marker and symbol.address < address:
                        return symbol
                address = span.symbols[span.first].address

    def size(self, symbol: Symbol) -> int | None:
        """Bytes, as the symbol table says; None where it does not."""
        if symbol.module is not None:
            return None
        kernel = self.kernel
        for position in kernel.run(symbol.address):
            if kernel.name(position) == symbol.name:
                size: int = kernel.elf.sizes[kernel._order[position]]
                return size or None
        return None

    def code_size(self, symbol: Symbol) -> int | None:
        """The same, of a function of a loaded module as well."""
        if symbol.module is None:
            if (known := self.size(symbol)) is not None:
                return known
            kernel = self.kernel  # an alias of an object has no size of its own
            sizes = [kernel.elf.sizes[kernel._order[at]] for at in kernel.run(symbol.address)]
            return next(filter(None, reversed(sizes)), None)
        module = self.module_of(symbol.address)
        if module is None or module.elf is None:
            return None
        elf = module.elf
        bases = {section.name: section.address for section in module.sections}
        for head, value, size in zip(elf.heads, elf.values, elf.sizes, strict=True):
            if size and head >> 32 & 15 == STT_FUNC and head >> 48 < len(elf.sections):
                base = bases.get(elf.sections[head >> 48].name)
                if base is not None and base + value == symbol.address:
                    return size
        return None

    def is_text(self, address: int) -> bool:
        """Whether it is an address of kernel or module code (crash's is_kernel_text())."""
        for low, high in self._code:
            if low <= address < high:
                return True
        low, high = self._bounds
        if not low <= address < high:
            return False
        module = self.module_of(address)
        if module is not None and module.is_text(address):
            return True
        found = self.at(address)
        return found is not None and self.is_text_symbol(found[0])

    def is_text_symbol(self, symbol: Symbol) -> bool:
        if symbol.kind in "Tt":
            return True
        if symbol.kind not in "Ww":
            return False
        low, high = self.named("_stext"), self.named("_etext")
        return bool(low and high and low.address <= symbol.address < high.address)

    @cached_property
    def _code(self) -> Sequence[tuple[int, int]]:
        bias = self.kernel.bias
        sections = (s for s in self.kernel.elf.sections if s.is_code)
        return [(s.address + bias, s.address + s.size + bias) for s in sections]

    @cached_property
    def _bounds(self) -> tuple[int, int]:
        """No symbol of the kernel or of a module's memory lies outside."""
        lows = [self.kernel.start, *(low for low, _, _ in self._regions)]
        highs = [self.kernel.last + 1, *(high for _, high, _ in self._regions)]
        return min(lows), max(highs)

    def section(self, address: int) -> str | None:
        """The name of the section of vmlinux, or of a loaded module's file, at an address."""
        if (module := self.module_of(address)) is not None:
            found = (s.name for s in module.sections if s.address <= address < s.address + s.size)
            return next(found, None if module.file else f"in {module.name} module")
        value = address - self.kernel.bias
        sections = (s for s in self.kernel.elf.sections[1:] if s.address)
        return next((s.name for s in sections if s.address <= value < s.address + s.size), None)

    def format(self, address: int, radix: int = 10) -> str:
        """``name`` or ``name+offset`` (crash's value_to_symstr()); empty for no symbol."""
        found = self.at(address)
        module = self.module_of(address)
        if found is None:
            if module is None:
                return ""
            region = module.region(address)
            start = region.base if region else module.per_cpu
            name, offset = f"({module.name} module)", address - start
        else:
            name, offset = found[0].name, found[1]
            if name.startswith("_MODULE_START_") and module is not None:
                name = module.name
                if address < (module.text_start or module.base):
                    name = f"({name} module)" if offset else f"({name})"
        if not offset:
            return name
        if radix == 16:
            return f"{name}+{offset:#x}"
        return f"{name}+{offset - (offset >> 63 << 64)}"  # as a long

    def line(self, address: int) -> str | None:
        """``FILE: LINE`` of a text address as crash's `sym`, `bt -l`, `dis -l` show it."""
        found = self.source(address)
        return None if found is None else str(found)

    def source(self, address: int) -> SourceFile | None:
        """The line of the source that a text address belongs to."""
        module = self.module_of(address)
        if module is None:
            return self._lines.at(address) if self._lines else self._line_by_drgn(address)
        if module.elf is None:
            return None
        if module.name not in self._module_lines:
            if (lines := _module_lines(self._prog, module)) is None:
                return None
            self._module_lines[module.name] = lines
        return self._module_lines[module.name].at(address)

    @cached_property
    def _lines(self) -> Lines | None:
        from crashpy.lines import Lines

        for elf, bias in self._kernel_files():
            if elf.section(".debug_aranges")[2]:
                return Lines(elf, bias)
        return None

    def _line_by_drgn(self, address: int) -> SourceFile | None:
        """Without .debug_aranges, which clang does not write: what drgn knows."""
        from crashpy.lines import SourceFile

        with suppress(LookupError):
            found = self._prog.source_location(address)[0]
            if found.filename and found.line:
                return SourceFile("/", found.filename, found.line)
        return None


def _plain(module: Module, *, init: bool = False) -> Iterator[Symbol]:
    spans = module.spans[1:2] if init else module.spans[:1]
    return (s for span in spans for s in span.inner() if not s.is_marker)


def _module_lines(prog: Program, module: Module) -> Lines | None:
    from crashpy.lines import Lines

    if module.elf is None:
        return None
    addresses = {s.name: s.address for s in module.sections}
    for known in prog.modules():
        if known.name == module.name and isinstance(known, RelocatableModule):
            # What the kernel itself remembers of its sections is more than symbols tell.
            addresses |= dict(known.section_addresses)
    return Lines(module.elf, 0, addresses)
