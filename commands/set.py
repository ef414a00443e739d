"""set: the task that commands act on, and the variables of the session."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from drgn import Architecture, FaultError, Object

from crashpy.command import Address, CommandError, command, flag, operands, value
from crashpy.settings import EARLY, PAGERS, READERS, Settings, crashpager, number
from crashpy.tasks import Task, named

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.session import Session

# `set -v` lists them in this order.
VARIABLES = (
    *("scroll", "radix", "refresh", "print_max", "print_array", "console", "debug", "core"),
    *("hash", "silent", "edit", "namelist", "dumpfile", "unwind", "zero_excluded", "null-stop"),
    *("gdb", "scope", "offline", "redzone", "error"),
)
# Words that name a variable and its value at once; their values where they have one.
SHORT = {"hex": ("radix", "16"), "dec": ("radix", "10"), "vi": ("edit", ""), "emacs": ("edit", "")}

FUNCTION_SIZE = 1 << 16  # none of those we look for is longer


@dataclass(frozen=True)
class Context:
    """The task that commands act on."""

    pid: int
    command: str
    task: Address  # struct task_struct *
    same_pid: int  # how many tasks have this PID: the idle tasks share 0
    thread_info: Address | None  # struct thread_info *
    cpu: int
    state: str  # TASK_RUNNING, TASK_UNINTERRUPTIBLE|TASK_NOLOAD, ...
    mark: str | None  # PANIC, SYSRQ or ACTIVE of a task that was on a CPU


@dataclass(frozen=True)
class Setting:
    """A variable of the session."""

    name: str
    value: bool | int | str | None
    detail: str | None = None  # the pager's program; the symbol at the scope's address


@dataclass(frozen=True)
class Active:
    """A task that was made the active one of its CPU."""

    command: str
    task: Address  # struct task_struct *
    cpu: int


def cpu_number(word: str) -> int:
    """crash's dtoi()"""
    if bad := re.search(r"[^0-9]", word):
        raise CommandError(f'{word}: "{bad[0]}" is not a digit 0 - 9')
    return int(word)


@command(
    value("-c", "cpu", "cpu", cpu_number, "the task that was on this CPU"),
    flag("-p", "panic", "the task that panicked"),
    value("-a", "active", "pid|task", str, "make it the active task of its CPU"),
    flag("-v", "variables", "show every variable"),
    operands("tasks", "pid|task|variable", str, "a task, or a variable and its value"),
    name="set",
    usage="[[-a] [pid | taskp] | [-c cpu] | -p] | [crash_variable [setting]] | -v",
)
def set_(
    dump: Dump,
    *,
    settings: Settings,
    session: Session | None = None,
    tasks: Sequence[str] | Sequence[Task] = (),
    cpu: int | None = None,
    panic: bool = False,
    active: str | None = None,
    variables: bool = False,
) -> Iterator[Context | Setting | Active]:
    """choose the task that commands act on, or set a variable

    Without arguments it shows the context: the task that `bt`, `vm`, `files`
    and others are about when no other is named. At first that is the task
    that panicked. A PID or the address of a task_struct chooses another one;
    several words are done one after the other.

    The variables, and what they may be set to:

      scroll         on, off, less, more, CRASHPAGER   page long output
      radix          10, 16          base of the numbers in C values
      print_max      NUMBER          elements of an array that are shown
      print_array    on, off         one element a line
      null-stop      on, off         an array of char ends at its first NUL
      scope          ADDRESS         types are looked up from this function
      zero_excluded  on, off         pages that the dump lacks read as zero
      offline        show, hide      what belongs to CPUs that are offline
      redzone        on, off         objects of a slab begin at their red zone
      hash           on, off         watch for loops in lists
      error          default, redirect, FILE   where error messages go
      output         text, json      how commands show what they found
      silent         on, off         no prompt and no echo of input files
      edit           vi, emacs       keys of the line editor (.crashrc only)
      namelist       FILE            the kernel (.crashrc only)
      gdb            on, off         every line is for gdb; `crash CMD` is not
      debug          NUMBER          1: show where unexpected errors happened

    console, core, refresh and unwind are kept for crash's scripts.

    EXAMPLES
      Make the task that was on CPU 1 the context:

        crash> set -c 1
            PID: 135
        COMMAND: "wl-sys"
           TASK: ffffa0bb811b2000  [THREAD_INFO: ffffa0bb811b2000]
            CPU: 1
          STATE: TASK_RUNNING (ACTIVE)

        crash> set -p
            PID: 156
        COMMAND: "sh"
           TASK: ffffa0bb81145000  [THREAD_INFO: ffffa0bb81145000]
            CPU: 2
          STATE: TASK_RUNNING (PANIC)
        crash> set radix 16
        output radix: 16 (hex)
    """
    if cpu is not None:
        task = _on_cpu(dump, cpu, settings)
        if task != dump.context:
            dump.context = task
            yield context(dump, task)
    elif panic:
        if dump.tasks.panic_found:
            dump.context = dump.tasks.panic
            yield context(dump, dump.context)
        else:
            dump.report("no panic task found!")
    elif variables:
        for name in VARIABLES:
            yield setting(dump, settings, name)
    elif active is not None:
        yield _activate(dump, active)
    elif tasks:
        starting = session is not None and session.starting
        yield from _words(dump, settings, tasks, starting)
    else:
        yield context(dump, dump.context)


