"""dev: character and block devices, disks, PCI, I/O resources, what drivers dumped."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from drgn import FaultError, Object, Program, container_of

from crashpy.command import Address, CommandError, UsageError, command, operands, value
from crashpy.faults import skipping
from crashpy.kernel.percpu import per_cpu_offsets
from crashpy.kernel.walk import once
from crashpy.text import centered

from .rd import Copied, Values
from .rd import lines as rd_lines

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.settings import Settings
    from crashpy.vmcore.elf import Note

NOT_HERE = "{} option not supported or applicable on this architecture or kernel"
MINOR_BITS = 20
HASHED = 255  # CHRDEV_MAJOR_HASH_SIZE, BLKDEV_MAJOR_HASH_SIZE, length of kobj_map.probes[]
MQ_RQ_IN_FLIGHT = 1
SKIPPED = "ram", "loop"  # disks that crash does not count requests of
COLUMNS = 80
NT_VMCOREDD = 0x700
DUMP_NAME = 44  # bytes of the name before a device's dump (VMCOREDD_MAX_NAME_BYTES)


@dataclass(frozen=True)
class CharacterDevice:
    major: int
    name: str
    cdev: Address | None  # struct cdev *; None where no driver has it
    operations: Address | None  # struct file_operations *
    symbol: str


@dataclass(frozen=True)
class BlockDevice:
    major: int
    name: str
    gendisk: Address | None  # struct gendisk * of the first disk of that major number
    operations: Address | None  # struct block_device_operations *
    symbol: str


def _index(word: str) -> int:
    """As atoi(3) reads a number: what is too large for an int loses its high bits."""
    found = re.match(r"\s*([+-]?\d+)", word)
    number = max(-(1 << 63), min(int(found[1]), (1 << 63) - 1)) if found else 0
    return (number + (1 << 31)) % (1 << 32) - (1 << 31)


@command(
    value("-v", "index", "index", _index, "the memory of one device dump, or copy it to a file"),
    operands("words", "file", str, "with -v: where to copy it to"),
    usage="[-i | -p | -d | -D ] [-V | -v index [file]]",
)
def dev(
    dump: Dump,
    *,
    index: int = -1,
    words: Sequence[str] = (),
    settings: Settings | None = None,
) -> Iterator[CharacterDevice | BlockDevice | DeviceDump | Values | Copied]:
    """character and block devices, disks, PCI, I/O resources

    The major numbers of character and block devices with their names, the struct cdev or
    the first struct gendisk that has the number, and its operations.

    -i  I/O ports and memory, and who has them
    -p  PCI devices, bus by bus
    -d  requests that are on their way to each disk; -D only of disks that have some
    -V  what drivers have added to the dump (CONFIG_PROC_VMCORE_DEVICE_DUMP)
    -v  the contents of one of these; with a file's name a copy of it there

    EXAMPLES
      crash> dev -d
      MAJOR GENDISK            NAME       REQUEST_QUEUE      TOTAL  READ WRITE
        254 ffffa0bb809f1000   vda        ffffa0bb80b88000       0     0     0

      crash> dev
      dev -i                   who has which port
      dev -p                   PCI devices
    """
    if len(words) > (index >= 0):
        raise UsageError
    if index >= 0:
        return _contents(dump, index, words[0] if words else None)
    return _devices(dump, settings.radix if settings is not None else 10)


def _devices(dump: Dump, radix: int) -> Iterator[CharacterDevice | BlockDevice]:
    prog = dump.prog
    if "chrdevs" not in prog:
        raise CommandError("chrdevs: symbol does not exist")

    def symbol(address: int) -> str:
        return dump.symbols.format(address, radix) if address else ""

    probes = _Probes(prog, "cdev_map")
    for head in prog["chrdevs"]:
        for entry in _chain(head):
            with skipping(f"char_device_struct {entry.value_():x}"):
                major, minor = entry.major.value_(), entry.baseminor.value_()
                cdev = entry.cdev.value_()
                operations = _operations(prog, "cdev", "ops", cdev)
                if not operations:
                    cdev = probes.data(major, minor)
                    operations = _operations(prog, "cdev", "ops", cdev)
                there = Address(cdev) if operations else None
                function = Address(operations) if operations else None
                name = _text(entry.name)
                yield CharacterDevice(major, name, there, function, symbol(operations))
    if "major_names" not in prog:
        raise CommandError("major_names[] array doesn't exist in this kernel")
    disks = _disks_by_major(prog)
    for head in prog["major_names"]:
        for entry in _chain(head):
            with skipping(f"blk_major_name {entry.value_():x}"):
                major = entry.major.value_()
                disk, operations = disks(major)
                there = Address(disk) if operations else None
                function = Address(operations) if operations else None
                yield BlockDevice(major, _text(entry.name), there, function, symbol(operations))


def _chain(head: Object) -> Iterator[Object]:
    """Entries of a hash table that have one place in it."""

    def chained() -> Iterator[Object]:
        entry = head.read_()
        while entry:
            yield entry
            entry = entry.next.read_()

    with skipping("the rest of a chain of device numbers"):
        yield from once(chained())


def _text(array: Object) -> str:
    found: bytes = array.string_()
    return found.decode(errors="backslashreplace")


def _operations(prog: Program, kind: str, member: str, address: int) -> int:
    if not address:
        return 0
    found: int = Object(prog, f"struct {kind} *", value=address).member_(member).value_()
    return found


class _Probes:
    """Which driver answers for a device number: a ``struct kobj_map``."""

    def __init__(self, prog: Program, name: str) -> None:
        self._map: Object | None = None
        if name in prog:
            self._map = prog[name]

    def data(self, major: int, minor: int | None = None) -> int:
        """A ``struct cdev *`` or ``struct gendisk *``; of any minor number where none is named."""
        if self._map is None:
            return 0
        with skipping(f"the drivers of device number {major}"):
            for probe in _chain(self._map.probes[major % HASHED]):
                device = probe.dev.value_()
                if device >> MINOR_BITS != major or not probe.data:
                    continue
                if minor is None or device & (1 << MINOR_BITS) - 1 == minor:
                    return int(probe.data.value_())
        return 0


def _disks_by_major(prog: Program) -> Callable[[int], tuple[int, int]]:
    """How to find the first disk of a major number and its operations."""
    if "bdev_map" in prog:
        probes = _Probes(prog, "bdev_map")

        def mapped(major: int) -> tuple[int, int]:
            disk = probes.data(major)
            return disk, _operations(prog, "gendisk", "fops", disk)

        return mapped
    # Without Linux kernel commit e49fbbbf0aa1 ("block: remove the major map")'s map (v5.11
    # and later) the inodes of block devices lead to the disks.
    found: dict[int, tuple[int, int]] = {}
    seen: set[int] = set()
    with skipping("the rest of the block devices"):
        for inode in _block_inodes(prog):
            with skipping(f"block device {inode.value_():x}"):
                disk = container_of(inode, "struct bdev_inode", "vfs_inode").bdev.bd_disk.read_()
                if disk and disk.value_() not in seen:
                    seen.add(disk.value_())
                    if operations := disk.fops.value_():
                        found.setdefault(disk.major.value_(), (disk.value_(), operations))
    return lambda major: found.get(major, (0, 0))


def _block_inodes(prog: Program) -> Iterator[Object]:
    from drgn.helpers.linux.list import list_for_each_entry

    inodes = prog["blockdev_superblock"].s_inodes.address_of_()
    return once(list_for_each_entry("struct inode", inodes, "i_sb_list"))


@dev.text
def lines(
    records: Iterable[CharacterDevice | BlockDevice | DeviceDump | Values | Copied],
    *,
    index: int = -1,
) -> Iterator[str]:
    """Its dump_chrdevs() and dump_blkdevs()."""
    if index >= 0:
        yield from _contents_lines(records)
        return
    yield f"CHRDEV    NAME           {'CDEV':^16}  {'OPERATIONS':<16}"
    blocks = False
    for record in records:
        if isinstance(record, BlockDevice) and not blocks:
            blocks = True
            yield from _block_titles()
        if isinstance(record, CharacterDevice):
            yield _device_line(record.major, record.name, record.cdev, record)
        elif isinstance(record, BlockDevice):
            yield _device_line(record.major, record.name or "(unknown)", record.gendisk, record)
    if not blocks:
        yield from _block_titles()


def _block_titles() -> Iterator[str]:
    yield ""
    yield f"BLKDEV    NAME           {centered('GENDISK', 16, right=True)}  {'OPERATIONS':<16}"


def _device_line(
    major: int, name: str, address: int | None, record: CharacterDevice | BlockDevice
) -> str:
    start = f" {major:3}      {name:<13}  "
    if record.operations is None:
        return f"{start}{'(none)':^16}"
    return f"{start}{address:16x}  {record.symbol or f'{record.operations:x}'}"


@dataclass(frozen=True)
class Resource:
    space: str  # port, memory
    resource: Address  # struct resource *
    start: Address
    end: Address  # the last address of it
    name: str | None
    digits: int = field(default=4, repr=False)  # of an address, at least


@dev.mode("-i", "I/O ports and memory, and who has them", first=True)
def dev_resources(dump: Dump) -> Iterator[Resource]:
    """I/O ports and memory, and who has them"""
    prog = dump.prog
    roots = "ioport_resource", "iomem_resource"
    if not all(name in prog for name in roots):
        return
    for space, name in zip(("port", "memory"), roots, strict=True):
        root = prog[name]
        digits = 8 if root.end.value_() > 0xFFFF else 4
        for found in once(_resources(root.address_of_())):
            with skipping(f"resource {found.value_():x}"):
                one = found[0].read_()
                yield Resource(
                    space,
                    Address(found.value_()),
                    Address(one.start.value_()),
                    Address(one.end.value_()),
                    _string(one.name),
                    digits,
                )


def _resources(root: Object) -> Iterator[Object]:
    """drgn's for_each_resource() goes as deep as a corrupted tree does."""
    pending = [root]
    while pending:
        found = pending.pop()
        yield found
        with skipping(f"what is in resource {found.value_():x}"):
            for following in (found.sibling.read_(), found.child.read_()):
                if following:
                    pending.append(following)


