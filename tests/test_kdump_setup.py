"""`crashpy setup`: what it shows, writes and runs, on trees with stand-ins for the tools."""

import fcntl
import json
import os
import stat
import sys

import pytest
from trees import Tree

from crashpy.command import CommandError
from crashpy.kdump import bootloader, kexec, policies, proof, services
from crashpy.kdump.capture import memory
from crashpy.kdump.check import check
from crashpy.kdump.config import Config
from crashpy.kdump.plan import Edit, Plan
from crashpy.kdump.policies import advise
from crashpy.kdump.setup import setup
from crashpy.kdump.size import GIB, explain, parse_value, parse_values, reserved, shown
from crashpy.kdump.status import status
from crashpy.kdump.system import Refused, System


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


@pytest.fixture
def as_root(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)


# Writing.


def files(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_file_keeps_its_mode_and_the_old_one_is_kept(tree):
    path = tree.write("/etc/x", "old\n", 0o640)
    [backup] = Plan([Edit("/etc/x", "old\n", "new\n")]).carry_out(tree.system)
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert backup.endswith(".bak")
    assert tree.read(backup.removeprefix(str(tree.root))) == "old\n"


def test_a_file_with_a_password_is_its_owner_s_alone(tree):
    path = tree.write("/etc/x", "", 0o644)
    Plan([Edit("/etc/x", "", "KDUMP_SMTP_PASSWORD=abc\n")]).carry_out(tree.system)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_symbolic_link_stays_one_and_stays_in_the_tree(tree):
    tree.write("/usr/etc/x", "old\n")
    (tree.root / "etc/x").symlink_to("/usr/etc/x")
    Plan([Edit("/etc/x", "old\n", "new\n")]).carry_out(tree.system)
    assert (tree.root / "etc/x").is_symlink()
    assert tree.read("/usr/etc/x") == "new\n"


def test_links_in_a_circle(tree):
    (tree.root / "etc/x").symlink_to("y")
    (tree.root / "etc/y").symlink_to("x")
    with pytest.raises(Refused, match="/etc/x: its symbolic links go round in a circle"):
        tree.system.path("/etc/x")


def test_a_failed_command_undoes_the_files(tree):
    tree.write("/etc/x", "old\n")
    tree.tool("update-grub", "echo first >&2; echo it broke >&2; exit 7")
    before = files(tree.root)
    plan = Plan([Edit("/etc/x", "old\n", "new\n"), Edit("/etc/y", None, "y\n")], [("update-grub",)])
    with pytest.raises(Refused) as refused:
        plan.carry_out(tree.system)
    assert str(refused.value) == (
        "update-grub failed with status 7: it broke; the files are as they were"
    )
    assert tree.read("/etc/x") == "old\n"
    assert files(tree.root) == sorted([*before, "ran"])


def test_a_full_disk_leaves_everything_as_it_was(tree, monkeypatch):
    tree.write("/etc/x", "old\n")
    tree.write("/etc/y", "old\n")
    fsync, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) == 7:  # the temporary file of the second one
            raise OSError(28, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    before = files(tree.root)
    plan = Plan([Edit("/etc/x", "old\n", "new\n"), Edit("/etc/y", "old\n", "new\n")])
    with pytest.raises(Refused, match="No space left on device: nothing was changed"):
        plan.carry_out(tree.system)
    assert files(tree.root) == before
    assert (tree.read("/etc/x"), tree.read("/etc/y")) == ("old\n", "old\n")


def test_what_somebody_else_changed_meanwhile_is_not_overwritten(tree):
    tree.write("/etc/x", "theirs\n")
    with pytest.raises(Refused, match="somebody else changed it meanwhile"):
        Plan([Edit("/etc/x", "old\n", "new\n")]).carry_out(tree.system)
    assert tree.read("/etc/x") == "theirs\n"


def test_one_writer_at_a_time(tree):
    tree.write("/etc/x", "old\n")
    handle = os.open(tree.root / "etc", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(Refused, match="another crashpy setup is writing"):
            Plan([Edit("/etc/x", "old\n", "new\n")]).carry_out(tree.system)
    finally:
        os.close(handle)
    assert files(tree.root) == ["etc/passwd", "etc/x"]


# crashkernel=.


@pytest.mark.parametrize(
    ("values", "memory_gib", "size_mib"),
    [
        (["256M"], 8, 256),
        (["0x10000000"], 8, 256),
        (["128M@4M"], 8, 128),
        (["2G-64G:256M,64G-:512M"], 1, 0),
        (["2G-64G:256M,64G-:512M"], 2, 256),
        (["2G-64G:256M,64G-:512M"], 64, 512),
        (["512M,high", "72M,low"], 8, 584),
        (["256M", "512M,cma"], 8, 256),
    ],
)
def test_what_the_kernel_reserves(values, memory_gib, size_mib):
    assert reserved(values, memory_gib * GIB) == size_mib << 20


@pytest.mark.parametrize(
    ("release", "size"),
    [("6.1.0-9-amd64", 256), ("5.14.0-70.el9.x86_64", 256), ("5.3.18-59-default", 0)],
)
def test_what_firmware_keeps_is_rounded_away(tree, release, size):
    """A machine with 2 GiB shows a little less; the kernel does so since 6.0, Red Hat's before."""
    tree.machine()
    tree.write("/proc/sys/kernel/osrelease", release)
    tree.write("/proc/iomem", "00001000-0009fbff : System RAM\n00100000-7ffd9fff : System RAM\n")
    memory = tree.system.memory_bytes
    assert reserved(["2G-64G:256M,64G-:512M"], memory) == size << 20


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("", '"" is not a value of crashkernel= such as 512M'),
        ("auto", '"auto" is not a size such as 256M'),
        ("256X", '"256X" is not a size such as 256M'),
        ("0", '"0" reserves nothing'),
        ("256M,top", '"256M,top": behind the comma stands high, low or cma'),
        ("256M,high@16M", '"256M,high@16M": '),
        ("2G-64G", '"2G-64G" is not a size such as 256M'),
        ("2G-64G:", '"2G-64G:" is not a range such as 2G-64G:256M'),
        ("64G-2G:256M", '"64G-2G:256M": the range ends before it starts'),
        ("1G-:2G", '"1G-:2G" reserves more than there is at its start'),
        ("2G-8G:1G,4G-:2G", '"4G-:2G" begins before the range in front of it ends'),
        ("2G-:1G,4G-:2G", '"4G-:2G" begins before the range in front of it ends'),
        ("256M $(id)", '"256M $(id)" is not a value of crashkernel='),
    ],
)
def test_a_bad_crashkernel_is_one_sentence(value, sentence):
    with pytest.raises(Refused) as refused:
        parse_value(value)
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (["1G", "2G"], "crashkernel= is one size"),
        (["72M,low"], "crashkernel= is one size"),
        (["1G", "72M,low"], "crashkernel= with ,low goes with one with ,high"),
        (["16G"], "16 GiB is all of the memory there is: 8 GiB"),
    ],
)
def test_values_that_do_not_go_together(values, sentence):
    with pytest.raises(Refused) as refused:
        parse_values(values, 8 * GIB)
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize(
    ("policy", "machine", "memory_gib", "values"),
    [
        ("guide", "x86_64", 12, ("256M",)),
        ("guide", "x86_64", 13, ("512M",)),
        ("guide", "i686", 48, ("512M",)),
        ("guide", "x86_64", 49, ("768M",)),
        ("guide", "ppc64", 4, ("128M@4M",)),
        ("guide", "ia64", 64, ("512M",)),
        ("guide", "s390x", 4, ("128M",)),
        ("guide", "i386", 4, ("256M",)),
        ("guide", "ia64", 4, ("256M",)),
        ("guide", "ppc64", 64, ("256M@4M",)),
        ("guide", "s390x", 64, ("256M",)),
        ("rhel", "x86_64", 8, ("2G-64G:256M,64G-:512M",)),
        ("rhel", "s390x", 8, ("2G-64G:256M,64G-:512M",)),
        ("rhel", "aarch64", 8, ("2G-4G:256M,4G-64G:320M,64G-:576M",)),
        (
            "rhel",
            "ppc64le",
            8,
            ("2G-4G:400M,4G-16G:528M,16G-64G:1040M,64G-128G:2064M,128G-:4112M",),
        ),
        (
            "ubuntu",
            "x86_64",
            8,
            ("2G-4G:320M,4G-32G:512M,32G-64G:1024M,64G-128G:2048M,128G-:4096M",),
        ),
        ("debian", "x86_64", 8, ("384M-:128M",)),
    ],
)
def test_policies(tree, policy, machine, memory_gib, values):
    advice = advise(policy, tree.system, machine, memory_gib * GIB)
    assert advice.values == values
    assert advice.why
    assert reserved(advice.values, memory_gib * GIB)


