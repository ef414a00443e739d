"""ps: what every task was doing when the machine died."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from drgn import FaultError, Program
from drgn.helpers.linux.mm import access_remote_vm
from drgn.helpers.linux.percpu import per_cpu

from crashpy.command import Address, CommandError, command, flag, operands, value
from crashpy.dump import Dump
from crashpy.faults import skipping
from crashpy.kernel.clock import tick_rate, uptime_jiffies
from crashpy.kernel.percpu import cpu_list
from crashpy.kernel.pid import byte_order
from crashpy.kernel.sched import POLICIES
from crashpy.kernel.usage import MemoryUsage, physical_pages
from crashpy.settings import Settings
from crashpy.tasks import Task, bare_name, is_number, is_quoted, name_pattern, named
from crashpy.text import centered, duration, task_header

USAGE = """[-k|-u|-G|-y policy] [-s] [-p|-c|-t|-[l|m][-C cpu]|-a|-g|-r|-S|-A|-H]
     [pid | task | command] ..."""

EXCLUSIVE = "-a, -t, -c, -p, -g, -l, -m, -S, -r and -A flags are all mutually-exclusive"
FORMS = frozenset(("-a", "-t", "-c", "-p", "-g", "-l", "-m", "-S", "-r", "-A"))


@dataclass(frozen=True)
class TaskName:
    """What introduces a task in every listing."""

    pid: int
    task: Address  # struct task_struct *
    cpu: int  # where it last ran
    comm: str

    @property
    def header(self) -> str:
        return task_header(self.pid, self.task, self.cpu, self.comm)


def name_of(task: Task) -> TaskName:
    return TaskName(task.pid, Address(task.address), task.cpu, task.comm)


@dataclass(frozen=True)
class Process:
    pid: int
    ppid: int | None  # None: its parent is not in the list of tasks
    cpu: int  # where it last ran
    task: Address  # struct task_struct *
    stack_pointer: Address | None  # where it was switched away; None while it runs
    state: str  # crash's two letters: RU, IN, UN, ID, ZO, ...
    memory_percent: float | None  # resident, of all physical memory; None: not in the dump
    vsz_kib: int | None
    rss_kib: int | None
    comm: str
    kthread: bool
    active: bool  # on a CPU when the machine died
    online: bool  # that CPU


def policies(word: str) -> frozenset[int]:
    """``FIFO,RR``, ``1,2``: the scheduling policies a word names."""
    found = set()
    for part in word.split(","):
        upper = part.upper()
        for name, number in POLICIES.items():
            if upper.startswith(name) or upper in (str(number), f"0X{number:X}"):
                found.add(number)
                break
        else:
            raise CommandError(f"{part}: invalid scheduling policy")
    return frozenset(found)


@command(
    flag("-k", "kernel", "only kernel threads"),
    flag("-u", "user", "only user tasks"),
    flag("-G", "leaders", "only the leader of each thread group"),
    value("-y", "policy", "POLICY", policies, "only tasks of these scheduling policies"),
    flag("-s", "stack", "the kernel stack pointer in place of the task"),
    flag("-A", "active", "only the task on each CPU"),
    flag("-H", "header", "no header line", value=False),
    value("-C", "cpus", "CPU", str, "with -l and -m: by CPU, of these CPUs (1,3-5 or all)"),
    operands("tasks", "pid|task|command", str, "only these tasks; 'regex' in single quotes"),
    usage=USAGE,
)
def ps(
    dump: Dump,
    *,
    kernel: bool = False,
    user: bool = False,
    leaders: bool = False,
    policy: frozenset[int] = frozenset(),
    active: bool = False,
    cpus: str | None = None,
    tasks: Sequence[str | Task] = (),
) -> Iterator[Process]:
    """show the state of each task: one line, or its times, family, arguments, limits

    Without operands all tasks are shown, by PID. An operand is a PID, the address
    of a task_struct, the name of a command (`\\name` where it looks like a number),
    or a POSIX extended regular expression in single quotes.

    ST is RU (running), IN (interruptible), UN (uninterruptible), ID (idle worker),
    ZO (zombie), ST (stopped), TR (traced), DE, PA, WA or NE. `>` marks the task
    that was on a CPU, brackets a kernel thread.

    EXAMPLES
      ps -A                  what each CPU was doing
      ps -u -s               user tasks with their kernel stack pointers
      ps 'kworker.*'         tasks by the pattern of their name
      ps -l -C 0             who ran on CPU 0, the latest first
      ps -S                  how many tasks are in each state
      ps -u --json           for a program
    """
    if cpus is not None:
        cpu_list(cpus, dump.tasks.cpus)
        dump.report("-C option is only applicable with -l and -m")
        return iter(())
    chosen = choose(dump, tasks, kernel=kernel, user=user, leaders=leaders, policy=policy)
    return _processes(dump, chosen, active=active and not tasks)


def _processes(dump: Dump, chosen: Iterable[Task], *, active: bool) -> Iterator[Process]:
    table = dump.tasks
    usage = MemoryUsage(dump.prog, table)
    page_kib = dump.prog["PAGE_SIZE"].value_() // 1024
    memory_pages = None
    with suppress(LookupError, FaultError):
        memory_pages = physical_pages(dump.prog)
    for task in chosen:
        is_active = table.is_active(task)
        if active and not is_active:
            continue
        resident = virtual = percent = None
        with skipping(f"memory of task {task.address:x}"):
            resident, virtual = usage.pages(task)
            percent = 100 * resident / memory_pages if memory_pages else None
        parent = table.at(task.parent)
        pointer = None if is_active or not task.stack_pointer else task.stack_pointer
        yield Process(
            pid=task.pid,
            ppid=None if parent is None else parent.pid,
            cpu=task.cpu,
            task=Address(task.address),
            stack_pointer=None if pointer is None else Address(pointer),
            state=table.state(task),
            memory_percent=percent,
            vsz_kib=None if virtual is None else virtual * page_kib,
            rss_kib=None if resident is None else resident * page_kib,
            comm=task.comm,
            kthread=task.kthread,
            active=is_active,
            online=task.cpu in table.online,
        )


@ps.text
def lines(
    processes: Iterable[Process],
    *,
    stack: bool = False,
    header: bool = True,
    settings: Settings | None = None,
    cpus: str | None = None,
) -> Iterator[str]:
    """Column for column what crash prints: its task.c, show_ps_data()."""
    if cpus is not None:
        return
    if header:
        title = centered("KSTACKP", 16, right=True) if stack else centered("TASK", 16)
        yield f"      PID    PPID  CPU {title}  ST  %MEM      VSZ      RSS  COMM"
    hide = settings is not None and settings.offline == "hide"
    for p in processes:
        mark = " " if not p.active else "-" if hide and not p.online else ">"
        pointer = "--" if p.stack_pointer is None else f"{p.stack_pointer:x}"
        where = centered(pointer if stack else f"{p.task:x}", 16, right=True)
        gap = " " if len(p.state) > 3 else "  "
        percent = "--" if p.memory_percent is None else f"{p.memory_percent:.1f}"
        vsz, rss = ("--" if n is None else n for n in (p.vsz_kib, p.rss_kib))
        name = f"[{p.comm}]" if p.kthread else p.comm
        ppid = -1 if p.ppid is None else p.ppid
        yield (
            f"{mark} {p.pid:7} {ppid:7} {p.cpu:3}  {where} {p.state:>3}{gap}"
            f"{percent:>4} {vsz:>8} {rss:>8}  {name}"
        )


@ps.check
def together(given: Sequence[str]) -> None:
    """crash's cmd_ps(): the first pair that does not go together ends it."""
    seen: set[str] = set()
    for name in given:
        if name in ("-k", "-u") and {"-k", "-u"} - {name} <= seen:
            raise CommandError("-u and -k are mutually exclusive")
        if name in FORMS and seen & FORMS - {name}:
            raise CommandError(EXCLUSIVE)
        seen.add(name)


