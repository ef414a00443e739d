"""Dumps without their vmlinux: everything that BTF, kallsyms and ORC can tell, as with it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import forms
import pytest
from bare import alike, compared, declared, known_differences
from drgn import FaultError, Object, Program

import crashpy
from crashpy.cli import main
from crashpy.opening import OpeningError, OpenOptions
from crashpy.opening.bare import describe
from crashpy.opening.btf import Btf, Kind
from crashpy.opening.kallsyms import read_kallsyms
from crashpy.opening.program import start
from crashpy.opening.symtab import Columns
from crashpy.session import Session
from crashpy.vmcore.recognise import Vmcore, recognise

EXAMPLES = Path(__file__).parent.parent / "examples"
KERNEL = EXAMPLES / "vmlinux.zst"
SAMPLE = EXAMPLES / "vmcore-null"


@pytest.fixture(scope="module")
def bare() -> Session:
    return Session(crashpy.open(SAMPLE, debuginfo="btf"))


def test_nine_lines_of_ten_are_the_same_and_the_rest_is_explained() -> None:
    pairs = compared(KERNEL, SAMPLE)
    identical = sum(pair.identical for pair in pairs)
    unexplained = {pair.line: pair.unexplained[:8] for pair in pairs if pair.unexplained}
    assert not unexplained
    assert identical >= 0.9 * len(pairs)


STACKS = {
    "vmcore-null": "session_dispatch at .* [crashme]",  # an oops in a module
    "vmcore-irq": "--- <IRQ stack> ---",
    "vmcore-softlockup": "[exception RIP: spin_holder+34]",  # the same in a module
    "vmcore-abba": "mutex_lock",
}


def test_no_dump_is_forgotten() -> None:
    assert {path.name for path in EXAMPLES.glob("vmcore-*")} == STACKS.keys()


@pytest.mark.parametrize("dump", STACKS)
def test_the_stacks_of_all_tasks(dump: str, tmp_path: Path) -> None:
    (tmp_path / "stacks.txt").write_text("foreach bt\nbt -a\nforeach bt -f\n")
    pairs = compared(KERNEL, EXAMPLES / dump, [tmp_path / "stacks.txt"])
    assert [pair.identical for pair in pairs] == [True] * 3
    assert re.search(re.escape(STACKS[dump]).replace(r"\.\*", ".*"), pairs[0].bare)


def test_every_difference_has_a_reason() -> None:
    assert all(
        len(known.reason) > 20 or known.reason == "As above." for known in known_differences()
    )


def test_declared_types_are_dwarfs(bare: Session, opened: Callable[[str], Session]) -> None:
    count, different = declared(opened("vmcore-null").dump.prog, bare.dump.prog)
    assert count > 4000
    assert not different


def test_per_cpu_variables_are_dwarfs(bare: Session, opened: Callable[[str], Session]) -> None:
    dwarf = opened("vmcore-null").dump.prog
    begin, end = (dwarf.symbol(f"__{edge}_BTF").address for edge in ("start", "stop"))
    compared, different = 0, []
    for name, _ in Btf(dwarf, dwarf.read(begin, end - begin)).named([Kind.VAR]):
        try:
            wanted, found = dwarf.variable(name), bare.dump.prog.variable(name)
        except LookupError:
            continue
        compared += 1
        if wanted.address_ != found.address_ or not alike(wanted.type_, found.type_):
            different.append(name)
    assert compared > 200
    assert not different


def test_char_is_the_kernels(bare: Session, opened: Callable[[str], Session]) -> None:
    signed = opened("vmcore-null").dump.prog.type("char").is_signed
    assert bare.dump.prog.type("char").is_signed == signed


def test_the_banner_says_what_is_missing(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--no_crashrc", "--debuginfo", "btf", "-c", "sys", str(SAMPLE)]) == 0
    shown = capfd.readouterr()
    assert "KERNEL: [BTF in the dump]" in shown.out
    assert shown.err == (
        "WARNING: no vmlinux with debug information: types are from BTF, symbols from kallsyms;"
        " source lines, inline frames and local variables are not available\n"
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("bt -l", "bt: line numbers are not available"),
        ("foreach 1 bt -l", "foreach: line numbers are not available"),
        (
            "p trampoline_lock",
            "p: 'trampoline_lock' has unknown type; cast it to its declared type",
        ),
        ("p sizeof(trampoline_lock)", "p: has unknown type; cast it to its declared type"),
        ("whatis trampoline_lock", "whatis: cannot resolve: trampoline_lock"),
        ("struct nosuch", "struct: invalid data structure reference: nosuch"),
    ],
)
def test_what_is_missing_is_said_where_it_is_asked_for(bare: Session, line: str, said: str) -> None:
    assert said in "\n".join(bare.run(line)).splitlines()


def test_a_variable_of_unknown_type_is_said_where_a_command_needs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("crashpy.opening.finder.declarations", dict)
    session = Session(crashpy.open(SAMPLE, debuginfo="btf"))
    assert "\n".join(session.run("mount")) == (
        "mount: could not find 'init_task': only with its vmlinux is its type known,"
        " if there is such a variable"
    )


def test_a_kernel_named_is_not_asked_where_btf_is_wanted() -> None:
    dump = crashpy.open(KERNEL, SAMPLE, debuginfo="btf")
    assert dump.symtab is not None
    assert dump.kernel == str(KERNEL)


def test_a_source_of_types_that_there_is_not() -> None:
    with pytest.raises(OpeningError, match="debuginfo=ctf: not one of auto, dwarf, btf"):
        crashpy.open(SAMPLE, debuginfo="ctf")


def test_the_log_of_a_split_set(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """All of its files are read, in whatever order they are named, or one is."""
    parts = forms.split(SAMPLE, [tmp_path / f"part{i}" for i in range(3)])
    logs = []
    for files in ([SAMPLE], parts, parts[::-1], parts[1:2]):
        assert main(["--log", *map(str, files)]) == 0
        logs.append(capfd.readouterr().out)
    assert "Linux version 6.12.117-sample" in logs[0]
    assert set(logs) == {logs[0]}


def test_a_log_that_cannot_be_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = SAMPLE.read_bytes().replace(b"SYMBOL(prb)=", b"SYMBOL(pbr)=")
    (tmp_path / "vmcore").write_bytes(data)
    assert main(["--log", str(tmp_path / "vmcore")]) == 1
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err == "crashpy: VMCOREINFO does not tell where the kernel's log is\n"


# Damage: an overlay on the dump's memory. Each says in a sentence what is wrong.

Overlay = tuple[int, int, Callable[[int, int], bytes]]  # from, bytes, what is read there


def _program(vmcore: Vmcore) -> Program:
    return start([vmcore], OpenOptions())


@pytest.fixture
def vmcore() -> Vmcore:
    found = recognise(str(SAMPLE))
    assert found
    return found


@pytest.fixture(scope="module")
def address(bare: Session) -> Callable[[str], int]:
    return lambda name: bare.dump.prog.symbol(name).address


@pytest.fixture
def damaged(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """From now on dumps open with these overlays."""

    def lay(*overlays: Overlay) -> None:
        def overlaid(files: Sequence[Vmcore], options: OpenOptions) -> Program:
            prog = start(files, options)
            for begin, size, read in overlays:
                prog.add_memory_segment(
                    begin, size, lambda at, count, *_, read=read: read(at, count)
                )
            return prog

        monkeypatch.setattr("crashpy.opening.start.start", overlaid)

    return lay


@pytest.fixture
def refused(damaged: Callable[..., None], capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What crashpy says when it does not open a dump so damaged; its log is there all the same."""

    def sentence(*overlays: Overlay, path: Path = SAMPLE) -> str:
        damaged(*overlays)
        assert main(["--no_crashrc", "--debuginfo", "btf", str(path)]) == 1
        shown = capfd.readouterr()
        assert shown.out == ""
        assert shown.err.startswith(f"crashpy: {path}: ")
        assert shown.err.count("\n") == 1
        assert "Traceback" not in shown.err
        assert "vmlinux" in shown.err
        assert main(["--log", str(path)]) == 0
        assert "Linux version 6.12.117-sample" in capfd.readouterr().out
        return shown.err

    return sentence


