"""A fast reboot: the next kernel loaded by kexec(8), and started past the firmware."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from crashpy.kdump.entries import BootEntry, default_entry
from crashpy.kdump.kexec import method, ready
from crashpy.kdump.plan import Plan
from crashpy.kdump.system import Refused, System, split_options

# What the boot loader adds to the command line for itself.
_LOADER_S = ("BOOT_IMAGE", "initrd")


@dataclass(frozen=True)
class Asked:
    """What the words of `crashpy setup kexec` choose; "" is the boot loader's default."""

    kernel: str = ""
    initrd: str = ""
    append: str = ""
    reuse: bool = False  # the running kernel's options instead of the default entry's


def load(system: System, asked: Asked) -> Plan:
    """Load the kernel that a reboot shall start."""
    ready(system)
    if system.next_loaded is None:
        raise Refused("this kernel has no kexec: there is no /sys/kernel/kexec_loaded")
    entry = default_entry(system) if _needs_entry(asked) else None
    kernel = asked.kernel or (entry.kernel if entry else "")
    if not system.path(kernel).is_file():
        raise Refused(f"{system.shown(kernel)}: there is no such kernel")
    initrd, notes = _initrd(system, asked, entry)
    line = _line(system, asked, entry)
    argv = ["kexec", "-l", *method(system, []), f"--command-line={line}"]
    argv += [f"--initrd={initrd}"] if initrd else []
    if entry is not None:
        notes.insert(0, f"the boot loader's default is {entry.title} ({entry.origin})")
    notes += [f"`crashpy setup kexec --exec` starts it; {CLEAN}"]
    return Plan(commands=[(*argv, kernel)], checks=[_expect(True)], notes=notes)


CLEAN = "`systemctl kexec` shuts down first"


def _needs_entry(asked: Asked) -> bool:
    """Whether anything is left for the boot loader's configuration to say."""
    return not asked.kernel or not (asked.reuse or asked.append)


def _line(system: System, asked: Asked, entry: BootEntry | None) -> str:
    base = entry.options if entry else ""
    if asked.reuse:
        if system.cmdline is None:
            raise Refused("/proc/cmdline cannot be read: is /proc mounted?")
        base = system.cmdline
    kept = [word for word in split_options(base) if word.partition("=")[0] not in _LOADER_S]
    return " ".join([*kept, *split_options(asked.append)])


def _initrd(system: System, asked: Asked, entry: BootEntry | None) -> tuple[str | None, list[str]]:
    """The initial RAM disk, and what is to be said about it."""
    if asked.initrd:
        if not system.path(asked.initrd).is_file():
            raise Refused(f"{system.shown(asked.initrd)}: there is no such initial RAM disk")
        return asked.initrd, []
    if asked.kernel:
        return None, ["no initial RAM disk is loaded: --initrd FILE names one"]
    disks = entry.initrds if entry else ()
    if not disks:
        return None, ["the boot loader's entry has no initial RAM disk"]
    # kexec takes one; those in front of it hold microcode, which the firmware's reboot loads
    left = [f"left out, as kexec loads one initial RAM disk: {name}" for name in disks[:-1]]
    return disks[-1], left


def unload(system: System) -> Plan:
    """Unload it: a reboot goes through the firmware again."""
    ready(system)
    if system.next_loaded is None:
        raise Refused("this kernel has no kexec: there is no /sys/kernel/kexec_loaded")
    if system.next_loaded is False:
        return Plan(notes=["no kernel is loaded for a fast reboot"])
    return Plan(commands=[("kexec", *method(system, []), "-u")], checks=[_expect(False)])


def _expect(loaded: bool) -> Callable[[System], None]:
    def check(system: System) -> None:
        if system.next_loaded is not loaded:
            state = "not loaded" if loaded else "still loaded"
            raise Refused(f"kexec reported no error, yet the next kernel is {state}")

    return check


def start(system: System, *, at_once: bool) -> tuple[tuple[str, ...], list[str]]:
    """The command that starts the loaded kernel, and what one must know before."""
    if not system.live:
        raise Refused("it acts on the running kernel: --exec does not go with --root")
    ready(system)
    if not system.next_loaded:
        raise Refused("no kernel is loaded for a fast reboot: `crashpy setup kexec` loads it")
    if system.exists("/run/systemd/system") and system.tool("systemctl") and not at_once:
        return ("systemctl", "kexec"), ["services are stopped and file systems unmounted first"]
    return ("kexec", "-e"), [
        "kexec -e starts the loaded kernel at once: nothing is shut down, written or unmounted",
        "what is not yet on the disks is lost: go to runlevel 1, `umount -a` and"
        " `mount -o remount,ro /` before (`device is busy` is to be expected for /)",
        f"where systemd runs, {CLEAN}",
    ]


def confirmed(answer: str) -> None:
    """Somebody who means this machine types its name."""
    names = {socket.gethostname(), socket.gethostname().partition(".")[0], os.uname().nodename}
    if answer.strip() not in names:
        raise Refused("that is not this machine's name: nothing was done")


def started_by_kexec(system: System) -> bool | None:
    """Whether the running kernel came by kexec, not through firmware and boot loader.

    kexec(8) and kexec_file_load(2) call themselves loader 0xd in x86's boot parameters; the
    device tree has a property. Elsewhere, on s390 say, nothing tells.
    """
    if system.exists("/proc/device-tree/chosen/linux,booted-from-kexec"):
        return True
    number = system.number("/proc/sys/kernel/bootloader_type")
    if number is None:
        return False if system.exists("/proc/device-tree/chosen") else None
    return number >> 4 == 0xD
