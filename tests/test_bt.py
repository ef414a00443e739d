"""bt: its text is crash's text, and its records serve scripts and JSON."""

import json
from dataclasses import replace

import pytest

from crashpy.command import Address
from crashpy.commands.bt import (
    Backtrace,
    Remark,
    StackCheck,
    StackSearch,
    Style,
    Unknown,
    bt,
    lines,
    overflow_lines,
    register_lines,
    search_lines,
    trace_lines,
    word_lines,
)
from crashpy.kernel.stack import Frame, Note, Registers, StackEnd, Words
from crashpy.settings import Settings

CALL = Frame(
    number=1,
    sp=Address(0xFFFFA2E00000BD98),
    function="schedule",
    offset=35,
    ip=Address(0xFFFFFFFFA5D5C201),
    module=None,
)
TRACE = Backtrace(1, Address(0xFFFFA0BB801C0000), 0, "init", (CALL,))
HEADER = 'PID: 1        TASK: ffffa0bb801c0000  CPU: 0    COMMAND: "init"'
WORDS = Words(Address(0xFFFFA2E00000BD30), (Address(1), Address(0xFFFFA0BB801C0000), Address(4)))


def shown(*items, **style):
    return [*trace_lines(items, Style(**style))]


def test_a_call():
    assert shown(CALL) == [" #1 [ffffa2e00000bd98] schedule at ffffffffa5d5c201"]


def test_a_call_in_a_module_with_offset_and_line():
    call = replace(CALL, number=10, module="loop", line="kernel/a.c: 7", guessed=True)
    assert shown(call, offsets=10) == [
        "#10 [ffffa2e00000bd98] schedule+35 at ffffffffa5d5c201 [loop] *",
        "    kernel/a.c: 7",
    ]
    assert "schedule+0x23 at" in shown(call, offsets=16)[0]


def test_a_return_address_in_a_list():
    assert shown(replace(CALL, number=None)) == [
        "  [ffffa2e00000bd98] schedule at ffffffffa5d5c201"
    ]


def test_words_go_two_a_line():
    assert [*word_lines(WORDS)] == [
        "    ffffa2e00000bd30: 0000000000000001 ffffa0bb801c0000 ",
        "    ffffa2e00000bd40: 0000000000000004 ",
    ]


def test_words_by_name():
    words = replace(WORDS, names=(None, "[task_struct]", "cpu_bit_bitmap+8"))
    assert [*word_lines(words)] == [
        "    ffffa2e00000bd30: 0000000000000001 [task_struct]    ",
        "    ffffa2e00000bd40: cpu_bit_bitmap+8 ",
    ]
    first = next(word_lines(words, addresses=True))
    assert first.endswith("1 [ffffa0bb801c0000:task_struct] ")


def registers(**values):
    return replace(
        Registers.of([*range(16), 0xFFFFFFFFA5D59D15, 0x10, 0x246, 19, 0x18], 8), **values
    )


def test_kernel_registers():
    found = [*register_lines(registers(function="halt", offset=19))]
    assert found[0] == "    [exception RIP: halt+19]"
    assert found[1] == "    RIP: ffffffffa5d59d15  RSP: 0000000000000013  RFLAGS: 00000246"
    assert found[-1] == "    ORIG_RAX: 000000000000000f  CS: 0010  SS: 0018"
    assert len(found) == 8
    assert "[exception RIP: halt+0x13]" in next(
        register_lines(registers(function="halt", offset=19), radix=16)
    )


def test_registers_of_the_notes_lack_orig_rax():
    found = [*register_lines(registers(orig_rax=None, where="user space"))]
    assert found[0] == "    [exception RIP: user space]"
    assert found[-1] == "    CS: 0010  SS: 0018"


def test_registers_found_on_a_stack():
    found = [*register_lines(registers(cs=0x33), found=True)]
    assert found[:2] == ["", "  USER-MODE EXCEPTION FRAME AT: 8"]


def test_another_stack_and_remarks():
    assert shown(StackEnd("NMI exception stack"), Note("(no stack)"), Note("oh", error=True)) == [
        "--- <NMI exception stack> ---",
        "(no stack)",
        "bt: oh",
    ]


