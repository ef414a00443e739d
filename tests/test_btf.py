"""BTF: the types that a kernel carries, against those its debug information has."""

import random

import pytest
from drgn import TypeKind

from crashpy.opening.btf import Btf, BtfError


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
