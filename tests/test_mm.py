"""Page tables and maple trees made by hand; address spaces of a sample dump."""

import struct

import pytest
from drgn import Architecture, FaultError, Platform, PlatformFlags, Program

from crashpy.kernel.mm import Mm, PageTable, Run, Swap, _Levels, _MapleNodes

PRESENT, PSE, PROTNONE = 0x1, 0x80, 0x100
PGD, PUD, PMD, PTE, P4D = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000
FLAGS = PlatformFlags.IS_64_BIT | PlatformFlags.IS_LITTLE_ENDIAN


def machine(tables, *, top=3, inverted=0):
    """A program whose memory is these tables: physical address -> {index: entry}."""
    prog = Program(Platform(Architecture.X86_64, FLAGS))
    memory = {}
    for base, entries in tables.items():
        words = [entries.get(index, 0) for index in range(512)]
        memory[base] = struct.pack("512Q", *words)

    def read(address, count, _offset, _physical):
        page = address & ~0xFFF
        if page not in memory:
            raise FaultError("hole", address)
        return memory[page][address - page : address - page + count]

    prog.add_memory_segment(0, 1 << 40, read, physical=False)
    prog.add_memory_segment(0, 1 << 40, read, physical=True)
    levels = _Levels(prog)
    levels.top, levels.inverted = top, inverted
    prog.cache[_Levels] = levels
    return prog


def small(ptes, **more):
    tables = {PGD: {0: PUD | 1}, PUD: {0: PMD | 1}, PMD: {0: PTE | 1}, PTE: ptes}
    return PageTable(machine(tables, **more), PGD)


def test_pages_in_memory_and_holes():
    table = small({1: 0xA000 | PRESENT, 2: 0xB000 | PRESENT, 3: 0x9000 | PRESENT})
    assert list(table.runs(0, 0x6000)) == [
        Run(0, 1),
        Run(0x1000, 3, [0xA000, 0xB000, 0x9000]),
        Run(0x4000, 2),
    ]


def test_a_part_of_a_table():
    table = small({1: 0xA000 | PRESENT, 2: 0xB000 | PRESENT})
    assert list(table.runs(0x2000, 0x3000)) == [Run(0x2000, 1, [0xB000])]
    assert not list(table.runs(0x2000, 0x2000))


def test_holes_of_many_tables_are_one():
    assert list(small({}).runs(0, 1 << 40)) == [Run(0, 1 << 28)]


def test_pages_that_are_elsewhere():
    table = small({0: 0x5000000000000400, 1: 0x5000000000000600})
    assert list(table.runs(0, 0x2000)) == [
        Run(0, 2, None, (0x5000000000000400, 0x5000000000000600))
    ]


def test_prot_none_holds_the_complement():
    inverted = (1 << 52) - (1 << 12)
    entry = 0xA000 ^ inverted | PROTNONE
    assert list(small({0: entry}, inverted=inverted).runs(0, 0x1000)) == [Run(0, 1, [0xA000])]
    assert list(small({0: 0xA000 | PROTNONE}).runs(0, 0x1000)) == [Run(0, 1, [0xA000])]


def test_huge_pages():
    tables = {
        PGD: {0: PUD | 1},
        PUD: {0: PMD | 1, 1: 0x80000000 | PSE | PRESENT},
        PMD: {1: 0x600000 | PSE | PRESENT},
    }
    table = PageTable(machine(tables), PGD)
    assert [*next(table.runs(0x201000, 0x203000)).physical] == [0x601000, 0x602000]
    assert [*next(table.runs(0x40003000, 0x40004000)).physical] == [0x80003000]


def test_five_levels():
    tables = {
        PGD: {1: P4D | 1},
        P4D: {0: PUD | 1},
        PUD: {0: PMD | 1},
        PMD: {0: PTE | 1},
        PTE: {0: 0xA000 | PRESENT},
    }
    table = PageTable(machine(tables, top=4), PGD)
    assert list(table.runs(1 << 48, (1 << 48) + 0x1000)) == [Run(1 << 48, 1, [0xA000])]


