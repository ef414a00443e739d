"""The task table: order, names, states, the panic task, and what holes leave of it."""

import re

import pytest
from drgn import FaultError, Object

import crashpy
from crashpy.command import CommandError
from crashpy.kernel.panic import MESSAGES
from crashpy.kernel.pid import linked_tasks, xarray_entries
from crashpy.kernel.sched import OLD_STATES, TaskStates
from crashpy.tasks import TaskTable, bare_name, choose, is_number, name_pattern, named

from .conftest import EXAMPLES

STATES = TaskStates(
    0, 1, 2, stopped=4, zombie=32, tracing=8, dead=0x90, wakekill=0x100,
    waking=0x200, parked=0x40, noload=0x400, new=0x800,
)  # fmt: skip


@pytest.mark.parametrize(
    ("state", "short", "verbose"),
    [
        (0, "RU", "TASK_RUNNING"),
        (1, "IN", "TASK_INTERRUPTIBLE"),
        (0x2001, "IN", "TASK_INTERRUPTIBLE"),  # TASK_FREEZABLE
        (2, "UN", "TASK_UNINTERRUPTIBLE"),
        (0x402, "ID", "TASK_UNINTERRUPTIBLE|TASK_NOLOAD"),
        (0x102, "UN", "TASK_UNINTERRUPTIBLE|TASK_WAKEKILL"),
        (4, "ST", "TASK_STOPPED"),
        (8, "TR", "TASK_TRACED"),
        (32, "ZO", "EXIT_ZOMBIE"),
        (0x10, "DE", "EXIT_DEAD"),
        (0x90, "DE", "EXIT_DEAD|TASK_DEAD"),
        (0x40, "PA", "TASK_PARKED"),
        (0x200, "WA", "TASK_WAKING"),
        (0x800, "NE", "TASK_NEW"),
        (0x1000, "??", ""),  # TASK_RTLOCK_WAIT: crash does not know it
    ],
)
def test_states_are_named_as_crash_names_them(state, short, verbose):
    assert STATES.short(state) == short
    assert STATES.verbose(state) == verbose


def test_a_state_that_the_kernel_lacks_has_no_bits():
    assert STATES.named("ID") == 0x402
    assert STATES.named("SW") is None
    assert OLD_STATES.named("SW") == 16


def test_idle_tasks_come_first_by_cpu_then_all_by_pid(opened):
    tasks = opened("vmcore-null").dump.tasks
    assert [t.cpu for t in tasks if t.pid == 0] == [0, 1, 2, 3]
    assert [t.pid for t in tasks] == sorted(t.pid for t in tasks)
    assert len({t.address for t in tasks}) == len(tasks)


@pytest.mark.parametrize(
    ("dump", "pid", "comm"),
    [("vmcore-null", 156, "sh"), ("vmcore-abba", 42, "khungtaskd")],
)
def test_the_panic_task(opened, dump, pid, comm):
    tasks = opened(dump).dump.tasks
    assert tasks.panic_found
    assert (tasks.panic.pid, tasks.panic.comm) == (pid, comm)
    assert tasks.is_active(tasks.panic)
    message, sysrq = tasks.panic_message()
    assert any(known in message for known in MESSAGES)
    assert not sysrq


def test_every_member_agrees_with_drgn(opened):
    dump = opened("vmcore-null").dump
    for task in dump.tasks.all[::7]:
        seen = dump.tasks.object(task)
        assert task.comm == seen.comm.string_().decode()
        assert task.tgid == seen.tgid.value_()
        assert task.stack == seen.stack.value_()
        assert task.mm == seen.mm.value_()
        assert task.cpu == seen.thread_info.cpu.value_()
        assert task.state == seen.member_("__state").value_() | seen.exit_state.value_()
        assert task.last_run_ns == seen.sched_info.last_arrival.value_()
        assert task.stack_pointer == seen.thread.sp.value_()


def test_a_number_is_a_decimal_pid_before_a_hexadecimal_one(opened):
    dump = opened("vmcore-null").dump
    assert [t.pid for t in named(dump, "10")] == [10]
    assert [t.pid for t in named(dump, "0x10")] == [16]
    assert [t.pid for t in named(dump, "1c")] == [28]
    assert len(named(dump, "0")) == 4
    task = dump.tasks.panic
    assert named(dump, f"{task.address:x}") == [task]
    assert named(dump, f"0x{task.address:X}") == [task]
    assert named(dump, "sh") == []
    assert named(dump, "99999999999999999999") == []


