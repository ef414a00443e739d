"""net: devices, neighbours, sockets."""

import json

import pytest
from drgn import FaultError

import crashpy
from crashpy.command import Address, CommandError, UsageError
from crashpy.commands.net import (
    Converted,
    Device,
    Endpoint,
    Neighbour,
    Socket,
    TaskSockets,
    devices,
    lines,
    net,
)
from crashpy.settings import Settings

ADDRESS = Address(0xFFFF800000001000)
HEADER = "FD      SOCKET            SOCK       FAMILY:TYPE SOURCE-PORT DESTINATION-PORT"


def shown(*records, **options):
    return list(lines(records, settings=Settings(), **options))


def test_text_of_devices():
    found = (Device(ADDRESS, "lo", ("127.0.0.1", "::1")), Device(ADDRESS, "eth0", ()))
    assert shown(*found) == [
        "   NET_DEVICE     NAME       IP ADDRESS(ES)",
        "ffff800000001000  lo         127.0.0.1, ::1",
        "ffff800000001000  eth0       ",
    ]


def test_text_of_neighbours():
    hardware = "52:54:00:12:35:02"
    states = ("STALE", "NOARP")
    assert shown(
        Neighbour(ADDRESS, "10.0.2.2", "ETHER", hardware, "eth0", states),
        Neighbour(ADDRESS, "10.0.2.3", "UNKNOWN", hardware, "tun0", (), first=False),
    ) == [
        "NEIGHBOUR        IP ADDRESS      HW TYPE    HW ADDRESS         DEVICE  STATE",
        "ffff800000001000 10.0.2.2        ETHER      52:54:00:12:35:02  eth0    STALE|NOARP",
        "ffff800000001000 10.0.2.3        UNKNOWN    52 54 00 12 35 02  tun0    ",
    ]


def test_text_of_sockets():
    here, there = Endpoint("::1", 22), Endpoint("::ffff:10.0.0.1", 40000)
    found = (
        Socket(3, ADDRESS, ADDRESS, "INET6", "STREAM", here, there),
        Socket(10, ADDRESS, ADDRESS, "UNIX", "DGRAM"),
        Socket(
            11, ADDRESS, ADDRESS, "INET", "DGRAM", Endpoint("0.0.0.0", 68), Endpoint("0.0.0.0", 0)
        ),
    )
    start = "ffff800000001000 ffff800000001000"
    assert shown(TaskSockets(1, ADDRESS, 0, "init", found), header=False) == [
        HEADER,
        f" 3 {start} INET6:STREAM 0:0:0:0:0:0:0:1-22 0:0:0:0:0:ffff:a00:1-40000",
        f"10 {start} UNIX:DGRAM  ",
        f"11 {start} INET:DGRAM   0.0.0.0-68 0.0.0.0-0",
    ]
    assert shown(TaskSockets(1, ADDRESS, 0, "init", (), after_another=True)) == [
        "",
        'PID: 1        TASK: ffff800000001000  CPU: 0    COMMAND: "init"',
        "No open sockets.",
    ]


def task(dump, comm):
    return next(task for task in dump.tasks if task.comm == comm)


def test_sockets_are_the_kernels(opened):
    from drgn.helpers.linux.fs import for_each_file
    from drgn.helpers.linux.net import SOCKET_I

    dump = opened("vmcore-null").dump
    server = task(dump, "wl-tcp-srv")
    [found] = net(dump, words=("-s", f"{server.pid}"))
    assert [one.source.port for one in found.sockets] == [8080] * 4
    files = dict(for_each_file(dump.tasks.object(server)))
    for one in found.sockets:
        assert one.socket == SOCKET_I(files[one.fd].f_inode).value_()
        assert one.sock == SOCKET_I(files[one.fd].f_inode).sk.value_()


def test_a_reference_is_looked_for_in_each_task(opened):
    dump = opened("vmcore-null").dump
    words = [f"{task(dump, name).pid}" for name in ("wl-tcp-srv", "wl-tcp-cli", "init")]
    assert [one.comm for one in net(dump, words=("-s", "-R", "7", *words))] == [
        "wl-tcp-srv",
        "wl-tcp-cli",
    ]
    [found] = net(dump, words=("-s", "-R", "8", words[0]))
    [socket] = found.sockets
    for word in (f"{socket.socket:x}", f"{socket.sock:x}", "0x8"):
        assert list(net(dump, words=("-s", "-R", word, words[0]))) == [found]
    assert list(net(dump, words=("-s", "-R", "nothing", words[0]))) == []


def test_a_namespace_of_its_own(opened):
    dump = opened("vmcore-null").dump
    assert [one.name for one in devices(dump)] == ["lo", "dummy0"]
    assert [one.name for one in devices(dump, task(dump, "wl-ns-init"))] == ["lo"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("-x",), UsageError),
        (("1",), UsageError),
        (("-x", "-d"), CommandError),
        (("-n", "99999"), CommandError),
        (("-na",), CommandError),  # crash takes the word itself for the task
        (("-N", "xyz"), CommandError),
    ],
)
def test_bad_words(opened, words, error):
    with pytest.raises(error):
        list(net(opened("vmcore-null").dump, words=words))


def test_the_word_behind_n_is_the_task(opened):
    dump = opened("vmcore-null").dump
    inside = f"{task(dump, 'wl-ns-init').pid}"
    assert [one.name for one in net(dump, words=("-n", inside))] == ["lo"]
    assert [one.name for one in net(dump, words=(inside, "-n"))] == ["lo", "dummy0"]


def test_a_number_is_an_address(opened):
    assert list(net(opened("vmcore-null").dump, words=("-N", "16777343"))) == [
        Converted("127.0.0.1")
    ]


def test_json(opened):
    run = opened("vmcore-null").run
    client = task(opened("vmcore-null").dump, "wl-tcp-cli").pid
    (line,) = run(f"net -s {client} --json")
    first = json.loads(line)["sockets"][0]
    assert first["destination"] == {"address": "127.0.0.1", "port": 8080}
    assert first["sock"].startswith("0xffff")
    (line,) = run(f"net -S {client} --json")
    assert json.loads(line)["sockets"][0]["inet_sock"]["value"]["sk"]["sk_protocol"] == 6
    assert [json.loads(line)["name"] for line in run("net --json")] == ["lo", "dummy0"]
    assert json.loads(next(run("net -a --json")))["state"] == ["NOARP"]


def test_holes_cost_one_item(examples, caplog):
    dump = crashpy.open(str(examples / "vmlinux.zst"), str(examples / "vmcore-null"))

    def fail(address, *_):
        raise FaultError("not there", address)

    words = ("-s", f"{task(dump, 'wl-tcp-srv').pid}")
    whole = crashpy.open(str(examples / "vmlinux.zst"), str(examples / "vmcore-null"))
    first, *others = next(net(whole, words=words)).sockets
    dump.prog.add_memory_segment(first.sock, 8, fail)
    assert list(next(net(dump, words=words)).sockets) == others
    assert f"skipped file descriptor {first.fd}" in caplog.text
    lo, dummy = devices(dump)
    dump.prog.add_memory_segment(dummy.net_device, 64, fail)
    assert next(devices(dump)) == lo
