"""sbitmapq: a struct sbitmap_queue, and what its bits stand for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from drgn import FaultError, Object, sizeof

from crashpy.command import Address, CommandError, UsageError, command, flag, getopt, value
from crashpy.gdb.memory import Memory, UnreadableError, is_kernel
from crashpy.gdb.values import Style
from crashpy.kernel.percpu import per_cpu_offsets
from crashpy.numbers import htol, is_number

from .list import Shape, shape
from .struct import Compound, Contents, compound, contents, contents_lines

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.settings import Settings

WORD = (1 << 64) - 1
WAIT_QUEUES = 8  # SBQ_WAIT_QUEUES
MOST_BITS = 1 << 24
PER_LINE = 16  # bytes of the bitmap

LETTERS = {
    option.name: option
    for option in (
        value("-s", "struct", "struct", str, ""),
        value("-a", "array", "address", str, ""),
        flag("-p", "pointers", ""),
        flag("-v", "verbose", ""),
        flag("-x", "radix", "", value=16),
        flag("-d", "radix", "", value=10),
    )
}


@dataclass(frozen=True)
class WaitState:
    """A ``struct sbq_wait_state``."""

    count: int | None  # wait_cnt: until Linux 6.1
    active: bool  # whether somebody waits


@dataclass(frozen=True)
class Queue:
    """A ``struct sbitmap_queue``."""

    address: Address
    depth: int  # bits
    busy: int
    cleared: int | None  # None before Linux 5.0
    bits_per_word: int
    words: int
    alloc_hint: tuple[int, ...]  # of each CPU
    wake_batch: int
    wake_index: int
    ws_active: int | None
    waiting: tuple[WaitState, ...]
    round_robin: bool | None
    min_shallow_depth: int | None
    bits: bytes = field(repr=False)  # those in use, lowest first

    def __json__(self) -> dict[str, Any]:
        names = (name for name in self.__dataclass_fields__ if name != "bits")
        return {**{name: getattr(self, name) for name in names}, "bits": self.bits.hex()}


@dataclass(frozen=True)
class Used:
    """A bit in use, and the element of the array that it stands for."""

    bit: int
    address: Address
    contents: Contents | None = None  # -v
    verbose: bool = field(default=False, repr=False)


@dataclass
class Given:
    """What a line asks for."""

    address: int = 0
    struct: str | None = None
    array: int | None = None
    pointers: bool = False
    verbose: bool = False
    radix: int | None = None


@command(
    usage="[-s struct[.member[,member]] -a address [-p] [-v]] -[x|d] address",
    words=True,
)
def sbitmapq(dump: Dump, *, words: Sequence[str] = ()) -> Iterator[Queue | Used]:
    """a sbitmap_queue: its counts, who waits, its bits

    ADDRESS is that of a struct sbitmap_queue: of the tags of a block device's queue, for
    example. With -s and -a the bits in use are shown as elements of an array.

    -s STRUCT[.MEMBER,MEMBER]  what the array is of
    -a ADDRESS                 the array
    -p                         it has pointers to such structures
    -v                         show the structures, or the members
    -x, -d                     in hexadecimal, in decimal

    EXAMPLES
      crash> sbitmapq ffffa0bb80a14850
      crash> sbitmapq -s request -a ffffa0bb80a51000 -p -v ffffa0bb80a14850
    """
    asked = given(dump, words)
    of: Compound | None = None
    if asked.struct is not None:
        of = compound(dump.gdb, asked.struct.partition(".")[0])
        if of is None or not of.size:
            raise CommandError(f"invalid data structure reference: {asked.struct}")
    try:
        queue = Object(dump.prog, "struct sbitmap_queue", address=asked.address)
    except LookupError:
        raise CommandError("command not supported or applicable on this kernel") from None
    try:
        queue = queue.read_()
        found = _Bitmap(queue.sb)
    except FaultError as fault:
        raise CommandError(_unread(dump, asked.address, queue, "sbitmap_queue", fault)) from None
    if of is None:
        yield _queue(dump, queue, found, asked.address)
        return
    yield from _used(dump, asked, of, found)


def _unread(dump: Dump, address: int, of: Object, name: str, fault: FaultError) -> str:
    """What crash says where a structure cannot be read, in two remarks."""
    try:
        Memory(dump).read(address, sizeof(of), name)
    except UnreadableError as error:
        dump.report(str(error) or str(fault))
        return f"cannot read {name}"
    return str(fault)


class _Bitmap:
    """A ``struct sbitmap``: its words, and the bits of each."""

    def __init__(self, sb: Object) -> None:
        self.depth, self.shift = int(sb.depth), int(sb.shift)
        self.count = int(sb.map_nr)
        if self.depth > MOST_BITS or self.shift > 6 or self.count > MOST_BITS:
            raise CommandError(f"no sbitmap: depth {self.depth}, shift {self.shift}")
        words = sb.map
        self.has_cleared = words.type_.type.has_member("cleared")
        self.words = [int(words[i].word) for i in range(self.count)]
        cleared = [int(words[i].cleared) for i in range(self.count)] if self.has_cleared else []
        self.cleared = cleared or [0] * self.count

    def width(self, index: int) -> int:
        """How many bits of a word count."""
        if index == self.count - 1:
            return max(0, self.depth - (index << self.shift))
        return 1 << self.shift

    def weight(self, words: Sequence[int]) -> int:
        """How many bits are set."""
        masks = ((1 << self.width(i)) - 1 for i in range(self.count))
        return sum((word & mask).bit_count() for word, mask in zip(words, masks, strict=True))

    def used(self) -> Iterator[int]:
        for i, (word, cleared) in enumerate(zip(self.words, self.cleared, strict=True)):
            for bit in range(self.width(i)):
                if (word & ~cleared) >> bit & 1:
                    yield (i << self.shift) + bit

    def bits(self) -> bytes:
        whole = end = 0
        for i, (word, cleared) in enumerate(zip(self.words, self.cleared, strict=True)):
            width = self.width(i)
            whole |= (word & ~cleared & (1 << width) - 1) << end
            end += width
        return whole.to_bytes(-(-end // 8), "little")


def _queue(dump: Dump, queue: Object, bitmap: _Bitmap, address: int) -> Queue:
    sb = queue.sb
    cleared = bitmap.weight(bitmap.cleared) if bitmap.has_cleared else None
    hints = _either(queue, sb, "alloc_hint")
    robin = _either(queue, sb, "round_robin")
    shallow, active = (_member(queue, name) for name in ("min_shallow_depth", "ws_active"))
    return Queue(
        Address(address),
        bitmap.depth,
        bitmap.weight(bitmap.words) - (cleared or 0),
        cleared,
        1 << bitmap.shift,
        bitmap.count,
        tuple(_hints(dump, hints)) if hints is not None else (),
        int(queue.wake_batch),
        _number(queue.wake_index),
        None if active is None else _number(active),
        tuple(_waiting(queue.ws)),
        None if robin is None else bool(robin),
        None if shallow is None else int(shallow),
        bitmap.bits(),
    )


def _either(queue: Object, sb: Object, name: str) -> Object | None:
    """In the queue until Linux kernel commit c548e62bcf6a (in v5.13), then in the sbitmap."""
    found = _member(queue, name)
    return _member(sb, name) if found is None else found


def _member(of: Object, name: str) -> Object | None:
    return of.member_(name) if of.type_.has_member(name) else None


def _number(of: Object) -> int:
    """An int, or an atomic_t."""
    try:
        return int(of.counter)
    except (AttributeError, TypeError):
        return int(of)


def _hints(dump: Dump, hints: Object) -> Iterator[int]:
    """A ``unsigned int __percpu *``."""
    start = hints.value_()
    for offset in per_cpu_offsets(dump.prog):
        at = (start + offset) & WORD
        try:
            yield int.from_bytes(Memory(dump).read(at, 4, "alloc_hint"), "little")
        except UnreadableError as error:
            raise CommandError(str(error) or f"page excluded: {at:x}") from error


def _waiting(states: Object) -> Iterator[WaitState]:
    for i in range(WAIT_QUEUES):
        state = states[i]
        count = _member(state, "wait_cnt")
        head = state.wait.head if state.wait.type_.has_member("head") else state.wait.task_list
        active = head.next.value_() != head.address_
        yield WaitState(None if count is None else _number(count), active)


def _used(dump: Dump, asked: Given, of: Compound, bitmap: _Bitmap) -> Iterator[Used]:
    assert asked.array is not None
    assert asked.struct is not None
    _, dot, listed = asked.struct.partition(".")
    paths = listed.replace(",", " ").split() if dot else []
    step = 8 if asked.pointers else of.size
    memory = Memory(dump)
    for bit in bitmap.used():
        address = (asked.array + bit * step) & WORD
        if not asked.verbose:
            yield Used(bit, Address(address))
            continue
        at = address
        if asked.pointers:
            try:
                data = memory.read(address, 8, "read point of data")
            except UnreadableError as error:
                yield Used(bit, Address(address), None, True)
                if str(error):
                    dump.report(str(error))
                dump.report(f"Failed to read the point of data: 0x{address:08x}")
                return
            at = int.from_bytes(data, "little")
        yield Used(bit, Address(address), contents(dump, of, at, paths), True)


def given(dump: Dump, words: Sequence[str]) -> Given:
    """What the words ask for; errors come in crash's order (cmd_sbitmapq())."""
    options, rest = getopt(words, LETTERS)
    asked = Given()
    for option, argument in options:
        word = argument or ""
        if option.dest == "struct":
            if asked.struct is not None:
                raise CommandError(f"-s option ({asked.struct}) already entered")
            asked.struct = word
        elif option.dest == "array":
            if asked.array is not None:
                raise CommandError(f"-a option (0x{asked.array:x}) already entered")
            if not is_number(word):
                raise CommandError(f"invalid -a option: {word}")
            asked.array = _kernel_address(dump, word)
        elif option.dest == "radix":
            if asked.radix not in (None, option.const):
                raise CommandError("-d and -x are mutually exclusive")
            asked.radix = option.const
        else:
            setattr(asked, option.dest, True)
    if len(rest) != 1:
        dump.report("too many arguments" if rest else "command argument is required")
        raise UsageError
    if not is_number(rest[0]):
        raise CommandError(f"invalid command argument: {rest[0]}")
    asked.address = _kernel_address(dump, rest[0])
    wrong = ""
    if asked.struct is not None and asked.array is None:
        wrong = "-s option requires -a option"
    elif asked.array is not None and asked.struct is None:
        wrong = "-a option is used with -s option only"
    elif asked.pointers and asked.array is None:
        wrong = "-p option requires -a option"
    if wrong:
        dump.report(wrong)
        raise UsageError
    return asked


