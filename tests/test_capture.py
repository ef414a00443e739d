"""The capture environment's parts, without a machine to crash: `pytest -m vm` has those."""

import io
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
import servers

from crashpy import convert
from crashpy.command import CommandError
from crashpy.kdump import report
from crashpy.kdump.capture import capture, image, parts
from crashpy.kdump.capture.cpio import Archive
from crashpy.kdump.capture.disks import disk_of, of_partition
from crashpy.kdump.capture.engine import choose
from crashpy.kdump.capture.memory import MEASURED, need_mib
from crashpy.kdump.plan import SavePlan
from crashpy.kdump.system import Refused, System
from crashpy.kdump.urls import parse

RELEASE = "6.1.0-9-amd64"


@pytest.fixture
def tree(tmp_path):
    """A machine's files: one kernel with a few modules, and SUSE's configuration."""
    root = tmp_path / "root"
    modules = root / "lib/modules" / RELEASE
    for name in ("kernel/fs/nfs/nfsv4.ko", "kernel/fs/nfs/nfs.ko", "kernel/lib/crc.ko"):
        (modules / name).parent.mkdir(parents=True, exist_ok=True)
        (modules / name).write_bytes(b"\x7fELF " + name.encode())
    (modules / "modules.dep").write_text(
        "kernel/fs/nfs/nfsv4.ko: kernel/fs/nfs/nfs.ko\nkernel/fs/nfs/nfs.ko:\nkernel/lib/crc.ko:\n"
    )
    (modules / "modules.alias").write_text("alias fs-nfs4 nfsv4\nalias crypto-crc crc\n")
    (modules / "modules.softdep").write_text("softdep nfs pre: crc\n")
    (modules / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    for name, text in {
        "etc/sysconfig/kdump": 'KDUMP_SAVEDIR="/var/crash"\n',
        "etc/fstab": "# disks\nUUID=1-2 / ext4 defaults 0 1\n/dev/sdb1 /var xfs noatime 0 0\n",
        "etc/hostname": "lab\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def configured(root, text):
    (root / "etc/sysconfig/kdump").write_text(text)


def listing(data):
    """Mode and name of each file, as cpio(1) sees them."""
    done = subprocess.run(["cpio", "-tv", "--quiet"], input=data, capture_output=True, check=True)
    return {line.split()[-1]: line.split()[0] for line in done.stdout.decode().splitlines()}


# Archives.


def test_an_archive_as_cpio_reads_it():
    archive = Archive()
    archive.file("/etc/secret", "x", 0o600)
    archive.link("/bin/sh", "busybox")
    archive.folder("/root", 0o700)
    archive.node("/dev/console", os.makedev(5, 1))
    out = io.BytesIO()
    archive.pack(out, packing="none")
    found = listing(out.getvalue())
    assert found["etc/secret"] == "-rw-------"
    assert found["root"] == "drwx------"
    assert found["busybox"] == "lrwxrwxrwx"  # -> busybox
    assert found["dev/console"] == "crw-------"
    assert found["etc"] == "drwxr-xr-x"


@pytest.mark.parametrize(("packing", "magic"), [("gzip", b"\x1f\x8b"), ("zstd", b"\x28\xb5\x2f")])
def test_a_packed_archive(packing, magic):
    archive = Archive()
    archive.file("/a", b"a" * 5000)
    out = io.BytesIO()
    archive.pack(out, packing=packing)
    assert out.getvalue().startswith(magic)
    assert len(out.getvalue()) < 1000
    assert archive.memory_bytes == 8192


def test_a_folder_s_own_links_are_followed(tmp_path):
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    archive = Archive()
    archive.file("/lib/a", b"1", 0o600)
    archive.extract(tmp_path)
    assert (tmp_path / "usr/lib/a").read_bytes() == b"1"
    assert (tmp_path / "lib").is_symlink()
    assert stat.S_IMODE((tmp_path / "usr/lib/a").stat().st_mode) == 0o600


# Parts.


def test_modules_with_all_they_need(tree):
    modules = parts.Modules.read(System(tree), RELEASE)
    archive = Archive()
    modules.add(archive, RELEASE, ["nfsv4", "no-such-one"])
    folder = f"/lib/modules/{RELEASE}"
    assert {"nfsv4.ko", "nfs.ko", "crc.ko"} <= {Path(name).name for name in archive.entries}
    assert b"nfsv4.ko: kernel/fs/nfs/nfs.ko\n" in archive.entries[f"{folder}/modules.dep"].read()
    assert archive.entries[f"{folder}/modules.alias"].read().count(b"\n") == 2
    assert modules.has("ext4")


def test_a_kernel_that_is_not_installed(tree):
    with pytest.raises(Refused, match=r"kernel 6\.2 is not installed"):
        parts.Modules.read(System(tree), "6.2")


def test_the_python_that_was_collected_runs(tmp_path):
    """Alone, without the folders it came from."""
    archive = Archive()
    parts.add_python(archive, ["crashpy.kdump.report", "zlib"])
    archive.extract(tmp_path)
    script = "import crashpy.kdump.report, zlib, sys; print(sys.prefix, crashpy.__file__)"
    done = subprocess.run(
        ["/usr/sbin/chroot", tmp_path, "/usr/bin/python3", "-S", "-c", script],
        env={"PYTHONHOME": "/usr"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert done.stdout.split() == ["/usr", f"/usr/lib/python{version}/crashpy/__init__.pyc"]
    assert not [name for name in archive.entries if "drgn" in name or "numpy" in name]


# The target's disk.


@pytest.mark.parametrize(
    ("folder", "device", "filesystem", "below"),
    [
        ("/var/crash", "/dev/sdb1", "xfs", "/crash"),
        ("/variable", "UUID=1-2", "ext4", "/variable"),
        ("/var", "/dev/sdb1", "xfs", ""),
    ],
)
def test_the_disk_of_a_folder(tree, folder, device, filesystem, below):
    found = disk_of(System(tree), folder)
    assert (found.device, found.filesystem, found.below) == (device, filesystem, below)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("tmpfs /var tmpfs defaults 0 0", "is on tmpfs, which no dump outlives"),
        ("/dev/mapper/vg-var /var ext4 x 0 0", "which this image cannot put together"),
        ("", "does not say which disk /var/crash is on"),
    ],
)
def test_disks_that_do_not_do(tree, line, sentence):
    (tree / "etc/fstab").write_text(line + "\n")
    with pytest.raises(Refused, match=sentence):
        disk_of(System(tree), "/var/crash")


def test_a_volume_is_left_to_those_who_put_it_together(tree):
    (tree / "etc/fstab").write_text("/dev/mapper/vg-var /var ext4 x 0 0\n")
    assert disk_of(System(tree), "/var/crash", assembled=True).device == "/dev/mapper/vg-var"


# Images.


def build(tree, out, *words):
    return capture(["image", str(out), "--root", str(tree), "--kernel", RELEASE, *words])


def test_an_image_keeps_its_secrets(tree, tmp_path, capsys):
    configured(tree, 'KDUMP_SAVEDIR="cifs://joe:s%23cret@192.0.2.1/crash/below"\n')
    (tree / "lib/modules" / RELEASE / "modules.builtin").write_text("kernel/fs/cifs/cifs.ko\n")
    out = tmp_path / "initrd"
    assert build(tree, out, "--engine", "makedumpfile", "--packing", "none") == 0
    assert "engine makedumpfile" in capsys.readouterr().out
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    found = listing(out.read_bytes())
    assert found["etc/crashpy/capture.conf"] == "-rw-------"
    assert found["etc/sysconfig/kdump"] == "-rw-------"
    assert {"init", "usr/lib/crashpy/busybox", "usr/bin/makedumpfile"} <= set(found)
    said = out.read_bytes()
    assert b"PASSWORD='s#cret'\n" in said
    assert b"SHARE=crash\n" in said
    assert b"BELOW=/below\n" in said


def test_what_the_shell_reads_is_quoted():
    assert image.shell({"A": "it's $HOME", "B": ""}) == "A='it'\"'\"'s $HOME'\nB=''\n"
    with pytest.raises(CommandError, match="one line"):
        image.shell({"A": "a\nb"})


@pytest.mark.parametrize(
    ("text", "words", "sentence"),
    [
        ("", ("--kernel", "6.2"), "kernel 6.2 is not installed"),
        ('KDUMP_SAVEDIR="nfs://h/x"\nKDUMP_REQUIRED_PROGRAMS="/no"\n', (), "no such program"),
        ('KDUMP_SAVEDIR="cifs://h/x/"\n', (), "the kernel has no cifs"),
        ('KDUMP_SAVEDIR="sftp://h/x"\n', ("--engine", "makedumpfile"), "use --engine native"),
        ('KDUMP_SAVEDIR="$HOME"\n', (), "computed by the shell"),
        ('KDUMP_SAVEDIR="nfs://h/x"\nKDUMP_NETCONFIG="eth0:static"\n', (), "name the address"),
        ('KDUMP_SAVEDIR="nfs://h/x"\nKDUMP_NETCONFIG="eth0:auto6"\n', (), "IPv4 only"),
        ("", ("--kernel", "../../etc"), "a release such as 6.1.0-9-amd64, not a path"),
        ("", ("--timeout", "-5"), "--timeout -5: a dump takes longer than 30 seconds"),
        ("", ("--disk", "sda"), "--disk sda: /dev/NAME, UUID=... or LABEL=..., and :FILESYSTEM"),
        ("", ("--ip", "10.0.2.300::10.0.2.2:255.0.0.0::eth0:none"), "CLIENT::GATEWAY:NETMASK::"),
        ("", ("--ip", "eth0"), "--ip eth0: CLIENT::GATEWAY:NETMASK::CARD:none, CARD:dhcp or dhcp"),
        ("", ("--module", "no"), f"no: Linux {RELEASE} has no such module"),
    ],
)
def test_what_cannot_be_built(tree, tmp_path, capsys, text, words, sentence):
    configured(tree, text)
    assert build(tree, tmp_path / "initrd", "--engine", "makedumpfile", *words) == 3
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "initrd").exists()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [(".", "it is a folder: name a file"), ("gone/initrd", "gone/initrd: No such file or direct")],
)
def test_where_no_image_can_be_written(tree, tmp_path, capsys, name, sentence):
    configured(tree, 'KDUMP_SAVEDIR="ssh://root@192.0.2.1/x"\n')
    before = sorted(tmp_path.rglob("*"))
    assert build(tree, tmp_path / name, "--engine", "makedumpfile") == 3
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_partition_is_found_by_its_file_system(tree):
    system = System(tree)
    for name in ("by-partuuid/p1", "by-uuid/u1"):
        link = tree / "dev/disk" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to("../../sda1")
    (tree / "dev/sda1").write_text("")
    assert of_partition(system, "PARTUUID=p1") == "UUID=u1"
    (tree / "dev/disk/by-uuid/u1").unlink()
    assert of_partition(system, "PARTUUID=p1") == "/dev/sda1"
    assert of_partition(system, "/dev/sdb1") == "/dev/sdb1"
    with pytest.raises(Refused, match="PARTLABEL=x: there is no /dev/disk/by-partlabel/x"):
        of_partition(system, "PARTLABEL=x")


