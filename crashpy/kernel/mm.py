"""Address spaces of processes: their areas, their resident pages, their page tables."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from drgn import Architecture, FaultError, Object, Program, Type, TypeKind, offsetof, sizeof

from crashpy.command import CommandError
from crashpy.faults import skipping
from crashpy.kernel.vfs import Vfs, remember, shared

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.tasks import Task

_MOST_DEPTH = 32  # of a maple tree: MAPLE_HEIGHT_MAX
_MOST_AREAS = 1 << 22  # sysctl vm.max_map_count is 65530 by default
_END = 1 << 57  # of the addresses that 5 levels of page tables translate
_MOST_REMEMBERED = 64  # address spaces: the threads of a process come one after the other


class AddressSpace(NamedTuple):
    """What a ``struct mm_struct`` says of itself."""

    pgd: int  # pgd_t *
    users: int  # mm_count
    total_pages: int  # total_vm
    resident_pages: int | None  # file, anonymous and shared memory


class Area(NamedTuple):
    """A ``struct vm_area_struct``."""

    address: int
    start: int
    end: int
    flags: int  # VM_*
    file: int  # struct file *
    pgoff: int  # in pages


class Run(NamedTuple):
    """Pages one after the other, all in memory, all elsewhere, or all nowhere."""

    start: int
    pages: int
    physical: Sequence[int] | None = None  # address of each
    swap: Sequence[int] | None = None  # page table entries of pages that are elsewhere
    readable: bool = True  # False: the dump lacks their page table


class Mm:
    """The address spaces of one program."""

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        self._areas: dict[int, list[Area]] = {}
        self._spaces: dict[int, AddressSpace] = {}
        self._disordered: dict[int, set[int]] = {}
        mm = prog.type("struct mm_struct")
        self._pgd = offsetof(mm, "pgd")
        self._mm_count = offsetof(mm, "mm_count")
        self._total_vm = offsetof(mm, "total_vm")
        self._rss_stat = offsetof(mm, "rss_stat")
        self._counters = _counter_numbers(prog)
        try:
            # Since Linux kernel commit f1a7941243c1 ("mm: convert mm's rss stats into
            # percpu_counter") (in v6.2)
            counter = prog.type("struct percpu_counter")
            if mm.member("rss_stat").type.kind != TypeKind.ARRAY:
                raise LookupError
            self._percpu_counter = sizeof(counter)
            self._percpu_count = offsetof(counter, "count")
            self._percpu_counters = offsetof(counter, "counters")
        except LookupError:
            self._percpu_counter = 0
        self._mm_size = max(
            self._pgd + 8,
            self._mm_count + 4,
            self._total_vm + 8,
            self._rss_stat + sizeof(mm.member("rss_stat").type),
        )
        vma = prog.type("struct vm_area_struct")
        offsets = [
            offsetof(vma, name)
            for name in ("vm_start", "vm_end", "vm_flags", "vm_file", "vm_pgoff")
        ]
        self._vma = _words(offsets)
        self._vma_size = max(offsets) + 8
        try:
            # Since Linux kernel commit 763ecb035029 ("mm: remove the vma linked list")
            # (in v6.1)
            self._mm_mt = offsetof(mm, "mm_mt.ma_root")
            self._maple = _MapleNodes(prog)
        except LookupError:
            self._mm_mt = -1
            self._mmap = offsetof(mm, "mmap")
            self._vm_next = offsetof(vma, "vm_next")
            self._vma_size = max(self._vma_size, self._vm_next + 8)
        self._per_cpu: list[int] | None = None
        self.page_size: int = prog["PAGE_SIZE"].value_()

    @classmethod
    def of(cls, prog: Program) -> Mm:
        """The one of this program."""
        return shared(prog, cls, lambda: cls(prog))

    def space(self, mm: int) -> AddressSpace:
        """Raises FaultError."""
        found = self._spaces.get(mm)
        if found is None:
            data = self._prog.read(mm, self._mm_size)
            (users,) = struct.unpack_from("i", data, self._mm_count)
            resident = None
            with skipping(f"the counters of mm {mm:x}"):
                resident = self._resident_pages(data)
            found = AddressSpace(_u64(data, self._pgd), users, _u64(data, self._total_vm), resident)
            remember(self._spaces, mm, found, _MOST_REMEMBERED)
        return found

    def _resident_pages(self, data: bytes) -> int:
        """Each counter may be below zero for a while (get_mm_counter()): it counts as none."""
        if not self._percpu_counter:
            return sum(
                max(0, *struct.unpack_from("q", data, self._rss_stat + 8 * n))
                for n in self._counters
            )
        starts = [self._rss_stat + n * self._percpu_counter for n in self._counters]
        totals = [struct.unpack_from("q", data, at + self._percpu_count)[0] for at in starts]
        offsets = [_u64(data, at + self._percpu_counters) for at in starts]
        first, last = min(offsets), max(offsets)
        # One allocation holds the counters of an mm, since Linux kernel commit
        # 14ef95be6f55 ("kernel/fork: group allocation/free of per-cpu counters for mm
        # struct") (in v6.6).
        together = last - first < 256
        for base in self._per_cpu_offsets():
            near = self._read(base + first, last + 4 - first) if together else b""
            for n, offset in enumerate(offsets):
                if together:
                    totals[n] += struct.unpack_from("i", near, offset - first)[0]
                else:
                    totals[n] += struct.unpack("i", self._read(base + offset, 4))[0]
        return sum(max(0, total) for total in totals)

    def _read(self, address: int, size: int) -> bytes:
        """Sums of addresses and offsets wrap round, as the kernel's do."""
        return self._prog.read(address % 2**64, size)

    def _per_cpu_offsets(self) -> list[int]:
        if self._per_cpu is None:
            from drgn.helpers.linux.cpumask import for_each_possible_cpu

            offsets = self._prog["__per_cpu_offset"]
            self._per_cpu = [offsets[cpu].value_() for cpu in for_each_possible_cpu(self._prog)]
        return self._per_cpu

    def areas(self, mm: int) -> list[Area]:
        """By address. Raises FaultError."""
        found = self._areas.get(mm)
        if found is None:
            found = []
            for vma in self._vmas(mm):
                try:
                    found.append(self.area(vma))
                except FaultError as fault:
                    with skipping(f"vm_area_struct {vma:x}"):
                        raise fault
            remember(self._areas, mm, found, _MOST_REMEMBERED)
        return found

    def disordered(self, mm: int) -> set[int]:
        """The areas that no kernel makes: corrupted ones. Raises FaultError."""
        found = self._disordered.get(mm)
        if found is None:
            found = _disordered(self.areas(mm))
            remember(self._disordered, mm, found, _MOST_REMEMBERED)
        return found

    def area(self, vma: int) -> Area:
        """Raises FaultError."""
        start, end, flags, file, pgoff = self._vma(self._prog.read(vma, self._vma_size))
        return Area(vma, start, end, flags, file, pgoff)

    def _vmas(self, mm: int) -> Iterator[int]:
        if self._mm_mt >= 0:
            yield from self._maple.entries(self._prog.read_u64(mm + self._mm_mt))
            return
        vma = self._prog.read_u64(mm + self._mmap)
        for _ in range(_MOST_AREAS):
            if not vma:
                break
            yield vma
            vma = self._prog.read_u64(vma + self._vm_next)


