"""runq: what each CPU runs and has in its queues."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from drgn import FaultError, Object, Program, TypeKind, offsetof

from crashpy.command import Address, CommandError, UsageError, command, flag, operands, value
from crashpy.faults import skipping
from crashpy.kernel.percpu import cpu_list, per_cpu_offsets

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.settings import Settings
    from crashpy.tasks import Task

MOST = 1 << 20  # tasks in a queue, task groups
MOST_DEPTH = 64  # of task groups
EMPTY = "[no tasks queued]"


@dataclass(frozen=True)
class Queued:
    """A task in a queue, or the one that runs."""

    pid: int
    task: Address  # struct task_struct *
    comm: str
    priority: int | None = None  # task_struct.prio, or the list that it is in
    current: bool = False  # it runs
    depth: int = 0  # of its task group


@dataclass(frozen=True)
class RunQueue:
    cpu: int
    rq: Address  # struct rq *
    current: Address  # struct task_struct *
    running: Queued | None  # None where the dump has lost the task
    real_time_array: Address | None = None  # struct rt_prio_array *
    real_time: tuple[Queued, ...] = ()
    fair_root: Address | None = None  # struct rb_root *
    fair: tuple[Queued, ...] = ()
    offline: bool = False  # and `set offline hide` asks to say no more


@dataclass(frozen=True)
class Timestamps:
    cpu: int
    clock_ns: int  # rq.clock
    running: Queued | None
    last_run_ns: int | None  # when that began to run
    milliseconds: bool = field(default=False, repr=False)  # how to show it
    cpus: int = field(default=1, repr=False)
    offline: bool = False


@dataclass(frozen=True)
class Lag:
    cpu: int
    clock_ns: int
    behind_ns: int  # the CPU whose clock is ahead of all others
    cpus: int = field(default=1, repr=False)


@dataclass(frozen=True)
class OnQueue:
    """The tasks whose on_rq is set."""

    cpu: int
    tasks: tuple[Queued, ...]
    offline: bool = False


@dataclass(frozen=True)
class Group:
    """A task group, before what it has in its queue."""

    group: Address  # struct task_group *
    queue: Address  # struct cfs_rq *, or struct rt_rq *
    name: str | None  # of its cgroup
    throttled: bool
    depth: int
    priority: int | None = None  # of a real-time group


@dataclass(frozen=True)
class NoTasks:
    depth: int


@dataclass(frozen=True)
class GroupQueue:
    kind: str  # RT or CFS
    root: str  # ROOT; INIT before 2.6.39
    group: Address  # struct task_group *
    queue: Address  # struct rt_rq * or struct cfs_rq *
    entries: tuple[Queued | Group | NoTasks, ...]


@dataclass(frozen=True)
class Groups:
    cpu: int
    current: Address
    running: Queued | None
    queues: tuple[GroupQueue, ...]
    offline: bool = False


Record = RunQueue | Timestamps | Lag | OnQueue | Groups


@command(
    flag("-t", "timestamps", "the clock of each CPU, and when its task began to run"),
    flag("-T", "lag", "how far the clock of each CPU is behind"),
    flag("-m", "milliseconds", "how long each CPU has run its task"),
    flag("-g", "groups", "by task group"),
    flag("-d", "on_queue", "the tasks that say they are in a queue"),
    value("-c", "cpus", "cpu(s)", str, "only these CPUs", repeat=True),
    operands("_ignored", "word", str, "crash ignores them, too"),
    usage="[-t] [-T] [-m] [-g] [-c cpu(s)]",
)
def runq(
    dump: Dump,
    *,
    timestamps: bool = False,
    lag: bool = False,
    milliseconds: bool = False,
    groups: bool = False,
    on_queue: bool = False,
    cpus: Sequence[str] = (),
    _ignored: Sequence[str] = (),
    settings: Settings | None = None,
) -> Iterator[Record]:
    """run queues of the CPUs

    The task that runs on each CPU, and those that wait: in the array of real-time
    priorities and in the tree of the fair scheduler, each with its priority.

    -t  the time stamp of each CPU's run queue, and that of its running task
    -T  how many seconds the time stamp of each CPU is behind the latest
    -m  days, hours, minutes, seconds since the running task began to run
    -g  tasks by the task groups (cgroups) they belong to; throttled groups say so
    -c  only these CPUs: `1`, `0,2-3`, `a` or `all`

    EXAMPLES
      crash> runq -c 1
      CPU 1 RUNQUEUE: ffffa0bb872a3d80
        CURRENT: PID: 135    TASK: ffffa0bb811b2000  COMMAND: "wl-sys"
        RT PRIO_ARRAY: ffffa0bb872a3f80
           [no tasks queued]
        CFS RB_ROOT: ffffa0bb872a3e40
           [no tasks queued]

      crash> runq -m -c 1
       CPU 1: [0 00:00:00.004]  PID: 135    TASK: ffffa0bb811b2000  COMMAND: "wl-sys"
    """
    offsets = per_cpu_offsets(dump.prog)
    if groups and not _has_groups(dump.prog):
        raise CommandError("-g option not supported or applicable on this architecture or kernel")
    chosen = list(range(len(offsets)))
    for word in cpus[:1]:
        chosen = cpu_list(word, len(offsets))
    if len(cpus) > 1:
        dump.report("only one -c option allowed")
        raise UsageError
    hidden = _hidden(dump, settings)
    if lag and not timestamps:  # of all CPUs, whatever was chosen
        yield from _lags(dump, len(offsets))
        return
    make: Callable[[Dump, int], Record] = _queues
    if timestamps:
        make = _timestamps
    elif milliseconds:
        make = _durations
    elif on_queue:
        make = _OnQueues(dump).of
    elif groups:
        make = _Groups(dump).of
    for cpu in chosen:
        with skipping(f"the run queue of CPU {cpu}"):
            yield _unread(make, dump, cpu) if cpu in hidden else make(dump, cpu)


def _hidden(dump: Dump, settings: Settings | None) -> set[int]:
    if settings is None or settings.offline != "hide":
        return set()
    return set(range(len(per_cpu_offsets(dump.prog)))) - dump.tasks.online


def _unread(make: object, dump: Dump, cpu: int) -> Record:
    """What is shown of a CPU that is offline: that it is."""
    if make is _queues:
        return RunQueue(cpu, Address(0), Address(0), None, offline=True)
    if make in (_timestamps, _durations):
        count = len(per_cpu_offsets(dump.prog))
        return Timestamps(cpu, 0, None, None, make is _durations, count, offline=True)
    if isinstance(getattr(make, "__self__", None), _OnQueues):
        return OnQueue(cpu, (), offline=True)
    return Groups(cpu, Address(0), None, (), offline=True)


def _rq(dump: Dump, cpu: int) -> Object:
    """``struct rq`` of a CPU, on line or not."""
    from drgn.helpers.linux.percpu import per_cpu

    return per_cpu(dump.prog["runqueues"], cpu)


def _clock(rq: Object) -> int:
    for name in ("clock", "most_recent_timestamp", "timestamp_last_tick"):
        try:
            found: int = rq.member_(name).value_()
        except LookupError:
            continue
        return found
    raise CommandError("-t option not supported or applicable on this architecture or kernel")


def _running(dump: Dump, cpu: int) -> Queued | None:
    task = dump.tasks.active.get(cpu)
    return None if task is None else _queued(task)


def _queued(task: Task, priority: int | None = None, **how: int) -> Queued:
    current = bool(how.get("current", False))
    return Queued(
        task.pid, Address(task.address), task.comm, priority, current, how.get("depth", 0)
    )


def _timestamps(dump: Dump, cpu: int) -> Timestamps:
    task = dump.tasks.active.get(cpu)
    return Timestamps(
        cpu,
        _clock(_rq(dump, cpu)),
        None if task is None else _queued(task),
        None if task is None else task.last_run_ns,
        cpus=len(per_cpu_offsets(dump.prog)),
    )


def _durations(dump: Dump, cpu: int) -> Timestamps:
    from dataclasses import replace

    return replace(_timestamps(dump, cpu), milliseconds=True)


def _lags(dump: Dump, count: int) -> Iterator[Lag]:
    clocks = []
    for cpu in range(count):
        with skipping(f"the run queue of CPU {cpu}"):
            clocks.append((cpu, _clock(_rq(dump, cpu))))
    clocks.sort(key=lambda pair: -pair[1])
    for cpu, clock in clocks:
        yield Lag(cpu, clock, clocks[0][1] - clock, count)


class _OnQueues:
    def __init__(self, dump: Dump) -> None:
        member = "on_rq"
        kind = dump.prog.type("struct task_struct")
        if not kind.has_member(member):
            member = "se.on_rq"
        self._on_rq, self._prio = offsetof(kind, member), offsetof(kind, "prio")
        self._tasks: dict[int, list[Queued]] = {}
        for task in dump.tasks:
            with skipping(f"task {task.address:x}"):
                if dump.prog.read_u32(task.address + self._on_rq):
                    prio = _signed(dump.prog.read_u32(task.address + self._prio))
                    self._tasks.setdefault(task.cpu, []).append(_queued(task, prio))

    def of(self, _dump: Dump, cpu: int) -> OnQueue:
        return OnQueue(cpu, tuple(self._tasks.get(cpu, ())))


def _signed(number: int) -> int:
    return number - (number >> 31 << 32)


class _Entities:
    """Walks the queues of both schedulers; never along a corrupted link for ever."""

    def __init__(self, dump: Dump) -> None:
        self.prog = prog = dump.prog
        self.dump = dump
        kind = prog.type("struct task_struct")
        self.se, self.prio = offsetof(kind, "se"), offsetof(kind, "prio")
        self.rt = offsetof(kind, "rt")
        self.fair_groups = prog.type("struct sched_entity").has_member("my_q")
        self.rt_groups = prog.type("struct sched_rt_entity").has_member("my_q")
        array = prog.type("struct rt_prio_array").member("queue").type
        self.queue = offsetof(prog.type("struct rt_prio_array"), "queue")
        self.priorities = array.length if array.kind == TypeKind.ARRAY and array.length else 100
        self.run_list = offsetof(prog.type("struct sched_rt_entity"), "run_list")
        self.seen: set[int] = set()

    def fair(self, cfs_rq: Object) -> Iterator[Object]:
        """``struct sched_entity *`` of all that wait, in the order of the tree."""
        from drgn.helpers.linux.rbtree import rbtree_inorder_for_each

        timeline = cfs_rq.tasks_timeline
        try:
            # Since Linux kernel commit bfb068892d30 ("sched/fair: replace cfs_rq->rb_leftmost")
            # (in v4.14)
            root, leftmost = timeline.rb_root, timeline.rb_leftmost
        except AttributeError:
            root, leftmost = timeline, cfs_rq.rb_leftmost
        if not leftmost:
            return
        from drgn import container_of

        for node in islice(rbtree_inorder_for_each(root.address_of_()), MOST):
            yield container_of(node, "struct sched_entity", "run_node")

    def task(self, address: int) -> Task | None:
        return self.dump.tasks.at(address)

    def first_time(self, task: Task) -> bool:
        if task.address in self.seen:
            self.dump.report(f"WARNING: duplicate CFS runqueue node: task {task.address:x}")
            return False
        self.seen.add(task.address)
        return True

    def entry(self, task: Task, *, depth: int = 0, current: bool = False) -> Queued:
        prio = _signed(self.prog.read_u32(task.address + self.prio))
        return _queued(task, prio, depth=depth, current=current)

    def real_time(self, active: int) -> Iterator[tuple[int, Object]]:
        """Priority and ``struct sched_rt_entity *``; from the address of an rt_prio_array."""
        import struct

        heads = active + self.queue
        data = self.prog.read(heads, 16 * self.priorities)
        for priority, (first, last) in enumerate(struct.iter_unpack("QQ", data)):
            head = heads + 16 * priority
            entry: int = first
            seen: set[int] = set()
            if first == last == head:
                continue
            while entry != head and entry not in seen and len(seen) < MOST:
                seen.add(entry)
                yield (
                    priority,
                    Object(self.prog, "struct sched_rt_entity *", value=entry - self.run_list),
                )
                entry = self.prog.read_u64(entry)


def _queues(dump: Dump, cpu: int) -> RunQueue:
    rq = _rq(dump, cpu)
    entities = _Entities(dump)
    active = rq.rt.active.address_of_().value_()
    cfs = rq.cfs
    return RunQueue(
        cpu,
        Address(rq.address_ or 0),
        Address(rq.curr.value_()),
        _running(dump, cpu),
        Address(active),
        tuple(_real_time(entities, active, 0)),
        Address(cfs.tasks_timeline.address_of_().value_()),
        tuple(_fair(entities, cfs, 0)),
    )


def _real_time(entities: _Entities, active: int, depth: int) -> Iterator[Queued]:
    """Its dump_RT_prio_array()."""
    if depth > MOST_DEPTH:
        return
    for priority, entity in entities.real_time(active):
        if entities.rt_groups and entity.my_q:
            below = entity.my_q.active.address_of_().value_()
            yield from _real_time(entities, below, depth + 1)
        elif (task := entities.task(entity.value_() - entities.rt)) is not None:
            yield _queued(task, priority)


def _fair(entities: _Entities, cfs_rq: Object, depth: int) -> Iterator[Queued]:
    """Its dump_tasks_in_cfs_rq(): the queue of the group that runs before the tree."""
    if depth > MOST_DEPTH:
        return
    current = cfs_rq.curr
    if entities.fair_groups and current and current.my_q:
        yield from _fair(entities, current.my_q[0], depth + 1)
    for entity in entities.fair(cfs_rq):
        if entities.fair_groups and entity.my_q:
            yield from _fair(entities, entity.my_q[0], depth + 1)
            continue
        task = entities.task(entity.value_() - entities.se)
        if task is None:
            continue
        if not entities.first_time(task):
            return
        yield entities.entry(task)


def _has_groups(prog: Program) -> bool:
    try:
        kind = prog.type("struct task_group")
    except LookupError:
        return False
    queues = kind.has_member("cfs_rq") or kind.has_member("rt_rq")
    return queues and kind.has_member("parent")


@dataclass
class _TaskGroup:
    address: int
    name: str | None
    depth: int
    parent: _TaskGroup | None
    to_show: bool = True


class _Groups:
    """The queues of one CPU after the other, by task group."""

    def __init__(self, dump: Dump) -> None:
        self._dump, self._prog = dump, dump.prog
        name = "init_task_group" if "init_task_group" in dump.prog else "root_task_group"
        if name not in dump.prog:
            raise CommandError("cannot determine root task_group")
        self._root = dump.prog[name]
        self._title = name[:4].upper()
        self._groups: list[_TaskGroup] = []
        self._collect(self._root.address_of_(), 0, None)
        self._groups.sort(key=lambda group: group.depth)
        kind = dump.prog.type("struct task_group")
        self._bandwidth = kind.has_member("rt_bandwidth")
        self._throttles = dump.prog.type("struct cfs_rq").has_member("throttled")

    def _collect(self, group: Object, depth: int, parent: _TaskGroup | None) -> None:
        from drgn.helpers.linux.list import list_for_each_entry

        if depth > MOST_DEPTH or len(self._groups) > MOST:
            return
        found = _TaskGroup(group.value_(), None, depth, parent)
        with skipping(f"the name of task group {found.address:x}"):
            found.name = _group_name(group)
        self._groups.append(found)
        with skipping(f"the children of task group {found.address:x}"):
            children = list_for_each_entry(
                "struct task_group", group.children.address_of_(), "siblings"
            )
            for child in islice(children, MOST):
                self._collect(child, depth + 1, found)

    def of(self, dump: Dump, cpu: int) -> Groups:
        rq = _rq(dump, cpu)
        queues = []
        for kind, member, walk in (
            ("RT", "rt_rq", self._real_time),
            ("CFS", "cfs_rq", self._fair),
        ):
            if not self._prog.type("struct task_group").has_member(member):
                continue
            self._entities = _Entities(dump)
            self._current = dump.tasks.active.get(cpu)
            self._cpu = cpu
            self._entries: list[Queued | Group | NoTasks] = []
            for group in self._groups:
                group.to_show = group.depth > 0
            queue = self._root.member_(member)[cpu]
            walk(0, queue)
            queues.append(
                GroupQueue(
                    kind,
                    self._title,
                    Address(self._root.address_ or 0),
                    Address(queue.value_()),
                    tuple(self._entries),
                )
            )
        return Groups(cpu, Address(rq.curr.value_()), _running(dump, cpu), tuple(queues))

    def _header(self, group: _TaskGroup, queue: Object, *, fair: bool) -> None:
        throttled = False
        if fair and self._throttles:
            throttled = bool(queue.throttled)
        elif not fair and self._bandwidth:
            throttled = bool(queue.rt_throttled)
        priority = None if fair else _highest(queue)
        self._entries.append(
            Group(
                Address(group.address),
                Address(queue.value_()),
                group.name,
                throttled,
                group.depth,
                priority,
            )
        )
        group.to_show = False

    def _introduce(self, queue: Object, *, fair: bool) -> None:
        address = queue.tg.value_()
        for group in self._groups:
            if group.address == address:
                self._header(group, queue, fair=fair)
                return

    def _parents(self, group: _TaskGroup, *, fair: bool) -> None:
        parent = group.parent
        if parent is None or not parent.to_show:
            return
        self._parents(parent, fair=fair)
        self._header(parent, self._queue(parent, fair=fair), fair=fair)

    def _queue(self, group: _TaskGroup, *, fair: bool) -> Object:
        found = Object(self._prog, "struct task_group *", value=group.address)
        return found.member_("cfs_rq" if fair else "rt_rq")[self._cpu]

    def _fair(self, depth: int, cfs_rq: Object) -> int:
        """Its dump_tasks_in_task_group_cfs_rq()."""
        if depth > MOST_DEPTH:
            return 0
        total = 0
        entities = self._entities
        if depth:
            self._introduce(cfs_rq, fair=True)
        current = cfs_rq.curr
        below = current.my_q if entities.fair_groups and current else None
        if below:
            total += 1 + self._fair(depth + 1, below)
        elif (task := self._current) is not None and current.value_() == task.address + entities.se:
            total += 1
            self._entries.append(entities.entry(task, depth=depth, current=True))
        for entity in entities.fair(cfs_rq):
            if entities.fair_groups and entity.my_q:
                total += 1 + self._fair(depth + 1, entity.my_q)
                continue
            task = entities.task(entity.value_() - entities.se)
            if task is None:
                continue
            if not entities.first_time(task):
                return total
            self._entries.append(entities.entry(task, depth=depth))
            total += 1
        total += self._dequeued(depth, cfs_rq, fair=True)
        if not total:
            self._entries.append(NoTasks(depth))
        return total

    def _dequeued(self, depth: int, queue: Object, *, fair: bool) -> int:
        """Groups that have tasks, but were taken out of the queue: throttled ones."""
        total = 0
        if depth > MOST_DEPTH:
            return 0
        address = queue.tg.value_()
        for group in self._groups:
            if not group.to_show or group.depth != depth + 1 or group.parent is None:
                continue
            if group.parent.address != address:
                continue
            own = self._queue(group, fair=fair)
            if own.value_() == queue.value_():
                continue
            if not _running_count(own, fair=fair):
                total += self._dequeued(depth + 1, own, fair=fair)
                continue
            self._parents(group, fair=fair)
            total += 1
            total += (self._fair if fair else self._real_time)(depth + 1, own)
        return total

    def _real_time(self, depth: int, rt_rq: Object) -> int:
        """Its dump_tasks_in_task_group_rt_rq()."""
        if depth > MOST_DEPTH:
            return 0
        total = 0
        entities = self._entities
        if depth:
            self._introduce(rt_rq, fair=False)
        active = rt_rq.active.address_of_().value_()
        for priority, entity in entities.real_time(active):
            if entities.rt_groups and entity.my_q:
                total += 1
                self._real_time(depth + 1, entity.my_q)
            elif (task := entities.task(entity.value_() - entities.rt)) is not None:
                self._entries.append(_queued(task, priority, depth=2 * depth))
                total += 1
        total += self._dequeued(depth, rt_rq, fair=False)
        if not total:
            self._entries.append(NoTasks(2 * depth))
        return total


def _highest(rt_rq: Object) -> int:
    try:
        priority: int = rt_rq.highest_prio.curr.value_()
    except AttributeError:
        priority = rt_rq.highest_prio.value_()
    return priority


def _running_count(queue: Object, *, fair: bool) -> int:
    # Since Linux kernel commit 736c55a02c47 ("sched/fair: Rename cfs_rq.nr_running into
    # nr_queued") (in v6.14)
    for name in ("nr_queued", "nr_running") if fair else ("rt_nr_running",):
        try:
            found: int = queue.member_(name).value_()
        except LookupError:
            continue
        return found
    return 0


def _group_name(group: Object) -> str | None:
    """Of the cgroup; None where it has none: an autogroup."""
    cgroup = group.css.cgroup
    if not cgroup or not cgroup.kn:
        return None
    node = cgroup.kn
    try:
        parent = node.parent
    except AttributeError:
        # Since Linux kernel commit 633488947ef6 ("kernfs: Use RCU to access
        # kernfs_node::parent") (in v6.15)
        parent = node.member_("__parent")
    if not parent:
        return "/"
    try:
        name: bytes = node.name.string_()
    except FaultError:
        return None
    return name.decode(errors="backslashreplace")


@runq.text
def lines(records: Iterable[Record], *, settings: Settings | None = None) -> Iterator[str]:
    radix = settings.radix if settings is not None else 10
    another, days = False, 0
    for record in records:
        if isinstance(record, RunQueue):
            yield from ("",) if another else ()
            yield from _queue_lines(record)
        elif isinstance(record, Timestamps):
            if record.milliseconds:
                days = days or len(_duration(record.clock_ns).partition(" ")[0])
                yield _duration_line(record, days)
            else:
                yield from _timestamp_lines(record, radix)
        elif isinstance(record, Lag):
            width = 2 + len(str(record.cpus)) - len(str(record.cpu))
            yield f"{' ' * width}CPU {record.cpu}: {record.behind_ns / 1e9:.2f} secs"
        elif isinstance(record, OnQueue):
            yield from ("",) if record.cpu else ()
            yield f"CPU {record.cpu}" + " [OFFLINE]" * record.offline
            if not record.offline:
                yield from _queued_lines(record.tasks)
        else:
            yield from ("",) if another else ()
            yield from _group_lines(record)
        another = True


def _task(task: Queued) -> str:
    return f'PID: {task.pid:<5}  TASK: {task.task:x}  COMMAND: "{task.comm}"'


def _queued_lines(tasks: Iterable[Queued]) -> Iterator[str]:
    empty = True
    for task in tasks:
        empty = False
        yield f"     [{task.priority:3}] {_task(task)}"
    if empty:
        yield f"     {EMPTY}"


def _current_line(current: Address, running: Queued | None) -> str:
    return "  CURRENT: " + (f"{current:x}" if running is None else _task(running))


def _queue_lines(queue: RunQueue) -> Iterator[str]:
    if queue.offline:
        yield f"CPU {queue.cpu} [OFFLINE]"
        return
    yield f"CPU {queue.cpu} RUNQUEUE: {queue.rq:x}"
    yield _current_line(queue.current, queue.running)
    yield f"  RT PRIO_ARRAY: {queue.real_time_array:x}"
    yield from _queued_lines(queue.real_time)
    yield f"  CFS RB_ROOT: {queue.fair_root:x}"
    yield from _queued_lines(queue.fair)


def _timestamp_lines(record: Timestamps, radix: int) -> Iterator[str]:
    start = f"{' ' * (record.cpu < 10)}CPU {record.cpu}: "
    if record.offline:
        yield start + "[OFFLINE]"
        return
    clock = f"{record.clock_ns:x}" if radix == 16 else f"{record.clock_ns}"
    yield start + clock
    if record.running is None:
        yield ""
        return
    code = f"0{len(clock)}" + ("x" if radix == 16 else "d")
    yield f"{' ' * len(start)}{record.last_run_ns:{code}}  {_task(record.running)}"


def _duration_line(record: Timestamps, days: int) -> str:
    start = f"CPU {record.cpu}: "
    start = " " * (len(str(record.cpus)) - len(str(record.cpu)) + 1) + start
    if record.offline:
        return start + "[OFFLINE]"
    if record.running is None or record.last_run_ns is None:
        return start + "[unknown]"
    shown = _duration(max(0, record.clock_ns - record.last_run_ns))
    pad = " " * (days - len(shown.partition(" ")[0]))
    return f"{start}[{pad}{shown}]  {_task(record.running)}"


def _duration(ns: int) -> str:
    """``0 00:00:15.430`` (crash's translate_nanoseconds())."""
    seconds, ns = divmod(ns, 1_000_000_000)
    days, seconds = divmod(seconds, 86400)
    return (
        f"{days} {seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        f".{ns // 1_000_000:03}"
    )


def _group_lines(record: Groups) -> Iterator[str]:
    yield f"CPU {record.cpu}" + " [OFFLINE]" * record.offline
    if record.offline:
        return
    yield _current_line(record.current, record.running)
    for queue in record.queues:
        yield f"  {queue.root}_TASK_GROUP: {queue.group:x}  {queue.kind}_RQ: {queue.queue:x}"
        for entry in queue.entries:
            yield _entry_line(entry)


def _entry_line(entry: Queued | Group | NoTasks) -> str:
    if isinstance(entry, NoTasks):
        return " " * (5 + 3 * entry.depth) + EMPTY
    if isinstance(entry, Queued):
        mark = " [CURRENT]" * entry.current
        return f"{' ' * (5 + 3 * entry.depth)}[{entry.priority:3}] {_task(entry)}{mark}"
    name = "" if entry.name is None else f" <{entry.name}>"
    throttled = " (THROTTLED)" * entry.throttled
    if entry.priority is None:
        start = f"{' ' * (2 + 3 * entry.depth)}TASK_GROUP: {entry.group:x}"
        return f"{start}  CFS_RQ: {entry.queue:x} {name}{throttled}"
    start = f"{' ' * (6 * entry.depth - 1)}[{entry.priority:3}] TASK_GROUP: {entry.group:x}"
    return f"{start}  RT_RQ: {entry.queue:x}{name}{throttled}"
