"""A dump opened with nothing but itself: types from BTF, symbols from kallsyms.

What the kernel keeps in its own memory is nearly what a debug file says: BTF holds the
types and the per-CPU variables, kallsyms the symbols, ORC tables the way up the stacks.
Missing are source lines, inline frames, local variables, and the types of ordinary
global variables; declarations.json supplies most of the latter (see finder.py).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import drgn
from drgn import FaultError, Program, Symbol, SymbolBinding, SymbolKind

from crashpy.elf import ElfSymbols
from crashpy.opening.btf import Btf, BtfError, Kind
from crashpy.opening.errors import OpeningError
from crashpy.opening.finder import Finder, shapes
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
LARGEST_BTF = 1 << 26  # bytes; today's kernels have 5 MB
MOST_MODULES = 4096  # against a damaged list


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
    _check(symbols, vmcoreinfo)
    give_types(prog, vmcoreinfo, symbols, btf)
    try:
        _main_module(prog, vmcoreinfo)
    except (LookupError, ValueError) as error:
        raise OpeningError(f"the kernel's symbols in the dump are damaged ({error})") from error
    lost = _find_modules(prog)
    prog.register_symbol_finder("module kallsyms", ModuleSymbols(prog), enable_index=1)
    return table, [LACKING, *lost]


def give_types(
    prog: Program, vmcoreinfo: Mapping[str, str], symbols: SymbolFinder, btf: bytes = b""
) -> None:
    """Types, functions and variables, from BTF.

    All that knows of our own parser is behind this function: drgn's Module.load_btf() can
    take its place, once it is released.
    """
    base = _kernel_types(prog, btf)
    symbols.make_local(base.static_variables())
    finder = Finder(prog, vmcoreinfo, symbols)
    finder.add(base)
    finder.complete = lambda: _module_types(prog, finder, base)
    prog.register_type_finder("btf", finder.find_type, enable_index=0)
    prog.register_object_finder("btf", finder.find_object, enable_index=1)


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


def _kernel_types(prog: Program, btf: bytes) -> Btf:
    """The kernel's BTF, of those bytes or from memory."""
    try:
        base = Btf(prog, btf or _btf_in_memory(prog), shapes=shapes())
        if not any(base.ids("task_struct", [Kind.STRUCT])):
            raise BtfError("it has no struct task_struct")
    except (FaultError, BtfError) as error:
        raise OpeningError(
            f"the kernel's BTF cannot be read from the dump ({error}): {NEEDED}"
        ) from error
    return base


def _btf_in_memory(prog: Program) -> bytes:
    try:
        start, stop = (prog.symbol(f"__{edge}_BTF").address for edge in ("start", "stop"))
    except LookupError:
        raise OpeningError(
            f"this kernel carries no BTF (CONFIG_DEBUG_INFO_BTF is off): {NEEDED}"
        ) from None
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
    except Exception as error:  # noqa: BLE001 (a damaged list raises anything)
        return [f"the list of modules ({error})"]
    return []


def _module_types(prog: Program, finder: Finder, base: Btf) -> None:
    """Every module's split BTF, from the kernel's list btf_modules."""
    from drgn.helpers.linux.list import list_for_each_entry

    name = "?"
    try:
        head = prog["btf_modules"].address_of_()
    except LookupError:  # CONFIG_DEBUG_INFO_BTF_MODULES is off
        return
    seen: set[int] = set()
    try:
        kernels = prog["btf_vmlinux"].value_()
        for entry in list_for_each_entry("struct btf_module", head, "list"):
            if entry.value_() in seen or len(seen) > MOST_MODULES:
                raise BtfError("their list runs in a circle")
            seen.add(entry.value_())
            try:
                name = entry.module.name.string_().decode(errors="replace")
                btf = entry.btf.read_()
                # A module built apart has a base of its own (.BTF.base), until it is loaded.
                if btf.base_btf.value_() != kernels:
                    raise BtfError("they continue another BTF than the kernel's")
                address, size = btf.data.value_(), btf.data_size.value_()
                if size > LARGEST_BTF:
                    raise BtfError(f"they would be of {size} bytes")
                finder.add(Btf(prog, prog.read(address, size), base))
            except (FaultError, BtfError) as error:
                log.warning("types of module %s: %s", name, error)
    except Exception as error:  # noqa: BLE001 (a damaged list raises anything)
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
