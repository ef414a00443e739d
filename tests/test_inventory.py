"""save list, save prune: trees as the distributions' scripts leave them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import forms
import pytest
import servers
from places import PROTOCOLS, Places

from crashpy.kdump import inventory, retention
from crashpy.kdump.inventory import SavedDump, dumps_below, panic_in, table
from crashpy.kdump.layouts import folder_name, kind
from crashpy.kdump.report import PROVISIONAL, SAVED, TITLE, Report, about, now, parse, readme
from crashpy.kdump.retention import to_free, too_many
from crashpy.kdump.targets import open_target
from crashpy.kdump.urls import Url

PANIC = "Kernel panic - not syncing: sysrq triggered crash"
LOG = f"[    1.0] boring\n[   12.345678] [    T156] {PANIC}\n"
RELEASE = "6.12.117-sample"
Tree = Callable[..., Path]


@pytest.fixture(scope="module")
def head(examples: Path) -> bytes:
    """A dump's headers with its VMCOREINFO, and no page."""
    header = forms.header_of(examples / "vmcore-null")
    start = (examples / "vmcore-null").read_bytes()[: header.bitmap_offset]
    return start.ljust(header.descriptors_offset, b"\0")


@pytest.fixture(scope="module")
def flat(head: bytes, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    source = tmp_path_factory.mktemp("flat") / "vmcore"
    source.write_bytes(head)
    return forms.flattened(source, source.with_name("flat")).read_bytes()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """``tree({"2026-11-20-10-00/vmcore": b"..."})``: files, a name ending in / is a folder."""

    def make(files: dict[str, bytes | str]) -> Path:
        for name, content in files.items():
            path = tmp_path / "crash" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("/"):
                path.mkdir(exist_ok=True)
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path / "crash"

    return make


def listed(folder: Path) -> dict[str, SavedDump]:
    with open_target(Url("file", str(folder))) as place:
        return {dump.folder: dump for dump in dumps_below(place)}


def dump(folder: str, state: str = "complete", **more: object) -> SavedDump:
    named = folder_name(folder.rpartition("/")[2])
    assert named
    fields = {"size_bytes": 100, "changed_s": 0.0, **more}
    return SavedDump(
        "/crash", folder, named.layout, named.host, named.time, state, counter=named.counter,
        **fields,  # type: ignore[arg-type]
    )  # fmt: skip


# README.txt


def test_readme_is_read_as_it_was_written() -> None:
    vmcoreinfo = {"OSRELEASE": "6.12", "CRASHTIME": "1795476958"}
    told = about(vmcoreinfo, Report(SAVED, SAVED, host="web1", level=31, format="zstd"))
    text = readme(told)
    assert text.splitlines()[:4] == [
        "Kernel crashdump",
        "----------------",
        "dmesg status: saved successfully",
        "vmcore status: saved successfully",
    ]
    assert parse(text) == told
    assert parse(text).finished
    assert told.crashed
    assert told.crashed.timestamp() == 1795476958


def test_readme_holds_no_password_and_no_second_line() -> None:
    told = Report(host="web1\nvmcore status: x", notes=("to ftp://me:s3cret@host/dumps",))
    text = readme(told)
    assert "s3cret" not in text
    assert "Host: web1 vmcore status: x\n" in text


def test_readme_of_suse_today() -> None:
    told = parse(
        f"{TITLE}dmesg status: saved successfully\nvmcore status: deleted (5 < KDUMP 64)\n"
        "Kernel version: 6.4.0-150600.23-default\nCrash time: 2026-11-20T09:59:11\n"
        "Dump time: 2026-11-20T10:00:13\nHost: web1\nDump level: 31\nDump format: lzo\n"
        "Note: vmcore saved in makedumpfile flattened format\n"
    )
    assert told.release == "6.4.0-150600.23-default"
    assert told.crashed == datetime(2026, 11, 20, 9, 59, 11)
    assert told.finished is False
    assert (told.level, told.format, told.host) == (31, "lzo", "web1")


def test_readme_of_suse_11() -> None:
    told = parse(
        "Kernel crashdump\n----------------\n\nCrash time     : 2013-02-03 04:05 (+0100)\n"
        "Kernel version : 3.0.101-63-default\nHost           : old\nDump level     : 0\n"
    )
    assert told.release == "3.0.101-63-default"
    assert told.crashed
    assert told.crashed.isoformat() == "2013-02-03T04:05:00+01:00"
    assert told.finished is None


def test_readme_that_was_never_finished() -> None:
    assert parse(f"{PROVISIONAL}Host: web1\n").finished is False
    assert parse(readme(Report(provisional=True, dumped=now()))).provisional


@pytest.mark.parametrize("text", ["", "\0\0", "Dump level: many\nCrash time: soon\n", ":::\n" * 9])
def test_readme_that_is_damaged(text: str) -> None:
    told = parse(text)
    assert told.level is None
    assert told.crashed is None


# Names


@pytest.mark.parametrize(
    ("name", "layout", "host", "counter"),
    [
        ("2026-11-24-02-39", "suse", "", 0),
        ("2026-11-24-02-39.2", "suse", "", 2),
        ("web-1-2026-11-24-02-39", "suse", "web-1", 0),
        ("2013-01-02-03:04", "suse11", "", 0),
        ("127.0.0.1-2026-11-24-02:39:11", "rhel", "127.0.0.1", 0),
        ("fe80::1-2026-11-24-02:39:11", "rhel", "fe80::1", 0),
        ("202611240239", "debian", "", 0),
        ("web1-202611240239", "debian", "web1", 0),
    ],
)
def test_folder_names(name: str, layout: str, host: str, counter: int) -> None:
    found = folder_name(name)
    assert found
    assert (found.layout, found.host, found.counter) == (layout, host, counter)


@pytest.mark.parametrize("name", ["", "crash", "209913400000", "2026-13-01-00-00", "2026-11-24"])
def test_names_of_other_folders(name: str) -> None:
    assert folder_name(name) is None


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("vmcore", "dump"),
        ("vmcore.flat", "dump"),
        ("vmcore3", "dump"),
        ("dump.202611240239.gz", "dump"),
        ("vmcore.202611240239", "dump"),
        ("vmcore-incomplete", "draft"),
        ("dump-incomplete", "draft"),
        ("vmcore-dmesg.txt", "log"),
        ("dmesg.202611240239", "log"),
        ("vmcore-dmesg-incomplete.txt", ""),
        ("README.txt", "readme"),
        ("vmlinux-6.12", ""),
    ],
)
def test_file_names(name: str, what: str) -> None:
    assert kind(name) == what


