"""Red Hat's /etc/kdump.conf, kdump.conf(5), and the loader's own /etc/sysconfig/kdump."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from crashpy.kdump.dialects.base import Value, Variable, cpu_fact, joined
from crashpy.kdump.dialects.makedumpfile import Collector, Makedumpfile
from crashpy.kdump.plan import SavePlan
from crashpy.kdump.system import Refused, System
from crashpy.kdump.urls import Url, parse
from crashpy.kdump.values import absolute, device, export, login, number, one_of, options

if TYPE_CHECKING:
    from crashpy.kdump.config import Config


class Rhel(Makedumpfile):
    """/etc/kdump.conf, kdump.conf(5), and the loader's own /etc/sysconfig/kdump."""

    name = "rhel"
    title = "RHEL"
    files = ("/etc/kdump.conf", "/etc/sysconfig/kdump")
    units = ("kdump.service", "kdump")
    collector = "core_collector"
    append = "KDUMP_COMMANDLINE_APPEND"
    local = ("ext2", "ext3", "ext4", "minix", "btrfs", "xfs")
    places = ("raw", "nfs", "ssh", "virtiofs", *local)  # of which there may be one
    variables = {  # noqa: RUF012
        variable.name: variable
        for variable in (
            *(Variable(name, "", device) for name in ("raw", *local)),
            Variable("virtiofs"),
            Variable("nfs", "", export),
            Variable("ssh", "", login),
            Variable("path", "/var/crash", absolute),
            Variable("core_collector", "makedumpfile -l --message-level 7 -d 31"),
            Variable("sshkey", "/root/.ssh/kdump_id_rsa", absolute),
            Variable("kdump_pre", "", absolute),
            Variable("kdump_post", "", absolute),
            Variable("kdump_emergency", "", absolute),
            Variable("extra_bins"),
            Variable("extra_modules"),
            Variable("dracut_args"),
            Variable(
                "failure_action",
                "reboot",
                one_of("reboot", "halt", "poweroff", "shell", "dump_to_rootfs"),
            ),
            Variable("final_action", "reboot", one_of("reboot", "halt", "poweroff")),
            Variable("force_rebuild", "0", number(0, 1)),
            Variable("force_no_rebuild", "0", number(0, 1)),
            Variable("auto_reset_crashkernel", "yes", one_of("yes", "no")),
            Variable("fence_kdump_nodes"),
            Variable("fence_kdump_args"),
            Variable("default", deprecated="kdumpctl no longer has it: use failure_action"),
            *(
                Variable(name, deprecated="kdumpctl no longer has it: see kdump.conf(5)")
                for name in (
                    "net",
                    "options",
                    "link_delay",
                    "disk_timeout",
                    "debug_mem_level",
                    "blacklist",
                )
            ),
            Variable("KDUMP_KERNELVER", file=1),
            Variable("KDUMP_COMMANDLINE", "", options, file=1),
            Variable("KDUMP_COMMANDLINE_REMOVE", file=1),
            Variable("KDUMP_COMMANDLINE_APPEND", "", options, file=1),
            Variable("KEXEC_ARGS", file=1),
            Variable("KDUMP_BOOTDIR", "", absolute, file=1),
            Variable("KDUMP_IMG", "vmlinuz", file=1),
            Variable("KDUMP_IMG_EXT", file=1),
            Variable("FADUMP_COMMANDLINE_APPEND", file=1),
            Variable("KDUMP_STDLOGLVL", "3", number(0, 4), file=1),
            Variable("KDUMP_SYSLOGLVL", "0", number(0, 4), file=1),
            Variable("KDUMP_KMSGLOGLVL", "0", number(0, 4), file=1),
            Variable("VMCORE_CREATION_NOTIFICATION", "yes", one_of("yes", "no"), file=1),
        )
    }
    simple = {  # noqa: RUF012
        "finally": "final_action",
        "failure": "failure_action",
        "kernel": "KDUMP_KERNELVER",
        "cmdline": "KDUMP_COMMANDLINE",
        "append": "KDUMP_COMMANDLINE_APPEND",
        "remove": "KDUMP_COMMANDLINE_REMOVE",
        "kexec": "KEXEC_ARGS",
        "ssh-key": "sshkey",
        "before": "kdump_pre",
        "after": "kdump_post",
        "programs": "extra_bins",
        "modules": "extra_modules",
    }
    limited = {  # noqa: RUF012
        "format": tuple(Collector.FLAGS),
        "finally": ("reboot", "halt", "poweroff"),
    }

    def place(self, config: Config) -> tuple[str, Value] | None:
        """The directive that says where dumps go; more than one is kdumpctl's error."""
        found = [
            (name, config.native(name)) for name in self.places if config.documents[0].get(name)
        ]
        found += self._mounted(config)
        if len(found) > 1:
            names = " and ".join(name for name, _ in found)
            raise Refused(f"{self.files[0]}: {names} are two targets: remove one")
        return found[0] if found else None

    @staticmethod
    def _mounted(config: Config) -> Iterator[tuple[str, Value]]:
        """dracut_args may name a target, too: --mount "DEVICE FOLDER FILESYSTEM"."""
        value = config.native("dracut_args")
        if named := re.search(r"--mount[= ]+[\"']?(\S+)\s+\S+\s+([\w.]+)", value.value or ""):
            yield named[2], Value(named[1], value.origin)

    def get_target(self, config: Config) -> Value:
        path = config.native("path")
        folder = path.value or "/"
        found = self.place(config)
        if found is None:
            return path
        kind, place = found
        folder = f"/{folder.strip('/')}"
        value = place.value or ""
        if kind == "nfs":
            host, _, export = value.rpartition(":/")
            return Value(f"nfs://{host}/{export}{folder}".rstrip("/"), place.origin)
        if kind == "ssh":
            return Value(f"ssh://{value}{folder}", place.origin)
        return Value(f"{kind} {value} {folder if kind != 'raw' else ''}".strip(), place.origin)

    def set_target(self, config: Config, value: str) -> None:
        url = parse(value) if value else Url("file", "/var/crash")
        if url.protocol not in ("file", "nfs", "ssh"):
            raise Refused(
                f"kdump.conf has no {url.protocol}, only local file systems, nfs and ssh;"
                " SUSE has all of them"
            )
        if url.port or url.password:
            what = "password" if url.password else "port"
            raise Refused(f"kdump.conf cannot hold a {what} for {url.protocol}")
        if "[" in str(url):
            raise Refused("kdump.conf cannot hold an IPv6 address: give the host's name")
        if any(self._mounted(config)):
            raise Refused("dracut_args names a target by --mount: take it away there")
        if self.get_target(config).value == str(url):
            return  # perhaps divided otherwise between export and folder
        for name in self.places:
            self.set_native_if(config, name, "")
        if url.protocol == "nfs":
            config.set_native("nfs", f"{url.host}:{url.path}")
            config.set_native("path", "/")
            return
        if url.protocol == "ssh":
            config.set_native("ssh", f"{url.user}@{url.host}")
        if config.native("path").value != url.path:
            config.set_native("path", url.path)

    @staticmethod
    def set_native_if(config: Config, name: str, value: str) -> None:
        if config.documents[0].get(name) is not None:
            config.set_native(name, value)

    def device(self, config: Config, target: str) -> tuple[str, Url]:
        kind, _, rest = target.partition(" ")
        if kind == "raw":
            raise Refused(f"target: `crashpy save` writes no raw partition: {rest}")
        if rest:
            place, _, path = rest.partition(" ")
            return f"{kind} {place}", Url("file", path or "/")
        return super().device(config, target)

    # The capture kernel, as kdumpctl starts it.

    builder = "kdumpctl rebuild"
    dropped = (
        "crashkernel panic_on_warn root rd.lvm.lv rd.luks.uuid rd.dm.uuid rd.md.uuid fcoe netroot"
        " rd.iscsi.initiator iscsi_initiator"
    )
    # What kdumpctl's package has in its file, where ours does not say it.
    removed = "hugepages hugepagesz slub_debug quiet log_buf_len swiotlb hugetlb_cma cma"
    added = (
        "irqpoll nr_cpus=1 reset_devices cgroup_disable=memory numa=off udev.children-max=2"
        " panic=10 transparent_hugepage=never novmcoredd hugetlb_cma=0 cma=0"
        " kfence.sample_interval=0 initramfs_options=size=90%"
    )
    added_x86 = "mce=off acpi_no_memhotplug nokaslr hest_disable pcie_ports=compat"

    def command_line(self, config: Config, running: str) -> str:
        system = config.system
        removed = self._option(config, "KDUMP_COMMANDLINE_REMOVE", self.removed)
        more = joined(self.added, self.added_x86 if system.machine == "x86_64" else "")
        apic = cpu_fact(system, "apicid")
        words = self.inherited(config.own("KDUMP_COMMANDLINE") or running, removed)
        return joined(
            *(word for word in words if not word.endswith("=")),
            self._option(config, "KDUMP_COMMANDLINE_APPEND", more),
            f"disable_cpu_apicid={apic}" if apic else "",
            *self._watchdogs(system),
            "rd.systemd.gpt_auto=no",
        )

    @staticmethod
    def _option(config: Config, name: str, absent: str) -> str:
        """A value of the loader's file, which may be empty on purpose."""
        there = config.documents[1].get(name) is not None
        return config.own(name) if there else absent

    @staticmethod
    def _watchdogs(system: System) -> Iterator[str]:
        """A watchdog must not panic the kernel that saves."""
        for name in system.names("/sys/class/watchdog", "*"):
            module = system.path(f"{name}/device/driver/module")
            if module.is_dir():
                yield f"{module.name}.pretimeout=0"
                if module.name == "hpwdt":
                    yield "hpwdt.kdumptimeout=0"

    def reserve(self, config: Config, values: Sequence[str]) -> list[str]:
        if values and config.native("auto_reset_crashkernel").value == "yes":
            return ["an update of kdump-utils may put its own value there: auto_reset_crashkernel"]
        return []

    def kernels(self, config: Config, release: str) -> Iterator[str]:
        version = config.own("KDUMP_KERNELVER")
        if version.startswith("/"):
            yield version
            return
        version = version or release
        image = f"{config.own('KDUMP_IMG')}-{version}{config.own('KDUMP_IMG_EXT')}"
        machine = (config.system.fact("/etc/machine-id") or "").strip()
        for folder in config.own("KDUMP_BOOTDIR").split() or ("/boot", "/boot/efi", "/efi"):
            yield f"{folder}/{image}"
            yield f"{folder}/{machine}/{version}/{config.own('KDUMP_IMG')}"
        yield from super().kernels(config, version)

    def initrd(self, config: Config, release: str) -> str | None:
        version = config.own("KDUMP_KERNELVER") or release
        for folder in config.own("KDUMP_BOOTDIR").split():
            name = f"{folder}/initramfs-{version}kdump.img"
            if config.system.exists(name):
                return name
        return super().initrd(config, version)

    def save_plan(self, config: Config) -> SavePlan:
        wait = 600  # kdump.sh gives the network ten minutes
        wanted = super().save_plan(config)
        return replace(wanted, host_tag="ip", before_aborts=True, net_timeout_seconds=wait)
