"""extend: more commands, from Python files."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from crashpy.command import Command, CommandError, UsageError, command, flag, operands

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.session import Session


@dataclass(frozen=True)
class Extension:
    """A file and the commands it brought."""

    file: str
    commands: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """What became of a file."""

    file: str
    change: str  # loaded, already loaded, unloaded


@dataclass(frozen=True)
class Available:
    """A file that could be loaded."""

    file: str


@command(
    flag("-l", "load", "load the files (as without an option)"),
    flag("-u", "unload", "unload the files, or all of them"),
    flag("-s", "available", "list the files that could be loaded"),
    operands("files", "FILE.py", str, "the files"),
    usage="[shared-object ...] | [-u [shared-object ...]] | -s",
)
def extend(
    dump: Dump,
    *,
    session: Session,
    load: bool = False,
    unload: bool = False,
    available: bool = False,
    files: Sequence[str] = (),
) -> Iterator[Extension | Change | Available]:
    """add commands from Python files

    A file declares commands as crashpy's own are declared: a generator of
    records, decorated with crashpy.command.command. Loading it runs it. A name
    without a slash is looked for in the current folder, in $CRASH_EXTENSIONS
    and in ./extensions. Without arguments the files that are loaded are listed
    with their commands; `help` lists these among the others. crash's own
    extensions are compiled for crash and cannot be loaded.

    EXAMPLES
      Load a file with one command, look, and let go of it again:

        crash> extend uptime.py
        ./uptime.py: extension loaded
        crash> extend
        EXTENSION    COMMANDS
        ./uptime.py  uptime
        crash> extend -u uptime.py
        ./uptime.py: extension unloaded
    """
    if available:
        yield from map(Available, _loadable())
    elif unload:
        yield from _unload(dump, session, files)
    elif files:
        for file in files:
            if change := _load(dump, session, file):
                yield change
    elif load:
        dump.report("-l requires one or more extension library arguments")
        raise UsageError
    else:
        for path, added in session.extensions.items():
            yield Extension(_shown(path), tuple(added))


@extend.check
def check(given: Sequence[str]) -> None:
    if len(kinds := list(dict.fromkeys(given))) > 1:
        raise CommandError(f"{kinds[1]} and {kinds[0]} are mutually exclusive")


@extend.text
def lines(found: Iterable[Extension | Change | Available]) -> Iterator[str]:
    loaded: list[Extension] = []
    for item in found:
        if isinstance(item, Extension):
            loaded.append(item)
        elif isinstance(item, Change):
            yield f"{item.file}: extension {item.change}"
        else:
            yield item.file
    if loaded:
        width = max(len("EXTENSION"), *(len(item.file) for item in loaded))
        yield f"{'EXTENSION':{width}}  COMMANDS"
        for item in loaded:
            yield f"{item.file:{width}}  {' '.join(item.commands)} "


def folders() -> list[Path]:
    """Where a file without a slash in its name is looked for."""
    named = os.environ.get("CRASH_EXTENSIONS")
    return [Path(), *([Path(named)] if named else []), Path("extensions")]


def _shown(path: Path) -> str:
    return str(path) if path.is_absolute() or path.parts[:1] == ("..",) else f"./{path}"


def _found(name: str) -> Path | None:
    if "/" in name:
        return Path(name) if Path(name).is_file() else None
    return next((folder / name for folder in folders() if (folder / name).is_file()), None)


def _loadable() -> Iterator[str]:
    for folder in folders():
        for file in sorted(folder.glob("*.py")):
            if b"crashpy.command" in file.read_bytes():
                yield _shown(file)


def _load(dump: Dump, session: Session, name: str) -> Change | None:
    if (path := _found(name)) is None:
        dump.report(f"{name}: No such device or address")
        return None
    shown = _shown(path)
    if path.suffix != ".py":
        dump.report(f"{shown}: not a Python file")
        return None
    if any(path.samefile(other) for other in session.extensions):
        return Change(shown, "already loaded")
    try:
        added = _commands(_imported(path))
    except Exception as error:  # noqa: BLE001  whatever somebody else's file does
        dump.report(f"{shown}: {type(error).__name__}: {error}")
        return None
    clash = next((command for command in added if session.knows(command)), None)
    if clash is not None:
        dump.report(f'{shown}: "{clash}" is a duplicate of a currently-existing command')
    if clash is not None or not added:
        why = "" if clash is not None else "no commands registered: "
        dump.report(f"{shown}: {why}extension unloaded")
        return None
    for command_name in added:
        if session.aliases.pop(command_name, None):
            dump.report(f'alias "{command_name}" deleted: name clash with extension command')
    session.extensions[path] = added
    return Change(shown, "loaded")


def _imported(path: Path) -> ModuleType:
    name = f"crashpy_extension_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


def _commands(module: ModuleType) -> dict[str, Command[..., Any]]:
    found = (value for value in vars(module).values() if isinstance(value, Command))
    return {command.name: command for command in found if " " not in command.name}


def _unload(dump: Dump, session: Session, names: Sequence[str]) -> Iterator[Change]:
    if not names:
        for path in list(session.extensions):
            del session.extensions[path]
            yield Change(_shown(path), "unloaded")
    for name in names:
        if (file := _found(name)) is None:
            dump.report(f"{name}: No such device or address")
            continue
        loaded = next((path for path in session.extensions if path.samefile(file)), None)
        if loaded is None:
            dump.report(f"{name}: not loaded")
            continue
        del session.extensions[loaded]
        yield Change(_shown(loaded), "unloaded")
