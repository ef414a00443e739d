"""eval: the four bases."""

import importlib

from crashpy.session import Session

eval_lines = importlib.import_module("crashpy.commands.eval")


def test_text():
    number = eval_lines.Number(0x8000008, 0x8000008, None)
    assert list(eval_lines.lines([number])) == [
        "hexadecimal: 8000008  ",
        "    decimal: 134217736  ",
        "      octal: 1000000010",
        "     binary: " + f"{0x8000008:064b}",
    ]


def test_negative_numbers_and_units():
    number = eval_lines.Number((1 << 64) - 1024, -1024, None)
    first, second, *_ = eval_lines.lines([number])
    assert first == "hexadecimal: fffffffffffffc00  (18014398509481983KB)"
    assert second == "    decimal: 18446744073709550592  (-1024)"


def test_bits_wrap():
    bits = tuple(range(63, -1, -1))
    shown = list(eval_lines.lines([eval_lines.Number((1 << 64) - 1, -1, bits)]))[4:]
    assert shown[0].startswith("   bits set: 63 62 ")
    assert shown[1].startswith(" " * 13 + "42 ") or shown[1].startswith(" " * 13)
    assert shown[-1].endswith("1 0 ")


def test_at_the_prompt(opened):
    session: Session = opened("vmcore-null")
    assert next(iter(session.run("eval -b 5"))) == "hexadecimal: 5  "
    assert list(session.run("eval 1 / 0")) == ["eval: division by zero"]
    assert list(session.run("eval nosuch")) == ["eval: invalid expression: (nosuch)"]
    assert next(iter(session.run("eval --json 16"))) == (
        '{"value": 16, "signed": 16, "bits": null}'
    )