def _string(text: Object) -> str | None:
    try:
        return text.string_().decode(errors="backslashreplace") if text else None
    except FaultError:
        return None


@dev_resources.text
def resource_lines(records: Iterable[Resource]) -> Iterator[str]:
    """Its do_io(). A long name goes on in the next line."""
    space = ""
    for record in records:
        digits = record.digits
        if record.space != space:
            if space:
                yield ""
            space = record.space
            yield f"{'RESOURCE':^16}  {centered('RANGE', 2 * digits + 1)}  NAME"
        start = f"{record.resource:8x}  {record.start:0{digits}x}-{record.end:0{digits}x}  "
        first, *more = _wrapped(
            "(unknown)" if record.name is None else record.name, 21 + 2 * digits
        )
        yield start + first
        yield from more


def _wrapped(name: str, column: int) -> list[str]:
    """In two lines where it is too long, at a blank that leaves the first short enough."""
    over = column + len(name) - COLUMNS
    at = name.rfind(" ", 1, len(name) - over) if over > 0 else -1
    return [name] if at < 0 else [name[:at], " " * column + name[at + 1 :]]


@dataclass(frozen=True)
class PciBus:
    bus: Address  # struct pci_bus *
    parent: Address | None  # struct pci_bus *; None of a root bus
    name: str
    bridge: PciDevice | None  # that leads to the bus
    devices: tuple[PciDevice, ...]


