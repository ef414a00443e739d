"""Symbols from a System.map or a saved /proc/kallsyms, for dumps that do not tell theirs."""

from __future__ import annotations

import re
from collections.abc import Mapping

from drgn import Symbol, SymbolBinding, SymbolIndex, SymbolKind

from crashpy.opening.errors import OpeningError

_LINE = re.compile(rb"^([0-9a-fA-F]{8,16}) ([a-zA-Z?]) (\S+)(?:[ \t]+\[(\S+)\])?$", re.MULTILINE)


def read_symbols(path: str, vmcoreinfo: Mapping[str, str]) -> SymbolIndex:
    """The kernel's symbols of `nm`'s form, moved by KASLR's offset where they are not yet.

    Raises OpeningError for a file of another form, of another kernel, or whose
    addresses were hidden from the user who saved it.
    """
    with open(path, "rb") as file:  # noqa: PTH123  OSError names the path as it was given
        text = file.read()
    found = [
        (int(address, 16), kind.decode(), name.decode(errors="replace"))
        for address, kind, name, module in _LINE.findall(text)
        if not module
    ]
    if not found:
        raise OpeningError(f"{path}: neither a System.map nor a copy of /proc/kallsyms")
    start = next((address for address, _, name in found if name == "_stext"), 0)
    if not start:
        raise OpeningError(
            f"{path}: its addresses are all zero (saved without CAP_SYSLOG), or _stext is missing"
        )
    moved = int(vmcoreinfo.get("SYMBOL(_stext)", hex(start)), 16) - start
    if moved not in (0, int(vmcoreinfo.get("KERNELOFFSET", "0"), 16)):
        raise OpeningError(
            f"{path}: _stext is at {start:#x} there, which is not where the dump's kernel has it:"
            " it belongs to another kernel"
        )
    found.sort(key=lambda entry: entry[0])
    symbols = []
    for index, (address, kind, name) in enumerate(found):
        following = found[index + 1][0] if index + 1 < len(found) else address
        binding = SymbolBinding.GLOBAL if kind.isupper() else SymbolBinding.LOCAL
        function = kind in "tTwW"
        symbols.append(
            Symbol(
                name,
                # The fixed per-CPU symbols below the kernel do not move.
                address + moved if address >= 1 << 32 else address,
                following - address,
                binding,
                SymbolKind.FUNC if function else SymbolKind.OBJECT,
            )
        )
    return SymbolIndex(symbols)
