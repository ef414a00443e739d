"""What kdump shall do: three distributions' files, read without being run, edited in place."""

import pytest

from crashpy.command import CommandError
from crashpy.kdump.config import Config
from crashpy.kdump.documents import DirectiveFile, ShellFile, quoted
from crashpy.kdump.keys import KEYS
from crashpy.kdump.plan import Edit, hide
from crashpy.kdump.system import System
from crashpy.kdump.urls import Url, parse
from crashpy.kdump.values import spelled

SUSE = """\
## Path:        System/Kernel/Kdump
# How much is left out. See kdump(5).
KDUMP_DUMPLEVEL=0   # everything

KDUMP_DUMPFORMAT="compressed"
KDUMP_SAVEDIR="file:///var/log/dump"
KDUMP_KEEP_OLD_DUMPS="5"
KDUMP_IMMEDIATE_REBOOT="yes"
KDUMP_COMMANDLINE_APPEND='panic=5'
KDUMP_SMTP_PASSWORD="oldsecret"
"""
RHEL = """\
# What the capture environment does.
#nfs my.server.com:/export/tmp
#ssh user@my.server.com
path /var/crash
core_collector makedumpfile -l --message-level 7 -d 31   # makedumpfile(8)
#failure_action shell
"""
RHEL_LOADER = """\
# Options of the loader.
KDUMP_COMMANDLINE_APPEND="irqpoll nr_cpus=1 reset_devices"
KEXEC_ARGS="-s"
"""
DEBIAN = """\
# kdump-tools
USE_KDUMP=1
KDUMP_KERNEL=/var/lib/kdump/vmlinuz
KDUMP_COREDIR="/var/crash"
#KDUMP_NUM_DUMPS=
#MAKEDUMP_ARGS="-c -d 31"
#FTP_PASSWORD=""
#SSH="<user at server>"
"""
FILES = {
    "suse": {"etc/sysconfig/kdump": SUSE},
    "rhel": {"etc/kdump.conf": RHEL, "etc/sysconfig/kdump": RHEL_LOADER},
    "debian": {"etc/default/kdump-tools": DEBIAN},
}


@pytest.fixture
def tree(tmp_path):
    def make(family):
        for name, text in FILES[family].items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return System(tmp_path)

    return make


def assigned(system, *settings):
    config = Config.read(system)
    for setting in settings:
        config.assign(*setting.split("=", 1))
    for edit in config.edits():
        system.path(edit.name).write_text(edit.new)
    return Config.read(system)


# Values that mean the same on each distribution, by key; "" where it cannot be said.
ROUND_TRIPS = [
    ("target=/srv/dumps", "srd"),
    ("target=nfs://server/export/dumps", "srd"),
    ("target=ssh://joe@server/dumps", "srd"),
    ("target=ftp://joe:se%40cret@server:2121/dumps", "sd"),
    ("target=sftp://joe:pw@server/dumps", "s"),
    ("target=cifs://joe:pw@server/share/dumps", "s"),
    *((f"level={level}", "srd") for level in (0, 1, 17, 31)),
    *((f"format={name}", "srd") for name in ("zlib", "lzo", "snappy", "zstd", "elf")),
    ("format=plain", "rd"),
    ("format=raw", "s"),
    ("format=log", "s"),
    ("compression=xz", "d"),
    ("keep=all", "srd"),
    ("keep=1", "srd"),
    ("keep=4", "srd"),
    ("free=512", "srd"),
    ("finally=reboot", "sr"),
    ("finally=shell", "s"),
    ("finally=poweroff", "r"),
    ("failure=reboot", "srd"),
    ("failure=shell", "srd"),
    ("failure=halt", "rd"),
    ("failure=dump_to_rootfs", "r"),
    ("kernel=/boot/vmlinuz-6.1.0", "srd"),
    ("initrd=/boot/initrd.img", "d"),
    ("cpus=4", "srd"),
    ("cpus=0", "srd"),
    ("cmdline=root=/dev/sda1 ro", "srd"),
    ('append=nr_cpus=2 mode="a b" $HOME `id` \\ end', "srd"),
    ("remove=quiet", "r"),
    ("makedumpfile=--message-level 1 -X", "srd"),
    ("copy-kernel=yes", "srd"),
    ("transfer=cp /proc/vmcore /mnt", "s"),
    ("verbose=10", "s"),
    ("resize=yes", "s"),
    ("kexec=-s -d", "srd"),
    ("network=eth0:dhcp:force", "s"),
    ("net-timeout=90", "s"),
    ("ssh-key=/root/.ssh/dumps", "srd"),
    ("host-key=*", "s"),
    ("host-tag=hostname", "d"),
    ("smtp-server=mail.example.com:587", "srd"),
    ("smtp-user=joe", "srd"),
    ('smtp-password=it\'s "$(id)"', "srd"),
    ("mail-to=root@example.com", "srd"),
    ("mail-cc=a@example.com b@example.com", "srd"),
    ("before=/usr/bin/before", "sr"),
    ("after=/usr/bin/after", "sr"),
    ("programs=/usr/bin/before /usr/bin/after", "sr"),
    ("modules=bonding", "r"),
    ("dmesg=no", "d"),
    ("fadump=yes", "s"),
]


