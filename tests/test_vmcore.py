"""The readers of dump files, on small made-up files."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import forms
import pytest
from drgn import FaultError, Program

from crashpy.vmcore.elf import Elf, Note, core_of_notes, parse_notes
from crashpy.vmcore.files import FlattenedFile, PlainFile, first_bytes, open_bytes, write_sparse
from crashpy.vmcore.pages import PageReader
from crashpy.vmcore.recognise import parse_vmcoreinfo, recognise
from crashpy.vmcore.unpack import unlzo, unsnappy

SAMPLE = Path(__file__).parent.parent / "examples" / "vmcore-null"


def flat(tmp_path: Path, *records: tuple[int, bytes], end: bool = True) -> FlattenedFile:
    data = b"makedumpfile\0\0\0\0".ljust(4096, b"\0")
    for offset, content in records:
        data += struct.pack(">qq", offset, len(content)) + content
    if end:
        data += struct.pack(">qq", -1, -1)
    path = tmp_path / "flat"
    path.write_bytes(data)
    return FlattenedFile(PlainFile(os.open(path, os.O_RDONLY)))


def test_later_records_overwrite_earlier_ones(tmp_path: Path) -> None:
    file = flat(tmp_path, (4, b"abcdefgh"), (0, b"1234"), (6, b"XY"), (2, b"--"))
    assert file.complete
    assert file.size == 12
    assert file.read(0, 100) == b"12--abXYefgh"
    assert file.read(5, 3) == b"bXY"
    assert file.read(12, 1) == b""


def test_gaps_between_records_are_zeros(tmp_path: Path) -> None:
    file = flat(tmp_path, (8, b"end"), (0, b"st"), end=False)
    assert not file.complete
    assert file.read(0, 11) == b"st" + bytes(6) + b"end"
    assert file.read(3, 4) == bytes(4)


def test_a_record_over_several(tmp_path: Path) -> None:
    file = flat(tmp_path, (0, b"aa"), (2, b"bb"), (4, b"cc"), (1, b"1234"))
    assert file.read(0, 6) == b"a1234c"


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_packed_files(suffix: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(content := os.urandom(100_000) + bytes(300_000) + b"end")
    file, _, damage = open_bytes(forms.packed(source, tmp_path / f"packed{suffix}"))
    assert file.read(0, 1 << 20) == content
    assert not damage


def test_packed_files_of_several_streams(tmp_path: Path) -> None:
    """gzip files may be joined (pigz, cat), and padded by zeros."""
    import gzip

    (tmp_path / "two.gz").write_bytes(gzip.compress(b"one ") + gzip.compress(b"two") + bytes(99))
    file, packing, damage = open_bytes(tmp_path / "two.gz")
    assert (file.read(0, 99), packing, damage) == (b"one two", "gzip", "")


def test_a_packed_file_gives_what_it_holds(tmp_path: Path) -> None:
    import gzip

    content = os.urandom(200_000)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(content, 1)[:100_000])
    file, _, damage = open_bytes(tmp_path / "cut.gz")
    assert 90_000 < file.size < 100_000
    assert content.startswith(file.read(0, file.size))
    assert damage == "its gzip data ends early: the file is cut short"
    with (tmp_path / "cut.gz").open("rb") as raw:
        assert first_bytes(raw, 10) == content[:10]


def test_zeros_take_no_memory(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "sparse", os.O_RDWR | os.O_CREAT)
    write_sparse(fd, [bytes(1 << 20), b"x", bytes(1 << 20)])
    status = os.fstat(fd)
    assert status.st_size == (2 << 20) + 1
    assert status.st_blocks * 512 < 1 << 18
    assert os.pread(fd, 2, 1 << 20) == b"x\0"


def test_notes_of_garbage_end() -> None:
    good = struct.pack("<III", 4, 5, 3) + b"GNU\0" + b"build\0\0\0"
    assert list(parse_notes(good + b"\xff" * 40, "<")) == [Note(b"GNU", 3, b"build")]
    assert list(parse_notes(b"\xff" * 7, "<")) == []


def test_a_core_of_notes() -> None:
    notes = [Note(b"CORE", 1, b"12345"), Note(b"VMCOREINFO", 0, b"OSRELEASE=1\n")]
    raw = core_of_notes(notes, "x86_64", "<")
    fd = os.memfd_create("core")
    os.write(fd, raw)
    elf = Elf(PlainFile(fd))
    assert (elf.machine, elf.notes) == ("x86_64", notes)
    big = core_of_notes(notes, "s390x", ">")
    assert big[18:20] == b"\0\x16"


def test_vmcoreinfo_values_may_hold_anything() -> None:
    assert parse_vmcoreinfo(b"A=1\nNUMBER(x)=-2\nno sign\nB=c=d\n\0rest=1") == {
        "A": "1",
        "NUMBER(x)": "-2",
        "B": "c=d",
    }


def test_snappy() -> None:
    """A literal, a copy that overlaps itself, a copy with a 16-bit offset."""
    assert unsnappy(b"\x0a\x04ab\x09\x02\x06\x08\0") == b"ababababab"
    with pytest.raises(ValueError, match="wrong length"):
        unsnappy(b"\x05\x00a")


def test_lzo_literals_and_end() -> None:
    assert unlzo(bytes([17 + 5]) + b"hello" + b"\x11\0\0", 4096) == b"hello"
    with pytest.raises((IndexError, ValueError)):
        unlzo(b"\xff" * 30, 4096)


def test_our_reader_reads_what_libkdumpfile_reads() -> None:
    dump = recognise(str(SAMPLE))
    assert dump
    assert dump.header
    reader, prog = PageReader(dump.header), Program()
    prog.set_core_dump(SAMPLE)
    for start, size in list(dump.header.stored_ranges())[::9]:
        size = min(size, 5 * 4096)
        assert reader.read(start, size) == prog.read(start, size, True)
        assert reader.read(start + 7, 2) == prog.read(start + 7, 2, True)


def test_holes_have_a_reason() -> None:
    dump = recognise(str(SAMPLE))
    assert dump
    assert dump.header
    header = dump.header
    reader = PageReader(header)
    stored = {at // 4096 + i for at, size in header.stored_ranges() for i in range(size // 4096)}
    excluded = next(
        p for p in range(header.max_mapnr) if header.page_existed(p) and p not in stored
    )
    with pytest.raises(FaultError, match="page excluded"):
        reader.read(excluded * 4096, 1)
    with pytest.raises(FaultError, match="no such page"):
        reader.read(header.max_mapnr * 4096, 1)


def test_a_damaged_page_faults(tmp_path: Path) -> None:
    data = bytearray(SAMPLE.read_bytes())
    header = forms.header_of(SAMPLE)
    offset = struct.unpack_from("<Q", data, header.descriptors_offset)[0]
    data[offset : offset + 8] = b"\xff" * 8
    (tmp_path / "damaged").write_bytes(data)
    reader = PageReader(forms.header_of(tmp_path / "damaged"))
    first = next(header.stored_ranges())[0]
    with pytest.raises(FaultError, match=r"page damaged \(Error -(3|5) "):
        reader.read(first, 1)


def test_header_fields() -> None:
    header = forms.header_of(SAMPLE)
    assert (header.order, header.bits, header.version, header.dump_level) == ("<", 64, 6, 31)
    assert header.utsname[:3] == ("Linux", "sample", "6.12.117-sample")
    assert header.needed_size == SAMPLE.stat().st_size
    assert header.stored_pages == sum(size for _, size in header.stored_ranges()) // 4096
    assert not header.incomplete
    assert b"OSRELEASE=6.12.117-sample\n" in header.vmcoreinfo
    assert len([note for note in header.notes if note.type == 1]) == 4


def test_zlib_is_what_the_sample_uses() -> None:
    """So that these tests exercise decompression."""
    header = forms.header_of(SAMPLE)
    raw = header.file.read(header.descriptors_offset, 24)
    offset, size, flags, _ = struct.unpack("<QIIQ", raw)
    assert flags == 1
    assert len(zlib.decompress(header.file.read(offset, size))) == 4096
