"""struct, union, *: definitions and contents of structures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from drgn import Type, TypeKind, TypeMember, sizeof

from crashpy.command import Address, CommandError, UsageError, command, flag, getopt, value
from crashpy.gdb.expressions import lookup
from crashpy.gdb.extract import Node, parsed, path_lines
from crashpy.gdb.memory import FILE, KERNEL, USER, Memory, UnreadableError, is_kernel
from crashpy.gdb.percpu import chosen_cpus, is_per_cpu, offline
from crashpy.gdb.pointers import Pointee, pointee
from crashpy.gdb.target import Target, resolved
from crashpy.gdb.types import COMPOUND, Place, declared, members, with_offsets
from crashpy.gdb.values import (
    Style,
    compiled,
    compiled_bits,
    length_of,
    plain_value,
    show,
    type_key,
)
from crashpy.kernel.percpu import per_cpu_offsets
from crashpy.numbers import htol, is_number, stol
from crashpy.output import Unended

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.settings import Settings

WORD = (1 << 64) - 1
USAGE = (
    "{0}_name[.member[,member]]{1}[-o][-l offset][-rfuxdp]\n"
    "         [address | symbol][:cpuspec] [count | -c count]"
)


@dataclass(frozen=True)
class Options:
    """What the letters before and after the name ask for."""

    radix: int | None = None  # -x, -d
    offsets: bool = False  # -o
    raw: bool = False  # -r
    verbose: bool = False  # -v
    pointers: bool = False  # -p
    kind: str = KERNEL  # -u, -f
    before: int = 0  # -l, bytes
    count: int | None = None  # -c


@dataclass(frozen=True)
class Compound:
    """A structure or union by the name it was asked for."""

    name: str
    keyword: str  # struct or union
    type: Type = field(repr=False)
    size: int
    typedef: bool = False

    @cached_property
    def key(self) -> object:
        """Equal for structures that look the same."""
        return type_key(self.type)

    @property
    def declared(self) -> list[str]:
        return declared(self.name, self.type, typedef=self.typedef)


@dataclass(frozen=True)
class Definition:
    """A structure's declaration, or one member of it; at an address, where its members are."""

    of: Compound
    size_bytes: int
    member: str | None
    members: dict[str, Place]
    offsets: bool
    address: Address | None = None

    def __json__(self) -> dict[str, Any]:
        places = {
            name: {"offset": p.offset, "type": p.type.type_name(), "bits": p.bits}
            for name, p in self.members.items()
            if self.member in (None, name)
        }
        return {
            "name": self.of.name,
            "kind": self.of.keyword,
            "size_bytes": self.size_bytes,
            "address": self.address,
            "members": places,
        }


@dataclass(frozen=True)
class Contents:
    """A structure in memory, or some members of it."""

    of: Compound
    address: Address
    paths: tuple[str, ...]  # members; none asks for the whole
    data: bytes | None = field(repr=False)
    target: Target = field(repr=False)
    fault: str | None = None  # why it could not be read
    pointers: bool = False

    def __json__(self) -> dict[str, Any]:
        found: dict[str, Any] = {"name": self.of.name, "address": self.address}
        if self.data is None:
            return {**found, "value": None, "fault": self.fault}
        whole = plain_value(self.target, self.of.type, self.data, 0, self.address)
        if self.paths:
            whole = {path: _picked(whole, path) for path in self.paths}
        return {**found, "value": whole}


@dataclass(frozen=True)
class Raw:
    """The bytes of a structure or member."""

    address: Address
    data: bytes
    symbols: tuple[str, ...] | None  # -v: names for words that are kernel addresses


@dataclass(frozen=True)
class Cpu:
    """What follows is the copy of this CPU."""

    cpu: int
    address: Address | None  # None: it is offline


@dataclass(frozen=True)
class Gap:
    """An empty line between two elements of an array."""


@dataclass(frozen=True)
class Unknown:
    """A symbol that there is none of, and those whose names contain it."""

    name: str
    alternatives: tuple[tuple[Address, str, str, str | None], ...]


Record = Definition | Contents | Raw | Cpu | Gap | Unknown

