"""kmem -i: what memory is used for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from drgn import Object, Program
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import totalram_pages

from crashpy.command import CommandError
from crashpy.dump import Dump
from crashpy.faults import skipping
from crashpy.kernel.pages import MemMap, mem_map, nodes
from crashpy.kernel.percpu import percpu_counter_sum

from .vmstat import global_stats, items

SWP_USED = 1
# Since 6.14 swap_info_struct.inuse_pages also says whether there is room left.
SWAP_USAGE_OFFLIST_BIT = 1 << 30
# The first line of each group.
GROUPS = ("TOTAL HIGH", "TOTAL HUGE", "TOTAL SWAP", "COMMIT LIMIT")


@dataclass(frozen=True)
class MemoryUse:
    """A line of `kmem -i`."""

    use: str
    pages: int | None  # None: the dump lacks what tells
    bytes: int | None
    percent: int | None = None  # cut, not rounded; None where it is itself the whole
    whole: str | None = None  # of which that is the percentage


def memory_use(dump: Dump, *, shared: bool = False) -> Iterator[MemoryUse]:
    """Memory, huge pages, swap space and commitments."""
    prog = dump.prog
    page_size: int = prog["PAGE_SIZE"].value_()

    def use(name: str, pages: int | None, of: int | None = None, whole: str = "") -> MemoryUse:
        percent = None
        if of is not None and pages is not None:
            percent = pages * 100 // of if of else 0
        size = None if pages is None else pages * page_size
        return MemoryUse(name, pages, size, percent, whole or None)

    stats = {stat.name: stat.value for stat in global_stats(prog)}
    total = totalram_pages(prog)
    free = zone_free_pages(prog)
    yield use("TOTAL MEM", total)
    yield use("FREE", free, total, "TOTAL MEM")
    yield use("USED", total - free, total, "TOTAL MEM")
    if shared:
        yield use("SHARED", shared_pages(prog), total, "TOTAL MEM")
    buffers = cached = None
    with skipping("BUFFERS"):
        buffers = blockdev_pages(prog)
    yield use("BUFFERS", buffers, total, "TOTAL MEM")
    if buffers is not None:
        with skipping("CACHED"):
            cached = stats.get("NR_FILE_PAGES", 0) - swap_cache_pages(prog, stats) - buffers
    if cached is not None and cached < 0:
        dump.report(f"page_cache_size went negative ({cached}), setting to 0")
        cached = 0
    yield use("CACHED", cached, total, "TOTAL MEM")
    # _B: bytes since d42f3245c7e2 ("mm: memcg: convert vmstat slab counters to bytes") (5.9),
    # though the global ones stayed in pages.
    slab = stats.get("NR_SLAB", 0)
    for name in ("NR_SLAB_RECLAIMABLE", "NR_SLAB_UNRECLAIMABLE"):
        slab += stats.get(name, stats.get(f"{name}_B", 0))
    yield use("SLAB", slab, total, "TOTAL MEM")
    high = high_pages(prog)
    if high is not None:
        free_high = zone_free_pages(prog, "HighMem")
        low = total - high
        yield use("TOTAL HIGH", high, total, "TOTAL MEM")
        yield use("FREE HIGH", free_high, high, "TOTAL HIGH")
        yield use("TOTAL LOW", low, total, "TOTAL MEM")
        yield use("FREE LOW", free - free_high, low, "TOTAL LOW")
    huge = free_huge = swap = used = None
    with skipping("TOTAL HUGE"):
        huge, free_huge = huge_pages(prog)
    yield use("TOTAL HUGE", huge)
    yield use("HUGE FREE", free_huge, huge, "TOTAL HUGE")
    with skipping("TOTAL SWAP"):
        swap, used = swap_pages(prog)
    unused = None if swap is None or used is None else swap - used
    yield use("TOTAL SWAP", swap)
    yield use("SWAP USED", used, swap, "TOTAL SWAP")
    yield use("SWAP FREE", unused, swap, "TOTAL SWAP")
    limit = committed = None
    with skipping("COMMIT LIMIT"):
        limit = commit_limit(prog, total, huge, swap)
    with skipping("COMMITTED"):
        committed = max(percpu_counter_sum(prog["vm_committed_as"]), 0)
    yield use("COMMIT LIMIT", limit)
    yield use("COMMITTED", committed, limit or None, "TOTAL LIMIT" if limit else "")


def lines(uses: Iterable[MemoryUse]) -> Iterator[str]:
    """crash's table (dump_kmeminfo())."""
    yield "                 PAGES        TOTAL      PERCENTAGE"
    for use in uses:
        if use.use in GROUPS:
            yield ""
        if use.pages is None or use.bytes is None:
            yield f"{use.use:>13}  {'--':>7}  {'--':>11}"
            continue
        start = f"{use.use:>13}  {use.pages:7}  {size_text(use.bytes):>11}"
        if use.percent is None:
            yield f"{start}         ----"
        else:
            yield f"{start}  {use.percent:3}% of {use.whole}"


