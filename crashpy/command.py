"""Declare a crash command: its options, the records it collects, the text it shows.

A command is a generator of records, decorated with its options::

    @command(flag("-v", "verbose", "name the unreadable ones too"), usage="[-v] [pid ...]")
    def things(dump: Dump, *, verbose: bool = False) -> Iterator[Thing]:
        \"\"\"one line for `help`\"\"\"

    @things.text
    def lines(things: Iterable[Thing], *, verbose: bool = False) -> Iterator[str]: ...

Each option goes to the function that names it as a keyword: the collector, the
text, or both. An option not given is not passed, so the function's own default
holds, and the collector is as easy to call from a script as from the prompt.
Two more keywords are passed to whichever function names them: ``settings``
(the variables of `set`, crashpy.settings.Settings) and ``session``.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

if TYPE_CHECKING:
    from crashpy.dump import Dump

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")

Text = Callable[Concatenate[Iterable[R], ...], Iterator[str]]


class CommandError(Exception):
    """What went wrong, in words for the person at the prompt."""


class UsageError(CommandError):
    """The words after the command make no sense: the session shows its usage.

    The message, when there is one, is getopt(3)'s and goes to standard error.
    """


class Address(int):
    """A kernel address: an integer here, hexadecimal wherever it is shown."""

    def __str__(self) -> str:
        return f"{self:#x}"


@dataclass(frozen=True)
class Option:
    """One letter (or long word) of a command's options."""

    name: str  # "-k", "--json"; of an operand its metavar
    dest: str
    help: str
    metavar: str = ""  # empty: takes no argument
    const: Any = True
    type: Callable[[str], Any] = str
    repeat: bool = False  # collects a tuple
    optional: bool = False  # the argument may be missing: `-i`, `-i=shared`


@dataclass(frozen=True)
class Operands:
    """The words that are not options."""

    dest: str
    metavar: str
    type: Callable[[str], Any]
    help: str
    most: int | None = None


def flag(name: str, dest: str, help: str, *, value: Any = True) -> Option:
    """An option without argument."""
    return Option(name, dest, help, const=value)


def value(
    name: str,
    dest: str,
    metavar: str,
    type: Callable[[str], Any],
    help: str,
    *,
    repeat: bool = False,
    optional: bool = False,
) -> Option:
    """An option with an argument; `repeat` collects a tuple of all that are given."""
    return Option(name, dest, help, metavar, True, type, repeat, optional)


def operands(dest: str, metavar: str, type: Callable[[str], Any], help: str) -> Operands:
    """All words that are not options, as a tuple."""
    return Operands(dest, metavar, type, help)


def getopt(
    words: Sequence[str], options: Mapping[str, Option]
) -> tuple[list[tuple[Option, str | None]], list[str]]:
    """Split words as glibc's getopt(3) does: clusters, `-cARG`, `-c ARG`, `--`, permuted.

    Raises UsageError with getopt's own message after the command's name.
    """
    found: list[tuple[Option, str | None]] = []
    rest: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--":
            return found, rest + queue
        if word.startswith("--"):
            if (option := options.get(word)) is None:
                raise UsageError(f"unrecognized option '{word}'")
            found.append((option, None))
            continue
        if len(word) < 2 or word[0] != "-":
            rest.append(word)
            continue
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if (option := options.get(f"-{letter}")) is None:
                raise UsageError(f"invalid option -- '{letter}'")
            argument: str | None = None
            if option.metavar:
                if letters:
                    argument, letters = letters, ""
                elif not option.optional:
                    if not queue:
                        raise UsageError(f"option requires an argument -- '{letter}'")
                    argument = queue.pop(0)
            found.append((option, argument))
    return found, rest


JSON_FLAG = flag("--json", "json", "one JSON object a line")


@dataclass(frozen=True)
class Invocation:
    """One command with the options of one command line."""

    command: Command[..., Any]
    options: dict[str, Any]
    json: bool

    def records(self, dump: Dump, **extras: Any) -> Iterator[Any]:
        collect = self.command._collect
        return collect(dump, **_named_by(collect, {**extras, **self.options}))

    def lines(self, dump: Dump, **extras: Any) -> Iterator[str]:
        """What the command prints: lines without their line feeds."""
        records = self.records(dump, **extras)
        if self.json:
            return map(to_json, records)
        return self.shown(records, **extras)

    def shown(self, records: Iterable[Any], **extras: Any) -> Iterator[str]:
        """The lines that show records of this command, collected with the same options."""
        text = self.command._lines
        return text(records, **_named_by(text, {**extras, **self.options}))