# Finding


def test_every_layout(tree: Tree, head: bytes, flat: bytes) -> None:
    folder = tree(
        {
            "2026-11-20-10-00/vmcore": flat,
            "2026-11-20-10-00/dmesg": LOG,
            "2026-11-20-10-00/README.txt": readme(Report(SAVED, SAVED, host="web1")),
            "2026-11-20-10-00/.notified": "",
            "2013-02-03-04:05/vmcore2": head,
            "2013-02-03-04:05/vmcore10": head,
            "10.0.0.1-2026-11-22-10:00:01/vmcore": head,
            "10.0.0.1-2026-11-22-10:00:01/vmcore-dmesg.txt": LOG,
            "202611190101/dump.202611190101": flat,
            "202611190101/dmesg.202611190101": LOG,
            "host/var/crash/2026-11-23-10-00/vmcore": head,
        }
    )
    found = listed(folder)
    assert [*found] == [
        "2013-02-03-04:05",
        "202611190101",
        "2026-11-20-10-00",
        "10.0.0.1-2026-11-22-10:00:01",
        "host/var/crash/2026-11-23-10-00",
    ]
    assert {dump.state for dump in found.values()} == {"complete"}
    assert {dump.release for dump in found.values()} == {RELEASE}
    suse = found["2026-11-20-10-00"]
    assert suse.panic == PANIC
    assert suse.notified
    assert suse.host == "web1"
    assert found["2013-02-03-04:05"].files == ("vmcore2", "vmcore10")
    assert found["10.0.0.1-2026-11-22-10:00:01"].host == "10.0.0.1"


@pytest.mark.parametrize(
    ("files", "state", "why"),
    [
        ({"vmcore-incomplete": "x"}, "incomplete", "cut off while the dump was written"),
        ({"dump-incomplete": "x"}, "incomplete", "cut off while the dump was written"),
        ({"vmcore": ""}, "incomplete", "empty"),
        ({"dmesg": LOG}, "incomplete", "the dump was not"),
        ({"README.txt": PROVISIONAL, "vmcore": "x"}, "incomplete", "cut off"),
        ({"README.txt": "vmcore status: error 1\n", "vmcore": "x"}, "incomplete", "error 1"),
        ({"README.txt": "vmcore status: skipped\n", "dmesg": LOG}, "log", "skipped"),
        ({"README.txt": "vmcore status: deleted (1 < 64)\n"}, "log", "deleted"),
        ({}, "incomplete", "nothing was saved"),
    ],
)
def test_what_is_not_complete(tree: Tree, files: dict[str, str], state: str, why: str) -> None:
    name = "2026-11-20-10-00/"
    found = listed(tree({name: "", **{name + file: text for file, text in files.items()}}))
    assert [(dump.state, why in dump.why) for dump in found.values()] == [(state, True)]


