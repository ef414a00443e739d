"""Every form of dump and kernel opens to the same memory; what cannot be opened says why."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import forms
import pytest

import crashpy
from crashpy.dump import Dump
from crashpy.opening import OpeningError, cache
from crashpy.opening.kernels import _unlz4_block

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
SAMPLE = EXAMPLES / "vmcore-null"
BUILD_ID = "5de93195ae92487148495fc8c58548cbb14aca82"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what the tests make, with vmlinux unpacked."""
    folder = tmp_path_factory.mktemp("forms")
    import zstandard

    with (EXAMPLES / "vmlinux.zst").open("rb") as raw, (folder / "vmlinux").open("wb") as out:
        zstandard.ZstdDecompressor().copy_stream(raw, out)
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)


def works(dump: Dump) -> bool:
    """Types, kernel memory by page tables, a module's text and the registers are there."""
    prog = dump.prog
    assert prog["init_task"].comm.string_() == b"swapper/0"
    assert dump.release == "6.12.117-sample"
    assert dump.utsname[1] == "sample"
    assert dump.page_size == 4096
    assert dump.build_id
    assert dump.build_id.hex() == BUILD_ID
    names = {module.name for module in prog.modules()}
    assert "crashme" in names
    assert prog.crashed_thread().object.comm.string_()
    assert len(prog.stack_trace(prog.crashed_thread().tid)) > 3
    return True


def of_sample(make: Callable[..., Path], name: str, **options: bool) -> Callable[[Path], Path]:
    return lambda folder: make(SAMPLE, folder / name, **options)


def _flattened_qemu(folder: Path) -> Path:
    return forms.flattened(forms.without_names(SAMPLE, folder / "q"), folder / "flattened-qemu")


