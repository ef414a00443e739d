"""search: where a value or a string is in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from drgn import FaultError

from crashpy.command import Address, CommandError, UsageError, command, flag, getopt, value
from crashpy.gdb.memory import KERNEL, PAGE, USER, Memory, UnreadableError, is_kernel
from crashpy.kernel.mm import Mm
from crashpy.kernel.pages import nodes
from crashpy.kernel.ranges import MAPPED, Pages, Range, Spaces
from crashpy.numbers import can_evaluate, dtol, evaluate, htol, stol
from crashpy.tasks import Task
from crashpy.text import task_header

from .rd import PHYSICAL, Values
from .rd import lines as rd_lines

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crashpy.dump import Dump

WORD = (1 << 64) - 1
CHARACTERS = 56  # how much of a string is shown
UNITS = {"": 8, "w": 4, "h": 2}  # bytes of a value
NAMES = {"w": "uint", "h": "ushort"}
PRINTED = bytes(b if 0x20 <= b < 0x7F else 0x2E for b in range(256))

LETTERS = {
    option.name: option
    for option in (
        *(flag(f"-{letter}", letter, "") for letter in "TtukKVphwc"),
        value("-l", "length", "length", str, ""),
        value("-s", "start", "start", str, ""),
        value("-e", "end", "end", str, ""),
        value("-v", "v", "", str, ""),
        value("-m", "mask", "mask", str, ""),
        value("-x", "context", "count", str, ""),
    )
}


class Owner(NamedTuple):
    """The task whose stack is searched."""

    pid: int
    task: int  # struct task_struct *
    cpu: int
    comm: str


class Hit(NamedTuple):
    address: int
    value: int | None  # what is there; None where a string was looked for
    argument: str | None = None  # the symbol or expression that has this value
    text: str | None = None  # the string, and what follows it
    owner: Owner | None = None  # -t, -T
    before: Values | None = None  # -x
    after: Values | None = None

    def __json__(self) -> dict[str, Any]:
        found: dict[str, Any] = {"address": Address(self.address)}
        if self.value is not None:
            found["value"] = Address(self.value)
        found |= {name: v for name in ("argument", "text") if (v := getattr(self, name))}
        if self.owner is not None:
            found |= {**self.owner._asdict(), "task": Address(self.owner.task)}
        found |= {name: v for name in ("before", "after") if (v := getattr(self, name))}
        return found


@dataclass
class Search:
    """What is looked for, and where."""

    space: str = ""  # KERNEL, USER, PHYSICAL
    unmapped: bool = False  # -K: only what is mapped by arithmetic
    mapped: bool = False  # -V: only what is not
    stacks: str = ""  # t, T
    start: int = 0
    end: int = 0
    length: int = 0
    mask: int = 0
    mode: str = ""  # w, h, c
    context: int = 0
    values: list[tuple[int, str | None]] = field(default_factory=list)
    strings: list[bytes] = field(default_factory=list)

    @property
    def unit(self) -> int:
        return UNITS.get(self.mode, 8)


@command(
    usage=(
        "[-s start] [ -[kKV] | -u | -p | -t | -T ] [-e end | -l length] [-m mask]\n"
        "         [-x count] -[cwh] [value | (expression) | symbol | string] ..."
    ),
    words=True,
)
def search(dump: Dump, *, words: Sequence[str] = ()) -> Iterator[Hit]:
    """where a value or a string is in memory

    VALUE is hexadecimal, a symbol or an (expression). By default all of the kernel's
    memory is searched for 64-bit words that have it. Pages that the dump lacks are left
    out.

    -k         the kernel's memory; -K without what is mapped by page tables (vmalloc,
               modules, vmemmap), -V only that
    -u         the context's user memory
    -p         physical memory
    -t, -T     the kernel stacks of all tasks, of the tasks on CPUs
    -s START   from this address or symbol on
    -e END     up to this one; -l LENGTH so many bytes
    -m MASK    bits that do not count
    -w, -h     words of 32 or 16 bits
    -c         strings; one with blanks stands in double quotes
    -x COUNT   so many words before and after each find

    EXAMPLES
      crash> search -p -c "Linux version"
      5c00080: Linux version 6.12.117-sample (sample@sample) (gcc (Debi
      5c584e0: Linux version 6.12.117-sample (sample@sample) (gcc (Debi
      6277160: Linux version 6.12.117-sample (sample@sample) (gcc (Debi

      crash> search -s linux_banner -l 4096 -x 4 -w 756e694c
      ffffffffa60584d0:  00000000 00000000 00000000 00000000   ................
      ffffffffa60584e0:  756e694c
      ffffffffa60584e4:  65762078 6f697372 2e36206e 312e3231   x version 6.12.1

      crash> search -t init_task
      crash> search -m fff -K ffffa0bb801c0000
      crash> search -u 464c457f -w
    """
    wanted = given(dump, words)
    spaces = Spaces.of(dump)
    look = _strings(wanted) if wanted.mode == "c" else _words(dump, wanted)
    if wanted.stacks:
        yield from _in_stacks(dump, wanted, look)
        return
    if wanted.space == USER:
        mm = dump.context.mm
        parts: Iterable[tuple[int, int, Callable[[int, int], Iterator[Pages]]]] = (
            (wanted.start, wanted.end, lambda a, b: spaces.user(mm, a, b)),
        )
    elif wanted.space == PHYSICAL:
        parts = ((wanted.start, wanted.end, spaces.physical),)
    else:
        parts = [
            (max(wanted.start, each.start), min(wanted.end, each.end), _of(spaces, each))
            for each in spaces.ranges
            if wanted.start < each.end
            and wanted.end > each.start
            and not (wanted.unmapped if each.kind in MAPPED else wanted.mapped)
        ]
    for start, end, pages in parts:
        yield from look(pages(_rounded(dump, start), end), start & ~7, end, None)


def _of(spaces: Spaces, within: Range) -> Callable[[int, int], Iterator[Pages]]:
    return lambda start, end: spaces.kernel(within, start, end)


def _rounded(dump: Dump, start: int) -> int:
    if start & 7:
        start &= ~7
        dump.report(f"rounding down start address to: {start:x}")
    return start


# The line


def given(dump: Dump, words: Sequence[str]) -> Search:
    """What the words ask for; errors come in crash's order (cmd_search())."""
    options, rest = getopt(words, LETTERS)
    wanted = Search()
    chosen = False  # an option tells where to start
    ranges: list[Range] = []
    for option, argument in options:
        letter, word = option.name[1:], argument or ""
        if letter == "u":
            chosen = _user(dump, wanted, chosen)
        elif letter == "p":
            wanted.space = PHYSICAL
            if not chosen:
                known = nodes(dump.prog)
                wanted.start = known[0].first_pfn * PAGE if known else 0
            chosen = True
        elif letter in "kKV":
            wanted.space = KERNEL
            if not chosen:
                ranges = ranges or Spaces.of(dump).ranges
                wanted.start = ranges[0].start
            chosen = True
            wanted.unmapped |= letter == "K"
            wanted.mapped |= letter == "V"
        elif letter in "se":
            symbol = dump.symbols.named(word)
            at = symbol.address if symbol is not None else htol(word)
            if letter == "s":
                wanted.start, chosen = at, True
            elif not at:
                raise CommandError("invalid ending address: 0")
            else:
                wanted.end = at
        elif letter in "lmx":
            convert = {"l": stol, "m": htol, "x": dtol}[letter]
            setattr(wanted, option.dest, convert(word))
        elif letter in "hwc":
            if wanted.mode:
                what = "type" if letter == "c" else "mode"
                text = f'overriding previously set search {what} with "{letter}"'
                dump.report(f"search: WARNING: {text}")
            wanted.mode = letter
        elif letter in "tT":
            if wanted.stacks not in ("", letter):
                raise CommandError("-t and -T options are mutually exclusive")
            wanted.stacks = letter
        else:
            raise UsageError
    if wanted.stacks and (wanted.space or wanted.start or wanted.end or wanted.length):
        raise CommandError(
            f"-{wanted.stacks} option cannot be used with other memory-selection options"
        )
    if not rest or (wanted.length and wanted.end):
        raise UsageError
    _bounds(dump, wanted, chosen)
    _values(dump, wanted, rest)
    return wanted


def _user(dump: Dump, wanted: Search, chosen: bool) -> bool:
    task = dump.context
    if task.kthread or not task.mm:
        raise CommandError("current context has no user address space")
    if not chosen:
        areas = Mm.of(dump.prog).areas(task.mm)
        wanted.start = min((area.start for area in areas), default=0)
    wanted.space = USER
    return True


def _bounds(dump: Dump, wanted: Search, chosen: bool) -> None:
    """Where to start and to stop; a stack's own bounds come later."""
    if wanted.stacks:
        return
    ranges: list[Range] = []
    if not wanted.space:
        wanted.space = KERNEL
    if wanted.space == KERNEL:
        ranges = Spaces.of(dump).ranges
        if not chosen:
            wanted.start = ranges[0].start
        if not is_kernel(dump, wanted.start):
            dump.report(f"invalid kernel virtual address: {wanted.start:x}")
            raise UsageError
    user_end = ranges[0].start if ranges else Spaces.of(dump).ranges[0].start
    if wanted.space == USER and wanted.start >= user_top(dump):
        dump.report(f"invalid user virtual address: {wanted.start:x}")
        raise UsageError
    if wanted.length:
        wanted.end = (wanted.start + wanted.length) & WORD
    elif not wanted.end:
        if wanted.space == USER:
            wanted.end = user_end
        elif wanted.space == PHYSICAL:
            known = nodes(dump.prog)
            wanted.end = (known[-1].first_pfn + known[-1].pages) * PAGE if known else 0
        else:
            wanted.end = max(each.end for each in ranges)
    if wanted.space == USER and wanted.end > user_end:
        dump.report(f"ending address {wanted.end:x} is in kernel space")
        raise UsageError
    if wanted.end < wanted.start:
        dump.report(f"ending address {wanted.end:x} is below starting address {wanted.start:x}")
        raise UsageError


def user_top(dump: Dump) -> int:
    """The first address that can be no task's."""
    from crashpy.kernel.paging import Paging

    return Paging.of(dump.prog).user_end


def _values(dump: Dump, wanted: Search, words: Sequence[str]) -> None:
    if wanted.mask and wanted.mode == "c":
        dump.report("mask ignored on string search")
    if wanted.context:
        most = PAGE // wanted.unit
        if wanted.mode == "c":
            raise CommandError("-x option is not allowed with -c")
        if wanted.context > most:
            raise CommandError(f"context value {wanted.context} is too large: maximum is {most}")
    for word in words:
        if wanted.mode == "c":
            if word:
                wanted.strings.append(word.encode(errors="surrogateescape"))
            continue
        argument = None
        if can_evaluate(word):
            number, argument = evaluate(dump, word), word
        elif (symbol := dump.symbols.named(word)) is not None:
            number, argument = symbol.address, word
        else:
            number = htol(word)
        if argument is not None and wanted.mask:
            argument = None  # another value may have been found
        if number >> 8 * wanted.unit:
            shown = _argument(argument)
            raise CommandError(f"value too large for -{wanted.mode} option: {number:x} {shown}")
        wanted.values.append((number, argument))
    if not wanted.values and not wanted.strings:
        raise UsageError


def _argument(word: str | None) -> str:
    if not word:
        return ""
    return word if word.startswith("(") else f"({word})"


# Looking

Look = Callable[[Iterator[Pages], int, int, "Owner | None"], Iterator[Hit]]


def _in_stacks(dump: Dump, wanted: Search, look: Look) -> Iterator[Hit]:
    size = dump.tasks.stack_size
    for task in dump.tasks:
        if wanted.stacks == "T" and not dump.tasks.is_active(task):
            continue
        owner = Owner(task.pid, task.address, task.cpu, task.comm)
        pages = _stack(dump, task, size)
        yield from look(pages, task.stack, task.stack + size, owner)


def _stack(dump: Dump, task: Task, size: int) -> Iterator[Pages]:
    """The pages of a stack up to one that is not there."""
    try:
        data = dump.prog.read(task.stack, size)
    except (FaultError, OverflowError, ValueError):
        data = b""
        for at in range(task.stack, task.stack + size, PAGE):
            try:
                page = dump.prog.read(at, PAGE)
            except (FaultError, OverflowError, ValueError):
                continue
            yield Pages(np.array([at], np.uint64), np.frombuffer(page, np.uint8).reshape(1, -1))
    if data:
        addresses = np.arange(task.stack, task.stack + size, PAGE, dtype=np.uint64)
        yield Pages(addresses, np.frombuffer(data, np.uint8).reshape(-1, PAGE))


def _words(dump: Dump, wanted: Search) -> Look:
    unit = wanted.unit
    prog = dump.prog
    little = prog.platform is None or "IS_LITTLE_ENDIAN" in str(prog.platform.flags)
    kind = np.dtype(f"{'<' if little else '>'}u{unit}")
    mask = wanted.mask & (1 << 8 * unit) - 1
    sought = [kind.type(number | mask) for number, _ in wanted.values]
    arguments = [argument for _, argument in wanted.values]
    per_page = PAGE // unit
    around = _Around(dump, wanted, little) if wanted.context else None

    def look(pieces: Iterator[Pages], start: int, end: int, owner: Owner | None) -> Iterator[Hit]:
        stop = end & ~7 if end != WORD else 1 << 64
        for addresses, data in pieces:
            words = data.reshape(-1).view(kind)
            compared = words | kind.type(mask) if mask else words
            found = [np.flatnonzero(compared == number) for number in sought]
            if not any(map(len, found)):
                continue
            which: Sequence[int] | NDArray[np.int64]
            if len(found) == 1:
                [rows] = found
                which = np.zeros(len(rows), np.int64)
            else:
                rows = np.concatenate(found)
                which = np.repeat(np.arange(len(found)), list(map(len, found)))
                order = np.lexsort((which, rows))
                rows, which = rows[order], which[order]
            places = addresses[rows // per_page] + (rows % per_page * unit).astype(np.uint64)
            for at, word, number in zip(
                places.tolist(), words[rows].tolist(), which.tolist(), strict=True
            ):
                if not start <= at < stop:
                    continue
                hit = Hit(at, word, arguments[number], None, owner)
                yield hit if around is None else around.shown(hit)

    return look


class _Around:
    """-x: the words before and after."""

    def __init__(self, dump: Dump, wanted: Search, little: bool) -> None:
        self._dump = dump
        self._unit = wanted.unit
        self._size = wanted.context * wanted.unit
        self._space = wanted.space or KERNEL
        self._memory = Memory(dump, USER)
        self._spaces = Spaces.of(dump)
        self._little = little

    def shown(self, hit: Hit) -> Hit:
        before = self._values(hit.address - self._size)
        return hit._replace(before=before, after=self._values(hit.address + self._unit))

    def _values(self, start: int) -> Values:
        """What can be read; what cannot is at one end."""
        at, end, data = start, start + self._size, b""
        while at < end:
            stop = min((at // PAGE + 1) * PAGE, end)
            if (piece := self._read(at, stop - at)) is not None:
                data += piece
            elif data:
                break
            else:
                start = stop
            at = stop
        return Values(Address(start), self._unit, data, self._little)

    def _read(self, at: int, size: int) -> bytes | None:
        try:
            if self._space == USER:
                return self._memory.read(at, size)
            if self._space == PHYSICAL:
                return self._dump.prog.read(at, size, True)
            return self._spaces.read(at, size)
        except (FaultError, OverflowError, ValueError, UnreadableError):
            return None


class _Page(NamedTuple):
    """The page before the one that is searched, as far as it was."""

    end: int
    tail: bytes


def _strings(wanted: Search) -> Look:
    strings = wanted.strings
    longest = max(map(len, strings))

    def look(pieces: Iterator[Pages], start: int, end: int, owner: Owner | None) -> Iterator[Hit]:
        last = _Page(-1, b"")
        stop = end & ~7 if end != WORD else 1 << 64
        for addresses, data in pieces:
            whole, pages = data.tobytes(), addresses.tolist()

            def searched(
                row: int, whole: bytes = whole, pages: list[int] = pages
            ) -> tuple[int, bytes]:
                """What counts of a page, and where that begins."""
                page = pages[row]
                low, high = max(start, page), max(start, page, min(stop, page + PAGE))
                return low, whole[row * PAGE + low - page : row * PAGE + high - page]

            def ended(row: int, searched: Callable[[int], tuple[int, bytes]] = searched) -> _Page:
                low, part = searched(row)
                return _Page(low + len(part), part[-(longest - 1) :] if longest > 1 else b"")

            for row in _rows(strings, last.tail, whole):
                before = ended(row - 1) if row else last
                low, part = searched(row)
                if part:
                    content = whole[row * PAGE : (row + 1) * PAGE]
                    yield from _crossing(strings, before, pages[row], content, owner)
                    yield from _inside(strings, low, part, owner)
            last = ended(len(pages) - 1)

    return look


def _rows(strings: Sequence[bytes], tail: bytes, whole: bytes) -> list[int]:
    """The pages in which a string may begin or end."""
    found = set()
    for string in strings:
        if string in tail + whole[: len(string) - 1]:
            found.add(0)
        at = whole.find(string)
        while at >= 0:
            row = at // PAGE
            found |= {row, (at + len(string) - 1) // PAGE}
            # Of a page that is to be looked through anyway one find is enough.
            inside = at + len(string) <= (row + 1) * PAGE
            following = max(at + 1, (row + 1) * PAGE - len(string) + 1) if inside else at + 1
            at = whole.find(string, following)
    return sorted(found)


def _crossing(
    strings: Sequence[bytes], last: _Page, page: int, content: bytes, owner: Owner | None
) -> Iterator[Hit]:
    """Strings that begin at the end of the page before."""
    if last.end != page:
        return
    for string in strings:
        tail = last.tail[-(len(string) - 1) :] if len(string) > 1 else b""
        joined = tail + content[: len(string) - 1]
        at = joined.find(string)
        while at >= 0:
            rest = at + len(string) - len(tail)
            shown = string + content[rest : rest + max(0, CHARACTERS - len(string))]
            yield Hit(page - len(tail) + at, None, None, _text(shown), owner)
            at = joined.find(string, at + 1)


def _inside(
    strings: Sequence[bytes], start: int, data: bytes, owner: Owner | None
) -> Iterator[Hit]:
    found = []
    for number, string in enumerate(strings):
        at = data.find(string)
        while at >= 0:
            found.append((at, number))
            at = data.find(string, at + 1)
    for at, _ in sorted(found):
        yield Hit(start + at, None, None, _text(data[at : at + CHARACTERS]), owner)


def _text(data: bytes) -> str:
    return data.translate(PRINTED).decode()


@search.text
def lines(hits: Iterable[Hit]) -> Iterator[str]:
    owner: Owner | None = None
    for hit in hits:
        if hit.owner is not owner and hit.owner is not None:
            if owner is not None:
                yield ""
            owner = hit.owner
            yield task_header(owner.pid, owner.task, owner.cpu, owner.comm)
        if hit.value is None:
            yield f"{hit.address:x}: {hit.text}"
        elif hit.before is None or hit.after is None:
            yield f"{hit.address:x}: {hit.value:x} {_argument(hit.argument)}"
        else:
            yield from _context(hit.before)
            yield f"{hit.address:16x}:  {hit.value:x} {_argument(hit.argument)}"
            yield from _context(hit.after)
            yield ""


def _context(values: Values) -> Iterator[str]:
    return rd_lines(iter([values]), words=(f"-{8 * values.unit_bytes}",))
