"""`crashpy setup tui` in a terminal: every page, by keyboard and by mouse, in tmux."""

import re
import shutil
import subprocess
import sys
import time

import pytest
from trees import Tree

from crashpy.kdump.config import Config

SUSE = '# kdump\nKDUMP_SAVEDIR="/var/crash"\nKDUMP_DUMPLEVEL=31\n'
PATIENCE_SECONDS = 20
GRUB = 'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\n'


class Terminal:
    """A program in a terminal: what it shows, and keys for it."""

    def __init__(self, folder, *command, columns=80, rows=24):
        assert shutil.which("tmux"), "tmux is missing: install tmux"
        self._tmux = ["tmux", "-S", str(folder / f"tmux{time.monotonic_ns()}"), "-f", "/dev/null"]
        words = " ".join(f"'{word}'" for word in command)
        size = ("-x", str(columns), "-y", str(rows))
        self._run("new-session", "-d", *size, f"{words}; echo STATUS $?; cat")

    def _run(self, *words):
        done = subprocess.run([*self._tmux, *words], capture_output=True, text=True, check=True)
        return done.stdout

    def keys(self, *keys):
        self._run("send-keys", *keys)

    def type(self, text):
        self._run("send-keys", "-l", text)

    @property
    def screen(self):
        return self._run("capture-pane", "-p")

    @property
    def everything(self):
        """With what has scrolled away."""
        return self._run("capture-pane", "-p", "-S", "-500")

    def sees(self, text):
        """Wait for it, and say where it begins: column and row, from 1."""
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            screen = self.screen
            if text in screen:
                row = next(n for n, line in enumerate(screen.splitlines()) if text in line)
                return screen.splitlines()[row].index(text) + 1, row + 1
            time.sleep(0.05)
        raise AssertionError(f"{text!r} does not come; there is\n{self.everything}")

    def click(self, text):
        column, row = self.sees(text)
        for letter in "Mm":  # pressed, released: SGR mouse reports
            self.type(f"\x1b[<0;{column + 1};{row}{letter}")

    def end(self):
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, check=False)


@pytest.fixture
def tree(tmp_path):
    made = Tree(tmp_path / "root")
    made.write("/etc/sysconfig/kdump", SUSE)
    return made


@pytest.fixture
def start(tmp_path, tree):
    """Start it on the tree."""
    started = []

    def start(*words, before=(), shows="crashpy setup: kdump of ", **size):
        command = [
            *before,
            sys.executable,
            "-P",
            "-m",
            "crashpy",
            "setup",
            "tui",
            "--root",
            str(tree.root),
        ]
        terminal = Terminal(tmp_path, *command, *words, **size)
        started.append(terminal)
        terminal.sees(shows)
        return terminal

    yield start
    for terminal in started:
        terminal.end()


# What the guide's pages hold, and what `configure` is told for the same.
VALUES = {
    "level": "22",
    "format": "snappy",
    "target": "ftp://joe:geheim@ftp.example.com:2121/var/crash/in",
    "smtp-server": "mail.example.com",
    "smtp-user": "ann",
    "smtp-password": "secret",
    "mail-to": "root@example.com",
    "mail-cc": "a@b.c",
    "kernel": "/boot/k",
    "cmdline": "root=/dev/sda1",
    "append": "panic=5",
    "keep": "4",
    "finally": "shell",
    "failure": "shell",
}


def as_configured(tree, values=VALUES):
    """The lines of the file that `configure` writes for these values."""
    written = tree.read("/etc/sysconfig/kdump")
    tree.write("/etc/sysconfig/kdump", SUSE)
    assert tree.setup("configure", "--yes", *(f"{k}={v}" for k, v in values.items())) == 0
    expected = tree.read("/etc/sysconfig/kdump")
    tree.write("/etc/sysconfig/kdump", written)
    return sorted(expected.splitlines())


def finish(terminal, tree, values=VALUES):
    """The diff is shown before anything is written; then yes."""
    terminal.sees("Do this? [y/N]")
    shown = terminal.everything
    assert tree.read("/etc/sysconfig/kdump") == SUSE
    assert "+KDUMP_DUMPLEVEL=22" in shown
    assert "geheim" not in shown
    assert "secret" not in shown
    terminal.type("y\n")
    terminal.sees("STATUS 0")
    assert "kept: " in terminal.everything
    assert sorted(tree.read("/etc/sysconfig/kdump").splitlines()) == as_configured(tree, values)
    config = Config.read(tree.system)
    for key, value in values.items():
        assert config.get(key).value == value


