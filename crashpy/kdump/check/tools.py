"""The tools: there, and new enough for the kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator

from crashpy.command import CommandError
from crashpy.kdump.check.finding import Finding
from crashpy.kdump.config import Config
from crashpy.kdump.plan import save_plan
from crashpy.kdump.system import Refused


def tools(config: Config) -> Iterator[Finding]:
    system = config.system
    for tool, package in (("kexec", "kexec-tools"), ("makedumpfile", "makedumpfile")):
        if system.tool(tool) is None:
            yield Finding(
                "error", f"there is no {tool}", "no dump can be made", f"install {package}"
            )
    if system.tool("makedumpfile") is None:
        return
    try:
        said = system.run(["makedumpfile", "-v"])
    except Refused:
        return
    packing = config.get("format")
    if packing and packing.value and re.search(rf"{packing.value}\s*disabled", said):
        yield Finding(
            "warning",
            f"this makedumpfile was built without {packing.value}",
            "it writes dumps that are not packed, and reports no error",
            "`crashpy setup configure format=zlib`",
        )
    found = re.search(r"version (\d+)\.(\d+)\.(\d+)", said)
    kernel = re.match(r"(\d+)\.(\d+)", system.release or "")
    if found and kernel:
        version = tuple(int(part) for part in found.groups())
        release = tuple(int(part) for part in kernel.groups())
        for since, least in KERNEL_BREAKS:
            if release >= since and version < least:
                yield Finding(
                    "error",
                    f"makedumpfile {'.'.join(found.groups())} is older than what Linux"
                    f" {kernel[0]} needs, {'.'.join(map(str, least))}",
                    "its dumps are too large, or lack pages in use, without an error",
                    "install a newer makedumpfile, or `crashpy setup configure level=1`",
                )
                break
    if found:
        yield from _threads(config, tuple(int(part) for part in found.groups()))


def _threads(config: Config, version: tuple[int, ...]) -> Iterator[Finding]:
    """Its threads wrote damaged pages until its commit 65bf4c9."""
    try:
        plan = save_plan(config)
    except CommandError:
        return
    several = "--num-threads" in plan.options or (
        config.dialect.name == "suse" and plan.threads != 1 and plan.format not in ("elf", "raw")
    )
    if several and version < (1, 7, 8):
        yield Finding(
            "warning",
            f"makedumpfile {'.'.join(map(str, version))} is to use several threads",
            "before 1.7.8 a race between them damages pages now and then, without an error",
            "install a newer makedumpfile, or `crashpy setup configure cpus=1`",
        )


# Kernels that changed what tells one kind of page from another, newest first, and the
# makedumpfile that follows: its commits c1a9301, 72c3414, 985e575, 9661c1d, 446c4f6.
KERNEL_BREAKS = (
    ((6, 16), (1, 7, 8)),
    ((6, 12), (1, 7, 7)),
    ((6, 9), (1, 7, 6)),
    ((6, 6), (1, 7, 4)),
    ((6, 3), (1, 7, 3)),
)
