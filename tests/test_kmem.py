"""kmem on the sample dumps, its texts, and what it makes of broken lists."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator

import pytest
from conftest import EXAMPLES
from drgn import FaultError, Object
from drgn.helpers.linux.mm import follow_phys, for_each_page, for_each_vmap_area
from drgn.helpers.linux.mmzone import for_each_present_section
from drgn.helpers.linux.slab import find_slab_cache, slab_cache_for_each_allocated_object

import crashpy
from crashpy.command import Address
from crashpy.kernel.pages import (
    gather,
    kernel_to_physical,
    mem_map,
    present_sections,
    readable,
)
from crashpy.kernel.percpu import percpu_counter_sum
from crashpy.kernel.slab import Slub
from crashpy.session import Session

Opened = Callable[[str], Session]


def printed(session: Session, line: str) -> list[str]:
    """The lines; one string may hold a run of them."""
    return "\n".join(session.run(line)).split("\n")


def part(session: Session, name: str) -> object:
    """A module of the kmem package, by the way the session imports it."""
    import sys

    assert session.command("kmem")
    return sys.modules[f"crashpy.commands.kmem.{name}"]


@pytest.fixture
def fresh() -> Session:
    """A session of its own, for memory to be overwritten in."""
    dump = crashpy.open(str(EXAMPLES / "vmlinux.zst"), str(EXAMPLES / "vmcore-null"))
    return Session(dump)


def overwrite(session: Session, address: int, *words: int) -> None:
    """Let the dump hold other words at an address."""
    data = struct.pack(f"<{len(words)}Q", *words)
    session.dump.prog.add_memory_segment(
        address, len(data), lambda _, count, offset, __: data[offset : offset + count]
    )


# Page structures


def test_every_page_is_listed(opened: Opened) -> None:
    session = opened("vmcore-null")
    lines = printed(session, "kmem -p")
    pages = [page.value_() for page in for_each_page(session.dump.prog)]
    assert [int(line.split()[0], 16) for line in lines[1:]] == pages


def test_a_page_is_found_by_any_address(opened: Opened) -> None:
    session = opened("vmcore-null")
    pages = mem_map(session.dump.prog)
    page = pages.page(1)
    line = printed(session, "kmem -p 1000")
    assert line == printed(session, f"kmem -p {page:x}")
    assert line == printed(session, f"kmem -p {pages.memory(1):x}")
    assert printed(session, "kmem -p 1000 1fff") == [*line, line[1]]


def test_page_line(opened: Opened) -> None:
    pages = part(opened("vmcore-null"), "pages")
    info = pages.PageInfo(0xFFFFEA0000000000, 0, 0xFFFF888000001234, 3, 2, 0x2C, ("a", "b"))
    empty = pages.PageInfo(0xFFFFEA0000000040, 0x123456789000, 0, 0, -1, 0, ())
    assert "\n".join(pages.page_lines([info, empty])).split("\n")[1:] == [
        "ffffea0000000000        0 ffff888000001234        3  2 2c a,b",
        "ffffea0000000040 123456789000                0        0 -1 0",
    ]


def test_physical_addresses_of_more_than_4_gib_are_wider(opened: Opened) -> None:
    pages = part(opened("vmcore-null"), "pages")
    low = pages.PageInfo(0xFFFFEA0000000040, 0x1000, 0, 0, 1, 0, (), 9)
    assert list(pages.page_lines([low])) == [
        "      PAGE        PHYSICAL      MAPPING       INDEX CNT FLAGS",
        "ffffea0000000040      1000                0        0  1 0",
    ]


def test_pages_as_json(opened: Opened) -> None:
    found = [json.loads(line) for line in printed(opened("vmcore-null"), "kmem -p 1000 --json")]
    assert found[0]["physical"] == "0x1000"
    assert found[0]["names"] == ["reserved"]
    assert isinstance(found[0]["references"], int)


def test_members_as_json(opened: Opened) -> None:
    line = "kmem -m flags,lru,_mapcount.counter 1000 --json"
    found = json.loads(printed(opened("vmcore-null"), line)[0])
    assert found["flags"] == "0x2000"
    assert found["lru"][0].startswith("0xffff")
    assert found["_mapcount.counter"] == -1


def test_a_hole_costs_its_own_pages(fresh: Session, caplog: pytest.LogCaptureFixture) -> None:
    pages = mem_map(fresh.dump.prog)
    hole = pages.sections[0].mem_map + 4096

    def fail(address: int, *_: object) -> bytes:
        raise FaultError("not there", address)

    fresh.dump.prog.add_memory_segment(hole, 8192, fail)
    found = [int(line.split()[0], 16) for line in printed(fresh, "kmem -p")[1:]]
    assert len(found) == pages.sections[0].pages - 128
    assert found[63:65] == [hole - 64, hole + 8192]
    assert caplog.text.count("skipped") == 1


def test_readable_and_gather_go_round_holes(fresh: Session) -> None:
    prog = fresh.dump.prog
    start = mem_map(prog).sections[0].mem_map

    def fail(address: int, *_: object) -> bytes:
        raise FaultError("not there", address)

    prog.add_memory_segment(start + 4096, 4096, fail)
    assert [(at, len(data)) for at, data in readable(prog, start, 12288)] == [
        (0, 4096),
        (8192, 4096),
    ]
    assert set(gather(prog, [start, start + 64, start + 4096], 8)) == {start, start + 64}


# Slabs


@pytest.mark.parametrize("name", ["dentry", "kmalloc-64", "mm_struct", "filp"])
def test_allocated_objects_are_those_drgn_finds(opened: Opened, name: str) -> None:
    prog = opened("vmcore-null").dump.prog
    slub = Slub(prog, pytest.fail)
    cache = next(c for c in slub.caches if c.name == name)
    found = slab_cache_for_each_allocated_object(find_slab_cache(prog, name), "void")
    assert slub.counts(cache).allocated == sum(1 for _ in found)


def test_objects_of_a_slab_are_free_or_allocated(opened: Opened) -> None:
    session = opened("vmcore-null")
    for line in printed(session, "kmem -S dentry --json"):
        slab = json.loads(line)
        if slab.get("objects"):
            assert len(slab["objects"]) == slab["total"]
            assert sum(o["free"] for o in slab["objects"]) == slab["free"]


def test_an_object_is_found_in_its_slab(opened: Opened) -> None:
    session = opened("vmcore-null")
    task = session.dump.tasks.panic.stack
    mm = next(t.mm for t in session.dump.tasks if t.mm)
    lines = printed(session, f"kmem -s {mm:x}")
    assert lines[-1] == f"  [{mm:x}]"
    assert "mm_struct" in lines[1]
    assert printed(session, f"kmem -s {task:x}")[-1].startswith("kmem: address is not allocated")


def broken(session: Session, line: str) -> list[str]:
    return [text for text in printed(session, line) if text.startswith("kmem: ")]


def partial_list(session: Session) -> tuple[Slub, int, int]:
    slub = Slub(session.dump.prog, pytest.fail)
    cache = next(c for c in slub.caches if c.name == "dentry")
    head = cache.node[0] + slub.layout.partial
    return slub, head, session.dump.prog.read_word(head)


def test_a_partial_list_that_runs_in_circles(fresh: Session) -> None:
    slub, _, first = partial_list(fresh)
    overwrite(fresh, first, first)
    slab = first - slub.layout.slab_list
    assert broken(fresh, "kmem -s dentry") == [
        f"kmem: dentry: partial list slab: {slab:x} duplicate slab entry: {first:x}",
        "kmem: dentry: cannot gather relevant slab data",
    ]


def test_a_partial_list_that_leads_nowhere(fresh: Session) -> None:
    slub, _, first = partial_list(fresh)
    overwrite(fresh, first, 0xDEAD000000000100)
    slab = first - slub.layout.slab_list
    assert broken(fresh, "kmem -s dentry")[0] == (
        f"kmem: dentry: partial list slab: {slab:x} invalid page.lru.next: dead000000000100"
    )


def test_a_list_of_caches_that_runs_in_circles(fresh: Session) -> None:
    caches = fresh.dump.prog["slab_caches"]
    overwrite(fresh, caches.next.value_(), caches.next.value_())
    assert printed(fresh, "kmem -s")[-1].startswith("kmem: duplicate list entry: ")


def test_a_free_list_that_runs_in_circles(fresh: Session) -> None:
    slub = Slub(fresh.dump.prog, pytest.fail)
    cache = next(c for c in slub.caches if c.name == "kmalloc-64")
    cpu = next(c for c in slub.cpu_slabs(cache) if c.freelist)
    overwrite(fresh, cpu.freelist + cache.offset, cpu.freelist)
    assert broken(fresh, "kmem -s kmalloc-64") == [
        f"kmem: kmalloc-64: slab: {cpu.slab:x} duplicate freelist object: {cpu.freelist:x}"
    ]
    assert len(broken(fresh, f"kmem -S={cpu.cpu} kmalloc-64")) == 3


def test_cache_lines(opened: Opened) -> None:
    slab = part(opened("vmcore-null"), "slab")
    records = [
        slab.SlabCache(Address(0xFFFF888000001000), 64, 10, 64, 1, 4, "kmalloc-64"),
        slab.SlabCache(Address(0xFFFF888000002000), 32, None, None, None, 4, "broken"),
        slab.SlabCache(Address(0xFFFF888000003000), 32, None, None, None, 4, "left", ignored=True),
    ]
    assert list(slab.lines(records)) == [
        "CACHE             OBJSIZE  ALLOCATED     TOTAL  SLABS  SSIZE  NAME",
        "ffff888000001000       64         10        64      1     4k  kmalloc-64",
        "ffff888000002000       32          ?         ?      ?     4k  broken",
        "ffff888000003000 [IGNORED]                                    left",
    ]


def test_hardened_free_pointers() -> None:
    """CONFIG_SLAB_FREELIST_HARDENED: value ^ random ^ swapped address; before 5.7 unswapped."""

    class Memory:
        def __init__(self, words: dict[int, int]) -> None:
            self.words = words

        def read(self, address: int, size: int) -> bytes:
            words = [self.read_word(a) for a in range(address, address + size, 8)]
            return struct.pack(f"<{len(words)}Q", *words)

        def read_word(self, address: int) -> int:
            if not 0x10000 <= address < 0x20000:
                raise FaultError("not there", address)
            return self.words.get(address, 0)

    from crashpy.kernel.slab import Cache, Slab

    random = 0x0123456789ABCDEF
    cache = Cache(1, "c", 32, 32, 8, 0, 4, 0, 0, random, 0, ())
    slab = Slab(2, 0x10000, 0, 4, 0, 0x10000, 0)

    def swapped(address: int) -> int:
        return int.from_bytes(address.to_bytes(8, "little"), "big")

    for mix in (swapped, lambda address: address):
        words = {0x10008: 0x10040 ^ random ^ mix(0x10008), 0x10048: random ^ mix(0x10048)}
        slub = Slub.__new__(Slub)
        slub.prog, slub.word, slub.order = Memory(words), 8, "little"  # type: ignore[assignment]
        chain = slub.free_list(cache, slab, 0x10000)
        assert chain.objects == {0x10000, 0x10040}
        assert not chain.broken
    words[0x10048] = random ^ swapped(0x10048) ^ 0x999998
    assert slub.free_list(cache, slab, 0x10000).fault is not None


# Free lists


def free_lists(session: Session) -> list[dict[str, object]]:
    found = [json.loads(line) for line in printed(session, "kmem -F --json")]
    return [one for one in found if "listed" in one]


def test_blocks_on_the_lists_are_those_that_zones_count(opened: Opened) -> None:
    session = opened("vmcore-null")
    *_, total = (json.loads(line) for line in printed(session, "kmem -f --json"))
    blocks = [one for one in free_lists(session) if one["listed"]]
    assert sum(len(one["listed"]) << one["order"] for one in blocks) == total["found"]
    assert total["found"] == total["free_pages"] > 0
    pages = mem_map(session.dump.prog)
    for one in blocks:  # as the page structure itself says it
        page = Object(session.dump.prog, "struct page *", int(one["listed"][0], 16))
        assert page.private.value_() == one["order"]
        assert pages.pfn(page.value_()) % (1 << one["order"]) == 0


def test_every_free_page_is_found_in_its_block(opened: Opened) -> None:
    """Those behind another block, too, for which crash finds nothing."""
    session = opened("vmcore-null")
    for one in free_lists(session):
        for block in one["listed"][:3]:
            [_, found] = map(json.loads, printed(session, f"kmem -f {block} --json"))
            assert found["block"] == block
            assert found["head"] == one["head"]
            assert found["place"] == 1
            assert found["zone"]["name"] == "DMA32"


def test_a_page_within_a_block(opened: Opened) -> None:
    session = opened("vmcore-null")
    block = next(one["listed"][0] for one in free_lists(session) if one["order"] == 3)
    pages = mem_map(session.dump.prog)
    page = int(block, 16) + 2 * pages.entry
    physical = pages.pfn(page) * pages.page_size + 0x10
    first = int(block, 16)
    assert printed(session, f"kmem -f {page:x}")[-1] == (f"{first:x}  ({page:x} is 3rd of 8 pages)")
    assert printed(session, f"kmem -f {physical:x}")[-1] == (
        f"{first:x}  ({physical:x} is in 3rd of 8 pages)"
    )


def test_free_lists_with_a_hole_show_both_ends(
    fresh: Session, caplog: pytest.LogCaptureFixture
) -> None:
    one = next(one for one in free_lists(fresh) if len(one["listed"]) > 8)
    middle = int(one["listed"][4], 16)

    def fail(address: int, *_: object) -> bytes:
        raise FaultError("not there", address)

    behind = kernel_to_physical(fresh.dump.prog, middle & ~0xFFF)
    fresh.dump.prog.add_memory_segment(behind, 4096, fail, True)
    again = next(other for other in free_lists(fresh) if other["head"] == one["head"])
    lost = [int(page, 16) & ~0xFFF == middle & ~0xFFF for page in one["listed"]]
    first, last = lost.index(True), len(lost) - lost[::-1].index(True)
    assert again["listed"] == one["listed"][:first] + one["listed"][last:]
    assert "some of the free list" in caplog.text
    assert printed(fresh, "kmem -f")[-1].startswith("nr_free_pages: 8771  (found ")


def test_a_free_list_in_circles_ends(fresh: Session) -> None:
    one = next(one for one in free_lists(fresh) if len(one["listed"]) > 2)
    lru = mem_map(fresh.dump.prog).page_type.member("lru").offset
    entries = [int(page, 16) + lru for page in one["listed"]]
    behind, word = kernel_to_physical(fresh.dump.prog, entries[2]), struct.pack("<Q", entries[0])
    fresh.dump.prog.add_memory_segment(
        behind, 8, lambda _, count, offset, __: word[offset : offset + count], True
    )
    assert broken(fresh, "kmem -f")[0] == f"kmem: duplicate list entry: {entries[0]:x}"
    assert broken(fresh, "kmem -f")[1].startswith("kmem: corrupted free list ")


def test_free_zones_of_several_nodes(opened: Opened) -> None:
    free = part(opened("vmcore-null"), "free")
    zone = free.FreeZone(0, 0, "DMA", 4096, 0, Address(0xFFFFEA0000000000), Address(0), 0, True)
    other = free.FreeZone(1, 0, None, 0, 0, None, Address(0x40000000), 0, True)
    header = "ZONE  NAME        SIZE    FREE      MEM_MAP       START_PADDR  START_MAPNR"
    assert list(free.lines([zone, other, free.FreeTotal(3, 2)])) == [
        "NODE",
        "  0",
        header,
        "  0   DMA         4096       0  ffffea0000000000       0            0     ",
        "",
        "-" * 74,
        "",
        "NODE",
        "  1",
        header,
        "  0   (unknown)      0       0         0            40000000        0     ",
        "",
        "nr_free_pages: 3  (found 2)",
    ]


# Mapped areas


def test_mapped_areas_are_those_of_the_kernel(opened: Opened) -> None:
    session = opened("vmcore-null")
    count, *found = map(json.loads, printed(session, "kmem -v --json"))
    expected = [
        (area.va_start.value_(), area.va_end.value_())
        for area in for_each_vmap_area(session.dump.prog)
        if area.vm
    ]
    areas = [(int(area["start"], 16), int(area["end"], 16)) for area in found]
    assert areas == sorted(expected)
    assert all(area["bytes"] == int(area["end"], 16) - int(area["start"], 16) for area in found)
    assert count["count"] >= len(expected)


def test_a_mapped_page_is_found_by_where_it_is(opened: Opened) -> None:
    session = opened("vmcore-null")
    stack = session.dump.tasks.with_pid(1)[0].stack
    physical = follow_phys(session.dump.prog["init_mm"].address_of_(), stack).value_()
    virtual = printed(session, f"kmem -v {stack:x}")
    assert len(virtual) == 2
    assert printed(session, f"kmem -v {physical + 8:x}") == virtual
    assert printed(session, f"kmem -v {physical:x} {stack:x}") == [*virtual, virtual[1]]


def test_a_hole_among_the_areas_costs_its_own(
    fresh: Session, caplog: pytest.LogCaptureFixture
) -> None:
    before = printed(fresh, "kmem -v")
    lost = int(before[40].split()[0], 16) & ~0xFFF

    def fail(address: int, *_: object) -> bytes:
        raise FaultError("not there", address)

    fresh.dump.prog.add_memory_segment(lost, 4096, fail)
    after = printed(fresh, "kmem -v")
    at_end = len(after) - 1
    assert 40 < at_end < len(before) - 1
    assert set(after) < set(before)
    assert after[-1] == before[-1]
    assert "vmap areas" in caplog.text


# Nodes


def test_memory_blocks(opened: Opened) -> None:
    nodes = part(opened("vmcore-null"), "nodes")
    block = nodes.MemoryBlock(
        Address(0xFF2162D681229400), "memory0", Address(0), Address(0x7FFFFFF), 0, "ONLINE", 0
    )
    older = nodes.MemoryBlock(
        Address(0xFF2162D681229400), "memory1", Address(0x8000000), None, None, "OFFLINE", 1
    )
    assert list(nodes.lines([block])) == [
        "",
        "   MEM_BLOCK        NAME        PHYSICAL RANGE     NODE  STATE   START_SECTION_NO",
        " ff2162d681229400   memory0           0 -  7ffffff  0    ONLINE  0           ",
    ]
    assert list(nodes.lines([older])) == [
        "",
        "   MEM_BLOCK        NAME       PHYSICAL START     STATE   START_SECTION_NO",
        " ff2162d681229400  memory1         8000000        OFFLINE 1           ",
    ]


def test_states_of_memory_blocks(opened: Opened) -> None:
    """Bits at first; an enum that counts from 0 in newer kernels."""
    nodes = part(opened("vmcore-null"), "nodes")
    assert nodes.block_states(())[4] == "OFFLINE"
    assert nodes.block_states([("MEM_ONLINE", 0), ("MEM_OFFLINE", 2)]) == {
        0: "ONLINE",
        2: "OFFLINE",
    }


def test_nodes_as_json(opened: Opened) -> None:
    session = opened("vmcore-null")
    node, *rest = map(json.loads, printed(session, "kmem -n --json"))
    assert node["mem_map"] == hex(mem_map(session.dump.prog).page(1))
    assert [zone["name"] for zone in rest if "zone" in zone] == ["DMA32", "Normal", "Movable"]
    assert rest[-1]["state"] == "PMOE"


def test_present_sections_are_those_drgn_finds(opened: Opened) -> None:
    prog = opened("vmcore-null").dump.prog
    expected = [
        (number, section.value_(), section.section_mem_map.value_())
        for number, section in for_each_present_section(prog)
    ]
    assert list(present_sections(prog)) == expected


# Per-CPU memory, huge pages


def test_offsets_and_huge_pages(opened: Opened) -> None:
    session = opened("vmcore-null")
    offsets = [json.loads(line) for line in printed(session, "kmem -o --json")]
    table = session.dump.prog["__per_cpu_offset"]
    assert [one["offset"] for one in offsets] == [hex(table[cpu]) for cpu in range(4)]
    [huge] = map(json.loads, printed(session, "kmem -h --json"))
    assert (huge["page_bytes"], huge["free"], huge["total"]) == (2 << 20, 1, 2)


def test_offline_cpus_are_marked(opened: Opened) -> None:
    machine = part(opened("vmcore-null"), "machine")
    offsets = [
        machine.PerCpuOffset(9, Address(16), False),
        machine.PerCpuOffset(10, Address(32), True),
    ]
    assert list(machine.lines(offsets)) == [
        "PER-CPU OFFSET VALUES:",
        "  CPU 9: 10",
        " CPU 10: 20 [OFFLINE]",
    ]


# Caches of cgroups


def test_a_root_cache_and_its_children(opened: Opened) -> None:
    slab = part(opened("vmcore-null"), "slab")
    root = slab.SlabCache(Address(1), 64, 10, 64, 1, 4, "dentry")
    child = slab.SlabCache(Address(2), 64, 3, 128, 2, 4, "dentry(1:init)")
    lost = slab.SlabCache(Address(3), 64, None, None, None, 4, "dentry(2:x)")
    found = slab.together(slab.together(root, child), lost)
    assert (found.allocated, found.total, found.slabs, found.name) == (13, 192, 3, "dentry")


# Whatever is at an address


def test_what_is_at_an_address(opened: Opened) -> None:
    session = opened("vmcore-null")
    task = session.dump.tasks.with_pid(1)[0]

    def kinds(address: int) -> list[str]:
        search, *found = map(json.loads, printed(session, f"kmem {address:x} --json"))
        assert search["address"] == hex(address)
        return [one["what"] for one in found]

    prog = session.dump.prog
    assert kinds(task.address) == ["slab", "task", "page"]
    assert kinds(task.stack) == ["task", "area", "page"]
    assert kinds(prog.symbol("schedule").address) == ["symbol", "page"]
    assert kinds(session.dump.symbols.named("loop_queue_rq").address) == ["symbol", "area", "page"]
    assert kinds(mem_map(prog).page(1)) == ["page"]
    assert kinds(int(free_lists(session)[-3]["listed"][0], 16)) == ["free", "page"]
    assert kinds(0x1000) == ["page"]
    assert printed(session, "kmem 3ffff0000000")[1] == (
        "3ffff0000000: physical address not found in mem map"
    )


def test_every_task_is_found_by_its_address(opened: Opened) -> None:
    session = opened("vmcore-null")
    for task in list(session.dump.tasks)[::12]:
        found = [json.loads(line) for line in printed(session, f"kmem {task.address:x} --json")]
        [told] = [one["found"] for one in found if one.get("what") == "task"]
        assert told["task"] == hex(task.address)


def test_a_search_goes_on_where_the_dump_has_a_hole(
    fresh: Session, caplog: pytest.LogCaptureFixture
) -> None:
    task = fresh.dump.tasks.with_pid(1)[0]
    pages = mem_map(fresh.dump.prog)
    page = pages.page((task.address - pages.direct_map) // pages.page_size)

    def fail(address: int, *_: object) -> bytes:
        raise FaultError("not there", address)

    fresh.dump.prog.add_memory_segment(page & ~0xFFF, 4096, fail)
    lines = printed(fresh, f"kmem {task.address:x}")
    assert any(line.startswith("   TASK: ") for line in lines)
    assert "not found in mem map" not in lines[-1]
    assert caplog.text


# Options


@pytest.mark.parametrize("line", ["kmem -s -p", "kmem -i -V", "kmem -V 0", "kmem", "kmem foo"])
def test_senseless_combinations_show_the_usage(opened: Opened, line: str) -> None:
    assert 'Enter "help kmem" for details.' in "\n".join(printed(opened("vmcore-null"), line))


# Counters


def test_committed_counts_the_shares_of_cpus(opened: Opened) -> None:
    session = opened("vmcore-null")
    counter = session.dump.prog["vm_committed_as"]
    total = percpu_counter_sum(counter)
    line = next(x for x in printed(session, "kmem -i") if "COMMITTED" in x)
    assert int(line.split()[1]) == total > counter.count.value_()


def test_sizes(opened: Opened) -> None:
    size_text = part(opened("vmcore-null"), "info").size_text
    assert [size_text(n) for n in (0, 4096, 1 << 20, 5 << 19, 1 << 30, 66 << 20)] == [
        "0",
        "4 KB",
        "1 MB",
        "2.5 MB",
        "1 GB",
        "66 MB",
    ]


def test_counters_are_shown_once_and_line_up(opened: Opened) -> None:
    lines = printed(opened("vmcore-null"), "kmem -V")

    def names(lines: list[str]) -> Iterator[str]:
        return (line.partition(":")[0].strip() for line in lines if ": " in line)

    found = list(names(lines))
    assert len(found) == len(set(found))
    assert "NR_ZONE_LRU_BASE" not in found
    assert len({line.index(":") for line in lines if line.endswith(": 0")}) <= 2


def test_zones(opened: Opened) -> None:
    session = opened("vmcore-null")
    found = [json.loads(line) for line in printed(session, "kmem -z --json")]
    assert found[0]["min_pages"] < found[0]["low_pages"] < found[0]["high_pages"]
    lines = printed(session, "kmem -z")
    assert lines[-1] == ""
    assert sum("[unpopulated]" in line for line in lines) == sum(
        zone["spanned_pages"] == 0 for zone in found
    )


def test_what_the_dump_lacks_is_not_zero(fresh: Session) -> None:
    def fail(address: int, *_: object) -> bytes:
        raise FaultError("not there", address)

    fresh.dump.prog.add_memory_segment(fresh.dump.prog["swap_info"].address_, 8, fail)
    lines = printed(fresh, "kmem -i")
    assert "   TOTAL SWAP       --           --" in lines
    assert " COMMIT LIMIT       --           --" in lines
    assert any(line.startswith("    COMMITTED  ") and "MB" in line for line in lines)
