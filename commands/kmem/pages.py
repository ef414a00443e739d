"""kmem -p, -m: every page structure; -g: the flags in one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice, repeat
from typing import Any, NamedTuple

from drgn import Program, TypeKind, offsetof

from crashpy.command import Address, CommandError
from crashpy.dump import Dump
from crashpy.kernel.mm import physical_digits
from crashpy.kernel.pages import (
    MemMap,
    Section,
    byte_order,
    column,
    flag_bits,
    flag_names,
    kernel_address,
    kernel_to_physical,
    mem_map,
)

CACHED = 4096  # texts kept, at most
BLOCK = 256  # lines handed on together
# struct's letters for words.
WORDS = {1: "B", 2: "H", 4: "I", 8: "Q"}


class PageInfo(NamedTuple):
    """A struct page. A tuple, not a dataclass: there are millions of them."""

    page: int  # struct page *
    physical: int
    mapping: int | None  # struct address_space *, flags in its low bits; None: no such member
    offset: int | None  # page.index: where in the mapping, in pages
    references: int  # page._refcount
    flags: int
    names: tuple[str, ...]  # of the flags
    digits: int = 8  # of the text alone: how wide physical addresses are

    def __json__(self) -> dict[str, Any]:
        named = self._asdict()
        del named["digits"]
        for name in ("page", "physical", "mapping", "flags"):
            if named[name] is not None:
                named[name] = Address(named[name])
        return named


class PageMembers(NamedTuple):
    """The members of a struct page that were asked for."""

    page: int  # struct page *
    members: tuple[PageMember, ...]  # the same for every page
    values: tuple[int, ...]  # of a structure, the words that it is made of

    def __json__(self) -> dict[str, Any]:
        named: dict[str, Any] = {"page": Address(self.page)}
        rest = iter(self.values)
        for member in self.members:
            words = tuple(islice(rest, member.words))
            named[member.path] = member.plain(words)
        return named


@dataclass(frozen=True)
class PageFlags:
    """The bits that a flags word may have or has."""

    flags: Address  # 0: all that there are
    bits: tuple[tuple[str, int], ...]  # enumerator, bit
    # Of the text alone: the length of the longest enumerator and of the highest value.
    width: int = field(repr=False)
    digits: int = field(repr=False)


@dataclass(frozen=True)
class PageMember:
    """A member as `kmem -m` names it, and how to read and show it."""

    path: str
    offset: int
    kind: TypeKind
    size: int
    signed: bool
    bit_offset: int = 0
    bit_size: int = 0

    @property
    def counter(self) -> bool:
        """Whether crash takes it for a reference count, which is always decimal."""
        return self.path.startswith(("_count", "_mapcount"))

    def decimal(self, radix: int) -> bool:
        return self.counter or (radix == 10 and self.path != "flags")

    @property
    def word(self) -> int:
        """The size of the words that it is read and shown in."""
        if self.kind != TypeKind.STRUCT:
            return self.size
        if self.counter:
            return 4
        return next((width for width in (8, 4) if self.size % width == 0), self.size)

    @property
    def words(self) -> int:
        return 1 if self.counter else self.size // self.word

    def shown(self, radix: int) -> Callable[[int], int | str] | None:
        """What its format takes, where that is not simply the value."""
        if self.kind == TypeKind.BOOL:
            return lambda value: "true" if value else "false"
        if self.signed and not self.decimal(radix):
            mask = (1 << 8 * self.size) - 1
            return lambda value: value & mask
        return None

    def plain(self, words: tuple[int, ...]) -> Any:
        if self.kind == TypeKind.STRUCT:
            return tuple(map(Address, words)) if self.word == 8 else words
        if self.kind == TypeKind.POINTER or self.path == "flags":
            return Address(words[0])
        return bool(words[0]) if self.kind == TypeKind.BOOL else words[0]


def where(
    dump: Dump, addresses: Sequence[int], physical: bool
) -> Iterator[tuple[Section, int, int]]:
    """The runs of pages to show: all of them, or that of each address."""
    pages = mem_map(dump.prog)
    if not addresses:
        yield from ((section, 0, section.pages) for section in pages.sections)
    for address in addresses:
        pfn = frame(dump.prog, pages, address, physical)
        section = None if pfn is None else pages.section(pfn)
        if pfn is not None and section is not None:
            yield section, pfn - section.first_pfn, 1


def frame(prog: Program, pages: MemMap, address: int, physical: bool) -> int | None:
    """The page frame that an address of any kind means (dump_mem_map())."""
    if physical or not kernel_address(prog, address):
        return address // pages.page_size
    if (pfn := pages.pfn(address)) is not None:
        return pfn
    found = kernel_to_physical(prog, address)
    return None if found is None else found // pages.page_size


def pieces(
    pages: MemMap, runs: Iterable[tuple[Section, int, int]]
) -> Iterator[tuple[range, range, bytes]]:
    """Addresses, physical addresses and bytes of struct pages, a section at a time."""
    for section, first, count in runs:
        run = Section(section.first_pfn + first, count, section.mem_map + first * pages.entry, True)
        for start, data in pages.read(run):
            number = len(data) // pages.entry
            page = run.mem_map + start * pages.entry
            physical = (run.first_pfn + start) * pages.page_size
            yield (
                range(page, page + number * pages.entry, pages.entry),
                range(physical, physical + number * pages.page_size, pages.page_size),
                data,
            )


class FlagNames(dict[int, tuple[str, ...]]):
    """Flags word -> the names of its bits; mostly few words are in use."""

    def __init__(self, prog: Program) -> None:
        super().__init__()
        self._names = flag_names(prog)

    def __missing__(self, flags: int) -> tuple[str, ...]:
        if len(self) > CACHED:  # words may hold the last CPU and task, too
            self.clear()
        found = self[flags] = tuple(name for mask, name in self._names if flags & mask)
        return found


def page_infos(
    dump: Dump, addresses: Sequence[int] = (), *, physical: bool = False
) -> Iterator[PageInfo]:
    """Every page of the memory map, or those of the addresses."""
    prog = dump.prog
    pages = mem_map(prog)
    names = FlagNames(prog)
    kind, entry = pages.page_type, pages.entry
    word = "Q" if prog.type("unsigned long").size == 8 else "I"
    count = "_refcount" if kind.has_member("_refcount") else "_count"
    # index is __folio_index since acc53a0b4c15 ("mm: rename page->index to
    # page->__folio_index") (6.16).
    index = "index" if kind.has_member("index") else "__folio_index"

    digits = physical_digits(prog)
    has_mapping = kind.has_member("mapping") and kind.has_member(index)

    def values(data: bytes, code: str, member: str) -> list[int]:
        return column(prog, data, code, kind.member(member).offset, entry)

    make = partial(tuple.__new__, PageInfo)
    for page, physical_address, data in pieces(pages, where(dump, addresses, physical)):
        flags = values(data, word, "flags")
        yield from map(
            make,
            zip(
                page,
                physical_address,
                values(data, word, "mapping") if has_mapping else [None] * len(page),
                values(data, word, index) if has_mapping else [None] * len(page),
                values(data, "i", count),
                flags,
                map(names.__getitem__, flags),
                [digits] * len(page),
                strict=True,
            ),
        )


def lines(
    records: Iterable[PageInfo | PageMembers | PageFlags], *, radix: int = 10
) -> Iterator[str]:
    """One of the three layouts: records of different kinds do not mix."""
    rest = iter(records)
    for first in rest:
        found: Iterator[Any] = chain((first,), rest)
        if isinstance(first, PageInfo):
            yield from page_lines(found)
        elif isinstance(first, PageMembers):
            yield from member_lines(found, radix=radix)
        else:
            yield from flags_lines(found)


def page_lines(infos: Iterable[PageInfo]) -> Iterator[str]:
    """crash's columns (dump_mem_map_SPARSEMEM())."""
    # Most pages are free, reserved or anonymous to us: few ends of lines, worked out once.
    ends: dict[tuple[int | None, int | None, int, int], str] = {}
    rest, size, line = iter(infos), 1, ""
    # A run of lines as one string: what handles each line on its way counts in millions.
    while block := list(islice(rest, size)):
        size = min(2 * size, BLOCK)
        shown = []
        if not line:
            digits = block[0].digits
            line = f"%x %{digits}x %s"
            yield f"      PAGE       {'PHYSICAL':>{digits}}      MAPPING       INDEX CNT FLAGS"
        for page, physical, mapping, offset, references, flags, names, _ in block:
            end = ends.get(key := (mapping, offset, references, flags))
            if end is None:
                if len(ends) > CACHED:
                    ends.clear()
                text = f"{flags:x} {','.join(names)}".rstrip()
                if mapping is None or offset is None:
                    start = "     -------       ----- "
                else:
                    start = f"{mapping:16x} {offset:8x}"
                end = ends[key] = f"{start} {references:2d} {text}"
            shown.append(line % (page, physical, end))  # half of an f-string's time
        yield "\n".join(shown)


