"""dev: devices, disks, PCI, I/O resources, what drivers dumped."""

import json
import struct

import pytest
from drgn import FaultError, Object, sizeof

import crashpy
from crashpy.command import Address, CommandError, UsageError
from crashpy.commands.dev import (
    BlockDevice,
    CharacterDevice,
    Disk,
    PciBus,
    PciDevice,
    Resource,
    dev,
    disk_lines,
    lines,
    pci_lines,
    resource_lines,
)
from crashpy.session import Session

ADDRESS = Address(0xFFFF800000001000)


def test_text_of_devices():
    found = [
        CharacterDevice(4, "ttyS", ADDRESS, ADDRESS, "tty_fops"),
        CharacterDevice(5, "/dev/tty", ADDRESS, ADDRESS, ""),
        BlockDevice(259, "", None, None, ""),
    ]
    assert list(lines(found)) == [
        "CHRDEV    NAME                 CDEV        OPERATIONS      ",
        "   4      ttyS           ffff800000001000  tty_fops",
        "   5      /dev/tty       ffff800000001000  ffff800000001000",
        "",
        "BLKDEV    NAME                GENDISK      OPERATIONS      ",
        " 259      (unknown)           (none)     ",
    ]


def test_a_long_name_goes_on_in_the_next_line():
    name = "a controller of something that has quite a long name indeed"
    found = [
        Resource("port", ADDRESS, Address(0), Address(0xFFFF), "PCI IO"),
        Resource("memory", ADDRESS, Address(0x1000), Address(0x1FFF), name, 8),
        Resource("memory", ADDRESS, Address(0x1000), Address(0x1FFF), None, 8),
    ]
    assert list(resource_lines(found)) == [
        "    RESOURCE        RANGE    NAME",
        "ffff800000001000  0000-ffff  PCI IO",
        "",
        "    RESOURCE            RANGE        NAME",
        "ffff800000001000  00001000-00001fff  a controller of something that has quite a",
        " " * 37 + "long name indeed",
        "ffff800000001000  00001000-00001fff  (unknown)",
    ]


def test_text_of_pci():
    bridge = PciDevice(ADDRESS, "0000:00:1c.0", 0x0604, 0x8086, 0xA1, "ROOT_PORT", True)
    disk = PciDevice(ADDRESS, "0000:01:00.0", 0x0106, 0x8086, 0x2922, "", False)
    below = PciBus(ADDRESS, ADDRESS, "0000:01", bridge, (disk,))
    titles = "      PCI DEV      DO:BU:SL.FN  CLASS   PCI_ID      TYPE   "
    first = "  ffff800000001000 0000:00:1c.0  0604   8086:a1  ROOT_PORT [BRIDGE]"
    assert list(pci_lines([PciBus(ADDRESS, None, "0000:00", None, (bridge,)), below])) == [
        "    ROOT BUS     BUSNAME",
        "ffff800000001000 0000:00",
        titles,
        first,
        "      PCI BUS         PARENT BUS   ",
        "  ffff800000001000 ffff800000001000",
        titles,
        first,
        "  ffff800000001000 0000:01:00.0  0106  8086:2922           ",
        "",
        "",
    ]


def test_text_of_disks():
    found = [Disk(8, ADDRESS, "sda", ADDRESS, 3, 9), Disk(9, ADDRESS, "sdb", ADDRESS, 0, 1, 7)]
    assert list(disk_lines(found)) == [
        "MAJOR GENDISK            NAME       REQUEST_QUEUE      TOTAL  READ WRITE ",
        "    8 ffff800000001000   sda        ffff800000001000      12     3     9 ",
        "    9 ffff800000001000   sdb        ffff800000001000       1     0     1     7",
    ]


def test_numbers_are_those_drgn_finds(opened):
    from drgn.helpers.linux.device import for_each_registered_blkdev, for_each_registered_chrdev

    dump = opened("vmcore-null").dump
    found = list(dev(dump))
    characters = [one.major for one in found if isinstance(one, CharacterDevice)]
    blocks = [one.major for one in found if isinstance(one, BlockDevice)]
    assert sorted(characters) == sorted(d >> 20 for d, *_ in for_each_registered_chrdev(dump.prog))
    assert sorted(blocks) == sorted(major for major, *_ in for_each_registered_blkdev(dump.prog))


