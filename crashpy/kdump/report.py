"""README.txt of a saved dump: what it is and whether all of it is there.

The fields are those of SUSE's kdump, which its tools and people look for; times tell
their zone. No field ever holds a password.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from crashpy.kdump.plan import hide

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "README.txt"
SAVED = "saved successfully"
SKIPPED = "skipped"

TITLE = "Kernel crashdump\n----------------\n"
PROVISIONAL = (
    "This file will be overwritten when the dump is finished.\n"
    "If you see this text the crash dump is likely incomplete.\n\n"
)
FLATTENED = "vmcore saved in makedumpfile flattened format"


@dataclass(frozen=True)
class Report:
    """What README.txt says. Empty or None: it does not say."""

    dmesg: str = ""  # SAVED, SKIPPED or what went wrong
    vmcore: str = ""  # likewise
    release: str = ""
    crashed: datetime | None = None
    dumped: datetime | None = None  # without a zone where a distribution wrote it
    host: str = ""
    level: int | None = None
    format: str = ""
    notes: tuple[str, ...] = ()
    provisional: bool = False  # written before the dump, and never again

    @property
    def finished(self) -> bool | None:
        """Whether the dump was saved; None where the file does not tell (SUSE 11)."""
        if self.provisional:
            return False
        return self.vmcore == SAVED if self.vmcore else None


# The word before the colon, as it is written; SUSE 11 pads it with blanks.
LABELS = {
    "dmesg": "dmesg status",
    "vmcore": "vmcore status",
    "release": "Kernel version",
    "crashed": "Crash time",
    "dumped": "Dump time",
    "host": "Host",
    "level": "Dump level",
    "format": "Dump format",
}
NOTE = "Note"


def about(vmcoreinfo: Mapping[str, str], report: Report | None = None) -> Report:
    """A report with what the dump's VMCOREINFO tells: the kernel, and when it crashed."""
    report = report or Report()
    return replace(
        report,
        release=vmcoreinfo.get("OSRELEASE", "") or report.release,
        crashed=crash_time(vmcoreinfo) or report.crashed,
    )


def crash_time(vmcoreinfo: Mapping[str, str]) -> datetime | None:
    """CRASHTIME is written by a kernel that starts its capture kernel, by no other."""
    seconds = vmcoreinfo.get("CRASHTIME", "")
    if not re.fullmatch(r"\d{1,11}", seconds):
        return None
    return datetime.fromtimestamp(int(seconds), UTC)


def readme(report: Report) -> str:
    """The text of README.txt."""
    lines = []
    for name, label in LABELS.items():
        value = getattr(report, name)
        if value is None or value == "":
            continue
        if isinstance(value, datetime):
            value = value.astimezone().isoformat(timespec="seconds")
        lines.append(f"{label}: {_line(str(value))}\n")
    lines += [f"{NOTE}: {_line(note)}\n" for note in report.notes]
    return (PROVISIONAL if report.provisional else TITLE) + "".join(lines)


def _line(value: str) -> str:
    """One line, nothing a terminal would obey, no password of a URL."""
    return hide("".join(c if c.isprintable() else " " for c in value)).strip()


def parse(text: str) -> Report:
    """What a README.txt says, ours or a distribution's; damaged lines are passed over."""
    names = {label: name for name, label in LABELS.items()}
    found: dict[str, object] = {"provisional": text.startswith(PROVISIONAL[:40])}
    notes = []
    for line in text.splitlines():
        label, colon, value = line.partition(":")
        label, value = label.strip(), _line(value)
        if not colon or not value:
            continue
        if label == NOTE:
            notes.append(value)
        elif name := names.get(label):
            found[name] = _value(name, value)
    return Report(**found, notes=tuple(notes))  # type: ignore[arg-type]


def _value(name: str, value: str) -> object:
    if name == "level":
        return int(value) if re.fullmatch(r"\d{1,4}", value) else None
    if name in ("crashed", "dumped"):
        return _time(value)
    return value


def _time(value: str) -> datetime | None:
    for form in ("%Y-%m-%d %H:%M (%z)", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S"):
        try:
            return datetime.strptime(value, form)
        except ValueError:
            continue
    return None


def now() -> datetime:
    """This moment, in the machine's zone."""
    return datetime.fromtimestamp(int(time.time())).astimezone()