def excluded(at: int, _count: int) -> bytes:
    raise FaultError("page excluded", at)


def filled(byte: bytes) -> Callable[[int, int], bytes]:
    return lambda _at, count: byte * count


@pytest.mark.parametrize("page", [0, 3, 100])
def test_excluded_btf(
    page: int, address: Callable[[str], int], refused: Callable[..., str]
) -> None:
    said = refused((address("__start_BTF") + page * 4096, 4096, excluded))
    assert "the kernel's BTF cannot be read from the dump (" in said
    assert "page excluded" in said


@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"A"])
@pytest.mark.parametrize("place", [0, 24, 0x1000, 0x40000])
def test_btf_overwritten(
    place: int, fill: bytes, address: Callable[[str], int], refused: Callable[..., str]
) -> None:
    said = refused((address("__start_BTF") + place, 8192, filled(fill)))
    assert "the kernel's BTF cannot be read from the dump (" in said


@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"A", b"\x01"])
def test_names_of_btf_overwritten(
    fill: bytes, address: Callable[[str], int], refused: Callable[..., str]
) -> None:
    begin, end = address("__start_BTF"), address("__stop_BTF")
    said = refused((begin + (end - begin) * 3 // 4, 8192, filled(fill)))
    assert "BTF is damaged: some of its names are none" in said


TABLES = ("names", "offsets", "token_table", "token_index", "num_syms", "relative_base")


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("damage", [filled(b"\0"), filled(b"A"), excluded])
def test_kallsyms_damaged(
    table: str, damage: Callable[[int, int], bytes], vmcore: Vmcore, refused: Callable[..., str]
) -> None:
    at = int(vmcore.vmcoreinfo[f"SYMBOL(kallsyms_{table})"], 16)
    assert "symbol" in refused((at, 4096, damage))


@pytest.mark.parametrize("damage", [filled(b"\0"), filled(b"A"), filled(b"\x7f"), excluded])
def test_names_damaged_in_the_middle(
    damage: Callable[[int, int], bytes], vmcore: Vmcore, refused: Callable[..., str]
) -> None:
    names, tokens = (
        int(vmcore.vmcoreinfo[f"SYMBOL(kallsyms_{table})"], 16)
        for table in ("names", "token_table")
    )
    middle = (names + tokens) // 2
    assert "the kernel's symbol table" in refused((middle, 4096, damage))


def test_a_kernel_without_btf(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    _renamed(monkeypatch, lambda _letter, name: "no_BTF" if name == "__start_BTF" else name)
    assert "carries no BTF (CONFIG_DEBUG_INFO_BTF is off)" in refused()


def test_a_kernel_that_names_its_functions_alone(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _renamed(monkeypatch, lambda letter, name: name if letter in "tTwW" else "lost")
    assert "functions alone (CONFIG_KALLSYMS_ALL is off)" in refused()


def _renamed(monkeypatch: pytest.MonkeyPatch, rename: Callable[[str, str], str]) -> None:
    def renamed(prog: Program, vmcoreinfo: Mapping[str, str]) -> Columns:
        found = read_kallsyms(prog, vmcoreinfo)
        pairs = zip(found.letters, found.names, strict=True)
        return found._replace(names=[rename(letter, name) for letter, name in pairs])

    monkeypatch.setattr("crashpy.opening.bare.read_kallsyms", renamed)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A dump of a kernel that does not tell its symbols."""
    data = SAMPLE.read_bytes().replace(b"SYMBOL(kallsyms_", b"SYMBOL(mallsyms_")
    (tmp_path / "vmcore-old").write_bytes(data)
    return tmp_path / "vmcore-old"


def test_symbols_are_searched_where_vmcoreinfo_does_not_tell(old: Path, bare: Session) -> None:
    session = Session(crashpy.open(old, debuginfo="btf"))
    for line in ("bt", "sym -l", "ps"):
        assert list(session.run(line)) == list(bare.run(line))


@pytest.mark.parametrize("table", ["names", "token_table", "token_index", "num_syms"])
def test_symbols_that_are_not_found(
    table: str, old: Path, vmcore: Vmcore, refused: Callable[..., str]
) -> None:
    at = int(vmcore.vmcoreinfo[f"SYMBOL(kallsyms_{table})"], 16)
    said = refused((at, 512, filled(b"\0")), path=old)
    assert "VMCOREINFO does not say where this kernel keeps its symbols" in said
    assert "or its System.map (--kallsyms)" in said


def test_a_program_of_its_own_ends_likewise(old: Path, tmp_path: Path) -> None:
    (tmp_path / "System.map").write_text("ffffffff81000000 T _text\n")
    ran = subprocess.run(
        [sys.executable, "-P", "-m", "crashpy", "--no_crashrc", "--kallsyms", "System.map", old],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert ran.stderr == (
        "crashpy: System.map: its addresses are not those of the dump's kernel"
        " 6.12.117-sample: it belongs to another one\n"
    )


def test_the_modules_types_may_be_lost(bare: Session, vmcore: Vmcore) -> None:
    """One whose base is not the kernel's BTF (.BTF.base, not yet loaded), one that is excluded."""
    known = {entry.module.name.string_(): entry.btf for entry in _btf_modules(bare.dump.prog)}
    prog = _program(vmcore)
    pointer = known[b"minix"].base_btf.address_of_().value_()
    prog.add_memory_segment(pointer, 8, lambda *_: bytes(8))
    data = known[b"loop"].data.value_()
    prog.add_memory_segment(data, 4096, lambda at, *_: excluded(at, 0))
    describe(prog, vmcore.vmcoreinfo)
    assert prog.type("struct ext2_sb_info").size
    for name in ("struct minix_sb_info", "struct loop_cmd"):
        assert bare.dump.prog.type(name).size
        with pytest.raises(LookupError):
            prog.type(name)


def test_a_list_of_the_modules_types_without_an_end(
    bare: Session,
    vmcore: Vmcore,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("crashpy.opening.bare.log.propagate", True)
    first, second = [*_btf_modules(bare.dump.prog)][:2]
    prog = _program(vmcore)
    back = first.list.address_of_().value_().to_bytes(8, "little")
    prog.add_memory_segment(second.list.next.address_of_().value_(), 8, lambda *_: back)
    describe(prog, vmcore.vmcoreinfo)
    with pytest.raises(LookupError):
        prog.type("struct nosuch")
    last = second.module.name.string_().decode()
    assert f"types of the modules after {last}: their list runs in a circle" in caplog.text


def test_types_of_a_module_of_no_likely_size(
    bare: Session, vmcore: Vmcore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crashpy.opening.bare.log.propagate", True)
    known = {entry.module.name.string_(): entry.btf for entry in _btf_modules(bare.dump.prog)}
    prog = _program(vmcore)
    size = known[b"loop"].data_size.address_of_().value_()
    prog.add_memory_segment(size, 4, lambda *_: b"\xff\xff\xff\xff")
    describe(prog, vmcore.vmcoreinfo)
    assert prog.type("struct minix_sb_info").size
    with pytest.raises(LookupError):
        prog.type("struct loop_cmd")
    assert "types of module loop: they would be of 4294967295 bytes" in caplog.text


def test_opening_reads_no_types_of_modules(vmcore: Vmcore, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are many, and only wanted for what the kernel's own do not tell."""
    asked: list[object] = []
    monkeypatch.setattr("crashpy.opening.bare._module_types", lambda *_: asked.append(1))
    prog = _program(vmcore)
    describe(prog, vmcore.vmcoreinfo)
    assert prog["modules"].address_
    assert prog["init_task"].pid == 0
    assert not asked
    with pytest.raises(LookupError):
        prog.type("struct nosuch")
    assert asked


@pytest.mark.parametrize("pointer", [0, 1, 1 << 63, (1 << 64) - 8])
def test_a_module_that_points_nowhere(
    pointer: int, bare: Session, damaged: Callable[..., None]
) -> None:
    """The list breaks off there, and nothing else does."""
    [module] = [each for each in bare.dump.symbols.modules if each.name == "loop"]
    at = _next_of(bare.dump.prog, module.address)
    damaged((at, 8, lambda *_: pointer.to_bytes(8, "little")))
    session = Session(crashpy.open(SAMPLE, debuginfo="btf"))
    names = [each.name for each in session.dump.symbols.modules]
    assert "loop" in names
    for line in ("bt 1", "sym schedule", "whatis jiffies"):
        assert list(session.run(line)) == list(bare.run(line))
    assert any("the list of modules" in text for text in session.run("mod"))


def _next_of(prog: Program, module: int) -> int:
    found = Object(prog, "struct module", address=module).list.next.address_of_().value_()
    assert isinstance(found, int)
    return found


def _btf_modules(prog: Program) -> Iterator[Object]:
    from drgn.helpers.linux.list import list_for_each_entry

    head = prog["btf_modules"].address_of_()
    yield from list_for_each_entry("struct btf_module", head, "list")


def test_the_list_of_modules_may_be_lost(vmcore: Vmcore, address: Callable[[str], int]) -> None:
    prog = _program(vmcore)
    prog.add_memory_segment(address("modules"), 16, lambda at, *_: excluded(at, 0))
    _, missing = describe(prog, vmcore.vmcoreinfo)
    assert "the list of modules" in missing[-1]
    assert prog.type("struct task_struct").size


# Other sources of symbols and types


@pytest.fixture
def symbols(vmcore: Vmcore) -> list[tuple[int, str, str]]:
    return list(zip(*read_kallsyms(_program(vmcore), vmcore.vmcoreinfo), strict=True))


@pytest.fixture
def unsearched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crashpy.opening.bare.find_tables", lambda *_: None)


@pytest.mark.usefixtures("unsearched")
@pytest.mark.parametrize("moved", [True, False], ids=["System.map", "kallsyms"])
def test_a_file_of_symbols_will_do(
    moved: bool, old: Path, vmcore: Vmcore, symbols: list[tuple[int, str, str]], tmp_path: Path
) -> None:
    """A System.map, from before KASLR moved the kernel, or what /proc/kallsyms said."""
    offset = int(vmcore.vmcoreinfo["KERNELOFFSET"], 16)
    assert offset
    lines = [
        f"{address - offset * (moved and address > 1 << 32):016x} {letter} {name}\n"
        for address, letter, name in symbols
    ]
    if not moved:
        lines.append("ffffffffc01bb000 t session_account\t[crashme]\n")
    (tmp_path / "System.map").write_text("".join(lines))
    session = Session(crashpy.open(old, debuginfo="btf", kallsyms=str(tmp_path / "System.map")))
    assert "session_dispatch at ffffffffc01bb020 [crashme]" in "\n".join(session.run("bt"))
    [schedule] = [address for address, _, name in symbols if name == "schedule"]
    assert list(session.run("sym schedule")) == [f"{schedule:x} (T) schedule "]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing of the kind\n", "neither a System.map nor a copy of /proc/kallsyms"),
        ("ffffffffffffffff B The real System.map is in a package\n", "neither a System.map"),
        ("0000000000000000 T _text\n", "saved without CAP_SYSLOG"),
        ("ffffffff81000010 T _stext\n", "it belongs to another one"),
    ],
)
def test_a_file_of_no_use(text: str, said: str, old: Path, tmp_path: Path) -> None:
    (tmp_path / "System.map").write_text(text)
    with pytest.raises(OpeningError, match=said):
        crashpy.open(old, debuginfo="btf", kallsyms=str(tmp_path / "System.map"))


def test_a_boot_image_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damaged: Callable[..., None],
    address: Callable[[str], int],
) -> None:
    """vmlinuz: neither symbols nor debug information, but BTF, which the dump then may lack."""
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
    damaged((address("__start_BTF"), 1 << 20, excluded))
    dump = crashpy.open(image, tmp_path / "vmcore")
    assert dump.symtab is not None
    assert dump.kernel == str(image)
    assert "session_dispatch" in "\n".join(Session(dump).run("bt"))
