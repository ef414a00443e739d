"""The kernel's own symbol table (kernel/kallsyms.c), with nm's letters, from the dump.

drgn reads the same tables and is what the program looks names up in; it leaves out the
letters that crash shows.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Mapping

from drgn import FaultError, Program

LONGEST_NAMES = 1 << 24  # bytes of compressed names: no kernel has as many


class KallsymsError(LookupError):
    """The dump does not tell the kernel's symbols, or they make no sense."""


def kernel_symbols(prog: Program, vmcoreinfo: Mapping[str, str]) -> list[tuple[int, str, str]]:
    """(address, letter, name) of every symbol, by address.

    VMCOREINFO tells where the tables are since Linux 6.0. Raises KallsymsError.
    """

    def at(name: str) -> int:
        try:
            return int(vmcoreinfo[f"SYMBOL(kallsyms_{name})"], 16)
        except KeyError:
            raise KallsymsError(f"VMCOREINFO does not tell kallsyms_{name}") from None

    try:
        (count,) = struct.unpack("<I", prog.read(at("num_syms"), 4))
        (base,) = struct.unpack("<Q", prog.read(at("relative_base"), 8))
        offsets = array("i", prog.read(at("offsets"), 4 * count))
        index = array("H", prog.read(at("token_index"), 512))
        names_at, tokens_at = at("names"), at("token_table")
        room = tokens_at - names_at if tokens_at > names_at else LONGEST_NAMES
        names = _read(prog, names_at, min(room, LONGEST_NAMES))
        table = prog.read(tokens_at, index[-1] + 64)
    except (FaultError, OverflowError, MemoryError) as error:
        raise KallsymsError(f"the kernel's symbol table cannot be read: {error}") from error
    tokens = [table[start : table.find(b"\0", start)] for start in index]
    found = []
    token, place = tokens.__getitem__, 0
    try:
        for offset in offsets:
            length = names[place]
            place += 1
            if length & 0x80:  # longer than 127 tokens: two bytes, since Linux 6.1
                length = length & 0x7F | names[place] << 7
                place += 1
            text = b"".join(map(token, names[place : place + length]))
            place += length
            found.append((offset, text))
    except IndexError:
        raise KallsymsError("the kernel's symbol table is damaged") from None
    start = int(vmcoreinfo.get("SYMBOL(_stext)", "0"), 16)
    absolute = _per_cpu_is_absolute(found, base, start)
    symbols = []
    for offset, text in found:
        if absolute:
            address = offset if offset >= 0 else base - 1 - offset
        else:
            address = base + (offset & 0xFFFFFFFF)
        symbols.append((address, chr(text[0]) if text else "?", text[1:].decode(errors="replace")))
    symbols.sort(key=lambda symbol: symbol[0])
    return symbols


def _per_cpu_is_absolute(found: list[tuple[int, bytes]], base: int, start: int) -> bool:
    """CONFIG_KALLSYMS_ABSOLUTE_PERCPU: offsets of 0 and more are addresses themselves.

    Nothing in the dump says so; where it puts _stext is right or wrong.
    """
    for offset, text in found:
        if text[1:] == b"_stext":
            return offset < 0 and (not start or base - 1 - offset == start)
    return any(offset < 0 for offset, _ in found)


def _read(prog: Program, address: int, size: int) -> bytes:
    """As much of a range as can be read from its start on."""
    step = 1 << 20
    pieces = []
    for at in range(address, address + size, step):
        try:
            pieces.append(prog.read(at, min(step, address + size - at)))
        except FaultError:
            if not pieces:
                raise
            break
    return b"".join(pieces)
