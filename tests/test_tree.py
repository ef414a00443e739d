"""tree: where entries are, and what happens in damaged trees."""

import json
import struct

import pytest

from crashpy.command import Address, CommandError
from crashpy.commands.tree import Entry, Node, Root, lines
from crashpy.kernel import trees
from crashpy.settings import Settings

BASE = 0xFFFF888000000000


class Memory:
    """Words at addresses; all else is missing."""

    def __init__(self, words):
        self.words = words
        self.said = []

    def read(self, address, size, caller):
        try:
            return b"".join(
                struct.pack("<Q", self.words[at]) for at in range(address, address + size, 8)
            )[:size]
        except KeyError:
            raise CommandError(f'no {address:x}  type: "{caller}"') from None

    def reader(self, prog):
        return trees.Reader(prog, self.read, self.said.append)


def rb_nodes(*nodes):
    """{address: (left, right)} -> words."""
    words = {}
    for at, left, right in nodes:
        words |= {at: 1, at + 8: right, at + 16: left}
    return words


def xa_node(at, shift, slots):
    words = {at + 8 * i: 0 for i in range(80)}
    words[at] = shift
    start = 40  # offset of xa_node.slots
    return words | {at + start + 8 * i: slot for i, slot in slots.items()}


@pytest.fixture(scope="module")
def prog(opened):
    return opened("vmcore-null").dump.prog


def red_black(prog, words, **how):
    memory = Memory(words)
    how = {"node": True, "ordered": False, **how}
    found = [(f.address, f.position) for f in trees.red_black(memory.reader(prog), BASE, **how)]
    return found, memory.said


def test_the_order_of_a_red_black_tree(prog):
    a, b, c = BASE, BASE + 64, BASE + 128
    words = rb_nodes((a, b, c), (b, 0, 0), (c, 0, 0))
    assert red_black(prog, words)[0] == [(a, "root"), (b, "root/l"), (c, "root/r")]
    found = red_black(prog, words, ordered=True)[0]
    assert found == [(b, "root/l"), (a, "root"), (c, "root/r")]


def test_a_corrupted_child_costs_itself(prog):
    words = rb_nodes((BASE, 0x1234, BASE + 64), (BASE + 64, 0, 0))
    found, said = red_black(prog, words)
    assert [at for at, _ in found] == [BASE, BASE + 64]
    assert said == [f"rb_node: {BASE:x}: corrupted rb_left pointer: 1234"]


def test_a_loop_ends(prog):
    with pytest.raises(CommandError, match="duplicate tree entry"):
        red_black(prog, rb_nodes((BASE, BASE, 0)))


def test_an_entry_of_several_indexes_is_one(prog):
    head = prog.type("struct xarray").member("xa_head").offset
    top, low = BASE + 0x1000, BASE + 0x2000
    words = {BASE + head: top | 2}
    words |= xa_node(top, 6, {0: low | 2, 1: BASE + 0x40, 2: 1 << 2 | 2, 3: 0})
    words |= xa_node(low, 0, {1: BASE + 0x80, 2: 1 << 2 | 2, 5: 9})
    memory = Memory(words)
    found = list(trees.slots(memory.reader(prog), BASE, node=False))
    assert found == [
        trees.Found(BASE + 0x80, "root/0/1", 1),
        trees.Found(9, "root/0/5", 5),
        trees.Found(BASE + 0x40, "root/1", 64),
    ]


def test_a_node_that_is_missing_costs_itself(prog):
    head = prog.type("struct xarray").member("xa_head").offset
    top = BASE + 0x1000
    words = {BASE + head: top | 2} | xa_node(top, 6, {0: BASE + 0x9002, 1: BASE + 0x40})
    memory = Memory(words)
    found = [f.address for f in trees.slots(memory.reader(prog), BASE, node=False)]
    assert found == [BASE + 0x40]
    assert len(memory.said) == 1


def test_a_single_entry(prog):
    head = prog.type("struct xarray").member("xa_head").offset
    memory = Memory({BASE + head: BASE + 0x40})
    assert list(trees.slots(memory.reader(prog), BASE, node=False)) == [
        trees.Found(BASE + 0x40, "direct/0")
    ]


def test_the_areas_of_a_process(opened):
    """The maple tree leads to the areas that `vm` shows."""
    session = opened("vmcore-null")
    areas = [json.loads(line) for line in session.run("vm 1 --json")]
    mm = next(one["mm"] for one in areas if "mm" in one)
    line = f"tree -t maple --json -r mm_struct.mm_mt {mm}"
    found = [json.loads(text) for text in session.run(line)]
    assert [one["address"] for one in found] == [one["vma"] for one in areas if "vma" in one]


def test_text_of_a_maple_tree():
    node = trees.MapleNode(0x100, 0, 20, 0, trees.LEAF_64, 0, (0, 0x40), (9,))
    records = [
        Root(trees.MapleTree(0x80, 0x30B, 2, 0x10E)),
        Node(node),
        Entry(Address(0), 0, 9, maple=True, depth=1),
        Entry(Address(0x40), 10, 20, "root/1", maple=True, counted=1, depth=1),
        Entry(Address(3), 21, 21, maple=True, depth=1),
        Entry(Address(trees.ZERO), 22, 22, maple=True, depth=1),
    ]
    assert list(lines(records, settings=Settings())) == [
        "maple_tree(80) flags 30B, height 2 root 0x10e",
        "",
        "0-20: node 0x100 depth 0 type 1 parent (nil) contents: (nil) 9 0x40",
        "  0-9: 0",
        "  10-20: 64",
        "  index: 1  position: root/1",
        "  21: value 1 [0x3]",
        "  22: zero (257)",
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("tree", "tree: a starting address is required"),
        ("tree -t q jiffies", "tree: invalid tree type: q"),
        ("tree -t x -l jiffies", "tree: -l option is not applicable to Xarrays"),
        ("tree -r 8 -N jiffies", "tree: -r and -N options are mutually exclusive"),
        ("tree 1000", "tree: invalid start argument: 1000"),
        ("tree jiffies 1", "tree: too many arguments entered"),
        ("tree -s a -S b jiffies", "tree: -S and -s options are mutually exclusive"),
    ],
)
def test_words_that_make_no_sense(opened, line, said):
    assert next(iter(opened("vmcore-null").run(line))) == said
