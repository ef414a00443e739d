"""Dumps without their vmlinux: everything that BTF, kallsyms and ORC can tell, as with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import forms
import pytest
from bare import compared, known_differences
from drgn import FaultError, Program, TypeKind

import crashpy
from crashpy.cli import main
from crashpy.opening import OpeningError, OpenOptions
from crashpy.opening.bare import declarations, describe
from crashpy.opening.kallsyms import read_kallsyms
from crashpy.opening.program import start
from crashpy.session import Session
from crashpy.vmcore.recognise import Vmcore, recognise

EXAMPLES = Path(__file__).parent.parent / "examples"
KERNEL = EXAMPLES / "vmlinux.zst"
SAMPLE = EXAMPLES / "vmcore-null"


@pytest.fixture(scope="module")
def bare() -> Session:
    return Session(crashpy.open(SAMPLE, debuginfo="btf"))


def test_nine_lines_of_ten_are_the_same_and_the_rest_is_explained() -> None:
    pairs = list(compared(KERNEL, SAMPLE))
    identical = sum(pair.identical for pair in pairs)
    unexplained = {pair.line: pair.unexplained[:8] for pair in pairs if pair.unexplained}
    assert not unexplained
    assert identical >= 0.9 * len(pairs)


@pytest.mark.parametrize("dump", ["vmcore-null", "vmcore-irq", "vmcore-abba"])
def test_the_stacks_of_all_tasks(dump: str, tmp_path: Path) -> None:
    """Also the crashing task's, one of an oops in a module, one of an interrupt."""
    (tmp_path / "stacks.txt").write_text("foreach bt\nbt -a\nforeach bt -f\n")
    pairs = list(compared(KERNEL, EXAMPLES / dump, [tmp_path / "stacks.txt"]))
    assert [pair.identical for pair in pairs] == [True] * 3
    assert all(len(pair.bare.splitlines()) > 20 for pair in pairs)


def test_every_difference_has_a_reason() -> None:
    assert all(
        len(known.reason) > 20 or known.reason == "As above." for known in known_differences()
    )


def test_declared_types_are_dwarfs(bare: Session, opened: Callable[[str], Session]) -> None:
    """But for `const`, sizes of tables kept for other kernels, and names of one type."""
    dwarf, prog = opened("vmcore-null").dump.prog, bare.dump.prog
    different, compared = [], 0
    for name in declarations():
        try:
            wanted, found = dwarf.variable(name), prog.variable(name)
        except LookupError:
            continue
        if wanted.address_ != found.address_:  # several of one name
            continue
        compared += 1
        if _shape(wanted.type_) != _shape(found.type_):
            different.append((name, str(wanted.type_), str(found.type_)))
    assert compared > 1000
    assert len(different) <= compared / 50, different


def _shape(type_) -> str:  # type: ignore[no-untyped-def]
    while type_.kind == TypeKind.TYPEDEF:
        type_ = type_.type
    if type_.kind == TypeKind.ARRAY:
        return f"{_shape(type_.type)}[{type_.length}]"
    return str(type_.type_name()).removeprefix("const ")


def test_char_is_the_kernels(bare: Session, opened: Callable[[str], Session]) -> None:
    signed = opened("vmcore-null").dump.prog.type("char").is_signed
    assert bare.dump.prog.type("char").is_signed == signed


