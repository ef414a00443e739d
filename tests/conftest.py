"""Real dumps, and what the real crash printed about them.

examples/ holds the sample dumps; golden/DUMP/COMMAND.txt is what crash 9.0.2 prints
about them (golden/record.py), and deviations.toml lists where crashpy prints something
else on purpose.
"""

from __future__ import annotations

import functools
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import crashpy
from crashpy.session import Session
from crashpy.settings import Settings

HERE = Path(__file__).parent
ROOT = HERE.parent
EXAMPLES = ROOT / "examples"
GOLDEN = HERE / "golden"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Unpacked kernels go to a folder of this run, not to the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _signals() -> None:
    """What tests start heeds signals, even where the tests run in a shell's background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@functools.cache
def _opened(name: str) -> Session:
    dump = crashpy.open(str(EXAMPLES / "vmlinux.zst"), str(EXAMPLES / name))
    dump.kernel, dump.vmcore = "vmlinux", name  # as the recording session named them
    return Session(dump, Settings(silent=True, scroll=False))


@pytest.fixture(scope="session")
def examples() -> Path:
    """The folder of the sample dumps."""
    return EXAMPLES


@pytest.fixture(scope="session")
def opened() -> Callable[[str], Session]:
    """``opened("vmcore-null")``: a session on a sample dump, shared by all tests."""
    return _opened


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of `printed` runs for each command line recorded, on each dump."""
    if "printed" not in metafunc.fixturenames:
        return
    cases = [
        pytest.param(
            transcript.parent.name,
            *entry.split("\n", 1),
            id=f"{transcript.parent.name}:{entry.partition(chr(10))[0]}",
        )
        for transcript in sorted(GOLDEN.glob("vmcore-*/*.txt"))
        for entry in re.split(r"(?m)^crash> ", transcript.read_text())[1:]
    ]
    assert cases, "no recorded transcript: run tests/golden/record.py"
    metafunc.parametrize(("dump", "line", "printed"), cases)
