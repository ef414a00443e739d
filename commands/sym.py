"""sym: symbols and addresses, one into the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crashpy.command import Address, CommandError, Option, UsageError, command, flag, getopt, value
from crashpy.modules import KINDS, Module
from crashpy.numbers import NumberError, htol, is_hexadecimal, is_number
from crashpy.symbols import Symbol

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.settings import Settings

OPTIONS: dict[str, Option] = {
    option.name: option
    for option in (
        flag("-l", "everything", "all symbols"),
        flag("-L", "everything", "the same"),
        flag("-M", "modules", "the symbols of all modules"),
        value("-m", "module", "module", str, "the symbols of one module"),
        flag("-p", "previous", "also the symbol before"),
        flag("-n", "next", "also the symbol after"),
        value("-q", "query", "string", str, "all symbols that contain the string"),
        value("-Q", "count", "string", str, "how many contain the string, and the last one"),
        flag("-s", "section", "the section of an address instead of its line"),
    )
}

MARKERS = {
    f"_MODULE_{kind}{'_' * bool(kind)}{end}_": f"MODULE {kind}{' ' * bool(kind)}{end}"
    for kind in ("", "PERCPU", "INIT", *KINDS)
    for end in ("START", "END")
}


@dataclass(frozen=True, slots=True)
class Translation:
    """An address and the symbol it lies in."""

    address: Address
    kind: str  # nm's letter
    name: str
    offset: int  # bytes from the symbol to the address
    module: str | None  # None in the kernel
    line: str | None = None  # FILE: LINE; empty where code has none, None where it is not asked for
    section: str | None = None  # likewise


@dataclass(frozen=True, slots=True)
class Nearby:
    """An address of a module where no symbol is."""

    address: Address
    place: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A word that is no symbol; those that contain it, unless it was an address."""

    word: str
    alternatives: tuple[Translation, ...] | None


@dataclass(frozen=True, slots=True)
class NoneFound:
    """Of `-q`: no symbol contains the string."""

    query: str


@dataclass(frozen=True, slots=True)
class Count:
    """How many symbols contain a string."""

    query: str
    found: int
    last: str | None  # the name of the last one


Record = Symbol | Translation | Nearby | Unknown | NoneFound | Count


@command(
    usage="[-l] | [-M] | [-m module] | [-p|-n] | [-q string] | [symbol | vaddr]",
    words=True,
)
def sym(
    dump: Dump, *, words: Sequence[str] = (), settings: Settings | None = None
) -> Iterator[Record]:
    """symbols into addresses, addresses into symbols

    Shows address, type (as nm does) and name of a symbol; of code the source file and
    line as well, and of a module's symbol the module in brackets. The name of several
    symbols shows all of them. For a name that is none, the symbols that contain it
    are shown.

    -l         all symbols
    -M         the symbols of all modules, with the bounds of their memory
    -m module  those of one module
    -p         also the symbol before
    -n         also the symbol after
    -q string  all symbols that contain the string

    Lines of a module's code are known once `mod -s` or `mod -S` has loaded its file.

    EXAMPLES
      crash> sym jiffies
      ffffffffa64079c0 (D) jiffies

      crash> sym schedule
      ffffffffa5d5c1de (T) schedule ./kernel/sched/core.c: 6833

      crash> sym ffffffffc0199ce0
      ffffffffc0199ce0 (t) loop_queue_rq [loop]

      crash> sym sched_cl_
      symbol not found: sched_cl_
      possible alternatives:
        (none found)
    """
    found, names = getopt(words, OPTIONS)
    given = {option.name for option, _ in found}
    if not names and not given - {"-p", "-n", "-s"}:
        raise UsageError
    for option, argument in found:
        yield from _listing(dump, option.dest, argument or "")
    radix = settings.radix if settings else 10
    for name in names:
        for symbol, offset in _meanings(dump, name, radix):
            if isinstance(symbol, Nearby | Unknown):
                yield symbol
                if isinstance(symbol, Nearby) and "-n" in given:
                    raise CommandError("next_symbol: two NULL args!")
                continue
            in_module = dump.symbols.module_of(symbol.address) is not None
            shown = [(symbol, offset)]
            if "-p" in given and (before := dump.symbols.previous(symbol)):
                shown.insert(0, (before, 0))
            if "-n" in given and (after := dump.symbols.next(symbol)):
                shown.append((after, 0))
            for each, distance in shown:
                yield _translation(dump, each, distance, in_module=in_module, section="-s" in given)


def _listing(dump: Dump, what: str, argument: str) -> Iterator[Record]:
    symbols = dump.symbols
    if what == "everything":
        yield from symbols.kernel
    if what in ("everything", "modules", "module"):
        for module in symbols.modules:
            if what != "module" or module.name == argument:
                yield from _in_module(module)
    elif what == "query":
        found = None
        for found in symbols.containing(argument):
            yield _plain(dump, found)
        if found is None:
            yield NoneFound(argument)
    elif what == "count":
        names = [s.name for s in symbols.containing(argument)]
        yield Count(argument, len(names), names[-1] if names else None)