def test_flattened_dump_without_its_end(tree: Tree, flat: bytes) -> None:
    found = listed(tree({"2026-11-20-10-00/vmcore": flat[:-9]}))
    assert [(dump.state, dump.why) for dump in found.values()] == [
        ("incomplete", "its end is missing")
    ]


def test_dump_whose_writer_ran_out_of_space(tree: Tree, head: bytes) -> None:
    marked = bytearray(head)
    marked[424] |= 8
    found = listed(tree({"2026-11-20-10-00/vmcore": bytes(marked)}))
    assert [dump.state for dump in found.values()] == ["incomplete"]


@pytest.mark.parametrize("size", [3000, 60_000, 1_000_000])
def test_dump_that_was_cut_short(tree: Tree, examples: Path, size: int) -> None:
    whole = (examples / "vmcore-null").read_bytes()
    (found,) = listed(tree({"2026-11-20-10-00/vmcore": whole[:size]})).values()
    assert found.state == "incomplete"
    assert "cut short" in found.why or "incomplete header" in found.why


def test_folders_that_hold_no_dump(tree: Tree, head: bytes) -> None:
    folder = tree({"2026-11-20-11-00/shopping list": "milk", "etc/passwd": "x", "empty/": ""})
    (folder / "2026-11-20-12-00").symlink_to("/etc")
    (folder / "loop").symlink_to(folder)
    assert listed(folder) == {}
    elsewhere = folder.with_name("elsewhere")
    elsewhere.mkdir()
    (elsewhere / "vmcore").write_bytes(head)
    (folder / "2026-11-20-13-00").symlink_to(elsewhere)
    assert listed(folder) == {}


def test_the_folder_of_one_dump(tree: Tree, head: bytes) -> None:
    folder = tree({"2026-11-20-10-00/vmcore": head, "plain/vmcore": head})
    (own,) = listed(folder / "2026-11-20-10-00").values()
    assert (own.folder, own.layout) == ("", "suse")
    (plain,) = listed(folder / "plain").values()
    assert (plain.folder, plain.layout, plain.release) == ("", "", RELEASE)


@pytest.mark.parametrize("length", [10, 300_000])
def test_release_of_a_dump_that_is_packed(tree: Tree, length: int) -> None:
    log = f"[    0.0] Linux version 6.1.0-9-amd64 (debian-kernel)\n{'x' * length}\n{LOG}"
    files = {"dump.202611190101.lz4": b"\x04\x22\x4d\x18 packed", "dmesg.202611190101": log}
    (found,) = listed(tree({f"202611190101/{name}": text for name, text in files.items()})).values()
    assert (found.release, found.panic) == ("6.1.0-9-amd64", PANIC)


def test_garbage_is_no_reason_to_fail(tree: Tree) -> None:
    folder = tree(
        {
            "2026-11-20-10-00/vmcore": os.urandom(5000),
            "202611190101/dump.202611190101.gz": b"\x1f\x8b\x08 damaged",
            "2026-11-20-10-01/README.txt": os.urandom(99),
        }
    )
    assert len(listed(folder)) == 3


def test_many_folders_are_quick(tree: Tree, head: bytes) -> None:
    folder = tree({"2026-11-20-10-00/vmcore": head})
    for number in range(1000):
        (folder / f"user{number}").mkdir()
    assert len(listed(folder)) == 1


def test_so_many_folders_that_it_says_so(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inventory, "MOST_FOLDERS", 5)
    folder = tree({f"folder{number}/": "" for number in range(9)})
    assert inventory.list_main([str(folder)]) == 0
    assert "more than 5 folders" in capsys.readouterr().err