MLX5 = {"/sys/bus/pci/drivers/mlx5_core/x": ""}
PAGES_64K = {"/proc/sys/kernel/osrelease": "5.14.0-1.el9.aarch64+64k\n"}
SMMU = {"/sys/devices/platform/arm-smmu-v3.0/x": ""}


@pytest.mark.parametrize(
    ("machine", "files", "value"),
    [
        ("x86_64", {"/proc/cmdline": "ro mem_encrypt=on"}, "2G-64G:320M,64G-:576M"),
        ("x86_64", {"/dev/sev-guest": ""}, "2G-64G:320M,64G-:576M"),
        ("x86_64", MLX5, "2G-64G:256M,64G-:512M"),
        ("aarch64", MLX5, "2G-4G:406M,4G-64G:470M,64G-:726M"),
        ("aarch64", PAGES_64K, "2G-4G:356M,4G-64G:420M,64G-:676M"),
        ("aarch64", PAGES_64K | MLX5, "2G-4G:556M,4G-64G:620M,64G-:876M"),
        ("aarch64", PAGES_64K | SMMU, "2G-4G:740M,4G-64G:804M,64G-:1060M"),
        ("aarch64", SMMU, "2G-4G:256M,4G-64G:320M,64G-:576M"),
        ("ppc64le", {"/proc/cmdline": "fadump=on"}, "4G-16G:784M,16G-64G:1040M,64G-128G:2064M"),
    ],
)
def test_what_red_hat_adds(tree, machine, files, value):
    for name, text in files.items():
        tree.write(name, text)
    advice = advise("rhel", tree.system, machine, 64 * GIB)
    assert advice.values[0].startswith(value)


@pytest.mark.parametrize(
    ("policy", "machine", "memory_gib", "sentence"),
    [
        ("guide", "aarch64", 8, "the guide names no size for aarch64"),
        ("guide", "x86_64", None, "how much memory the machine has is not known: give --memory"),
        ("rhel", "riscv64", 8, "RHEL names no size for riscv64"),
        ("estimate", "x86_64", 8, "which kernel runs is not known, nor what it needs"),
        ("best", "x86_64", 8, '"best" is not a policy: there are guide, rhel, suse'),
    ],
)
def test_a_policy_that_says_nothing(tree, policy, machine, memory_gib, sentence):
    with pytest.raises(Refused) as refused:
        advise(policy, tree.system, machine, memory_gib and memory_gib * GIB)
    assert str(refused.value).startswith(sentence)


def test_suse_s_policy_is_its_tool_s(tree):
    with pytest.raises(Refused, match="there is no kdumptool here"):
        advise("suse", tree.system, "x86_64", 8 * GIB)
    tree.tool("kdumptool", "echo Total: 500; echo Low: 72; echo High: 311; echo MinLow: 72")
    assert advise("suse", tree.system, "x86_64", None).values == ("311M,high", "72M,low")


def test_the_estimate_adds_up(tree):
    tree.machine()
    tree.write("/proc/modules", "ext4 1048576 1 - Live 0x0\nloop 1048576 0 - Live 0x0\n")
    header = bytearray(0x270)
    header[0x202:0x206] = b"HdrS"
    header[0x260:0x264] = (50 << 20).to_bytes(4, "little")
    (tree.root / "boot/vmlinuz-6.1.0-9-amd64").write_bytes(header)
    tree.write("/var/lib/kdump/initrd.img", "x" * (1 << 20))
    # 50 + 2 + 3 + 36 + 64 MiB, up to the next multiple of 32
    assert advise("estimate", tree.system, "x86_64", 8 * GIB).values == ("160M",)


