"""`crashpy setup tui`: keys go in, and the settings come out that `configure` takes."""

import sys

import pytest
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from crashpy.kdump import tui
from crashpy.kdump.config import Config
from crashpy.kdump.setup import setup
from crashpy.kdump.system import System

SUSE = '# kdump\nKDUMP_SAVEDIR="/var/crash"\nKDUMP_DUMPLEVEL=31\n'
GRUB = 'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\n'
UP, DOWN, END, RUBOUT, ENTER, TAB = "\x1b[A", "\x1b[B", "\x05", "\x7f", "\r", "\t"
SAVE, LEAVE = "\x1b[21~", "\x1b[20~"


def page(number):
    return f"\x1b{number}"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    wants = tmp_path / "etc/systemd/system/multi-user.target.wants"
    for name, text in {
        "etc/sysconfig/kdump": SUSE,
        "etc/default/grub": GRUB,
        "usr/lib/systemd/system/kdump.service": "",
        "boot/grub2/grub.cfg": "  linux /vmlinuz quiet\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    wants.mkdir(parents=True)
    tool(tmp_path, "systemctl", f"ln -s /x {wants}/$2")
    mkconfig = f". {tmp_path}/etc/default/grub; echo linux $GRUB_CMDLINE_LINUX_DEFAULT > $2"
    tool(tmp_path, "grub2-mkconfig", mkconfig.replace("$2", f"{tmp_path}$2"))
    init = System.__init__
    monkeypatch.setattr(System, "__init__", lambda s, root, chroot=False: init(s, root, chroot))
    return tmp_path


def tool(tree, name, body):
    path = tree / "usr/sbin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def typed(tree, screens, *words):
    """Run it with the keys for one screen after another."""
    run = tui.run
    keys = iter([screens] if isinstance(screens, str) else screens)

    def run_with(config, before, shown):
        with create_pipe_input() as pipe:
            pipe.send_text(next(keys))
            return run(config, before, shown, input=pipe, output=DummyOutput())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tui, "run", run_with)
        for stream in (sys.stdin, sys.stdout):
            patch.setattr(stream, "isatty", lambda: True, raising=False)
        return setup(["tui", "--root", str(tree), *words])


EVERY_PAGE = (
    # the radio buttons stand on what is chosen; up and down move, Enter chooses
    f"{page(1)}{UP}{ENTER}{TAB}512M"
    f"{page(2)}{ENTER}{DOWN}{DOWN}{DOWN}{ENTER}{TAB}{DOWN}{DOWN}{ENTER}"
    f"{page(3)}{DOWN}{ENTER}{TAB}ftp.example.com{TAB}2121{TAB}joe{TAB}geheim{TAB}{END}/in"
    f"{page(4)}mail.example.com{TAB}joe{TAB}geheim{TAB}root@example.com{TAB}a@b.c"
    f"{page(5)}/boot/k{TAB}root=/dev/sda1{TAB}panic=5{TAB}{END}{RUBOUT * 3}4"
    f"{TAB}{DOWN}{ENTER}{TAB}{DOWN}{ENTER}{SAVE}"
)
THE_SAME = [
    "level=22",
    "format=snappy",
    "target=ftp://joe:geheim@ftp.example.com:2121/var/crash/in",
    "smtp-server=mail.example.com",
    "smtp-user=joe",
    "smtp-password=geheim",
    "mail-to=root@example.com",
    "mail-cc=a@b.c",
    "kernel=/boot/k",
    "cmdline=root=/dev/sda1",
    "append=panic=5",
    "keep=4",
    "finally=shell",
    "failure=shell",
]


def test_every_page_writes_what_configure_writes(tree, capsys):
    file = tree / "etc/sysconfig/kdump"
    assert typed(tree, EVERY_PAGE, "--yes") == 0
    output = capsys.readouterr().out
    assert "geheim" not in output
    assert "+KDUMP_DUMPLEVEL=22" in output
    assert "run: systemctl enable kdump.service" in output
    assert "crashkernel=512M" in (tree / "boot/grub2/grub.cfg").read_text()
    for key, word in (line.split("=", 1) for line in THE_SAME):
        assert Config.read(System(tree)).get(key).value == word
    written = sorted(file.read_text().splitlines())
    file.write_text(SUSE)
    assert setup(["configure", "--root", str(tree), "--yes", *THE_SAME]) == 0
    assert sorted(file.read_text().splitlines()) == written


def test_leaving_changes_nothing(tree, capsys):
    assert typed(tree, f"{page(1)}{TAB}512M{LEAVE}") == 3
    assert capsys.readouterr().err == "crashpy setup tui: nothing was changed\n"
    assert (tree / "etc/sysconfig/kdump").read_text() == SUSE
    assert (tree / "etc/default/grub").read_text() == GRUB


def test_saving_at_once_changes_nothing(tree, capsys):
    assert typed(tree, SAVE) == 0
    assert capsys.readouterr().out == "nothing to do: it is so already\n"


def test_what_is_refused_goes_back_to_the_pages(tree, capsys, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda _: "")
    screens = [f"{page(1)}{TAB}much{SAVE}", f"{page(1)}{TAB}{END}{RUBOUT * 4}1G{SAVE}"]
    assert typed(tree, screens, "--yes") == 0
    assert '"much" is not a size such as 256M' in capsys.readouterr().out
    assert "crashkernel=1G" in (tree / "etc/default/grub").read_text()


def test_it_needs_a_terminal(tree, capsys):
    assert setup(["tui", "--root", str(tree)]) == 3
    assert "it needs a terminal" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "url"),
    [
        (("file", "", "", "", "", "/srv"), "/srv"),
        (("nfs", "server", "", "", "", "export"), "nfs://server/export"),
        (("nfs", "server", "", "joe", "of ftp", "/export"), "nfs://server/export"),
        (("cifs", "server", "", "joe", "a/b@c", "/share/x"), "cifs://joe:a%2Fb%40c@server/share/x"),
        (("sftp", "::1", "22", "joe", "", "/x"), "sftp://joe@[::1]:22/x"),
    ],
)
def test_a_target_is_put_together(place, url):
    after = dict(zip(tui.PLACE, place, strict=True))
    assert tui.settings({}, after) == [("target", url)]


def test_private_cache_pages_go_with_the_others():
    assert tui.settings({"include": set()}, {"include": {1, 2, 8, 16}}) == [("level", "6")]


def test_what_a_distribution_lacks_is_not_offered(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/kdump.conf").write_text("path /var/crash\n")
    config = Config.read(System(tmp_path))
    screen = tui.Screen(config, tui.fields(config, on=None, crashkernel=[]))
    assert "smtp-server" in screen.widgets  # our own file has it
    assert "initrd" not in screen.widgets
    assert [name for name, _ in screen.widgets["protocol"].values] == ["file", "ssh", "nfs"]
