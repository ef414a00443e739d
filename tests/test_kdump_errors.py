"""Whatever is wrong, `crashpy setup` says so in one sentence, and changes nothing."""

import dataclasses
import os
import subprocess
import sys

import pytest
from trees import Tree

from crashpy.kdump import bootloader, kexec, proof, reboot, rehearsal, services  # noqa: F401
from crashpy.kdump.keys import KEYS
from crashpy.kdump.setup import VERBS, setup
from crashpy.kdump.system import System

LONG = "a value is one line, without control characters"
NAME = "is not a path that starts with /"
KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIA=="  # the beginning of one of ed25519
BAD_VALUES = {
    "target": [
        ("var/crash", "var/crash: neither an absolute path nor PROTOCOL://..."),
        ("http://h/x", "http: no such protocol: one of file, ftp, sftp, ssh, nfs, cifs"),
        ("nfs:///x", "nfs: no host, or a wrong port: nfs://HOST[:PORT]/PATH"),
        ("ftp://h:0/x", "ftp: no such port: 0"),
        ("ftp://h:99999/x", "ftp: no such port: 99999"),
        ("ssh://h:22x/y", "ssh: no host, or a wrong port: ssh://HOST[:PORT]/PATH"),
        ("cifs://h", "cifs: no share: cifs://HOST/SHARE/PATH"),
        ("/a /b", "a target holds no blank: kdump's own scripts would take it for two"),
        ("ssh://h/a b", "a target holds no blank: write %20"),
        ("nfs://joe:x@h/a", "nfs knows no login: the server's exports say who may write"),
        ("/a\tb", LONG),
    ],
    "level": [
        ("32", "32 is out of range: it goes from 0 to 31"),
        ("-1", "-1 is out of range: it goes from 0 to 31"),
        ("all", '"all" is not a number: it goes from 0 to 31'),
        ("1,31", '"1,31" is not a number: it goes from 0 to 31'),
        ("0x1f", '"0x1f" is not a number: it goes from 0 to 31'),
    ],
    "format": [("rar", '"rar" is not one of zlib, lzo, snappy, zstd, plain, elf, raw, log')],
    "compression": [("zip", '"zip" is not one of bzip2, gzip, lz4, xz')],
    "keep": [
        ("-1", "-1 is out of range: it goes from 1 to 999"),
        ("1000", "1000 is out of range: it goes from 1 to 999"),
        ("some", '"some" is not a number: it goes from 1 to 999'),
    ],
    "free": [
        ("-5", "-5 is out of range: it goes from 0 on"),
        ("64M", '"64M" is not a number: it goes from 0 on'),
    ],
    "finally": [("dance", '"dance" is not one of reboot, halt, poweroff, shell')],
    "failure": [("panic", '"panic" is not one of reboot, halt, poweroff, shell, dump_to_rootfs')],
    "kernel": [("a\nb", LONG)],
    "initrd": [("initrd", f'"initrd" {NAME}'), ("/a\rb", LONG)],
    "cpus": [
        ("-1", "-1 is out of range: it goes from 0 to 4096"),
        ("many", '"many" is not a number: it goes from 0 to 4096'),
    ],
    "cmdline": [
        (
            "ro crashkernel=1G",
            "crashkernel= is for the kernel that may crash: see `crashpy setup bootloader`",
        ),
        ("a\0b", LONG),
    ],
    "append": [
        (
            "crashkernel=1G",
            "crashkernel= is for the kernel that may crash: see `crashpy setup bootloader`",
        )
    ],
    "remove": [("a\nb", LONG)],
    "makedumpfile": [
        ("-c", "-c: that is what level= and format= are for"),
        ("-X -d31", "-d31: that is what level= and format= are for"),
    ],
    "copy-kernel": [("perhaps", '"perhaps" is neither yes nor no')],
    "transfer": [("a\nb", LONG)],
    "verbose": [("32", "32 is out of range: it goes from 0 to 31")],
    "resize": [("a bit", '"a bit" is neither yes nor no')],
    "kexec": [("a\x7fb", LONG)],
    "network": [
        (
            "eth0",
            '"eth0" is not auto or INTERFACE:MODE with static, dhcp, dhcp4, dhcp6, auto6',
        ),
        (
            "eth0:bootp",
            '"eth0:bootp" is not auto or INTERFACE:MODE with static, dhcp, dhcp4, dhcp6, auto6',
        ),
    ],
    "net-timeout": [("soon", '"soon" is not a number: it goes from 0 on')],
    "ssh-key": [("id_rsa", f'"id_rsa" {NAME}')],
    "host-key": [
        ("a\nb", LONG),
        ("AAAA", '"AAAA" is no host key: its base64 text as in known_hosts, or * for any'),
        (
            f"ssh-rsa {KEY}",
            f'"ssh-rsa {KEY}" is no host key: its base64 text as in known_hosts, or * for any',
        ),
    ],
    "host-tag": [("mac", '"mac" is not one of ip, hostname')],
    "smtp-server": [
        ("a b", '"a b" is not HOST or HOST:PORT'),
        ("h:port", '"h:port" is not HOST or HOST:PORT'),
        ("smtp://h", '"smtp://h" is not HOST or HOST:PORT'),
    ],
    "smtp-user": [("a\nb", LONG)],
    "smtp-password": [("a\nb", LONG)],
    "mail-to": [
        ("root", '"root" is not a mail address'),
        ("a@b,c@d", '"a@b,c@d" is not a mail address'),
    ],
    "mail-cc": [("a@b c", '"c" is not a mail address')],
    "before": [("a\nb", LONG)],
    "after": [("a\nb", LONG)],
    "programs": [("a\nb", LONG)],
    "modules": [("a\nb", LONG)],
    "dmesg": [("maybe", '"maybe" is neither yes nor no')],
    "fadump": [("maybe", '"maybe" is neither yes nor no')],
}
FAMILIES = {
    "suse": {"/etc/sysconfig/kdump": 'KDUMP_SAVEDIR="/var/crash"\n'},
    "rhel": {"/etc/kdump.conf": "path /var/crash\n", "/etc/sysconfig/kdump": 'KEXEC_ARGS="-s"\n'},
    "debian": {"/etc/default/kdump-tools": "USE_KDUMP=1\n"},
    "own": {"/etc/crashpy.conf": "level = 31\n"},
}


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def family(tree, name):
    for file, text in FAMILIES[name].items():
        tree.write(file, text)


