"""The tables of types that BTF lacks, beside what the script that makes them says of a kernel."""

import pytest

from crashpy.opening.declare import main, tables
from crashpy.opening.finder import declarations, shapes


@pytest.fixture(scope="module")
def kernel(opened):
    return opened("vmcore-null").dump.kernel_file


@pytest.fixture(scope="module")
def made(kernel):
    return tables([kernel])


def test_what_the_script_makes_of_a_kernel_is_in_the_tables(made):
    """The tables know more kernels, and names that are several files' in one of them are out."""
    types, lengths = made
    known = declarations()
    listed = types.keys() & known.keys()
    assert len(listed) > 4000
    assert {name for name in listed if not set(types[name]) <= set(known[name])} == set()
    assert lengths
    assert all(each in shapes()[name] for name in lengths for each in lengths[name])


def test_it_makes_the_same_each_time(made, kernel):
    assert tables([kernel, kernel]) == made


def test_no_kernel_is_no_table(capsys):
    assert main([]) == 1
    assert "usage: python -m crashpy.opening.declare" in capsys.readouterr().err
