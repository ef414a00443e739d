"""Dumps filtered and packed: makedumpfile and crashpy in turn, on a dump of more than 4 GiB.

    pytest -m bench -s tests/bench/test_convert.py

Both write to memory (/dev/shm) and read from the page cache, so that no disk is measured.
Each round runs both once, so that a noisy machine disturbs both; the least wall time of
the rounds counts. With two threads both processors must be free.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.bench

sys.path.insert(0, str(Path(__file__).parent.parent / "live"))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
MOST_MIB = 150


@dataclass
class Cost:
    wall: float = float("inf")  # seconds, least of all rounds
    cpu: float = float("inf")
    mib: float = 0  # greatest resident memory
    size: int = 0  # of what was written

    def run(
        self, words: list[str], target: Path, environment: dict[str, str], source: Path
    ) -> None:
        target.unlink(missing_ok=True)
        began = time.monotonic()
        with source.open("rb") as stdin:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            process = subprocess.Popen(words, stdin=stdin, env=environment, **quiet)
            _, status, usage = os.wait4(process.pid, 0)
        self.wall = min(self.wall, time.monotonic() - began)
        assert os.waitstatus_to_exitcode(status) == 0, words
        self.cpu = min(self.cpu, usage.ru_utime + usage.ru_stime)
        self.mib = max(self.mib, usage.ru_maxrss / 1024)
        self.size = target.stat().st_size


@pytest.fixture(scope="module")
def room() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def makedumpfile() -> str:
    import dumps

    dumps.crash()
    return str(dumps.REFERENCE / "makedumpfile")


@pytest.fixture(scope="module")
def dump() -> Path:
    import guests

    path = guests.dump_of(guests.big_guest())
    assert path.stat().st_size >= 4 << 30
    with path.open("rb") as file:  # into the page cache
        while file.read(1 << 24):
            pass
    return path


@pytest.fixture(scope="module")
def environment(room: Path) -> dict[str, str]:
    """As installed: modules are compiled once, not at every start."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": str(room / "compiled")}


def crashpy() -> str:
    return str(shutil.which("crashpy", path=str(Path(sys.executable).parent)))


def race(
    capsys: pytest.CaptureFixture[str],
    name: str,
    runs: tuple[list[str], list[str]],
    target: Path,
    environment: dict[str, str],
    source: Path,
) -> float:
    """How much faster the second is than the first."""
    theirs, ours = Cost(), Cost()
    Cost().run(runs[1], target, environment, source)  # compiles the modules
    for _ in range(ROUNDS):
        theirs.run(runs[0], target, environment, source)
        ours.run(runs[1], target, environment, source)
    gain = theirs.wall / ours.wall
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{name:28} {theirs.wall:6.2f} s {ours.wall:6.2f} s  x {gain:4.2f} (cpu x"
            f" {theirs.cpu / ours.cpu:4.2f})  {theirs.mib:4.0f} {ours.mib:4.0f} MiB"
            f"  {theirs.size:11} {ours.size:11} bytes",
            end="",
        )
    assert ours.mib < MOST_MIB
    return gain


@pytest.mark.parametrize("level", [31, 1])
@pytest.mark.parametrize(
    ("packing", "threads", "least"),
    [("-c", 1, 1.3), ("-z", 1, 0.9), ("-z", 2, 1.3), ("-l", 1, 0.5)],
)
def test_against_makedumpfile(
    dump, makedumpfile, room, environment, capsys, level, packing, threads, least
):
    target = room / "vmcore"
    options = [packing, "-d", str(level)]
    runs = (
        [makedumpfile, *options, str(dump), str(target)],
        [crashpy(), "convert", *options, "--num-threads", str(threads), str(dump), str(target)],
    )
    name = f"{' '.join(options)}, {threads} thread{'s' * (threads > 1)}"
    assert race(capsys, name, runs, target, environment, dump) >= least


def test_unflattening(dump, makedumpfile, room, environment, capsys):
    flat, target = room / "flat", room / "vmcore"
    with flat.open("wb") as out:
        words = [makedumpfile, "-F", "-l", "-d", "1", str(dump)]
        subprocess.run(words, check=True, stdout=out, stderr=subprocess.DEVNULL)
    runs = (
        [makedumpfile, "-R", str(target)],
        [crashpy(), "convert", "-R", str(flat), str(target)],
    )
    assert race(capsys, "-R", runs, target, environment, flat) >= 1
