"""py, drgn"""

import pytest

from crashpy.session import Session


@pytest.fixture
def session(opened) -> Session:
    return Session(opened("vmcore-null").dump)


def run(session: Session, line: str) -> list[str]:
    return list(session.run(line))


def test_a_value_is_shown(session):
    assert run(session, 'py prog["init_task"].comm') == ['(char [16])"swapper/0"']
    assert run(session, 'drgn "a b"') == ["'a b'"]
    assert run(session, "py (2 > 1)") == ["True"]


def test_names_last(session):
    assert run(session, "py x = 5; print(x)") == ["5"]
    assert run(session, "py x + 1") == ["6"]
    assert run(session, "py dump is session.dump") == ["True"]


def test_errors_are_one_line(session):
    assert run(session, "py (") == ["py: '(' was never closed: ("]
    assert run(session, "py 1 / 0") == ["py: ZeroDivisionError: division by zero"]
