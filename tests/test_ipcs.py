"""ipcs: System V shared memory, semaphores, message queues."""

import json

import pytest
from drgn import FaultError

import crashpy
from crashpy.command import Address, CommandError
from crashpy.commands.ipcs import (
    MessageQueue,
    Missing,
    Pages,
    Segment,
    SemaphoreArray,
    ipcs,
    lines,
)

MEMORY = Segment(Address(0xFFFF800000001000), 0xABC, 3, 1000, 0o640, 4097, 2, True, True)
SEMAPHORES = SemaphoreArray(Address(0xFFFF800000002000), 1, 2, 0xFFFFFFFF, 0o600, 3)
MESSAGES = MessageQueue(Address(0xFFFF800000003000), 5, 32768, 0, 0o666, 29, 2)
SHM = "SHMID_KERNEL     KEY      SHMID      UID   PERMS BYTES      NATTCH STATUS"
SEM = "SEM_ARRAY        KEY      SEMID      UID   PERMS NSEMS     "
MSG = "MSG_QUEUE        KEY      MSQID      UID   PERMS USED-BYTES   MESSAGES    "


def test_a_table_of_each_kind():
    assert list(lines([MEMORY, SEMAPHORES])) == [
        SHM,
        "ffff800000001000 00000abc 3          1000  640   4097       2      dest locked",
        "",
        SEM,
        "ffff800000002000 00000001 2          -1    600   3         ",
        "",
        MSG,
        "(none allocated)",
        "",
    ]


def test_pages_of_shared_memory():
    from dataclasses import replace

    pages = Pages(Address(0xFFFF800000009000), 2, 1, 1)
    assert list(lines([replace(MEMORY, pages=pages)], pages=True))[2:] == [
        "PAGES ALLOCATED/RESIDENT/SWAPPED: 2/1/1",
        "INODE: ffff800000009000",
        "",
    ]
    assert list(lines([], pages=True)) == [SHM, "(none allocated)", ""]


def test_what_was_asked_for():
    assert list(lines([Missing("7"), MESSAGES], selectors=("7", "32768"))) == [
        "invalid id or address: 7",
        "",
        MSG,
        "ffff800000003000 00000005 32768      0     666   29           2           ",
        "",
    ]


def test_a_number_or_an_address(opened):
    dump = opened("vmcore-null").dump
    every = list(ipcs(dump))
    assert [type(one) for one in every] == [Segment, SemaphoreArray, MessageQueue]
    for one, address in zip(every, ("shmid_kernel", "sem_array", "msg_queue"), strict=True):
        assert list(ipcs(dump, selectors=(f"{getattr(one, address):x}",))) == [one]
    assert list(ipcs(dump, selectors=("0",))) == every
    assert list(ipcs(dump, queues=True, selectors=("1", "0"))) == [Missing("1"), every[2]]


def test_objects_are_those_drgn_finds(opened):
    from drgn.helpers.linux.ipc import for_each_sysv_shm

    dump = opened("vmcore-null").dump
    [one] = for_each_sysv_shm(dump.prog)
    [ours] = ipcs(dump, pages=True)
    assert ours.shmid_kernel == one.value_()
    assert ours.size_bytes == one.shm_segsz.value_()
    assert ours.pages.inode == one.shm_file.f_inode.value_()
    assert ours.pages.allocated == 16


def test_a_namespace_of_its_own(opened):
    dump = opened("vmcore-null").dump
    [inside] = (str(task.pid) for task in dump.tasks if task.comm == "wl-ns-init")
    assert list(ipcs(dump, tasks=(inside,))) == []


def test_bad_words(opened):
    dump = opened("vmcore-null").dump
    gone = next(str(t.pid) for t in dump.tasks if dump.tasks.state(t) == "ZO")
    for options, message in (
        ({"tasks": ("99999",)}, "invalid task or pid value: 99999"),
        ({"selectors": ("xyz",)}, "not a valid number: xyz"),
        ({"tasks": (gone,)}, "cannot determine ipc_namespace location!"),
    ):
        with pytest.raises(CommandError, match=message):
            list(ipcs(dump, **options))


def test_json(opened):
    lines = [json.loads(line) for line in opened("vmcore-null").run("ipcs -M --json")]
    assert lines[0]["pages"]["allocated"] == 16
    assert lines[0]["shmid_kernel"].startswith("0xffff")


def test_a_hole_costs_one_object(examples, caplog):
    dump = crashpy.open(str(examples / "vmlinux.zst"), str(examples / "vmcore-null"))

    def fail(address, *_):
        raise FaultError("not there", address)

    memory, *others = ipcs(dump)
    dump.prog.add_memory_segment(memory.shmid_kernel, 8, fail)
    assert list(ipcs(dump)) == others
    assert "skipped the IPC object" in caplog.text
