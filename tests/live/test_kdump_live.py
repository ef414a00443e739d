"""What crashpy writes, read back by the distributions' own scripts.

Debian's come from its package, by apt-get. SUSE's and Red Hat's are read from the folder
~/.cache/crash-reference/kdump: kdump-read-config.sh, load.sh and kdump-save of openSUSE/kdump,
and kdumpctl, kdump-lib.sh and kdump-lib-initramfs.sh of rhkdump/kdump-utils.
"""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from kdump_table import TABLES
from trees import Tree

from crashpy.kdump import kexec
from crashpy.kdump.config import Config
from crashpy.kdump.plan import Plan, save_plan
from crashpy.kdump.policies import advise
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


def unpacked(folder, *names):
    """Packages of this machine's distribution, below one folder."""
    folder.chmod(0o777)
    subprocess.run(["apt-get", "download", *names], cwd=folder, capture_output=True, check=True)
    for deb in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", deb, folder / "x"], check=True)
    return folder / "x"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Debian's kdump-tools, unpacked."""
    return unpacked(tmp_path_factory.mktemp("kdump-tools"), "kdump-tools")


@pytest.fixture(scope="module")
def gawk(tmp_path_factory):
    """The awk that SUSE's scripts are written for."""
    found = unpacked(tmp_path_factory.mktemp("gawk"), "gawk", "libsigsegv2", "libmpfr6")
    [library] = {path.parent for path in found.rglob("libsigsegv.so.2")}
    (found / "usr/bin/awk").unlink(missing_ok=True)
    (found / "usr/bin/awk").symlink_to("gawk")
    return {"PATH": f"{found}/usr/bin:/usr/sbin:/usr/bin:/bin", "LD_LIBRARY_PATH": str(library)}


def rows(family, *, loading=False):
    """The variables of a distribution, as the table has them."""
    return [
        pytest.param(row, id=f"{row.name}-{row.setting}")
        for row in TABLES[family]
        if row.name == row.name.upper() or family == "rhel"
        if not loading or row.load or row.gone
    ]


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


@pytest.mark.parametrize("row", rows("debian"))
def test_debian_reads_every_variable(debian, row):
    system, head = debian
    configured(system, *row.more, row.setting)
    assert sh(f'{head}\nprintf %s "${row.name}"') == row.written


# SUSE.

# What kdump-read-config.sh leaves to others, or knows no more.
ELSEWHERE = ("KDUMP_COPY_KERNEL", "KDUMPTOOL_FLAGS", "KDUMP_RUNLEVEL", "KDUMP_UPDATE_BOOTLOADER")
FILE = '## Type: string\nKDUMP_SAVEDIR="/var/crash"\nKDUMP_DUMPLEVEL=31\n'


def script(name):
    path = SCRIPTS / name
    assert path.exists(), f"{path} is needed"
    return path


def suse(tmp_path, *settings):
    """A machine of SUSE's that is configured."""
    tree = Tree(tmp_path)
    tree.machine()
    tree.suse(FILE)
    return configured(tree.system, *settings)


def suse_reads(tmp_path):
    file = tmp_path / "etc/sysconfig/kdump"
    printed = sh(f"bash {script('kdump-read-config.sh')} --print", "bash", KDUMP_CONF=str(file))
    return {
        name: value[1:-1].replace("'\\''", "'") if value.startswith("'") else value
        for name, value in re.findall(r"^(\w+)=(.*)$", printed, re.MULTILINE)
    }


@pytest.mark.parametrize("row", [p for p in rows("suse") if p.values[0].name not in ELSEWHERE])
def test_suse_reads_every_variable(tmp_path, row):
    suse(tmp_path, *row.more, row.setting)
    answers = {"yes": "true", "no": "false"}
    assert suse_reads(tmp_path)[row.name] == answers.get(row.written, row.written)


@pytest.mark.parametrize("key", ["smtp-password", "append", "cmdline", "kexec", "smtp-user"])
def test_suse_reads_whatever_is_quoted(tmp_path, key):
    config = suse(tmp_path, f"{key}={HARD}")
    assert suse_reads(tmp_path)[config.dialect.simple[key]] == HARD


