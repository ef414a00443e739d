"""Trees, node by node and with each one's place: drgn's helpers tell neither place nor damage."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from drgn import Program, offsetof, sizeof

from crashpy.command import CommandError

WORD = (1 << 64) - 1
TAGS = 3  # the low bits of an entry that is no plain pointer
INTERNAL = 2  # tag of what belongs to the tree itself
LOWEST_NODE = 4096  # internal entries up to here are signs (xa_is_node())
ZERO = 257 << 2 | INTERNAL  # XA_ZERO_ENTRY: reserved
DENSE, LEAF_64, RANGE_64, ARANGE_64 = range(4)  # enum maple_type
HEIGHT_SHIFT, HEIGHT = 2, 0x7C  # of maple_tree.ma_flags
MOST_DEPTH = 64

# Reads so many bytes at an address for a purpose. Raises CommandError.
Read = Callable[[int, int, str], bytes]
Report = Callable[[str], None]


class Found(NamedTuple):
    address: int
    position: str  # as `root/l/r`, or `root/0` for slots
    number: int = 0  # of a slot


@dataclass(frozen=True)
class Reader:
    prog: Program
    read: Read
    report: Report

    def word(self, address: int, caller: str) -> int:
        return int.from_bytes(self.read(address & WORD, 8, caller), "little")

    def tried(self, address: int, caller: str) -> int | None:
        try:
            return self.word(address, caller)
        except CommandError as error:
            self.report(str(error))
            return None

    def readable(self, address: int) -> bool:
        try:
            self.word(address, "")
        except CommandError:
            return False
        return True


def red_black(reader: Reader, start: int, *, node: bool, ordered: bool) -> Iterator[Found]:
    """The nodes of an rb_root, or from a node down: each before its children, or in order."""
    try:
        kind = reader.prog.type("struct rb_node")
        left, right = offsetof(kind, "rb_left"), offsetof(kind, "rb_right")
        root = offsetof(reader.prog.type("struct rb_root"), "rb_node")
    except LookupError:
        raise CommandError("red-black trees do not exist or have changed their format") from None

    def child(parent: int, at: int, side: str) -> int:
        found = reader.tried(parent + at, "rb_node rb_" + side)
        if found and not reader.readable(found + left):
            reader.report(f"rb_node: {parent:x}: corrupted rb_{side} pointer: {found:x}")
            return 0
        return found or 0

    first = start if node else reader.word(start + root, "rb_root rb_node")
    seen: set[int] = set()
    enter, show, turn = range(3)
    todo = [(enter, first, "root")] if first else []
    while todo:
        step, at, position = todo.pop()
        if step == enter:
            if at in seen:
                raise CommandError(f"\nduplicate tree entry: {at:x}")
            seen.add(at)
            todo.append((turn, at, position))
            if ordered:
                todo.append((show, at, position))
            else:
                yield Found(at, position)
            if below := child(at, left, "left"):
                todo.append((enter, below, position + "/l"))
        elif step == show:
            yield Found(at, position)
        elif below := child(at, right, "right"):
            todo.append((enter, below, position + "/r"))


@dataclass(frozen=True)
class _Slots:
    """An xarray, or the radix tree that was before it (until Linux 4.20)."""

    head: int  # offset in the root
    tag: int  # of pointers to nodes
    shift: int | None  # offset in a node
    slots: int
    count: int
    height: int | None  # offset in the root of a radix tree before 4.6
    caller: str

    @classmethod
    def of(cls, prog: Program) -> _Slots:
        try:
            root, node = prog.type("struct xarray"), prog.type("struct xa_node")
            names = "xa_head", "xa_node"
            tag = INTERNAL
        except LookupError:
            root, node = prog.type("struct radix_tree_root"), prog.type("struct radix_tree_node")
            names = "rnode", "radix_tree_node"
            tag = 1
        return cls(
            offsetof(root, names[0]),
            tag,
            offsetof(node, "shift") if node.has_member("shift") else None,
            offsetof(node, "slots"),
            node.member("slots").type.length or 64,
            offsetof(root, "height") if root.has_member("height") else None,
            names[1],
        )


def slots(reader: Reader, start: int, *, node: bool) -> Iterator[Found]:
    """The entries of an xarray or radix tree, or from a node down.

    Entries of several indexes come once: crash takes the signs in their other slots for
    entries or, higher up, entries for nodes.
    """
    try:
        layout = _Slots.of(reader.prog)
    except LookupError:
        raise CommandError("xarray facility does not exist or has changed its format") from None
    bits = layout.count.bit_length() - 1
    if node:
        top, inside = start & ~TAGS, True
    else:
        head = reader.word(start + layout.head, "xarray xa_head")
        inside = head & TAGS == layout.tag and (head > LOWEST_NODE or layout.tag == 1)
        top = head & ~TAGS
    if not inside:
        yield Found(top, "direct/0")
        return
    seen: set[int] = set()
    todo = [(top, "root", 0, _height(reader, layout, start, top, bits))]
    while todo:
        at, path, index, height = todo.pop()
        if height == 0:
            yield Found(at, path, index)
            continue
        if at in seen:
            raise CommandError(f"\nduplicate tree node: {at:x}")
        seen.add(at)
        try:
            data = reader.read(at + layout.slots, 8 * layout.count, f"{layout.caller}.slots[off]")
        except CommandError as error:
            if not path.count("/"):
                raise
            reader.report(str(error))
            continue
        below = []
        for off, slot in enumerate(struct.unpack(f"<{layout.count}Q", data)):
            to = index | off << (height - 1) * bits
            if slot & TAGS == layout.tag and height > 1 and slot > 4 * layout.count:
                below.append((slot & ~TAGS, f"{path}/{off}", to, height - 1))
            elif slot and slot & TAGS != layout.tag:
                below.append((slot, f"{path}/{off}", to, 0))
        todo += reversed(below)


def _height(reader: Reader, layout: _Slots, root: int, node: int, bits: int) -> int:
    if layout.shift is not None:
        [shift] = reader.read(node + layout.shift, 1, f"{layout.caller} shift")
        return min(shift // bits + 1, MOST_DEPTH)
    assert layout.height is not None
    height = reader.read(root + layout.height, 4, "radix_tree_root height")
    return min(int.from_bytes(height, "little"), MOST_DEPTH)


class MapleTree(NamedTuple):
    address: int  # struct maple_tree *
    flags: int
    height: int
    root: int  # void *


class MapleNode(NamedTuple):
    address: int  # struct maple_node *
    first: int  # the indexes it is for
    last: int
    depth: int
    kind: int  # enum maple_type
    parent: int
    slots: tuple[int, ...]
    pivots: tuple[int, ...]
    gaps: tuple[int, ...] = ()  # of an arange_64
    end: int = 0
    gap: int = 0


class MapleEntry(NamedTuple):
    address: int  # 0 where nothing is
    first: int
    last: int
    depth: int
    position: str


class Maple:
    """The maple trees of a program."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        prog = reader.prog
        try:
            tree, node = prog.type("struct maple_tree"), prog.type("struct maple_node")
            self._root, self._flags = offsetof(tree, "ma_root"), offsetof(tree, "ma_flags")
            self._tree_size, self._size = sizeof(tree), sizeof(node)
            self._parent, self._dense = offsetof(node, "parent"), offsetof(node, "slot")
            places = [offsetof(node, f"mr64.{name}") for name in ("slot", "pivot")]
            wide = [offsetof(node, f"ma64.{name}") for name in ("slot", "pivot", "gap", "meta")]
            meta = prog.type("struct maple_metadata")
            self._end, self._gap = offsetof(meta, "end"), offsetof(meta, "gap")
            range_64, arange_64 = (
                prog.type(f"struct maple_{name}") for name in ("range_64", "arange_64")
            )
            self._counts = {
                DENSE: node.member("slot").type.length or 0,
                RANGE_64: range_64.member("slot").type.length or 0,
                ARANGE_64: arange_64.member("slot").type.length or 0,
            }
        except LookupError:
            raise CommandError("invalid structure size: maple_tree") from None
        self._counts[LEAF_64] = self._counts[RANGE_64]
        self._places = {LEAF_64: places, RANGE_64: places, ARANGE_64: wide}

    def walk(self, start: int, *, node: bool) -> Iterator[MapleTree | MapleNode | MapleEntry]:
        if node:
            yield from self._node(start, 0, self._last(start), 0, "direct", set())
            return
        data = self._reader.read(start, self._tree_size, "mt_dump read maple_tree")
        root = int.from_bytes(data[self._root : self._root + 8], "little")
        flags = int.from_bytes(data[self._flags : self._flags + 4], "little")
        yield MapleTree(start, flags, (flags & HEIGHT) >> HEIGHT_SHIFT, root)
        if root & TAGS == INTERNAL and root > LOWEST_NODE:
            yield from self._node(root, 0, self._last(root), 0, "root", set())
        else:
            yield MapleEntry(root, 0, 0, 0, "/0")

    def _last(self, entry: int) -> int:
        return self._counts[DENSE] if _kind(entry) == DENSE else WORD

    def _node(
        self, entry: int, first: int, last: int, depth: int, path: str, seen: set[int]
    ) -> Iterator[MapleNode | MapleEntry]:
        node, kind = entry & ~0xFF, _kind(entry)
        if node in seen or depth > MOST_DEPTH:
            raise CommandError(f"\nduplicate tree node: {node:x}")
        seen.add(node)
        try:
            data = self._reader.read(node, self._size, "mt_dump_node read maple_node")
        except CommandError as error:
            if not depth:
                raise
            self._reader.report(str(error))
            return

        def words(at: int, count: int) -> tuple[int, ...]:
            return struct.unpack_from(f"<{count}Q", data, at)

        [parent] = words(self._parent, 1)
        count = self._counts.get(kind, 0)
        if kind not in self._places:
            children = words(self._dense, count)
            yield MapleNode(node, first, last, depth, kind, parent, children, ())
            for i, child in enumerate(children):
                yield MapleEntry(child, first + i, first + i, depth, f"{path}/{i}")
            return
        slot, pivot, *more = self._places[kind]
        children, pivots = words(slot, count), words(pivot, count - 1)
        if more:
            gap, meta = more
            ends = data[meta + self._end], data[meta + self._gap]
            gaps = words(gap, count)
            yield MapleNode(node, first, last, depth, kind, parent, children, pivots, gaps, *ends)
        else:
            yield MapleNode(node, first, last, depth, kind, parent, children, pivots)
        at = first
        for i, child in enumerate(children):
            end = pivots[i] if i < count - 1 else last
            if i == count - 1 and not child and (more or last != WORD):
                break
            if not end and i:
                break
            if kind == LEAF_64:
                yield MapleEntry(child, at, end, depth + 1, f"{path}/{i}")
            elif child:
                yield from self._node(child, at, end, depth + 1, f"{path}/{i}", seen)
            if end == last:
                break
            if end > last:
                self._reader.report(f"node {node:x} last ({end}) > max ({last}) at pivot {i}!")
                break
            at = end + 1


def _kind(entry: int) -> int:
    return entry >> 3 & 0xF
