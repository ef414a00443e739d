"""The kernel's log from VMCOREINFO and memory alone: where a dump is saved there is no drgn."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

from crashpy.command import CommandError
from crashpy.vmcore.memory import Memory, Unmapped, damaged

# printk_ringbuffer.h: the two high bits of prb_desc.state_var
COMMITTED, FINALIZED = 1, 2
ID_MASK = (1 << 62) - 1
MOST_RECORDS, MOST_BYTES = 24, 31  # as powers of two
PAGE = 4096


def log_text(memory: Memory) -> str:
    """As `dmesg` shows it. Raises CommandError where VMCOREINFO does not tell where it is."""
    if memory.symbol("prb") is not None:
        records = _lockless(memory)
    elif memory.symbol("log_first_idx") is not None:
        records = _records(memory)
    else:
        raise CommandError("VMCOREINFO does not tell where the kernel's log is")
    try:
        return "".join(_line(nanoseconds, text) for nanoseconds, text in records)
    except Unmapped as error:
        raise CommandError(f"the kernel's log cannot be read: {error}") from None
    except (struct.error, ZeroDivisionError, MemoryError):
        raise CommandError("the kernel's log, or what VMCOREINFO says of it, is damaged") from None


def _line(nanoseconds: int, raw: bytes) -> str:
    seconds, rest = divmod(nanoseconds, 10**9)
    stamp = f"[{seconds:5}.{rest // 1000:06}] "
    text = raw.decode(errors="backslashreplace")
    return stamp + text.replace("\n", "\n" + " " * len(stamp)) + "\n"


class _Fields:
    """Structures' sizes and members, as VMCOREINFO has them."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def at(self, member: str) -> int:
        found = self._memory.offset(member)
        if found is None:
            raise CommandError(f"VMCOREINFO lacks OFFSET({member}): the log cannot be read")
        return found

    def size(self, name: str) -> int:
        found = self._memory.size(name)
        if found is not None and not 0 < found <= PAGE:
            raise damaged(self._memory.vmcore, f"SIZE({name})={found}")
        if found is None:
            raise CommandError(f"VMCOREINFO lacks SIZE({name}): the log cannot be read")
        return found

    def symbol(self, name: str) -> int:
        found = self._memory.symbol(name)
        if found is None:
            raise CommandError(f"VMCOREINFO lacks SYMBOL({name}): the log cannot be read")
        return found

    def word(self, address: int) -> int:
        value: int = struct.unpack("<Q", self._memory.virtual(address, 8))[0]
        return value

    def number(self, address: int) -> int:
        value: int = struct.unpack("<I", self._memory.virtual(address, 4))[0]
        return value


def _holed(memory: Memory, address: int, size: int) -> bytes:
    """That much memory, with zeroes where the dump has none."""
    with contextlib.suppress(Unmapped):
        return memory.virtual(address, size)
    data, at = bytearray(size), 0
    while at < size:
        step = min(size - at, PAGE - (address + at) % PAGE)
        with contextlib.suppress(Unmapped):
            data[at : at + step] = memory.virtual(address + at, step)
        at += step
    return bytes(data)


def _lockless(memory: Memory) -> Iterator[tuple[int, bytes]]:
    """The ring buffer since Linux 5.10: descriptors, records' heads, and their text apart."""
    get = _Fields(memory)
    ring = get.word(get.symbol("prb"))
    descs = ring + get.at("printk_ringbuffer.desc_ring")
    texts = ring + get.at("printk_ringbuffer.text_data_ring")
    counter = get.at("atomic_long_t.counter")
    count_bits = get.number(descs + get.at("prb_desc_ring.count_bits"))
    size_bits = get.number(texts + get.at("prb_data_ring.size_bits"))
    if count_bits > MOST_RECORDS or size_bits > MOST_BYTES:
        raise CommandError("the kernel's log is damaged")
    count, text_size = 1 << count_bits, 1 << size_bits
    head = get.word(descs + get.at("prb_desc_ring.head_id") + counter) & ID_MASK
    tail = get.word(descs + get.at("prb_desc_ring.tail_id") + counter) & ID_MASK
    desc_size, info_size = get.size("prb_desc"), get.size("printk_info")
    desc_data = _holed(memory, get.word(descs + get.at("prb_desc_ring.descs")), count * desc_size)
    info_data = _holed(memory, get.word(descs + get.at("prb_desc_ring.infos")), count * info_size)
    text_data = _holed(memory, get.word(texts + get.at("prb_data_ring.data")), text_size)
    state_at = get.at("prb_desc.state_var") + counter
    place_at = get.at("prb_desc.text_blk_lpos")
    begin_at = place_at + get.at("prb_data_blk_lpos.begin")
    next_at = place_at + get.at("prb_data_blk_lpos.next")
    time_at, length_at = get.at("printk_info.ts_nsec"), get.at("printk_info.text_len")
    for step in range(min((head - tail & ID_MASK) + 1, count)):
        number = tail + step & ID_MASK
        at = number % count * desc_size
        (state,) = struct.unpack_from("<Q", desc_data, at + state_at)
        if state & ID_MASK != number or state >> 62 not in (COMMITTED, FINALIZED):
            continue
        begin, end = (
            struct.unpack_from("<Q", desc_data, at + place)[0] % text_size
            for place in (begin_at, next_at)
        )
        info = number % count * info_size
        (nanoseconds,) = struct.unpack_from("<Q", info_data, info + time_at)
        (length,) = struct.unpack_from("<H", info_data, info + length_at)
        if begin == end:  # it has no text
            yield nanoseconds, b""
            continue
        begin = 8 + (0 if begin > end else begin)  # it does not wrap: it starts anew; its ID
        yield nanoseconds, text_data[begin : begin + max(0, min(end - begin, length))]


def _records(memory: Memory) -> Iterator[tuple[int, bytes]]:
    """The buffer of Linux 3.5 to 5.9: records of different lengths, one after the other."""
    get = _Fields(memory)
    size = get.number(get.symbol("log_buf_len"))
    if size > 1 << MOST_BYTES:
        raise CommandError("the kernel's log is damaged")
    data = _holed(memory, get.word(get.symbol("log_buf")), size)
    at, end = (get.number(get.symbol(name)) for name in ("log_first_idx", "log_next_idx"))
    head = get.size("printk_log")
    time_at, length_at = get.at("printk_log.ts_nsec"), get.at("printk_log.len")
    text_at = get.at("printk_log.text_len")
    passed = 0
    while at != end and passed <= size and at + head <= size:
        (nanoseconds,) = struct.unpack_from("<Q", data, at + time_at)
        (length,) = struct.unpack_from("<H", data, at + length_at)
        (text,) = struct.unpack_from("<H", data, at + text_at)
        if not length:  # the rest did not fit: it goes on at the start
            passed, at = passed + size - at, 0
            continue
        yield nanoseconds, data[at + head : at + head + text]
        passed, at = passed + length, at + length