def test_what_was_measured(tree, monkeypatch):
    tree.machine()
    monkeypatch.setattr(policies, "_way", lambda _: ("makedumpfile", "file"))
    advice = advise("measured", tree.system, "x86_64", 64 * GIB)
    parts = memory.need_mib("makedumpfile", "file", 64 * GIB)
    size = sum(mib for _, mib in parts)
    assert 0 <= int(advice.values[0].removesuffix("M")) - size < 32
    assert advice.why == tuple(f"{shown(mib << 20)}: {what}" for what, mib in parts)
    large = advise("measured", tree.system, "x86_64", 4096 * GIB)
    assert int(large.values[0].removesuffix("M")) > size
    with pytest.raises(Refused, match="nothing was measured on s390x"):
        advise("measured", tree.system, "s390x", 8 * GIB)
    monkeypatch.setattr(policies, "_way", lambda _: ("abacus", "file"))
    with pytest.raises(Refused, match="abacus was never measured saving by file"):
        advise("measured", tree.system, "x86_64", 8 * GIB)


@pytest.mark.parametrize(
    ("setting", "protocol"), [("/var/crash", "file"), ("sftp://joe@server/x", "sftp")]
)
def test_it_was_measured_for_each_way_of_saving(tree, setting, protocol):
    tree.machine()
    tree.suse(f'KDUMP_SAVEDIR="{setting}"\n')
    engine, way = policies._way(tree.system)
    assert way == protocol
    assert engine in ("native", "makedumpfile")
    assert engine == "native" or protocol == "file"


def test_terms_are_explained():
    [first, second] = explain(["2G-64G:256M,64G-:512M"], 8 * GIB)
    assert first == (
        "2G-64G:256M        with 2 GiB of memory to below 64 GiB: 256 MiB  <- this machine: 8 GiB"
    )
    assert second == "64G-:512M          with 64 GiB of memory on: 512 MiB"
    assert "no range holds 1 GiB" in [*explain(["2G-:256M"], GIB)][-1]


def test_size_on_the_command_line(tree, capsys):
    tree.machine()
    assert tree.setup("size", "--policy", "guide", "--machine", "x86_64") == 0
    assert capsys.readouterr().out.splitlines()[0] == "guide: crashkernel=256M"
    assert tree.setup("size", "--policy", "seven") == 3
    assert capsys.readouterr().err == (
        'crashpy setup size: "seven" is not a policy: there are guide, rhel, suse, ubuntu,'
        " debian, estimate, measured\n"
    )
    assert tree.setup("size", "--memory", "lots") == 3
    assert capsys.readouterr().err == 'crashpy setup size: "lots" is not a size such as 256M\n'
    assert tree.setup("size", "--memory", "0") == 3
    assert "a machine has some memory" in capsys.readouterr().err
    assert tree.setup("size", "--explain", "") == 3
    assert "crashkernel= is one size" in capsys.readouterr().err
    assert tree.setup("size", "--memory", "256M", "--policy", "guide") == 0
    assert "not here: 256 MiB is all of the memory there is" in capsys.readouterr().out
    assert tree.setup("size", "--explain", "crashkernel=512M,high crashkernel=72M,low") == 0
    assert "above 4 GiB" in capsys.readouterr().out
    assert tree.setup("size", "--policy", "all", "--json") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert {json.loads(line)["policy"] for line in lines} >= {"guide", "ubuntu", "debian"}


# The boot loader.

GRUB = (
    'GRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX_DEFAULT="quiet splash" # desktop\nGRUB_CMDLINE_LINUX=""\n'
)
MKCONFIG = """
set -- $(. $ROOT/etc/default/grub; for f in $ROOT/etc/default/grub.d/*.cfg; do
  test -e $f && . $f; done; echo $GRUB_CMDLINE_LINUX $GRUB_CMDLINE_LINUX_DEFAULT)
echo "  linux /vmlinuz root=/dev/sda1 $*" > $ROOT/boot/grub/grub.cfg
"""


@pytest.fixture
def grub(tree):
    tree.machine()
    tree.write("/etc/default/grub", GRUB)
    tree.write("/boot/grub/grub.cfg", "  linux /vmlinuz root=/dev/sda1 quiet splash\n")
    tree.tool("update-grub", MKCONFIG)
    return tree


def test_grub_takes_it_once_and_gives_it_back(grub):
    bootloader.plan(grub.system, ["512M,high", "72M,low"]).carry_out(grub.system)
    line = '"quiet splash crashkernel=512M,high crashkernel=72M,low" # desktop\n'
    assert f"GRUB_CMDLINE_LINUX_DEFAULT={line}" in grub.read("/etc/default/grub")
    assert grub.ran == ["update-grub "]
    assert bootloader.plan(grub.system, ["512M,high", "72M,low"]).empty
    assert bootloader.current(grub.system) == ["512M,high", "72M,low"]
    bootloader.plan(grub.system, ["1G"]).carry_out(grub.system)
    assert "crashkernel=1G" in grub.read("/boot/grub/grub.cfg")
    bootloader.plan(grub.system, []).carry_out(grub.system)
    assert grub.read("/etc/default/grub") == GRUB
    assert "crashkernel" not in grub.read("/boot/grub/grub.cfg")


def test_debian_s_own_piece_of_grub_is_changed_where_it_is(grub):
    name = "/etc/default/grub.d/kdump-tools.cfg"
    line = 'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT crashkernel=384M-:128M"\n'
    grub.write(name, line)
    bootloader.plan(grub.system, ["512M"]).carry_out(grub.system)
    assert grub.read(name) == line.replace("384M-:128M", "512M")
    assert grub.read("/etc/default/grub") == GRUB
    assert "quiet splash crashkernel=512M" in grub.read("/boot/grub/grub.cfg")


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ('"quiet" # "splash" is bad', '"quiet crashkernel=1G" # "splash" is bad'),
        ("quiet # splash", '"quiet crashkernel=1G" # splash'),
        ("'quiet \"a b\"'", "'quiet \"a b\" crashkernel=1G'"),
        ('"quiet \\"a b\\""', '"quiet \\"a b\\" crashkernel=1G"'),
        ('"quiet"; A="x"', '"quiet crashkernel=1G"; A="x"'),
        ('"a crashkernel=1M b crashkernel=2M,high"', '"a crashkernel=1G b"'),
        ('"my.crashkernel=3"', '"my.crashkernel=3 crashkernel=1G"'),
        ("", '"crashkernel=1G"'),
    ],
)
def test_grub_s_ways_to_write_a_value(grub, line, changed):
    grub.write("/etc/default/grub", f"GRUB_CMDLINE_LINUX_DEFAULT={line}\n")
    bootloader.plan(grub.system, ["1G"]).carry_out(grub.system)
    assert grub.read("/etc/default/grub") == f"GRUB_CMDLINE_LINUX_DEFAULT={changed}\n"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("quiet\\ splash", "is of several pieces"),
        ("\"a\"'b'", "is of several pieces"),
        ('"a $(echo "b")"', "is of several pieces"),
        ('"a \\\nb"', "goes on in the next line"),
        ('"a', "is of several pieces"),
    ],
)
def test_a_value_that_is_for_a_person_to_change(grub, line, why):
    text = f"X=1\nGRUB_CMDLINE_LINUX_DEFAULT={line}\n"
    grub.write("/etc/default/grub", text)
    with pytest.raises(Refused, match=f"/etc/default/grub: line 2: its value {why}: change it by"):
        bootloader.plan(grub.system, ["1G"])
    assert grub.read("/etc/default/grub") == text


