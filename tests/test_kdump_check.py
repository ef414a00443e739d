"""`crashpy setup check`: each thing that goes wrong for people, found before it does.

The numbers are those of twenty complaints that people have brought before the projects
concerned; what cannot be known from here says so.
"""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
import servers
from trees import Tree

from crashpy.kdump import proof
from crashpy.kdump.check import check, target
from crashpy.kdump.config import Config
from crashpy.kdump.system import System
from crashpy.kdump.urls import parse

OTHER_KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIGa7qXiYWNTPk5BTzIO6UYVBdb4Nlt6qc1Zt8aPDlGQX"
GRUB_CFG = "menuentry 'x' {\nlinux /vmlinuz-6.1.0-9-amd64 root=/dev/sda1 quiet OPTIONS\n}\n"


@pytest.fixture
def tree(tmp_path):
    """A machine on which all is well."""
    made = Tree(tmp_path)
    made.machine(loaded=1, reserved=512 << 20, memory_gib=1, cmdline="ro crashkernel=512M")
    made.write("/sys/kernel/btf/vmlinux", "")
    made.tool("kexec", log=False)
    made.tool("makedumpfile", "echo makedumpfile: version 1.7.8", log=False)
    return made


def suse(tree, *lines):
    text = "".join(f"{line}\n" for line in ('KDUMP_SAVEDIR="/var/crash"', "KDUMP_CPUS=1", *lines))
    tree.suse(text)
    old = tree.root / "etc/sysconfig/kdump"
    os.utime(old, (1, 1))
    tree.write("/etc/systemd/system/x.wants/other", "")
    tree.write("/usr/lib/systemd/system/kdump.service", "")
    link = tree.root / "etc/systemd/system/x.wants/kdump.service"
    if not link.is_symlink():
        link.symlink_to("/x")
    (tree.root / "var/crash").mkdir(parents=True, exist_ok=True)


def proven(tree):
    config = Config.read(tree.system)
    proof.write(tree.system, proof.begun(config, proof.MACHINE).ends("success"))


def found(tree):
    return [*check(tree.system, network=False)]


def test_all_is_well(tree):
    suse(tree)
    proven(tree)
    assert found(tree) == []


def small(tree):
    suse(tree)
    tree.machine(loaded=1, reserved=64 << 20, memory_gib=1, cmdline="ro crashkernel=64M")


def untried(tree):
    suse(tree)
    return False


def failed(tree):
    suse(tree)
    record = proof.begun(Config.read(tree.system), proof.MACHINE)
    proof.write(tree.system, record.ends("fail", why="no dump came"))
    return False


def old_tool(tree):
    suse(tree)
    tree.write("/proc/sys/kernel/osrelease", "6.12.5-amd64\n")
    tree.write("/boot/vmlinuz-6.12.5-amd64", "")
    tree.tool("makedumpfile", "echo makedumpfile: version 1.7.2", log=False)


def poor_tool(tree):
    suse(tree, "KDUMP_DUMPFORMAT=zstd")
    tree.tool("makedumpfile", "echo version 1.7.8; echo zstd disabled", log=False)


def full(tree):
    suse(tree)
    size = 512 << 20
    tree.machine(loaded=1, reserved=size, memory_gib=1 << 30, cmdline="ro crashkernel=512M")


def threads(tree):
    suse(tree, "KDUMP_CPUS=4")
    tree.tool("makedumpfile", "echo makedumpfile: version 1.7.7", log=False)


def threads_asked_for(tree):
    suse(tree, 'MAKEDUMPFILE_OPTIONS="--num-threads 4"')
    tree.tool("makedumpfile", "echo makedumpfile: version 1.7.7", log=False)


def no_debug_information(tree):
    suse(tree)
    (tree.root / "sys/kernel/btf/vmlinux").unlink()


def reset_by_update(tree):
    tree.rhel()
    tree.write("/usr/lib/systemd/system/kdump.service", "")
    tree.write("/etc/systemd/system/x.wants/other", "")
    (tree.root / "etc/systemd/system/x.wants/kdump.service").symlink_to("/x")
    (tree.root / "var/crash").mkdir(parents=True, exist_ok=True)
    for name in ("kdump.conf", "sysconfig/kdump"):
        os.utime(tree.root / "etc" / name, (1, 1))


