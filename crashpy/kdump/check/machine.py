"""The machine: armed, reserved, booted as it is set up to boot."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from crashpy.command import CommandError
from crashpy.kdump.bootloader import current
from crashpy.kdump.check.finding import Finding
from crashpy.kdump.config import Config
from crashpy.kdump.entries import default_entry
from crashpy.kdump.policies import RHEL, need
from crashpy.kdump.services import enabled, unit
from crashpy.kdump.size import MIB, shown
from crashpy.kdump.status import Status
from crashpy.kdump.system import Refused, System


def state(system: System, found: Status) -> Iterator[Finding]:
    if found.loaded is False:
        for sentence in found.why:
            what, _, remedy = sentence.partition(": `")
            yield Finding(
                "error",
                what,
                "a crash leaves no dump",
                f"`{remedy}" if remedy else "`crashpy setup status`",
            )
    elif found.loaded is None and system.live:
        yield Finding(
            "error",
            "this kernel has no /sys/kernel/kexec_crash_loaded",
            "it cannot load a capture kernel",
            "use a kernel with CONFIG_KEXEC and CONFIG_CRASH_DUMP, outside a container",
        )
    if found.by_kexec:
        yield Finding(
            "warning",
            "this kernel was started by kexec, not by the boot loader",
            "what changed in the boot loader since, crashkernel= say, does not hold yet",
            "reboot through the firmware before relying on it",
        )


def boot(config: Config) -> Iterator[Finding]:
    if config.dialect.name == "debian" and config.native("USE_KDUMP").value == "0":
        yield Finding(
            "error",
            f"USE_KDUMP is 0 in {config.dialect.files[0]}",
            "kdump-tools loads no capture kernel",
            "`crashpy setup enable`",
        )
    if enabled(config) is False:
        yield Finding(
            "error",
            f"{unit(config)} is off",
            "after the next boot a crash leaves no dump",
            "`crashpy setup enable`",
        )


def reservation(system: System) -> Iterator[Finding]:
    size = system.reserved_bytes
    if not size:
        return
    try:
        wanted = sum(part for _, part in need(system, system.machine))
    except (Refused, OSError):
        return
    if wanted > size:
        yield Finding(
            "warning",
            f"{shown(size)} are reserved, and about {shown(wanted)} are needed",
            "the capture kernel may run out of memory before it has saved anything",
            f"`crashpy setup bootloader {-(-wanted // (32 * MIB)) * 32}M`",
        )


def drift(config: Config) -> Iterator[Finding]:
    """What the next boot has, against what this one has, and who may change it."""
    system = config.system
    try:
        configured = current(system)
    except CommandError:
        configured = []
    running = system.crashkernel
    if configured and system.cmdline is not None and configured != running:
        yield Finding(
            "warning",
            f"the boot loader is set up with {_words(configured)}, and this kernel was started"
            f" with {_words(running)}",
            "from the next boot on the reservation is another one",
            "reboot, or set what is meant with `crashpy setup bootloader`",
        )
    plain = [value for value in running if not value.endswith((",high", ",low", ",cma"))]
    if len(plain) > 1:
        yield Finding(
            "warning",
            f"this kernel was started with {_words(plain)}",
            "the last of them counts, perhaps not the one that was meant",
            f"`crashpy setup bootloader {plain[-1]}`, and a reboot",
        )
    yield from _entry(system, configured)
    yield from _overwriters(config, running)


def _words(values: Sequence[str]) -> str:
    return " ".join(f"crashkernel={value}" for value in values) or "no crashkernel="


def _entry(system: System, configured: Sequence[str]) -> Iterator[Finding]:
    """What the boot loader's defaults say and its entries do not: they were not made anew."""
    try:
        entry = default_entry(system)
    except (CommandError, OSError):
        return
    words = [word for word in entry.options.split() if word.startswith("crashkernel=")]
    found = [word.partition("=")[2] for word in words]
    if configured and found != list(configured):
        yield Finding(
            "error",
            f"{entry.origin} starts the next kernel with {_words(found)}, not with"
            f" {_words(configured)}",
            "the next boot does not reserve what was configured",
            f"`crashpy setup bootloader {' '.join(configured)}`",
        )


def _overwriters(config: Config, running: Sequence[str]) -> Iterator[Finding]:
    """Packages that set crashkernel= by themselves when they are updated or started."""
    if not running:
        return
    name = config.dialect.name
    if name == "rhel" and config.native("auto_reset_crashkernel").value == "yes":
        usual = RHEL.get(config.system.machine)
        if list(running) != [usual]:
            yield Finding(
                "warning",
                f"auto_reset_crashkernel is yes, and {_words(running)} is not its default",
                "an update of kdump-utils may put its own value there",
                "`crashpy setup configure auto_reset_crashkernel=no`",
            )
    if name == "suse" and config.native("KDUMP_UPDATE_BOOTLOADER").value in ("true", "yes", "1"):
        wanted = (config.native("KDUMP_CRASHKERNEL").value or "").replace("crashkernel=", "")
        if wanted != "auto" and wanted.split() != list(running):
            yield Finding(
                "warning",
                f"KDUMP_CRASHKERNEL is {wanted}, and this kernel was started with"
                f" {_words(running)}",
                "SUSE's service changes the boot loader to the former",
                "`crashpy setup bootloader` with what is meant",
            )


def kexec(config: Config) -> Iterator[Finding]:
    """Whether the kernel lets one be loaded."""
    system = config.system
    if system.number("/proc/sys/kernel/kexec_load_disabled") == 1:
        yield Finding(
            "error",
            "kernel.kexec_load_disabled is 1",
            "no capture kernel can be loaded, nor one for changed settings, until the next boot",
            "remove it from /etc/sysctl.d, and reboot",
        )
    if not system.locked:
        return
    options = config.native(config.dialect.simple["kexec"]).value or ""
    if re.search(r"(^|\s)(-c|--kexec-syscall)(\s|$)", options):
        yield Finding(
            "error",
            "the kernel is locked down, and kexec is told to use -c",
            "loading the capture kernel is refused",
            "`crashpy setup configure kexec=-s`",
        )


def debug_information(system: System) -> Iterator[Finding]:
    """Whether a dump of the running kernel can be read with names and types."""
    release = system.release
    if release is None or system.exists("/sys/kernel/btf/vmlinux"):
        return
    places = (
        f"/usr/lib/debug/boot/vmlinux-{release}",
        f"/usr/lib/debug/lib/modules/{release}/vmlinux",
        f"/usr/lib/debug/usr/lib/modules/{release}/vmlinux",
        f"/usr/lib/debug/boot/vmlinux-{release}.debug",
        f"/boot/vmlinux-{release}",
    )
    if system.loaded is not None and not any(system.exists(place) for place in places):
        yield Finding(
            "warning",
            f"Linux {release} has no BTF, and its debug information is not installed",
            "its dump can be opened only with that very kernel's vmlinux, wherever it is then",
            "install the kernel's debuginfo package, or keep its vmlinux",
        )
