"""One open dump and the commands that run on it.

`run` turns one input line into the lines it prints; `execute` shows them on the console.
What a line may look like is crashpy.grammar's business, where lines go crashpy.output's.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import shutil
import subprocess
import traceback
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from drgn import FaultError, ObjectNotFoundError, Type, TypeKind

from crashpy import grammar
from crashpy.command import Command, CommandError, UsageError
from crashpy.dump import Dump
from crashpy.grammar import Alias, History, RecallError
from crashpy.output import Console, Report, Unended, from_shell, to_file, to_pipe
from crashpy.settings import Settings

PROGRAM = "crash"  # scripts written for crash look for its name in prompts and messages

# Words whose module has another name.
HOMES = {"*": "struct", "union": "struct", "q": "exit", "drgn": "py"}

# Programs that need no `!` (crash's is_external_command()).
PROGRAMS = frozenset({"vi", "pwd", "grep", "cat", "more", "less", "echo", "ls", "clear"})

MINIMAL = frozenset(
    ("log", "dis", "rd", "sym", "eval", "set", "extend", "exit", "q", "help", "rustfilt")
)
MINIMAL_NOTE = "minimal mode commands: log, dis, rd, sym, eval, set, extend and exit"

# gdb's commands that crash hands on, and those that it does not.
GDB_WORDS = frozenset(("print", "inspect", "ptype", "output", "printf", "info", "x", "call"))
SENSELESS = """
run r break b tbreak hbreak thbreak rbreak watch rwatch awatch attach continue c fg detach finish
handle interrupt jump kill next nexti signal step s stepi target until delete clear disable enable
condition ignore catch tcatch return file exec-file core-file symbol-file load si ni shell sy
"""
PROHIBITED = frozenset(SENSELESS.split())


class Session:
    def __init__(
        self,
        dump: Dump,
        settings: Settings | None = None,
        console: Console | None = None,
        *,
        minimal: bool = False,
    ) -> None:
        self.dump = dump
        self.settings = settings or Settings()
        self.console = console or Console()
        self.minimal = minimal
        self.aliases: dict[str, Alias] = dict(grammar.BUILTIN_ALIASES)
        self.history = History()
        self.extensions: dict[Path, dict[str, Command[..., Any]]] = {}
        self.typed = ""  # the command being run, as it was typed
        self.python_names: dict[str, Any] = {}  # what `py` lines have bound
        self.finished = False  # `exit` was entered
        self.interrupted = False  # Ctrl-C ended the line that ran last
        self.failures = 0  # error messages so far
        self.speaker = PROGRAM  # whose name goes before a message
        self._reports: list[Report] = []
        self.starting = False  # a startup file is being run
        self._reading = False  # an input file

    @property
    def prompt(self) -> str:
        return "gdb> " if self.settings.gdb else f"{PROGRAM}> "

    # Finding commands

    @cached_property
    def _modules(self) -> frozenset[str]:
        """The names in the package of commands; nothing is imported."""
        package = importlib.import_module("crashpy.commands")
        files = (file for folder in package.__path__ for file in Path(folder).iterdir())
        return frozenset(
            file.stem
            for file in files
            if not file.name.startswith(("_", "."))
            and (file.suffix == ".py" or (file / "__init__.py").is_file())
        )

    def knows(self, name: str) -> bool:
        """Whether there is a command of that name, without importing it."""
        if self.minimal and name not in MINIMAL:
            return False
        return HOMES.get(name, name) in self._modules or name in self._extended()

    def names(self) -> list[str]:
        """Every command, in the order of crash's `help`."""
        every = {*self._modules, *self._extended()}
        every |= {name for name, home in HOMES.items() if home in self._modules}
        return sorted(filter(self.knows, every), key=lambda name: (name == "q", name))

    def words(self) -> list[str]:
        """What a line may begin with: commands and aliases."""
        return sorted({*self.names(), *self.aliases})

    def resolved(self, word: str) -> str:
        """The command that an alias stands for; any other word is itself."""
        return self.aliases[word].words[0] if word in self.aliases else word

    def _extended(self) -> dict[str, Command[..., Any]]:
        return {name: c for added in self.extensions.values() for name, c in added.items()}

    def command(self, name: str) -> Command[..., Any] | None:
        """The command of that name; only its own module is imported."""
        if not self.knows(name):
            return None
        if (extended := self._extended().get(name)) is not None:
            return extended
        module = importlib.import_module(f"crashpy.commands.{HOMES.get(name, name)}")
        found = (value for value in vars(module).values() if isinstance(value, Command))
        return next((c for c in found if c.name == name), None)

    # Running lines

    def enter(self, line: str) -> None:
        """Run a line typed at the prompt: it may name an earlier one, and is remembered."""
        line = line.strip(" \t\n")
        try:
            if line == "h" or line.startswith("hi"):
                self.console.show(self.history.listing())
                return
            recalled = self.history.recalled(line, lambda name: shutil.which(name) is not None)
        except RecallError as error:
            self.console.show([str(error)])
            return
        except CommandError as error:
            self.console.show([self._failure(str(error))])
            return
        if recalled is not None:
            line = recalled
            self.console.show([f"{self.prompt}{line}"])
        if line:
            self.history.lines.append(line)
        self.execute(line)

    def execute(self, line: str) -> None:
        """Run a line and show what it prints; Ctrl-C or a closed pager stops it."""
        lines = self.run(line)
        self.interrupted = False
        try:
            self.console.show(lines)
        except KeyboardInterrupt:
            self.interrupted = True
            self.console.complain("")
        finally:
            lines.close()

    def run(self, line: str) -> Generator[str]:
        """What one input line prints where the session's output goes."""
        for text in self._run(line):
            if isinstance(text, Report) and self.settings.error not in ("default", "redirect"):
                with to_file(self.settings.error, append=True) as stream:
                    stream.write(text)
            else:
                yield text

    def _run(self, line: str) -> Iterator[str]:
        line = grammar.spaced(line.strip(" \t\n"))
        if grammar.is_comment(line):
            return
        try:
            order = grammar.parse(grammar.unaliased(line, self.aliases))
        except CommandError as error:
            yield self._failure(str(error))
            return
        if order.verb == "!":
            yield from self._shell(order.target)
        elif order.verb:
            yield from self._redirected(order)
        else:
            yield from self._answer(order.command)

    def _shell(self, command: str) -> Iterator[str]:
        if command and not self.console.out.isatty():
            yield from from_shell(command)
            return
        self.console.flush()
        subprocess.run(command or "/bin/sh", shell=True, check=False)

    def _redirected(self, order: grammar.Order) -> Iterator[str]:
        """Send a command's lines to a file or a pipe; only its error messages come back."""
        if order.verb == "|":
            self.console.flush()
            sink = to_pipe(order.target)
        else:
            sink = to_file(order.target, append=order.verb == ">>")
        lines = self._answer(order.command)
        with contextlib.ExitStack() as stack:
            try:
                stream = stack.enter_context(sink)
            except OSError:
                yield self._failure(f"unable to open {order.target}")
                return
            stack.callback(lines.close)
            for text in lines:
                reported = isinstance(text, Report)
                if reported and self.settings.error != "redirect":
                    yield text
                if not reported or self.settings.error in ("default", "redirect"):
                    try:
                        stream.write(text)
                    except BrokenPipeError:
                        return  # its reader has enough
                    except OSError as error:
                        yield self._failure(f"{order.target}: {error.strerror}")
                        return

    def _answer(self, command: str) -> Generator[str]:
        self.typed = command
        words = grammar.words(command)
        literal = bool(words) and words[0].startswith("\\") and len(words[0]) > 1
        if literal:
            words[0] = words[0][1:]
        yield from self._dispatch(words, literal=literal)

    def _dispatch(self, words: Sequence[str], *, literal: bool = False) -> Iterator[str]:
        """Run the command that the first word names, or the one it stands for."""
        if self.settings.gdb and words:
            words = words[1:] if words[0] == PROGRAM else ["gdb", *words]
        if not words:
            return
        name = words[0]
        if self.knows(name):
            yield from self._command(name, words[1:], files=not literal and name != "repeat")
        elif name == "<":
            yield from self._input_file(words[1:])
        elif name in PROGRAMS:
            yield from self._shell(" ".join(f'"{w}"' if " " in w else w for w in words))
        elif self.minimal:
            yield self._failure(
                f"{name}: command not available in minimal mode\nNOTE: {MINIMAL_NOTE}"
            )
        elif name.startswith("p/"):  # gdb's `p/x EXPRESSION`
            yield from self._dispatch(["p", name[1:], *words[1:]])
        elif stands_for := self._meaning(words):
            yield from self._dispatch(stands_for)
        elif name in PROHIBITED:
            yield self._failure(f"prohibited gdb command: {name}")
        elif name in GDB_WORDS and self.knows("gdb"):
            yield from self._dispatch(["gdb", *words])
        else:
            yield self._failure(f"command not found: {name}")

    def _command(self, name: str, words: Sequence[str], *, files: bool) -> Iterator[str]:
        """Run a command, once or for each line of the `< FILE` among its words."""
        try:
            found = grammar.argument_file(words) if files else None
        except CommandError as error:
            yield self._failure(str(error), name)
            return
        if found is None:
            yield from self._invoked(name, words)
            return
        start, end, path = found
        with path.open(errors="surrogateescape") as file:
            for more in grammar.argument_lines(file):
                yield from self._invoked(name, [*words[:start], *more, *words[end:]])

    def _invoked(self, name: str, words: Sequence[str]) -> Iterator[str]:
        """One command's lines; whatever goes wrong in it becomes a message."""
        before = self.speaker, self.dump.report, self._reports
        self.speaker, self.dump.report, self._reports = name, self.report, []
        command = None
        try:
            if (command := self.command(name)) is None:
                raise CommandError("command not available")
            invocation = command.parse(words)
            if self.settings.output == "json":
                invocation = replace(invocation, json=True)
            lines = invocation.lines(self.dump, settings=self.settings, session=self)
            for line in lines:
                if self._reports:  # asked for each of perhaps a million lines
                    yield from self._reported()
                yield line
            yield from self._reported()
        except UsageError as error:
            yield from self._reported()
            self.failures += 1
            if str(error):
                self.console.complain(f"{name}: {error}")
            if command:
                yield from usage(command)
        except (CommandError, FaultError) as error:
            yield from self._reported()
            yield self._failure(str(error), self.speaker)
        except Exception as error:  # noqa: BLE001  a bug, or a dump that makes no sense
            yield from self._reported()
            said = _described(error)
            if self.dump.symtab is not None and isinstance(error, ObjectNotFoundError):
                said += ": only with its vmlinux is its type known, if there is such a variable"
            yield self._failure(said, self.speaker)
            if self.settings.debug:
                self.console.complain("".join(traceback.format_exception(error)).rstrip())
        finally:
            self.speaker, self.dump.report, self._reports = before

    def _input_file(self, words: Sequence[str]) -> Iterator[str]:
        """`< FILE`: run the commands in a file."""
        try:
            if self._reading:
                raise CommandError("embedded input files not allowed!")
            if not words:
                raise CommandError("no input file entered!")
            lines = _commands_in(Path(words[0]))
        except CommandError as error:
            yield self._failure(str(error))
            return
        yield from self.source(lines)

    def source(self, lines: Iterable[str]) -> Iterator[str]:
        """Run lines as from an input file: each is shown after the prompt, unless silent."""
        self._reading = True
        try:
            for line in lines:
                stripped = line.strip(" \t\n")
                if line.startswith("#") or not stripped:
                    continue
                if not self.settings.silent and stripped[0] not in "!|":
                    text = f"{self.prompt}{line}"
                    yield text.removesuffix("\n") if text.endswith("\n") else Unended(text)
                yield from self.run(line)
                if self.finished:
                    break
        finally:
            self._reading = False

    def start_with(self, lines: Iterable[str]) -> Iterator[str]:
        """Run the lines of a startup file; some of its `set` lines were heeded earlier."""
        self.starting = True
        try:
            yield from self.source(lines)
        finally:
            self.starting = False

    # Messages

    def report(self, text: str) -> None:
        """A remark of the running command; it is shown before the command's next line.

        One that says WARNING: or NOTE: itself has no command before it (crash's error()),
        unless it names it.
        """
        report = self._failure(text, self.speaker)
        itself = text.startswith(("WARNING: ", "NOTE: ", f"{self.speaker}: WARNING: "))
        self._reports.append(Report(text) if itself else report)

    @contextlib.contextmanager
    def speaking_as(self, name: str) -> Iterator[None]:
        """Messages are another command's for a while: `foreach bt` says `bt: ...`."""
        before, self.speaker = self.speaker, name
        try:
            yield
        finally:
            self.speaker = before

    def _reported(self) -> Iterator[str]:
        while self._reports:
            yield self._reports.pop(0)

    def _failure(self, text: str, speaker: str = PROGRAM) -> Report:
        self.failures += 1
        gap = "\n" if text.startswith("\n") else ""  # before the name, as crash's error() does
        return Report(f"{gap}{speaker}: {text.removeprefix(gap)}")

    # Words that are no commands

    def _meaning(self, words: Sequence[str]) -> list[str] | None:
        """The command that a line without one stands for."""
        try:
            found = self._data(words)
        except Exception as error:  # noqa: BLE001  neither symbols nor types are to be had
            if self.settings.debug:
                self.console.complain(_described(error))
            return None
        return found if found and self.knows(found[0]) else None

    def _data(self, words: Sequence[str]) -> list[str] | None:
        """The command that shows the variable or type a line begins with.

        crash's is_datatype_command(): a variable is printed, a structure shown.
        """
        name, rest = words[0], [word for word in words[1:] if word != "--json"]
        ours = ["--json"] if "--json" in words else []
        if not rest and self.dump.symbols.named(name) is not None:
            return ["p", name, *ours]
        if name == "enum":
            return ["whatis", *words]
        if (type_ := self._type(name.split(".")[0].split(",")[0])) is None:
            return None
        kind, is_typedef = type_.kind, type_.kind == TypeKind.TYPEDEF
        while kind == TypeKind.TYPEDEF:
            type_ = type_.type
            kind = type_.kind
        if kind in (TypeKind.STRUCT, TypeKind.UNION) and (rest or not is_typedef):
            return ["struct" if kind == TypeKind.STRUCT else "union", *words]
        if kind == TypeKind.INT and rest:
            if self.dump.symbols.named(rest[0]) is not None:
                return ["p", rest[0], *ours]
            return ["rd", f"-{8 * (type_.size or 1)}", *rest]
        return ["whatis", *words]

    def _type(self, name: str) -> Type | None:
        if not name.isidentifier():
            return None
        for tag in ("struct ", "union ", "enum ", ""):
            with contextlib.suppress(LookupError, SyntaxError):
                return self.dump.prog.type(tag + name)
        return None


def usage(command: Command[..., Any]) -> Iterator[str]:
    """What a command prints when its words make no sense."""
    if not command.usage:
        yield f'No usage data for the "{command.name}" command is available.'
        return
    yield "Usage:"
    yield from f"  {command.name} {command.usage}".splitlines()
    yield f'Enter "help {command.name}" for details.'


def _commands_in(path: Path) -> list[str]:
    try:
        data = path.read_bytes()
        executable = path.stat().st_mode & 0o111
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error
    if data.startswith(b"\x7fELF"):
        raise CommandError("input from executable files not supported yet!")
    if data.startswith(b"#!") and executable:
        raise CommandError("input from shell scripts not supported yet!")
    return re.findall(r"[^\n]*\n|[^\n]+", data.decode("utf-8", "surrogateescape"))


def _described(error: Exception) -> str:
    plain = isinstance(error, LookupError) and not isinstance(error, KeyError | IndexError)
    if plain or isinstance(error, ObjectNotFoundError):
        return str(error)
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
