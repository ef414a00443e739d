"""What of a damaged dump can still be used: tried, not guessed.

A process of its own looks, as a damaged file may kill it or keep it for ever.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

PATIENCE_SECONDS = 120
# What people look at first: the command, and what its records are.
LOOKS = {
    "log": "messages",
    "ps": "tasks",
    "bt -a": "stacks",
    "mod": "modules",
    "mount": "mounts",
    "kmem -i": "figures",
}


@dataclass
class Usable:
    """How far one came."""

    refused: str = "it could not be looked into"  # why it cannot be opened; empty: it can
    records: dict[str, int] = field(default_factory=dict)  # by command
    troubles: dict[str, int] = field(default_factory=dict)  # messages of what cannot be read

    def sentences(self) -> Iterator[str]:
        if self.refused:
            yield f"cannot be opened: {self.refused}"
        good = [name for name in LOOKS if self.records.get(name)]
        if not good:
            yield "nothing of it is of use"
            return
        counted = (f"{name} ({self.records[name]} {LOOKS[name]})" for name in good)
        yield f"still of use: {', '.join(counted)}"
        if gaps := [name for name in good if self.troubles.get(name)]:
            yield f"with gaps: {', '.join(gaps)}"
        if lost := [name for name in LOOKS if name not in good and not self.refused]:
            yield f"of no use: {', '.join(lost)}"


def usable(paths: Sequence[str]) -> Usable:
    """Open a dump, its kernel where it is found, and run the commands."""
    command = [sys.executable, "-P", "-m", "crashpy.usable", *paths]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        said = done.stdout
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
    found = Usable()
    for line in said.decode().splitlines():
        name, records, troubles = json.loads(line)
        if name == "open":
            found.refused = troubles
        else:
            found.records[name], found.troubles[name] = records, troubles
    return found


def _look(paths: Sequence[str]) -> Iterator[tuple[str, int, int | str]]:
    """In the process of its own: what became of each look."""
    from crashpy.command import CommandError
    from crashpy.opening import OpenOptions, open_dump
    from crashpy.output import Report
    from crashpy.session import Session
    from crashpy.settings import Settings

    try:
        dump = open_dump(paths, options=OpenOptions(debuginfod=False))
        session = Session(dump, Settings(silent=True, scroll=False, output="json"))
    except CommandError as error:
        reason = str(error).removeprefix(f"{paths[0]}: ").partition("; ")[0]
        yield "open", 0, reason
        yield "log", _log_lines(paths), 0
        return
    yield "open", 0, ""
    for name in LOOKS:
        lines = [*session.run(name)]
        reports = sum(isinstance(line, Report) for line in lines)
        yield name, len(lines) - reports, reports


def _log_lines(paths: Sequence[str]) -> int:
    """By VMCOREINFO alone, as `crashpy --log` reads it."""
    from crashpy.command import CommandError
    from crashpy.convert import recognised
    from crashpy.opening.log import log_text

    try:
        text = log_text([recognised(path) for path in paths])
    except (CommandError, LookupError):
        return 0
    return sum(line.startswith("[") for line in text.splitlines())


if __name__ == "__main__":
    for look in _look(sys.argv[1:]):
        sys.stdout.write(f"{json.dumps(look)}\n")
        sys.stdout.flush()
