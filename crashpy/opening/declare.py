"""Make declarations.json and shapes.json: what BTF does not say of variables and arrays.

usage: python -m crashpy.opening.declare VMLINUX...      (newest kernel first)

The variables are those that all files of a kernel may use, those of one file (static)
whose name is no other's in any of the kernels, and those whose names stand as strings in
crashpy's and drgn's sources. Arrays are written with the enumerator that gives their
length where one does, so that a table serves kernels it was not made from. The shapes are
those of arrays of arrays in structures, and of per-CPU variables; and [0] of a structure's
last member, which BTF does not tell from [].

The same kernels and sources make the same files. Those here were made of Debian's 6.12 and
6.1 kernels (linux-image-*-cloud-amd64-dbg, linux-image-*-amd64-dbg: 6.12 cloud, 6.12,
6.1 cloud, 6.1) and of the sample dumps' kernel.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import drgn
import drgn.helpers
from drgn import Object, Program, Qualifiers, Type, TypeKind

import crashpy
from crashpy.elf import SHN_ABS, STT_OBJECT, ElfSymbols
from crashpy.opening.btf import Btf, Kind
from crashpy.opening.finder import ROOM
from crashpy.opening.symtab import LOWEST_KERNEL_ADDRESS, STB_GLOBAL

T = TypeVar("T")
# Lengths that are enumerators in every kernel, by the array that has them.
LENGTHS = {
    "node_states": "NR_NODE_STATES",
    "vm_node_stat": "NR_VM_NODE_STAT_ITEMS",
    "vm_zone_stat": "NR_VM_ZONE_STAT_ITEMS",
    "vm_numa_event": "NR_VM_NUMA_EVENT_ITEMS",
    "softirq_vec": "NR_SOFTIRQS",
    "__per_cpu_offset": ROOM,
    "node_data": "node_data",
    "mem_section": "mem_section",
    "linux_banner": "",  # one file declares it so, another one defines it
}
LONG = 8  # letters of a name
FLEXIBLE: list[int] = []  # the shape of []
# Read by drgn's C code, so that no Python source names them.
ALSO = {
    "init_pid_ns", "modules", "__per_cpu_offset", "crash_notes", "panic_cpu", "nr_cpu_ids",
    "__cpu_online_mask", "__cpu_possible_mask", "__cpu_present_mask", "page_offset_base",
    "vmemmap_base", "mem_section", "init_task", "linux_banner", "jiffies_64", "btf_modules",
    "module_kset",
}  # fmt: skip

# What macros make for tracing, sysfs and self-tests: thousands, and none is asked for by name.
GENERATED = (
    "__SCK__", "__tracepoint_", "__event_", "event_", "trace_event_", "trace_raw_output_",
    "security_hook_active_", "types__", "args__", "str__", "print_fmt_", "dev_attr_",
    "bpf_trace_", "_kbl_addr_", "format_attr_", "damon_sysfs_", "hmac_sha", "nist_",
)  # fmt: skip


def wanted() -> set[str]:
    """Identifiers that stand in quotes in the sources of crashpy and drgn's helpers."""
    commands = importlib.import_module("crashpy.commands")
    folders = [Path(module.__path__[0]) for module in (crashpy, commands, drgn.helpers)]
    names = set(ALSO)
    for folder in folders:
        for file in folder.rglob("*.py"):
            names.update(re.findall(r"[\"'](\w{3,})[\"']", file.read_text()))
    return names


def declaration(name: str, type_: Type) -> str | None:
    """A variable's type as Finder reads it; None for what cannot be written."""
    lengths = ""
    while type_.kind == TypeKind.ARRAY:
        lengths += f" [{'' if type_.length is None else type_.length}]"
        type_ = type_.type
    if name in LENGTHS and lengths:
        lengths = f" [{LENGTHS[name]}]"
    if type_.kind in (TypeKind.STRUCT, TypeKind.UNION) and type_.tag is None:
        members = [member.name for member in type_.members or ()]
        if not all(members):
            return None
        const = "const " if type_.qualifiers & Qualifiers.CONST else ""
        return f"{const}{{{','.join(m for m in members if m)}}}{lengths}"
    if type_.kind == TypeKind.FUNCTION or "(" in str(type_.type_name()) or _is_nameless(type_):
        return None
    return f"{type_.type_name()}{lengths}"


def _is_nameless(type_: Type) -> bool:
    while type_.kind == TypeKind.POINTER:
        type_ = type_.type
    return "<anonymous>" in str(type_.type_name())


def names_of(path: str) -> tuple[set[str], set[str], set[str]]:
    """The variables in a kernel's symbol table.

    Those of all files, those of one file alone, and names that several files use.
    """
    elf = ElfSymbols.open(path)
    shared: Counter[str] = Counter()
    own: Counter[str] = Counter()
    for index in range(1, len(elf)):
        head = elf.heads[index]
        if head >> 32 & 15 == STT_OBJECT and 0 < head >> 48 < SHN_ABS:
            (shared if head >> 36 & 15 == STB_GLOBAL else own)[elf.name(index)] += 1
    once = {name for name, count in own.items() if count == 1 and not name.startswith("__")}
    several = (own.keys() - once) | (own.keys() & shared.keys())
    return _sensible(shared), _sensible(once - shared.keys()), several