def _words(offsets: Sequence[int]) -> Callable[[bytes], tuple[int, ...]]:
    """A function that reads the 64-bit words at these offsets, all at once."""
    places = sorted(offsets)
    ends = [0, *(place + 8 for place in places)]
    gaps = [f"{place - end}xQ" for place, end in zip(places, ends, strict=False)]
    unpack = struct.Struct("=" + "".join(gaps)).unpack_from
    arrange = itemgetter(*(places.index(offset) for offset in offsets))
    return lambda data: arrange(unpack(data))


def _disordered(areas: Sequence[Area]) -> set[int]:
    wrong = {
        area.address
        for area in areas
        if area.start >= area.end or (area.start | area.end) & 0xFFF or area.end > _END
    }
    before = None
    for area in areas:
        if area.address in wrong:
            continue
        if before is not None and area.start < before.end:
            wrong |= {before.address, area.address}
        before = area
    return wrong


def cached_resident_pages(dump: Dump, task: Task) -> int:
    """Pages that the threads of a process have counted, but not yet in its mm.

    Until Linux kernel commit f1a7941243c1 ("mm: convert mm's rss stats into
    percpu_counter") (in v6.2); 0 in newer kernels.
    """
    counted = shared(dump.prog, cached_resident_pages, lambda: _cached_by_group(dump))
    return counted.get(task.tgid, 0)


