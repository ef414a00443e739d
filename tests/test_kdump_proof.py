"""`crashpy setup test`: begun, and judged when the machine is back."""

import io
import json
import os
import shutil
import socket
import stat
import sys

import pytest
from trees import Tree

from crashpy.command import CommandError
from crashpy.kdump import proof, rehearsal
from crashpy.kdump.check import check
from crashpy.kdump.config import Config
from crashpy.kdump.status import status
from crashpy.kdump.system import System

FOLDER = "2026-11-24-02-39"


@pytest.fixture
def tree(tmp_path):
    made = Tree(tmp_path)
    made.machine(loaded=1)
    made.suse()
    made.write("/var/crash/2026-01-01-01-01/vmcore", "old")
    made.write("/proc/sysrq-trigger", "")
    boot(made, "first")
    return made


def boot(tree, name):
    tree.write("/proc/sys/kernel/random/boot_id", f"{name}\n")


def saved(tree, data):
    """A dump that came meanwhile."""
    path = tree.root / f"var/crash/{FOLDER}"
    path.mkdir(parents=True)
    (path / "README.txt").write_text("vmcore status: saved successfully\n")
    if isinstance(data, bytes):
        (path / "vmcore").write_bytes(data)
    else:
        shutil.copy(data, path / "vmcore")


@pytest.fixture
def here(tree, monkeypatch):
    """The tree, taken for the machine itself, and root's."""
    monkeypatch.setattr(System, "live", property(lambda _: True))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "sync", lambda: None)
    monkeypatch.setattr(proof.time, "sleep", lambda _: None)
    return tree


def typed(monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def crashed(tree, monkeypatch, capsys):
    """The crash comes to nothing here, and the machine is back."""
    pressed = []
    write_text = type(tree.root).write_text
    monkeypatch.setattr(
        type(tree.root),
        "write_text",
        lambda s, text, **more: (
            pressed.append(text) if s.name == "sysrq-trigger" else write_text(s, text, **more)
        ),
    )
    typed(monkeypatch, f"{socket.gethostname()}\n")
    assert tree.setup("test", "--on-this-machine") == 3
    assert "and yet the machine runs on" in capsys.readouterr().err
    assert pressed == ["s", "u", "c"]
    monkeypatch.setattr(type(tree.root), "write_text", write_text)


def test_a_crash_wants_this_machine_s_name(here, monkeypatch, capsys):
    typed(monkeypatch, "yes\n")
    assert here.setup("test", "--on-this-machine") == 3
    output = capsys.readouterr()
    assert "that is not this machine's name: nothing was done" in output.err
    assert "do not reset the machine" in output.out
    assert "`mount -o remount,ro /`" in output.out
    assert here.read("/proc/sysrq-trigger") == ""
    assert proof.read(here.system) is None
    assert here.setup("test", "--on-this-machine", "--dry-run") == 0


def test_a_dump_that_came(here, examples, monkeypatch, capsys):
    crashed(here, monkeypatch, capsys)
    begun = proof.read(here.system)
    assert (begun.state, begun.before) == ("pending", ("/var/crash/2026-01-01-01-01",))
    assert stat.S_IMODE((here.root / "var/lib/crashpy/proof.json").stat().st_mode) == 0o600
    assert here.setup("test", "--result") == 1  # not yet
    assert "result:       pending\n" in capsys.readouterr().out
    boot(here, "second")
    saved(here, examples / "vmcore-null")
    assert status(here.system).proof.state == "success"
    assert proof.read(here.system).state == "pending"  # who only looks writes nothing
    assert here.setup("test", "--result") == 0
    output = capsys.readouterr().out
    assert f"dump:         /var/crash/{FOLDER}\n" in output
    assert proof.read(here.system).state == "success"
    here.setup("status")
    assert "tested:       success, on this machine, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("comes", "why"),
    [
        (lambda tree: None, "no dump came to /var/crash"),  # noqa: ARG005
        (lambda tree: saved(tree, b"cut off"), f"/var/crash/{FOLDER} is "),
    ],
)
def test_no_dump_came(here, monkeypatch, capsys, comes, why):
    crashed(here, monkeypatch, capsys)
    boot(here, "second")
    comes(here)
    assert here.setup("test", "--result") == 1
    assert f"why:          {why}" in capsys.readouterr().out
    assert proof.read(here.system).state == "fail"
    [finding] = [f for f in check(here.system, network=False) if "left no dump" in f.what]
    assert finding.severity == "error"


