"""log: what the kernel said before it died."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from drgn import FaultError, Object, Program

from crashpy.command import Address, CommandError, command, flag, operands
from crashpy.dump import Dump
from crashpy.kernel.clock import boot_ns
from crashpy.kernel.printk import (
    SafeBuffer,
    caller,
    has_lockless_log,
    has_record_log,
    log_records,
    safe_buffers,
)
from crashpy.text import calendar

# What isprint() and isspace() let through in the C locale; the rest shows as a dot.
PRINTABLE = bytes(c if 32 <= c < 127 or 9 <= c <= 13 else ord(".") for c in range(256))
CALLER_WIDTH = 8  # where the kernel does not tell the highest PID


@dataclass(frozen=True)
class Message:
    seq: int | None
    ts_ns: int | None  # local_clock(); None in logs without time stamps
    date_s: float | None  # since 1970
    level: int | None  # 0 emergency .. 7 debug
    caller: str | None  # T1: the thread with PID 1; C0: an interrupt on CPU 0
    text: str
    subsystem: str = ""
    device: str = ""
    dictionary: tuple[str, ...] = ()  # of logs before Linux 5.10
    empty: bool = False  # a record without any text, not even an empty one
    caller_width: int = CALLER_WIDTH


@command(
    flag("-T", "dates", "the date of each message"),
    flag("-t", "stamps", "no time stamps", value=False),
    flag("-d", "dictionary", "subsystem and device of each message"),
    flag("-m", "levels", "the level of each message, <0> to <7>"),
    flag("-c", "callers", "the thread or CPU that said it"),
    flag("-R", "rust", "the names of Rust functions as they are written"),
    operands("words", "", str, "ignored"),
    usage="[-TtdmascR]",
)
def log(
    dump: Dump,
    *,
    dates: bool = False,
    stamps: bool = True,
    dictionary: bool = False,
    words: Sequence[str] = (),  # noqa: ARG001
) -> Iterator[Message | SafeBuffer]:
    """show the kernel's message buffer, oldest message first

    The lockless buffer of Linux 5.10 and later, the record buffer of 3.5 and the
    plain text before that; of a dump with holes whatever is there. Time stamps
    count seconds from boot; with -T they are dates, which drift from the true ones
    where the machine slept.

    EXAMPLES
      log                    the whole log
      log -T                 with dates
      log -tm                levels in place of time stamps
      log -c                 who said it
      log --json             for a program
    """
    prog = dump.prog
    if not has_lockless_log(prog) and not has_record_log(prog):
        for given, letter in ((dates, "T"), (dictionary, "d"), (not stamps, "t")):
            if given:
                raise CommandError(
                    f"-{letter} option not supported or applicable on this architecture or kernel"
                )
    return _messages(dump)


def _messages(dump: Dump) -> Iterator[Message | SafeBuffer]:
    prog = dump.prog
    boot = boot_ns(prog)
    width = _caller_width(prog)
    for r in log_records(prog, dump.report):
        date = None if boot is None or r.ts_ns is None else (boot + r.ts_ns) / 1e9
        yield Message(
            r.seq,
            r.ts_ns,
            date,
            r.level,
            None if r.caller_id is None else caller(r.caller_id),
            r.text.translate(PRINTABLE).decode("ascii"),
            r.subsystem,
            r.device,
            _pairs(r.dictionary) if r.dictionary else (),
            r.dataless,
            width,
        )
    yield from _unsaid(dump)


def _pairs(dictionary: bytes) -> tuple[str, ...]:
    parts = dictionary.split(b"\0")
    return tuple(part.translate(PRINTABLE).decode("ascii") for part in parts if part)


def _caller_width(prog: Program) -> int:
    if not has_lockless_log(prog):
        return CALLER_WIDTH
    try:
        highest: int = prog.variable("pid_max").value_()
    except (LookupError, FaultError):
        return CALLER_WIDTH
    return 6 if highest <= 99999 else 7 if highest <= 999999 else CALLER_WIDTH


@log.text
def lines(
    messages: Iterable[Message | SafeBuffer],
    *,
    dates: bool = False,
    stamps: bool = True,
    dictionary: bool = False,
    levels: bool = False,
    callers: bool = False,
    rust: bool = False,
) -> Iterator[str]:
    """crash's dump_record(): what follows a line feed is indented below the text."""
    for m in messages:
        if isinstance(m, SafeBuffer):
            yield from _unsaid_lines(m, f"[{m.name}] " if stamps else "", levels=levels)
            continue
        if m.empty:
            yield ""
            continue
        prefix = ""
        if stamps and m.ts_ns is not None:
            if dates:
                prefix = f"[{'--' if m.date_s is None else calendar(m.date_s)}] "
            else:
                seconds, rest = divmod(m.ts_ns, 1_000_000_000)
                prefix = f"[{seconds:5}.{rest // 1000:06}] "
        if callers and m.caller is not None:
            prefix += f"[{m.caller:>{m.caller_width}}] "
        if levels and m.level is not None:
            prefix += f"<{m.level:x}>"
        text = _readable(m.text) if rust else m.text
        first, *others = text.split("\n")
        if dictionary:
            others += [f"SUBSYSTEM={m.subsystem}"] if m.subsystem else []
            others += [f"DEVICE={m.device}"] if m.device else []
            others += m.dictionary
        yield prefix + first
        yield from (" " * len(prefix) + other for other in others)


