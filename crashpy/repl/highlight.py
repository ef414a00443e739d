"""Colours for what is typed and what is printed; only ever on a terminal."""

from __future__ import annotations

from collections.abc import Callable

from pygments.formatters import Terminal256Formatter
from pygments.lexer import RegexLexer, bygroups
from pygments.style import Style
from pygments.token import (
    Comment,
    Error,
    Keyword,
    Name,
    Number,
    Operator,
    String,
    Text,
    Token,
    _TokenType,
)

_NUMBERS = [
    (r"\b0x[0-9a-fA-F]+\b", Number.Hex),
    (r"\b[0-9a-f]{16}\b", Number.Hex),
    (r"\b\d+\b", Number),
]


class InputLexer(RegexLexer):
    """A crash command line."""

    name = "crash command line"
    aliases = []  # noqa: RUF012  pygments' own class attribute
    tokens = {  # noqa: RUF012
        "root": [
            (r"^\s*(#|//).*", Comment),
            (r"^\s*!.*", String.Other),
            (r"^(\s*)(\*|[^\s|>]+)", bygroups(Text, Keyword)),  # type: ignore[no-untyped-call]
            (r"(?<=\s)--?\w[\w-]*", Name.Attribute),
            (r"'[^']*'?|\"[^\"]*\"?", String),
            (r"[|]|>>?(?=\s)|<", Operator),
            *_NUMBERS,
            (r"\w+", Name),
            (r".|\n", Text),
        ]
    }


class OutputLexer(RegexLexer):
    """Lines that commands print."""

    name = "crash output"
    aliases = []  # noqa: RUF012
    tokens = {  # noqa: RUF012
        "root": [
            (r"^(PID)(: )(\d+)", bygroups(Keyword, Text, Number)),  # type: ignore[no-untyped-call]
            (r"^ *#\d+ ", Name.Label),
            (r"(?<= at )[0-9a-f]{16}", Number.Hex),
            (r"\[(exception RIP|[0-9a-f]{16})[^\]]*\]", Comment),
            (r'"[^"\n]*"', String),
            (r"^\s*[A-Z][A-Z _/0-9]+(?=:)", Keyword),
            (r"\b(PANIC|BUG|WARNING|TAINTED|Oops|UN|ZO)\b", Error),
            (r"^(> +)(\d+)", bygroups(Keyword, Number)),  # type: ignore[no-untyped-call]
            *_NUMBERS,
            (r"[^\s\"\[]+|.|\n", Text),
        ]
    }


class Colours(Style):
    """Sixteen colours, so that the terminal's own theme decides how they look."""

    styles = {  # noqa: RUF012
        Token: "",
        Comment: "ansibrightblack",
        Error: "bold ansired",
        Keyword: "bold ansicyan",
        Name.Attribute: "ansiyellow",
        Name.Label: "ansibrightblack",
        Number: "ansigreen",
        Operator: "bold",
        String: "ansimagenta",
    }


def colourer() -> Callable[[str], str]:
    """A function that colours one line of output."""
    lexer = OutputLexer(stripnl=False, ensurenl=False)
    formatter: Terminal256Formatter[str] = Terminal256Formatter(style=Colours)
    marks: dict[_TokenType, tuple[str, str]] = {
        token: formatter.style_string[str(token)]
        for token in (Comment, Error, Keyword, Name.Label, Number, String)
    }
    marks[Number.Hex] = marks[Number]

    def coloured(line: str) -> str:
        pieces = []
        for token, text in lexer.get_tokens(line):
            on, off = marks.get(token, ("", ""))
            pieces.append(f"{on}{text}{off}" if on else text)
        return "".join(pieces)

    return coloured
