"""foreach: one command on many tasks."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from drgn import FaultError

from crashpy.command import (
    Address,
    Command,
    CommandError,
    Invocation,
    Option,
    UsageError,
    command,
    getopt,
)
from crashpy.dump import Dump
from crashpy.kernel.sched import STATE_NAMES
from crashpy.settings import Settings
from crashpy.tasks import Task, bare_name, is_number, is_quoted, name_pattern, named
from crashpy.text import task_header

if TYPE_CHECKING:
    from crashpy.session import Session

USAGE = """[[pid | taskp | name | state | [kernel | user | gleader]] ...]
          command [flag] [argument]"""

LETTERS = {f"-{letter}": Option(f"-{letter}", letter, "") for letter in "vomlgersStTpukcfFxhdaG"}
LETTERS |= {f"-{letter}": Option(f"-{letter}", letter, "", metavar="REF") for letter in "Ry"}

PS_FORMS = "gatcplrm"


@dataclass(frozen=True)
class Keyword:
    """A command that foreach runs. One more joins by an entry here."""

    letters: str  # of foreach's options, those that are this command's
    whole: bool = False  # it lists all tasks as one table
    arguments: bool = False  # what follows it is its own


KEYWORDS = {
    "bt": Keyword("rtTlefFosxdR"),
    "vm": Keyword("pvmxdR"),
    "task": Keyword("xdR"),
    "set": Keyword(""),
    "files": Keyword("cR"),
    "net": Keyword("sSxdR"),
    "sig": Keyword("gR"),
    "vtop": Keyword("cuk", arguments=True),
    "ps": Keyword("Gsy" + PS_FORMS, whole=True),
}


@dataclass(frozen=True)
class EachTask:
    """What a command found about one task."""

    pid: int
    task: Address  # struct task_struct *
    cpu: int
    comm: str
    command: str
    records: Iterable[Any]  # the command's own; read once, as they come


@dataclass
class Given:
    """A command line, as far as it says the same about any dump."""

    letters: list[tuple[str, str | None]] = field(default_factory=list)
    selectors: list[str] = field(default_factory=list)
    keyword: str = ""
    arguments: list[str] = field(default_factory=list)

    def has(self, letter: str) -> bool:
        return any(name == letter for name, _ in self.letters)

    def count(self, letters: str) -> int:
        return sum(self.has(letter) for letter in letters)

    @property
    def reference(self) -> bool:
        return self.has("R")

    @property
    def words(self) -> list[str]:
        """What to say to the command itself."""
        wanted = KEYWORDS[self.keyword]
        found: list[str] = []
        reference: list[str] = []
        for letter, argument in self.letters:
            letter = "x" if letter == "h" else letter
            if letter not in wanted.letters:
                continue
            if letter == "R":  # getopt keeps the last
                reference = ["-R", argument or ""]
            elif argument is not None:
                found += [f"-{letter}", argument]
            elif letter == "F" or f"-{letter}" not in found:
                found.append(f"-{letter}")
        return found + reference


def parse(words: Sequence[str]) -> Given:
    """Options may stand anywhere; behind the first keyword all words are its arguments."""
    options, operands = getopt(words, LETTERS)
    given = Given([(option.dest, argument) for option, argument in options])
    for letter, argument in given.letters:
        if letter == "y":
            from .ps import policies

            policies(argument or "")
    if not operands:
        raise UsageError
    for word in operands:
        if given.keyword:
            given.arguments.append(word)
        elif word in KEYWORDS:
            given.keyword = word
        else:
            given.selectors.append(word)
    return given


@command(usage=USAGE, words=True)
def foreach(
    dump: Dump, *, words: Sequence[str] = (), session: Session | None = None
) -> Iterator[Any]:
    """run a command on many tasks, each introduced by a line

    foreach [TASKS] COMMAND [OPTIONS]. TASKS may be PIDs, task addresses, names of
    commands (`\\name` where it looks like something else), POSIX extended regular
    expressions in single quotes, and these, which narrow down the others:

      user, kernel    user tasks, or kernel threads
      gleader         the leader of each user thread group
      active          the task on each CPU
      RU IN UN ...    tasks in one state: RU, IN, UN, ST, TR, ZO, DE, PA, WA, ID, NE

    COMMAND is bt, vm, files, net, set, task, vtop or ps; sig where there is that
    command. OPTIONS are those of the command that mean the same for any task.

    EXAMPLES
      foreach UN bt                    where every blocked task waits
      foreach user files               the open files of user tasks
      foreach bt -R __mutex_lock       who stands in a mutex
      foreach 'kworker.*' bt           the stacks of the workers
      foreach active ps -s             what was on the CPUs
    """
    given = parse(words)
    chosen = _selected(dump, given)
    if not given.keyword:
        dump.report("no keywords specified")
        return iter(())
    refuse(given, dump.report)
    if given.keyword == "bt" and given.has("l") and dump.symtab is not None:
        dump.report("line numbers are not available")
        given.letters[:] = [each for each in given.letters if each[0] != "l"]
    tasks = _in_order(dump, given, chosen)
    return _each(dump, given, tasks, session)


def _each(dump: Dump, given: Given, tasks: list[Task], session: Session | None) -> Iterator[Any]:
    invocation = invoked(given)
    settings = session.settings if session is not None else None
    extras: dict[str, Any] = {"settings": settings, "session": session}
    with ExitStack() as stack:
        if session is not None:
            stack.enter_context(session.speaking_as(given.keyword))
        if KEYWORDS[given.keyword].whole:
            if tasks:
                yield from invocation.records(dump, tasks=tuple(tasks), **extras)
            return
        for task in tasks:
            records = invocation.records(dump, tasks=(task,), **extras)
            yield EachTask(
                pid=task.pid,
                task=Address(task.address),
                cpu=task.cpu,
                comm=task.comm,
                command=given.keyword,
                records=_guarded(records, dump),
            )


def _guarded(records: Iterable[Any], dump: Dump) -> Iterator[Any]:
    """What goes wrong costs one task."""
    try:
        yield from records
    except (CommandError, FaultError) as error:
        dump.report(str(error))


def invoked(given: Given) -> Invocation:
    """The command's own reading of its options."""
    try:
        module = importlib.import_module(f".{given.keyword}", __package__)
    except ModuleNotFoundError:
        raise CommandError(f"{given.keyword}: command not available") from None
    found = (v for v in vars(module).values() if isinstance(v, Command))
    wanted = next(c for c in found if c.name == given.keyword)
    return wanted.parse([*given.words, *given.arguments * KEYWORDS[given.keyword].arguments])


