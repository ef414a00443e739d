"""A command's lines on the terminal: a screenful as it is, more through a pager."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import IO

from crashpy.output import Console, encodable, ended
from crashpy.settings import Settings, crashpager

LESS = ("less", "-E", "-X", "-R")
MORE = ("more",)
PATIENCE = 0.3  # seconds that lines wait for a screenful


class Terminal(Console):
    """The screen of an interactive session."""

    def __init__(self, settings: Settings, colour: Callable[[str], str] | None = None) -> None:
        super().__init__()
        self._settings = settings
        self._colour = colour

    def show(self, lines: Iterable[str]) -> None:
        """Write lines as they come, until the user has seen enough of them."""
        screen = Screen(pager(self._settings))
        colour = self._colour
        try:
            for line in lines:
                if colour is not None and line:
                    shown = colour(line)
                    screen.write(shown + ended(line)[len(line) :])
                else:
                    screen.write(ended(line))
        except BrokenPipeError:
            pass  # the pager was left: nobody wants the rest
        finally:
            screen.close()


class Screen:
    """Where one command's output goes on a terminal.

    Output that fits the screen is shown as it is; what exceeds it goes to a pager from
    its first line on, as crash's does. Of a command that takes its time, the lines so
    far are shown without waiting for a screenful. write() raises BrokenPipeError when
    the user left the pager.
    """

    def __init__(self, argv: Sequence[str] | None) -> None:
        self._argv = argv
        self._held: list[str] = []
        self._shown = 0  # lines that went to the screen before a pager was needed
        self._since = 0.0
        self._rows = max(shutil.get_terminal_size((80, 24)).lines - 1, 2)
        self._process: subprocess.Popen[str] | None = None
        self._out: IO[str] = sys.stdout
        self._through = argv is None

    def write(self, text: str) -> None:
        """Show one line with its line feed."""
        if self._through:
            self._out.write(encodable(text))
            if self._process is None:
                self._out.flush()
            return
        now = time.monotonic()
        if not self._held:
            self._since = now
        self._held.append(text)
        if self._shown + self._waiting() > self._rows:
            self._start()
        elif now - self._since > PATIENCE:
            self._release()

    def close(self) -> None:
        """The command has ended: wait until the user has read it."""
        self._release()
        process, self._process = self._process, None
        self._out = sys.stdout
        if process is None:
            return
        with contextlib.suppress(BrokenPipeError):
            if process.stdin:
                process.stdin.close()
        while True:
            with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is the pager's affair now
                process.wait()
                return

    def _waiting(self) -> int:
        """Lines held back; a block of lines may come as one string."""
        return sum(text.count("\n") for text in self._held)

    def _release(self) -> None:
        for text in self._held:
            sys.stdout.write(encodable(text))
        self._shown += self._waiting()
        self._held.clear()
        sys.stdout.flush()

    def _start(self) -> None:
        assert self._argv is not None
        self._through = True
        sys.stdout.flush()
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.PIPE,
                encoding="utf-8",
                errors="surrogateescape",
                # A pager that can run programs is no business of a dump's contents.
                env=dict(os.environ, LESSSECURE="1"),
            )
        if self._process and self._process.stdin:
            self._out = self._process.stdin
        held, self._held = self._held, []
        for text in held:
            self._out.write(encodable(text))


def pager(settings: Settings) -> Sequence[str] | None:
    """The program that `set scroll` chose, where it is installed."""
    if not settings.scroll:
        return None
    choices = {"CRASHPAGER": crashpager(), "more": MORE, "less": LESS}
    words = choices.get(settings.pager)
    return words if words and shutil.which(words[0]) else None