def reset_by_service(tree):
    suse(tree, 'KDUMP_CRASHKERNEL="crashkernel=300M,high"')


def not_yet_booted(tree):
    suse(tree)
    tree.write("/etc/default/grub", 'GRUB_CMDLINE_LINUX_DEFAULT="crashkernel=1G"\n')
    tree.write("/boot/grub2/grub.cfg", GRUB_CFG.replace("OPTIONS", "crashkernel=1G"))


def not_made_anew(tree):
    suse(tree)
    tree.write("/etc/default/grub", 'GRUB_CMDLINE_LINUX_DEFAULT="crashkernel=512M"\n')
    tree.write("/boot/grub2/grub.cfg", GRUB_CFG.replace("OPTIONS", ""))


def locked(tree):
    suse(tree, "KEXEC_OPTIONS=-c")
    tree.write("/sys/kernel/security/lockdown", "none integrity [confidentiality]\n")


def disabled(tree):
    suse(tree)
    tree.write("/proc/sys/kernel/kexec_load_disabled", "1\n")


def by_kexec(tree):
    suse(tree)
    tree.write("/proc/sys/kernel/bootloader_type", "208\n")


def no_interface(tree):
    suse(tree, 'KDUMP_SAVEDIR="nfs://server/x"', 'KDUMP_NETCONFIG="eth7:dhcp"')


def bonded(tree):
    suse(tree, 'KDUMP_SAVEDIR="nfs://server/x"')
    tree.write("/proc/net/route", "Iface\tDestination\nbond0\t00000000\t0100000A\n")
    tree.write("/sys/class/net/bond0/bonding/mode", "")


def switched(tree):
    suse(tree, 'KDUMP_SAVEDIR="nfs://server/x"', 'KDUMP_NETCONFIG="br0:dhcp"')
    tree.write("/sys/class/net/br0/uevent", "DEVTYPE=openvswitch\nINTERFACE=br0\n")


def tagged(tree):
    suse(tree, 'KDUMP_SAVEDIR="nfs://server/x"', 'KDUMP_NETCONFIG="eth0.5:dhcp"')
    tree.write("/sys/class/net/eth0.5/uevent", "INTERFACE=eth0.5\n")
    tree.write("/proc/net/vlan/eth0.5", "")


def shell(tree):
    suse(tree, "KDUMP_CONTINUE_ON_ERROR=false")


def not_reserved(tree):
    suse(tree)
    tree.machine(loaded=0, reserved=0, memory_gib=1, cmdline="ro")


def many(tree):
    suse(tree)
    for day in range(1, 7):
        (tree.root / f"var/crash/2026-01-0{day}-01-01").mkdir()


def readable(tree):
    suse(tree, "KDUMP_KEEP_OLD_DUMPS=2")
    for parent in (tree.root, *tree.root.parents):  # else pytest's own folder shuts them out
        if parent.stat().st_uid == os.geteuid() and str(parent) != "/":
            parent.chmod(parent.stat().st_mode | 0o011)
    tree.write("/var/crash/2026-01-01-01-01/vmcore", "x", 0o644)


def by_ftp(tree):
    suse(tree, 'KDUMP_SAVEDIR="ftp://server/x"')


def password(tree):
    suse(tree, 'KDUMP_SMTP_PASSWORD="geheim"')


def any_key(tree):
    suse(tree, 'KDUMP_SAVEDIR="ssh://root@127.0.0.1:1/x"', 'KDUMP_HOST_KEY="*"')
    tree.write("/root/.ssh/id_rsa", "", 0o600)


def no_folder(tree):
    suse(tree)
    (tree.root / "var/crash").rmdir()


def off(tree):
    suse(tree)
    (tree.root / "etc/systemd/system/x.wants/kdump.service").unlink()


def stale(tree):
    suse(tree)
    os.utime(tree.root / "etc/sysconfig/kdump")
    os.utime(tree.root / "var/lib/kdump/initrd", (1, 1))


def nobody(tree):
    suse(tree, 'KDUMP_SMTP_SERVER="mail"')


