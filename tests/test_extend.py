"""extend"""

import pytest

from crashpy.session import Session

EXTENSION = '''
from dataclasses import dataclass
from crashpy.command import command

@dataclass(frozen=True)
class Greeting:
    name: str

@command(usage=" ")
def hello(dump):
    """greet"""
    yield Greeting(dump.vmcore)

@hello.text
def lines(greetings):
    return (f"hello {g.name}" for g in greetings)
'''


@pytest.fixture
def session(opened, tmp_path, monkeypatch) -> Session:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CRASH_EXTENSIONS", raising=False)
    (tmp_path / "hello.py").write_text(EXTENSION)
    (tmp_path / "other.py").write_text("x = 1\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "clash.py").write_text(EXTENSION.replace("hello", "set"))
    return Session(opened("vmcore-null").dump)


def run(session: Session, line: str) -> list[str]:
    return list(session.run(line))


def test_loaded_used_and_unloaded(session):
    run(session, "alias hello set")
    assert run(session, "extend hello.py") == [
        'extend: alias "hello" deleted: name clash with extension command',
        "./hello.py: extension loaded",
    ]
    assert run(session, "hello") == ["hello vmcore-null"]
    assert run(session, "hello --json") == ['{"name": "vmcore-null"}']
    assert "hello" in session.names()
    assert run(session, "help hello")[2] == "  hello - greet"
    assert run(session, "extend") == ["EXTENSION   COMMANDS", "./hello.py  hello "]
    assert run(session, "extend hello.py") == ["./hello.py: extension already loaded"]
    assert run(session, "extend -u hello.py") == ["./hello.py: extension unloaded"]
    assert run(session, "hello") == ["crash: command not found: hello"]
    assert run(session, "extend -u hello.py") == ["extend: hello.py: not loaded"]


def test_all_unloaded(session):
    run(session, "extend hello.py")
    assert run(session, "extend -u") == ["./hello.py: extension unloaded"]
    assert run(session, "extend") == []


def test_found_in_other_folders(session, tmp_path, monkeypatch):
    monkeypatch.setenv("CRASH_EXTENSIONS", str(tmp_path))
    monkeypatch.chdir("/")
    assert run(session, "extend hello.py") == [f"{tmp_path}/hello.py: extension loaded"]
    assert f"{tmp_path}/hello.py" in run(session, "extend -s")


def test_what_can_be_loaded(session):
    assert run(session, "extend -s") == ["./clash.py", "./hello.py"]


@pytest.mark.parametrize(
    ("file", "messages"),
    [
        ("nosuch.so", ["extend: nosuch.so: No such device or address"]),
        ("broken.py", ["extend: ./broken.py: ZeroDivisionError: division by zero"]),
        (
            "other.py",
            ["extend: ./other.py: no commands registered: extension unloaded"],
        ),
        (
            "clash.py",
            [
                'extend: ./clash.py: "set" is a duplicate of a currently-existing command',
                "extend: ./clash.py: extension unloaded",
            ],
        ),
    ],
)
def test_what_cannot(session, file, messages):
    assert run(session, f"extend {file}") == messages
    assert session.extensions == {}


def test_options(session):
    assert run(session, "extend -su") == ["extend: -u and -s are mutually exclusive"]
    assert run(session, "extend -l")[:2] == [
        "extend: -l requires one or more extension library arguments",
        "Usage:",
    ]