def test_a_server_is_asked_for_the_result_alone(here, monkeypatch, capsys):
    config = Config.read(here.system)
    config.assign("target", "nfs://127.0.0.1:1/none")
    for edit in config.edits():
        here.write(edit.name, edit.new)
    proof.write(here.system, proof.begun(Config.read(here.system), proof.HERE))
    boot(here, "second")
    assert status(here.system).proof.state == "pending"
    monkeypatch.setattr(
        proof, "_place", lambda *_: (_ for _ in ()).throw(CommandError("no answer"))
    )
    assert here.setup("test", "--result") == 1
    assert "why:          no answer" in capsys.readouterr().out
    assert proof.read(here.system).state == "pending"


def user(_):
    os.geteuid = lambda: 1000


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (user, "only root may crash the machine"),
        (lambda tree: tree.machine(loaded=0), "no capture kernel is loaded: `crashpy setup st"),
        (lambda tree: (tree.root / "proc/sysrq-trigger").unlink(), "there is no /proc/sysrq-trig"),
        (lambda tree: tree.suse("KDUMP_SAVEDIR=ftp:///x\n"), "ftp: no host, or a wrong port"),
    ],
)
def test_a_crash_for_nothing_is_refused(here, monkeypatch, capsys, damage, sentence):
    monkeypatch.setattr(os, "geteuid", os.geteuid)
    damage(here)
    typed(monkeypatch, f"{socket.gethostname()}\n")
    assert here.setup("test", "--on-this-machine") == 3
    assert capsys.readouterr().err.startswith(f"crashpy setup test: {sentence}")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--on-this-machine"], "--on-this-machine crashes the running kernel: it does not go"),
        (["--on-this-machine", "--result"], "--on-this-machine begins a test, --result looks"),
        (["--result"], "nothing was ever tried here: `crashpy setup test`"),
    ],
)
def test_wrong_words(tree, capsys, words, sentence):
    assert tree.setup("test", *words) == 3
    assert capsys.readouterr().err.startswith(f"crashpy setup test: {sentence}")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"before": 1}'])
def test_a_damaged_record(tree, capsys, text):
    tree.write("/var/lib/crashpy/proof.json", text)
    assert tree.setup("test", "--result") == 3
    assert "proof.json: damaged: remove it, and test again" in capsys.readouterr().err
    assert tree.setup("status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["proof"] is None
    assert any("damaged" in finding.what for finding in check(tree.system, network=False))


def findings(tree):
    return [
        f.what for f in check(tree.system, network=False) if "test" in f.what or "tried" in f.what
    ]


def test_the_doctor_asks_for_proof(tree):
    assert findings(tree) == ["nobody has tried whether a crash leaves a dump here"]
    config = Config.read(tree.system)
    proof.write(tree.system, proof.begun(config, proof.MACHINE).ends("success"))
    assert findings(tree) == []
    tree.suse('# a comment more\nKDUMP_SAVEDIR="/var/crash"\nKDUMP_CPUS="2"\n')
    assert findings(tree) == []
    tree.suse('KDUMP_SAVEDIR="/var/crash"\nKDUMP_CPUS="3"\n')
    tree.write("/proc/sys/kernel/osrelease", "6.2.0\n")
    [what] = findings(tree)
    assert what.startswith("the kernel and the configuration changed after the test of ")


# In a virtual machine.


@pytest.fixture
def tools(monkeypatch):
    """Every tool is there but those that a test takes away."""
    gone = set()
    monkeypatch.setattr(
        System, "tool", lambda _, name: None if name in gone else f"/usr/bin/{name}"
    )
    return gone


@pytest.mark.parametrize(
    ("tool", "package"),
    [
        ("qemu-system-x86_64", "qemu-system-x86 (or qemu-kvm)"),
        ("mke2fs", "e2fsprogs"),
        ("debugfs", "e2fsprogs"),
        ("kexec", "kexec-tools"),
        ("busybox", "busybox-static"),
    ],
)
def test_a_missing_tool_is_one_sentence(tree, tools, capsys, tool, package):
    tools.add(tool)
    assert tree.setup("test") == 3
    sentence = f"{tool}: there is no such program: install {package}"
    assert capsys.readouterr().err == f"crashpy setup test: {sentence}\n"


@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "qemu-system-x86_64 with 1 GiB, crashkernel=256M"),
        (["--crashkernel", "1G"], "qemu-system-x86_64 with 3 GiB, crashkernel=1024M"),
        (["--crashkernel", "crashkernel=2G-:192M"], "with 1 GiB, crashkernel=192M"),
        (["--memory", "2G"], "with 2 GiB, crashkernel=256M"),
    ],
)
def test_what_the_virtual_machine_is(tree, capsys, words, line):
    assert tree.setup("test", "--dry-run", *words) == 0
    output = capsys.readouterr().out
    assert line in output
    assert "its kernel: /var/lib/kdump/kernel, Linux 6.1.0-9-amd64\n" in output