def test_no_image_is_half_written(tree, tmp_path, monkeypatch):
    out = tmp_path / "initrd"
    out.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device", str(out))

    monkeypatch.setattr(os, "fsync", full)
    assert build(tree, out, "--engine", "makedumpfile") == 3
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir() if path.name != "root"] == ["initrd"]


def plan(url="/var/crash", form="zlib"):
    return SavePlan(target=parse(url), format=form)


@pytest.fixture
def makedumpfile(tmp_path, monkeypatch):
    def install(said):
        program = tmp_path / "bin" / "makedumpfile"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\necho '{said}'\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    return install


def test_the_engine_that_knows_the_kernel(makedumpfile):
    makedumpfile("makedumpfile: version 1.7.2\nzstd\tdisabled")
    assert choose("auto", plan(), "6.1.0-1").name == "makedumpfile"
    chosen = choose("auto", plan(), "6.12.1")
    assert chosen.name == "native"
    assert chosen.why == "makedumpfile 1.7.2 is older than 1.7.7, which Linux 6.12 needs"
    assert choose("auto", plan(form="zstd"), "6.1.0-1").why.endswith("built without zstd")
    assert choose("auto", plan("sftp://h/x"), "6.1.0-1").name == "native"
    with pytest.raises(Refused, match=r"1\.7\.7, which Linux 6\.12 needs: use --engine native"):
        choose("makedumpfile", plan(), "6.12.1")
    makedumpfile("makedumpfile: version 1.7.8")
    assert choose("auto", plan(), "6.12.1").name == "makedumpfile"


