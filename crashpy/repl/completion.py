"""What Tab offers: commands, options, symbols, types and members, PIDs, files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from crashpy.repl.names import Names, starting
from crashpy.session import Session

TYPES = {"struct", "union", "*", "whatis"}
TASKS = {"ps", "bt", "set", "files", "vm", "foreach", "task", "sig", "net"}
WORDS = {
    "foreach": "bt vm files set ps user kernel gleader active RU IN UN ST ZO TR SW DE WA PA ID NE",
    "help": "all input output",
}


class CommandCompleter(Completer):
    """Completes one crash command line. Runs in a thread, so a first look-up delays no key."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._names = Names(session.dump)

    def get_completions(
        self,
        document: Document,
        complete_event: CompleteEvent,  # noqa: ARG002
    ) -> Iterable[Completion]:
        try:
            line = document.text_before_cursor
            last = re.search(r"[^\s]*$", line)
            word = last[0] if last else ""
            for text, meta in self.candidates(line, word):
                yield Completion(text, start_position=-len(word), display_meta=meta)
        except Exception:  # noqa: BLE001  a bug in here must not end the prompt
            return

    def candidates(self, line: str, word: str) -> Iterator[tuple[str, str]]:
        """(text, remark) of everything that can stand where `word` ends the line."""
        before = line[: len(line) - len(word)].strip()
        if re.search(r"(^|\s)[<>]+$", before):
            yield from _files(word)
            return
        if not before:
            if word.startswith("*"):
                yield from self._of_types(word, "*")
            else:
                yield from self._first_words(word)
            return
        name = self._session.resolved(before.split()[0])
        if word.startswith("-"):
            yield from self._options(name, word)
        elif name == "help":
            yield from ((w, "") for w in self._session.words() if w.startswith(word))
            yield from _listed(name, word)
        elif name in TYPES or name.startswith("*"):
            yield from self._of_types(word)
            yield from ((s, "") for s in starting(self._names.symbols, word) if word)
        elif name in TASKS:
            yield from _listed(name, word)
            for pid, comm in self._names.tasks:
                if pid.startswith(word):
                    yield pid, comm
                elif word and comm.startswith(word):
                    yield comm, pid
        elif name == "mod":
            yield from ((m, "module") for m in self._modules() if m.startswith(word))
        elif word:
            operator = re.match(r"[&*(!~-]*", word)
            lead = operator[0] if operator else ""
            yield from ((lead + s, "") for s in starting(self._names.symbols, word[len(lead) :]))

    def _first_words(self, word: str) -> Iterator[tuple[str, str]]:
        for name in self._session.words():
            if name.startswith(word):
                yield name, ""
        if "." in word:
            yield from self._of_types(word)
        elif len(word) >= 3:
            yield from ((t, "type") for t in starting(self._names.types, word))

    def _of_types(self, word: str, lead: str = "") -> Iterator[tuple[str, str]]:
        word = word.removeprefix(lead)
        path, dot, rest = word.rpartition(".")
        if not dot:
            yield from ((lead + t, "") for t in starting(self._names.types, word))
            return
        listed, comma, last = rest.rpartition(",")
        for member in self._names.members(path):
            if member.startswith(last):
                yield f"{lead}{path}.{listed}{comma}{member}", ""

    def _options(self, name: str, word: str) -> Iterator[tuple[str, str]]:
        command = self._session.command(name)
        if command is None:
            return
        for option in command.options.values():
            if option.name.startswith(word):
                yield option.name, option.help
        if "--json".startswith(word):
            yield "--json", "one JSON object a line"

    def _modules(self) -> list[str]:
        from drgn.helpers.linux.module import for_each_module

        return sorted(m.name.string_().decode() for m in for_each_module(self._session.dump.prog))


def _listed(name: str, word: str) -> Iterator[tuple[str, str]]:
    yield from ((w, "") for w in WORDS.get(name, "").split() if w.startswith(word))


def _files(word: str) -> Iterator[tuple[str, str]]:
    folder, slash, start = word.rpartition("/")
    where = Path(folder + slash or ".").expanduser()
    try:
        found = sorted(where.iterdir())
    except OSError:
        return
    for path in found:
        if path.name.startswith(start):
            yield folder + slash + path.name + ("/" if path.is_dir() else ""), ""
