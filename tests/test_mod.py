"""mod: the table, finding and loading of files."""

import gzip
import json
import lzma
from pathlib import Path

import pytest

import crashpy
from crashpy.command import Address, UsageError
from crashpy.commands.mod import Listed, Remark, Tainting, lines, mod
from crashpy.opening.modules import Finder, load_all, open_module
from crashpy.session import Session

EXAMPLES = Path(__file__).parent.parent / "examples"
LOOP = Listed(
    Address(0xFFFFFFFFC019C240), "loop", Address(0xFFFFFFFFC0198000), 28672, None, True, True,
    True, (7, 5),
)  # fmt: skip


def test_the_table():
    assert list(lines([LOOP])) == [
        "     MODULE       NAME        TEXT_BASE       SIZE  OBJECT FILE",
        "ffffffffc019c240  loop     ffffffffc0198000  28672  (not loaded)  [CONFIG_KALLSYMS]",
    ]


def test_remarks_and_taints():
    records = [Remark("no modules installed"), Tainting("a", "O", 7), Tainting("crashme", "OE", 7)]
    assert list(lines(records)) == [
        "no modules installed",
        "NAME     TAINTS",
        "a        O",
        "crashme  OE",
    ]


@pytest.fixture
def session():
    """A session of its own: these tests load files."""
    return Session(crashpy.open(str(EXAMPLES / "vmlinux.zst"), str(EXAMPLES / "vmcore-null")))


def test_loading_brings_types_lines_and_symbols(session):
    symbols = session.dump.symbols
    rows = list(session.run(f"mod -s loop {EXAMPLES}/modules/loop.ko"))
    assert rows[1].endswith(f"  {EXAMPLES}/modules/loop.ko ")
    found = symbols.named("loop_queue_rq")
    assert symbols.line(found.address) == "./drivers/block/loop.c: 1819"
    assert symbols.named("loop_ctl_fops").kind == "r"
    assert session.dump.prog.type("struct loop_cmd").size
    list(session.run("mod -d loop"))
    assert symbols.line(found.address) is None
    assert symbols.named("loop_ctl_fops").kind == "?"


def test_files_beside_the_dump_are_found(session):
    assert load_all(session.dump) == []
    assert all(m.file for m in session.dump.symbols.modules)


@pytest.mark.parametrize(("ending", "pack"), [(".xz", lzma.compress), (".gz", gzip.compress)])
def test_packed_files(session, tmp_path, ending, pack):
    data = (EXAMPLES / "modules" / "dummy.ko").read_bytes()
    (tmp_path / f"dummy.ko{ending}").write_bytes(pack(data))
    rows = list(session.run(f"mod -s dummy {tmp_path}/dummy.ko{ending}"))
    assert rows[1].endswith(f"dummy.ko{ending} ")
    symbols = session.dump.symbols
    assert symbols.line(symbols.named("dummy_setup").address).startswith("./drivers/net/dummy.c: ")


def test_a_file_of_another_build_is_not_taken(session, tmp_path):
    (tmp_path / "loop.ko").write_bytes((EXAMPLES / "modules" / "dummy.ko").read_bytes())
    printed = list(session.run(f"mod -s loop {tmp_path}/loop.ko"))
    assert "BUILD-ID" in printed[0]
    assert printed[1] == f"mod: cannot load symbols from: {tmp_path}/loop.ko"
    module = session.dump.symbols.module("loop")
    assert Finder(session.dump, str(tmp_path)).find(module) is None


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF\x02\x01" + bytes(60), b"text"])
def test_bad_files_spoil_nothing(session, tmp_path, content):
    (tmp_path / "loop.ko").write_bytes(content)
    (tmp_path / "dummy.ko").write_bytes((EXAMPLES / "modules" / "dummy.ko").read_bytes())
    printed = list(session.run(f"mod -S {tmp_path}"))
    assert any(text.endswith("dummy.ko ") for text in printed)
    assert not any("Traceback" in text for text in printed)


def test_truncated_files_are_refused(session, tmp_path):
    data = (EXAMPLES / "modules" / "loop.ko").read_bytes()
    for size in (100, 5000, len(data) // 2, len(data) - 100):
        (tmp_path / "loop.ko").write_bytes(data[:size])
        assert not any("Traceback" in text for text in session.run(f"mod -S {tmp_path}"))
        list(session.run("mod -D"))


def test_open_module_says_what_is_wrong(tmp_path):
    (tmp_path / "x.ko").write_text("no ELF")
    with pytest.raises(ValueError, match="not ELF"):
        open_module(str(tmp_path / "x.ko"))


@pytest.mark.parametrize(
    "words",
    [("-s",), ("-s", "nosuch"), ("-d", "nosuch"), ("-S", "-D"), ("-x",), ("-S", "/dev/null")],
)
def test_words_without_sense(opened, words):
    with pytest.raises(UsageError):
        list(mod(opened("vmcore-null").dump, words=words))


def test_json(opened):
    rows = [json.loads(text) for text in opened("vmcore-null").run("mod --json")]
    assert {"loop", "crashme"} <= {row["name"] for row in rows}
    assert "widths" not in rows[0]
