"""Members cut out of the text of a structure."""

from crashpy.gdb.extract import parsed, path_lines

TEXT = [
    "  se = {",
    "    load = {",
    "      weight = 5,",
    "      inv = 6",
    "    },",
    "    {",
    "      hidden = 1",
    "    },",
    "    list = {{",
    "        next = 0x0,",
    "        prev = 0x1",
    "      }, {",
    "        next = 0x2,",
    "        prev = 0x3",
    "      }},",
    "    bits = {1, 2}",
    "  },",
]


def shown(path):
    return path_lines(parsed(TEXT), path)


def test_a_number_keeps_its_comma():
    assert shown("se.load.weight") == ["  se.load.weight = 5,"]
    assert shown("se.load.inv") == ["  se.load.inv = 6"]


def test_a_structure_is_indented_anew():
    assert shown("se.load") == ["  se.load = {", "    weight = 5,", "    inv = 6", "  },"]


def test_members_of_unnamed_members():
    assert shown("se.hidden") == ["  se.hidden = 1"]


def test_elements():
    assert shown("se.list[1]") == [
        "  se.list[1] =   {",
        "    next = 0x2,",
        "    prev = 0x3",
        "  }",
    ]
    assert shown("se.list[0].prev") == ["  se.list[0].prev = 0x1"]
    assert shown("se.list")[:3] == ["  se.list = {", "    {", "      next = 0x0,"]


def test_what_is_not_there():
    assert shown("se.nosuch") is None
    assert shown("se.list[2]") is None
    assert shown("se.list.next") is None
    assert shown("se.bits[0]") is None
