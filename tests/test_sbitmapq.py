"""sbitmapq: counts and bits of a queue."""

import json

import pytest

from crashpy.command import Address
from crashpy.commands.sbitmapq import Queue, Used, WaitState, lines
from crashpy.settings import Settings

QUEUE = Queue(
    address=Address(0xFFFF800000001000),
    depth=20,
    busy=3,
    cleared=1,
    bits_per_word=8,
    words=3,
    alloc_hint=(4, 0),
    wake_batch=2,
    wake_index=1,
    ws_active=0,
    waiting=(WaitState(None, active=False), WaitState(7, active=True)),
    round_robin=False,
    min_shallow_depth=None,
    bits=bytes((1, 0x80, 2)),
)


def test_text():
    assert list(lines([QUEUE], settings=Settings())) == [
        "depth = 20",
        "busy = 3",
        "cleared = 1",
        "bits_per_word = 8",
        "map_nr = 3",
        "alloc_hint = {4, 0}",
        "wake_batch = 2",
        "wake_index = 1",
        "ws_active = 0",
        "ws = {",
        "\t{ .wait = inactive },",
        "\t{ .wait_cnt = 7, .wait = active },",
        "}",
        "round_robin = 0",
        "",
        "00000000: 0180 02",
    ]
    [line] = lines([Used(9, Address(0x1000))], settings=Settings())
    assert line == "9: 0x00001000"


@pytest.fixture(scope="module")
def queue(opened):
    """The tags of the disk."""
    from drgn.helpers.linux.block import for_each_disk

    disks = {
        disk.disk_name.string_(): disk for disk in for_each_disk(opened("vmcore-null").dump.prog)
    }
    tags = disks[b"vda"].queue.tag_set.tags[0]
    return tags.bitmap_tags.address_of_().value_(), tags.static_rqs.value_()


def test_the_tags_of_a_disk(opened, queue):
    session = opened("vmcore-null")
    [line] = session.run(f"sbitmapq --json {queue[0]:x}")
    found = json.loads(line)
    bits = int.from_bytes(bytes.fromhex(found["bits"]), "little")
    assert found["busy"] == bits.bit_count()
    assert len(found["waiting"]) == 8
    assert found["depth"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "command argument is required"),
        ("zz", "invalid command argument: zz"),
        ("1000", "invalid kernel virtual address: 1000"),
        ("-x -d 1", "-d and -x are mutually exclusive"),
        ("-s a {0:x}", "-s option requires -a option"),
        ("-a {1:x} {0:x}", "-a option is used with -s option only"),
        ("-p {0:x}", "-p option requires -a option"),
        ("-s nosuch -a {1:x} {0:x}", "invalid data structure reference: nosuch"),
    ],
)
def test_words_that_make_no_sense(opened, queue, words, said):
    line = f"sbitmapq {words.format(*queue)}"
    assert next(iter(opened("vmcore-null").run(line))) == f"sbitmapq: {said}"
