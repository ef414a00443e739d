"""grub.cfg, read as GRUB reads it and never run: the menu, and what is chosen by default.

It is a script, but grub-mkconfig writes it in few forms: assignments, `if` on variables and
files, menuentry and submenu, linux and initrd. What is unknown is skipped; an `if` that
asks something unknown counts as false.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from crashpy.kdump import bls
from crashpy.kdump.system import System

FILES = ("/boot/grub2/grub.cfg", "/boot/grub/grub.cfg")
_KERNEL = ("linux", "linux16", "linuxefi")
_INITRD = ("initrd", "initrd16", "initrdefi")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass
class Item:
    """A line of the menu: an entry, or a submenu with its own."""

    title: str
    id: str
    origin: str
    kernel: str = ""
    initrds: list[str] = field(default_factory=list)
    options: str = ""
    items: list[Item] = field(default_factory=list)  # of a submenu


def grubenv(system: System, config: str) -> dict[str, str]:
    """What GRUB remembers between boots, such as saved_entry."""
    text = system.read(f"{config.rpartition('/')[0]}/grubenv") or ""
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, equals, value in pairs if equals}


def default(system: System, config: str) -> Item | None:
    """The entry that GRUB starts when nobody chooses."""
    menu = Menu(system, config)
    menu.read(system.read(config) or "")
    items = menu.items
    chosen: Item | None = None
    for part in _parts(menu.variables.get("default", "0")):
        chosen = _find(items, part)
        if chosen is None:
            break
        items = chosen.items
    chosen = chosen or next(iter(menu.items), None)
    while chosen is not None and not chosen.kernel:  # a submenu starts with its first entry
        chosen = next(iter(chosen.items), None)
    return chosen


def _parts(default: str) -> Iterator[str]:
    """Submenu>entry; a > that belongs to a title is written twice."""
    for part in re.split(r"(?<!>)>(?!>)", default or "0"):
        yield part.replace(">>", ">")


def _find(items: Sequence[Item], name: str) -> Item | None:
    if name.isdecimal():
        return items[int(name)] if int(name) < len(items) else None
    return next((item for item in items if name in (item.title, item.id)), None)


@dataclass
class _Branch:
    """An `if` that is open: whether its present branch counts, and whether one did."""

    live: bool
    taken: bool = False

    def otherwise(self, holds: bool) -> None:
        self.taken = self.taken or self.live
        self.live = holds and not self.taken


class Menu:
    """The script's variables, and the menu that it makes."""

    def __init__(self, system: System, config: str) -> None:
        self.system = system
        self.config = config
        self.items: list[Item] = []
        efi = system.exists("/sys/firmware/efi")
        self.variables = {
            "prefix": config.rpartition("/")[0],
            "config_directory": config.rpartition("/")[0],
            "grub_platform": "efi" if efi else "pc",
            "feature_menuentry_id": "y",
            "menuentry_id_option": "--id",
        }

    def read(self, text: str) -> None:
        nested: list[list[Item]] = [self.items]  # the menus that are open
        entry: Item | None = None
        branches: list[_Branch] = []  # the `if`s that are open
        depth = 0  # of braces that belong to a function
        for number, line in enumerate(text.splitlines(), 1):
            for words in _commands(line):
                word = words[0]
                if depth or word == "function":
                    depth = max(depth + words.count("{") - words.count("}"), 0)
                elif word == "if":
                    branches.append(_Branch(self._holds(words[1:])))
                elif word in ("else", "elif") and branches:
                    branches[-1].otherwise(word == "else" or self._holds(words[1:]))
                elif word == "fi" and branches:
                    branches.pop()
                elif not all(branch.live for branch in branches):
                    continue
                elif word in ("menuentry", "submenu"):
                    item = self._item(words, f"{self.config}:{number}")
                    nested[-1].append(item)
                    nested.append(item.items)
                    entry = item if word == "menuentry" else None
                elif word == "}" and len(nested) > 1:
                    nested.pop()
                    entry = None
                elif entry is not None:
                    self._body(entry, words, line)
                elif word == "blscfg":
                    nested[-1] += self._bls()
                else:
                    self._command(words)

    def _command(self, words: list[str]) -> None:
        if words[0] == "load_env":
            self.variables.update(grubenv(self.system, self.config))
        elif words[0] == "set" or "=" in words[0]:
            name, equals, value = words[words[0] == "set"].partition("=")
            if equals:
                self.variables[name] = self.expand(value)

    def _item(self, words: list[str], origin: str) -> Item:
        words = [self.expand(word) for word in words]
        at = words.index("--id") if "--id" in words[:-1] else None
        return Item(words[1] if len(words) > 1 else "", words[at + 1] if at else "", origin)

    def _body(self, entry: Item, words: list[str], line: str) -> None:
        if words[0] in _KERNEL and len(words) > 1:
            entry.kernel = self.expand(words[1])
            rest = line.split(None, 2)
            entry.options = self.expand(rest[2]) if rest[2:] else ""
        elif words[0] in _INITRD:
            entry.initrds += self.expand(" ".join(words[1:])).split()
        else:
            self._command(words)

    def _bls(self) -> Iterator[Item]:
        for found in bls.grub_order(bls.snippets(self.system)):
            yield Item(
                found.title,
                found.id,
                found.origin,
                self.expand(found.kernel),
                self.expand(" ".join(found.initrds)).split(),
                self.expand(found.options),
            )

    def expand(self, text: str) -> str:
        """GRUB's variables; one that is not set is empty, as it is there."""
        return _VARIABLE.sub(lambda m: self.variables.get(m[1] or m[2], ""), text)

    def _holds(self, words: list[str]) -> bool:
        """[ TEST ] of strings and files."""
        words = [self.expand(word) for word in words]
        if not words or words[0] not in ("[", "test"):
            return False
        test = [word for word in words[1:] if word != "]"]
        if test[:1] == ["!"]:
            return not self._holds(["[", *test[1:]])
        if len(test) == 3 and test[1] in ("=", "==", "!="):
            return (test[0] == test[2]) is (test[1] != "!=")
        if len(test) == 2 and test[0] in ("-s", "-f", "-e"):
            return self.system.exists(test[1])
        if len(test) == 2 and test[0] in ("-n", "-z"):
            return bool(test[1]) is (test[0] == "-n")
        return len(test) == 1 and bool(test[0])


def _commands(line: str) -> Iterator[list[str]]:
    """The line's commands, without the words that only join them."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";")
    lexer.whitespace_split = True
    words: list[str] = []
    try:
        for word in lexer:
            if word.startswith(";"):
                yield from filter(None, [words])
                words = []
            elif word != "then" or words:
                words.append(word)
                if words == ["else"]:
                    yield words
                    words = []
    except ValueError:  # a quote that goes on in the next line: nothing that we look for
        return
    yield from filter(None, [words])
