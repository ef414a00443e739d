"""verify's last words: what a damaged dump is still good for."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import forms
import pytest

from crashpy import usable as module
from crashpy.convert import verify
from crashpy.usable import Usable, usable


@pytest.fixture
def flipped(examples: Path, tmp_path: Path) -> Path:
    """A dump some of whose pages do not unpack, beside its kernel."""
    dump = tmp_path / "vmcore"
    data = bytearray((examples / "vmcore-null").read_bytes())
    rng = random.Random(3)
    for _ in range(40):
        data[rng.randrange(len(data) // 2, len(data))] ^= 0xFF
    dump.write_bytes(data)
    shutil.copy(examples / "vmlinux.zst", tmp_path)
    return dump


def test_sentences() -> None:
    whole = Usable("", {"log": 9, "ps": 3, "kmem -i": 0}, {"log": 0, "ps": 2, "kmem -i": 1})
    assert [*whole.sentences()] == [
        "still of use: log (9 messages), ps (3 tasks)",
        "with gaps: ps",
        "of no use: bt -a, mod, mount, kmem -i",
    ]
    assert [*Usable("no vmlinux", {"log": 9}).sentences()] == [
        "cannot be opened: no vmlinux",
        "still of use: log (9 messages)",
    ]
    assert [*Usable().sentences()] == [
        "cannot be opened: it could not be looked into",
        "nothing of it is of use",
    ]


def test_a_whole_dump_is_of_every_use(examples: Path) -> None:
    found = usable([str(examples / "vmlinux.zst"), str(examples / "vmcore-null")])
    assert not found.refused
    assert all(found.records.values())
    assert not any(found.troubles.values())
    assert found.records["ps"] == 112


def test_verify_of_a_folder(flipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify([str(flipped.parent)]) == 1
    said = capsys.readouterr().out
    assert "pages cannot be read, the first at physical address" in said
    assert f"{flipped}: still of use: log (" in said
    assert verify([str(flipped)]) == 1
    assert capsys.readouterr().out == said


def test_verify_tells_what_is_left_of_a_cut_dump(
    examples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "vmcore"
    cut.write_bytes((examples / "vmcore-null").read_bytes()[:2_000_000])
    assert verify([str(cut)]) == 1
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{cut}: the file is cut short: 2000000 of at least")
    assert "of use" in last


def test_verify_finds_the_other_files_of_a_split_set(
    examples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = forms.split(examples / "vmcore-null", [tmp_path / name for name in ("a", "b", "c")])
    assert verify([str(parts[1])]) == 0
    assert (
        capsys.readouterr().out == f"{' '.join(map(str, parts))}: whole: every page can be read\n"
    )
    parts[0].unlink()
    assert verify([str(parts[1])]) == 1
    assert "a file of the split set is missing" in capsys.readouterr().out


def test_a_dump_that_kills_or_hangs(flipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.01)
    assert usable([str(flipped)]).refused == "it could not be looked into"
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 120)
    monkeypatch.setattr("sys.executable", "/bin/false")
    assert [*usable([str(flipped)]).sentences()][-1] == "nothing of it is of use"


@pytest.mark.parametrize("content", [b"KDUMP   ", b"\x7fELF", b"makedumpfile\0\0\0\0" + bytes(99)])
def test_hardly_a_dump(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(content)
    assert verify([str(path), "/nonexistent", str(tmp_path / "none")]) == 1
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    assert len(said.out.splitlines()) == 3
