"""repeat"""

import itertools
import time

import pytest

from crashpy.session import Session


@pytest.fixture
def session(opened) -> Session:
    return Session(opened("vmcore-null").dump)


def test_until_nobody_listens(session):
    assert list(itertools.islice(session.run("repeat set hash"), 3)) == ["hash: on"] * 3


def test_an_alias(session):
    assert list(itertools.islice(session.run("repeat hex"), 2)) == ["output radix: 16 (hex)"] * 2


def test_with_a_pause(session, monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    list(itertools.islice(session.run("repeat -3 set hash"), 3))
    assert slept == [3, 3]


def test_a_command_that_fails_is_not_repeated(session):
    assert list(session.run("repeat nosuch")) == ["crash: command not found: nosuch"]


def test_bad_words(session):
    assert list(session.run("repeat"))[:2] == ["Usage:", "  repeat [-seconds] command"]
    assert next(session.run("repeat -x ps")) == "Usage:"
    assert list(session.run("repeat -1x ps")) == ['repeat: 1x: "x" is not a digit 0 - 9']
    assert list(session.run("repeat -1")) == []