def _sensible(names: Iterable[str]) -> set[str]:
    return {name for name in names if name.isidentifier() and not name.startswith(GENERATED)}


def _says_whose(name: str) -> bool:
    """Not one like `debug`, which in the next kernel is another file's."""
    return "_" in name and len(name) >= LONG


def described(path: str) -> Program:
    """A kernel's debug information, without its memory."""
    prog = Program(drgn.host_platform)
    module = prog.extra_module(path, create=True)
    module.try_file(path, force=True)
    return prog


def variables(prog: Program, names: set[str]) -> dict[str, str]:
    found = {}
    for name in sorted(names):
        try:
            variable: Object = prog.variable(name)
        except LookupError:
            continue
        if (variable.address_ or 0) < LOWEST_KERNEL_ADDRESS:  # per CPU: BTF has those
            continue
        if (text := declaration(name, variable.type_)) is not None:
            found[name] = text
    return found


def arrays(prog: Program, path: str) -> dict[str, list[int]]:
    """The lengths of every member and per-CPU variable that is an array of arrays."""
    data, start, size = ElfSymbols.open(path).section(".BTF")
    blob = Btf(prog, bytes(data[start : start + size]))
    kinds = {Kind.STRUCT: "struct ", Kind.UNION: "union ", Kind.TYPEDEF: ""}
    found: dict[str, list[int]] = {}
    for kind, word in kinds.items():
        for name, _ in blob.named((kind,)):
            try:
                type_ = prog.type(word + name)
            except LookupError:
                continue
            while type_.kind == TypeKind.TYPEDEF:
                type_ = type_.type
            found |= _arrays_in(type_)
    for name, _ in blob.named((Kind.VAR,)):
        with suppress(LookupError):
            lengths, _ = _lengths(prog.variable(name).type_)
            if len(lengths) > 1:
                found[name] = [length or 0 for length in lengths]
    return found


def _lengths(type_: Type) -> tuple[list[int | None], Type]:
    """Those of an array of arrays, and what it is of."""
    lengths = []
    while type_.kind == TypeKind.ARRAY:
        lengths.append(type_.length)
        type_ = type_.type
    return lengths, type_


def _arrays_in(type_: Type, depth: int = 8) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    if type_.kind not in (TypeKind.STRUCT, TypeKind.UNION):
        return found
    members = type_.members or ()
    last = members[-1] if type_.kind == TypeKind.STRUCT and type_.tag and members else None
    for member in members:
        lengths, inner = _lengths(member.type)
        name = f"{type_.tag or ''}.{member.name}"
        if len(lengths) > 1:
            found[name] = [length or 0 for length in lengths]
        elif member is last and lengths in ([0], [None]):
            found[name] = [0] if lengths == [0] else FLEXIBLE
        if depth and inner.kind in (TypeKind.STRUCT, TypeKind.UNION) and not inner.tag:
            found |= _arrays_in(inner, depth - 1)
    return found


def tables(paths: Sequence[str]) -> tuple[dict[str, list[str]], dict[str, list[list[int]]]]:
    """The declarations and the shapes of these kernels."""
    types: dict[str, list[str]] = {}
    shapes: dict[str, list[list[int]]] = {}
    known = [names_of(path) for path in paths]
    shared = wanted().union(*(names for names, _, _ in known))
    everywhere = set.intersection(*(own for _, own, _ in known))
    somewhere = set().union(*(own for _, own, _ in known)) - shared
    own = everywhere | {name for name in somewhere if _says_whose(name)}
    names = (shared | own).difference(*(several for _, _, several in known))
    for path in paths:
        prog = described(path)
        for name, text in variables(prog, names).items():
            _add(types, name, text)
        for name, lengths in arrays(prog, path).items():
            _add(shapes, name, lengths)
    return types, {name: known for name, known in shapes.items() if FLEXIBLE not in known}


def main(paths: list[str]) -> int:
    if not paths:
        sys.stderr.write(__doc__ or "")
        return 1
    types, shapes = tables(paths)
    for target, text in (("declarations.json", _text(types)), ("shapes.json", _text(shapes))):
        (Path(__file__).parent / target).write_text(text)
    return 0


def _text(table: dict[str, list[T]]) -> str:
    """A line each, so that a change is seen."""
    lines = [f"{json.dumps(name)}: {json.dumps(table[name])}" for name in sorted(table)]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _add(table: dict[str, list[T]], name: str, text: T) -> None:
    alternatives = table.setdefault(name, [])
    if text not in alternatives:
        alternatives.append(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
