"""help"""

import importlib

import pytest

from crashpy.session import Session

page = importlib.import_module("crashpy.commands.help").page


@pytest.fixture
def session(opened) -> Session:
    return Session(opened("vmcore-null").dump)


def run(session: Session, line: str) -> list[str]:
    return list(session.run(line))


def test_the_list_of_commands(session):
    shown = run(session, "help")
    table = shown[1 : shown.index("", 1)]
    assert sorted(" ".join(table).split()) == sorted(session.names())
    columns = [[row[i : i + 15].strip() for row in table] for i in range(0, 75, 15)]
    assert [name for column in columns for name in column if name] == session.names()
    assert all(len(row) % 15 == 0 for row in table)


def test_a_page(session):
    shown = run(session, "help repeat")
    assert shown[:5] == [
        "",
        "NAME",
        "  repeat - run a command again and again",
        "",
        "SYNOPSIS",
    ]
    assert [line for line in shown if line and not line.startswith(" ")] == [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "EXAMPLES",
    ]


def test_through_an_alias(session):
    assert run(session, "man q") == run(session, "help quit") == run(session, "help q")


def test_every_page(session):
    shown = run(session, "help all")
    assert shown.count("NAME") == len(session.names())
    assert not [line for line in shown if line.startswith("help: ")]


def test_other_pages(session):
    assert "< FILE" in "\n".join(run(session, "help input"))
    assert "set scroll off" in "\n".join(run(session, "help output"))
    assert run(session, "help nosuch") == ['No help data for "nosuch" is available.']
    assert run(session, "help -m") == ["help: -m: crashpy has no such table"]
    assert run(session, "help -q")[0] == "Usage:"


def test_options_are_explained(session):
    options = dict(page(session.command("set")).options)
    assert options["-c cpu"] == "the task that was on this CPU"
