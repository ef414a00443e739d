"""Where the tables of kallsyms lie in a dump whose VMCOREINFO does not tell (before Linux 6.0).

scripts/kallsyms.c writes them side by side, and each can be checked against the others, so
that what is found is certain: the tokens against the index of them, the names against
their markers.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Mapping
from contextlib import suppress

from drgn import FaultError, Program

from crashpy.opening.kallsyms import MOST_SYMBOLS, KallsymsError, walk

NAMES = ("num_syms", "names", "token_table", "token_index", "offsets", "relative_base")
TABLES = frozenset(f"SYMBOL(kallsyms_{name})" for name in NAMES)
STEP = 1 << 20
LARGEST_IMAGE = 1 << 27  # bytes from _stext on; .rodata follows the code
PAGE = 4096
# Ten tokens in a row: digits are in so many names that none of them gives way to a longer token.
DIGITS = b"".join(b"%d\0" % digit for digit in range(10))
LONGEST_TABLE = 1 << 14  # bytes of all tokens
LONGEST_AVERAGE = 40  # bytes of a name, its marker and its place in the order of names
LARGEST_NAMES = 1 << 23  # bytes of all names
FEWEST_SYMBOLS = 1000


def find_tables(prog: Program, vmcoreinfo: Mapping[str, str]) -> dict[str, str] | None:
    """What VMCOREINFO should say: SYMBOL(kallsyms_names) and its like. None: not found."""
    start = int(vmcoreinfo.get("SYMBOL(_stext)", "0"), 16)
    for digits in _places(prog, start) if start else ():
        try:
            found = _around(prog, digits, start)
        except (FaultError, struct.error, IndexError, OverflowError):
            continue
        if found:
            return {
                f"SYMBOL(kallsyms_{name})": f"{at:x}" for name, at in zip(NAMES, found, strict=True)
            }
    return None


def _places(prog: Program, start: int) -> Iterator[int]:
    """Where the digits stand."""
    before = b""
    for address in range(start, start + LARGEST_IMAGE, STEP):
        piece = before + _readable(prog, address, STEP)
        at = piece.find(DIGITS)
        while at >= 0:
            yield address - len(before) + at
            at = piece.find(DIGITS, at + 1)
        before = piece[1 - len(DIGITS) :]


def _readable(prog: Program, address: int, size: int) -> bytes:
    """A range, with zeros for what cannot be read."""
    try:
        return prog.read(address, size)
    except FaultError:
        if size <= PAGE:
            return bytes(size)
    half = size // 2 // PAGE * PAGE or PAGE
    return _readable(prog, address, half) + _readable(prog, address + half, size - half)


def _around(prog: Program, digits: int, start: int) -> tuple[int, ...] | None:
    """The addresses of the tables whose tokens have the digits there."""
    found = _tokens(prog, digits)
    if found is None:
        return None
    token_table, token_index = found
    names = _names(prog, token_table)
    if names is None:
        return None
    names_at, count = names
    num_syms = names_at - 8
    size = _aligned(4 * count)
    # Offsets and their base precede the names, since Linux 6.4 they follow the tokens.
    after = _aligned(token_index + 512)
    for offsets, base in ((num_syms - 8 - size, num_syms - 8), (after, after + size)):
        (value,) = struct.unpack("<Q", prog.read(base, 8))
        if abs(value - start) < LARGEST_IMAGE:
            return num_syms, names_at, token_table, token_index, offsets, base
    return None


def _tokens(prog: Program, digits: int) -> tuple[int, int] | None:
    """Where the table of 256 tokens and the index of them begin."""
    text = prog.read(digits, LONGEST_TABLE)
    end = 0
    for _ in range(ord("0"), 256):
        end = text.index(b"\0", end) + 1
    index_at = _aligned(digits + end)
    index = array("H", prog.read(index_at, 512))
    table = digits - index[ord("0")]
    text = prog.read(table, digits + end - table)
    starts = [0, *(at + 1 for at, byte in enumerate(text) if not byte)]
    return (table, index_at) if starts[:-1] == index.tolist() else None


def _names(prog: Program, end: int) -> tuple[int, int] | None:
    """Where the names begin that lie before the tokens, and how many there are.

    Their number precedes them, and every 256th one's offset (markers) follows.
    """
    text = _readable(prog, end - LARGEST_NAMES, LARGEST_NAMES)
    words = memoryview(text).cast("Q")
    for index in range(len(words) - 2, -1, -1):
        count = words[index]
        if FEWEST_SYMBOLS <= count <= MOST_SYMBOLS:
            place = 8 * index + 8
            if len(text) - place > count * LONGEST_AVERAGE:
                continue
            with suppress(KallsymsError):
                walk(text[place:], count)
                return end - LARGEST_NAMES + place, count
    return None


def _aligned(value: int) -> int:
    return (value + 7) & ~7