@pytest.mark.parametrize("family", FILES)
@pytest.mark.parametrize(("setting", "able"), ROUND_TRIPS)
def test_a_value_reads_back_as_it_was_given_or_is_refused(tree, family, setting, able):
    key, value = setting.split("=", 1)
    if family[0] in able:
        config = assigned(tree(family), setting)
        assert config.get(key).value == value
        config.assign(key, value)
        assert config.edits() == []
        emptied = assigned(config.system, f"{key}=")
        for name in config.dialect.files:
            config.system.path(name).write_text("")
        default = Config.read(config.system).get(key)
        assert emptied.get(key).value == default.value or key == "cpus"
    else:
        with pytest.raises(CommandError, match=key):
            assigned(tree(family), setting)


def test_every_key_is_tried_above():
    assert {setting.partition("=")[0] for setting, _ in ROUND_TRIPS} == set(KEYS)


@pytest.mark.parametrize("family", FILES)
def test_an_edit_changes_its_own_lines_and_no_other(tree, family):
    before = "".join(FILES[family].values()).splitlines()
    config = assigned(tree(family), "level=17", "target=/srv")
    after = "".join(document.text for document in config.documents).splitlines()
    kept = [line for line in before if line in after]
    comments = [line for line in before if line.startswith("#") or not line]
    assert [line for line in kept if line in comments] == comments
    assert len(before) - len(kept) <= 2
    assert len(after) - len(kept) <= 2


def test_a_comment_behind_a_value_stays(tree):
    config = assigned(tree("suse"), "level=3")
    assert "KDUMP_DUMPLEVEL=3   # everything\n" in config.documents[0].text
    config = assigned(tree("rhel"), "level=3")
    line = "core_collector makedumpfile -l --message-level 7 -d 3   # makedumpfile(8)\n"
    assert line in config.documents[0].text


def test_a_new_value_stands_below_its_commented_example(tree):
    text = assigned(tree("debian"), "keep=3").documents[0].text
    assert "#KDUMP_NUM_DUMPS=\nKDUMP_NUM_DUMPS=3\n" in text
    text = assigned(tree("rhel"), "target=nfs://server/export").documents[0].text
    assert "#nfs my.server.com:/export/tmp\nnfs server:/export\n" in text


def test_answers_are_spelled_as_the_file_spells_them(tree):
    config = assigned(tree("suse"), "finally=shell", "failure=shell")
    assert 'KDUMP_IMMEDIATE_REBOOT="no"' in config.documents[0].text
    assert 'KDUMP_CONTINUE_ON_ERROR="false"' in config.documents[0].text