def test_choose_takes_the_context_or_says_what_is_wrong(opened):
    dump = opened("vmcore-null").dump
    assert choose(dump, ()) == [dump.context]
    with pytest.raises(CommandError, match="invalid task or pid value: 99999"):
        choose(dump, ["1", "99999"])


def test_leaders_and_groups(opened):
    tasks = opened("vmcore-null").dump.tasks
    thread = next(t for t in tasks if t.pid != t.tgid)
    leader = tasks.leader(thread)
    assert leader is not None
    assert leader.pid == thread.tgid
    assert thread in tasks.group(leader.tgid)


def test_words():
    assert is_number("0xdead")
    assert is_number("ADD")
    assert not is_number("kworker")
    assert bare_name("\\0123456789abcdefgh") == "0123456789abcde"
    assert name_pattern("'^[[:alpha:]]+d$'").search("kthreadd")
    assert not name_pattern("'^[[:digit:]]'").search("kthreadd")
    with pytest.raises(CommandError, match=re.escape("invalid regular expression: [")):
        name_pattern("'['")


def overlaid(address: int, data: bytes | None) -> "crashpy.Dump":
    """A dump where that page reads as these bytes, or not at all."""
    dump = crashpy.open(str(EXAMPLES / "vmlinux.zst"), str(EXAMPLES / "vmcore-null"))

    def read(at: int, count: int, offset: int, _physical: bool) -> bytes:
        if data is None:
            raise FaultError("excluded", at)
        return data[offset : offset + count]

    dump.prog.add_memory_segment(address & ~4095, 4096, read)
    return dump


def node_of(dump: "crashpy.Dump") -> int:
    """The root node of the index of PIDs."""
    return dump.prog["init_pid_ns"].idr.idr_rt.xa_head.value_() & ~3


def test_a_hole_in_the_index_of_pids_is_gone_round(opened):
    whole = opened("vmcore-null").dump
    dump = overlaid(node_of(whole), None)
    assert {t.address for t in dump.tasks} == {t.address for t in whole.tasks}
    assert dump.missing
    assert "holes in the list of tasks" in dump.missing[-1]


def test_a_hole_in_a_task_costs_that_page_only(opened):
    whole = opened("vmcore-null").dump
    lost = next(t for t in whole.tasks if t.comm == "rcu_sched")
    dump = overlaid(lost.address, None)
    left = {t.address for t in dump.tasks}
    page = range(lost.address & ~4095, (lost.address & ~4095) + 4096)
    assert lost.address not in left
    # Tasks are two pages long: one or two of them touch the page.
    assert len(whole.tasks) - 2 <= len(left) < len(whole.tasks)
    assert all(t.address in left for t in whole.tasks if t.address + 8192 < page.start)


@pytest.mark.parametrize("garbage", [b"\xff" * 4096, bytes(range(256)) * 16])
def test_garbage_in_the_index_of_pids_ends(opened, garbage):
    whole = opened("vmcore-null").dump
    dump = overlaid(node_of(whole), garbage)
    assert len(dump.tasks) >= 4
    assert dump.tasks.panic.pid == 156


def test_a_loop_in_an_xarray_ends(opened):
    prog = opened("vmcore-null").dump.prog
    node = node_of(opened("vmcore-null").dump)
    loop = overlaid(node, (node | 2).to_bytes(8, "little") * 512).prog
    holes = []
    found = list(xarray_entries(loop["init_pid_ns"].idr.idr_rt, lambda *hole: holes.append(hole)))
    assert found == []
    assert list(xarray_entries(prog["init_pid_ns"].idr.idr_rt, lambda *_: None))


def test_the_lists_lead_to_every_task_but_the_idle_ones(opened):
    dump = opened("vmcore-null").dump
    found = set(linked_tasks(dump.prog, [dump.prog["init_task"].address_]))
    assert found == {t.address for t in dump.tasks if t.pid}


def test_a_machine_that_was_dumped_alive_has_no_panic_task(opened):
    table = TaskTable(opened("vmcore-null").dump)
    table.__dict__["_panic"] = None
    assert not table.panic_found
    assert table.panic.pid == 0


def test_the_table_is_linear(opened):
    import time

    dump = opened("vmcore-null").dump
    began = time.perf_counter()
    for _ in range(20):
        table = TaskTable(dump)
        table._layout  # noqa: B018
        for task in dump.tasks.all:
            table._read(task.address)
    # 20 times 112 tasks; a machine has 20,000 of them.
    assert (time.perf_counter() - began) / (20 * len(dump.tasks)) < 200e-6


def test_objects_are_tasks(opened):
    dump = opened("vmcore-null").dump
    assert isinstance(dump.tasks.object(dump.context), Object)
