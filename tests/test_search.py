"""search: where values and strings are, in each kind of memory."""

import json

import numpy as np
import pytest

from crashpy.commands.rd import Values
from crashpy.commands.search import Hit, Owner, Search, _strings, _words, lines, search
from crashpy.kernel.ranges import Pages, Spaces

PAGE = 4096
OWNER = Owner(1, 0xFFFF800000001000, 0, "init")


def pages(*contents, start=PAGE):
    """Pages one after the other, each filled up with zeroes."""
    data = b"".join(content.ljust(PAGE, b"\0") for content in contents)
    addresses = np.arange(start, start + len(data), PAGE, dtype=np.uint64)
    return Pages(addresses, np.frombuffer(data, np.uint8).reshape(-1, PAGE))


def words(opened, found, start=PAGE, end=1 << 40, **wanted):
    look = _words(opened("vmcore-null").dump, Search(**wanted))
    return [(hit.address, hit.value) for hit in look(iter(found), start, end, None)]


def strings(found, *sought, start=PAGE, end=1 << 40):
    look = _strings(Search(mode="c", strings=list(sought)))
    return [(hit.address, hit.text) for hit in look(iter(found), start, end, None)]


def test_text():
    before = Values(0xFFFF800000001FF8, 8, b"abcdefgh")
    hits = [
        Hit(0x2000, 0xFF, "jiffies"),
        Hit(0x2008, 0xFF, "(1+2)"),
        Hit(0xFFFF800000002000, 5, None, None, None, before, Values(0, 8, b"")),
    ]
    assert list(lines(hits)) == [
        "2000: ff (jiffies)",
        "2008: ff (1+2)",
        "ffff800000001ff8:  6867666564636261                    abcdefgh",
        "ffff800000002000:  5 ",
        "",
    ]


def test_each_task_is_introduced_once():
    other = OWNER._replace(pid=2)
    hits = [Hit(8, None, None, "a", OWNER), Hit(9, None, None, "b", OWNER)]
    found = list(lines([*hits, Hit(10, None, None, "c", other)]))
    assert found[0].startswith("PID: 1 ")
    assert found[1:4] == ["8: a", "9: b", ""]
    assert found[4].startswith("PID: 2 ")


def test_words_of_each_size(opened):
    memory = [pages(bytes(range(1, 17)))]
    assert words(opened, memory, values=[(0x0807060504030201, None)]) == [
        (PAGE, 0x0807060504030201)
    ]
    assert words(opened, memory, mode="w", values=[(0x08070605, None)]) == [(PAGE + 4, 0x08070605)]
    assert words(opened, memory, mode="h", values=[(0x0A09, None)]) == [(PAGE + 8, 0x0A09)]


def test_bits_that_do_not_count(opened):
    memory = [pages(bytes(range(1, 9)))]
    found = words(opened, memory, mode="h", mask=0xFF00, values=[(0x0003, None)])
    assert found == [(PAGE + 2, 0x0403)]


def test_several_values_come_by_address(opened):
    memory = [pages(b"\2\0\1\0\2\0"), pages(b"\1\0", start=3 * PAGE)]
    found = words(opened, memory, mode="h", values=[(1, None), (2, None)])
    assert found == [(PAGE, 2), (PAGE + 2, 1), (PAGE + 4, 2), (3 * PAGE, 1)]


def test_the_last_word_is_whole(opened):
    memory = [pages(b"\1\0" * 8)]
    found = words(opened, memory, PAGE, PAGE + 15, mode="h", values=[(1, None)])
    assert [at - PAGE for at, _ in found] == [0, 2, 4, 6]


def test_strings_are_cut_at_the_end_of_a_page():
    memory = [pages(b"-" * (PAGE - 3) + b"abc", b"def" + b"\n")]
    assert strings(memory, b"ab") == [(2 * PAGE - 3, "abc")]
    assert strings(memory, b"-a", b"ef") == [
        (2 * PAGE - 4, "-abc"),
        (2 * PAGE + 1, "ef" + 54 * "."),
    ]


def test_strings_over_the_end_of_a_page():
    memory = [pages(b"-" * (PAGE - 3) + b"abc", b"def\n"), pages(b"abc", start=4 * PAGE)]
    assert strings(memory, b"bcd") == [(2 * PAGE - 2, "bcdef" + 51 * ".")]
    apart = [pages(b"-" * (PAGE - 3) + b"abc"), pages(b"def", start=3 * PAGE)]
    assert strings(apart, b"bcd") == []


def test_every_space(opened):
    session = opened("vmcore-null")
    banner = session.dump.symbols.named("linux_banner").address
    [found] = search(session.dump, words=("-s", "linux_banner", "-l", "20", "-c", "Linux version"))
    assert found.address == banner
    kinds = [each.kind for each in Spaces.of(session.dump).ranges]
    assert kinds == ["direct map", "vmalloc", "vmemmap", "image"]
    physical = [hit.address for hit in search(session.dump, words=("-p", "-c", "Linux version 6"))]
    direct = [hit.address for hit in search(session.dump, words=("-K", "-c", "Linux version 6"))]
    start = Spaces.of(session.dump).ranges[0].start
    assert [start + at for at in physical] == direct[: len(physical)]
    assert banner in direct


def test_pages_that_are_missing_are_left_out(opened):
    session = opened("vmcore-null")
    found = list(Spaces.of(session.dump).physical(0, 1 << 30))
    known = sum(len(each.addresses) for each in found)
    assert 1000 < known < (1 << 30) // PAGE
    page = found[0]
    assert session.dump.prog.read(int(page.addresses[0]), PAGE, True) == page.data[0].tobytes()


def test_json(opened):
    session = opened("vmcore-null")
    line = "search -t -x 1 --json init_task"
    first = json.loads(next(iter(session.run(line))))
    assert first["argument"] == "init_task"
    assert {"pid", "task", "address", "value", "before", "after"} <= set(first)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("search -x 513 1", "search: context value 513 is too large: maximum is 512"),
        ("search -c -x 1 a", "search: -x option is not allowed with -c"),
        ("search -T -t 1", "search: -t and -T options are mutually exclusive"),
        ("search -e 0 1", "search: invalid ending address: 0"),
        ("search -w 100000000", "search: value too large for -w option: 100000000 "),
        ("search -s 1000 1", "search: invalid kernel virtual address: 1000"),
    ],
)
def test_words_that_make_no_sense(opened, line, said):
    assert next(iter(opened("vmcore-null").run(line))) == said


def test_a_kernel_thread_has_no_memory_of_its_own(opened):
    session = opened("vmcore-null")
    before = session.dump.context
    try:
        session.dump.context = session.dump.tasks.with_pid(2)[0]
        [text] = session.run("search -u 1")
    finally:
        session.dump.context = before
    assert text == "search: current context has no user address space"