def nonsense(tree):
    suse(tree, "KDUMP_DUMPLEVEL=77")


def carriage_returns(tree):
    suse(tree)
    (tree.root / "etc/sysconfig/kdump").write_bytes(b'KDUMP_SAVEDIR="/var/crash"\r\nKDUMP_CPUS=1\n')
    os.utime(tree.root / "etc/sysconfig/kdump", (1, 1))


def two_sizes(tree):
    suse(tree)
    words = "crashkernel=256M crashkernel=512M"
    tree.machine(loaded=1, reserved=512 << 20, memory_gib=1, cmdline=f"ro {words}")
    tree.write("/etc/default/grub", 'GRUB_CMDLINE_LINUX="crashkernel=256M"\n')
    line = 'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT crashkernel=512M"\n'
    tree.write("/etc/default/grub.d/kdump.cfg", line)
    tree.write("/boot/grub2/grub.cfg", GRUB_CFG.replace("OPTIONS", words))


def masked(tree):
    suse(tree)
    (tree.root / "etc/systemd/system/kdump.service").symlink_to("/dev/null")


COMPLAINTS = [
    (1, small, "warning", "64 MiB are reserved, and about", "`crashpy setup bootloader "),
    (2, failed, "error", "the test of ", "`crashpy setup test`"),
    (3, untried, "warning", "nobody has tried whether a crash leaves a dump", "`crashpy setup te"),
    (4, old_tool, "error", "makedumpfile 1.7.2 is older than what Linux 6.12 needs", "install a"),
    (4, poor_tool, "warning", "this makedumpfile was built without zstd", "`crashpy setup conf"),
    (7, full, "warning", "/var/crash has ", "delete old dumps"),
    (8, threads, "warning", "makedumpfile 1.7.7 is to use several threads", "install a newer"),
    (8, threads_asked_for, "warning", "makedumpfile 1.7.7 is to use several", "install a newer"),
    (10, no_debug_information, "warning", "Linux 6.1.0-9-amd64 has no BTF", "install the kernel"),
    (12, reset_by_update, "warning", "auto_reset_crashkernel is yes, and", "`crashpy setup conf"),
    (12, reset_by_service, "warning", "KDUMP_CRASHKERNEL is 300M,high, and", "`crashpy setup b"),
    (12, not_yet_booted, "warning", "the boot loader is set up with crashkernel=1G", "reboot"),
    (13, not_made_anew, "error", "/boot/grub2/grub.cfg:1 starts the next", "`crashpy setup boo"),
    (13, by_kexec, "warning", "this kernel was started by kexec, not by", "reboot through"),
    (14, locked, "error", "the kernel is locked down, and kexec is told to", "`crashpy setup co"),
    (14, disabled, "error", "kernel.kexec_load_disabled is 1", "remove it from"),
    (15, any_key, "warning", "any host key is accepted", "`crashpy setup configure host-key="),
    (16, no_interface, "error", "network=eth7:dhcp: there is no interface eth7", "`crashpy setup"),
    (16, bonded, "warning", "bond0, the way to server, is a bond", "prove it"),
    (16, switched, "warning", "br0, the way to server, is of Open vSwitch", "prove it"),
    (16, tagged, "warning", "eth0.5, the way to server, is a VLAN", "prove it"),
    (17, shell, "warning", "failure=shell", "where nobody watches it"),
    (18, not_reserved, "error", "the kernel was started without crashkernel=", "`crashpy setup"),
    (
        12,
        two_sizes,
        "warning",
        "this kernel was started with crashkernel=256M crash",
        "`crashpy se",
    ),
    (18, masked, "error", "kdump.service is off", "`crashpy setup enable`"),
    (18, off, "error", "kdump.service is off", "`crashpy setup enable`"),
    (19, many, "warning", "6 dumps are in ", "`crashpy setup configure keep=3`"),
    (20, readable, "warning", "", "`chmod -R go= "),
    (20, by_ftp, "warning", "dumps go to server by ftp", "use sftp or ssh"),
    (20, password, "error", "/etc/sysconfig/kdump holds a password, and others", "`chmod 600"),
    (0, no_folder, "error", "/var/crash: there is no such folder", "mount what it is on"),
    (0, stale, "warning", "/etc/sysconfig/kdump changed after the capture", "`mkdumprd -f`"),
    (0, carriage_returns, "error", "/etc/sysconfig/kdump has lines that end as DOS", "`sed -i"),
    (0, nobody, "warning", "a mail server is named, and nobody to tell", "`crashpy setup conf"),
    (0, nonsense, "warning", "/etc/sysconfig/kdump:3: KDUMP_DUMPLEVEL: 77 is out", "correct it"),
]
# What no machine shows before it crashes, and where it is dealt with.
ELSEWHERE = {
    5: "crashpy has no table of kernel versions that could be out of date",
    6: "flattened dumps are opened as they are",
    9: "a command says which pages it lacks",
    11: "see test_an_encrypted_disk",
}


