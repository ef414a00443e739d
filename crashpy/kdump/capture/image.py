"""What the capture environment holds: busybox, the modules that the target needs, the
engine that saves, and what the configuration says.

build() makes an initial RAM disk of it, for machines without dracut and initramfs-tools and
for tests; stage() puts it into the one that those are building.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from crashpy.command import CommandError
from crashpy.kdump.capture import parts
from crashpy.kdump.capture.cpio import CONSOLE, Archive
from crashpy.kdump.capture.disks import Disk, disk_of, of_partition
from crashpy.kdump.capture.engine import Engine, choose
from crashpy.kdump.config import Config
from crashpy.kdump.plan import SavePlan, save_plan
from crashpy.kdump.system import Refused, System

HOME = "/usr/lib/crashpy"
CONFIGURATION = "/etc/crashpy/capture.conf"
FORMAT_FLAGS = {"zlib": "-c", "lzo": "-l", "snappy": "-p", "zstd": "-z", "elf": "-E"}

# Drivers of a machine that is not here to be asked: what virtual and common ones have.
GENERIC = {
    "disk": "virtio_pci virtio_blk virtio_scsi virtio_mmio xen_blkfront hv_storvsc vmw_pvscsi nvme"
    " ahci ata_piix sd_mod megaraid_sas mpt3sas hpsa aacraid smartpqi",
    "network": "virtio_pci virtio_net virtio_mmio xen_netfront hv_netvsc vmxnet3 ena gve e1000"
    " e1000e igb igc ixgbe i40e ice tg3 bnxt_en r8169 mlx5_core",
}
# Where drivers of disks and network cards lie among the modules.
DRIVERS = {
    "disk": r"kernel/drivers/(block|scsi|ata|nvme|md|virtio|message|mmc|xen|hv|usb/storage)/",
    "network": r"kernel/drivers/(net|virtio|xen|hv|dma|ptp|pps)/",
}
LEAST_SECONDS = 30
BUSYBOX = ("echo", "logger", "sh", "sleep", "sync", "true")  # it has these
SHARES = {
    "nfs": ("nfsv4", "nfsv3", "nfs"),
    "cifs": ("cifs", "nls_utf8", "nls_iso8859_1", "ctr", "ghash_generic"),
}


@dataclass(frozen=True)
class Wanted:
    """What was asked for on the command line."""

    release: str = ""  # "": the kernel that runs
    engine: str = "auto"
    modules: tuple[str, ...] = ()
    generic: bool = False  # drivers for any machine
    disk: str = ""  # DEVICE[:FILESYSTEM] of a local target
    network: str = ""  # as ip= has it
    timeout_seconds: int = 3600
    packing: str = ""


@dataclass(frozen=True)
class Built:
    """What an image came out as."""

    engine: Engine
    release: str
    packed_bytes: int
    unpacked_bytes: int


def build(system: System, wanted: Wanted, out: Path) -> Built:
    """Write the standalone image, whole or not at all, for its owner alone."""
    archive = Archive()
    parcel = _Parcel(system, wanted)
    add_init(archive)
    parcel.modules.add(archive, parcel.release, parcel.wanted_modules())
    parcel.add(archive)
    packing = wanted.packing or _packing(system, parcel.release)
    _write(archive, out, packing)
    return Built(parcel.engine, parcel.release, out.stat().st_size, archive.memory_bytes)


def stage(system: System, wanted: Wanted, folder: Path) -> Built:
    """Put it into a folder that dracut or initramfs-tools makes an image of.

    They list the modules themselves, and their modprobe unpacks them.
    """
    archive = Archive()
    parcel = _Parcel(system, wanted, assembled=True)
    parcel.modules.copy(archive, parcel.release, parcel.wanted_modules())
    parcel.add(archive)
    archive.extract(folder)
    return Built(parcel.engine, parcel.release, 0, archive.memory_bytes)


class _Parcel:
    """What both of them need, looked up once."""

    def __init__(self, system: System, wanted: Wanted, *, assembled: bool = False) -> None:
        self.config = Config.read(system)
        self.plan = save_plan(self.config)
        self.asked = wanted
        self.release = wanted.release or system.release or ""
        if not self.release:
            raise Refused("which kernel the image is for is not known: give --kernel RELEASE")
        _sensible(wanted)
        self.engine = choose(wanted.engine, self.plan, self.release)
        self.disk = _disk(system, self.plan, wanted, assembled=assembled)
        self.modules = parts.Modules.read(system, self.release)
        own = _filesystem_modules(self.plan, self.disk, self.modules)
        more = [*wanted.modules, *_own_modules(self.config)]
        for name in more:
            if not self.modules.knows(name):
                raise Refused(f"{name}: Linux {self.release} has no such module")
        self.loaded = [*own, *more]

    def wanted_modules(self) -> list[str]:
        system = self.config.system
        drivers = _drivers(system, self.plan, self.modules, generic=self.asked.generic)
        return [*drivers, *self.loaded]

    def add(self, archive: Archive) -> None:
        """Everything but init and modules."""
        add_scripts(archive)
        add_engine(archive, self.engine, self.plan)
        add_configuration(archive, self.config, self.plan)
        add_programs(archive, self.config, self.plan)
        settings = _settings(
            self.config, self.plan, self.engine, self.disk, self.asked, self.loaded
        )
        archive.file(CONFIGURATION, shell(settings), 0o600)


def _sensible(wanted: Wanted) -> None:
    """What the environment could only trip over when it is too late."""
    if not re.fullmatch(r"[\w.+~-]*", wanted.release):
        raise Refused(f"--kernel {wanted.release}: a release such as 6.1.0-9-amd64, not a path")
    if wanted.timeout_seconds < LEAST_SECONDS:
        raise Refused(
            f"--timeout {wanted.timeout_seconds}: a dump takes longer than {LEAST_SECONDS} seconds"
        )
    if wanted.disk and not re.fullmatch(r"(/dev/|UUID=|LABEL=)[^\s:]+(:\w+)?", wanted.disk):
        raise Refused(f"--disk {wanted.disk}: /dev/NAME, UUID=... or LABEL=..., and :FILESYSTEM")
    words = wanted.network.split(":")
    if wanted.network and not (
        words in (["dhcp"], ["auto"], ["any"])
        or (len(words) == 2 and all(words))
        or (4 <= len(words) <= 10 and _is_ipv4(words[0]))
    ):
        raise Refused(
            f"--ip {wanted.network}: CLIENT::GATEWAY:NETMASK::CARD:none, CARD:dhcp or dhcp"
        )


def _is_ipv4(text: str) -> bool:
    parts = text.split(".")
    return len(parts) == 4 and all(part.isdecimal() and int(part) < 256 for part in parts)


def _write(archive: Archive, out: Path, packing: str) -> None:
    if out.is_dir():
        raise Refused(f"{out}: it is a folder: name a file")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)  # mode 0600
    except OSError as error:
        raise Refused(f"{out}: {error.strerror}") from None
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            archive.pack(file, packing=packing)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(out)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def environment(name: str) -> bytes:
    """A file of the capture environment, as this package holds it."""
    return resources.files("crashpy.kdump.capture").joinpath("environment", name).read_bytes()


def add_scripts(archive: Archive) -> None:
    """What runs, and the shell that it runs in."""
    busybox = System().tool("busybox")
    if busybox is None:
        raise Refused("busybox: there is no such program: install busybox-static")
    parts.add_program(archive, f"{HOME}/busybox", busybox)
    for name, mode in (("start", 0o755), ("capture.sh", 0o644), ("udhcpc", 0o755)):
        archive.file(f"{HOME}/{name}", environment(name), mode)


def add_init(archive: Archive) -> None:
    """What an initial RAM disk has beside it, when it is nobody else's."""
    archive.link("/bin/sh", f"{HOME}/busybox")
    archive.link("/sbin/modprobe", f"{HOME}/busybox")  # the kernel runs it by this name
    for folder in ("/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/root"):
        archive.folder(folder, 0o700 if folder == "/root" else 0o755)
    archive.node("/dev/console", CONSOLE)
    archive.file("/init", environment("init"), 0o755)
    archive.file("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
    archive.file("/etc/group", "root:x:0:\n")
    archive.file("/etc/nsswitch.conf", "hosts: files dns\n")


def add_engine(archive: Archive, engine: Engine, plan: SavePlan) -> None:
    if engine.name == "native":
        modules = [*engine.python_modules(plan)]
        parts.add_python(archive, modules, without=engine.without(plan))
        for library in engine.libraries(plan):
            archive.copy(library, Path(library), 0o755)
        return
    program = System().tool("makedumpfile")
    if program is None:
        raise Refused("makedumpfile: there is no such program: install makedumpfile")
    parts.add_program(archive, "/usr/bin/makedumpfile", program)
    if plan.target.protocol == "ssh":
        client = System().tool("ssh")
        if client is None:
            raise Refused("ssh: there is no such program: install openssh-client")
        parts.add_program(archive, "/usr/bin/ssh", client)


def add_configuration(archive: Archive, config: Config, plan: SavePlan) -> None:
    """The files that say what is to be done, and the keys that let it in."""
    system = config.system
    names = [*config.dialect.files, "/etc/os-release", "/etc/localtime", "/etc/hostname"]
    if plan.target.protocol in ("ssh", "sftp"):
        names += ["/etc/ssh/ssh_known_hosts", "/root/.ssh/known_hosts", "/root/.ssh/config"]
        own = [*system.names("/root/.ssh", "id_*[!b]")]  # not the *.pub
        names += [*(plan.ssh_keys or own)]
    for name in names:
        if system.exists(name):
            archive.file(name, system.path(name).read_bytes(), 0o600)
    if plan.target.protocol in ("ssh", "sftp"):
        archive.folder("/root/.ssh", 0o700)
    hosts = system.read("/etc/hosts") or "127.0.0.1 localhost\n"
    if plan.target.host and (address := _address(plan.target.host)):
        hosts += f"{address} {plan.target.host}\n"
    archive.file("/etc/hosts", hosts)


def _address(host: str) -> str | None:
    """Of a name, looked up now: a capture kernel may have no name server."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return None
    address = str(found[0][4][0])
    return None if address == host else address


def add_programs(archive: Archive, config: Config, plan: SavePlan) -> None:
    """What the configuration runs before and after, and what else it asks for."""
    system = config.system
    asked = config.get("programs")
    names = (asked.value or "").split() if asked else []
    names += [line.split()[0] for line in (plan.before, plan.after, plan.transfer) if line]
    for name in names:
        if not name.startswith("/"):
            if name in BUSYBOX:
                continue
            name = system.tool(name) or name
        if not system.exists(name):
            raise Refused(f"{system.shown(name)}: there is no such program to run")
        archive.copy(name, system.path(name), 0o755)
        for library in parts.libraries(str(system.path(name))):
            archive.copy(library, Path(library), 0o755)


# The target and the modules for it.


def _disk(system: System, plan: SavePlan, wanted: Wanted, *, assembled: bool) -> Disk | None:
    if plan.target.protocol != "file":
        return None
    path = plan.target.path
    if wanted.disk:
        device, _, filesystem = wanted.disk.partition(":")
        return Disk(device, filesystem or "ext4", path)
    if plan.device:
        filesystem, _, device = plan.device.partition(" ")
        if filesystem == "raw":
            raise Refused("a raw partition is written by the distribution's kdump alone")
        return Disk(of_partition(system, device), filesystem, path, plan.mount_options)
    return disk_of(system, path, assembled=assembled)


def _filesystem_modules(plan: SavePlan, disk: Disk | None, modules: parts.Modules) -> Iterator[str]:
    """Those that nothing asks for by itself."""
    protocol = plan.target.protocol
    names = (disk.filesystem,) if disk else SHARES.get(protocol, ())
    if names and not any(modules.has(name) for name in names[:1]):
        raise Refused(f"the kernel has no {names[0]}: {plan.target} cannot be mounted with it")
    yield from (name for name in names if modules.has(name))
    if disk:  # by which ext4, xfs and btrfs check what they read
        yield from ("crc32c_generic", "crc32c_intel")


def _drivers(system: System, plan: SavePlan, modules: parts.Modules, *, generic: bool) -> list[str]:
    kind = "disk" if plan.target.protocol == "file" else "network"
    if generic or not system.live:
        return GENERIC[kind].split()
    loaded = [line.split()[0] for line in (system.fact("/proc/modules") or "").splitlines()]
    place = re.compile(DRIVERS[kind])
    return [name for name in loaded if place.match(modules.by_name.get(name, ""))]


def _own_modules(config: Config) -> list[str]:
    asked = config.get("modules")
    return (asked.value or "").split() if asked else []


def _packing(system: System, release: str) -> str:
    """zstd where the kernel can unpack it."""
    options = system.fact(f"/boot/config-{release}") or ""
    return "zstd" if "CONFIG_RD_ZSTD=y" in options else "gzip"


# What init reads.


def _settings(
    config: Config,
    plan: SavePlan,
    engine: Engine,
    disk: Disk | None,
    wanted: Wanted,
    modules: Sequence[str],
) -> dict[str, str]:
    url = plan.target
    return {
        "ENGINE": engine.name,
        "MODULES": " ".join(modules),
        "HOST_NAME": _host_name(config.system),
        "PROTOCOL": url.protocol,
        "SERVER": url.host,
        "PORT": str(url.port or ""),
        "USER_NAME": url.user,
        "PASSWORD": url.password or "",
        "SHARE": url.share,
        "EXPORT": url.path if url.protocol == "nfs" else "",
        "BELOW": disk.below if disk else "" if url.protocol == "nfs" else url.path,
        "DEVICE": disk.device if disk else "",
        "FILESYSTEM": disk.filesystem if disk else "",
        "MOUNT_OPTIONS": disk.options if disk else plan.mount_options,
        "SSH_KEY": plan.ssh_keys[0] if plan.ssh_keys else "",
        "LEVELS": " ".join(str(level) for level in plan.levels),
        "FORMAT": plan.format,
        "FLAGS": " ".join(_flags(plan)),
        "DMESG": "yes" if plan.dmesg or plan.format == "log" else "",
        "HOST_TAG": plan.host_tag,
        "KEEP": str(plan.keep or ""),
        "FREE_KIB": str(plan.free_bytes >> 10),
        "TRANSFER": plan.transfer,
        "TRIES": str(plan.tries),
        "BEFORE": plan.before,
        "BEFORE_ABORTS": "yes" if plan.before_aborts else "",
        "AFTER": plan.after,
        "FINALLY": plan.finally_,
        "FAILURE": plan.failure,
        "NETWORK": "" if url.protocol == "file" else wanted.network or _network(config),
        "NET_SECONDS": str(plan.net_timeout_seconds),
        "DEVICE_SECONDS": "30",
        "TIMEOUT_SECONDS": str(wanted.timeout_seconds),
    }


def _network(config: Config) -> str:
    """As ip= has it; "" is DHCP on the first card there is."""
    asked = config.get("network")
    card, _, mode = ((asked.value or "") if asked else "").removesuffix(":force").partition(":")
    if card in ("", "auto"):
        return ""
    if mode in ("dhcp", "dhcp4"):
        return f"{card}:dhcp"
    raise Refused(
        f"network={card}:{mode}: name the address, --ip CLIENT::GATEWAY:NETMASK::{card}:none"
        if mode == "static"
        else f"network={card}:{mode}: this environment has IPv4 only, see `crashpy capture install`"
    )


def _flags(plan: SavePlan) -> Iterator[str]:
    """makedumpfile's options; what it would draw on a terminal does not belong into a log."""
    if flag := FORMAT_FLAGS.get(plan.format):
        yield flag
    if "--message-level" not in plan.options:
        yield from ("--message-level", str(6 | plan.verbose & 8))  # debug
    yield from plan.options


def shell(settings: Mapping[str, str]) -> str:
    for name, value in settings.items():
        if re.search(r"[\x00-\x1f]", value):
            raise CommandError(f"{name}: a value is one line, without control characters")
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())


def _host_name(system: System) -> str:
    name = (system.fact("/etc/hostname") or (socket.gethostname() if system.live else "")).strip()
    return name if re.fullmatch(r"[A-Za-z0-9.-]+", name) else "localhost"
