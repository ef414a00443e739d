"""waitq: who waits where."""

import json

import pytest

from crashpy.command import Address
from crashpy.commands.waitq import Empty, Waiter, lines, waitq

QUEUE = Address(0xFFFF800000001000)


def test_text():
    found = [Waiter(7, QUEUE, 1, "sh", QUEUE), Empty(QUEUE, "q"), Empty(QUEUE, None)]
    assert list(lines(found)) == [
        'PID: 7        TASK: ffff800000001000  CPU: 1    COMMAND: "sh"',
        'wait queue "q" (ffff800000001000) is empty',
        "wait queue ffff800000001000 is empty",
    ]


def test_init_waits_for_its_children(opened):
    session = opened("vmcore-null")
    dump = session.dump
    signal = dump.tasks.object(dump.tasks.with_pid(1)[0]).signal.value_()
    [found] = waitq(dump, words=("signal_struct.wait_chldexit", f"{signal:x}"))
    assert (found.pid, found.comm) == (1, "init")
    [line] = session.run(f"waitq --json signal_struct.wait_chldexit {signal:x}")
    assert json.loads(line)["task"] == str(found.task)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("waitq nosuch", 'waitq: cannot resolve "nosuch"'),
        ("waitq a.b", "must supply an address for a"),
        ("waitq signal_struct.nosuch 1", "nosuch is not a member of signal_struct"),
        ("waitq", "Usage:"),
    ],
)
def test_words_that_make_no_sense(opened, line, said):
    assert next(iter(opened("vmcore-null").run(line))) == said
