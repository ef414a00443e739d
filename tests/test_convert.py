"""Dumps filtered, packed, split, flattened and checked: on a sample dump, by its own pages."""

import contextlib
import hashlib
import io
import os
import random
import re
import struct
import subprocess
import sys
from pathlib import Path

import forms
import numpy as np
import pytest

from crashpy.cli import main
from crashpy.command import CommandError
from crashpy.convert import check, convert, verify
from crashpy.vmcore.erase import erasure
from crashpy.vmcore.filter import Filter
from crashpy.vmcore.kdump import DESCRIPTOR
from crashpy.vmcore.memory import Memory, Unmapped, memory_of
from crashpy.vmcore.recognise import Vmcore, recognise
from crashpy.vmcore.selection import select

SAMPLE = "vmcore-null"


@pytest.fixture(scope="module")
def sample(examples):
    return str(examples / SAMPLE)


def content(paths):
    """Every stored page: numbers, and all their bytes."""
    memory = memory_of([recognise(str(path)) for path in paths])
    pfns = np.flatnonzero(memory.stored(0, memory.max_mapnr))
    pages = np.empty((len(pfns), memory.page_size), np.uint8)
    assert memory.read_into(pfns, pages).all()
    return pfns, pages


def same(one, other):
    return np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])


@pytest.fixture(scope="module")
def original(sample):
    return content([sample])


@pytest.mark.parametrize("letter", ["-c", "-z", "-l", "-p", "-q"])
def test_every_packing_keeps_every_page(sample, original, tmp_path, letter):
    target = tmp_path / "vmcore"
    assert convert([letter, sample, str(target)]) == 0
    assert same(content([target]), original)
    assert target.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["vmcore"]


@pytest.mark.parametrize("letter", ["-c", "-z"])
def test_threads_change_nothing(sample, tmp_path, letter):
    one, two = tmp_path / "one", tmp_path / "two"
    assert convert([letter, "--exact", sample, str(one)]) == 0
    assert convert([letter, "--exact", "--num-threads", "3", sample, str(two)]) == 0
    assert one.read_bytes() == two.read_bytes()


def test_lzo_without_the_systems_library(original, monkeypatch):
    from crashpy.vmcore import codecs
    from crashpy.vmcore.unpack import unlzo

    monkeypatch.setattr(codecs, "liblzo2", lambda: None)
    pages = original[1][:300]
    rows = np.arange(0, 300, 3)
    packed = codecs.codec("lzo").pack(pages, rows)
    ends = np.cumsum(packed.sizes)
    assert ends[-1] == len(packed.data)
    for row, end, size, flags in zip(rows, ends, packed.sizes, packed.flags, strict=True):
        data = bytes(packed.data[end - size : end])
        assert (unlzo(data, 4096) if flags else data) == pages[row].tobytes()
    with pytest.raises(CommandError, match="liblzo2"):
        codecs.codec("lzo", exact=True)


def test_an_elf_file_holds_the_same_pages(sample, original, tmp_path):
    target = tmp_path / "vmcore"
    assert convert(["-E", sample, str(target)]) == 0
    pfns, pages = content([target])
    assert same((pfns, pages), original)


def test_an_elf_file_made_of_a_packed_dump_has_addresses(sample, tmp_path, opened):
    """Where the kernel's image and the direct map are: by these a debugger reads."""
    target = tmp_path / "vmcore"
    assert convert(["-E", sample, str(target)]) == 0
    prog = opened(SAMPLE).dump.prog
    base = prog["page_offset_base"].value_()
    loads = recognise(str(target)).segments
    split = next(n for n, load in enumerate(loads) if load.vaddr == base + load.paddr)
    image, direct = loads[:split], loads[split:]
    assert all(load.vaddr == base + load.paddr for load in direct)
    starts = prog.symbol("_stext").address
    assert image[0].vaddr == starts & -4096
    assert {load.vaddr - load.paddr for load in image} == {image[0].vaddr - image[0].paddr}
    assert image[-1].vaddr + image[-1].memsz >= prog.symbol("_end").address
    written = target.read_bytes()
    banner = prog.symbol("linux_banner").address
    at = next(s.offset + banner - s.vaddr for s in image if s.vaddr <= banner < s.vaddr + s.filesz)
    assert written[at:].startswith(b"Linux version ")


TEXT, DIRECT = 0xFFFFFFFF81000000, 0xFFFF888000000000