@pytest.mark.parametrize(
    ("number", "damage", "severity", "what", "remedy"),
    COMPLAINTS,
    ids=[f"{row[0]}-{row[1].__name__}" for row in COMPLAINTS],
)
def test_a_complaint(tree, number, damage, severity, what, remedy):  # noqa: ARG001
    if damage(tree) is not False:
        proven(tree)
    [finding] = found(tree)
    assert finding.severity == severity
    assert finding.what.startswith(what)
    assert finding.consequence
    assert finding.remedy.startswith(remedy)


def test_each_of_the_twenty_is_dealt_with():
    assert {row[0] for row in COMPLAINTS} - {0} | {*ELSEWHERE} == {*range(1, 21)}


def test_an_encrypted_disk(tree):
    """11: nobody types the passphrase."""
    suse(tree)
    proven(tree)
    device = (tree.root / "var/crash").stat().st_dev
    node = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    tree.write(f"{node}/dm/uuid", "CRYPT-LUKS2-0123\n")
    [finding] = found(tree)
    assert "is on an encrypted disk" in finding.what
    assert "up to 1 GiB" in finding.consequence


def test_as_json(tree, capsys):
    many(tree)
    proven(tree)
    assert tree.setup("check", "--offline", "--json") == 1
    [line] = capsys.readouterr().out.splitlines()
    assert set(json.loads(line)) == {"severity", "what", "consequence", "remedy"}
    assert tree.setup("check", "--offline") == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("warning: 6 dumps are in ")
    assert shown[1].startswith("    so:  ")
    assert shown[2].startswith("    do:  ")


# With a network.


