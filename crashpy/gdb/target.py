"""One dump as gdb sees it: symbols of addresses, types by name, strings, the value history."""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import cached_property
from typing import TYPE_CHECKING, Any

from drgn import FaultError, Symbol, SymbolKind, Type, TypeKind, sizeof

from crashpy.gdb.memory import KERNEL, Memory, UnreadableError, lowest_kernel_address

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.gdb.expressions import Value
    from crashpy.gdb.values import Layout

NO_NAMES = (SymbolKind.SECTION, SymbolKind.FILE)
# gdb takes a static variable of a function, like `buffer.3`, for a copy that an Ada
# compiler made: it shows lower-case names without the number.
NUMBERED = re.compile(r"^(?=[a-z][a-z0-9_]*\.\d+$)([a-z0-9_]*).*")
# Data that the linker script names, and the symbol table itself: no objects.
EDGE = re.compile(
    r"^kallsyms_|^_(?!_tracepoint_).*(start|end|begin|stop|aligned)|^_[es]\w*(data|text)$|^_text$"
    r"|^init_(stack|thread_union)$|^__brk_(base|limit)$"
)
CHUNK = 64  # bytes read at once of a string: most end in the first


class Target:
    """Reads the dump for types, values and expressions; keeps what is worth keeping."""

    def __init__(self, dump: Dump) -> None:
        self.dump = dump
        self.prog = dump.prog
        self.history: list[Value] = []  # $1 is the first
        self.layouts: dict[object, Layout] = {}
        self.plans: dict[object, Any] = {}  # how to show a member: commands/struct.py
        self._names: dict[int, str] = {0: ""}
        self._lowest = lowest_kernel_address(self.prog)

    @cached_property
    def _symbols(self) -> tuple[list[int], list[Symbol]]:
        """The ELF symbols by address: the addresses, and the symbols in the same order."""
        symbols = self.prog.symbols()
        values = [symbol.address for symbol in symbols]
        order = sorted(range(len(values)), key=values.__getitem__)
        return [values[i] for i in order], [symbols[i] for i in order]

    @cached_property
    def _end(self) -> int:
        """Where the kernel image ends and modules may begin."""
        _, symbols = self._symbols
        try:
            found = self.prog.main_module().address_range
        except LookupError:
            found = None
        if found is not None:
            return found[1]
        return max((s.address + s.size for s in symbols[-64:]), default=0)

    def symbolic(self, address: int) -> str:
        """`` <name+offset>`` as gdb appends it to a pointer; empty for no symbol."""
        try:
            return self._names[address]
        except KeyError:
            text = self._names[address] = self._symbolic(address)
            return text

    def _symbolic(self, address: int) -> str:
        if address < self._lowest:
            return ""  # crash lets gdb name kernel addresses only (gdb_print_callback())
        if address < self._end:
            name, start = self._kernel_symbol(address)
        else:
            name, start = "", 0
        if not name:
            # What gdb does not know crash looks for among the modules' symbols.
            found = self.dump.symbols.at(address)
            if found is None or found[0].module is None:
                return ""
            name, start = found[0].name, found[0].address
        offset = address - start
        return f" <{name}+{offset}>" if offset else f" <{name}>"

    def _kernel_symbol(self, address: int) -> tuple[str, int]:
        """gdb's choice of a minimal symbol (lookup_minimal_symbol_by_pc_section())."""
        if self.dump.symtab is not None:
            return self._unsized_symbol(address)
        addresses, _ = self._symbols
        at_once = self._run(bisect_right(addresses, address) - 1)
        zero_sized: Symbol | None = None
        best: Symbol | None = None
        # A symbol with a size counts before one without; one that ends below the
        # address makes room for its neighbour only where that one reaches over it.
        while at_once:
            symbol = at_once.pop()
            if not symbol.size:
                zero_sized = zero_sized or symbol
            elif address < symbol.address + symbol.size:
                best = symbol
                break
            else:
                before = at_once[-1] if at_once else self._before(symbol.address)
                if before is None or address >= before.address + before.size:
                    break
                best = before
                break
            if not at_once:
                at_once = self._run(bisect_right(addresses, symbol.address - 1) - 1)
        chosen = best or zero_sized
        if chosen is None:
            return "", 0
        if chosen.kind == SymbolKind.FUNC:
            return self._function_name(chosen), chosen.address
        if not chosen.size and not self._is_text(chosen.address):
            return "", 0  # data without a size: gdb does not trust it
        return NUMBERED.sub(r"\1", chosen.name), chosen.address

    def _unsized_symbol(self, address: int) -> tuple[str, int]:
        """The same of symbols that do not tell their sizes: types do where they are known."""
        try:
            found = sorted(self.prog.symbols(address), key=lambda s: s.name, reverse=True)
        except LookupError:
            return "", 0
        found.sort(key=lambda s: EDGE.search(s.name) is not None)
        known = sized = None
        for symbol in found:
            if symbol.kind == SymbolKind.FUNC:
                return self._function_name(symbol), symbol.address
            try:
                type_ = self.prog.variable(symbol.name).type_
                sized = None if is_flexible(type_) else sizeof(type_)
                known = symbol
                break
            except (LookupError, TypeError):
                if known is None and not EDGE.search(symbol.name):
                    known = symbol
        if known is None or (sized is not None and address >= known.address + sized):
            return "", 0
        start, end = self._constants
        if sized is None and address > known.address and start <= address < end:
            return "", 0  # strings of the compiler's follow the objects there
        return NUMBERED.sub(r"\1", known.name), known.address

    def _is_text(self, address: int) -> bool:
        start, end = self._text
        return start <= address < end

    @cached_property
    def _text(self) -> tuple[int, int]:
        return self._between("_stext", "_etext")

    @cached_property
    def _constants(self) -> tuple[int, int]:
        return self._between("__start_rodata", "__end_rodata")

    def _between(self, first: str, last: str) -> tuple[int, int]:
        try:
            return self.prog.symbol(first).address, self.prog.symbol(last).address
        except LookupError:
            return 0, 0

    def _run(self, at: int) -> list[Symbol]:
        """All symbols at one address, in the order of their names."""
        addresses, symbols = self._symbols
        while at >= 0 and symbols[at].kind in NO_NAMES:
            at -= 1
        if at < 0 or addresses[at] < self._lowest:
            return []
        first = at
        while first and addresses[first - 1] == addresses[at]:
            first -= 1
        run = (s for s in symbols[first : at + 1] if s.kind not in NO_NAMES)
        return sorted(run, key=lambda s: s.name)

    def _before(self, address: int) -> Symbol | None:
        run = self._run(bisect_right(self._symbols[0], address - 1) - 1)
        return run[-1] if run else None

    def _function_name(self, symbol: Symbol) -> str:
        """Of the names of one function, the one that debug information has.

        There, what the compiler appended for a copy of it (`.isra.0`) is missing.
        """
        names = [s.name for s in self._run(bisect_right(self._symbols[0], symbol.address) - 1)]
        if names == [symbol.name] and "." not in symbol.name:
            return symbol.name
        for name in names:
            base = name.partition(".")[0]
            try:
                found = self.prog.function(base)
            except LookupError:
                continue
            if "." in name or found.address_ == symbol.address:
                return base
        return symbol.name

    def type(self, name: str) -> Type | None:
        """The type that a name or a declaration without a variable means."""
        try:
            return self.prog.type(name)
        except (LookupError, SyntaxError, ValueError):
            return None

    def compound(self, name: str) -> Type | None:
        """What a bare name after `struct` or `union` means to crash: a tag, or a typedef.

        Tags come first, in gdb's domain of structures, then every other name.
        """
        for keyword in ("struct", "union", "enum"):
            found = self.type(f"{keyword} {name}")
            if found is not None:
                return found
        try:
            return self.prog.type(name)
        except (LookupError, SyntaxError, ValueError):
            return None

    def elf_symbol(self, name: str) -> tuple[int, bool] | None:
        """A kernel symbol without regard to debug information: its address, whether it is code."""
        try:
            symbols = self.prog.symbols(name)
        except LookupError:
            return None
        for symbol in symbols:
            return symbol.address, symbol.kind == SymbolKind.FUNC or self._is_text(symbol.address)
        return None

    def string(self, address: int, most: int, kind: str = KERNEL) -> tuple[bytes, bool]:
        """At most so many bytes of a string, its NUL included; False where reading stopped."""
        read = self.prog.read if kind == KERNEL else Memory(self.dump, kind).read
        found = b""
        while len(found) < most:
            size = min(CHUNK - address % CHUNK, most - len(found))
            try:
                piece = read(address, size)
            except (FaultError, OverflowError, ValueError, UnreadableError):
                return found, False
            end = piece.find(b"\0")
            if end >= 0:
                return found + piece[: end + 1], True
            found += piece
            address += size
        return found, True


def is_flexible(type_: Type) -> bool:
    """Whether objects may be larger than their type says."""
    type_ = resolved(type_)
    if type_.kind == TypeKind.ARRAY:
        return type_.length is None
    return type_.kind == TypeKind.STRUCT and bool(
        type_.members and is_flexible(type_.members[-1].type)
    )


def resolved(type_: Type) -> Type:
    """The type behind typedefs."""
    while type_.kind == TypeKind.TYPEDEF:
        type_ = type_.type
    return type_
