"""A dump with its vmlinux beside the same dump without: what each command line prints."""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import crashpy
from crashpy.session import Session

HERE = Path(__file__).parent
LISTS = sorted((HERE / "golden" / "commands").glob("*.txt"))
VALUE = re.compile(r"\$\d+ = ")  # gdb counts what it printed, and skips what it could not


@dataclass(frozen=True)
class Difference:
    command: re.Pattern[str]
    lines: re.Pattern[str] | None
    within: re.Pattern[str] | None
    reason: str


@functools.cache
def known_differences() -> tuple[Difference, ...]:
    entries = tomllib.loads((HERE / "bare_differences.toml").read_text())["difference"]
    return tuple(
        Difference(
            re.compile(entry["command"]),
            re.compile(entry["lines"], re.MULTILINE) if "lines" in entry else None,
            re.compile(entry["within"], re.MULTILINE) if "within" in entry else None,
            entry["reason"],
        )
        for entry in entries
    )


@dataclass(frozen=True)
class Pair:
    line: str
    dwarf: str
    bare: str

    @property
    def identical(self) -> bool:
        return self.dwarf == self.bare

    @property
    def unexplained(self) -> list[str]:
        """What no entry of bare_differences.toml accounts for, as a diff."""
        if self.identical:
            return []
        dwarf, bare = self.dwarf, self.bare
        for known in known_differences():
            if not known.command.fullmatch(self.line):
                continue
            if not known.lines and not known.within:
                return []
            if known.lines:
                dwarf, bare = (
                    "\n".join(x for x in text.split("\n") if not known.lines.search(x))
                    for text in (dwarf, bare)
                )
            if known.within:
                dwarf, bare = known.within.sub("", dwarf), known.within.sub("", bare)
        one, other = dwarf.splitlines(), bare.splitlines()
        return list(difflib.unified_diff(one, other, "dwarf", "bare", "", "", 0))[2:]


def sessions(kernel: Path, dump: Path) -> tuple[Session, Session]:
    """With vmlinux, and without."""
    found = []
    for paths, source in (([kernel, dump], "dwarf"), ([dump], "btf")):
        opened = crashpy.open(*paths, debuginfo=source)
        opened.kernel, opened.vmcore = "vmlinux", "vmcore"
        found.append(Session(opened))
    return found[0], found[1]


def compared(kernel: Path, dump: Path, lists: Sequence[Path] = LISTS) -> Iterator[Pair]:
    """Every line of the lists, in both sessions."""
    dwarf, bare = sessions(kernel, dump)
    for path in lists:
        names: dict[str, str] = {}

        def filled(text: str, names: dict[str, str] = names) -> str:
            return re.sub(r"\$([A-Z][A-Z0-9_]*)", lambda m: names.get(m[1], m[0]), text)

        for raw in path.read_text().splitlines():
            if not raw.strip() or raw.startswith("#"):
                continue
            if let := re.match(r"@let (\w+) = (.*?) :: (.*)$", raw):
                if found := re.search(filled(let[3]), _answer(dwarf, filled(let[2])), re.MULTILINE):
                    names[let[1]] = found[1]
                continue
            line = filled(raw)
            if not re.search(r"\$[A-Z]", line):
                yield Pair(line, _answer(dwarf, line), _answer(bare, line))


def _answer(session: Session, line: str) -> str:
    printed = "\n".join(text for step in line.split(" ;; ") for text in session.run(step))
    return VALUE.sub("$ = ", printed)
