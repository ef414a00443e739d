"""The kernel's own symbol table (kernel/kallsyms.c), with nm's letters, from the dump.

drgn reads the same tables, without the letters that crash shows; its index of them would
be a second copy. Names are decoded in one pass, in the time that index takes.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Mapping
from itertools import islice
from operator import gt

from drgn import FaultError, Program

LONGEST_NAMES = 1 << 24  # bytes of compressed names: no kernel has as many


class KallsymsError(LookupError):
    """The dump does not tell the kernel's symbols, or they make no sense."""


class Kallsyms:
    """Symbols by position, in the order of their addresses."""

    def __init__(self, prog: Program, vmcoreinfo: Mapping[str, str]) -> None:
        """VMCOREINFO tells where the tables are since Linux 6.0. Raises KallsymsError."""

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
            self._names = _read(prog, names_at, min(room, LONGEST_NAMES))
            table = prog.read(tokens_at, index[-1] + 64)
        except (FaultError, OverflowError, MemoryError) as error:
            raise KallsymsError(f"the kernel's symbol table cannot be read: {error}") from error
        self._tokens = [table[start : table.find(b"\0", start)] for start in index]
        self._places = self._walk(count)
        if self._per_cpu_is_absolute(offsets, base, int(vmcoreinfo.get("SYMBOL(_stext)", "0"), 16)):
            values = [offset if offset >= 0 else base - 1 - offset for offset in offsets]
        else:
            values = [base + (offset & 0xFFFFFFFF) for offset in offsets]
        if any(map(gt, values, islice(values, 1, None))):  # the kernel sorts its table
            raise KallsymsError("the kernel's symbol table is damaged")
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[tuple[int, str, str]]:
        """Address, letter and name of every symbol, by address but for per-CPU ones."""
        names, tokens, join = self._names, [t.decode("latin-1") for t in self._tokens], "".join
        token = tokens.__getitem__
        for place, value in zip(self._places, self._values, strict=True):
            length = names[place]
            if length & 0x80:
                place += 1
                length = length & 0x7F | names[place] << 7
            text = join(map(token, names[place + 1 : place + 1 + length]))
            yield value, text[:1] or "?", text[1:]

    def _walk(self, count: int) -> array[int]:
        """Where each compressed name begins."""
        names, place, places = self._names, 0, array("I")
        try:
            for _ in range(count):
                places.append(place)
                length = names[place]
                if length & 0x80:  # more than 127 tokens: two bytes, since Linux 6.1
                    length = (length & 0x7F | names[place + 1] << 7) + 1
                place += 1 + length
        except IndexError:
            raise KallsymsError("the kernel's symbol table is damaged") from None
        return places

    def _text(self, index: int) -> bytes:
        place = self._places[index]
        length = self._names[place]
        if length & 0x80:
            place += 1
            length = length & 0x7F | self._names[place] << 7
        return b"".join(map(self._tokens.__getitem__, self._names[place + 1 : place + 1 + length]))

    def _per_cpu_is_absolute(self, offsets: array[int], base: int, start: int) -> bool:
        """CONFIG_KALLSYMS_ABSOLUTE_PERCPU: offsets of 0 and more are addresses themselves.

        Nothing in the dump says so; where it puts _stext is right or wrong.
        """
        wanted = base - 1 - start
        return any(
            offset == wanted and self._text(index)[1:] == b"_stext"
            for index, offset in enumerate(offsets)
        )


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
