"""`crashpy setup kexec`: the next kernel loaded, unloaded, and started on a typed word."""

import io
import os
import socket
import sys

import pytest
from trees import Tree

from crashpy.command import CommandError
from crashpy.kdump import reboot
from crashpy.kdump.check import check
from crashpy.kdump.reboot import Asked
from crashpy.kdump.status import status
from crashpy.kdump.system import Refused, System

ENTRY = (
    "title Debian\nlinux /vmlinuz-6.1.0-9-amd64\ninitrd /initrd.img\noptions root=/dev/sda1 ro\n"
)
RUNNING = 'root=/dev/sda1 ro quiet dyndbg="file a +p" crashkernel=256M'
KEXEC = 'case "$*" in *-u*) echo 0;; *) echo 1;; esac > $ROOT/sys/kernel/kexec_loaded'


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    made = Tree(tmp_path)
    made.machine()
    made.write("/sys/kernel/kexec_loaded", "0\n")
    made.write("/boot/loader/entries/a.conf", ENTRY)
    made.write("/boot/initrd.img", "initrd")
    made.write("/boot/other", "kernel")
    made.tool("kexec", KEXEC)
    return made


@pytest.mark.parametrize(
    ("asked", "line", "rest"),
    [
        (
            Asked(),
            "root=/dev/sda1 ro",
            ["--initrd=/boot/initrd.img", "/boot/vmlinuz-6.1.0-9-amd64"],
        ),
        (
            Asked(append='single x="a b"'),
            'root=/dev/sda1 ro single x="a b"',
            ["--initrd=/boot/initrd.img", "/boot/vmlinuz-6.1.0-9-amd64"],
        ),
        (
            Asked(reuse=True),
            RUNNING,
            ["--initrd=/boot/initrd.img", "/boot/vmlinuz-6.1.0-9-amd64"],
        ),
        (
            Asked(kernel="/boot/other", initrd="/boot/initrd.img", reuse=True, append="single"),
            f"{RUNNING} single",
            ["--initrd=/boot/initrd.img", "/boot/other"],
        ),
        (Asked(kernel="/boot/other", append="root=/dev/sdb1"), "root=/dev/sdb1", ["/boot/other"]),
        (Asked(kernel="/boot/other"), "root=/dev/sda1 ro", ["/boot/other"]),
    ],
)
def test_what_is_loaded(tree, asked, line, rest):
    plan = reboot.load(tree.system, asked)
    assert plan.commands == [("kexec", "-l", "-a", f"--command-line={line}", *rest)]
    plan.carry_out(tree.system)
    assert tree.system.next_loaded is True
    reboot.unload(tree.system).carry_out(tree.system)
    assert tree.ran[-1] == "kexec -a -u"
    assert tree.system.next_loaded is False
    assert reboot.unload(tree.system).empty


def test_the_boot_loader_s_own_options_are_not_taken_over(tree):
    tree.write("/proc/cmdline", "BOOT_IMAGE=/vmlinuz initrd=\\initrd.img root=/dev/sda1\n")
    [argv] = reboot.load(tree.system, Asked(reuse=True)).commands
    assert "--command-line=root=/dev/sda1" in argv