@pytest.mark.parametrize(
    "row", [p for p in rows("suse", loading=True) if "fadump" not in str(p.values[0])]
)
def test_suse_loads_the_same(tmp_path, gawk, monkeypatch, row):
    config = suse(tmp_path, *row.more, row.setting)
    for name in ("other", "vmlinuz-6.1.0-8-amd64"):
        (tmp_path / "boot" / name).write_text("")
    text = script("load.sh").read_text()
    head = text[: text.index("# MAIN PROGRAM STARTS HERE")].replace("/proc/", f"{tmp_path}/proc/")
    reads = f"KDUMP_CONF={tmp_path}/etc/sysconfig/kdump; . {script('kdump-read-config.sh')}"
    debug = "DEBUG=false; [[ $((KDUMP_VERBOSE & 8)) -gt 0 ]] && DEBUG=true"
    theirs = sh(
        f"{reads}\n{debug}\n{head}\nuname() {{ echo x86_64; }}\nbuild_kdump_commandline x",
        "bash",
        **gawk,
    )
    monkeypatch.setattr(kexec, "ready", lambda _: None)
    argv = next(argv for argv in kexec.load(config).commands if argv[0] == "kexec")
    [line] = [word.partition("=")[2] for word in argv if word.startswith("--command-line=")]
    assert line.split() == theirs.split()


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["level=17", "format=lzo"],
        ["format=elf", "cpus=4"],
        ["format=zstd", "cpus=1", "makedumpfile=--non-cyclic"],
        ["format=snappy", "cpus=0"],
        ["format=raw"],
        ["format=log"],
        ["before=echo b", "after=echo a"],
        ["transfer=echo transferred"],
    ],
)
def test_suse_saves_what_is_planned(tmp_path, settings):
    """kdump-save runs with stand-ins, and its makedumpfile gets what our plan says."""
    config = suse(tmp_path, *settings)
    plan = save_plan(config)
    for name in ("mnt/var/crash", "tmp", "bin"):
        (tmp_path / name).mkdir(parents=True)
    read = SCRIPTS / "kdump-read-config.sh"
    conf = tmp_path / "etc/sysconfig/kdump"
    (tmp_path / "kdump.conf").write_text(sh(f"bash {read} --print", "bash", KDUMP_CONF=str(conf)))
    (tmp_path / "etc/hostname.kdump").write_text("host\n")
    (tmp_path / "proc/vmcore").write_text("raw memory")
    (tmp_path / "proc/cpuinfo").write_text("processor : 0\nprocessor : 1\n" * 4)
    note = 'printf "%s\\n" "$(basename $0) $*" >> $ROOT/ran'
    for name in ("makedumpfile", "reboot", "umount"):
        tool = tmp_path / "bin" / name
        tool.write_text(f"#!/bin/sh\nROOT={tmp_path}\n{note}\n")
        tool.chmod(0o755)
    text = script("kdump-save").read_text()
    for there, here in {
        "/tmp/": f"{tmp_path}/tmp/",  # first: the other names may hold it
        "/kdump/mnt": f"{tmp_path}/mnt",
        "/proc/": f"{tmp_path}/proc/",
        "/etc/hostname.kdump": f"{tmp_path}/etc/hostname.kdump",
        "/etc/kdump.conf": f"{tmp_path}/kdump.conf",
        "/sys/": f"{tmp_path}/sys/",
    }.items():
        text = re.sub(rf"(?<![\w/]){there}", here, text)
    printed = sh(text, "bash", PATH=f"{tmp_path}/bin:/usr/bin:/bin")
    ran = (tmp_path / "ran").read_text().splitlines() if (tmp_path / "ran").exists() else []
    dumping = [line.split() for line in ran if line.startswith("makedumpfile -F -")]
    dumping = [words for words in dumping if "--dump-dmesg" not in words]
    if plan.transfer:
        assert "transferred" in printed
        return
    assert ("reboot -f" in ran) is (plan.finally_ == "reboot")
    if plan.format in ("raw", "log"):
        assert dumping == []
        saved = [*(tmp_path / "mnt/var/crash").rglob("vmcore")]
        assert [path.read_text() for path in saved] == ["raw memory"] * (plan.format == "raw")
        return
    [words] = dumping
    flags = {"zlib": "-c", "lzo": "-l", "snappy": "-p", "zstd": "-z", "elf": "-E"}
    assert words[2] == flags[plan.format]
    assert words[words.index("-d") + 1] == str(*plan.levels)
    threads = plan.threads or 8
    assert ("--num-threads" in words) is (threads > 1 and plan.format != "elf")
    if "--num-threads" in words:
        assert int(words[words.index("--num-threads") + 1]) == min(threads, 8)
    assert tuple(words[words.index("-d") + 2 : -1]) == plan.options
    assert ("Running KDUMP_PRESCRIPT" in printed) is bool(plan.before)
    assert ("Running KDUMP_POSTSCRIPT" in printed) is bool(plan.after)