def held(tree):
    return {path: path.read_bytes() for path in tree.root.rglob("*") if path.is_file()}


def test_every_key_has_a_bad_value():
    assert set(BAD_VALUES) == set(KEYS)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [(key, *row) for key, rows in BAD_VALUES.items() for row in rows],
)
def test_a_bad_value(tree, capsys, name, key, value, sentence):
    family(tree, name)
    before = held(tree)
    assert tree.setup("configure", "--yes", f"{key}={value}") == 3
    assert capsys.readouterr().err == f"crashpy setup configure: {key}: {sentence}\n"
    assert held(tree) == before


# Variables by their own names are checked as well.


@pytest.mark.parametrize(
    ("name", "setting", "sentence"),
    [
        ("suse", "KDUMP_DUMPLEVEL=99", "KDUMP_DUMPLEVEL: 99 is out of range: it goes from 0 to 31"),
        ("suse", "KDUMP_SAVEDIR=var", "KDUMP_SAVEDIR: var: neither an absolute path nor PROTOCOL:"),
        ("suse", "KDUMP_SAVEDIR=/a b", "KDUMP_SAVEDIR: b: neither an absolute path nor PROTOCOL"),
        ("suse", "KDUMP_CRASHKERNEL=1G", 'KDUMP_CRASHKERNEL: "1G" is neither auto nor crashkernel'),
        ("suse", "KDUMP_CRASHKERNEL=crashkernel=x", 'KDUMP_CRASHKERNEL: "x" is not a size such as'),
        ("suse", "KDUMP_CPUS=x", 'KDUMP_CPUS: "x" is not a number: it goes from 0 to 4096'),
        ("suse", "KDUMP_AUTO_RESIZE=2", 'KDUMP_AUTO_RESIZE: "2" is neither yes nor no'),
        ("suse", "KDUMP_RUNLEVEL=6", 'KDUMP_RUNLEVEL: "6" is not one of 1, 2, 3, 5, s'),
        ("rhel", "nfs=server", 'nfs: "server" is not SERVER:/EXPORT'),
        ("rhel", "ssh=server", 'ssh: "server" is not USER@SERVER'),
        ("rhel", "ext4=sda1", 'ext4: "sda1" is not /dev/NAME, UUID=... or LABEL=...'),
        ("rhel", "path=var", 'path: "var" is not a path that starts with /'),
        ("rhel", "final_action=shell", 'final_action: "shell" is not one of reboot, halt, power'),
        ("rhel", "force_rebuild=2", "force_rebuild: 2 is out of range: it goes from 0 to 1"),
        ("rhel", "KDUMP_STDLOGLVL=9", "KDUMP_STDLOGLVL: 9 is out of range: it goes from 0 to 4"),
        ("rhel", "net=h", "net: kdumpctl no longer has it: see kdump.conf(5)"),
        ("debian", "SSH=server", 'SSH: "server" is not USER@SERVER'),
        ("debian", "NFS=/x", 'NFS: "/x" is not SERVER:/EXPORT'),
        ("debian", "USE_KDUMP=2", "USE_KDUMP: 2 is out of range: it goes from 0 to 1"),
        ("debian", "FTP_PORT=0", "FTP_PORT: 0 is out of range: it goes from 1 to 65535"),
        ("debian", "NFS_TIMEO=0", "NFS_TIMEO: 0 is out of range: it goes from 1 on"),
        ("debian", "HOSTTAG=mac", 'HOSTTAG: "mac" is not one of ip, hostname'),
        ("debian", "KDUMP_SAVEDIR=/x", "KDUMP_SAVEDIR: Debian has no such setting, SUSE has"),
        ("own", "KDUMP_SAVEDIR=/x", "KDUMP_SAVEDIR: crashpy has no such setting, SUSE has"),
        ("suse", "SAVEDIR=/x", "SAVEDIR: no such setting: `crashpy setup configure` lists what"),
        ("suse", "=1", "no such setting: `crashpy setup configure` lists what there is"),
    ],
)
def test_a_bad_variable(tree, capsys, name, setting, sentence):
    family(tree, name)
    assert tree.setup("configure", "--yes", setting) == 3
    assert capsys.readouterr().err.startswith(f"crashpy setup configure: {sentence}")


