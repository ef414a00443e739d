"""crashkernel=: what its words mean, and how much memory to reserve.

The grammar is the kernel's, kernel/crash_reserve.c: SIZE[@OFFSET], SIZE,high or ,low or
,cma, or ranges START-[END]:SIZE,...[@OFFSET] of which the one that holds counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from crashpy.kdump.system import Refused, System

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


# Policies.


@dataclass(frozen=True)
class Advice:
    """How much to reserve, and who says so."""

    policy: str
    values: tuple[str, ...]
    why: tuple[str, ...]


GUIDE_X86 = ((12, "256M"), (48, "512M"), (None, "768M"))
RHEL = {
    "x86_64": "2G-64G:256M,64G-:512M",
    "s390x": "2G-64G:256M,64G-:512M",
    "aarch64": "2G-4G:256M,4G-64G:320M,64G-:576M",
    "ppc64le": "2G-4G:384M,4G-16G:512M,16G-64G:1G,64G-128G:2G,128G-:4G",
}
UBUNTU = "2G-4G:320M,4G-32G:512M,32G-64G:1024M,64G-128G:2048M,128G-:4096M"
DEBIAN = "384M-:128M"


def advise(policy: str, system: System, machine: str, memory: int | None) -> Advice:
    """What a policy recommends for a machine."""
    if policy not in POLICIES:
        raise Refused(f'"{policy}" is not a policy: there are {", ".join(POLICIES)}')
    advice: Advice = POLICIES[policy](system, machine, memory)
    return advice


def _guide(_: System, machine: str, memory: int | None) -> Advice:
    small_large = {
        "ia64": ("256M", "512M"),
        "ppc64": ("128M@4M", "256M@4M"),
        "ppc64le": ("128M@4M", "256M@4M"),
        "s390x": ("128M", "256M"),
    }
    x86 = machine in ("x86_64", "i386", "i586", "i686")
    if not x86 and machine not in small_large:
        raise Refused(f"the guide names no size for {machine}")
    if memory is None:
        raise Refused("how much memory the machine has is not known: give --memory")
    have = f"this machine has {shown(memory)}"
    if x86:
        value = next(v for limit, v in GUIDE_X86 if limit is None or memory <= limit * GIB)
        span = {"256M": "up to 12 GB", "512M": "13 to 48 GB", "768M": "more than 48 GB"}[value]
        return Advice("guide", (value,), (f"{machine} with {span} of memory; {have}",))
    large = memory > 12 * GIB
    value = small_large[machine][large]
    why = f"{'larger' if large else 'small'} {machine} machines; {have}"
    note = "the guide does not say where small ends: 12 GiB, as it has it for x86"
    return Advice("guide", (value,), (why, note))


def _rhel(system: System, machine: str, _: int | None) -> Advice:
    if machine not in RHEL:
        raise Refused(f"RHEL names no size for {machine}")
    value, why = RHEL[machine], [f"kdumpctl's default for {machine}"]
    if (
        machine == "aarch64"
        and (system.number("/sys/kernel/mm/page_size") or _page_size()) == 65536
    ):
        value = _plus(value, 100)
        why.append("100 MiB more for pages of 64 KiB")
    encrypted = system.fact("/sys/devices/system/cpu/caps/sev") or ""
    if machine == "x86_64" and ("mem_encrypt=on" in (system.cmdline or "") or encrypted):
        value = _plus(value, 64)
        why.append("64 MiB more for encrypted memory (SME, SEV)")
    return Advice("rhel", (value,), tuple(why))


def _page_size() -> int:
    import os

    return os.sysconf("SC_PAGESIZE")


def _plus(value: str, mib: int) -> str:
    return re.sub(r":(\d+)M", lambda found: f":{int(found[1]) + mib}M", value)


def _ubuntu(_: System, __: str, ___: int | None) -> Advice:
    return Advice("ubuntu", (UBUNTU,), ("kdump-tools' default on Ubuntu since 24.10",))


def _debian(_: System, __: str, ___: int | None) -> Advice:
    warning = "too little for most machines: its maintainers advise 512M after failed dumps"
    return Advice("debian", (DEBIAN,), ("kdump-tools' default on Debian", warning))


def _suse(system: System, _: str, __: int | None) -> Advice:
    """What SUSE's own tool has calibrated for the kernel that is installed."""
    if system.tool("kdumptool") is None:
        raise Refused("suse is what `kdumptool calibrate` says, and there is no kdumptool here")
    numbers = dict(
        re.findall(r"^(\w+):\s*(\d+)", system.run(["kdumptool", "calibrate"]), re.MULTILINE)
    )
    if "High" not in numbers or "Low" not in numbers:
        raise Refused("kdumptool calibrate names no Low and High")
    values = [f"{numbers['High']}M,high", f"{numbers['Low']}M,low"]
    if numbers["High"] == "0":
        values = [f"{numbers['Low']}M"]
    return Advice("suse", tuple(values), ("`kdumptool calibrate` on this machine",))


