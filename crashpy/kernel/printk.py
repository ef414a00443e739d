"""The kernel log: the lockless ring buffer (5.10), the record buffer (3.5), plain text before."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from drgn import FaultError, Program, sizeof

from crashpy.kernel.pid import Layout, word_code

Warn = Callable[[str], None]

CPU_CALLER = 0x80000000  # caller_id is a CPU's number, else a thread's PID

# printk_ringbuffer.h: the two high bits of prb_desc.state_var
COMMITTED, FINALIZED = 1, 2


@dataclass(frozen=True, slots=True)
class LogRecord:
    text: bytes
    seq: int | None = None
    ts_ns: int | None = None  # local_clock(); None in the buffers without time stamps
    level: int | None = None
    caller_id: int | None = None
    subsystem: str = ""
    device: str = ""
    dictionary: bytes = b""  # NUL separated, of the records before Linux 5.10
    # Without any text: crash shows an empty line instead of an empty record.
    dataless: bool = False


def log_records(prog: Program, warn: Warn) -> Iterator[LogRecord]:
    """The records of the log, oldest first; what cannot be read is left out with a warning."""
    if has_lockless_log(prog):
        yield from _lockless(prog, warn)
    elif has_record_log(prog):
        yield from _structured(prog, warn)
    else:
        for line in _plain(prog, warn).replace(b"\0", b"").removesuffix(b"\n").split(b"\n"):
            marked = re.match(rb"<([0-7])>", line)
            yield LogRecord(line[3:] if marked else line, level=int(marked[1]) if marked else None)


def has_lockless_log(prog: Program) -> bool:
    return "prb" in prog


def has_record_log(prog: Program) -> bool:
    return "log_first_idx" in prog and "log_next_idx" in prog


def read_holed(prog: Program, address: int, size: int, page: int = 4096) -> bytes | None:
    """That much memory, with zeroes where the dump has none; None where it has nothing at all."""
    try:
        return prog.read(address, size)
    except FaultError:
        pass
    data, found, at = bytearray(size), False, 0
    while at < size:
        step = min(size - at, page - (address + at) % page)
        try:
            data[at : at + step] = prog.read(address + at, step)
            found = True
        except FaultError:
            pass
        at += step
    return bytes(data) if found else None


def _lockless(prog: Program, warn: Warn) -> Iterator[LogRecord]:
    try:
        ring = prog["prb"].read_()
        descs, text_ring = ring.desc_ring.read_(), ring.text_data_ring.read_()
        count, text_size = 1 << descs.count_bits.value_(), 1 << text_ring.size_bits.value_()
        head, tail = descs.head_id.counter.value_(), descs.tail_id.counter.value_()
    except FaultError:
        warn("WARNING: cannot read printk_ringbuffer contents")
        return
    desc_type, info_type = prog.type("struct prb_desc"), prog.type("struct printk_info")
    desc_size, info_size = sizeof(desc_type), sizeof(info_type)
    if count > 1 << 24 or text_size > 1 << 31:
        warn("WARNING: cannot read printk_ringbuffer contents")
        return
    parts = []
    for address, size, what in (
        (descs.descs.value_(), count * desc_size, "prb_desc_ring"),
        (descs.infos.value_(), count * info_size, "prb_info_ring"),
        (text_ring.data.value_(), text_size, "prb_text_data_ring"),
    ):
        data = read_holed(prog, address, size)
        if data is None:
            warn(f"WARNING: cannot read {what} contents")
            return
        parts.append(data)
    desc_data, info_data, text_data = parts
    desc = Layout(
        prog,
        desc_type,
        {
            "state": "state_var.counter",
            "begin": "text_blk_lpos.begin",
            "next": "text_blk_lpos.next",
        },
    )
    info = Layout(
        prog,
        info_type,
        {
            "seq": "seq",
            "ts_nsec": "ts_nsec",
            "text_len": "text_len",
            "caller_id": "caller_id",
            "subsystem": "dev_info.subsystem",
            "device": "dev_info.device",
        },
    )
    # level:3 lies above flags:5 in one byte, right behind text_len and facility.
    level_at = info.offset["text_len"] + 3
    bits = 8 * struct.calcsize(f"={word_code(prog)}")
    id_mask = (1 << (bits - 2)) - 1
    head, tail = head & id_mask, tail & id_mask
    id_size = bits // 8
    at_state, at_begin, at_next = map(desc.names.index, ("state", "begin", "next"))
    at_seq, at_time, at_length, at_caller = map(
        info.names.index, ("seq", "ts_nsec", "text_len", "caller_id")
    )
    at_device = info.names.index("device") if "device" in info.names else None
    at_subsystem = info.names.index("subsystem") if "subsystem" in info.names else None
    for step in range(min(((head - tail) & id_mask) + 1, count)):
        number = (tail + step) & id_mask
        d = desc.tuple(desc_data, number % count * desc_size)
        state = d[at_state]
        if state & id_mask != number or state >> (bits - 2) & 3 not in (COMMITTED, FINALIZED):
            continue
        at = number % count * info_size
        i = info.tuple(info_data, at)
        begin, end = d[at_begin] % text_size, d[at_next] % text_size
        dataless, text = begin == end, b""
        if not dataless:
            if begin > end:
                begin = 0
            begin += id_size
            text = text_data[begin : begin + max(0, min(end - begin, i[at_length]))]
        yield LogRecord(
            text,
            i[at_seq],
            i[at_time],
            info_data[at + level_at] >> 5,
            i[at_caller],
            "" if at_subsystem is None else _string(i[at_subsystem]),
            "" if at_device is None else _string(i[at_device]),
            dataless=dataless,
        )


def _string(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode(errors="backslashreplace") if data[0] else ""


def _structured(prog: Program, warn: Warn) -> Iterator[LogRecord]:
    try:
        # Linux kernel commit 62e32ac3505a ("printk: rename struct log to struct
        # printk_log") (in v3.11)
        type_ = prog.type("struct printk_log")
    except LookupError:
        type_ = prog.type("struct log")
    try:
        first, end = prog["log_first_idx"].value_(), prog["log_next_idx"].value_()
        size, address = prog["log_buf_len"].value_(), prog["log_buf"].value_()
    except FaultError:
        warn("WARNING: cannot read log_buf contents")
        return
    data = read_holed(prog, address, size)
    if data is None:
        warn("WARNING: cannot read log_buf contents")
        return
    layout = Layout(
        prog,
        type_,
        {
            "ts_nsec": "ts_nsec",
            "len": "len",
            "text_len": "text_len",
            "dict_len": "dict_len",
            "caller_id": "caller_id",
        },
    )
    header = sizeof(type_)
    level_at = layout.offset["dict_len"] + 3
    index, seen = first, set[int]()
    while index != end:
        if index + header > size:
            warn("invalid log_buf entry encountered")
            return
        if not layout.unpack(data, index)["len"]:
            index = 0  # the end of the buffer: the record at its start follows
        if index in seen:
            warn("duplicate log_buf message pointer")
            return
        seen.add(index)
        r = layout.unpack(data, index)
        if not r["len"]:
            return
        at = index + header
        yield LogRecord(
            text=data[at : at + r["text_len"]],
            ts_ns=r["ts_nsec"],
            level=data[index + level_at] >> 5,
            caller_id=r.get("caller_id"),
            dictionary=data[at + r["text_len"] : at + r["text_len"] + r["dict_len"]],
        )
        index += r["len"]
        if index >= size and first > end:
            index = 0


def _plain(prog: Program, warn: Warn) -> bytes:
    """The text of log_buf before Linux 3.5, oldest byte first."""
    try:
        size, address = prog["log_buf_len"].value_(), prog["log_buf"].value_()
        end = prog["log_end"].value_()
    except (LookupError, FaultError):
        warn("WARNING: cannot read log_buf contents")
        return b""
    data = read_holed(prog, address, size)
    if data is None:
        warn("WARNING: cannot read log_buf contents")
        return b""
    index = end & (size - 1) if end >= size else 0
    return data[index:] + data[:index]


@dataclass(frozen=True)
class SafeBuffer:
    """One CPU's messages that printk could not hand on in NMI or recursion (4.10 to 5.14)."""

    name: str
    cpu: int
    address: int  # struct printk_safe_seq_buf *
    length: int
    message_lost: int
    data: bytes


def safe_buffers(prog: Program, name: str) -> Iterator[SafeBuffer]:
    from drgn.helpers.linux.cpumask import for_each_present_cpu
    from drgn.helpers.linux.percpu import per_cpu

    variable = prog[name]
    for cpu in for_each_present_cpu(prog):
        buffer = per_cpu(variable, cpu)
        length = buffer.len.counter.value_()
        room = sizeof(buffer.buffer)
        data = bytes(prog.read(buffer.buffer.address_, min(length, room))) if length > 0 else b""
        address = buffer.address_
        assert address is not None
        yield SafeBuffer(name, cpu, address, length, buffer.message_lost.counter.value_(), data)


def caller(caller_id: int) -> str:
    """``C0`` of a CPU, ``T1`` of a thread."""
    return f"{'C' if caller_id & CPU_CALLER else 'T'}{caller_id & ~CPU_CALLER}"


def log_text(prog: Program, warn: Warn = lambda _: None) -> list[str]:
    """The lines of the log without time stamps (what crash searches for the panic)."""
    lines: list[str] = []
    for record in log_records(prog, warn):
        lines += record.text.decode("latin-1").split("\n")
    return lines
