"""Finding every task: by the PID index, and by the kernel's own lists where that has holes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from drgn import FaultError, Object, PlatformFlags, Program, Type, TypeKind, sizeof

# Where a walk through damaged memory ends in any case: the kernel's own limit of PIDs.
PID_MAX_LIMIT = 1 << 22

Hole = Callable[[str, Exception], None]


class Layout:
    """Members of one structure, read with a single unpack: {name: "path.to.member"}.

    Members that this kernel does not have are left out of ``names``.
    """

    def __init__(self, prog: Program, type_: Type, members: dict[str, str]) -> None:
        found = []
        for name, path in members.items():
            try:
                offset, member = _member(type_, path)
            except LookupError:
                continue
            found.append((offset, name, _code(member)))
        found.sort()
        self.names = [name for _, name, _ in found]
        self.offset = {name: offset for offset, name, _ in found}
        codes, end = [byte_order(prog)], 0
        for offset, _, code in found:
            if offset < end:
                raise ValueError("members overlap")
            codes.append(f"{offset - end}x{code}")
            end = offset + struct.calcsize(f"={code}")
        self._struct = struct.Struct("".join(codes))
        self.size = end
        # Of a buffer and an offset: the members in the order of `names`.
        self.tuple = self._struct.unpack_from

    def read(self, prog: Program, address: int) -> dict[str, Any]:
        """The members at that address; bytes for arrays. Raises FaultError."""
        return self.unpack(prog.read(address, self.size))

    def unpack(self, data: bytes, offset: int = 0) -> dict[str, Any]:
        """The members in a buffer."""
        return dict(zip(self.names, self._struct.unpack_from(data, offset), strict=True))


def byte_order(prog: Program) -> str:
    """struct's sign for the byte order of the dump."""
    assert prog.platform is not None
    return "<" if prog.platform.flags & PlatformFlags.IS_LITTLE_ENDIAN else ">"


def word_code(prog: Program) -> str:
    """struct's letter for the dump's unsigned long."""
    assert prog.platform is not None
    return "Q" if prog.platform.flags & PlatformFlags.IS_64_BIT else "I"


def read_variable(prog: Program, name: str, size: int) -> int:
    """A number of the kernel's, by its debug information or, without, by its symbol.

    Raises LookupError, FaultError.
    """
    try:
        value: int = prog.variable(name).value_()
        return value
    except LookupError:
        address = prog.symbol(name).address
    data = prog.read(address, size)
    return int.from_bytes(data, "little" if byte_order(prog) == "<" else "big")


def _member(type_: Type, path: str) -> tuple[int, Type]:
    offset = 0
    for part in path.split("."):
        name, _, index = part.partition("[")
        while type_.kind == TypeKind.TYPEDEF:
            type_ = type_.type
        member = type_.member(name)
        offset += member.offset
        type_ = member.type
        if index:
            while type_.kind == TypeKind.TYPEDEF:
                type_ = type_.type
            type_ = type_.type
            offset += int(index.rstrip("]")) * sizeof(type_)
    while type_.kind in (TypeKind.TYPEDEF, TypeKind.ENUM) and type_.type is not None:
        type_ = type_.type
    return offset, type_


def _code(type_: Type) -> str:
    """struct's letter for a scalar, ``Ns`` for anything else."""
    size = sizeof(type_)
    letter = {1: "B", 2: "H", 4: "I", 8: "Q"}.get(size)
    if letter is None or type_.kind in (TypeKind.ARRAY, TypeKind.STRUCT, TypeKind.UNION):
        return f"{size}s"
    if type_.kind == TypeKind.INT and type_.is_signed:
        return letter.lower()
    return letter


def xarray_entries(xarray: Object, hole: Hole) -> Iterator[int]:
    """The entries of an XArray by index: each node is read once, none twice.

    Raises AttributeError for the radix trees before Linux 4.20.
    """
    prog = xarray.prog_
    head = xarray.xa_head.value_()
    node_type = prog.type("struct xa_node")
    slots, array = _member(node_type, "slots")
    size, word = sizeof(array), word_code(prog)
    unpack = struct.Struct(f"{byte_order(prog)}{size // struct.calcsize(f'={word}')}{word}").unpack
    seen: set[int] = set()
    pending = [head]
    while pending:
        entry = pending.pop()
        # xa_is_node(): an internal entry that is neither a sibling nor an error.
        if entry & 3 == 2 and entry > 4096:
            if entry in seen:
                continue
            seen.add(entry)
            try:
                children = unpack(prog.read(entry - 2 + slots, size))
            except FaultError as fault:
                hole(f"xa_node {entry - 2:x}", fault)
                continue
            pending += [child for child in reversed(children) if child]
        elif entry and entry & 3 == 0:
            yield entry


