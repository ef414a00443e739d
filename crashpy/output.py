"""Where the lines of a session go: the terminal, a file, a pipe.

A line is a `str` without its line feed. Two kinds of lines are more than text.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

FLUSH_SECONDS = 0.1


class Report(str):
    """A line of crash's error(): it reaches the terminal even when output is redirected."""

    __slots__ = ()


class Unended(str):
    """A line that crash prints without its line feed."""

    __slots__ = ()


def ended(line: str) -> str:
    return line if isinstance(line, Unended) else line + "\n"


def encodable(text: str) -> str:
    """The text with what no stream can hold written as backslash escapes."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


class Console:
    """The screen of a session. The prompt's loop brings its own, with a pager."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out, self._err = out, err

    @property
    def out(self) -> TextIO:
        return self._out or sys.stdout

    @property
    def err(self) -> TextIO:
        return self._err or sys.stderr

    def show(self, lines: Iterable[str]) -> None:
        """Write lines as they come."""
        out, due = self.out, time.monotonic() + FLUSH_SECONDS
        try:
            for line in lines:
                try:
                    out.write(ended(line))
                except UnicodeEncodeError:
                    out.write(encodable(ended(line)))
                if time.monotonic() > due:
                    out.flush()
                    due = time.monotonic() + FLUSH_SECONDS
        finally:
            out.flush()

    def complain(self, text: str) -> None:
        """A line for standard error, after all that was shown before it."""
        self.out.flush()
        self.err.write(encodable(text) + "\n")
        self.err.flush()

    def flush(self) -> None:
        """Before another program writes to the same terminal."""
        self.out.flush()


Write = Callable[[str], object]


@contextlib.contextmanager
def to_file(name: str, *, append: bool) -> Iterator[Write]:
    """A function that writes lines to a file."""
    mode = "a" if append else "w"
    with open(name, mode, encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
        yield lambda line: file.write(encodable(ended(line)))


@contextlib.contextmanager
def to_pipe(command: str) -> Iterator[Write]:
    """A function that writes lines to a shell's command; it ends with the block."""
    with subprocess.Popen(
        command,
        shell=True,
        stdin=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="surrogateescape",
    ) as process:
        assert process.stdin
        pipe = process.stdin
        try:
            yield lambda line: pipe.write(encodable(ended(line)))
        finally:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def from_shell(command: str) -> Iterator[str]:
    """What a shell's command prints, line by line."""
    with subprocess.Popen(
        command,
        shell=True,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="surrogateescape",
    ) as process:
        assert process.stdout
        for line in process.stdout:
            yield line.removesuffix("\n") if line.endswith("\n") else Unended(line)