def _cached_by_group(dump: Dump) -> dict[int, int]:
    prog = dump.prog
    found: dict[int, int] = {}
    try:
        rss_stat = offsetof(prog.type("struct task_struct"), "rss_stat.count")
    except LookupError:
        return found
    counters = _counter_numbers(prog)
    for task in dump.tasks:
        try:
            counts = struct.unpack("4i", prog.read(task.address + rss_stat, 16))
        except FaultError:
            continue
        pages = sum(max(0, counts[n]) for n in counters)
        found[task.tgid] = found.get(task.tgid, 0) + pages
    return found


def _counter_numbers(prog: Program) -> tuple[int, ...]:
    """Of the pages that are resident; not MM_SWAPENTS."""
    names = ("MM_FILEPAGES", "MM_ANONPAGES", "MM_SHMEMPAGES")
    return tuple(prog[name].value_() for name in names if name in prog)


class _MapleNodes:
    """Reads a maple tree node by node (crash's do_mt_node())."""

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        range_64 = prog.type("struct maple_range_64")
        arange_64 = prog.type("struct maple_arange_64")
        dense = prog.type("struct maple_node").member("slot").type
        self._size = sizeof(prog.type("struct maple_node"))
        # enum maple_type -> offsets and lengths of pivot[] and slot[]
        self._layouts = {
            0: (0, 0, offsetof(prog.type("struct maple_node"), "slot"), dense.length or 0),
            1: _maple_layout(range_64),
            2: _maple_layout(range_64),
            3: _maple_layout(arange_64),
        }

    def entries(self, root: int) -> Iterator[int]:
        """What is stored, by index. Raises FaultError."""
        if root and root & 3 != 2:
            yield root  # the only entry, at index 0
        elif root > 4096:
            yield from self._below(root, 2**64 - 1, 0, set())

    def _below(self, enode: int, last: int, depth: int, seen: set[int]) -> Iterator[int]:
        node, kind = enode & ~0xFF, enode >> 3 & 0xF
        if depth > _MOST_DEPTH or node in seen or kind not in self._layouts:
            return
        if len(seen) > _MOST_AREAS:
            return
        seen.add(node)
        try:
            data = self._prog.read(node, self._size)
        except FaultError as fault:
            with skipping(f"maple tree node {node:x}"):
                raise fault
            return
        pivot, pivots, slot, slots = self._layouts[kind]
        ends = struct.unpack_from(f"{pivots}Q", data, pivot)
        for n, entry in enumerate(struct.unpack_from(f"{slots}Q", data, slot)):
            end = ends[n] if n < pivots else last
            if n and not end:  # the rest of the node is not used
                break
            if kind < 2:
                if entry and entry & 3 != 2:  # XA_ZERO_ENTRY marks a failed fork
                    yield entry
            elif entry:
                yield from self._below(entry, end, depth + 1, seen)
            if kind and end >= last:
                break


def _maple_layout(kind: Type) -> tuple[int, int, int, int]:
    return (
        offsetof(kind, "pivot"),
        kind.member("pivot").type.length or 0,
        offsetof(kind, "slot"),
        kind.member("slot").type.length or 0,
    )


