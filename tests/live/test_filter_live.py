"""The pages kept at all 32 dump levels, against makedumpfile on the same damaged dump.

    pytest -m live tests/live/test_filter_live.py

The guests use memory in every way that the rules tell apart (workload.c): page cache
with and without private data, anonymous memory, transparent and other huge pages, swap
cache, a balloon, poisoned pages. Beyond that, struct pages of a copy of each dump are
overwritten with what the rules look at, and with plain noise: compounds of any order,
free blocks, slab, hugetlb, offline and poisoned pages. Then makedumpfile and crashpy
choose, and both of their bitmaps must be equal. CRASHPY_FUZZ_ROUNDS sets how often
(default 6; each round takes four levels).
"""

import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crashpy.vmcore.estimate import estimate
from crashpy.vmcore.filter import Filter
from crashpy.vmcore.memory import memory_of
from crashpy.vmcore.recognise import recognise
from crashpy.vmcore.write import select

pytestmark = pytest.mark.live

sys.path.insert(0, str(Path(__file__).parent))
ROUNDS = int(os.environ.get("CRASHPY_FUZZ_ROUNDS", "6"))
PLAIN = ("6.1-kdump-elf", "6.12-kdump-elf")
WORKLOADS = ("6.1-cloud-workload", "6.1-workload", "6.12-workload")


def dump_called(name):
    import dumps
    import guests

    if name in WORKLOADS:
        return guests.dump_of(next(g for g in guests.workload_guests() if g.name == name))
    return next(d for d in dumps.live_dumps() if d.name == name).vmcore


@pytest.fixture(scope="module", params=[*PLAIN, *WORKLOADS])
def dump(request):
    return dump_called(request.param)


@pytest.fixture(scope="module")
def makedumpfile():
    import dumps

    dumps.crash()
    return dumps.REFERENCE / "makedumpfile"


def chosen_by_makedumpfile(program, dump, level, folder):
    """Both bitmaps of what makedumpfile writes."""
    target = folder / "reference"
    target.unlink(missing_ok=True)
    command = [program, "-l", "-d", str(level), dump, target]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    memory = memory_of([recognise(str(target))])
    bits = memory.existed(0, memory.max_mapnr), memory.stored(0, memory.max_mapnr)
    memory.vmcore.close()
    return bits


def chosen_by_us(dump, level):
    selection = select(memory_of([recognise(str(dump))]), level)
    count = selection.memory.max_mapnr
    selection.memory.vmcore.close()
    return tuple(
        np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")[:count]
        for bits in (selection.existed, selection.kept)
    )


def assert_same_choice(program, dump, level, folder):
    theirs = chosen_by_makedumpfile(program, dump, level, folder)
    ours = chosen_by_us(dump, level)
    for which, (one, other) in enumerate(zip(ours, theirs, strict=True), 1):
        differing = np.flatnonzero(one != other)
        assert not len(differing), (
            f"level {level}, bitmap {which}: {len(differing)} pages differ, the first are"
            f" {[(hex(pfn), int(one[pfn])) for pfn in differing[:8].tolist()]}"
        )