def page_members(prog: Program, words: str) -> tuple[PageMember, ...]:
    """`member[,member]` (collect_page_member_data())."""
    if words.endswith((",", ".")):
        raise CommandError(f"invalid format: {words}")
    return tuple(_member(prog, path) for path in words.replace(",", " ").split())


def _member(prog: Program, path: str) -> PageMember:
    kind = prog.type("struct page")
    bit_offset = bit_size = 0
    try:
        offset = offsetof(kind, path)
        found = kind
        for name in path.split("."):
            while found.kind == TypeKind.TYPEDEF:
                found = found.type
            member = found.member(name)
            found, bit_size = member.type, member.bit_field_size or 0
            bit_offset = member.bit_offset
    except (LookupError, TypeError, SyntaxError, ValueError) as error:
        raise CommandError(f"invalid page struct member: {path}") from error
    found = found.unaliased()
    size = found.size or 0 if found.kind not in (TypeKind.FUNCTION, TypeKind.VOID) else 0
    if bit_size:  # the containing word
        offset, bit_offset = bit_offset // (8 * size) * size, bit_offset % (8 * size)
        if byte_order(prog) == "big":
            bit_offset = 8 * size - bit_offset - bit_size
    signed = found.kind == TypeKind.INT and found.is_signed
    return PageMember(path, offset, found.kind, size, signed, bit_offset, bit_size)