def _words(
    dump: Dump, settings: Settings, words: Sequence[str | Task], starting: bool
) -> Iterator[Context | Setting]:
    """Tasks and variables, one after the other, as the words go."""
    typed = " ".join(str(word) for word in words)
    queue: list[str | Task] = list(words)
    while queue:
        word = queue.pop(0)
        if isinstance(word, Task):
            yield context(dump, word)  # foreach's: the context stays
        elif word in SHORT:
            yield from _short(dump, settings, word, starting)
        elif word != "dumpfile" and (word in VARIABLES or word in READERS):
            assigned = str(queue.pop(0)) if queue else None
            if starting and (word in EARLY or (word == "radix" and settings.radix_fixed)):
                assigned = None
            if assigned is not None and not _assign(dump, settings, word, assigned, typed):
                return
            if word != "silent" or not settings.silent:
                yield setting(dump, settings, word)
        elif found := named(dump, word):
            if dump.context not in found:  # of the idle tasks, PID 0, it may be any
                dump.context = found[0]
            yield context(dump, dump.context)
        elif word not in ("free", "data_debug"):
            dump.report(f"invalid task or pid value: {word}")


def _short(dump: Dump, settings: Settings, word: str, starting: bool) -> Iterator[Setting]:
    name, assigned = SHORT[word]
    if name == "edit" and not starting:
        which = f"{settings.edit} " if word == "emacs" else ""
        raise CommandError(f"cannot change {which}editing mode during runtime")
    if name == "radix":
        if starting and settings.radix_fixed:
            return
        settings.assign(name, assigned)
    yield setting(dump, settings, name)


def _assign(dump: Dump, settings: Settings, name: str, word: str, typed: str) -> bool:
    """Give a variable its value; False when it stays and the rest of the line is void."""
    try:
        if name == "edit":
            raise CommandError("cannot change editing mode during runtime")
        if name == "scope":
            scope = _scope(dump, word)
            if scope and not dump.symbols.is_text(scope):
                dump.report(f"invalid text address: {word}")
                return False
            settings.scope = scope
        elif name == "error":
            return _assign_error(dump, settings, word)
        elif name == "console":
            if not Path(word).exists():
                dump.report(f"console device {word}: No such file or directory")
            settings.console = word
        elif name in READERS:
            settings.assign(name, word)
    except ValueError:
        raise CommandError(f"invalid command: set {typed} ") from None
    return True


def _assign_error(dump: Dump, settings: Settings, word: str) -> bool:
    if word not in ("default", "redirect"):
        try:
            Path(word).open("a").close()
        except OSError:
            dump.report(f"invalid path: {word}")
            return False
    settings.error = word
    return True


def _scope(dump: Dump, word: str) -> int:
    """A symbol, a symbol with an offset, or an address; ValueError for anything else."""
    name, sign, offset = re.fullmatch(r"([^-+]*)(?:([-+])(.+))?", word, re.DOTALL).groups("")  # type: ignore[union-attr]
    symbol = dump.symbols.named(name)
    if not sign and re.fullmatch(r"(0[xX])?[0-9a-fA-F]+", name):
        return int(name, 16)
    start = symbol.address if symbol else number(name)
    return start + (number(offset) if sign else 0) * (-1 if sign == "-" else 1)


def _on_cpu(dump: Dump, cpu: int, settings: Settings) -> Task:
    count = dump.tasks.cpus
    if cpu >= count:
        plural = "s" if count > 1 else ""
        raise CommandError(f"invalid cpu number: system has only {count} cpu{plural}")
    if settings.offline == "hide" and cpu not in dump.tasks.online:
        raise CommandError(f"invalid cpu number: cpu {cpu} is OFFLINE")
    if (task := dump.tasks.active.get(cpu)) is None:
        raise CommandError(f"cannot determine active task on cpu {cpu}")
    return task


def _activate(dump: Dump, word: str) -> Active:
    found = named(dump, word)
    if not found:
        raise CommandError(f"invalid task or pid value: {word}")
    if len(found) > 1:
        raise CommandError(f"pid {found[0].pid} has {len(found)} tasks: use a task address")
    task = found[0]
    dump.tasks.active[task.cpu] = task
    vars(dump.tasks).pop("_active_addresses", None)  # made from the one above
    return Active(task.comm, Address(task.address), task.cpu)