def no_size(tree):
    tree.machine(reserved=0, cmdline="ro")


def no_kernel(tree):
    (tree.root / "var/lib/kdump/kernel").unlink()
    (tree.root / "boot/vmlinuz-6.1.0-9-amd64").unlink()


def no_release(tree):
    (tree.root / "proc/sys/kernel/osrelease").unlink()


@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize(
    ("damage", "words", "sentence"),
    [
        (no_size, [], "nothing is reserved here, nor configured: give --crashkernel SIZE"),
        (no_kernel, [], "no kernel 6.1.0-9-amd64 in "),
        (no_release, [], "which kernel runs is not known: is /proc mounted?"),
        (None, ["--crashkernel", "much"], '"much" is not a size such as 256M'),
        (None, ["--crashkernel", "64G-:1G"], "64G-:1G reserves nothing on this machine"),
        (None, ["--memory", "much"], '"much" is not a size such as 256M'),
        (None, ["--memory", "300M"], "300 MiB of memory do not hold 256 MiB for the capture kern"),
        (None, ["--seconds", "0"], "--seconds 0: a crash takes longer than that"),
        (None, ["--keep", "/proc"], "/proc: it is there, and not empty"),
    ],
)
def test_what_cannot_be_rehearsed_is_one_sentence(tree, capsys, damage, words, sentence):
    if damage:
        damage(tree)
    assert tree.setup("test", *words) == 3
    assert capsys.readouterr().err.startswith(f"crashpy setup test: {sentence}")


def test_another_architecture(tree, tools, capsys, monkeypatch):  # noqa: ARG001
    monkeypatch.setattr(System, "machine", property(lambda _: "s390x"))
    assert tree.setup("test") == 3
    assert "a crash of s390x is not rehearsed: use --on-this-machine" in capsys.readouterr().err


def test_the_host_s_configuration_with_another_target(tree, tmp_path):
    tree.suse(
        'KDUMP_SAVEDIR="ftp://joe:geheim@h/x"\nKDUMP_DUMPLEVEL=17\nKDUMP_IMMEDIATE_REBOOT=no\n'
    )
    config = Config.read(tree.system)
    chosen = rehearsal.Machine("qemu-system-x86_64", "/k", "6.1", "256M", 1 << 30)
    overlay, notes = rehearsal._configuration(config, chosen, tmp_path / "x")
    tried = Config.read(overlay)
    assert tried.get("target").value == "/var/crash"
    assert (tried.get("level").value, tried.get("finally").value) == ("17", "reboot")
    assert overlay.cmdline == "console=ttyS0 panic=5 ignore_loglevel no_timer_check"
    assert notes == [
        "not tried: target=ftp://joe@h/x; the virtual machine has /var/crash",
        "not tried: finally=shell; the virtual machine has reboot",
    ]
    assert "geheim" in tree.read("/etc/sysconfig/kdump")


CONSOLE = "Linux version 6.1\ncrashpy: reserved 1\ncrashpy: crash\nLinux version 6.1\n"


def test_how_much_memory_was_to_spare():
    rows = ["Linux version 6.1", "[ 1.0] crashpy: the least memory that was available: 75944 kB"]
    assert rehearsal._spare(rows) == 75944 << 10
    assert rehearsal._spare([]) is None


@pytest.mark.parametrize(
    ("console", "ended", "why"),
    [
        ("", True, "the virtual machine's kernel said nothing: has it a serial console?"),
        ("crashpy: reserved 0\n", True, "the kernel reserved nothing: crashkernel= is too large"),
        ("crashpy: not loaded\n", True, "kexec could not load the capture kernel"),
        (f"{CONSOLE}Out of memory: Killed", True, "the capture kernel ran out of memory: reserve"),
        ("Linux version 6.1\nVFS: cannot\n", True, "the kernel did not come up in the virtual"),
        ("Linux version 6.1\ncrashpy: crash\n", True, "the capture kernel did not start"),
        (CONSOLE, True, "the capture environment saved nothing"),
        (CONSOLE, False, "nothing had been saved after 900 seconds"),
    ],
)
def test_why_there_is_no_dump(tmp_path, console, ended, why):
    (tmp_path / "log").write_text(console)
    chosen = rehearsal.Machine("qemu", "/k", "6.1", "256M", 1 << 30)
    rows = rehearsal._console(tmp_path / "log")
    assert rehearsal._why(rows, chosen, ended=ended).startswith(why)
