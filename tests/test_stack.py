"""Kernel stacks: code, ORC, where traces start, and how they go on."""

import dataclasses
import struct

import pytest

from crashpy.command import Address
from crashpy.kernel.stack import Frame, Options, Registers, StackError, Trace, frames, stacks
from crashpy.kernel.stack.orc import OrcTables
from crashpy.kernel.stack.prologue import call_target, instructions, pushed
from crashpy.session import Session

PROLOGUE = bytes.fromhex(
    "4157"  # push %r15
    "53"  # push %rbx
    "4883ec18"  # sub $0x18,%rsp
    "65488b042528000000"  # mov %gs:0x28,%rax
    "e800000000"  # call
    "4883c418"  # add $0x18,%rsp
    "5b"  # pop %rbx
    "415f"  # pop %r15
    "c3"  # ret
    "0f0b"  # ud2
)


def test_instructions_are_told_apart_by_length():
    assert [i.size for i in instructions(PROLOGUE)] == [2, 1, 4, 9, 5, 4, 1, 2, 1, 2]


@pytest.mark.parametrize(
    ("code", "size"),
    [
        ("c5f877", 3),  # vzeroupper
        ("c4e37d39c101", 6),  # vextracti128
        ("62f1fe486f07", 6),  # vmovdqu64
        ("f30fb8c7", 4),  # popcnt
        ("48b8efcdab8967452301", 10),  # movabs
        ("66c704240100", 6),  # movw $1,(%rsp)
        ("f7c700020000", 6),  # test $0x200,%edi
        ("0fba6f0809", 5),  # btsl
        ("0f1f840000000000", 8),  # nopl
        ("660f3a0fc108", 6),  # palignr
    ],
)
def test_the_length_of(code, size):
    assert next(instructions(bytes.fromhex(code) + b"\x90" * 8)).size == size


def test_code_cut_short_ends_the_instructions():
    assert list(instructions(b"\xe8\x00")) == []


def test_what_a_prologue_leaves_on_the_stack():
    assert pushed(PROLOGUE, 21, interrupted=False) == 16 + 0x18
    assert pushed(PROLOGUE, 3, interrupted=False) == 16
    assert pushed(PROLOGUE, len(PROLOGUE) - 2, interrupted=False) == 16 + 0x18  # after the ret


def test_the_target_of_a_call():
    assert call_target(b"\xe8\xfb\xff\xff\xff", 0x1005) == 0x1000
    assert call_target(b"\xff\xd0\x90\x90\x90", 0x1005) is None


@pytest.fixture
def dump(opened):
    return opened("vmcore-null").dump


def opened_lines(dump, line):
    return [*Session(dump).run(line)]


def named(dump, comm):
    return next(task for task in dump.tasks if task.comm == comm)


def test_orc_knows_the_frame_of_schedule(dump):
    tables = OrcTables(dump.prog, stacks(dump).text)
    entry = tables.find(stacks(dump).after_switch)
    assert entry is not None
    assert entry.call
    assert tables.find(0xFFFFFFFF80000000) is None


def test_a_blocked_task_starts_in_schedule(dump):
    found = frames(dump, named(dump, "init"))
    assert [f.function for f in found[:3]] == ["__schedule", "schedule", "do_wait"]
    assert found[-1].function == "entry_SYSCALL_64_after_hwframe"
    assert [f.number for f in found] == list(range(len(found)))
    for frame in found:
        assert dump.prog.read_u64(frame.sp) == frame.ip


def test_drgn_finds_the_same_return_addresses(dump):
    for comm in ("init", "kthreadd", "khungtaskd", "wl-vfork"):
        task = named(dump, comm)
        theirs = {f.pc for f in dump.prog.stack_trace(task.pid)}
        assert {f.ip for f in frames(dump, task)} <= theirs


@pytest.mark.parametrize("name", ["vmcore-null", "vmcore-softlockup"])
def test_the_word_below_an_aligned_exception_frame_is_no_call(opened, name):
    dump = opened(name).dump
    theirs = {f.pc for f in dump.prog.stack_trace(dump.tasks.panic.pid)}
    shown = frames(dump, dump.tasks.panic)
    after = shown[next(i for i, f in enumerate(shown) if f.function.startswith("asm_")) + 1 :]
    assert after
    assert {f.ip for f in after} <= theirs


def test_an_interrupt_leads_back_to_the_task(opened):
    dump = opened("vmcore-irq").dump
    items = Trace(stacks(dump), dump.tasks.panic, Options()).run()
    registers = next(item for item in items if isinstance(item, Registers))
    assert registers.function == "pv_native_safe_halt"
    assert not registers.user
    last = [item for item in items if isinstance(item, Frame)][-1]
    assert last.function == "common_startup_64"


def test_a_cpu_in_user_mode_has_only_its_registers(dump, monkeypatch):
    task = next(task for task in dump.tasks.active.values() if task.comm == "wl-spin")
    trace = Trace(stacks(dump), task, Options())
    monkeypatch.setattr(trace, "_stopped", lambda *_: None)  # as if no NMI had come
    [registers] = trace.run()
    assert registers.where == "user space"
    assert registers.user
    assert registers.orig_rax is None


def test_other_architectures_are_left_to_drgn(dump, monkeypatch):
    task = named(dump, "init")
    ours = [f.function for f in frames(dump, task)]
    monkeypatch.setitem(vars(stacks(dump)), "native", False)
    theirs = [f.function for f in frames(dump, task)]
    assert theirs == ours
    [said] = opened_lines(dump, "bt -t 1")
    assert said == "bt: -t option not supported or applicable on this architecture or kernel"


def test_every_task_can_be_traced(dump):
    for task in dump.tasks:
        for options in (Options(), Options(text=True), Options(full=True), Options(old=True)):
            assert Trace(stacks(dump), task, options).run()


@pytest.mark.parametrize("sp", [None, 0, 1, 0x123456789, 1 << 63, (1 << 64) - 8])
def test_a_bad_stack_pointer_is_said(dump, sp):
    task = dataclasses.replace(named(dump, "init"), stack_pointer=sp)
    trace = Trace(stacks(dump), task, Options())
    try:
        said = trace.run()[0].text
    except StackError as error:
        said = str(error)
    assert said == "cannot determine starting stack pointer"


def test_a_stack_full_of_noise_ends(dump, monkeypatch):
    task = named(dump, "init")
    code = stacks(dump).after_switch
    for word in (code, task.stack + 8, 0xFFFFFFFFFFFFFFFF, 0x10):
        trace = Trace(stacks(dump), task, Options())
        noise = struct.pack("<Q", word) * 2048

        def read_stack(base, top, low=None, trace=trace, noise=noise):
            trace.base, trace.top, trace.low = base, top, low or base
            trace.words = struct.unpack("<2048Q", noise)[: (top - trace.low) // 8]

        monkeypatch.setattr(trace, "read_stack", read_stack)
        assert trace.run()


def test_registers_by_name():
    values = list(range(21))
    registers = Registers.of(values, 0x1000)
    assert (registers.r15, registers.rdi, registers.orig_rax) == (0, 14, 15)
    assert (registers.rip, registers.cs, registers.rsp, registers.ss) == (16, 17, 19, 20)
    assert isinstance(registers.rip, Address)
    assert Registers.of(values).orig_rax is None
