"""Files changed all together or not at all: whatever fails, and wherever it is killed."""

import errno
import itertools
import json
import os
import signal
import tempfile
import time
from pathlib import Path

import pytest
from trees import Tree

from crashpy.kdump.plan import Edit, Plan
from crashpy.kdump.system import Refused, System
from crashpy.kdump.writing import JOURNAL, recover

OLD = {"/etc/x": "old x\n", "/etc/default/y": "old y\n"}
NEW = {"/etc/x": "new x\n", "/etc/default/y": "new y\n", "/etc/z": "KDUMP_SMTP_PASSWORD=a\n"}


@pytest.fixture
def tree(tmp_path):
    made = Tree(tmp_path)
    for name, text in OLD.items():
        made.write(name, text)
    return made


def plan(*commands):
    return Plan([Edit(name, OLD.get(name), text) for name, text in NEW.items()], [*commands])


def held(tree):
    """Every file of /etc with what is in it."""
    return {
        f"/{path.relative_to(tree.root)}": path.read_text()
        for path in (tree.root / "etc").rglob("*")
        if path.is_file() and path.name != "passwd"
    }


# The calls that reach the disk: each of them may fail, or be the last one.
CALLS = [
    (os, "fsync"),
    (os, "fchmod"),
    (os, "fchown"),
    (tempfile, "mkstemp"),
    (Path, "replace"),
    (Path, "unlink"),
    (Path, "mkdir"),
]


def at_call(patch, number, act):
    """Do something at the number-th of these calls; how many there were is returned."""
    count = itertools.count(1)
    made = []

    def wrap(call):
        def counted(*args, **more):
            made.append(call.__name__)
            if next(count) == number:
                act()
            return call(*args, **more)

        return counted

    for owner, name in CALLS:
        patch.setattr(owner, name, wrap(getattr(owner, name)))
    return made


def test_how_many_steps_there_are(tree, monkeypatch):
    made = at_call(monkeypatch, 0, None)
    plan().carry_out(tree.system)
    assert 25 < len(made) < STEPS


STEPS = 60


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_step_that_fails_leaves_everything_as_it_was(tree, code):
    failed = 0
    for number in range(1, STEPS):

        def fail():
            raise OSError(code, os.strerror(code))

        with pytest.MonkeyPatch.context() as patch:
            made = at_call(patch, number, fail)
            try:
                plan().carry_out(tree.system)
            except Refused as refused:
                failed += 1
                sentence = str(refused)
            else:
                break
        assert held(tree) == OLD, f"step {number}, {made}"
        assert f"{os.strerror(code)}: nothing was changed" in sentence
    assert failed > 20
    kept = {name: text for name, text in held(tree).items() if not name.endswith(".bak")}
    assert kept == NEW


def killed(tree, number):
    """Carry the plan out in a process that is killed at one step; whether it was."""
    child = os.fork()
    if child == 0:
        with pytest.MonkeyPatch.context() as patch:
            at_call(patch, number, lambda: os.kill(os.getpid(), signal.SIGKILL))
            plan().carry_out(tree.system)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_wherever_it_is_killed_the_next_one_tidies_up(tree):
    for number in range(1, STEPS):
        if not killed(tree, number):
            break
        found = held(tree)
        for name in NEW:  # each file is whole at any time
            assert found.get(name) in (OLD.get(name), NEW[name])
        names = recover(tree.system)
        assert held(tree) == OLD, f"step {number}: {names}"
    assert number > 25
    assert {name: held(tree)[name] for name in NEW} == NEW