@pytest.fixture
def server():
    """Somebody who takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def here(tree, monkeypatch):
    """The tree, taken for the machine itself; its tools are its own."""
    monkeypatch.setattr(System, "live", property(lambda _: True))

    def tool(_, name):
        path = tree.root / "usr/sbin" / name
        return str(path) if path.exists() else None

    monkeypatch.setattr(System, "tool", tool)
    return tree


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def connected(tree):
    proven(tree)
    return [*check(tree.system)]


@pytest.mark.parametrize("protocol", ["ftp", "nfs", "cifs", "ssh", "sftp"])
def test_a_server_that_does_not_answer(here, protocol):
    port = closed_port()
    suse(
        here,
        f'KDUMP_SAVEDIR="{protocol}://joe:x@127.0.0.1:{port}/share/x"',
        "KDUMP_HOST_KEY=" + OTHER_KEY,
    )
    here.write("/root/.ssh/id_ed25519", "", 0o600)
    (here.root / "etc/sysconfig/kdump").chmod(0o600)
    findings = [f for f in connected(here) if "by ftp" not in f.what]
    assert [f.what for f in findings] == [f"127.0.0.1 port {port}: Connection refused"]
    assert findings[0].consequence == "the dump cannot be saved"


def test_a_server_that_does(here, server):
    suse(here, f'KDUMP_SAVEDIR="nfs://127.0.0.1:{server}/x"')
    assert connected(here) == []


def test_a_name_that_is_none(here):
    suse(here, 'KDUMP_SAVEDIR="nfs://no.such.host.invalid/x"')
    [finding] = connected(here)
    assert "no.such.host.invalid port 2049: " in finding.what


def test_logging_in_is_tried(here, server):
    suse(here, f'KDUMP_SAVEDIR="ssh://joe@127.0.0.1:{server}/x"')
    here.write("/root/.ssh/id_ed25519", "", 0o600)
    here.tool("ssh", "echo joe@127.0.0.1: Permission denied >&2; exit 255")
    [finding] = connected(here)
    assert finding.what.startswith("joe@127.0.0.1 does not let root log in: ssh failed with")
    assert "Permission denied" in finding.what
    assert f"-p {server} joe@127.0.0.1 true" in here.ran[0]
    assert "-o BatchMode=yes" in here.ran[0]
    here.tool("ssh", "exit 0")
    assert connected(here) == []


@pytest.mark.parametrize("protocol", ["ssh", "sftp"])
@pytest.mark.parametrize("trusted", ["known_hosts", "key", "typed key", "*", "another"])
def test_logging_in_to_a_real_server(here, protocol, trusted):
    """With the key that the configuration names, and the host key that it trusts."""
    for tool in ("ssh", "ssh-keygen"):
        (here.root / "usr/sbin" / tool).symlink_to(shutil.which(tool))
    with servers.sshd() as started:
        identity = started.facts["identity"]
        here.write(identity, Path(identity).read_text(), 0o600)  # ssh takes that of this name
        key = started.facts["host_key"]
        words = {"key": key.split()[1], "typed key": key, "*": "*", "another": OTHER_KEY}
        lines = [f'KDUMP_SAVEDIR="{protocol}://{servers.USER}@127.0.0.1:{started.port}/x"']
        lines += [f'KDUMP_SSH_IDENTITY="{identity}"']
        if trusted in words:
            lines += [f'KDUMP_HOST_KEY="{words[trusted]}"']
        suse(here, *lines)
        proven(here)
        config = Config.read(here.system)
        findings = [*target.logs_in(config, parse(config.get("target").value))]
    what = [finding.what for finding in findings]
    assert len(what) == (trusted in ("known_hosts", "another")), what
    assert all("Host key verification failed" in text for text in what)


def test_a_host_key_that_is_not_known(here, server):
    suse(here, f'KDUMP_SAVEDIR="ssh://joe@127.0.0.1:{server}/x"')
    here.write("/root/.ssh/id_ed25519", "", 0o600)
    here.tool("ssh-keygen", "exit 1")
    [finding] = connected(here)
    assert finding.what == f"the host key of [127.0.0.1]:{server} is not in /root/.ssh/known_hosts"


@pytest.mark.parametrize(
    ("mode", "what"),
    [
        (None, "root has no key to log in with"),
        (0o644, "/root/.ssh/id_ed25519 can be read by others than its owner"),
    ],
)
def test_keys(here, server, mode, what):
    suse(here, f'KDUMP_SAVEDIR="ssh://joe@127.0.0.1:{server}/x"')
    if mode:
        here.write("/root/.ssh/id_ed25519", "", mode)
    [finding] = connected(here)
    assert finding.what == what


def test_a_mail_server_that_does_not_answer(here):
    port = closed_port()
    suse(here, f'KDUMP_SMTP_SERVER="127.0.0.1:{port}"', 'KDUMP_NOTIFICATION_TO="a@b"')
    [finding] = connected(here)
    assert finding.what == f"127.0.0.1 port {port}: Connection refused"
    assert finding.consequence == "nobody is told about a dump"


def test_mail_without_a_server_is_this_machine_s(here):
    suse(here, 'KDUMP_NOTIFICATION_TO="a@b"')
    [finding] = connected(here)
    assert finding.what == "a@b is to be told, and there is no mail server, named or here"
    here.tool("sendmail")
    assert connected(here) == []


def test_a_read_only_target(here, monkeypatch):
    suse(here)
    statvfs = os.statvfs

    class ReadOnly:
        def __init__(self, found):
            self.f_bavail, self.f_frsize = found.f_bavail, found.f_frsize
            self.f_flag = found.f_flag | os.ST_RDONLY

    monkeypatch.setattr(os, "statvfs", lambda path: ReadOnly(statvfs(path)))
    [finding] = connected(here)
    assert finding.what.endswith(" is mounted read-only")
