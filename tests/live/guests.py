"""Full dumps of guests that use memory in every way a dump level tells apart.

A guest of QEMU runs workload.c, gives memory to a balloon, crashes, and its capture
kernel copies /proc/vmcore to a disk. The dumps are kept beside those of dumps.py.
"""

from __future__ import annotations

import json
import lzma
import os
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import dumps

MODULES = ("virtio_pci", "virtio_blk", "virtio_balloon", "ext4", "crc32c_generic")
INIT = r"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /mnt
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
if [ -e /proc/vmcore ]; then
  dd if=/proc/vmcore of=/dev/vda bs=1M && sync && echo CAPTURED
  poweroff -f
fi
mke2fs -F /dev/vdb >/dev/null && mount -t ext4 /dev/vdb /mnt
mkswap /dev/vdc >/dev/null && swapon /dev/vdc
size=$(sed -n 's/.*fill=\([0-9]*\).*/\1/p' /proc/cmdline)
/bin/workload $size > /said &
until grep -q READY /said; do sleep 1; done
sleep 2; cat /said /proc/meminfo
words="--initrd=/boot/initrd --append=console=ttyS0\ irqpoll\ nr_cpus=1"
eval "kexec -c -p /boot/vmlinuz $words || kexec -s -p /boot/vmlinuz $words"
echo CRASHING; sleep 1; echo c > /proc/sysrq-trigger
"""


@dataclass(frozen=True)
class Guest:
    name: str
    kernel: str  # the tail of a linux-image package
    memory_mib: int = 1024
    fill_mib: int = 0  # of page cache, and as much of anonymous memory
    balloon_mib: int = 48
    five_levels: bool = True  # of page tables
    hwpoison: bool = True  # the kernel has CONFIG_MEMORY_FAILURE


def workload_guests() -> list[Guest]:
    """6.1 and 6.12. Debian's 6.1 cloud kernel cannot poison pages: its other one can."""
    old, new = dumps._kernel("6.1").name, dumps._kernel("6.12").name
    return [
        Guest("6.1-cloud-workload", old, hwpoison=False),
        Guest("6.1-workload", old.replace("-cloud", ""), five_levels=False),
        Guest("6.12-workload", new),
    ]


def big_guest() -> Guest:
    """Its dump has more than 4 GiB."""
    return Guest("6.12-4gib", dumps._kernel("6.12").name, memory_mib=4480, fill_mib=1280)


def dump_of(guest: Guest) -> Path:
    """The guest's /proc/vmcore, made if it is not there."""
    target = dumps.KEPT / guest.name / "vmcore.elf"
    if not target.exists():
        tree = _kernel_tree(guest.kernel)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            _crash(guest, tree, Path(scratch), target)
    return target


def _kernel_tree(name: str) -> Path:
    """Kernel and modules; debug information only where it is there."""
    tree = dumps.KERNELS / name
    if not list(tree.glob("boot/vmlinuz-*")):
        tree.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            fetch = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download"]
            subprocess.run([*fetch, f"linux-image-{name}"], cwd=folder, check=True)
            [package] = Path(folder).glob("*.deb")
            subprocess.run(["dpkg", "-x", package, tree], check=True)
    return tree