def choose(
    dump: Dump,
    words: Sequence[str | Task],
    *,
    kernel: bool = False,
    user: bool = False,
    leaders: bool = False,
    policy: frozenset[int] = frozenset(),
    among: Sequence[Task] | None = None,
) -> Iterator[Task]:
    """The tasks that ps shows, in the order of the task list (or of `among`).

    A task is shown once for each word that names it, as crash does. With `leaders`
    a thread that was asked for is replaced by its leader, each shown once.
    """
    matches = [_matcher(dump, word, leaders) for word in words]
    everyone = dump.tasks.all if among is None else among
    if words and all(isinstance(word, Task) for word in words):
        chosen: Iterable[Task] = [word for word in words if isinstance(word, Task)]
    elif words:
        chosen = (task for task in everyone for match in matches if match(task))
    else:
        chosen = everyone
    return _filtered(
        dump, chosen, kernel=kernel, user=user, leaders=leaders, policy=policy, asked=bool(words)
    )


def _filtered(
    dump: Dump,
    chosen: Iterable[Task],
    *,
    kernel: bool,
    user: bool,
    leaders: bool,
    policy: frozenset[int],
    asked: bool,
) -> Iterator[Task]:
    shown: set[int] = set()
    for task in chosen:
        if (user and task.kthread) or (kernel and not task.kthread):
            continue
        if policy and task.policy not in policy:
            continue
        if leaders:
            leader: Task | None = task
            if task.pid != task.tgid:
                leader = dump.tasks.leader(task) if asked else None
            if leader is None or leader.address in shown:
                continue
            shown.add(leader.address)
            yield leader
        else:
            yield task