def _estimate(system: System, machine: str, memory: int | None) -> Advice:
    parts = list(need(system, machine))
    total = sum(size for _, size in parts)
    why = [f"{shown(size)} {what}" for what, size in parts]
    step = 32 * MIB
    size = -(-total // step) * step
    if memory is not None and size >= memory:
        why.append("which is more than this machine has")
    return Advice("estimate", (f"{size // MIB}M",), tuple(why))


def need(system: System, machine: str) -> Iterator[tuple[str, int]]:
    """What a capture kernel of this machine takes: its parts, as kdumpctl estimates them."""
    release = system.release
    if release is None:
        raise Refused("which kernel runs is not known, nor what it needs")
    image, size = _image(system, release)
    yield f"the kernel, {image}", size
    modules = 0
    for line in (system.fact("/proc/modules") or "").splitlines():
        words = line.split()
        modules += int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    yield "the modules that are loaded now", modules
    initrd = capture_initrd(system, release)
    if initrd is None:
        yield "an initial RAM disk, which is not built yet: 3 times 30 MiB", 90 * MIB
    else:
        yield f"3 times the initial RAM disk, {initrd}", 3 * system.path(initrd).stat().st_size
    yield "what runs in it", (64 if machine == "aarch64" else 36) * MIB
    yield "what the kernel itself takes while it starts", 64 * MIB


def _image(system: System, release: str) -> tuple[str, int]:
    """The kernel image, and how much memory it takes when it has unpacked itself."""
    for name in (
        f"/boot/vmlinuz-{release}",
        f"/boot/Image-{release}",
        f"/lib/modules/{release}/vmlinuz",
    ):
        try:
            path = system.path(name)
            with path.open("rb") as file:
                head = file.read(0x270)
            if head[0x202:0x206] == b"HdrS":  # x86's setup header: init_size
                return name, int.from_bytes(head[0x260:0x264], "little")
            if head[0x38:0x3C] == b"ARM\x64":  # image_size
                return name, int.from_bytes(head[0x10:0x18], "little")
            return name, 4 * path.stat().st_size
        except OSError:
            continue
    return "whose image is not in /boot: as a rule", 64 * MIB


def capture_initrd(system: System, release: str) -> str | None:
    """The initial RAM disk of the capture kernel, wherever the distribution puts it."""
    for name in (
        "/var/lib/kdump/initrd",
        f"/boot/initramfs-{release}kdump.img",
        f"/var/lib/kdump/initramfs-{release}kdump.img",
        "/var/lib/kdump/initrd.img",
        f"/var/lib/kdump/initrd.img-{release}",
        f"/boot/initrd-{release}-kdump",
    ):
        if system.path(name).is_file():
            return name
    return None


POLICIES = {
    "guide": _guide,
    "rhel": _rhel,
    "suse": _suse,
    "ubuntu": _ubuntu,
    "debian": _debian,
    "estimate": _estimate,
}
MEANT = {
    "guide": "the table of the SLES 11 administration guide",
    "rhel": "Red Hat's table",
    "suse": "what `kdumptool calibrate` measures",
    "ubuntu": "Ubuntu's table",
    "debian": "Debian's default",
    "estimate": "the sizes of this machine's kernel, modules and initial RAM disk",
}
DEFAULTS = {"suse": "suse", "rhel": "rhel", "debian": "ubuntu"}  # of a distribution


def default_policy(system: System) -> str:
    policy = DEFAULTS.get(system.family or "", "guide")
    return "guide" if policy == "suse" and system.tool("kdumptool") is None else policy
