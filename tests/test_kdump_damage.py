"""Files that are damaged in any way cost a sentence at most: no verb ever breaks."""

import io
import os
import random
import sys

import pytest
from trees import Tree

from crashpy.command import CommandError
from crashpy.kdump.config import Config
from crashpy.kdump.plan import save_plan

CONFIGURATIONS = (
    {
        "/etc/sysconfig/kdump": '# SUSE\nKDUMP_SAVEDIR="ftp://joe:a@h:21/x"\nKDUMP_DUMPLEVEL=31\n'
        'KDUMP_DUMPFORMAT="compressed"\nKDUMP_KEEP_OLD_DUMPS=3\nKDUMP_CPUS=2\nKDUMP_VERBOSE=3\n'
        'KDUMP_NETCONFIG="eth0:dhcp"\nKDUMP_HOST_KEY="*"\nMAKEDUMPFILE_OPTIONS=\'-X\'\n'
        'KDUMP_FADUMP=no\nKDUMP_CRASHKERNEL="auto"\n'
    },
    {
        "/etc/kdump.conf": "path /var/crash\nnfs a:/b\ncore_collector makedumpfile -l -d 31,1\n"
        'failure_action shell\ndracut_args --mount "/dev/sda /x xfs"\n',
        "/etc/sysconfig/kdump": 'KEXEC_ARGS="-s"\nKDUMP_COMMANDLINE_APPEND="nr_cpus=1"\n',
        "/etc/crashpy.conf": "keep = 3\nfree = 4\nmail-to = a@b\n",
    },
    {
        "/etc/default/kdump-tools": 'USE_KDUMP=1\nMAKEDUMP_ARGS="-F -c -d 31"\nSSH="a@b"\n'
        'NFS_TIMEO=3\nKDUMP_NUM_DUMPS=3\nFTP="h:/x"\nFTP_PORT=21\nKDUMP_FAIL_CMD="reboot -f"\n'
    },
    {"/etc/crashpy.conf": "target = sftp://a@b/x\nlevel = 31\nkeep = 3\ncpus = 2\n"},
)
MACHINE = {
    "/etc/default/grub": 'GRUB_CMDLINE_LINUX_DEFAULT="quiet crashkernel=1G-:256M" # x\n',
    "/boot/grub/grub.cfg": "set default=\"0\"\nif [ x = y ]; then\nfi\nmenuentry 'x' {\n"
    "linux /vmlinuz-6.1.0-9-amd64 root=/dev/sda1 $x\ninitrd /y\n}\nsubmenu 'a' {\n}\n",
    "/boot/loader/entries/a.conf": "title a\nlinux /vmlinuz-6.1.0-9-amd64\noptions ro\n",
    "/etc/zipl.conf": "[defaultboot]\ndefault=x\n[x]\nimage=/boot/vmlinuz-6.1.0-9-amd64\n",
    "/var/lib/crashpy/proof.json": '{"how": "x", "state": "success", "before": []}',
    "/proc/cmdline": 'a=b crashkernel=256M x="y z"\n',
    "/proc/net/route": "Iface\tDestination\neth0\t00000000\n",
    "/etc/os-release": 'ID="opensuse"\n',
}
JUNK = (
    *"\"'$`\\\n=# \0{}();[]/@:,",
    *("\xff", "-1", "9" * 12, ">>", "$(x)", "${x", "crashkernel=", "://", "-d", "é", "²"),
)
VERBS = (
    ["status"],
    ["status", "--json"],
    ["check", "--offline"],
    ["configure"],
    ["configure", "level=3", "keep=2", "target=/x", "--dry-run"],
    ["configure", "format=elf", "smtp-server=h", "--yes"],
    ["bootloader"],
    ["bootloader", "512M", "--dry-run"],
    ["bootloader", "--remove", "--dry-run"],
    ["kexec", "--dry-run"],
    ["load", "--dry-run"],
    ["enable", "--dry-run"],
    ["size", "--policy", "all"],
    ["test", "--dry-run"],
    ["test", "--result"],
)


def damaged(chance, text):
    """Something is added, left out, changed or doubled, here and there."""
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(text))
        other = chance.randint(0, len(text))
        junk = chance.choice(JUNK)
        text = chance.choice(
            (
                text[:at] + junk + text[at:],
                text[:at] + text[at + chance.randint(1, 8) :],
                text[:at] + junk + text[at + 1 :],
                text[:at] + text[other : other + 20] + text[at:],
            )
        )
    return text


@pytest.mark.parametrize("seed", range(24))
def test_damage(tmp_path, monkeypatch, seed):
    chance = random.Random(seed)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    tree = Tree(tmp_path)
    tree.machine()
    tree.tool("kexec")
    tree.tool("update-grub")
    tree.write("/sys/kernel/kexec_loaded", "0\n")
    some = {name: text for name, text in MACHINE.items() if chance.random() < 0.6}
    for name, text in (CONFIGURATIONS[seed % len(CONFIGURATIONS)] | some).items():
        text = damaged(chance, text) if chance.random() < 0.6 else text
        path = tree.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode(chance.choice(("utf-8", "latin-1")), "replace"))
    for verb, *words in VERBS:
        # the program's own streams take any bytes, as these do
        monkeypatch.setattr(sys, "stdout", io.StringIO())
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        assert tree.setup(verb, *words) in (0, 1, 3)
        assert sys.stderr.getvalue().count("\n") <= 1
    try:
        save_plan(Config.read(tree.system))
    except CommandError as error:
        assert "\n" not in str(error)  # noqa: PT017
