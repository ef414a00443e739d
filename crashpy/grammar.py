"""One input line: words, quotes, `|`, `>`, `>>`, `<file`, `!`, comments, aliases, history.

Everything here is a function of text. crash's rules (cmdline.c, tools.c) are its own, not
a shell's: a quote protects only where a word begins, parentheses group, and what follows
`>` is one file name to the end of the line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crashpy.command import CommandError

BLANKS = " \t"
BLANK = re.compile(r"[ \t]")


@dataclass(frozen=True)
class Order:
    """One input line, taken apart."""

    command: str  # what to run; empty when the line only concerns the shell
    verb: str = ""  # "|", ">" or ">>"; "!" runs `target` in a shell
    target: str = ""  # the shell's command, or the file's name; "" with "!" is a shell


def parse(line: str) -> Order:
    """Find what redirects the output of a line (crash's setup_redirect())."""
    if line in ("|", "!"):
        return Order("", "!")
    at, verb = _redirection(line)
    if not verb:
        return Order(line)
    target = line[at + len(verb) :].strip(BLANKS)
    if verb in "|!":
        if not target:
            raise CommandError(f"no shell command after '{verb}'")
        if target.endswith("|"):
            raise CommandError("pipe to nowhere?")
        return Order(line[:at], "|", target) if at else Order("", "!", target)
    if not target:
        raise CommandError(f"no file name after {verb}")
    return Order(line[:at], verb, target)


def _redirection(line: str) -> tuple[int, str]:
    """Where the first `|`, `!`, `>` or `>>` outside quotes and parentheses stands."""
    depth, quote = 0, ""
    for at, char in enumerate(line):
        if char in "()":
            depth += 1 if char == "(" else -1
        elif char in "'\"":
            if not quote:
                quote = char
            elif quote == char:
                quote = ""
        elif depth or quote:
            continue
        elif char in "|!":
            return at, char
        elif char == ">" and not line[:at].endswith("-"):
            return at, ">>" if line.startswith(">>", at) else ">"
    return -1, ""


def words(line: str) -> list[str]:
    """Split a command as crash's parse_line() does.

    A double quote where a word begins protects up to the next one; a parenthesis there
    protects up to its partner. Anywhere else both are ordinary characters.
    """
    line = line.strip(" \t\n")
    found: list[str] = []
    at = 0
    if line.startswith('"'):
        while line.startswith('"', at):
            end = line.find('"', at + 1)
            if end < 0:
                return [*found, line[at:]]
            found.append(line[at + 1 : end])
            at = end + 1
        at = _blank(line, at)  # what touches the closing quote is lost
    elif line:
        at = _blank(line, 0)  # a parenthesis groups from the second word on
        found.append(line[:at])
    while True:
        while line[at : at + 1] in (" ", "\t"):
            at += 1
        if at >= len(line):
            return found
        if line[at] == '"':
            if at + 1 == len(line):
                return found
            end = line.find('"', at + 1)
            end = len(line) if end < 0 else end
            found.append(line[at + 1 : end])
            at = end + 1
            continue
        end = _blank(line, _partner(line, at) if line[at] == "(" else at)
        found.append(line[at:end])
        at = end


def _blank(line: str, at: int) -> int:
    """The next blank, or the end of the line."""
    found = BLANK.search(line, at)
    return found.start() if found else len(line)


def _partner(line: str, at: int) -> int:
    """The parenthesis that closes the one at `at`, or the end of the line."""
    depth = 0
    for end in range(at, len(line)):
        depth += {"(": 1, ")": -1}.get(line[end], 0)
        if not depth:
            return end
    return len(line)


def spaced(line: str) -> str:
    """``*name`` and ``<file`` as two words (crash's check_special_handling())."""
    if line[:1] in ("*", "<") and line[1:2] not in (" ", "\t", ""):
        return f"{line[0]} {line[1:]}"
    return line


def is_comment(line: str) -> bool:
    return line.startswith(("#", "//"))


@dataclass(frozen=True)
class Alias:
    words: tuple[str, ...]
    origin: str = "runtime"


def _builtin(text: str) -> dict[str, Alias]:
    pairs = (entry.split("=") for entry in text.split(","))
    return {name: Alias(tuple(command.split()), "builtin") for name, command in pairs}


BUILTIN_ALIASES = _builtin(
    "man=help,?=help,quit=q,sf=set scroll off,sn=set scroll on,hex=set radix 16,"
    "dec=set radix 10,g=gdb,px=p -x,pd=p -d,for=foreach,size=*,dmesg=log,lsmod=mod,last=ps -l"
)


def unaliased(line: str, aliases: Mapping[str, Alias]) -> str:
    """The line with the alias it begins with written out; what follows stays as typed."""
    name = words(line)[:1]
    if not name or name[0] not in aliases:
        return line
    _, _, rest = line.partition(name[0])
    rest = rest.removeprefix('"') if line.startswith('"') else rest
    return " ".join((*aliases[name[0]].words, rest.strip(BLANKS))).strip(BLANKS)


def argument_file(found: Sequence[str]) -> tuple[int, int, Path] | None:
    """The `< FILE` among a command's words: where it begins, where it ends, the file.

    Only a file that can be read and holds something is one: `p a <b` stays an expression.
    """
    result: tuple[int, int, Path] | None = None
    for at, word in enumerate(found):
        if not word.startswith("<") or word.startswith("<<"):
            continue
        if len(word) > 1:
            end, name = at + 1, word[1:]
        elif at + 1 == len(found):
            raise CommandError("< requires a file argument")
        else:
            end, name = at + 2, found[at + 1]
        path = Path(name)
        try:
            if not path.is_file() or not path.stat().st_size:
                continue
            path.open("rb").close()
        except OSError:
            continue
        if result:
            raise CommandError("multiple input files are not supported")
        result = at, end, path
    return result


def argument_lines(text: Iterator[str]) -> Iterator[list[str]]:
    """The words of each line of an argument file; empty lines and # comments are skipped."""
    for line in text:
        line = line.strip(" \t\n")
        if line and not line.startswith("#") and (found := words(line)):
            yield found


class RecallError(CommandError):
    """A request for an earlier line that there is none for."""


@dataclass
class History:
    """The lines entered at the prompt, and the forms that name one of them again."""

    lines: list[str] = field(default_factory=list)

    def listing(self) -> Iterator[str]:
        self._required()
        return (f"[{number}] {line}" for number, line in enumerate(self.lines, 1))

    def recalled(self, line: str, is_program: Callable[[str], bool]) -> str | None:
        """The earlier line that `r`, `!!`, `rN`, `r N`, `!N` or `r text` names.

        None when the line is none of these. `!N` runs a program called N where there is one.
        """
        if line in ("r", "!!"):
            self._required()
            return self.lines[-1]
        if found := re.fullmatch(r"!\s*([0-9]+)", line):
            if is_program(found[1]):
                return None
        elif not (found := re.fullmatch(r"r([0-9]+)|r\s+(.+)", line)):
            return None
        self._required()
        wanted = found[found.lastindex or 0]
        if wanted.isdecimal() and int(wanted):
            if int(wanted) > len(self.lines):
                raise CommandError(f"command {int(wanted)} not entered yet!")
            return self.lines[int(wanted) - 1]
        for earlier in reversed(self.lines):
            if not wanted.isdecimal() and earlier.startswith(wanted):
                return earlier
        raise RecallError(f"invalid repeat request: {line}")

    def _required(self) -> None:
        if not self.lines:
            raise CommandError("no commands entered!")
