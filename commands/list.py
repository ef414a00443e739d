"""list: the entries of a linked list, and the structures they are in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drgn import FaultError, TypeKind

from crashpy.command import Address, CommandError, UsageError, command, flag, getopt, value
from crashpy.gdb.memory import Memory, UnreadableError, is_kernel, lowest_kernel_address
from crashpy.gdb.target import resolved
from crashpy.gdb.types import Place, members
from crashpy.gdb.values import Style, length_of
from crashpy.numbers import can_evaluate, evaluate, htol, is_hexadecimal, is_number, stol

from .struct import Compound, Contents, compound, contents, contents_lines, member_lines

if TYPE_CHECKING:
    from crashpy.command import Option
    from crashpy.dump import Dump
    from crashpy.settings import Settings

WORD = (1 << 64) - 1
LONGEST_STRING = 1500  # crash's BUFSIZE

LETTERS = {
    option.name: option
    for option in (
        flag("-B", "brent", ""),
        flag("-H", "head", ""),
        flag("-h", "entry", ""),
        flag("-r", "reverse", ""),
        value("-s", "structs", "struct", str, "", repeat=True),
        value("-S", "structs", "struct", str, "", repeat=True),
        value("-e", "end", "end", str, ""),
        value("-o", "offset", "offset", str, ""),
        value("-O", "head_offset", "offset", str, ""),
        flag("-x", "radix", "", value=16),
        flag("-d", "radix", "", value=10),
        value("-l", "member", "offset", str, ""),
    )
}


@dataclass(frozen=True)
class Entry:
    """One entry of a list, and what was asked for of it."""

    address: Address
    structures: tuple[Contents, ...] = ()
    direct: bool = field(default=False, repr=False)  # -S: values as they are, without gdb


@dataclass(frozen=True)
class Empty:
    """The list has no entries."""


@dataclass
class Walk:
    """Where a list begins and ends, and how it goes on."""

    start: int | None = None
    offset: int | None = None  # of the next pointer in an entry
    end: int = 0
    head: int = 0  # of the list_head in the structure: -h, -H
    head_format: bool = False
    from_head: bool = False  # -H
    reverse: bool = False
    brent: bool = False
    children: int | None = None  # -O: of a list_head in the start's structure
    structs: list[str] = field(default_factory=list)
    direct: bool = False  # -S
    radix: int | None = None
    member: int = 0  # -l: of the list's pointers in the structures shown


@command(
    name="list",
    usage=(
        "[[-o] offset][-e end][-[s|S] struct[.member[,member] [-l offset]] -[x|d]]\n"
        "       [-r|-B] [-h [-O head_offset]|-H] start"
    ),
    words=True,
)
def linked_list(
    dump: Dump, *, words: Sequence[str] = (), settings: Settings | None = None
) -> Iterator[Entry | Empty]:
    """the entries of a linked list

    list OFFSET START follows the pointers at OFFSET of each entry until one is 0, the
    start, or what -e says. OFFSET is a number of bytes or STRUCT.MEMBER; none means 0.
    START is an address, a symbol, or an (expression).

    -h         the list is linked by list_heads at OFFSET of structures; START is one of
               these structures. The structures' addresses are shown.
    -H         as -h, but START is the list_head that the list hangs on, in no structure
    -O OFFSET  with -h: START's structure has that list_head at this offset; it hangs on
               that (as task_struct.children of those linked by task_struct.sibling)
    -r         backwards, by the prev pointers
    -e END     up to this address, exclusive
    -s STRUCT[.MEMBER,MEMBER]  show the structure of each entry, or these members
    -S STRUCT[.MEMBER,MEMBER]  as -s, but numbers and strings as bare values
    -l OFFSET  with -s or -S, without -o: where in STRUCT the list's pointers are
    -x, -d     in hexadecimal, in decimal
    -B         find loops by Brent's algorithm, which needs no memory

    EXAMPLES
      crash> list task_struct.tasks -s task_struct.pid,comm -h init_task
      ffffffffa6409d00
        pid = 0,
        comm = "swapper/0\\000\\000\\000\\000\\000\\000",
      ...
      crash> list -o module.list -S module.name -H modules
      crash> list -o task_struct.sibling -O task_struct.children -h init_task
    """
    walk = given(dump, words)
    assert walk.start is not None
    memory = Memory(dump)
    walk.head = (walk.offset or 0) if walk.head_format else 0
    step = (walk.offset or 0) if not walk.head_format else 8 * walk.reverse
    if walk.head_format and (walk.from_head or walk.children is not None):
        head = walk.start + (step if walk.from_head else walk.children or 0)
        walk.end = walk.end or (walk.start if walk.from_head else head)
        first = _pointer(memory, head, "LIST_HEAD contents")
        if first is None:
            return
        if first == walk.end:
            yield Empty()
            return
        walk.start = first
    elif walk.head_format:
        walk.start += walk.head
    shown = Shown(dump, walk)
    if walk.brent:
        pointers = _brent(dump, memory, walk, step)
    else:
        pointers = _hashed(dump, memory, walk, step, watch=settings is None or settings.hash)
    for at in pointers:
        entry, wrong = shown.entry(at)
        yield entry
        if wrong is not None:
            raise CommandError(f"invalid structure name: {wrong}")


def given(dump: Dump, words: Sequence[str]) -> Walk:
    """What the words ask for; errors come in crash's order (cmd_list())."""
    options, rest = getopt(words, LETTERS)
    walk = Walk()
    for option, argument in options:
        _letter(dump, walk, option.name[1:], argument or "")
    if len(rest) > 2:
        dump.report("too many arguments")
        raise UsageError
    if walk.member and not walk.structs:
        dump.report("-l option can only be used with -s or -S option")
        raise UsageError
    _operands(dump, walk, rest)
    if walk.start is None:
        dump.report("starting address required")
        raise UsageError
    if walk.offset is not None and walk.member:
        dump.report("-l and -o are mutually exclusive")
        raise UsageError
    return walk


