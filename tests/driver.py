"""Run command lines in crash, or in crashpy, and keep what each printed.

Both programs read commands from a pipe and pass `!echo MARK` to a shell, so one
driver serves both. A list of command lines holds one a line; `#` starts a comment;
`A ;; B` are steps whose output counts as one (for lines that change the session);
``@let NAME = COMMAND :: REGEX`` binds $NAME to group 1 of the first match in what
COMMAND prints.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Answer:
    line: str  # the command line, $NAMEs filled in
    printed: str
    seconds: float
    died: bool = False


class Driver:
    """One session of a program that reads command lines from a pipe."""

    def __init__(self, argv: Sequence[str], cwd: Path, *, patience: float = 120) -> None:
        self._argv, self._cwd, self._patience = argv, cwd, patience
        self._process: subprocess.Popen[bytes] | None = None
        self._marks = 0
        self.start_seconds = 0.0

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(self, line: str) -> Answer:
        """What the program prints for one line (or several, joined by ` ;; `)."""
        if self._process is None:
            self._start()
        began = time.monotonic()
        printed, died = "", False
        for step in line.split(" ;; "):
            self._send(step)
            answer, died = self._until_mark()
            printed += answer
            if died:
                self._stop()
                break
        return Answer(line, printed, time.monotonic() - began, died)

    def restart(self) -> None:
        """Begin a new session with the next line."""
        self._stop()

    def _start(self) -> None:
        env = dict(os.environ, TERM="dumb", COLUMNS="80", LINES="24", TZ="UTC", LC_ALL="C.UTF-8")
        env["HOME"] = str(self._cwd)
        began = time.monotonic()
        self._process = subprocess.Popen(
            self._argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self._cwd,
            env=env,
            start_new_session=True,
        )
        assert self._process.stdout
        os.set_blocking(self._process.stdout.fileno(), False)
        greeting, died = self._until_mark()
        self.start_seconds = time.monotonic() - began
        if died:
            raise RuntimeError(f"{self._argv[0]} did not start: {greeting}")

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.communicate(b"quit\n", timeout=5)
        except (subprocess.TimeoutExpired, BrokenPipeError, ValueError):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _send(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass

    def _until_mark(self) -> tuple[str, bool]:
        assert self._process is not None
        assert self._process.stdout is not None
        self._marks += 1
        # In two pieces, so that a program that echoes its input does not show the mark.
        mark = f"@@mark{self._marks}@@".encode()
        self._send(f"!echo @@ma''rk{self._marks}@@")
        out = self._process.stdout.fileno()
        heard = b""
        end = time.monotonic() + self._patience
        while mark not in heard[-65600:]:
            left = end - time.monotonic()
            if left <= 0:
                return heard.decode(errors="replace") + "\n[no answer]", True
            if not select.select([out], [], [], left)[0]:
                continue
            piece = os.read(out, 1 << 16)
            if not piece:
                return heard.decode(errors="replace") + "\n[died]", True
            heard += piece
        return heard.partition(mark)[0].decode(errors="replace"), False


def ask(driver: Driver, lists: Sequence[Path]) -> Iterator[tuple[Path, Answer]]:
    """Every command line of the lists, in order, and what the program printed for it."""
    for path in lists:
        names: dict[str, str] = {}

        def filled(text: str, names: dict[str, str] = names) -> str:
            return re.sub(r"\$([A-Z][A-Z0-9_]*)", lambda m: names.get(m[1], m[0]), text)

        for raw in path.read_text().splitlines():
            if not raw.strip() or raw.startswith("#"):
                continue
            if let := re.match(r"@let (\w+) = (.*?) :: (.*)$", raw):
                printed = driver.run(filled(let[2])).printed
                if found := re.search(filled(let[3]), printed, re.MULTILINE):
                    names[let[1]] = found[1]
                continue
            line = filled(raw)
            if not re.search(r"\$[A-Z]", line):
                yield path, driver.run(line)


def peak_mib(words: Sequence[str]) -> float:
    """The resident memory that `crashpy WORDS` has at most.

    Not getrusage()'s: a program begins with what the one that started it had at most.
    """
    script = (
        "import sys; from pathlib import Path; from crashpy.cli import main;"
        f"status = main({[*words]!r});"
        "print(Path('/proc/self/status').read_text(), file=sys.stderr); sys.exit(status)"
    )
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, input="exit\n")
    found = re.search(r"VmHWM:\s*(\d+) kB", ran.stderr)
    assert found, ran.stderr
    return int(found[1]) / 1024