def _kernel_address(dump: Dump, word: str) -> int:
    address = htol(word)
    if not is_kernel(dump, address):
        raise CommandError(f"invalid kernel virtual address: {word}")
    return address


@sbitmapq.text
def lines(
    records: Iterable[Queue | Used], *, settings: Settings, words: Sequence[str] = ()
) -> Iterator[str]:
    radix = [o.const for o, _ in getopt(words, LETTERS)[0] if o.dest == "radix"]
    style = Style.of(settings, radix[-1] if radix else None)
    shapes: dict[str, Shape] = {}
    for record in records:
        if isinstance(record, Queue):
            yield from _queue_lines(record)
        elif not record.verbose:
            yield f"{record.bit}: 0x{record.address:08x}"
        else:
            yield f"{record.bit} (0x{record.address:08x}):"
            found = record.contents
            if found is not None and not found.paths:
                yield from contents_lines(found, style, "sbitmapq")
            elif found is not None and found.data is not None:
                for path in found.paths:
                    if path not in shapes:
                        shapes[path] = shape(found, path, style, direct=False)
                    yield from shapes[path](found)


def _queue_lines(queue: Queue) -> Iterator[str]:
    yield f"depth = {queue.depth}"
    yield f"busy = {queue.busy}"
    if queue.cleared is not None:
        yield f"cleared = {queue.cleared}"
    yield f"bits_per_word = {queue.bits_per_word}"
    yield f"map_nr = {queue.words}"
    yield f"alloc_hint = {{{', '.join(map(str, queue.alloc_hint))}}}"
    yield f"wake_batch = {queue.wake_batch}"
    yield f"wake_index = {queue.wake_index}"
    if queue.ws_active is not None:
        yield f"ws_active = {queue.ws_active}"
    yield "ws = {"
    for state in queue.waiting:
        count = "" if state.count is None else f".wait_cnt = {state.count}, "
        yield f"\t{{ {count}.wait = {'active' if state.active else 'inactive'} }},"
    yield "}"
    if queue.round_robin is not None:
        yield f"round_robin = {int(queue.round_robin)}"
    if queue.min_shallow_depth is not None:
        yield f"min_shallow_depth = {queue.min_shallow_depth}"
    yield ""
    for start in range(0, len(queue.bits), PER_LINE):
        chunk = queue.bits[start : start + PER_LINE]
        pairs = " ".join(chunk[i : i + 2].hex() for i in range(0, len(chunk), 2))
        yield f"{start:08x}: {pairs}"