LETTERS = {
    f"-{o.name[1:]}": o
    for o in (
        flag("-p", "pointers", ""),
        flag("-x", "radix", "", value=16),
        flag("-h", "radix", "", value=16),
        flag("-d", "radix", "", value=10),
        flag("-f", "kind", "", value=FILE),
        flag("-u", "kind", "", value=USER),
        value("-c", "count", "count", str, ""),
        flag("-r", "raw", ""),
        flag("-v", "verbose", ""),
        flag("-o", "offsets", ""),
        value("-l", "before", "offset", str, ""),
    )
}


@command(usage=USAGE.format("struct", ""), words=True)
def struct(dump: Dump, *, words: Sequence[str] = ()) -> Iterator[Record]:
    """the definition or the contents of a structure

    struct NAME shows the definition and the size of a structure, with -o the offset of
    each member; NAME.MEMBER one member. With an address or a symbol it shows contents:
    of the whole structure, or of the members NAME.MEMBER,MEMBER...; a member may be a
    path like se.load.weight or rlim[3].rlim_cur. NAME may be a typedef's.

    -x, -d     in hexadecimal, in decimal
    -o         offsets; with an address, the address of each member
    -l OFFSET  the address is that of a member: a number of bytes, or STRUCT.MEMBER
    -p         pointers together with what they point to
    -r         the bytes as they are
    -u         a user address of the context's; -f an offset into the dump file
    :CPUSPEC   of a per-CPU symbol: `:` the context's CPU, `:a` all, `:1,3-5` these
    COUNT      so many elements of an array; -c -COUNT those up to the address

    EXAMPLES
      crash> struct list_head
      struct list_head {
          struct list_head *next;
          struct list_head *prev;
      }
      SIZE: 16

      crash> struct task_struct.pid,comm init_task
        pid = 0,
        comm = "swapper/0\\000\\000\\000\\000\\000\\000",

      crash> struct rq.nr_running -x runqueues:a
      crash> struct -o task_struct.pid
      crash> task_struct.se.vruntime init_task
    """
    return shown(dump, words, "struct")


@command(usage=USAGE.format("union", " "), words=True)
def union(dump: Dump, *, words: Sequence[str] = ()) -> Iterator[Record]:
    """the definition or the contents of a union

    Everything is as with `struct`.

    EXAMPLES
      crash> union sigval
      crash> union -x sigval init_task
    """
    return shown(dump, words, "union")


@command(name="*", usage="(struct or union command arguments)", words=True)
def pointed_to(dump: Dump, *, words: Sequence[str] = ()) -> Iterator[Record]:
    """a structure or a union, whichever the name is

    Short for `struct` and `union`; the arguments are theirs.

    EXAMPLES
      crash> *list_head
      crash> *task_struct.pid init_task
    """
    return shown(dump, words, "")


def parsed_options(dump: Dump, words: Sequence[str]) -> tuple[Options, list[str]]:
    """getopt's part of the command line, in its order: errors come as crash finds them."""
    found, rest = getopt(words, LETTERS)
    options = Options()
    for option, argument in found:
        if option.dest == "radix":
            if options.radix is not None and options.radix != option.const:
                raise CommandError("-d and -x are mutually exclusive")
            options = replace(options, radix=option.const)
        elif option.dest == "count":
            options = replace(options, count=_atoi(argument or ""))
        elif option.dest == "before":
            options = replace(options, before=_offset(dump, argument or ""))
        else:
            options = replace(options, **{option.dest: option.const})
    return options, rest


def _atoi(word: str) -> int:
    found = re.match(r"\s*([+-]?\d+)", word)
    return int(found[1]) if found else 0


def _offset(dump: Dump, word: str) -> int:
    """What -l takes: a number of bytes, or STRUCT.MEMBER."""
    if is_number(word):
        return stol(word)
    name, dot, member = word.partition(".")
    found = compound(dump.gdb, name) if dot and "." not in member else None
    place = members(found.type).get(member) if found else None
    if place is None:
        raise CommandError(f"invalid -l option: {word}")
    return place.offset


def compound(target: Target, name: str) -> Compound | None:
    """The structure, union or other type of a name; keyword is empty for other types."""
    type_ = target.compound(name)
    if type_ is None:
        return None
    plain = resolved(type_)
    size = length_of(plain)
    keyword = {TypeKind.STRUCT: "struct", TypeKind.UNION: "union"}.get(plain.kind, "")
    return Compound(name, keyword, plain, size or 0, type_.kind == TypeKind.TYPEDEF)


