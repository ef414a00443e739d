"""crashpy save: what it writes, what it says, and what it leaves behind when it fails."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import servers
from places import PROTOCOLS, Places, inside_tmpfs, place

import crashpy.convert
from crashpy.cli import main
from crashpy.convert import check, recognised
from crashpy.kdump import engine, saving
from crashpy.kdump.inventory import dumps_below
from crashpy.kdump.ledger import Ledger
from crashpy.kdump.logins import PASSWORD
from crashpy.kdump.ssh import SftpTarget
from crashpy.kdump.targets import FileTarget, Target
from crashpy.kdump.urls import Url
from crashpy.vmcore.files import FlattenedFile
from crashpy.vmcore.sinks import FlattenedSink

CORE = Path(__file__).parent.parent / "examples" / "vmcore-null"
FILES = ["README.txt", "SHA256SUMS", "dmesg", "vmcore"]
OLD = "sample-2020-01-02-03-04"  # of the machine that the sample dump is of
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def places() -> Iterator[Places]:
    shared = Places()
    yield shared
    shared.close()


@pytest.fixture(autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert servers.PASSWORD not in out + err
        return status, out, err

    return call


@pytest.fixture
def there(tmp_path: Path) -> Path:
    folder = tmp_path / "crash"
    folder.mkdir()
    return folder


def complaint(answer: tuple[int, str, str]) -> str:
    """The one sentence of a failure."""
    status, out, err = answer
    lines = [line for line in err.splitlines() if not line.endswith("reading it back")]
    assert (status, out, len(lines)) == (1, "", 1), answer
    return lines[0].removeprefix("crashpy save: ")


def whole(file: Path) -> bool:
    vmcore = recognised(str(file))
    findings = check([vmcore])
    vmcore.close()
    return not findings


def saved(found: list[str]) -> list[str]:
    """What is called as a complete dump is called."""
    return [name for name in found if name.rpartition("/")[2] == "vmcore"]


# Every protocol


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_save_and_fetch(places: Places, protocol: str, run: Run, tmp_path: Path) -> None:
    where = places[protocol]
    status, out, err = run("save", *where.options, CORE, where.url())
    assert (status, err) == (0, "crashpy save: reading it back\n")
    url = out.strip()
    assert url.startswith(where.url(password=None))
    folder = url.rpartition("/")[2]
    assert re.fullmatch(r"sample-\d{4}-\d\d-\d\d-\d\d-\d\d", folder)
    assert where.found() == [folder, *(f"{folder}/{name}" for name in FILES)]
    top = where.server.seen() / folder
    assert top.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in top.iterdir()} == {0o600}
    assert "vmcore status: saved successfully\n" in (top / "README.txt").read_text()
    total = hashlib.sha256((top / "vmcore").read_bytes()).hexdigest()
    assert (top / "SHA256SUMS").read_text() == f"{total}  vmcore\n"

    here = tmp_path / folder
    here.mkdir()
    with (top / "vmcore").open("rb") as file:  # as an earlier try left it
        (here / "vmcore-incomplete").write_bytes(file.read(1 << 20))
    login = where.url(password=servers.PASSWORD) + f"/{folder}"
    status, out, err = run("save", "fetch", *where.options, login, tmp_path)
    assert (status, out) == (0, f"{here}\n")
    assert err == "crashpy save fetch: vmcore: going on at byte 1048576\n"
    assert sorted(path.name for path in here.iterdir()) == FILES
    assert (here / "vmcore").read_bytes() == (top / "vmcore").read_bytes()
    assert whole(here / "vmcore")
    assert run("save", "fetch", *where.options, login, tmp_path)[0] == 0  # nothing left to do


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_refused(places: Places, protocol: str, run: Run, tmp_path: Path) -> None:
    where = places[protocol]

    def asked(url: str, *options: str) -> str:
        answer = complaint(run("save", *(options or where.options), CORE, url))
        assert where.found() == []
        assert "wr0ng" not in answer
        return answer

    assert re.search("no such folder|No such file", asked(where.url("missing")))
    assert re.search("ermission denied|directory operation failed", asked(where.url("closed")))
    if protocol != "nfs":
        assert "wrong user" in asked(where.url(password="wr0ng"))
    if protocol in ("sftp", "ssh"):
        assert "not known" in asked(where.url(), "--known-hosts", os.devnull)
        servers._run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "k"))
        other = (tmp_path / "k.pub").read_text()
        assert "not the one" in asked(where.url(), "--host-key", other)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_killed_while_it_saves(protocol: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with place(protocol) as where:
        old_dump(where.server.seen())

        def kill(done: int, of: int) -> None:
            if done > of // 2:
                where.server.kill()

        monkeypatch.setattr(crashpy.convert, "progress_line", lambda *_: kill)
        answer = complaint(run("save", *where.options, "--keep", "-1", CORE, where.url()))
        assert re.search("broke the connection|no server listens", answer)
        assert saved(where.found()) == [f"{OLD}/vmcore"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_disk_that_fills_up(
    places: Places, protocol: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = places[protocol]
    words = ["save", *where.options, "--keep", "-1", "--free", "0", CORE, where.url("small")]
    if protocol != "ftp":  # it does not tell what is free
        answer = complaint(run(*words))
        assert re.search(r"about \d MiB are needed and 0 MiB are to stay free", answer)
        assert where.found("small") == []
    old_dump(where.server.seen("small"))
    monkeypatch.setattr(saving, "estimated", lambda *_: 0)
    answer = complaint(run(*words))
    assert re.search("No space left on device|could not write", answer)
    left = where.found("small")
    assert saved(left) == [f"{OLD}/vmcore"]
    assert not any(name.endswith("-incomplete") for name in left)
    (readme,) = (name for name in left if name.endswith("README.txt"))
    text = (where.server.seen("small") / readme).read_text()
    assert "vmcore status: failed" in text
    assert servers.PASSWORD not in text


def old_dump(top: Path) -> None:
    """One that --keep -1 would delete."""
    folder = top / OLD
    folder.mkdir()
    (folder / "vmcore").write_bytes(CORE.read_bytes()[:8192])
    for path in (folder, folder / "vmcore"):
        os.chown(path, servers.UID, servers.UID)


# A folder


def test_folder(run: Run, there: Path) -> None:
    status, out, err = run("save", "-q", CORE, there)
    assert (status, out, err) == (0, "", "")
    (folder,) = there.iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-\d\d-\d\d", folder.name)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert whole(folder / "vmcore")
    assert "Linux version 6.12.117-sample" in (folder / "dmesg").read_text()
    readme = (folder / "README.txt").read_text()
    for line in ("Kernel version: 6.12.117-sample", "Host: sample", "Dump level: 31"):
        assert f"{line}\n" in readme
    (dump,) = dumps_below(FileTarget(Url("file", str(there))))
    assert (dump.state, dump.layout, dump.host) == ("complete", "suse", "sample")


@pytest.mark.parametrize("form", ["zlib", "lzo", "snappy", "zstd", "plain", "elf", "ELF"])
def test_formats(run: Run, there: Path, form: str) -> None:
    assert run("save", "-q", "--format", form, "-d", "17", CORE, there)[0] == 0
    (dump,) = there.glob("*/vmcore")
    assert whole(dump)
    assert recognised(str(dump)).form == ("elf" if form.lower() == "elf" else "kdump")


def test_core_as_it_is(run: Run, there: Path) -> None:
    assert run("save", "-q", "--format", "raw", CORE, there)[0] == 0
    (dump,) = there.glob("*/vmcore")
    assert dump.read_bytes() == CORE.read_bytes()


def test_log_alone(run: Run, there: Path) -> None:
    """KDUMP_DUMPFORMAT=none; it is no dump that others would have to go for."""
    assert run("save", "-q", CORE, there)[0] == 0
    assert run("save", "-q", "--format", "none", "--keep", "-1", CORE, there)[0] == 0
    assert len(list(there.glob("*/vmcore"))) == 1
    assert len(list(there.glob("*/dmesg"))) == 2


def test_flattened_to_a_pipe(tmp_path: Path) -> None:
    words = [sys.executable, "-P", "-m", "crashpy", "save", "--flat", "-q", str(CORE)]
    done = subprocess.run(words, capture_output=True, check=True)
    flat = tmp_path / "flat"
    flat.write_bytes(done.stdout)
    dump = recognised(str(flat))
    assert isinstance(dump.file, FlattenedFile)
    assert whole(flat)
    # no record is written again: of two, crash would take the one or the other
    offsets = [int.from_bytes(done.stdout[at : at + 8], "big") for at in records(done.stdout)]
    assert len(offsets) == len(set(offsets))


def records(data: bytes) -> Iterator[int]:
    """Where the records of a flattened dump start, but for the last."""
    at = 4096
    while (size := int.from_bytes(data[at + 8 : at + 16], "big", signed=True)) >= 0:
        yield at
        at += 16 + size


def test_dry_run_writes_nothing(run: Run, there: Path) -> None:
    old_dump(there)
    (there / OLD).rename(there / OLD.removeprefix("sample-"))
    status, out, _ = run("save", "-n", "--keep", "-1", CORE, there)
    lines = out.splitlines()
    assert status == 0
    assert lines[0].startswith(f"save {CORE} to {there}/2")
    assert lines[1] == "level 31, format zlib, written by crashpy"
    assert re.fullmatch(r"about \d MiB; \d+ MiB are free there", lines[2])
    assert lines[3:] == [f"then delete {there}/2020-01-02-03-04"]
    assert len(list(there.iterdir())) == 1


# Old dumps


@pytest.mark.parametrize(("keep", "left"), [(None, 4), (0, 4), (2, 3), (1, 2), (-1, 1)])
def test_keep(run: Run, there: Path, keep: int | None, left: int) -> None:
    olds = ["2020-01-01-00-00", "2020-01-01-00-01", "2020-01-01-00-02"]
    for name in (*olds, "other-2020-01-01-00-00"):
        (there / name).mkdir()
        (there / name / "vmcore").write_bytes(CORE.read_bytes()[:8192])
    options = [] if keep is None else ["--keep", str(keep)]
    status, out, _ = run("save", *options, CORE, there)
    assert status == 0
    after = sorted(path.name for path in there.iterdir())
    assert after[-1] == "other-2020-01-01-00-00"  # another machine's
    newest = out.strip().rpartition("/")[2]
    assert after[:-1] == [*olds[4 - left :], newest]


def test_old_dumps_stay_until_the_new_one_is_read_back(
    run: Run, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("save", "-q", CORE, there)[0] == 0
    before = sorted(there.glob("*/vmcore"))

    monkeypatch.setattr(FileTarget, "_read", lambda *_: (part for part in [b"less"]))
    answer = complaint(run("save", "--keep", "-1", CORE, there))
    assert "could be read back" in answer
    assert sorted(there.glob("*/vmcore")) == before
    assert not list(there.glob("*/*incomplete*"))


def test_what_differs_is_found(run: Run, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The place damaged one byte, as bad memory or a bad disk does."""
    compare = Ledger.compare

    def compared(self: Ledger, file: Iterator[bytes]) -> str:
        data = bytearray(b"".join(file))
        data[len(data) // 2] ^= 1
        return compare(self, [bytes(data)])

    monkeypatch.setattr(Ledger, "compare", compared)
    assert "differs from what was written" in complaint(run("save", CORE, there))
    assert not list(there.glob("*/vmcore*"))


def test_two_at_a_time(run: Run, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody makes the folder that we are about to make."""
    make = FileTarget.make_folder

    def late(self: FileTarget, folder: str) -> None:
        if not list(there.iterdir()):
            make(self, folder)
        make(self, folder)

    monkeypatch.setattr(FileTarget, "make_folder", late)
    status, out, _ = run("save", "--no-verify", CORE, there)
    assert (status, out.strip()[-2:]) == (0, ".2")


# Room


def test_what_must_stay_free(run: Run, there: Path) -> None:
    answer = complaint(run("save", "--free", str(1 << 30), CORE, there))
    assert re.search(r"about \d MiB are needed and 1073741824 MiB are to stay free, but", answer)
    assert not list(there.iterdir())


def test_level_that_fits(run: Run, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        saving, "estimated", lambda selection, _: 1 << 50 if selection.asked < 31 else 1 << 20
    )
    status, out, err = run("save", "-d", "0,17,31", CORE, there)
    assert status == 0
    assert "level 0 needs 1073741824 MiB: trying the next one\n" in err
    assert "Dump level: 31\n" in Path(out.strip(), "README.txt").read_text()


def test_space_that_others_take_meanwhile(
    run: Run, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter([1 << 40, *[65 << 20] * 2, *[1 << 20] * 100])
    monkeypatch.setattr(FileTarget, "free", lambda _: next(free))
    monkeypatch.setattr(saving, "WATCH", 1 << 20)
    answer = complaint(run("save", "--free", "64", CORE, there))
    assert "no more than the 64 MiB are free that are to stay free" in answer
    assert not list(there.glob("*/vmcore*"))


def test_disk_that_is_really_full(there: Path) -> None:
    script = (
        "import sys; from crashpy.cli import main; from crashpy.kdump import saving;"
        " saving.estimated = lambda *_: 0; sys.exit(main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", script, "save", "--free", "0", str(CORE), str(there)]
    done = inside_tmpfs("3m", words, there)
    assert done.returncode == 1
    assert done.stderr == f"crashpy save: {there}: No space left on device\n"
    left = [line.rpartition("/")[2] for line in done.stdout.splitlines()]
    assert sorted(left[1:]) == ["README.txt", "dmesg"]


def test_incomplete_dump_may_be_kept(
    run: Run, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int, _: int) -> None:
        if done > 5000:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(crashpy.convert, "progress_line", lambda *_: stop)
    run("save", "--keep-incomplete", CORE, there)
    (draft,) = there.glob("*/vmcore*")
    assert draft.name == "vmcore-incomplete"
    assert recognised(str(draft)).incomplete


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stopped(
    run: Run, there: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def stop(*_: int) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr(crashpy.convert, "progress_line", lambda *_: stop)
    assert complaint(run("save", CORE, there)) == "interrupted"
    assert "vmcore status: failed: interrupted" in next(there.glob("*/README.txt")).read_text()
    assert not list(there.glob("*/vmcore*"))


def test_a_terminal_that_goes_is_no_matter_under_nohup(
    run: Run, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        crashpy.convert, "progress_line", lambda *_: lambda *_: os.kill(os.getpid(), signal.SIGHUP)
    )
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run("save", "-q", CORE, there)[0] == 0
    finally:
        signal.signal(signal.SIGHUP, before)


# Cores that are not what they should be


def test_flattened_core(run: Run, there: Path, tmp_path: Path) -> None:
    core = tmp_path / "flat"
    flatten(core)
    assert run("save", "-q", core, there)[0] == 0
    (dump,) = there.glob("*/vmcore")
    assert whole(dump)


def flatten(path: Path) -> None:
    with path.open("wb") as out:
        flat = FlattenedSink(out)
        data = CORE.read_bytes()
        for at in range(0, len(data), 1 << 20):
            flat.write(at, data[at : at + (1 << 20)])
        flat.finish()


@pytest.mark.parametrize("flattened", [False, True])
def test_truncated_core(run: Run, there: Path, tmp_path: Path, flattened: bool) -> None:
    core = tmp_path / "core"
    if flattened:
        flatten(core)
    else:
        shutil.copy(CORE, core)
    os.truncate(core, core.stat().st_size * 2 // 3)
    old = there / "2020-01-02-03-04"
    old.mkdir()
    (old / "vmcore").write_bytes(CORE.read_bytes())
    status, out, err = run("save", "--keep", "-1", core, there)
    assert (status, out) == (1, "")
    assert old.exists()  # the only whole one
    sentence = err.splitlines()[-1]
    assert re.search(r"\d+ pages could not be read; the others are saved in", sentence)
    assert "Traceback" not in err
    (readme,) = there.glob("*/README.txt")
    assert re.search(r"Note: \d+ pages could not be read\n", readme.read_text())
    assert not list(there.glob("*/*-incomplete"))


def test_core_that_cannot_be_filtered(run: Run, there: Path, tmp_path: Path) -> None:
    """Better all of it than nothing."""
    core = tmp_path / "core"
    claim_level_0(core)
    os.truncate(core, core.stat().st_size * 2 // 3)
    status, _, err = run("save", core, there)
    assert status == 1
    assert "nothing is left out, as the pages cannot be told" in err
    (readme,) = there.glob("*/README.txt")
    text = readme.read_text()
    assert "Note: nothing is left out, as the pages cannot be told" in text
    assert "Dump level: 0\n" in text
    assert len(list(there.glob("*/vmcore"))) == 1


def claim_level_0(path: Path) -> None:
    """The sample, its header telling a lie about its dump level."""
    data = bytearray(CORE.read_bytes())
    data[4096 + 8] = 0
    path.write_bytes(data)


def test_flipped_bits(run: Run, there: Path, tmp_path: Path) -> None:
    data = bytearray(CORE.read_bytes())
    for at in range(len(data) // 2, len(data), 100_003):
        data[at] ^= 0x10
    core = tmp_path / "core"
    core.write_bytes(data)
    status, _, err = run("save", core, there)
    assert status == 1
    assert re.search(r"\d+ pages could not be read; the others are saved", err)
    assert "Traceback" not in err


def test_not_a_core(run: Run, there: Path, tmp_path: Path) -> None:
    core = tmp_path / "core"
    core.write_bytes(b"nothing of the kind" * 1000)
    assert complaint(run("save", core, there)) == f"{core}: not a dump"
    assert "No such file" in complaint(run("save", tmp_path / "none", there))
    assert not list(there.iterdir())


def test_split_core(run: Run, there: Path, tmp_path: Path) -> None:
    assert run("convert", "-q", "-c", "--split", "2", CORE, tmp_path / "part")[0] == 0
    parts = [tmp_path / "part.1", tmp_path / "part.2"]
    assert run("save", "-q", *parts, there)[0] == 0
    (dump,) = there.glob("*/vmcore")
    assert whole(dump)
    assert not recognised(str(dump)).split
    shutil.rmtree(dump.parent)
    assert run("save", "-q", parts[1], there)[0] == 0  # the other one is found beside it
    (dump,) = there.glob("*/vmcore")
    assert whole(dump)


def test_split_core_that_lacks_a_file(run: Run, there: Path, tmp_path: Path) -> None:
    """It costs no old dump, and says what is lost."""
    assert run("convert", "-q", "-c", "--split", "3", CORE, tmp_path / "part")[0] == 0
    old = there / "2020-01-02-03-04"
    old.mkdir()
    (old / "vmcore").write_bytes(CORE.read_bytes())
    answer = run("save", "--keep", "-1", tmp_path / "part.1", tmp_path / "part.3", there)
    assert answer[0] == 1
    assert re.search(r"\d+ pages could not be read; the others are saved in", answer[2])
    assert old.exists()
    assert "two dumps" in complaint(run("save", CORE, CORE.parent / "vmcore-abba", there))


# Words and settings


def test_words(run: Run, there: Path) -> None:
    assert "say where the dump goes" in complaint(run("save"))
    answer = complaint(run("save", "sftp://u:wr0ng@host/x", there))
    assert answer == "a core is a file of this machine, and the place it goes to comes last"
    assert complaint(run("save", "./list", there)) == "./list: No such file or directory"
    assert "no such protocol" in complaint(run("save", CORE, "gopher://host/x"))
    for words in (["-d", "32"], ["--format", "rar"], ["--keep", "-2"], ["--free", "-1"]):
        with pytest.raises(SystemExit) as caught:
            main(["save", *words, str(CORE), str(there)])
        assert caught.value.code == 2


def test_credentials_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("username=u\npassword=wr0ng\n")
    file.chmod(0o640)
    words = ["save", "--credentials", file, CORE, "sftp://host.invalid/x"]
    assert "others can read or change it" in complaint(run(*words))
    file.chmod(0o600)
    file.write_text("password wr0ng\n")
    assert complaint(run(*words)).endswith("line 1 is none of username=, password=, domain=")


@pytest.mark.parametrize("how", ["file", "environment"])
def test_password_from(
    places: Places, run: Run, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = places["ftp"]
    words = ["save", CORE, where.url(password=None)]
    if how == "file":
        file = tmp_path / "credentials"
        file.touch(0o600)
        file.write_text(f"# for dumps\nusername={servers.USER}\npassword={servers.PASSWORD}\n")
        words[1:1] = ["--credentials", file]
    else:
        monkeypatch.setenv(PASSWORD, servers.PASSWORD)
    assert run(*words)[0] == 0
    assert saved(where.found())


CONFIGURATIONS = {
    "suse": (
        "etc/sysconfig/kdump",
        'KDUMP_SAVEDIR="{there}"\nKDUMP_DUMPLEVEL="17"\nKDUMP_DUMPFORMAT="zstd"\n'
        'KDUMP_KEEP_OLD_DUMPS="-1"\nKDUMP_PRESCRIPT="/bin/false"\n',
        "ID=sles",
    ),
    "rhel": (
        "etc/kdump.conf",
        "path {there}\ncore_collector makedumpfile -z --message-level 7 -d 17\n",
        "ID=rhel",
    ),
    "debian": (
        "etc/default/kdump-tools",
        'USE_KDUMP=1\nKDUMP_COREDIR="{there}"\nMAKEDUMP_ARGS="-z -d 17"\nKDUMP_NUM_DUMPS=1\n',
        "ID=debian",
    ),
}


@pytest.mark.parametrize("dialect", CONFIGURATIONS)
def test_settings_of_the_machine(run: Run, there: Path, tmp_path: Path, dialect: str) -> None:
    name, text, release = CONFIGURATIONS[dialect]
    root = tmp_path / "root"
    (root / name).parent.mkdir(parents=True)
    (root / name).write_text(text.format(there=there))
    (root / "etc/os-release").write_text(release + "\n")
    for _ in range(2):
        status, out, err = run("save", f"--config={root}", CORE)
        assert status == 0
    if dialect == "suse":
        assert "before: only the capture environment runs /bin/false\n" in err
    readme = Path(out.strip(), "README.txt").read_text()
    assert out.startswith(f"{there}/")
    assert "Dump format: zstd\n" in readme
    left = len(list(there.glob("*/vmcore")))
    assert left == (2 if dialect == "rhel" else 1)  # which has no word for it


# makedumpfile


def test_versions_of_makedumpfile() -> None:
    slab = {"NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)": "-184549376"}  # 6.12: the top byte
    cases = [
        ({}, (1, 7, 2), 31, "zlib", ""),
        (slab, (1, 7, 2), 31, "zlib", "leaves out slab pages that are in use"),
        (slab, (1, 7, 6), 31, "zlib", "leaves out slab pages that are in use"),
        (slab, (1, 7, 7), 31, "zlib", ""),
        (slab, (1, 7, 2), 1, "zlib", ""),
        ({"NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)": "-2049"}, (1, 7, 6), 31, "zlib", ""),
        ({"NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)": "-2049"}, (1, 7, 5), 31, "zlib", "slab"),
        ({"OFFSET(folio._folio_order)": "1"}, (1, 7, 2), 8, "zlib", "does not tell compound"),
        ({"OFFSET(page.compound_info)": "8"}, (1, 7, 9), 31, "zlib", "1.8.0 is the first"),
        ({}, (1, 7, 2), 31, "zstd", "was built without zstd"),
    ]
    for info, version, level, form, expected in cases:
        tool = engine.Tool("makedumpfile", version, frozenset({"zstd"}))
        said = engine.objection(tool, info, level, form)
        assert expected in said if expected else not said


def installed() -> engine.Tool:
    tool = engine.installed()
    assert tool is not None, "makedumpfile is missing: install makedumpfile"
    return tool


def test_makedumpfile_writes(run: Run, there: Path, tmp_path: Path) -> None:
    """Level 1 asks for no page's type: every version will do."""
    installed()
    core = tmp_path / "core"
    claim_level_0(core)
    words = ["save", "-q", "--no-verify", "--engine", "makedumpfile", "-d", "1", core, there]
    assert run(*words) == (0, "", "")
    (dump,) = there.glob("*/vmcore")
    header = recognised(str(dump)).header
    assert header is not None
    assert header.dump_level == 1
    assert not (dump.parent / "SHA256SUMS").exists()  # nobody has read it back


def test_makedumpfile_that_is_too_old(run: Run, there: Path) -> None:
    tool = installed()
    if tool.version >= (1, 7, 7):
        tool = engine.Tool(tool.path, (1, 7, 6), tool.missing)
    status, _, err = run("save", "-q", "--engine", "makedumpfile", CORE, there)
    assert status == 0
    if engine.installed() == tool:
        assert "leaves out slab pages that are in use of this kernel: 1.7.7 is the first" in err
        assert err.endswith("that knows it: crashpy writes the dump\n")
        answer = run("save", "-q", "--engine", "makedumpfile", "--force", CORE, there)
        assert answer[0] == 1
        assert "pages that level 31 keeps are missing" in answer[2]
    assert len(list(there.glob("*/vmcore"))) == 1


def test_makedumpfile_that_fails(
    run: Run, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "makedumpfile"
    tool.write_text(
        "#!/bin/sh\n[ $1 = -v ] && echo 'makedumpfile: version 1.7.8' && exit\n"
        f'[ "${PASSWORD}" ] && exit 3\n'
        "echo 'it broke' >&2\nhead -c 5000 /dev/zero\nexit 1\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv(PASSWORD, servers.PASSWORD)  # is for us alone
    answer = complaint(run("save", "--engine", "makedumpfile", CORE, there))
    assert answer == "makedumpfile failed: it broke"
    assert not list(there.glob("*/vmcore*"))


# Fetching


def test_fetch_what_was_damaged(run: Run, there: Path, tmp_path: Path) -> None:
    status, out, _ = run("save", CORE, there)
    source = Path(out.strip())
    data = bytearray((source / "vmcore").read_bytes())
    data[-100] ^= 1
    (source / "vmcore").write_bytes(data)
    here = tmp_path / "here"
    status, out, err = run("save", "fetch", source, here)
    assert (status, out) == (1, "")
    assert "what came does not have the checksum of SHA256SUMS" in err
    assert not list(here.glob("*/vmcore*"))
    (source / "SHA256SUMS").unlink()  # another script's dump has none
    status, _, err = run("save", "fetch", source, here)
    assert status == 1
    assert "pages cannot be read" in err


def test_fetch_takes_no_dump_away(run: Run, there: Path, tmp_path: Path) -> None:
    """Neither the one it is to fetch, where it is, nor another one that has its name."""
    _, out, _ = run("save", CORE, there)
    source = Path(out.strip())
    damaged = bytearray((source / "vmcore").read_bytes())
    damaged[-100] ^= 1
    (source / "vmcore").write_bytes(damaged)
    status, _, err = run("save", "fetch", source, there)
    assert (status, err.count("\n")) == (1, 1)
    assert "is the dump that is to be fetched" in err
    assert (source / "vmcore").read_bytes() == damaged

    here = tmp_path / source.name
    here.mkdir()
    (here / "vmcore").write_bytes(b"another")
    (here / "README.txt").write_text("an older one")
    status, _, err = run("save", "fetch", source, tmp_path)
    assert status == 1
    assert "vmcore: another dump is there, or a damaged one" in err
    assert (here / "vmcore").read_bytes() == b"another"
    (here / "vmcore").unlink()
    damaged[-100] ^= 1
    (source / "vmcore").write_bytes(damaged)
    assert run("save", "fetch", source, tmp_path)[0] == 0
    assert (here / "README.txt").read_bytes() == (source / "README.txt").read_bytes()


def test_fetch_needs_a_complete_dump(run: Run, there: Path, tmp_path: Path) -> None:
    (there / "vmcore-incomplete").write_bytes(b"x")
    status, _, err = run("save", "fetch", there, tmp_path)
    assert (status, err) == (1, f"crashpy save fetch: {there}: no complete dump there\n")


def test_fetch_cut_off_and_done_again(
    places: Places, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = places["sftp"]
    _, out, _ = run("save", *where.options, CORE, where.url())
    words = ["save", "fetch", *where.options, f"{where.url()}/{out.strip().rpartition('/')[2]}"]
    read = SftpTarget._read

    def cut_off(self: SftpTarget, file: str, offset: int, most: int | None) -> Iterator[bytes]:
        for number, data in enumerate(read(self, file, offset, most)):
            if file == "vmcore" and number == 2:
                raise ConnectionResetError
            yield data

    with monkeypatch.context() as patch:
        patch.setattr(SftpTarget, "_read", cut_off)
        assert run(*words, tmp_path)[0] == 1
    assert not list(tmp_path.glob("*/vmcore"))
    status, _, err = run(*words, tmp_path)
    assert status == 0
    assert "vmcore: going on at byte" in err


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_killed_while_it_fetches(
    protocol: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with place(protocol) as where:
        top = where.server.seen() / "2020-01-02-03-04"
        top.mkdir()
        (top / "vmcore").write_bytes(CORE.read_bytes() * 8)
        for path in (top, top / "vmcore"):
            os.chown(path, servers.UID, servers.UID)
        read = Target.read

        def dying(self: Target, file: str, *span: int) -> Iterator[bytes]:
            for data in read(self, file, *span):
                yield data
                where.server.kill()

        monkeypatch.setattr(Target, "read", dying)
        url = f"{where.url()}/2020-01-02-03-04"
        status, out, err = run("save", "fetch", *where.options, url, tmp_path)
        assert (status, out) == (1, "")
        assert re.search("broke the connection|bytes came: try again", err)
        assert [path.name for path in tmp_path.rglob("vmcore*")] == ["vmcore-incomplete"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_fetch_refused(places: Places, protocol: str, run: Run, tmp_path: Path) -> None:
    where = places[protocol]
    here = tmp_path / "here"

    def asked(url: str, *options: str) -> str:
        status, out, err = run("save", "fetch", *(options or where.options), url, here)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert "wr0ng" not in err
        assert not list(here.rglob("*"))
        return err

    assert re.search("no such folder|No such file", asked(where.url("missing")))
    if protocol != "nfs":
        assert "wrong user" in asked(where.url(password="wr0ng"))
    if protocol in ("sftp", "ssh"):
        assert "not known" in asked(where.url(), "--known-hosts", os.devnull)
        servers._run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "k"))
        other = (tmp_path / "k.pub").read_text()
        assert "not the one" in asked(where.url(), "--host-key", other)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_fetch_what_may_not_be_read(
    places: Places, protocol: str, run: Run, tmp_path: Path
) -> None:
    """root's alone; on the NFS export where root is nobody."""
    where = places[protocol]
    top = where.server.seen() / "2020-01-02-03-04"
    top.mkdir()
    top.chmod(0o755)
    shutil.copy(CORE, top / "vmcore")
    (top / "vmcore").chmod(0o600)
    folder = "closed" if protocol == "nfs" else "open"
    url = f"{where.url(folder)}/{top.name}"
    status, out, err = run("save", "fetch", *where.options, url, tmp_path)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert re.search("ermission denied|Failed to open file", err)
    assert not list(tmp_path.rglob("vmcore"))


def test_fetch_onto_a_full_disk(run: Run, there: Path, tmp_path: Path) -> None:
    _, out, _ = run("save", CORE, there)
    here = tmp_path / "here"
    here.mkdir()
    words = [sys.executable, "-P", "-m", "crashpy", "save", "fetch", out.strip(), str(here)]
    done = inside_tmpfs("3m", words, here)
    assert done.returncode == 1
    assert done.stderr == "crashpy save fetch: No space left on device\n"
    assert "vmcore-incomplete\n" in done.stdout
    assert "vmcore\n" not in done.stdout
