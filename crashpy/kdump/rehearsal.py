"""A crash rehearsed in a virtual machine: this host's kernel, configuration and reservation
on QEMU's hardware. Nothing of the host is touched, and nothing leaves it: dumps go to a disk
of the virtual machine, whatever the target is.

A first initial RAM disk loads the capture kernel and crashes; the capture environment is
`crashpy capture image`'s; the disk is read without being mounted.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from crashpy.command import CommandError
from crashpy.kdump.capture import image, parts
from crashpy.kdump.capture.cpio import CONSOLE, Archive
from crashpy.kdump.config import Config
from crashpy.kdump.kexec import found_kernel, method
from crashpy.kdump.plan import save_plan
from crashpy.kdump.size import MIB, shown
from crashpy.kdump.system import Refused, System

FOLDER = "/var/crash"  # of the virtual machine's disk
PATIENCE_SECONDS = 900
LEAST_BYTES = 128 << 20  # for the kernel that crashes
TOOLS = {  # with the packages that have them, by Debian's names
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "kexec": "kexec-tools",
    "busybox": "busybox-static",
}
TCG = "tcg,thread=single"
EMULATORS = {"x86_64": "qemu-system-x86_64", "aarch64": "qemu-system-aarch64"}

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
echo "crashpy: reserved $(cat /sys/kernel/kexec_crash_size)"
echo 1 >/proc/sys/kernel/panic_on_oops
/sbin/kexec -p METHOD --initrd=/capture.img "--command-line=$(cat /options)" /kernel ||
  echo "crashpy: not loaded"
[ "$(cat /sys/kernel/kexec_crash_loaded)" = 1 ] && echo "crashpy: crash"
rm -f /capture.img /kernel
echo c >/proc/sysrq-trigger
"""


@dataclass(frozen=True)
class Machine:
    """The virtual machine."""

    emulator: str
    kernel: str
    release: str
    crashkernel: str
    memory_bytes: int
    seconds: int = PATIENCE_SECONDS

    @property
    def options(self) -> str:
        """Of its first kernel, but for crashkernel=."""
        if self.emulator.endswith("aarch64"):
            return "console=ttyAMA0 panic=5 ignore_loglevel"
        # on a busy host emulation is too slow for the check of the timer
        return "console=ttyS0 panic=5 ignore_loglevel no_timer_check"


@dataclass(frozen=True)
class Outcome:
    """How it ended."""

    dump: str = ""  # below the disk's root
    size_bytes: int = 0
    seconds: float = 0
    spare_bytes: int | None = None  # memory of the capture kernel that was never needed
    why: str = ""  # there is no dump
    console: tuple[str, ...] = ()  # its last lines, then


@dataclass(frozen=True)
class Overlay(System):
    """A system some of whose files are replaced by those of a folder."""

    files: Path = Path("/nowhere")

    def path(self, name: str) -> Path:
        ours = self.files / name.lstrip("/")
        return ours if ours.exists() else super().path(name)


def machine(config: Config, *, crashkernel: str, memory_bytes: int | None, seconds: int) -> Machine:
    """What is to be tried; Refused names what is missing for it."""
    system = config.system
    emulator = EMULATORS.get(system.machine)
    if emulator is None:
        raise Refused(f"a crash of {system.machine} is not rehearsed: use --on-this-machine")
    if System().tool(emulator) is None:
        package = "qemu-system-x86" if system.machine == "x86_64" else "qemu-system-arm"
        raise Refused(f"{emulator}: there is no such program: install {package} (or qemu-kvm)")
    for tool, package in TOOLS.items():
        if System().tool(tool) is None:
            raise Refused(f"{tool}: there is no such program: install {package}")
    release = system.release
    if release is None:
        raise Refused("which kernel runs is not known: is /proc mounted?")
    kernel = found_kernel(system, [*config.dialect.kernels(config, release)])
    size = _reservation(system, crashkernel)
    most = max(1 << 30, 3 * size) if memory_bytes is None else memory_bytes
    if most < size + LEAST_BYTES:
        raise Refused(f"{shown(most)} of memory do not hold {shown(size)} for the capture kernel")
    if seconds < 1:
        raise Refused(f"--seconds {seconds}: a crash takes longer than that")
    return Machine(emulator, kernel, release, f"{size // MIB}M", most, seconds)


