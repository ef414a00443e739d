"""The machine, or a tree of one below a folder: its files, its facts, its tools."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crashpy.command import CommandError

TOOL_FOLDERS = ("usr/sbin", "usr/bin", "sbin", "bin", "usr/local/sbin", "usr/local/bin")


class Refused(CommandError):
    """Why nothing was done, in one sentence."""


@dataclass(frozen=True)
class System:
    """Files are named as the machine names them: `/etc/kdump.conf`, wherever the tree lies."""

    root: Path = Path("/")
    chroot: bool = True  # tools of another tree run inside it

    @classmethod
    def at(cls, folder: str) -> System:
        """The one that --root names; whatever leads to / is this machine itself."""
        root = Path(folder)
        if not folder or not root.is_dir():
            raise Refused(f"{folder or '--root'}: there is no such folder")
        return cls() if root.samefile("/") else cls(root.absolute())

    @property
    def live(self) -> bool:
        """Whether this is the machine we run on."""
        return self.root == Path("/")

    def path(self, name: str) -> Path:
        """Where a file of the machine lies; its symbolic links stay inside the tree."""
        pending = [part for part in reversed(name.split("/")) if part not in ("", ".")]
        found: list[str] = []
        for _ in range(1000):
            if not pending:
                break
            part = pending.pop()
            if part == "..":
                found = found[:-1]
                continue
            here = self.root.joinpath(*found, part)
            if not here.is_symlink():
                found.append(part)
                continue
            target = str(here.readlink())
            if target.startswith("/"):
                found = []
            pending += [part for part in reversed(target.split("/")) if part not in ("", ".")]
        else:
            raise Refused(f"{name}: its symbolic links go round in a circle")
        return self.root.joinpath(*found)

    def shown(self, name: str) -> str:
        """The file's name for a sentence."""
        return name if self.live else str(self.root / name.lstrip("/"))

    def exists(self, name: str) -> bool:
        try:
            return self.path(name).exists()
        except OSError:
            return False

    def read(self, name: str) -> str | None:
        """The text of a file, whatever its bytes; None where there is none."""
        try:
            return self.path(name).read_bytes().decode("utf-8", "surrogateescape")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Refused(f"{self.shown(name)}: {error.strerror}") from None

    def fact(self, name: str) -> str | None:
        """A file of /proc or /sys, stripped; None when it cannot be had."""
        try:
            return self.path(name).read_bytes().decode("utf-8", "replace").strip()
        except OSError:
            return None

    def number(self, name: str) -> int | None:
        text = self.fact(name)
        return int(text) if text and text.isdecimal() else None

    def names(self, folder: str, pattern: str) -> list[str]:
        """The files of a folder whose names match, sorted."""
        try:
            return sorted(f"{folder}/{path.name}" for path in self.path(folder).glob(pattern))
        except OSError:
            return []

    def tool(self, name: str) -> str | None:
        """Where a program is, as it would be run."""
        if self.live:
            extra = os.pathsep.join(f"/{folder}" for folder in TOOL_FOLDERS)
            return shutil.which(name, path=f"{os.environ.get('PATH', '')}{os.pathsep}{extra}")
        for folder in TOOL_FOLDERS:
            path = self.path(f"/{folder}/{name}")
            if path.is_file() and os.access(path, os.X_OK):
                return f"/{folder}/{name}" if self.chroot else str(path)
        return None

    def run(self, argv: Sequence[str]) -> str:
        """Run a tool of the machine; what it wrote. Its failure is a Refused."""
        where = self.tool(argv[0])
        if where is None:
            raise Refused(f"{argv[0]}: there is no such program: install {package(argv[0])}")
        command = [where, *argv[1:]]
        if not self.live and self.chroot:
            command = ["chroot", str(self.root), *command]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise Refused(f"{argv[0]}: {error.strerror}") from None
        if done.returncode:
            words = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            reason = words[-1] if words else "it said nothing"
            raise Refused(f"{argv[0]} failed with status {done.returncode}: {reason}")
        return done.stdout

    # Facts.

    @property
    def machine(self) -> str:
        """The architecture, as uname(2) names it."""
        return os.uname().machine

    @property
    def release(self) -> str | None:
        """Of the running kernel."""
        return self.fact("/proc/sys/kernel/osrelease")

    @property
    def cmdline(self) -> str | None:
        return self.fact("/proc/cmdline")

    @property
    def crashkernel(self) -> list[str]:
        """The values of crashkernel= that the running kernel was started with."""
        words = (self.cmdline or "").split()
        return [word.partition("=")[2] for word in words if word.startswith("crashkernel=")]

    @property
    def memory_bytes(self) -> int | None:
        """Physical memory, as the kernel counts it to choose among ranges."""
        total = self._ram_bytes
        return -(-total // ROUNDED) * ROUNDED if total and self._rounds else total

    @property
    def _rounds(self) -> bool:
        """Since Linux 6.0, and on RHEL before: firmware keeps a little of what was bought."""
        release = self.release or ""
        found = re.match(r"(\d+)\.", release)
        return found is None or int(found[1]) >= 6 or ".el" in release

    @property
    def _ram_bytes(self) -> int | None:
        total = 0
        for line in (self.fact("/proc/iomem") or "").splitlines():
            span, _, what = line.partition(" : ")
            if what == "System RAM" and not span.startswith(" "):
                low, _, high = span.partition("-")
                total += int(high, 16) - int(low, 16) + 1 if int(high, 16) else 0
        if total:
            return total
        for line in (self.fact("/proc/meminfo") or "").splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024 + (self.reserved_bytes or 0)
        return None

    @property
    def reserved_bytes(self) -> int | None:
        return self.number("/sys/kernel/kexec_crash_size")

    @property
    def loaded(self) -> bool | None:
        """Whether a capture kernel waits for a crash."""
        number = self.number("/sys/kernel/kexec_crash_loaded")
        return None if number is None else bool(number)

    @property
    def next_loaded(self) -> bool | None:
        """Whether a kernel waits for a fast reboot."""
        number = self.number("/sys/kernel/kexec_loaded")
        return None if number is None else bool(number)

    @property
    def lockdown(self) -> str | None:
        """none, integrity or confidentiality."""
        text = self.fact("/sys/kernel/security/lockdown") or ""
        return text.partition("[")[2].partition("]")[0] or None

    @property
    def secure_boot(self) -> bool | None:
        for name in self.names("/sys/firmware/efi/efivars", "SecureBoot-*"):
            try:
                return self.path(name).read_bytes()[-1:] == b"\1"
            except OSError:
                return None
        return None

    @property
    def locked(self) -> bool:
        """Whether the kernel takes only signed images, through kexec_file_load(2)."""
        return self.lockdown in ("integrity", "confidentiality") or bool(self.secure_boot)

    @property
    def distribution(self) -> str | None:
        """What os-release calls it."""
        return self._os_release().get("PRETTY_NAME")

    @property
    def family(self) -> str | None:
        """suse, rhel or debian, from os-release."""
        found = self._os_release()
        words = f"{found.get('ID', '')} {found.get('ID_LIKE', '')}".lower().split()
        for family, names in FAMILIES.items():
            if any(word.startswith(names) for word in words):
                return family
        return None

    def _os_release(self) -> dict[str, str]:
        text = self.fact("/etc/os-release") or self.fact("/usr/lib/os-release") or ""
        pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
        return {name: value.strip("\"'") for name, _, value in pairs}


def split_options(line: str) -> list[str]:
    """Options of a kernel command line; quotes hold blanks together and stay."""
    return re.findall(r'(?:"[^"]*"|[^\s"])+', line)


ROUNDED = 128 << 20  # kernel/crash_reserve.c

FAMILIES = {
    "suse": ("suse", "sles", "sled", "opensuse"),
    "rhel": ("rhel", "fedora", "centos", "rocky", "almalinux", "ol"),
    "debian": ("debian", "ubuntu"),
}

PACKAGES = {
    "kexec": "kexec-tools",
    "grubby": "grubby",
    "zipl": "s390-tools",
    "pbl": "perl-Bootloader",
    "update-grub": "grub2-common",
    "kdumptool": "kdump",
    "systemctl": "systemd",
    "update-rc.d": "init-system-helpers",
    "sysctl": "procps",
    "ssh": "openssh-client",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "makedumpfile": "makedumpfile",
}


def package(tool: str) -> str:
    return PACKAGES.get(tool, f"the package that has {tool}")