def test_folders_that_may_not_be_read(tree: Tree, head: bytes) -> None:
    folder = tree({"2026-11-20-10-00/vmcore": head, "private/x": "", "2026-11-21-10-00/vmcore": ""})
    for name in ("private", "2026-11-21-10-00"):
        (folder / name).chmod(0)
    # root, but for its power over other people's files
    without = "--bounding-set=-dac_override,-dac_read_search"
    done = crashpy("setpriv", without, sys.executable, "save", "list", str(folder))
    assert done.returncode == 0, done.stderr
    assert "2026-11-20-10-00" in done.stdout
    assert "unreadable" in done.stdout
    assert "private: Permission denied" in done.stderr


def crashpy(*words: str) -> subprocess.CompletedProcess[str]:
    """The program, behind other words that end with the name of Python."""
    at = words.index(sys.executable) + 1
    command = [*words[:at], "-P", "-m", "crashpy", *words[at:]]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


# What is shown


def test_panic_as_crash_chooses_it() -> None:
    lines = [
        "[    1.0] Oops: 0000 [#1] SMP",
        "[    1.1] BUG: unable to handle kernel NULL pointer",
        "<0>[    1.2] Kernel panic - not syncing: Fatal exception",
    ]
    assert panic_in(lines) == "Kernel panic - not syncing: Fatal exception"
    assert panic_in(lines[:1]) == "Oops: 0000 [#1] SMP"
    assert panic_in(["nothing"]) == ""


def test_table() -> None:
    crashed = datetime.fromisoformat("2026-11-20T09:59:11+00:00")
    rows = [
        dump("2026-11-20-10-00", release="6.12", crashed=crashed, panic="Oops", size_bytes=1 << 20),
        dump("a\nb/2026-11-21-10-00", "incomplete", why="its end is missing"),
    ]
    assert [*table(rows)] == [
        "DUMP                   CRASHED              KERNEL     SIZE  STATE       PANIC",
        "2026-11-20-10-00       2026-11-20 09:59:11  6.12    1.0 MiB  complete    Oops",
        "a\\nb/2026-11-21-10-00  2026-11-21 10:00     --      0.0 MiB  incomplete",
        "    its end is missing",
    ]