def _matcher(dump: Dump, word: str | Task, leaders: bool) -> Callable[[Task], bool]:
    if isinstance(word, Task):
        return lambda task: task is word
    if is_number(word):
        found = {task.address for task in named(dump, word)}
        if not found:
            dump.report(f"invalid task or pid value: {word}\n")
        return lambda task: task.address in found
    if is_quoted(word):
        pattern = name_pattern(word)
        return lambda task: bool(pattern.search(task.comm)) and _leads(task, leaders)
    name = bare_name(word)
    return lambda task: task.comm == name and _leads(task, leaders)


def _leads(task: Task, leaders: bool) -> bool:
    return not leaders or task.pid == task.tgid


@dataclass(frozen=True)
class Family:
    """A task below its ancestors, or above its children or threads."""

    members: tuple[TaskName, ...]


@ps.mode("-p", "the ancestors of each task")
def ps_parents(
    dump: Dump,
    *,
    kernel: bool = False,
    user: bool = False,
    leaders: bool = False,
    policy: frozenset[int] = frozenset(),
    tasks: Sequence[str | Task] = (),
) -> Iterator[Family]:
    """each task below its ancestors, the oldest first"""
    table = dump.tasks

    def up(task: Task) -> Iterator[TaskName]:
        line = [task]
        while (parent := table.at(line[-1].parent)) is not None and parent not in line:
            line.append(parent)
        return map(name_of, reversed(line))

    chosen = choose(dump, tasks, kernel=kernel, user=user, leaders=leaders, policy=policy)
    return (Family(tuple(up(task))) for task in chosen)


@ps_parents.text
def parents_lines(families: Iterable[Family]) -> Iterator[str]:
    for family in families:
        for depth, member in enumerate(family.members):
            yield " " * depth + member.header
        yield ""


@ps.mode("-c", "the children of each task")
def ps_children(
    dump: Dump,
    *,
    kernel: bool = False,
    user: bool = False,
    leaders: bool = False,
    policy: frozenset[int] = frozenset(),
    tasks: Sequence[str | Task] = (),
) -> Iterator[Family]:
    """each task above its children"""
    chosen = choose(dump, tasks, kernel=kernel, user=user, leaders=leaders, policy=policy)
    children: dict[int, list[TaskName]] = {}
    for task in dump.tasks:
        children.setdefault(task.parent, []).append(name_of(task))
    return (Family((name_of(task), *children.get(task.address, ()))) for task in chosen)


@ps_children.text
def children_lines(families: Iterable[Family]) -> Iterator[str]:
    for family in families:
        yield from _below(family, "  (no children)")
        yield ""


def _below(family: Family, nobody: str) -> Iterator[str]:
    first, *others = family.members
    yield first.header
    yield from (f"  {other.header}" for other in others)
    if not others:
        yield nobody