def test_a_cloud_image_s_file_that_sets_the_line_anew(grub):
    """What stands in the file before it does not count."""
    name = "/etc/default/grub.d/50-cloudimg-settings.cfg"
    grub.write(name, 'GRUB_CMDLINE_LINUX_DEFAULT="console=tty1"\n')
    bootloader.plan(grub.system, ["1G"]).carry_out(grub.system)
    assert grub.read("/etc/default/grub") == GRUB
    assert grub.read(name) == 'GRUB_CMDLINE_LINUX_DEFAULT="console=tty1 crashkernel=1G"\n'
    assert bootloader.current(grub.system) == ["1G"]


def test_all_sizes_that_the_files_put_together_are_told(grub):
    grub.write("/etc/default/grub", 'GRUB_CMDLINE_LINUX="crashkernel=1G"\n')
    more = 'GRUB_CMDLINE_LINUX_DEFAULT="${GRUB_CMDLINE_LINUX_DEFAULT} crashkernel=2G"\n'
    grub.write("/etc/default/grub.d/kdump-tools.cfg", more)
    assert bootloader.current(grub.system) == ["1G", "2G"]


def test_grub_cfg_is_read_back(grub):
    grub.tool("update-grub", "")
    with pytest.raises(Refused, match="crashkernel= is none afterwards; the files are as they"):
        bootloader.plan(grub.system, ["512M"]).carry_out(grub.system)
    assert grub.read("/etc/default/grub") == GRUB


def test_grub_without_its_tools(grub):
    (grub.root / "usr/sbin/update-grub").unlink()
    with pytest.raises(Refused, match="neither update-grub nor grub2-mkconfig"):
        bootloader.plan(grub.system, ["512M"])


def test_grubby_sets_every_entry(tree):
    tree.machine()
    tree.write("/args", 'args="ro quiet"\n')
    tree.tool(
        "grubby",
        "case $1 in --info=ALL) cat $ROOT/args;;"
        ' *) echo "args=\\"ro quiet ${2#--args=}\\"" > $ROOT/args;; esac',
    )
    bootloader.plan(tree.system, ["1G-:256M"]).carry_out(tree.system)
    assert "grubby --update-kernel=ALL --args=crashkernel=1G-:256M" in tree.ran
    assert bootloader.plan(tree.system, ["1G-:256M"]).empty


def test_grubby_that_does_nothing_is_found_out(tree):
    tree.machine()
    tree.tool("grubby", "echo 'args=\"ro\"'")
    with pytest.raises(Refused, match="grubby reported no error, yet crashkernel= is none"):
        bootloader.plan(tree.system, ["256M"]).carry_out(tree.system)


def test_grubby_with_two_values(tree):
    tree.machine()
    tree.tool("grubby", "echo 'args=\"ro\"'")
    with pytest.raises(Refused, match="grubby keeps one crashkernel= alone, not crashkernel=1G,hi"):
        bootloader.plan(tree.system, ["1G,high", "72M,low"])


# As pbl does: one option may be two words, and of two it tells the last.
PBL = """
case $1 in
  --get-option) tr ' ' '\\n' <$ROOT/set | tail -n 1;;
  --add-option) echo "$2" >$ROOT/set;;
  --del-option) echo >$ROOT/set;;
esac
"""


def test_pbl(tree):
    tree.machine()
    tree.write("/etc/sysconfig/bootloader", 'LOADER_TYPE="systemd-boot"\n')
    tree.write("/etc/default/grub", GRUB)  # of a boot loader that was there before
    tree.write("/set", "")
    tree.tool("pbl", PBL)
    bootloader.plan(tree.system, ["300M,high", "72M,low"]).carry_out(tree.system)
    option = "crashkernel=300M,high crashkernel=72M,low"
    assert f"pbl --add-option {option} --config" in tree.ran
    assert tree.read("/set") == f"{option}\n"
    bootloader.plan(tree.system, []).carry_out(tree.system)
    assert tree.ran[-2:] == [
        "pbl --del-option crashkernel --config",
        "pbl --get-option crashkernel",
    ]


@pytest.mark.parametrize("loader", ['LOADER_TYPE="grub2-efi"\n', "LOADER_TYPE=grub2\n", ""])
def test_pbl_with_grub(grub, loader):
    grub.write("/etc/sysconfig/bootloader", loader)
    grub.write("/etc/default/grub", GRUB.replace("splash", "splash crashkernel=1G"))
    grub.tool("pbl", MKCONFIG)
    (grub.root / "usr/sbin/update-grub").unlink()
    bootloader.plan(grub.system, ["300M,high", "72M,low"]).carry_out(grub.system)
    assert grub.ran == ["pbl --config"]
    assert "splash crashkernel=300M,high crashkernel=72M,low" in grub.read("/etc/default/grub")
    assert bootloader.plan(grub.system, ["300M,high", "72M,low"]).empty
    bootloader.plan(grub.system, []).carry_out(grub.system)
    assert grub.read("/etc/default/grub") == GRUB


@pytest.fixture
def in_place(monkeypatch):
    """The tree's tools run where they are: nothing in it could run by chroot."""
    init = System.__init__
    monkeypatch.setattr(System, "__init__", lambda s, root, chroot=False: init(s, root, chroot))


@pytest.mark.usefixtures("in_place")
def test_suse_s_service_is_told(grub, capsys):
    """It sets the boot loader from its own file at every start."""
    grub.suse('KDUMP_CRASHKERNEL="auto"\nKDUMP_UPDATE_BOOTLOADER="true"\n')
    assert grub.setup("bootloader", "300M,high", "72M,low", "--yes") == 0
    words = "crashkernel=300M,high crashkernel=72M,low"
    assert f'KDUMP_CRASHKERNEL="{words}"\n' in grub.read("/etc/sysconfig/kdump")
    assert words in grub.read("/etc/default/grub")
    assert grub.setup("bootloader", "300M,high", "72M,low", "--yes") == 0
    assert capsys.readouterr().out.endswith("nothing to do: it is so already\n")
    assert grub.setup("bootloader", "--remove", "--yes") == 0
    assert "note: SUSE's service puts it back" in capsys.readouterr().out


