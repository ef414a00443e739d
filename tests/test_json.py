"""--json with every recorded command line: each line of the answer is one JSON object."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from driver import Answer, ask

import crashpy
from crashpy.output import Report
from crashpy.session import Session

HERE = Path(__file__).parent
LISTS = sorted((HERE / "golden" / "commands").glob("*.txt"))
# What is the shell's, runs other lines, or is our own text: nothing with records.
NO_RECORDS = re.compile(r"[!|<>#/\\].*|.*[|<>].*|.* !.*|(repeat|r|echo|run)\b.*")
# How Python shows what is no JSON: a forgotten object, an array of numpy's.
LEFTOVER = re.compile(r"<[\w.]+ object at 0x|\barray\(|\bdtype=|^Object\(|\bnp\.\w+\(")
LOWEST = 1 << 63  # a kernel's address, which a number would round in many readers
ADDRESSES = {"task", "address", "page", "virtual", "physical", "mm", "vma", "file", "dentry"}
ADDRESSES |= {"inode", "sp", "ip", "superblock", "slab", "cache", "descriptor", "stack"}
IN_C = {"value", "task_struct"}  # below these, members have C's types


class InProcess:
    """A session that answers as a driven program does."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def run(self, line: str) -> Answer:
        return Answer(line, "\n".join(self.session.run(line)) + "\n", 0)


@pytest.fixture(scope="module")
def session(examples: Path) -> Session:
    # Of its own: the lists change settings, aliases and the history of values.
    return Session(crashpy.open(str(examples / "vmlinux.zst"), str(examples / "vmcore-null")))


def mistakes(value: Any, path: tuple[str, ...] = ()) -> list[str]:
    if isinstance(value, dict):
        return [m for key, inner in value.items() for m in mistakes(inner, (*path, key))]
    if isinstance(value, list):
        return [m for inner in value for m in mistakes(inner, path)]
    if isinstance(value, str) and LEFTOVER.search(value):
        return [f"{path}: {value}"]
    if isinstance(value, int) and value >= LOWEST and path[-1] in ADDRESSES:
        return [] if IN_C & {*path} else [f"{path} is a number: {value:#x}"]
    return []


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_every_line_is_an_object(path, session):
    wrong, lines = [], 0
    for _, answer in ask(InProcess(session), [path]):
        for step in answer.line.split(" ;; "):
            if NO_RECORDS.fullmatch(step):
                continue
            lines += 1
            for text in session.run(f"{step} --json"):
                if text == "Usage:":
                    break
                if isinstance(text, Report):
                    continue
                try:
                    found = json.loads(text)
                except ValueError:
                    wrong.append(f"{step}: {text[:80]}")
                    break
                if not isinstance(found, dict):
                    wrong.append(f"{step}: no object: {text[:80]}")
                wrong += [f"{step}: {mistake}" for mistake in mistakes(found)]
    assert not wrong
    assert lines or path.stem in ("repeat", "help")


def test_alone_in_its_line_it_says_what_a_command_does(session):
    (found,) = map(json.loads, session.run("ps --json 1"))
    assert found["pid"] == 1
    assert re.fullmatch("0x[0-9a-f]{16}|[0-9a-f]{16}", found["task"])
    assert found["comm"] == "init"
