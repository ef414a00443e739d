"""net: network devices, neighbours, the sockets of tasks."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from drgn import FaultError, Object, offsetof

from crashpy.command import Address, CommandError, UsageError, command, flag, getopt, value
from crashpy.faults import skipping
from crashpy.gdb.values import Style
from crashpy.kernel.pid import Layout
from crashpy.kernel.vfs import Vfs, remember, shared
from crashpy.kernel.walk import once
from crashpy.numbers import htol, is_number, stol
from crashpy.tasks import Task, named
from crashpy.text import centered, task_header

from .struct import Contents, compound, contents, contents_lines

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.settings import Settings

FAMILIES = {
    0: "UNSPEC",
    1: "UNIX",
    2: "INET",
    3: "AX25",
    4: "IPX",
    5: "APPLETALK",
    6: "NETROM",
    7: "BRIDGE",
    8: "ATMPVC",
    9: "X25",
    10: "INET6",
    11: "ROSE",
    12: "DECnet",
    13: "NETBEUI",
    14: "SECURITY/KEY",
    16: "NETLINK/ROUTE",
    17: "PACKET",
    18: "ASH",
    19: "ECONET",
    20: "ATMSVC",
    22: "SNA",
    23: "IRDA",
    24: "PPPOX",
}
INET, INET6 = 2, 10
TYPES = {1: "STREAM", 2: "DGRAM", 3: "RAW", 4: "RDM", 5: "SEQPACKET", 10: "PACKET"}
# ARPHRD_* of net_device.type
HARDWARE = {
    0: "NETROM",
    1: "ETHER",
    2: "EETHER",
    3: "AX25",
    4: "PRONET",
    5: "CHAOS",
    6: "IEEE802",
    7: "ARCNET",
    8: "APPLETLK",
    15: "DLCI",
    23: "METRICOM",
}
MOST_SHIFT = 24  # of the size of the table of neighbours
# Bits of neighbour.nud_state
STATES = ["INCOMPLETE", "REACHABLE", "STALE", "DELAY", "PROBE", "FAILED", "NOARP", "PERMANENT"]


@dataclass(frozen=True)
class Device:
    net_device: Address  # struct net_device *
    name: str
    addresses: tuple[str, ...]  # IPv4, then IPv6


@dataclass(frozen=True)
class Neighbour:
    neighbour: Address  # struct neighbour *
    address: str
    hardware_type: str
    hardware_address: str
    device: str
    state: tuple[str, ...]
    first: bool = field(default=True, repr=False)  # of the table: crash shows titles


@dataclass(frozen=True)
class Converted:
    """The number of -N as an address."""

    address: str


@dataclass(frozen=True)
class Endpoint:
    address: str
    port: int


@dataclass(frozen=True)
class Socket:
    fd: int
    socket: Address  # struct socket *
    sock: Address  # struct sock *
    family: str
    type: str
    source: Endpoint | None = None  # of INET and INET6
    destination: Endpoint | None = None
    contents: tuple[Contents, ...] = field(default=(), repr=False)  # with -S

    def __json__(self) -> dict[str, object]:
        found: dict[str, object] = {"fd": self.fd, "socket": self.socket, "sock": self.sock}
        found |= {"family": self.family, "type": self.type}
        found |= {"source": self.source, "destination": self.destination}
        return found | {part.of.name: part for part in self.contents}


@dataclass(frozen=True)
class TaskSockets:
    pid: int
    task: Address  # struct task_struct *
    cpu: int
    comm: str
    sockets: tuple[Socket, ...]
    # How crash shows it: after an empty line where another task came before.
    after_another: bool = field(default=False, repr=False)


class NoNamespaceError(CommandError):
    """A task that is exiting has left its namespaces."""


Record = Device | Neighbour | Converted | TaskSockets

LETTERS = {
    option.name: option
    for option in (
        value("-N", "number", "addr", str, ""),
        value("-R", "reference", "ref", str, ""),
        *(flag(f"-{letter}", letter, "") for letter in "asSxdn"),
    )
}


@command(
    usage="[[-s | -S] [-xd] [-R ref] [pid | task]] [-a] [ -n [pid | task]] [-N addr]", words=True
)
def net(dump: Dump, *, words: Sequence[str] = (), tasks: Sequence[Task] = ()) -> Iterator[Record]:
    """network devices, neighbours, the sockets of tasks

    The struct net_device, name and addresses of each device of the first network
    namespace; with -n of a task's, by default of the current context.

    -a         the neighbours that are known (ARP's table)
    -s         the sockets of tasks, by file descriptor, with addresses and ports
    -S         their struct socket and struct inet_sock
    -R REF     with -s or -S only the socket with this file descriptor, or whose struct
               socket or struct sock has this address
    -x, -d     -S in hexadecimal, in decimal
    -N NUMBER  a number as the IPv4 address it is in memory

    EXAMPLES
      crash> net
         NET_DEVICE     NAME       IP ADDRESS(ES)
      ffffa0bb809e8000  lo         127.0.0.1
      ffffa0bb80af8000  dummy0     10.9.8.7

      crash> net -s 118
      PID: 118      TASK: ffffa0bb80ba2000  CPU: 0    COMMAND: "wl-tcp-cli"
      FD      SOCKET            SOCK       FAMILY:TYPE SOURCE-PORT DESTINATION-PORT
       7 ffffa0bb804bdb00 ffffa0bb81148000 INET:STREAM  127.0.0.1-53298 127.0.0.1-8080
       8 ffffa0bb804bde00 ffffa0bb81148900 INET:STREAM  127.0.0.1-53310 127.0.0.1-8080

      foreach user net -s      the sockets of all processes
      net -N 16777343          a number that holds 127.0.0.1
    """
    found, rest = getopt(words, LETTERS)
    given: set[str] = set()
    reference: str | None = None
    of: Task | None = None
    behind_n = _behind_n(words)
    for option, argument in found:
        letter = option.name[1:]
        if letter == "a":
            yield from neighbours(dump)
        elif letter == "N":
            number = stol(argument or "") & 0xFFFFFFFF
            yield Converted(str(ipaddress.IPv4Address(number.to_bytes(4, "little"))))
            return
        elif letter == "R" and reference is not None:
            dump.report("only one -R option allowed")
        elif letter == "R":
            reference = argument
        elif letter in "sS" and given & {"s", "S"} - {letter}:
            dump.report("only one -s or -S option allowed")
            continue
        elif letter in "xd" and given & {"x", "d"} - {letter}:
            raise CommandError("-d and -x are mutually exclusive")
        elif letter == "n":
            of = _one_task(dump, next(behind_n, None))
        given.add(letter)
    if given & {"s", "S"}:
        reader = _Sockets.of(dump, whole="S" in given)
        if tasks:
            for task in tasks:
                yield from reader.read(task, reference)
        else:
            yield from _of_tasks(dump, reader, rest, reference)
    elif of is not None or not words:
        yield from devices(dump, of)
    elif "a" not in given:
        raise UsageError


def _behind_n(words: Sequence[str]) -> Iterator[str | None]:
    """What crash takes for the task of each -n: the next word, whatever it is.

    Where another letter follows at once that is the word of the -n itself.
    """
    skip = False
    for at, word in enumerate(words):
        if word == "--" and not skip:
            return
        if skip or len(word) < 2 or word[0] != "-":
            skip = False
            continue
        for i, letter in enumerate(word[1:], 2):
            if letter in "NR":
                skip = i == len(word)
                break
            if letter == "n":
                following = words[at + 1] if at + 1 < len(words) else None
                yield following if i == len(word) else word


def _one_task(dump: Dump, word: str | None) -> Task:
    if word is None:
        return dump.context
    found = named(dump, word)
    if not found:
        raise CommandError(f"invalid task or pid value: {word}")
    return found[0]


def devices(dump: Dump, task: Task | None = None) -> Iterator[Device]:
    """The network devices that a task sees, or those of the first namespace."""
    from drgn.helpers.linux.list import list_for_each_entry

    heads = _namespace(dump, task).dev_base_head.address_of_()
    with skipping("the rest of the network devices"):
        for found in once(list_for_each_entry("struct net_device", heads, "dev_list")):
            with skipping(f"net_device {found.value_():x}"):
                addresses: list[str] = []
                for kind in (_ipv4_addresses, _ipv6_addresses):
                    with skipping(f"addresses of net_device {found.value_():x}"):
                        addresses.extend(kind(found))
                yield Device(Address(found.value_()), _text(found.name), tuple(addresses))


def _namespace(dump: Dump, task: Task | None) -> Object:
    """``struct net``"""
    if task is None:
        first = dump.tasks.with_pid(0)
        if not first:  # the dump has lost it
            return dump.prog["init_net"]
        task = first[0]
    try:
        return dump.tasks.object(task).nsproxy.net_ns.read_()
    except FaultError:
        raise NoNamespaceError("cannot determine net_namespace location!") from None


def _text(array: Object) -> str:
    found: bytes = array.string_()
    return found.decode(errors="backslashreplace")


def _ipv4_addresses(device: Object) -> Iterator[str]:
    def chained() -> Iterator[Object]:
        address = device.ip_ptr.ifa_list.read_()
        while address:
            yield address
            address = address.ifa_next.read_()

    if device.ip_ptr:
        for address in once(chained()):
            yield socket.inet_ntop(socket.AF_INET, address.ifa_address.to_bytes_())


def _ipv6_addresses(device: Object) -> Iterator[str]:
    from drgn.helpers.linux.list import list_for_each_entry

    inet6 = device.ip6_ptr.read_()
    if inet6 and inet6.prog_.type("struct inet6_dev").is_complete():
        heads = inet6.addr_list.address_of_()
        for address in once(list_for_each_entry("struct inet6_ifaddr", heads, "if_list")):
            yield socket.inet_ntop(socket.AF_INET6, address.addr.in6_u.to_bytes_())


def neighbours(dump: Dump) -> Iterator[Neighbour]:
    """The entries of the ARP table."""
    from drgn.helpers.linux.net import neigh_table_for_each_neighbor

    if "arp_tbl" not in dump.prog:
        raise CommandError("arp_tbl does not exist in this kernel")
    with skipping("the rest of the neighbours"):
        table = dump.prog["arp_tbl"].nht.read_()
        if table.hash_shift.value_() > MOST_SHIFT:
            raise CommandError("the table of neighbours is damaged")
        first = True
        for found in once(neigh_table_for_each_neighbor(table)):
            with skipping(f"neighbour {found.value_():x}"):
                device = found.dev
                length = device.addr_len.value_()
                hardware = found.ha.to_bytes_()[:length]
                key = dump.prog.read(found.primary_key.address_of_().value_(), 4)
                state = found.nud_state.value_()
                yield Neighbour(
                    Address(found.value_()),
                    socket.inet_ntop(socket.AF_INET, key),
                    HARDWARE.get(device.type.value_(), "UNKNOWN"),
                    hardware.hex(":"),
                    _text(device.name),
                    tuple(name for bit, name in enumerate(STATES) if state >> bit & 1),
                    first,
                )
                first = False


def _of_tasks(
    dump: Dump, reader: _Sockets, words: Sequence[str], reference: str | None
) -> Iterator[TaskSockets]:
    if not words:
        yield from reader.read(dump.context, reference)
    another = False
    for word in words:
        matching = named(dump, word)
        if not matching:
            gap = "\n" if another else ""
            dump.report(f"{gap}invalid task or pid value: {word}")
            another = True
        for task in matching:
            yield from reader.read(task, reference, after_another=another)
            another = another or reference is None


class _Sockets:
    """Finds the sockets among the open files of tasks."""

    def __init__(self, dump: Dump, whole: bool) -> None:
        prog = dump.prog
        self._dump, self._prog, self._whole = dump, prog, whole
        self._vfs = Vfs.of(prog)
        self._lists: dict[int, tuple[Socket, ...]] = {}  # by files_struct
        self._files = offsetof(prog.type("struct task_struct"), "files")
        self._before_inode = offsetof(prog.type("struct socket_alloc"), "vfs_inode")
        self._sk = offsetof(prog.type("struct socket"), "sk")
        self._sock = Layout(prog, prog.type("struct sock"), SOCK)
        self._inet = Layout(prog, prog.type("struct inet_sock"), {"port": "inet_sport"})

    @classmethod
    def of(cls, dump: Dump, *, whole: bool) -> _Sockets:
        """The one of this dump."""
        return shared(dump.prog, (cls, whole), lambda: cls(dump, whole))

    def read(
        self, task: Task, reference: str | None, *, after_another: bool = False
    ) -> Iterator[TaskSockets]:
        with skipping(f"the files of task {task.address:x}"):
            files = self._prog.read_u64(task.address + self._files)
            table = self._vfs.descriptors(files) if files else None
            every = self._lists.get(files)
            if every is None:
                places = table.files if table else ()
                every = tuple(one for fd, file in places for one in self._at(fd, file))
                remember(self._lists, files, every, 256)
            found: Sequence[Socket] = every
            if reference is not None:
                wanted = _referred(reference, table.size if table else 0)
                found = [one for one in found if wanted(one)]
            if found or reference is None:
                yield TaskSockets(
                    task.pid,
                    Address(task.address),
                    task.cpu,
                    task.comm,
                    tuple(found),
                    after_another,
                )

    def _at(self, fd: int, file: int) -> Iterator[Socket]:
        """The socket behind a ``struct file *``, if it is one."""
        with skipping(f"file descriptor {fd}"):
            dentry = self._vfs.file(file).dentry
            inode = self._vfs.dentry(dentry).inode if dentry else 0
            if not inode or self._vfs.inode(inode).type != "SOCK":
                return
            address = inode - self._before_inode
            sock = self._prog.read_u64(address + self._sk)
            found = self._described(Socket(fd, Address(address), Address(sock), "", ""))
            yield replace(found, contents=self._contents(found)) if self._whole else found

    def _described(self, one: Socket) -> Socket:
        values = self._sock.read(self._prog, one.sock)
        family, kind = values["family"], values["type"] & 0xFFFF
        one = replace(
            one, family=FAMILIES.get(family, f"{family}"), type=TYPES.get(kind, f"{kind}")
        )
        if family not in (INET, INET6):
            return one
        source = self._inet.read(self._prog, one.sock)["port"]
        if family == INET:
            form, names = socket.AF_INET, ("saddr", "daddr")
            ends = [struct.pack("<I", values[name] & 0xFFFFFFFF) for name in names]
        else:
            form, names = socket.AF_INET6, ("v6_saddr", "v6_daddr")
            ends = [values[name] for name in names if name in values]
        if len(ends) < 2:
            return one
        return replace(
            one,
            source=Endpoint(socket.inet_ntop(form, ends[0]), socket.ntohs(source & 0xFFFF)),
            destination=Endpoint(
                socket.inet_ntop(form, ends[1]), socket.ntohs(values["dport"] & 0xFFFF)
            ),
        )

    def _contents(self, one: Socket) -> tuple[Contents, ...]:
        places = (("socket", one.socket), ("inet_sock", one.sock))
        kinds = ((compound(self._dump.gdb, name), at) for name, at in places)
        return tuple(contents(self._dump, of, at) for of, at in kinds if of is not None)


SOCK = {
    "family": "__sk_common.skc_family",
    "daddr": "__sk_common.skc_daddr",
    "saddr": "__sk_common.skc_rcv_saddr",
    "dport": "__sk_common.skc_dport",
    "v6_daddr": "__sk_common.skc_v6_daddr",
    "v6_saddr": "__sk_common.skc_v6_rcv_saddr",
    "type": "sk_type",
}


def _referred(reference: str, size: int) -> Callable[[Socket], bool]:
    """Whether a socket is what -R names: crash's sym_socket_dump()."""
    if not is_number(reference):
        return lambda _: False
    if reference.isdecimal() and int(reference) <= size:
        descriptor = int(reference)
        return lambda one: one.fd == descriptor
    number = htol(reference)
    return lambda one: number in (one.fd, one.socket, one.sock)


SOCKETS_HEADER = "FD      SOCKET            SOCK       FAMILY:TYPE SOURCE-PORT DESTINATION-PORT"
NEIGHBOURS_HEADER = "NEIGHBOUR        IP ADDRESS      HW TYPE    HW ADDRESS         DEVICE  STATE"


@net.text
def lines(
    records: Iterable[Record],
    *,
    settings: Settings,
    words: Sequence[str] = (),
    header: bool = True,
) -> Iterator[str]:
    """Its show_net_devices(), dump_arp() and dump_sockets()."""
    letters = [option.name for option, _ in getopt(words, LETTERS)[0]]
    radix = next((r for letter, r in (("-x", 16), ("-d", 10)) if letter in letters), None)
    style = Style.of(settings, radix)
    titled = False
    try:
        for record in records:
            if isinstance(record, Converted):
                yield record.address
            elif isinstance(record, TaskSockets):
                yield from _task_lines(record, style, header=header, reference="-R" in letters)
            elif isinstance(record, Neighbour):
                if record.first:
                    yield NEIGHBOURS_HEADER
                yield _neighbour_line(record)
            else:
                if not titled:
                    yield DEVICES_HEADER
                titled = True
                address = centered(f"{record.net_device:x}", 16, right=True)
                yield f"{address}  {record.name:<10} {', '.join(record.addresses)}"
    except NoNamespaceError:
        if not titled:
            yield DEVICES_HEADER
        raise


DEVICES_HEADER = f"{'NET_DEVICE':^16}  NAME       IP ADDRESS(ES)"


def _neighbour_line(one: Neighbour) -> str:
    separator = ":" if one.hardware_type == "ETHER" else " "
    hardware = one.hardware_address.replace(":", separator)
    start = f"{one.neighbour:<16x} {one.address:<16}{one.hardware_type:<10} "
    return f"{start}{hardware}{' ' if hardware else ''} {one.device:<6}  {'|'.join(one.state)}"


def _task_lines(
    record: TaskSockets, style: Style, *, header: bool, reference: bool
) -> Iterator[str]:
    if header:
        if record.after_another and not reference:
            yield ""
        yield task_header(record.pid, record.task, record.cpu, record.comm)
    if not record.sockets:
        yield "No open sockets."
    for number, one in enumerate(record.sockets):
        if one.contents:
            if number:
                yield ""
            yield f"FD  {'SOCKET':^16}  {centered('SOCK', 16)}"
            yield f"{one.fd:2}  {one.socket:16x}  {one.sock:16x}"
            yield ""
            for part in one.contents:
                yield from contents_lines(part, style, "net")
        else:
            if not number:
                yield SOCKETS_HEADER
            yield f"{one.fd:2} {one.socket:16x} {one.sock:16x} {_endpoints(one)}"
    if reference:
        yield ""


def _endpoints(one: Socket) -> str:
    start = f"{one.family}:{one.type}{' ' if one.type == 'DGRAM' else ''} "
    if one.source is None or one.destination is None:  # also of a kernel without IPv6
        return f"{start}(cannot get IPv6 addresses)" if one.family == "INET6" else start
    if one.family == "INET":
        source, destination = one.source, one.destination
        return f"{start} {source.address}-{source.port} {destination.address}-{destination.port}"
    first, second = _long(one.source), _long(one.destination)
    return f"{start}{first:>12} {centered(second, len(first))}"


def _long(end: Endpoint) -> str:
    """All eight parts of an IPv6 address, and the port."""
    data = ipaddress.IPv6Address(end.address).packed
    parts = (f"{high << 8 | low:x}" for high, low in zip(data[::2], data[1::2], strict=True))
    return f"{':'.join(parts)}-{end.port}"