FORMS: dict[str, Callable[[Path], Path]] = {
    "kdump": lambda _folder: SAMPLE,
    "flattened": of_sample(forms.flattened, "flattened"),
    "flattened, cut in its last record": of_sample(forms.flattened, "flat-cut", end=False),
    "header without names": of_sample(forms.without_names, "no-names"),
    "flattened, without names": _flattened_qemu,
    "without VMCOREINFO": of_sample(forms.without_vmcoreinfo, "no-info"),
    "ELF": of_sample(forms.elf, "elf"),
    "QEMU's ELF": of_sample(forms.elf, "elf-qemu", qemu=True),
    "QEMU's ELF without VMCOREINFO": of_sample(
        forms.elf, "elf-qemu-bare", qemu=True, vmcoreinfo=False
    ),
    "gzip": of_sample(forms.packed, "vmcore.gz"),
    "zstd": of_sample(forms.packed, "vmcore.zst"),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_dump(form: str, made: Path, tmp_path: Path) -> None:
    path = FORMS[form](tmp_path)
    with crashpy.open(made / "vmlinux", path) as dump:
        assert works(dump)
        assert dump.vmcore == str(path)
        assert dump.partial == ("ELF" not in form)
        assert dump.tag == ("" if "ELF" in form else "  [PARTIAL DUMP]")
        assert bool(dump.missing) == ("cut" in form)


def test_a_packed_flattened_dump(made: Path, tmp_path: Path) -> None:
    flat = forms.flattened(SAMPLE, tmp_path / "flat")
    assert works(crashpy.open(made / "vmlinux", forms.packed(flat, tmp_path / "flat.gz")))


def test_either_order(made: Path) -> None:
    assert works(crashpy.open(SAMPLE, made / "vmlinux"))


@pytest.mark.parametrize("named", [("3", "1", "2"), ("2",)])
def test_a_split_dump(named: tuple[str, ...], made: Path, tmp_path: Path) -> None:
    """All files named, or one and the others found beside it."""
    forms.split(SAMPLE, [tmp_path / name for name in "123"])
    with crashpy.open(made / "vmlinux", *(tmp_path / name for name in named)) as dump:
        assert works(dump)
        shown = named if len(named) > 1 else "123"  # crash lists them as they were named
        assert [file.path for file in dump.files] == [str(tmp_path / name) for name in shown]
        assert dump.tag == " [PARTIAL DUMP]"
        assert not dump.missing


def test_a_split_dump_with_a_part_lost(made: Path, tmp_path: Path) -> None:
    forms.split(SAMPLE, [tmp_path / name for name in "123"])
    (tmp_path / "1").unlink()
    with crashpy.open(made / "vmlinux", tmp_path / "3") as dump:
        assert dump.missing[0].startswith(
            "the part of the split dump with physical addresses 0x0-0x"
        )
        assert dump.utsname[1] == "sample"


@pytest.mark.parametrize("suffix", [".gz", ".zst"])  # test_vmcore.py has the others, smaller
def test_packed_kernels_are_kept(suffix: str, made: Path, tmp_path: Path) -> None:
    packed = forms.packed(made / "vmlinux", tmp_path / f"vmlinux{suffix}")
    with crashpy.open(packed, SAMPLE) as dump:
        assert works(dump)
        assert dump.kernel == str(packed)
    [kept] = cache.folder().iterdir()
    assert kept.name.startswith(BUILD_ID)
    assert kept.stat().st_mode & 0o777 == 0o600
    assert cache.folder().stat().st_mode & 0o777 == 0o700
    kept.write_bytes((made / "vmlinux").read_bytes())
    before = kept.stat().st_ino
    assert works(crashpy.open(packed, SAMPLE))  # from the cache now
    assert [p.stat().st_ino for p in cache.folder().iterdir()] == [before]


def test_without_cache_nothing_is_written(made: Path, tmp_path: Path) -> None:
    packed = forms.packed(made / "vmlinux", tmp_path / "vmlinux.gz")
    assert works(crashpy.open(packed, SAMPLE, cache=False))
    assert not cache.folder().exists()


def test_a_cache_that_cannot_be_written(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert works(crashpy.open(forms.packed(made / "vmlinux", tmp_path / "v.gz"), SAMPLE))


def test_the_cache_is_bounded() -> None:
    cache.folder().mkdir(parents=True)
    files = [cache.folder() / name for name in ("old", "older", "new")]
    for file, time in zip(files, (20, 10, 30), strict=True):
        file.write_bytes(bytes(1000))
        os.utime(file, (time, time))
    cache.trim(keep=files[2], limit=2500)
    assert {p.name for p in cache.folder().iterdir()} == {"old", "new"}


def test_a_stripped_kernel_and_its_debug_file(made: Path, tmp_path: Path) -> None:
    forms.stripped(made / "vmlinux", tmp_path / "vmlinux", tmp_path / "vmlinux.debug")
    with crashpy.open(tmp_path / "vmlinux.debug", SAMPLE, tmp_path / "vmlinux") as dump:
        assert works(dump)
        assert dump.kernel == str(tmp_path / "vmlinux")
        assert dump.debuginfo == str(tmp_path / "vmlinux.debug")
    with crashpy.open(tmp_path / "vmlinux", SAMPLE) as dump:  # found beside it
        assert works(dump)
        assert dump.debuginfo == str(tmp_path / "vmlinux.debug")


def test_a_boot_image_and_its_debug_file(made: Path, tmp_path: Path) -> None:
    forms.stripped(made / "vmlinux", tmp_path / "image", tmp_path / "vmlinux.debug")
    boot = forms.boot_image(tmp_path / "image", tmp_path / "vmlinuz")
    (tmp_path / "image").unlink()
    with crashpy.open(boot, SAMPLE) as dump:
        assert works(dump)
        assert dump.debuginfo == str(tmp_path / "vmlinux.debug")


def test_lz4_copies_that_overlap() -> None:
    """A boot image may be packed with LZ4: 2 literals, then 8 bytes from 2 back."""
    assert _unlz4_block(b"\x24ab\x02\x00\x10c") == b"ababababab" + b"c"


def test_a_folder(made: Path, tmp_path: Path) -> None:
    """crash's bundle: dump and kernel side by side; the folder alone is named."""
    (tmp_path / "vmcore").symlink_to(SAMPLE)
    (tmp_path / "vmlinux").symlink_to(made / "vmlinux")
    (tmp_path / "dmesg.txt").write_text("[    0.000000] Linux version\n")
    with crashpy.open(tmp_path) as dump:
        assert works(dump)
        assert dump.kernel == str(tmp_path / "vmlinux")


def test_the_kernel_is_found_by_build_id_not_by_name(made: Path, tmp_path: Path) -> None:
    (tmp_path / "vmcore").symlink_to(SAMPLE)
    wrong = bytearray((made / "vmlinux").read_bytes())
    at = wrong.find(bytes.fromhex(BUILD_ID))
    wrong[at : at + 20] = bytes(20)
    (tmp_path / "a-vmlinux").write_bytes(wrong)
    (tmp_path / "some-name").symlink_to(made / "vmlinux")
    with crashpy.open(tmp_path / "vmcore") as dump:
        assert dump.kernel == str(tmp_path / "some-name")


def test_the_kernel_is_found_in_debug_directories(made: Path, tmp_path: Path) -> None:
    (tmp_path / "dump").mkdir()
    (tmp_path / "dump" / "vmcore").symlink_to(SAMPLE)
    place = tmp_path / "debug" / ".build-id" / BUILD_ID[:2] / f"{BUILD_ID[2:]}.debug"
    place.parent.mkdir(parents=True)
    place.symlink_to(made / "vmlinux")
    dump = crashpy.open(tmp_path / "dump" / "vmcore", debug_dirs=(str(tmp_path / "debug"),))
    assert dump.kernel == str(place)


def test_debuginfod(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vmcore").symlink_to(SAMPLE)
    place = tmp_path / "served" / "buildid" / BUILD_ID / "debuginfo"
    place.parent.mkdir(parents=True)
    place.symlink_to(made / "vmlinux")
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"],
        cwd=tmp_path / "served",
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stdout
        port = server.stdout.readline().split(" port ")[1].split()[0]
        monkeypatch.setenv("DEBUGINFOD_URLS", f"http://127.0.0.1:1/ http://127.0.0.1:{port}/")
        dump = crashpy.open(tmp_path / "vmcore")
    finally:
        server.kill()
        server.wait()
    assert dump.kernel == str(cache.folder() / f"{BUILD_ID}-debuginfod")
    assert works(dump)
    assert crashpy.open(tmp_path / "vmcore").kernel == dump.kernel  # no server now


def test_zero_excluded(made: Path) -> None:
    header = forms.header_of(SAMPLE)
    stored = {start: size for start, size in header.stored_ranges()}
    start, size = next(iter(stored.items()))
    hole = next(
        pfn
        for pfn in range((start + size) // 4096, header.max_mapnr)
        if header.page_existed(pfn) and pfn * 4096 not in stored
    )
    nowhere = header.max_mapnr * 4096 + 4096
    plain = crashpy.open(made / "vmlinux", SAMPLE).prog
    zero = crashpy.open(made / "vmlinux", SAMPLE, zero_excluded=True)
    assert works(zero)
    from drgn import FaultError

    with pytest.raises(FaultError):
        plain.read(hole * 4096, 8, True)
    assert zero.prog.read(hole * 4096, 8, True) == bytes(8)
    border = start + size - 4
    assert zero.prog.read(border, 8, True) == plain.read(border, 4, True) + bytes(4)
    with pytest.raises(FaultError):
        zero.prog.read(nowhere, 8, True)


# What cannot be opened: a name, how to make it, what the sentence says.


def _wrong_machine(folder: Path) -> Path:
    data = bytearray((folder / "vmlinux").read_bytes())
    data[18:20] = struct.pack("<H", 183)
    (folder / "vmlinux-arm").write_bytes(data)
    return folder / "vmlinux-arm"


def _other_build(folder: Path) -> Path:
    data = bytearray((folder / "vmlinux").read_bytes())
    at = data.find(bytes.fromhex(BUILD_ID))
    data[at : at + 20] = bytes(range(20))
    (folder / "vmlinux-other").write_bytes(data)
    return folder / "vmlinux-other"


def _file(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _user_core(folder: Path) -> Path:
    info = bytes(40) + b"sleep".ljust(16, b"\0") + bytes(80)
    note = struct.pack("<III", 5, len(info), 3) + b"CORE\0\0\0\0" + info
    head = b"\x7fELF\2\1\1" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    entry = struct.pack("<IIQQQQQQ", 4, 0, 120, 0, 0, len(note), 0, 4)
    return _file("core", head + entry + note)(folder)


def _vmlinux(folder: Path) -> Path:
    return folder / "vmlinux"


def _dump(_folder: Path) -> Path:
    return SAMPLE


def _other_dump(_folder: Path) -> Path:
    return EXAMPLES / "vmcore-irq"


def _nowhere(folder: Path) -> Path:
    return folder / "nowhere"


def _folder_without_dump(folder: Path) -> Path:
    (folder / "empty-folder").mkdir(exist_ok=True)
    return folder / "empty-folder"


def _cut(size: int) -> Callable[[Path], Path]:
    return lambda folder: _file(f"cut-{size}", SAMPLE.read_bytes()[:size])(folder)


BAD: dict[str, tuple[list[Callable[[Path], Path]], str]] = {
    "a kernel of another build": (
        [_other_build, _dump],
        "{0} (kernel 6.12.117-sample with BUILD-ID 000102030405060708090a0b0c0d0e0f10111213)"
        " and {1} (6.12.117-sample, BUILD-ID 5de93195ae92487148495fc8c58548cbb14aca82)"
        " do not match! Name the vmlinux of 6.12.117-sample with that BUILD-ID",
    ),
    "a kernel for another machine": (
        [_wrong_machine, _dump],
        "{0} is a kernel for aarch64, {1} a dump for x86_64 of 6.12.117-sample: name the vmlinux",
    ),
    "no dump": ([_vmlinux], "{0}: is a kernel, and no dump is named"),
    "two dumps": (
        [_vmlinux, _dump, _other_dump],
        "{1} and {2} are two dumps (kdump-compressed dump of 6.12.117-sample, BUILD-ID",
    ),
    "two kernels": (
        [_vmlinux, _other_build, _dump],
        "{0} (kernel 6.12.117-sample with BUILD-ID 5de93195ae92487148495fc8c58548cbb14aca82)"
        " and {1} (kernel 6.12.117-sample with BUILD-ID"
        " 000102030405060708090a0b0c0d0e0f10111213) are two kernels",
    ),
    "nonexistent": ([_vmlinux, _nowhere], "{1}: No such file or directory"),
    "empty": ([_vmlinux, _file("nothing", b"")], "{1}: the file is empty"),
    "text": ([_vmlinux, _file("words", b"words\n")], "{1}: not a supported file format: it is"),
    "zeros": ([_vmlinux, _file("zeros", bytes(9999))], "it starts with zeros only"),
    "noise": ([_vmlinux, _file("noise", bytes(range(256)) * 40)], "neither a dump nor a kernel"),
    "a user's core": ([_vmlinux, _user_core], '{1}: core dump of the user process "sleep"'),
    "a program": (
        [lambda _: Path(sys.executable), _dump],
        "an ELF program, but not a Linux kernel",
    ),
    "a module": (
        [lambda _: next((EXAMPLES / "modules").glob("*.ko")), _dump],
        "{0}: is a kernel module or object file",
    ),
    "a folder without dump": ([_folder_without_dump], "{0}: no dump in this folder"),
    "a folder with several": (
        [lambda _: EXAMPLES],
        "{0}: more than one dump in this folder: name one of vmcore-abba, vmcore-irq, ",
    ),
    "a folder and a file": ([_vmlinux, _folder_without_dump], "{1}: is a folder: name it alone"),
    "cut in the header": ([_vmlinux, _cut(300)], "{1}: kdump-compressed dump with a damaged"),
    "cut before the pages": ([_vmlinux, _cut(9000)], "cut short before its first page"),
    "an ELF header alone": (
        [_vmlinux, lambda folder: _file("elf-head", _user_core(folder).read_bytes()[:64])(folder)],
        "{1}: ELF core without its program headers (64 bytes)",
    ),
    "a packed file cut short": (
        [
            lambda folder: _file(
                "half.gz", forms.packed(_vmlinux(folder), folder / "whole.gz").read_bytes()[:99999]
            )(folder),
            _dump,
        ],
        "{0}: cannot be unpacked: its gzip data ends early",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(name: str, made: Path) -> None:
    makers, wanted = BAD[name]
    paths = [str(make(made)) for make in makers]
    with pytest.raises(OpeningError) as caught:
        crashpy.open(*paths)
    sentence = str(caught.value)
    assert wanted.format(*paths) in sentence
    assert "\n" not in sentence


def test_a_segment_that_claims_more_than_the_file(made: Path, tmp_path: Path) -> None:
    """The search for VMCOREINFO ends where the file does."""
    elf = forms.elf(SAMPLE, tmp_path / "elf", qemu=True, vmcoreinfo=False)
    data = bytearray(elf.read_bytes())
    struct.pack_into("<Q", data, 64 + 56 + 32, 1 << 60)  # p_filesz of the first PT_LOAD
    elf.write_bytes(data)
    with crashpy.open(made / "vmlinux", elf) as dump:
        assert "the file is cut short" in dump.missing[0]


def test_a_pipe_is_not_waited_for(made: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OpeningError, match="is a pipe"):
        crashpy.open(made / "vmlinux", tmp_path / "pipe")


def test_an_unreadable_file(made: Path, tmp_path: Path) -> None:
    """Root reads everything, so a loop of symbolic links stands for what cannot be read."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OpeningError, match="loop: Too many levels of symbolic links"):
        crashpy.open(made / "vmlinux", tmp_path / "loop")


def test_a_dump_cut_short_opens_with_a_warning(made: Path, tmp_path: Path) -> None:
    data = SAMPLE.read_bytes()
    cut = tmp_path / "cut"
    cut.write_bytes(data[: len(data) * 19 // 20])
    with crashpy.open(made / "vmlinux", cut) as dump:
        size = len(data) * 19 // 20
        assert f"the file is cut short: {size} of at least {len(data)} bytes" in dump.missing[0]
        assert dump.release == "6.12.117-sample"
        assert dump.utsname[1] == "sample"


def test_a_kernel_older_than_build_ids_is_told_from_memory(made: Path, tmp_path: Path) -> None:
    """VMCOREINFO has a BUILD-ID since Linux 5.9 only."""
    data = bytearray(SAMPLE.read_bytes())
    for at in _all(data, b"BUILD-ID="):
        data[at : at + 9] = b"BUILD-NO="
    old = tmp_path / "old"
    old.write_bytes(data)
    with crashpy.open(made / "vmlinux", old) as dump:
        assert works(dump)
    with pytest.raises(OpeningError, match="do not match!"):
        crashpy.open(_other_build(made), old)


def _all(data: bytes | bytearray, word: bytes) -> list[int]:
    found, at = [], data.find(word)
    while at >= 0:
        found.append(at)
        at = data.find(word, at + 1)
    return found


@pytest.mark.parametrize("zero_excluded", [False, True])
def test_physical_addresses_in_a_header_are_no_virtual_ones(
    made: Path, tmp_path: Path, zero_excluded: bool
) -> None:
    """QEMU tells them for both: a pointer to a small number leads nowhere all the same."""
    from drgn import FaultError

    from crashpy.vmcore.recognise import recognise

    elf = forms.elf(SAMPLE, tmp_path / "elf", qemu=True)
    found = recognise(str(elf))
    assert found
    low = found.segments[0].vaddr
    assert low == found.segments[0].paddr
    with crashpy.open(made / "vmlinux", elf, zero_excluded=zero_excluded) as dump:
        assert len(dump.prog.read(low, 8, True)) == 8
        with pytest.raises(FaultError):
            dump.prog.read(low, 8)