def size_text(size: int) -> str:
    """crash's pages_to_size()."""
    if not size:
        return "0"
    for unit, name in ((1 << 30, "GB"), (1 << 20, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}".replace(".0 ", " ")
    return f"{size // 1024} KB"


def zone_free_pages(prog: Program, name: str | None = None) -> int:
    """Free pages of all zones, or of those of that name."""
    free = items(prog, "zone_stat_item", "NR_VM_ZONE_STAT_ITEMS").index("NR_FREE_PAGES")
    return sum(
        zone.vm_stat[free].counter.value_()
        for node in nodes(prog)
        for zone in node.pgdat.node_zones
        if name is None or zone.name.string_() == name.encode()
    )


def shared_pages(prog: Program) -> int:
    """Pages in use more than once that are not reserved, by the whole memory map."""
    import numpy

    pages = mem_map(prog)
    kind = pages.page_type
    reserved = 1 << prog.constant("PG_reserved").value_()
    word = _dtype(prog, "u", prog.type("unsigned long").size or 8)
    count = "_refcount" if kind.has_member("_refcount") else "_count"
    layout = numpy.dtype(
        {
            "names": ["flags", "count"],
            "formats": [word, _dtype(prog, "i", 4)],
            "offsets": [kind.member("flags").offset, kind.member(count).offset],
            "itemsize": pages.entry,
        }
    )
    return sum(_shared(pages, layout, reserved))


def _shared(pages: MemMap, layout: object, reserved: int) -> Iterator[int]:
    import numpy

    for section in pages.sections:
        for _, data in pages.read(section):
            table = numpy.frombuffer(data, dtype=layout)  # type: ignore[call-overload]
            found = (table["count"] > 1) & (table["flags"] & reserved == 0)
            yield int(numpy.count_nonzero(found))


def _dtype(prog: Program, letter: str, size: int) -> str:
    from crashpy.kernel.pages import byte_order

    return f"{'<' if byte_order(prog) == 'little' else '>'}{letter}{size}"


def blockdev_pages(prog: Program) -> int:
    """Page cache of block devices themselves (nr_blockdev_pages())."""
    try:  # since 5.9 by the inodes of their file system
        head = prog["blockdev_superblock"].s_inodes.address_of_()
        inodes = _bounded(list_for_each_entry("struct inode", head, "i_sb_list"))
    except LookupError:
        head = prog["all_bdevs"].address_of_()
        devices = _bounded(list_for_each_entry("struct block_device", head, "bd_list"))
        inodes = (device.bd_inode for device in devices)
    return sum(inode.i_mapping.nrpages.value_() for inode in inodes)


def _bounded(entries: Iterable[Object]) -> Iterator[Object]:
    """A list, until it comes round to where it was."""
    seen = set()
    for entry in entries:
        if entry.value_() in seen:
            raise CommandError(f"duplicate list entry: {entry.value_():x}")
        seen.add(entry.value_())
        yield entry


def swap_cache_pages(prog: Program, stats: dict[str, int]) -> int:
    """Pages of the page cache that are on their way to or from swap space."""
    # A counter since b6038942480e ("mm: memcg: add swapcache stat for memcg v2") (5.12).
    if (counted := stats.get("NR_SWAPCACHE")) is not None:
        return counted
    total = 0
    try:
        banks, spaces = prog["nr_swapper_spaces"], prog["swapper_spaces"]
    except LookupError:
        pass
    else:
        for count, space in zip(banks, spaces, strict=False):
            if space:
                total += sum(space[i].nrpages.value_() for i in range(count.value_()))
    return total


def commit_limit(prog: Program, total: int, huge: int | None, swap: int | None) -> int | None:
    """How much may be promised to processes (vm_commit_limit())."""
    if huge is None or swap is None:
        return None
    if "sysctl_overcommit_kbytes" in prog and (  # since 3.14
        kbytes := prog["sysctl_overcommit_kbytes"].value_()
    ):
        return int(kbytes * 1024 // prog["PAGE_SIZE"].value_()) + swap
    return int((total - huge) * prog["sysctl_overcommit_ratio"].value_() // 100) + swap


def high_pages(prog: Program) -> int | None:
    try:
        return int(prog.variable("_totalhigh_pages").counter.value_())
    except LookupError:
        pass
    try:
        return int(prog.variable("totalhigh_pages").value_())
    except LookupError:  # !CONFIG_HIGHMEM
        return None


def huge_pages(prog: Program) -> tuple[int, int]:
    """Pages set aside as huge ones, and those of them that are free."""
    total = free = 0
    try:
        states = prog["hstates"]
    except LookupError:
        return total, free
    for state in states:
        if order := state.order.value_():
            total += state.nr_huge_pages.value_() << order
            free += state.free_huge_pages.value_() << order
    return total, free


def swap_pages(prog: Program) -> tuple[int, int]:
    """Swap space, and how much of it is in use."""
    total = used = 0
    try:
        files, info = prog["nr_swapfiles"].value_(), prog["swap_info"]
    except LookupError:
        return total, used
    for number in range(min(files, info.type_.length or 0)):
        entry = info[number].read_()
        if not entry or not entry.flags.value_() & SWP_USED:
            continue
        total += entry.pages.value_()
        inuse = entry.inuse_pages
        try:
            used += inuse.counter.value_() & ~SWAP_USAGE_OFFLIST_BIT
        except AttributeError:
            used += inuse.value_()
    return total, used
