"""Symbols from a System.map or a saved /proc/kallsyms, for dumps that do not tell theirs."""

from __future__ import annotations

import re
from collections.abc import Mapping

from crashpy.opening.errors import OpeningError
from crashpy.opening.symtab import LOWEST_KERNEL_ADDRESS, Columns

_LINE = re.compile(rb"^([0-9a-fA-F]{8,16}) ([a-zA-Z?]) (\S+)(?:[ \t]+\[(\S+)\])?$", re.MULTILINE)


def read_symbols(path: str, vmcoreinfo: Mapping[str, str]) -> Columns:
    """The kernel's symbols, moved by KASLR's offset if need be.

    Raises OpeningError for a file of another form, of another kernel, or whose
    addresses were hidden from the user who saved it.
    """
    with open(path, "rb") as file:  # noqa: PTH123  OSError names the path as it was given
        text = file.read()
    found = [entry for entry in _LINE.findall(text) if not entry[3]]  # but for modules'
    if not found:
        raise OpeningError(f"{path}: neither a System.map nor a copy of /proc/kallsyms")
    addresses = [int(entry[0], 16) for entry in found]
    names = [entry[2].decode(errors="replace") for entry in found]
    if not any(addresses):
        raise OpeningError(f"{path}: its addresses are all zero: it was saved without CAP_SYSLOG")
    moved = _moved(dict(zip(names, addresses, strict=True)), vmcoreinfo)
    if moved is None:
        raise OpeningError(
            f"{path}: its addresses are not those of the dump's kernel"
            f" {vmcoreinfo.get('OSRELEASE', '')}: it belongs to another one"
        )
    # The fixed per-CPU symbols below the kernel do not move.
    addresses = [at + moved if at >= LOWEST_KERNEL_ADDRESS else at for at in addresses]
    return Columns(addresses, [entry[1].decode() for entry in found], names)


def _moved(addresses: dict[str, int], vmcoreinfo: Mapping[str, str]) -> int | None:
    """How far the dump's kernel lies from the file's; None where they are two kernels.

    VMCOREINFO tells the addresses of a handful of symbols: all must have moved alike.
    """
    distances = {
        int(value, 16) - addresses[name]
        for key, value in vmcoreinfo.items()
        if key.startswith("SYMBOL(")
        # An array's entry holds where the array it points to is, not where it is.
        if (name := key[7:-1]) in addresses and name not in ("mem_section", "node_data")
    }
    if len(distances) != 1:
        return None
    [moved] = distances
    return moved if moved in (0, int(vmcoreinfo.get("KERNELOFFSET", "0"), 16)) else None
