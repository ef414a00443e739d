"""SUSE's /etc/sysconfig/kdump: kdump(5), of SLES 11 and of today."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from crashpy.kdump.dialects.base import Dialect, Unable, Value, Variable, cpu_fact, joined
from crashpy.kdump.system import Refused, split_options
from crashpy.kdump.values import (
    boolean,
    host_key,
    mail,
    network,
    number,
    one_of,
    options,
    reservation,
    server,
    targets,
)

if TYPE_CHECKING:
    from crashpy.kdump.config import Config


class Suse(Dialect):
    """/etc/sysconfig/kdump: kdump(5). It holds for SLES 11 and for today's."""

    name = "suse"
    title = "SUSE"
    files = ("/etc/sysconfig/kdump",)
    units = ("kdump.service", "kdump-early.service", "boot.kdump")
    variables = {  # noqa: RUF012
        variable.name: variable
        for variable in (
            Variable("KDUMP_KERNELVER"),
            Variable("KDUMP_CRASHKERNEL", "auto", reservation),
            Variable("KDUMP_UPDATE_BOOTLOADER", "true", boolean),
            Variable("KDUMP_CPUS", "32", number(0, 4096)),
            Variable("KDUMP_COMMANDLINE", "", options),
            Variable("KDUMP_COMMANDLINE_APPEND", "", options),
            Variable("KEXEC_OPTIONS"),
            Variable("MAKEDUMPFILE_OPTIONS"),
            Variable("KDUMP_RUNLEVEL", "1", one_of("1", "2", "3", "5", "s")),
            Variable("KDUMP_IMMEDIATE_REBOOT", "yes", boolean),
            Variable("KDUMP_TRANSFER"),
            Variable("KDUMP_SAVEDIR", "/var/crash", targets),
            Variable("KDUMP_KEEP_OLD_DUMPS", "0", number(-1)),
            Variable("KDUMP_FREE_DISK_SIZE", "64", number(0)),
            Variable("KDUMP_VERBOSE", "0", number(0, 31)),
            Variable("KDUMP_DUMPLEVEL", "31", number(0, 31)),
            Variable(
                "KDUMP_DUMPFORMAT",
                "compressed",
                one_of("none", "ELF", "compressed", "lzo", "snappy", "zstd", "raw"),
            ),
            Variable("KDUMP_CONTINUE_ON_ERROR", "true", boolean),
            Variable("KDUMP_REQUIRED_PROGRAMS"),
            Variable("KDUMP_PRESCRIPT"),
            Variable("KDUMP_POSTSCRIPT"),
            Variable("KDUMP_COPY_KERNEL", "no", boolean),
            Variable("KDUMPTOOL_FLAGS"),
            Variable("KDUMP_NETCONFIG", "auto", network),
            Variable("KDUMP_NET_TIMEOUT", "30", number(0)),
            Variable("KDUMP_SMTP_SERVER", "", server),
            Variable("KDUMP_SMTP_USER"),
            Variable("KDUMP_SMTP_PASSWORD"),
            Variable("KDUMP_NOTIFICATION_TO", "", mail),
            Variable("KDUMP_NOTIFICATION_CC", "", mail),
            Variable("KDUMP_HOST_KEY", "", host_key),
            Variable("KDUMP_SSH_IDENTITY"),
            Variable("KDUMP_AUTO_RESIZE", "false", boolean),
            Variable("KDUMP_FADUMP", "false", boolean),
            Variable("KDUMP_FADUMP_SHELL", "false", boolean),
            Variable(
                "FADUMP_COMMANDLINE_APPEND",
                "numa=off cgroup_disable=memory cma=0 kvm_cma_resv_ratio=0 hugetlb_cma=0"
                " transparent_hugepage=never novmcoredd udev.children-max=2",
                options,
            ),
        )
    }
    simple = {  # noqa: RUF012
        "target": "KDUMP_SAVEDIR",
        "level": "KDUMP_DUMPLEVEL",
        "free": "KDUMP_FREE_DISK_SIZE",
        "kernel": "KDUMP_KERNELVER",
        "cpus": "KDUMP_CPUS",
        "cmdline": "KDUMP_COMMANDLINE",
        "append": "KDUMP_COMMANDLINE_APPEND",
        "kexec": "KEXEC_OPTIONS",
        "network": "KDUMP_NETCONFIG",
        "net-timeout": "KDUMP_NET_TIMEOUT",
        "ssh-key": "KDUMP_SSH_IDENTITY",
        "host-key": "KDUMP_HOST_KEY",
        "smtp-server": "KDUMP_SMTP_SERVER",
        "smtp-user": "KDUMP_SMTP_USER",
        "smtp-password": "KDUMP_SMTP_PASSWORD",
        "mail-to": "KDUMP_NOTIFICATION_TO",
        "mail-cc": "KDUMP_NOTIFICATION_CC",
        "before": "KDUMP_PRESCRIPT",
        "after": "KDUMP_POSTSCRIPT",
        "programs": "KDUMP_REQUIRED_PROGRAMS",
        "fadump": "KDUMP_FADUMP",
        "copy-kernel": "KDUMP_COPY_KERNEL",
        "makedumpfile": "MAKEDUMPFILE_OPTIONS",
        "transfer": "KDUMP_TRANSFER",
        "verbose": "KDUMP_VERBOSE",
        "resize": "KDUMP_AUTO_RESIZE",
    }
    formats = {  # noqa: RUF012
        "log": "none",
        "elf": "ELF",
        "zlib": "compressed",
        "lzo": "lzo",
        "snappy": "snappy",
        "zstd": "zstd",
        "raw": "raw",
    }
    limited = {  # noqa: RUF012
        "format": tuple(formats),
        "finally": ("reboot", "shell"),
        "failure": ("reboot", "shell"),
    }

    def get_format(self, config: Config) -> Value:
        value = config.native("KDUMP_DUMPFORMAT")
        names = {own: name for name, own in self.formats.items()}
        return Value(names.get(value.value or "", value.value), value.origin)

    def set_format(self, config: Config, value: str) -> None:
        if value and value not in self.formats:
            raise Unable("format", value)
        config.set_native("KDUMP_DUMPFORMAT", self.formats[value] if value else "")

    # Old dumps are deleted before the new one is saved: N of them stay, and one comes.

    def get_keep(self, config: Config) -> Value:
        value = config.native("KDUMP_KEEP_OLD_DUMPS")
        if value.value is None or not re.fullmatch(r"-?\d+", value.value):
            return value
        old = int(value.value)
        return Value("all" if old == 0 else "1" if old < 0 else str(old + 1), value.origin)

    def set_keep(self, config: Config, value: str) -> None:
        known = {"": "", "all": "0", "1": "-1"}
        config.set_native(
            "KDUMP_KEEP_OLD_DUMPS", known[value] if value in known else str(int(value) - 1)
        )

    def get_finally(self, config: Config) -> Value:
        return self._action(config, "KDUMP_IMMEDIATE_REBOOT")

    def set_finally(self, config: Config, value: str) -> None:
        self._set_action(config, "KDUMP_IMMEDIATE_REBOOT", "finally", value)

    def get_failure(self, config: Config) -> Value:
        return self._action(config, "KDUMP_CONTINUE_ON_ERROR")

    def set_failure(self, config: Config, value: str) -> None:
        self._set_action(config, "KDUMP_CONTINUE_ON_ERROR", "failure", value)

    @staticmethod
    def _action(config: Config, name: str) -> Value:
        value = config.native(name)
        if value.value is None:
            return value
        try:
            answer = boolean(value.value)
        except Refused:
            return value
        return Value("reboot" if answer == "yes" else "shell", value.origin)

    def _set_action(self, config: Config, name: str, key: str, value: str) -> None:
        if value not in ("", "reboot", "shell"):
            raise Unable(key, value)
        answer = "yes" if value == "reboot" else "no"
        config.set_native(name, config.like(name, answer) if value else "")

    # The capture kernel, as load.sh starts it.

    builder = "mkdumprd"
    dropped = (
        "root resume crashkernel splash mem BOOT_IMAGE showopts zfcp.allow_lun_scan hugepages"
        " acpi_no_memhotplug cgroup_disable unknown_nmi_panic rd.udev.children-max"
    )

    def command_line(self, config: Config, running: str) -> str:
        line = config.own("KDUMP_COMMANDLINE") or self._composed(config, running)
        line = joined(line, config.own("KDUMP_COMMANDLINE_APPEND"))
        panics = any(word.partition("=")[0] == "panic" for word in split_options(line))
        return line if panics else joined(line, "panic=1")

    def _composed(self, config: Config, running: str) -> str:
        machine = config.system.machine
        x86 = machine == "x86_64" or re.fullmatch("i.86", machine)
        debug = int(number(0, 31)(config.own("KDUMP_VERBOSE"))) & 8
        dropped = ("notsc console=hvc0" if x86 else "") + (" quiet" if debug else "")
        cpus = "1" if config.system.exists("/proc/xen") else config.own("KDUMP_CPUS")
        apic = cpu_fact(config.system, "initial apicid") if x86 else None
        return joined(
            *self.inherited(running, dropped),
            "sysrq=yes reset_devices acpi_no_memhotplug cgroup_disable=memory nokaslr numa=off",
            "irqpoll",
            f"nr_cpus={cpus}" if cpus != "0" else "",
            "root=kdump rootflags=bind rd.udev.children-max=8",
            f"disable_cpu_apicid={apic}" if apic else "",
            "zfcp.allow_lun_scan=0" if machine.startswith("s390") else "",
        )

    def reserve(self, config: Config, values: Sequence[str]) -> list[str]:
        """kdump-commandline.service sets the boot loader from this at every start."""
        if config.documents[0].get("KDUMP_CRASHKERNEL") is None:
            return []  # older than the service
        words = " ".join(f"crashkernel={value}" for value in values)
        if words and config.native("KDUMP_CRASHKERNEL").value != words:
            config.set_native("KDUMP_CRASHKERNEL", words)
        if not words and config.native("KDUMP_UPDATE_BOOTLOADER").value in ("true", "yes", "1"):
            return ["SUSE's service puts it back: set KDUMP_UPDATE_BOOTLOADER=no"]
        return []

    def kernels(self, config: Config, release: str) -> Iterator[str]:
        version = config.own("KDUMP_KERNELVER")
        if version.startswith("/"):
            yield version
            return
        if not version:
            yield "/var/lib/kdump/kernel"
        yield from super().kernels(config, version or release)

    def initrd(self, config: Config, release: str) -> str | None:
        return super().initrd(config, config.own("KDUMP_KERNELVER") or release)
