"""vtop: translations, against what the memory itself says."""

import json

import pytest

from crashpy.command import Address, CommandError, UsageError
from crashpy.commands.pte import Entry
from crashpy.commands.vtop import TableEntry, Translation, lines, vtop
from crashpy.kernel.paging import Paging

KERNEL = Translation(
    Address(0xFFFF888000001000),
    Address(0xFFFF888000002000),
    user=False,
    accessible=True,
    physical=Address(0x1000),
    pgd=Address(0xFFFFFFFF82000000),
    steps=(
        TableEntry("PGD", Address(0x2000), Address(0x3067)),
        TableEntry("PUD", Address(0x3000), Address(0x1E3)),
    ),
    page=Address(0),
    page_bytes=1 << 30,
    last=Entry(Address(0x1E3), Address(0), ("PRESENT", "RW")),
)


def test_text_of_a_huge_page():
    assert list(lines([KERNEL])) == [
        "VIRTUAL           PHYSICAL        ",
        "ffff888000001000  1000            ",
        "",
        "PGD DIRECTORY: ffffffff82000000",
        "PAGE DIRECTORY: 3067",
        "   PUD: 3000 => 1e3",
        "  PAGE: 0  (1GB)",
        "",
        "PTE  PHYSICAL  FLAGS",
        "1e3      0     (PRESENT|RW)",
        "",
    ]


def test_text_without_a_page():
    user = Translation(Address(0x1000), Address(0), user=True, accessible=False)
    kernel = Translation(Address(0x1000), Address(0), user=False, accessible=False)
    assert list(lines([user]))[1:] == ["1000        (not accessible)", ""]
    assert list(lines([kernel]))[1:] == ["1000      (not a kernel virtual address)", ""]
    hole = Translation(Address(0x1000), Address(0), user=True, accessible=True, readable=False)
    assert list(lines([hole]))[1] == "1000        --"


@pytest.mark.parametrize("dump", ["vmcore-null", "vmcore-abba"])
def test_user_and_physical_memory_are_the_same(opened, dump):
    session = opened(dump)
    task = session.dump.tasks.with_pid(1)[0]
    shown = [json.loads(line) for line in session.run("vm -p 1 --json")]
    runs = [run for run in shown if run.get("physical")][:20]
    assert runs
    for run in runs:
        (found,) = vtop(session.dump, words=("-u", run["start"]), tasks=(task,))
        assert f"{found.physical:#x}" == run["physical"][0]
        assert found.physical == found.page
        assert [step.table for step in found.steps] == ["PGD", "PUD", "PMD", "PTE"]
        assert found.area is not None
        assert found.page_struct is not None


def test_kernel_text_is_translated(opened):
    dump = opened("vmcore-null").dump
    symbol = dump.symbols.named("schedule")
    (found,) = vtop(dump, words=(f"{symbol.address:x}",))
    assert dump.prog.read(found.physical, 16, True) == dump.prog.read(symbol.address, 16)


def test_what_is_not_mapped_has_no_address(opened):
    (found,) = vtop(opened("vmcore-null").dump, words=("ffffffffffffffff",))
    assert found.physical is None
    assert found.steps[-1].entry == 0


def test_a_page_in_swap(opened):
    session = opened("vmcore-null")
    pid = session.dump.tasks.with_pid
    tasks = [task for task in session.dump.tasks if task.mm]
    for task in tasks:
        for line in session.run(f"vm -p {task.pid} --json"):
            if (run := json.loads(line)).get("swap"):
                (found,) = vtop(session.dump, words=(run["start"],), tasks=(pid(task.pid)[0],))
                assert found.place.swap
                assert found.place.file == run["swap"]
                assert found.place.offset == run["swap_pages"][0]
                assert found.physical is None
                return
    pytest.fail("no page is swapped out")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((), UsageError),
        (("-c", "1"), UsageError),
        (("-u", "-k", "1"), CommandError),
        (("-c", "99999", "1"), CommandError),
        (("800000000000",), CommandError),
        (("xyz",), CommandError),
    ],
)
def test_bad_words(opened, words, error):
    with pytest.raises(error):
        list(vtop(opened("vmcore-null").dump, words=words))


def test_foreach_gives_the_task(opened):
    shown = list(opened("vmcore-null").run("foreach 1 2 vtop -c 0"))
    assert sum("(not accessible)" in line for line in shown) == 2


def test_a_page_table_that_is_missing(opened):
    """A walk that leads nowhere ends, and says so."""
    prog = opened("vmcore-null").dump.prog
    paging = Paging.of(prog)
    assert paging.walk(prog, 0x1000, 0x400000).fault
    beyond = Paging(4, paging.mask, 0, inverted=False)
    start = prog["init_mm"].pgd.value_()
    assert not beyond.walk(prog, start, 0x400000).page


def test_five_levels():
    paging = Paging(5, (1 << 52) - (1 << 12), 0, inverted=True)
    assert paging.user_end == 1 << 56
    assert paging.address(0x8000000000001163) == 0x1000
    assert paging.address(~0x5000 & ~0xFFF | 0x100) == 0x5000


def test_json(opened):
    (line,) = opened("vmcore-null").run("vtop ffffffffffffffff --json")
    found = json.loads(line)
    assert found["virtual"] == "0xffffffffffffffff"
    assert found["physical"] is None
    assert found["steps"][-1]["table"] == "PMD"