def test_the_banner_says_what_is_missing(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--no_crashrc", "--debuginfo", "btf", "-c", "sys", str(SAMPLE)]) == 0
    shown = capfd.readouterr()
    assert "KERNEL: [BTF in the dump]" in shown.out
    assert "WARNING: source lines, inline frames and local variables" in shown.err


def test_a_kernel_named_is_not_asked_where_btf_is_wanted() -> None:
    dump = crashpy.open(KERNEL, SAMPLE, debuginfo="btf")
    assert dump.symtab is not None
    assert dump.kernel == str(KERNEL)


# What cannot be opened


def _program(vmcore: Vmcore) -> Program:
    return start([vmcore], OpenOptions())


@pytest.fixture
def vmcore() -> Vmcore:
    found = recognise(str(SAMPLE))
    assert found
    return found


def _excluded(prog: Program, address: int, size: int) -> None:
    def read(at: int, *_: object) -> bytes:
        raise FaultError("page excluded", at)

    prog.add_memory_segment(address, size, read)


def test_excluded_btf(vmcore: Vmcore) -> None:
    prog, other = _program(vmcore), _program(vmcore)
    describe(other, vmcore.vmcoreinfo)
    _excluded(prog, other.symbol("__start_BTF").address + 0x3000, 4096)
    with pytest.raises(OpeningError, match=r"BTF cannot be read .*page excluded.*vmlinux"):
        describe(prog, vmcore.vmcoreinfo)


@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"A"])
def test_btf_overwritten(vmcore: Vmcore, fill: bytes) -> None:
    prog, other = _program(vmcore), _program(vmcore)
    describe(other, vmcore.vmcoreinfo)
    begin, end = (other.symbol(f"__{edge}_BTF").address for edge in ("start", "stop"))
    for place in (begin, begin + 24, begin + (end - begin) // 2):
        prog = _program(vmcore)
        prog.add_memory_segment(place, 8192, lambda _at, count, *_: fill * count)
        try:
            describe(prog, vmcore.vmcoreinfo)
        except OpeningError as error:
            assert "vmlinux" in str(error)  # noqa: PT017  some damage does not show at once
        else:
            prog.type("struct task_struct")


@pytest.mark.parametrize("fill", [b"\0", b"A"])
def test_kallsyms_overwritten(vmcore: Vmcore, fill: bytes) -> None:
    for table in ("names", "offsets", "token_table", "token_index", "num_syms", "relative_base"):
        prog = _program(vmcore)
        address = int(vmcore.vmcoreinfo[f"SYMBOL(kallsyms_{table})"], 16)
        prog.add_memory_segment(address, 4096, lambda _at, count, *_: fill * count)
        with pytest.raises(OpeningError, match=r"vmlinux"):
            describe(prog, vmcore.vmcoreinfo)


def test_a_kernel_without_btf(vmcore: Vmcore) -> None:
    prog = _program(vmcore)
    symbols = read_kallsyms(prog, vmcore.vmcoreinfo)
    symbols.names[symbols.names.index("__start_BTF")] = "no_BTF"
    with pytest.raises(OpeningError, match=r"carries no BTF \(CONFIG_DEBUG_INFO_BTF is off\)"):
        describe(prog, vmcore.vmcoreinfo, symbols)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A dump of a kernel that does not tell its symbols."""
    data = SAMPLE.read_bytes().replace(b"SYMBOL(kallsyms_names)", b"SYMBOL(kallsyms_mames)")
    (tmp_path / "vmcore-old").write_bytes(data)
    return tmp_path / "vmcore-old"


def test_a_kernel_that_does_not_tell_its_symbols(old: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "crashpy", "--no_crashrc", "--debuginfo", "btf", old],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert ran.stderr.startswith(f"crashpy: {old}: VMCOREINFO does not say where this kernel keeps")
    assert ran.stderr.count("\n") == 1
    assert "--kallsyms" in ran.stderr


def test_its_system_map_will_do(old: Path, vmcore: Vmcore, tmp_path: Path) -> None:
    offset = int(vmcore.vmcoreinfo["KERNELOFFSET"], 16)
    lines = [
        f"{address - offset * (address > 1 << 32):016x} {letter} {name}\n"
        for address, letter, name in zip(
            *read_kallsyms(_program(vmcore), vmcore.vmcoreinfo), strict=True
        )
    ]
    (tmp_path / "System.map").write_text("".join(lines))
    session = Session(crashpy.open(old, debuginfo="btf", kallsyms=str(tmp_path / "System.map")))
    assert "session_dispatch" in "\n".join(session.run("bt"))


def test_its_log_needs_nothing(old: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--log", str(old)]) == 0
    assert "Linux version 6.12.117-sample" in capfd.readouterr().out


def test_a_boot_image_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vmlinuz: neither symbols nor debug information, but BTF."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)
    import zstandard

    with KERNEL.open("rb") as raw, (tmp_path / "vmlinux").open("wb") as out:
        zstandard.ZstdDecompressor().copy_stream(raw, out)
    forms.stripped(tmp_path / "vmlinux", tmp_path / "image", tmp_path / "debug")
    image = forms.boot_image(tmp_path / "image", tmp_path / "vmlinuz")
    (tmp_path / "vmlinux").unlink()
    (tmp_path / "debug").unlink()
    (tmp_path / "vmcore").write_bytes(SAMPLE.read_bytes())  # away from the sample's vmlinux
    dump = crashpy.open(image, tmp_path / "vmcore")
    assert dump.symtab is not None
    assert "session_dispatch" in "\n".join(Session(dump).run("bt"))