def shown(dump: Dump, words: Sequence[str], keyword: str) -> Iterator[Record]:
    """The records of `struct WORDS` and its kin."""
    options, rest = parsed_options(dump, words)
    if not rest:
        raise UsageError
    named = rest[0]
    if named.endswith((",", ".")):
        raise CommandError(f"invalid format: {named}")
    place = _address(dump, rest[1:], options)
    if isinstance(place, Unknown):
        yield place
        return
    address, cpuspec, count = place
    cpus = None if cpuspec is None else chosen_cpus(dump, cpuspec)
    if count is None:
        count = 1
    elif address is None:
        raise CommandError("no kernel virtual address argument entered")
    if options.pointers and address is None:
        raise CommandError("-p option requires address argument")
    name, _, listed = named.partition(".")
    paths = listed.replace(",", " ").split()
    of = compound(dump.gdb, name)
    if of is None:
        raise CommandError(f"invalid data structure reference: {name}")
    if not of.keyword and not keyword:
        raise CommandError("invalid argument")
    if keyword and keyword != of.keyword:
        raise CommandError(f"data type mismatch: {name} is not a {keyword}")
    if len(paths) > 1 and address is None:
        dump.report(
            "-o option not valid with multiple member format"
            if options.offsets
            else "multiple member format not supported in this syntax"
        )
        paths = []
        options = replace(options, offsets=True)
    if len(paths) > 1 and options.offsets:
        raise CommandError("-o option not valid with multiple member format")
    if address is None:
        if paths:
            _checked(of, paths[0])
        yield _definition(of, paths[0] if paths else None, options)
        return
    address = (address - options.before) & WORD
    if cpus is None:
        yield from _elements(dump, of, address, count, paths, options)
        return
    for cpu, offset in enumerate(per_cpu_offsets(dump.prog)):
        if cpu not in cpus:
            continue
        if dump_hides(dump, cpu):
            yield Cpu(cpu, None)
            continue
        at = (address + offset) & WORD
        yield Cpu(cpu, Address(at))
        yield from _elements(dump, of, at, count, paths, options)


def dump_hides(dump: Dump, cpu: int) -> bool:
    """`set offline hide` leaves out CPUs that are not online."""
    settings = getattr(dump, "settings", None)
    return getattr(settings, "offline", "show") == "hide" and offline(dump, cpu)


def _address(
    dump: Dump, words: Sequence[str], options: Options
) -> tuple[int | None, str | None, int | None] | Unknown:
    """Address, cpuspec and count of the words after the name."""
    address: int | None = None
    cpuspec: str | None = None
    count = options.count
    for word in words:
        if address is not None and count is not None:
            raise CommandError("too many arguments!")
        if address is None and ":" in word:
            word, _, cpuspec = word.partition(":")
        if word[-1:] in (",", ":") and is_number(word[:-1]):
            word = word[:-1]
        if is_number(word):
            if address is not None:
                count = stol(word)
            elif cpuspec is not None:
                if options.kind == FILE:
                    raise CommandError("-f option cannot be used with percpu")
                address = htol(word)
            elif options.kind == FILE:
                address = stol(word)
            else:
                address = htol(word)
                if options.kind == KERNEL and not is_kernel(dump, address):
                    raise CommandError(f"invalid kernel virtual address: {word}")
            continue
        symbol = dump.symbols.named(word)
        if symbol is None:
            return _alternatives(dump, word)
        if cpuspec is not None and not is_per_cpu(dump, symbol):
            dump.report(f"WARNING: {symbol.name} is not percpu; cpuspec ignored.")
            cpuspec = None
        if cpuspec is not None:
            variable = lookup(dump.gdb, symbol.name)
            if variable is not None and resolved(variable.type_).kind == TypeKind.POINTER:
                dump.report(f'WARNING: percpu symbol "{symbol.name}" is of type pointer')
        address = symbol.address
    return address, cpuspec, count


def _alternatives(dump: Dump, word: str) -> Unknown:
    found = dump.symbols.containing(word)
    return Unknown(word, tuple((Address(s.address), s.kind, s.name, s.module) for s in found))


