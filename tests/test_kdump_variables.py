"""Each variable of each distribution: set by its neutral key, read back, and at work.

kdump_table.py says by which key a variable is set, what stands in the file then, and what
is different: in the command that loads the capture kernel, or in what becomes of a dump.
"""

import os
import subprocess

import pytest
from kdump_table import SHARE, TABLES
from trees import Tree

from crashpy import save
from crashpy.command import CommandError
from crashpy.kdump import kexec
from crashpy.kdump.capture import image
from crashpy.kdump.capture.engine import Engine
from crashpy.kdump.config import Config
from crashpy.kdump.dialects import DIALECTS
from crashpy.kdump.keys import KEYS
from crashpy.kdump.plan import Plan, save_plan

# Directives that kdumpctl no longer has: refused, each with a word why.
REFUSED = {v.name for dialect in DIALECTS for v in dialect.variables.values() if v.deprecated}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    made = Tree(tmp_path)
    made.machine()
    made.tool("kexec")
    for name in ("vmlinuz-6.1.0-8-amd64", "other", "disk", "Image-6.1.0-9-amd64"):
        made.write(f"/boot/{name}", "")
    made.write("/boot/vmlinuz-6.1.0-9-amd64.gz", "")
    made.write("/boot/initramfs-6.1.0-8-amd64kdump.img", "")
    made.write("/kernels/vmlinuz-6.1.0-9-amd64", "")
    return made


def machine(tree, family):
    if family == "suse":
        tree.suse('# SUSE\nKDUMP_SAVEDIR="/var/crash"\n')
    elif family == "rhel":
        tree.rhel()
        tree.write("/etc/sysconfig/kdump", 'KEXEC_ARGS="-s"\nKDUMP_COMMANDLINE_APPEND=""\n')
    else:
        tree.debian()


def configured(tree, *settings):
    config = Config.read(tree.system)
    for setting in settings:
        config.assign(*setting.split("=", 1))
    Plan(config.edits()).carry_out(tree.system)
    return Config.read(tree.system)


@pytest.mark.parametrize(
    ("family", "row"),
    [
        pytest.param(family, row, id=f"{family}-{row.name}-{row.setting}")
        for family, rows in TABLES.items()
        for row in rows
    ],
)
def test_a_variable(tree, family, row):
    machine(tree, family)
    for name, text in (row.files or {}).items():
        tree.write(name, text)
    before = Config.read(tree.system).native(row.name).value
    config = configured(tree, *row.more, row.setting)
    found = config.native(row.name)
    assert found.value == row.written
    assert before == row.written or found.origin != "default"
    key, _, value = row.setting.partition("=")
    if key in KEYS:
        assert config.get(key).value == value
    if row.load or row.gone:
        text = "\n".join(" ".join(argv) for argv in kexec.load(config).commands)
        assert row.load is None or row.load in text
        assert row.gone is None or row.gone not in text
    for name, wanted in (row.plan or {}).items():
        part = save_plan(config)
        for step in name.split("."):
            part = getattr(part, step)
        assert part == wanted
    for name, wanted in (row.read or {}).items():
        assert config.get(name).value == wanted
    assert any((row.load, row.gone, row.plan, row.read, row.other))


@pytest.mark.parametrize("family", TABLES)
def test_every_variable_is_tried_above(family):
    [dialect] = [dialect for dialect in DIALECTS if dialect.name == family]
    assert {row.name for row in TABLES[family]} | REFUSED == {*dialect.variables} | REFUSED


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_deprecated_is_refused(tree, name):
    machine(tree, "rhel")
    with pytest.raises(CommandError, match=rf"^{name}: kdumpctl no longer has it"):
        configured(tree, f"{name}=1")


def test_a_raw_partition_is_the_distribution_s(tree):
    machine(tree, "rhel")
    config = configured(tree, "raw=/dev/sda2")
    with pytest.raises(CommandError, match="`crashpy save` writes no raw partition: /dev/sda2"):
        save_plan(config)


MOUNT = '--mount "/dev/sdb1 /mnt xfs rw"'


