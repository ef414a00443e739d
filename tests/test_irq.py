"""irq: interrupts, gates, softirqs."""

import json

import pytest

from crashpy.command import Address, CommandError, UsageError
from crashpy.commands.irq import (
    Action,
    Affinity,
    Columns,
    Counts,
    Gate,
    Interrupt,
    SoftIrq,
    affinity_lines,
    gate_lines,
    irq,
    lines,
    softirq_lines,
)

DESCRIPTOR = Address(0xFFFF800000001000)


def test_text_of_interrupts():
    shared = Interrupt(
        4,
        DESCRIPTOR,
        (
            Action(Address(0xFFFF800000002000), "one"),
            Action(Address(0xFFFF800000003000), None),
        ),
    )
    assert list(lines([shared, Interrupt(16, None, ())])) == [
        " IRQ   IRQ_DESC/_DATA      IRQACTION      NAME",
        '  4   ffff800000001000  ffff800000002000  "one"',
        "                        ffff800000003000  ",
        " 16       (unused)          (unused)      ",
    ]


def test_text_of_counts():
    found = [
        Columns((0, 2)),
        Counts(4, {0: 82, 2: None}, "IO-APIC", "edge", ("a", "b")),
        Counts(124, {0: 1, 2: 2}, None, None, ()),
    ]
    assert list(lines(found)) == [
        "           CPU0       CPU2 ",
        "  4:         82         --  IO-APIC-edge     a,b",
        "124:          1          2  ",
    ]


def test_text_of_affinities():
    assert list(affinity_lines([Affinity(4, ("a", "b"), (0, 2, 3))])) == [
        "IRQ NAME                 AFFINITY",
        "  4 a,b                  0,2-3",
    ]


def test_text_of_gates():
    assert list(gate_lines([Gate(7, DESCRIPTOR, "f+2"), Gate(255, DESCRIPTOR, "")])) == [
        "  [7] f+2",
        "[255] ffff800000001000",
    ]


def test_text_of_softirqs():
    found = [SoftIrq(1, DESCRIPTOR, "f", None), SoftIrq(10, DESCRIPTOR, None, "loop")]
    assert list(softirq_lines(found)) == [
        "SOFTIRQ_VEC      ACTION     ",
        "    [1]     ffff800000001000  <f>",
        "    [10]    ffff800000001000  <(null)>  [loop]",
    ]


def test_every_number_or_those_in_use(opened):
    dump = opened("vmcore-null").dump
    every, used = list(irq(dump)), list(irq(dump, used=True))
    assert [one.irq for one in every] == list(range(456))
    assert used == [one for one in every if one.descriptor is not None]
    assert used


def test_the_table_leads_to_the_handlers(opened):
    session = opened("vmcore-null")
    gates = [json.loads(line) for line in session.run("irq -d --json")]
    assert len(gates) == 256
    assert gates[14]["symbol"] == "asm_exc_page_fault"


def test_counts_are_the_kernels(opened):
    from drgn.helpers.linux.irq import irq_desc_kstat_cpu, irq_to_desc

    dump = opened("vmcore-null").dump
    columns, *found = irq(dump, counts=True, cpus=("0,2",))
    assert columns.cpus == (0, 2)
    for one in found:
        descriptor = irq_to_desc(dump.prog, one.irq)
        assert one.counts == {cpu: irq_desc_kstat_cpu(descriptor, cpu) for cpu in (0, 2)}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"indexes": ("9999",)}, CommandError),
        ({"indexes": ("xyz",)}, CommandError),
        ({"counts": True, "cpus": ("99",)}, CommandError),
        ({"counts": True, "cpus": ("0", "1")}, UsageError),
    ],
)
def test_bad_words(opened, options, error):
    with pytest.raises(error):
        list(irq(opened("vmcore-null").dump, **options))


def test_the_first_of_some_options_wins(opened):
    run = opened("vmcore-null").run
    assert list(run("irq -a -d")) == list(run("irq -a"))
    assert list(run("irq -b -s")) == list(run("irq -b"))


def test_json(opened):
    (line,) = opened("vmcore-null").run("irq 4 --json")
    assert json.loads(line)["actions"][0]["name"] == "ttyS0"