@ps.mode("-g", "the threads of each thread group")
def ps_groups(
    dump: Dump,
    *,
    kernel: bool = False,
    user: bool = False,
    leaders: bool = False,
    policy: frozenset[int] = frozenset(),
    tasks: Sequence[str | Task] = (),
) -> Iterator[Family]:
    """the leader of each thread group above its threads"""
    table = dump.tasks
    matching = choose(dump, tasks, kernel=kernel, user=user, leaders=leaders, policy=policy)
    by_name = any(not isinstance(w, Task) and not is_number(w) for w in tasks)

    def groups() -> Iterator[Family]:
        idle_shown = False
        for task in matching:
            leader: Task | None = task
            if task.pid != task.tgid:
                # A name stands for the leader alone; a PID for its group.
                leader = table.leader(task) if tasks and not by_name else None
            if leader is None or (leader.pid == 0 and idle_shown):
                continue
            others = [t for t in table.group(leader.tgid) if t is not leader]
            idle_shown = idle_shown or any(t.pid == 0 for t in others)
            yield Family((name_of(leader), *map(name_of, others)))

    return groups()


@ps_groups.text
def groups_lines(families: Iterable[Family]) -> Iterator[str]:
    for family in families:
        yield from _below(family, "  (no threads)")
        yield ""


@dataclass(frozen=True)
class Times:
    task: TaskName
    run_s: int  # since it started
    start_time_ns: int  # since boot
    utime_ns: int
    stime_ns: int


