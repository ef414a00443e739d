"""Thousands of command lines in crash and crashpy on fresh dumps, compared whole.

    pytest -m live [-k 6.1-kdump]

Writes a table of what differs to live-report.txt in the folder of the dumps.
"""

import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from compare import deviations, differences, unnumbered
from driver import Driver, ask

pytestmark = pytest.mark.live

sys.path.insert(0, str(Path(__file__).parent))
HERE = Path(__file__).parent
LISTS = sorted([*HERE.glob("commands/*.txt"), *HERE.parent.glob("golden/commands/*.txt")])
KINDS = [
    f"{series}-{kind}"
    for series in ("6.1", "6.12")
    for kind in ("kdump-elf", "kdump-c.d31", "qemu-qemu-elf")
]
IDENTICAL_PERCENT = 95


@pytest.mark.parametrize("kind", KINDS)
def test_prints_what_crash_prints(kind, tmp_path):
    import dumps

    dump = next(d for d in dumps.live_dumps() if d.name == kind)
    (tmp_path / "vmlinux").symlink_to(dump.vmlinux)
    (tmp_path / "vmcore").symlink_to(dump.vmcore)
    ours = shutil.which("crashpy", path=str(Path(sys.executable).parent))
    assert ours, "crashpy is not installed beside this Python: pip install ."
    arguments = ["-s", "--no_crashrc", "vmlinux", "vmcore"]
    compared: Counter[str] = Counter()
    report: list[str] = []
    listed: list[str] = []
    with (
        Driver([str(dumps.crash()), *arguments], tmp_path) as crash,
        Driver([ours, *arguments], tmp_path) as crashpy,
    ):
        for path, expected in ask(crash, LISTS):
            got = crashpy.run(expected.line)
            if expected.died:  # its next session knows nothing of what was set in this one
                crashpy.restart()
            assert "Traceback (most recent call last)" not in got.printed, expected.line
            if unnumbered(expected.printed) == unnumbered(got.printed) and not expected.died:
                compared["identical"] += 1
            elif not (diff := differences(kind, expected.line, expected.printed, got.printed)):
                compared["deviation"] += 1
                listed.append(f"-- listed: {path.stem}: {expected.line}")
            else:
                compared["different"] += 1
                report += [f"== {path.stem}: {expected.line}", *diff[:20]]
    table = f"{kind}: {dict(compared)}, {len(deviations())} deviations listed"
    (dumps.KEPT / f"live-report-{kind}.txt").write_text("\n".join([table, *report, *listed]) + "\n")
    lines = compared.total() or 1
    assert 100 * (lines - compared["different"]) / lines >= IDENTICAL_PERCENT, table
