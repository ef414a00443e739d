"""How kdump's scripts call what they save: folders, dumps, logs, and what is not finished.

SUSE today   [HOST-]YYYY-MM-DD-HH-MM     README.txt dmesg vmcore
SUSE 11      [HOST-]YYYY-MM-DD-HH:MM     README.txt dmesg.txt vmcore, or vmcore1 vmcore2 ...
RHEL         ADDRESS-YYYY-MM-DD-HH:MM:SS vmcore[.flat] vmcore-dmesg.txt vmcore-incomplete
Debian       [HOST-]YYYYMMDDHHMM         dump.STAMP[.gz ...] dmesg.STAMP dump-incomplete
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

FOLDERS = {
    "suse": r"\d{4}-\d\d-\d\d-\d\d-\d\d",
    "suse11": r"\d{4}-\d\d-\d\d-\d\d:\d\d",
    "rhel": r"\d{4}-\d\d-\d\d-\d\d:\d\d:\d\d",
    "debian": r"\d{12}",
}
# Behind it a counter, where two dumps were saved in one minute.
_FOLDER = re.compile(
    r"(?:(?P<host>[^/]+)-)?(?:"
    + "|".join(f"(?P<{layout}>{pattern})" for layout, pattern in FOLDERS.items())
    + r")(?:\.(?P<counter>\d{1,4}))?",
    re.DOTALL,
)
_PACKED = r"(?:\.(?:gz|bz2|xz|zst|lz4))?"
_DUMP = re.compile(rf"(?:vmcore(?:\.flat|\.\d{{12}}|\.?\d{{1,3}})?|dump\.\d{{12}}){_PACKED}")
_DRAFT = re.compile(r"(?:vmcore|dump)(?!-dmesg)[\w.]*-incomplete.*|vmcore\.(?:part|partial)")
_LOG = re.compile(r"dmesg(?:\.txt|\.\d{12})?|vmcore-dmesg\.txt")
README = "README.txt"
NOTIFIED = ".notified"


@dataclass(frozen=True)
class FolderName:
    """What the name of a folder tells of the dump in it."""

    layout: str
    host: str  # a name or an address; empty where the layout leaves it out
    time: datetime  # of saving, by the clock and zone of the machine that saved
    counter: int = 0


def folder_name(name: str) -> FolderName | None:
    """None: it is no name that a kdump script gives."""
    found = _FOLDER.fullmatch(name)
    if not found:
        return None
    layout = next(layout for layout in FOLDERS if found[layout])
    digits = re.sub(r"\D", "", found[layout]).ljust(14, "0")
    try:
        time = datetime.strptime(digits, "%Y%m%d%H%M%S")
    except ValueError:
        return None
    return FolderName(layout, found["host"] or "", time, int(found["counter"] or 0))


def kind(name: str) -> str:
    """What a file of a dump's folder is by its name: "dump", "draft", "log", "readme" or ""."""
    if _DUMP.fullmatch(name):
        return "dump"
    if _DRAFT.fullmatch(name):
        return "draft"
    if _LOG.fullmatch(name):
        return "log"
    return "readme" if name == README else ""