def test_it_is_said_when_a_change_was_cut_off(tree, capsys):
    tree.suse()
    tree.write(f"{JOURNAL}", json.dumps({str(tree.root / "etc/x"): str(tree.root / "etc/x.bak")}))
    tree.write("/etc/x.bak", "old x\n")
    tree.write("/etc/x", "new x\n")
    assert tree.setup("configure", "level=1", "--dry-run") == 0
    assert tree.read("/etc/x") == "new x\n"
    assert "cut off" not in capsys.readouterr().out
    assert tree.setup("configure", "level=1", "--yes") == 0
    assert "etc/x: as they were before it" in capsys.readouterr().out
    assert tree.read("/etc/x") == "old x\n"
    assert not (tree.root / "etc/x.bak").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '"x"'])
def test_a_damaged_journal_is_one_sentence(tree, capsys, text):
    tree.suse()
    tree.write(JOURNAL, text)
    assert tree.setup("configure", "level=1", "--yes") == 3
    error = capsys.readouterr().err
    assert error.endswith("damaged: compare the *.bak files, and remove it\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_being_told_to_end_undoes_it(tree, number):
    tree.tool("update-grub", "exec sleep 60")
    child = os.fork()
    if child == 0:
        try:
            plan(("update-grub",)).carry_out(tree.system)
        except Refused as refused:
            os._exit(3 if "told to end by SIG" in str(refused) else 4)
        except KeyboardInterrupt:
            os._exit(3)
        os._exit(0)
    until = time.monotonic() + 10
    while not tree.ran and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(child, number)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 3
    assert held(tree) == OLD


def test_commands_that_succeeded_are_taken_back(tree):
    tree.tool("systemctl")
    tree.tool("update-grub", "case $(cat $ROOT/etc/x) in new*) exit 1;; esac")
    made = plan(("systemctl", "enable", "kdump"), ("update-grub",))
    made.opposites = {
        ("systemctl", "enable", "kdump"): ("systemctl", "disable", "kdump"),
        ("update-grub",): ("update-grub",),
    }
    with pytest.raises(Refused, match="update-grub failed with status 1"):
        made.carry_out(tree.system)
    assert held(tree) == OLD
    assert tree.ran == [
        "systemctl enable kdump",
        "update-grub ",
        "update-grub ",  # made anew from the files as they were
        "systemctl disable kdump",
    ]


def test_what_cannot_be_taken_back_does_not_hide_why(tree):
    tree.tool("update-grub", "echo broken >&2; exit 1")
    made = plan(("update-grub",))
    made.opposites = {("update-grub",): ("update-grub",)}
    with pytest.raises(Refused, match="update-grub failed with status 1: broken; the files are"):
        made.carry_out(tree.system)
    assert held(tree) == OLD


def test_a_file_that_cannot_be_replaced_keeps_no_copy(tree, monkeypatch):
    """An immutable one: it cannot be put back either, nor need it be."""
    replace = Path.replace

    def refused(self, target):
        if str(target).endswith("/etc/x"):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(self))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refused)
    tree.write("/etc/x", "old\n")
    before = held(tree)
    with pytest.raises(Refused, match="etc/x: Operation not permitted: nothing was changed"):
        Plan([Edit("/etc/x", "old\n", "new\n")]).carry_out(tree.system)
    assert held(tree) == before


def test_a_copy_of_a_file_with_a_password_is_its_owner_s(tree):
    tree.write("/etc/x", "FTP_PASSWORD=a\n", 0o644)
    [copy] = Plan([Edit("/etc/x", "FTP_PASSWORD=a\n", "\n")]).carry_out(tree.system)
    assert Path(copy).stat().st_mode & 0o777 == 0o600


def test_two_changes_in_one_second_keep_two_copies(tree):
    first = Plan([Edit("/etc/x", "old x\n", "1\n")]).carry_out(tree.system)
    second = Plan([Edit("/etc/x", "1\n", "2\n")]).carry_out(tree.system)
    assert first != second
    assert [Path(name).read_text() for name in (*first, *second)] == ["old x\n", "1\n"]


def test_no_etc_is_one_sentence(tmp_path):
    with pytest.raises(Refused, match=r"etc: No such file or directory"):
        Plan([Edit("/etc/x", None, "x")]).carry_out(System(tmp_path))
