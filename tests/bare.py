"""A dump with its vmlinux beside the same dump without: what each command line prints."""

from __future__ import annotations

import contextlib
import difflib
import functools
import os
import re
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drgn import Program, Qualifiers, Type, TypeKind

import crashpy
from crashpy.opening.finder import declarations
from crashpy.session import Session

HERE = Path(__file__).parent
LISTS = sorted((HERE / "golden" / "commands").glob("*.txt"))
LIVE_LISTS = sorted((HERE / "live" / "commands").glob("*.txt"))
VALUE = re.compile(r"\$\d+ = ")  # gdb counts what it printed, and skips what it could not
Pattern = re.Pattern[str]


@dataclass(frozen=True)
class Difference:
    """One entry of bare_differences.toml, which says what each part means."""

    command: Pattern
    reason: str
    lines: Pattern | None = None
    text: Pattern | None = None
    bare_text: Pattern | None = None
    words: tuple[Pattern, Pattern] | None = None
    answers: tuple[Pattern, Pattern] | None = None


@functools.cache
def _listed() -> dict[str, list[dict[str, Any]]]:
    return tomllib.loads((HERE / "bare_differences.toml").read_text())


@functools.cache
def known_differences() -> tuple[Difference, ...]:
    found = []
    for entry in _listed()["difference"]:
        parts = dict(entry)
        for part in parts.keys() & {"command", "lines", "text", "bare_text"}:
            parts[part] = re.compile(parts[part], re.MULTILINE)
        for part in parts.keys() & {"words", "answers"}:
            dwarf, bare = parts[part]
            parts[part] = re.compile(dwarf), re.compile(bare)
        found.append(Difference(**parts))
    return tuple(found)


@dataclass(frozen=True)
class Pair:
    line: str
    dwarf: str
    bare: str

    @property
    def identical(self) -> bool:
        return self.dwarf == self.bare

    @functools.cached_property
    def unexplained(self) -> list[str]:
        """What no entry of bare_differences.toml accounts for, as a diff."""
        if self.identical:
            return []
        known = [each for each in known_differences() if each.command.fullmatch(self.line)]
        dwarf, bare = self.dwarf, self.bare
        for each in known:
            if each.answers and all(
                pattern.fullmatch(text)
                for pattern, text in zip(each.answers, (dwarf, bare), strict=True)
            ):
                return []
            if each.text:
                dwarf = each.text.sub("", dwarf)
            if each.bare_text:
                bare = each.bare_text.sub("", bare)
        only = [each.lines for each in known if each.lines]
        other = bare.splitlines()
        both = set(other)
        one = [
            x for x in dwarf.splitlines() if x in both or not any(lines.search(x) for lines in only)
        ]
        if len(one) == len(other):
            words = [each.words for each in known if each.words]
            one = [_in_words(x, y, words) for x, y in zip(one, other, strict=True)]
        return list(difflib.unified_diff(one, other, "dwarf", "bare", "", "", 0))[2:]


def _in_words(dwarf: str, bare: str, words: Sequence[tuple[Pattern, Pattern]]) -> str:
    """The line without vmlinux where both have the same words, but for those that may differ."""
    pairs = list(zip(dwarf.split(), bare.split(), strict=False))
    same = len(dwarf.split()) == len(bare.split()) and all(
        x == y or any(one.fullmatch(x) and other.fullmatch(y) for one, other in words)
        for x, y in pairs
    )
    return bare if same and any(x != y for x, y in pairs) else dwarf


def sessions(kernel: Path, dump: Path) -> tuple[Session, Session]:
    """With vmlinux, and without."""
    found = []
    for paths, source in (([kernel, dump], "dwarf"), ([dump], "btf")):
        opened = crashpy.open(*paths, debuginfo=source)
        opened.kernel, opened.vmcore = "vmlinux", "vmcore"
        found.append(Session(opened))
    return found[0], found[1]


def lines_of(path: Path, session: Session) -> Iterator[str]:
    """The command lines of a list, with what its @let lines find out in that session."""
    names: dict[str, str] = {}

    def filled(text: str) -> str:
        return re.sub(r"\$([A-Z][A-Z0-9_]*)", lambda m: names.get(m[1], m[0]), text)

    for raw in path.read_text().splitlines():
        if not raw.strip() or raw.startswith("#"):
            continue
        if let := re.match(r"@let (\w+) = (.*?) :: (.*)$", raw):
            answer = answer_of(session, filled(let[2]))
            if found := re.search(filled(let[3]), answer, re.MULTILINE):
                names[let[1]] = found[1]
        elif not re.search(r"\$[A-Z]", line := filled(raw)):
            yield line


def compared(
    kernel: Path, dump: Path, lists: Iterable[Path] = LISTS, *, modules: Path | None = None
) -> list[Pair]:
    """Every line of the lists, in both sessions; with the `modules`' files loaded or without."""
    dwarf, bare = sessions(kernel, dump)
    pairs: list[Pair] = []
    # Some lines write files where they are run.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for path in lists:
            # Again for each list, as those of `mod` forget the files.
            before = [f"mod -S {modules}"] if modules else []
            for line in (*before, *lines_of(path, dwarf)):
                pairs.append(Pair(line, answer_of(dwarf, line), answer_of(bare, line)))
    return pairs


def declared(dwarf: Program, bare: Program) -> tuple[int, dict[str, tuple[str, str]]]:
    """How many declared variables both know, and the types of those that differ unexplained."""
    known = {name for entry in _listed()["variable"] for name in entry["names"]}
    compared, different = 0, {}
    for name in declarations():
        try:
            wanted, found = dwarf.variable(name), bare.variable(name)
        except LookupError:
            continue
        if wanted.absent_:  # DWARF has another file's of that name
            continue
        compared += 1
        same = wanted.address_ == found.address_ and alike(wanted.type_, found.type_)
        if not same and name not in known:
            different[name] = str(wanted.type_), str(found.type_)
    return compared, different


def alike(one: Type, other: Type) -> bool:
    """But for `const`, and for the lengths of arrays: kallsyms has no sizes."""
    if one.kind == other.kind == TypeKind.ARRAY:
        return alike(one.type, other.type)
    while one.kind == TypeKind.TYPEDEF:
        one = one.type
    while other.kind == TypeKind.TYPEDEF:
        other = other.type
    if one.kind == other.kind == TypeKind.POINTER:
        return alike(one.type, other.type)
    no_qualifiers = Qualifiers(0)
    return one.qualified(no_qualifiers).type_name() == other.qualified(no_qualifiers).type_name()


def answer_of(session: Session, line: str) -> str:
    """What a line prints, in pipes as well."""
    with _printed() as elsewhere:
        printed = [text for step in line.split(" ;; ") for text in session.run(step)]
    return VALUE.sub("$ = ", "\n".join([*printed, *elsewhere]))


@contextlib.contextmanager
def _printed() -> Iterator[list[str]]:
    """What programs write to the standard output meanwhile."""
    texts: list[str] = []
    kept = os.dup(1)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        try:
            yield texts
        finally:
            os.dup2(kept, 1)
            os.close(kept)
        file.seek(0)
        if printed := file.read().decode(errors="replace"):
            texts.append(printed)
