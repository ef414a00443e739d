"""Dumps filtered, packed, split, flattened and checked: on a sample dump, by its own pages."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest

from crashpy.cli import main
from crashpy.convert import check, convert, verify
from crashpy.vmcore.filter import Filter
from crashpy.vmcore.memory import memory_of
from crashpy.vmcore.recognise import recognise

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


def test_threads_change_nothing(sample, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert convert(["-c", "--exact", sample, str(one)]) == 0
    assert convert(["-c", "--exact", "--num-threads", "2", sample, str(two)]) == 0
    assert one.read_bytes() == two.read_bytes()


def test_an_elf_file_holds_the_same_pages(sample, original, tmp_path):
    target = tmp_path / "vmcore"
    assert convert(["-E", sample, str(target)]) == 0
    pfns, pages = content([target])
    assert same((pfns, pages), original)


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


def test_a_page_that_the_level_keeps_is_missed(sample, tmp_path, capsys):
    """As Debian 12's makedumpfile leaves slab pages of Linux 6.12 out."""
    from crashpy.vmcore.codecs import codec
    from crashpy.vmcore.selection import select
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
    assert f"{len(in_use)} pages that level 31 keeps are missing" in capsys.readouterr().out


def test_the_log_and_vmcoreinfo_come_alone(sample, opened, capsys):
    assert convert(["--dmesg", sample]) == 0
    log = capsys.readouterr().out
    assert log.splitlines() == list(opened(SAMPLE).run("log"))
    assert convert(["--vmcoreinfo", sample]) == 0
    assert capsys.readouterr().out.startswith("OSRELEASE=6.12.117-sample\n")


def test_an_estimate_names_every_class(sample, capsys):
    assert convert(["--estimate", sample]) == 0
    assert {"free", "cache", "user", "hwpoison"} <= set(capsys.readouterr().out.split())


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


@pytest.mark.parametrize("verb", ["convert", "verify"])
def test_the_command_line_knows_the_verbs(verb, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    assert f"crashpy {verb}" in capsys.readouterr().out
