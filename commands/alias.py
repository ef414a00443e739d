"""alias: words that stand for command lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crashpy.command import command
from crashpy.grammar import Alias
from crashpy.grammar import words as split

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.session import Session


@dataclass(frozen=True)
class Listed:
    """An alias and what it stands for."""

    alias: str
    command: str
    origin: str  # builtin, runtime


@dataclass(frozen=True)
class Heading:
    """The table begins, even if nothing follows."""


@dataclass(frozen=True)
class Remark:
    """What became of a request about one alias."""

    text: str


@command(name="alias", usage="[alias] [command string]", words=True)
def alias(
    dump: Dump, *, session: Session, words: Sequence[str] = ()
) -> Iterator[Heading | Listed | Remark]:
    """words that stand for command lines

    Without arguments it lists the aliases; with one it shows that one. Any
    more words become what the alias stands for: a command and how its line
    begins. "" in their place deletes it. A line that has `|` or `>` in it goes
    between double quotes.

    An alias lasts for the session. Those in ~/.crashrc or ./.crashrc are there
    in every session.

    EXAMPLES
      Count the tasks of a name:

        crash> alias count "ps | grep -c"
        ORIGIN   ALIAS    COMMAND
        runtime  count    ps | grep -c
        crash> count kworker
        34
        crash> alias count ""
        alias deleted: count
    """
    if len(words) < 2:
        yield from _shown(dump, session, words[0] if words else None)
        return
    name, *text = words
    first = text[0].split(" ")[0]
    if session.knows(name):
        dump.report(f"cannot alias existing command name: {name}")
    elif not text[0]:
        if session.aliases.pop(name, None):
            yield Remark(f"alias deleted: {name}")
    elif not session.knows(first) and first != "clear":
        dump.report(f"invalid alias attempt on non-existent command: {first}")
    else:
        session.aliases.pop(name, None)  # the newest comes last
        session.aliases[name] = Alias(tuple(split(" ".join(text))))
        yield from _shown(dump, session, name)


def _shown(dump: Dump, session: Session, name: str | None) -> Iterator[Heading | Listed | Remark]:
    if not session.aliases:
        dump.report("alias list is empty")
        return
    yield Heading()
    for listed, meaning in session.aliases.items():
        if name in (None, listed):
            yield Listed(listed, " ".join(meaning.words), meaning.origin)
    if name is not None and name not in session.aliases:
        yield Remark(f"alias does not exist: {name}")


@alias.text
def lines(found: Iterable[Heading | Listed | Remark]) -> Iterator[str]:
    for item in found:
        if isinstance(item, Heading):
            yield "ORIGIN   ALIAS    COMMAND"
        elif isinstance(item, Listed):
            yield f"{item.origin:7}  {item.alias:7}  {item.command} "
        else:
            yield item.text
