"""The examples of `help CMD` were run: what they show is what crashpy prints."""

import importlib
import pkgutil
import re

import pytest

from crashpy.command import Command

# They wait for the user, leave, are refused, or name files and aliases of the reader's own.
NOT_HERE = re.compile(r"(exit|q|repeat|extend|py|drgn|count|alias|rd -r|wr)\b|[<!]|.*[|>] \w")


def examples():
    """(command, line, what the page shows below it)"""
    package = importlib.import_module("crashpy.commands")
    for found in pkgutil.iter_modules(package.__path__):
        for command in vars(importlib.import_module(f"{package.__name__}.{found.name}")).values():
            if not isinstance(command, Command) or " " in command.name:
                continue
            text = command.description.partition("EXAMPLE")[2].partition("\n")[2]
            prompted = "crash> " in text
            line, shown = "", []
            for row in text.splitlines():
                own = rf"(foreach \S+ )?{re.escape(command.name)} \S.*\S {{2,}}\S"
                bare = re.match(own, row.strip())
                if prompted and not bare and "crash> " not in row:
                    shown.append(row.strip())
                    continue
                if line:
                    yield command.name, line, shown
                line, shown = row.removeprefix("  ").partition("crash> ")[2] or row, []
                line = re.split(r"\s{2,}|\s+#", line.strip())[0]
            if line:
                yield command.name, line, shown


CASES = [pytest.param(*case, id=f"{case[0]}: {case[1]}") for case in examples()]


def test_there_are_examples():
    assert len(CASES) > 100


@pytest.mark.parametrize(("name", "line", "shown"), CASES)
def test_an_example_prints_what_it_shows(opened, examples, monkeypatch, name, line, shown):
    if NOT_HERE.match(line):
        assert line
        return
    monkeypatch.chdir(examples)
    session = opened("vmcore-null")
    printed = [text.strip() for text in session.run(line)]
    session.settings.radix = 10  # the session is every test's
    if name == "mod":
        list(session.run("mod -D"))
    assert not [t for t in printed if re.match(rf"(crash|{re.escape(name)}): |Usage:$", t)]
    flat = [re.sub(r"\$\d+ = ", "", text) for text in printed]
    tabs = any("\t" in text for text in flat)  # which a docstring has not
    flat = [re.sub(r"\s+", " ", text) if tabs else text for text in flat]
    for row in shown:
        row = re.sub(r"\$\d+ = ", "", row)
        row = re.sub(r"\s+", " ", row) if tabs else row
        assert row in ("", "...") or row.removesuffix("...").strip() in "\n".join(flat), row