# arch/x86/include/asm/pgtable_types.h
_PRESENT = 0x1
_PSE = 0x80
_PROTNONE = 0x100  # when not present
_MAPPED = _PRESENT | _PROTNONE
_PFN = (1 << 52) - (1 << 12)


class _Levels:
    """What all page tables of a program have in common."""

    def __init__(self, prog: Program) -> None:
        # Absent without CONFIG_X86_5LEVEL.
        shift = prog["pgdir_shift"].value_() if "pgdir_shift" in prog else 39
        self.top = (shift - 12) // 9
        encryption = prog["sme_me_mask"].value_() if "sme_me_mask" in prog else 0
        self.pfn = _PFN & ~encryption
        # Since Linux kernel commit 6b28baca9b1f ("x86/speculation/l1tf: Protect PROT_NONE
        # PTEs against speculation") (in v4.19), they hold the complement of the address.
        self.inverted = _PFN if has_symbol(prog, "l1tf_mitigation") else 0

    @classmethod
    def of(cls, prog: Program) -> _Levels:
        levels = prog.cache.get(cls)
        if not isinstance(levels, cls):
            levels = prog.cache[cls] = cls(prog)
        return levels


class PageTable:
    """A page table of x86-64, of 4 or 5 levels, read a table at a time."""

    def __init__(self, prog: Program, pgd: int) -> None:
        self._prog = prog
        self._pgd = pgd
        levels = _Levels.of(prog)
        self._top, self._pfn, self._inverted = levels.top, levels.pfn, levels.inverted
        self._last: dict[int, tuple[int, tuple[int, ...] | None]] = {}

    def runs(self, start: int, end: int) -> Iterator[Run]:
        """Where the pages of this range of addresses are, all of them, in order."""
        hole = None
        for run in self._below(self._top, self._pgd, start, end):
            if run.physical is None and run.swap is None and run.readable:
                hole = run if hole is None else hole._replace(pages=hole.pages + run.pages)
                continue
            if hole is not None:
                yield hole
                hole = None
            yield run
        if hole is not None:
            yield hole

    def _below(self, level: int, table: int, start: int, end: int) -> Iterator[Run]:
        entries = self._entries(level, table)
        if entries is None:
            yield Run(start, (end - start) >> 12, readable=False)
            return
        if level == 0:
            yield from self._pages(entries, start, end)
            return
        shift = 12 + 9 * level
        while start < end:
            entry = entries[start >> shift & 511]
            stop = min(end, ((start >> shift) + 1) << shift)
            if not entry & (_MAPPED if level == 1 else _PRESENT):
                yield Run(start, (stop - start) >> 12)
            elif level < 3 and entry & _PSE:
                inside = (1 << shift) - 1
                physical = self._physical(entry) & ~inside | start & inside
                pages = range(physical, physical + stop - start, 4096)
                yield Run(start, len(pages), pages)
            else:
                yield from self._below(level - 1, self._physical(entry), start, stop)
            start = stop

    def _pages(self, entries: tuple[int, ...], start: int, end: int) -> Iterator[Run]:
        """The pages of one page table: what is done for every page there is, kept short."""
        first = start >> 12 & 511
        chosen = entries[first : first + (end - start >> 12)]
        if not any(chosen):
            yield Run(start, len(chosen))
            return
        at, kinds = 0, [1 if e & _MAPPED else 2 if e else 0 for e in chosen]
        for kind, same in groupby(kinds):
            begin, at = at, at + sum(1 for _ in same)
            address, run = start + begin * 4096, chosen[begin:at]
            if kind == 1:
                yield Run(address, at - begin, self._frames(run))
            elif kind == 2:
                yield Run(address, at - begin, None, run)
            else:
                yield Run(address, at - begin)

    def _frames(self, entries: Sequence[int]) -> list[int]:
        pfn, inverted = self._pfn, self._inverted
        return [(e if e & _PRESENT else e ^ inverted) & pfn for e in entries]

    def _physical(self, entry: int) -> int:
        return (entry if entry & _PRESENT else entry ^ self._inverted) & self._pfn

    def _entries(self, level: int, table: int) -> tuple[int, ...] | None:
        last = self._last.get(level)
        if last is not None and last[0] == table:
            return last[1]
        try:
            data = self._prog.read(table, 4096, level != self._top)
            entries = struct.unpack("512Q", data)
        except FaultError:
            entries = None
        self._last[level] = table, entries
        return entries