def _reservation(system: System, crashkernel: str) -> int:
    """Bytes for the capture kernel: as asked for, as reserved here, or as it would be."""
    from crashpy.kdump.bootloader import current
    from crashpy.kdump.size import reserved

    if not crashkernel and system.reserved_bytes:
        return system.reserved_bytes
    values = crashkernel.replace("crashkernel=", "").split() or current(system)
    if not values:
        raise Refused("nothing is reserved here, nor configured: give --crashkernel SIZE")
    memory = system.memory_bytes
    size = reserved(values, memory or 4 << 30)
    if not size:
        raise Refused(f"{' '.join(values)} reserves nothing on this machine")
    return size


def lines(chosen: Machine) -> Iterator[str]:
    size = shown(chosen.memory_bytes)
    yield f"a virtual machine of {chosen.emulator} with {size}, crashkernel={chosen.crashkernel}"
    yield f"its kernel: {chosen.kernel}, Linux {chosen.release}"
    yield "it saves to a disk of its own; this machine is not touched"


def rehearse(
    config: Config, chosen: Machine, folder: Path, *, say: Callable[[str], None] = lambda _: None
) -> Outcome:
    """Crash it once; the folder keeps its console, its disk and the dump."""
    for line in lines(chosen):
        say(line)
    overlay, notes = _configuration(config, chosen, folder)
    for note in notes:
        say(note)
    capture, first, disk = (folder / name for name in ("capture.img", "first.img", "disk"))
    wanted = image.Wanted(release=chosen.release, generic=True, disk="/dev/vda:ext4")
    built = image.build(overlay, wanted, capture)
    say(f"capture environment: {shown(built.packed_bytes)}, saves by {built.engine.name}")
    _first_image(Config.read(overlay), chosen, capture, first)
    _disk(disk, chosen.memory_bytes + (64 << 20))
    begun = time.monotonic()
    files = (config.system.path(chosen.kernel), first, disk)
    ended = _run(chosen, files, folder / "console.log")
    seconds = time.monotonic() - begun
    return _outcome(chosen, folder, disk, seconds, ended=ended)


def _configuration(config: Config, chosen: Machine, folder: Path) -> tuple[Overlay, list[str]]:
    """The host's files with another target: what saving needs beside the target is tried."""
    files = folder / "files"
    for name, text in zip(config.dialect.files, config.old, strict=True):
        if text is not None:
            path = files / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode("utf-8", "surrogateescape"))
    # of the virtual machine's own facts those that a capture kernel's options are made of
    for name, text in {
        "cmdline": chosen.options,
        "cpuinfo": "apicid\t: 0\ninitial apicid\t: 0\n",
    }.items():
        (files / "proc").mkdir(parents=True, exist_ok=True)
        (files / "proc" / name).write_text(f"{text}\n")
    overlay = Overlay(config.system.root, config.system.chroot, files)
    changed = Config.read(overlay)
    notes = []
    for key, value in (("target", FOLDER), ("finally", "reboot"), ("failure", "reboot")):
        found = changed.get(key)
        if found is not None and found.value != value:
            changed.assign(key, value)
            shown = str(save_plan(config).target) if key == "target" else found.value
            notes.append(f"not tried: {key}={shown}; the virtual machine has {value}")
    for edit in changed.edits():
        path = files / edit.name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(edit.new.encode("utf-8", "surrogateescape"))
    return overlay, notes


def _first_image(config: Config, chosen: Machine, capture: Path, out: Path) -> None:
    """What boots first: it loads the capture kernel, and crashes."""
    host = System()
    archive = Archive()
    parts.add_program(archive, "/bin/busybox", str(host.tool("busybox")))
    parts.add_program(archive, "/sbin/kexec", str(host.tool("kexec")))
    archive.link("/bin/sh", "busybox")
    archive.copy("/kernel", config.system.path(chosen.kernel), 0o644)
    archive.copy("/capture.img", capture, 0o600)
    options = config.dialect.command_line(config, chosen.options)
    archive.file("/options", options)
    words = method(config.system, [])
    archive.file("/init", INIT.replace("METHOD", " ".join(words)), 0o755)
    for name in ("/proc", "/sys", "/dev"):
        archive.folder(name)
    archive.node("/dev/console", CONSOLE)
    with out.open("wb") as file:
        archive.pack(file, packing="gzip")


def _disk(path: Path, size: int) -> None:
    tree = path.with_name("tree")
    (tree / FOLDER.lstrip("/")).mkdir(parents=True, exist_ok=True)
    System().run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", str(tree), str(path), f"{size >> 20}M"])


