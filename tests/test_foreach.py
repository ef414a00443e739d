"""foreach: which tasks, which command, with what."""

import json

import pytest

from crashpy.command import CommandError, UsageError
from crashpy.commands.foreach import parse, refuse


def shown(session, line):
    return list(session.run(line))


def test_only_the_first_command_counts():
    given = parse(["1", "sh", "bt", "-l", "files", "set"])
    assert given.selectors == ["1", "sh"]
    assert given.keyword == "bt"
    assert given.arguments == ["files", "set"]
    assert given.words == ["-l"]


def test_options_go_to_the_command_that_has_them():
    assert parse(["vm", "-p", "-t", "-R", "1", "-R", "2"]).words == ["-p", "-R", "2"]
    assert parse(["bt", "-FF", "-h"]).words == ["-F", "-F", "-x"]
    assert parse(["ps", "-s", "-y", "RR"]).words == ["-s", "-y", "RR"]


@pytest.mark.parametrize("words", [[], ["-s"], ["-Z", "ps"], ["ps", "-R"]])
def test_usage(words):
    with pytest.raises(UsageError):
        parse(words)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bt -x -d", "bt: -x and -d options are mutually exclusive"),
        ("bt -g", "bt -g option is not supported when issued from foreach"),
        ("vm -m -v", "vm command accepts only one of -p, -m or -v flags"),
        ("vm -m -R 1", "vm: -m is not applicable to the -R option"),
        ("files -p", "files command does not support -p option"),
        ("set -R x", "set command does not support -R option"),
        ("ps -l -G", "-G not supported with -l option"),
        ("vtop", "foreach command requires address argument"),
        ("sig -l", "sig: -l and -s options are not applicable"),
    ],
)
def test_refusals(line, message):
    with pytest.raises(CommandError, match=message):
        refuse(parse(line.split()), pytest.fail)


@pytest.mark.parametrize(
    ("line", "first"),
    [
        ("foreach foo ps", 'foreach: unknown argument: "foo"'),
        ("foreach 1", "foreach: no keywords specified"),
        ("foreach SW ps", "foreach: invalid task state for this kernel: SW"),
        ("foreach RU IN ps", "foreach: only one task state allowed"),
        ("foreach user kernel ps", "foreach: user and kernel are mutually exclusive!"),
        ("foreach kernel gleader ps", "foreach: gleader and kernel are mutually exclusive!"),
        ("foreach '[' ps", "foreach: invalid regular expression: ["),
    ],
)
def test_messages(opened, line, first):
    assert shown(opened("vmcore-null"), line)[0] == first


def test_a_wrong_selector_does_not_stand_for_all_tasks(opened):
    assert shown(opened("vmcore-null"), "foreach foo set") == ['foreach: unknown argument: "foo"']


def pids(session, selection):
    rows = (json.loads(line) for line in session.run(f"foreach {selection} ps --json"))
    return [row["pid"] for row in rows]


def test_selections(opened):
    session = opened("vmcore-null")
    tasks = session.dump.tasks
    assert pids(session, "2 1") == [1, 2]
    assert pids(session, "user") == [t.pid for t in tasks if not t.kthread]
    assert pids(session, "gleader") == [t.pid for t in tasks if not t.kthread and t.pid == t.tgid]
    assert pids(session, "active") == [t.pid for t in tasks if tasks.is_active(t)]
    assert pids(session, "UN") == [t.pid for t in tasks if tasks.state(t) == "UN"]
    assert pids(session, "'^ksoft'") == [t.pid for t in tasks if t.comm.startswith("ksoft")]
    assert pids(session, "\\init") == [1]
    assert pids(session, "user RU") == [
        t.pid for t in tasks if not t.kthread and tasks.state(t) == "RU"
    ]


def test_a_line_introduces_each_task(opened):
    session = opened("vmcore-null")
    lines = shown(session, "foreach 1 2 set")
    assert lines[0].startswith("PID: 1        TASK: ")
    assert lines[1] == "    PID: 1"
    assert lines[6] == ""
    assert lines[7].startswith("PID: 2        TASK: ")


def test_records_are_those_of_the_command(opened):
    rows = [json.loads(line) for line in opened("vmcore-null").run("foreach 1 2 set --json")]
    assert [row["pid"] for row in rows] == [1, 2]
    assert rows[0]["command"] == "set"
    assert rows[0]["records"][0]["pid"] == 1


def test_the_first_task_shows_before_the_last_is_read(opened):
    session = opened("vmcore-null")
    lines = session.run("foreach set")
    assert next(lines).startswith("PID: 0 ")
    lines.close()


def test_messages_are_the_commands_own(opened):
    assert shown(opened("vmcore-null"), "foreach 2 ps -a")[1].startswith("ps: no user stack")
