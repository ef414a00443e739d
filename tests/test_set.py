"""set: contexts and variables (what crash prints of them is in tests/golden)."""

import importlib

import pytest

from crashpy.command import Address
from crashpy.dump import Dump
from crashpy.session import Session

module = importlib.import_module("crashpy.commands.set")
Context, Setting, lines, set_ = module.Context, module.Setting, module.lines, module.set_

SWAPPER = Context(
    pid=0, command="swapper/0", task=Address(0xFFFFFFFFA6409D00), same_pid=4,
    thread_info=Address(0xFFFFFFFFA6409D00), cpu=0, state="TASK_RUNNING", mark="ACTIVE",
)  # fmt: skip


def test_a_context():
    assert list(lines([SWAPPER])) == [
        "    PID: 0",
        'COMMAND: "swapper/0"',
        "   TASK: ffffffffa6409d00  (1 of 4)  [THREAD_INFO: ffffffffa6409d00]",
        "    CPU: 0",
        "  STATE: TASK_RUNNING (ACTIVE)",
    ]


@pytest.mark.parametrize(
    ("setting", "alone", "listed"),
    [
        (Setting("radix", 16), "output radix: 16 (hex)", "         radix: 16 (hexadecimal)"),
        (
            Setting("scroll", True, "/bin/more"),
            "scroll: on (/bin/more)",
            "        scroll: on (/bin/more)",
        ),
        (Setting("console", None), "console: not set", "       console: (not assigned)"),
        (Setting("core", True), "core: on (drop core on error message)", "          core: on"),
        (Setting("scope", 0), "scope: 0 (not set)", "         scope: 0 (not set)"),
        (Setting("scope", 0x10, "f"), "scope: 10 (f)", "         scope: 10 (f)"),
        (Setting("offline", "hide"), "      offline: hide", "       offline: hide"),
        (Setting("print_max", 200), "print_max: 200", "     print_max: 200"),
    ],
)
def test_a_variable(setting, alone, listed):
    assert list(lines([setting])) == [alone]
    assert list(lines([setting], variables=True)) == [listed]


@pytest.fixture
def session(opened) -> Session:
    """A session of its own: these tests change it."""
    shared = opened("vmcore-null").dump
    dump = Dump(shared.prog, shared.kernel, shared.vmcore)
    dump.tasks = shared.tasks
    return Session(dump)


def run(session: Session, line: str) -> list[str]:
    return list(session.run(line))


def test_the_context_moves(session):
    panicked = session.dump.context
    assert run(session, "set 1")[0] == "    PID: 1"
    assert session.dump.context.pid == 1
    assert run(session, f"set {session.dump.context.address:x}")[0] == "    PID: 1"
    assert run(session, "set -c 1") != []
    assert run(session, "set -c 1") == []  # it is already there
    run(session, "set -p")
    assert session.dump.context == panicked
    assert run(session, "set 99999") == ["set: invalid task or pid value: 99999"]
    assert session.dump.context == panicked


def test_cpus_that_are_none(session):
    assert run(session, "set -c 9") == ["set: invalid cpu number: system has only 4 cpus"]
    assert run(session, "set -c x") == ['set: x: "x" is not a digit 0 - 9']


def test_several_on_one_line(session):
    assert run(session, "set radix 16 print_max 10 hash off") == [
        "output radix: 16 (hex)",
        "print_max: 10",
        "hash: off",
    ]
    settings = session.settings
    assert (settings.radix, settings.print_max, settings.hash) == (16, 10, False)


def test_silence_says_nothing(session):
    assert run(session, "set silent") == ["silent: off"]
    assert run(session, "set silent on") == []
    assert run(session, "set silent") == []


def test_scope(session):
    schedule = session.dump.symbols.named("schedule").address
    assert run(session, "set scope schedule") == [f"scope: {schedule:x} (schedule)"]
    assert run(session, "set scope schedule+4") == [f"scope: {schedule + 4:x} (schedule+4)"]
    assert session.settings.scope == schedule + 4
    assert run(session, "set scope nosuch") == ["set: invalid command: set scope nosuch "]
    assert run(session, "set scope ffffffff81000000") == [
        "set: invalid text address: ffffffff81000000"
    ]


def test_errors_to_a_file(session, tmp_path):
    assert run(session, "set error /nosuch/file") == ["set: invalid path: /nosuch/file"]
    assert run(session, f"set error {tmp_path}/errors") == [f"error: {tmp_path}/errors"]
    assert run(session, "nosuch") == []
    assert run(session, "set error default") == ["error: default"]
    assert (tmp_path / "errors").read_text() == "crash: command not found: nosuch\n"


def test_keys_are_chosen_before_the_prompt(session):
    assert run(session, "set emacs") == ["set: cannot change vi editing mode during runtime"]
    assert run(session, "set edit emacs") == ["set: cannot change editing mode during runtime"]


def test_foreach_shows_tasks_without_moving(session):
    tasks = session.dump.tasks.with_pid(1)
    [found] = set_(session.dump, settings=session.settings, tasks=tasks)
    assert found.pid == 1
    assert session.dump.context.pid != 1
