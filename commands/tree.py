"""tree: the entries of a tree, and the structures in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from crashpy.command import Address, CommandError, UsageError, command, flag, getopt, value
from crashpy.gdb.memory import Memory, UnreadableError, is_kernel
from crashpy.gdb.values import Style
from crashpy.kernel import trees
from crashpy.kernel.trees import LOWEST_NODE, ZERO, MapleNode, MapleTree
from crashpy.numbers import can_evaluate, evaluate, htol, is_hexadecimal, is_number, stol
from crashpy.output import Unended

from .list import Shapes, Shown, Walk, asked_radix, member_offset, structure_lines
from .struct import Contents

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.settings import Settings

RED_BLACK, RADIX, XARRAY, MAPLE = "rbtrees", "radix trees", "Xarrays", "maple trees"
STARTS = {"ra": RADIX, "rb": RED_BLACK, "x": XARRAY, "m": MAPLE}  # of what -t takes

LETTERS = {
    option.name: option
    for option in (
        flag("-x", "radix", "", value=16),
        flag("-d", "radix", "", value=10),
        value("-t", "kind", "type", str, ""),
        value("-r", "root", "offset", str, ""),
        value("-o", "offset", "offset", str, ""),
        value("-s", "structs", "struct", str, "", repeat=True),
        value("-S", "structs", "struct", str, "", repeat=True),
        flag("-p", "position", ""),
        flag("-l", "ordered", ""),
        flag("-N", "node", ""),
        flag("-v", "verbose", ""),
    )
}


@dataclass(frozen=True)
class Entry:
    """An entry of a tree, and what was asked for of it."""

    address: Address  # 0 in a maple tree where nothing is
    index: int | None = None  # None in a red-black tree
    last: int | None = None  # of a maple tree's entry: the last index it is for
    position: str | None = None  # -p: where it is, seen from the root
    structures: tuple[Contents, ...] = ()
    # How crash shows it.
    maple: bool = field(default=False, repr=False)
    counted: int = field(default=0, repr=False)  # crash's index of an entry of a maple tree
    depth: int | None = field(default=None, repr=False)  # -v
    direct: bool = field(default=False, repr=False)  # -S


@dataclass(frozen=True)
class Root:
    """-v: a ``struct maple_tree``."""

    tree: MapleTree

    def __json__(self) -> dict[str, Any]:
        return {
            "tree": Address(self.tree.address),
            "flags": self.tree.flags,
            "height": self.tree.height,
            "root": Address(self.tree.root),
        }


@dataclass(frozen=True)
class Node:
    """-v: a ``struct maple_node``."""

    node: MapleNode

    def __json__(self) -> dict[str, Any]:
        found = self.node._asdict()
        for name in ("address", "parent"):
            found[name] = Address(found[name])
        found["slots"] = [Address(slot) for slot in self.node.slots]
        return {"node": found.pop("address"), **found}


@dataclass
class Given:
    """What a line asks for."""

    start: int = 0
    kind: str = ""
    root: int | None = None
    offset: int | None = None
    structs: list[str] = field(default_factory=list)
    direct: bool = False
    position: bool = False
    ordered: bool = False
    node: bool = False
    verbose: bool = False
    radix: int | None = None


@command(
    usage=(
        "[-t [radix|xarray|rbtree|maple]] [-r offset] [-[s|S] struct[.member[,member]]]\n"
        "       -[x|d] [-o offset] [-l] [-p] [-v] [-N] start"
    ),
    words=True,
)
def tree(dump: Dump, *, words: Sequence[str] = ()) -> Iterator[Entry | Root | Node]:
    """the entries of a red-black tree, xarray, radix tree or maple tree

    START is the address or the symbol of the tree's root, or an (expression).

    -t TYPE    rbtree, xarray, radix or maple; rb, x, ra and m will do; rbtree by default.
               Radix trees are xarrays since Linux 4.20
    -r OFFSET  START is a structure that has the root at this offset: a number of bytes,
               or STRUCT.MEMBER
    -N         START is a node, not a root
    -o OFFSET  where the rb_node is in its structure, whose address is shown then
    -l         a red-black tree in its order; by default each node comes before those
               below it
    -p         where each entry is, seen from the root, and its index
    -s STRUCT[.MEMBER,MEMBER]  show the structure of each entry, or these members
    -S STRUCT[.MEMBER,MEMBER]  as -s, but numbers and strings as bare values
    -x, -d     in hexadecimal, in decimal
    -v         the nodes of a maple tree, too

    EXAMPLES
      crash> tree -t xarray -p -r pid_namespace.idr -S pid.level init_pid_ns
      ffffa0bb801a7000
        index: 1  position: root/0/1
        level = 0
      ...
      crash> tree -t maple -x -S vm_area_struct.vm_start -r mm_struct.mm_mt ffffa0bb801504c0
      ffffa0bb808d8098
        vm_start = 0x400000
      ...
      crash> tree -l -o vmap_area.rb_node -s vmap_area.va_start,va_end free_vmap_area_root
    """
    asked = given(dump, words)
    start = asked.start if asked.node else asked.start + (asked.root or 0)
    reader = trees.Reader(dump.prog, _reader(dump), dump.report)
    shown: Shown | None = None
    for found in _found(reader, asked, start):
        if isinstance(found, Root | Node):
            if asked.verbose:
                yield found
            continue
        if shown is None:  # what is wrong with the structures is told when there is an entry
            shown = _shown(dump, asked)
        yield from _filled(found, asked, shown)


def _filled(found: Entry, asked: Given, shown: Shown) -> Iterator[Entry]:
    if not found.address and found.maple:
        if asked.verbose:
            yield replace(found, position=None)
        return
    with_structures, wrong = shown.entry(found.address)
    yield Entry(
        found.address,
        found.index,
        found.last,
        found.position if asked.position else None,
        with_structures.structures,
        found.maple,
        found.counted,
        found.depth if asked.verbose else None,
        asked.direct,
    )
    if wrong is not None:
        raise CommandError(f"invalid structure name: {wrong}")


def _found(reader: trees.Reader, asked: Given, start: int) -> Iterator[Entry | Root | Node]:
    if asked.kind == MAPLE:
        count = 0
        for each in trees.Maple(reader).walk(start, node=asked.node):
            if isinstance(each, MapleTree):
                yield Root(each)
            elif isinstance(each, MapleNode):
                yield Node(each)
            else:
                count += bool(each.address)
                yield Entry(
                    Address(each.address),
                    each.first,
                    each.last,
                    each.position,
                    maple=True,
                    counted=count,
                    depth=each.depth,
                )
    elif asked.kind in (XARRAY, RADIX):
        for one in trees.slots(reader, start, node=asked.node):
            yield Entry(Address(one.address), one.number, None, one.position)
    else:
        offset = asked.offset or 0
        for one in trees.red_black(reader, start, node=asked.node, ordered=asked.ordered):
            yield Entry(Address(one.address - offset & trees.WORD), position=one.position)


def _reader(dump: Dump) -> trees.Read:
    memory = Memory(dump)

    def read(address: int, size: int, caller: str) -> bytes:
        try:
            return memory.read(address, size, caller)
        except UnreadableError as error:
            text = (
                str(error)
                or f'page excluded: kernel virtual address: {address:x}  type: "{caller}"'
            )
            raise CommandError(text) from error

    return read


def _shown(dump: Dump, asked: Given) -> Shown:
    walk = Walk(structs=asked.structs, direct=True)  # members are looked for with -s, too
    shown = Shown(dump, walk)
    walk.direct = asked.direct
    return shown


def given(dump: Dump, words: Sequence[str]) -> Given:
    """What the words ask for; errors come in crash's order (cmd_tree())."""
    options, rest = getopt(words, LETTERS)
    asked = Given()
    for option, argument in options:
        _letter(dump, asked, option.name[1:], argument or "")
    slotted = asked.kind in (RADIX, XARRAY, MAPLE)
    if slotted and asked.ordered:
        raise CommandError(f"-l option is not applicable to {asked.kind}")
    if slotted and asked.offset is not None:
        raise CommandError(f"-o option is not applicable to {asked.kind}")
    if asked.kind not in ("", MAPLE) and asked.verbose:
        raise CommandError(f"-v option is not applicable to {asked.kind}")
    if asked.root is not None and asked.node:
        raise CommandError("-r and -N options are mutually exclusive")
    if not rest:
        dump.report("a starting address is required")
        raise UsageError
    asked.start = _start(dump, rest[0])
    if len(rest) > 1:
        dump.report("too many arguments entered")
        raise UsageError
    return asked