class GenericPageTable:
    """Any other architecture's, a page at a time, by drgn; it does not tell swapped pages."""

    def __init__(self, prog: Program, mm: int) -> None:
        self._mm = Object(prog, "struct mm_struct *", value=mm)
        self._page: int = prog["PAGE_SIZE"].value_()

    def runs(self, start: int, end: int) -> Iterator[Run]:
        from drgn.helpers.linux.mm import follow_phys

        for address in range(start, end, self._page):
            try:
                yield Run(address, 1, (follow_phys(self._mm, address).value_(),))
            except FaultError:
                yield Run(address, 1)


def page_table(prog: Program, mm: int, pgd: int) -> PageTable | GenericPageTable:
    platform = prog.platform
    if platform is not None and platform.arch == Architecture.X86_64:
        return PageTable(prog, pgd)
    return GenericPageTable(prog, mm)


class Swap:
    """What page table entries of swapped pages say."""

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        self._names: dict[int, str] = {}
        self.exists = "nr_swapfiles" in prog and "swap_info" in prog
        # arch/x86/include/asm/pgtable_64.h: SWP_TYPE_BITS, SWP_OFFSET_SHIFT
        self._inverted = has_symbol(prog, "l1tf_mitigation")

    @classmethod
    def of(cls, prog: Program) -> Swap:
        """The one of this program."""
        return shared(prog, cls, lambda: cls(prog))

    def location(self, entry: int) -> tuple[str, int]:
        """File or device, and the page in it."""
        if self._inverted:
            kind, offset = entry >> 59, (~entry << 5 & 2**64 - 1) >> 14
        else:
            kind, offset = entry >> 9 & 0x1F, entry >> 14
        name = self._names.get(kind)
        if name is None:
            try:
                name = self._name(kind)
            except FaultError:
                name = ""
            self._names[kind] = name = name or "(unknown swap location)"
        return name, offset

    def _name(self, kind: int) -> str:
        areas = self._prog["swap_info"]
        if kind >= (areas.type_.length or 0) or not areas[kind] or not areas[kind].swap_file:
            return ""  # a migration, hardware poison or marker entry
        return self.file_name(areas[kind].swap_file.value_())

    def file_name(self, file: int) -> str:
        """The path of a ``struct file *`` that is swapped to. Raises FaultError."""
        vfs = Vfs.of(self._prog)
        path = vfs.file(file)
        name = vfs.path(path)
        if vfs.mount(path.vfsmount).device in ("devtmpfs", "udev") and not name.startswith("/dev/"):
            return "/dev" + name
        return name


def checked_mm(prog: Program, address: int) -> int:
    """A ``struct mm_struct *`` that is in use. Raises CommandError."""
    from drgn.helpers.linux.slab import find_containing_slab_cache

    try:
        cache = find_containing_slab_cache(prog, address)
        named = cache and cache.name.string_().startswith(b"mm_struct")
    except (FaultError, LookupError, ValueError):
        named = False
    if not named:
        raise CommandError("invalid mm_struct address")
    if not Mm.of(prog).space(address).users:
        raise CommandError("stale mm_struct address")
    return address


def physical_digits(prog: Program) -> int:
    """Columns of a physical address: as many as the end of memory needs, 8 at least."""
    end = prog["max_pfn"].value_() * prog["PAGE_SIZE"].value_()
    return max(8, len(f"{end:x}"))


def has_symbol(prog: Program, name: str) -> bool:
    try:
        prog.symbol(name)
    except LookupError:
        return False
    return True


def _u64(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 8], "little")
