"""Which disk a folder is on, as the capture environment must name it to mount it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from crashpy.kdump.system import Refused, System

# What is no disk of its own: nothing can be kept there, or somebody else must open it.
_NOT_KEPT = ("tmpfs", "ramfs", "overlay", "rootfs", "devtmpfs")


@dataclass(frozen=True)
class Disk:
    """A file system, and where in it the folder is."""

    device: str  # UUID=..., LABEL=... or /dev/...
    filesystem: str
    below: str  # "" or /var/crash
    options: str = ""  # that it is mounted with, where it cannot do without


@dataclass(frozen=True)
class _Mount:
    point: str
    root: str  # of the file system, that is seen there
    filesystem: str
    device: str
    options: str


def disk_of(system: System, folder: str, *, assembled: bool = False) -> Disk:
    """From what is mounted, or for a tree from its fstab.

    `assembled` says that somebody else puts volumes and arrays together.
    """
    mounts = [*(_mounted(system) if system.live else _listed(system))]
    covering = [mount for mount in mounts if _inside(folder, mount.point)]
    if not covering:
        where = "/proc/self/mountinfo" if system.live else system.shown("/etc/fstab")
        raise Refused(f"{where} does not say which disk {folder} is on: name it with --disk")
    mount = max(enumerate(covering), key=lambda pair: (len(pair[1].point), pair[0]))[1]
    if mount.filesystem in _NOT_KEPT:
        raise Refused(f"{folder} is on {mount.filesystem}, which no dump outlives")
    if re.match(r"/dev/(mapper/|dm-|md)", mount.device) and not assembled:
        raise Refused(
            f"{folder} is on {mount.device}, which this image cannot put together: dracut and"
            " initramfs-tools can, see `crashpy capture install`"
        )
    below = folder if mount.point == "/" else folder[len(mount.point) :]
    below = f"{'' if mount.root == '/' else mount.root}{below}".rstrip("/")
    options = mount.options if mount.filesystem == "btrfs" else ""
    return Disk(_lasting(system, mount.device), mount.filesystem, below, options)


def _inside(path: str, point: str) -> bool:
    return point == "/" or path == point or path.startswith(f"{point}/")


def _mounted(system: System) -> Iterator[_Mount]:
    """Documentation/filesystems/proc.rst, /proc/PID/mountinfo."""
    for line in (system.fact("/proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        fields, (filesystem, device, *_) = left.split(), right.split()
        point, root = _octal(fields[4]), _octal(fields[3])
        if device == "/dev/root":
            node = system.fact(f"/sys/dev/block/{fields[2]}/uevent") or ""
            named = re.search(r"^DEVNAME=(\S+)", node, re.MULTILINE)
            device = f"/dev/{named[1]}" if named else device
        # btrfs names its subvolume as the root; mounted whole, it is a folder
        yield _Mount(point, root, filesystem, device, "subvolid=5" if filesystem == "btrfs" else "")


def _listed(system: System) -> Iterator[_Mount]:
    for line in (system.read("/etc/fstab") or "").splitlines():
        words = line.partition("#")[0].split()
        if len(words) >= 3 and words[1].startswith("/"):
            options = words[3] if len(words) > 3 else ""
            options = options if options != "defaults" else ""
            yield _Mount(_octal(words[1]), "/", words[2], words[0], options)


def _octal(text: str) -> str:
    r"""\040 is a blank in fstab and mountinfo."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def of_partition(system: System, device: str) -> str:
    """PARTUUID= and PARTLABEL= by a name that the environment can look up."""
    kind, _, name = device.partition("=")
    if kind not in ("PARTUUID", "PARTLABEL"):
        return device
    link = f"/dev/disk/by-{kind.lower()}/{name}"
    if not system.exists(link):
        raise Refused(f"{device}: there is no {link}: name the file system by UUID=")
    found = _lasting(system, link)
    return found if found != link else f"/{system.path(link).relative_to(system.root)}"


def _lasting(system: System, device: str) -> str:
    """A name that is the same when disks are found in another order."""
    if device.startswith("/dev/"):
        for name in system.names("/dev/disk/by-uuid", "*"):
            if system.path(name) == system.path(device):
                return f"UUID={name.rpartition('/')[2]}"
    return device
