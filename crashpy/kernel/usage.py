"""How much memory a task has: resident and virtual."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from drgn import FaultError, Program, sizeof

from crashpy.kernel.pid import Layout, byte_order, read_variable
from crashpy.tasks import Task, TaskTable

# The counters of enum { MM_FILEPAGES, MM_ANONPAGES, MM_SWAPENTS, MM_SHMEMPAGES } that
# are in memory.
RESIDENT = ("MM_FILEPAGES", "MM_ANONPAGES", "MM_SHMEMPAGES")


class MemoryUsage:
    """Resident and virtual pages by task, each mm_struct read once."""

    def __init__(self, prog: Program, tasks: TaskTable) -> None:
        self._prog, self._tasks = prog, tasks
        self._order = byte_order(prog)
        self._mm = Layout(
            prog,
            prog.type("struct mm_struct"),
            {"total": "total_vm", "users": "mm_count.counter", "rss": "rss_stat"},
        )
        self._counters = [self._constant(name) for name in RESIDENT if name in prog]
        self._seen: dict[int, tuple[int, int, int]] = {}
        self._threads: dict[int, int] = {}
        try:
            self._percpu = Layout(
                prog,
                prog.type("struct percpu_counter"),
                {"count": "count", "counters": "counters"},
            )
            self._percpu_size = sizeof(prog.type("struct percpu_counter"))
            self._offsets = self._per_cpu_offsets()
        except LookupError:
            self._offsets = []
        try:
            # SPLIT_RSS_COUNTING: pages that threads have not handed over yet, until
            # Linux kernel commit f1a7941243c1 ("mm: convert mm's rss stats into
            # percpu_counter") (in v6.2)
            self._task: Layout | None = Layout(
                prog, prog.type("struct task_struct"), {"rss": "rss_stat.count"}
            )
        except LookupError:
            self._task = None
        if self._task is not None and not self._task.names:
            self._task = None

    def _constant(self, name: str) -> int:
        value: int = self._prog[name].value_()
        return value

    def _per_cpu_offsets(self) -> list[int]:
        table = self._prog["__per_cpu_offset"]
        # As crash: the CPUs that a panic took offline count too.
        return [table[cpu].value_() for cpu in range(self._tasks.cpus)]

    def pages(self, task: Task) -> tuple[int, int]:
        """Resident and virtual pages; crash's get_task_mem_usage()."""
        if not task.mm or task.state & self._tasks.states.zombie:
            return 0, 0
        total, users, resident = self._read(task.mm)
        if task.exiting and users <= 0:
            return 0, 0
        if self._task is not None:
            resident += self._of_threads(task.tgid)
        return resident, total

    def _read(self, mm: int) -> tuple[int, int, int]:
        if (known := self._seen.get(mm)) is None:
            values = self._mm.read(self._prog, mm)
            stat = bytes(values.get("rss", b""))
            if self._task is None and self._offsets:
                resident = self._sum_percpu(stat)
            else:
                words = struct.unpack(f"{self._order}{len(stat) // 8}q", stat)
                resident = sum(words[i] for i in self._counters if words[i] > 0)
            known = self._seen[mm] = (values["total"], values["users"], resident)
        return known

    def _sum_percpu(self, stat: bytes) -> int:
        counters = [
            self._percpu.unpack(stat, i * self._percpu_size)
            for i in self._counters
            if (i + 1) * self._percpu_size <= len(stat)
        ]
        if not counters:
            return 0
        low = min(c["counters"] for c in counters)
        high = max(c["counters"] for c in counters) + 4
        sums = [c["count"] for c in counters]
        # Allocated together since Linux 6.6: one read for all of them.
        together = high - low <= 4096
        for offset in self._offsets:
            data = self._prog.read(low + offset, high - low) if together else b""
            for i, c in enumerate(counters):
                at = c["counters"]
                piece = data[at - low : at - low + 4] if together else None
                if piece is None:
                    piece = self._prog.read(at + offset, 4)
                sums[i] += struct.unpack(f"{self._order}i", piece)[0]
        return sum(max(0, s) for s in sums)

    def _of_threads(self, tgid: int) -> int:
        assert self._task is not None
        if (known := self._threads.get(tgid)) is None:
            known = sum(self._not_handed_over(self._tasks.group(tgid)))
            self._threads[tgid] = known
        return known

    def _not_handed_over(self, tasks: Iterable[Task]) -> Iterable[int]:
        assert self._task is not None
        for task in tasks:
            try:
                data = bytes(self._task.read(self._prog, task.address)["rss"])
            except FaultError:
                continue
            words = struct.unpack(f"{self._order}{len(data) // 4}i", data)
            yield sum(words[i] for i in self._counters if words[i] > 0)


def physical_pages(prog: Program) -> int:
    """All page frames up to the end of memory: what %MEM is of (crash's vt->total_pages)."""
    from drgn.helpers.linux.mm import virt_to_phys

    page = prog["PAGE_SIZE"].value_()
    pages: int = virt_to_phys(prog, read_variable(prog, "high_memory", 8)).value_() // page
    for name in ("_totalhigh_pages", "totalhigh_pages"):
        try:
            counter = prog.variable(name)  # without CONFIG_HIGHMEM a function has that name
        except LookupError:
            continue
        pages += (counter.counter if hasattr(counter, "counter") else counter).value_()
        break
    if "num_physpages" in prog:
        pages = min(pages, prog["num_physpages"].value_())
    return pages
