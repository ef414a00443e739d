"""A dump opened with nothing but itself: types from BTF, symbols from kallsyms.

What the kernel keeps in its own memory is nearly what a debug file says: BTF holds the
types and the per-CPU variables, kallsyms the symbols, ORC tables the way up the stacks.
Missing are source lines, inline frames, local variables, and the types of ordinary
global variables; declarations.json supplies the latter for those that crash's commands
and drgn's helpers ask for (made by declare.py from several kernels' DWARF).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib import resources
from itertools import islice
from typing import TYPE_CHECKING, Any

import drgn
from drgn import (
    FaultError,
    FindObjectFlags,
    Object,
    Program,
    Qualifiers,
    Symbol,
    SymbolBinding,
    SymbolKind,
    Type,
    TypeKind,
)

from crashpy.elf import ElfSymbols
from crashpy.opening.btf import KINDS_OF, Btf, BtfError, Kind
from crashpy.opening.errors import OpeningError
from crashpy.opening.kallsyms import KallsymsError, read_kallsyms
from crashpy.opening.program import quiet_drgn
from crashpy.opening.symtab import LOWEST_KERNEL_ADDRESS, Columns, SymbolFinder, table_of
from crashpy.opening.tables import TABLES, find_tables

if TYPE_CHECKING:
    from crashpy.modules import Module
    from crashpy.symbols import Symbol as KernelSymbol

log = logging.getLogger("crashpy")

NEEDED = "its vmlinux with debug information is needed"
LACKING = (
    "no vmlinux with debug information: types are from BTF, symbols from kallsyms;"
    " source lines, inline frames and local variables are not available"
)
LARGEST_BTF = 1 << 28  # bytes; today's kernels have 5 MB
MOST_MODULES = 4096  # against a damaged list
ALIGNMENT = 8  # bytes
ROOM = "room"  # for the length of an array: as many as the symbol has room for
RODATA = ("__start_rodata", "__end_rodata", "__start_ro_after_init", "__end_ro_after_init")


def declarations() -> dict[str, list[str]]:
    """Variable -> the C types it has had, newest kernel's first."""
    found: dict[str, list[str]] = _data("declarations.json")
    return found


def shapes() -> dict[str, list[list[int]]]:
    """``structure.member`` -> the lengths that an array of arrays has had."""
    found: dict[str, list[list[int]]] = _data("shapes.json")
    return found


def _data(name: str) -> Any:
    return json.loads(resources.files("crashpy.opening").joinpath(name).read_text())


