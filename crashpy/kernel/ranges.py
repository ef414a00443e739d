"""The kernel's address space in ranges, and every page of them that the dump may hold."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from drgn import Architecture, FaultError, Program

from crashpy.command import CommandError
from crashpy.kernel.mm import Mm, Run, page_table
from crashpy.kernel.pages import X86_IMAGE, MemMap, kernel_to_physical, mem_map, nodes
from crashpy.kernel.vfs import shared
from crashpy.kernel.vmalloc import vmap_areas
from crashpy.vmcore.memory import Memory, memory_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crashpy.dump import Dump

    Addresses = NDArray[np.uint64]
    Frames = NDArray[np.int64]
    Batch = tuple[Addresses, Frames]

WORD = (1 << 64) - 1
AHEAD = 2  # batches read while one is looked at
BATCH = 256  # pages read at once: a megabyte stays in the processor's cache
DIRECT, IMAGE, VMALLOC, VMEMMAP = "direct map", "image", "vmalloc", "vmemmap"
MAPPED = frozenset((VMALLOC, VMEMMAP))  # by page tables, not by arithmetic


class Range(NamedTuple):
    kind: str
    start: int
    end: int


class Pages(NamedTuple):
    """Pages that the dump holds, in the order of their addresses."""

    addresses: Addresses
    data: NDArray[np.uint8]  # a row each


@dataclass(eq=False)
class Spaces:
    """The address spaces of a dump, page by page."""

    dump: Dump

    @classmethod
    def of(cls, dump: Dump) -> Spaces:
        """The ones of this dump."""
        return shared(dump.prog, cls, lambda: cls(dump))

    @property
    def _prog(self) -> Program:
        return self.dump.prog

    @cached_property
    def _map(self) -> MemMap:
        return mem_map(self._prog)

    @cached_property
    def ranges(self) -> list[Range]:
        """What there is of the kernel's space (crash's get_kvaddr_ranges()), by address."""
        prog, pages = self._prog, self._map
        found = [Range(DIRECT, pages.direct_map, self._variable("high_memory"))]
        areas = self.areas
        if areas:
            first = self._variable("vmalloc_base") or areas[0][0]
            found.append(Range(VMALLOC, first, areas[-1][1]))
        platform = prog.platform
        if platform is not None and platform.arch == Architecture.X86_64:
            if end := self._symbol("_end"):
                found.append(Range(IMAGE, X86_IMAGE, end))
            start, known = self._variable("vmemmap_base"), nodes(prog)
            if start and known and not any(low <= start < high for low, high in areas):
                pfns = known[-1].first_pfn + known[-1].pages
                found.append(Range(VMEMMAP, start, start + pfns * pages.entry))
        return sorted(found, key=lambda each: each.start)

    def _variable(self, name: str) -> int:
        try:
            return int(self._prog[name].value_()) & WORD
        except (LookupError, FaultError):
            return 0

    def _symbol(self, name: str) -> int:
        found = self.dump.symbols.named(name)
        return found.address if found is not None else 0

    @cached_property
    def areas(self) -> list[tuple[int, int]]:
        """Start and end of each vmalloc area, and of modules that lie in none of them."""
        try:
            areas = vmap_areas(self._prog, self.dump.report)
        except (LookupError, FaultError):
            areas = []
        found = [(area.start, area.end) for area in areas]
        for module in self.dump.symbols.modules:
            for region in module.regions:
                if not any(low <= region.base < high for low, high in found):
                    found.append((region.base, region.end))
        return sorted(found)

    def kernel(self, within: Range, start: int, end: int) -> Iterator[Pages]:
        """The pages of a range from `start` up to `end`."""
        low, high = max(start, within.start), min(end, within.end)
        if within.kind == DIRECT:
            return self._linear(low, high, -within.start)
        if within.kind == IMAGE:
            return self._linear(low, high, self._image)
        table = page_table(self._prog, *self._kernel_mm)
        if within.kind == VMEMMAP:
            whole = low & -self._size, -(-high // self._size) * self._size
            return self._translated(table.runs(*whole))
        return self._translated(self._vmalloc(low, high))

    @cached_property
    def _image(self) -> int:
        """From an address of the kernel's image to its physical one."""
        at = self._symbol("_text") or X86_IMAGE
        return (kernel_to_physical(self._prog, at) or 0) - at

    def read(self, address: int, size: int) -> bytes:
        """Kernel memory; also what the image's part of the space had no page tables for."""
        if X86_IMAGE <= address < self._symbol("_text"):
            return self._prog.read((address + self._image) & WORD, size, True)
        return self._prog.read(address, size)

    @cached_property
    def _size(self) -> int:
        return self._map.page_size

    @property
    def _kernel_mm(self) -> tuple[int, int]:
        mm = self._prog["init_mm"]
        return int(mm.address_ or 0), int(mm.pgd.value_())

    def _vmalloc(self, start: int, end: int) -> Iterator[Run]:
        """Areas, and what is mapped right behind one, or from the start on."""
        table = page_table(self._prog, *self._kernel_mm)
        size = self._size
        at, end = start & -size, -(-end // size) * size
        others = [each for each in self.ranges if each.kind in (IMAGE, VMEMMAP)]
        areas = list(self.areas)
        limits = [low for low, _ in areas[1:]] + [end]
        if areas and at < areas[0][0]:
            areas.insert(0, (at, at))
            limits.insert(0, areas[1][0])
        for (low, high), limit in zip(areas, limits, strict=True):
            first, limit = max(low, at), min(limit, end)
            if first >= limit:
                continue
            reached = first
            if first < high:
                for run in table.runs(first, min(high, limit)):
                    yield run
                    reached = run.start + run.pages * size if run.physical is not None else 0
            if reached != max(first, high):
                continue
            if any(other.start <= reached < other.end for other in others):
                continue
            for run in table.runs(reached, limit):
                if run.physical is None:
                    break
                yield run

    def user(self, mm: int, start: int, end: int) -> Iterator[Pages]:
        from crashpy.kernel.paging import Paging

        space = Mm.of(self._prog).space(mm)
        high = min(-(-end // self._size) * self._size, Paging.of(self._prog).user_end)
        table = page_table(self._prog, mm, space.pgd)
        return self._translated(table.runs(start & -self._size, max(high, start & -self._size)))

    def physical(self, start: int, end: int) -> Iterator[Pages]:
        return self._linear(start, end, 0)

    def _linear(self, start: int, end: int, shift: int) -> Iterator[Pages]:
        """Pages whose physical address is `shift` away (modulo 2**64)."""
        return self._read(self._neighbours(start, end, shift // self._size))

    def _neighbours(self, start: int, end: int, shift: int) -> Iterator[Batch]:
        size = self._size
        first, last = start // size, -(-end // size)
        for section in self._map.sections:
            if not section.readable:
                continue
            low = (section.first_pfn - shift) % ((WORD + 1) // size)  # where it lies here
            begin, stop = max(low, first), min(low + section.pages, last)
            for page in range(begin, stop, BATCH):
                count = min(BATCH, stop - page)
                pfn = section.first_pfn + page - low
                yield self._addresses(page, count), np.arange(pfn, pfn + count, dtype=np.int64)

    def _translated(self, runs: Iterator[Run]) -> Iterator[Pages]:
        return self._read(self._gathered(runs))

    def _gathered(self, runs: Iterator[Run]) -> Iterator[Batch]:
        size = self._size
        addresses: list[Addresses] = []
        frames: list[Frames] = []
        waiting = 0
        for run in runs:
            if run.physical is None:
                continue
            for i in range(0, run.pages, BATCH):
                part = np.array(run.physical[i : i + BATCH], np.int64) // size
                addresses.append(self._addresses(run.start // size + i, len(part)))
                frames.append(part)
                waiting += len(part)
                if waiting >= BATCH:
                    yield np.concatenate(addresses), np.concatenate(frames)
                    addresses, frames, waiting = [], [], 0
        if waiting:
            yield np.concatenate(addresses), np.concatenate(frames)

    def _addresses(self, first: int, count: int) -> Addresses:
        """Of pages one after the other, the first by its number."""
        return np.arange(first, first + count, dtype=np.uint64) * np.uint64(self._size)

    def _read(self, batches: Iterator[Batch]) -> Iterator[Pages]:
        """The pages, those that come next read and unpacked in the meantime."""
        if self._memory is None:  # drgn's programs are one thread's
            found = (self._page(*batch) for batch in batches)
            yield from (pages for pages in found if len(pages.addresses))
            return
        pool = ThreadPoolExecutor(AHEAD)
        try:
            coming = deque(pool.submit(self._page, *batch) for batch in islice(batches, AHEAD + 1))
            while coming:
                pages = coming.popleft().result()
                coming.extend(pool.submit(self._page, *batch) for batch in islice(batches, 1))
                if len(pages.addresses):
                    yield pages
        finally:
            pool.shutdown(cancel_futures=True)

    def _page(self, addresses: Addresses, frames: Frames) -> Pages:
        there = self._known(frames)
        if not there.all():
            addresses, frames = addresses[there], frames[there]
        data, good = self._frames(frames)
        if not good.all():
            addresses, data = addresses[good], data[good]
        return Pages(addresses, data)

    def _known(self, frames: Frames) -> NDArray[np.bool_]:
        """Which frames have a struct page (crash's phys_to_page())."""
        starts, ends = self._sections
        if not len(starts):
            return np.zeros(len(frames), bool)
        index = np.searchsorted(starts, frames, "right") - 1
        known: NDArray[np.bool_] = (index >= 0) & (frames < ends[index])
        return known

    @cached_property
    def _sections(self) -> tuple[Frames, Frames]:
        """The first frame of each section that has struct pages, and the one behind its last."""
        sections = [s for s in self._map.sections if s.readable]
        ends = [s.first_pfn + s.pages for s in sections]
        return np.array([s.first_pfn for s in sections], np.int64), np.array(ends, np.int64)

    def _frames(self, frames: Frames) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        memory = self._memory
        data = np.empty((len(frames), self._size), np.uint8)
        if memory is None:
            return data, self._by_drgn(frames, data)
        good = np.zeros(len(frames), bool)
        rising = bool((frames[1:] >= frames[:-1]).all())
        order = np.arange(len(frames)) if rising else np.argsort(frames, kind="stable")
        order = order[frames[order] < memory.max_mapnr]
        if not len(order):
            return data, good
        if len(order) == len(frames) and rising:
            good = memory.read_into(frames, data)
            return data, good
        part = np.empty((len(order), self._size), np.uint8)
        good[order] = memory.read_into(frames[order], part)
        data[order] = part
        return data, good

    @cached_property
    def _memory(self) -> Memory | None:
        """The dump's files without drgn between; None where they are read only by drgn."""
        cache = self._prog.cache
        if "crashpy.memory" not in cache:
            found: Memory | None = None
            if self.dump.files and not (self.dump.live or self.dump.options.zero_excluded):
                try:
                    found = memory_of(self.dump.files)
                except (CommandError, ValueError, OSError):
                    found = None
            if found is not None and found.page_size != self._size:
                found = None
            cache["crashpy.memory"] = found
        known: Memory | None = cache["crashpy.memory"]
        return known

    def _by_drgn(self, frames: Frames, data: NDArray[np.uint8]) -> NDArray[np.bool_]:
        good = np.zeros(len(frames), bool)
        for row, frame in enumerate(frames.tolist()):
            try:
                page = self._prog.read(frame * self._size, self._size, True)
            except (FaultError, OverflowError):
                continue
            data[row] = np.frombuffer(page, np.uint8)
            good[row] = True
        return good