def test_every_page_by_keyboard(start, tree):
    screen = start()
    screen.keys("M-1")
    screen.sees("crashkernel=")
    screen.keys("M-2")
    screen.sees("[ ] zero pages")
    screen.keys("Enter", "Down", "Down", "Down", "Enter")
    screen.sees("[*] user data pages")
    screen.keys("Tab", "Down", "Down", "Enter")
    screen.sees("(*) snappy")
    screen.keys("M-3")
    screen.sees("(*) a folder of this machine")
    screen.keys("Down", "Enter", "Tab")
    screen.sees("(*) FTP")
    for text in ("ftp.example.com", "2121", "joe", "geheim"):
        screen.type(text)
        screen.keys("Tab")
    screen.sees("******")
    screen.keys("End")
    screen.type("/in")
    screen.sees("/var/crash/in")
    screen.keys("M-4")
    screen.sees("SMTP server")
    for text in ("mail.example.com", "ann", "secret", "root@example.com", "a@b.c"):
        screen.type(text)
        screen.keys("Tab")
    screen.sees("a@b.c")
    screen.keys("M-5")
    screen.sees("Custom kdump kernel")
    for text in ("/boot/k", "root=/dev/sda1", "panic=5"):
        screen.type(text)
        screen.keys("Tab")
    screen.keys("End", "BSpace", "BSpace", "BSpace")
    screen.type("4")
    screen.keys("Tab", "Down", "Enter", "Tab", "Down", "Enter")
    screen.sees("(*) shell")
    screen.keys("F10")
    finish(screen, tree)


def test_every_page_by_mouse(start, tree):
    screen = start()
    screen.click("1 Start-Up")
    screen.sees("crashkernel=")
    screen.click("2 Dump Filtering")
    screen.click("[ ] zero pages")
    screen.sees("[*] zero pages")
    screen.click("[ ] user data pages")
    screen.sees("[*] user data pages")
    screen.click("( ) snappy")
    screen.sees("(*) snappy")
    screen.click("3 Dump Target")
    screen.click("( ) FTP")
    screen.sees("(*) FTP")
    for label, text in {
        "Server": "ftp.example.com",
        "Port": "2121",
        "User": "joe",
        "Password": "geheim",
    }.items():
        field(screen, label, text)
    field(screen, "Folder (/share/dir)", "/in", at_end=True)
    screen.sees("/var/crash/in")
    screen.click("4 Email Notification")
    for label, text in {
        "SMTP server": "mail.example.com",
        "User name": "ann",
        "Password": "secret",
        "Notification to": "root@example.com",
        "Notification CC": "a@b.c",
    }.items():
        field(screen, label, text)
    screen.click("5 Expert Settings")
    for label, text in {
        "Custom kdump kernel": "/boot/k",
        "Command line ": "root=/dev/sda1",
        "Command line append": "panic=5",
    }.items():
        field(screen, label, text)
    screen.sees("panic=5")
    field(screen, "Dumps kept", "", at_end=True)
    screen.keys("BSpace", "BSpace", "BSpace")
    screen.type("4")
    for number in (1, 2):  # the one behind `After the dump`, then that of `When saving fails`
        screen.click("( ) shell")
        until = time.monotonic() + PATIENCE_SECONDS
        while screen.screen.count("(*) shell") < number and time.monotonic() < until:
            time.sleep(0.05)
    screen.click("<   Save   >")
    finish(screen, tree)


def field(screen, label, text, *, at_end=False):
    """Click into the field behind a label, and type."""
    column, row = screen.sees(label)
    for letter in "Mm":
        screen.type(f"\x1b[<0;{column + 26};{row}{letter}")
    if at_end:
        screen.keys("End")
    screen.type(text)


def test_a_no_to_the_diff_changes_nothing(start, tree):
    screen = start()
    screen.keys("M-4")
    screen.sees("SMTP server")
    screen.type("h")
    screen.keys("F10")
    screen.sees("Do this? [y/N]")
    screen.type("n\n")
    screen.sees("nothing was changed")
    screen.sees("STATUS 3")
    assert tree.read("/etc/sysconfig/kdump") == SUSE


def test_cancel_by_mouse_and_by_key(start, tree):
    for leave in (lambda s: s.click("<  Cancel  >"), lambda s: s.keys("F9")):
        screen = start()
        leave(screen)
        screen.sees("STATUS 3")
        screen.end()
    assert tree.read("/etc/sysconfig/kdump") == SUSE


@pytest.mark.parametrize(
    ("columns", "rows", "kind"), [(80, 24, "dumb"), (80, 12, "screen"), (40, 10, "screen")]
)
def test_a_poor_terminal(start, tree, columns, rows, kind):
    """A small one scrolls to the field that has the focus, and in it."""
    terminal = start(before=("env", f"TERM={kind}"), columns=columns, rows=rows)
    terminal.keys("M-3")
    terminal.sees("Dump Targ")
    terminal.keys(*["Tab"] * 5)
    terminal.sees("/var/c")
    terminal.keys("C-a", "C-k")
    terminal.type("/srv/dumps/of/this/machine/and/none/other/whatever/its/name")
    terminal.sees("name")
    terminal.keys("F10")
    terminal.sees("Do this?")
    terminal.type("y\n")
    terminal.sees("STATUS 0")
    wanted = 'KDUMP_SAVEDIR="/srv/dumps/of/this/machine/and/none/other/whatever/its/name"'
    assert wanted in tree.read("/etc/sysconfig/kdump")


