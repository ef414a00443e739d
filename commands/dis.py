"""dis: code as instructions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drgn import Architecture, offsetof

from crashpy.command import Address, CommandError, UsageError, command, flag, getopt, value
from crashpy.disassembly import LONGEST, Instruction
from crashpy.gdb.memory import KERNEL, PAGE, USER, Memory, UnreadableError, is_kernel
from crashpy.lines import SourceFile
from crashpy.numbers import OPERATORS, can_evaluate, evaluate, htol, is_hexadecimal, is_number, stol
from crashpy.output import Report, Unended

from .sym import Translation, Unknown, translated
from .sym import lines as symbol_lines

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.settings import Settings
    from crashpy.symbols import Symbol

# What replaces a call of the function tracer while it is off.
TRACER = "nopl   0x0(%rax,%rax,1)"
CACHE_LINE = 64  # bytes
WINDOW = 10  # lines that gdb's `list` shows at once, half of them before the one it is about
END_OF_FUNCTION = "}"
EXCLUSIVE = {
    frozenset("dx"): "-d and -x are mutually exclusive",
    frozenset("rf"): "-r and -f are mutually exclusive",
    frozenset("rs"): "-r and -s are mutually exclusive",
    frozenset("fs"): "-f and -s are mutually exclusive",
    frozenset("us"): "-s can only be used with kernel addresses",
}
LETTERS = {
    option.name: option
    for option in (
        flag("-d", "d", ""),
        flag("-x", "x", ""),
        flag("-h", "x", ""),
        flag("-u", "u", ""),
        flag("-l", "l", ""),
        flag("-s", "s", ""),
        flag("-r", "r", ""),
        flag("-f", "f", ""),
        flag("-U", "U", ""),
        value("-b", "b", "num", str, ""),
        value("-B", "b", "num", str, ""),
    )
}


@dataclass(frozen=True, slots=True)
class Disassembled:
    """One instruction."""

    address: Address
    place: str  # the symbol it belongs to, and how far behind it
    code: str  # its bytes, as hexadecimal digits
    text: str
    target: Address | None = None  # where it branches to, or what its operand in memory is
    target_place: str = ""
    traced: bool = False  # where the function tracer would come in
    line: str | None = None  # FILE: LINE; empty where it has none, None where it is not asked for
    plain: bool = field(default=False, repr=False)  # as gdb shows it, not as crash


@dataclass(frozen=True, slots=True)
class Hole:
    """Where the dump has no instruction to show."""

    address: Address
    place: str
    faults: tuple[str, ...]  # none: left out on purpose
    plain: bool = field(default=False, repr=False)


@dataclass(frozen=True, slots=True)
class SkippedBytes:
    """How many bytes behind each ud2 belong to it; None: nobody knows."""

    count: int | None


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Functions of the same name."""

    word: str
    functions: tuple[Translation, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """The place in the source that an address belongs to; None: nobody knows."""

    file: str | None
    line: int | None


@dataclass(frozen=True, slots=True)
class SourceLine:
    number: int
    text: str
    chosen: bool  # the one that was asked for


@dataclass(frozen=True, slots=True)
class SourceEnd:
    """The listing came to the end of the function, or to the last line asked for."""


Record = Disassembled | Hole | SkippedBytes | Duplicates | Source | SourceLine | SourceEnd | Unknown


@dataclass(frozen=True, slots=True)
class Start:
    """What is to be disassembled."""

    word: str
    address: int
    symbol: Symbol | None = None  # that the word names, or that a number lies in
    known: bool = True  # a symbol is there
    whole: bool = False  # a function from its beginning


@command(
    usage="[-rfludxs][-b [num]] [address | symbol | (expression)] [count]",
    words=True,
)
def dis(
    dump: Dump, *, words: Sequence[str] = (), settings: Settings | None = None
) -> Iterator[Record]:
    """disassemble code

    dis SYMBOL shows a whole function, dis ADDRESS or dis (EXPRESSION) one instruction;
    an address where a function begins, all of it. With COUNT it is so many instructions.

    -r       from the beginning of the function up to this address; the last COUNT
    -f       from the address to the end of the function
    -l       with source files and line numbers
    -s       the source: file and line, and the lines from a few before to the end of
             the function, or COUNT behind, where the files are (--src, or as compiled)
    -u       the address is a user address of the context's
    -x, -d   offsets from symbols in hexadecimal, in decimal
    -b NUM   so many bytes behind each ud2 are no code (-b alone: how many that is now)

    EXAMPLES
      crash> dis schedule 4
      0xffffffffa5d5c1de <schedule>:  push   %rbp
      0xffffffffa5d5c1df <schedule+1>:  mov    %rsp,%rbp
      0xffffffffa5d5c1e2 <schedule+4>:  push   %rbx
      0xffffffffa5d5c1e3 <schedule+5>:  mov    %gs:0x5a2c6d15(%rip),%rbx        # 0x22f00

      crash> dis -r (schedule+23) 2
      0xffffffffa5d5c1f2 <schedule+20>:  mov    %rbx,%rdi
      0xffffffffa5d5c1f5 <schedule+23>:  call   0xffffffffa5a59c67 <sched_submit_work>

      crash> dis -l schedule+20
      ./kernel/sched/core.c: 6841
      0xffffffffa5d5c1f2 <schedule+20>:  mov    %rbx,%rdi
    """
    if list(words) == ["-b"]:
        count = dump.disassembler.skipped
        yield SkippedBytes(None if count < 0 else count)
        return
    letters, rest, skipped = _options(words)
    for _ in letters & {"l", "s"} if dump.symtab is not None else ():
        dump.report("line numbers are not available")
    if skipped is not None:
        dump.disassembler.skipped = skipped
    if not rest:
        if skipped is None:
            raise UsageError
        return
    platform = dump.prog.platform
    if platform is not None and platform.arch != Architecture.X86_64:
        raise CommandError("only code of x86-64 can be disassembled")
    radix = 16 if "x" in letters else 10 if "d" in letters or settings is None else settings.radix
    user = "u" in letters
    start = _start(dump, rest[0], user=user)
    if not isinstance(start, Start):
        yield start
        return
    if rest[1:] and not (count := stol(rest[1])):
        raise CommandError("invalid count argument: 0")
    most = count if rest[1:] else None
    if "s" in letters:
        yield from _source(dump, start, most)
        return
    listing = _Listing(dump, radix, lines="l" in letters and dump.symtab is None)
    if "U" in letters or not start.known or user:
        if not user and start.known and not is_kernel(dump, start.address) and "U" not in letters:
            raise CommandError(f"{start.address:x} is not a kernel virtual address")
        yield from listing.plain(start.address, most or 1, USER if user else KERNEL)
        return
    if not is_kernel(dump, start.address):
        raise CommandError(f"{start.address:x} is not a kernel virtual address")
    if "r" in letters:
        yield from listing.backwards(start, most)
    elif most is not None:
        yield from listing.forwards(start.address, most)
    elif "f" in letters or start.whole:
        yield from listing.function(start, from_start="f" not in letters)
    else:
        yield from listing.forwards(start.address, 1)


def _options(words: Sequence[str]) -> tuple[set[str], list[str], int | None]:
    """The letters, the words without them, and what -b says."""
    found, rest = getopt(words, LETTERS)
    letters: set[str] = set()
    skipped = None
    for option, argument in found:
        if option.dest == "b":
            number = re.match(r"\s*([+-]?\d+)", argument or "")
            skipped = int(number[1]) if number else 0
            continue
        for others, remark in EXCLUSIVE.items():
            if option.dest in others and others - {option.dest} <= letters:
                raise CommandError(remark)
        letters.add(option.dest)
    return letters, rest, skipped


def _start(dump: Dump, word: str, *, user: bool) -> Start | Duplicates | Unknown:
    """What the word means: an expression, a number, a symbol, in this order."""
    symbols = dump.symbols
    if can_evaluate(word):
        address = evaluate(dump, word)
        return Start(word, address) if user else _resolved(dump, word, Start(word, address))
    if not word:
        raise CommandError("The length of the symbol name is zero!")
    symbol = symbols.named(word)
    if symbol is None and is_hexadecimal(word):
        address = htol(word)
        found = symbols.at(address)
        if found is None:
            if not user:
                dump.report(f"WARNING: {address:x}: no associated kernel symbol found")
            return Start(word, address, known=user)
        symbol, offset = found
        whole = not offset and symbols.is_text_symbol(symbol)
        return Start(word, address, symbol, whole=whole)
    if symbol is None:
        return Unknown(word, tuple(_plain(dump, each) for each in symbols.containing(word)))
    whole = symbols.is_text_symbol(symbol)
    return _resolved(dump, word, Start(word, symbol.address, symbol, whole=whole))


def _resolved(dump: Dump, word: str, start: Start) -> Start | Duplicates:
    """The same where one function is meant; all of them where several have the name.

    crash's resolve_text_symbol(): a function counts before data of its name.
    """
    symbols = dump.symbols
    named: Symbol | None = None
    offset = 0
    origin = start.symbol
    if origin is None:
        if not is_number(word) and (name := _name_in(word)):
            named = symbols.named(name)
            if named is not None and not symbols.is_text_symbol(named):
                named = None
            if named is not None and len(functions := _functions(dump, named.name)) > 1:
                return Duplicates(word, tuple(_shown(dump, s) for s in functions))
        found = symbols.at(start.address)
        if found is None:
            return start
        origin, offset = found
        if origin.name not in word:
            if named is not None and origin != named:
                raise CommandError(
                    f"invalid expression: {word} evaluates to: {origin.name}+{offset:x}"
                )
            return start
    if len(symbols.all_named(origin.name)) <= 1:
        return start
    functions = _functions(dump, origin.name)
    if len(functions) > 1:
        return Duplicates(word, tuple(_shown(dump, s) for s in functions))
    if functions:
        (only,) = functions
        return Start(word, only.address + offset, start.symbol, whole=start.whole)
    return start


def _name_in(word: str) -> str:
    """The first operand of an expression."""
    inner = word.removeprefix("(").removesuffix(")").strip()
    at = next((i for i, c in enumerate(inner) if c in OPERATORS.replace("#", "")), -1)
    return inner[:at].strip() if at >= 0 else ""


def _functions(dump: Dump, name: str) -> list[Symbol]:
    return [s for s in dump.symbols.all_named(name) if dump.symbols.is_text_symbol(s)]


def _plain(dump: Dump, symbol: Symbol, line: str | None = None) -> Translation:
    module = symbol.module and dump.symbols.module_of(symbol.address)
    name = module.name if module else None
    return Translation(Address(symbol.address), symbol.kind, symbol.name, 0, name, line)


def _shown(dump: Dump, symbol: Symbol) -> Translation:
    return _plain(dump, symbol, dump.symbols.line(symbol.address) or "")


class _Listing:
    """Makes the records of instructions one after the other."""

    def __init__(self, dump: Dump, radix: int, *, lines: bool) -> None:
        self._dump = dump
        self._symbols = dump.symbols
        self._radix = radix
        self._lines = lines
        self._names: dict[int, str] = {}
        self._around = 0, 0, ""  # a symbol of the kernel: from, to, name

    def plain(self, address: int, most: int, kind: str) -> Iterator[Disassembled | Hole]:
        """As gdb shows them."""
        name = self._dump.gdb.symbolic
        for count, found in enumerate(self._read(address, kind)):
            if count == most:
                return
            place = name(found.address)[2:-1]
            if isinstance(found, Hole):
                yield Hole(found.address, place, found.faults, plain=True)
                return
            at, code, text, target = found
            goal = "" if target is None else name(target)[2:-1]
            shown = None if target is None else Address(target)
            yield Disassembled(Address(at), place, code.hex(), text, shown, goal, plain=True)

    def forwards(self, address: int, most: int) -> Iterator[Disassembled | Hole]:
        for count, found in enumerate(self._read(address)):
            if count == most:
                return
            yield self._record(found)

    def function(self, start: Start, *, from_start: bool) -> Iterator[Disassembled | Hole]:
        """From the beginning of the function, or from an address, to its end."""
        end, sized = self._end(start)
        first = start.address
        if not from_start:
            found = self._symbols.at(first)
            if found is None:
                raise CommandError(f"cannot resolve address: {first:x}")
            first = found[0].address
        held: list[Instruction] = []
        some = False
        for found_ in self._read(first, until=end):
            if found_.address >= end:
                break
            if found_.address < start.address:
                continue
            # Where nothing says how long a function is, what fills up to the next is no part of it.
            if not sized and isinstance(found_, Instruction) and _is_filling(found_):
                held.append(found_)
                continue
            yield from map(self._record, held)
            held.clear()
            some = True
            yield self._record(found_)
        if not some:  # overwritten, as what only the kernel's start needed
            yield from map(self._record, held)

    def backwards(self, start: Start, most: int | None) -> Iterator[Disassembled | Hole]:
        """From the beginning of the function up to an address, or the last so many of these."""
        self._end(start)
        found = self._symbols.at(start.address)
        if found is None:
            raise CommandError(f"cannot resolve address: {start.address:x}")
        kept: list[Instruction | Hole] = []
        for each in self._read(found[0].address, until=start.address + 1):
            if most is None:
                yield self._record(each)
            else:
                kept.append(each)
                del kept[:-most]
            if each.address >= start.address:
                break
        yield from map(self._record, kept)

    def _end(self, start: Start) -> tuple[int, bool]:
        """Where the function ends, and whether its size is known."""
        symbols = self._symbols
        origin = start.symbol
        if origin is None and (found := symbols.at(start.address)) is not None:
            origin = found[0]
        if origin is None:
            raise CommandError(
                f"gdb unable to disassemble kernel virtual address {start.address:x}"
            )
        address = origin.address if start.symbol is not None else start.address
        size = symbols.code_size(origin)
        if size is not None and address < origin.address + size:
            return origin.address + size, True
        following = symbols.next(origin)
        if following is None:
            if start.symbol is None:
                raise CommandError(
                    f"gdb unable to disassemble kernel virtual address {start.address:x}"
                )
            raise CommandError(f"unable to determine symbol after {origin.name}")
        return following.address, origin.module is not None or self._dump.symtab is None

    def _read(
        self, address: int, kind: str = KERNEL, *, until: int | None = None
    ) -> Iterator[Instruction | Hole]:
        """Instructions from an address on, until one that cannot be read."""
        memory, decode = Memory(self._dump, kind), self._dump.disassembler.instructions
        data, at = b"", address
        fault: tuple[str, int] | None = None
        if kind == USER and is_kernel(self._dump, address):
            memory = Memory(self._dump, KERNEL)  # of the kernel's pages as well, to crash
        elif kind == USER and not self._dump.context.mm:
            pgd = offsetof(self._dump.prog.type("struct mm_struct"), "pgd")
            text = f'invalid kernel virtual address: {pgd:x}  type: "mm_struct pgd"'
            yield Hole(Address(address), "", (text,))
            return
        while fault is None:
            here = at + len(data)
            size = PAGE - here % PAGE
            if until is not None:
                size = min(size, max(until - here, 0) + LONGEST)
            try:
                data += memory.read(here, size)
            except UnreadableError as error:
                fault = str(error), here
            # One that begins near the end may go on beyond it.
            certain = len(data) if fault is not None else len(data) - LONGEST
            done = 0
            for found in decode(data, at):
                if found.address - at >= certain:
                    break
                done = found.address - at + len(found.data)
                yield found
            data, at = data[done:], at + done
        yield Hole(Address(at), "", _faults(*fault))

    def _record(self, found: Instruction | Hole) -> Disassembled | Hole:
        place = self._place(found.address)
        if isinstance(found, Hole):
            return Hole(found.address, place, found.faults)
        address, code, text, target = found
        goal, shown = "", None
        if target is not None:
            shown = Address(target)
            if (goal := self._names.get(target, "?")) == "?":
                goal = self._names[target] = self._goal(target, text)
        traced = "+" not in place and text.startswith(TRACER)
        line = (self._symbols.line(address) or "") if self._lines else None
        return Disassembled(Address(address), place, code.hex(), text, shown, goal, traced, line)

    def _place(self, address: int) -> str:
        """As the symbol table formats it; instructions mostly follow one another."""
        start, end, name = self._around
        if not start < address < end:
            place = self._symbols.format(address, self._radix)
            found = self._symbols.at(address)
            if found is not None and found[1] and found[0].module is None:
                following = self._symbols.next(found[0])
                if following is not None and following.module is None:
                    self._around = found[0].address, following.address, found[0].name
            return place
        offset = address - start
        return f"{name}+{offset:#x}" if self._radix == 16 else f"{name}+{offset}"

    def _goal(self, target: int, text: str) -> str:
        """crash names what gdb has a name for, and every target of a jump."""
        jump = "#" not in text and text.split()[-2].startswith("j")
        if not jump and not self._has_name(target):
            return ""
        return self._symbols.format(target, self._radix)

    def _has_name(self, target: int) -> bool:
        if not is_kernel(self._dump, target):
            return False
        found = self._symbols.at(target)
        if found is not None and found[0].module is None:
            size = self._symbols.size(found[0])
            if size is not None and found[1] < size:
                return True
        return bool(self._dump.gdb.symbolic(target))


def _faults(text: str, address: int) -> tuple[str, ...]:
    """gdb asks for a line of its cache, then for what it needs of it."""
    if not text:
        return ()
    line = address // CACHE_LINE * CACHE_LINE
    return text.replace(f" {address:x} ", f" {line:x} "), text


def _is_filling(found: Instruction) -> bool:
    return found.data in (b"\xcc", b"\x66\x90") or "nop" in found.text


def _source(dump: Dump, start: Start, most: int | None) -> Iterator[Record]:
    """The lines of the source as gdb's `list` shows them (crash's list_source_code())."""
    address = start.address
    symbols = dump.symbols
    found = symbols.at(address)
    if found is None or not symbols.is_text_symbol(found[0]):
        raise CommandError(f"{address:x}: not a kernel text address")
    module = symbols.module_of(address)
    if module is not None and module.elf is None:
        raise CommandError(f"{module.name}: module source code is not available")
    missing = CommandError(f"{start.word}: source code is not available\n")
    place = symbols.source(address)
    if place is None:
        yield Source(None, None)
        raise missing
    yield Source(place.name, place.line)
    text = place.read(dump.options.source_dir)
    if text is None or place.line > len(text):
        raise missing
    yield from _listed(text, place, most)


def _listed(text: Sequence[str], place: SourceFile, most: int | None) -> Iterator[Record]:
    chosen = place.line
    for number in range(max(chosen - WINDOW // 2, 1), len(text) + 1):
        if most is not None and number > chosen + most:
            yield SourceEnd()
            return
        yield SourceLine(number, text[number - 1], number == chosen)
        if most is None and number > chosen and text[number - 1] == END_OF_FUNCTION:
            yield SourceEnd()
            return


@dis.text
def lines(records: Iterable[Record], *, settings: Settings | None = None) -> Iterator[str]:
    radix = settings.radix if settings else 10
    last = ""
    for record in records:
        match record:
            case Disassembled():
                if record.line is not None and record.line != last:
                    last = record.line
                    yield last
                yield instruction_line(record)
            case Hole():
                start = Unended(f"{_prefix(record)}:\t")
                faults = [Report(f"dis: {fault}") for fault in record.faults]
                yield from (start, *faults) if record.plain else (*faults, start)
            case SkippedBytes():
                count = "undetermined" if record.count is None else record.count
                yield f"encoded bytes being skipped after ud2a: {count}"
            case Duplicates():
                yield Report(f"dis: {record.word}: duplicate text symbols found:")
                yield from (translated(each, radix) for each in record.functions)
            case Source():
                yield f"FILE: {record.file or '(unknown)'}"
                yield f"LINE: {record.line or '(unknown)'}"
                yield ""
            case SourceLine():
                yield f"{'*' if record.chosen else ' '} {record.number}\t{record.text}"
            case SourceEnd():
                yield ""
            case Unknown():
                yield from symbol_lines([record], settings=settings)


def instruction_line(record: Disassembled) -> str:
    goal = f" <{record.target_place}>" if record.target_place else ""
    tracer = " [FTRACE NOP]" if record.traced else ""
    return f"{_prefix(record)}:\t{record.text}{goal}{tracer}"


def _prefix(record: Disassembled | Hole) -> str:
    if record.plain:
        place = f" <{record.place}>" if record.place else ""
        return f"   {record.address:#x}{place}"
    return f"{record.address:#x} <{record.place}>"