@foreach.text
def lines(
    records: Iterable[Any],
    *,
    words: Sequence[str] = (),
    settings: Settings | None = None,
    session: Session | None = None,
) -> Iterator[str]:
    """A line and the command's own lines for each task; crash's foreach()."""
    given = parse(words)
    if not given.keyword:
        return
    extras: dict[str, Any] = {"settings": settings, "session": session}
    invocation = invoked(given)
    if KEYWORDS[given.keyword].whole:
        yield from _whole(invocation, records, extras)
        return
    titled = not given.reference and not (given.keyword == "sig" and given.has("g"))
    # A command with -R introduces the tasks itself, those that have what is looked for.
    extras["header"] = given.reference
    another = False
    for each in records:
        if titled:
            if another:
                yield ""
            yield task_header(each.pid, each.task, each.cpu, each.comm)
        another = True
        yield from invocation.shown(each.records, **extras)


def _whole(invocation: Invocation, records: Iterable[Any], extras: dict[str, Any]) -> Iterator[str]:
    """A table without its header where there is nothing in it."""
    iterator = iter(records)
    for first in iterator:
        yield from invocation.shown(_again(first, iterator), **extras)


def _again(first: Any, others: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from others


def _selected(dump: Dump, given: Given) -> Callable[[Task], bool]:
    """Whether a task is meant (crash's cmd_foreach(), the first half of foreach())."""
    tasks = dump.tasks
    wanted: set[str] = set()  # kernel, user, gleader, active
    state = ""
    addresses: set[int] = set()
    names: set[str] = set()
    patterns: list[re.Pattern[str]] = []
    specified = False
    known_names = {task.comm for task in tasks}
    for word in given.selectors:
        if is_number(word):
            if word == "DE" and tasks.with_pid(0xDE):
                dump.report(f"ambiguous task-identifying argument: {word}")
                dump.report('for a "state" argument, use: \\DE')
                dump.report('for a "pid" argument, use: 0xDE, 0xde, de or 222\n')
                raise UsageError
            if found := named(dump, word):
                addresses |= {task.address for task in found}
                specified = True
                continue
        if word == "kernel" and "user" in wanted:
            raise CommandError("user and kernel are mutually exclusive!")
        if word == "user" and "kernel" in wanted:
            raise CommandError("user and kernel are mutually exclusive!")
        if word == "gleader" and "kernel" in wanted:
            raise CommandError("gleader and kernel are mutually exclusive!")
        if word in ("kernel", "user", "active"):
            wanted.add(word)
        elif word == "gleader":
            wanted |= {"user", "gleader"}
        elif (word.removeprefix("\\") in STATE_NAMES and word[0] != "\\") or word == "\\DE":
            if state:
                raise CommandError("only one task state allowed")
            state = word.removeprefix("\\")
            if tasks.states.named(state) is None:
                raise CommandError(f"invalid task state for this kernel: {state}")
        elif is_quoted(word):
            patterns.append(name_pattern(word))
            specified = True
        elif bare_name(word) in known_names:
            names.add(bare_name(word))
            specified = True
        else:
            # Also where it is the only selector: it must not stand for all tasks.
            specified = True
            dump.report(f'unknown argument: "{word}"')

    def meant(task: Task) -> bool:
        if "active" in wanted and not tasks.is_active(task):
            return False
        if "user" in wanted and task.kthread:
            return False
        if "gleader" in wanted and task.pid != task.tgid:
            return False
        if "kernel" in wanted and not task.kthread:
            return False
        if state and not tasks.state(task).startswith(state):
            return False
        return (
            not specified
            or task.address in addresses
            or task.comm in names
            or any(pattern.search(task.comm) for pattern in patterns)
        )

    return meant


def _in_order(dump: Dump, given: Given, meant: Callable[[Task], bool]) -> list[Task]:
    tasks = list(filter(meant, dump.tasks))
    if given.keyword == "ps" and given.count("lm"):
        tasks.sort(key=lambda task: -task.last_run_ns)
    if given.keyword == "sig" and given.has("g"):
        leaders = (dump.tasks.leader(task) for task in tasks)
        tasks = list({task.address: task for task in leaders if task is not None}.values())
    return tasks


def refuse(given: Given, report: Callable[[str], None]) -> None:
    """The options that do not go together, in crash's words."""
    name, has = given.keyword, given.has
    both = has("d") and (has("x") or has("h"))
    if name == "net":
        if has("s") and has("S"):
            report("WARNING: net -s and -S options are mutually exclusive!")
            given.letters[:] = [("s", None)]
        elif not has("s") and not has("S"):
            report("WARNING: net command requires -s or -S option\n")
            given.letters.append(("s", None))
    if name in ("net", "vm", "bt", "task") and both:
        raise CommandError(f"{name}: -x and -d options are mutually exclusive")
    if name == "vtop":
        if not given.arguments:
            raise CommandError("foreach command requires address argument")
        if given.reference:
            raise CommandError("vtop command does not support -R option")
        if has("u") and has("k"):
            raise CommandError("vtop: -u and -k options are mutually exclusive")
    elif name == "vm":
        if given.count("pmv") > 1:
            raise CommandError("vm command accepts only one of -p, -m or -v flags")
        for letter in "mv":
            if given.reference and has(letter):
                raise CommandError(f"vm: -{letter} is not applicable to the -R option")
    elif name == "bt" and has("g"):
        raise CommandError("bt -g option is not supported when issued from foreach")
    elif name == "set" and given.reference:
        raise CommandError("set command does not support -R option")
    elif name == "sig" and (has("l") or has("s")):
        raise CommandError("sig: -l and -s options are not applicable")
    elif name == "ps":
        from .ps import EXCLUSIVE

        if given.count(PS_FORMS) > 1:
            raise CommandError(EXCLUSIVE)
        for letter in "lm":
            if has(letter) and has("G"):
                raise CommandError(f"-G not supported with -{letter} option")
    elif name == "files" and has("p"):
        raise CommandError("files command does not support -p option")
