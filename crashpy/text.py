"""Layouts that crash shares between commands."""

from __future__ import annotations

import time

GIB, MIB, KIB = 1 << 30, 1 << 20, 1 << 10


def task_header(pid: int, address: int, cpu: int, comm: str) -> str:
    """The line that introduces a task (crash's print_task_header())."""
    return f'PID: {pid:<7}  TASK: {address:<16x}  CPU: {cpu:<3}  COMMAND: "{comm}"'


def centered(text: str, width: int, *, right: bool = False) -> str:
    """In the middle of that many columns; what does not divide goes left, or right.

    crash's mkstring() with CENTER|LJUST, or CENTER|RJUST.
    """
    extra = max(0, width - len(text))
    left = (extra + right) // 2
    return " " * left + text + " " * (extra - left)


def duration(seconds: int) -> str:
    """``2 days, 01:02:03`` (crash's convert_time())."""
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days} days, {clock}" if days else clock


def calendar(seconds: float) -> str:
    """``Mon Nov 23 23:36:01 UTC 2026`` in the time zone of the user (crash's ctime_tz())."""
    try:
        return time.strftime("%a %b %e %T %Z %Y", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return str(int(seconds))


def size(bytes_: int) -> str:
    """``511.5 MB`` (crash's pages_to_size())."""
    if bytes_ == 0:
        return "0"
    if bytes_ >= GIB:
        text = f"{bytes_ / GIB:.1f} GB"
    elif bytes_ >= MIB:
        text = f"{bytes_ / MIB:.1f} MB"
    else:
        text = f"{bytes_ // KIB} KB"
    return text.replace(".0 ", " ", 1)