@pytest.mark.usefixtures("in_place")
def test_red_hat_s_update_is_mentioned(grub, capsys):
    grub.rhel()
    assert grub.setup("bootloader", "300M", "--yes") == 0
    assert "auto_reset_crashkernel" in capsys.readouterr().out
    assert grub.setup("configure", "auto_reset_crashkernel=no", "--yes") == 0
    assert grub.setup("bootloader", "301M", "--yes") == 0
    assert "auto_reset_crashkernel" not in capsys.readouterr().out.partition("301M")[2]


def test_zipl(tree):
    tree.machine()
    tree.write("/etc/zipl.conf", '[linux]\n  parameters = "root=/dev/dasda1"\n')
    tree.tool("zipl")
    bootloader.plan(tree.system, ["256M"]).carry_out(tree.system)
    assert 'parameters = "root=/dev/dasda1 crashkernel=256M"' in tree.read("/etc/zipl.conf")
    assert tree.ran == ["zipl "]
    tree.write("/etc/zipl.conf", "[linux]\n")
    with pytest.raises(Refused, match=r"no line `parameters=`"):
        bootloader.plan(tree.system, ["256M"])


def test_entries_of_the_boot_loader_specification(tree):
    tree.machine()
    name = "/boot/loader/entries/a.conf"
    tree.write(name, "title A\nlinux /vmlinuz\noptions root=/dev/sda1 crashkernel=1M ro\n")
    tree.write("/etc/kernel/cmdline", "root=/dev/sda1 ro\n")
    bootloader.plan(tree.system, ["256M"]).carry_out(tree.system)
    assert "options root=/dev/sda1 crashkernel=256M ro\n" in tree.read(name)
    assert tree.read("/etc/kernel/cmdline") == "root=/dev/sda1 ro crashkernel=256M\n"
    tree.write(name, "options $kernelopts\n")
    with pytest.raises(Refused, match="its options are variables of grubenv: install grubby"):
        bootloader.plan(tree.system, ["256M"])


def test_no_boot_loader(tree, capsys):
    assert tree.setup("bootloader", "256M") == 3
    assert "no boot loader that crashpy knows" in capsys.readouterr().err
    tree.write("/run/ostree-booted", "")
    assert tree.setup("bootloader", "256M") == 3
    assert "rpm-ostree kargs" in capsys.readouterr().err


# Units.


def systemctl(tree, unit):
    tree.write(f"/usr/lib/systemd/system/{unit}", "[Unit]\n")
    folder = "$ROOT/etc/systemd/system/multi-user.target.wants"
    tree.tool(
        "systemctl",
        f"mkdir -p {folder}; case $1 in enable) ln -s /x {folder}/$2;; *) rm {folder}/$2;; esac",
    )


def test_enable_and_disable(tree):
    tree.machine()
    tree.debian()
    systemctl(tree, "kdump-tools.service")
    services.switch(Config.read(tree.system), on=False).carry_out(tree.system)
    assert "USE_KDUMP=0" in tree.read("/etc/default/kdump-tools")
    services.switch(Config.read(tree.system), on=True).carry_out(tree.system)
    assert "USE_KDUMP=1" in tree.read("/etc/default/kdump-tools")
    assert tree.ran == ["systemctl enable kdump-tools.service"]
    assert services.enabled(Config.read(tree.system)) is True
    assert services.switch(Config.read(tree.system), on=True).empty
    services.switch(Config.read(tree.system), on=False).carry_out(tree.system)
    assert tree.ran[-1] == "systemctl disable kdump-tools.service"


def test_enabling_that_does_nothing_is_found_out(tree):
    tree.machine()
    tree.suse()
    tree.write("/usr/lib/systemd/system/kdump.service", "[Unit]\n")
    tree.tool("systemctl")
    with pytest.raises(Refused, match=r"kdump\.service is still off although no error"):
        services.switch(Config.read(tree.system), on=True).carry_out(tree.system)


def test_a_unit_that_is_masked(tree):
    tree.suse()
    systemctl(tree, "kdump.service")
    tree.write("/etc/systemd/system/x.wants/other", "")
    (tree.root / "etc/systemd/system/x.wants/kdump.service").symlink_to("/x")
    assert services.enabled(Config.read(tree.system)) is True
    (tree.root / "etc/systemd/system/kdump.service").symlink_to("/dev/null")
    assert services.enabled(Config.read(tree.system)) is False
    with pytest.raises(Refused, match=r"`systemctl unmask kdump\.service` first"):
        services.switch(Config.read(tree.system), on=True)


def test_sysv(tree):
    tree.suse()
    tree.write("/etc/init.d/boot.kdump", "")
    folder = "$ROOT/etc/init.d/boot.d"
    tree.tool("chkconfig", f"mkdir -p {folder}; ln -s ../$1 {folder}/S08$1")
    services.switch(Config.read(tree.system), on=True).carry_out(tree.system)
    assert tree.ran == ["chkconfig boot.kdump on"]


@pytest.mark.parametrize(
    ("tool", "values", "back"),
    [
        ("grubby", ["1G"], "grubby --update-kernel=ALL --args=crashkernel=256M"),
        ("pbl", ["1G"], "pbl --add-option crashkernel=256M --config"),
    ],
)
def test_a_boot_loader_that_was_changed_is_changed_back(tree, tool, values, back):
    tree.machine()
    tree.write("/etc/sysconfig/bootloader", "")
    said = {"pbl": "echo crashkernel=256M", "grubby": "echo 'args=\"ro crashkernel=256M\"'"}
    tree.tool(tool, said[tool])
    with pytest.raises(Refused, match="reported no error, yet crashkernel= is 256M afterwards"):
        bootloader.plan(tree.system, values).carry_out(tree.system)
    assert tree.ran[-1] == back


def test_no_unit(tree, capsys):
    tree.suse()
    assert tree.setup("enable", "--yes") == 3
    assert "there is no unit of kdump here, none of kdump.service" in capsys.readouterr().err
    (tree.root / "etc/sysconfig/kdump").unlink()
    tree.write("/etc/crashpy.conf", "")
    assert tree.setup("enable", "--yes") == 3
    assert "no package of kdump is here, whose unit could load" in capsys.readouterr().err


