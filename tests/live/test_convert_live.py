"""What convert writes, against makedumpfile, and opened by crash, drgn and crashpy.

pytest -m live tests/live/test_convert_live.py
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from driver import peak_mib

from crashpy.convert import convert, verify
from crashpy.vmcore.memory import memory_of
from crashpy.vmcore.recognise import recognise

pytestmark = pytest.mark.live

sys.path.insert(0, str(Path(__file__).parent))
LEVELS = (0, 1, 17, 31)
LOOKS = "ps\nbt -a\nlog\nkmem -i\n"


def guest_called(name):
    import guests

    [found] = [guest for guest in guests.workload_guests() if guest.name == name]
    return found


@pytest.fixture(scope="module", params=["6.1-workload", "6.12-workload"])
def source(request):
    import guests

    return guests.dump_of(guest_called(request.param))


@pytest.fixture(scope="module")
def makedumpfile():
    import dumps

    dumps.crash()
    return dumps.REFERENCE / "makedumpfile"


def run(program, *words):
    command = [program, "--message-level", "1", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def same_bytes(one, other):
    return subprocess.run(["cmp", "-s", one, other], check=False).returncode == 0


@pytest.mark.parametrize("packing", ["-c", "-z", "-l"])
def test_exact_files_are_makedumpfiles(source, makedumpfile, packing, tmp_path):
    """From the ELF file, and from a kdump-compressed one that holds all of it."""
    whole, theirs, ours = (tmp_path / name for name in ("whole", "theirs", "ours"))
    run(makedumpfile, "-c", "-d", "0", source, whole)
    for level in LEVELS:
        for given in (source, whole):
            run(makedumpfile, packing, "-d", str(level), "-f", given, theirs)
            words = ["--exact", packing, "-d", str(level), "-f", str(given), str(ours)]
            assert convert(words) == 0
            assert same_bytes(ours, theirs), f"{packing} level {level} of {given.name}"


def test_exact_elf_files_are_makedumpfiles(source, makedumpfile, tmp_path):
    """makedumpfile itself makes none of a packed dump."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    for level in LEVELS:
        run(makedumpfile, "-E", "-d", str(level), "-f", source, theirs)
        assert convert(["-E", "-d", str(level), "-f", str(source), str(ours)]) == 0
        assert same_bytes(ours, theirs), f"level {level}"


def test_what_is_erased_is_erased_the_same(makedumpfile, tmp_path):
    import dumps

    dump = next(d for d in dumps.live_dumps() if d.name == "6.1-kdump-elf")
    things = ("init_uts_ns.name.nodename", "saved_command_line", "init_task.cred size 16")
    (tmp_path / "conf").write_text("[vmlinux]\n" + "".join(f"erase {t}\n" for t in things))
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    said = ["-x", dump.vmlinux, "--config", tmp_path / "conf"]
    run(makedumpfile, "-c", "-d", "31", *said, dump.vmcore, theirs)
    erase = [word for thing in things for word in ("--erase", thing)]
    options = ["--exact", "-c", "-d", "31", "-x", str(dump.vmlinux), *erase]
    assert convert([*options, str(dump.vmcore), str(ours)]) == 0
    assert same_bytes(ours, theirs)
    assert looked_at(dumps.crash(), dump.vmlinux, ours)["ps"]
    assert looked_at(crashpy(), dump.vmlinux, ours)["ps"]


def crashpy():
    return str(shutil.which("crashpy", path=str(Path(sys.executable).parent)))


def looked_at(program, vmlinux, *files):
    """What each command of LOOKS says."""
    with tempfile.NamedTemporaryFile("w") as script:
        script.writelines(f"!echo === {line}\n{line}\n" for line in LOOKS.splitlines())
        script.write("quit\n")
        script.flush()
        argv = [program, "-s", "-i", script.name, vmlinux, *files]
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False
        )
    parts = re.split(r"^=== (.*)\n", done.stdout, flags=re.MULTILINE)
    assert len(parts) > 2 * LOOKS.count("\n"), done.stdout[-500:] + done.stderr[-500:]
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def drgn_sees(vmlinux, file):
    """Tasks, the crashed one's stack, and the log, by drgn alone."""
    from drgn import Program
    from drgn.helpers.linux.pid import for_each_task
    from drgn.helpers.linux.printk import get_dmesg

    prog = Program()
    prog.set_core_dump(str(file))
    prog.load_debug_info([str(vmlinux)])
    tasks = [(task.pid.value_(), task.comm.string_()) for task in for_each_task(prog)]
    return tasks, str(prog.crashed_thread().stack_trace()), get_dmesg(prog)