def _definition(
    of: Compound, member: str | None, options: Options, address: int | None = None
) -> Definition:
    if member is not None and "." in member:
        raise CommandError(f"invalid data structure reference: {of.name}.{member}")
    return Definition(
        of,
        of.size,
        member,
        members(of.type),
        options.offsets,
        None if address is None else Address(address),
    )


def _checked(of: Compound, path: str) -> Place:
    """The place of a member path; an index need not be within its array."""
    place = _located(of.type, path)
    if place is None:
        raise CommandError(f"invalid data structure reference: {of.name}.{path}")
    return place


def _located(type_: Type, path: str) -> Place | None:
    offset = bits = 0
    plain = type_
    place: Place | None = None
    for step in path.split("."):
        name, *indices = step.replace("]", "").split("[")
        while plain.kind == TypeKind.ARRAY:  # gdb takes `array.member` for that of element 0
            plain = resolved(plain.type)
        if plain.kind not in COMPOUND:
            return None
        place = members(plain).get(name)
        if place is None:
            return None
        bits += place.bit_offset
        plain = resolved(place.type)
        here = place.type
        for index in indices:
            if plain.kind not in (TypeKind.ARRAY, TypeKind.POINTER) or not index.isdecimal():
                return None
            if plain.kind == TypeKind.POINTER:
                return None
            here, plain = plain.type, resolved(plain.type)
            bits += 8 * int(index) * (length_of(plain) or 0)
        offset = bits // 8
        place = Place(here, offset, bits, place.bits if not indices else None)
    return place


def _elements(
    dump: Dump, of: Compound, address: int, count: int, paths: Sequence[str], options: Options
) -> Iterator[Record]:
    """The structures of an array that begins, or for a negative count ends, at the address."""
    if count < 0:
        address = (address + of.size * (count + 1)) & WORD
    memory = Memory(dump, options.kind)
    for i in range(min(abs(count), 1 << 20)):
        if i:
            yield Gap()
        at = (address + i * of.size) & WORD
        if options.offsets:
            if paths:
                _checked(of, paths[0])
            yield _definition(of, paths[0] if paths else None, options, at)
        elif options.raw:
            yield _raw(dump, of, at, paths, memory, options)
        else:
            known: list[str] = []
            try:
                for path in paths:
                    _checked(of, path)
                    known.append(path)
            except CommandError:
                if known:  # what comes before the wrong one is still shown
                    yield contents(dump, of, at, known, memory, options)
                raise
            yield contents(dump, of, at, known, memory, options)


def _raw(
    dump: Dump, of: Compound, at: int, paths: Sequence[str], memory: Memory, options: Options
) -> Raw:
    size = of.size
    if len(paths) > 1:
        raise CommandError("only one structure member allowed with -r")
    if paths:
        place = _checked(of, paths[0])
        at, size = at + place.offset, length_of(resolved(place.type)) or 0
    words = size if size in (1, 2, 4) else -(-size // 8) * 8
    try:
        data = memory.read(at, words, f"{8 * min(words, 8)}-bit KVADDR")
    except UnreadableError as error:
        raise CommandError(str(error)) from error
    symbols = None
    if options.verbose:
        found = (int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8))
        symbols = tuple(dump.symbols.format(word) if word >> 47 else "" for word in found)
    return Raw(Address(at), data, symbols)


def contents(
    dump: Dump,
    of: Compound,
    at: int,
    paths: Sequence[str] = (),
    memory: Memory | None = None,
    options: Options = Options(),
) -> Contents:
    """A structure at an address, or the members of it that the paths name."""
    memory = memory or Memory(dump)
    data, fault = None, None
    try:
        data = memory.read(at, of.size)
    except UnreadableError as error:
        fault = str(error)
        if paths and fault:
            for _ in paths:
                dump.report(fault)
    return Contents(of, Address(at), tuple(paths), data, dump.gdb, fault, pointers=options.pointers)


def _picked(whole: Any, path: str) -> Any:
    """The value at a path of nested dicts and lists."""
    for step in re.findall(r"[^.\[\]]+", path):
        try:
            whole = whole[int(step)] if isinstance(whole, list | bytes) else whole[step]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return whole