def test_the_kernels_own_addresses_stay(tmp_path):
    """A core has the kernel twice: where its symbols are, and in the direct map."""
    mib = 1 << 20
    loads = [(TEXT, 2 * mib, mib), (DIRECT, 0, 8 * mib)]  # virtual, physical, size
    core, target = tmp_path / "core", tmp_path / "vmcore"
    data = np.random.default_rng(1).integers(0, 256, 8 * mib, np.uint8).tobytes()
    head = b"\x7fELF\2\1\1".ljust(16, b"\0")
    head += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    for virtual, physical, size in loads:
        at = 4096 + physical
        head += struct.pack("<IIQQQQQQ", 1, 7, at, virtual, physical, size, size, 0)
    core.write_bytes(head.ljust(4096, b"\0") + data)
    assert convert(["-E", str(core), str(target)]) == 0
    written = target.read_bytes()
    found = {}
    for load in recognise(str(target)).segments:
        there = written[load.offset : load.offset + load.filesz]
        assert there == data[load.paddr : load.paddr + load.memsz]
        found[load.vaddr] = load.memsz
    assert found == {DIRECT: 8 * mib, TEXT: mib}
    assert same(content([target]), content([core]))


def test_a_split_set_joins_to_the_whole(sample, original, tmp_path):
    target = tmp_path / "vmcore"
    assert convert(["-c", "--split", "3", sample, str(target)]) == 0
    parts = sorted(tmp_path.iterdir())
    assert [p.name for p in parts] == ["vmcore.1", "vmcore.2", "vmcore.3"]
    assert same(content(parts), original)
    assert [verify([str(p)]) for p in parts] == [0, 0, 0]
    joined = tmp_path / "joined"
    assert convert(["-z", *map(str, parts), str(joined)]) == 0
    assert same(content([joined]), original)


class Stream:
    def __init__(self):
        self.buffer = io.BytesIO()


def test_a_flattened_dump_comes_back_byte_for_byte(sample, tmp_path, monkeypatch):
    plain, flat, back = (tmp_path / name for name in ("plain", "flat", "back"))
    assert convert(["-c", "--exact", sample, str(plain)]) == 0
    out = Stream()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        assert convert(["-F", "-c", "--exact", sample]) == 0
    flat.write_bytes(out.buffer.getvalue())
    assert convert(["-R", str(flat), str(back)]) == 0
    assert back.read_bytes() == plain.read_bytes()


def test_a_flattened_dump_from_a_pipe(sample, tmp_path):
    flat, back = forms.flattened(Path(sample), tmp_path / "flat"), tmp_path / "back"
    data = flat.read_bytes()
    assert piped(data, "-R", "-", back) == (0, "")
    assert back.read_bytes() == Path(sample).read_bytes()
    assert piped(data[:-500_000], "-R", "-f", "-", back) == (
        1,
        "crashpy convert: standard input: has no end record: it was cut short\n",
    )
    for garbage in (b"", b"hello", data[:4096] + bytes(range(256)) * 20):
        (tmp_path / "none").unlink(missing_ok=True)
        status, said = piped(garbage, "-R", "-", tmp_path / "none")
        assert (status, said.count("\n")) == (1, 1)
    status, _ = piped(data[:4096] + struct.pack(">qq", -1, 5) + b"x", "-R", "-f", "-", back)
    assert status == 1


def piped(data, *words):
    argv = [sys.executable, "-P", "-m", "crashpy", "convert", *map(str, words)]
    done = subprocess.run(argv, input=data, capture_output=True, check=False)
    return done.returncode, done.stderr.decode()


def test_a_level_once_filtered_stays(sample, tmp_path):
    target = tmp_path / "vmcore"
    assert convert(["-c", "-d", "0", sample, str(target)]) == 0
    assert memory_of([recognise(str(target))]).level == 31


def test_every_rule_leaves_pages_out(examples):
    """Level by level, what is kept shrinks; a level keeps what its parts keep in common."""
    memory = memory_of([recognise(str(examples / "vmcore-abba"))])

    def kept(level):
        return np.concatenate([keep for _, _, keep in Filter(memory, level).sections()])

    single = {level: kept(level) for level in (2, 4, 8, 16)}
    everything = memory.existed(0, memory.max_mapnr)
    for bits in single.values():
        assert bits.sum() < everything.sum()
    assert not (single[4] & ~single[2]).any()
    union = single[2] & single[4] & single[8] & single[16]
    assert np.array_equal(kept(31), union)


