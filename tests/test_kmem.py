"""kmem on the sample dumps, its texts, and what it makes of broken lists."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator

import pytest
from conftest import EXAMPLES
from drgn import FaultError
from drgn.helpers.linux.mm import for_each_page
from drgn.helpers.linux.slab import find_slab_cache, slab_cache_for_each_allocated_object

import crashpy
from crashpy.command import Address
from crashpy.kernel.pages import gather, mem_map, readable
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
