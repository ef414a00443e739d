"""Machines to crash: a small system on a disk, run in QEMU's software emulation.

The machine boots from its disk, takes commands at a second serial line, crashes, is captured,
reboots, and takes commands again, as often as a test wants.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vm.kernels import Kernel

import crashpy
from crashpy.kdump.capture import parts
from crashpy.kdump.capture.cpio import Archive
from crashpy.kdump.system import System

READY = "MACHINE-READY\n"
HOST = "10.0.2.2"  # this machine's loopback, as the guest's network shows it
BOOT_SECONDS = 200
# With a thread for each CPU one may run into the breakpoint by which another is patching the
# kernel's code, when the other is done with it already: the kernel panics, now and then.
ACCELERATOR = "tcg,thread=single"
UNTIMED = "no_timer_check"  # on a busy host emulation is too slow for what the kernel expects
CAPTURE_SECONDS = 400

TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "kexec": "kexec-tools",
    "makedumpfile": "makedumpfile",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "depmod": "kmod",
    "cpio": "cpio",
    "ldd": "libc-bin",
}

INITRD_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /root
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in virtio_pci virtio_blk virtio_net virtio_rng ext4 crc32c_generic; do
  modprobe -q $module
done
until [ -b /dev/vda ]; do sleep 0.2; done
mount -t ext4 /dev/vda /root
umount /sys /proc
exec switch_root -c /dev/console /root /sbin/init
"""

INIT = """#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /tmp
hostname -F /etc/hostname
echo 1 >/proc/sys/kernel/sysrq
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up; ip route add default via 10.0.2.2
stty -F /dev/ttyS1 clocal raw -echo
exec 3<>/dev/ttyS1  # held open: what comes while nobody has it open is lost
stty -F /dev/ttyS1 clocal raw -echo
echo "the machine is up"
echo MACHINE-READY >&3
sh <&3 2>&1 | cat >&3  # its output is no terminal: so it shows no prompt
"""

FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/hosts": "127.0.0.1 localhost\n10.0.2.2 server\n",
    "etc/hostname": "crashlab\n",
    "etc/fstab": "/dev/vda / ext4 defaults 0 1\n/dev/vdb /small ext4 defaults 0 2\n",
    "etc/os-release": 'ID="opensuse"\nPRETTY_NAME="a machine to crash"\n',
}


@dataclass(frozen=True)
class Ran:
    status: int
    output: str


def require(tools: dict[str, str]) -> None:
    """Missing programs fail the test by a sentence."""
    system = System()
    for tool, package in tools.items():
        assert system.tool(tool), f"{tool} is missing: install {package}"