@struct.text
@union.text
@pointed_to.text
def lines(
    records: Iterable[Record], *, settings: Settings, words: Sequence[str] = ()
) -> Iterator[str]:
    """gdb's text in crash's frame."""
    radix = _radix(words)
    style = Style.of(settings, radix)
    name = "struct"
    joined = ""  # a union's contents end without a line feed
    for record in records:
        if isinstance(record, Gap):
            if joined:
                yield joined
                joined = ""
            else:
                yield ""
            continue
        found = list(_record_lines(record, style, name))
        if isinstance(record, Contents) and record.of.keyword == "union" and not record.paths:
            found[0] = joined + found[0]
            yield from found[:-1]
            joined = found[-1]
            continue
        if joined and found:
            found[0] = joined + found[0]
            joined = ""
        yield from found
    if joined:
        yield Unended(joined)


def _radix(words: Sequence[str]) -> int | None:
    found = [o.const for o, _ in getopt(words, LETTERS)[0] if o.dest == "radix"]
    return found[-1] if found else None


def _record_lines(record: Record, style: Style, name: str) -> Iterator[str]:
    if isinstance(record, Definition):
        return definition_lines(record, style)
    if isinstance(record, Contents):
        return contents_lines(record, style, name)
    if isinstance(record, Raw):
        return raw_lines(record)
    if isinstance(record, Cpu):
        where = "[OFFLINE]" if record.address is None else f"{record.address:x}"
        return iter([f"[{record.cpu}]: {where}"])
    if isinstance(record, Unknown):
        return unknown_lines(record)
    return iter([""])


def definition_lines(record: Definition, style: Style) -> Iterator[str]:
    found = record.of.declared
    hexadecimal = style.radix == 16
    if record.offsets or record.member is not None:
        yield from with_offsets(
            found,
            record.members,
            size=record.size_bytes,
            hexadecimal=hexadecimal,
            base=record.address or 0,
            only=record.member,
        )
    else:
        yield from found
    if record.member is None:
        yield f"SIZE: {record.size_bytes:#x}" if hexadecimal else f"SIZE: {record.size_bytes}"


def contents_lines(record: Contents, style: Style, name: str) -> Iterator[str]:
    of = record.of
    if record.data is None:
        if not record.paths:
            # crash's complaint follows what it had begun to print.
            yield f"{of.keyword} {of.name} " + (f"{name}: {record.fault}" if record.fault else "")
            if of.keyword == "struct" and record.fault:
                yield ""
        return
    if not record.paths:
        text = show(record.target, of.type, record.data, record.address, style)
        found = f"{of.keyword} {of.name} {text}".split("\n")
        if record.pointers:
            found = list(_with_pointees(record, found, style))
        yield from found
        return
    for path in record.paths:
        yield from member_lines(record, path, style)


def member_lines(record: Contents, path: str, style: Style) -> Iterator[str]:
    """One member, laid out as crash cuts it out of gdb's text of the whole."""
    assert record.data is not None
    if record.pointers:
        target = _pointee(record, path, style)
        if target is not None:
            yield from target.lines
            return
    plan = _plan(record.target, record.of, path, style)
    if plan is not None:
        yield from plan(record.data, record.address).split("\n")
        return
    outermost = path.partition(".")[0].partition("[")[0]
    whole = _plan(record.target, record.of, outermost, style)
    if whole is None:
        return
    nodes: list[Node] = parsed(whole(record.data, record.address).split("\n"))
    found = path_lines(nodes, path)
    if found is None:
        found = _element_lines(record, path, style)
    if found is None:
        record.target.dump.report(f"invalid data structure member reference: {path}")
        return
    yield from found


Plan = Callable[[bytes, int], str]  # the bytes of the structure, its address


def _plan(target: Target, of: Compound, path: str, style: Style) -> Plan | None:
    """How to show a member; None of a path into or to an array or structure deeper down.

    The same few members are asked for again and again (`list -s`), so plans are kept.
    """
    if of.key is None:
        return _made_plan(target, of.type, path, style)
    key = of.key, path, style
    if key not in target.plans:
        target.plans[key] = _made_plan(target, of.type, path, style)
    found: Plan | None = target.plans[key]
    return found


