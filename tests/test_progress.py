"""Progress: silence for what is quick, a line for what is not, nothing in a pipe."""

import io
import time

from crashpy import progress
from crashpy.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_quick_step_is_not_shown():
    screen = Terminal()
    with Progress(screen) as steps:
        steps("opening")
    assert screen.getvalue() == ""


def test_a_slow_step_is_shown_and_erased(monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 0.01)
    screen = Terminal()
    with Progress(screen) as steps:
        steps("unpacking vmlinux.zst")
        time.sleep(0.2)
        assert screen.getvalue() == "\rplease wait... (unpacking vmlinux.zst)"
    shown, erased = screen.getvalue().split("\r")[1:3]
    assert erased == " " * len(shown)


def test_a_pipe_stays_clean(monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 0)
    screen = io.StringIO()
    with Progress(screen) as steps:
        steps("unpacking")
        time.sleep(0.05)
    assert screen.getvalue() == ""