@dataclass(frozen=True)
class PciDevice:
    device: Address  # struct pci_dev *
    name: str  # domain:bus:slot.function
    class_code: int
    vendor_id: int
    device_id: int
    type: str  # ENDPOINT, ROOT_PORT, ...; empty where the number means nothing
    bridge: bool


@dev.mode("-p", "PCI devices, bus by bus", first=True)
def dev_pci(dump: Dump) -> Iterator[PciBus]:
    """PCI devices, bus by bus"""
    from drgn.helpers.linux.pci import for_each_pci_root_bus, pci_bus_for_each_child

    if "pci_root_buses" not in dump.prog:
        raise CommandError(NOT_HERE.format("-p"))
    roots: list[Object] = []
    with skipping("the rest of the PCI buses"):
        roots.extend(once(for_each_pci_root_bus(dump.prog)))
    if not roots:
        raise CommandError("no PCI devices found on this system.")
    seen: set[int] = set()
    pending = [(root, False) for root in reversed(roots)]
    while pending:  # a bus, then those below it
        bus, below = pending.pop()
        if bus.value_() in seen:
            continue
        seen.add(bus.value_())
        with skipping(f"PCI bus {bus.value_():x}"):
            yield _pci_bus(bus, below=below)
        children: list[Object] = []
        with skipping(f"the rest of the buses below PCI bus {bus.value_():x}"):
            children.extend(once(pci_bus_for_each_child(bus)))
        pending += [(child, True) for child in reversed(children)]