def test_how_many_are_kept_counts_the_new_one(tree):
    """SUSE deletes before it saves, Debian after."""
    assert 'KDUMP_KEEP_OLD_DUMPS="2"' in assigned(tree("suse"), "keep=3").documents[0].text
    assert 'KDUMP_KEEP_OLD_DUMPS="-1"' in assigned(tree("suse"), "keep=1").documents[0].text
    assert "KDUMP_NUM_DUMPS=3" in assigned(tree("debian"), "keep=3").documents[0].text


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("level=32", "level: 32 is out of range: it goes from 0 to 31"),
        ("level=all", 'level: "all" is not a number: it goes from 0 to 31'),
        ("format=rar", 'format: "rar" is not one of zlib, lzo, snappy, zstd, plain, elf, raw, log'),
        ("format=plain", "format=plain: SUSE has no such setting, RHEL and Debian have"),
        ("keep=-1", "keep: -1 is out of range: it goes from 1 to 999"),
        ("free=-5", "free: -5 is out of range: it goes from 0 on"),
        ("finally=dance", 'finally: "dance" is not one of reboot, halt, poweroff, shell'),
        ("finally=halt", "finally=halt: SUSE has no such setting, RHEL has"),
        ("initrd=/x", "initrd: SUSE has no such setting, Debian has"),
        ("ssh-key=id_rsa", 'ssh-key: "id_rsa" is not a path that starts with /'),
        ("fadump=maybe", 'fadump: "maybe" is neither yes nor no'),
        ("mail-to=root", 'mail-to: "root" is not a mail address'),
        ("smtp-server=a b", 'smtp-server: "a b" is not HOST or HOST:PORT'),
        ("smtp-user=a\nb", "smtp-user: a value is one line, without control characters"),
        (
            "network=eth0",
            'network: "eth0" is not auto or INTERFACE:MODE with static, dhcp, dhcp4, dhcp6, auto6',
        ),
        (
            "append=crashkernel=1G",
            "append: crashkernel= is for the kernel that may crash: see `crashpy setup bootloader`",
        ),
        ("crashkernel=1G", "crashkernel: it is the boot loader's: see `crashpy setup bootloader`"),
        ("KDUMP_DUMPLEVEL=99", "KDUMP_DUMPLEVEL: 99 is out of range: it goes from 0 to 31"),
        ("KDUMP_SAFEDIR=/x", "KDUMP_SAFEDIR: no such setting: `crashpy setup configure` lists"),
        ("core_collector=cp", "core_collector: SUSE has no such setting, RHEL has"),
        ("target=var/crash", "target: var/crash: neither an absolute path nor PROTOCOL://"),
        ("target=http://server/x", "target: http: no such protocol: one of file, ftp"),
        ("target=nfs:///export", "target: nfs: no host"),
        (
            "target=/a /b",
            "target: a target holds no blank: kdump's own scripts would take it for two",
        ),
    ],
)
def test_a_bad_value_is_refused_in_one_sentence(tree, setting, sentence):
    system = tree("suse")
    with pytest.raises(CommandError) as refused:
        assigned(system, setting)
    assert str(refused.value).startswith(sentence)
    assert system.read("/etc/sysconfig/kdump") == SUSE


@pytest.mark.parametrize(
    ("family", "setting", "sentence"),
    [
        ("rhel", "target=ftp://h/x", "target: kdump.conf has no ftp, only local file systems"),
        ("rhel", "target=ssh://a:b@h/x", "target: kdump.conf cannot hold a password for ssh"),
        ("rhel", "target=nfs://h:99/x", "target: kdump.conf cannot hold a port for nfs"),
        ("rhel", "target=nfs://[::1]/x", "target: kdump.conf cannot hold an IPv6 address"),
        ("rhel", "append=a#b", "append: "),
        ("rhel", "before=/a#b", "before: kdump_pre: /etc/kdump.conf cannot hold a '#'"),
        ("rhel", "options=x", "options: kdumpctl no longer has it: see kdump.conf(5)"),
        ("rhel", "dmesg=no", "dmesg: RHEL has no such setting, Debian has"),
        ("debian", "target=sftp://h/x", "target: kdump-tools has no sftp, only ftp, nfs and ssh"),
        ("debian", "target=nfs://h:1/x", "target: kdump-tools cannot hold a port for nfs"),
        ("debian", "before=/x", "before: Debian has no such setting, SUSE and RHEL have"),
        ("debian", "failure=dump_to_rootfs", "failure=dump_to_rootfs: Debian has no such"),
        ("debian", "compression=zip", 'compression: "zip" is not one of bzip2, gzip, lz4, xz'),
    ],
)
def test_what_a_distribution_cannot_say_is_refused(tree, family, setting, sentence):
    if sentence == "append: ":  # the loader's file is shell: there it can be said
        assert assigned(tree(family), setting).get("append").value == "a#b"
        return
    with pytest.raises(CommandError) as refused:
        assigned(tree(family), setting)
    assert str(refused.value).startswith(sentence)


