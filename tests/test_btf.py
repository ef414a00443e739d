"""BTF: the types that a kernel carries, against those its debug information has."""

import random
import struct

import pytest
from drgn import TypeKind

from crashpy.opening.btf import Btf, BtfError, Kind
from crashpy.opening.finder import Finder
from crashpy.opening.symtab import Columns, SymbolFinder, table_of


@pytest.fixture(scope="module")
def prog(opened):
    return opened("vmcore-null").dump.prog


@pytest.fixture(scope="module")
def blob(prog):
    start, stop = (prog.symbol(f"__{edge}_BTF").address for edge in ("start", "stop"))
    return prog.read(start, stop - start)


@pytest.fixture(scope="module")
def btf(prog, blob):
    return Btf(prog, blob)


def layout(type_):
    """Members by name: offset, size of bit field, size of type."""
    return [(m.name, m.bit_offset, m.bit_field_size) for m in type_.members or ()]


def test_every_structure_is_laid_out_as_in_dwarf(prog, btf):
    compared, different = 0, []
    for name in sorted(btf.type_names()):
        found = [btf.type(n) for n in btf.ids(name, (4,))]
        if len(found) != 1 or found[0].size is None:
            continue
        try:
            dwarf = prog.type(f"struct {name}")
        except LookupError:
            continue
        if not dwarf.is_complete():
            continue
        compared += 1
        if (dwarf.size, layout(dwarf)) != (found[0].size, layout(found[0])):
            different.append(name)
    assert compared > 1000
    # Two structures of one name in different files: drgn and BTF may show either.
    assert len(different) <= compared / 200, different


def test_an_enumerator_is_a_constant(prog, btf):
    assert btf.enumerator("PIDTYPE_TGID").value_() == prog["PIDTYPE_TGID"].value_()
    assert btf.enumerator("no such enumerator") is None


def test_a_structure_that_points_to_itself(btf):
    [number] = btf.ids("list_head", (4,))
    type_ = btf.type(number)
    assert type_.member("next").type.type.tag == "list_head"
    assert btf.type(number) is type_


def test_a_union_and_a_typedef(btf):
    names = btf.type_names()
    assert {"task_struct", "atomic_t", "list_head"} <= names
    [atomic] = [btf.type(n) for n in btf.ids("atomic_t", (8,))]
    assert atomic.kind == TypeKind.TYPEDEF


def test_an_unnamed_structure_is_known_by_its_members(btf):
    assert btf.structure_of(["counter"]) is not None
    assert btf.structure_of(["counter", "no such member"]) is None


@pytest.mark.parametrize("size", [0, 10, 23, 24, 1000])
def test_what_is_cut_short_says_so(prog, blob, size):
    with pytest.raises(BtfError):
        Btf(prog, blob[:size])


def record(name, kind, size, *rest, items=0):
    return struct.pack(f"<III{len(rest)}I", name, kind << 24 | items, size, *rest)


def made(*records, names=b"\0A\0m\0", header=24, names_at=None):
    types = b"".join(records)
    at = len(types) if names_at is None else names_at
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, header, 0, len(types), at, len(names))
    return head + types + names


INT = record(1, Kind.INT, 4, 0)


@pytest.mark.parametrize(
    ("blob", "said"),
    [
        (b"\0" * 30, "its magic number is missing"),
        (made(INT)[::-1], "its magic number is missing"),
        (made(INT, header=8), "its header makes no sense"),
        (made(INT, names_at=4), "its header makes no sense"),
        (made(INT, names=b"A\0"), "its names do not end"),
        (made(INT, names=b"\0A"), "its names do not end"),
        (made(INT, names=b"\0A\0\0B\0"), "some of its names are none"),
        (made(INT, names=b"\0A\x03\0"), "some of its names are none"),
        (made(INT, names=b"\0" + b"A" * 5000 + b"\0"), "some of its names are none"),
        (made(record(1, Kind.INT, 1 << 30, 0)), "an integer of an unlikely size"),
        (made(record(1, 25, 4)), "of a newer kernel than crashpy knows: type 1"),
        (made(INT, record(1, Kind.DATASEC, 8, 1, 0, 8, items=1)), "not where others look"),
        (made(record(1, Kind.STRUCT, 8, items=3)), "its last type is cut short"),
    ],
)
def test_what_makes_no_sense_says_so(prog, blob, said):
    with pytest.raises(BtfError, match=said):
        Btf(prog, blob)


