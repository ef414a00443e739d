"""How many pages each dump level would keep: all levels in one pass over a dump."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crashpy.vmcore.filter import Filter, StructPages
from crashpy.vmcore.memory import ONE, Memory, zero_pages

if TYPE_CHECKING:
    from crashpy.vmcore.memory import Bits

BATCH = 1024  # pages


@dataclass(frozen=True)
class Estimate:
    classes: dict[str, int]  # pages that level 31 leaves out, by why
    levels: list[int]  # pages that each level keeps, of zero pages none if it leaves them out


def estimate(memory: Memory) -> Estimate:
    """Raises CommandError where the dump cannot be filtered."""
    shared = StructPages(memory)
    rules = [Filter(memory, level, shared) for level in range(0, 32, 2)]
    # Where no page can be poisoned, nobody looks at the pages for level 0.
    looking = [rule for rule in rules if rule.wanted]
    levels = [0] * 32
    zeros = 0
    for sections in zip(*(rule.sections() for rule in looking), strict=True):
        first, end, _ = sections[0]
        there = memory.existed(first, end) & (memory.left_out(first, end) ^ ONE)
        content = _content(memory, first, there)
        kept = [there] * (len(rules) - len(looking)) + [keep & there for _, _, keep in sections]
        for half, keep in enumerate(kept):
            levels[2 * half] += int(keep.sum())
            levels[2 * half + 1] += int((keep & content).sum())
        zeros += int((kept[-1] & (content ^ ONE)).sum())
    return Estimate({**rules[-1].tally.pages, "zero": zeros}, levels)


def _content(memory: Memory, first: int, there: Bits) -> Bits:
    """1 for each page that holds more than zeroes."""
    found = there.copy()
    pfns = np.flatnonzero(there) + first
    room = np.empty((BATCH, memory.page_size), np.uint8)
    for at in range(0, len(pfns), BATCH):
        some = pfns[at : at + BATCH]
        pages = room[: len(some)]
        good = memory.read_into(some, pages)
        found[some[zero_pages(pages) & good] - first] = 0
    return found