def test_all_levels_of_the_dump_as_it_is(dump, makedumpfile, tmp_path):
    for level in range(32):
        assert_same_choice(makedumpfile, dump, level, tmp_path)


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_workloads_have_pages_of_every_kind(name):
    """Otherwise that the choice is the same would say little."""
    memory = memory_of([recognise(str(dump_called(name)))])
    rules = Filter(memory, 30)
    for _ in rules.sections():
        pass
    found = dict(rules.tally.pages, **{"transparent huge": 0, "swap cache": 0})
    head, swap = (memory.number("PG_head_mask"), 1 << memory.number("PG_swapcache"))
    at = {name: memory.offset(f"page.{name}") // 8 for name in ("flags", "mapping")}
    for first, end, address in rules.maps():
        size = memory.size("page")
        words = rules.pages.read(address, (end - first) * size).view("<u8").reshape(-1, size // 8)
        flags, anonymous = words[:, at["flags"]], words[:, at["mapping"]] & 1 != 0
        found["transparent huge"] += int((anonymous & (flags & np.uint64(head) != 0)).sum())
        found["swap cache"] += int((anonymous & (flags & np.uint64(swap) != 0)).sum())
    lacking = {kind for kind, count in found.items() if not count}
    expected = {"unaccepted"}  # memory of confidential guests only
    if memory.number("PG_hwpoison") is None:
        expected.add("hwpoison")
    assert lacking == expected, found


@pytest.mark.parametrize("lacking", ["compound_head", "compound_order", "compound_dtor"])
def test_kernels_that_tell_less(makedumpfile, tmp_path, lacking):
    """As before Linux 4.4 a page's compound is not told; makedumpfile does without, too."""
    copy = tmp_path / "copy"
    shutil.copyfile(dump_called("6.1-workload"), copy)
    word = f"OFFSET(page.{lacking})".encode()
    with copy.open("r+b") as file:
        at = file.read(1 << 16).index(word)
        file.seek(at)
        file.write(word.replace(b"compound", b"unknowns"))
    for level in (0, 1, 2, 8, 16, 31):
        assert_same_choice(makedumpfile, copy, level, tmp_path)


def test_an_estimate_counts_what_makedumpfile_counts(dump, makedumpfile, tmp_path):
    """Class by class; what its totals count are not the pages it writes."""
    words = [makedumpfile, "-l", "-d", "31", "--message-level", "16", dump, tmp_path / "reference"]
    said = subprocess.run(words, capture_output=True, text=True, check=True)
    theirs = {
        name.strip(): int(count, 16)
        for name, count in re.findall(r"^ +([A-Z][\w -]+?) *: 0x([0-9a-f]+)$", said.stdout, re.M)
    }
    memory = memory_of([recognise(str(dump))])
    found = estimate(memory)
    memory.vmcore.close()
    ours = found.classes
    wanted = {
        "Pages filled with zero": ours["zero"],
        "Non-private cache pages": ours["cache"],
        "Private cache pages": ours["private cache"],
        "User process data pages": ours["user"] + ours["hugetlb"],
        "Free pages": ours["free"],
        "Hwpoison pages": ours["hwpoison"],
        "Offline pages": ours["offline"],
    }
    assert {name: theirs[name] for name in wanted} == wanted


class StructPages:
    """The struct pages of a copy of an ELF dump, to be damaged and restored."""

    def __init__(self, path):
        self.memory = memory_of([recognise(str(path))])
        self.size = self.memory.size("page")
        self.sections = list(Filter(self.memory, 31).maps())
        self.file = path.open("r+b")
        self.restores = []

    def offset(self, pfn):
        """Where in the file pfn's struct page is; None when it is not there."""
        for first, end, address in self.sections:
            if first <= pfn < end:
                physical, _ = self.memory.translate(address + (pfn - first) * self.size)
                for s in self.memory.loads:
                    if s.paddr <= physical < s.paddr + s.filesz:
                        return s.offset + physical - s.paddr
        return None

    def damage(self, chance, pfn):
        number, at = self.memory.number, self.memory.offset
        where = self.offset(pfn)
        if where is None:
            return
        self.file.seek(where)
        before = self.file.read(2 * self.size)
        after = bytearray(before)

        def put(name, value, size, shift=0):
            place = at(f"page.{name}")
            if place is not None:
                mask = (1 << 8 * size) - 1
                after[shift + place : shift + place + size] = (value & mask).to_bytes(
                    size, "little"
                )

        if chance.random() < 0.1:
            after[: self.size] = chance.randbytes(self.size)
        flags = int.from_bytes(before[:8], "little") if chance.random() < 0.3 else 0
        for name in ("lru", "private", "swapcache", "swapbacked", "slab", "hwpoison"):
            if (bit := number(f"PG_{name}")) is not None and chance.random() < 0.3:
                flags ^= 1 << bit
        if chance.random() < 0.4:
            flags |= number("PG_head_mask") or 0
            order = chance.choice([*range(12), 13, 18, 63, 64, 200, 255])
            put("compound_order", order, 1, self.size)
            put("compound_dtor", chance.randrange(5), 1, self.size)
            if (place := at("folio._folio_order")) is not None:
                after[place] = order
            following = int.from_bytes(after[self.size : self.size + 8], "little")
            if number("PAGE_HUGETLB_MAPCOUNT_VALUE") is not None:
                put("flags", following & ~0xFF | order, 8, self.size)
        put("flags", flags, 8)
        kinds = [
            number(f"PAGE_{name}_MAPCOUNT_VALUE")
            for name in ("BUDDY", "OFFLINE", "SLAB", "HUGETLB", "UNACCEPTED")
        ]
        kinds = [kind for kind in kinds if kind is not None]
        kind = chance.choice([*kinds, *kinds, -1, 0, 5, chance.getrandbits(32)])
        put("_mapcount", kind + (chance.random() < 0.05), 4)
        put("mapping", chance.choice([0, 1, 2, 3, chance.getrandbits(64)]), 8)
        put("private", chance.choice([*range(13), chance.getrandbits(64)]), 8)
        head = at("page.compound_head") is not None
        put("compound_head" if head else "compound_info", int(chance.random() < 0.1), 8)
        self.restores.append((where, before))
        self.file.seek(where)
        self.file.write(after)

    def restore(self):
        for where, before in reversed(self.restores):
            self.file.seek(where)
            self.file.write(before)
        self.restores.clear()
        self.file.flush()


def test_damaged_struct_pages(dump, makedumpfile, tmp_path):
    copy = tmp_path / "copy"
    shutil.copyfile(dump, copy)
    pages = StructPages(copy)
    seed = int(os.environ.get("CRASHPY_FUZZ_SEED", "1"))
    for turn in range(seed, seed + ROUNDS):
        chance = random.Random(turn)
        for _ in range(60):
            first = chance.randrange(pages.memory.max_mapnr)
            stretch = chance.choice([1, 1, 4, 40])
            for pfn in range(first, min(first + stretch, pages.memory.max_mapnr)):
                pages.damage(chance, pfn)
            aligned = first & -512  # large compounds count only where they are aligned
            pages.damage(chance, aligned)
        pages.file.flush()
        for level in [*chance.sample(range(32), 3), 31]:
            try:
                assert_same_choice(makedumpfile, copy, level, tmp_path)
            except AssertionError as error:
                raise AssertionError(f"seed {turn}: {error}") from None
        pages.restore()
