"""What goes wrong in the capture kernel ends in the failure action, and in nothing half saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import servers
from vm.kernels import kernel
from vm.machine import HOST, Machine, Tree, files_of, make_disk, make_initrd, running


@pytest.mark.parametrize(("series", "engine"), [("6.1", "makedumpfile"), ("6.12", "native")])
def test_full_disk_and_dead_server(tmp_path: Path, series: str, engine: str) -> None:
    tree = Tree(tmp_path / "tree", kernel(series))
    tree.write("etc/sysconfig/kdump", "")
    small = tmp_path / "small-tree"
    (small / "old").mkdir(parents=True)
    (small / "old" / "vmcore").write_bytes(b"an older dump")
    configure = ("setup", "configure", "level=31", "cpus=1", "free=0", "keep=1", "net-timeout=4")
    tree.crashpy(*configure, "target=/small", "--yes")
    tree.image("full", engine=engine)
    tree.crashpy(*configure, f"target=nfs://{HOST}:{servers.free_port()}/open", "--yes")
    tree.image("dead", engine=engine)
    tree.crashpy(*configure, "failure=shell", "--yes")
    tree.image("watched", engine=engine)
    initrd = make_initrd(tmp_path / "initrd", tree.kernel, tree.root)
    disks = [make_disk(tmp_path / "disk", 1500, tree.root), make_disk(tmp_path / "s", 8, small)]
    with running(Machine(tmp_path / "machine", tree.kernel, disks, initrd)) as machine:
        machine.arm("full")
        machine.crash()
        assert "crashpy: there is no dump: reboot" in machine.console
        machine.run("mount -t ext4 /dev/vdb /small")
        left = machine.run("find /small -name 'vmcore*'; cat /small/old/vmcore").output
        assert left.split("\n") == ["/small/old/vmcore", "an older dump"]
        machine.run("umount /small")
        machine.arm("dead")
        machine.crash()
        assert machine.console.count("crashpy: there is no dump: reboot") == 2
        assert "no server answers" in machine.console
        # another failure action than the reboot
        machine.arm("watched")
        machine.dies()
        machine.says("crashpy: there is no dump: shell")
        machine.says("A shell: the machine reboots when you leave it.", 30)
        machine.kill()
    assert not [*files_of(disks[0], "/var/crash", tmp_path / "saved").iterdir()]


def test_too_small_a_reservation(tmp_path: Path) -> None:
    """`setup check` tells, and the machine shows it: no dump, but it comes back."""
    tree = Tree(tmp_path / "tree", kernel("6.1"))
    tree.write("etc/sysconfig/kdump", "")
    tree.crashpy("setup", "configure", "target=/var/crash", "level=31", "cpus=1", "--yes")
    tree.image("capture", engine="native")
    initrd = make_initrd(tmp_path / "initrd", tree.kernel, tree.root)
    disk = make_disk(tmp_path / "disk", 1500, tree.root)
    machine = Machine(tmp_path / "machine", tree.kernel, [disk], initrd, crashkernel="112M")
    with running(machine):
        machine.run("mkdir -p /var/lib/kdump; cp /boot/capture /var/lib/kdump/initrd")
        found = machine.run("crashpy setup check --offline", check=False)
        assert found.status == 1
        assert "112 MiB are reserved, and about" in found.output
        machine.arm("capture")
        machine.crash()
        assert machine.run("find /var/crash -name 'vmcore*'").output == ""
        assert "Out of memory" in machine.console