def test_two_targets_are_an_error(tree):
    system = tree("rhel")
    system.path("/etc/kdump.conf").write_text(RHEL + "nfs a:/b\nssh u@h\n")
    with pytest.raises(CommandError, match="nfs and ssh are two targets: remove one"):
        Config.read(system).get("target")
    system.path("/etc/kdump.conf").write_text(RHEL + "path /a\n")
    with pytest.raises(CommandError, match="path is given twice, on lines 4 and 7: remove one"):
        Config.read(system).get("target")


def test_a_collector_that_is_not_makedumpfile_is_left_alone(tree):
    system = tree("rhel")
    system.path("/etc/kdump.conf").write_text("core_collector cp\n")
    assert Config.read(system).get("format").value == "raw"
    with pytest.raises(CommandError, match="core_collector runs cp, not makedumpfile"):
        assigned(system, "level=1")


def test_no_configuration_names_what_to_install(tmp_path):
    with pytest.raises(CommandError, match="no configuration of kdump was found"):
        Config.read(System(tmp_path))
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text('ID="opensuse-leap"\nID_LIKE="suse opensuse"\n')
    with pytest.raises(CommandError, match="etc/sysconfig/kdump: there is no such file: install"):
        Config.read(System(tmp_path))


# Shell, read without a shell.


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=1", "1"),
        ("  export A='a b'", "a b"),
        ("A=\"a b\"c'd'", "a bcd"),
        (r'A="a\"b\$c\d"', r'a"b$c\d'),
        ("A=a\\ b", "a b"),
        ("A=a\\\nb", "ab"),
        ('A="a\nb"', "a\nb"),
        ("A=a#b # c", "a#b"),
        ("A=1\nA=2", "2"),
        ("A=", ""),
        ("A=$B", None),
        ('A="`id`"', None),
        ("A=$(id)", None),
        ("A=~/x", None),
        ("A=1 id", None),
        ("A=1; id", None),
        ("if x; then\nA=1\nfi", None),
        ("if x; then A=1; fi", None),
        ("if x; then\n:\nfi\nA=1", "1"),
        (": ${A:=1}", None),
        ("#A=1", "no"),
        ("BA=1", "no"),
    ],
)
def test_shell_is_parsed_not_run(text, value):
    entry = ShellFile("file", text).get("A")
    assert (entry.value if entry else "no") == value


def test_what_the_shell_computes_is_kept(tmp_path):
    marker = tmp_path / "ran"
    file = ShellFile("kdump", f"A=$(touch {marker})\nB=1\n")
    with pytest.raises(CommandError, match="kdump: line 1: A is computed by the shell"):
        file.set("A", "2")
    file.set("B", "2")
    assert file.text == f"A=$(touch {marker})\nB=2\n"
    assert not marker.exists()


def test_an_open_quote_is_an_error():
    with pytest.raises(CommandError, match="kdump: line 2: a quote is opened and never closed"):
        ShellFile("kdump", 'B=1\nA="x\n')


@pytest.mark.parametrize("value", ["", "a", "a b", "it's", 'say "x"', "$HOME `id` \\n", "#", "é"])
@pytest.mark.parametrize("like", ["", '"', "'"])
def test_quoting_reads_back(value, like):
    assert ShellFile("f", f"A={quoted(value, like=like)}\n").get("A").value == value