class Finder:
    """Answers drgn's questions for types and objects from BTF blobs.

    libdrgn asks again at every prog.type() and prog["x"], so hits and misses are kept.
    """

    def __init__(self, prog: Program, vmcoreinfo: Mapping[str, str], symbols: SymbolFinder) -> None:
        self._prog = prog
        self._symbols = symbols
        self._vmcoreinfo = vmcoreinfo
        self._blobs: list[Btf] = []
        # adds the modules' blobs; run when something is not found in the kernel's
        self.complete: Callable[[], None] | None = None
        self._types: dict[tuple[Any, ...], Type | None] = {}
        self._objects: dict[tuple[str, FindObjectFlags], Object | None] = {}

    def add(self, blob: Btf) -> None:
        self._blobs.append(blob)
        self._types.clear()
        self._objects.clear()

    @cached_property
    def _declared(self) -> dict[str, list[str]]:
        return declarations()

    def find_type(
        self,
        prog: Program,  # noqa: ARG002  drgn's signature
        kinds: frozenset[TypeKind],
        name: str,
        filename: str | None,  # noqa: ARG002
    ) -> Type | None:
        key = (name, *sorted(kind.value for kind in kinds))
        if key not in self._types:
            self._types[key] = self._find_type(kinds, name)
        return self._types[key]

    def find_object(
        self,
        prog: Program,  # noqa: ARG002
        name: str,
        flags: FindObjectFlags,
        filename: str | None,  # noqa: ARG002
    ) -> Object | None:
        key = name, flags
        if key not in self._objects:
            self._objects[key] = self._find_object(name, flags)
        return self._objects[key]

    def _all_blobs(self) -> Iterator[Btf]:
        yield from self._blobs
        if complete := self.complete:
            self.complete = None
            known = len(self._blobs)
            complete()
            yield from self._blobs[known:]

    def _find_type(self, kinds: frozenset[TypeKind], name: str) -> Type | None:
        wanted = tuple(kind for each in kinds for kind in KINDS_OF.get(each, ()))
        for blob in self._all_blobs():
            for number in blob.ids(name, wanted):
                try:
                    found = blob.type(number)
                except (BtfError, LookupError, OverflowError, RecursionError) as error:
                    log.warning("%s: BTF is damaged (%s)", name, error)
                    continue
                if found.kind in kinds:
                    return found
        return None

    def _find_object(self, name: str, flags: FindObjectFlags) -> Object | None:
        if flags & FindObjectFlags.CONSTANT:
            for blob in self._all_blobs():
                if (constant := blob.enumerator(name)) is not None:
                    return constant
        wanted = []
        if flags & FindObjectFlags.FUNCTION:
            wanted.append(Kind.FUNC)
        if flags & FindObjectFlags.VARIABLE:
            wanted.append(Kind.VAR)
        if not wanted or (address := self._address(name)) is None:
            return None
        for blob in self._all_blobs():
            for number in blob.ids(name, wanted):
                return Object(self._prog, blob.type(number), address=address)
        if not flags & FindObjectFlags.VARIABLE or self._symbols.is_ambiguous(name):
            return None
        type_ = self._declared_type(name, address)
        return None if type_ is None else Object(self._prog, type_, address=address)

    def _declared_type(self, name: str, address: int) -> Type | None:
        """Of the types a variable has had, the one of this kernel.

        Where several would do, that is one that its symbol has room for, and no more of
        that than a linker leaves between two: kallsyms knows no sizes.
        """
        room = self._room(address)
        texts = self._declared.get(name, ())
        for exact in (True, False):
            found = [self._written(text, room, exact=exact) for text in texts]
            types = [type_ for type_ in found if type_ is not None]
            if types:
                break
        if len(types) < 2:
            return types[0] if types else None
        if all(map(_is_number, types)):
            # More than it has would be its neighbour's: of two numbers the smaller one.
            close = [size for size in map(_size, types) if room - size < ALIGNMENT]
            types = [type_ for type_ in types if _size(type_) == min(close, default=_size(type_))]
        const = self._is_constant(address)
        return max(types, key=lambda type_: (_size(type_), _is_const(type_) == const))

    def _is_constant(self, address: int) -> bool:
        bounds = [self._address(name) or 0 for name in RODATA]
        return bounds[0] <= address < bounds[1] and not bounds[2] <= address < bounds[3]

    def _room(self, address: int) -> int:
        return max((s.size for s in self._symbols(self._prog, None, address, False)), default=0)

    def _address(self, name: str) -> int | None:
        try:
            return self._prog.symbol(name).address
        except LookupError:
            return None

    def _written(self, declaration: str, room: int, *, exact: bool) -> Type | None:
        """The type a declaration names, None where this kernel has no such type.

        ``{a,b}`` or ``const {a,b}`` is the unnamed structure with these members; ``T [X]``
        an array whose length is a number, an enumerator, a LENGTH() of VMCOREINFO, or,
        where X is none of these, or too much and not to be `exact`, what the symbol's
        room holds.
        """
        written = re.fullmatch(r"(.*?[^\s\]])((?: \[\w*\])*)", declaration)
        assert written
        name, lengths = written[1], re.findall(r"\w+|(?<=\[)(?=\])", written[2])
        try:
            if name.endswith("}"):
                const, members = name.startswith("const "), name[name.index("{") + 1 : -1]
                type_ = self._structure_of(members.split(","), const=const)
            else:
                type_ = self._prog.type(name)
            for word in lengths[:0:-1]:
                type_ = self._prog.array_type(type_, self._length(word))
            if not lengths:
                return type_ if not room or _size(type_) <= room else None
            length, size = self._length(lengths[0]), drgn.sizeof(type_)
        except (LookupError, SyntaxError, TypeError):
            return None
        if not lengths[0]:
            return self._prog.array_type(type_)
        if exact and length is not None and 0 < room < length * size:
            return None
        if length is None or (room and length * size > room):
            length = room // size or None if size else None
        return self._prog.array_type(type_, length)

    def _structure_of(self, members: Sequence[str], *, const: bool) -> Type:
        for blob in self._blobs:
            if (type_ := blob.structure_of(members)) is not None:
                return type_.qualified(Qualifiers.CONST) if const else type_
        raise LookupError("no such structure")

    def _length(self, word: str) -> int | None:
        if word.isdecimal():
            return int(word)
        if word and (length := self._vmcoreinfo.get(f"LENGTH({word})")):
            return int(length)
        if word:
            for blob in self._blobs:
                if (constant := blob.enumerator(word)) is not None:
                    number: int = constant.value_()
                    return number
        return None