def _letter(dump: Dump, walk: Walk, letter: str, word: str) -> None:
    if letter == "B":
        walk.brent = True
    elif letter in "Hhr":
        walk.head_format = True
        walk.from_head |= letter == "H"
        walk.reverse |= letter == "r"
    elif letter in "sS":
        if walk.structs and walk.direct != (letter == "S"):
            raise CommandError("-S and -s options are mutually exclusive")
        walk.structs.append(word)
        walk.direct = letter == "S"
    elif letter == "l":
        walk.member = _offset(dump, word, "invalid -l option")
    elif letter == "O":
        if walk.children is not None:
            raise CommandError(_already(walk.children))
        walk.children = _offset(dump, word, "invalid -O argument")
    elif letter == "o":
        if walk.offset is not None:
            raise CommandError(_already(walk.offset))
        walk.offset = _offset(dump, word, "invalid -o argument")
    elif letter == "e":
        walk.end = htol(word)
    else:
        radix = 16 if letter == "x" else 10
        if walk.radix not in (None, radix):
            raise CommandError("-d and -x are mutually exclusive")
        walk.radix = radix


def _already(offset: int) -> str:
    return f"offset value {offset} ({offset:#x}) already entered"


def _offset(dump: Dump, word: str, complaint: str) -> int:
    if is_number(word):
        return stol(word)
    found = member_offset(dump, word)
    if found is None:
        raise CommandError(f"{complaint}: {word}")
    return found


def member_offset(dump: Dump, word: str) -> int | None:
    """The offset that STRUCT.MEMBER stands for (crash's arg_to_datatype())."""
    name, dot, member = word.partition(".")
    if not dot or not name or not member or "." in member:
        return None
    of = compound(dump.gdb, name)
    place = members(of.type).get(member) if of is not None else None
    return None if place is None else place.offset


def _operands(dump: Dump, walk: Walk, rest: Sequence[str]) -> None:
    """Offset and start, in either order."""

    def begin(address: int) -> None:
        if walk.start is not None:
            raise CommandError("list start already entered")
        walk.start = address

    for i, word in enumerate(rest):
        other = rest[i + 1] if i + 1 < len(rest) else None
        if "." in word and (offset := member_offset(dump, word)) is not None:
            if walk.offset is not None:
                raise CommandError(_already(walk.offset))
            walk.offset = offset
        elif (symbol := dump.symbols.named(word)) is not None:
            begin(symbol.address)
        elif not is_number(word):
            address = evaluate(dump, word) if can_evaluate(word) else 0
            if not address or not is_kernel(dump, address):
                raise CommandError(f"invalid argument: {word}")
            begin(address)
        elif walk.start is not None:
            walk.offset = stol(word)
            return
        elif walk.offset is not None or other is None:
            address = htol(word)
            if not is_kernel(dump, address):
                raise CommandError(f"invalid kernel virtual address: {word}")
            walk.start = address
            return
        elif dump.symbols.named(other) is not None:
            walk.offset = stol(word)
        elif not is_number(other) and not can_evaluate(other) and "." not in other:
            raise CommandError(f"symbol not found: {other}")
        elif (
            is_hexadecimal(word)
            and not word.strip().isdecimal()
            and is_kernel(dump, address := htol(word))
        ):
            walk.start = address
        else:
            walk.offset = stol(word)


