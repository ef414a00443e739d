"""timer: what is to happen when, by ticks and by the high-resolution clocks."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from drgn import FaultError, Object, Program, TypeKind, container_of, offsetof, sizeof

from crashpy.command import Address, CommandError, command, operands, value
from crashpy.faults import skipping
from crashpy.kernel.clock import tick_rate, uptime_jiffies
from crashpy.kernel.percpu import cpu_count, cpu_list
from crashpy.text import centered

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.settings import Settings

MOST = 1 << 20  # timers of one base
NOT_HERE = "-r option not supported or applicable on this architecture or kernel"
# Since Linux kernel commit 83a665dc99a7 ("timers: Keep the pinned timers separate from
# the others") (in v6.9) there are three.
BASES = {
    1: ("BASE_STD",),
    2: ("BASE_STD", "BASE_DEF"),
    3: ("BASE_LOCAL", "BASE_GLOBAL", "BASE_DEF"),
}


@dataclass(frozen=True)
class Jiffies:
    """Now, in ticks."""

    jiffies: int


@dataclass(frozen=True)
class Timer:
    timer: Address  # struct timer_list *
    expires: int  # jiffies
    ticks_to_expiry: int
    function: Address
    symbol: str


@dataclass(frozen=True)
class TimerBase:
    cpu: int
    name: str
    base: Address  # struct timer_base *
    timers: tuple[Timer, ...]  # by their time
    offline: bool = False
    # How crash shows it.
    first: bool = field(default=True, repr=False)  # of its CPU
    width: int = field(default=7, repr=False)  # of jiffies


@command(
    value("-C", "cpus", "cpu", str, "only these CPUs"),
    operands("_ignored", "word", str, "crash ignores them, too"),
    usage="[-r][-C cpu]",
)
def timer(
    dump: Dump,
    *,
    cpus: str | None = None,
    _ignored: Sequence[str] = (),
    settings: Settings | None = None,
) -> Iterator[Jiffies | TimerBase]:
    """timers that are to expire

    The struct timer_list of each CPU by the jiffies at which they expire, with the
    ticks until then (TTE) and the function that is called. BASE_DEF are those that
    do not wake up an idle CPU.

    -r  the struct hrtimer of each clock, with times in nanoseconds. CURRENT is the
        time since boot by ticks, and what the clock is ahead of it
    -C  only these CPUs: `1`, `0,2-3`, `a` or `all`

    EXAMPLES
      crash> timer -C 0
      JIFFIES
      4294896107

      TIMER_BASES[0][BASE_LOCAL]: ffffa0bb8721b640
        EXPIRES        TTE     TIMER_LIST     FUNCTION
        (none)
      TIMER_BASES[0][BASE_GLOBAL]: ffffa0bb8721c8c0
        EXPIRES        TTE          TIMER_LIST     FUNCTION
        4294908462     12355  ffffa0bb81162080  ffffffffa5ce9755  <tw_timer_handler>
        4296693379   1797272  ffffa0bb81148440  ffffffffa5cfec4f  <tcp_keepalive_timer>
      TIMER_BASES[0][BASE_DEF]: ffffa0bb8721db40
        EXPIRES        TTE     TIMER_LIST     FUNCTION
        (none)
    """
    from drgn.helpers.linux.percpu import per_cpu

    chosen = _chosen(dump, cpus)
    prog = dump.prog
    if "timer_bases" not in prog:
        raise CommandError("timer wheels before Linux 4.8 are not supported")
    now = _jiffies(prog)
    yield Jiffies(now)
    width = max(len(f"{now}"), len("JIFFIES"))
    radix = settings.radix if settings is not None else 10
    hidden = _hidden(dump, settings)
    for cpu in chosen:
        if cpu in hidden:
            yield TimerBase(cpu, "", Address(0), (), offline=True)
            continue
        bases = per_cpu(prog["timer_bases"], cpu)
        one = bases.type_.kind != TypeKind.ARRAY
        each = [bases] if one else list(bases)
        names = BASES.get(len(each)) or tuple(f"{n}" for n in range(len(each)))
        for number, base in enumerate(each):
            timers: list[Timer] = []
            with skipping(f"timer base {number} of CPU {cpu}"):
                timers = list(_timers(dump, base, now, radix))
            timers.sort(key=lambda one: one.expires)
            yield TimerBase(
                cpu,
                names[number],
                Address(base.address_ or 0),
                tuple(timers),
                first=number == 0,
                width=width,
            )


def _chosen(dump: Dump, cpus: str | None) -> list[int]:
    count = cpu_count(dump.prog)
    return list(range(count)) if cpus is None else cpu_list(cpus, count)


def _hidden(dump: Dump, settings: Settings | None) -> set[int]:
    if settings is None or settings.offline != "hide":
        return set()
    return set(range(cpu_count(dump.prog))) - dump.tasks.online


def _jiffies(prog: Program) -> int:
    try:
        return prog.read_u64(prog.symbol("jiffies").address)
    except LookupError:
        return int(prog["jiffies_64"].value_())


def _timers(dump: Dump, base: Object, now: int, radix: int) -> Iterator[Timer]:
    """Of all the buckets of the wheel."""
    prog = dump.prog
    kind = prog.type("struct timer_list")
    entry, expires, function = (offsetof(kind, name) for name in ("entry", "expires", "function"))
    size = sizeof(kind)
    vectors = base.vectors
    data = prog.read(vectors.address_ or 0, sizeof(vectors))
    seen: set[int] = set()
    for (first,) in struct.iter_unpack("Q", data):
        node = first
        with skipping(f"the rest of a bucket of timers at {first:x}"):
            while node and node not in seen and len(seen) < MOST:
                seen.add(node)
                address = (node - entry) % 2**64
                timer = prog.read(address, size)
                when, called = (
                    int.from_bytes(timer[at : at + 8], "little") for at in (expires, function)
                )
                yield Timer(
                    Address(address),
                    when,
                    _signed(when - now),
                    Address(called),
                    _symbol(dump, called, radix),
                )
                node = int.from_bytes(timer[entry : entry + 8], "little")


def _signed(number: int) -> int:
    number %= 2**64
    return number - (number >> 63 << 64)


def _symbol(dump: Dump, function: int, radix: int) -> str:
    """Some architectures have a pointer to the function there."""
    if not dump.symbols.is_text(function):
        try:
            below = dump.prog.read_u64(function)
        except (FaultError, ValueError, OverflowError):
            below = 0
        if below and dump.symbols.is_text(below):
            function = below
    return dump.symbols.format(function, radix)


@timer.text
def lines(records: Iterable[Jiffies | TimerBase]) -> Iterator[str]:
    """Its dump_timer_data_timer_bases()."""
    another = False
    for record in records:
        if isinstance(record, Jiffies):
            yield f"{'JIFFIES':<{len(f'{record.jiffies}')}}"
            yield f"{record.jiffies:>7}"
            yield ""
            continue
        if record.offline:
            yield f"TIMER_BASES[{record.cpu}]: [OFFLINE]"
            continue
        if record.first and another:
            yield ""
        another = True
        yield from _base_lines(record)


def _base_lines(base: TimerBase) -> Iterator[str]:
    yield f"TIMER_BASES[{base.cpu}][{base.name}]: {base.base:x}"
    highest = max((abs(timer.ticks_to_expiry) for timer in base.timers), default=0)
    width = max(len(f"{highest}") + 1, len("TTE"))
    yield f"  {'EXPIRES':<{base.width}}     {'TTE':<{width}}     TIMER_LIST     FUNCTION"
    for timer in base.timers:
        yield (
            f"  {timer.expires:{base.width}}  {timer.ticks_to_expiry:{width}}  "
            f"{f'{timer.timer:x}':^16}  {timer.function:16x}  <{timer.symbol}>"
        )
    if not base.timers:
        yield "  (none)"


@dataclass(frozen=True)
class HighResolutionTimer:
    timer: Address  # struct hrtimer *
    soft_expires_ns: int | None  # None where the dump has lost the timer
    expires_ns: int | None
    ns_to_expiry: int | None
    function: Address | None
    symbol: str | None


@dataclass(frozen=True)
class Clock:
    cpu: int
    cpu_base: Address  # struct hrtimer_cpu_base *
    number: int
    base: Address  # struct hrtimer_clock_base *
    function: str | None  # that reads the clock; since 6.18 the clock's own name
    now_ns: int
    timers: tuple[HighResolutionTimer, ...]
    offline: bool = False


@timer.mode("-r", "the high-resolution timers")
def timer_high_resolution(
    dump: Dump, *, cpus: str | None = None, settings: Settings | None = None
) -> Iterator[Clock]:
    """the high-resolution timers of each clock"""
    from drgn.helpers.linux.percpu import per_cpu

    prog = dump.prog
    chosen = _chosen(dump, cpus)
    try:
        prog.type("struct hrtimer_clock_base")
    except LookupError:
        raise CommandError(NOT_HERE) from None
    since_boot = uptime_jiffies(prog) * (1_000_000_000 // tick_rate(prog))
    radix = settings.radix if settings is not None else 10
    hidden = _hidden(dump, settings)
    for cpu in chosen:
        if cpu in hidden:
            yield Clock(cpu, Address(0), 0, Address(0), None, 0, (), offline=True)
            continue
        cpu_base = per_cpu(prog["hrtimer_bases"], cpu)
        for number, base in enumerate(cpu_base.clock_base):
            with skipping(f"clock {number} of CPU {cpu}"):
                now = since_boot + _nanoseconds(base.offset)
                timers: list[HighResolutionTimer] = []
                with skipping(f"the rest of the timers of clock {number} of CPU {cpu}"):
                    for found in _nodes(base):
                        timers.append(_high_resolution(dump, found, now, radix))
                yield Clock(
                    cpu,
                    Address(cpu_base.address_ or 0),
                    number,
                    Address(base.address_ or 0),
                    _clock_name(dump, base, radix),
                    now,
                    tuple(timers),
                )


def _clock_name(dump: Dump, base: Object, radix: int) -> str | None:
    try:
        return dump.symbols.format(base.get_time.value_(), radix)
    except AttributeError:
        pass
    # Since Linux kernel commit 009eb5da29a9 ("hrtimer: Remove hrtimer_clock_base::
    # get_time") (in v6.18)
    try:
        names = dump.prog.type("enum hrtimer_base_type").enumerators or ()
    except LookupError:
        return None
    index = base.index.value_()
    return next((name for name, number in names if number == index), None)


def _nodes(base: Object) -> Iterator[Object]:
    """``struct hrtimer *``, by time."""
    from drgn.helpers.linux.rbtree import rbtree_inorder_for_each

    active = base.active
    try:
        # Since Linux kernel commit 511885d7061e ("lib/timerqueue: Rely on rbtree semantics
        # for next timer") (in v5.4)
        root = active.rb_root.rb_root
    except AttributeError:
        root = active.head
    for node in islice(rbtree_inorder_for_each(root.address_of_()), MOST):
        queued = container_of(node, "struct timerqueue_node", "node")
        yield container_of(queued, "struct hrtimer", "node")


def _high_resolution(dump: Dump, found: Object, now: int, radix: int) -> HighResolutionTimer:
    address = Address(found.value_())
    try:
        expires = _nanoseconds(found.node.expires)
        soft = _nanoseconds(found.member_("_softexpires"))
        function = found.function.value_()
    except FaultError:
        return HighResolutionTimer(address, None, None, None, None, None)
    return HighResolutionTimer(
        address,
        soft,
        expires,
        _signed(expires - now),
        Address(function),
        dump.symbols.format(function, radix),
    )


def _nanoseconds(time: Object) -> int:
    """A ``ktime_t``."""
    # Until Linux kernel commit 2456e8553544 ("ktime: Get rid of the union") (in v4.10)
    union = time.type_.unaliased().kind == TypeKind.UNION
    return int((time.tv64 if union else time).value_())


@timer_high_resolution.text
def high_resolution_lines(clocks: Iterable[Clock]) -> Iterator[str]:
    """Its dump_hrtimer_data()."""
    last: int | None = None
    for clock in clocks:
        if last is not None:
            yield ""
        if clock.offline:
            yield f"CPU: {clock.cpu}  [OFFLINE]"
            last = clock.cpu
            continue
        if clock.cpu != last:
            yield f"CPU: {clock.cpu}  HRTIMER_CPU_BASE: {clock.cpu_base:x}"
        last = clock.cpu
        start = f"  CLOCK: {clock.number}  HRTIMER_CLOCK_BASE: {clock.base:x}"
        yield start if clock.function is None else f"{start}  [{clock.function}]"
        if not clock.timers:
            yield "  (empty)"
            continue
        yield from _clock_lines(clock)


def _clock_lines(clock: Clock) -> Iterator[str]:
    # As wide as the last one needs: it is the highest, unless it has passed.
    end = clock.timers[-1]
    soft = max(len(f"{end.soft_expires_ns or 0}"), len("SOFTEXPIRES"))
    hard = max(len(f"{end.expires_ns or 0}"), len("EXPIRES"))
    left = len(f"{end.ns_to_expiry or 0}")
    yield f"  {centered('CURRENT', soft, right=True)}"
    yield f"  {centered(f'{clock.now_ns}', soft, right=True)}"
    yield (
        f"  {centered('SOFTEXPIRES', soft, right=True)}  {centered('EXPIRES', hard, right=True)}"
        f"  {centered('TTE', left, right=True)}  {centered('HRTIMER', 16)}"
        f"  {centered('FUNCTION', 16)}"
    )
    for timer in clock.timers:
        if timer.function is None:
            yield "  (destroyed timer)"
            continue
        yield (
            f"  {centered(f'{timer.soft_expires_ns}', soft, right=True)}"
            f"  {centered(f'{timer.expires_ns}', hard, right=True)}"
            f"  {timer.ns_to_expiry:{left}}  {timer.timer:x}"
            f"  {timer.function:x}  <{timer.symbol}>"
        )