def test_a_table_that_the_dump_lacks_is_said_to_lack():
    tables = {PGD: {0: PUD | 1}, PUD: {0: PMD | 1}, PMD: {0: 0x7000 | 1}}
    runs = list(PageTable(machine(tables), PGD).runs(0, 0x2000))
    assert runs == [Run(0, 2, readable=False)]


class Nodes(_MapleNodes):
    """Maple nodes of 256 bytes: 16 slots and 15 pivots, as the kernel's are."""

    def __init__(self, nodes):
        self._nodes = nodes
        self._size = 256
        range_64 = (8, 15, 128, 16)
        self._layouts = {0: (0, 0, 8, 31), 1: range_64, 2: range_64, 3: (8, 9, 80, 10)}
        self._prog = self

    def read(self, address, _size):
        if address not in self._nodes:
            raise FaultError("hole", address)
        pivots, slots = self._nodes[address]
        pivots = [*pivots, *[0] * (15 - len(pivots))]
        slots = [*slots, *[0] * (16 - len(slots))]
        return struct.pack("Q15Q16Q", 0, *pivots, *slots)


LEAF, RANGE = 1 << 3 | 4 | 2, 2 << 3 | 4 | 2
LAST = 2**64 - 1


def test_entries_of_a_maple_tree_by_index():
    nodes = Nodes(
        {
            0x10000: ([99, LAST], [0x20000 | LEAF, 0x30000 | LEAF]),
            0x20000: ([9, 19, 99], [0xA00, 0, 0xB00]),
            0x30000: ([200, LAST], [0xC00]),
        }
    )
    assert list(nodes.entries(0x10000 | RANGE)) == [0xA00, 0xB00, 0xC00]
    assert not list(nodes.entries(0))


def test_a_loop_in_a_maple_tree_comes_to_an_end():
    nodes = Nodes({0x10000: ([99, LAST], [0x10000 | RANGE, 0x10000 | RANGE])})
    assert not list(nodes.entries(0x10000 | RANGE))


def test_a_hole_in_a_maple_tree_costs_one_node():
    nodes = Nodes(
        {0x10000: ([99, LAST], [0x20000 | LEAF, 0x30000 | LEAF]), 0x30000: ([LAST], [0xC00])}
    )
    assert list(nodes.entries(0x10000 | RANGE)) == [0xC00]


@pytest.mark.parametrize("dump", ["vmcore-null", "vmcore-abba"])
def test_address_spaces_agree_with_drgn(opened, dump):
    from drgn import Object
    from drgn.helpers.linux.mm import follow_phys, for_each_vma, task_rss

    session = opened(dump)
    prog, tasks = session.dump.prog, session.dump.tasks
    mm = Mm.of(prog)
    for task in [t for t in tasks if t.mm][:12]:
        areas = mm.areas(task.mm)
        space = Object(prog, "struct mm_struct *", value=task.mm)
        assert [a.address for a in areas] == [v.value_() for v in for_each_vma(space)]
        assert mm.space(task.mm).resident_pages == task_rss(prog, tasks.object(task)).total
        table = PageTable(prog, mm.space(task.mm).pgd)
        for area in areas[:3]:
            for run in table.runs(area.start, area.end):
                if run.physical:
                    assert run.physical[0] == follow_phys(space, run.start).value_()


def test_where_a_swapped_page_is(opened):
    swap = Swap.of(opened("vmcore-null").dump.prog)
    entry = (~5 << 9) & (1 << 59) - 1 & ~0x1FF  # type 0, page 5: the complement, as of v4.19
    assert swap.location(entry) == ("/mnt/disk/swapfile", 5)
    assert swap.location(entry | 31 << 59) == ("(unknown swap location)", 5)
