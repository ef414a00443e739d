"""Fresh dumps of Debian kernels and the reference programs, for the live tests and benchmarks.

The tools that make them (`get-reference`, `get-kernels`, `mkdump`) lie in $CRASHPY_TOOLS,
or in ../shared/tools beside the checkout. What they make is kept in $CRASHPY_DUMPS
(default: ~/.cache/crashpy-dumps) and made once.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TOOLS = Path(os.environ.get("CRASHPY_TOOLS", ROOT.parent / "shared" / "tools"))
KEPT = Path(os.environ.get("CRASHPY_DUMPS", "~/.cache/crashpy-dumps")).expanduser()
REFERENCE = Path("~/.cache/crash-reference").expanduser()
KERNELS = Path("~/.cache/crash-kernels").expanduser()


@dataclass(frozen=True)
class LiveDump:
    name: str
    vmlinux: Path
    vmcore: Path
    modules: Path  # where the modules' debug files are


def crash() -> Path:
    """The reference crash, installed if it is not there."""
    if not (REFERENCE / "crash").exists():
        _tool("get-reference")
    return REFERENCE / "crash"


def live_dumps() -> list[LiveDump]:
    """A 6.1 and a 6.12 guest, each as kdump (full ELF, and level 31) and as QEMU dump."""
    found = []
    for series in ("6.1", "6.12"):
        tree = _kernel(series)
        [vmlinux] = tree.glob("usr/lib/debug/boot/vmlinux-*")
        [modules] = tree.glob("usr/lib/debug/lib/modules/*")
        kdump, qemu = KEPT / f"{series}-kdump", KEPT / f"{series}-qemu"
        if not (kdump / "vmcore.elf").exists():
            _tool("mkdump", tree, kdump, "--mem", "1024", "--kdump")
        if not (kdump / "vmcore.c.d31").exists():
            crash()
            make = [REFERENCE / "makedumpfile", "-d", "31", "-c", "vmcore.elf", "vmcore.c.d31"]
            subprocess.run(make, cwd=kdump, check=True, stdout=subprocess.DEVNULL)
        if not (qemu / "vmcore.qemu-elf").exists():
            _tool("mkdump", tree, qemu)
        for folder, file in (
            (kdump, "vmcore.elf"),
            (kdump, "vmcore.c.d31"),
            (qemu, "vmcore.qemu-elf"),
        ):
            name = f"{folder.name}-{file.removeprefix('vmcore.')}"
            found.append(LiveDump(name, vmlinux, folder / file, modules))
    return found


def _kernel(series: str) -> Path:
    trees = sorted(KERNELS.glob(f"{series}.*-cloud-amd64"))
    if not trees:
        _tool("get-kernels")
        trees = sorted(KERNELS.glob(f"{series}.*-cloud-amd64"))
    return trees[-1]


def _tool(name: str, *arguments: object) -> None:
    program = TOOLS / name
    if not program.exists():
        raise FileNotFoundError(
            f"{program} is missing: set CRASHPY_TOOLS to the folder that holds {name}"
        )
    subprocess.run([program, *map(str, arguments)], check=True)
