"""Debian's and Ubuntu's /etc/default/kdump-tools: kdump-tools(5)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from crashpy.kdump.dialects.base import Unable, Value, Variable, joined
from crashpy.kdump.dialects.makedumpfile import Collector, Makedumpfile
from crashpy.kdump.plan import SavePlan
from crashpy.kdump.system import Refused
from crashpy.kdump.urls import Url, parse
from crashpy.kdump.values import absolute, export, login, number, one_of, options, spelled

if TYPE_CHECKING:
    from crashpy.kdump.config import Config


class Debian(Makedumpfile):
    """/etc/default/kdump-tools, kdump-tools(5)."""

    name = "debian"
    title = "Debian"
    files = ("/etc/default/kdump-tools",)
    units = ("kdump-tools.service", "kdump-tools")
    collector = "MAKEDUMP_ARGS"
    append = "KDUMP_CMDLINE_APPEND"
    variables = {  # noqa: RUF012
        variable.name: variable
        for variable in (
            Variable("USE_KDUMP", "0", number(0, 1)),
            Variable("KDUMP_KERNEL", "", absolute),
            Variable("KDUMP_INITRD", "", absolute),
            Variable("KDUMP_COREDIR", "/var/crash", absolute),
            Variable("KDUMP_FAIL_CMD", "reboot -f"),
            Variable("KDUMP_DUMP_DMESG", "1", number(0, 1)),
            Variable("KDUMP_NUM_DUMPS", "0", number(0)),
            Variable("KDUMP_COMPRESSION", "", one_of("bzip2", "gzip", "lz4", "xz")),
            Variable("MAKEDUMP_ARGS", "-F -c -d 31"),
            Variable("KDUMP_KEXEC_ARGS"),
            Variable("KDUMP_CMDLINE", "", options),
            Variable(
                "KDUMP_CMDLINE_APPEND",
                "reset_devices systemd.unit=kdump-tools-dump.service nr_cpus=1 irqpoll"
                " usbcore.nousb",
                options,
            ),
            Variable("HOSTTAG", "ip", one_of("ip", "hostname")),
            Variable("NFS", "", export),
            Variable("NFS_TIMEO", "600", number(1)),
            Variable("NFS_RETRANS", "3", number(0)),
            Variable("NFS_MOUNT_RETRY", "4", number(1)),
            Variable("FTP"),
            Variable("FTP_USER"),
            Variable("FTP_PASSWORD"),
            Variable("FTP_PORT", "", number(1, 65535)),
            Variable("SSH", "", login),
            Variable("SSH_KEY", "/root/.ssh/kdump_id_rsa", absolute),
            Variable("SSH_KDUMP_RETRY", "16", number(1)),
        )
    }
    simple = {  # noqa: RUF012
        "kernel": "KDUMP_KERNEL",
        "initrd": "KDUMP_INITRD",
        "cmdline": "KDUMP_CMDLINE",
        "append": "KDUMP_CMDLINE_APPEND",
        "kexec": "KDUMP_KEXEC_ARGS",
        "compression": "KDUMP_COMPRESSION",
        "host-tag": "HOSTTAG",
        "ssh-key": "SSH_KEY",
    }
    failures = {  # noqa: RUF012
        "reboot": "reboot -f",
        "halt": "halt -f",
        "poweroff": "poweroff -f",
        "shell": "/bin/bash; reboot -f",
    }
    limited = {"format": tuple(Collector.FLAGS), "failure": tuple(failures)}  # noqa: RUF012

    def get_target(self, config: Config) -> Value:
        folder = config.native("KDUMP_COREDIR")
        for name in ("FTP", "SSH", "NFS"):  # the order in which kdump-config tries them
            place = config.native(name)
            if place.value is None:
                return place
            if not place.value:
                continue
            if name == "NFS":
                host, _, export = place.value.partition(":/")
                return Value(f"nfs://{host}/{export}", place.origin)
            if name == "SSH":
                return Value(f"ssh://{place.value}{folder.value}", place.origin)
            host, _, path = place.value.partition(":")
            own = {n: config.native(f"FTP_{n}").value or "" for n in ("USER", "PASSWORD", "PORT")}
            given = self.variables["FTP_PORT"].check(own["PORT"] or "21")
            port = int(given) if given != "21" else None
            password = own["PASSWORD"] or None
            url = Url("ftp", f"/{path.lstrip('/')}", host, port, own["USER"], password)
            return Value(spelled(url), place.origin)
        return folder

    def set_target(self, config: Config, value: str) -> None:
        url = parse(value) if value else Url("file", "/var/crash")
        if url.protocol not in ("file", "nfs", "ssh", "ftp"):
            more = ": use ssh" if url.protocol == "sftp" else "; SUSE has"
            raise Refused(f"kdump-tools has no {url.protocol}, only ftp, nfs and ssh{more}")
        if url.protocol != "ftp" and (url.port or url.password):
            what = "password" if url.password else "port"
            raise Refused(f"kdump-tools cannot hold a {what} for {url.protocol}")
        if ":" in url.host:
            raise Refused("kdump-tools cannot hold an IPv6 address: give the host's name")
        path = url.path
        if url.protocol == "ftp" and any(re.search(r"\s", part) for part in (path, url.user)):
            raise Refused("kdump-tools cannot hold a blank for ftp")
        wanted = dict.fromkeys(("NFS", "SSH", "FTP", "FTP_USER", "FTP_PASSWORD", "FTP_PORT"), "")
        if url.protocol == "nfs":
            wanted["NFS"] = f"{url.host}:{path}"
        elif url.protocol == "ssh":
            wanted["SSH"] = f"{url.user}@{url.host}"
        elif url.protocol == "ftp":
            wanted["FTP"] = f"{url.host}:{path}"
            wanted["FTP_USER"] = url.user
            wanted["FTP_PASSWORD"] = url.password or ""
            wanted["FTP_PORT"] = str(url.port or "")
        if url.protocol in ("file", "ssh"):
            wanted["KDUMP_COREDIR"] = path
        for name, text in wanted.items():
            if config.own(name) != (text or self.variables[name].default):
                config.set_native(name, text)

    # Debian purges after a dump has been saved: the new one counts.

    def get_keep(self, config: Config) -> Value:
        value = config.native("KDUMP_NUM_DUMPS")
        return Value("all", value.origin) if value.value == "0" else value

    def set_keep(self, config: Config, value: str) -> None:
        config.set_native("KDUMP_NUM_DUMPS", "0" if value == "all" else value)

    def get_failure(self, config: Config) -> Value:
        value = config.native("KDUMP_FAIL_CMD")
        names = {command: name for name, command in self.failures.items()}
        return Value(names.get(value.value or "", value.value), value.origin)

    def set_failure(self, config: Config, value: str) -> None:
        if value and value not in self.failures:
            raise Unable("failure", value)
        config.set_native("KDUMP_FAIL_CMD", self.failures[value] if value else "")

    def get_dmesg(self, config: Config) -> Value:
        value = config.native("KDUMP_DUMP_DMESG")
        return Value({"1": "yes", "0": "no"}.get(value.value or "", value.value), value.origin)

    def set_dmesg(self, config: Config, value: str) -> None:
        config.set_native("KDUMP_DUMP_DMESG", {"yes": "1", "no": "0"}.get(value, ""))

    # The capture kernel, as kdump-config starts it.

    builder = "kdump-config symlinks VERSION"
    dropped = "crashkernel hugepages hugepagesz abm"

    def command_line(self, config: Config, running: str) -> str:
        line = config.own("KDUMP_CMDLINE") or joined(*self.inherited(running))
        return joined(line, config.own("KDUMP_CMDLINE_APPEND"))

    def kernels(self, config: Config, release: str) -> Iterator[str]:
        if name := config.own("KDUMP_KERNEL"):
            yield name
            return
        yield from super().kernels(config, release)

    def initrd(self, config: Config, release: str) -> str | None:
        return config.own("KDUMP_INITRD") or super().initrd(config, release)

    def save_plan(self, config: Config) -> SavePlan:
        wanted = super().save_plan(config)

        def count(name: str) -> int:
            return int(self.variables[name].check(config.own(name)))

        if wanted.target.protocol == "nfs":
            options = f"timeo={count('NFS_TIMEO')},retrans={count('NFS_RETRANS')}"
            return replace(wanted, mount_options=options, tries=count("NFS_MOUNT_RETRY"))
        if wanted.target.protocol == "ssh":
            return replace(wanted, tries=count("SSH_KDUMP_RETRY"))
        return wanted