def _is_number(type_: Type) -> bool:
    while type_.kind == TypeKind.TYPEDEF:
        type_ = type_.type
    return type_.kind in (TypeKind.INT, TypeKind.BOOL, TypeKind.ENUM)


def _is_const(type_: Type) -> bool:
    while type_.kind == TypeKind.ARRAY:
        type_ = type_.type
    return bool(type_.qualifiers & Qualifiers.CONST)


def _size(type_: Type) -> int:
    try:
        return drgn.sizeof(type_)
    except TypeError:  # a flexible array
        return 0


def describe(
    prog: Program,
    vmcoreinfo: Mapping[str, str],
    map_: Columns | None = None,
    btf: bytes = b"",
) -> tuple[ElfSymbols, list[str]]:
    """Give a program that knows only its dump's memory types, symbols and stacks.

    `map_` replaces the symbol tables in the dump (a System.map), `btf` the kernel's types
    there (a boot image has them too). Returns the kernel's symbols, and in words what
    could not be had. Raises OpeningError where the dump cannot be opened this way at all.
    """
    bias = int(vmcoreinfo.get("KERNELOFFSET", "0"), 16)
    table = table_of(map_ or _kernel_symbols(prog, vmcoreinfo), bias)
    symbols = SymbolFinder(table, bias)
    prog.register_symbol_finder("kallsyms", symbols, enable_index=0)
    finder = Finder(prog, vmcoreinfo, symbols)
    _check(symbols, vmcoreinfo)
    try:
        base = Btf(prog, btf or _kernel_btf(prog), shapes=shapes())
        finder.add(base)
        symbols.make_local(base.static_variables())
        prog.register_type_finder("btf", finder.find_type, enable_index=0)
        prog.register_object_finder("btf", finder.find_object, enable_index=1)
        prog.type("struct task_struct")
    except LookupError:
        raise OpeningError(
            f"this kernel carries no BTF (CONFIG_DEBUG_INFO_BTF is off): {NEEDED}"
        ) from None
    except (FaultError, BtfError) as error:
        raise OpeningError(
            f"the kernel's BTF cannot be read from the dump ({error}): {NEEDED}"
        ) from error
    try:
        _main_module(prog, vmcoreinfo)
    except (LookupError, ValueError) as error:
        raise OpeningError(f"the kernel's symbols in the dump are damaged ({error})") from error
    finder.complete = lambda: _module_types(prog, finder, base)
    lost = _find_modules(prog)
    prog.register_symbol_finder("module kallsyms", ModuleSymbols(prog), enable_index=1)
    return table, [LACKING, *lost]


def _check(symbols: SymbolFinder, vmcoreinfo: Mapping[str, str]) -> None:
    """Whether the symbols that VMCOREINFO knows as well are where it says."""
    known = {key[7:-1]: value for key, value in vmcoreinfo.items() if key.startswith("SYMBOL(")}
    for name in known.keys() & {"_stext", "init_uts_ns", "_end", "prb", "kexec_crash_image"}:
        found = [symbol.address for symbol in symbols(None, name, None, False)]
        if not found and not symbols(None, "init_task", None, False):
            raise OpeningError(
                "this kernel's own symbol table has functions alone (CONFIG_KALLSYMS_ALL is off):"
                f" {NEEDED}, or its System.map (--kallsyms)"
            )
        if int(known[name], 16) not in found:
            raise OpeningError(f"the kernel's symbols in the dump are damaged: {NEEDED}")


def _kernel_btf(prog: Program) -> bytes:
    start, stop = (prog.symbol(f"__{edge}_BTF").address for edge in ("start", "stop"))
    if not 0 < stop - start < LARGEST_BTF:
        raise BtfError(f"it would be of {stop - start} bytes")
    return prog.read(start, stop - start)