def command(chosen: Machine, files: Sequence[Path], console: Path, *, fast: bool) -> Iterator[str]:
    """QEMU's: files are the kernel, its initial RAM disk, and the disk."""
    kernel, first, disk = files
    x86 = chosen.emulator.endswith("x86_64")
    yield from (chosen.emulator, "-nodefaults", "-display", "none", "-no-reboot")
    yield from ("-machine", "q35" if x86 else "virt")
    # AVX-512 is emulated wrongly enough to stop drivers of checksums; and with a thread for each
    # CPU one may run into a breakpoint by which the kernel patches itself, and panic
    slow = "max,-avx512f" if x86 else "max"
    yield from ("-accel", "kvm", "-cpu", "host") if fast else ("-accel", TCG, "-cpu", slow)
    yield from ("-smp", "2", "-m", f"{chosen.memory_bytes >> 20}")
    yield from ("-kernel", str(kernel), "-initrd", str(first))
    yield from ("-append", f"{chosen.options} crashkernel={chosen.crashkernel}")
    yield from ("-serial", f"file:{console}")
    yield from ("-drive", f"file={disk},if=none,id=disk,format=raw,cache=unsafe")
    yield from ("-device", "virtio-blk-pci,drive=disk")


def _run(chosen: Machine, files: Sequence[Path], console: Path) -> bool:
    """Whether it ended by itself, by the reboot after the dump."""
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        try:
            return _emulated([*command(chosen, files, console, fast=True)], chosen.seconds)
        except Refused:
            if console.exists() and console.stat().st_size:
                raise
            # inside another virtual machine /dev/kvm may be there and not work
    return _emulated([*command(chosen, files, console, fast=False)], chosen.seconds)


def _emulated(words: list[str], seconds: int) -> bool:
    program = words[0]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [str(System().tool(program)), *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        try:
            status = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if status:
            said.seek(0)
            rows = said.read().decode("utf-8", "replace").strip().splitlines()
            raise Refused(f"{program} failed: {rows[-1] if rows else f'status {status}'}")
    return True


def _outcome(chosen: Machine, folder: Path, disk: Path, seconds: float, *, ended: bool) -> Outcome:
    from crashpy.kdump.inventory import dumps_below
    from crashpy.kdump.targets import FileTarget
    from crashpy.kdump.urls import Url

    saved = folder / "saved"
    saved.mkdir()
    System().run(["debugfs", "-R", f"rdump {FOLDER} {saved}", str(disk)])
    here = saved / FOLDER.rpartition("/")[2]
    found = dumps_below(FileTarget(Url("file", str(here)))) if here.is_dir() else []
    rows = _console(folder / "console.log")
    if found and found[-1].state == "complete":
        dump = found[-1]
        if dump.release and dump.release != chosen.release:
            return Outcome(why=f"the dump is of Linux {dump.release}, not {chosen.release}")
        return Outcome(f"{here}/{dump.folder}", dump.size_bytes, seconds, _spare(rows))
    why = _why(rows, chosen, ended=ended)
    if found:
        why = f"the dump is {found[-1].state}: {found[-1].why or why}"
    return Outcome(why=why, seconds=seconds, console=tuple(rows[-12:]))


def _console(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return []
    rows = ("".join(char for char in row if char.isprintable()) for row in text.splitlines())
    return [row for row in rows if row.strip()]


def _spare(rows: list[str]) -> int | None:
    """The capture environment says how little was left at worst."""
    found = re.search(r"the least memory that was available: (\d+) kB", "\n".join(rows))
    return int(found[1]) << 10 if found else None


# What the console says when it goes wrong, the surest sign first.
SIGNS = (
    ("crashpy: reserved 0", "the kernel reserved nothing: crashkernel= is too large for it"),
    ("crashpy: not loaded", "kexec could not load the capture kernel"),
    ("deadlocked on memory", "the capture kernel ran out of memory: reserve more"),
    ("Out of memory", "the capture kernel ran out of memory: reserve more"),
    ("out of memory", "the capture kernel ran out of memory: reserve more"),
    ("Initramfs unpacking failed", "the capture environment did not fit: reserve more"),
    ("No space left on device", "the disk was full"),
)


def _why(rows: list[str], chosen: Machine, *, ended: bool) -> str:
    text = "\n".join(rows)
    for sign, why in SIGNS:
        if sign in text:
            return why
    if not rows:
        return "the virtual machine's kernel said nothing: has it a serial console?"
    if "crashpy: crash" not in text:
        return "the kernel did not come up in the virtual machine"
    if text.count("Linux version") < 2:
        return "the capture kernel did not start"
    return (
        "the capture environment saved nothing"
        if ended
        else f"nothing had been saved after {chosen.seconds} seconds"
    )


def empty_folder(name: str) -> Path:
    """Where --keep leaves what the virtual machine leaves."""
    folder = Path(name)
    if folder.exists() and any(folder.iterdir()):
        raise CommandError(f"{folder}: it is there, and not empty")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