def _in_module(module: Module) -> Iterator[Record]:
    """The symbols between the markers of a module's memory, per-CPU ones apart."""
    low, high = module.per_cpu, module.per_cpu + module.per_cpu_size
    own = [s for s in module.symbols if low <= s.address < high] if low != high else []
    if module.by_kind:
        if low and low != high:
            yield Symbol(f"_MODULE_PERCPU_START_{module.name}", low, "m", module.name)
            yield from map(_shown, own)
            yield Symbol(f"_MODULE_PERCPU_END_{module.name}", high, "m", module.name)
        for span in module.spans:
            yield from span
        return
    for span in module.spans:
        for symbol in span:
            if low <= symbol.address < high:
                continue
            yield symbol
            if symbol.name.startswith("_MODULE_START_"):
                yield from map(_shown, own)


def _shown(symbol: Symbol) -> Record:
    """A per-CPU symbol; markers among them are shown by their names."""
    if not symbol.is_marker:
        return symbol
    return Translation(Address(symbol.address), symbol.kind, symbol.name, 0, None)


def _meanings(dump: Dump, word: str, radix: int) -> Iterator[tuple[Symbol | Nearby | Unknown, int]]:
    """What a word of the command line stands for: symbols with offsets."""
    if word[-1:] in (",", ":") and is_number(word[:-1]):
        word = word[:-1]
    symbols = dump.symbols
    # A whole address needs no search among the names.
    named = [] if len(word) > 11 and is_hexadecimal(word) else symbols.all_named(word)
    if named or not is_hexadecimal(word):
        yield from ((symbol, 0) for symbol in named)
        if not named:
            found = tuple(_plain(dump, s) for s in symbols.containing(word))
            yield Unknown(word, found), 0
        return
    try:
        address = htol(word)
    except NumberError as error:
        dump.report(str(error))
        dump.report(f"invalid address: {word}")
        return
    if not symbols.in_range(address):
        dump.report(f"invalid address: {word}")
    elif (at := symbols.at(address)) is not None:
        yield at
    elif symbols.module_of(address) is not None:
        yield Nearby(Address(address), symbols.format(address, radix)), 0
    else:
        yield Unknown(word, None), 0


def _plain(dump: Dump, symbol: Symbol) -> Translation:
    """As `-q` shows it: without a line."""
    module = symbol.module and dump.symbols.module_of(symbol.address)
    return Translation(
        Address(symbol.address), symbol.kind, symbol.name, 0, module.name if module else None
    )


def _translation(
    dump: Dump, symbol: Symbol, offset: int, *, in_module: bool, section: bool
) -> Translation:
    symbols = dump.symbols
    address = symbol.address + offset
    module = symbols.module_of(symbol.address) if in_module else None
    line = place = None
    if section:
        place = symbols.section(address) or ""
    elif not symbol.name.startswith("_MODULE_START_") and symbols.is_text(address):
        line = symbols.line(address) or ""
    name = module.name if module else None
    return Translation(Address(address), symbol.kind, symbol.name, offset, name, line, place)


@sym.text
def lines(records: Iterable[Record], *, settings: Settings | None = None) -> Iterator[str]:
    radix = settings.radix if settings else 10
    for record in records:
        if isinstance(record, Symbol):
            if record.module is not None and record.is_marker:
                yield marker(record)
            else:
                yield f"{record.address:x} ({record.kind}) {record.name}"
        elif isinstance(record, Translation):
            yield translated(record, radix)
        elif isinstance(record, Nearby):
            yield f"{record.address:x} (?) {record.place}"
        elif isinstance(record, Count):
            yield f"{record.found} found " + (f"({record.last})" if record.last else "")
        elif isinstance(record, NoneFound):
            yield "(none found)"
        elif record.alternatives is not None:
            yield f"symbol not found: {record.word}"
            yield "possible alternatives:"
            yield from (f"  {translated(r, radix)}" for r in record.alternatives)
            if not record.alternatives:
                yield "  (none found)"
        else:
            yield f"symbol not found: {record.word}"


def translated(record: Translation, radix: int = 10) -> str:
    """One symbol (crash's show_symbol())."""
    signed = record.offset - (record.offset >> 63 << 64)  # as a long
    offset = f"{record.offset:#x}" if radix == 16 else f"{signed}"
    plus = f"+{offset}" if record.offset else ""
    if record.name.startswith("_MODULE_START_"):
        module = record.name.removeprefix("_MODULE_START_")
        return f"{record.address - record.offset:x} ({record.kind}) ({module} module){plus}"
    text = f"{record.address:x} ({record.kind}) {record.name}{plus}"
    if record.module is not None:
        text += f" [{record.module}]"
    if record.line is not None:
        text += f" {record.line}"
    if record.section is not None:
        text += f" [{record.section}]"
    return text


def marker(symbol: Symbol) -> str:
    """The bounds of a module's memory and sections in a listing."""
    for end in ("start", "end"):
        prefix = f"_MODULE_SECTION_{end.upper()} "
        if symbol.name.startswith(prefix):
            return f"{symbol.address:x} {symbol.name.removeprefix(prefix)}: section {end}"
    for prefix, text in MARKERS.items():
        if symbol.name.startswith(prefix):
            return f"{symbol.address:x} {text}: {symbol.name.removeprefix(prefix)}"
    return f"{symbol.address:x} unknown tag: {symbol.name}"
