"""How much memory to reserve for a capture kernel, by whose advice."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from crashpy.command import CommandError
from crashpy.kdump.dialects.base import capture_initrd
from crashpy.kdump.size import GIB, MIB, parse_size, shown
from crashpy.kdump.system import Refused, System


@dataclass(frozen=True)
class Advice:
    """How much to reserve, and who says so."""

    policy: str
    values: tuple[str, ...]
    why: tuple[str, ...]


GUIDE_X86 = ((12, "256M"), (48, "512M"), (None, "768M"))
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


@dataclass(frozen=True)
class More:
    """What RHEL adds where the machine has something that takes memory."""

    mib: int
    why: str
    machines: tuple[str, ...]
    there: Callable[[System], bool]


def _large_pages(system: System) -> bool:
    """The kernel's variant with pages of 64 KiB is named so."""
    return "64k" in (system.release or "")


def _mellanox(system: System) -> bool:
    return system.exists("/sys/bus/pci/drivers/mlx5_core")


def _encrypted(system: System) -> bool:
    return "mem_encrypt=on" in (system.cmdline or "") or system.exists("/dev/sev-guest")


def _smmu(system: System) -> bool:
    return bool(system.names("/sys/devices/platform", "arm-smmu-*"))


RHEL = {
    "x86_64": "2G-64G:256M,64G-:512M",
    "s390x": "2G-64G:256M,64G-:512M",
    "aarch64": "2G-4G:256M,4G-64G:320M,64G-:576M",
    "ppc64le": "2G-4G:384M,4G-16G:512M,16G-64G:1G,64G-128G:2G,128G-:4G",
}
RHEL_FADUMP = (
    "4G-16G:768M,16G-64G:1G,64G-128G:2G,128G-1T:4G,1T-2T:6G,2T-4T:12G,4T-8T:20G,8T-16T:36G,"
    "16T-32T:64G,32T-64T:128G,64T-:180G"
)
ARM = ("aarch64",)
RHEL_MORE = (
    More(64, "encrypted memory (SME, SEV)", ("x86_64", "s390x"), _encrypted),
    More(100, "pages of 64 KiB", ARM, _large_pages),
    More(384, "an SMMU, with such pages", ARM, lambda s: _large_pages(s) and _smmu(s)),
    More(200, "mlx5, with such pages", ARM, lambda s: _large_pages(s) and _mellanox(s)),
    More(150, "mlx5", ARM, lambda s: not _large_pages(s) and _mellanox(s)),
)


def _rhel(system: System, machine: str, _: int | None) -> Advice:
    if machine not in RHEL:
        raise Refused(f"RHEL names no size for {machine}")
    value, why, extra = RHEL[machine], [f"kdumpctl's default for {machine}"], 0
    for more in RHEL_MORE:
        if machine in more.machines and more.there(system):
            extra += more.mib
            why.append(f"{more.mib} MiB more for {more.why}")
    if machine == "ppc64le":
        if "fadump=on" in (system.cmdline or ""):
            value = RHEL_FADUMP
            why[0] += " with fadump=on"
        extra += 16
        why.append("1 MiB more for each of the 16 CPUs that the capture kernel starts")
    return Advice("rhel", (_plus(value, extra),), tuple(why))


def _plus(value: str, mib: int) -> str:
    """A value of ranges with so much more in each."""

    def added(found: re.Match[str]) -> str:
        size = parse_size(found[1]) + mib * MIB
        return f":{size // GIB}G" if size % GIB == 0 else f":{size // MIB}M"

    return re.sub(r":(\w+)", added, value)


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
    why = [f"{shown(size)}: {what}" for what, size in parts]
    size = _rounded(-(-total // MIB))
    if memory is not None and size * MIB >= memory:
        why.append("which is more than this machine has")
    return Advice("estimate", (f"{size}M",), tuple(why))


def _measured(system: System, machine: str, memory: int | None) -> Advice:
    """What the capture environment took when it was measured, with this configuration."""
    from crashpy.kdump.capture.memory import need_mib

    if machine != "x86_64":
        raise Refused(f"nothing was measured on {machine}: take --policy estimate")
    engine, protocol = _way(system)
    try:
        parts = need_mib(engine, protocol, memory)
    except LookupError:
        raise Refused(f"{engine} was never measured saving by {protocol}") from None
    why = [f"{shown(mib * MIB)}: {what}" for what, mib in parts]
    return Advice("measured", (f"{_rounded(sum(mib for _, mib in parts))}M",), tuple(why))


def _way(system: System) -> tuple[str, str]:
    """Who saves, and by which protocol; without a configuration as most do."""
    from crashpy.kdump.capture.engine import choose
    from crashpy.kdump.config import Config
    from crashpy.kdump.plan import save_plan

    try:
        plan = save_plan(Config.read(system))
    except CommandError:
        return "makedumpfile", "file"
    return choose("auto", plan, system.release or "").name, plan.target.protocol


def _rounded(mib: int) -> int:
    """Up to what the kernel can reserve in one piece without waste."""
    return -(-mib // 32) * 32


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
        modules += int(words[1]) if len(words) > 1 and words[1].isdecimal() else 0
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


POLICIES = {
    "guide": _guide,
    "rhel": _rhel,
    "suse": _suse,
    "ubuntu": _ubuntu,
    "debian": _debian,
    "estimate": _estimate,
    "measured": _measured,
}
MEANT = {
    "guide": "the table of the SLES 11 administration guide",
    "rhel": "Red Hat's table",
    "suse": "what `kdumptool calibrate` measures",
    "ubuntu": "Ubuntu's table",
    "debian": "Debian's default",
    "estimate": "the sizes of this machine's kernel, modules and initial RAM disk",
    "measured": "what our capture environment took where it was measured",
}
DEFAULTS = {"suse": "suse", "rhel": "rhel", "debian": "ubuntu"}  # of a distribution


def default_policy(system: System) -> str:
    policy = DEFAULTS.get(system.family or "", "guide")
    return "guide" if policy == "suse" and system.tool("kdumptool") is None else policy