def _letter(dump: Dump, asked: Given, letter: str, word: str) -> None:
    if letter == "t":
        if asked.kind:
            dump.report("multiple tree types may not be entered")
            raise UsageError
        asked.kind = next((kind for start, kind in STARTS.items() if word.startswith(start)), "")
        if not asked.kind:
            dump.report(f"invalid tree type: {word}")
            raise UsageError
    elif letter == "r":
        if asked.root is not None:
            raise CommandError(_already("root", asked.root))
        asked.root = _offset(dump, word, "r")
    elif letter == "o":
        if asked.offset is not None:
            raise CommandError(_already("node", asked.offset))
        asked.offset = _offset(dump, word, "o")
    elif letter in "sS":
        if asked.structs and asked.direct != (letter == "S"):
            raise CommandError("-S and -s options are mutually exclusive")
        asked.structs.append(word)
        asked.direct = letter == "S"
    elif letter in "xd":
        radix = 16 if letter == "x" else 10
        if asked.radix not in (None, radix):
            raise CommandError("-d and -x are mutually exclusive")
        asked.radix = radix
    else:
        setattr(asked, LETTERS[f"-{letter}"].dest, True)


def _already(which: str, offset: int) -> str:
    return f"{which} offset value {offset} ({offset:#x}) already entered"