@pytest.mark.parametrize(("columns", "rows"), [(10, 3), (2, 2)])
def test_a_terminal_that_is_too_small_is_left_by_key(start, tree, columns, rows):
    terminal = start(columns=columns, rows=rows, shows="")
    terminal.keys("F9")
    until = time.monotonic() + PATIENCE_SECONDS
    while "STATUS 3" not in terminal.everything.replace("\n", ""):
        assert time.monotonic() < until, terminal.everything
        time.sleep(0.1)
        terminal.keys("F9")
    assert tree.read("/etc/sysconfig/kdump") == SUSE


def test_a_bad_value_goes_back_to_the_pages(start, tree):
    screen = start("--yes")
    screen.keys("M-4")
    screen.sees("SMTP server")
    screen.type("a b")
    screen.keys("F10")
    screen.sees('smtp-server: "a b" is not HOST or HOST:PORT')
    screen.type("\n")
    screen.sees("1 Start-Up")
    screen.keys("M-4")
    screen.sees("a b")
    screen.keys("End", "BSpace", "BSpace", "F10")
    screen.sees("STATUS 0")
    assert Config.read(tree.system).get("smtp-server").value == "a"


@pytest.mark.parametrize(
    ("name", "text", "added"),
    [
        ("/etc/kdump.conf", "path /var/crash\n", "mail-to = a@b"),
        ("/etc/default/kdump-tools", "USE_KDUMP=1\n", "mail-to = a@b"),
    ],
)
def test_the_pages_of_other_distributions(start, tree, name, text, added):
    (tree.root / "etc/sysconfig/kdump").unlink()
    tree.write(name, text)
    screen = start()
    screen.keys("M-2")
    screen.sees("(*) l" if "kdump.conf" in name else "(*) zlib")
    screen.keys("M-3")
    screen.sees("( ) SSH")
    assert "CIFS" not in screen.screen
    screen.keys("M-5")
    screen.sees("Custom kdump kernel")
    screen.keys("M-4")
    screen.sees("Notification to")
    screen.keys("Tab", "Tab", "Tab")
    screen.type("a@b")
    screen.sees("a@b")
    screen.keys("F10")
    screen.sees("Do this? [y/N]")
    assert f"+{added}" in screen.everything
    screen.type("y\n")
    screen.sees("STATUS 0")
    assert re.search(added, tree.read("/etc/crashpy.conf"))
    assert tree.read(name) == text


def test_boot_loader_and_unit_from_the_first_page(start, tree):
    """Start-Up runs tools: of the tree, in the tree."""
    busybox = shutil.which("busybox")
    assert busybox, "busybox is missing: install busybox-static"
    for name in ("sh", "cat", "ln", "mkdir"):
        (tree.root / "bin").mkdir(exist_ok=True)
        shutil.copy(busybox, tree.root / "bin" / name)
    tree.write("/usr/lib/systemd/system/kdump.service", "")
    tree.write("/etc/default/grub", GRUB)
    tree.write("/boot/grub2/grub.cfg", "  linux /vmlinuz quiet\n")
    wants = "/etc/systemd/system/multi-user.target.wants"
    made = "echo linux $GRUB_CMDLINE_LINUX_DEFAULT > $2"
    for name, body in {
        "systemctl": f"mkdir -p {wants}; ln -s /x {wants}/$2",
        "grub2-mkconfig": f". /etc/default/grub; {made}",
    }.items():
        tree.write(f"/usr/sbin/{name}", f"#!/bin/sh\n{body}\n", 0o755)
    screen = start()
    screen.click("1 Start-Up")
    screen.click("( ) Enable kdump at boot")
    screen.sees("(*) Enable kdump at boot")
    field(screen, "crashkernel=", "512M")
    screen.sees("512M")
    screen.keys("F10")
    screen.sees("Do this? [y/N]")
    shown = screen.everything
    assert "run: systemctl enable kdump.service" in shown
    assert "run: grub2-mkconfig -o /boot/grub2/grub.cfg" in shown
    assert '+GRUB_CMDLINE_LINUX_DEFAULT="quiet crashkernel=512M"' in shown
    screen.type("y\n")
    screen.sees("STATUS 0")
    assert "crashkernel=512M" in tree.read("/boot/grub2/grub.cfg")
    assert (tree.root / f"{wants[1:]}/kdump.service").is_symlink()