def _kernel_symbols(prog: Program, vmcoreinfo: Mapping[str, str]) -> Columns:
    if not vmcoreinfo.keys() >= TABLES:
        found = find_tables(prog, vmcoreinfo)
        if found is None:
            raise OpeningError(
                "VMCOREINFO does not say where this kernel keeps its symbols (kernels before 6.0"
                f" do not), and they were not found: {NEEDED}, or its System.map (--kallsyms)"
            )
        vmcoreinfo = {**vmcoreinfo, **found}
    try:
        return read_kallsyms(prog, vmcoreinfo)
    except KallsymsError as error:
        raise OpeningError(f"{error}: {NEEDED}, or its System.map (--kallsyms)") from error


def _main_module(prog: Program, vmcoreinfo: Mapping[str, str]) -> None:
    # drgn unwinds by the ORC tables in memory once there is a main module without a file.
    main = prog.main_module("kernel", create=True)
    main.address_range = prog.symbol("_stext").address, prog.symbol("_end").address
    if build_id := vmcoreinfo.get("BUILD-ID"):
        main.build_id = bytes.fromhex(build_id)
    _nothing_to_load(main)


def _nothing_to_load(module: drgn.Module) -> None:
    module.debug_file_status = drgn.ModuleFileStatus.DONT_NEED
    module.loaded_file_status = drgn.ModuleFileStatus.DONT_NEED


def _find_modules(prog: Program) -> list[str]:
    """Let drgn find the modules' memory, where their ORC tables are; what could not be had."""
    try:
        prog["modules"].next.value_()  # drgn would only log that it cannot read it
        with quiet_drgn():
            for module, new in islice(prog.loaded_modules(), MOST_MODULES):
                if new and isinstance(module, drgn.RelocatableModule):
                    _nothing_to_load(module)
    except (FaultError, LookupError, ValueError) as error:
        return [f"the list of modules ({error})"]
    return []


def _module_types(prog: Program, finder: Finder, base: Btf) -> None:
    """Every module's split BTF, from the kernel's list btf_modules."""
    from drgn.helpers.linux.list import list_for_each_entry

    name = "?"
    try:
        head = prog["btf_modules"].address_of_()
        kernels = prog["btf_vmlinux"].value_()
        entries = list_for_each_entry("struct btf_module", head, "list")
        for entry in islice(entries, MOST_MODULES):
            try:
                name = entry.module.name.string_().decode(errors="replace")
                btf = entry.btf.read_()
                # A module built apart has a base of its own (.BTF.base), until it is loaded.
                if btf.base_btf.value_() != kernels:
                    raise BtfError("they continue another BTF than the kernel's")
                finder.add(Btf(prog, prog.read(btf.data.value_(), btf.data_size.value_()), base))
            except (FaultError, BtfError) as error:
                log.warning("types of module %s: %s", name, error)
    except (LookupError, AttributeError):  # CONFIG_DEBUG_INFO_BTF_MODULES is off
        pass
    except (FaultError, ValueError, OverflowError) as error:
        log.warning("types of the modules after %s: %s", name, error)


class ModuleSymbols:
    """Answers drgn's questions for modules' symbols; they are read at the first one."""

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        self._known: list[Module] | None = None

    def __call__(
        self,
        prog: Program,  # noqa: ARG002  drgn's signature
        name: str | None,
        address: int | None,
        one: bool,
    ) -> Sequence[Symbol]:
        from crashpy.modules import search

        if address is not None:
            if address < LOWEST_KERNEL_ADDRESS:
                return []
            at = [search(module, address) for module in self._modules if module.holds(address)]
            found = [match[0] for match in at if match and name in (None, match[0].name)]
        elif name is not None:
            found = [symbol for module in self._modules for symbol in module.named(name)]
        else:
            found = [symbol for module in self._modules for symbol in module.symbols]
        symbols = [_drgn_symbol(symbol) for symbol in found if not symbol.is_marker]
        return symbols[:1] if one else symbols

    @property
    def _modules(self) -> list[Module]:
        if self._known is None:
            from crashpy.modules import modules_of

            self._known = []  # for what reading them asks
            self._known, broken = modules_of(self._prog, strip=False)
            if broken:
                log.warning("symbols of modules: %s", broken)
        return self._known


def _drgn_symbol(symbol: KernelSymbol) -> Symbol:
    return Symbol(
        symbol.name,
        symbol.address,
        1,  # not known
        SymbolBinding.GLOBAL if symbol.kind.isupper() else SymbolBinding.LOCAL,
        SymbolKind.FUNC if symbol.kind in "tTwW" else SymbolKind.OBJECT,
    )
