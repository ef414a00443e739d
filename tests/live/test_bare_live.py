"""Fresh dumps of Debian kernels without their vmlinux: as with it, and as quick to open.

    pytest -m live tests/live/test_bare_live.py

Writes what is not explained to live-bare-DUMP.txt in the folder of the dumps.
"""

import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

from bare import LISTS, LIVE_LISTS, compared, declared, sessions
from driver import peak_mib

import crashpy
from crashpy.opening.tables import TABLES, find_tables

pytestmark = pytest.mark.live
KDUMPS = [f"{series}-kdump-{form}" for series in ("6.1", "6.12") for form in ("elf", "c.d31")]
KINDS = [*KDUMPS, "6.1-qemu-qemu-elf", "6.12-qemu-qemu-elf"]
MOST_MIB = 120
MOST_TIMES = 1.5
RUNS = 5


@pytest.fixture(params=KINDS)
def dump(request):
    import dumps

    return next(d for d in dumps.live_dumps() if d.name == request.param)


@pytest.mark.parametrize("files", ["no files", "modules' files"])
def test_nine_lines_of_ten_are_the_same_and_the_rest_is_explained(dump, files):
    import dumps

    modules = dump.modules if files == "modules' files" else None
    pairs = compared(dump.vmlinux, dump.vmcore, [*LISTS, *LIVE_LISTS], modules=modules)
    identical = sum(pair.identical for pair in pairs)
    report = [x for p in pairs if p.unexplained for x in (f"== {p.line}", *p.unexplained[:20])]
    table = f"{dump.name}, {files}: {identical} of {len(pairs)} identical"
    kept = dumps.KEPT / f"live-bare-{dump.name}{'-modules' if modules else ''}.txt"
    kept.write_text("\n".join([table, *report]) + "\n")
    assert not report, table
    assert identical >= 0.9 * len(pairs), table


def test_the_stacks_of_all_tasks(dump, tmp_path):
    (tmp_path / "stacks.txt").write_text("foreach bt\nbt -a\nforeach bt -f\n")
    pairs = compared(dump.vmlinux, dump.vmcore, [tmp_path / "stacks.txt"])
    assert [pair.identical for pair in pairs] == [True] * 3


def test_declared_types_are_dwarfs(dump):
    dwarf, bare = sessions(dump.vmlinux, dump.vmcore)
    count, different = declared(dwarf.dump.prog, bare.dump.prog)
    assert count > 9000
    assert not different


def test_the_symbols_are_where_a_search_finds_them(dump):
    """As in a dump of a kernel before 6.0; 6.1 keeps them in that order, 6.12 in another."""
    opened = crashpy.open(dump.vmcore, debuginfo="btf")
    told = {key: int(opened.vmcoreinfo[key], 16) for key in TABLES}
    silent = {key: value for key, value in opened.vmcoreinfo.items() if key not in TABLES}
    found = find_tables(opened.prog, silent)
    assert {key: int(value, 16) for key, value in found.items()} == told


def test_quick_and_small(dump):
    """Best of several runs, one with vmlinux and one without in turn."""
    argv = [sys.executable, "-P", "-m", "crashpy", "--no_crashrc"]
    best = {}
    for _ in range(RUNS):
        for kind, files in (("dwarf", [dump.vmlinux, dump.vmcore]), ("btf", [dump.vmcore])):
            began = time.monotonic()
            subprocess.run(
                [*argv, "--debuginfo", kind, *files],
                input=b"exit\n",
                check=True,
                capture_output=True,
            )
            best[kind] = min(best.get(kind, 1e9), time.monotonic() - began)
    assert best["btf"] <= MOST_TIMES * best["dwarf"], best
    for lines in ([], ["bt"], ["foreach bt", "ps"]):
        commands = [word for line in lines for word in ("-c", line)]
        words = ["--no_crashrc", "--debuginfo", "btf", *commands, str(dump.vmcore)]
        assert peak_mib(words) < MOST_MIB, lines
