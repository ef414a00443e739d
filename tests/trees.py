"""Small machines below a folder, with stand-ins for the tools: what `crashpy setup` acts on."""

import os

from crashpy.kdump.setup import setup
from crashpy.kdump.system import System

CMDLINE = 'BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro quiet dyndbg="file a +p" crashkernel=256M'


class Tree:
    """A small machine below a folder."""

    def __init__(self, root):
        self.root = root
        self.system = System(root, chroot=False)
        self.write("/etc/passwd", "root\n")

    def write(self, name, text, mode=0o644):
        path = self.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def read(self, name):
        return (self.root / name.lstrip("/")).read_text()

    def tool(self, name, body="", log=True):
        """A program that notes its words in /ran, then runs `body`; $ROOT is the tree."""
        note = f'printf "%s\\n" "{name} $*" >> "$ROOT/ran"\n' if log else ""
        self.write(f"/usr/sbin/{name}", f"#!/bin/sh\nROOT={self.root}\n{note}{body}\n", 0o755)

    @property
    def ran(self):
        path = self.root / "ran"
        return path.read_text().splitlines() if path.exists() else []

    def machine(self, *, loaded=0, reserved=256 << 20, cmdline=CMDLINE, memory_gib=8):
        self.write("/proc/cmdline", cmdline + "\n")
        self.write("/proc/sys/kernel/osrelease", "6.1.0-9-amd64\n")
        self.write("/proc/meminfo", f"MemTotal: {memory_gib << 20} kB\n")
        self.write("/sys/kernel/kexec_crash_loaded", f"{loaded}\n")
        self.write("/sys/kernel/kexec_crash_size", f"{reserved}\n")
        self.write("/boot/vmlinuz-6.1.0-9-amd64", "kernel")

    def debian(self):
        self.write("/etc/default/kdump-tools", "USE_KDUMP=1\nKDUMP_COREDIR=/var/crash\n")
        self.write("/var/lib/kdump/initrd.img", "initrd")
        self.write("/etc/kdump/sysctl.conf", "")
        os.utime(self.root / "etc/kdump/sysctl.conf", (1, 1))
        (self.root / "var/crash").mkdir(parents=True, exist_ok=True)

    def suse(self, text='KDUMP_SAVEDIR="/var/crash"\nKDUMP_CPUS="2"\n'):
        self.write("/etc/sysconfig/kdump", text)
        self.write("/var/lib/kdump/kernel", "kernel")
        self.write("/var/lib/kdump/initrd", "initrd")

    def rhel(self):
        self.write("/etc/kdump.conf", "path /var/crash\n")
        self.write("/etc/sysconfig/kdump", 'KEXEC_ARGS="-s"\nKDUMP_COMMANDLINE_REMOVE="quiet"\n')
        self.write("/boot/initramfs-6.1.0-9-amd64kdump.img", "initrd")

    def setup(self, verb, *words):
        return setup([verb, "--root", str(self.root), *words])