def test_a_target_that_dracut_mounts(tree, capsys):
    machine(tree, "rhel")
    config = configured(tree, f"dracut_args={MOUNT}")
    assert save_plan(config).device == "xfs /dev/sdb1"
    assert tree.setup("configure", "--yes", "target=/srv") == 3
    assert "dracut_args names a target by --mount: take it away there" in capsys.readouterr().err
    tree.write("/etc/kdump.conf", f"dracut_args {MOUNT}\nnfs a:/b\n")
    with pytest.raises(CommandError, match="nfs and xfs are two targets: remove one"):
        save_plan(Config.read(tree.system))


@pytest.mark.parametrize(
    ("family", "name", "text", "sentence"),
    [
        ("suse", "sysconfig/kdump", "KDUMP_DUMPFORMAT=zip\n", ':1: format: "zip" is not one of'),
        ("suse", "sysconfig/kdump", "KDUMP_DUMPLEVEL=64\n", ":1: level: 64 is out of range"),
        ("suse", "sysconfig/kdump", "\nKDUMP_IMMEDIATE_REBOOT=x\n", ':2: finally: "x" is not'),
        ("debian", "default/kdump-tools", "MAKEDUMP_ARGS='-d 1,99'\n", ":1: level: 99 is out of"),
        ("debian", "default/kdump-tools", "KDUMP_NUM_DUMPS=x\n", ':1: keep: "x" is not a number'),
        ("rhel", "crashpy.conf", "keep = few\n", ':1: keep: "few" is not a number'),
    ],
)
def test_a_bad_value_in_a_file_is_told_with_its_line(tree, family, name, text, sentence):
    machine(tree, family)
    tree.write(f"/etc/{name}", text)
    with pytest.raises(CommandError) as refused:
        save_plan(Config.read(tree.system))
    assert str(refused.value).startswith(f"/etc/{name}{sentence}")


def test_fadump_without_its_firmware(tree):
    machine(tree, "suse")
    config = configured(tree, "fadump=yes")
    with pytest.raises(CommandError, match="only POWER started with fadump=on has it"):
        kexec.load(config)


def test_a_computed_value_is_no_plan(tree):
    tree.suse("KDUMP_SAVEDIR=$(cat /x)\n")
    with pytest.raises(CommandError, match="/etc/sysconfig/kdump:1: target is computed by the"):
        save_plan(Config.read(tree.system))


def test_a_dump_that_sles_11_splits_is_not_ours(tree):
    machine(tree, "suse")
    config = configured(tree, "KDUMP_SAVEDIR=/a /b")
    with pytest.raises(CommandError, match="a target holds no blank"):
        save_plan(config)


# Our own file.


def test_our_own_file_is_its_owner_s(tree):
    machine(tree, "rhel")
    configured(tree, "keep=3")
    path = tree.root / "etc/crashpy.conf"
    assert path.read_text() == "keep = 3\n"
    assert path.stat().st_mode & 0o777 == 0o600
    configured(tree, "keep=")
    assert path.read_text() == ""


def test_it_keeps_comments_and_order(tree):
    machine(tree, "debian")
    tree.write("/etc/crashpy.conf", "# who\nmail-to = a@b\n\nfree=1\n# end", 0o600)
    configured(tree, "free=2", "mail-cc=c@d", "smtp-password= x ")
    assert tree.read("/etc/crashpy.conf") == (
        '# who\nmail-to = a@b\n\nfree = 2\n# end\nmail-cc = c@d\nsmtp-password = " x "\n'
    )
    assert Config.read(tree.system).get("smtp-password").value == " x "


def test_it_serves_a_machine_without_kdump(tree):
    tree.write("/etc/crashpy.conf", "target = sftp://joe@server/x\nlevel = 17\nkeep = 2\n")
    tree.write("/boot/disk", "")
    config = configured(tree, "initrd=/boot/disk", "append=my.opt", "smtp-server=h")
    assert config.dialect.title == "crashpy"
    assert save_plan(config).keep == 2
    assert save_plan(config).target.protocol == "sftp"
    [argv, *_] = kexec.load(config).commands
    assert argv[-2:] == ("--initrd=/boot/disk", "/boot/vmlinuz-6.1.0-9-amd64")
    assert "reset_devices irqpoll panic=10 nr_cpus=1 my.opt" in argv[3]


