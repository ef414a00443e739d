"""Dumps that go from the capture kernel to real servers, by either engine."""

from __future__ import annotations

import contextlib
from pathlib import Path
from urllib.parse import quote

import pytest
import servers
from vm.dumps import panic_task, saved_well
from vm.kernels import kernel
from vm.machine import HOST, Machine, Tree, make_disk, make_initrd, running

START = {
    "sftp": servers.sshd,
    "ssh": servers.sshd,
    "nfs": servers.ganesha,
    "cifs": servers.smbd,
}
LOGIN = {  # makedumpfile's way by ssh knows keys only
    "sftp": f"{servers.USER}:{quote(servers.PASSWORD, safe='')}@",
    "ssh": f"{servers.USER}@",
    "nfs": "",
    "cifs": f"{servers.USER}:{quote(servers.PASSWORD, safe='')}@",
}


def _configured(tree: Tree, protocol: str, server: servers.Server) -> None:
    below = {"nfs": "/open", "cifs": "/crash/open"}.get(protocol, f"{server.root}/open")
    target = f"{protocol}://{LOGIN[protocol]}{HOST}:{server.port}{below}"
    words = [f"target={target}", "level=31", "cpus=1"]
    if key := server.facts.get("host_key"):
        tree.write("root/.ssh/known_hosts", f"[{HOST}]:{server.port} {key}\n", 0o600)
    if protocol == "ssh":
        tree.write("root/.ssh/id_dump", Path(server.facts["identity"]).read_text(), 0o600)
        words.append("ssh-key=/root/.ssh/id_dump")
    tree.crashpy("setup", "configure", *words, "--yes")


@pytest.mark.parametrize(
    ("series", "engine", "protocols"),
    [
        ("6.12", "native", ("cifs", "nfs", "sftp")),
        ("6.1", "makedumpfile", ("cifs", "nfs", "ssh")),
    ],
)
def test_saved_on_servers(
    tmp_path: Path, series: str, engine: str, protocols: tuple[str, ...]
) -> None:
    tree = Tree(tmp_path / "tree", kernel(series))
    tree.write("etc/sysconfig/kdump", "", 0o600)
    with contextlib.ExitStack() as stack:
        started = {name: stack.enter_context(START[name]()) for name in protocols}
        for protocol, server in started.items():
            _configured(tree, protocol, server)
            tree.image(protocol, engine=engine)
        initrd = make_initrd(tmp_path / "initrd", tree.kernel, tree.root)
        disk = make_disk(tmp_path / "disk", 1500, tree.root)
        machine = Machine(tmp_path / "machine", tree.kernel, [disk], initrd)
        with running(machine):
            for protocol, server in started.items():
                machine.arm(protocol)
                machine.crash()
                [folder] = server.seen().glob("crashlab-*")
                told = saved_well(folder)
                assert (told.release, told.host) == (tree.kernel.release, "crashlab")
                assert panic_task(folder / "vmcore") == "sh"
                assert servers.PASSWORD not in (folder / "README.txt").read_text()
        assert servers.PASSWORD not in machine.console
