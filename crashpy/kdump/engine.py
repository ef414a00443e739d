"""Who filters and packs: we, or the makedumpfile that is installed, where it may be trusted.

An old makedumpfile does not fail on a new kernel: it leaves out pages that are in use,
or keeps what it should leave out. What the kernel says of its page types in VMCOREINFO
tells which version knows them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from crashpy.command import CommandError
from crashpy.kdump.logins import environment
from crashpy.vmcore.codecs import codec
from crashpy.vmcore.memory import Memory, Unmapped
from crashpy.vmcore.selection import Selection, select
from crashpy.vmcore.sinks import Sink, put_in_place
from crashpy.vmcore.write import Progress, write_kdump
from crashpy.vmcore.write_elf import write_elf

LETTERS = {"zlib": "-c", "lzo": "-l", "snappy": "-p", "zstd": "-z", "plain": "", "elf": "-E"}
SAFE_THREADS = (1, 7, 8)  # before, --num-threads could damage pages


@dataclass(frozen=True)
class Filtered:
    """What an engine says of the dump it wrote."""

    pages: int | None
    lost_pages: int


# Ours


def chosen(memory: Memory, level: int) -> tuple[Selection, str]:
    """The pages that a level keeps; all there are, and why, where that cannot be told.

    A damaged core is better saved whole than not at all.
    """
    try:
        return select(memory, level), ""
    except (CommandError, Unmapped) as error:
        return _everything(memory), f"nothing is left out, as the pages cannot be told: {error}"


def _everything(memory: Memory) -> Selection:
    size = -(-memory.max_mapnr // 8)
    existed, kept = bytearray(size), bytearray(size)
    step = 1 << 18
    for low in range(0, memory.max_mapnr, step):
        high = min(low + step, memory.max_mapnr)
        for bits, into in ((memory.existed, existed), (memory.stored, kept)):
            packed = np.packbits(bits(low, high), bitorder="little")
            into[low // 8 : -(-high // 8)] = packed.tobytes()
    return Selection(memory, 0, memory.level, existed, kept)


def native(
    sink: Sink,
    selection: Selection,
    form: str,
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> Filtered:
    if form == "elf":
        written = write_elf(sink, selection, progress=progress)
    else:
        packer = codec("none" if form == "plain" else form, threads=threads)
        written = write_kdump(sink, selection, packer, progress=progress)
    return Filtered(written.pages, written.lost_pages)


# makedumpfile


@dataclass(frozen=True)
class Tool:
    """An installed makedumpfile."""

    path: str
    version: tuple[int, ...]
    missing: frozenset[str]  # formats it was built without: it would not pack, and not say so

    def __str__(self) -> str:
        return f"makedumpfile {'.'.join(map(str, self.version))}"


def installed() -> Tool | None:
    path = shutil.which("makedumpfile")
    if path is None:
        return None
    done = subprocess.run(
        [path, "-v"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    found = re.search(r"version (\d+(?:\.\d+)+)", done.stdout + done.stderr)
    if not found:
        return None
    without = re.findall(r"^(\w+)\s+disabled", done.stdout + done.stderr, re.MULTILINE)
    return Tool(path, tuple(map(int, found[1].split("."))), frozenset(without))


def _top_byte(info: Mapping[str, str]) -> bool:
    word = info.get("NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)", "")
    return re.fullmatch(r"-?\d+", word) is not None and int(word) & 0xFFFFFF == 0


# What a kernel has in its VMCOREINFO, the first version that knows it, what others do.
KNOWN_SINCE: tuple[tuple[Callable[[Mapping[str, str]], bool], tuple[int, ...], str], ...] = (
    (
        lambda info: "OFFSET(page.compound_info)" in info,  # Linux 7.1
        (1, 8, 0),
        "leaves out parts of compound pages that are in use",
    ),
    (
        lambda info: "NUMBER(PAGE_UNACCEPTED_MAPCOUNT_VALUE)" in info,  # 6.16
        (1, 7, 8),
        "saves memory that the machine never accepted",
    ),
    (_top_byte, (1, 7, 7), "leaves out slab pages that are in use"),  # 6.12
    (
        lambda info: "NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)" in info,  # 6.10
        (1, 7, 6),
        "leaves out slab pages that are in use",
    ),
    (
        lambda info: "NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)" in info,  # 6.9
        (1, 7, 6),
        "saves hugetlb pages that it should leave out",
    ),
    (
        lambda info: "NUMBER(PG_hugetlb)" in info,  # 6.6
        (1, 7, 4),
        "does not tell compound pages",
    ),
    (
        lambda info: "OFFSET(folio._folio_order)" in info,  # 6.3
        (1, 7, 3),
        "does not tell compound pages",
    ),
)


def objection(tool: Tool, info: Mapping[str, str], level: int, form: str) -> str:
    """Why this makedumpfile must not write this dump; empty when it may."""
    if form in tool.missing:
        return f"{tool} was built without {form}, and would not pack the pages"
    if level & ~1:  # zero pages are told by their content
        for concerns, since, otherwise in KNOWN_SINCE:
            if concerns(info) and tool.version < since:
                wanted = ".".join(map(str, since))
                return f"{tool} {otherwise} of this kernel: {wanted} is the first that knows it"
    return ""


def makedumpfile(
    sink: Sink,
    tool: Tool,
    core: str,
    level: int,
    form: str,
    *,
    threads: int = 1,
    options: tuple[str, ...] = (),
) -> Filtered:
    """Its flattened output, each record put where it belongs."""
    command = [tool.path, "-F", "-d", str(level), *filter(None, [LETTERS[form]]), *options]
    if threads > 1 and tool.version >= SAFE_THREADS and form != "elf":
        command += ["--num-threads", str(threads)]
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(
            [*command, "--message-level", "4", core],  # errors only
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            env=environment(),
        ) as process:
            assert process.stdout is not None
            try:
                ended = put_in_place(process.stdout, sink)
            except BaseException:
                process.kill()
                raise
        if process.returncode or not ended:
            said.seek(0)
            lines = said.read().decode(errors="replace").split("\n")
            words = [line.strip() for line in lines if line.strip()]
            status = process.returncode
            ended_by = f"signal {-status}" if status < 0 else f"status {status}"
            raise CommandError(f"makedumpfile failed: {words[0] if words else ended_by}")
    return Filtered(None, 0)
