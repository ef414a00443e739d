"""crashkernel=: what its words mean, and how much memory to reserve.

The grammar is the kernel's, kernel/crash_reserve.c: SIZE[@OFFSET], SIZE,high or ,low or
,cma, or ranges START-[END]:SIZE,...[@OFFSET] of which the one that holds counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from crashpy.kdump.system import Refused

MIB = 1 << 20
GIB = 1 << 30
_UNITS = {"": 1, "K": 1 << 10, "M": MIB, "G": GIB, "T": 1 << 40}
_SIZE = r"(?:0[xX][0-9a-fA-F]+|\d+)[KMGTkmgt]?"


@dataclass(frozen=True)
class Range:
    """Memory from `low` on and below `high`: reserve `size`."""

    low: int
    high: int | None  # None: no end
    size: int

    def holds(self, memory: int) -> bool:
        return self.low <= memory and (self.high is None or memory < self.high)


@dataclass(frozen=True)
class Crashkernel:
    """One value of crashkernel=."""

    ranges: tuple[Range, ...]
    offset: int | None = None
    place: str = ""  # high, low, cma

    def size(self, memory: int) -> int:
        """Bytes reserved on a machine with this much memory; 0: nothing."""
        return next((r.size for r in self.ranges if r.holds(memory)), 0)


def parse_size(text: str) -> int:
    if not re.fullmatch(_SIZE, text):
        raise Refused(f'"{text}" is not a size such as 256M')
    digits = text.rstrip("KMGTkmgt")
    return (
        int(digits, 0 if digits[:2].lower() == "0x" else 10) * _UNITS[text[len(digits) :].upper()]
    )


def parse_value(text: str) -> Crashkernel:
    """One value; Refused says what is wrong with it."""
    if not text or re.search(r"[\s\"'\\$`]", text):
        raise Refused(
            f'"{text}" is not a value of crashkernel= such as 512M or 2G-64G:256M,64G-:512M'
        )
    body, at, offset = text.partition("@")
    start = parse_size(offset) if at else None
    if ":" not in body:
        size, comma, place = body.partition(",")
        if comma and place not in ("high", "low", "cma"):
            raise Refused(f'"{text}": behind the comma stands high, low or cma')
        if comma and at:
            raise Refused(f'"{text}": the kernel places {place} itself: no @')
        amount = parse_size(size)
        if not amount and place != "low":  # `0,low` turns the second reservation off
            raise Refused(f'"{text}" reserves nothing')
        return Crashkernel((Range(0, None, amount),), start, place)
    ranges: list[Range] = []
    for term in body.split(","):
        found = re.fullmatch(rf"({_SIZE})-({_SIZE})?:({_SIZE})", term)
        if not found:
            raise Refused(f'"{term}" is not a range such as 2G-64G:256M')
        low = parse_size(found[1])
        high = parse_size(found[2]) if found[2] else None
        amount = parse_size(found[3])
        if high is not None and high <= low:
            raise Refused(f'"{term}": the range ends before it starts')
        if amount >= (low or (high or amount + 1)):
            raise Refused(f'"{term}" reserves more than there is at its start')
        if ranges and (ranges[-1].high is None or low < (ranges[-1].high or 0)):
            raise Refused(f'"{term}" begins before the range in front of it ends')
        ranges.append(Range(low, high, amount))
    return Crashkernel(tuple(ranges), start)


def parse_values(texts: Sequence[str], memory: int | None = None) -> list[Crashkernel]:
    """Values that stand together on one command line."""
    found = [parse_value(text) for text in texts]
    places = [value.place for value in found]
    plain = [place for place in places if place in ("", "high")]
    if len(plain) != 1 or len(set(places)) != len(places):
        raise Refused(
            "crashkernel= is one size, to which one with ,low and one with ,cma may be added"
        )
    if "low" in places and "high" not in places:
        raise Refused("crashkernel= with ,low goes with one with ,high")
    if memory is not None:
        size = sum(value.size(memory) for value in found)
        if size >= memory:
            raise Refused(f"{shown(size)} is all of the memory there is: {shown(memory)}")
    return found


def reserved(texts: Sequence[str], memory: int) -> int:
    """What the kernel sets aside for these values, `,cma` left out: that is not for it alone."""
    return sum(v.size(memory) for v in parse_values(texts) if v.place != "cma")


def shown(size: int) -> str:
    """1610612736 -> 1.5 GiB"""
    if size >= GIB:
        return f"{size / GIB:.1f}".removesuffix(".0") + " GiB"
    return f"{size / MIB:.1f}".removesuffix(".0") + " MiB"


def explain(texts: Sequence[str], memory: int | None) -> Iterator[str]:
    """Each term of the values, a line each."""
    for text in texts:
        value = parse_value(text)
        behind = "" if value.offset is None else f"@{text.partition('@')[2]}"
        terms = text.partition("@")[0].split(",") if ":" in text else [text.partition("@")[0]]
        for term, part in zip(terms, value.ranges, strict=True):
            if ":" in term:
                end = f" to below {shown(part.high)}" if part.high is not None else " on"
                what = f"with {shown(part.low)} of memory{end}: {shown(part.size)}"
                if memory is not None and part.holds(memory):
                    what += f"  <- this machine: {shown(memory)}"
            else:
                what = f"{shown(part.size)}{PLACES[value.place]}"
            yield f"{term:<18} {what}"
        if value.offset is not None:
            yield f"{behind:<18} at this physical address; without it the kernel finds a place"
        if memory is not None and ":" in text and not value.size(memory):
            yield f"{'':<18} no range holds {shown(memory)}: nothing would be reserved"


PLACES = {
    "": ", wherever the kernel finds room",
    "high": ", above 4 GiB if there is no room below",
    "low": " below 4 GiB beside ,high, for devices that reach no further",
    "cma": " lent to user programs until a crash (since Linux 6.17)",
}
