"""One machine's life: configured, armed, crashed twice, told about, rebooted fast."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import mailservers
import pytest
from vm.dumps import panic_task, saved_well, stack
from vm.kernels import kernel
from vm.machine import HOST, Machine, Tree, files_of, make_disk, make_initrd, running
from vm.oops import write_oops_module


@pytest.mark.parametrize(("series", "engine"), [("6.1", "makedumpfile"), ("6.12", "native")])
def test_life_of_a_machine(tmp_path: Path, series: str, engine: str) -> None:
    tree = Tree(tmp_path / "tree", kernel(series))
    tree.write("etc/sysconfig/kdump", '# kept\nKDUMP_SAVEDIR=""\n')
    certificate = mailservers.certificate_in(tmp_path)
    with mailservers.postfix(certificate) as post:
        tree.crashpy(
            "setup", "configure", "target=/var/crash", "level=31", "keep=1", "cpus=1", "--yes"
        )
        said = tree.image("capture", engine="auto")
        assert f"engine {engine}" in said
        module = write_oops_module(tree.kernel, tree.root / "root/oops.ko")
        initrd = make_initrd(tmp_path / "initrd", tree.kernel, tree.root)
        shutil.copy(initrd, tree.root / "boot/initrd")
        disk = make_disk(tmp_path / "disk", 1500, tree.root)
        with running(Machine(tmp_path / "machine", tree.kernel, [disk], initrd)) as machine:
            _configured(machine, f"smtp-server={HOST}:{post.port}", f"mail-to={post.address}")
            # by sysrq
            assert "1" in machine.arm("capture")
            machine.crash()
            [first] = machine.dumps("/var/crash")
            # nothing is loaded after the reboot; by an oops: the older dump goes
            status = machine.run("crashpy setup status", check=False)
            assert status.status == 1
            machine.arm("capture")
            machine.crash("insmod /root/oops.ko")
            [second] = machine.dumps("/var/crash")
            assert second != first
            # told by mail, once
            machine.run("crashpy save notify")
            machine.run("crashpy save notify")
            _unloaded(machine)
            _rebooted_fast(machine, tree.kernel.release)
        [mail] = post.mails()
        assert "crashlab crashed" in mail["Subject"]
    folder = files_of(disk, f"/var/crash/{second}", tmp_path / "saved")
    told = saved_well(folder)
    assert (told.release, told.host, told.level) == (tree.kernel.release, "crashlab", 31)
    assert "crashpy: saved" in (folder / "kexec-dmesg.log").read_text()
    assert panic_task(folder / "vmcore") == "insmod"
    died = rf"exception RIP: _MODULE_INIT_(TEXT_)?START_{module}\+"  # since Linux 6.4 with TEXT
    assert re.search(died, stack(folder / "vmcore"))


def _configured(machine: Machine, *settings: str) -> None:
    """By its own hand, too: shown first, then written, with the old file kept."""
    old = machine.run("cat /etc/sysconfig/kdump").output
    shown = machine.run(f"crashpy setup configure {' '.join(settings)} --dry-run").output
    assert "+KDUMP_SMTP_SERVER=" in shown
    assert machine.run("cat /etc/sysconfig/kdump").output == old
    machine.run(f"crashpy setup configure {' '.join(settings)} --yes")
    kept = machine.run("ls /etc/sysconfig/kdump.*.bak").output.split()
    assert machine.run(f"cat {kept[-1]}").output == old
    read = machine.run("crashpy setup status", check=False).output
    for setting in settings:
        key, _, value = setting.partition("=")
        assert re.search(rf"^{key} +{re.escape(value)}  \[/etc/sysconfig/kdump:\d+\]$", read, re.M)


def _unloaded(machine: Machine) -> None:
    machine.arm("capture")
    machine.run("crashpy setup unload --yes")
    assert machine.run("cat /sys/kernel/kexec_crash_loaded").output.strip() == "0"


def _rebooted_fast(machine: Machine, release: str) -> None:
    """Loaded, unloaded, loaded again; then the second kernel runs."""
    load = (
        f"crashpy setup kexec --kernel /boot/vmlinuz-{release} --initrd /boot/initrd"
        " --append 'second=yes' --reuse-cmdline --yes"
    )
    loaded = "cat /sys/kernel/kexec_loaded"
    machine.run(load)
    assert machine.run(loaded).output.strip() == "1"
    machine.run("crashpy setup kexec --unload --yes")
    assert machine.run(loaded).output.strip() == "0"
    machine.run(load)
    machine.crash("umount -a -r; kexec -e")
    assert "second=yes" in machine.run("cat /proc/cmdline").output