# Each verb, on a machine where something is missing or damaged.

READERS = {"status", "check", "size"}  # they say what they find
WORDS = {
    "configure": ["level=1"],
    "bootloader": ["256M"],
    "test": ["--dry-run"],
}
WRITERS = sorted(set(VERBS) - READERS - {"tui"})


def nothing(_):
    pass


def open_quote(tree):
    tree.write("/etc/sysconfig/kdump", 'KDUMP_SAVEDIR="/var\n')


def folder(tree):
    (tree.root / "etc/sysconfig/kdump").mkdir(parents=True)


def circle(tree):
    (tree.root / "etc/sysconfig").mkdir()
    (tree.root / "etc/sysconfig/kdump").symlink_to("kdump")


NEEDS_CONFIG = ["configure", "enable", "disable", "load", "test"]


@pytest.mark.parametrize("verb", NEEDS_CONFIG)
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (nothing, "no configuration of kdump was found: neither /etc/sysconfig/kdump, /etc/kdump"),
        (open_quote, "/etc/sysconfig/kdump: line 1: a quote is opened and never closed"),
        (folder, "ROOT/etc/sysconfig/kdump: Is a directory"),
        (circle, "/etc/sysconfig/kdump: its symbolic links go round in a circle"),
    ],
)
def test_no_configuration(tree, capsys, verb, damage, sentence):
    damage(tree)
    before = held(tree)
    assert tree.setup(verb, *WORDS.get(verb, []), *yes(verb)) == 3
    error = capsys.readouterr().err
    assert error.startswith(f"crashpy setup {verb}: {sentence.replace('ROOT', str(tree.root))}")
    assert error.count("\n") == 1
    assert held(tree) == before


def yes(verb):
    return [] if verb == "test" else ["--yes"]


@pytest.mark.parametrize("verb", ["status", "check"])
@pytest.mark.parametrize("damage", [nothing, open_quote, folder, circle])
def test_those_who_only_look_say_what_they_find(tree, capsys, verb, damage):
    damage(tree)
    assert tree.setup(verb) == 1
    output = capsys.readouterr()
    assert output.err == ""
    assert "/etc/sysconfig/kdump" in output.out


@pytest.mark.parametrize("verb", [*VERBS])
def test_no_such_tree(tmp_path, capsys, verb):
    gone = tmp_path / "gone"
    assert setup([verb, "--root", str(gone), *WORDS.get(verb, [])]) == 3
    assert capsys.readouterr().err == f"crashpy setup {verb}: {gone}: there is no such folder\n"