class Tree:
    """The machine's files, before they go onto its disk."""

    def __init__(self, folder: Path, kernel: Kernel) -> None:
        require(TOOLS)
        self.root = folder
        self.kernel = kernel
        release = kernel.release
        for name in ("proc", "sys", "dev", "run", "tmp", "boot", "root", "var/crash", "small"):
            (folder / name).mkdir(parents=True)
        for name, text in FILES.items():
            self.write(name, text)
        self.write("sbin/init", INIT, 0o755)
        shutil.copytree(kernel.modules, folder / "lib/modules" / release, symlinks=True)
        subprocess.run(["depmod", "-b", folder, release], check=True)
        shutil.copy(kernel.image, folder / "boot")
        shutil.copy(kernel.tree / f"boot/config-{release}", folder / "boot")
        archive = Archive()
        busybox = System().tool("busybox")
        assert busybox
        archive.copy("/bin/busybox", Path(busybox), 0o755)
        for name in subprocess.check_output([busybox, "--list"], text=True).split():
            if name != "busybox":
                archive.link(f"/bin/{name}", "busybox")
        archive.link("/sbin/modprobe", "/bin/busybox")
        for tool in ("kexec", "makedumpfile"):
            parts.add_program(archive, f"/usr/sbin/{tool}", str(System().tool(tool)))
        parts.add_python(archive, [*PRODUCTION], docstrings=True)
        # To follow a stack takes minutes in emulation, and a mail would wait for it.
        del archive.entries[f"{parts.home()}/crashpy/session.pyc"]
        for path in ROOT.rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                place = path.relative_to(ROOT)
                archive.copy(f"{parts.home()}/crashpy/{place}", path)
        script = '#!/bin/sh\nPYTHONHOME=/usr exec python3 -S -m crashpy "$@"\n'
        archive.file("/usr/bin/crashpy", script, 0o755)
        with subprocess.Popen(
            ["cpio", "-idm", "--quiet"], stdin=subprocess.PIPE, cwd=folder
        ) as unpack:
            assert unpack.stdin
            archive.write(unpack.stdin.write)
            unpack.stdin.close()
        assert unpack.returncode == 0

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def crashpy(self, *words: str) -> str:
        """`crashpy VERB VERB --root` of the machine's files; what it said."""
        verb, *rest = words
        command = [sys.executable, "-P", "-m", "crashpy", verb, rest[0], "--root", str(self.root)]
        done = subprocess.run([*command, *rest[1:]], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def image(self, name: str, *, engine: str, seconds: int = 240) -> str:
        """Build the capture environment /boot/NAME for what is configured now."""
        return self.crashpy(
            "capture", "image", str(self.root / "boot" / name),
            "--kernel", self.kernel.release, "--engine", engine, "--timeout", str(seconds),
        )  # fmt: skip


def _every_module(package: str, folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*.py")):
        words = path.relative_to(folder).with_suffix("").parts
        yield ".".join((package, *(words[:-1] if words[-1] == "__init__" else words)))


# What the machine's own Python has: all of crashpy, and what others import late.
ROOT = Path(crashpy.__file__).parent
PRODUCTION = (
    *_every_module("crashpy", ROOT),
    "drgn.helpers.linux",
    "drgn.helpers.common",
    "email.policy",
    "encodings.idna",
    "_strptime",
)


def make_disk(path: Path, mib: int, tree: Path | None = None) -> Path:
    source = ["-d", tree] if tree else []
    subprocess.run(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^metadata_csum", *source, path, f"{mib}M"],
        check=True,
    )
    return path


def make_initrd(path: Path, kernel: Kernel, tree: Path) -> Path:
    archive = Archive()
    archive.copy("/bin/busybox", tree / "bin/busybox", 0o755)
    archive.link("/bin/sh", "busybox")
    archive.file("/init", INITRD_INIT, 0o755)
    modules = parts.Modules.read(System(tree), kernel.release)
    wanted = ["virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "ext4", "crc32c_generic"]
    modules.add(archive, kernel.release, wanted)
    with path.open("wb") as out:
        archive.pack(out, packing="gzip")
    return path


class Machine:
    """One QEMU process."""

    def __init__(
        self,
        folder: Path,
        kernel: Kernel,
        disks: list[Path],
        initrd: Path,
        *,
        crashkernel: str = "256M",
        memory_mib: int = 1024,
        cpus: int = 2,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "console.log"
        self._line: socket.socket | None = None
        socket_path = folder / "line"
        command = [
            "qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine", "q35",
            "-cpu", "max,-avx512f", "-accel", ACCELERATOR,
            "-smp", str(cpus), "-m", str(memory_mib),
            "-kernel", str(kernel.image), "-initrd", str(initrd),
            "-append", f"console=ttyS0 crashkernel={crashkernel} net.ifnames=0 {UNTIMED}",
            "-serial", f"file:{self._log}",
            "-chardev", f"socket,id=line,path={socket_path},server=on,wait=off",
            "-serial", "chardev:line",
            "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net",
            "-object", "rng-random,id=rng,filename=/dev/urandom",
            "-device", "virtio-rng-pci,rng=rng",
        ]  # fmt: skip
        for number, disk in enumerate(disks):
            command += ["-drive", f"file={disk},if=none,id=disk{number},format=raw,cache=unsafe"]
            command += ["-device", f"virtio-blk-pci,drive=disk{number}"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self._connect(socket_path)
        self._pending = ""

    def _connect(self, path: Path) -> None:
        end = time.monotonic() + 20
        while self._line is None:
            line = socket.socket(socket.AF_UNIX)
            try:
                line.connect(str(path))
                self._line = line
            except OSError:
                line.close()
                assert self.process.poll() is None, "QEMU did not start"
                assert time.monotonic() < end, "QEMU does not open the serial line"
                time.sleep(0.1)

    @property
    def console(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_ready(self, seconds: int = BOOT_SECONDS) -> float:
        """Until the machine takes commands; how long that took."""
        began = time.monotonic()
        self._read_until(READY, seconds)
        return time.monotonic() - began

    def _read_until(self, text: str, seconds: float) -> str:
        assert self._line
        end = time.monotonic() + seconds
        while text not in self._pending:
            left = end - time.monotonic()
            if left <= 0 or self.process.poll() is not None:
                state = "stopped" if self.process.poll() is not None else f"silent for {seconds} s"
                tail = "\n".join(self.console.splitlines()[-25:])
                raise AssertionError(f"{text} never came, the machine is {state}:\n{tail}")
            self._line.settimeout(min(left, 1))
            with contextlib.suppress(TimeoutError):
                self._pending += self._line.recv(65536).decode(errors="replace")
        before, _, self._pending = self._pending.partition(text)
        return before

    def run(self, command: str, *, seconds: int = 120, check: bool = True) -> Ran:
        """A command line of the shell, and what it wrote on either stream."""
        assert self._line
        self._pending = ""
        self._line.sendall(f"{{ {command}\n}} </dev/null 2>&1; echo DONE''-$?-\n".encode())
        output = self._read_until("DONE-", seconds)
        status = int(self._read_until("-\n", 10))
        assert status == 0 or not check, f"{command}: status {status}: {output}"
        return Ran(status, output)

    def arm(self, image: str) -> str:
        """Load the capture kernel with the environment /boot/IMAGE."""
        kernel = "/boot/vmlinuz-$(uname -r)"
        self.run(f"crashpy setup load --kernel {kernel} --initrd /boot/{image} --yes")
        return self.run("cat /sys/kernel/kexec_crash_loaded").output

    def dumps(self, folder: str) -> list[str]:
        """Names of the folders there."""
        return self.run(f"cd {folder} && ls -d */").output.replace("/", "").split()

    def crash(self, how: str = "echo c >/proc/sysrq-trigger") -> float:
        """Crash, be captured and boot again; how long that took."""
        self.dies(how)
        return self.wait_ready(CAPTURE_SECONDS + BOOT_SECONDS)

    def says(self, text: str, seconds: int = CAPTURE_SECONDS) -> None:
        """Wait until the console shows it."""
        end = time.monotonic() + seconds
        while text not in self.console:
            assert time.monotonic() < end, f"{text} never came:\n{self.console[-2000:]}"
            time.sleep(0.5)

    def dies(self, how: str = "echo c >/proc/sysrq-trigger") -> None:
        """Crash, with nobody waiting for the machine to come back."""
        assert self._line
        self._line.sendall(f"sync; {how}\n".encode())

    @property
    def least_available_mib(self) -> list[int]:
        """In each capture that said it: the least memory that was available."""
        found = re.findall(r"the least memory that was available: (\d+) kB", self.console)
        return [int(number) // 1024 for number in found]

    def stop(self) -> None:
        """Power off, so that the disks are whole."""
        if self.process.poll() is None and self._line:
            with contextlib.suppress(OSError):
                self._line.sendall(b"sync; umount -a -r; poweroff -f\n")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        self.kill()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self._line:
            self._line.close()
            self._line = None


@contextlib.contextmanager
def running(machine: Machine) -> Iterator[Machine]:
    try:
        machine.wait_ready()
        yield machine
        machine.stop()
    finally:
        machine.kill()


def files_of(disk: Path, folder: str, target: Path) -> Path:
    """A folder of a machine's disk, copied out of it."""
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["debugfs", "-R", f"rdump {folder} {target}", disk],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return target / Path(folder).name
