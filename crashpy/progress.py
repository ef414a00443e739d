"""What takes its time says so, on a terminal, while it lasts."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import TextIO

PATIENCE = 0.5  # seconds after which silence becomes a question


class Progress:
    """Names the step under way on one line that disappears with it.

    Called with each step's name; a context manager, so that the last one goes, too.
    """

    def __init__(self, screen: TextIO | None = None) -> None:
        self._screen = screen or sys.stderr
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()
        self._width = 0  # characters to erase

    def __call__(self, step: str) -> None:
        self._end()
        if self._screen.isatty():
            self._timer = threading.Timer(PATIENCE, self._show, (step,))
            self._timer.daemon = True
            self._timer.start()

    def _show(self, step: str) -> None:
        with self._lock:
            text = f"please wait... ({step})"
            self._width = len(text)
            self._screen.write(f"\r{text}")
            self._screen.flush()

    def _end(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        with self._lock:
            if self._width:
                self._screen.write(f"\r{' ' * self._width}\r")
                self._screen.flush()
            self._width = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
