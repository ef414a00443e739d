"""whatis: what a name is declared as, and which structures have a size or a member."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drgn import FaultError, Object, Type, TypeKind

from crashpy.command import CommandError, UsageError, command, flag, operands
from crashpy.gdb.expressions import GdbError, evaluate, lookup
from crashpy.gdb.types import declaration, members, name_of
from crashpy.gdb.values import Style
from crashpy.numbers import stol

from .struct import Definition, compound, definition_lines

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.settings import Settings


@dataclass(frozen=True)
class Declared:
    """A declaration as C writes it."""

    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Sized:
    """A structure, union or base type that was asked for by its size or a member."""

    name: str
    size_bytes: int


def _sizes(word: str) -> tuple[int, int]:
    low, dash, high = word.partition("-")
    first = stol(low)
    return first, stol(high) if dash else first


@command(
    flag("-o", "offsets", "each member's offset"),
    operands("names", "name", str, "a structure, union, enum, typedef, symbol, or expression"),
    usage="[[-o] [struct | union | typedef | symbol]] | \n         [[-r [size|range]] [-m member]]",
)
def whatis(
    dump: Dump, *, offsets: bool = False, names: Sequence[str] = ()
) -> Iterator[Definition | Declared]:
    """what a name is declared as

    A structure, union or typedef is written out with its size, an enum with its
    enumerators, a variable or function with its type. An expression has a type, too.
    With -r SIZE or -r LOW-HIGH every type of that size, with -m MEMBER_TYPE every
    structure with a member of such a type, is listed.

    EXAMPLES
      crash> whatis pid_t
      typedef int pid_t;
      SIZE: 4
      crash> whatis jiffies
      volatile unsigned long jiffies;
      crash> whatis -o list_head
      struct list_head {
         [0] struct list_head *next;
         [8] struct list_head *prev;
      }
      SIZE: 16
    """
    if not names:
        raise UsageError
    keyword = names[0] if names[0] in ("struct", "union", "enum") else ""
    if keyword and len(names) == 1:
        raise UsageError
    if not keyword and dump.symbols.named(names[0]) is not None:
        found = lookup(dump.gdb, names[0])
        if found is None:
            raise CommandError(f"cannot resolve: {names[0]}")
        yield Declared(names[0], (f"{declaration(found.type_, names[0])};",))
        return
    name = names[1] if keyword else names[0]
    if (constant := _constant(dump, name)) is not None:
        tag = constant.type_.tag
        yield Declared(name, (f"enum{f' {tag}' if tag else ''} = {constant.value_()}",))
        return
    structure, _, member = name.partition(".")
    if (of := compound(dump.gdb, structure)) is not None and (of.keyword or not member):
        if of.type.kind == TypeKind.ENUM:
            yield Declared(name, _enum(of.type, name if of.typedef else ""))
            return
        if not of.keyword and not of.typedef:
            yield Declared(name, (f"SIZE: {of.size}",))
            return
        yield Definition(of, of.size, member or None, members(of.type), offsets)
        return
    whole = " ".join(names)
    if keyword:
        dump.report(f"cannot resolve: {whole}")
        raise UsageError
    try:
        result, _ = evaluate(dump.gdb, whole)
    except (GdbError, FaultError, LookupError, SyntaxError, ValueError):
        dump.report(f"cannot resolve: {whole}")
        raise UsageError from None
    type_ = result if isinstance(result, Type) else getattr(result, "type_", None)
    if type_ is None:
        dump.report(f"cannot resolve: {whole}")
        raise UsageError
    yield Declared(whole, (name_of(type_),))


def _constant(dump: Dump, name: str) -> Object | None:
    """The enumerator of that name."""
    try:
        found = dump.prog.constant(name)
    except LookupError:
        return None
    return found if found.type_.kind == TypeKind.ENUM else None


def _enum(type_: Type, typedef: str) -> tuple[str, ...]:
    tag = f" {type_.tag}" if type_.tag else ""
    items = (f"  {item.name} = {item.value}" for item in type_.enumerators or ())
    return (f"{'typedef ' if typedef else ''}enum{tag} {{", *items, "};")


@whatis.text
def lines(records: Iterable[Definition | Declared], *, settings: Settings) -> Iterator[str]:
    """As crash's do_datatype_declaration() frames gdb's text."""
    style = Style.of(settings)
    for record in records:
        if isinstance(record, Declared):
            yield from record.lines
        else:
            yield from definition_lines(record, style)


@dataclass(frozen=True)
class _Wanted:
    low: int
    high: int
    member: str


@whatis.mode(
    "-r", "types of this size or range of sizes", metavar="SIZE", type=_sizes, dest="sizes"
)
def whatis_sized(
    dump: Dump, *, sizes: tuple[int, int] = (0, 0), member: str = ""
) -> Iterator[Sized]:
    """every type of a size, by size and name"""
    return _matching(dump, _Wanted(*sizes, member))


@whatis.mode("-m", "structures with a member of this type", metavar="TYPE", dest="member")
def whatis_with_member(
    dump: Dump, *, member: str = "", sizes: tuple[int, int] = (0, 0)
) -> Iterator[Sized]:
    """every structure with such a member, by size and name"""
    return _matching(dump, _Wanted(*sizes, member))


def _matching(dump: Dump, wanted: _Wanted) -> Iterator[Sized]:
    # libdrgn does not list types; the kernel's own BTF names all of them.
    from crashpy.opening.btf import Btf, BtfError, Kind

    try:
        start, stop = (dump.prog.symbol(f"__{edge}_BTF").address for edge in ("start", "stop"))
        btf = Btf(dump.prog, dump.prog.read(start, stop - start))
    except (LookupError, FaultError, BtfError) as error:
        raise CommandError(f"this kernel's types cannot be listed: {error}") from None
    kinds = (Kind.STRUCT, Kind.UNION, Kind.INT, Kind.ENUM)
    found: dict[str, int] = {}
    for name, number in btf.named(kinds):
        type_ = btf.type(number)
        try:
            size = _size(type_)
        except (RecursionError, ValueError):
            continue
        if size is None or (wanted.high and not wanted.low <= size <= wanted.high):
            continue
        if wanted.member and not _has(type_, wanted.member):
            continue
        found.setdefault(name, size)
    return (Sized(name, size) for name, size in sorted(found.items(), key=lambda i: (i[1], i[0])))


def _size(type_: Type) -> int | None:
    while type_.kind == TypeKind.TYPEDEF:
        type_ = type_.type
    return getattr(type_, "size", None)


def _has(type_: Type, wanted: str, depth: int = 8) -> bool:
    """Whether the type of a member, or what it points to, has such a name.

    A part of the name will do, and structures within count (lookup_struct_contents()).
    """
    if type_.kind not in (TypeKind.STRUCT, TypeKind.UNION) or not depth:
        return False
    for member in type_.members or ():
        inner = member.type
        if inner.kind == TypeKind.ARRAY:
            inner = inner.type
        if inner.kind == TypeKind.STRUCT and _has(inner, wanted, depth - 1):
            return True
        if inner.kind == TypeKind.POINTER:
            inner = inner.type
        name = getattr(inner, "tag", None) or getattr(inner, "name", None)
        if name and wanted in name:
            return True
    return False


@whatis_sized.text
@whatis_with_member.text
def sized_lines(records: Iterable[Sized]) -> Iterator[str]:
    """As crash's request_types()."""
    found = list(records)
    if not found:
        yield "(none found)"
        return
    width = max(len(str(found[-1].size_bytes)), len("SIZE"))
    yield f"{'SIZE':>{width}}  TYPE"
    for record in found:
        yield f"{record.size_bytes:{width}}  {record.name}"
