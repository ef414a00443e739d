"""Start to prompt, and the bulk commands: crash, drgn's crash mode and crashpy in turn.

    pytest -m bench -s

Each round runs every program once, so that a noisy machine disturbs all alike; the
least wall time counts. The budgets are design figures: see README, "Speed".
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.bench

sys.path.insert(0, str(Path(__file__).parent.parent / "live"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))


@dataclass
class Cost:
    seconds: float = float("inf")  # wall, least of all rounds
    kib: int = 0  # greatest resident memory


def _run(argv: list[str], commands: str, cwd: Path, cost: Cost) -> None:
    script = cwd / "commands"
    script.write_text(commands)
    began = time.monotonic()
    with script.open() as stdin, (cwd / "out").open("wb") as out:
        process = subprocess.Popen(argv, stdin=stdin, stdout=out, stderr=out, cwd=cwd)
        _, status, usage = os.wait4(process.pid, 0)
    cost.seconds = min(cost.seconds, time.monotonic() - began)
    cost.kib = max(cost.kib, usage.ru_maxrss)
    assert os.waitstatus_to_exitcode(status) == 0, (cwd / "out").read_text(errors="replace")[-500:]


@pytest.mark.parametrize(
    ("commands", "drgn", "most_wall", "most_memory"),
    [
        pytest.param("quit\n", "quit\n", 1 / 7, 1 / 2, id="start"),
        pytest.param("kmem -p > pages\nquit\n", "", 1 / 3, 1, id="kmem -p"),
        pytest.param("kmem -s > slabs\nquit\n", "", 1 / 3, 1, id="kmem -s"),
        pytest.param("foreach bt > stacks\nquit\n", "", 1, 1, id="foreach bt"),
        pytest.param("sym -l > symbols\nquit\n", "", 1, 1, id="sym -l"),
    ],
)
def test_against_crash(commands, drgn, most_wall, most_memory, tmp_path, capsys):
    import dumps

    dump = next(d for d in dumps.live_dumps() if d.name == "6.1-kdump-elf")
    beside = Path(sys.executable).parent
    programs = {
        "crash": [str(dumps.crash()), "-s"],
        "crashpy": [str(shutil.which("crashpy", path=str(beside))), "-s"],
    }
    if drgn:
        programs["drgn-crash"] = [str(shutil.which("drgn-crash", path=str(beside)))]
    costs = {name: Cost() for name in programs}
    for _ in range(ROUNDS):
        for name, argv in programs.items():
            words = drgn if name == "drgn-crash" else commands
            _run([*argv, str(dump.vmlinux), str(dump.vmcore)], words, tmp_path, costs[name])
    crash = costs["crash"]
    with capsys.disabled():
        for name, cost in costs.items():
            print(  # noqa: T201
                f"\n{name:11} {cost.seconds:6.2f} s  {cost.kib / 1024:6.0f} MiB"
                f"  wall 1/{crash.seconds / cost.seconds:.1f}  memory 1/{crash.kib / cost.kib:.1f}",
                end="",
            )
    assert costs["crashpy"].seconds <= crash.seconds * most_wall
    assert costs["crashpy"].kib <= crash.kib * most_memory
