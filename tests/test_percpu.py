"""Lists of CPUs, as crash's make_cpumask() reads them."""

import pytest

from crashpy.command import CommandError
from crashpy.kernel.percpu import cpu_list


@pytest.mark.parametrize(
    ("words", "cpus"),
    [
        ("0", [0]),
        ("0-2", [0, 1, 2]),
        ("3,0", [0, 3]),
        ("a", [0, 1, 2, 3]),
        ("all", [0, 1, 2, 3]),
        ("2-1", []),
        ("", []),
        (",1,", [1]),
    ],
)
def test_a_list_of_cpus(words, cpus):
    assert cpu_list(words, 4) == cpus


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("4", "invalid cpu specification: 4"),
        ("0-9", "invalid cpu specification: 0-9"),
        ("-", "invalid cpu specification: -"),
        ("x", 'x: "x" is not a digit 0 - 9'),
        ("1,2y", '2y: "y" is not a digit 0 - 9'),
    ],
)
def test_what_is_none(words, sentence):
    with pytest.raises(CommandError, match=f"^{sentence}$"):
        cpu_list(words, 4)