def _offset(dump: Dump, word: str, letter: str) -> int:
    if is_number(word):
        return stol(word)
    found = member_offset(dump, word)
    if found is None:
        if word.count(".") > 1:
            word = word.partition(".")[0]  # of a path crash leaves no more
        raise CommandError(f"invalid -{letter} argument: {word}")
    return found


def _start(dump: Dump, word: str) -> int:
    if (symbol := dump.symbols.named(word)) is not None:
        return symbol.address
    address = 0
    if not is_number(word):
        address = evaluate(dump, word) if can_evaluate(word) else 0
    elif is_hexadecimal(word) and not word.strip().isdecimal():
        address = htol(word)
    if not address or not is_kernel(dump, address):
        raise CommandError(f"invalid start argument: {word}")
    return address


@tree.text
def lines(
    records: Iterable[Entry | Root | Node], *, settings: Settings, words: Sequence[str] = ()
) -> Iterator[str]:
    radix = asked_radix(words, LETTERS)
    style = Style.of(settings, radix)
    hexadecimal = (radix or settings.radix) == 16
    shapes: Shapes = {}
    for record in records:
        if isinstance(record, Root):
            found = record.tree
            yield (
                f"maple_tree({found.address:x}) flags {found.flags:X}, height {found.height} "
                f"root 0x{found.root:x}"
            )
            yield ""
        elif isinstance(record, Node):
            yield from _node_lines(record.node, hexadecimal)
        else:
            yield from _entry_lines(record, hexadecimal)
            yield from structure_lines(
                record.structures, shapes, style, "tree", direct=record.direct
            )


def _entry_lines(entry: Entry, hexadecimal: bool) -> Iterator[str]:
    number = "x" if hexadecimal else "d"
    if entry.depth is not None:
        yield _indexes(entry.index or 0, entry.last or 0, entry.depth, number) + _meaning(
            entry.address, hexadecimal
        )
    elif entry.maple:
        yield f"{entry.address:{number}}"
    else:
        yield f"{entry.address:x}"
    if entry.position is None:
        return
    if entry.maple:
        yield f"  index: {entry.counted:{number}}  position: {entry.position}"
    elif entry.index is not None:
        yield f"  index: {entry.index}  position: {entry.position}"
    else:
        yield f"  position: {entry.position}"


def _indexes(first: int, last: int, depth: int, number: str) -> str:
    indent = " " * min(2 * depth, 32)
    if first == last:
        return f"{indent}{first:{number}}: "
    return f"{indent}{first:{number}}-{last:{number}}: "


def _meaning(entry: int, hexadecimal: bool) -> str:
    if entry & 1:
        return f"value {f'0x{entry >> 1:x}' if hexadecimal else entry >> 1} [0x{entry:x}]"
    if entry == ZERO:
        return f"zero ({f'0x{entry >> 2:x}' if hexadecimal else entry >> 2})"
    if entry & trees.TAGS == trees.INTERNAL and entry < LOWEST_NODE:
        return f"UNKNOWN ENTRY (0x{entry:x})"
    return f"0x{entry:x}" if hexadecimal else f"{entry:d}"


def _node_lines(node: MapleNode, hexadecimal: bool) -> Iterator[str]:
    number = "x" if hexadecimal else "d"
    line = _indexes(node.first, node.last, node.depth, number)
    parent = _pointer(node.parent) if node.address else "(nil)"
    line += f"node 0x{node.address:x} depth {node.depth} type {node.kind} parent {parent}"
    if node.kind == trees.DENSE:
        yield Unended(line)
        return
    if not node.pivots:
        yield line + " UNKNOWN TYPE"
        return
    line += " contents: "
    if node.gaps:
        line += "".join(f"{gap:{number}} " for gap in node.gaps)
        line += f"| {node.end:02X} {node.gap:02X}| "
    for slot, pivot in zip(node.slots, node.pivots, strict=False):
        line += f"{_pointer(slot)} {pivot:{number}} "
    yield line + _pointer(node.slots[-1])


def _pointer(value: int) -> str:
    """As printf's %p."""
    return f"0x{value:x}" if value else "(nil)"