def page_member_values(
    dump: Dump, members: tuple[PageMember, ...], addresses: Sequence[int], *, physical: bool = False
) -> Iterator[PageMembers]:
    """Those members of every page, or of the pages of the addresses."""
    prog = dump.prog
    pages = mem_map(prog)
    make = partial(tuple.__new__, PageMembers)
    for page, _, data in pieces(pages, where(dump, addresses, physical)):
        columns = [values for member in members for values in _values(prog, pages, data, member)]
        yield from map(make, zip(page, repeat(members), zip(*columns, strict=True)))


def _values(prog: Program, pages: MemMap, data: bytes, member: PageMember) -> Iterator[list[int]]:
    """The member of each page; of a structure, each word of it."""
    shown = (TypeKind.POINTER, TypeKind.INT, TypeKind.BOOL, TypeKind.STRUCT)
    if member.kind not in shown or member.word not in WORDS:
        raise CommandError(f"unsupported page member reference: page.{member.path}")
    code = WORDS[member.word]
    if member.signed or (member.counter and member.kind == TypeKind.STRUCT):
        code = code.lower()
    for number in range(member.words):
        at = member.offset + number * member.word
        found = column(prog, data, code, at, pages.entry)
        if member.bit_size:
            mask = (1 << member.bit_size) - 1
            found = [value >> member.bit_offset & mask for value in found]
        yield found


def member_lines(pages: Iterable[PageMembers], *, radix: int = 10) -> Iterator[str]:
    """crash's columns of members (show_page_member_data())."""
    line = ""
    apart: list[tuple[int, Callable[[int], int | str]]] = []
    for page, members, values in pages:
        if not line:
            line = "%x  " + "".join([_format(member, radix) for member in members])
            first = 0
            for member in members:
                if (shown := member.shown(radix)) is not None:
                    apart.append((first, shown))
                first += member.words
            yield "      PAGE      " + "".join([f"  {member.path}" for member in members])
        if apart:
            parts: list[int | str] = list(values)
            for index, shown in apart:
                parts[index] = shown(values[index])
            yield line % (page, *parts)
        else:
            yield line % (page, *values)


def _format(member: PageMember, radix: int) -> str:
    """How crash shows a member, in printf's terms; the spaces missing after some are its own."""
    size, kind = member.size, member.kind
    if kind == TypeKind.POINTER:
        return "%016x  " if size == 8 else "%08x  "
    if kind == TypeKind.STRUCT:
        if member.counter:
            return "%d  "
        if size % 8 == 0:
            return ",".join(["%016x"] * (size // 8)) + "  "
        return ",".join(["%08x"] * (size // 4)) if size % 4 == 0 else "%04x  "
    if kind == TypeKind.BOOL:
        return "%s  "
    if member.decimal(radix):
        return "%d  "
    return f"%0{2 * size}x" + ("" if member.signed and size == 8 else "  ")


def page_flags(dump: Dump, words: Sequence[int]) -> Iterator[PageFlags]:
    """The enumerators of enum pageflags, or those in each flags word."""
    try:
        enumerators = flag_bits(dump.prog)
    except LookupError:
        raise CommandError("enum pageflags does not exist in this kernel") from None
    bits = [(name, bit) for name, bit in enumerators if "PG_" in name]
    width = max((len(name) for name, _ in enumerators), default=0)
    digits = (max((bit for _, bit in bits), default=0) + 1) // 4 + 1
    for flags in words or (0,):
        found = tuple((name, bit) for name, bit in bits if not flags or flags >> bit & 1)
        yield PageFlags(Address(flags), found, width, digits)


def flags_lines(words: Iterable[PageFlags]) -> Iterator[str]:
    """An empty line between flags words."""
    for number, flags in enumerate(words):
        if number:
            yield ""
        yield from _flags_lines(flags)


def _flags_lines(flags: PageFlags) -> Iterator[str]:
    """One flags word (dump_page_flags())."""
    indent = "  " if flags.flags else ""
    if flags.flags:
        yield f"FLAGS: {flags.flags:x}"
    yield f"{indent}{'PAGE-FLAG':<{flags.width}} BIT  VALUE"
    for name, bit in flags.bits:
        yield f"{indent}{name:<{flags.width}}  {bit:2}  {1 << bit:0{flags.digits}x}"
    if not flags.bits:
        yield "  (none found)"