def _readable(text: str) -> str:
    """The text with the names of Rust functions as the source has them."""
    if "_R" not in text and "_ZN" not in text:
        return text
    from crashpy.kernel.rust import demangled_text

    return demangled_text(text)


@dataclass(frozen=True)
class Audit:
    type: int  # AUDIT_*
    text: str


@log.mode("-a", "the audit messages that nobody has read", first=True)
def log_audit(dump: Dump, *, words: Sequence[str] = ()) -> Iterator[Audit]:  # noqa: ARG001
    """the audit messages that nobody has read"""
    prog = dump.prog
    for names in (
        ("audit_skb_hold_queue", "audit_skb_queue"),  # before Linux 4.10
        ("audit_hold_queue", "audit_retry_queue", "audit_queue"),
    ):
        if names[-1] in prog:
            return _audit(dump, [prog[name] for name in names if name in prog])
    raise CommandError("-a option not supported or applicable on this architecture or kernel")


def _audit(dump: Dump, queues: Sequence[Object]) -> Iterator[Audit]:
    prog = dump.prog
    header = 16  # struct nlmsghdr; its second member is nlmsg_type
    found = 0
    for queue in queues:
        length = queue.qlen.value_()
        buffer = queue.next
        for _ in range(length):
            size = buffer.len.value_()
            data = prog.read(buffer.data.value_(), min(size, 1 << 16))
            found += 1
            text = data[header:].split(b"\0", 1)[0].decode(errors="backslashreplace")
            yield Audit(int.from_bytes(data[4:6], "little"), text)
            buffer = buffer.next
    if not found:
        dump.report("kernel audit log is empty")


@log_audit.text
def audit_lines(messages: Iterable[Audit]) -> Iterator[str]:
    return (f"type={m.type} {m.text}" for m in messages)


SAFE_NAMES = ("nmi_print_seq", "safe_print_seq")
INDENT = "  "


@log.mode("-s", "the buffers of messages that could not be put into the log")
def log_safe(dump: Dump, *, words: Sequence[str] = ()) -> Iterator[SafeBuffer]:  # noqa: ARG001
    """the buffers of messages that could not be put into the log"""
    return _safe(dump)


def _safe(dump: Dump) -> Iterator[SafeBuffer]:
    # Linux 4.10 to 5.14
    for name in SAFE_NAMES:
        if name in dump.prog:
            yield from safe_buffers(dump.prog, name)


def _unsaid(dump: Dump) -> Iterator[SafeBuffer]:
    return (buffer for buffer in _safe(dump) if buffer.length > 0)


@log_safe.text
def safe_lines(buffers: Iterable[SafeBuffer], *, levels: bool = False) -> Iterator[str]:
    name = ""
    for b in buffers:
        if b.name != name:
            name = b.name
            yield f"PRINTK_SAFE_SEQ_BUF: {name}"
        yield (
            f"CPU: {b.cpu}  ADDR: {Address(b.address):x} LEN: {b.length}"
            f"  MESSAGE_LOST: {b.message_lost}"
        )
        if b.length > 0:
            yield from _unsaid_lines(b, INDENT, levels=levels)
        else:
            yield f"{INDENT}(empty)"
        yield ""


def _unsaid_lines(buffer: SafeBuffer, prefix: str, *, levels: bool) -> Iterator[str]:
    """A message begins with SOH and its level; what follows a line feed is indented."""
    data = buffer.data
    if data.endswith(b"\n"):
        data = data[:-1]
    pad = " " * (len(prefix) + 3 * levels)
    for line in data.split(b"\n"):
        first, *messages = line.split(b"\1")
        if first or not messages:
            yield pad + first.translate(PRINTABLE).decode("ascii")
        for message in messages:
            level = message[:1].decode("ascii", "replace")
            shown = f"<{level}>" if levels and level in "01234567c" else ""
            yield prefix + shown + message[1:].translate(PRINTABLE).decode("ascii")
