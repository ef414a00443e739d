"""rustfilt: names of Rust."""

import json

from crashpy.output import Unended

NAME = "_RNvNtCshc5sK6KjdJJ_6kernel5print11call_printk"


def test_a_name(opened):
    [text] = opened("vmcore-null").run(f"rustfilt {NAME}")
    assert text == "kernel::print::call_printk"
    assert isinstance(text, Unended)


def test_no_name(opened):
    assert list(opened("vmcore-null").run("rustfilt main")) == ["Not a rust symbol: ", "main"]


def test_json(opened):
    [line] = opened("vmcore-null").run(f"rustfilt --json {NAME}")
    assert json.loads(line) == {"symbol": NAME, "name": "kernel::print::call_printk"}
