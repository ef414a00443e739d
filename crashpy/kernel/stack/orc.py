"""How far a function's caller is up the stack, by the kernel's ORC tables.

The tables are looked up as the kernel's orc_find() does: a few small reads for each
return address, whose result is kept. Reading them whole would cost megabytes.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import NamedTuple

from drgn import FaultError, Object, Program
from drgn.helpers.linux.list import list_for_each_entry

# arch/x86/include/asm/orc_types.h
REG_UNDEFINED = 0
REG_PREV_SP = 1
REG_BP = 4
REG_SP = 5

BLOCK = 256  # LOOKUP_BLOCK_SIZE


class OrcEntry(NamedTuple):
    sp_offset: int
    bp_offset: int
    sp_reg: int
    bp_reg: int
    call: bool  # ORC_TYPE_CALL: an ordinary frame


class Table(NamedTuple):
    """Addresses relative to their own slot, and the entries beside them."""

    ips: int  # int *
    entries: int  # struct orc_entry *
    number: int


class OrcTables:
    """The kernel's tables and its modules'. Raises LookupError where there are none."""

    def __init__(self, prog: Program, text: tuple[int, int]) -> None:
        self._prog = prog
        kind = prog.type("struct orc_entry")
        if kind.size != 6:
            raise LookupError("struct orc_entry is unknown")
        # Since Linux kernel commit fb799447ae29 ("x86,objtool: Split UNWIND_HINT_EMPTY in
        # two") (in v6.4), the type has three bits, and ORC_TYPE_UNDEFINED and
        # ORC_TYPE_END_OF_STACK come before ORC_TYPE_CALL.
        self._late = not kind.has_member("end")
        self._size = kind.size

        def address(name: str) -> int:
            return prog.symbol(name).address

        self._text = text
        self._lookup = address("orc_lookup")
        self._blocks = prog["lookup_num_blocks"].value_()
        self._ips = address("__start_orc_unwind_ip")
        self._entries = address("__start_orc_unwind")
        self._number = (address("__stop_orc_unwind") - self._entries) // self._size
        self._modules: list[tuple[list[tuple[int, int]], Table]] | None = None
        self._found: dict[int, OrcEntry | None] = {}

    def find(self, ip: int) -> OrcEntry | None:
        try:
            return self._found[ip]
        except KeyError:
            pass
        try:
            entry = self._find(ip)
        except FaultError:
            entry = None
        self._found[ip] = entry
        return entry

    def covers(self, ip: int) -> bool:
        """Whether the address is where the kernel's or a module's code can be."""
        return self._text[0] <= ip < self._text[1] or 0xFFFFFFFFA0000000 <= ip < 2**64 - 2**24

    def _find(self, ip: int) -> OrcEntry | None:
        start, stop = self._text
        if not start <= ip < stop:
            table = self._module(ip)
            return None if table is None else self._search(table, ip)
        block = (ip - start) // BLOCK
        if block >= self._blocks - 1:
            return None
        first, last = struct.unpack("<2I", self._prog.read(self._lookup + 4 * block, 8))
        if first >= self._number or last + 1 > self._number or last < first:
            return None
        return self._search(
            Table(self._ips + 4 * first, self._entries + self._size * first, last + 1 - first), ip
        )

    def _search(self, table: Table, ip: int) -> OrcEntry | None:
        """The last entry at or below the address; the first one where all are above."""
        at, entries, number = table
        if number <= 0 or number > 1 << 24:
            return None
        offsets = memoryview(self._prog.read(at, 4 * number)).cast("i")
        low, high = 0, number
        while low < high:
            middle = (low + high) // 2
            if at + 4 * middle + offsets[middle] <= ip:
                low = middle + 1
            else:
                high = middle
        return self._entry(self._prog.read(entries + self._size * max(low - 1, 0), self._size))

    def _entry(self, data: bytes) -> OrcEntry:
        sp_offset, bp_offset, bits = struct.unpack("<hhH", data)
        call = bits >> 8 & 7 == 2 if self._late else bits >> 8 & 3 == 0
        return OrcEntry(sp_offset, bp_offset, bits & 15, bits >> 4 & 15, call)

    def _module(self, ip: int) -> Table | None:
        if self._modules is None:
            self._modules = []
            with suppress(FaultError, LookupError, AttributeError):
                self._read_modules()
        for ranges, table in self._modules:
            if any(base <= ip < end for base, end in ranges):
                return table
        return None

    def _read_modules(self) -> None:
        assert self._modules is not None
        modules = self._prog["modules"].address_of_()
        for count, module in enumerate(list_for_each_entry("struct module", modules, "list")):
            if count > 4096:
                break
            arch = module.arch
            table = Table(
                arch.orc_unwind_ip.value_(), arch.orc_unwind.value_(), arch.num_orcs.value_()
            )
            self._modules.append((_text_ranges(module), table))


def _text_ranges(module: Object) -> list[tuple[int, int]]:
    try:
        # Since Linux kernel commit ac3b43283923 ("module: replace module_layout with
        # module_memory") (in v6.4).
        regions = list(module.mem)
    except AttributeError:
        regions = [module.core_layout, module.init_layout]
    found = ((r.base.value_(), r.size.value_()) for r in regions)
    return [(base, base + size) for base, size in found if size]
