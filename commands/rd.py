"""rd: memory as numbers and characters."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drgn import FaultError, offsetof

from crashpy.command import Address, CommandError, UsageError, command, flag, getopt, value
from crashpy.gdb.memory import FILE, KERNEL, PAGE, USER, Memory, UnreadableError, is_kernel
from crashpy.numbers import evaluate, htol, is_hexadecimal, signed, stol
from crashpy.output import Unended

from .struct import Unknown, unknown_lines

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.settings import Settings

WORD = (1 << 64) - 1
PHYSICAL = "physical"
SPACES = {KERNEL: "KVADDR", USER: "UVADDR", PHYSICAL: "PHYSADDR", FILE: "FILEADDR"}
UNLIMITED = WORD >> 1  # how many characters -a shows where nobody says
BLOCK = 4 * PAGE  # bytes of one record
USER_TOP = 1 << 47
MOST_CHARACTERS = 60  # of a line of -a
# Values of a line, and the column its characters begin in, by bytes of a value.
PER_LINE = {8: (2, 53), 4: (4, 55), 2: (8, 59), 1: (16, 67)}
DECIMAL = {8: "{:15d} ", 4: "{:12d} ", 2: "{:5d} ", 1: "{:3d} "}
UNSIGNED = {8: "{:20d} ", 4: "{:12d} ", 2: "{:5d} ", 1: "{:3d} "}
CODES = {8: "Q", 4: "I", 2: "H", 1: "B"}
PRINTED = bytes(b if 0x20 <= b < 0x7F else 0x2E for b in range(256))
PRINTABLE = re.compile(rb"[\x20-\x7e]+")


@dataclass(frozen=True)
class Values:
    """Memory as numbers of one size."""

    address: Address
    unit_bytes: int
    data: bytes = field(repr=False)
    little: bool = field(default=True, repr=False)
    names: tuple[str | None, ...] | None = None  # -s, -S: symbol or slab cache of each value

    @property
    def values(self) -> Sequence[int]:
        found = array(CODES[self.unit_bytes], self.data)
        if self.little != LITTLE:
            found.byteswap()
        return found

    def __json__(self) -> dict[str, Any]:
        found: dict[str, Any] = {"address": self.address, "unit_bytes": self.unit_bytes}
        found["values"] = [Address(v) if self.unit_bytes == 8 else v for v in self.values]
        return found if self.names is None else {**found, "names": self.names}


@dataclass(frozen=True)
class Characters:
    """A run of printable characters, as much of it as one line shows."""

    address: Address
    text: str


@dataclass(frozen=True)
class Copied:
    """What -r has written to a file."""

    address: Address
    size_bytes: int
    file: str


@dataclass(frozen=True)
class Unread:
    """Where reading ended too early."""

    address: Address
    fault: str | None  # None: the page was left out of the dump on purpose


Record = Values | Characters | Copied | Unread | Unknown

LITTLE = array("H", b"\1\0")[0] == 1  # this machine's order of bytes

LETTERS = {
    option.name: option
    for option in (
        flag("-R", "reverse", ""),
        flag("-a", "ascii", ""),
        flag("-x", "bare", ""),
        flag("-m", "xen", ""),
        value("-e", "end", "addr", str, ""),
        value("-r", "file", "file", str, ""),
        flag("-p", "space", "", value=PHYSICAL),
        flag("-f", "space", "", value=FILE),
        flag("-u", "space", "", value=USER),
        flag("-d", "decimal", ""),
        flag("-D", "unsigned", ""),
        flag("-s", "symbolic", ""),
        flag("-S", "slabs", ""),
        flag("-N", "network", ""),
        value("-o", "offset", "offs", str, ""),
        flag("-8", "unit", ""),
        value("-1", "unit", "6", str, ""),
        value("-3", "unit", "2", str, ""),
        value("-6", "unit", "4", str, ""),
    )
}
UNITS = {"8": 1, "16": 2, "32": 4, "64": 8}


@dataclass(frozen=True)
class Form:
    """What the letters ask for."""

    unit: int = 8  # bytes of a value
    ascii: bool = False  # -a
    file: str | None = None  # -r
    space: str = KERNEL
    bare: bool = False  # -x: no characters beside the numbers
    decimal: bool = False
    unsigned: bool = False
    symbolic: bool = False
    slabs: int = 0  # -S; -SS shows the address as well
    network: bool = False
    reverse: bool = False
    xen: bool = False
    offset: int = 0
    end: int = 0

    @property
    def characters(self) -> bool:
        """Whether characters stand beside the numbers."""
        return not (self.bare or self.decimal or self.unsigned or self.symbolic)

    @property
    def named(self) -> bool:
        """Whether a name may stand for a value."""
        return self.symbolic and self.unit == 8 and not (self.decimal or self.unsigned)


@command(
    usage=(
        "[-adDsSupxmfNR][-8|-16|-32|-64][-o offs][-e addr][-r file][address|symbol]\n     [count]"
    ),
    words=True,
)
def rd(
    dump: Dump, *, words: Sequence[str] = (), settings: Settings | None = None
) -> Iterator[Record]:
    """memory, as numbers and characters

    rd ADDRESS [COUNT] shows so many values (one, by default) from an address, a symbol
    or an (expression) on. An address that is none of the kernel's is one of the
    context's user memory.

    -8 -16 -32 -64  bits of a value; 64 by default
    -d, -D     in decimal, with or without a sign
    -x         without the characters at the end of the lines
    -a         only characters, up to the first that cannot be shown or COUNT of them
    -s         symbols for values that are kernel addresses; -S also the slab cache of
               an object, in brackets; -SS its address too
    -N         16 and 32 bits in the network's order of bytes
    -u, -p     the address is a user address of the context's; a physical one
    -f         it is an offset into the dump file
    -o OFFSET  to be added to the address
    -e END     up to this address
    -R         backwards: COUNT values that end at the address
    -r FILE    the bytes go to a file as they are

    EXAMPLES
      crash> rd -a linux_banner
      crash> rd jiffies
      crash> rd -s init_task 20
      crash> rd -32 -x (init_task+16) 8
      crash> rd -r stack.bin ffffa2e000228000 16384
    """
    form, rest = parsed(words, dump.report)
    if form is None or not rest:
        raise UsageError
    if form.space == FILE and dump.live:
        raise CommandError("-f option requires a dumpfile")
    start = _address(dump, rest[0])
    if isinstance(start, Unknown):
        yield start
        return
    start = (start + form.offset) & WORD
    count = _count(dump, form, start, signed(stol(rest[1])) if rest[1:] else -1)
    if form.space == KERNEL and not is_kernel(dump, start):
        form = replace(form, space=USER)
    unit = 1 if form.ascii or form.file is not None else form.unit
    if form.reverse:
        count = count or 1
        start = (start - (count - 1) * unit) & WORD
    if count <= 0:
        raise CommandError(f"invalid count request: {count}")
    if form.file is not None:
        yield _copied(dump, form, start, count)
        return
    reader = _Reader(dump, form.space)
    caller = "ascii" if form.ascii else f"{8 * unit}-bit {SPACES[form.space]}"
    blocks = reader.blocks(start, count * unit, unit, caller)
    if form.ascii:
        yield from _characters(blocks, unlimited=count == UNLIMITED)
        return
    names = _Names(dump, form, settings.radix if settings else 10) if form.named else None
    for block in blocks:
        if isinstance(block, Unread):
            yield block
            return
        at, data = block
        if form.network and unit in (2, 4):
            swapped = array(CODES[unit], data)
            swapped.byteswap()
            data = swapped.tobytes()
        found = Values(Address(at), unit, data, reader.little)
        yield found if names is None else replace(found, names=names.of(found.values))


def parsed(
    words: Sequence[str], report: Callable[[str], None] | None = None
) -> tuple[Form | None, list[str]]:
    """The letters in their order; no form where one of them made no sense.

    With `report` it is the command that reads them: it complains, and makes the file.
    """
    options, rest = getopt(words, LETTERS)
    form = Form()
    wrong = False
    for option, argument in options:
        word = argument or ""
        letter = option.name[1:]
        if option.dest == "unit":
            unit = UNITS.get(letter + word)
            if unit is None:
                wrong = True
                if report:
                    report(f"invalid option: {letter}{word}")
            else:
                form = replace(form, unit=unit, ascii=False, file=None)
        elif letter == "a":
            form = replace(form, ascii=True, file=None, unit=0)
        elif letter == "r":
            form = replace(form, ascii=False, file=word, unit=0)
            if report:
                _opened(word)
        elif letter in "sS":
            if form.unit == 8:
                form = replace(form, symbolic=True, slabs=form.slabs + (letter == "S"))
            else:
                wrong = True
                if report:
                    report(f"-{letter} option is only allowed with 64-bit display")
        elif letter == "m":
            raise CommandError("-m option only applies to xen architecture")
        elif letter == "o":
            form = replace(form, offset=stol(word))
        elif letter == "e":
            form = replace(form, end=htol(word))
        else:
            form = replace(form, **{option.dest: option.const})
    return None if wrong else form, rest


def _opened(name: str) -> None:
    """crash makes the file as soon as it reads its name."""
    try:
        Path(name).open("wb").close()
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot open output file: {name}") from error


def _address(dump: Dump, word: str) -> int | Unknown:
    if word.startswith("("):
        return evaluate(dump, word)
    if is_hexadecimal(word):
        return htol(word)
    if (symbol := dump.symbols.named(word)) is not None:
        return symbol.address
    found = dump.symbols.containing(word)
    return Unknown(word, tuple((Address(s.address), s.kind, s.name, s.module) for s in found))


def _count(dump: Dump, form: Form, start: int, count: int) -> int:
    """How many values; -1 where the line does not say."""
    if count != -1:
        if form.end:
            dump.report("WARNING: ending address ignored when count is specified")
        return count
    if form.end:
        if form.end <= start:
            raise CommandError(f"invalid ending address: {form.end:x}")
        return (form.end - start) // (form.unit or 1)
    if form.file is not None:
        raise CommandError("-r option requires either a count argument or the -e option")
    return UNLIMITED if form.ascii else 1


class _Reader:
    """Reads on and on, by pages where something is missing."""

    def __init__(self, dump: Dump, space: str) -> None:
        self._dump = dump
        self._space = space
        self._memory = Memory(dump, space)
        platform = dump.prog.platform
        self.little = platform is None or "IS_LITTLE_ENDIAN" in str(platform.flags)

    def read(self, address: int, size: int, caller: str) -> bytes:
        if self._space == USER and not self._dump.context.mm and address < USER_TOP:
            at = offsetof(self._dump.prog.type("struct mm_struct"), "pgd")
            raise UnreadableError(f'invalid kernel virtual address: {at:x}  type: "mm_struct pgd"')
        if self._space != PHYSICAL:
            return self._memory.read(address, size, caller)
        try:
            return self._dump.prog.read(address, size, physical=True)
        except (FaultError, OverflowError, ValueError) as error:
            header = self._dump.files[0].header if self._dump.files else None
            existed = getattr(header, "page_existed", None)
            if existed is None:
                what = "read error:"
            elif existed(address // PAGE):
                raise UnreadableError("") from error  # left out on purpose: crash is silent
            else:
                what = "seek error:"
            text = f'{what} physical address: {address:x}  type: "{caller}"'
            raise UnreadableError(text) from error

    def blocks(
        self, start: int, size: int, unit: int, caller: str
    ) -> Iterator[tuple[int, bytes] | Unread]:
        """The memory in blocks of whole lines; what cannot be read ends it."""
        at, end = start, start + size
        while at < end:
            block = min(BLOCK if at > start else PAGE, end - at)
            try:
                data = self.read(at, block, caller)
            except UnreadableError:
                yield from self._until_hole(at, block, unit, caller)
                return
            yield at, data
            at += block

    def _until_hole(
        self, at: int, size: int, unit: int, caller: str
    ) -> Iterator[tuple[int, bytes] | Unread]:
        data = b""
        narrow = False  # the value that cannot be read is looked for
        while len(data) < size:
            here = at + len(data)
            page = min(PAGE - here % PAGE, size - len(data)) // unit * unit
            step = unit if narrow else max(unit, page)
            try:
                data += self.read(here, step, caller)
            except UnreadableError as error:
                if step > unit:
                    narrow = True
                    continue
                if data:
                    yield at, data
                yield Unread(Address(here), str(error) or None)
                return
        yield at, data


class _Names:
    """Symbols and slab caches of values."""

    def __init__(self, dump: Dump, form: Form, radix: int) -> None:
        self._dump = dump
        self._symbols = dump.symbols
        self._radix = radix
        self._slabs = form.slabs
        self._caches: dict[int, str | None] = {}  # by page

    def of(self, values: Sequence[int]) -> tuple[str | None, ...]:
        return tuple(self._name(value) if value >> 47 else None for value in values)

    def _name(self, value: int) -> str | None:
        if self._symbols.in_range(value):
            found = self._symbols.format(value, self._radix)
            if found:
                return found
        if not self._slabs:
            return None
        page = value // PAGE
        if page not in self._caches:
            self._caches[page] = self._cache(value)
        name = self._caches[page]
        if name is None:
            return None
        return f"[{value:x}:{name}]" if self._slabs > 1 else f"[{name}]"

    def _cache(self, address: int) -> str | None:
        from crashpy.kernel.pages import kernel_to_physical

        from .kmem.slab import slub

        try:
            allocator = slub(self._dump)
            physical = kernel_to_physical(self._dump.prog, address)
            if physical is None:
                return None
            page = allocator.pages.page(physical // allocator.pages.page_size)
            found = None if page is None else allocator.slab_of(page)
        except (FaultError, LookupError, ValueError):
            return None
        return None if found is None else found[0].name


def _copied(dump: Dump, form: Form, start: int, count: int) -> Copied:
    reader = _Reader(dump, form.space)
    assert form.file is not None
    try:
        with Path(form.file).open("wb") as file:
            for block in reader.blocks(start, count, 1, "raw dump to file"):
                if isinstance(block, Unread):
                    raise CommandError(block.fault or f"page excluded at {block.address:x}")
                file.write(block[1])
    except OSError as error:
        raise CommandError(f"cannot write to: {form.file}") from error
    return Copied(Address(start), count, form.file)


def _characters(
    blocks: Iterable[tuple[int, bytes] | Unread], *, unlimited: bool
) -> Iterator[Characters | Unread]:
    start, run = 0, b""
    for block in blocks:
        if isinstance(block, Unread):
            if run:
                yield Characters(Address(start), run.decode())
            yield block
            return
        at, data = block
        position = 0
        while position < len(data):
            found = PRINTABLE.match(data, position)
            if found is not None:
                if not run:
                    start = at + position
                run += found[0]
                position = found.end()
                while len(run) > MOST_CHARACTERS:
                    yield Characters(Address(start), run[:MOST_CHARACTERS].decode())
                    start, run = start + MOST_CHARACTERS, run[MOST_CHARACTERS:]
                continue
            if run:
                yield Characters(Address(start), run.decode())
                run = b""
            if unlimited:
                return
            following = PRINTABLE.search(data, position)
            position = following.start() if following else len(data)
    if run:
        yield Characters(Address(start), run.decode())


@rd.text
def lines(records: Iterable[Record], *, words: Sequence[str] = ()) -> Iterator[str]:
    form = parsed(words)[0] or Form()
    if form.ascii:
        yield from _character_lines(records, limited=bool(form.end) or len(parsed(words)[1]) > 1)
        return
    last: tuple[str, str] | None = None  # the numbers and the characters of a line
    for record in records:
        if isinstance(record, Values):
            for each in value_lines(record, form):
                if last is not None:
                    yield "".join(last)
                last = each
        elif isinstance(record, Unread):
            yield from _broken_off(last[0] if last else None, record)
            return
        elif isinstance(record, Copied):
            yield f"{record.size_bytes} bytes copied from {record.address:#x} to {record.file}"
        elif isinstance(record, Unknown):
            yield from unknown_lines(record)
    if last is not None:
        numbers, characters = last
        width = PER_LINE[form.unit][1]
        yield f"{numbers:<{width}}{characters}" if characters else numbers


def _broken_off(line: str | None, record: Unread) -> Iterator[str]:
    """crash ends a line when it begins the next: a complaint stands behind its numbers."""
    if line is not None:
        yield Unended(line)
    if record.fault is not None:
        raise CommandError(record.fault)


def _character_lines(records: Iterable[Record], *, limited: bool) -> Iterator[str]:
    last: str | None = None
    for record in records:
        if isinstance(record, Unread):
            yield from _broken_off(last, record)
            return
        if isinstance(record, Unknown):
            yield from unknown_lines(record)
            return
        assert isinstance(record, Characters)
        if last is not None:
            yield last
        last = f"{record.address:16x}:  {record.text}"
    if limited:
        yield last or ""
    elif last is not None:
        yield Unended(last)


def value_lines(record: Values, form: Form) -> Iterator[tuple[str, str]]:
    """Lines as pairs: the address and the numbers, and the characters behind them."""
    unit, data, names = record.unit_bytes, record.data, record.names
    per_line = PER_LINE[unit][0]
    step = per_line * unit
    values = record.values
    if form.decimal and unit in (4, 8):
        sign = 1 << (8 * unit - 1)
        values = [v - ((v & sign) << 1) for v in values]
    if form.decimal:
        shape = DECIMAL[unit]
    else:
        shape = UNSIGNED[unit] if form.unsigned else f"{{:0{2 * unit}x}} "
    whole = "{:16x}:  " + shape * per_line
    printed = data.translate(PRINTED).decode() if form.characters else ""
    address = int(record.address)
    for i in range(0, len(values), per_line):
        at = i * unit
        if names is not None and any(names[i : i + per_line]):
            some = zip(names[i : i + per_line], values[i : i + per_line], strict=True)
            text = "".join(f"{n:<16} " if n else shape.format(v) for n, v in some)
            yield f"{address + at:16x}:  {text}", ""
            continue
        row = values[i : i + per_line]
        template = whole if len(row) == per_line else "{:16x}:  " + shape * len(row)
        tail = "  " + printed[at : at + step] if printed else ""
        yield template.format(address + at, *row), tail
