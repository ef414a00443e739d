"""mach: address spaces, stacks, the memory map, processors."""

import json

import pytest

from crashpy.command import Address, CommandError
from crashpy.commands.mach import (
    Cpu,
    Machine,
    Stack,
    Stacks,
    mach,
    machine,
    machine_lines,
    memory_map,
)


def test_text():
    stacks = (
        Stacks("IRQ", 16384, (Stack(0, Address(0xFFFFC90000000000), True),)),
        Stacks(
            "NMI",
            8192,
            (
                Stack(0, Address(0xFFFFFE0000001000), False),
                Stack(1, Address(0xFFFFFE0000009000), True, True),
            ),
        ),
    )
    shown = Machine(
        type="x86_64",
        memory_bytes=1 << 30,
        cpus=2,
        offline=1,
        hypervisor="KVM",
        mhz=None,
        hz=250,
        page_size=4096,
        virtual_base=Address(0xFFFF888000000000),
        vmalloc_base=Address(0xFFFFC90000000000),
        vmemmap_base=None,
        start_map=Address(0xFFFFFFFF80000000),
        modules_base=Address(0xFFFFFFFFC0000000),
        stack_size_bytes=16384,
        stacks=stacks,
    )
    assert list(machine_lines(shown)) == [
        "          MACHINE TYPE: x86_64",
        "           MEMORY SIZE: 1 GB",
        "                  CPUS: 2 [OFFLINE: 1]",
        "            HYPERVISOR: KVM",
        "       PROCESSOR SPEED: (unknown)",
        "                    HZ: 250",
        "             PAGE SIZE: 4096",
        "   KERNEL VIRTUAL BASE: ffff888000000000",
        "   KERNEL VMALLOC BASE: ffffc90000000000",
        "   KERNEL VMEMMAP BASE: --",
        "      KERNEL START MAP: ffffffff80000000",
        "   KERNEL MODULES BASE: ffffffffc0000000",
        "     KERNEL STACK SIZE: 16384",
        "        IRQ STACK SIZE: 16384",
        "            IRQ STACKS:",
        "                 CPU 0: ffffc90000000000",
        "        NMI STACK SIZE: 8192",
        "            NMI STACKS:",
        "                 CPU 0: fffffe0000001000 [unavailable]",
        "                 CPU 1: fffffe0000009000 [OFFLINE]",
    ]


def test_the_memory_map_holds_the_memory(opened):
    dump = opened("vmcore-null").dump
    ram = [one for one in memory_map(dump.prog).ranges if one.type == "E820_RAM"]
    pages = sum(one.end // 4096 - -(-one.start // 4096) for one in ram)
    assert pages == machine(dump).memory_bytes // 4096


def test_letters_in_their_order(opened):
    dump = opened("vmcore-null").dump
    assert [type(one).__name__ for one in mach(dump, words=("-mc",))] == ["MemoryMap"] + ["Cpu"] * 4
    found = mach(dump, words=("-m", "-x", "-d"))
    assert next(found) == memory_map(dump.prog)
    with pytest.raises(CommandError, match="-d and -x are mutually exclusive"):
        next(found)


def test_offline_cpus_are_told(opened):
    session = opened("vmcore-null")
    assert list(session.run("mach -c | true")) == []
    shown = list(mach.parse(("-c",)).shown([Cpu(1, None)], settings=session.settings))
    assert shown == ["", "CPU 1: [OFFLINE]"]


def test_json(opened):
    (line,) = opened("vmcore-null").run("mach --json")
    found = json.loads(line)
    assert (found["hz"], found["cpus"]) == (250, 4)
    assert found["stacks"][0]["stacks"][3]["base"].startswith("0xffff")
    first, *_ = opened("vmcore-null").run("mach -c --json")
    assert json.loads(first)["cpuinfo_x86"]["value"]["x86_vendor_id"].startswith("AuthenticAMD")
