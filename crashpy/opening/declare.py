"""Make declarations.json: the types of global variables that BTF does not describe.

usage: python -m crashpy.opening.declare VMLINUX...      (newest kernel first)

The variables are those whose names stand as strings in crashpy's and drgn's sources:
every other one is of no use to a command. Arrays are written with the enumerator that
gives their length where one does, so that a table serves kernels it was not made from.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import drgn
import drgn.helpers
from drgn import Object, Program, Type, TypeKind

import crashpy

# Lengths that are enumerators in every kernel, by the array that has them.
LENGTHS = {
    "node_states": "NR_NODE_STATES",
    "vm_node_stat": "NR_VM_NODE_STAT_ITEMS",
    "vm_zone_stat": "NR_VM_ZONE_STAT_ITEMS",
    "vm_numa_event": "NR_VM_NUMA_EVENT_ITEMS",
    "softirq_vec": "NR_SOFTIRQS",
    "__per_cpu_offset": "",
    "node_data": "node_data",
    "mem_section": "mem_section",
}
# Read by drgn's C code, so that no Python source names them.
ALSO = {
    "init_pid_ns", "modules", "__per_cpu_offset", "crash_notes", "panic_cpu", "nr_cpu_ids",
    "__cpu_online_mask", "__cpu_possible_mask", "__cpu_present_mask", "page_offset_base",
    "vmemmap_base", "mem_section", "init_task", "linux_banner", "jiffies_64", "btf_modules",
    "module_kset",
}  # fmt: skip


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
    """A variable's type as bare.Finder reads it; None for what cannot be written."""
    if type_.kind == TypeKind.ARRAY:
        element = declaration("", type_.type)
        if element is None or type_.type.kind == TypeKind.ARRAY:
            return None
        length = LENGTHS.get(name, type_.length if type_.length else "")
        return f"{element} [{length}]"
    if type_.kind in (TypeKind.STRUCT, TypeKind.UNION) and type_.tag is None:
        members = [member.name for member in type_.members or ()]
        return "{" + ",".join(m for m in members if m) + "}" if all(members) else None
    if type_.kind == TypeKind.FUNCTION:
        return None
    return str(type_.type_name())


def variables(path: str, names: set[str]) -> dict[str, str]:
    prog = Program(drgn.host_platform)
    module = prog.extra_module(path, create=True)
    module.try_file(path, force=True)
    found = {}
    for name in sorted(names):
        try:
            variable: Object = prog.variable(name)
        except LookupError:
            continue
        if (text := declaration(name, variable.type_)) is not None:
            found[name] = text
    return found


def main(paths: list[str]) -> int:
    if not paths:
        sys.stderr.write(__doc__ or "")
        return 1
    table: dict[str, list[str]] = {}
    names = wanted()
    for path in paths:
        for name, text in variables(path, names).items():
            alternatives = table.setdefault(name, [])
            if text not in alternatives:
                alternatives.append(text)
    target = Path(__file__).parent / "declarations.json"
    target.write_text(json.dumps(table, indent=0, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