def _pointer(memory: Memory, address: int, caller: str) -> int | None:
    """The pointer at an address; None where its page was left out of the dump on purpose."""
    try:
        return int.from_bytes(memory.read(address & WORD, 8, caller), "little")
    except UnreadableError as error:
        if not str(error):
            return None
        raise CommandError(str(error)) from error


def _reader(dump: Dump, memory: Memory) -> Callable[[int, str], int | None]:
    """Reads pointers, at full speed where nothing is wrong."""
    read_word = dump.prog.read_word
    lowest = lowest_kernel_address(dump.prog)

    def read(address: int, caller: str) -> int | None:
        if lowest <= address <= WORD:
            try:
                return read_word(address)
            except FaultError:
                pass
        return _pointer(memory, address, caller)

    return read


def _hashed(dump: Dump, memory: Memory, walk: Walk, step: int, *, watch: bool) -> Iterator[int]:
    """The entries' pointers, each remembered (crash's do_list())."""
    assert walk.start is not None
    read = _reader(dump, memory)
    first = read(walk.start + step & WORD, "first list entry")
    if first is None:
        return
    at = walk.start
    seen: set[int] = set()
    while True:
        yield at
        if watch:
            if at in seen:
                raise CommandError(f"\nduplicate list entry: {at:x}")
            seen.add(at)
        last = at
        found = read(at + step & WORD, "list entry")
        if found is None:
            return
        at = found
        if _ends(dump, walk, at, last, first, second=last == walk.start):
            return


def _ends(dump: Dump, walk: Walk, at: int, last: int, first: int, *, second: bool) -> bool:
    if at == 0:
        if walk.head_format:
            dump.report("\ninvalid list entry: 0")
        return True
    return at in (walk.end, walk.start, last) or (at == first and not second)


def _brent(dump: Dump, memory: Memory, walk: Walk, step: int) -> Iterator[int]:
    """The entries' pointers; a loop is found as crash's do_list_no_hash() finds it."""
    assert walk.start is not None
    read = _reader(dump, memory)
    start = walk.start
    first = read(start + step & WORD, "first list entry")
    if first is None:
        return
    tortoise, hare, power, length = start, first, 2, 0
    at, count = start, 0
    while True:
        yield at
        count += 1
        last = at
        found = read(at + step & WORD, "list entry")
        if found is None:
            return
        at = found
        if count > 1 and tortoise == hare:
            _loop(dump, walk, lambda a: read(a + step & WORD, "list entry"), length)
            return
        if power == length:
            tortoise = hare
            power *= 2
            length = 0
        hare = at
        length += 1
        if _ends(dump, walk, at, last, first, second=count == 1):
            return


def _loop(dump: Dump, walk: Walk, follow: Callable[[int], int | None], length: int) -> None:
    """Says how long a loop is and where it begins."""
    dump.report(f"loop detected, loop length: {length}")
    slow = fast = walk.start
    for _ in range(length):
        fast = follow(fast or 0)
    before = 0
    while slow != fast:
        slow, fast = follow(slow or 0), follow(fast or 0)
        before += 1
    dump.report(f"length from start to loop: {before:x}")
    raise CommandError(f"duplicate list entry: {slow or 0:x}")


class Shown:
    """Reads the structures that entries lie in."""

    def __init__(self, dump: Dump, walk: Walk) -> None:
        self._dump = dump
        self._read = dump.prog.read
        self._walk = walk
        self._memory = Memory(dump)
        self._lowest = lowest_kernel_address(dump.prog)
        self._wanted: list[tuple[str, Compound | None, tuple[str, ...]]] = []
        for word in walk.structs:
            name, dot, listed = word.partition(".")
            paths = tuple(listed.replace(",", " ").split())
            of = compound(dump.gdb, name)
            if of is not None and not of.keyword:
                of = None
            for path in paths if walk.direct else ():
                if of is None or locate(of, path) is None:
                    raise CommandError(f"Can't get offset of '{name}.{path}'")
            if paths or not dot or of is None:
                self._wanted.append((name, of, paths))

    def entry(self, at: int) -> tuple[Entry, str | None]:
        """An entry, and the name of a structure that there is none of."""
        walk = self._walk
        address = Address(at - walk.head & WORD)
        found: list[Contents] = []
        for name, of, paths in self._wanted:
            if of is None:
                return Entry(address, tuple(found), walk.direct), name
            found.append(self._contents(of, address - walk.member & WORD, paths))
        return Entry(address, tuple(found), walk.direct), None

    def _contents(self, of: Compound, at: int, paths: tuple[str, ...]) -> Contents:
        if at >= self._lowest:
            try:
                data = self._read(at, of.size)
            except FaultError:
                pass
            else:
                return Contents(of, Address(at), paths, data, self._dump.gdb)
        return contents(self._dump, of, at, paths, self._memory)