# Loading.


@pytest.fixture
def loader(tree, as_root):  # noqa: ARG001
    tree.machine()
    tree.tool(
        "kexec",
        'case "$*" in *-u*) echo 0;; *) echo 1;; esac > $ROOT/sys/kernel/kexec_crash_loaded',
    )
    return tree


@pytest.mark.parametrize(
    ("family", "line", "rest"),
    [
        (
            "debian",
            'BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro quiet dyndbg="file a +p" reset_devices'
            " systemd.unit=kdump-tools-dump.service nr_cpus=1 irqpoll usbcore.nousb",
            ["--initrd=/var/lib/kdump/initrd.img", "/boot/vmlinuz-6.1.0-9-amd64"],
        ),
        (
            "suse",
            'ro quiet dyndbg="file a +p" sysrq=yes reset_devices acpi_no_memhotplug'
            " cgroup_disable=memory nokaslr numa=off irqpoll nr_cpus=2 root=kdump"
            " rootflags=bind rd.udev.children-max=8 panic=1",
            ["--initrd=/var/lib/kdump/initrd", "/var/lib/kdump/kernel"],
        ),
        (
            "rhel",
            'BOOT_IMAGE=/vmlinuz ro dyndbg="file a +p" irqpoll nr_cpus=1 reset_devices'
            " cgroup_disable=memory numa=off udev.children-max=2 panic=10"
            " transparent_hugepage=never novmcoredd hugetlb_cma=0 cma=0"
            " kfence.sample_interval=0 initramfs_options=size=90% mce=off acpi_no_memhotplug"
            " nokaslr hest_disable pcie_ports=compat rd.systemd.gpt_auto=no",
            ["--initrd=/boot/initramfs-6.1.0-9-amd64kdump.img", "/boot/vmlinuz-6.1.0-9-amd64"],
        ),
    ],
)
def test_what_is_loaded(loader, family, line, rest):
    getattr(loader, family)()
    plan = kexec.load(Config.read(loader.system))
    method = "-s" if family == "rhel" else "-a"
    assert plan.commands == [("kexec", "-p", method, f"--command-line={line}", *rest)]
    plan.carry_out(loader.system)
    assert loader.system.loaded is True
    assert status(loader.system).armed is True
    kexec.unload(loader.system).carry_out(loader.system)
    assert loader.ran[-1] == "kexec -a -p -u"
    assert loader.system.loaded is False
    assert kexec.unload(loader.system).empty


def test_the_boot_cpu_is_left_alone(loader):
    loader.suse()
    loader.write("/proc/cpuinfo", "processor : 0\napicid : 4\ninitial apicid : 4\n")
    assert kexec.image(Config.read(loader.system)).cmdline.endswith(" disable_cpu_apicid=4 panic=1")


@pytest.mark.parametrize("how", ["lockdown", "secure boot"])
def test_a_locked_kernel_takes_only_files(loader, how):
    loader.debian()
    if how == "lockdown":
        loader.write("/sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
    else:
        loader.write("/sys/firmware/efi/efivars/SecureBoot-8be4df61", "\x06\0\0\0\x01")
    assert kexec.load(Config.read(loader.system)).commands[0][:3] == ("kexec", "-p", "-s")
    loader.write("/sys/kernel/kexec_crash_loaded", "1\n")
    assert kexec.unload(loader.system).commands == [("kexec", "-s", "-p", "-u")]
    loader.write("/etc/default/kdump-tools", 'KDUMP_KEXEC_ARGS="-c"\n')
    with pytest.raises(Refused, match="the kernel is locked down and takes no `kexec -c`"):
        kexec.load(Config.read(loader.system))


def broken_reservation(tree):
    tree.machine(reserved=0)


def broken_kernel(tree):
    (tree.root / "boot/vmlinuz-6.1.0-9-amd64").unlink()


def broken_initrd(tree):
    (tree.root / "var/lib/kdump/initrd.img").unlink()


def broken_tool(tree):
    (tree.root / "usr/sbin/kexec").unlink()


def broken_kexec(tree):
    tree.tool("kexec", "echo Could not find a free area of memory >&2; exit 255")


def lying_kexec(tree):
    tree.tool("kexec", "exit 0")


def no_proc(tree):
    (tree.root / "proc/cmdline").unlink()


def no_kexec_in_the_kernel(tree):
    (tree.root / "sys/kernel/kexec_crash_size").unlink()


def open_quote(tree):
    tree.write("/etc/default/kdump-tools", "KDUMP_KEXEC_ARGS='\"-d'\n")


def computed(tree):
    tree.write("/etc/default/kdump-tools", "KDUMP_CMDLINE=$(cat /proc/cmdline)\n")


def user(_):
    os.geteuid = lambda: 1000


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (broken_reservation, "no memory is reserved for a capture kernel: `crashpy setup status`"),
        (broken_kernel, "no kernel 6.1.0-9-amd64 in "),
        (broken_initrd, "the capture kernel's initial RAM disk is not built yet: kdump-config"),
        (broken_tool, "kexec: there is no such program: install kexec-tools"),
        (broken_kexec, "kexec failed with status 255: Could not find a free area of memory"),
        (lying_kexec, "kexec reported no error, yet the capture kernel is not loaded"),
        (no_proc, "/proc/cmdline cannot be read: is /proc mounted?"),
        (no_kexec_in_the_kernel, "this kernel has no kexec: there is no /sys/kernel/kexec_crash"),
        (open_quote, "the options for kexec have a quote that is never closed"),
        (computed, "/etc/default/kdump-tools:1: KDUMP_CMDLINE is computed by the shell"),
        (user, "only root may load or unload a kernel"),
    ],
)
def test_what_keeps_it_from_loading_is_one_sentence(loader, monkeypatch, damage, sentence):
    monkeypatch.setattr(os, "geteuid", os.geteuid)  # put back afterwards
    loader.debian()
    damage(loader)
    with pytest.raises(CommandError) as refused:
        kexec.load(Config.read(loader.system)).carry_out(loader.system)
    assert str(refused.value).startswith(sentence)
    assert loader.system.loaded is False


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"kernel": "/boot/other"}, "boot/other: there is no such kernel"),
        ({"initrd": "/boot/other"}, "boot/other: there is no such initial RAM disk"),
    ],
)
def test_a_kernel_that_is_not_there(loader, words, sentence):
    loader.debian()
    with pytest.raises(Refused, match=sentence):
        kexec.load(Config.read(loader.system), **words)