def _pci_bus(bus: Object, *, below: bool) -> PciBus:
    from drgn.helpers.linux.pci import pci_bus_for_each_dev

    devices: list[PciDevice] = []
    with skipping(f"the rest of the devices on PCI bus {bus.value_():x}"):
        for device in once(pci_bus_for_each_dev(bus)):
            with skipping(f"PCI device {device.value_():x}"):
                devices.append(_pci_device(device))
    bridge = bus.self.read_()
    return PciBus(
        Address(bus.value_()),
        Address(bus.parent.value_()) if below else None,
        _string(bus.dev.kobj.name) or "",
        _pci_device(bridge) if bridge else None,
        tuple(devices),
    )


def _pci_device(device: Object) -> PciDevice:
    from drgn.helpers.linux.pci import PCI_EXP_TYPE, pci_is_bridge, pci_pcie_type

    kind = pci_pcie_type(device)
    return PciDevice(
        Address(device.value_()),
        _string(device.dev.kobj.name) or "",
        device.member_("class").value_() >> 8,
        device.vendor.value_(),
        device.device.value_(),
        kind.name if isinstance(kind, PCI_EXP_TYPE) else "",
        pci_is_bridge(device),
    )


PCI_TITLES = f"  {'PCI DEV':^16} {'DO:BU:SL.FN':^12} {'CLASS':^6} {'PCI_ID':^9} {'TYPE':^10}"


@dev_pci.text
def pci_lines(buses: Iterable[PciBus]) -> Iterator[str]:
    """Its do_pci2()."""
    another = False
    for bus in buses:
        if bus.parent is None:
            if another:
                yield ""
            another = True
            yield f"{'ROOT BUS':^16} BUSNAME"
            yield f"{bus.bus:<16x} {centered(bus.name, 7)}"
        else:
            yield f"  {centered('PCI BUS', 16)} {'PARENT BUS':^16}"
            yield f"  {bus.bus:<16x} {bus.parent:<16x}"
        yield PCI_TITLES
        for device in (*((bus.bridge,) if bus.bridge else ()), *bus.devices):
            yield _pci_line(device)
        if bus.parent is not None:
            yield ""
    yield ""


def _pci_line(device: PciDevice) -> str:
    kind = device.type + (" [BRIDGE]" if device.bridge else "")
    return (
        f"  {device.device:<16x} {centered(device.name, 12)} "
        f"{centered(f'{device.class_code:04x}', 6)} "
        f"{centered(f'{device.vendor_id:x}:{device.device_id:x}', 9)} {centered(kind, 10)}"
    )


@dataclass(frozen=True)
class Disk:
    major: int
    gendisk: Address  # struct gendisk *
    name: str
    queue: Address  # struct request_queue *
    reads: int  # requests on their way to the disk
    writes: int
    # Of the driver, before Linux 5.0; None of a queue that does not count them.
    in_driver: int | None = None


@dev.mode("-d", "requests that are on their way to each disk", first=True)
def dev_disks(dump: Dump) -> Iterator[Disk]:
    """requests that are on their way to each disk"""
    return _disks(dump)


@dev.mode("-D", "the same, only of disks that have some", first=True)
def dev_busy_disks(dump: Dump) -> Iterator[Disk]:
    """requests that are on their way to each disk that has some"""
    return (disk for disk in _disks(dump) if disk.reads + disk.writes)


def _disks(dump: Dump) -> Iterator[Disk]:
    from drgn.helpers.linux.block import for_each_disk

    prog = dump.prog
    if "block_class" not in prog:
        raise CommandError(NOT_HERE.format("-d"))
    with skipping("the rest of the disks"):
        for disk in once(for_each_disk(prog)):
            with skipping(f"disk {disk.value_():x}"):
                name = _text(disk.disk_name)
                if not name.startswith(SKIPPED):
                    queue = disk.queue.read_()
                    reads, writes = _requests(prog, disk, queue)
                    yield Disk(
                        disk.major.value_(),
                        Address(disk.value_()),
                        name,
                        Address(queue.value_()),
                        reads,
                        writes,
                        _in_driver(queue),
                    )


