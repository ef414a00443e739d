"""rd: memory as text, and what its words mean."""

import json
import struct

import pytest

from crashpy.command import Address, CommandError
from crashpy.commands.rd import Characters, Form, Unread, Values, lines, parsed, value_lines


@pytest.fixture(scope="module")
def session(opened):
    return opened("vmcore-null")


def shown(records, *words):
    return list(lines(iter(records), words=words))


def test_a_short_last_line_is_padded_up_to_its_characters():
    words = Values(Address(0x1000), 8, b"abcdefghABCDEFGH\0\n~1234 ")
    assert shown([words]) == [
        "            1000:  6867666564636261 4847464544434241   abcdefghABCDEFGH",
        "            1010:  20343332317e0a00                    ..~1234 ",
    ]


def test_without_characters_a_blank_stays_behind_the_last_number():
    found = Values(Address(0xFFFF888000000000), 4, struct.pack("<5I", 1, 2, 3, 4, 0xFFFFFFFF))
    assert shown([found], "-x", "-32") == [
        "ffff888000000000:  00000001 00000002 00000003 00000004 ",
        "ffff888000000010:  ffffffff ",
    ]
    assert shown([found], "-32", "-d")[1] == "ffff888000000010:            -1 "
    assert shown([found], "-32", "-D")[1] == "ffff888000000010:    4294967295 "


def test_names_take_the_place_of_numbers():
    found = Values(Address(0), 8, bytes(16), names=("init_task", None))
    (line, _), *_ = value_lines(found, Form(symbolic=True))
    assert line == "               0:  init_task        0000000000000000 "


def test_what_cannot_be_read_cuts_the_line_before_it():
    records = [Values(Address(0), 8, bytes(16)), Unread(Address(16), "seek error: ...")]
    found = []
    with pytest.raises(CommandError, match="seek error"):
        found += lines(iter(records))
    assert shown([records[0], Unread(Address(16), None)]) == [
        "               0:  0000000000000000 0000000000000000 "
    ]


def test_characters():
    runs = [Characters(Address(0x10), "some"), Characters(Address(0x20), "text")]
    assert shown(runs, "-a", "x", "30") == ["              10:  some", "              20:  text"]
    assert shown([], "-a", "x", "3") == [""]


@pytest.mark.parametrize(
    ("words", "form"),
    [
        (["-16", "a"], Form(unit=2)),
        (["a", "-8x"], Form(unit=1, bare=True)),
        (["-SS", "a"], Form(symbolic=True, slabs=2)),
        (["-o", "10", "-e", "10", "a"], Form(offset=10, end=16)),
    ],
)
def test_letters(words, form):
    assert parsed(words) == (form, ["a"])


def test_memory_of_the_kernel(session):
    assert "Linux version 6.12.117-sample" in next(session.run("rd -a linux_banner"))
    assert list(session.run("rd (linux_banner+6) -8 7")) == list(
        session.run("rd -o 6 linux_banner -8 7")
    )
    (line,) = session.run("rd --json -16 linux_banner 3")
    assert json.loads(line)["values"] == [0x694C, 0x756E, 0x2078]


def test_backwards_and_up_to_an_end(session):
    at = session.dump.symbols.named("init_task").address
    assert list(session.run(f"rd -R {at + 16:x} 3")) == list(session.run("rd init_task 3"))
    assert list(session.run(f"rd init_task -e {at + 24:x}")) == list(session.run("rd init_task 3"))


def test_a_file(session, tmp_path):
    file = tmp_path / "banner"
    (line,) = session.run(f"rd -r {file} linux_banner 5")
    assert line.startswith("5 bytes copied from 0xffff")
    assert file.read_bytes() == b"Linux"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rd -q", "Usage:"),
        ("rd", "Usage:"),
        ("rd linux_banner 0", "rd: invalid count request: 0"),
        ("rd -8 -s linux_banner", "rd: -s option is only allowed with 64-bit display"),
        ("rd 0", 'rd: invalid user virtual address: 0  type: "64-bit UVADDR"'),
        ("rd no_such_symbol", "symbol not found: no_such_symbol"),
        ("rd -e 10 linux_banner", "rd: invalid ending address: 10"),
    ],
)
def test_what_makes_no_sense(session, line, message):
    assert next(session.run(line)) == message
