"""gdb's layout of values, on hand-made types and memory."""

import struct
from types import SimpleNamespace

import pytest
from drgn import Architecture, Object, Platform, Program, TypeEnumerator, TypeMember

from crashpy.gdb.memory import UnreadableError
from crashpy.gdb.target import Target
from crashpy.gdb.values import Style, plain_value, quoted, show, show_object

TEXT = 0xFFFFFFFF81000000


@pytest.fixture(scope="module")
def target():
    prog = Program(Platform(Architecture.X86_64))
    memory = b"hello\0".ljust(4096, b"x")

    def read(_address, count, offset, _physical):
        return memory[offset : offset + count]

    prog.add_memory_segment(TEXT, len(memory), read)
    dump = SimpleNamespace(prog=prog, symbols=SimpleNamespace(at=lambda _: None), files=())
    return Target(dump)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"abc\0", '"abc"'),
        (b"abc\0\0\0", r'"abc\000\000"'),
        (b"\0", '""'),
        (b'a"b\\\n\x1b\x7f\0', r'"a\"b\\\n\033\177"'),
        (b"abcdefghijkl", '"abcdefgh"...'),
        ("é\0".encode(), '"é"'),
        (b"\xff\0", r'"\377"'),
        (b"ab\xcc\0", r'"ab", <incomplete sequence \314>'),
        (b"\xcc\0", r"<incomplete sequence \314>"),
    ],
)
def test_strings(data, text):
    assert quoted(data, 8) == text


def test_a_structure_with_everything(target):
    prog = target.prog
    unsigned = prog.type("unsigned int")
    inner = prog.struct_type("inner", 4, [TypeMember(prog.type("int"), "x", 0)])
    union = prog.union_type(None, 4, [TypeMember(unsigned, "u", 0), TypeMember(inner, "i", 0)])
    empty = prog.struct_type("empty", 0, [])
    kind = prog.struct_type(
        "all",
        40,
        [
            TypeMember(prog.pointer_type(prog.type("char")), "name", 0),
            TypeMember(union, None, 64),
            TypeMember(prog.array_type(inner, 2), "list", 96),
            TypeMember(Object(prog, unsigned, bit_field_size=1), "one", 160),
            TypeMember(Object(prog, unsigned, bit_field_size=31), "rest", 161),
            TypeMember(prog.type("unsigned char"), "c", 192),
            TypeMember(prog.type("_Bool"), "b", 200),
            TypeMember(prog.array_type(unsigned, 2), "n", 224),
            TypeMember(empty, "key", 288),
        ],
    )
    data = struct.pack("<QiiiIBB2x2I4x", TEXT, -1, 2, 3, 5, 65, 1, 7, 8)
    assert show(target, kind, data, 0x1000, Style()).split("\n") == [
        "{",
        f'  name = {TEXT:#x} "hello",',
        "  {",
        "    u = 4294967295,",
        "    i = {",
        "      x = -1",
        "    }",
        "  },",
        "  list = {{",
        "      x = 2",
        "    }, {",
        "      x = 3",
        "    }},",
        "  one = 1,",
        "  rest = 2,",
        "  c = 65 'A',",
        "  b = true,",
        "  n = {7, 8},",
        "  key = {<No data fields>}",
        "}",
    ]
    shown = show(target, kind, data, 0x1000, Style(radix=16))
    assert "x = 0xffffffff" in shown
    assert "c = 0x41" in shown
    assert "b = 0x1" in shown
    assert "n = {0x7, 0x8}" in shown
    plain = plain_value(target, kind, data, 0, 0x1000)
    assert plain["u"] == 0xFFFFFFFF
    assert plain["list"] == [{"x": 2}, {"x": 3}]
    assert str(plain["name"]) == f"{TEXT:#x}"


def test_an_array_without_length_is_a_pointer(target):
    kind = target.prog.array_type(target.prog.type("int"), None)
    assert show(target, kind, b"", 0x1000, Style()) == "0x1000"


def test_long_arrays_are_cut(target):
    kind = target.prog.array_type(target.prog.type("int"), 5)
    assert show(target, kind, bytes(20), 0, Style(most=3)) == "{0, 0, 0...}"


def test_enumerators_and_flags(target):
    prog = target.prog
    names = [TypeEnumerator("A", 1), TypeEnumerator("B", 2)]
    flags = prog.enum_type("flags", prog.type("unsigned int"), names)
    states = prog.enum_type("state", prog.type("unsigned int"), [*names, TypeEnumerator("C", 3)])

    def shown(kind, value):
        return show(target, kind, struct.pack("<I", value), 0, Style())

    assert shown(flags, 1) == "A"
    assert shown(flags, 3) == "(A | B)"
    assert shown(flags, 9) == "(A | unknown: 0x8)"
    assert shown(flags, 0) == "0"
    assert shown(states, 9) == "9"


def test_values_of_expressions(target):
    prog = target.prog
    assert show_object(target, None, Style()) == "void"
    assert show_object(target, Object(prog, "int", -5), Style()) == "-5"
    assert show_object(target, Object(prog, "int", -1), Style(radix=16)) == "0xffffffff"
    assert show_object(target, Object(prog, "double", 0.1), Style()) == "0.10000000000000001"
    assert show_object(target, Object(prog, "void *", 16), Style()) == "(void *) 0x10"
    assert show_object(target, Object(prog, "char *", TEXT), Style()) == f'{TEXT:#x} "hello"'
    assert show_object(target, Object(prog, "char *", 8), Style()) == (
        "0x8 <error: Cannot access memory at address 0x8>"
    )
    with pytest.raises(UnreadableError):
        show_object(target, Object(prog, "int", address=TEXT + (1 << 20)), Style())


@pytest.mark.parametrize(
    ("letter", "value", "text"),
    [
        ("x", -1, "0xffffffff"),
        ("o", 8, "010"),
        ("t", 10, "1010"),
        ("z", 5, "0x00000005"),
        ("u", -1, "4294967295"),
        ("d", -1, "-1"),
        ("c", 97, "97 'a'"),
        ("f", 1, "1.40129846e-45"),
    ],
)
def test_formats(target, letter, value, text):
    assert show_object(target, Object(target.prog, "int", value), Style(format=letter)) == text
