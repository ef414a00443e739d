"""gdb's layout of declarations, on hand-made types."""

import pytest
from drgn import (
    Architecture,
    Object,
    Platform,
    Program,
    Qualifiers,
    TypeEnumerator,
    TypeMember,
    TypeParameter,
)

from crashpy.gdb.types import declaration, declared, members, name_of, ptype, with_offsets


@pytest.fixture(scope="module")
def prog():
    return Program(Platform(Architecture.X86_64))


@pytest.fixture(scope="module")
def node(prog):
    """A structure with all that declarations can be."""
    integer, char = prog.type("int"), prog.type("char")
    function = prog.function_type(prog.void_type(), [TypeParameter(prog.pointer_type(integer))])
    inner = prog.struct_type(None, 8, [TypeMember(integer, "a", 0), TypeMember(integer, "b", 32)])
    either = prog.union_type(None, 8, [TypeMember(inner, None, 0), TypeMember(inner, "pair", 0)])
    const_char = char.qualified(Qualifiers.CONST)
    return prog.struct_type(
        "node",
        64,
        [
            TypeMember(prog.pointer_type(const_char), "name", 0),
            TypeMember(prog.array_type(char, 8), "comm", 64),
            TypeMember(prog.pointer_type(function), "call", 128),
            TypeMember(either, None, 192),
            TypeMember(Object(prog, "unsigned int", bit_field_size=1), "flag", 256),
            TypeMember(prog.array_type(prog.array_type(integer, 2), 3), "grid", 320),
        ],
    )


def test_a_structure(node):
    assert ptype(node) == [
        "struct node {",
        "    const char *name;",
        "    char comm[8];",
        "    void (*call)(int *);",
        "    union {",
        "        struct {",
        "            int a;",
        "            int b;",
        "        };",
        "        struct {",
        "            int a;",
        "            int b;",
        "        } pair;",
        "    };",
        "    unsigned int flag : 1;",
        "    int grid[3][2];",
        "}",
    ]


def test_unnamed_types_deeper_down_are_not_spelled_out(prog):
    inner = prog.struct_type(None, 4, [TypeMember(prog.type("int"), "x", 0)])
    middle = prog.struct_type(None, 4, [TypeMember(inner, "deep", 0)])
    outer = prog.struct_type("outer", 4, [TypeMember(middle, "m", 0)])
    assert "        struct {...} deep;" in ptype(outer)


def test_names_of_types(prog, node):
    function = prog.function_type(prog.void_type(), [])
    assert name_of(prog.pointer_type(node)) == "struct node *"
    assert name_of(function) == "void (void)"
    assert name_of(prog.pointer_type(function)) == "void (*)(void)"
    assert name_of(prog.pointer_type(prog.array_type(prog.type("char"), 16))) == "char (*)[16]"
    assert name_of(prog.array_type(prog.type("char"), None)) == "char []"
    constant = prog.pointer_type(prog.type("int")).qualified(Qualifiers.CONST)
    assert declaration(constant, "p") == "int * const p"


def test_an_enumeration(prog):
    names = [TypeEnumerator("A", 0), TypeEnumerator("B", 5), TypeEnumerator("C", 6)]
    kind = prog.enum_type("kind", prog.type("int"), names)
    assert ptype(kind) == ["enum kind {A, B = 5, C}"]


def test_typedefs(prog):
    counter = prog.struct_type(None, 4, [TypeMember(prog.type("int"), "counter", 0)])
    atomic = prog.typedef_type("atomic_t", counter)
    assert declared("atomic_t", atomic, typedef=True) == [
        "typedef struct {",
        "    int counter;",
        "} atomic_t;",
    ]


def test_members_of_unnamed_members_count(node):
    found = members(node)
    assert found["b"].offset == 28
    assert found["flag"].bits == 1


def test_offsets(node):
    lines = list(with_offsets(ptype(node), members(node), size=64))
    assert lines[1] == "   [0] const char *name;"
    assert "  [16] void (*call)(int *);" in lines
    assert "  [28]         int b;" in lines
    assert "       union {" in lines
    assert "  [24]     } pair;" in lines
    assert "  [32] unsigned int flag : 1;" in lines


def test_addresses_and_one_member(node):
    lines = list(with_offsets(ptype(node), members(node), size=64, base=0x1000, only="comm"))
    assert lines == ["struct node {", "  [1008] char comm[8];", "}"]
    lines = list(with_offsets(ptype(node), members(node), size=64, hexadecimal=True, only="grid"))
    assert lines[1] == "  [0x28] int grid[3][2];"
