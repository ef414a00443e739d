"""Dumps that go from the capture kernel to real servers, by either engine."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
import servers
from vm.dumps import panic_task, saved_well
from vm.kernels import kernel
from vm.machine import HOST, Machine, Tree, make_disk, make_initrd, running

LOGIN = f"{servers.USER}:{quote(servers.PASSWORD, safe='')}"


def _configured(tree: Tree, protocol: str, server: servers.Server) -> None:
    place = f"{HOST}:{server.port}"
    below = {"nfs": "/open", "cifs": "/crash/open"}.get(protocol, f"{server.root}/open")
    login = "" if protocol == "nfs" else f"{LOGIN}@"
    words = [f"target={protocol}://{login}{place}{below}", "level=31", "cpus=1"]
    tree.crashpy("setup", "configure", *words, "--yes")
    if key := server.facts.get("host_key"):
        tree.write("root/.ssh/known_hosts", f"[{HOST}]:{server.port} {key}\n", 0o600)


@pytest.mark.parametrize(
    ("series", "engine", "protocols"),
    [
        ("6.12", "native", ("sftp", "nfs")),
        ("6.1", "makedumpfile", ("cifs", "nfs")),
    ],
)
def test_saved_on_servers(
    tmp_path: Path, series: str, engine: str, protocols: tuple[str, ...]
) -> None:
    tree = Tree(tmp_path / "tree", kernel(series))
    tree.write("etc/sysconfig/kdump", "")
    (tree.root / "etc/sysconfig/kdump").chmod(0o600)
    start = {"sftp": servers.sshd, "nfs": servers.ganesha, "cifs": servers.smbd}
    with start[protocols[0]]() as first, start[protocols[1]]() as second:
        running_servers = dict(zip(protocols, (first, second), strict=True))
        for protocol, server in running_servers.items():
            _configured(tree, protocol, server)
            tree.image(protocol, engine=engine)
        initrd = make_initrd(tmp_path / "initrd", tree.kernel, tree.root)
        disk = make_disk(tmp_path / "disk", 1500, tree.root)
        with running(Machine(tmp_path / "machine", tree.kernel, [disk], initrd)) as machine:
            for protocol, server in running_servers.items():
                machine.arm(protocol)
                machine.crash()
                [folder] = server.seen().glob("crashlab-*")
                told = saved_well(folder)
                assert (told.release, told.host) == (tree.kernel.release, "crashlab")
                assert panic_task(folder / "vmcore") == "sh"
                assert (folder / "kexec-dmesg.log").stat().st_size
            assert servers.PASSWORD not in machine.console
