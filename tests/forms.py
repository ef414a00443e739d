"""Turn a kdump-compressed sample dump into the other forms a dump comes in."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from drgn import Program

from crashpy.vmcore.files import PlainFile
from crashpy.vmcore.kdump import DESCRIPTOR, KdumpHeader, read_header

PAGE = 4096


def header_of(dump: Path) -> KdumpHeader:
    header = read_header(PlainFile(os.open(dump, os.O_RDONLY)))
    assert header
    return header


def flattened(dump: Path, out: Path, *, end: bool = True, step: int = 50_000) -> Path:
    """As makedumpfile -F writes it: the first block twice, first in a version that is wrong."""
    data = dump.read_bytes()
    with out.open("wb") as file:
        file.write(b"makedumpfile\0\0\0\0" + struct.pack(">qq", 1, 1).ljust(4080, b"\0"))
        places = [0, *range(0, len(data), step)]
        for number, at in enumerate(places):
            piece = data[at : at + step] if number else data[:PAGE][::-1]
            file.write(struct.pack(">qq", at, len(piece)) + piece)
        if end:
            file.write(struct.pack(">qq", -1, -1))
    return out


def without_names(dump: Path, out: Path) -> Path:
    """As QEMU writes the header: of utsname the machine alone."""
    data = bytearray(dump.read_bytes())
    machine = 12 + 4 * 65
    data[12:machine] = bytes(machine - 12)
    out.write_bytes(data)
    return out


def without_vmcoreinfo(dump: Path, out: Path) -> Path:
    """As QEMU without its vmcoreinfo device: the text is in memory alone."""
    data = bytearray(dump.read_bytes())
    at = data.find(b"VMCOREINFO\0")
    data[at : at + 10] = b"SOMETHING\0"
    struct.pack_into("<QQ", data, PAGE + 32, 0, 0)
    out.write_bytes(data)
    return out


def split(dump: Path, outs: list[Path]) -> list[Path]:
    """As makedumpfile --split: each file has both bitmaps and the pages of its range."""
    data = dump.read_bytes()
    header = header_of(dump)
    pages = [pfn for start, size in header.stored_ranges() for pfn in _pfns(start, size)]
    edges = [pages[len(pages) * n // len(outs)] for n in range(len(outs))]
    edges[0] = 0
    edges.append(header.max_mapnr)
    table = header.descriptors_offset
    for out, first, last in zip(outs, edges, edges[1:], strict=False):
        ranks = [rank for rank, pfn in enumerate(pages) if first <= pfn < last]
        start = bytearray(data[:table])
        struct.pack_into("<I", start, PAGE + 12, 1)
        struct.pack_into("<QQ", start, PAGE + 16, first, last)
        struct.pack_into("<QQ", start, PAGE + 80, first, last)
        at = table + len(ranks) * DESCRIPTOR
        descriptors, content = bytearray(), bytearray()
        for rank in ranks:
            offset, size, flags, _ = struct.unpack_from("<QIIQ", data, table + rank * DESCRIPTOR)
            descriptors += struct.pack("<QIIQ", at + len(content), size, flags, 0)
            content += data[offset : offset + size]
        out.write_bytes(start + descriptors + content)
    return outs


def _pfns(start: int, size: int) -> Iterator[int]:
    return iter(range(start // PAGE, (start + size) // PAGE))


def elf(dump: Path, out: Path, *, vmcoreinfo: bool = True, qemu: bool = False) -> Path:
    """An ELF core as QEMU writes it: physical addresses only, the registers as notes."""
    header = header_of(dump)
    prog = Program()
    prog.set_core_dump(dump)
    notes = b""
    for note in header.notes:
        if note.name == b"VMCOREINFO":
            continue
        notes += _note(note.name, note.type, note.desc)
    if qemu:
        notes += _note(b"QEMU", 0, bytes(440))
    if vmcoreinfo:
        notes += _note(b"VMCOREINFO", 0, header.vmcoreinfo)
    ranges = list(header.stored_ranges())
    count = 1 + len(ranges)
    at = 64 + 56 * count
    entries = [struct.pack("<IIQQQQQQ", 4, 0, at, 0, 0, len(notes), len(notes), 0)]
    at = -(-(at + len(notes)) // PAGE) * PAGE
    for start, size in ranges:
        entries.append(struct.pack("<IIQQQQQQ", 1, 7, at, start, start, size, size, 0))
        at += size
    ident = b"\x7fELF\2\1\1" + bytes(9)
    head = ident + struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0)
    with out.open("wb") as file:
        file.write(head + b"".join(entries) + notes)
        file.seek(-(-file.tell() // PAGE) * PAGE)
        for start, size in ranges:
            file.write(prog.read(start, size, True))
    return out


def _note(name: bytes, kind: int, desc: bytes) -> bytes:
    name += b"\0"
    padded = name + bytes(-len(name) % 4), desc + bytes(-len(desc) % 4)
    return struct.pack("<III", len(name), len(desc), kind) + padded[0] + padded[1]


def packed(source: Path, out: Path) -> Path:
    """gzip, bzip2, xz or zstd, by the suffix."""
    import bz2
    import gzip
    import lzma

    import zstandard

    how: dict[str, Callable[[bytes], bytes]] = {
        ".gz": lambda data: gzip.compress(data, 1),
        ".bz2": lambda data: bz2.compress(data, 1),
        ".xz": lambda data: lzma.compress(data, preset=0),
        ".zst": lambda data: zstandard.ZstdCompressor(level=1).compress(data),
    }
    out.write_bytes(how[out.suffix](source.read_bytes()))
    return out


def stripped(vmlinux: Path, image: Path, debug: Path) -> None:
    """Split a kernel by objcopy(1)'s rules: without debug sections, and the debug file.

    Done by renaming the debug sections out of the section table, which is all that
    a reader sees.
    """
    data = bytearray(vmlinux.read_bytes())
    debug.write_bytes(data)
    shoff = struct.unpack_from("<Q", data, 40)[0]
    count, names_at = struct.unpack_from("<HH", data, 60)
    names = struct.unpack_from("<Q", data, shoff + 64 * names_at + 24)[0]
    for i in range(count):
        entry = shoff + 64 * i
        name = names + struct.unpack_from("<I", data, entry)[0]
        if data[name : name + 6] == b".debug":
            struct.pack_into("<I", data, entry + 4, 0)  # SHT_NULL
            data[name : name + 6] = b".gone_"
    image.write_bytes(data)


def boot_image(vmlinux: Path, out: Path) -> Path:
    """A bzImage with this payload: set-up code of 4 sectors, then gzip."""
    import gzip

    setup = bytearray(5 * 512)
    setup[0x1F1] = 4
    setup[0x202:0x206] = b"HdrS"
    payload = gzip.compress(vmlinux.read_bytes(), 1)
    struct.pack_into("<II", setup, 0x248, 0, len(payload))
    out.write_bytes(bytes(setup) + payload + b"\0\0\0\0")
    return out


def corrupted(dump: Path, out: Path, seed: int, pages: int) -> Path:
    """Memory with garbage in it: some pages hold random bytes, small numbers or pointers."""
    import random

    rng = random.Random(seed)
    data = bytearray(dump.read_bytes())
    header = header_of(dump)
    for rank in rng.sample(range(header.stored_pages), pages):
        kind = rng.randrange(3)
        words = [
            rng.randrange(1 << 64),
            rng.randrange(1 << 8),
            0xFFFF888000000000 + rng.randrange(1 << 27),
        ]
        content = b"".join(
            struct.pack("<Q", words[kind] if kind else rng.randrange(1 << 64))
            for _ in range(PAGE // 8)
        )
        where = header.descriptors_offset + rank * DESCRIPTOR
        struct.pack_into("<QIIQ", data, where, len(data), PAGE, 0, 0)
        data += content
    out.write_bytes(data)
    return out


def crossed(dump: Path, out: Path, seed: int, pages: int) -> Path:
    """Memory whose lists lead astray: words of some pages are other pages' pointers.

    A page of random bytes ends a walk at once; a pointer to another object makes
    it go on among the wrong ones, or in circles.
    """
    import random
    import zlib

    import zstandard

    rng = random.Random(seed)
    data = bytearray(dump.read_bytes())
    header = header_of(dump)

    def words_of(rank: int) -> list[int]:
        where = header.descriptors_offset + rank * DESCRIPTOR
        at, size, flags, _ = struct.unpack_from("<QIIQ", data, where)
        raw = bytes(data[at : at + size])
        if flags & 1:
            raw = zlib.decompress(raw)
        elif flags:
            raw = zstandard.ZstdDecompressor().decompress(raw, PAGE)
        return list(struct.unpack("<512Q", raw))

    def is_pointer(word: int) -> bool:
        return word >> 47 == (1 << 17) - 1

    ranks = range(header.stored_pages)
    pointers = [w for rank in rng.sample(ranks, 400) for w in words_of(rank) if is_pointer(w)]
    for rank in rng.sample(ranks, pages):
        words = words_of(rank)
        held = [at for at, word in enumerate(words) if is_pointer(word)] or [rng.randrange(512)]
        for _ in range(rng.randrange(1, 12)):
            at = rng.choice(held)
            words[at] = rng.choice(
                [
                    rng.choice(pointers),
                    words[rng.choice(held)],
                    rng.randrange(1 << rng.choice((8, 16, 32, 64))),
                    words[at] ^ 1 << rng.randrange(64),
                ]
            )
        where = header.descriptors_offset + rank * DESCRIPTOR
        struct.pack_into("<QIIQ", data, where, len(data), PAGE, 0, 0)
        data += struct.pack("<512Q", *words)
    out.write_bytes(data)
    return out


def wild(dump: Path, out: Path, seed: int, count: int) -> Path:
    """A damaged file: bytes of its headers and tables, and of its pages, changed at random."""
    import random

    rng = random.Random(seed)
    data = bytearray(dump.read_bytes())
    header = header_of(dump)
    table = header.descriptors_offset
    ends = (table, table + header.stored_pages * DESCRIPTOR, len(data))
    for _ in range(count):
        data[rng.randrange(8, rng.choice(ends))] = rng.randrange(256)
    out.write_bytes(data)
    return out