def test_a_type_lost_or_added_is_noticed(prog, blob):
    """One structure without members more, and every id behind it is another type's."""
    begin, size = 24, struct.unpack_from("<I", blob, 12)[0]
    more = record(0, Kind.STRUCT, 0)
    names_at = struct.unpack_from("<I", blob, 16)[0]
    head = struct.pack("<II", size + len(more), names_at + len(more))
    with pytest.raises(BtfError, match="not where others look"):
        Btf(prog, blob[:12] + head + blob[20:begin] + more + blob[begin:])


@pytest.mark.parametrize(
    "records",
    [
        [record(1, Kind.TYPEDEF, 1)],
        [record(0, Kind.PTR, 1)],
        [record(0, Kind.ARRAY, 0, 1, 1, 5)],
        [record(0, Kind.CONST, 2), record(0, Kind.VOLATILE, 1)],
        [record(1, Kind.TYPEDEF, 99)],
        [record(1, Kind.DATASEC, 8)],
        [record(0, Kind.PTR, i + 2) for i in range(5000)],
    ],
)
def test_types_without_an_end_are_not_found(prog, records):
    finder = Finder(prog, {}, SymbolFinder(table_of(Columns([], [], []), 0), 0))
    finder.add(Btf(prog, made(*records, record(3, Kind.TYPEDEF, 1))))
    assert finder.find_type(prog, frozenset([TypeKind.TYPEDEF]), "m", None) is None


NOTHING = record(0, Kind.ARRAY, 0, 1, 1, 0)  # of A, which is type 1


def test_an_array_of_no_elements(prog):
    """[0], but as the last of several members, where [] is what C has more often."""
    alone = record(3, Kind.STRUCT, 0, 1, 2, 0, items=1)
    last = record(3, Kind.STRUCT, 4, 1, 1, 0, 3, 2, 32, items=2)
    first = record(3, Kind.STRUCT, 4, 1, 2, 0, 3, 1, 0, items=2)
    btf = Btf(prog, made(INT, NOTHING, alone, last, first, record(0, Kind.PTR, 2)))
    lengths = [btf.type(3).members[0], btf.type(4).members[1], btf.type(5).members[0]]
    assert [member.type.length for member in lengths] == [0, None, 0]
    assert btf.type(6).type.length == 0
    known = Btf(prog, made(INT, NOTHING, last), shapes={"m.m": [[0]]})
    assert known.type(3).members[1].type.length == 0


@pytest.mark.parametrize(("name", "lengths"), [(b"cpumask_var_t", [9]), (b"u8", [9, 1])])
def test_an_array_of_arrays_of_one(prog, name, lengths):
    """Of a mask of CPUs it is none where the mask is elsewhere."""
    array = record(0, Kind.ARRAY, 0, 2, 1, 9)
    outer = record(3, Kind.STRUCT, 36, 3, 3, 0, items=1)
    blob = made(INT, record(5, Kind.TYPEDEF, 1), array, outer, names=b"\0A\0m\0" + name + b"\0")
    type_ = Btf(prog, blob, shapes={"m.m": [[9, 1]]}).type(4).members[0].type
    found = []
    while type_.kind == TypeKind.ARRAY:
        found.append(type_.length)
        type_ = type_.type
    assert found == lengths


def test_a_structure_in_itself_ends(prog):
    btf = Btf(prog, made(record(1, Kind.STRUCT, 8, 0, 1, 0, items=1)))
    with pytest.raises(RecursionError):
        btf.type(1).has_member("nosuch")


def test_damage_raises_nothing_else(prog, blob):
    random_ = random.Random(7)
    for _ in range(30):
        damaged = bytearray(blob)
        for _ in range(50):
            damaged[random_.randrange(24, len(damaged))] = random_.randrange(256)
        try:
            btf = Btf(prog, bytes(damaged))
            for number in range(1, len(btf), 997):
                btf.type(number)
        except (BtfError, RecursionError, ValueError, TypeError, LookupError):
            continue