@pytest.mark.parametrize("series", ["6.1", "6.12"])
def test_every_output_opens_everywhere_and_says_the_same(series, tmp_path):
    """Level 31 in every form; refiltered from level 1, split, joined, unflattened."""
    import dumps

    dump = next(d for d in dumps.live_dumps() if d.name == f"{series}-kdump-elf")
    source = str(dump.vmcore)
    outputs = {}
    forms = ("-c", "-l", "-p", "-z", "-q", "-E")
    for form in forms:
        outputs[form] = [tmp_path / f"form{form}"]
        assert convert([form, "-d", "31", source, str(outputs[form][0])]) == 0
    assert convert(["-z", "-d", "1", source, str(tmp_path / "one")]) == 0
    outputs["refiltered"] = [tmp_path / "refiltered"]
    assert convert(["-c", "-d", "31", str(tmp_path / "one"), str(tmp_path / "refiltered")]) == 0
    assert convert(["-c", "-d", "31", "--split", "3", source, str(tmp_path / "part")]) == 0
    outputs["split"] = [tmp_path / f"part.{n}" for n in (1, 2, 3)]
    outputs["joined"] = [tmp_path / "joined"]
    assert convert(["-l", *map(str, outputs["split"]), str(tmp_path / "joined")]) == 0
    outputs["to ELF"] = [tmp_path / "elf-of-packed"]
    assert convert(["-E", str(tmp_path / "form-c"), str(outputs["to ELF"][0])]) == 0
    outputs["back"] = [tmp_path / "packed-of-elf"]
    assert convert(["-z", str(outputs["to ELF"][0]), str(outputs["back"][0])]) == 0
    flat = tmp_path / "flattened"
    with flat.open("wb") as out:
        words = [crashpy(), "convert", "-F", "-z", "-d", "31", source]
        subprocess.run(words, stdout=out, check=True)
    outputs["flattened"] = [flat]
    outputs["unflattened"] = [tmp_path / "unflattened"]
    assert convert(["-R", str(flat), str(tmp_path / "unflattened")]) == 0
    assert same_bytes(tmp_path / "unflattened", tmp_path / "form-z")

    programs = (dumps.crash(), crashpy())
    whole, wanted = (
        {program: looked_at(program, dump.vmlinux, file) for program in programs}
        for file in (dump.vmcore, tmp_path / "form-c")
    )
    for line in ("ps", "bt -a", "log"):
        assert len({said[program][line] for said in (whole, wanted) for program in programs}) == 1
    by_drgn = drgn_sees(dump.vmlinux, dump.vmcore)
    for name, files in outputs.items():
        assert verify([*map(str, files)]) == 0, name
        for program in programs:
            said = looked_at(program, dump.vmlinux, *files)
            for line in LOOKS.splitlines():
                assert said[line] == wanted[program][line], f"{program}: {name}: {line}"
        if len(files) == 1:
            assert drgn_sees(dump.vmlinux, files[0]) == by_drgn, name


def test_pages_that_debians_makedumpfile_loses_are_missed(tmp_path, capsys):
    """Version 1.7.2 takes slab pages of Linux 6.12 for pages of processes."""
    import dumps

    old = "/usr/bin/makedumpfile"
    version = subprocess.run([old, "-v"], capture_output=True, text=True, check=True).stdout
    assert "1.7.2" in version, f"{old} is not Debian 12's: install its package makedumpfile"
    dump = next(d for d in dumps.live_dumps() if d.name == "6.12-kdump-elf")
    run(old, "-c", "-d", "31", dump.vmcore, tmp_path / "vmcore")
    assert verify([str(tmp_path / "vmcore")]) == 1
    said = capsys.readouterr().out
    assert re.search(r"\d+ pages that level 31 keeps are missing", said)
    assert "too old for this kernel" in said


def test_what_makedumpfile_could_not_finish(makedumpfile, tmp_path, capsys):
    """Its incomplete file and ours are marked alike: both open in crash, and in crashpy."""
    import dumps

    dump = next(d for d in dumps.live_dumps() if d.name == "6.1-kdump-elf")
    limit = ["-L", "15000000"]
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    words = [makedumpfile, "-c", "-d", "31", *limit, dump.vmcore, theirs]
    assert subprocess.run(words, capture_output=True, check=False).returncode != 0
    assert convert(["-c", "-d", "31", *limit, str(dump.vmcore), str(ours)]) == 1
    ours = tmp_path / "ours-incomplete"
    for file in (theirs, ours):
        assert recognise(str(file)).incomplete, file
        assert verify([str(file)]) == 1
        assert "marked as incomplete" in capsys.readouterr().out
        argv = [dumps.crash(), "-s", dump.vmlinux, file]
        done = subprocess.run(argv, input="quit\n", capture_output=True, text=True, check=False)
        assert "incomplete" in done.stdout + done.stderr
    packed = tmp_path / "packed"
    assert convert(["-c", "-L", "60000000", "-d", "0,31", str(dump.vmcore), str(packed)]) == 0
    assert memory_of([recognise(str(packed))]).level == 31


def test_five_and_four_levels_of_page_tables():
    """The two guests differ in them; kept pages were compared: here that they do differ."""
    import guests

    found = {
        memory_of([recognise(str(guests.dump_of(guest)))]).number("pgtable_l5_enabled")
        for guest in guests.workload_guests()
    }
    assert found == {0, 1}


def test_memory_does_not_grow_with_the_dump(tmp_path):
    """Peak of a process that packs 1 GiB, and of one that packs more than 4 GiB."""
    import guests

    peaks = []
    for guest in (guest_called("6.12-workload"), guests.big_guest()):
        target = tmp_path / guest.name
        words = ["convert", "-z", "-d", "1", "--num-threads", "2"]
        peaks.append(peak_mib([*words, str(guests.dump_of(guest)), str(target)]))
        target.unlink()
    assert max(peaks) < 150, peaks
    assert peaks[1] < peaks[0] * 1.4, peaks  # of four times the size


def test_a_dump_of_aarch64(tmp_path):
    """Its own makedumpfile wrote the reference in the guest."""
    import dumps

    tree, made = dumps.KEPT / "arm64-kernel", dumps.KEPT / "arm64"
    if not (made / "vmcore.elf").exists():
        dumps._tool("mkdump-arch", "--arch", "arm64", tree, "--get")
        dumps._tool("mkdump-arch", "--arch", "arm64", tree, made, "--kdump")
    for packing, level in (("-c", 31), ("-l", 31), ("-c", 0)):
        ours, theirs = tmp_path / "ours", made / f"vmcore{packing.replace('-', '.')}.d{level}"
        words = ["--exact", packing, "-d", str(level), "-f", str(made / "vmcore.elf"), str(ours)]
        assert convert(words) == 0
        assert same_bytes(ours, theirs), (packing, level)
