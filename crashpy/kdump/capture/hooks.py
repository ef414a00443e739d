"""Our save step in the environments that dracut and initramfs-tools build.

They know the machine's disks, keyboards and volumes; what they call puts our part into
the folder that becomes the initial RAM disk.
"""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from crashpy.kdump.capture.image import environment
from crashpy.kdump.config import Config
from crashpy.kdump.plan import Edit, Plan
from crashpy.kdump.system import Refused, System


@dataclass(frozen=True)
class Builder:
    """One of the two, and the files that make it build ours."""

    tool: str
    package: str
    files: Mapping[str, tuple[str, int]]  # where: which file of ours, mode
    build: tuple[str, ...]  # OUT and RELEASE stand for those


DRACUT = "/usr/lib/dracut/modules.d/99crashpy"
TOOLS = "/etc/crashpy/initramfs-tools"
BUILDERS = {
    "dracut": Builder(
        "dracut",
        "dracut-core",
        {
            f"{DRACUT}/module-setup.sh": ("dracut/module-setup.sh", 0o755),
            f"{DRACUT}/cmdline.sh": ("dracut/cmdline.sh", 0o755),
            f"{DRACUT}/capture.sh": ("dracut/capture.sh", 0o755),
        },
        (
            "dracut", "--force", "--hostonly", "--no-hostonly-default-device", "--add", "crashpy",
            "--omit", "plymouth resume usrmount", "OUT", "RELEASE",
        ),
    ),
    "initramfs-tools": Builder(
        "mkinitramfs",
        "initramfs-tools-core",
        {
            f"{TOOLS}/initramfs.conf": ("initramfs-tools/initramfs.conf", 0o644),
            f"{TOOLS}/modules": ("initramfs-tools/modules", 0o644),
            f"{TOOLS}/hooks/crashpy": ("initramfs-tools/hook", 0o755),
            f"{TOOLS}/scripts/init-premount/crashpy": ("initramfs-tools/script", 0o755),
        },
        ("mkinitramfs", "-d", TOOLS, "-o", "OUT", "RELEASE"),
    ),
}  # fmt: skip
# Where each distribution looks for the capture kernel's initial RAM disk.
PLACES = {
    "suse": "/var/lib/kdump/initrd",
    "rhel": "/boot/initramfs-RELEASEkdump.img",
    "debian": "/var/lib/kdump/initrd.img-RELEASE",
}


def builder(system: System, asked: str) -> Builder:
    """The one that was asked for, or that the system has."""
    if asked:
        return BUILDERS[asked]
    for found in BUILDERS.values():
        if system.tool(found.tool):
            return found
    raise Refused(
        "neither dracut nor mkinitramfs is installed: `crashpy capture image` needs neither"
    )


def install(system: System, found: Builder, *, release: str, out: str, build: bool) -> Plan:
    """Write the hooks, and build the environment with them."""
    plan = Plan()
    for name, (source, _) in found.files.items():
        text = environment(source).decode().replace("COMMAND", command(system))
        old = system.read(name)
        if old != text:
            plan.edits.append(Edit(name, old, text))
    programs = [name for name, (_, mode) in found.files.items() if mode & 0o100]
    if any(not _executable(system, name) for name in programs):
        plan.commands.append(("chmod", "0755", *programs))
    if not build:
        return plan
    release = release or system.release or ""
    if not release:
        raise Refused("which kernel it is for is not known: give --kernel RELEASE, or --no-build")
    if system.tool(found.tool) is None:
        raise Refused(f"{found.tool}: there is no such program: install {found.package}")
    out = (out or PLACES[Config.read(system).dialect.name]).replace("RELEASE", release)
    words = {"OUT": out, "RELEASE": release}
    plan.commands.append(tuple(words.get(word, word) for word in found.build))
    plan.checks.append(functools.partial(_is_private, out, found.tool))
    return plan


def command(system: System) -> str:
    """How the hooks call us: the builders' PATH is their own."""
    if not system.live:
        return "/usr/bin/crashpy"
    return shlex.join([sys.executable, "-m", "crashpy"])


def _executable(system: System, name: str) -> bool:
    return system.exists(name) and bool(system.path(name).stat().st_mode & 0o100)


def _is_private(out: str, tool: str, system: System) -> None:
    """It holds keys and passwords."""
    if not system.exists(out):
        raise Refused(f"{tool} reported no error, yet there is no {out}")
    if system.path(out).stat().st_mode & 0o077:
        system.path(out).chmod(0o600)


def uninstall(system: System) -> Plan:
    """Remove what install() has written."""
    files = [name for found in BUILDERS.values() for name in found.files if system.exists(name)]
    if not files:
        return Plan(notes=["no hooks are installed"])
    ours = {folder for name in files for folder in _folders(name)}
    left = sorted(ours, key=len, reverse=True)  # the inner ones first
    return Plan(
        commands=[("rm", "-f", *files), ("rmdir", "--ignore-fail-on-non-empty", *left)],
        notes=["what was built with them stays: an initial RAM disk of the capture kernel"],
    )


def _folders(name: str) -> Iterator[str]:
    """Those that install() makes for a file."""
    folder = name.rpartition("/")[0]
    while folder.startswith((DRACUT, "/etc/crashpy")):
        yield folder
        folder = folder.rpartition("/")[0]
