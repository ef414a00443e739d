"""What save sends to each server, opened by crash: it says the same as of the core.

pytest -m live tests/live/test_save_live.py
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.live

sys.path.insert(0, str(Path(__file__).parent))
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def vmlinux(tmp_path_factory):
    path = tmp_path_factory.mktemp("kernel") / "vmlinux"
    subprocess.run(["zstd", "-dq", EXAMPLES / "vmlinux.zst", "-o", path], check=True)
    return path


@pytest.fixture(scope="module")
def core(vmlinux):
    return shutil.copy(EXAMPLES / "vmcore-null", vmlinux.parent)


@pytest.fixture(scope="module")
def wanted(vmlinux, core):
    import dumps
    from test_convert_live import looked_at

    return looked_at(dumps.crash(), vmlinux, core)


@pytest.mark.parametrize("protocol", ["sftp", "ssh", "ftp", "cifs", "nfs"])
def test_saved_dump_opens_in_crash(protocol, vmlinux, core, wanted, tmp_path):
    import dumps
    from places import place
    from test_convert_live import LOOKS, looked_at

    from crashpy.cli import main

    with place(protocol) as where:
        words = ["save", "-q", *where.options, str(core), where.url()]
        assert main(words) == 0
        [name] = {found.partition("/")[0] for found in where.found()}
        assert (
            main(["save", "fetch", "-q", *where.options, f"{where.url()}/{name}", str(tmp_path)])
            == 0
        )
    said = looked_at(dumps.crash(), vmlinux, tmp_path / name / "vmcore")
    for line in LOOKS.splitlines():
        assert said[line] == wanted[line], line
