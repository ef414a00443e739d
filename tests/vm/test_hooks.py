"""Our save step in what dracut and initramfs-tools build, from the hooks that are installed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from vm.dumps import panic_task, saved_well
from vm.kernels import kernel
from vm.machine import (
    TOOLS,
    Machine,
    Tree,
    files_of,
    make_disk,
    make_initrd,
    require,
    running,
)

BUILDERS = {"dracut": "dracut-core", "mkinitramfs": "initramfs-tools-core", "unshare": "util-linux"}


def test_dracut_and_initramfs_tools(tmp_path: Path) -> None:
    require({**TOOLS, **BUILDERS})
    tree = Tree(tmp_path / "tree", kernel("6.1"))
    tree.write("etc/sysconfig/kdump", "")
    tree.crashpy("setup", "configure", "target=/var/crash", "level=31", "cpus=1", "--yes")
    # what the hooks call, for the machine's tree instead of this machine
    caller = tmp_path / "crashpy"
    words = shlex.join([sys.executable, "-m", "crashpy"])
    caller.write_text(f'#!/bin/sh\nexec {words} "$@" --root {tree.root}\n')
    caller.chmod(0o755)
    environment = {**os.environ, "CRASHPY": str(caller)}
    for name in ("dracut", "initramfs-tools"):
        tree.crashpy("capture", "install", "--with", name, "--no-build", "--yes")
    _dracut(tmp_path, tree, environment)
    _mkinitramfs(tmp_path, tree, environment)
    initrd = make_initrd(tmp_path / "initrd", tree.kernel, tree.root)
    disk = make_disk(tmp_path / "disk", 1500, tree.root)
    with running(Machine(tmp_path / "machine", tree.kernel, [disk], initrd)) as machine:
        for name in ("by-dracut", "by-mkinitramfs"):
            machine.arm(name)
            machine.crash()
            [folder] = machine.dumps("/var/crash")
            machine.run(f"mv /var/crash/{folder} /var/{name}")
    for name in ("by-dracut", "by-mkinitramfs"):
        folder = files_of(disk, f"/var/{name}", tmp_path / "saved")
        saved_well(folder)
        assert panic_task(folder / "vmcore") == "sh"
    # and gone again
    tree.crashpy("capture", "uninstall", "--yes")
    assert not (tree.root / "usr/lib/dracut/modules.d/99crashpy").exists()
    assert not (tree.root / "etc/crashpy").exists()


def _dracut(tmp_path: Path, tree: Tree, environment: dict[str, str]) -> None:
    """With the modules of this machine's dracut, and ours from the tree."""
    base = tmp_path / "dracut"
    (base / "modules.d").mkdir(parents=True)
    (tmp_path / "dracut-tmp").mkdir()
    for path in Path("/usr/lib/dracut").iterdir():
        if path.name != "modules.d":
            (base / path.name).symlink_to(path)
    ours = tree.root / "usr/lib/dracut/modules.d/99crashpy"
    for path in [*Path("/usr/lib/dracut/modules.d").iterdir(), ours]:
        (base / "modules.d" / path.name).symlink_to(path)
    release = tree.kernel.release
    _run(
        "dracut", "--force", "--quiet", "--no-hostonly", "--no-early-microcode", "--nostrip",
        "-m", "base crashpy", "--kmoddir", str(tree.root / "lib/modules" / release),
        "--tmpdir", str(tmp_path / "dracut-tmp"), str(tree.root / "boot/by-dracut"), release,
        env={**environment, "dracutbasedir": str(base)},
    )  # fmt: skip


def _mkinitramfs(tmp_path: Path, tree: Tree, environment: dict[str, str]) -> None:
    """It looks into /lib/modules, which is the tree's for as long as that takes."""
    modules = Path("/lib/modules")
    new = not modules.exists()
    modules.mkdir(exist_ok=True)
    out = tmp_path / "by-mkinitramfs"
    hooks = tree.root / "etc/crashpy/initramfs-tools"
    (hooks / "initramfs.conf").write_text(
        (hooks / "initramfs.conf").read_text().replace("MODULES=dep", "MODULES=list")
    )  # this machine's own disks are none of the other's
    script = (
        f"mount --bind {tree.root}/lib/modules /lib/modules && "
        f"mount --bind {tree.root}/boot /boot && "
        f"exec mkinitramfs -d {hooks} -o {out} {tree.kernel.release}"
    )
    try:
        _run("unshare", "--mount", "sh", "-c", script, env=environment)
    finally:
        if new:
            modules.rmdir()
    assert out.stat().st_mode & 0o077 == 0
    (tree.root / "boot/by-mkinitramfs").write_bytes(out.read_bytes())


def _run(*command: str, env: dict[str, str]) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=env
    )
    assert not done.returncode, f"{command[0]}: {done.stdout}{done.stderr}"
