"""`crashpy setup test` and `crashpy setup kexec`: tried for good."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from vm import machine as machines
from vm.kernels import kernel
from vm.machine import Machine, Tree, make_disk, make_initrd, require, running

from crashpy.kdump import proof
from crashpy.kdump.check import check
from crashpy.kdump.rehearsal import TOOLS
from crashpy.kdump.setup import setup
from crashpy.kdump.system import System

GRUB_CFG = """\
set default="1"
menuentry 'old' {
  linux /boot/gone
}
menuentry 'the machine' --id default {
  linux /boot/vmlinuz-RELEASE console=ttyS0 panic=0 crashkernel=256M no_timer_check by=grub
  initrd /boot/initrd
}
"""


@pytest.mark.parametrize(
    ("series", "size", "state", "why"),
    [
        ("6.12", "256M", "success", ""),
        ("6.1", "72M", "fail", "the capture kernel ran out of memory: reserve more"),
    ],
)
def test_a_crash_is_rehearsed(tmp_path: Path, series: str, size: str, state: str, why: str) -> None:
    """In a virtual machine of the host's kernel; with too little memory it says so, as the
    doctor said before."""
    require({**TOOLS, "qemu-system-x86_64": "qemu-system-x86"})
    tree = Tree(tmp_path / "tree", kernel(series))
    tree.write("etc/default/kdump-tools", 'USE_KDUMP=1\nSSH="joe@server"\n')
    tree.write("proc/sys/kernel/osrelease", f"{tree.kernel.release}\n")
    tree.write("sys/kernel/kexec_crash_size", f"{int(size[:-1]) << 20}\n")
    predicted = [f for f in check(System(tree.root)) if "are reserved, and about" in f.what]
    assert len(predicted) == (state != "success")
    words = ["test", "--root", str(tree.root), "--crashkernel", size, "--seconds", "400"]
    assert setup(words) == (state != "success")
    found = proof.read(System(tree.root))
    assert found is not None
    assert (found.state, found.why, found.how) == (state, why, proof.MACHINE)
    assert bool(found.dump) is (state == "success")


def test_a_machine_proves_itself_and_reboots_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("_strptime", "crashpy.kdump.proof")  # what `setup test` runs beside the others
    monkeypatch.setattr(machines, "PRODUCTION", (*machines.PRODUCTION, *more))
    tree = Tree(tmp_path / "tree", kernel("6.12"))
    release = tree.kernel.release
    tree.write("etc/sysconfig/kdump", 'KDUMP_SAVEDIR="/var/crash"\nKDUMP_CPUS=1\n')
    tree.write("boot/grub/grub.cfg", GRUB_CFG.replace("RELEASE", release))
    tree.image("capture", engine="auto")
    initrd = make_initrd(tmp_path / "initrd", tree.kernel, tree.root)
    shutil.copy(initrd, tree.root / "boot/initrd")
    disk = make_disk(tmp_path / "disk", 1500, tree.root)
    with running(Machine(tmp_path / "machine", tree.kernel, [disk], initrd)) as machine:
        refused = machine.run("echo crashlab | crashpy setup test --on-this-machine", check=False)
        assert "no capture kernel is loaded" in refused.output
        machine.arm("capture")
        refused = machine.run("echo other | crashpy setup test --on-this-machine", check=False)
        assert "that is not this machine's name: nothing was done" in refused.output
        machine.crash("echo crashlab | crashpy setup test --on-this-machine")
        result = machine.run("crashpy setup test --result").output
        assert "result:       success" in result
        [dump] = machine.dumps("/var/crash")
        assert f"dump:         /var/crash/{dump}" in result
        status = machine.run("crashpy setup status", check=False).output
        assert "tested:       success, on this machine" in status
        assert "started by kexec" not in status
        # what the boot loader would start, started without it
        machine.run("crashpy setup kexec --yes")
        refused = machine.run("echo no | crashpy setup kexec --exec", check=False)
        assert "that is not this machine's name" in refused.output
        machine.crash("mount -o remount,ro /; echo crashlab | crashpy setup kexec --exec")
        assert "by=grub" in machine.run("cat /proc/cmdline").output
        status = machine.run("crashpy setup status", check=False).output
        assert f"{release}, started by kexec, past the boot loader" in status
