"""log: the messages, whatever buffer they are in."""

import json
import struct

import drgn
import pytest

from crashpy.commands.log import Message, lines, safe_lines
from crashpy.kernel.printk import SafeBuffer, caller, log_records
from crashpy.kernel.rust import demangle, demangled_text


def message(text="first\nsecond", **changed):
    values = {
        "seq": 1,
        "ts_ns": 12_345_678_901,
        "date_s": 1795422938.9,
        "level": 4,
        "caller": "T1",
        "text": text,
        "caller_width": 6,
    }
    return Message(**(values | changed))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["[   12.345678] first", "               second"]),
        ({"stamps": False}, ["first", "second"]),
        ({"levels": True}, ["[   12.345678] <4>first", "                  second"]),
        ({"callers": True, "stamps": False}, ["[    T1] first", "         second"]),
        ({"dates": True}, ["[Mon Nov 23 08:35:38 UTC 2026] first", " " * 31 + "second"]),
    ],
)
def test_prefixes(options, expected):
    assert list(lines([message()], **options)) == expected


def test_dictionary():
    said = message("text", subsystem="pci", device="+pci:0000:00:00.0")
    assert list(lines([said], stamps=False, dictionary=True)) == [
        "text",
        "SUBSYSTEM=pci",
        "DEVICE=+pci:0000:00:00.0",
    ]


def test_a_record_without_text_is_an_empty_line():
    assert list(lines([message("", empty=True)])) == [""]


def test_callers():
    assert caller(0x80000003) == "C3"
    assert caller(42) == "T42"


def test_buffers_of_what_could_not_be_said():
    empty = SafeBuffer("nmi_print_seq", 0, 0xFFFF888000000000, 0, 0, b"")
    some = SafeBuffer("nmi_print_seq", 1, 0xFFFF888000001000, 9, 1, b"\x014hello\n\x01cmore\n")
    assert list(safe_lines([empty, some], levels=True)) == [
        "PRINTK_SAFE_SEQ_BUF: nmi_print_seq",
        "CPU: 0  ADDR: ffff888000000000 LEN: 0  MESSAGE_LOST: 0",
        "  (empty)",
        "",
        "CPU: 1  ADDR: ffff888000001000 LEN: 9  MESSAGE_LOST: 1",
        "  <4>hello",
        "  <c>more",
        "",
    ]


def test_records_are_those_of_drgn(opened):
    from drgn.helpers.linux.printk import get_printk_records

    prog = opened("vmcore-null").dump.prog
    ours = list(log_records(prog, pytest.fail))
    theirs = get_printk_records(prog)
    assert [r.text for r in ours] == [r.text for r in theirs]
    assert [r.ts_ns for r in ours] == [r.timestamp for r in theirs]
    assert [r.level for r in ours] == [r.level for r in theirs]
    assert [r.seq for r in ours] == [r.seq for r in theirs]


def test_json(opened):
    rows = [json.loads(line) for line in opened("vmcore-null").run("log --json")]
    assert rows[0]["text"].startswith("Linux version 6.12.117-sample")
    assert rows[0]["level"] == 5


def test_audit_of_a_kernel_without(opened):
    assert list(opened("vmcore-null").run("log -a")) == [
        "log: -a option not supported or applicable on this architecture or kernel"
    ]


@pytest.mark.parametrize(
    ("mangled", "name"),
    [
        ("_RNvC6_123foo3bar", "123foo::bar"),
        ("_RNvNtCs1234_7mycrate3foo3bar", "mycrate::foo::bar"),
        ("_RNCNvC4bite3foo0B3_", "bite::foo::{closure#0}"),
        ("_RINvNtC3std3mem8align_ofdE", "std::mem::align_of::<f64>"),
        (
            "_RNvXs5_NtCsabc_4core3fmtRNtNtB7_3fmt5ErrorNtB5_5Debug3fmt",
            "<&core::fmt::Error as core::fmt::Debug>::fmt",
        ),
        ("_RINvC1a1bFEuE", "a::b::<fn()>"),
        ("_RINvC1a1bDNtC1c1dEL_E", "a::b::<dyn c::d>"),
        ("_RINvC1a1bAhj4_E", "a::b::<[u8; 4]>"),
        ("_ZN4core3fmt5write17h0123456789abcdefE", "core::fmt::write"),
        (
            "_ZN71_$LT$Test$u20$$u2b$$u20$$u27$static$u20$as$u20$foo..Bar$LT$Test$GT$$GT$"
            "3bar17h930b740aa94f1d3aE",
            "<Test + 'static as foo::Bar<Test>>::bar",
        ),
        ("_ZN4core3fmtE", None),  # C++
        ("_RNvC6_123foo", None),
        ("_RB_", None),
        ("_R", None),
        ("printk", None),
    ],
)
def test_names_of_rust(mangled, name):
    assert demangle(mangled) == name


