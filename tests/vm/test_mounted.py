"""NFS and CIFS through mount(8) and the kernel's own file systems, on a machine that has them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import servers
from places import Place
from vm.dumps import saved_well
from vm.kernels import kernel
from vm.machine import HOST, Machine, Tree, make_disk, make_initrd, require, running

from crashpy.kdump.capture import parts
from crashpy.kdump.capture.cpio import Archive
from crashpy.kdump.capture.engine import SAVING
from crashpy.kdump.system import System

CORE = Path(__file__).parents[2] / "examples" / "vmcore-null"
TOOLS = {"mount": "mount", "umount": "mount", "mount.nfs": "nfs-common", "mount.cifs": "cifs-utils"}
SAVE = ("crashpy.__main__", "crashpy.cli", "crashpy.save", "crashpy.kdump.mounted")


def test_mounted_for_as_long_as_it_takes(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "tree", kernel("6.12"))
    shutil.copy(CORE, tree.root / "root/core")
    _add_mount(tree)
    initrd = make_initrd(tmp_path / "initrd", tree.kernel, tree.root)
    disk = make_disk(tmp_path / "disk", 1000, tree.root)
    with (
        servers.ganesha() as exports,
        servers.smbd() as shares,
        running(Machine(tmp_path / "machine", tree.kernel, [disk], initrd)) as machine,
    ):
        for server, protocol in ((exports, "nfs"), (shares, "cifs")):
            place = Place(protocol, server)
            url = place.url().replace("127.0.0.1", HOST)
            assert machine.run(f"crashpy save -q /root/core '{url}'", seconds=300).output == ""
            nothing_left(machine)
            # by the kernel's own module, that is
            assert f"\t{protocol}\n" in machine.run("cat /proc/filesystems").output
            (name,) = {found.partition("/")[0] for found in place.found()}
            saved_well(place.server.seen() / name)
            missing = place.url("missing").replace("127.0.0.1", HOST)
            refused = machine.run(f"crashpy save -q /root/core '{missing}'", check=False)
            assert refused.status == 1
            assert "No such file" in refused.output or "no such folder" in refused.output
            if protocol == "cifs":
                wrong = url.replace(servers.PASSWORD, "wr0ng")
                refused = machine.run(f"crashpy save -q /root/core '{wrong}'", check=False)
                assert "cannot be mounted: mount error(13): Permission denied" in refused.output
            nothing_left(machine)


def nothing_left(machine: Machine) -> None:
    """Neither a mount, nor a folder for one, nor a file with a password."""
    found = machine.run("ls /run /tmp; cat /proc/mounts").output
    assert "crashpy-" not in found
    assert HOST not in found


def _add_mount(tree: Tree) -> None:
    """mount(8) with its helpers, and the Python modules of `crashpy save`."""
    require(TOOLS)
    archive = Archive()
    for tool in TOOLS:
        (tree.root / "bin" / tool).unlink(missing_ok=True)
        folder = "/sbin" if "." in tool else "/bin"
        parts.add_program(archive, f"{folder}/{tool}", str(System().tool(tool)))
    parts.add_python(archive, [*SAVE, *SAVING], docstrings=True)
    with subprocess.Popen(
        ["cpio", "-idmu", "--quiet"], stdin=subprocess.PIPE, cwd=tree.root
    ) as unpack:
        assert unpack.stdin
        archive.write(unpack.stdin.write)
        unpack.stdin.close()
    assert unpack.returncode == 0