def _made_plan(target: Target, type_: Type, path: str, style: Style) -> Plan | None:
    if "[" in path:
        return None
    bits, level, more = 0, 1, False
    member: TypeMember | None = None
    steps = path.split(".")
    for step in steps:
        if member is not None:
            type_ = resolved(member.type)
        if type_.kind not in COMPOUND:
            return None
        found = _member(type_, step, level if len(steps) == 1 else 1)
        if found is None:
            return None
        member, offset, level, more = found
        bits += offset
    assert member is not None
    plain = resolved(member.type)
    if len(steps) > 1 and plain.kind in (*COMPOUND, TypeKind.ARRAY):
        return None  # crash lays these out in its own way
    level = level if len(steps) == 1 else 1
    begin = f"{'  ' * level}{path} = "
    end = "," if more else ""
    if member.bit_field_size is not None:
        field = compiled_bits(target, member.type, bits, member.bit_field_size, style)
        return lambda data, _: begin + field.render(data, 0, 0) + end
    layout = compiled(target, member.type, style, 2 * level)
    at = bits // 8
    return lambda data, address: begin + layout.render(data, at, address) + end


def _member(type_: Type, name: str, level: int) -> tuple[TypeMember, int, int, bool] | None:
    """A member of a structure or of its unnamed members: its offset in bits, how deep in
    them it is shown, and whether another one follows."""
    if not type_.is_complete():
        return None
    last = len(type_.members) - 1
    for i, member in enumerate(type_.members):
        if member.name == name:
            return member, member.bit_offset, level, i < last
        if not member.name:
            plain = resolved(member.type)
            if plain.kind in COMPOUND and (found := _member(plain, name, level + 1)) is not None:
                inner, offset, depth, more = found
                return inner, member.bit_offset + offset, depth, more
    return None


def _element_lines(record: Contents, path: str, style: Style) -> list[str] | None:
    """An element of an array of numbers: what crash's own parser does not find."""
    place = _located(record.of.type, path)
    if place is None or record.data is None or not path.endswith("]"):
        return None
    array = _located(record.of.type, path[: path.rindex("[")])
    index = int(path[path.rindex("[") + 1 : -1])
    if array is None or index >= (resolved(array.type).length or 0):
        return None
    size = sizeof(resolved(place.type))
    data = record.data[place.offset : place.offset + size]
    text = show(record.target, place.type, data, record.address + place.offset, style, 2)
    return f"  {path} = {text}".split("\n")


def _pointee(record: Contents, path: str, style: Style) -> Pointee | None:
    assert record.data is not None
    member = next((m for m in record.of.type.members if m.name == path), None)
    if member is None or member.bit_field_size is not None:
        return None
    at = member.bit_offset // 8
    return pointee(record.target, member.type, path, record.data[at : at + 8], style)


def _with_pointees(record: Contents, found: Sequence[str], style: Style) -> Iterator[str]:
    """-p: the lines of pointers at the first level give way to what they point to."""
    for line in found:
        if line.startswith("  ") and line[2] != " " and "{" not in line and "}" not in line:
            target = _pointee(record, line[2:].partition(" =")[0], style)
            if target is not None:
                yield from target.lines
                continue
        yield line


# Words and characters of a line by the size of a word (crash's display_memory()).
PER_LINE = {8: (2, 53), 4: (4, 55), 2: (8, 59), 1: (16, 67)}


def raw_lines(record: Raw) -> Iterator[str]:
    size = len(record.data) if len(record.data) in (1, 2, 4) else 8
    per_line, width = PER_LINE[size]
    step = per_line * size
    for start in range(0, len(record.data), step):
        chunk = record.data[start : start + step]
        line = f"{record.address + start:016x}:  "
        for i in range(0, len(chunk), size):
            word = f"{int.from_bytes(chunk[i : i + size], 'little'):0{2 * size}x} "
            if record.symbols is not None:
                symbol = record.symbols[(start + i) // 8]
                word = f"{symbol:<16} " if symbol else word
            line += word
        if record.symbols is None:
            shown = "".join(chr(b) if 0x20 <= b < 0x7F else "." for b in chunk)
            line = f"{line:<{width}}  {shown}"
        yield line


def unknown_lines(record: Unknown) -> Iterator[str]:
    yield f"symbol not found: {record.name}"
    yield "possible alternatives:"
    if not record.alternatives:
        yield "  (none found)"
    for address, kind, name, module in record.alternatives:
        yield f"  {address:x} ({kind}) {name}" + (f" [{module}]" if module else "")
