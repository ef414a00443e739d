"""save bundle: a dump that opens where nothing else can be found."""

from __future__ import annotations

import hashlib
import lzma
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import isolated
import places
import pytest
import zstandard

from crashpy.cli import main
from crashpy.command import CommandError
from crashpy.kdump import bundle, sums
from crashpy.kdump.bundle import ArchiveCarrier, TargetCarrier, deliver, write_folder
from crashpy.kdump.fetch import fetch
from crashpy.kdump.inventory import SavedDump, dumps_below
from crashpy.kdump.parts import Contents, Part, collect
from crashpy.kdump.targets import Entry, FileTarget
from crashpy.kdump.urls import Url
from crashpy.opening.options import OpenOptions

MODULES = ("crashme", "dummy", "ext2", "loop", "minix")
KERNEL = "vmlinux-6.12.117-sample.zst"


@pytest.fixture(scope="module")
def made(examples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "bundle"
    files = [str(examples / name) for name in ("vmlinux.zst", "vmcore-null")]
    assert bundle.main([*files, "--to", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def kernel(examples: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The kernel, away from the modules."""
    return str(shutil.copy(examples / "vmlinux.zst", tmp_path_factory.mktemp("kernel")))


@pytest.fixture
def loose(examples: Path, tmp_path: Path) -> Path:
    """A dump, with nothing of its kernel beside it."""
    folder = tmp_path / "loose"
    (folder / "modules").mkdir(parents=True)
    return Path(shutil.copy(examples / "vmcore-null", folder / "vmcore"))


@pytest.fixture
def small(tmp_path: Path) -> Contents:
    """Two parts that are quickly copied."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "vmcore").write_bytes(b"dump" * 100_000)
    (source / "back\\slash").write_bytes(b"kernel")
    parts = [
        Part("vmcore", source / "vmcore", "the dump"),
        Part("modules/back\\slash.ko", source / "back\\slash", "a module", "abcd"),
    ]
    return Contents("6.12", parts, ["the kernel is missing"])


def alone(bundle: Path, examples: Path, *commands: str) -> str:
    """Open a folder where the examples cannot be found."""
    return isolated.crashpy([examples], str(bundle), *(w for c in commands for w in ("-c", c)))


def unpacked(archive: Path) -> Path:
    """Beside the archive, by tar(1)."""
    tar = archive.with_suffix("")
    with archive.open("rb") as packed, tar.open("wb") as out:
        zstandard.ZstdDecompressor().copy_stream(packed, out)
    subprocess.run(["tar", "-xf", tar.name], cwd=tar.parent, check=True)
    return tar


def test_what_is_in_it(made: Path) -> None:
    files = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    assert files == {
        *("vmcore", KERNEL, "BUNDLE.txt", "SHA256SUMS"),
        *(f"modules/{name}.ko" for name in MODULES),
    }
    modes = {path.stat().st_mode & 0o777 for path in made.rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert made.stat().st_mode & 0o777 == 0o700
    text = (made / "BUNDLE.txt").read_text()
    assert "modules/ext2.ko" in text
    assert "e9b3c5c13598e95fe62968933e5346109b4eff7c" in text
    assert "Missing" not in text


def test_it_opens_where_nothing_else_is_found(made: Path, examples: Path) -> None:
    printed = alone(made, examples, "mod -S", "bt -l", "struct ext2_sb_info.s_mount_opt")
    assert f"{made}/modules/ext2.ko" in printed
    assert "crashme_write at ffffffffc01bb17c [crashme]\n    ./crashme/crashme.c: 314\n" in printed
    assert "unsigned long s_mount_opt;" in printed
    assert str(examples) not in printed


def test_nothing_else_is_found(made: Path, examples: Path, tmp_path: Path) -> None:
    """The proof above is one: what the folder lacks is not there."""
    shutil.copy(made / "vmcore", tmp_path)
    printed = alone(tmp_path, examples, "mod -S", "bt -l", "sys")
    assert "crashme.c" not in printed
    assert "read_write.c" not in printed
    assert "[BTF in the dump]" in printed


def test_checksums_are_those_of_sha256sum(made: Path) -> None:
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=made, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_check(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bundle.main(["--check", str(made)]) == 0
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    with (copy / "vmcore").open("r+b") as file:
        file.seek(70_000)
        file.write(b"flipped")
    (copy / "modules" / "loop.ko").unlink()
    (copy / "modules" / "dummy.ko").unlink()
    (copy / "modules" / "dummy.ko").mkdir()
    capsys.readouterr()
    assert bundle.main(["--check", str(copy)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"{copy}: vmcore: is not as it was written",
        f"{copy}: modules/loop.ko: is missing",
        f"{copy}: modules/dummy.ko: cannot be read: Is a directory",
    ]


def test_check_of_what_is_no_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("no archive")
    assert bundle.main(["--check", str(tmp_path)]) == 1
    assert "no bundle" in capsys.readouterr().err
    assert bundle.main(["--check", str(tmp_path / "text")]) == 1
    assert "no .tar.zst" in capsys.readouterr().err
    assert bundle.main(["--check", str(tmp_path / "nothing")]) == 1
    assert "No such file" in capsys.readouterr().err
    digest = hashlib.sha256(b"").hexdigest()
    (tmp_path / "SHA256SUMS").write_text(f"{digest}  ../../etc/passwd\n{digest}  /etc/passwd\n")
    assert bundle.main(["--check", str(tmp_path)]) == 1
    assert capsys.readouterr().out.count("is named outside of the bundle") == 2


def test_archive(
    examples: Path, tmp_path: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "case.tar.zst"
    assert bundle.main([str(made), "--archive", str(archive)]) == 0
    assert archive.stat().st_mode & 0o777 == 0o600
    assert bundle.main(["--check", str(archive)]) == 0
    unpacked(archive)
    assert (tmp_path / "case" / KERNEL).stat().st_mode & 0o777 == 0o600
    assert bundle.main(["--check", str(tmp_path / "case")]) == 0
    assert "crashme.c: 314" in alone(tmp_path / "case", examples, "mod -S", "bt -l")
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 0xFF
    archive.write_bytes(data)
    capsys.readouterr()
    assert bundle.main(["--check", str(archive)]) == 1
    archive.write_bytes(data[: len(data) // 3])
    assert bundle.main(["--check", str(archive)]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_beside_a_saved_dump(examples: Path, tmp_path: Path) -> None:
    saved = tmp_path / "2026-11-24-02-39"
    saved.mkdir()
    shutil.copy(examples / "vmcore-null", saved / "vmcore")
    (saved / "dmesg").write_text("log")
    files = [str(examples / "vmlinux.zst"), str(saved / "vmcore")]
    assert bundle.main([*files, "--mod", str(examples / "modules")]) == 0
    assert bundle.main(["--check", str(saved)]) == 0
    assert (saved / "modules" / "ext2.ko").exists()
    # the same line again changes nothing
    before = {path: path.stat().st_mtime_ns for path in saved.rglob("*.ko")}
    assert bundle.main([str(saved)]) == 0
    assert {path: path.stat().st_mtime_ns for path in saved.rglob("*.ko")} == before


@pytest.mark.parametrize("name", ["dump.202611240239", "vmcore.flat", "of-my-own"])
def test_a_dump_keeps_its_name_where_it_is(small: Contents, tmp_path: Path, name: str) -> None:
    source = tmp_path / "source"
    (source / "vmcore").rename(source / name)
    small.parts[0] = replace(small.parts[0], path=source / name)
    write_folder(small, source)
    assert bundle.main(["--check", str(source)]) == 0
    assert not (source / "vmcore").exists()


def test_it_does_not_scatter_files_over_a_folder_of_many(
    examples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(examples.iterdir())
    assert bundle.main([str(examples / "vmlinux.zst"), str(examples / "vmcore-null")]) == 1
    assert "--to DIR" in capsys.readouterr().err
    assert sorted(examples.iterdir()) == before


def test_what_is_missing_is_named(
    examples: Path, kernel: str, loose: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ext2", "loop"):
        shutil.copy(examples / "modules" / f"{name}.ko", loose.parent / "modules")
    out = tmp_path / "out"
    assert bundle.main([kernel, str(loose), "--to", str(out)]) == 1
    said = capsys.readouterr().err
    assert "no file with debug information was found of the modules dummy, crashme, minix" in said
    assert bundle.main(["--check", str(out)]) == 0
    assert "dummy, crashme, minix" in (out / "BUNDLE.txt").read_text()


def test_without_vmlinux(
    examples: Path, loose: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(examples / "modules" / "ext2.ko", loose.parent / "modules")
    out = tmp_path / "out"
    assert bundle.main([str(loose), "--to", str(out)]) == 1
    assert "the kernel with debug information of 6.12.117-sample" in capsys.readouterr().err
    assert (out / "modules" / "ext2.ko").exists()


def test_a_dump_that_cannot_be_opened_here(
    examples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Perhaps where its vmlinux is: half of a dump is better than none."""
    half = tmp_path / "half"
    half.mkdir()
    (half / "vmcore").write_bytes((examples / "vmcore-null").read_bytes()[:1_000_000])
    (half / "dmesg").write_text("log")
    out = tmp_path / "out"
    assert bundle.main([str(half), "--to", str(out)]) == 1
    assert "which modules were loaded cannot be told" in capsys.readouterr().err
    assert bundle.main(["--check", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {
        *("vmcore", "dmesg", "BUNDLE.txt", "SHA256SUMS")
    }


def test_a_module_of_another_build_is_not_taken(examples: Path, kernel: str, loose: Path) -> None:
    shutil.copy(examples / "modules" / "loop.ko", loose.parent / "modules" / "ext2.ko")
    found = collect([kernel, str(loose)], OpenOptions())
    assert {part.name for part in found.parts} == {"vmcore", KERNEL}


def test_stripped_modules_and_their_debug_files(
    examples: Path, kernel: str, loose: Path, tmp_path: Path
) -> None:
    """As distributions ship them: two files, the second found by BUILD-ID alone."""
    full, stripped = examples / "modules/crashme.ko", loose.parent / "modules/crashme.ko"
    build_id = "94495a311cf8435394d12adeebc7ae2fbef88d98"
    debug = tmp_path / "debug" / ".build-id" / build_id[:2] / f"{build_id[2:]}.debug"
    debug.parent.mkdir(parents=True)
    objcopy = shutil.which("objcopy")
    assert objcopy, "objcopy is missing: install binutils"
    subprocess.run([objcopy, "--only-keep-debug", str(full), str(debug)], check=True)
    subprocess.run([objcopy, "--strip-debug", str(full), str(stripped)], check=True)
    packed = stripped.with_suffix(".ko.xz")
    packed.write_bytes(lzma.compress(stripped.read_bytes()))
    stripped.unlink()
    out = tmp_path / "out"
    words = [kernel, str(loose), "--debug", str(tmp_path / "debug"), "--to", str(out)]
    assert bundle.main(words) == 1
    assert {p.name for p in (out / "modules").iterdir()} == {"crashme.ko.xz", "crashme.ko.debug"}
    printed = alone(out, examples, "mod -s crashme", "bt -l")
    assert "./crashme/crashme.c: 314" in printed


# While a dump is saved


def test_save_with_bundle_and_archive(
    examples: Path, kernel: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "crash").mkdir()
    debug = tmp_path / "debug" / "boot"
    debug.mkdir(parents=True)
    shutil.copy(kernel, debug / KERNEL)
    words = ["save", "-q", "--bundle", "--archive", str(tmp_path / "case.tar.zst")]
    words += ["--mod", str(examples / "modules"), "--debug", str(debug.parent)]
    assert main([*words, str(examples / "vmcore-null"), str(tmp_path / "crash")]) == 0
    assert capsys.readouterr().err == ""
    (folder,) = (tmp_path / "crash").iterdir()
    for made in (folder, tmp_path / "case.tar.zst"):
        assert bundle.main(["--check", str(made)]) == 0
    assert "crashme.c: 314" in alone(folder, examples, "mod -S", "bt -l")
    (row,) = dumps_in(tmp_path / "crash")
    assert row.state == "complete"


def dumps_in(folder: Path) -> list[SavedDump]:
    with FileTarget(Url("file", str(folder))) as place:
        return dumps_below(place)


def test_save_with_bundle_says_what_is_missing(
    examples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    core = shutil.copy(examples / "vmcore-null", tmp_path / "core")
    (tmp_path / "crash").mkdir()
    assert main(["save", "-q", "--bundle", str(core), str(tmp_path / "crash")]) == 0
    said = capsys.readouterr().err
    assert "the kernel with debug information of 6.12.117-sample" in said
    assert "the modules loop, dummy, ext2, crashme, minix" in said


# Writing


def test_a_folder_is_there_whole_or_not_at_all(small: Contents, tmp_path: Path) -> None:
    def broken(part: Part) -> None:
        if part.name != "vmcore":
            raise OSError(28, "No space left on device")

    folder = tmp_path / "bundle"
    with pytest.raises(OSError, match="No space"):
        write_folder(small, folder, broken)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]
    write_folder(small, folder)
    with pytest.raises(Exception, match="exists already"):
        write_folder(small, folder)
    assert bundle.main(["--check", str(folder)]) == 0
    assert "Missing:\nthe kernel is missing\n" in (folder / "BUNDLE.txt").read_text()


def test_a_saved_dump_is_as_before_when_it_fails(small: Contents, tmp_path: Path) -> None:
    def broken(part: Part) -> None:
        if part.name != "vmcore":
            raise KeyboardInterrupt

    source = tmp_path / "source"
    small.parts.append(small.parts[1])
    before = sorted(source.rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        write_folder(small, source, broken)
    assert sorted(source.rglob("*")) == before


def test_an_archive_is_there_whole_or_not_at_all(small: Contents, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.zst"
    small.parts[1].path.unlink()
    with pytest.raises(FileNotFoundError):
        bundle.write_archive(small, archive)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_no_room(small: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(Exception, match=r"takes 0.4 MiB, and 0.0 MiB are free"):
        write_folder(small, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("option", "sentence"),
    [("--to", "MiB, and 4.0 MiB are free"), ("--archive", "No space left")],
)
def test_a_disk_that_is_full(examples: Path, tmp_path: Path, option: str, sentence: str) -> None:
    files = [str(examples / name) for name in ("vmlinux.zst", "vmcore-null")]
    words = ["save", "bundle", *files, option, str(tmp_path / "out.tar.zst")]
    done = places.inside_tmpfs("4m", [sys.executable, "-m", "crashpy", *words], tmp_path)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert str(tmp_path) in done.stderr
    assert done.stdout == ""  # nothing is left there


def test_a_private_dump_is_linked_and_nothing_else(small: Contents, tmp_path: Path) -> None:
    private, shared = (part.path for part in small.parts)
    private.chmod(0o600)
    shared.chmod(0o644)
    folder = tmp_path / "bundle"
    write_folder(small, folder)
    assert (folder / "vmcore").samefile(private)
    assert not (folder / "modules" / "back\\slash.ko").samefile(shared)
    assert shared.stat().st_mode & 0o777 == 0o644


def test_beside_a_dump_on_a_server(small: Contents, tmp_path: Path) -> None:
    (tmp_path / "place" / "2026-11-24-02-39").mkdir(parents=True)
    with FileTarget(Url("file", str(tmp_path / "place"))) as place:
        deliver(small, TargetCarrier(place, "2026-11-24-02-39"), lambda _: None)
    assert bundle.main(["--check", str(tmp_path / "place" / "2026-11-24-02-39")]) == 0


class Server(FileTarget):
    """A folder of which nothing is on this machine."""

    def local(self, file: str) -> None:  # noqa: ARG002
        return None


def test_beside_a_dump_that_was_just_saved(examples: Path, kernel: str, tmp_path: Path) -> None:
    options = OpenOptions(module_dirs=(str(examples / "modules"),))
    for kind in (FileTarget, Server):
        folder = tmp_path / kind.__name__ / "2026-11-24-02-39"
        folder.mkdir(parents=True)
        dump = shutil.copy(examples / "vmcore-null", folder / "vmcore")
        shutil.copy(kernel, folder)
        digest = hashlib.sha256(Path(dump).read_bytes()).hexdigest()
        (folder / "SHA256SUMS").write_text(f"{digest}  vmcore\n")
        with kind(Url("file", str(folder.parent))) as place:
            contents = bundle.add_to(place, folder.name, [str(dump)], options)
        assert contents.missing == []
        assert bundle.main(["--check", str(folder)]) == 0
        sums = (folder / "SHA256SUMS").read_text()
        assert f"{digest}  vmcore\n" in sums
        assert "modules/ext2.ko" in sums


def test_a_bundle_is_fetched_whole(made: Path, tmp_path: Path) -> None:
    with Server(Url("file", str(made))) as place:
        fetch(place, tmp_path / "here", quiet=True)
    assert bundle.main(["--check", str(tmp_path / "here")]) == 0


def test_a_server_cannot_write_elsewhere(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may say any name, ../../.bashrc as well."""
    names = "../evil", "/evil", "..", "modules/evil"

    def entries(self: FileTarget, folder: str = "") -> list[Entry]:
        evil = [Entry(name, "file", 1) for name in names] if folder != ".." else []
        return [*real(self, folder), *evil, Entry("../..", "folder")]

    real = FileTarget.entries
    monkeypatch.setattr(FileTarget, "entries", entries)
    (tmp_path / "a" / "b").mkdir(parents=True)
    with Server(Url("file", str(made))) as place:
        fetch(place, tmp_path / "a" / "b" / "here", quiet=True)
    assert [path.name for path in tmp_path.rglob("*evil*")] == []
    assert not Path("/evil").exists()


def test_a_dump_that_changed_since_it_was_saved(
    examples: Path, kernel: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "2026-11-24-02-39"
    saved.mkdir()
    data = bytearray((examples / "vmcore-null").read_bytes())
    noted = f"{hashlib.sha256(data).hexdigest()}  vmcore\n"
    (saved / "SHA256SUMS").write_text(noted)
    data[-1] ^= 1
    (saved / "vmcore").write_bytes(data)
    assert bundle.main([kernel, str(saved / "vmcore")]) == 1
    assert "is not as it was saved" in capsys.readouterr().err
    assert sorted(path.name for path in saved.iterdir()) == ["SHA256SUMS", "vmcore"]
    assert (saved / "SHA256SUMS").read_text() == noted


def test_a_changed_dump_goes_into_no_bundle(small: Contents, tmp_path: Path) -> None:
    small.parts[0] = replace(small.parts[0], saved_as="0" * 64)
    for write in (write_folder, bundle.write_archive):
        with pytest.raises(CommandError, match="is not as it was saved"):
            write(small, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_what_was_put_beside_a_dump_on_a_server_is_taken_back(
    small: Contents, tmp_path: Path
) -> None:
    folder = tmp_path / "place" / "2026-11-24-02-39"
    folder.mkdir(parents=True)
    (folder / "README.txt").write_text("saved")
    small.parts.append(Part("gone", tmp_path / "gone", "a part that vanished"))
    with Server(Url("file", str(folder.parent))) as place, pytest.raises(FileNotFoundError):
        deliver(small, TargetCarrier(place, folder.name), lambda _: None)
    assert [path.name for path in folder.rglob("*")] == ["README.txt"]


def test_names_in_the_checksums_are_escaped() -> None:
    digest = "0" * 64
    names = ["a b", "a\nb\\c", "a\\nb", "a\rb"]
    text = sums.text(dict.fromkeys(names, digest))
    assert text.splitlines() == [
        f"{digest}  a b",
        f"\\{digest}  a\\nb\\\\c",
        f"\\{digest}  a\\\\nb",
        f"\\{digest}  a\\rb",
    ]
    assert [*sums.parse(text.encode())] == names
    assert sums.parse(b"no line\n\xff\n" + b"0" * 64) == {}


def test_names_in_the_archive(small: Contents, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.zst"
    with archive.open("wb") as out:
        carrier = ArchiveCarrier(out, "top")
        deliver(small, carrier, lambda _: None)
        carrier.close()
    with tarfile.open(unpacked(archive)) as tar:
        names = tar.getnames()
        assert {entry.uid for entry in tar.getmembers()} == {0}
    assert names == [
        *("top", "top/vmcore", "top/modules/back\\slash.ko", "top/BUNDLE.txt", "top/SHA256SUMS")
    ]


def test_dry_run_writes_nothing(
    examples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(examples / name) for name in ("vmlinux.zst", "vmcore-null")]
    assert bundle.main([*files, "--to", str(tmp_path / "x"), "--dry-run"]) == 0
    assert "modules/minix.ko" in capsys.readouterr().out
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [([], "name the dump"), (["/nonexistent"], "No such file"), (["/etc/passwd"], "not a support")],
)
def test_no_dump(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bundle.main(words) == 1
    assert sentence in capsys.readouterr().err
