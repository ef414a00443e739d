"""The kernel's own symbol table (kernel/kallsyms.c), with nm's letters, from the dump.

drgn reads the same tables, without the letters that crash shows; its index of them would
be a second copy. Names are decoded in one pass, in less time than that index takes.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Mapping
from itertools import islice
from operator import gt

from drgn import FaultError, Program

from crashpy.opening.symtab import Columns

LONGEST_NAMES = 1 << 24  # bytes of compressed names: no kernel has as many
MOST_SYMBOLS = 1 << 20
PER_MARKER = 256  # names
DAMAGED = "the kernel's symbol table is damaged"

# What a byte of kallsyms_names is, but for an ordinary token: the token that begins with the
# symbol's letter, or a length.
FIRST, LENGTH = 1, 2


class KallsymsError(LookupError):
    """The dump does not tell the kernel's symbols, or they make no sense."""


def read_kallsyms(prog: Program, vmcoreinfo: Mapping[str, str]) -> Columns:
    """All symbols, by address but for per-CPU ones. Raises KallsymsError.

    VMCOREINFO tells where the tables are since Linux 6.0.
    """

    def at(name: str) -> int:
        try:
            return int(vmcoreinfo[f"SYMBOL(kallsyms_{name})"], 16)
        except KeyError:
            raise KallsymsError(f"VMCOREINFO does not tell kallsyms_{name}") from None

    try:
        (count,) = struct.unpack("<I", prog.read(at("num_syms"), 4))
        if count > MOST_SYMBOLS:
            raise KallsymsError(DAMAGED)
        (base,) = struct.unpack("<Q", prog.read(at("relative_base"), 8))
        offsets = array("i", prog.read(at("offsets"), 4 * count))
        index = array("H", prog.read(at("token_index"), 512))
        names_at, tokens_at = at("names"), at("token_table")
        room = tokens_at - names_at if tokens_at > names_at else LONGEST_NAMES
        names = _read(prog, names_at, min(room, LONGEST_NAMES))
        table = prog.read(tokens_at, index[-1] + 64)
    except (FaultError, OverflowError, MemoryError) as error:
        raise KallsymsError(f"the kernel's symbol table cannot be read: {error}") from error
    tokens = [table[start : table.find(b"\0", start)].decode("latin-1") for start in index]
    text = _unpacked(names, count, tokens)
    letters, found = text[1::2], text[2::2]
    start = int(vmcoreinfo.get("SYMBOL(_stext)", "0"), 16)
    values = _values(offsets, base, start, found.__getitem__)
    if len(found) != count or any(map(gt, values, islice(values, 1, None))):
        raise KallsymsError(DAMAGED)  # the kernel sorts it
    return Columns(values, letters, found)


def walk(names: bytes, count: int) -> bytearray:
    """What each byte of so many names is.

    Raises KallsymsError unless they end before kallsyms_markers, which says where every
    256th name begins.
    """
    what, markers = bytearray(len(names) + 2), []
    place = 0
    try:
        for start in range(0, count, PER_MARKER):
            markers.append(place)
            for _ in range(min(PER_MARKER, count - start)):
                length = names[place]
                what[place] = LENGTH
                if length & 0x80:  # more than 127 tokens: two bytes, since Linux 6.1
                    place += 1
                    what[place] = LENGTH
                    length = length & 0x7F | names[place] << 7
                what[place + 1] = FIRST
                place += 1 + length
    except IndexError:
        raise KallsymsError(DAMAGED) from None
    kinds = ("I", "Q")  # long up to Linux 4.19
    if not any(names.startswith(array(k, markers).tobytes(), (place + 7) & ~7) for k in kinds):
        raise KallsymsError(DAMAGED)
    return what[:place]


def _unpacked(names: bytes, count: int, tokens: list[str]) -> list[str]:
    """After an empty string letter and name of every symbol in turn."""
    what = walk(names, count)
    wide = bytearray(2 * len(what))
    wide[0::2] = names[: len(what)]
    wide[1::2] = what
    first = [f"\0{token[:1] or '?'}\0{token[1:]}" for token in tokens]
    every = tokens + first + [""] * 256
    return "".join(map(every.__getitem__, memoryview(wide).cast("H"))).split("\0")


def _values(offsets: array[int], base: int, start: int, name_of: Callable[[int], str]) -> list[int]:
    if _per_cpu_is_absolute(offsets, base - 1 - start, name_of):
        last = base - 1
        return [offset if offset >= 0 else last - offset for offset in offsets]
    return [base + (offset & 0xFFFFFFFF) for offset in offsets]


def _per_cpu_is_absolute(offsets: array[int], wanted: int, name_of: Callable[[int], str]) -> bool:
    """CONFIG_KALLSYMS_ABSOLUTE_PERCPU: offsets of 0 and more are addresses themselves.

    Nothing in the dump says so; whether `_stext` has the offset `wanted` then does.
    """
    at = -1
    try:
        while True:
            at = offsets.index(wanted, at + 1)
            if name_of(at) == "_stext":
                return True
    except (ValueError, IndexError, OverflowError):
        return False


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