@ps.mode("-t", "run, start, user and system times")
def ps_times(
    dump: Dump,
    *,
    kernel: bool = False,
    user: bool = False,
    leaders: bool = False,
    tasks: Sequence[str | Task] = (),
) -> Iterator[Times]:
    """the times of each task, the oldest first"""
    chosen = choose(dump, tasks, kernel=kernel, user=user, leaders=leaders)
    ordered = chosen if tasks else iter(sorted(chosen, key=lambda t: t.start_time_ns))
    rate = tick_rate(dump.prog)
    now = uptime_jiffies(dump.prog)
    return (
        Times(
            name_of(task),
            max(0, now - task.start_time_ns // 1_000_000_000 * rate) // rate,
            task.start_time_ns,
            task.utime_ns,
            task.stime_ns,
        )
        for task in ordered
    )


@ps_times.text
def times_lines(times: Iterable[Times]) -> Iterator[str]:
    for t in times:
        yield t.task.header
        yield f"    RUN TIME: {duration(t.run_s)}"
        yield f"  START TIME: {t.start_time_ns}"
        yield f"       UTIME: {t.utime_ns}"
        yield f"       STIME: {t.stime_ns}"
        yield ""


@dataclass(frozen=True)
class LastRun:
    """When a task last got a CPU, by the clock of its run queue."""

    task: TaskName
    state: str
    last_run_ns: int
    age_ns: int | None  # with -m: how long ago; None where that run queue is not in the dump
    width: int  # of the time of the latest of all
    listed_cpu: int | None = None  # with -C: whose listing it is
    offline: bool = False


@ps.mode("-l", "when each task last ran, the latest first")
def ps_last_run(
    dump: Dump,
    *,
    kernel: bool = False,
    user: bool = False,
    leaders: bool = False,
    policy: frozenset[int] = frozenset(),
    cpus: str | None = None,
    tasks: Sequence[str | Task] = (),
    settings: Settings | None = None,
) -> Iterator[LastRun | OfCpu]:
    """when each task last ran, the latest first"""
    if leaders:
        raise CommandError("-G not supported with -l option")
    return _runs(dump, None, kernel, user, policy, cpus, tasks, settings)


@dataclass(frozen=True)
class OfCpu:
    """With -C: the tasks of this CPU follow."""

    cpu: int
    offline: bool  # and `set offline hide`, so that none follow


def _runs(
    dump: Dump,
    clock: Callable[[int], int] | None,
    kernel: bool,
    user: bool,
    policy: frozenset[int],
    cpus: str | None,
    tasks: Sequence[str | Task],
    settings: Settings | None,
) -> Iterator[LastRun | OfCpu]:
    wanted = None if cpus is None else cpu_list(cpus, dump.tasks.cpus)
    if wanted is not None and tasks:
        dump.report("-C option is not applicable with specified tasks")
    ordered = sorted(dump.tasks.all, key=lambda t: -t.last_run_ns)
    radix = 10 if settings is None else settings.radix
    latest = max((t.last_run_ns for t in ordered), default=0)
    width = len(str(latest) if radix == 10 else f"{latest:x}")
    chosen = choose(dump, tasks, kernel=kernel, user=user, policy=policy, among=ordered)

    def run(task: Task) -> LastRun:
        age = None
        if clock is not None:
            with skipping(f"run queue of CPU {task.cpu}"):
                age = max(0, clock(task.cpu) - task.last_run_ns)
        return LastRun(name_of(task), dump.tasks.state(task), task.last_run_ns, age, width)

    def by_cpu() -> Iterator[LastRun | OfCpu]:
        assert wanted is not None
        # crash lists the CPUs anew for each task that was named.
        for _ in chosen if tasks else (None,):
            for cpu in wanted:
                hidden = settings is not None and settings.offline == "hide"
                offline = hidden and cpu not in dump.tasks.online
                yield OfCpu(cpu, offline)
                if not offline:
                    yield from (run(task) for task in ordered if task.cpu == cpu)

    return map(run, chosen) if wanted is None else by_cpu()


@ps_last_run.text
def last_run_lines(
    runs: Iterable[LastRun | OfCpu], *, settings: Settings | None = None
) -> Iterator[str]:
    radix = 10 if settings is None else settings.radix
    for line, run in _with_cpus(runs):
        if run is None:
            yield line
            continue
        stamp = (
            f"{run.last_run_ns:{run.width}}" if radix == 10 else f"{run.last_run_ns:{run.width}x}"
        )
        yield f"[{stamp}] [{run.state}]  {run.task.header}"


def _with_cpus(runs: Iterable[LastRun | OfCpu]) -> Iterator[tuple[str, LastRun | None]]:
    others = False
    for run in runs:
        if isinstance(run, LastRun):
            yield "", run
            continue
        if others:
            yield "", None
        others = True
        yield f"CPU: {run.cpu}{' [OFFLINE]' if run.offline else ''}", None


@ps.mode("-m", "how long ago each task last ran, the latest first")
def ps_ages(
    dump: Dump,
    *,
    kernel: bool = False,
    user: bool = False,
    leaders: bool = False,
    policy: frozenset[int] = frozenset(),
    cpus: str | None = None,
    tasks: Sequence[str | Task] = (),
    settings: Settings | None = None,
) -> Iterator[LastRun | OfCpu]:
    """how long ago each task last ran, the latest first"""
    if leaders:
        raise CommandError("-G not supported with -m option")
    clock = run_queue_clock(dump.prog)
    return _runs(dump, clock, kernel, user, policy, cpus, tasks, settings)


def run_queue_clock(prog: Program) -> Callable[[int], int]:
    """A function that gives rq.clock of a CPU, read once."""
    queues = prog["runqueues"]
    clocks: dict[int, int] = {}

    def clock(cpu: int) -> int:
        if cpu not in clocks:
            clocks[cpu] = per_cpu(queues, cpu).clock.value_()
        return clocks[cpu]

    return clock


@ps_ages.text
def ages_lines(runs: Iterable[LastRun | OfCpu]) -> Iterator[str]:
    for line, run in _with_cpus(runs):
        if run is None:
            yield line
            continue
        age = "--" if run.age_ns is None else _age(run.age_ns)
        yield f"[{age}] [{run.state}]  {run.task.header}"


def _age(ns: int) -> str:
    """``0 00:00:01.234``"""
    seconds, ms = divmod(ns // 1_000_000, 1000)
    days, rest = divmod(seconds, 86400)
    return f"{days} {rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}.{ms:03}"


@dataclass(frozen=True)
class Arguments:
    """The command line and the environment of a task, as its user memory has them."""

    task: TaskName
    arguments: tuple[str, ...] | None  # None: not in the dump, or a kernel thread
    environment: tuple[str, ...] | None


@ps.mode("-a", "the command line and environment")
def ps_arguments(
    dump: Dump,
    *,
    kernel: bool = False,
    user: bool = False,
    leaders: bool = False,
    policy: frozenset[int] = frozenset(),
    tasks: Sequence[str | Task] = (),
) -> Iterator[Arguments]:
    """the command line and environment of each task"""
    chosen = choose(dump, tasks, kernel=kernel, user=user, leaders=leaders, policy=policy)
    page = dump.prog["PAGE_SIZE"].value_()

    def strings(task: Task, first: int, end: int) -> tuple[str, ...]:
        data = b""
        while first < end and len(data) < 1 << 24:
            step = min(page - first % page, end - first)
            mm = dump.tasks.object(task).mm
            try:
                data += access_remote_vm(mm, first, step)
            except FaultError:
                raise _Unreadable(first) from None
            first += step
        found = [part.decode(errors="backslashreplace") for part in data.split(b"\0")]
        return tuple(part for part in found if part)

    def collected() -> Iterator[Arguments]:
        for task in chosen:
            name = name_of(task)
            if not task.mm:
                yield Arguments(name, None, None)
                dump.report("no user stack\n")
                continue
            arguments = environment = None
            try:
                mm = dump.tasks.object(task).mm
                arguments = strings(task, mm.arg_start.value_(), mm.arg_end.value_())
                environment = strings(task, mm.env_start.value_(), mm.env_end.value_())
            except (_Unreadable, FaultError) as fault:
                yield Arguments(name, arguments, None)
                at = fault.address
                dump.report(f"cannot access user stack address: {at:x}\n")
                continue
            yield Arguments(name, arguments, environment)

    return collected()


class _Unreadable(Exception):
    def __init__(self, address: int) -> None:
        self.address = address


@ps_arguments.text
def arguments_lines(shown: Iterable[Arguments]) -> Iterator[str]:
    for t in shown:
        yield t.task.header
        if t.arguments is None:
            continue
        yield "ARG: " + "".join(f"{argument} " for argument in t.arguments)
        if t.environment is None:
            continue
        first, *others = t.environment or ("",)
        yield f"ENV: {first}"
        yield from (f"     {other}" for other in others)
        yield ""


@dataclass(frozen=True)
class Limit:
    name: str
    current: int | None  # None: unlimited
    maximum: int | None


@dataclass(frozen=True)
class Limits:
    task: TaskName
    limits: tuple[Limit, ...]


# By their index, RLIMIT_*: include/uapi/asm-generic/resource.h
LIMITS = (
    *("CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS"),
    *("LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME"),
)


@ps.mode("-r", "resource limits")
def ps_limits(
    dump: Dump,
    *,
    kernel: bool = False,
    user: bool = False,
    leaders: bool = False,
    policy: frozenset[int] = frozenset(),
    tasks: Sequence[str | Task] = (),
) -> Iterator[Limits]:
    """the resource limits of each task"""
    prog = dump.prog
    chosen = choose(dump, tasks, kernel=kernel, user=user, leaders=leaders, policy=policy)
    member = prog.type("struct signal_struct").member("rlim")
    count = member.type.length or len(LIMITS)
    unpack = struct.Struct(f"{byte_order(prog)}{2 * count}Q")
    infinity = (1 << 64) - 1

    def collected() -> Iterator[Limits]:
        for task in chosen:
            with skipping(f"limits of task {task.address:x}"):
                words = unpack.unpack(prog.read(task.signal + member.offset, unpack.size))
                bounds = [None if word == infinity else word for word in words]
                names = (*LIMITS, *["(unknown)"] * count)
                yield Limits(
                    name_of(task),
                    tuple(map(Limit, names[:count], bounds[::2], bounds[1::2])),
                )

    return collected()


@ps_limits.text
def limits_lines(shown: Iterable[Limits]) -> Iterator[str]:
    def bound(limit: int | None) -> str:
        return "(unlimited)" if limit is None else centered(str(limit), 11)

    for t in shown:
        width = max(len(limit.name) for limit in t.limits)
        yield t.task.header
        current, maximum = (centered(s, 11, right=True) for s in ("CURRENT", "MAXIMUM"))
        yield f"  {'RLIMIT':>{width}}   {current}   {maximum}"
        for limit in t.limits:
            yield f"  {limit.name:>{width}}   {bound(limit.current)}   {bound(limit.maximum)}"
        yield ""


@dataclass(frozen=True)
class StateCount:
    state: str
    tasks: int


@ps.mode("-S", "count the tasks in each state")
def ps_states(
    dump: Dump,
    *,
    kernel: bool = False,
    user: bool = False,
    leaders: bool = False,
    tasks: Sequence[str | Task] = (),
) -> Iterator[StateCount]:
    """how many tasks are in each state"""
    if tasks:
        raise CommandError("-S option takes no arguments")
    if kernel or user or leaders:
        raise CommandError("-S option cannot be used with other options")
    states = Counter(map(dump.tasks.state, dump.tasks))
    return iter([StateCount(state, count) for state, count in states.items()])


@ps_states.text
def states_lines(counts: Iterable[StateCount]) -> Iterator[str]:
    return (f"  {c.state}: {c.tasks}" for c in counts)
