"""crash's output beside ours, and where they differ on purpose (deviations.toml)."""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Deviation:
    """Where crashpy prints something else than crash, on purpose."""

    command: re.Pattern[str]  # the whole command line
    reason: str
    lines: re.Pattern[str] | None  # only lines (of either) that match differ; None: any may
    dump: re.Pattern[str]

    def applies(self, dump: str, line: str) -> bool:
        return bool(self.command.fullmatch(line) and self.dump.search(dump))


@functools.cache
def deviations() -> tuple[Deviation, ...]:
    entries = tomllib.loads((HERE / "deviations.toml").read_text())["deviation"]
    return tuple(
        Deviation(
            re.compile(entry["command"]),
            entry["reason"],
            re.compile(entry["lines"]) if "lines" in entry else None,
            re.compile(entry.get("dump", "")),
        )
        for entry in entries
    )


def differences(dump: str, line: str, crash: str, ours: str) -> list[str]:
    """What differs between two outputs of a command line, but for the listed deviations."""
    crash, ours = unnumbered(crash), unnumbered(ours)
    known = [d for d in deviations() if d.applies(dump, line)]
    if any(d.lines is None for d in known):
        return []
    patterns = [d.lines for d in known if d.lines]

    def kept(text: str) -> list[str]:
        return [x for x in text.splitlines() if not any(p.search(x) for p in patterns)]

    return list(difflib.unified_diff(kept(crash), kept(ours), "crash", "crashpy", "", "", 1))


def unnumbered(text: str) -> str:
    """Without the numbers of the value history: they count what a session did before."""
    return re.sub(r"(^|= )\$\d+ = ", r"\1$N = ", text, flags=re.MULTILINE)