def test_json(opened):
    run = opened("vmcore-null").run
    [disk] = [json.loads(line) for line in run("dev -d --json")]
    assert (disk["name"], disk["reads"]) == ("vda", 0)
    [bus] = [json.loads(line) for line in run("dev -p --json")]
    assert bus["devices"][0]["vendor_id"] == 0x8086
    assert json.loads(next(run("dev -i --json")))["space"] == "port"
    assert json.loads(next(run("dev --json")))["symbol"] == "memory_fops"


def test_bad_words(opened):
    dump = opened("vmcore-null").dump
    with pytest.raises(UsageError):
        list(dev(dump, words=("x",)))
    with pytest.raises(UsageError):
        list(dev(dump, index=0, words=("x", "y")))
    with pytest.raises(CommandError, match="no device dumps found"):
        list(dev(dump, index=0))


@pytest.fixture
def dumped(examples, tmp_path):
    """The sample dump with the dumps of two devices among its notes."""
    data = bytearray((examples / "vmcore-null").read_bytes())
    (block,) = struct.unpack_from("<I", data, 428)
    where, size = struct.unpack_from("<QQ", data, block + 48)
    notes = bytes(data[where : where + size])
    for name, contents in ((b"nic0", bytes(range(40))), (b"nic1", b"\xff" * 8)):
        desc = name.ljust(44, b"\0") + contents
        notes += struct.pack("<III8s", 6, len(desc), 0x700, b"LINUX") + desc
    struct.pack_into("<QQ", data, block + 48, len(data), len(notes))
    path = tmp_path / "vmcore"
    path.write_bytes(data + notes)
    return Session(crashpy.open(str(examples / "vmlinux.zst"), str(path)))


def test_what_drivers_dumped(dumped, tmp_path):
    first, one, two = dumped.run("dev -V")
    assert first == "INDEX  OFFSET             SIZE             NAME"
    assert one.split()[2:] == ["40", "nic0"]
    assert two.split()[2:] == ["8", "nic1"]
    offset = int(one.split()[1], 16)
    title, *words = dumped.run("dev -v 0")
    assert title == "DEVICE: nic0"
    assert words[0] == f"{offset:16x}:  0706050403020100 0f0e0d0c0b0a0908   ................"
    assert (
        words[-1].rstrip() == f"{offset + 32:16x}:  2726252423222120                     !\"#$%&'"
    )
    copy = tmp_path / "copy"
    assert list(dumped.run(f"dev -v 0 {copy}")) == [
        "DEVICE: nic0",
        f"40 bytes copied from {offset:#x} to {copy}",
    ]
    assert copy.read_bytes() == bytes(range(40))
    assert list(dumped.run("dev -v 2")) == ["dev: no device dump found at index: 2"]
    assert list(dumped.run("dev -v 0 /no/such/folder/file")) == [
        "dev: cannot open output file: /no/such/folder/file"
    ]


def test_a_hole_costs_one_item(examples, caplog):
    dump = crashpy.open(str(examples / "vmlinux.zst"), str(examples / "vmcore-null"))
    session = Session(dump)
    prog = dump.prog

    def fail(address, *_):
        raise FaultError("not there", address)

    resource = prog["ioport_resource"].child.sibling
    [bus] = session.command("dev").modes["-p"](dump)
    device = Object(prog, "struct pci_dev *", value=bus.devices[1].device)
    number = prog["chrdevs"][4]
    disk = next(session.command("dev").modes["-d"](dump))
    gendisk = Object(prog, "struct gendisk *", value=disk.gendisk)
    for line, member, lost in (
        ("dev -i", resource.start, f"{resource.value_():x}"),
        ("dev -p", device.vendor, f"{device.value_():x}"),
        ("dev", number.major, "ttyS"),
        ("dev -d", gendisk.queue, "vda"),
    ):
        before = list(session.run(line))
        prog.add_memory_segment(member.address_of_().value_(), sizeof(member), fail)
        caplog.clear()
        after = list(session.run(line))
        assert after == [text for text in before if lost not in text]
        assert len(after) == len(before) - 1
        assert caplog.text.count("skipped") == 1
