"""ipcs: System V shared memory, semaphores and message queues."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from drgn import FaultError, Object, container_of, offsetof

from crashpy.command import Address, CommandError, command, flag, operands, value
from crashpy.faults import skipping
from crashpy.kernel.pid import Layout, xarray_entries
from crashpy.numbers import WORD, signed, stol
from crashpy.tasks import Task, named

if TYPE_CHECKING:
    from crashpy.dump import Dump

SEMAPHORES, QUEUES, MEMORY = range(3)  # of ipc_namespace.ids[]
SHM_DEST, SHM_LOCKED = 0o1000, 0o2000
HUGE = "hugetlbfs_file_operations", "shm_file_operations_huge"


@dataclass(frozen=True)
class Pages:
    """What of a shared memory segment is where."""

    inode: Address  # struct inode *
    allocated: int
    resident: int
    swapped: int


@dataclass(frozen=True)
class Segment:
    """Shared memory."""

    shmid_kernel: Address  # struct shmid_kernel *
    key: int
    shmid: int
    uid: int
    mode: int  # permissions
    size_bytes: int
    attached: int
    destroyed: bool  # at the last detach
    locked: bool
    pages: Pages | None = None  # with -M


@dataclass(frozen=True)
class SemaphoreArray:
    sem_array: Address  # struct sem_array *
    key: int
    semid: int
    uid: int
    mode: int
    semaphores: int


@dataclass(frozen=True)
class MessageQueue:
    msg_queue: Address  # struct msg_queue *
    key: int
    msqid: int
    uid: int
    mode: int
    used_bytes: int
    messages: int


@dataclass(frozen=True)
class Missing:
    """No object has this number or address."""

    selector: str


Record = Segment | SemaphoreArray | MessageQueue


@command(
    flag("-s", "semaphores", "semaphore arrays"),
    flag("-m", "memory", "shared memory"),
    flag("-M", "pages", "shared memory, with its inode and where its pages are"),
    flag("-q", "queues", "message queues"),
    value("-n", "tasks", "pid|task", str, "what this task sees", repeat=True),
    operands("selectors", "id | addr", str, "only these: a number, or an address"),
    usage="[-smMq] [-n pid|task] [id | addr]",
)
def ipcs(
    dump: Dump,
    *,
    semaphores: bool = False,
    memory: bool = False,
    pages: bool = False,
    queues: bool = False,
    tasks: Sequence[str] = (),
    selectors: Sequence[str] = (),
) -> Iterator[Record | Missing]:
    """System V shared memory, semaphores and message queues

    Of each object its structure in the kernel, key, number, owner and permissions, and
    how large it is; all three kinds unless -s, -m, -M or -q choose some. They are those
    of the first IPC namespace, or with -n of a task's.

    STATUS of shared memory is `dest` where it goes with the last process that detaches,
    `locked` where it must stay in memory.

    EXAMPLES
      crash> ipcs -M 0
      SHMID_KERNEL     KEY      SHMID      UID   PERMS BYTES      NATTCH STATUS
      ffffa0bb80922400 00005ea1 0          0     600   65536      2
      PAGES ALLOCATED/RESIDENT/SWAPPED: 16/1/0
      INODE: ffffa0bb8090a0b0

      ipcs -q                  message queues
      ipcs -n 142              what process 142 sees
    """
    of: Task | None = None
    for word in tasks:
        matching = named(dump, word)
        if not matching:
            raise CommandError(f"invalid task or pid value: {word}")
        of = matching[0]
    numbers = [stol(word) for word in selectors]
    kinds = _kinds(semaphores, memory or pages, queues)
    readers = _readers(dump, pages)
    every = [partial(_objects, dump, of, kind, readers[kind]) for kind in kinds]
    if not selectors:
        return chain.from_iterable(read() for read in every)
    return _chosen(every, selectors, numbers)


def _chosen(
    every: Sequence[Callable[[], Iterator[Record]]],
    selectors: Sequence[str],
    numbers: Sequence[int],
) -> Iterator[Record | Missing]:
    """The first object of each kind that a selector names; before them those that name none."""
    chosen: list[Record] = []
    for word, number in zip(selectors, numbers, strict=True):
        found = [next((one for one in read() if number in _names(one)), None) for read in every]
        if not any(found):
            yield Missing(word)
        chosen += [one for one in found if one is not None]
    yield from chosen


def _kinds(semaphores: bool, memory: bool, queues: bool) -> list[int]:
    """In crash's order."""
    wanted = ((MEMORY, memory), (SEMAPHORES, semaphores), (QUEUES, queues))
    every = not any(chosen for _, chosen in wanted)
    return [kind for kind, chosen in wanted if chosen or every]


