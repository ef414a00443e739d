"""What a saved dump must be: whole, and opened by crashpy with the task that panicked."""

from __future__ import annotations

from pathlib import Path

import crashpy
from crashpy.convert import check, recognised
from crashpy.kdump import report
from crashpy.session import Session
from crashpy.settings import Settings


def panic_task(vmcore: Path) -> str:
    """Its command's name; the dump is opened bare, by the types in it."""
    with crashpy.open(str(vmcore)) as dump:
        assert dump.tasks.panic_found
        return dump.context.comm


def stack(vmcore: Path) -> str:
    with crashpy.open(str(vmcore)) as dump:
        return "\n".join(Session(dump, Settings(silent=True, scroll=False)).run("bt"))


def saved_well(folder: Path) -> report.Report:
    """One dump's folder: README.txt, the log, the dump; nothing half saved."""
    told = report.parse((folder / "README.txt").read_text())
    assert told.finished, (folder / "README.txt").read_text()
    assert "Linux version" in (folder / "dmesg").read_text(errors="replace")
    assert not [*folder.glob("*incomplete*")]
    file = recognised(str(folder / "vmcore"))
    try:
        assert not check([file])
    finally:
        file.close()
    return told
