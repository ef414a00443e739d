"""One open dump and the commands that run on it."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

from drgn import FaultError

from crashpy.command import Command, CommandError, UsageError
from crashpy.dump import Dump
from crashpy.settings import Settings

# Words whose module has another name.
HOMES = {"*": "struct", "union": "struct", "q": "exit"}


class Session:
    def __init__(self, dump: Dump) -> None:
        self.dump = dump
        self.settings = Settings()

    def command(self, name: str) -> Command[..., Any] | None:
        package = importlib.import_module("crashpy.commands")
        home = HOMES.get(name, name)
        if home not in {m.name for m in pkgutil.iter_modules(package.__path__)}:
            return None
        module = importlib.import_module(f"crashpy.commands.{home}")
        found = (v for v in vars(module).values() if isinstance(v, Command))
        return next((c for c in found if c.name == name), None)

    def run(self, line: str) -> Iterator[str]:
        """The lines that a command line prints."""
        name, _, rest = line.strip().partition(" ")
        command = self.command(name)
        try:
            if command is None:
                raise CommandError(f"command not found: {name}")
            invocation = command.parse(rest.split())
            yield from invocation.lines(self.dump, settings=self.settings, session=self)
        except UsageError:
            assert command is not None
            yield f"Usage:\n  {name} {command.usage}"
            yield f'Enter "help {name}" for details.'
        except (CommandError, FaultError) as error:
            yield f"{name}: {error}"