def test_files_that_end_without_a_newline_and_bytes_that_are_no_utf8(tree):
    system = tree("suse")
    path = system.path("/etc/sysconfig/kdump")
    path.write_bytes(b"# caf\xe9\nKDUMP_DUMPLEVEL=1")
    config = Config.read(system)
    config.assign("free", "7")
    [edit] = config.edits()
    data = edit.new.encode("utf-8", "surrogateescape")
    assert data == b"# caf\xe9\nKDUMP_DUMPLEVEL=1\nKDUMP_FREE_DISK_SIZE=7\n"


def test_directives():
    file = DirectiveFile("kdump.conf", 'a  b c # d\n#e f\n\ng "h i"\n')
    assert [(e.name, e.value, e.line) for e in file.entries] == [("a", "b c", 1), ("g", "h i", 4)]
    file.set("a", "")
    file.set("e", "x")
    assert file.text == '#e f\ne x\n\ng "h i"\n'


# Passwords.


SECRETS = [
    ('KDUMP_SMTP_PASSWORD="x y"', "KDUMP_SMTP_PASSWORD=(hidden)"),
    ('KDUMP_SMTP_PASSWORD="x\ny" # z\nB=1', "KDUMP_SMTP_PASSWORD=(hidden)\nB=1"),
    ("FTP_PASSWORD=x\\\ny\nB=1", "FTP_PASSWORD=(hidden)\nB=1"),
    ("FTP_USER=joe FTP_PASSWORD=x\nB=1", "FTP_USER=joe FTP_PASSWORD=(hidden)\nB=1"),
    ('export A="b;c"; export FTP_PASSWORD=x', 'export A="b;c"; export FTP_PASSWORD=(hidden)'),
    ("FTP_PASSWORD='x'\"y\"z", "FTP_PASSWORD=(hidden)"),
    ('FTP_PASSWORD="x', "FTP_PASSWORD=(hidden)"),
    ("smtp-password = it's x\nlevel = '3'", "smtp-password =(hidden)\nlevel = '3'"),
    ("sftp://joe:p@ss/w@host/x", "sftp://joe:(hidden)@host/x"),
    (
        'A="ftp://joe:it\'s\\"x@h/x ftp://a:b@c/d"',
        'A="ftp://joe:(hidden)@h/x ftp://a:(hidden)@c/d"',
    ),
    ('A="ftp://joe:x y@h/x" # a@b', 'A="ftp://joe:(hidden)@h/x" # a@b'),
    ("ftp://o'joe@domain:x@h/x", "ftp://o'joe@domain:(hidden)@h/x"),
    ("cifs://DOMAIN/joe:x@h/share", "cifs://DOMAIN/joe:(hidden)@h/share"),
]
OPEN = [
    'FTP_PASSWORD=""',
    "ftp://joe@host/x",
    "ftp://h:21/x: nobody tells a@b",
    "smtp-password: give a value, smtp-password=VALUE",
]


@pytest.mark.parametrize(("text", "shown"), [*SECRETS, *((text, text) for text in OPEN)])
def test_passwords_are_hidden(text, shown):
    assert hide(text) == shown
    assert Edit("/etc/x", None, text).holds_password == (text != shown)


def test_an_example_that_is_commented_out_is_hidden_and_makes_no_file_private():
    text = '#FTP_PASSWORD="x'
    assert hide(text) == "#FTP_PASSWORD=(hidden)"
    assert not Edit("/etc/x", None, text).holds_password


def test_a_url_keeps_its_password_when_it_is_spelled():
    assert spelled(parse("ftp://joe:a%40b@host/x")) == "ftp://joe:a%40b@host/x"
    assert spelled(Url("file", "/x")) == "/x"


@pytest.mark.parametrize("family", ["suse", "debian"])
def test_an_error_does_not_show_a_password(tree, family):
    for url in ("ftp://joe:secret@/x", "ftp://joe:secret@host:99999/x", "gopher://joe:secret@h/"):
        with pytest.raises(CommandError) as refused:
            assigned(tree(family), f"target={url}")
        assert "secret" not in str(refused.value)
