"""Where the lines of a session go: the terminal, a file, a pipe.

A line is a `str` without its line feed. Two kinds of lines are more than text.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from typing import IO, TextIO

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


class Stream:
    """A text file that lines are written to; a reader never waits long for one."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._due = time.monotonic() + FLUSH_SECONDS

    def write(self, line: str) -> None:
        try:
            self._file.write(ended(line))
        except UnicodeEncodeError:
            encoding = getattr(self._file, "encoding", None) or "utf-8"
            self._file.write(ended(line).encode(encoding, "backslashreplace").decode(encoding))
        if (now := time.monotonic()) > self._due:
            self._file.flush()
            self._due = now + FLUSH_SECONDS


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
        stream = Stream(self.out)
        try:
            for line in lines:
                stream.write(line)
        finally:
            self.out.flush()

    def complain(self, text: str) -> None:
        """A line for standard error, after all that was shown before it."""
        self.out.flush()
        Stream(self.err).write(text)
        self.err.flush()

    def flush(self) -> None:
        """Before another program writes to the same terminal."""
        self.out.flush()


@contextlib.contextmanager
def to_file(name: str, *, append: bool) -> Iterator[Stream]:
    """Lines go to a file."""
    mode = "a" if append else "w"
    with open(name, mode, encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
        yield Stream(file)


@contextlib.contextmanager
def to_pipe(command: str) -> Iterator[Stream]:
    """Lines go to a shell's command, which has ended when the block ends."""
    with subprocess.Popen(
        command,
        shell=True,
        stdin=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="surrogateescape",
    ) as process:
        assert isinstance(process.stdin, TextIOWrapper)
        try:
            yield Stream(process.stdin)
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()


def from_shell(command: str) -> Iterator[str]:
    """What a shell's command prints, line by line.

    It does not see our standard input unless that is a terminal: the rest of a
    script is not for it to read.
    """
    with subprocess.Popen(
        command,
        shell=True,
        stdin=None if sys.stdin and sys.stdin.isatty() else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="surrogateescape",
    ) as process:
        assert process.stdout
        for line in process.stdout:
            yield line.removesuffix("\n") if line.endswith("\n") else Unended(line)
