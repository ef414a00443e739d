"""help: the commands, and a page on each."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from crashpy.command import Command, CommandError, UsageError, command

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.session import Session

COLUMNS = 5
# Letters of crash's `help` that show its own tables.
TABLES = "abBcdDefgGhHkKLMmNnoOprstTvVz"


@dataclass(frozen=True)
class Name:
    """A command of the list."""

    name: str


@dataclass(frozen=True)
class Page:
    """What is known of a command."""

    name: str
    summary: str
    usage: str
    description: tuple[str, ...]
    options: tuple[tuple[str, str], ...]  # as typed, what it does
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Text:
    """A page on something else than a command."""

    topic: str
    lines: tuple[str, ...]


@command(usage="[command | all] [-<option>]", words=True)
def help(
    dump: Dump, *, session: Session, words: Sequence[str] = ()
) -> Iterator[Name | Page | Text]:
    """the commands, and a page on each

    Without arguments it lists the commands; with the name of one, or of an
    alias, it shows what that does, its options and examples. `help input` is
    about command lines, `help output` about where output goes, and `help all`
    shows every page. The tables that crash shows with options such as
    `help -m` do not exist here.

    EXAMPLES
        crash> help exit

        NAME
          exit - leave crashpy

        SYNOPSIS
          exit

        DESCRIPTION
          The session ends with the line that holds this command; the rest of an
          input file is not read. `q` and `quit` are the same.
        ...
    """
    if words and words[0].startswith("-") and len(words[0]) > 1:
        letter = words[0][1]
        if letter in TABLES:
            raise CommandError(f"-{letter}: crashpy has no such table")
        raise UsageError(f"invalid option -- '{letter}'")
    if not words:
        yield from map(Name, session.names())
    for topic in words:
        yield from _pages(dump, session, topic)


def _pages(dump: Dump, session: Session, topic: str) -> Iterator[Page | Text]:
    if topic in TEXTS:
        yield Text(topic, tuple(inspect.cleandoc(TEXTS[topic]).splitlines()))
    elif topic == "all":
        for name in ("input", "output", *session.names()):
            yield from _pages(dump, session, name)
    elif found := _command(dump, session, session.resolved(topic)):
        yield page(found)
    else:
        yield Text(topic, (f'No help data for "{topic}" is available.',))


def _command(dump: Dump, session: Session, name: str) -> Command[..., Any] | None:
    try:
        return session.command(name)
    except Exception as error:  # noqa: BLE001  an extension, or a package that is missing
        dump.report(f"{name}: {type(error).__name__}: {error}")
        return None


def page(found: Command[..., Any]) -> Page:
    """The page on a command: its docstring, its usage and its options' own words."""
    description = found.description.strip("\n").splitlines()
    at = next((i for i, line in enumerate(description) if line.startswith("EXAMPLE")), None)
    before = description if at is None else description[:at]
    after = () if at is None else description[at + 1 :]
    options = [
        (f"{option.name} {option.metavar}".rstrip(), option.help)
        for option in found.options.values()
    ]
    if found.operands:
        options.append((found.operands.metavar, found.operands.help))
    options.append(("--json", "one JSON object a line"))
    return Page(
        found.name,
        found.summary,
        found.usage,
        _trimmed(before),
        tuple(options),
        _trimmed(after),
    )


def _trimmed(lines: Sequence[str]) -> tuple[str, ...]:
    """The lines without empty ones at either end."""
    return tuple("\n".join(lines).strip("\n").split("\n")) if lines else ()


@help.text
def lines(found: Iterable[Name | Page | Text]) -> Iterator[str]:
    names: list[str] = []
    for item in found:
        if isinstance(item, Name):
            names.append(item.name)
        elif isinstance(item, Text):
            yield from item.lines
        else:
            yield from page_lines(item)
    if names:
        yield from _list(names)


def _list(names: Sequence[str]) -> Iterator[str]:
    """Down the columns, as crash's display_help_screen() does."""
    rows = -(-len(names) // COLUMNS)
    yield ""
    for row in range(rows):
        yield "".join(f"{name:15}" for name in names[row::rows])
    yield ""
    yield f"crashpy version: {version('crashpy')}   drgn version: {version('drgn')}"
    yield 'For help on any command above, enter "help <command>".'
    yield 'For help on input options, enter "help input".'
    yield 'For help on output options, enter "help output".'
    yield ""


def page_lines(page: Page) -> Iterator[str]:
    yield ""
    yield "NAME"
    yield f"  {page.name} - {page.summary}"
    yield ""
    yield "SYNOPSIS"
    yield f"  {page.name} {page.usage}".rstrip()
    yield ""
    yield "DESCRIPTION"
    yield from _indented(page.description)
    yield ""
    yield "OPTIONS"
    width = max(len(option) for option, _ in page.options)
    for option, meaning in page.options:
        yield f"  {option:{width}}  {meaning}"
    yield ""
    if page.examples:
        yield "EXAMPLES"
        yield from _indented(page.examples)
        yield ""


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"  {line}".rstrip() for line in textwrap.dedent("\n".join(lines)).split("\n"))


TEXTS = {
    "input": """
        A line is a command and its arguments. Words are separated by blanks; a word that
        begins with a double quote ends with the next one, and one that begins with a
        parenthesis ends with its partner. A line that begins with "#" or "//" is a comment.

          ps -p                a command
          task_struct.pid 1    a word that is no command is looked up as a structure, union,
                               enum or typedef, or as a variable: struct, union, whatis or p
                               then get the line
          \\list 5              never an alias
          * list_head          like struct or union, whichever it is; the blank may be left out
          !ls                  a shell command;  ! alone is a shell
          < FILE               run the commands in FILE
          ps < FILE            run ps once for each line of FILE, its words in place of "< FILE"

        Lines entered at the prompt are numbered and remembered:

          h                    list them
          r, !!                the last one again
          r 5, r5, !5          line 5 again
          r ps                 the last line that began with "ps"

        Commands can also come from a file (crashpy -i FILE), from a pipe, or from arguments
        (crashpy -c COMMAND). ~/.crashrc, ./.crashrc, ~/.crashpyrc and ./.crashpyrc are run
        before the first prompt unless others can write them; --no_crashrc leaves them out.
        """,
    "output": """
        What does not fit the screen goes through a pager: "set scroll off", or sf, turns it
        off, "set scroll on", or sn, on again. $CRASHPAGER names another one.

          ps | grep sh         to a shell command
          foreach bt > FILE    to a file: the name is all that follows
          ps >> FILE           to the end of a file

        Between quotes or parentheses | and > have no such meaning, nor has -> ever.
        Error messages go to the screen and to the file or the pipe; "set error" changes that.

        Numbers in C values are decimal; "set radix 16", or hex, makes them hexadecimal, dec
        decimal again. "set output json", or --json in a line, shows the records of a command
        as JSON, one object a line, addresses as hexadecimal strings.

        Ctrl-C stops a command, and so does leaving the pager.
        """,
    "copying": """
        crashpy is free software: you can redistribute it and/or modify it under the terms of
        the GNU Lesser General Public License as published by the Free Software Foundation;
        either version 2.1 of the License, or (at your option) any later version.
        """,
    "warranty": """
        crashpy comes without any warranty, not even that of merchantability or of fitness for
        a particular purpose. See the GNU Lesser General Public License for more.
        """,
}
