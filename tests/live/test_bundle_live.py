"""Bundles of Debian kernels, opened where neither the kernels nor the dumps can be found.

pytest -m live tests/live/test_bundle_live.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

import isolated

from crashpy.kdump import bundle

pytestmark = pytest.mark.live

COMMANDS = ("mod -S", "bt -a -l", "struct xfs_mount", "foreach bt", "dev -d", "kmem -i", "log")


@pytest.mark.parametrize("series", ["6.1", "6.12"])
def test_a_bundle_needs_nothing_else(series: str, tmp_path: Path) -> None:
    from dumps import KERNELS, live_dumps

    [dump] = [dump for dump in live_dumps() if dump.name == f"{series}-kdump-c.d31"]
    files = [str(dump.vmlinux), str(dump.vmcore)]
    folder = tmp_path / "bundle"
    debug = dump.modules.parent.parent.parent
    [image] = debug.parent.parent.parent.glob("boot/vmlinuz-*")
    assert bundle.main([str(image), *files, "--debug", str(debug), "--to", str(folder)]) == 0
    assert (folder / image.name).is_file()
    assert bundle.main(["--check", str(folder)]) == 0
    lines = [word for command in COMMANDS for word in ("-c", command)]
    hidden = [KERNELS, dump.vmcore.resolve().parent]
    alone = isolated.crashpy(hidden, str(folder), *lines)
    there = isolated.crashpy([], "--mod", str(dump.modules), *files, *lines)
    assert "struct xfs_mount {" in alone
    assert f"{folder}/modules/xfs.ko" in alone
    assert str(KERNELS) not in alone
    assert without_files(alone) == without_files(there)


def without_files(printed: str) -> list[str]:
    """But for the lines that name a module's file."""
    return [line for line in printed.splitlines() if ".ko" not in line]