def _names(record: Record) -> tuple[int, int]:
    """The number and the address."""
    if isinstance(record, Segment):
        number, address = record.shmid, record.shmid_kernel
    elif isinstance(record, SemaphoreArray):
        number, address = record.semid, record.sem_array
    else:
        number, address = record.msqid, record.msg_queue
    return number & WORD, address


def _objects(
    dump: Dump, task: Task | None, kind: int, read: Callable[[int], Record | None]
) -> Iterator[Record]:
    """Those of one kind, by their place in the kernel's table."""
    for entry in _entries(dump, _namespace(dump, task).ids[kind]):
        with skipping(f"the IPC object at {entry:x}"):
            found = read(entry)
            if found is not None:
                yield found


def _namespace(dump: Dump, task: Task | None) -> Object:
    """``struct ipc_namespace *``"""
    if task is None:
        first = dump.tasks.with_pid(0)
        if not first:  # the dump has lost it
            return dump.prog["init_ipc_ns"].address_of_()
        task = first[0]
    try:
        found = dump.tasks.object(task).nsproxy.ipc_ns.read_()
    except FaultError:  # a task that is exiting has left its namespaces
        raise CommandError("cannot determine ipc_namespace location!") from None
    return found


def _entries(dump: Dump, ids: Object) -> Iterator[int]:
    """``struct kern_ipc_perm *`` of all that are in use."""

    def hole(what: str, fault: Exception) -> None:
        dump.report(f"{what}: {fault}")

    try:
        yield from xarray_entries(ids.ipcs_idr.idr_rt, hole)
    except AttributeError:  # before Linux 4.20
        from drgn.helpers.linux.idr import idr_for_each

        yield from (entry.value_() for _, entry in idr_for_each(ids.ipcs_idr.address_of_()))


PERMISSIONS = {"key": "key", "id": "id", "uid": "uid.val", "mode": "mode", "deleted": "deleted"}


def _readers(dump: Dump, pages: bool) -> dict[int, Callable[[int], Record | None]]:
    prog = dump.prog

    def reader(
        kind: str, perm: str, members: dict[str, str], make: Callable[..., Record]
    ) -> Callable[[int], Record | None]:
        type_ = prog.type(f"struct {kind}")
        permissions = {name: f"{perm}.{path}" for name, path in PERMISSIONS.items()}
        layout = Layout(prog, type_, permissions | members)
        before = offsetof(type_, perm)

        def read(entry: int) -> Record | None:
            values = layout.read(prog, entry - before)
            if values.pop("deleted") & 1:
                return None
            values["key"] &= 0xFFFFFFFF
            return make(Address(entry - before), **values)

        return read

    return {
        SEMAPHORES: reader("sem_array", "sem_perm", {"nsems": "sem_nsems"}, _array),
        QUEUES: reader("msg_queue", "q_perm", {"bytes": "q_cbytes", "count": "q_qnum"}, _queue),
        MEMORY: reader(
            "shmid_kernel",
            "shm_perm",
            {"bytes": "shm_segsz", "attached": "shm_nattch", "file": "shm_file"},
            partial(_segment, dump=dump, pages=pages),
        ),
    }


def _array(address: Address, *, key: int, id: int, uid: int, mode: int, nsems: int) -> Record:
    return SemaphoreArray(address, key, id, uid, mode & 0o777, nsems & 0xFFFFFFFF)


def _queue(
    address: Address, *, key: int, id: int, uid: int, mode: int, bytes: int, count: int
) -> Record:
    return MessageQueue(address, key, id, uid, mode & 0o777, bytes, count)