class Command(Generic[P, R]):
    """A command of the prompt, callable from Python as the generator it wraps."""

    def __init__(
        self,
        collect: Callable[Concatenate[Dump, P], Iterator[R]],
        options: Sequence[Option | Operands],
        name: str = "",
        usage: str = "",
        words: bool = False,
    ) -> None:
        self.name = name or collect.__name__
        doc = inspect.cleandoc(collect.__doc__ or "")
        self.summary, _, self.description = doc.partition("\n")
        self.usage = usage
        self.words = words
        self.options = {o.name: o for o in options if isinstance(o, Option)}
        self.operands = next((o for o in options if isinstance(o, Operands)), None)
        self.modes: dict[str, Command[..., Any]] = {}
        self._collect = collect
        self._lines: Text[R] = _one_per_line
        self._check: Callable[[Sequence[str]], None] | None = None
        self._first = False

    def __call__(self, dump: Dump, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        return self._collect(dump, *args, **kwargs)

    def text(self, lines: Text[R]) -> Text[R]:
        """Decorator: these are the lines that show this command's records."""
        self._lines = lines
        return lines

    def check(self, look: Callable[[Sequence[str]], None]) -> Callable[[Sequence[str]], None]:
        """Decorator: gets the names of the options as they were given, in order.

        Raises CommandError where they do not go together (of modes, the last wins).
        """
        self._check = look
        return look

    def mode(
        self,
        letter: str,
        help: str,
        *,
        metavar: str = "",
        type: Callable[[str], Any] = str,
        dest: str = "",
        optional: bool = False,
        first: bool = False,
    ) -> Callable[[Callable[Concatenate[Dump, Q], Iterator[S]]], Command[Q, S]]:
        """Decorator: with this option the command lists these other records instead.

        With a metavar the option has an argument, passed as keyword `dest`. Of several
        modes the last given wins, but one with `first` keeps those behind it out.
        """

        def add(collect: Callable[Concatenate[Dump, Q], Iterator[S]]) -> Command[Q, S]:
            mode = Command(collect, (), name=f"{self.name} {letter}", usage=self.usage)
            mode.options, mode.operands = self.options, self.operands
            self.modes[letter] = mode
            mode._first = first
            self.options[letter] = Option(
                letter, dest or "mode", help, metavar, type=type, optional=optional
            )
            return mode

        return add

    def unread(self) -> set[str]:
        """Options declared here that no function names, so that they would do nothing."""
        commands: list[Command[..., Any]] = [self, *self.modes.values()]
        functions = [f for c in commands for f in (c._collect, c._lines)]
        named = {name for f in functions for name in inspect.signature(f).parameters}
        declared = {o.dest for o in self.options.values()}
        if self.operands:
            declared.add(self.operands.dest)
        return declared - named - {"json", "mode"}

    def parse(self, words: Sequence[str]) -> Invocation:
        """Words after the command's name -> what to run. The last mode given wins.

        A command declared with ``words=True`` gets its words as they are, as
        keyword `words`; only a leading or trailing --json is taken from them.
        """
        as_json = "--json" in words
        if self.words:
            rest = tuple(w for w in words if w != "--json")
            return Invocation(self, {"words": rest}, as_json)
        found, rest_words = getopt(words, {**self.options, "--json": JSON_FLAG})
        if self._check is not None:
            self._check([option.name for option, _ in found])
        options: dict[str, Any] = {}
        command: Command[..., Any] = self
        for option, argument in found:
            if option is JSON_FLAG:
                continue
            if not command._first:
                command = self.modes.get(option.name, command)
            if option.dest == "mode":
                continue
            item = option.const if argument is None else _converted(option.type, argument)
            if option.repeat:
                options[option.dest] = (*options.get(option.dest, ()), item)
            else:
                options[option.dest] = item
        if rest_words:
            if self.operands is None:
                raise UsageError
            convert = self.operands.type
            options[self.operands.dest] = tuple(_converted(convert, w) for w in rest_words)
        return Invocation(command, options, as_json)


def command(
    *options: Option | Operands, name: str = "", usage: str = "", words: bool = False
) -> Callable[[Callable[Concatenate[Dump, P], Iterator[R]]], Command[P, R]]:
    """Decorator: make a generator of records a command with these options.

    `usage` is what crash prints after the command's name in its usage text;
    `name` is for words that Python keeps for itself (`list`, `set`, `*`).
    """
    return lambda collect: Command(collect, options, name, usage, words)


def to_json(record: Any) -> str:
    """One record as one line of JSON; addresses as hexadecimal strings."""
    return json.dumps(plain(record), ensure_ascii=False)


def plain(value: Any) -> Any:
    """A record as dicts, lists, strings and numbers.

    A record may offer ``__json__()`` to be shown as what that returns.
    A JSON number loses the low bits of a 64-bit address in many readers,
    so an Address becomes a string.
    """
    if value is None or isinstance(value, bool | str | float):
        return value
    if hasattr(value, "__json__"):
        return plain(value.__json__())
    if isinstance(value, Address):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, int):
        return value
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.repr}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, Iterable):
        return [plain(v) for v in value]
    return str(value)


def _converted(convert: Callable[[str], Any], word: str) -> Any:
    try:
        return convert(word)
    except ValueError as error:
        raise CommandError(f"invalid argument: {word}") from error


@functools.cache
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def _named_by(function: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    names = _parameters(function)
    return {name: value for name, value in options.items() if name in names}


def _one_per_line(records: Iterable[object]) -> Iterator[str]:
    return map(str, records)