def test_tasks_are_set_apart():
    text = [*lines([TRACE, Unknown("99999"), TRACE])]
    assert text[0] == text[5] == HEADER
    assert text[2:5] == ["", "bt: invalid task or pid value: 99999", ""]


def test_a_task_that_has_the_reference_is_followed_by_a_line():
    found = replace(TRACE, titled=False)
    assert [*lines([found], references=("schedule",))][::2] == [HEADER, ""]
    remark = replace(found, trace=(Note("read of stack at 0 failed", error=True),))
    assert [*lines([remark], references=("schedule",))] == ["bt: read of stack at 0 failed"]


def test_without_headers():
    assert len([*lines([TRACE, TRACE], header=False)]) == 2


def test_remarks():
    assert next(lines([Remark("only one -R option allowed")])) == "bt: only one -R option allowed"
    assert [*lines([TRACE, Remark("CPU 1 is OFFLINE.", apart=True)])][2] == ""


def test_searched_stacks():
    text = [*search_lines([StackSearch(0, "IRQ STACK", False, ())])]
    assert text == ["CPU 0 IRQ STACK:", "(none found)", ""]
    text = [*search_lines([StackSearch(1, "NMI EXCEPTION STACK", True, ())])]
    assert text == ["CPU 1 NMI EXCEPTION STACK: [OFFLINE]", ""]


def test_overflown_stacks():
    check = StackCheck(1, Address(2), 0, "init", Address(0x1000), Address(5))
    assert [*overflow_lines([check])][1] == (
        "  possible stack overflow: 1000: 5 != STACK_END_MAGIC"
    )
    assert [*overflow_lines([])] == ["No stack overflows detected"]


def test_json_is_the_record(opened):
    [line] = opened("vmcore-null").run("bt --json 1")
    record = json.loads(line)
    assert record["pid"] == 1
    assert record["trace"][0]["function"] == "__schedule"
    assert record["trace"][0]["sp"].startswith("0xffff")


def test_a_script_calls_it(opened):
    dump = opened("vmcore-null").dump
    found = [*bt(dump, active=True)]
    assert [trace.cpu for trace in found] == [0, 1, 2, 3]
    assert found[2].frames[0].function == "machine_kexec"
    assert [t.pid for t in bt(dump, tasks=[dump.tasks.panic])] == [dump.tasks.panic.pid]


def test_idle_tasks_are_left_out(opened):
    dump = opened("vmcore-null").dump
    idle = next(t for t in bt(dump, active=True, skip_idle=True) if t.pid == 0)
    assert idle.trace == ()


def test_the_old_method_is_a_setting(opened):
    session = opened("vmcore-null")
    assert [*session.run("bt -O")] == ["bt: use old bt method by default"]
    assert len([*session.run("bt")]) > len([*session.run("bt 1")])
    assert [*session.run("bt -O")] == ["bt: use new bt method by default"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bt 99999", "bt: invalid task or pid value: 99999"),
        ("bt -A", "bt: -A option not supported or applicable on this architecture or kernel"),
        ("bt -c 9", "bt: invalid cpu specification: 9"),
        ("bt -a -g", "bt: -a option cannot be used with the -g option"),
        ("bt -xd", "bt: -d and -x are mutually exclusive"),
        ("bt -S 0", "bt: invalid stack address for this task: 0"),
        ("bt -I xyz", 'bt: cannot convert "xyz"'),
        ("bt -n foo", "bt: -n option not supported or applicable on this architecture or kernel"),
    ],
)
def test_what_makes_no_sense(opened, line, message):
    assert [*opened("vmcore-null").run(line)] == [message]


def test_a_stack_pointer_outside_of_the_stack(opened):
    text = [*opened("vmcore-null").run("bt -S 1234 1")]
    assert text[1].startswith("bt: non-process stack address for this task: 1234\n    (valid range")


def test_offsets_follow_the_session(opened):
    dump = opened("vmcore-null").dump
    records = [*bt(dump, tasks=["1"])]
    text = "\n".join(lines(records, offsets=True, settings=Settings(radix=16)))
    assert "schedule+0x" in text
