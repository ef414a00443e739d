"""The variables of `set`, and the files that set them before the first prompt."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crashpy.command import CommandError

PAGERS = {"less": "/usr/bin/less", "more": "/bin/more"}


@dataclass
class Settings:
    """One field for each variable; crash's defaults."""

    scroll: bool = True  # page what is longer than the screen
    pager: str = "none"  # less, more, CRASHPAGER, none
    radix: int = 10
    radix_fixed: bool = False  # said on the command line: a startup file does not change it
    refresh: bool = True  # of live systems only
    print_max: int = 256  # elements of an array
    print_array: bool = False  # one element a line
    console: str | None = None
    debug: int = 0  # from 1 on, an unexpected error shows where it happened
    core: bool = False
    hash: bool = True  # watch for loops in lists
    silent: bool = False
    edit: str = "vi"
    unwind: bool = False
    zero_excluded: bool = False
    null_stop: bool = False  # an array of char ends at its first NUL
    gdb: bool = False  # every line is for gdb
    scope: int = 0  # text address whose types come first
    offline: str = "show"  # or hide: CPUs that are offline
    redzone: bool = True  # objects begin at their red zone
    error: str = "default"  # or redirect, or a file: where errors go
    output: str = "text"  # or json
    # Said on the command line alone.
    strip: bool = True  # cut the endings of the names of copies of a function

    @property
    def hex(self) -> bool:
        return self.radix == 16

    def assign(self, name: str, word: str) -> None:
        """Give a variable a value as `set NAME WORD` does; ValueError for one it cannot have."""
        field = name.replace("-", "_")
        if name == "scroll" and self.pager == "none":
            return  # there is nothing to choose
        if name == "scroll" and word in ("less", "more", "CRASHPAGER"):
            if word != "CRASHPAGER" or crashpager():
                self.pager = word
            return
        setattr(self, field, READERS[name](word))
        if name == "silent" and self.silent:
            self.scroll = False


def number(word: str) -> int:
    """A decimal number, or else a hexadecimal one (crash's stol())."""
    if re.fullmatch(r"[0-9]+", word):
        return int(word)
    if re.fullmatch(r"(0[xX])?[0-9a-fA-F]+", word):
        return int(word, 16)
    raise ValueError(word)


def on_off(word: str) -> bool:
    return {"on": True, "off": False}[word] if word in ("on", "off") else bool(number(word))


def _radix(word: str) -> int:
    for radix, begins in ((10, ("dec", "ten")), (16, ("hex", "six"))):
        if word == str(radix) or word.startswith(begins):
            return radix
    raise ValueError(word)


def _debug(word: str) -> int:
    return int(on_off(word)) if word in ("on", "off") else number(word)


def _one_of(*choices: str) -> Callable[[str], str]:
    def read(word: str) -> str:
        if word not in choices:
            raise ValueError(word)
        return word

    return read


# How the word after a variable's name is read. `console`, `error`, `scope` and `namelist`
# need more than the word: commands/set.py.
READERS: Mapping[str, Callable[[str], Any]] = {
    "scroll": on_off,
    "radix": _radix,
    "refresh": on_off,
    "print_max": number,
    "print_array": on_off,
    "debug": _debug,
    "core": on_off,
    "hash": on_off,
    "silent": on_off,
    "edit": _one_of("vi", "emacs"),
    "unwind": on_off,
    "zero_excluded": on_off,
    "null-stop": on_off,
    "gdb": on_off,
    "offline": _one_of("show", "hide"),
    "redzone": on_off,
    "output": _one_of("text", "json"),
}


def crashpager() -> list[str]:
    """The words of $CRASHPAGER where it names a program, else none."""
    value = os.environ.get("CRASHPAGER", "")
    found = value.split()
    if not found or any(char in value for char in "|<>"):
        return []
    return found if os.access(found[0], os.X_OK) and Path(found[0]).is_file() else []


def default_pager() -> str:
    """What pages long output on a terminal."""
    if crashpager():
        return "CRASHPAGER"
    return next((name for name in PAGERS if shutil.which(name)), "none")


def default_edit() -> str:
    """vi or emacs, as $EDITOR goes."""
    return "emacs" if "emacs" in os.environ.get("EDITOR", "") else "vi"


def startup_files() -> Iterator[Path]:
    """The files of commands to run before the first prompt, in their order."""
    home = Path(os.environ.get("HOME", "/nonexistent"))
    for name in (".crashrc", ".crashpyrc"):
        yield from (home / name, Path(name))


def read_startup_files() -> tuple[list[tuple[Path, list[str]]], list[str]]:
    """The lines of those files that exist, and a sentence for each that is not trusted.

    A file that somebody else owns, or that everybody may write, could have been left in
    the current folder for us to find.
    """
    found: list[tuple[Path, list[str]]] = []
    refused: list[str] = []
    seen: set[tuple[int, int]] = set()
    for path in startup_files():
        try:
            with path.open(errors="surrogateescape") as file:
                stat = os.fstat(file.fileno())
                if (stat.st_dev, stat.st_ino) in seen:
                    continue
                seen.add((stat.st_dev, stat.st_ino))
                if stat.st_uid != os.getuid() or stat.st_mode & 0o002:
                    refused.append(f'not using untrusted file: "{path}"')
                else:
                    found.append((path, file.readlines()))
        except FileNotFoundError:
            continue
        except OSError as error:
            refused.append(f"cannot open {path}: {error.strerror}")
    return found, refused


EARLY = frozenset(("edit", "silent", "scroll", "zero_excluded", "offline"))


def apply_early(settings: Settings, lines: list[str]) -> str | None:
    """Those `set` lines that matter before a dump is open; the `set namelist`, if any."""
    namelist = None
    for line in lines:
        match line.split():
            case ["set", "namelist", name, *_]:
                namelist = name
            case ["set", ("vi" | "emacs") as mode]:
                settings.edit = mode
            case ["set", name, word] if name in EARLY:
                try:
                    settings.assign(name, word)
                except ValueError:
                    raise CommandError(
                        f"invalid command in a startup file: {line.strip()}"
                    ) from None
    return namelist