def _crash(guest: Guest, tree: Path, scratch: Path, target: Path) -> None:
    root = scratch / "root"
    [kernel] = tree.glob("boot/vmlinuz-*")
    release = kernel.name.removeprefix("vmlinuz-")
    _programs(root)
    _modules(tree, release, root / "modules")
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    (root / "boot").mkdir()
    shutil.copy(kernel, root / "boot" / "vmlinuz")
    _pack(root, scratch / "inner")
    shutil.copy(scratch / "inner", root / "boot" / "initrd")
    _pack(root, scratch / "initrd")
    disks = {"a": guest.memory_mib + 64, "b": 256, "c": 256}
    for letter, size in disks.items():
        with (scratch / letter).open("wb") as disk:
            disk.truncate(size << 20)
    console = target.parent / "console.log"
    append = f"console=ttyS0 crashkernel=256M fill={guest.fill_mib}"
    if not guest.five_levels:
        append += " no5lvl"
    command = [
        *("qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine", "q35"),
        *("-accel", "tcg,thread=single", "-cpu", "max,-avx512f", "-smp", "2"),
        *("-m", str(guest.memory_mib), "-kernel", kernel, "-initrd", scratch / "initrd"),
        *("-append", append, "-serial", f"file:{console}", "-no-reboot"),
        *("-device", "virtio-balloon-pci", "-qmp", f"unix:{scratch}/qmp,server,nowait"),
    ]
    for letter in disks:
        command += ["-drive", f"file={scratch}/{letter},if=none,id={letter},format=raw"]
        command += ["-device", f"virtio-blk-pci,drive={letter}"]
    with subprocess.Popen(command) as machine:
        try:
            _give_to_balloon(scratch / "qmp", (guest.memory_mib - guest.balloon_mib) << 20)
            machine.wait(timeout=3600)
        finally:
            machine.kill()
    said = console.read_text(errors="replace")
    if "CAPTURED" not in said:
        raise RuntimeError(f"{guest.name}: nothing captured:\n{said[-2000:]}")
    _keep(scratch / "a", target)


def _programs(root: Path) -> None:
    """busybox, kexec and mke2fs, with the libraries of the last two; the workload."""
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin")
    source = Path(__file__).parent / "workload.c"
    compile_it = ["cc", "-O2", "-static", "-o", root / "bin" / "workload", source]
    subprocess.run(compile_it, check=True)
    for program in ("/sbin/kexec", "/sbin/mke2fs"):
        shutil.copy(program, root / "bin")
        listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
        for word in listed.stdout.split():
            if word.startswith("/"):
                (root / word[1:]).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(word, root / word[1:])


def _modules(tree: Path, release: str, folder: Path) -> None:
    """The modules and what they need, unpacked, and the order to insert them in."""
    folder.mkdir()
    subprocess.run(["depmod", "-b", tree, release], check=True)
    order: list[str] = []
    for name in MODULES:
        ask = ["modprobe", "--show-depends", "-d", tree, "-S", release, name]
        answer = subprocess.run(ask, capture_output=True, text=True, check=True).stdout
        for line in answer.splitlines():
            path = Path(line.split()[1])
            if line.startswith("insmod") and path.name.removesuffix(".xz") not in order:
                order.append(path.name.removesuffix(".xz"))
                raw = path.read_bytes()
                data = lzma.decompress(raw) if path.suffix == ".xz" else raw
                (folder / order[-1]).write_bytes(data)
    (folder / "order").write_text("\n".join(order))


def _pack(root: Path, target: Path) -> None:
    command = f"cd {root} && find . | cpio -o -H newc --quiet | gzip -1 > {target}"
    subprocess.run(command, shell=True, check=True)


def _give_to_balloon(monitor: Path, rest: int) -> None:
    """Ask the guest to give back all memory beyond `rest` bytes."""
    deadline = time.monotonic() + 30
    while not monitor.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.fspath(monitor))
        lines = connection.makefile("rw")
        lines.readline()
        for words in (
            {"execute": "qmp_capabilities"},
            {"execute": "balloon", "arguments": {"value": rest}},
        ):
            lines.write(json.dumps(words) + "\n")
            lines.flush()
            answer = json.loads(lines.readline())
            while "event" in answer:
                answer = json.loads(lines.readline())
            assert "return" in answer, answer


def _keep(disk: Path, target: Path) -> None:
    """The ELF file at the start of a disk, as long as its headers say."""
    from crashpy.vmcore.elf import Elf
    from crashpy.vmcore.files import PlainFile

    with disk.open("rb") as raw:
        segments = Elf(PlainFile(raw.fileno())).segments
    draft = target.with_suffix(".draft")
    shutil.copyfile(disk, draft)
    os.truncate(draft, max(s.offset + s.filesz for s in segments))
    draft.rename(target)