def context(dump: Dump, task: Task) -> Context:
    tasks = dump.tasks
    mark = None
    if tasks.is_active(task):
        mark = "ACTIVE"
        if tasks.panic_found and task == tasks.panic:
            mark = "SYSRQ" if tasks.panic_message()[1] or by_sysrq(dump) else "PANIC"
    return Context(
        pid=task.pid,
        command=task.comm,
        task=Address(task.address),
        same_pid=len(tasks.with_pid(task.pid)),
        thread_info=_thread_info(dump, task),
        cpu=task.cpu,
        state=tasks.state_verbose(task),
        mark=mark,
    )


def by_sysrq(dump: Dump) -> bool:
    """Whether the task that panicked came from SysRq-c and not through kexec.

    crash notes that as it looks for where to start the backtrace
    (x86_64_get_dumpfile_stack_frame()): from the stack's lower end up, a return into
    kexec ends the search before it comes to SysRq's handler.
    """
    prog, task = dump.prog, dump.tasks.panic
    if prog.platform is None or prog.platform.arch != Architecture.X86_64:
        return False
    if (handler := dump.symbols.named("sysrq_handle_crash")) is None:
        return False
    try:
        stack = prog.read(task.stack, dump.tasks.stack_size)
    except FaultError:
        return False
    kexec = [dump.symbols.named(name) for name in ("machine_kexec", "__crash_kexec", "crash_kexec")]
    near = [symbol.address for symbol in (handler, *kexec) if symbol]
    for (word,) in struct.iter_unpack("<Q", stack):
        # A call that does not return may be the last of its function: the word then
        # lies behind its end, and belongs to it as long as no other symbol begins.
        if any(0 <= word - address < FUNCTION_SIZE for address in near):
            found = dump.symbols.at(word)
            if found and found[0] == handler:
                return True
            if found and found[0] in kexec:
                return False
    return False


def _thread_info(dump: Dump, task: Task) -> Address | None:
    try:
        struct = dump.prog.type("struct task_struct")
        if not struct.has_member("thread_info"):
            return Address(task.stack)
    except LookupError:
        return None
    thread_info = Object(dump.prog, struct, address=task.address).thread_info
    return Address(thread_info.address_ or 0)


def setting(dump: Dump, settings: Settings, name: str) -> Setting:
    if name == "scroll":
        pager = PAGERS.get(settings.pager, settings.pager)
        if crashpager() and pager == "CRASHPAGER":
            pager = f"CRASHPAGER: {os.environ['CRASHPAGER']}"
        return Setting(name, settings.scroll, pager)
    if name == "namelist":
        return Setting(name, dump.kernel)
    if name == "dumpfile":
        return Setting(name, dump.vmcore)
    if name == "scope":
        return Setting(name, settings.scope, dump.symbols.format(settings.scope) or None)
    return Setting(name, getattr(settings, name.replace("-", "_")))


@set_.text
def lines(found: Iterable[Context | Setting | Active], *, variables: bool = False) -> Iterator[str]:
    for item in found:
        if isinstance(item, Context):
            yield from context_lines(item)
        elif isinstance(item, Setting):
            yield f"{item.name:>14}: {_listed(item)}" if variables else _alone(item)
        else:
            yield (
                f'"{item.command}" task {int(item.task):x} has been marked as the active task '
                f"on cpu {item.cpu}"
            )


def context_lines(context: Context) -> Iterator[str]:
    """crash's show_context()"""
    shared = f"(1 of {context.same_pid})  " if context.same_pid > 1 else ""
    info = "" if context.thread_info is None else f"[THREAD_INFO: {int(context.thread_info):x}]"
    yield f"    PID: {context.pid}"
    yield f'COMMAND: "{context.command}"'
    yield f"   TASK: {int(context.task):x}  {shared}{info}"
    yield f"    CPU: {context.cpu}"
    yield f"  STATE: {context.state} {f'({context.mark})' if context.mark else ''}"


def _listed(item: Setting) -> str:
    """A variable's value in `set -v`."""
    if item.name == "scroll":
        return f"{_on(item)} ({item.detail})"
    if item.name == "radix":
        return f"{item.value} ({'decimal' if item.value == 10 else 'hexadecimal'})"
    if item.name == "console":
        return str(item.value or "(not assigned)")
    if item.name == "scope":
        return f"{item.value:x} ({item.detail or 'not set'})"
    return _on(item) if isinstance(item.value, bool) else str(item.value)


def _alone(item: Setting) -> str:
    """A variable that was asked for or set."""
    if item.name == "radix":
        return f"output radix: {item.value} ({'decimal' if item.value == 10 else 'hex'})"
    if item.name == "core":
        what = "drop core" if item.value else "do NOT drop core"
        return f"core: {_on(item)} ({what} on error message)"
    if item.name == "console":
        return f"console: {item.value or 'not set'}"
    indent = " " * 6 if item.name == "offline" else ""
    return f"{indent}{item.name}: {_listed(item)}"


def _on(item: Setting) -> str:
    return "on" if item.value else "off"
