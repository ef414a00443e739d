"""The capture kernel: loaded to wait for a crash, and unloaded."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass

from crashpy.kdump.config import Config
from crashpy.kdump.dialects.base import joined
from crashpy.kdump.plan import Plan
from crashpy.kdump.system import Refused, System


@dataclass(frozen=True)
class Image:
    """What kexec loads."""

    kernel: str
    initrd: str | None
    cmdline: str


def image(config: Config, *, kernel: str = "", initrd: str = "", append: str = "") -> Image:
    """Which kernel and initial RAM disk would be loaded, and how they are started."""
    system = config.system
    release = system.release
    running = system.cmdline
    if running is None:
        raise Refused("/proc/cmdline cannot be read: is /proc mounted?")
    dialect = config.dialect
    kernel = kernel or found_kernel(system, [*dialect.kernels(config, release or "")])
    if not system.path(kernel).is_file():
        raise Refused(f"{system.shown(kernel)}: there is no such kernel")
    disk = initrd or dialect.initrd(config, release or "")
    if disk is None:
        raise Refused(
            "the capture kernel's initial RAM disk is not built yet:"
            f" {dialect.builder} builds it, or give --initrd"
        )
    if not system.path(disk).is_file():
        raise Refused(f"{system.shown(disk)}: there is no such initial RAM disk")
    return Image(kernel, disk, joined(dialect.command_line(config, running), append))


def found_kernel(system: System, names: list[str]) -> str:
    found = next((name for name in names if system.path(name).is_file()), None)
    if found is None and len(names) > 1:
        release = names[-1].split("/")[-2]
        raise Refused(f"no kernel {release} in {system.shown('/boot')}: give --kernel")
    return found or names[0]


def method(system: System, options: list[str]) -> list[str]:
    """Which system call: under lockdown only kexec_file_load(2), else whichever works."""
    if any(option in ("-s", "-c", "-a") or option.startswith("--kexec-") for option in options):
        return []
    return ["-s"] if system.locked else ["-a"]


def load(config: Config, *, kernel: str = "", initrd: str = "", append: str = "") -> Plan:
    """Load the capture kernel, in place of one that is loaded."""
    system = config.system
    if config.yes("fadump"):
        return _register(config)
    ready(system)
    if not system.reserved_bytes:
        raise Refused(
            "no memory is reserved for a capture kernel: `crashpy setup status` says why"
            if system.reserved_bytes == 0
            else "this kernel has no kexec: there is no /sys/kernel/kexec_crash_size"
        )
    try:
        options = shlex.split(config.own(config.dialect.simple["kexec"]))
    except ValueError:
        raise Refused("the options for kexec have a quote that is never closed") from None
    chosen = image(config, kernel=kernel, initrd=initrd, append=append)
    if system.locked and {"-c", "--kexec-syscall"} & set(options):
        raise Refused("the kernel is locked down and takes no `kexec -c`: remove it from kexec=")
    argv = ["kexec", "-p", *method(system, options), *options]
    argv += [f"--command-line={chosen.cmdline}"]
    argv += [f"--initrd={chosen.initrd}"] if chosen.initrd else []
    commands: list[tuple[str, ...]] = [(*argv, chosen.kernel)]
    if config.yes("resize"):
        commands.insert(0, ("kdumptool", "calibrate", "--shrink"))
    if config.dialect.name != "rhel" and system.number("/proc/sys/kernel/panic_on_oops") == 0:
        commands.append(("sysctl", "-q", "-w", "kernel.panic_on_oops=1"))
    return Plan(commands=commands, checks=[_expect(True)])


FADUMP = "/sys/kernel/fadump"


def _register(config: Config) -> Plan:
    """POWER's firmware keeps the memory of a crash: it is told, no kernel is loaded."""
    system = config.system
    if system.number(f"{FADUMP}/enabled") != 1:
        raise Refused(
            "fadump=yes, and this kernel has none: only POWER started with fadump=on has it"
        )
    cpus = config.own("KDUMP_CPUS")
    options = joined(
        f"nr_cpus={cpus}" if cpus != "0" else "", config.own("FADUMP_COMMANDLINE_APPEND")
    )
    facts = {"bootargs_append": options, "registered": "1"}
    commands: list[tuple[str, ...]] = [
        ("sh", "-c", f"echo {shlex.quote(text)} > {FADUMP}/{name}")
        for name, text in facts.items()
        if system.exists(f"{FADUMP}/{name}")
    ]
    return Plan(commands=commands, checks=[_registered])


def _registered(system: System) -> None:
    if system.number(f"{FADUMP}/registered") != 1:
        raise Refused("the firmware was told, yet no dump is registered: see the kernel's messages")


def unload(system: System) -> Plan:
    """Unload the capture kernel: a crash leaves no dump from then on."""
    ready(system)
    if system.loaded is None:
        raise Refused("this kernel has no kexec: there is no /sys/kernel/kexec_crash_loaded")
    if system.loaded is False:
        return Plan(notes=["no capture kernel is loaded"])
    return Plan(commands=[("kexec", *method(system, []), "-p", "-u")], checks=[_expect(False)])


def ready(system: System) -> None:
    if not system.live and system.chroot:
        raise Refused("it acts on the running kernel: --root goes with --dry-run alone")
    if os.geteuid() != 0:
        raise Refused("only root may load or unload a kernel")
    if system.tool("kexec") is None:
        raise Refused("kexec: there is no such program: install kexec-tools")
    if system.number("/proc/sys/kernel/kexec_load_disabled") == 1:
        raise Refused("kernel.kexec_load_disabled is 1: nothing can be loaded until the next boot")


def _expect(loaded: bool) -> Callable[[System], None]:
    def check(system: System) -> None:
        if system.loaded is not loaded:
            state = "not loaded" if loaded else "still loaded"
            raise Refused(f"kexec reported no error, yet the capture kernel is {state}")

    return check