def test_json_has_every_field(tree: Tree, head: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tree({"2026-11-20-10-00/vmcore": head, "we\nird/2026-11-21-10-00/vmcore": head})
    assert inventory.list_main([str(folder), "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["place"] == str(folder)
    assert first["size_bytes"] == len(head)
    assert first["state"] == "complete"
    assert second["folder"] == "we\nird/2026-11-21-10-00"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["/nonexistent"], "/nonexistent: no such folder"),
        (["gopher://x/y"], "gopher: no such protocol"),
        ([""], "the name of the place is empty"),
        (["ftp://127.0.0.1:1/x"], "connection refused"),
    ],
)
def test_places_that_are_not_there(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in (inventory.list_main, lambda w: retention.prune_main([*w, "--keep", "1"])):
        assert verb(words) == 1
        assert sentence in capsys.readouterr().err


# Keeping

DAYS = [f"2026-11-{day:02}-10-00" for day in range(10, 15)]


def names(dumps: list[SavedDump]) -> list[str]:
    return [dump.folder for dump in dumps]


def test_the_oldest_go() -> None:
    assert names(too_many([dump(day) for day in DAYS], 2)) == DAYS[:3]
    assert too_many([dump(day) for day in DAYS], 5) == []
    with pytest.raises(ValueError, match="at least one"):
        too_many([dump(day) for day in DAYS], 0)


def test_a_failed_saving_costs_no_complete_dump() -> None:
    states = ["complete", "complete", "incomplete", "incomplete", "incomplete"]
    dumps = [dump(day, state) for day, state in zip(DAYS, states, strict=True)]
    assert names(too_many(dumps, 1)) == [DAYS[0], DAYS[2], DAYS[3]]
    assert names(too_many(dumps, 2)) == [DAYS[2]]


def test_each_machine_keeps_its_own() -> None:
    dumps = [dump(f"{host}-{day}") for host in ("a", "b") for day in DAYS[:2]]
    assert names(too_many(dumps, 1)) == [f"a-{DAYS[0]}", f"b-{DAYS[0]}"]


def test_the_one_just_saved_stays_whatever_the_clock_says() -> None:
    dumps = [dump(day) for day in DAYS]
    assert names(too_many(dumps, 1, spare=[DAYS[0]])) == DAYS[1:4]


def test_what_nobody_knows_stays() -> None:
    dumps = [dump(day) for day in DAYS]
    unknown = SavedDump("/crash", "old", "", "", datetime(1999, 1, 1), "complete")
    unseen = dump("2001-01-01-00-00", "unreadable")
    assert names(too_many([unknown, unseen, *dumps], 4)) == [DAYS[0]]
    assert unknown not in to_free([unknown, *dumps])


def test_what_somebody_put_aside_does_not_count() -> None:
    dumps = [dump(day) for day in DAYS[:2]]
    aside = SavedDump("/crash", "interesting", "", "", datetime(2030, 1, 1), "complete")
    assert names(too_many([*dumps, aside], 1)) == [DAYS[0]]
    assert names(to_free([*dumps, aside])) == [DAYS[0]]


def test_what_is_being_written_stays() -> None:
    half = dump(DAYS[0], "incomplete", changed_s=1000.0)
    dumps = [half, *(dump(day) for day in DAYS[1:])]
    assert half not in too_many(dumps, 1, now_s=1600.0)
    assert half in too_many(dumps, 1, now_s=9999.0)
    assert half not in to_free(dumps, now_s=1600.0)
    untimed = dump(DAYS[0], "incomplete", changed_s=None)
    assert untimed.saved
    saved_s = untimed.saved.timestamp()
    assert untimed not in too_many([untimed, *dumps[1:]], 1, now_s=saved_s + 24 * 3600)
    assert untimed in too_many([untimed, *dumps[1:]], 1, now_s=saved_s + 72 * 3600)


def test_for_space_the_newest_complete_dump_stays() -> None:
    states = ["complete", "incomplete", "complete", "incomplete"]
    dumps = [dump(day, state) for day, state in zip(DAYS, states, strict=False)]
    assert names(to_free(dumps)) == [DAYS[1], DAYS[3], DAYS[0]]


# Deleting


@pytest.fixture
def five(tree: Tree, head: bytes) -> Path:
    return tree({f"{day}/vmcore": head for day in DAYS} | {"precious/letter": "x"})


def present(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "precious")


def test_prune(five: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert retention.prune_main([str(five), "--keep", "2", "--dry-run"]) == 0
    assert present(five) == DAYS
    assert retention.prune_main([str(five), "--keep", "2", "--yes"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("delete 2026-11-10-10-00") == 2
    assert present(five) == DAYS[3:]
    assert (five / "precious" / "letter").exists()
    assert retention.prune_main([str(five), "--keep", "2", "--yes"]) == 0
    assert "none of them too many" in capsys.readouterr().out


def test_prune_asks(
    five: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert retention.prune_main([str(five), "--keep", "1"]) == 1
    assert "nobody to ask" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, left in (("", 5), ("n", 5), ("y", 1)):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        assert retention.prune_main([str(five), "--keep", "1"]) == (left == 5)
        assert len(present(five)) == left


def test_prune_for_space(
    five: Path, head: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    free = 10 << 20

    def told(_: object) -> int:
        return free

    monkeypatch.setattr("crashpy.kdump.targets.FileTarget.free", told)
    assert retention.prune_main([str(five), "--free", "10", "--yes"]) == 0
    assert present(five) == DAYS
    free = (10 << 20) - len(head) - 1
    assert retention.prune_main([str(five), "--free", "10", "--yes"]) == 0
    assert present(five) == DAYS[2:]
    assert retention.prune_main([str(five), "--free", "1000", "--yes"]) == 1
    assert "nothing was deleted" in capsys.readouterr().err
    assert present(five) == DAYS[2:]


def test_prune_needs_to_be_told_what_stays(five: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert retention.prune_main([str(five), "--yes"]) == 1
    assert "--keep" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["0", "-1", "x", ""])
def test_prune_takes_no_other_number(
    five: Path, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        retention.prune_main([str(five), "--yes", f"--keep={word}"])
    assert f'"{word}" is no number from 1 on' in capsys.readouterr().err
    assert present(five) == DAYS


def test_prune_follows_no_link(five: Path) -> None:
    outside = five.with_name("outside")
    outside.mkdir()
    (outside / "vmcore").write_bytes(b"precious")
    (five / DAYS[0] / "link").symlink_to(outside)
    (five / DAYS[0] / "file").symlink_to(outside / "vmcore")
    (five / "2026-01-01-00-00").symlink_to(outside)
    assert retention.prune_main([str(five), "--keep", "1", "--yes"]) == 0
    assert (outside / "vmcore").read_bytes() == b"precious"
    assert present(five) == ["2026-01-01-00-00", DAYS[4]]


@pytest.mark.parametrize("seed", range(12))
def test_prune_of_any_tree(tmp_path: Path, head: bytes, flat: bytes, seed: int) -> None:
    """What it must never do, in trees that nobody thought of."""
    chance = random.Random(seed)
    keep = chance.randint(1, 3)
    for number in range(chance.randint(5, 40)):
        day = f"2026-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}-10-00"
        hosts = "", "web-", "db.example.org-", "10.0.0.1-", "odd name-", "\n-"
        name = chance.choice(
            ["{host}{day}", "{host}{day}", "{day}.bak", "notes{n}", "{host}{day}:07"]
        )
        folder = tmp_path / name.format(host=chance.choice(hosts), day=day, n=number)
        folder.mkdir(exist_ok=True)
        for file in chance.sample(
            ["vmcore", "vmcore-incomplete", "dmesg", "letter", "README.txt"], 2
        ):
            data = chance.choice([head, flat, flat[:-3], b"", PROVISIONAL.encode(), LOG.encode()])
            (folder / file).write_bytes(data)
        old = chance.choice([0, 1e9])
        os.utime(folder, (old, old))
        for path in folder.iterdir():
            os.utime(path, (old, old))
    before = listed(tmp_path)
    known = {name for name, found in before.items() if found.layout}
    strangers = {p.name for p in tmp_path.iterdir()} - known
    assert retention.prune_main([str(tmp_path), "--keep", str(keep), "--yes"]) == 0
    after = {p.name for p in tmp_path.iterdir()}
    assert strangers <= after
    groups: dict[object, list[SavedDump]] = {}
    for found in filter(lambda found: found.layout, before.values()):
        groups.setdefault(found.group, []).append(found)
    for group in groups.values():
        complete = [found.folder for found in group if found.state == "complete"]
        assert set(complete[-keep:]) <= after
        assert not set(complete[:-keep]) & after
        assert len(set(names(group)) & after) >= min(keep, len(group))
    assert retention.prune_main([str(tmp_path), "--keep", str(keep), "--yes"]) == 0
    assert {p.name for p in tmp_path.iterdir()} == after


def test_prune_leaves_alone_what_is_mounted(five: Path) -> None:
    inside = five / DAYS[0] / "disk"
    inside.mkdir()
    script = f'mount -t tmpfs tmpfs {inside} && touch {inside}/precious && "$@"; ls {inside}'
    done = crashpy(
        *("unshare", "--mount", "sh", "-c", script, "sh"),
        *(sys.executable, "save", "prune", str(five), "--keep", "1", "--yes"),
    )
    assert "another disk is mounted there" in done.stderr
    assert done.stdout.endswith("precious\n")
    assert present(five) == [DAYS[0], DAYS[4]]


# On servers


@pytest.fixture(scope="module")
def places() -> Iterator[Places]:
    shared = Places()
    yield shared
    shared.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_on_a_server(
    places: Places,
    protocol: str,
    flat: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    where = places[protocol]
    files = {f"web1-{day}/{name}": data for day in DAYS for name, data in
             (("vmcore", flat), ("dmesg", LOG.encode()))}  # fmt: skip
    files |= {f"db-{DAYS[0]}/vmcore": flat, f"web1-{DAYS[4]}/vmcore": flat[:-1], "a b/c d": b"x"}
    top = where.server.seen("open")
    for name, data in files.items():
        (top / name).parent.mkdir(exist_ok=True)
        (top / name).write_bytes(data)
    for path in (top, *top.rglob("*")):
        os.chown(path, servers.UID, servers.UID)
    words = [where.url("open"), *where.options]
    assert inventory.list_main([*words, "--json"]) == 0
    shown = capsys.readouterr().out
    assert servers.PASSWORD not in shown
    rows = [json.loads(line) for line in shown.splitlines()]
    assert [(row["folder"], row["state"], row["panic"], row["release"]) for row in rows] == [
        (f"db-{DAYS[0]}", "complete", "", RELEASE),
        *((f"web1-{day}", "complete", PANIC, RELEASE) for day in DAYS[:4]),
        (f"web1-{DAYS[4]}", "incomplete", PANIC, RELEASE),
    ]
    assert retention.prune_main([*words, "--keep", "1", "--yes"]) == 0
    assert {name.partition("/")[0] for name in where.found()} == {
        *(f"db-{DAYS[0]}", f"web1-{DAYS[3]}", f"web1-{DAYS[4]}", "a b")
    }
