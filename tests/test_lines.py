"""Source lines: the line number program as gdb reads it."""

import pytest

from crashpy.lines import FileLines, Machine, Table

COPY, ADVANCE_PC, ADVANCE_LINE, SET_FILE, NEGATE = b"\1", b"\2", b"\3", b"\4", b"\6"
END = b"\0\1\1"
LENGTHS = [0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1]


def table(*steps, directory="/src", names=("a.c", "a.c", "b.h")):
    machine = Machine(list(names), 1, True, -5, 14, 13, LENGTHS)
    machine.run(b"\0\x09\2" + (0x1000).to_bytes(8, "little") + b"".join(steps) + END)
    files = [FileLines.of(name, rows) for name, rows in machine.rows.items() if rows]
    return Table(directory, files)


def pc(size):
    return ADVANCE_PC + bytes([size])


def line(number):
    return ADVANCE_LINE + bytes([number & 0x7F])


def test_the_row_below_an_address_counts():
    found = table(line(9), COPY, pc(4), line(1), COPY, pc(4))
    places = map(found.place, (0xFFF, 0x1000, 0x1003, 0x1004, 0x1007, 0x1008))
    assert list(map(str, places)) == [
        "None", "/src/a.c: 10", "/src/a.c: 10", "/src/a.c: 11", "/src/a.c: 11", "None",
    ]  # fmt: skip


def test_a_change_of_file_drops_the_rows_at_its_address():
    found = table(line(9), COPY, pc(4), line(1), COPY, SET_FILE + b"\2", COPY, pc(4))
    assert str(found.place(0x1004)) == "/src/b.h: 11"


def test_no_statement_of_another_file_replaces_a_statement_there():
    found = table(line(9), COPY, SET_FILE + b"\2", NEGATE, line(5), COPY, pc(4))
    assert str(found.place(0x1000)) == "/src/a.c: 10"


def test_a_statement_is_preferred_among_rows_of_one_address():
    found = table(line(9), COPY, NEGATE, line(5), COPY, pc(4))
    assert str(found.place(0x1002)) == "/src/a.c: 10"


@pytest.mark.parametrize(
    ("directory", "name", "path"),
    [
        (".", "kernel/fork.c", "./kernel/fork.c"),
        ("/src/", "a.c", "/src/a.c"),
        ("/src", "./include//b.h", "/src/./include/b.h"),
        ("/src", "/other/a.c", "/other/a.c"),
    ],
)
def test_paths_are_those_the_compiler_was_given(directory, name, path):
    found = table(line(1), COPY, pc(1), directory=directory, names=(name, name))
    assert str(found.place(0x1000)) == f"{path}: 2"
