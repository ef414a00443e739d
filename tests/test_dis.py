"""dis: which instructions are shown; what they are called is test_disassembly.py's."""

import json
from dataclasses import replace

import pytest

from crashpy.command import Address, CommandError
from crashpy.commands.dis import Disassembled, Hole, Source, SourceEnd, SourceLine, dis, lines
from crashpy.gdb.memory import Memory, UnreadableError

JUMP = Disassembled(Address(0x1000), "f", "eb02", "jmp    0x1004", Address(0x1004), "f+4")


def printed(*records):
    return list(lines(records))


def test_text():
    assert printed(JUMP) == ["0x1000 <f>:\tjmp    0x1004 <f+4>"]
    plain = Disassembled(Address(0x400000), "", "90", "nop", plain=True)
    assert printed(plain) == ["   0x400000:\tnop"]


def test_the_tracers_place():
    nop = "nopl   0x0(%rax,%rax,1)"
    traced = Disassembled(Address(0x1000), "f", "0f1f440000", nop, traced=True)
    assert printed(traced) == [f"0x1000 <f>:\t{nop} [FTRACE NOP]"]


def test_a_line_is_shown_where_it_changes():
    def at(address, line):
        return Disassembled(Address(address), "f", "90", "nop", line=line)

    found = printed(at(1, "a.c: 1"), at(2, "a.c: 1"), at(3, "b.h: 7"), at(4, ""))
    assert [line for line in found if "nop" not in line] == ["a.c: 1", "b.h: 7", ""]


def test_sources():
    listing = (Source("a.c", 2), SourceLine(1, "{", False), SourceLine(2, "}", True), SourceEnd())
    assert printed(*listing) == ["FILE: a.c", "LINE: 2", "", "  1\t{", "* 2\t}", ""]


def test_records(opened):
    dump = opened("vmcore-null").dump
    first, second, *rest = dis(dump, words=["schedule"])
    assert (first.place, second.place) == ("schedule", "schedule+1")
    assert second.address == first.address + len(first.code) // 2
    calls = {r.target_place for r in rest if r.text.startswith("call")}
    assert "__schedule" in calls


def test_json(opened):
    [line] = opened("vmcore-null").run("dis schedule 1 --json")
    found = json.loads(line)
    assert found["place"] == "schedule"
    assert found["code"] == "55"
    assert found["address"].startswith("0xffffffff")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-d", "-x", "schedule"], "-d and -x are mutually exclusive"),
        (["schedule", "0"], "invalid count argument: 0"),
        (["schedule", "zz"], "not a valid number: zz"),
        (["(nosuch+1)"], r"invalid expression: \(nosuch\+1\)"),
        (["-s", "linux_banner"], "not a kernel text address"),
        (["-s", "loop_queue_rq"], "loop: module source code is not available"),
    ],
)
def test_errors(opened, words, text):
    with pytest.raises(CommandError, match=text):
        list(dis(opened("vmcore-null").dump, words=words))


def test_a_hole_ends_the_listing(opened, monkeypatch):
    dump = opened("vmcore-null").dump
    start = dump.symbols.named("schedule").address
    read = Memory.read

    def torn(self, address, size):
        if address + size > start + 5:
            raise UnreadableError(f"seek error: kernel virtual address: {address:x}  type: x")
        return read(self, address, size)

    monkeypatch.setattr(Memory, "read", torn)
    [hole] = dis(dump, words=["schedule"])
    assert isinstance(hole, Hole)
    assert printed(hole)[-1] == f"{start:#x} <schedule>:\t"


def test_bytes_behind_ud2(opened):
    session = opened("vmcore-null")
    before = list(session.run("dis do_exit 20"))
    [ud2] = [line for line in before if line.endswith("ud2")]
    list(session.run("dis -b 4"))
    after = list(session.run("dis do_exit 20"))
    list(session.run("dis -b 0"))
    at = before.index(ud2)
    step = int(after[at + 1].split()[0], 16) - int(ud2.split()[0], 16)
    assert step == 6
    assert list(session.run("dis do_exit 20")) == before


def test_the_source_where_it_is(opened, monkeypatch, tmp_path):
    dump = opened("vmcore-null").dump
    place = dump.symbols.source(dump.symbols.named("schedule").address)
    file = tmp_path / place.name
    file.parent.mkdir(parents=True)
    text = [f"line {n}" for n in range(1, place.line + 20)]
    text[place.line + 2] = "}"
    file.write_text("\n".join(text))
    monkeypatch.setattr(dump, "options", replace(dump.options, source_dir=str(tmp_path)))
    source, *shown, end = dis(dump, words=["-s", "schedule"])
    assert (source.file, source.line) == (place.name, place.line)
    assert [line.number for line in shown] == [*range(place.line - 5, place.line + 4)]
    assert [line.number for line in shown if line.chosen] == [place.line]
    assert isinstance(end, SourceEnd)