@pytest.mark.usefixtures("as_root")
def test_another_tree_s_kernel_is_not_loaded(tree, capsys):
    tree.machine()
    tree.debian()
    tree.tool("kexec")
    assert tree.setup("load", "--yes") == 3
    assert "--root goes with --dry-run alone" in capsys.readouterr().err
    assert tree.setup("load", "--dry-run", "--append", "debug") == 0
    assert "run: kexec -p -a '--command-line=" in capsys.readouterr().out
    assert tree.ran == []


# Status and the doctor.


def test_status_says_why_it_is_not_armed(tree, capsys):
    tree.machine(reserved=0, cmdline="ro quiet")
    tree.debian()
    assert tree.setup("status") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "armed:        no"
    assert "the kernel was started without crashkernel=" in lines[1]
    assert tree.setup("status", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["armed"], found["loaded"], found["crashkernel"]) == (False, False, [])
    origin = "/etc/default/kdump-tools:2"
    assert found["settings"]["target"] == {"value": "/var/crash", "origin": origin}


@pytest.mark.parametrize(
    ("crashkernel", "reserved", "sentence"),
    [
        ("crashkernel=64G-:1G", 0, "the kernel reserved nothing: no range of 64G-:1G holds"),
        ("crashkernel=16G", 0, "the kernel reserved nothing: 16 GiB is all of the memory"),
        ("crashkernel=1G", 0, "the kernel could not reserve what crashkernel= asks for"),
        ("crashkernel=1G", 1 << 30, "no capture kernel is loaded: `crashpy setup load`"),
    ],
)
def test_reasons(tree, crashkernel, reserved, sentence):
    tree.machine(reserved=reserved, cmdline=crashkernel)
    tree.debian()
    assert status(tree.system).why[0].startswith(sentence)


def test_an_armed_machine_with_a_damaged_configuration(tree, capsys):
    tree.machine(loaded=1)
    tree.write("/etc/default/kdump-tools", 'MAKEDUMP_ARGS="\n')
    assert tree.setup("status") == 0
    output = capsys.readouterr().out
    assert "damaged:      /etc/default/kdump-tools: line 1: a quote is opened" in output


def test_status_of_a_bare_tree(tree, capsys):
    assert tree.setup("status") == 1
    assert capsys.readouterr().out.splitlines()[:2] == [
        "armed:        cannot be told",
        "              no configuration of kdump was found: neither /etc/sysconfig/kdump,"
        " /etc/kdump.conf, /etc/default/kdump-tools nor our own /etc/crashpy.conf",
    ]


def found(tree, **options):
    return {finding.what: finding for finding in check(tree.system, network=False, **options)}


def armed(tree):
    tree.machine(loaded=1, reserved=512 << 20, memory_gib=1)
    tree.write("/sys/kernel/btf/vmlinux", "")
    tree.debian()
    systemctl(tree, "kdump-tools.service")
    folder = tree.root / "etc/systemd/system/multi-user.target.wants"
    folder.mkdir(parents=True)
    (folder / "kdump-tools.service").symlink_to("/x")
    tree.tool("kexec", log=False)
    tree.tool("makedumpfile", "echo makedumpfile: version 1.7.8", log=False)
    proven(tree)


def proven(tree):
    """As if `setup test` had just found a dump."""
    config = Config.read(tree.system)
    proof.write(tree.system, proof.begun(config, proof.MACHINE).ends("success"))


def test_a_machine_that_is_ready(tree, capsys):
    armed(tree)
    assert found(tree) == {}
    assert tree.setup("check") == 0
    assert capsys.readouterr().out == "nothing was found: the next crash should leave a dump\n"


def small(tree):
    tree.machine(loaded=1, reserved=64 << 20, memory_gib=1)


def off(tree):
    (tree.root / "etc/systemd/system/multi-user.target.wants/kdump-tools.service").unlink()


def unused(tree):
    tree.write("/etc/default/kdump-tools", "USE_KDUMP=0\n")


def no_folder(tree):
    (tree.root / "var/crash").rmdir()


def full_disk(tree):
    tree.machine(loaded=1, reserved=512 << 20, memory_gib=1 << 30)


def old_tool(tree):
    tree.write("/proc/sys/kernel/osrelease", "6.12.5-amd64\n")
    tree.write("/boot/vmlinuz-6.12.5-amd64", "")
    tree.tool("makedumpfile", "echo makedumpfile: version 1.7.2", log=False)


def poor_tool(tree):
    tree.write("/etc/default/kdump-tools", 'USE_KDUMP=1\nMAKEDUMP_ARGS="-z -d 31"\n')
    tree.tool("makedumpfile", "echo version 1.7.8; echo zstd disabled", log=False)


def no_tool(tree):
    (tree.root / "usr/sbin/makedumpfile").unlink()


def stale_sysctl(tree):
    os.utime(tree.root / "etc/kdump/sysctl.conf", (1 << 32, 1 << 32))


def nonsense(tree):
    tree.write("/etc/default/kdump-tools", "USE_KDUMP=1\nKDUMP_COMPRESSION=rar\n")


def locked(tree):
    tree.write("/sys/kernel/security/lockdown", "none integrity [confidentiality]\n")
    tree.write("/etc/default/kdump-tools", "USE_KDUMP=1\nKDUMP_KEXEC_ARGS=-c\n")


@pytest.mark.parametrize(
    ("damage", "what", "remedy"),
    [
        (small, "64 MiB are reserved, and about", "`crashpy setup bootloader "),
        (off, "kdump-tools.service is off", "`crashpy setup enable`"),
        (unused, "USE_KDUMP is 0 in /etc/default/kdump-tools", "`crashpy setup enable`"),
        (no_folder, "/var/crash: there is no such folder", "mount what it is on"),
        (full_disk, "/var/crash has ", "delete old dumps"),
        (old_tool, "makedumpfile 1.7.2 is older than what Linux 6.12 needs, 1.7.7", "install a"),
        (poor_tool, "this makedumpfile was built without zstd", "`crashpy setup configure for"),
        (no_tool, "there is no makedumpfile", "install makedumpfile"),
        (stale_sysctl, "/etc/kdump/sysctl.conf changed after the capture", "`kdump-config unl"),
        (nonsense, '/etc/default/kdump-tools:2: KDUMP_COMPRESSION: "rar" is not one of', "corr"),
        (locked, "the kernel is locked down, and kexec is told to use -c", "`crashpy setup conf"),
    ],
)
def test_the_doctor(tree, damage, what, remedy):
    armed(tree)
    damage(tree)
    proven(tree)
    [finding] = found(tree).values()
    assert finding.what.startswith(what)
    assert finding.consequence
    assert finding.remedy.startswith(remedy)


