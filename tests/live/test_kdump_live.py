"""What crashpy writes, read back by the distributions' own scripts.

Debian's come from its package, by apt-get. SUSE's and Red Hat's are read from the folder
~/.cache/crash-reference/kdump: kdump-read-config.sh of openSUSE/kdump, and kdumpctl and
kdump-lib-initramfs.sh of rhkdump/kdump-utils.
"""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from crashpy.kdump import kexec
from crashpy.kdump.config import Config
from crashpy.kdump.plan import Plan
from crashpy.kdump.system import System

pytestmark = pytest.mark.live

SCRIPTS = Path("~/.cache/crash-reference/kdump").expanduser()
CMDLINE = "BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro quiet crashkernel=256M hugepages=8\n"
HARD = 'a b "c" $HOME `id` \\ it\'s'


def sh(script, shell="sh", **environment):
    path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment}
    done = subprocess.run(
        [shell, "-c", script], env=path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def configured(system, *settings):
    config = Config.read(system)
    for setting in settings:
        config.assign(*setting.split("=", 1))
    Plan(config.edits()).carry_out(system)
    return Config.read(system)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Debian's kdump-tools, unpacked."""
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        pytest.skip("apt-get and dpkg are needed")
    folder = tmp_path_factory.mktemp("kdump-tools")
    folder.chmod(0o777)
    argv = ["apt-get", "download", "kdump-tools"]
    if subprocess.run(argv, cwd=folder, capture_output=True, check=False).returncode:
        pytest.skip("kdump-tools cannot be downloaded")
    [deb] = folder.glob("*.deb")
    subprocess.run(["dpkg", "-x", deb, folder / "x"], check=True)
    return folder / "x"


@pytest.fixture
def debian(package, tmp_path):
    """A tree with the package's default file, and its kdump-config on that tree."""
    for name in ("etc/default", "proc", "sys/kernel", "boot", "var/lib/kdump", "var/crash"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(
        package / "usr/share/kdump-tools/kdump-tools.conf", tmp_path / "etc/default/kdump-tools"
    )
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/osrelease").write_text("6.1.0\n")
    (tmp_path / "proc/cmdline").write_text(CMDLINE)
    (tmp_path / "proc/iomem").write_text("")
    (tmp_path / "sys/kernel/kexec_crash_size").write_text("268435456\n")
    (tmp_path / "sys/kernel/kexec_crash_loaded").write_text("0\n")
    (tmp_path / "boot/vmlinuz-6.1.0").write_text("")
    (tmp_path / "var/lib/kdump/initrd.img").write_text("")
    (tmp_path / "var/lib/kdump/vmlinuz").write_text("")
    text = (package / "usr/sbin/kdump-config").read_text()
    text = text.replace(". /lib/lsb/init-functions", "log_failure_msg() { :; }")
    text = text.replace("KEXEC=/sbin/kexec", "KEXEC=/bin/true")
    text = re.sub(r"(?<=[ =\"/])(?<!\w)/(proc|sys|etc|var|boot)/", rf"{tmp_path}/\1/", text)
    assert str(tmp_path / "etc/default/kdump-tools") in text
    head = text[: text.index('\ncase "$1" in\n  test)')]  # functions and values, no action
    return System(tmp_path, chroot=False), head


DEBIAN = [
    ("target=/srv/dumps", "KDUMP_COREDIR", "/srv/dumps"),
    ("target=nfs://server/export/x", "NFS", "server:/export/x"),
    ("target=ssh://joe@server/dumps", "SSH", "joe@server"),
    ("target=ssh://joe@server/dumps", "KDUMP_COREDIR", "/dumps"),
    ("target=ftp://joe:p%24w%40x@server:2121/in", "FTP", "server:/in"),
    ("target=ftp://joe:p%24w%40x@server:2121/in", "FTP_USER", "joe"),
    ("target=ftp://joe:p%24w%40x@server:2121/in", "FTP_PASSWORD", "p$w@x"),
    ("target=ftp://joe:p%24w%40x@server:2121/in", "FTP_PORT", "2121"),
    ("level=17", "MAKEDUMP_ARGS", "-F -c -d 17"),
    ("format=lzo", "MAKEDUMP_ARGS", "-F -l -d 31"),
    ("compression=xz", "KDUMP_COMPRESSION", "xz"),
    ("keep=4", "KDUMP_NUM_DUMPS", "4"),
    ("failure=shell", "KDUMP_FAIL_CMD", "/bin/bash; reboot -f"),
    ("dmesg=no", "KDUMP_DUMP_DMESG", "0"),
    ("kernel=/boot/k", "KDUMP_KERNEL", "/boot/k"),
    ("initrd=/boot/i", "KDUMP_INITRD", "/boot/i"),
    ("host-tag=hostname", "HOSTTAG", "hostname"),
    ("ssh-key=/root/k", "SSH_KEY", "/root/k"),
    (f"append={HARD}", "KDUMP_CMDLINE_APPEND", HARD),
    (f"kexec={HARD}", "KDUMP_KEXEC_ARGS", HARD),
    (f"cmdline={HARD}", "KDUMP_CMDLINE", HARD),
]


@pytest.mark.parametrize(("setting", "name", "value"), DEBIAN)
def test_debian_reads_what_was_written(debian, setting, name, value):
    system, head = debian
    configured(system, setting)
    assert sh(f'{head}\nprintf %s "${name}"') == value


@pytest.mark.parametrize("settings", [[], ["cpus=3", "kexec=-d"], ["append=irqpoll panic=5"]])
def test_debian_composes_the_same_command(debian, monkeypatch, settings):
    system, head = debian
    config = configured(system, *settings)
    disk = f"{system.root}$KDUMP_INITRD"
    theirs = sh(f"{head}\nDRY_RUN=true\nKDUMP_INITRD={disk}\nkdump_load\necho $KEXEC_CMD")
    monkeypatch.setattr(kexec, "ready", lambda _: None)
    [argv] = kexec.load(config).commands

    def normal(words):
        """Blanks between options mean nothing; -a and the tree's folder are ours."""
        words = [word.replace(str(system.root), "") for word in words[1:] if word != "-a"]
        return sorted(" ".join(word.split()) for word in words)

    assert normal(argv) == normal(shlex.split(theirs))


SUSE = [
    ("target=cifs://joe:p@server/share/x", "KDUMP_SAVEDIR", "cifs://joe:p@server/share/x"),
    ("target=/srv/x", "KDUMP_PROTO", "file"),
    ("level=17", "KDUMP_DUMPLEVEL", "17"),
    ("format=elf", "KDUMP_DUMPFORMAT", "ELF"),
    ("keep=1", "KDUMP_KEEP_OLD_DUMPS", "-1"),
    ("keep=4", "KDUMP_KEEP_OLD_DUMPS", "3"),
    ("free=100", "KDUMP_FREE_DISK_SIZE", "100"),
    ("finally=shell", "KDUMP_IMMEDIATE_REBOOT", "false"),
    ("failure=shell", "KDUMP_CONTINUE_ON_ERROR", "false"),
    ("cpus=4", "KDUMP_CPUS", "4"),
    ("network=eth0:dhcp", "KDUMP_NETCONFIG", "eth0:dhcp"),
    (f"smtp-password={HARD}", "KDUMP_SMTP_PASSWORD", HARD),
    (f"append={HARD}", "KDUMP_COMMANDLINE_APPEND", HARD),
    ("mail-cc=a@b.c d@e.f", "KDUMP_NOTIFICATION_CC", "a@b.c d@e.f"),
    ("KDUMP_VERBOSE=3", "KDUMP_VERBOSE", "3"),
    ("KDUMP_AUTO_RESIZE=yes", "KDUMP_AUTO_RESIZE", "true"),
]


@pytest.mark.parametrize(("setting", "name", "value"), SUSE)
def test_suse_reads_what_was_written(tmp_path, setting, name, value):
    script = SCRIPTS / "kdump-read-config.sh"
    if not script.exists():
        pytest.skip(f"{script} is needed")
    file = tmp_path / "etc/sysconfig/kdump"
    file.parent.mkdir(parents=True)
    file.write_text('## Type: string\nKDUMP_SAVEDIR="/var/crash"\nKDUMP_DUMPLEVEL=31\n')
    configured(System(tmp_path), setting)
    printed = sh(f"bash {script} --print", "bash", KDUMP_CONF=str(file))
    assert dict(re.findall(r"^(\w+)=(.*)$", printed, re.MULTILINE))[name] in (
        value,
        "'" + value.replace("'", "'\\''") + "'",
    )


RHEL = [
    (
        "target=nfs://server/export/x",
        {"_target": "server:/export/x", "path": "/", "_fstype": "nfs"},
    ),
    ("target=ssh://joe@server/x", {"_fstype": "ssh", "_target": "joe@server", "path": "/x"}),
    ("target=/srv/x", {"path": "/srv/x"}),
    ("xfs=/dev/sda2", {"_fstype": "xfs", "_target": "/dev/sda2"}),
    ("level=17", {"core_collector": "makedumpfile -l --message-level 7 -d 17"}),
    ("format=zstd", {"core_collector": "makedumpfile -z --message-level 7 -d 31"}),
    ("failure=poweroff", {"failure_action": "poweroff"}),
    ("finally=halt", {"final_action": "halt"}),
    ("before=/usr/bin/true", {"kdump_pre": "/usr/bin/true"}),
    ("programs=/usr/bin/lsof /usr/bin/ps", {"extra_bins": "/usr/bin/lsof /usr/bin/ps"}),
]


@pytest.mark.parametrize(("setting", "values"), RHEL)
def test_red_hat_reads_what_was_written(tmp_path, setting, values):
    if not (SCRIPTS / "kdumpctl").exists():
        pytest.skip(f"{SCRIPTS}/kdumpctl is needed")
    file = tmp_path / "etc/kdump.conf"
    file.parent.mkdir(parents=True)
    file.write_text(
        "# comment\npath /var/crash\ncore_collector makedumpfile -l --message-level 7 -d 31\n"
    )
    configured(System(tmp_path), setting)
    text = (SCRIPTS / "kdumpctl").read_text()
    parts = [
        re.search(rf"^{name}\(\)\n\{{.*?^\}}", text, re.MULTILINE | re.DOTALL)[0]
        for name in ("_set_config", "parse_config")
    ]
    script = f"""
        . {SCRIPTS}/kdump-lib-initramfs.sh
        KDUMP_CONFIG_FILE={file}
        derror() {{ echo "$*" >&2; }}; dwarn() {{ derror "$*"; }}
        check_failure_action_config() {{ :; }}; check_final_action_config() {{ :; }}
        check_fence_kdump_config() {{ :; }}; check_ssh_config() {{ :; }}
        declare -A OPT
        {parts[0]}
        {parts[1]}
        parse_config || exit 1
        for name in "${{!OPT[@]}}"; do echo "$name=${{OPT[$name]}}"; done
    """
    found = dict(line.split("=", 1) for line in sh(script, "bash").splitlines())
    assert values.items() <= found.items()
