"""Configuration files as people wrote them: read without being run, edited in one place.

Both kinds keep every byte that an edit does not concern: comments, order, spacing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from crashpy.kdump.system import Refused

_ASSIGNMENT = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_]\w*)=")
_OPENS = re.compile(r"^\s*(if|case|for|while|until|\{|[\w-]+\s*\(\)\s*\{?)(\s|$)")
_CLOSES = re.compile(r"(^|[\s;])(fi|esac|done|\})\s*(;|#|$)")
_ASSIGNS_INSIDE = re.compile(r"(?<![\w$-])([A-Za-z_]\w*)=|\$\{(\w+):?=")
_PLAIN = re.compile(r"[A-Za-z0-9_./:,@%+=-]*")


@dataclass(frozen=True)
class Entry:
    """One setting of a file."""

    name: str
    value: str | None  # None: the shell computes it, only running the file would tell
    line: int
    start: int  # of the value's text, in the file's
    end: int


class ShellFile:
    """A file that shell scripts source, such as /etc/sysconfig/kdump.

    It is parsed, never sourced: sourcing a configuration file runs whatever is in it.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.entries = self._parse()

    def get(self, name: str) -> Entry | None:
        """The assignment that counts: the last one."""
        found = None
        for entry in self.entries:
            if entry.name == name:
                # An assignment inside code may or may not have happened.
                computed = found is not None and found.value is None and entry.line == found.line
                found = found if computed else entry
        return found

    def set(self, name: str, value: str) -> None:
        """Change one value where it stands, or add it where its commented example is."""
        entry = self.get(name)
        if entry is None:
            self._insert(name, value)
        elif entry.value is None:
            raise Refused(
                f"{self.name}: line {entry.line}: {name} is computed by the shell:"
                " change it there by hand"
            )
        elif entry.value != value:
            old = self.text[entry.start : entry.end]
            text = quoted(value, like=old)
            self.text = self.text[: entry.start] + text + self.text[entry.end :]
        self.entries = self._parse()

    def _insert(self, name: str, value: str) -> None:
        lines = self.text.splitlines(keepends=True)
        example = re.compile(rf"#[ \t]?{name}=(.*)")
        at, like = len(lines), '"' if not value.lstrip("-").isdigit() else ""
        for number, line in enumerate(lines):
            if found := example.match(line):
                at, like = number + 1, found[1][:1] if found[1][:1] in "\"'" else like
        if lines and not lines[at - 1].endswith("\n"):
            lines[at - 1] += "\n"
        lines.insert(at, f"{name}={quoted(value, like=like)}\n")
        self.text = "".join(lines)

    def _parse(self) -> list[Entry]:
        found: list[Entry] = []
        at, depth = 0, 0
        while at < len(self.text):
            line_end = self._line_end(at)
            line = self.text[at:line_end]
            match = _ASSIGNMENT.match(self.text, at)
            if match and match.end() <= line_end:
                value, end, line_end = self._value(match.end())
                number = self.text.count("\n", 0, at) + 1
                if depth:
                    value = None
                found.append(Entry(match[1], value, number, match.end(), end))
            elif line.strip() and not line.lstrip().startswith("#"):
                number = self.text.count("\n", 0, at) + 1
                for inside in _ASSIGNS_INSIDE.finditer(line):
                    found.append(Entry(inside[1] or inside[2], None, number, at, line_end))
                closes = len(_CLOSES.findall(line))
                depth = max(depth + bool(_OPENS.match(line)) - closes, 0)
            at = line_end + 1
        return found

    def _line_end(self, at: int) -> int:
        end = self.text.find("\n", at)
        return len(self.text) if end < 0 else end

    def _value(self, at: int) -> tuple[str | None, int, int]:
        """A word of shell: its value (None: computed), its end, the end of its line."""
        text, start = self.text, at
        value: list[str] = []
        computed = text.startswith("~", at)
        quote = ""
        while at < len(text):
            char = text[at]
            if quote == "'":
                if char == "'":
                    quote = ""
                else:
                    value.append(char)
            elif char == "\\":
                at += 1
                escaped = text[at : at + 1]
                if quote and escaped not in '$`"\\\n':
                    value.append("\\")
                if escaped != "\n":
                    value.append(escaped)
            elif char in "$`":
                computed = True
            elif quote:
                if char == quote:
                    quote = ""
                else:
                    value.append(char)
            elif char in "\"'":
                quote = char
            elif char in " \t\r\n":
                break
            elif char in ";&|<>()":
                computed = True
            else:
                value.append(char)
            at += 1
        if quote:
            number = text.count("\n", 0, start) + 1
            raise Refused(f"{self.name}: line {number}: a quote is opened and never closed")
        end, line_end = at, self._line_end(at)
        rest = text[at:line_end].strip()
        if rest and not rest.startswith("#"):
            computed = True  # a command follows: the assignment is for it alone
        return None if computed else "".join(value), end, line_end