# Red Hat.

CONF = "# comment\npath /var/crash\ncore_collector makedumpfile -l --message-level 7 -d 31\n"


def red_hat(tmp_path, *settings):
    """A machine of Red Hat's that is configured."""
    tree = Tree(tmp_path)
    tree.machine()
    tree.rhel()
    tree.write("/etc/kdump.conf", CONF)
    tree.write("/etc/sysconfig/kdump", 'KEXEC_ARGS="-s"\nKDUMP_COMMANDLINE_APPEND="irqpoll"\n')
    return configured(tree.system, *settings)


def red_hat_reads(tmp_path):
    """kdumpctl's own parser on kdump.conf, the shell on the loader's file."""
    text = script("kdumpctl").read_text()
    parts = [
        re.search(rf"^{name}\(\)\n\{{.*?^\}}", text, re.MULTILINE | re.DOTALL)[0]
        for name in ("_set_config", "parse_config")
    ]
    found = sh(
        f"""
        . {script("kdump-lib-initramfs.sh")}
        KDUMP_CONFIG_FILE={tmp_path}/etc/kdump.conf
        derror() {{ echo "$*" >&2; }}; dwarn() {{ derror "$*"; }}
        check_failure_action_config() {{ :; }}; check_final_action_config() {{ :; }}
        check_fence_kdump_config() {{ :; }}; check_ssh_config() {{ :; }}
        declare -A OPT
        {parts[0]}
        {parts[1]}
        parse_config || exit 1
        for name in "${{!OPT[@]}}"; do echo "$name=${{OPT[$name]}}"; done
        . {tmp_path}/etc/sysconfig/kdump
        for name in $(compgen -v KDUMP_) KEXEC_ARGS FADUMP_COMMANDLINE_APPEND; do
            echo "$name=${{!name}}"
        done
        echo VMCORE_CREATION_NOTIFICATION=$VMCORE_CREATION_NOTIFICATION
        """,
        "bash",
    )
    return dict(line.split("=", 1) for line in found.splitlines())


PLACES = ("raw", "nfs", "ssh", "ext2", "ext3", "ext4", "minix", "btrfs", "xfs", "virtiofs")


@pytest.mark.parametrize(
    "row",
    [
        p
        for p in rows("rhel")
        if "-" not in p.values[0].name and p.values[0].name not in ("keep", "free")
    ],
)
def test_red_hat_reads_every_variable(tmp_path, row):
    key = tmp_path / "key"
    key.write_text("")
    setting = row.setting.replace("/root/k", str(key))
    red_hat(tmp_path, *row.more, setting)
    found = red_hat_reads(tmp_path)
    if row.name in PLACES:
        assert (found["_fstype"], found["_target"]) == (row.name, row.written)
    elif row.name == "KDUMP_COMMANDLINE_APPEND" and row.setting.startswith("cpus"):
        assert found[row.name] == f"irqpoll {row.written}"
    else:
        assert found[row.name] == row.written.replace("/root/k", str(key))


