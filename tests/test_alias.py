"""alias"""

import pytest

from crashpy.session import Session


@pytest.fixture
def session(opened) -> Session:
    return Session(opened("vmcore-null").dump)


def run(session: Session, line: str) -> list[str]:
    return list(session.run(line))


def test_made_shown_and_deleted(session):
    shown = ["ORIGIN   ALIAS    COMMAND", "runtime  kp       kmem -p | grep x "]
    assert run(session, 'alias kp "kmem -p | grep x"') == shown
    assert run(session, "alias kp") == shown
    assert run(session, "alias")[-1] == shown[1]
    assert run(session, 'alias kp ""') == ["alias deleted: kp"]
    assert run(session, "alias kp") == [shown[0], "alias does not exist: kp"]
    assert run(session, 'alias kp ""') == []


def test_the_newest_comes_last(session):
    run(session, "alias man set")
    assert run(session, "alias")[-1] == "runtime  man      set "
    assert len(run(session, "alias")) == 16


def test_what_cannot_be_one(session):
    assert run(session, "alias set help") == ["alias: cannot alias existing command name: set"]
    assert run(session, "alias zz nosuch") == [
        "alias: invalid alias attempt on non-existent command: nosuch"
    ]


def test_none_left(session):
    session.aliases.clear()
    assert run(session, "alias") == ["alias: alias list is empty"]