def test_a_line_with_a_name_of_rust():
    line = " ? _RNvNtCs1234_7mycrate3foo3bar+0x12/0x40"
    assert demangled_text(line) == " ? mycrate::foo::bar+0x12/0x40"
    assert demangled_text("no name _R here") == "no name _R here"


U8, U16, U64 = (1, "u8"), (2, "u16"), (8, "u64")


class OldKernel:
    """The log of a kernel before Linux 5.10: what log_records() asks of a program."""

    def __init__(self, buffer, **variables):
        self.buffer = buffer
        self.prog = prog = drgn.Program(
            drgn.Platform(drgn.Architecture.X86_64)  # 64 bits, little-endian
        )
        self.u32 = prog.int_type("unsigned int", 4, False)
        word = prog.int_type("unsigned long", 8, False)
        members = []
        at = 0
        for name, (size, kind) in (
            ("ts_nsec", U64),
            ("len", U16),
            ("text_len", U16),
            ("dict_len", U16),
            ("facility", U8),
            ("flags_level", U8),
        ):
            members.append(
                drgn.TypeMember(prog.int_type(kind, size, False), name, bit_offset=8 * at)
            )
            at += size
        self.record = prog.struct_type("printk_log", at, members)
        values = {"log_buf": 0x1000, "log_buf_len": len(buffer), **variables}
        self.objects = {
            name: drgn.Object(prog, word if name == "log_buf" else self.u32, value)
            for name, value in values.items()
        }
        prog.register_type_finder("old", self._type, enable_index=0)
        prog.register_object_finder("old", self._object, enable_index=0)
        prog.add_memory_segment(0x1000, len(buffer), self._read)

    def _type(self, _prog, kinds, name, _filename):
        return self.record if name == "printk_log" and drgn.TypeKind.STRUCT in kinds else None

    def _object(self, _prog, name, _flags, _filename):
        return self.objects.get(name)

    def _read(self, _address, count, offset, _physical):
        return self.buffer[offset : offset + count]


def record(text, time, level=6, dictionary=b""):
    size = (16 + len(text) + len(dictionary) + 3) & ~3
    head = struct.pack("<QHHHBB", time, size, len(text), len(dictionary), 0, level << 5)
    return (head + text + dictionary).ljust(size, b"\0")


def test_the_record_buffer_of_linux_3_5():
    newest, oldest = record(b"newest", 3), record(b"oldest", 1, 4, b"A=1\0B=2")
    middle = record(b"middle\nline", 2)
    start = 64
    buffer = newest.ljust(start, b"\xaa") + oldest + middle + bytes(16)
    old = OldKernel(buffer, log_first_idx=start, log_next_idx=len(newest))
    found = list(log_records(old.prog, pytest.fail))
    assert [r.text for r in found] == [b"oldest", b"middle\nline", b"newest"]
    assert [r.ts_ns for r in found] == [1, 2, 3]
    assert [r.level for r in found] == [4, 6, 6]
    assert found[0].dictionary == b"A=1\0B=2"


@pytest.mark.parametrize("garbage", [bytes(64), b"\xff" * 64, b"\x10\0" * 32])
def test_garbage_in_the_record_buffer_ends(garbage):
    old = OldKernel(garbage, log_first_idx=16, log_next_idx=33)
    said = []
    assert len(list(log_records(old.prog, said.append))) <= 4


def test_the_plain_text_before():
    buffer = b"ewest\n" + bytes(6) + b"<4>older\n<5>mid\n<6>n"
    assert len(buffer) == 32
    old = OldKernel(buffer, log_end=32 + 6)
    assert [(r.level, r.text) for r in log_records(old.prog, pytest.fail)] == [
        (4, b"older"),
        (5, b"mid"),
        (6, b"newest"),
    ]