def _requests(prog: Program, disk: Object, queue: Object) -> tuple[int, int]:
    """Reads and writes that have been started and have not ended."""
    from drgn.helpers.linux.block import op_is_write, req_op, request_queue_busy_iter

    counts = [0, 0]
    if _is_multiqueue(queue):
        for request in request_queue_busy_iter(queue, "driver"):
            if request.q == queue and request.state == MQ_RQ_IN_FLIGHT:
                counts[op_is_write(req_op(request))] += 1
        return counts[0], counts[1]
    for member in ("rq", "root_rl"):
        if prog.type("struct request_queue").has_member(member):
            requests = queue.member_(member).count
            return requests[0].value_(), requests[1].value_()
    statistics = (
        disk.part0.bd_stats if _has(prog, "block_device", "bd_stats") else disk.part0.dkstats
    )
    start = statistics.value_()
    for offset in per_cpu_offsets(prog):
        share = Object(prog, "struct disk_stats *", value=(start + offset) % 2**64).in_flight
        for i in range(2):
            counts[i] += share[i].counter.value_()
    return counts[0], counts[1]


def _has(prog: Program, kind: str, member: str) -> bool:
    return bool(prog.type(f"struct {kind}").has_member(member))


def _is_multiqueue(queue: Object) -> bool:
    return _has(queue.prog_, "request_queue", "mq_ops") and bool(queue.mq_ops)


def _in_driver(queue: Object) -> int | None:
    if not _has(queue.prog_, "request_queue", "in_flight") or _is_multiqueue(queue):
        return None
    counts = queue.in_flight
    return sum(counts[i].value_() for i in range(counts.type_.length or 0))


@dev_disks.text
@dev_busy_disks.text
def disk_lines(disks: Iterable[Disk]) -> Iterator[str]:
    """Its display_all_diskio()."""
    yield f"MAJOR {'GENDISK':<18} NAME       {'REQUEST_QUEUE':<18} TOTAL  READ WRITE "
    for disk in disks:
        driver = "" if disk.in_driver is None else f"{disk.in_driver:5}"
        yield (
            f"{disk.major:5} {disk.gendisk:<16x}   {disk.name:<10} {disk.queue:<16x}   "
            f"{disk.reads + disk.writes:5} {disk.reads:5} {disk.writes:5} {driver}"
        )


@dataclass(frozen=True)
class DeviceDump:
    """What a driver has added to the dump."""

    index: int
    offset: Address  # of its contents in the dump file
    size_bytes: int
    name: str


@dev.mode("-V", "what drivers have added to the dump", first=True)
def dev_dumps(dump: Dump) -> Iterator[DeviceDump]:
    """what drivers have added to the dump"""
    return iter(_device_dumps(dump, "V"))


def _device_dumps(dump: Dump, letter: str) -> list[DeviceDump]:
    if dump.live:
        raise CommandError(f"-{letter} option not supported on a live system")
    notes: list[Note] = dump.files[0].notes if dump.files else []
    mine = (n for n in notes if n.type == NT_VMCOREDD and n.name == b"LINUX")
    found = [
        DeviceDump(
            index,
            Address(note.at + 20 + DUMP_NAME),  # behind the note's header and its name
            len(note.desc) - DUMP_NAME,
            note.desc[:DUMP_NAME].split(b"\0")[0].decode(errors="backslashreplace"),
        )
        for index, note in enumerate(n for n in mine if len(n.desc) >= DUMP_NAME)
    ]
    if not found:
        raise CommandError("no device dumps found in this dumpfile")
    return found


def _contents(dump: Dump, index: int, file: str | None) -> Iterator[DeviceDump | Values | Copied]:
    every = _device_dumps(dump, "v")
    if index >= len(every):
        raise CommandError(f"no device dump found at index: {index}")
    one = every[index]
    size = one.size_bytes if file else -(-one.size_bytes // 8) * 8
    data = dump.files[0].file.read(one.offset, size)
    if file:
        try:
            Path(file).write_bytes(data)
        except OSError:
            raise CommandError(f"cannot open output file: {file}") from None
        return iter((one, Copied(one.offset, len(data), file)))
    return iter((one, Values(one.offset, 8, data.ljust(size, b"\0"))))


@dev_dumps.text
def dump_lines(dumps: Iterable[DeviceDump]) -> Iterator[str]:
    """Its kdump_device_dump_info()."""
    yield f"INDEX  {'OFFSET':<16}   {'SIZE':<16} NAME"
    for one in dumps:
        yield f"{centered(f'{one.index}', 5)}  0x{one.offset:<16x} {one.size_bytes:<16} {one.name}"


def _contents_lines(records: Iterable[object]) -> Iterator[str]:
    for record in records:
        if isinstance(record, DeviceDump):
            yield f"DEVICE: {record.name}"
        elif isinstance(record, Values | Copied):
            yield from rd_lines([record])