def test_the_samples_are_whole(sample):
    assert check([recognise(sample)]) == []


def test_flipped_bits_are_found(sample, tmp_path, capsys):
    damaged = bytearray(Path(sample).read_bytes())
    damaged[len(damaged) // 2] ^= 0x10
    path = tmp_path / "vmcore"
    path.write_bytes(damaged)
    assert verify([str(path)]) == 1
    assert "1 of" in capsys.readouterr().out
    target = tmp_path / "rest"
    assert convert(["-z", str(path), str(target)]) == 1
    assert "1 pages of the source could not be read" in capsys.readouterr().err
    # What is lost is lost there too: it does not come back as a page of zeroes.
    assert verify([str(target)]) == 1


def places_of(sample):
    """Where the parts of the sample begin: bitmaps, descriptors, data; and its size."""
    header = recognise(sample).header
    data = header.descriptors_offset + header.stored_pages * DESCRIPTOR
    return header.bitmap_offset, header.descriptors_offset, data, header.file.size


def sentences(words):
    """What convert or verify said, and its status; a traceback would not be caught."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(words)
    return status, out.getvalue() + err.getvalue()


@pytest.mark.parametrize("part", range(6))
def test_wherever_a_dump_is_cut(sample, tmp_path, part, monkeypatch):
    monkeypatch.setattr("crashpy.convert._verified", lambda files: bool(check(files)))
    bitmap, table, data, end = places_of(sample)
    cut = (100, bitmap - 1, bitmap + 100, (table + data) // 2, (data + end) // 2, end - 1)[part]
    path, target = tmp_path / "vmcore", tmp_path / "rest"
    path.write_bytes(Path(sample).read_bytes()[:cut])
    status, said = sentences(["verify", str(path)])
    assert status == 1
    status, said = sentences(["convert", "-d", "31", str(path), str(target)])
    assert status == 1
    assert "crashpy convert: " in said
    if part < 4:  # nothing of use is left
        assert "copy it again" in said
        assert not target.exists()
    else:  # what is left can be saved
        assert "pages of the source could not be read" in said
        lost = check([recognise(str(target))])
        assert len(lost) == 1
        assert "cannot be read" in lost[0]


def test_a_flattened_dump_that_was_cut(sample, tmp_path):
    whole = forms.flattened(Path(sample), tmp_path / "whole")
    cut, target = tmp_path / "cut", tmp_path / "target"
    cut.write_bytes(whole.read_bytes()[:-500_000])
    assert "has no end record" in sentences(["convert", "-R", str(cut), str(target)])[1]
    assert any("cut short" in finding for finding in check([recognise(str(target))]))
    findings = check([recognise(str(cut))])
    assert "no end record" in findings[0]
    assert "pages cannot be read" in findings[-1]
    status, said = sentences(["convert", "-c", str(cut), str(tmp_path / "packed")])
    assert (status, "could not be read" in said) == (1, True)


def test_flipped_bits_never_end_in_a_traceback(sample, tmp_path, monkeypatch):
    """In headers, bitmaps and descriptors; those of pages are found one and all."""
    monkeypatch.setattr("crashpy.convert._verified", lambda files: bool(check(files)))
    chance = random.Random(4)
    _, table, data, end = places_of(sample)
    original = Path(sample).read_bytes()
    path = tmp_path / "vmcore"
    for low, high in ((8, 500), (4096, 4300), (4300, table), (table, data), (table, data)):
        damaged = bytearray(original)
        for _ in range(3):
            damaged[chance.randrange(low, high)] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        assert sentences(["verify", str(path)])[0] in (0, 1)
        assert sentences(["convert", "-f", "-d", "17", str(path), str(tmp_path / "o")])[0] in (0, 1)
    damaged = bytearray(original)
    for at in (data + 1000, (data + end) // 2, end - 1000):
        damaged[at] ^= 4
    path.write_bytes(damaged)
    assert any(finding.startswith("3 of ") for finding in check([recognise(str(path))]))


def test_damaged_vmcoreinfo_never_ends_in_a_traceback(sample):
    vmcore = recognise(sample)
    text = vmcore.vmcoreinfo_text
    digits = [at for at in range(len(text)) if chr(text[at]).isdigit()]
    chance = random.Random(1)
    refused = 0
    for _ in range(25):
        damaged = bytearray(text)
        for at in chance.sample(digits, chance.choice([3, 20])):
            damaged[at] = chance.choice(b"0123456789abcdefx-=\n\xff")
        vmcore.vmcoreinfo_text = bytes(damaged)
        try:
            memory = memory_of([vmcore])
            memory.level = 0  # so that the rules are needed
            select(memory, 31)
        except CommandError as error:
            assert "VMCOREINFO" in str(error) or "cannot filter" in str(error)  # noqa: PT017
            refused += 1
    assert refused


def test_a_bit_of_the_bitmap_shifts_the_pages_behind_it(sample, tmp_path):
    bitmap, table, _, _ = places_of(sample)
    kept_at = (bitmap + table) // 2
    damaged = bytearray(Path(sample).read_bytes())
    at = next(at for at in range(kept_at + 1000, table) if damaged[at] == 0xFF)
    damaged[at] = 0xFE
    (tmp_path / "vmcore").write_bytes(damaged)
    findings = check([recognise(str(tmp_path / "vmcore"))])
    assert any("does not fit the descriptors" in finding for finding in findings)


def test_no_room_leaves_what_there_was_room_for(sample, tmp_path, capsys):
    target = tmp_path / "vmcore"
    assert convert(["-c", "-L", "4000000", sample, str(target)]) == 1
    said = capsys.readouterr().err
    assert "vmcore-incomplete: what there was room for" in said
    assert "no room within the limit of 4000000 bytes" in said
    [left] = tmp_path.iterdir()
    assert left.stat().st_size <= 4_000_000
    findings = check([recognise(str(left))])
    assert "marked as incomplete: the machine could not write all of it" in findings
    assert convert(["-L", "4000000", "-E", sample, str(target)]) == 1
    assert recognise(str(left)).incomplete


def test_a_filtered_elf_file_stays_filtered(sample, original, tmp_path):
    elf, back = tmp_path / "elf", tmp_path / "back"
    assert convert(["-E", sample, str(elf)]) == 0
    assert convert(["-l", str(elf), str(back)]) == 0
    assert same(content([back]), original)


def test_what_is_erased_is_gone(sample, examples, tmp_path, opened):
    target, elf = tmp_path / "vmcore", tmp_path / "elf"
    image = ["-x", str(examples / "vmlinux.zst")]
    things = ("init_task.comm", "saved_command_line size 5", "init_task.cred nullify")
    erase = [word for thing in things for word in ("--erase", thing)]
    assert convert(["-c", *image, *erase, sample, str(target)]) == 0
    lines = b"erase init_task.comm size 16\nerase saved_command_line size 5\n"
    lines += b"erase init_task.cred nullify\n"
    assert target.read_bytes().endswith(lines)
    memory, prog = memory_of([recognise(str(target))]), opened(SAMPLE).dump.prog
    task = prog["init_task"]
    assert memory.virtual(task.comm.address_, 16) == b"X" * 16
    assert memory.virtual(task.cred.address_, 8) == bytes(8)
    line = prog["saved_command_line"]
    assert memory.virtual(line.value_(), 8) == b"XXXXX" + line.string_()[5:8]
    # What was erased before is told, too.
    assert convert(["-E", str(target), str(elf)]) == 0
    [note] = [note for note in recognise(str(elf)).notes if note.name == b"ERASEINFO"]
    assert note.desc == lines
    again = tmp_path / "again"
    assert convert(["-z", str(target), str(again)]) == 0
    assert again.read_bytes().endswith(lines)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ("no_such_thing", "no_such_thing"),
        ("init_task.no_such_member", "no member 'no_such_member'"),
        ("init_task.stack", "say how many bytes"),
        ("init_task.comm nullify", "is no pointer"),
        ("init_task.comm size many", "not SYMBOL[.MEMBER...] [size BYTES[K|M] | nullify]"),
    ],
)
def test_what_cannot_be_erased(sample, opened, request_, sentence):
    with pytest.raises(CommandError) as failure:
        erasure(memory_of([recognise(sample)]), opened(SAMPLE).dump.prog, request_)
    assert sentence in str(failure.value)


def test_a_page_that_the_level_keeps_is_missed(sample, tmp_path, capsys):
    """As Debian 12's makedumpfile leaves slab pages of Linux 6.12 out."""
    from crashpy.vmcore.codecs import codec
    from crashpy.vmcore.sinks import FileSink
    from crashpy.vmcore.write import write_kdump

    memory = memory_of([recognise(sample)])
    selection = select(memory, 31)
    kept = np.frombuffer(selection.kept, np.uint8)
    in_use = [int(p) for pfns in selection.pfns() for p in pfns[-200:-100:50]]
    for pfn in in_use:
        kept[pfn // 8] &= ~(1 << pfn % 8) & 0xFF
    sink = FileSink(tmp_path / "vmcore")
    write_kdump(sink, selection, codec("zlib"))
    sink.finish()
    assert verify([str(tmp_path / "vmcore")]) == 1
    said = f"{len(in_use)} pages that level 31 keeps are missing"
    assert said in capsys.readouterr().out
    # What is made from it has the same fault, and that is said.
    assert convert(["-z", str(tmp_path / "vmcore"), str(tmp_path / "packed")]) == 1
    assert said in capsys.readouterr().err
    assert recognise(str(tmp_path / "packed"))
    (tmp_path / "saved").mkdir()
    words = ["save", "-q", "--free", "0", str(tmp_path / "vmcore"), str(tmp_path / "saved")]
    assert main(words) == 1
    assert said in capsys.readouterr().err
    [readme] = (tmp_path / "saved").glob("*/README.txt")
    assert f"Note: {said}" in readme.read_text()
    assert (readme.parent / "vmcore").exists()


@pytest.mark.parametrize(
    ("word", "remark"),
    [
        (b"OFFSET(page.mapping)", "VMCOREINFO lacks OFFSET(page.mapping)"),
        (b"SYMBOL(mem_section)", "VMCOREINFO lacks mem_section"),
    ],
)
def test_what_nobody_can_judge_is_not_called_damaged(sample, tmp_path, capsys, word, remark):
    """Kernels and machines whose page structures are not known here."""
    path = tmp_path / "vmcore"
    data = Path(sample).read_bytes()
    path.write_bytes(data.replace(word, word.replace(b"e", b"E")))
    assert verify([str(path)]) == 0
    whole, more = capsys.readouterr().out.splitlines()
    assert whole == f"{path}: whole: every page can be read"
    assert "what was left out cannot be checked" in more
    assert remark in more
    assert check([recognise(str(path))]) == []


def test_the_log_and_vmcoreinfo_come_alone(sample, opened, capsys):
    assert convert(["--dmesg", sample]) == 0
    log = capsys.readouterr().out
    assert log.splitlines() == list(opened(SAMPLE).run("log"))
    assert convert(["--vmcoreinfo", sample]) == 0
    assert capsys.readouterr().out.startswith("OSRELEASE=6.12.117-sample\n")


def test_an_estimate_counts_classes_and_levels(sample, capsys):
    assert convert(["--estimate", sample]) == 0
    classes, levels = capsys.readouterr().out.split("\n\n")
    assert {"free", "cache", "user", "hugetlb", "hwpoison", "zero"} <= set(classes.split())
    rows = [line.split() for line in levels.splitlines()[1:]]
    assert [int(row[0]) for row in rows] == list(range(32))
    memory = memory_of([recognise(sample)])
    for level in (0, 16, 30):
        assert int(rows[level][1]) == select(memory, level).pages
    assert all(int(rows[n + 1][1]) <= int(rows[n][1]) for n in range(0, 32, 2))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-c", "/nosuch", "out"], "/nosuch: No such file or directory"),
        (["-c", __file__, "out"], "not a dump"),
        (["-c", "SAMPLE"], "name the file to write behind the dump"),
        (["-c", "SAMPLE", "SAMPLE"], "is the dump itself"),
        (["-c", "-E", "SAMPLE", "out"], "an ELF dump (-E) can be neither packed nor split"),
        (["-R", "SAMPLE", "out"], "is not flattened"),
        (["-c", "SAMPLE", "/nosuch/out"], "No such file or directory"),
    ],
)
def test_what_cannot_be_done_is_said(sample, tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    assert convert([sample if word == "SAMPLE" else word for word in words]) == 1
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_overwritten(sample, tmp_path, capsys):
    target = tmp_path / "vmcore"
    target.write_text("precious")
    assert convert(["-c", sample, str(target)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert target.read_text() == "precious"
    assert convert(["-c", "-f", sample, str(target)]) == 0


def test_a_write_that_fails_leaves_nothing(sample, tmp_path, monkeypatch, capsys):
    from crashpy.vmcore import sinks

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sinks.os, "pwrite", full)
    assert convert(["-c", sample, str(tmp_path / "vmcore")]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_files_of_a_split_set_are_one_dump(sample, tmp_path, capsys):
    assert main(["convert", "-c", "--split", "3", sample, str(tmp_path / "v")]) == 0
    parts = [str(path) for path in sorted(tmp_path.iterdir())]
    assert main(["verify", *parts, sample, parts[0]]) == 0
    whole = capsys.readouterr().out
    assert whole.splitlines() == [
        f"{' '.join(parts)}: whole: every page can be read",
        f"{sample}: whole: every page can be read",
    ]
    assert main(["verify", parts[0], parts[2]]) == 1
    assert "a file of the split set is missing" in capsys.readouterr().out


@pytest.fixture
def parts(sample, tmp_path):
    """A split set, in a folder of its own."""
    folder = tmp_path / "set"
    folder.mkdir()
    assert convert(["-c", "--split", "3", sample, str(folder / "v")]) == 0
    return [str(path) for path in sorted(folder.iterdir())]


def test_a_split_set_that_lacks_a_file(parts, tmp_path, capsys):
    """What it had is lost, not left out: nobody takes the rest for the whole."""
    target = tmp_path / "rest"
    assert convert(["-c", parts[0], parts[2], str(target)]) == 1
    assert re.search(r"\d+ pages of the source could not be read", capsys.readouterr().err)
    assert verify([str(target)]) == 1
    assert re.search(r"\d+ of \d+ pages cannot be read", capsys.readouterr().out)


def test_one_file_of_a_split_set_finds_the_others(parts, original, tmp_path, capsys):
    target = tmp_path / "joined"
    assert convert(["-z", parts[1], str(target)]) == 0
    assert same(content([target]), original)
    assert convert(["--estimate", parts[2]]) == 0
    assert convert(["--dmesg", parts[0]]) == 0
    assert "Linux version" in capsys.readouterr().out


def test_files_of_two_dumps_are_none(sample, examples, tmp_path, capsys):
    target = tmp_path / "out"
    for other in (str(examples / "vmcore-abba"), str(tmp_path / "elf")):
        if not Path(other).exists():
            assert convert(["-E", sample, other]) == 0
        assert convert(["-c", sample, other, str(target)]) == 1
        assert "are two dumps" in capsys.readouterr().err
        assert not target.exists()


def test_a_part_is_no_file_to_write(parts, capsys):
    """The name of the result was forgotten."""
    before = Path(parts[2]).read_bytes()
    assert convert(["-f", "-c", *parts]) == 1
    assert "is a part of the dump" in capsys.readouterr().err
    assert Path(parts[2]).read_bytes() == before


def test_a_dump_that_is_called_as_the_unfinished_result(sample, tmp_path, capsys):
    """`convert vmcore-incomplete vmcore`: the provisional name is the dump's own."""
    draft, target = tmp_path / "vmcore-incomplete", tmp_path / "vmcore"
    draft.write_bytes(Path(sample).read_bytes())
    (tmp_path / "flat-incomplete").write_bytes(draft.read_bytes())
    for words in (["-c", draft, target], ["--dmesg", draft, target]):
        assert convert([*map(str, words)]) == 1
        assert "is the dump itself" in capsys.readouterr().err
    flat = forms.flattened(Path(sample), tmp_path / "flat-incomplete")
    kept = flat.read_bytes()
    assert convert(["-R", str(flat), str(tmp_path / "flat")]) == 1
    assert (draft.read_bytes(), flat.read_bytes()) == (Path(sample).read_bytes(), kept)
    (tmp_path / "other").hardlink_to(draft)
    assert convert(["-f", "-c", str(draft), str(tmp_path / "other")]) == 1


def test_two_that_write_the_same_file(sample, tmp_path, capsys):
    from crashpy.vmcore.sinks import FileSink

    target = tmp_path / "vmcore"
    first = FileSink(target)
    first.write(0, b"precious")
    assert convert(["-c", sample, str(target)]) == 1
    assert "another program is writing it" in capsys.readouterr().err
    first.finish()
    assert target.read_bytes() == b"precious"
    assert convert(["-f", "-c", sample, str(target)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["vmcore"]


def test_a_file_system_without_locks(sample, tmp_path, monkeypatch):
    from crashpy.vmcore import sinks

    def unknown(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(sinks.fcntl, "flock", unknown)
    assert convert(["-c", sample, str(tmp_path / "vmcore")]) == 0


def test_what_is_left_of_a_try_is_nobodys_to_read(sample, tmp_path):
    draft, target = tmp_path / "vmcore-incomplete", tmp_path / "vmcore"
    draft.write_bytes(bytes(10 << 20))
    draft.chmod(0o644)
    assert convert(["-c", sample, str(target)]) == 0
    assert target.stat().st_mode & 0o777 == 0o600
    assert target.stat().st_size < 10 << 20


def test_links_stay_and_devices_too(sample, tmp_path, capsys):
    real, link, device = (tmp_path / name for name in ("real", "link", "device"))
    link.symlink_to(real)
    assert convert(["-c", sample, str(link)]) == 0
    assert convert(["-c", sample, str(link)]) == 1
    assert convert(["-f", "-c", sample, str(link)]) == 0
    assert link.is_symlink()
    assert not real.is_symlink()
    os.mkfifo(device)
    capsys.readouterr()
    assert convert(["-f", "-c", sample, str(device)]) == 1
    assert "no file that could be replaced" in capsys.readouterr().err
    assert device.is_fifo()


@pytest.mark.parametrize("words", [["--split", "2"], ["-L", "100"], ["-R"]])
def test_what_does_not_go_to_the_output(sample, capsys, words):
    assert convert(["-F", *words, sample]) == 1
    assert "-F, to the output, goes with none of" in capsys.readouterr().err


def test_the_output_has_no_second_name(sample, tmp_path, capsys):
    assert convert(["-F", sample, str(tmp_path / "out")]) == 1
    assert "out: No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["convert", "-F", "-c", "SAMPLE"],
        ["convert", "--dmesg", "SAMPLE"],
        ["convert", "--vmcoreinfo", "SAMPLE"],
        ["convert", "--estimate", "SAMPLE"],
        ["verify", "SAMPLE"],
    ],
)
def test_an_output_that_is_full(sample, words):
    argv = [sys.executable, "-P", "-m", "crashpy", *words[:-1], sample]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, check=False)
    said = f"crashpy {words[0]}: standard output: No space left on device\n"
    assert (done.returncode, done.stderr.decode()) == (1, said)


def test_interrupted(sample, tmp_path):
    """Ctrl-C while it writes: what it says comes when it has begun, and slowly."""
    script = (
        "import os, signal, sys; from crashpy import convert; from crashpy.cli import main;"
        " convert.progress_line = lambda *_: lambda *_: os.kill(os.getpid(), signal.SIGINT);"
        " sys.exit(main(sys.argv[1:]))"
    )
    argv = [sys.executable, "-c", script, "convert", "-c", sample, str(tmp_path / "out")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "crashpy convert: interrupted: nothing was left behind\n"
    assert not list(tmp_path.iterdir())


class Failing:
    """Bytes of a disk that cannot read everything."""

    def __init__(self, read, bad):
        self._read, self._bad = read, bad

    def __call__(self, fd, what, at):
        size = what if isinstance(what, int) else len(what[0])
        if at <= self._bad < at + size:
            raise OSError(5, "Input/output error")
        return self._read(fd, what, at)


@pytest.mark.parametrize("form", ["-c", "-E", "flattened"])
def test_a_disk_that_fails_costs_one_page(sample, tmp_path, monkeypatch, form, capsys):
    source, target = tmp_path / "source", tmp_path / "rest"
    if form == "flattened":
        assert convert(["-E", sample, str(target)]) == 0
        forms.flattened(target, source, step=1 << 22)
        target.unlink()
    else:
        assert convert([form, sample, str(source)]) == 0
    bad = source.stat().st_size * 2 // 3
    for name in ("pread", "preadv"):
        monkeypatch.setattr(os, name, Failing(getattr(os, name), bad))
    assert convert(["-z", str(source), str(target)]) == 1
    assert "1 pages of the source could not be read" in capsys.readouterr().err


def test_a_descriptor_that_points_elsewhere(sample, tmp_path):
    """A raw page has no checksum: that it lies inside another one gives it away."""
    source = tmp_path / "raw"
    assert convert(["-q", sample, str(source)]) == 0
    data = bytearray(source.read_bytes())
    _, table, _, _ = places_of(str(source))
    at = table + 2000 * DESCRIPTOR
    struct.pack_into("<Q", data, at, struct.unpack_from("<Q", data, at)[0] ^ 1 << 14)
    source.write_bytes(data)
    [finding] = check([recognise(str(source))])
    assert "begin inside the data of another page" in finding


@pytest.mark.parametrize("place", [12 + 2 * 65, 4096, 4096 + 8, 4096 + 32])
def test_a_header_that_contradicts_vmcoreinfo(sample, tmp_path, place):
    """The release, the physical base, the level, where VMCOREINFO is."""
    data = bytearray(Path(sample).read_bytes())
    data[place] ^= 0x40
    (tmp_path / "vmcore").write_bytes(data)
    findings = check([recognise(str(tmp_path / "vmcore"))])
    assert any("header" in finding and "damaged" in finding for finding in findings)


def test_verify_compares_with_the_checksums_beside(sample, tmp_path, capsys):
    """They tell what the dump itself cannot: a byte of a page that is not packed."""
    target = tmp_path / "vmcore"
    assert convert(["-q", sample, str(target)]) == 0
    data = bytearray(target.read_bytes())
    digest = hashlib.sha256(data).hexdigest()
    (tmp_path / "SHA256SUMS").write_text(f"{digest}  vmcore\n")
    assert verify([str(target)]) == 0
    data[-5000] ^= 1
    target.write_bytes(data)
    assert check([recognise(str(target))]) == []
    assert verify([str(target)]) == 1
    assert "vmcore is not as it was saved" in capsys.readouterr().out


def test_the_next_level_is_tried_where_there_is_no_room(examples, tmp_path, monkeypatch, capsys):
    from crashpy.vmcore import selection

    source, target = str(examples / "vmcore-abba"), tmp_path / "vmcore"
    levels = []

    def chosen(memory, level):
        levels.append(level)
        if level == 0:
            raise OSError(28, "No space left on device")
        return select(memory, level)

    select = selection.select
    monkeypatch.setattr(selection, "select", chosen)
    assert convert(["-c", "-d", "0,31", source, str(target)]) == 0
    assert levels == [0, 31]
    assert "no room at level 0: trying level 31" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["vmcore"]


def test_progress_tells_rate_and_time_left(monkeypatch):
    from crashpy import convert as module

    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(module.sys, "stderr", terminal)
    clock = iter([10.0, 20.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    show = module.progress_line(False, 0.0)
    show(250_000, 1_000_000)
    show(500_000, 1_000_000)
    assert terminal.getvalue().split("\r")[1:] == [
        " 25 %      102 MB/s    30 s left ",
        " 50 %      102 MB/s    20 s left ",
    ]
    assert module.progress_line(True, 0.0) is None


def test_page_tables_of_aarch64():
    """A page, a block of 2 MiB, and what is not mapped."""

    class Tables(Memory):
        page_size, max_mapnr = 4096, 1 << 20

        def physical(self, address, _size):
            entries = {
                0x1000: {511: 0x2000 | 3},
                0x2000: {0: 0x3000 | 3 | 1 << 59},
                0x3000: {0: 0x4000 | 3, 1: 0x40200000 | 1 | 1 << 52},
                0x4000: {5: 0x7000 | 3 | 1 << 51},
            }[address]
            return struct.pack("<512Q", *(entries.get(n, 0) for n in range(512)))

    text = b"SYMBOL(swapper_pg_dir)=ffff800008001000\n"
    text += b"NUMBER(kimage_voffset)=0xffff800008000000\nNUMBER(VA_BITS)=48\n"
    memory = Tables([Vmcore("made up", None, "elf", machine="aarch64", vmcoreinfo_text=text)])
    top = (1 << 64) - (1 << 39)
    assert memory.translate(top + 5 * 4096 + 16) == (0x7010, 4080)
    assert memory.translate(top + (1 << 21) + 0x1234) == (0x40201234, (1 << 21) - 0x1234)
    with pytest.raises(Unmapped):
        memory.translate(top + 6 * 4096)


@pytest.mark.parametrize("verb", ["convert", "verify"])
def test_the_command_line_knows_the_verbs(verb, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    assert f"crashpy {verb}" in capsys.readouterr().out


def test_the_log_of_a_dump_with_damaged_vmcoreinfo(sample, tmp_path):
    """It is read, or one sentence says why not."""
    data = Path(sample).read_bytes()
    start, end = data.index(b"OSRELEASE="), data.index(b"\nOFFSET(printk_info")
    path = tmp_path / "vmcore"
    chance = random.Random(2)
    statuses = set()
    for _ in range(12):
        damaged = bytearray(data)
        for _ in range(40):
            damaged[chance.randrange(start, end + 500)] = chance.choice(b"0123456789abc()=\n\xff")
        path.write_bytes(damaged)
        status, said = sentences(["convert", "--dmesg", str(path)])
        statuses.add(status)
        assert status == 0 or said.count("\n") == 1
    assert 1 in statuses
