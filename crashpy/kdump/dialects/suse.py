"""SUSE's /etc/sysconfig/kdump: kdump(5), of SLES 11 and of today."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from crashpy.kdump.dialects.base import Dialect, Unable, Value, Variable
from crashpy.kdump.plan import SavePlan
from crashpy.kdump.system import Refused
from crashpy.kdump.values import boolean, mail, network, number, one_of, options, server

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
            Variable("KDUMP_CRASHKERNEL", "auto"),
            Variable("KDUMP_UPDATE_BOOTLOADER", "true", boolean),
            Variable("KDUMP_CPUS", "32", number(0, 4096)),
            Variable("KDUMP_COMMANDLINE", "", options),
            Variable("KDUMP_COMMANDLINE_APPEND", "", options),
            Variable("KEXEC_OPTIONS"),
            Variable("MAKEDUMPFILE_OPTIONS"),
            Variable("KDUMP_RUNLEVEL", "1", one_of("1", "2", "3", "5", "s")),
            Variable("KDUMP_IMMEDIATE_REBOOT", "yes", boolean),
            Variable("KDUMP_TRANSFER"),
            Variable("KDUMP_SAVEDIR", "/var/crash"),
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
            Variable("KDUMP_COPY_KERNEL", "", boolean),
            Variable("KDUMPTOOL_FLAGS"),
            Variable("KDUMP_NETCONFIG", "auto", network),
            Variable("KDUMP_NET_TIMEOUT", "30", number(0)),
            Variable("KDUMP_SMTP_SERVER", "", server),
            Variable("KDUMP_SMTP_USER"),
            Variable("KDUMP_SMTP_PASSWORD"),
            Variable("KDUMP_NOTIFICATION_TO", "", mail),
            Variable("KDUMP_NOTIFICATION_CC", "", mail),
            Variable("KDUMP_HOST_KEY"),
            Variable("KDUMP_SSH_IDENTITY"),
            Variable("KDUMP_AUTO_RESIZE", "false", boolean),
            Variable("KDUMP_FADUMP", "false", boolean),
            Variable("KDUMP_FADUMP_SHELL", "false", boolean),
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

    def save_plan(self, config: Config) -> SavePlan:
        return replace(
            super().save_plan(config),
            options=tuple(config.own("MAKEDUMPFILE_OPTIONS").split()),
            copy_kernel=boolean(config.own("KDUMP_COPY_KERNEL") or "no") == "yes",
            transfer=config.own("KDUMP_TRANSFER"),
            verbose=int(number(0, 31)(config.own("KDUMP_VERBOSE"))),
        )