def test_the_doctor_on_mail_and_directives(tree, capsys):
    tree.machine(loaded=1)
    tree.suse('KDUMP_NOTIFICATION_TO="a@b"\nKDUMP_SAVEDIR="ftp://joe:secret@/x"\n')
    assert tree.setup("check", "--offline", "--json") == 1
    text = capsys.readouterr().out
    assert "a@b is to be told, and there is no mail server, named or here" in text
    assert "secret" not in text
    (tree.root / "etc/sysconfig/kdump").unlink()
    tree.rhel()
    tree.write("/etc/kdump.conf", "paht /var/crash\ndefault shell\n")
    assert "/etc/kdump.conf:1: paht: no such directive" in found(tree)
    assert any(what.startswith("/etc/kdump.conf:2: default: ") for what in found(tree))


# On the command line.


def test_a_dry_run_writes_nothing(tree, capsys):
    tree.suse()
    before = {path: path.stat() for path in tree.root.rglob("*")}
    assert tree.setup("configure", "--dry-run", "level=17") == 0
    assert "+KDUMP_DUMPLEVEL=17" in capsys.readouterr().out
    assert {path: path.stat() for path in tree.root.rglob("*")} == before


def test_configure_writes_and_shows_no_password(tree, capsys, monkeypatch):
    path = tree.root / "etc/sysconfig/kdump"
    tree.suse()
    words = ["level=17", "smtp-password=geheim", "target=ftp://joe:geheim@h/x"]
    assert tree.setup("configure", "--yes", *words) == 0
    output = capsys.readouterr()
    assert "geheim" not in output.out + output.err
    assert "+KDUMP_DUMPLEVEL=17" in output.out
    assert "others may have seen the password in `ps`" in output.out
    assert 'KDUMP_SMTP_PASSWORD="geheim"' in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert tree.setup("status") == 1
    assert "geheim" not in capsys.readouterr().out
    assert tree.setup("status", "--json") == 1
    assert "geheim" not in capsys.readouterr().out
    monkeypatch.setattr(sys.stdin, "readline", lambda: "von stdin\n", raising=False)
    assert tree.setup("configure", "--yes", "smtp-password=-") == 0
    assert 'KDUMP_SMTP_PASSWORD="von stdin"' in path.read_text()
    assert tree.setup("configure", "--yes", "smtp-password=-") == 0
    assert capsys.readouterr().out.endswith("nothing to do: it is so already\n")
    assert tree.setup("configure", "--yes", "target=ftp://joe:offen@h/y") == 0
    assert "`ps`: target=- asks for it" in capsys.readouterr().out
    url = "ftp://joe:leise@h/x"
    monkeypatch.setattr(sys.stdin, "readline", lambda: f"{url}\n", raising=False)
    assert tree.setup("configure", "--yes", "target=-") == 0
    output = capsys.readouterr().out
    assert "leise" not in output
    assert "`ps`" not in output
    assert Config.read(tree.system).get("target").value == url


@pytest.mark.parametrize("key", ["smtp-password", "target", "KDUMP_SMTP_PASSWORD"])
def test_no_answer_takes_no_password_away(tree, capsys, monkeypatch, key):
    tree.suse('KDUMP_SAVEDIR="ftp://joe:leise@h/x"\nKDUMP_SMTP_PASSWORD="geheim"\n')
    before = tree.read("/etc/sysconfig/kdump")
    monkeypatch.setattr(sys.stdin, "readline", lambda: "", raising=False)
    assert tree.setup("configure", "--yes", f"{key}=-") == 3
    assert capsys.readouterr().err == (
        f"crashpy setup configure: {key}: nothing was given; {key}= is the default\n"
    )
    assert tree.read("/etc/sysconfig/kdump") == before


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        (["target=/no/such"], "note: /no/such: there is no such folder: the dump cannot be saved"),
        (
            ["target=nfs://server/x", "network=eth7:dhcp"],
            "note: network=eth7:dhcp: there is no interface eth7: the capture environment has no",
        ),
        (["target=ssh://joe@server/x"], "note: root has no key to log in with: server does not"),
        (["target=ftp://joe:geheim@server/x"], "note: dumps go to server by ftp: the memory of"),
    ],
)
def test_what_will_not_work_here_is_said_at_once(tree, capsys, settings, note):
    tree.suse()
    assert tree.setup("configure", "--yes", *settings) == 0
    output = capsys.readouterr().out
    assert note in output
    assert "geheim" not in output


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["configure", "level"], 3, "level: give a value, level=VALUE; level= is the default"),
        (["configure", "level=1"], 3, "there is nobody to ask: give --yes, or --dry-run"),
        (["bootloader", "--remove", "1G"], 3, "--remove takes no value"),
        (["bootloader", "--policy", "rhel", "1G"], 3, "give a value, or --policy, not both"),
    ],
)
def test_wrong_words(tree, capsys, words, status, sentence):
    tree.suse()
    assert tree.setup(*words) == status
    assert capsys.readouterr().err == f"crashpy setup {words[0]}: {sentence}\n"


def test_no_verb_and_no_such_folder(capsys):
    assert setup([]) == 2
    assert "usage: crashpy setup VERB" in capsys.readouterr().out
    assert setup(["dance"]) == 2
    assert '"dance" is no verb of it' in capsys.readouterr().err
    assert setup(["status", "--root", "/no/such"]) == 3
    assert capsys.readouterr().err == "crashpy setup status: /no/such: there is no such folder\n"


def test_one_is_asked(tree, capsys, monkeypatch):
    tree.suse()
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "no")
    assert tree.setup("configure", "level=1") == 3
    assert capsys.readouterr().err == "crashpy setup configure: nothing was changed\n"
    monkeypatch.setattr("builtins.input", lambda _: "yes")
    assert tree.setup("configure", "level=1") == 0
    assert "KDUMP_DUMPLEVEL=1" in tree.read("/etc/sysconfig/kdump")


def test_the_keys_are_listed(tree, capsys):
    tree.rhel()
    assert tree.setup("configure") == 0
    text = capsys.readouterr().out
    assert "finally        what follows a saved dump: reboot, halt, poweroff\n" in text
    assert "(in /etc/crashpy.conf)" in text.partition("smtp-server")[2].partition("\n")[0]
    assert "host-key" not in text