@pytest.mark.parametrize("verb", [*VERBS])
def test_a_word_that_is_none(tree, capsys, verb):
    with pytest.raises(SystemExit) as left:
        tree.setup(verb, "--dance")
    assert left.value.code == 2
    assert "unrecognized arguments: --dance" in capsys.readouterr().err


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("words", "status"), [("status", 1), ("configure level=3 --yes", 0)])
def test_a_stream_that_is_closed(tree, closed, words, status):
    """Nobody hears it then, and no file takes the stream's place."""
    tree.suse()
    command = f"exec {sys.executable} -m crashpy setup {words} --root {tree.root} {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, "")
    assert ("KDUMP_DUMPLEVEL=3" in tree.read("/etc/sysconfig/kdump")) is (status == 0)
    assert "armed" not in tree.read("/etc/sysconfig/kdump")


@pytest.mark.parametrize("words", ["status", "check --offline", "configure level=3 --yes"])
def test_a_full_disk_behind_the_output(tree, words):
    tree.suse()
    before = held(tree)
    command = f"exec {sys.executable} -m crashpy setup {words} --root {tree.root} >/dev/full"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr == f"crashpy setup {words.split()[0]}: No space left on device\n"
    assert held(tree) == before


# The tree that is acted on.


@pytest.mark.parametrize("name", ["/", "//", "/etc/..", "link"])
def test_a_name_for_this_machine_is_this_machine(tmp_path, name):
    if name == "link":
        (tmp_path / "link").symlink_to("/")
        name = str(tmp_path / "link")
    assert System.at(name).live


def test_a_tree_without_a_name_is_refused(tree, capsys):
    assert setup(["configure", "--root", "", "level=1"]) == 3
    assert capsys.readouterr().err == "crashpy setup configure: --root: there is no such folder\n"
    assert not System.at(str(tree.root)).live