# The scripts.


@pytest.mark.parametrize("name", ["init", "start", "capture.sh", "udhcpc"])
def test_scripts_are_the_shell_s(name):
    done = subprocess.run(
        ["busybox", "sh", "-n"], input=image.environment(name), capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


# Hooks.


def test_hooks_are_shown_and_then_written(tree, capsys):
    before = sorted(tree.rglob("*"))
    words = ["--root", str(tree), "--with", "dracut", "--no-build"]
    assert capture(["install", *words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "/usr/lib/dracut/modules.d/99crashpy/module-setup.sh" in said
    assert "run: chmod 0755" in said
    assert sorted(tree.rglob("*")) == before


def test_hooks_need_a_builder(tree, capsys):
    assert capture(["install", "--root", str(tree), "--yes"]) == 3
    assert "neither dracut nor mkinitramfs is installed" in capsys.readouterr().err
    assert capture(["install", "--root", str(tree), "--with", "dracut", "--yes"]) == 3
    assert "give --kernel RELEASE, or --no-build" in capsys.readouterr().err


def test_nothing_to_uninstall(tree, capsys):
    assert capture(["uninstall", "--root", str(tree), "--yes"]) == 0
    assert "no hooks are installed" in capsys.readouterr().out


def test_words(capsys):
    assert capture([]) == 2
    assert capture(["fly"]) == 2
    assert '"fly" is no verb' in capsys.readouterr().err
    assert capture(["-h"]) == 0


def test_python_in_the_environment_holds_no_more_than_saving_needs():
    """No drgn, no setup, no terminal: each would cost tens of megabytes of what is reserved."""
    archive = Archive()
    engine = choose("native", plan(), RELEASE)
    parts.add_python(archive, [*engine.python_modules(plan())], without=engine.without(plan()))
    names = " ".join(archive.entries)
    assert "/crashpy/kdump/retention.pyc" in names  # imported late
    for absent in ("drgn", "prompt_toolkit", "paramiko", "crashpy/kdump/setup", "numpy/f2py"):
        assert absent not in names
    assert archive.memory_bytes < 80 << 20


# Memory.


@pytest.mark.parametrize("engine", ["makedumpfile", "native"])
@pytest.mark.parametrize(
    ("protocol", "place"),
    [("file", "disk"), ("nfs", "share"), ("cifs", "share"), ("ftp", "stream")],
)
def test_the_need_is_more_than_was_ever_measured(engine, protocol, place):
    need = sum(mib for _, mib in need_mib(engine, protocol))
    same = [row.used_mib for row in MEASURED if (row.engine, row.place) == (engine, place)]
    assert need > max(same)
    larger = sum(mib for _, mib in need_mib(engine, protocol, 1 << 40))
    assert larger - need == 64  # two bits for each page of a tebibyte


def test_what_was_never_measured():
    with pytest.raises(LookupError, match="cp was never measured"):
        need_mib("cp", "file")


# The environment's own Python, with nothing of this machine around it.

CORE = Path(__file__).parent.parent / "examples" / "vmcore-null"
RUN = "from crashpy.kdump.capture.run import main; main()"


def staged(tree, folder, **environment):
    """Saved by what `capture stage` puts into a folder."""
    folder.mkdir()
    words = [str(folder), "--root", str(tree), "--kernel", RELEASE, "--engine", "native"]
    assert capture(["stage", *words]) == 0
    (folder / "core").write_bytes(CORE.read_bytes())
    for name in ("bin", "dev", "run/crashpy", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "bin/dmesg").symlink_to(f"{image.HOME}/busybox")
    (folder / "dev/urandom").write_bytes(os.urandom(1 << 16))
    (folder / "dev/null").touch()
    (folder / "run/crashpy/log").write_text("what was said\n")
    return subprocess.run(
        ["/usr/sbin/chroot", folder, "/usr/bin/python3", "-S", "-c", RUN, "/core"],
        env={"PYTHONHOME": "/usr", "HOME": "/root", "PATH": "/bin", **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_saved_over_sftp(tree, tmp_path):
    with servers.sshd() as server:
        login = f"{servers.USER}:{quote(servers.PASSWORD, safe='')}"
        target = f"sftp://{login}@127.0.0.1:{server.port}{server.root}/open"
        configured(tree, f'KDUMP_SAVEDIR="{target}"\n')
        known = tree / "root/.ssh/known_hosts"
        known.parent.mkdir(parents=True)
        known.write_text(Path(server.facts["known_hosts"]).read_text())
        done = staged(tree, tmp_path / "environment")
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        assert servers.PASSWORD not in done.stderr
        [folder] = server.seen().iterdir()
        names = {path.name for path in folder.iterdir()}
        assert {"README.txt", "dmesg", "vmcore", "kexec-dmesg.log"} <= names
        assert b"what was said" in (folder / "kexec-dmesg.log").read_bytes()
        before = sorted(server.seen().iterdir())
        known.write_text("")  # nobody we know
        done = staged(tree, tmp_path / "again")
        assert done.returncode == 1
        assert "host key" in done.stderr
        assert sorted(server.seen().iterdir()) == before


def test_saved_to_what_was_mounted_and_the_old_one_deleted(tree, tmp_path):
    configured(tree, 'KDUMP_SAVEDIR="nfs://h/x"\nKDUMP_KEEP_OLD_DUMPS="-1"\n')
    environment = tmp_path / "environment"
    target = environment / "run/crashpy/target"
    old = target / "crashlab-2026-01-01-00-00"
    done = staged(tree, environment, FOLDER="/none")
    assert (done.returncode, "no such folder" in done.stderr) == (1, True)
    old.mkdir(parents=True)
    (old / "vmcore").write_bytes(CORE.read_bytes())
    done = subprocess.run(
        ["/usr/sbin/chroot", environment, "/usr/bin/python3", "-S", "-c", RUN, "/core"],
        env={"PYTHONHOME": "/usr", "FOLDER": "/run/crashpy/target", "PATH": "/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    saved = (environment / "run/crashpy/saved").read_text().strip()
    assert (environment / saved.lstrip("/") / "vmcore").is_file()


# The shell's part, with makedumpfile: what needs no crashed kernel of it.

ZERO_PAGES = 'KDUMP_DUMPLEVEL="1"\n'  # which any makedumpfile tells from others
PREPARE = f"""
{image.HOME}/busybox mkdir -p /run/crashpy/bin
{image.HOME}/busybox --install -s /run/crashpy/bin
export PATH=/run/crashpy/bin:/usr/bin HOME=/root VMCORE=/core
. {image.HOME}/capture.sh
FOLDER=$MOUNTED$BELOW
"""


@pytest.fixture
def shell_environment(tree, tmp_path):
    """Runs a script in a folder that holds the environment."""

    def run(script):
        folder = tmp_path / "environment"
        if not folder.exists():
            folder.mkdir()
            words = [str(folder), "--root", str(tree), "--kernel", RELEASE]
            assert capture(["stage", *words, "--engine", "makedumpfile"]) == 0
            (folder / "core").write_bytes(CORE.read_bytes())
            (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
            for name in ("dev", "proc", "run/crashpy/target/crash", "tmp"):
                (folder / name).mkdir(parents=True)
        mounts = f"mount --rbind /proc {folder}/proc && mount --rbind /dev {folder}/dev"
        inside = f'{mounts} && exec chroot {folder} {image.HOME}/busybox sh -c "$1"'
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", inside, "sh", PREPARE + script],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        log = folder / "run/crashpy/log"
        return done, log.read_text() if log.exists() else ""

    return run


def test_makedumpfile_saves_to_a_folder(tree, tmp_path, shell_environment):
    configured(tree, f'KDUMP_SAVEDIR="/crash"\nKDUMP_KEEP_OLD_DUMPS="-1"\n{ZERO_PAGES}')
    done, log = shell_environment("save_makedumpfile && save_makedumpfile")
    assert done.returncode == 0, done.stderr + log
    [folder] = (tmp_path / "environment/run/crashpy/target/crash").iterdir()
    assert {path.name for path in folder.iterdir()} == {"README.txt", "dmesg", "vmcore"}
    assert "removed, as 1 are kept" in log
    told = report.parse((folder / "README.txt").read_text())
    assert told.finished
    assert told.release == convert.recognised(str(CORE)).release
    assert not convert.recognised(str(folder / "vmcore")).incomplete
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_makedumpfile_counts_no_failure_as_a_dump(tree, tmp_path, shell_environment):
    """Nor does a log alone cost a dump."""
    configured(tree, f'KDUMP_SAVEDIR="/crash"\nKDUMP_KEEP_OLD_DUMPS="1"\n{ZERO_PAGES}')
    target = tmp_path / "environment/run/crashpy/target/crash"
    older = "; ".join(
        f"mkdir -p $FOLDER/2001-01-0{day}-01-01; echo x >$FOLDER/2001-01-0{day}-01-01/{name}"
        for day, name in ((1, "vmcore"), (2, "vmcore"), (3, "README.txt"))
    )
    done, log = shell_environment(f"{older}; FORMAT=log save_makedumpfile")
    assert done.returncode == 0, done.stderr + log
    *old, logged = sorted(target.iterdir())
    assert len(old) == 3
    assert {path.name for path in logged.iterdir()} == {"README.txt", "dmesg"}
    told = report.parse((logged / "README.txt").read_text())
    assert (told.dmesg, told.vmcore) == (report.SAVED, report.SKIPPED)
    done, log = shell_environment("save_makedumpfile")
    assert done.returncode == 0, done.stderr + log
    names = [path.name for path in sorted(target.iterdir())]
    assert names[:2] == ["2001-01-02-01-01", "2001-01-03-01-01"]
    assert len(names) == 4


def test_makedumpfile_saves_no_log_that_is_not_wanted(tree, tmp_path, shell_environment):
    configured(tree, f'KDUMP_SAVEDIR="/crash"\n{ZERO_PAGES}')
    done, log = shell_environment("DMESG=; save_makedumpfile")
    assert done.returncode == 0, done.stderr + log
    [folder] = (tmp_path / "environment/run/crashpy/target/crash").iterdir()
    assert {path.name for path in folder.iterdir()} == {"README.txt", "vmcore"}
    assert report.parse((folder / "README.txt").read_text()).dmesg == report.SKIPPED


def test_makedumpfile_without_room(tree, tmp_path, shell_environment):
    configured(tree, f'KDUMP_SAVEDIR="/crash"\nKDUMP_KEEP_OLD_DUMPS="-1"\n{ZERO_PAGES}')
    target = tmp_path / "environment/run/crashpy/target/crash"
    done, log = shell_environment("save_makedumpfile; FREE_KIB=999999999999; save_makedumpfile")
    assert done.returncode == 1
    assert "999999999999 kB shall stay free" in log
    saved, failed = sorted(target.iterdir())
    assert (saved / "vmcore").exists()  # the older one stays
    assert {path.name for path in failed.iterdir()} == {"README.txt", "dmesg"}
    assert report.parse((failed / "README.txt").read_text()).finished is False


def test_makedumpfile_saves_through_ssh(tree, shell_environment):
    with servers.sshd() as server:
        place = f"{servers.USER}@127.0.0.1:{server.port}{server.root}"
        settings = f'KDUMP_SSH_IDENTITY="/root/.ssh/id_dump"\n{ZERO_PAGES}'
        configured(tree, f'KDUMP_SAVEDIR="ssh://{place}/open"\n{settings}')
        keys = tree / "root/.ssh"
        keys.mkdir(parents=True)
        (keys / "known_hosts").write_text(Path(server.facts["known_hosts"]).read_text())
        (keys / "id_dump").write_text(Path(server.facts["identity"]).read_text())
        done, log = shell_environment("save_makedumpfile")
        assert done.returncode == 0, done.stderr + log
        [folder] = server.seen().iterdir()
        assert folder.name.startswith("lab-")
        assert {path.name for path in folder.iterdir()} == {"README.txt", "dmesg", "vmcore"}
        assert report.parse((folder / "README.txt").read_text()).finished
        assert not convert.recognised(str(folder / "vmcore")).incomplete
        shutil.rmtree(folder)
        done, log = shell_environment("HOST_TAG=ip; FORMAT=raw save_makedumpfile")
        assert done.returncode == 0, done.stderr + log
        [folder] = server.seen().iterdir()
        assert re.fullmatch(r"(lab|[0-9.]+)-\d{4}-.*", folder.name)
        assert (folder / "vmcore").read_bytes() == CORE.read_bytes()
        done, log = shell_environment("FORMAT=log save_makedumpfile")
        assert done.returncode == 0, done.stderr + log
        [logged] = (path for path in server.seen().iterdir() if path != folder)
        assert {path.name for path in logged.iterdir()} == {"README.txt", "dmesg"}
        done, log = shell_environment("VMCORE=/none; save_makedumpfile")
        assert done.returncode == 1
        assert len([*server.seen().glob("*/vmcore*")]) == 1


def test_a_server_that_does_not_answer(tree, shell_environment):
    configured(
        tree,
        f'KDUMP_SAVEDIR="nfs://127.0.0.1:{servers.free_port()}/x"\nKDUMP_NET_TIMEOUT="0"\n',
    )
    done, log = shell_environment("mount_target")
    assert done.returncode == 1
    assert "no server answers" in log


def test_hooks_come_and_go(tree, capsys):
    """Nothing of them is left, and nothing of others is taken."""
    (tree / "bin").mkdir()
    for name in ("chmod", "rm", "rmdir"):
        shutil.copy("/bin/busybox", tree / "bin" / name)
    before = sorted(tree.rglob("*"))
    for name in ("dracut", "initramfs-tools"):
        words = ["--root", str(tree), "--with", name, "--no-build", "--yes"]
        assert capture(["install", *words]) == 0
    hook = tree / "etc/crashpy/initramfs-tools/hooks/crashpy"
    assert hook.stat().st_mode & 0o100
    assert capture(["uninstall", "--root", str(tree), "--dry-run"]) == 0
    assert hook.exists()
    assert capture(["uninstall", "--root", str(tree), "--yes"]) == 0
    left = [path for path in sorted(tree.rglob("*")) if path not in before]
    made = {"usr", "usr/lib", "usr/lib/dracut", "usr/lib/dracut/modules.d"}
    assert {str(path.relative_to(tree)) for path in left} == made
    assert capsys.readouterr().err == ""