def test_a_locked_kernel_takes_only_files(tree):
    tree.write("/sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
    assert reboot.load(tree.system, Asked()).commands[0][:3] == ("kexec", "-l", "-s")
    tree.write("/sys/kernel/kexec_loaded", "1\n")
    assert reboot.unload(tree.system).commands == [("kexec", "-s", "-u")]


def test_it_is_shown_with_where_it_comes_from(tree, capsys):
    assert tree.setup("kexec", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("run: kexec -l -a '--command-line=root=/dev/sda1 ro'")
    assert "note: the boot loader's default is Debian (/boot/loader/entries/a.conf)" in lines
    assert lines[-1].endswith("`systemctl kexec` shuts down first")
    assert tree.ran == []


def test_of_several_initial_disks_the_last_is_loaded(tree):
    tree.write("/boot/ucode", "microcode")
    tree.write("/boot/loader/entries/a.conf", ENTRY.replace("initrd /", "initrd /ucode\ninitrd /"))
    plan = reboot.load(tree.system, Asked())
    assert "--initrd=/boot/initrd.img" in plan.commands[0]
    assert any("left out" in note and "/boot/ucode" in note for note in plan.notes)


def no_kexec(tree):
    (tree.root / "sys/kernel/kexec_loaded").unlink()


def no_tool(tree):
    (tree.root / "usr/sbin/kexec").unlink()


def no_proc(tree):
    (tree.root / "proc/cmdline").unlink()


def no_entry(tree):
    (tree.root / "boot/loader/entries/a.conf").unlink()


def disabled(tree):
    tree.write("/proc/sys/kernel/kexec_load_disabled", "1\n")


def failing(tree):
    tree.tool("kexec", "echo syscall kexec_load: Operation not permitted >&2; exit 255")


def lying(tree):
    tree.tool("kexec", "exit 0")


def user(_):
    os.geteuid = lambda: 1000


@pytest.mark.parametrize(
    ("damage", "asked", "sentence"),
    [
        (no_kexec, Asked(), "this kernel has no kexec: there is no /sys/kernel/kexec_loaded"),
        (no_tool, Asked(), "kexec: there is no such program: install kexec-tools"),
        (no_proc, Asked(reuse=True), "/proc/cmdline cannot be read: is /proc mounted?"),
        (no_entry, Asked(), "no boot loader's configuration that crashpy knows: no grub.cfg"),
        (disabled, Asked(), "kernel.kexec_load_disabled is 1: nothing can be loaded until the"),
        (failing, Asked(), "kexec failed with status 255: syscall kexec_load: Operation not"),
        (lying, Asked(), "kexec reported no error, yet the next kernel is not loaded"),
        (user, Asked(), "only root may load or unload a kernel"),
        (None, Asked(kernel="/gone"), "/gone: there is no such kernel"),
        (None, Asked(initrd="/gone"), "/gone: there is no such initial RAM disk"),
    ],
)
def test_what_keeps_it_from_loading_is_one_sentence(tree, monkeypatch, damage, asked, sentence):
    monkeypatch.setattr(os, "geteuid", os.geteuid)
    if damage:
        damage(tree)
    with pytest.raises(CommandError) as refused:
        reboot.load(tree.system, asked).carry_out(tree.system)
    assert sentence in str(refused.value).replace(str(tree.root), "")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("words", [["--exec", "--append", "x"], ["--unload", "--exec"]])
def test_words_that_do_not_go_together(tree, capsys, words):
    assert tree.setup("kexec", *words, "--yes") == 3
    assert "goes with no other word: load first, then start" in capsys.readouterr().err


# Starting it.


@pytest.fixture
def here(tree, monkeypatch):
    """The tree, taken for the machine itself."""
    monkeypatch.setattr(System, "live", property(lambda _: True))
    tree.write("/sys/kernel/kexec_loaded", "1\n")
    tree.tool("systemctl")
    monkeypatch.setattr(System, "tool", _tool)
    return tree


def _tool(system, name):
    path = system.root / "usr/sbin" / name
    return str(path) if path.exists() else None


def typed(monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_starting_wants_this_machine_s_name(here, monkeypatch, capsys):
    for answer in ("", "y\n", "yes\n", "another\n"):
        typed(monkeypatch, answer)
        assert here.setup("kexec", "--exec", "--yes") == 3
        assert "that is not this machine's name: nothing was done" in capsys.readouterr().err
    assert here.ran == []
    typed(monkeypatch, f"{socket.gethostname()}\n")
    assert here.setup("kexec", "--exec") == 0
    assert here.ran == ["kexec -e"]
    output = capsys.readouterr().out
    assert "nothing is shut down, written or unmounted" in output
    assert "`mount -o remount,ro /`" in output
    assert "`systemctl kexec` shuts down first" in output


def test_systemd_shuts_down_first(here, monkeypatch, capsys):
    here.write("/run/systemd/system/x", "")
    typed(monkeypatch, f"{socket.gethostname()}\n")
    assert here.setup("kexec", "--exec") == 0
    typed(monkeypatch, f"{socket.gethostname()}\n")
    assert here.setup("kexec", "--exec", "--at-once") == 0
    assert here.ran == ["systemctl kexec", "kexec -e"]
    assert "services are stopped" in capsys.readouterr().out


def test_a_dry_run_starts_nothing(here, capsys):
    assert here.setup("kexec", "--exec", "--dry-run") == 0
    assert "run: kexec -e" in capsys.readouterr().out
    assert here.ran == []


def test_nothing_to_start(here, capsys):
    here.write("/sys/kernel/kexec_loaded", "0\n")
    assert here.setup("kexec", "--exec") == 3
    assert "no kernel is loaded for a fast reboot: `crashpy setup kexec`" in capsys.readouterr().err


def test_another_tree_is_not_rebooted(tree, capsys):
    assert tree.setup("kexec", "--exec") == 3
    assert "it acts on the running kernel" in capsys.readouterr().err
    assert tree.ran == []


# Whether the machine came by kexec.


@pytest.mark.parametrize(
    ("files", "answer"),
    [
        ({"/proc/sys/kernel/bootloader_type": "208\n"}, True),  # kexec
        ({"/proc/sys/kernel/bootloader_type": "114\n"}, False),  # GRUB
        ({"/proc/sys/kernel/bootloader_type": "176\n"}, False),  # QEMU
        ({"/proc/device-tree/chosen/linux,booted-from-kexec": ""}, True),
        ({"/proc/device-tree/chosen/bootargs": "ro"}, False),
        ({}, None),
    ],
)
def test_started_by_kexec(tree, files, answer):
    for name, text in files.items():
        tree.write(name, text)
    assert reboot.started_by_kexec(tree.system) is answer
    assert status(tree.system).by_kexec is answer
    tree.debian()
    findings = [f.what for f in check(tree.system, network=False) if "kexec, not" in f.what]
    assert len(findings) == (answer is True)


def test_status_says_so(tree, capsys):
    tree.write("/proc/sys/kernel/bootloader_type", "208\n")
    tree.write("/sys/kernel/kexec_loaded", "1\n")
    tree.setup("status")
    output = capsys.readouterr().out
    assert "6.1.0-9-amd64, started by kexec, past the boot loader\n" in output
    assert "next:         a kernel is loaded for a fast reboot\n" in output


def test_confirmed():
    reboot.confirmed(f" {socket.gethostname()}\n")
    with pytest.raises(Refused):
        reboot.confirmed("\n")