def test_a_distribution_s_own_name_is_not_said_to_be_ours(tree, capsys):
    tree.suse()
    assert tree.setup("configure", "KDUMP_DUMPLEVEL=1", "--dry-run") == 0
    assert "/etc/crashpy.conf" not in capsys.readouterr().out


def test_what_it_is_for_is_said(tree, capsys):
    machine(tree, "rhel")
    assert tree.setup("configure", "keep=3", "level=1", "--yes") == 0
    output = capsys.readouterr().out
    assert "note: RHEL itself has no keep: /etc/crashpy.conf says it to `crashpy save`" in output


# In the capture environment.


@pytest.mark.parametrize(
    ("family", "settings", "name", "value"),
    [
        ("suse", ["transfer=cp /proc/vmcore /x"], "TRANSFER", "cp /proc/vmcore /x"),
        ("suse", ["verbose=8"], "FLAGS", "-c --message-level 14"),
        ("suse", ["verbose=2"], "FLAGS", "-c --message-level 6"),
        ("suse", ["makedumpfile=-X", "format=lzo"], "FLAGS", "-l --message-level 6 -X"),
        ("suse", [*SHARE, "network=eth0:dhcp"], "NETWORK", "eth0:dhcp"),
        ("suse", ["keep=4"], "KEEP", "4"),
        ("suse", [], "DMESG", "yes"),
        ("debian", ["dmesg=no"], "DMESG", ""),
        ("debian", ["host-tag=hostname"], "HOST_TAG", "hostname"),
        ("rhel", [], "HOST_TAG", "ip"),
        ("suse", ["free=100"], "FREE_KIB", "102400"),
        ("suse", ["finally=shell"], "FINALLY", "shell"),
        ("suse", ["failure=shell"], "FAILURE", "shell"),
        ("suse", ["net-timeout=90"], "NET_SECONDS", "90"),
        ("suse", ["before=/bin/true"], "BEFORE", "/bin/true"),
        ("suse", ["after=/bin/true"], "AFTER", "/bin/true"),
        ("rhel", ["before=/bin/true"], "BEFORE_ABORTS", "yes"),
        ("rhel", ["core_collector=makedumpfile -z -d 31,1"], "LEVELS", "31 1"),
        ("debian", [*SHARE, "NFS_MOUNT_RETRY=9"], "TRIES", "9"),
        ("debian", [*SHARE, "NFS_TIMEO=50"], "MOUNT_OPTIONS", "timeo=50,retrans=3"),
    ],
)
def test_what_the_capture_environment_is_told(tree, family, settings, name, value):
    machine(tree, family)
    config = configured(tree, *settings)
    told = image._settings(
        config, save_plan(config), Engine("makedumpfile"), None, image.Wanted(), ()
    )
    assert told[name] == value


SAVE = """
{script}
run() {{ "$@"; }}
mount_target() {{ echo mount; echo x >>tries; [ "$(wc -l <tries)" -ge 3 ]; }}
save_makedumpfile() {{ echo saved; }}
sleep() {{ :; }}
PROTOCOL=file ENGINE=makedumpfile BEFORE= BEFORE_ABORTS= AFTER= {settings}
save
echo "status $?"
"""


@pytest.mark.parametrize(
    ("settings", "output"),
    [
        ("TRANSFER='echo all the work'", "all the work\nstatus 0\n"),
        ("TRANSFER='exit 7'", "status 7\n"),
        ("TRANSFER= TRIES=4", "mount\nmount\nmount\nsaved\nstatus 0\n"),
        ("TRANSFER= TRIES=2", "mount\nmount\nstatus 1\n"),
        ("", "mount\nstatus 1\n"),
    ],
)
def test_how_the_capture_environment_saves(tmp_path, settings, output):
    functions = image.environment("capture.sh").decode()
    functions = functions[functions.index("# Saving.") :]
    script = SAVE.format(script=functions, settings=settings)
    done = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout == output, done.stderr


def test_a_copy_of_the_kernel_is_a_bundle(tree):
    machine(tree, "suse")
    configured(tree, "copy-kernel=yes")
    asked = save._parser().parse_args(["--config", str(tree.root), "core"])
    save._wanted(asked)
    assert asked.bundle is True
