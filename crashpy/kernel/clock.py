"""The kernel's clocks: ticks, uptime, the date when it died and when it booted."""

from __future__ import annotations

from drgn import FaultError, Object, Program

# What CONFIG_HZ may be, of all architectures.
TICK_RATES = (24, 32, 48, 64, 100, 128, 200, 250, 256, 300, 500, 512, 1000, 1024, 1200)


def tick_rate(prog: Program) -> int:
    """HZ, found once for a program."""
    rate: int | None = prog.cache.get("crashpy.tick_rate")
    if rate is None:
        rate = prog.cache["crashpy.tick_rate"] = _tick_rate(prog)
    return rate


def _tick_rate(prog: Program) -> int:
    """From the configuration in the dump; else the rate at which jiffies and the
    monotonic clock agree. crash knows only the first, and otherwise guesses from
    the I/O scheduler or takes 1000.
    """
    from drgn.helpers.linux.kconfig import get_kconfig

    try:
        return int(get_kconfig(prog)["CONFIG_HZ"])
    except (LookupError, ValueError, FaultError, TypeError):
        pass
    try:
        jiffies = prog["jiffies_64"].value_()
        seconds = monotonic_ns(prog) / 1e9
    except (LookupError, FaultError, AttributeError):
        return 1000
    return min(TICK_RATES, key=lambda hz: abs(_since_boot(jiffies, hz) / hz - seconds))


def _since_boot(jiffies: int, hz: int) -> int:
    """Ticks: jiffies start at what will wrap a 32-bit counter after five minutes."""
    initial = -300 * hz & 0xFFFFFFFF
    ticks = jiffies - initial
    return ticks if ticks >= 0 else ticks + (1 << 32)


def timekeeper(prog: Program) -> Object:
    """``struct timekeeper``"""
    try:
        return prog["tk_core"].timekeeper
    except (LookupError, AttributeError):
        pass
    try:
        # Linux kernel commit 22c62b9a84b8 ("timekeeping: Introduce auxiliary
        # timekeepers") (in v6.17)
        return prog["timekeeper_data"][0].timekeeper
    except LookupError:
        return prog["timekeeper"]


def monotonic_ns(prog: Program) -> int:
    """The monotonic clock at the last tick."""
    core = timekeeper(prog)
    base = core.tkr_mono
    nanoseconds: int = base.base.value_() + (base.xtime_nsec.value_() >> base.shift.value_())
    return nanoseconds


def uptime_jiffies(prog: Program) -> int:
    try:
        return _since_boot(prog["jiffies_64"].value_(), tick_rate(prog))
    except LookupError:
        ticks: int = prog["jiffies"].value_()
        return ticks


def uptime_seconds(prog: Program) -> int:
    return uptime_jiffies(prog) // tick_rate(prog)


def date_seconds(prog: Program) -> int | None:
    """The wall clock when the kernel stopped, in seconds since 1970 (get_xtime())."""
    for name, member in (
        ("", "xtime_sec"),
        ("shadow_timekeeper", "xtime_sec"),
        ("timekeeper", "xtime.tv_sec"),
        ("xtime", "tv_sec"),
    ):
        try:
            found = prog[name] if name else timekeeper(prog)
            for part in member.split("."):
                found = found.member_(part)
            seconds: int = found.value_()
        except (LookupError, FaultError):
            continue
        return seconds
    return None


def boot_ns(prog: Program) -> int | None:
    """The wall clock when the monotonic one stood at zero, in nanoseconds since 1970."""
    try:
        nanoseconds: int = timekeeper(prog).offs_real.value_()
    except (LookupError, AttributeError, FaultError):
        seconds = date_seconds(prog)
        return None if seconds is None else (seconds - uptime_seconds(prog)) * 1_000_000_000
    return nanoseconds