@pytest.mark.parametrize("row", rows("rhel", loading=True))
def test_red_hat_composes_the_same(tmp_path, monkeypatch, row):
    config = red_hat(tmp_path, *row.more, row.setting)
    for name in (
        "boot/Image-6.1.0-9-amd64",
        "boot/vmlinuz-6.1.0-9-amd64.gz",
        "boot/vmlinuz-6.1.0-8-amd64",
        "boot/initramfs-6.1.0-8-amd64kdump.img",
        "kernels/vmlinuz-6.1.0-9-amd64",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "etc/machine-id").write_text("0123\n")
    text = script("kdump-lib.sh").read_text()
    for folder in ("proc", "sys", "etc"):
        text = re.sub(rf"(?<![\w/])/{folder}/", f"{tmp_path}/{folder}/", text)
    text = text.replace('"/boot /boot/efi /efi /"', f'"{tmp_path}/boot"')
    library = tmp_path / "lib.sh"
    library.write_text(re.sub(r"^\. .*$", "", text, flags=re.MULTILINE))
    bootdir = f"KDUMP_BOOTDIR={tmp_path}$KDUMP_BOOTDIR" if "BOOTDIR" in row.setting else ":"
    theirs = sh(
        f"""
        . {library}
        dinfo() {{ :; }}; is_ostree() {{ false; }}; uname() {{ echo 6.1.0-9-amd64; }}
        KDUMP_IMG=vmlinuz
        . {tmp_path}/etc/sysconfig/kdump
        {bootdir}
        prepare_cmdline "$KDUMP_COMMANDLINE" "$KDUMP_COMMANDLINE_REMOVE" "$KDUMP_COMMANDLINE_APPEND"
        prepare_kdump_kernel ${{KDUMP_KERNELVER:-6.1.0-9-amd64}}
        """,
        "bash",
    )
    line, kernel = theirs.splitlines()
    monkeypatch.setattr(kexec, "ready", lambda _: None)
    remove = config.documents[1].get("KDUMP_COMMANDLINE_REMOVE")
    if remove is None:  # then ours takes what the package's file has: see Rhel.removed
        config.set_native("KDUMP_COMMANDLINE_REMOVE", "none")
    argv = kexec.load(config).commands[0]
    assert argv[-1] == kernel.replace(str(tmp_path), "")
    [ours] = [word.partition("=")[2] for word in argv if word.startswith("--command-line=")]
    assert ours.split() == line.split()


@pytest.mark.parametrize("machine", ["x86_64", "s390x", "aarch64", "ppc64le"])
@pytest.mark.parametrize("more", ["", "mlx5", "64k", "64k mlx5 smmu", "sev", "fadump"])
def test_red_hat_recommends_the_same(tmp_path, machine, more):
    tree = Tree(tmp_path)
    release = f"5.14.0-1.el9.{machine}" + ("+64k" if "64k" in more else "")
    tree.write("/proc/sys/kernel/osrelease", release)
    tree.write("/proc/cmdline", f"{'mem_encrypt=on' if more == 'sev' else ''} {more}=on")
    if "mlx5" in more:
        tree.write("/sys/bus/pci/drivers/mlx5_core/x", "")
    if "smmu" in more:
        tree.write("/sys/devices/platform/arm-smmu-v3.0/x", "")
    text = script("kdump-lib.sh").read_text()
    library = tmp_path / "lib.sh"
    library.write_text(re.sub(r"^\. .*$", "", text, flags=re.MULTILINE))
    answer = {True: "true", False: "false"}
    theirs = sh(
        f"""
        . {library}
        ddebug() {{ :; }}; uname() {{ echo {machine}; }}
        is_fadump_capable() {{ {answer[more == "fadump"]}; }}
        is_sme_or_sev_active() {{ {answer[more == "sev"]}; }}
        has_mlx5() {{ {answer["mlx5" in more]}; }}
        has_aarch64_smmu() {{ {answer["smmu" in more]}; }}
        _get_kdump_kernel_version() {{ echo {release}; }}
        KDUMP_COMMANDLINE_APPEND={"nr_cpus=16" if machine == "ppc64le" else ""}
        FADUMP_COMMANDLINE_APPEND=$KDUMP_COMMANDLINE_APPEND
        kdump_get_arch_recommend_crashkernel
        """,
        "bash",
    )
    assert advise("rhel", tree.system, machine, 64 << 30).values == (theirs,)
