"""Who saves the dump in the capture environment: makedumpfile, or crashpy itself.

makedumpfile takes a few megabytes, Python with numpy ten times as much: so it is
makedumpfile, unless the one that is installed does not know the kernel, lacks the format's
library, or the place is one it cannot be piped to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from crashpy.kdump.capture import parts
from crashpy.kdump.check import KERNEL_BREAKS
from crashpy.kdump.plan import SavePlan
from crashpy.kdump.system import Refused, System

ENGINES = ("auto", "native", "makedumpfile")


@dataclass(frozen=True)
class Engine:
    """native or makedumpfile, and why."""

    name: str
    why: str = ""

    def python_modules(self, plan: SavePlan) -> Iterator[str]:
        """What Python imports while it saves, whether at once or when it is needed."""
        yield from SAVING
        yield from parts.present(PACKERS.get(plan.format, ()))
        yield from PROTOCOLS.get(plan.target.protocol, ())

    def without(self, plan: SavePlan) -> tuple[str, ...]:
        """What is left out of it."""
        others = {
            name
            for protocol in PROTOCOLS
            if protocol != plan.target.protocol
            for name in PROTOCOLS[protocol]
        }
        return (*WITHOUT, *(others - {*PROTOCOLS.get(plan.target.protocol, ())}))

    def libraries(self, plan: SavePlan) -> Iterator[str]:
        """Shared libraries that are found by their name when they are needed."""
        if plan.format == "lzo":
            import ctypes.util

            name = ctypes.util.find_library("lzo2")
            if name is None:
                raise Refused("lzo needs the library liblzo2: install liblzo2-2, or lzo")
            yield from (f"/usr/lib/x86_64-linux-gnu/{name}",)


SAVING = (
    "crashpy.kdump.capture.run",
    "encodings.idna",
    "encodings.ascii",
    "encodings.latin_1",
    "_strptime",
)
# What saving never comes to: what reads dumps with drgn, and what the environment does itself.
WITHOUT = (
    "crashpy.opening",
    "crashpy.kernel",
    "crashpy.usable",
    "crashpy.vmcore.erase",
    "crashpy.cli",
    "crashpy.save",
    "crashpy.kdump.mounted",
    "crashpy.kdump.bundle",
    "crashpy.kdump.capture",
    "crashpy.kdump.check",
    "crashpy.kdump.setup",
)
PACKERS = {
    "zlib": ("isal.isal_zlib",),
    "zstd": ("zstandard",),
    "snappy": ("cramjam",),
}
PROTOCOLS = {
    "ftp": ("crashpy.kdump.ftp",),
    "sftp": ("crashpy.kdump.ssh", "paramiko"),
    "ssh": ("crashpy.kdump.ssh", "paramiko"),
}


def choose(asked: str, plan: SavePlan, release: str) -> Engine:
    """The engine, and why it is that one; Refused where it cannot do what is configured."""
    reason = unfit(plan, release, System())
    if asked == "makedumpfile" and reason:
        raise Refused(f"{reason}: use --engine native")
    if asked == "native" or (asked == "auto" and reason):
        return Engine("native", reason if asked == "auto" else "")
    return Engine("makedumpfile")


def unfit(plan: SavePlan, release: str, system: System) -> str:
    """Why makedumpfile cannot do it; empty when it can."""
    if plan.target.protocol in ("sftp", "ftp"):
        return f"makedumpfile cannot save over {plan.target.protocol}"
    if system.tool("makedumpfile") is None:
        return "there is no makedumpfile"
    said = system.run(["makedumpfile", "-v"])
    if re.search(rf"^{plan.format}\s*disabled", said, re.MULTILINE):
        return f"this makedumpfile was built without {plan.format}"
    version = re.search(r"version (\d+)\.(\d+)\.(\d+)", said)
    kernel = re.match(r"(\d+)\.(\d+)", release)
    if version and kernel:
        have = tuple(int(part) for part in version.groups())
        for since, least in KERNEL_BREAKS:
            if tuple(int(part) for part in kernel.groups()) >= since:
                if have >= least:
                    break
                needed = ".".join(map(str, least))
                return (
                    f"makedumpfile {'.'.join(version.groups())} is older than {needed}, which"
                    f" Linux {kernel[0]} needs"
                )
    return ""