def locate(of: Compound, path: str) -> Place | None:
    """The place of a member, or of one deeper down."""
    type_ = of.type
    bits = 0
    place: Place | None = None
    for step in path.split("."):
        name, *indices = step.replace("]", "").split("[")
        place = members(type_).get(name)
        if place is None:
            return None
        bits += place.bit_offset
        here, width = place.type, place.bits
        for index in indices:
            plain = resolved(here)
            if plain.kind != TypeKind.ARRAY or not index.isdecimal():
                return None
            here, width = plain.type, None
            bits += 8 * int(index) * (length_of(resolved(here)) or 0)
        place = Place(here, bits // 8, bits, width)
        type_ = resolved(here)
    return place


@linked_list.text
def lines(
    records: Iterable[Entry | Empty], *, settings: Settings, words: Sequence[str] = ()
) -> Iterator[str]:
    style = Style.of(settings, asked_radix(words, LETTERS))
    shapes: Shapes = {}
    for record in records:
        if isinstance(record, Empty):
            yield "(empty)"
            continue
        yield f"{record.address:x}"
        yield from structure_lines(record.structures, shapes, style, "list", direct=record.direct)


def asked_radix(words: Sequence[str], letters: Mapping[str, Option]) -> int | None:
    """The last of -x and -d among the words."""
    found = [o.const for o, _ in getopt(words, letters)[0] if o.dest == "radix"]
    return found[-1] if found else None


Shape = Callable[[Contents], Iterable[str]]
Shapes = dict[tuple[int, str], Shape]  # by structure and path: worked out once


def structure_lines(
    parts: Iterable[Contents], shapes: Shapes, style: Style, name: str, *, direct: bool
) -> Iterator[str]:
    """The structures in an entry, as the command of that name shows them."""
    for part in parts:
        if not part.paths:
            yield from contents_lines(part, style, name)
        elif part.data is None and not direct:
            continue  # the reason has been told
        else:
            for path in part.paths:
                key = id(part.of), path
                if key not in shapes:
                    shapes[key] = shape(part, path, style, direct=direct)
                yield from shapes[key](part)


def shape(part: Contents, path: str, style: Style, *, direct: bool) -> Shape:
    """How to show a member of all structures of a kind."""
    place = locate(part.of, path)
    if direct and place is not None and (bare := direct_shape(path, place, style)):
        return bare
    if re.split(r"[.\[]", path)[0] not in members(part.of.type):
        report = f"invalid data structure member reference: {path}"

        def missing(part: Contents) -> Iterable[str]:
            part.target.dump.report(report)
            return ()

        return missing
    return lambda part: member_lines(part, path, style) if part.data is not None else ()


def direct_shape(path: str, place: Place, style: Style) -> Shape | None:
    """A value without gdb's help (crash's print_value()); None of what is too long."""
    plain = resolved(place.type)
    size = length_of(plain) or 0
    at = place.offset
    pointer = plain.kind == TypeKind.POINTER
    string = is_string(place, path)
    if place.bits is not None or not size or (size > 8 and not string):
        return None
    number = f"  {path} = "
    number += "0x%x" if pointer or style.radix == 16 else "%d"

    def shown(part: Contents) -> Iterable[str]:
        target, data = part.target, part.data
        if data is None:
            if size <= 8:
                where = part.address + at
                target.dump.report(f"cannot access member: {path} at {where:x}")
            return
        word = int.from_bytes(data[at : at + size], "little") if size <= 8 else 0
        text = number % word if size in (1, 2, 4, 8) else ""
        if string and pointer:
            text += f'  "{_string(part, word)}"'
        elif string:
            text = f'  {path} = "'
            found = data[at : at + size].partition(b"\0")[0]
            text += found.decode(errors="surrogateescape") + '"'
        elif size == 8 and word >> 47:
            symbol = target.dump.symbols.at(word)
            if symbol is not None and target.dump.symbols.is_text_symbol(symbol[0]):
                text += f" <{symbol[0].name}>"
        yield text

    return shown


def _string(part: Contents, address: int) -> str:
    data, _ = part.target.string(address, LONGEST_STRING) if address else (b"", False)
    return data.partition(b"\0")[0].decode(errors="surrogateescape")


def is_string(place: Place, path: str) -> bool:
    """A member declared as ``char name[n]`` or ``char *name``, whatever sign it has."""
    if "." in path or "[" in path or place.type.kind not in (TypeKind.ARRAY, TypeKind.POINTER):
        return False
    type_ = place.type.type
    return type_.kind == TypeKind.INT and type_.name.endswith("char")
