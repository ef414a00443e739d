"""Entries of the Boot Loader Specification: a file each, and the order they stand in."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

from crashpy.kdump.system import System

FOLDERS = ("/boot/loader/entries", "/efi/loader/entries", "/boot/efi/loader/entries")
_VENDOR = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"  # of systemd-boot's variables in the firmware


@dataclass(frozen=True)
class Snippet:
    """One file of loader/entries, as it is written: nothing is expanded yet."""

    id: str
    origin: str
    title: str
    version: str
    sort_key: str
    machine_id: str
    kernel: str
    initrds: tuple[str, ...]
    options: str


def snippets(system: System) -> list[Snippet]:
    """Every entry that starts a Linux kernel."""
    names = [name for folder in FOLDERS for name in system.names(folder, "*.conf")]
    return [found for name in names if (found := _parse(name, system.read(name) or "")).kernel]


def _parse(origin: str, text: str) -> Snippet:
    rows: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, value = line.strip().partition(" ")
        if key and not key.startswith("#"):
            rows.setdefault(key.strip(), []).append(value.strip())

    def last(key: str) -> str:
        return rows.get(key, [""])[-1]

    stem = origin.rpartition("/")[2].removesuffix(".conf")
    return Snippet(
        id=re.sub(r"\+\d+(-\d+)?$", "", stem),  # how often it may still be tried
        origin=origin,
        title=last("title") or stem,
        version=last("version"),
        sort_key=last("sort-key"),
        machine_id=last("machine-id"),
        kernel=last("linux"),
        initrds=tuple(word for value in rows.get("initrd", []) for word in value.split()),
        options=" ".join(rows.get("options", [])),
    )


def version_key(text: str) -> list[tuple[int, int, str]]:
    """Versions in order: numbers by value, letters before numbers, `~` before all."""
    key = []
    for digits, letters, tilde in re.findall(r"(\d+)|([A-Za-z]+)|(~)", text):
        rank = 3 if digits else 2 if letters else 0
        key.append((rank, int(digits or 0), letters or tilde))
    return [*key, (1, 0, "")]


def grub_order(found: Sequence[Snippet]) -> list[Snippet]:
    """As GRUB's blscfg lists them: by file name, the newest first."""
    return sorted(found, key=lambda entry: version_key(entry.id), reverse=True)


def systemd_order(found: Sequence[Snippet]) -> list[Snippet]:
    """As systemd-boot lists them: those with a sort-key first, of each the newest first."""
    newest = sorted(found, key=lambda e: version_key(e.version or e.id), reverse=True)
    return sorted(newest, key=lambda e: (not e.sort_key, e.sort_key, e.machine_id))


def systemd_default(system: System) -> Snippet | None:
    """What systemd-boot starts when nobody chooses."""
    found = systemd_order(snippets(system))
    wanted = [_variable(system, "LoaderEntryOneShot"), _variable(system, "LoaderEntryDefault")]
    for folder in FOLDERS:
        text = system.read(f"{folder.removesuffix('/entries')}/loader.conf") or ""
        wanted += re.findall(r"^default[ \t]+(\S+)", text, re.MULTILINE)[-1:]
    for pattern in filter(None, wanted):
        for entry in found:
            if any(fnmatch.fnmatch(name, pattern) for name in (f"{entry.id}.conf", entry.id)):
                return entry
    return found[0] if found else None


def systemd_started(system: System) -> bool:
    """Whether systemd-boot told the firmware that it started this system."""
    return _variable(system, "LoaderInfo").startswith("systemd-boot")


def systemd_set_up(system: System) -> bool:
    return any(
        system.exists(f"{folder.removesuffix('/entries')}/loader.conf") for folder in FOLDERS
    )


def _variable(system: System, name: str) -> str:
    """A variable of the firmware: four bytes of attributes, then UTF-16."""
    try:
        data = system.path(f"/sys/firmware/efi/efivars/{name}-{_VENDOR}").read_bytes()
    except OSError:
        return ""
    return data[4:].decode("utf-16-le", "replace").rstrip("\0")