def indexed_tasks(prog: Program, hole: Hole) -> Iterator[int]:
    """``struct task_struct *`` of every PID of the initial namespace, by PID."""
    kind = prog["PIDTYPE_PID"].value_()
    task_type = prog.type("struct task_struct")
    try:
        link = _member(task_type, f"pid_links[{kind}]")[0]
    except LookupError:
        # Before Linux kernel commit 2c4704756cab ("pids: Move the pgrp and session
        # pid pointers from task_struct to signal_struct") (in v4.19)
        link = _member(task_type, f"pids[{kind}].node")[0]
    layout = Layout(
        prog,
        prog.type("struct pid"),
        {"first": f"tasks[{kind}].first", "namespace": "numbers[0].ns"},
    )
    namespace = prog["init_pid_ns"].address_
    for pid in _struct_pids(prog, hole):
        try:
            found = layout.read(prog, pid)
        except FaultError as fault:
            hole(f"struct pid {pid:x}", fault)
            continue
        if found["namespace"] == namespace and found["first"]:
            yield found["first"] - link


def _struct_pids(prog: Program, hole: Hole) -> Iterator[int]:
    try:
        yield from xarray_entries(prog["init_pid_ns"].idr.idr_rt, hole)
    except (AttributeError, LookupError):
        # Radix trees before Linux 4.20, the hash table before 4.15: drgn knows both.
        from drgn.helpers.linux.pid import for_each_pid

        try:
            for pid in for_each_pid(prog):
                yield pid.value_()
        except FaultError as fault:
            hole("struct pid", fault)


def linked_tasks(prog: Program, known: Iterable[int]) -> Iterator[int]:
    """The tasks to be reached from the known ones by lists and family, those excluded.

    A link counts only where the other end points back, so that an overwritten
    list leads nowhere instead of into garbage.
    """
    task_type = prog.type("struct task_struct")
    lists = ("tasks", "thread_node", "sibling", "children")
    pointers = ("group_leader", "real_parent", "signal")
    members = {f"{name}.{end}": f"{name}.{end}" for name in lists for end in ("next", "prev")}
    layout = Layout(prog, task_type, members | {name: name for name in pointers})
    offsets = {
        name: _member(task_type, name)[0] for name in lists if f"{name}.next" in layout.names
    }
    try:
        thread_head = _member(prog.type("struct signal_struct"), "thread_head")[0]
    except LookupError:
        thread_head = 0  # before Linux 3.14
    seen = set(known)
    pending = [*seen, prog["init_task"].address_]
    while pending and len(seen) < PID_MAX_LIMIT:
        task = pending.pop()
        try:
            values = layout.read(prog, task)
        except FaultError:
            continue
        heads = {
            task + offsets["children"],
            values["real_parent"] + offsets["children"],
            values["signal"] + thread_head,
        }
        near = []
        for name, offset in offsets.items():
            # A parent's `children` is the head of a list of its children's `sibling`.
            at = "sibling" if name == "children" else name
            for end, opposite in (("next", "prev"), ("prev", "next")):
                link = values[f"{name}.{end}"]
                other = link - offsets[at]
                if link in heads or other in seen:
                    continue
                if _points(prog, layout, other, f"{at}.{opposite}", task + offset):
                    near.append(other)
        leader = values["group_leader"]
        if leader not in seen and _points(prog, layout, leader, "group_leader", leader):
            near.append(leader)
        for other in near:
            if other not in seen:
                seen.add(other)
                pending.append(other)
                yield other


def _points(prog: Program, layout: Layout, task: int, member: str, target: int) -> bool:
    try:
        found = prog.read_word(task + layout.offset[member])
    except (FaultError, OverflowError):
        return False
    return found == target
