"""ascii: characters and the chart."""

import importlib

ascii_command = importlib.import_module("crashpy.commands.ascii")


def test_characters():
    found = list(ascii_command.ascii(None, words=("62696c2f7273752f", "7f80")))
    assert list(ascii_command.lines(found)) == [
        "62696c2f7273752f: /usr/lib",
        "0000000000007f80: <80><DEL><NUL><NUL><NUL><NUL><NUL><NUL>",
    ]


def test_the_chart_has_every_character_once():
    rows = list(ascii_command.chart())
    assert rows[3] == "  0 | NUL DLE  SP  0   @   P   `   p"
    assert rows[-2] == "  F |  SI  US  /   ?   O   _   o  DEL"
    assert len(rows) == 20