def quoted(value: str, *, like: str = '"') -> str:
    """A word of shell with this value, quoted in the manner of another."""
    if not like.startswith(("'", '"')) and value and _PLAIN.fullmatch(value):
        return value
    if like.startswith("'") and "'" not in value:
        return f"'{value}'"
    return '"' + re.sub(r'([$`"\\])', r"\\\1", value) + '"'


class DirectiveFile:
    """/etc/kdump.conf: a directive and its value on each line; `#` starts a comment."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    @property
    def entries(self) -> list[Entry]:
        found: list[Entry] = []
        at = 0
        for number, line in enumerate(self.text.splitlines(keepends=True), 1):
            words = line.partition("#")[0].strip().split(None, 1)
            if words:
                value = words[1].strip() if len(words) > 1 else ""
                if len(value) > 1 and value[0] == value[-1] == '"':
                    value = value[1:-1]
                found.append(Entry(words[0], value, number, at, at + len(line)))
            at += len(line)
        return found

    def get(self, name: str) -> Entry | None:
        found = [entry for entry in self.entries if entry.name == name]
        if len(found) > 1:
            lines = " and ".join(str(entry.line) for entry in found)
            raise Refused(f"{self.name}: {name} is given twice, on lines {lines}: remove one")
        return found[0] if found else None

    def set(self, name: str, value: str) -> None:
        """Change a directive, add it where its commented example is, or, with "", remove it."""
        if "#" in value:
            raise Refused(f"{name}: {self.name} cannot hold a '#': it would start a comment there")
        entry = self.get(name)
        if entry is not None:
            if entry.value == value:
                return
            old = self.text[entry.start : entry.end]
            comment = re.search(r"[ \t]*#.*", old)
            ending = "\n" if old.endswith("\n") else ""
            new = f"{name} {value}{comment[0] if comment else ''}{ending}" if value else ""
            self.text = self.text[: entry.start] + new + self.text[entry.end :]
        elif value:
            lines = self.text.splitlines(keepends=True)
            example = re.compile(rf"#[ \t]?{re.escape(name)}[ \t]+\S")
            at = len(lines)
            for number, line in enumerate(lines, 1):
                if example.match(line) and "<" not in line:
                    at = number
            if lines and not lines[at - 1].endswith("\n"):
                lines[at - 1] += "\n"
            lines.insert(at, f"{name} {value}\n")
            self.text = "".join(lines)


class KeyFile:
    """/etc/crashpy.conf: `key = value`, one a line; a line that starts with `#` is a comment."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    @property
    def entries(self) -> list[Entry]:
        found: list[Entry] = []
        at = 0
        for number, line in enumerate(self.text.splitlines(keepends=True), 1):
            name, equals, value = line.partition("=")
            words = value.strip()
            if equals and not line.lstrip().startswith("#"):
                if len(words) > 1 and words[0] == words[-1] == '"':
                    words = words[1:-1]
                found.append(Entry(name.strip(), words, number, at, at + len(line)))
            at += len(line)
        return found

    def get(self, name: str) -> Entry | None:
        """The line that counts: the last one."""
        return next((entry for entry in reversed(self.entries) if entry.name == name), None)

    def set(self, name: str, value: str) -> None:
        """Change a line where it stands, add it at the end, or, with "", remove it."""
        entry = self.get(name)
        if entry is not None and entry.value == value:
            return
        marked = f'"{value}"' if value[:1] in ('"', " ") or value.endswith(" ") else value
        line = f"{name} = {marked}\n" if value else ""
        if entry is not None:
            self.text = self.text[: entry.start] + line + self.text[entry.end :]
        elif line:
            self.text += ("\n" if self.text and not self.text.endswith("\n") else "") + line


Document = ShellFile | DirectiveFile | KeyFile


def document(name: str, text: str) -> Document:
    """A file in the syntax that its name stands for."""
    base = name.rpartition("/")[2]
    kind: type[Document] = ShellFile
    if base in ("kdump.conf", "crashpy.conf"):
        kind = DirectiveFile if base == "kdump.conf" else KeyFile
    return kind(name, text)
