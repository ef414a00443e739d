"""The capture kernel: loaded to wait for a crash, and unloaded."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass

from crashpy.kdump.config import Config
from crashpy.kdump.plan import Plan
from crashpy.kdump.size import capture_initrd
from crashpy.kdump.system import Refused, System, split_options

# What the capture kernel must not inherit: it would look for memory, devices or a root
# that are not there for it.
_DROPPED = {
    "suse": "root resume crashkernel splash mem BOOT_IMAGE showopts zfcp.allow_lun_scan hugepages"
    " acpi_no_memhotplug cgroup_disable unknown_nmi_panic rd.udev.children-max",
    "rhel": "crashkernel panic_on_warn root rd.lvm.lv rd.luks.uuid rd.dm.uuid rd.md.uuid fcoe"
    " netroot BOOT_IMAGE initrd",
    "debian": "crashkernel hugepages hugepagesz abm",
}
_ADDED = {
    "suse": "sysrq=yes reset_devices acpi_no_memhotplug cgroup_disable=memory nokaslr numa=off"
    " irqpoll root=kdump rootflags=bind rd.udev.children-max=8 panic=1",
    "rhel": "",
    "debian": "",
}
_REMOVED_RHEL = "hugepages hugepagesz slub_debug quiet log_buf_len swiotlb hugetlb_cma cma"
_APPENDED_RHEL = (
    "irqpoll nr_cpus=1 reset_devices cgroup_disable=memory numa=off udev.children-max=2 panic=10"
    " acpi_no_memhotplug transparent_hugepage=never nokaslr hest_disable novmcoredd"
)


@dataclass(frozen=True)
class Image:
    """What kexec loads."""

    kernel: str
    initrd: str | None
    cmdline: str


def command_line(config: Config, running: str) -> str:
    """The capture kernel's command line, as the distribution composes it from the running one."""
    name = config.dialect.name
    own = config.own(config.dialect.simple["cmdline"])
    added = config.own(config.dialect.simple["append"])
    if own:
        return " ".join(f"{own} {added}".split())
    dropped = set(_DROPPED[name].split())
    if name == "rhel":
        dropped |= set((config.own("KDUMP_COMMANDLINE_REMOVE") or _REMOVED_RHEL).split())
        added = added or _APPENDED_RHEL
    more = _ADDED[name]
    if name == "suse" and (cpus := config.own("KDUMP_CPUS")) != "0":
        more += f" nr_cpus={cpus}"
    kept = [word for word in split_options(running) if word.partition("=")[0] not in dropped]
    if name == "rhel":
        kept = [word for word in kept if not re.match(r"[\w.]*iscsi", word)]
    if name != "debian" and (apic := _boot_apic(config.system)) is not None:
        more += f" disable_cpu_apicid={apic}"
    return " ".join([*kept, *more.split(), *added.split()])


def _boot_apic(system: System) -> int | None:
    """x86 cannot start the boot CPU a second time when another one has crashed."""
    for line in (system.fact("/proc/cpuinfo") or "").splitlines():
        if line.startswith("initial apicid"):
            number = line.rpartition(":")[2].strip()
            return int(number) if number.isdigit() else None
    return None


def image(config: Config, *, kernel: str = "", initrd: str = "", append: str = "") -> Image:
    """Which kernel and initial RAM disk would be loaded, and how they are started."""
    system = config.system
    release = system.release
    running = system.cmdline
    if running is None:
        raise Refused("/proc/cmdline cannot be read: is /proc mounted?")
    kernel = kernel or _kernel(config, release)
    if not system.path(kernel).is_file():
        raise Refused(f"{system.shown(kernel)}: there is no such kernel")
    disk = initrd or _initrd(config, release)
    if disk and not system.path(disk).is_file():
        raise Refused(f"{system.shown(disk)}: there is no such initial RAM disk")
    if disk is None:
        raise Refused(
            "the capture kernel's initial RAM disk is not built yet:"
            f" {BUILDERS[config.dialect.name]} builds it, or give --initrd"
        )
    line = command_line(config, running)
    return Image(kernel, disk, f"{line} {append}".strip())


BUILDERS = {
    "suse": "mkdumprd",
    "rhel": "kdumpctl rebuild",
    "debian": "kdump-config symlinks VERSION",
}


def _kernel(config: Config, release: str | None) -> str:
    system = config.system
    if config.dialect.name == "debian" and (name := config.own("KDUMP_KERNEL")):
        return name
    if config.dialect.name != "debian":
        version = config.own("KDUMP_KERNELVER")
        if version.startswith("/"):
            return version
        if not version and system.exists("/var/lib/kdump/kernel"):
            return "/var/lib/kdump/kernel"
        release = version or release
    for stem in ("vmlinuz", "Image", "image", "vmlinux"):
        for name in (f"/boot/{stem}-{release}", f"/lib/modules/{release}/{stem}"):
            if system.path(name).is_file():
                return name
    raise Refused(f"no kernel {release} in {system.shown('/boot')}: give --kernel")


def _initrd(config: Config, release: str | None) -> str | None:
    if config.dialect.name == "debian" and (name := config.own("KDUMP_INITRD")):
        return name
    version = "" if config.dialect.name == "debian" else config.own("KDUMP_KERNELVER")
    return capture_initrd(config.system, version or release or "")


def method(system: System, options: list[str]) -> list[str]:
    """Which system call: under lockdown only kexec_file_load(2), else whichever works."""
    if any(option in ("-s", "-c", "-a") or option.startswith("--kexec-") for option in options):
        return []
    return ["-s"] if system.locked else ["-a"]


def load(config: Config, *, kernel: str = "", initrd: str = "", append: str = "") -> Plan:
    """Load the capture kernel, in place of one that is loaded."""
    system = config.system
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
    if config.dialect.name != "rhel" and system.number("/proc/sys/kernel/panic_on_oops") == 0:
        commands.append(("sysctl", "-q", "-w", "kernel.panic_on_oops=1"))
    return Plan(commands=commands, checks=[_expect(True)])


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