def tree_s_state(tree):
    """Everything there is, with all that a change would change."""
    return {
        path: (path.lstat().st_mode, path.lstat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in [tree.root, *tree.root.rglob("*")]
    }


DRY = {
    "configure": ["level=1", "smtp-password=geheim", "keep=3"],
    "bootloader": ["256M"],
    "disable": [],
    "enable": [],
    "kexec": ["--kernel", "/boot/vmlinuz-6.1.0-9-amd64", "--append", "x"],
    "load": [],
    "unload": [],
    "test": [],
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("verb", DRY)
def test_a_dry_run_changes_nothing_at_all(tree, monkeypatch, capsys, name, verb):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(rehearsal, "TOOLS", {})
    monkeypatch.setattr(rehearsal, "EMULATORS", {os.uname().machine: "sh"})
    family(tree, name)
    tree.machine(loaded=1)
    tree.write("/sys/kernel/kexec_loaded", "0\n")
    tree.write("/var/lib/kdump/initrd", "")
    tree.write("/etc/default/grub", 'GRUB_CMDLINE_LINUX=""\n')
    tree.write("/boot/grub/grub.cfg", "")
    tree.write("/etc/.crashpy-setup", "{}")  # a change that was cut off waits for a real run
    for unit in ("kdump", "kdump-tools"):
        tree.write(f"/usr/lib/systemd/system/{unit}.service", "")
    for tool in ("kexec", "update-grub", "systemctl", "sysctl"):
        tree.tool(tool)
    before = tree_s_state(tree)
    status = tree.setup(verb, "--dry-run", *DRY[verb])
    output = capsys.readouterr()
    none = name == "own" and verb in ("enable", "disable")  # it has no unit
    assert status == (3 if none else 0), output.err
    assert output.out or none
    assert "geheim" not in output.out + output.err
    assert tree_s_state(tree) == before


# Tools that are not there.


def grubby_gone(tree):
    tree.write("/etc/default/grub", 'GRUB_CMDLINE_LINUX=""\n')


def grub_cfg_gone(tree):
    tree.write("/etc/default/grub", 'GRUB_CMDLINE_LINUX=""\n')
    tree.tool("grub2-mkconfig")


def zipl_gone(tree):
    tree.write("/etc/zipl.conf", "[linux]\nparameters=ro\n")


def unit(tree):
    family(tree, "suse")
    tree.write("/usr/lib/systemd/system/kdump.service", "")


def script(tree):
    family(tree, "suse")
    tree.write("/etc/init.d/boot.kdump", "")


def unit_on(tree):
    unit(tree)
    wants = tree.root / "etc/systemd/system/x.wants"
    wants.mkdir(parents=True)
    (wants / "kdump.service").symlink_to("/x")


@pytest.mark.parametrize(
    ("words", "damage", "sentence"),
    [
        (["bootloader", "1M"], grubby_gone, "there is neither update-grub nor grub2-mkconfig"),
        (["bootloader", "1M"], grub_cfg_gone, "there is no grub.cfg in /boot: what shall be made"),
        (["bootloader", "1M"], zipl_gone, "zipl: there is no such program: install s390-tools"),
        (["enable"], unit, "systemctl: there is no such program: install systemd"),
        (["disable"], unit_on, "systemctl: there is no such program: install systemd"),
        (["enable"], script, "update-rc.d: there is no such program: install "),
        (["size", "--policy", "suse"], nothing, "suse is what `kdumptool calibrate` says, and"),
    ],
)
def test_a_missing_tool(tree, capsys, words, damage, sentence):
    damage(tree)
    before = held(tree)
    assert tree.setup(*words, *([] if words[0] == "size" else ["--yes"])) == 3
    error = capsys.readouterr().err
    assert error.startswith(f"crashpy setup {words[0]}: {sentence}")
    assert error.count("\n") == 1
    assert held(tree) == before


# Permissions: as a user who may not.


@pytest.fixture
def others(tmp_path):
    """Every folder above the tree lets others pass."""
    for parent in (tmp_path, *tmp_path.parents):
        mode = parent.stat().st_mode
        if parent.owner() == tmp_path.owner() and not mode & 0o001:
            parent.chmod(mode | 0o011)


@dataclasses.dataclass
class Done:
    returncode: int
    stderr: str


def as_nobody(folder, words):
    """In a process of its own, which has read its code before it lost its rights."""
    said = folder / "said"
    with said.open("w") as file:
        child = os.fork()
        if child == 0:
            sys.stdout = sys.stderr = file
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            status = setup(words)
            file.flush()
            os._exit(status)
    _, status = os.waitpid(child, 0)
    errors = [line for line in said.read_text().splitlines(True) if line.startswith("crashpy ")]
    return Done(os.waitstatus_to_exitcode(status), "".join(errors))


DENIED = "Permission denied: nothing was changed\n"


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["configure", "level=1", "--yes"], DENIED),
        (["load", "--dry-run"], "only root may load or unload a kernel\n"),
        (["unload", "--dry-run"], "only root may load or unload a kernel\n"),
        (["kexec", "--dry-run"], "only root may load or unload a kernel\n"),
        (["bootloader", "256M", "--yes"], DENIED),
        (["enable", "--yes"], DENIED),
    ],
)
def test_somebody_who_may_not(tree, tmp_path_factory, words, sentence):
    family(tree, "debian")
    tree.machine()
    tree.write("/etc/default/grub", 'GRUB_CMDLINE_LINUX=""\n')
    tree.write("/usr/lib/systemd/system/kdump-tools.service", "")
    tree.write("/etc/default/kdump-tools", "USE_KDUMP=0\n")
    tree.write("/boot/grub/grub.cfg", "")
    tree.tool("update-grub", log=False)
    tree.tool("systemctl", log=False)
    for path in [tree.root, *tree.root.rglob("*")]:
        path.chmod(0o555 if path.is_dir() or os.access(path, os.X_OK) else 0o444)
    before = held(tree)
    done = as_nobody(tmp_path_factory.mktemp("x"), [words[0], "--root", str(tree.root), *words[1:]])
    assert done.returncode == 3, done.stderr
    assert done.stderr.endswith(sentence)
    assert done.stderr.count("\n") == 1
    assert held(tree) == before


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize("verb", ["configure", "enable", "test"])
def test_somebody_who_may_not_even_look(tree, tmp_path_factory, verb):
    family(tree, "suse")
    (tree.root / "etc/sysconfig/kdump").chmod(0o600)
    done = as_nobody(tmp_path_factory.mktemp("x"), [verb, "--root", str(tree.root)])
    assert done.returncode == 3
    assert done.stderr.endswith("etc/sysconfig/kdump: Permission denied\n")
    assert done.stderr.count("\n") == 1