def _segment(
    address: Address,
    *,
    key: int,
    id: int,
    uid: int,
    mode: int,
    bytes: int,
    attached: int,
    file: int,
    dump: Dump,
    pages: bool,
) -> Record:
    return Segment(
        address,
        key,
        id,
        uid,
        mode & 0o777,
        bytes,
        attached,
        bool(mode & SHM_DEST),
        bool(mode & SHM_LOCKED),
        _pages(dump, file, bytes) if pages else None,
    )


def _pages(dump: Dump, file: int, size: int) -> Pages:
    prog = dump.prog
    inode = Object(prog, "struct file *", value=file).f_inode.read_()
    cached = inode.i_mapping.nrpages.value_()
    swapped = 0
    if _is_huge(dump, file):
        # Pages of the page cache are huge ones before Linux kernel commit a08c7193e4f1
        # ("mm/filemap: remove hugetlb special casing in filemap.c") (in v6.7).
        if dump.symbols.named("hugetlb_basepage_index") is not None:
            filesystem = inode.i_sb.s_fs_info.value_()
            info = Object(prog, "struct hugetlbfs_sb_info *", value=filesystem)
            cached <<= info.hstate.order.value_()
    else:
        swapped = container_of(inode, "struct shmem_inode_info", "vfs_inode").swapped.value_()
    return Pages(Address(inode.value_()), -(-size // dump.page_size), cached, swapped)


def _is_huge(dump: Dump, file: int) -> bool:
    operations = Object(dump.prog, "struct file *", value=file).f_op.value_()
    found = (dump.symbols.named(name) for name in HUGE)
    return operations in [symbol.address for symbol in found if symbol is not None]


HEADERS = {
    MEMORY: "SHMID_KERNEL     KEY      SHMID      UID   PERMS BYTES      NATTCH STATUS",
    SEMAPHORES: "SEM_ARRAY        KEY      SEMID      UID   PERMS NSEMS     ",
    QUEUES: "MSG_QUEUE        KEY      MSQID      UID   PERMS USED-BYTES   MESSAGES    ",
}
KINDS: dict[int, type[Record]] = {
    MEMORY: Segment,
    SEMAPHORES: SemaphoreArray,
    QUEUES: MessageQueue,
}


@ipcs.text
def lines(
    records: Iterable[Record | Missing],
    *,
    semaphores: bool = False,
    memory: bool = False,
    pages: bool = False,
    queues: bool = False,
    selectors: Sequence[str] = (),
) -> Iterator[str]:
    """A table of each kind; one of its own for each object that was asked for."""
    if selectors:
        for record in records:
            if isinstance(record, Missing):
                yield f"invalid id or address: {record.selector}"
            else:
                yield from _alone(record)
            yield ""
        return
    rest: Iterator[Any] = iter(records)
    one = None
    for kind in _kinds(semaphores, memory or pages, queues):
        alone = pages and kind == MEMORY
        if not alone:
            yield HEADERS[kind]
        one = next(rest, None) if one is None else one
        empty = not isinstance(one, KINDS[kind])
        while isinstance(one, KINDS[kind]):
            yield from chain(_alone(one), ("",)) if alone else (_line(one),)
            one = next(rest, None)
        if empty:
            yield from (HEADERS[kind],) if alone else ()
            yield "(none allocated)"
        if empty or not alone:
            yield ""


def _alone(record: Record) -> Iterator[str]:
    yield next(HEADERS[kind] for kind, known in KINDS.items() if isinstance(record, known))
    yield _line(record)
    if isinstance(record, Segment) and (pages := record.pages) is not None:
        counts = f"{pages.allocated}/{pages.resident}/{pages.swapped}"
        yield f"PAGES ALLOCATED/RESIDENT/SWAPPED: {counts}"
        yield f"INODE: {pages.inode:x}"


def _line(record: Record) -> str:
    number, address = _names(record)
    uid = record.uid - (record.uid >> 31 << 32)  # as crash shows it
    start = f"{address:<16x} {record.key:08x} {signed(number):<10} {uid:<5} {record.mode:<5o} "
    if isinstance(record, Segment):
        status = f"{'dest' if record.destroyed else ''} {'locked' if record.locked else ''}"
        return f"{start}{record.size_bytes:<10} {record.attached:<6} {status}"
    if isinstance(record, SemaphoreArray):
        return f"{start}{record.semaphores:<10}"
    return f"{start}{record.used_bytes:<12} {record.messages:<12}"
