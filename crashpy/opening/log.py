"""The kernel's log from a dump alone, through what VMCOREINFO says of its types."""

from __future__ import annotations

from collections.abc import Sequence

from crashpy.opening.noted import describe_log
from crashpy.opening.options import OpenOptions
from crashpy.opening.program import start
from crashpy.vmcore.recognise import Vmcore


def log_text(files: Sequence[Vmcore]) -> str:
    """As `dmesg` shows it. Raises OpeningError where the dump does not tell where it is."""
    from crashpy.kernel.printk import log_records

    prog = start(files, OpenOptions())
    describe_log(prog, files[0].vmcoreinfo)
    lines = []
    lost: list[str] = []
    for record in log_records(prog, lost.append):
        seconds, rest = divmod(record.ts_ns or 0, 10**9)
        stamp = "" if record.ts_ns is None else f"[{seconds:5}.{rest // 1000:06}] "
        text = record.text.decode(errors="backslashreplace")
        indented = text.replace("\n", "\n" + " " * len(stamp))
        lines.append(f"{stamp}{indented}\n")
    return "".join([*lines, *(f"{sentence}\n" for sentence in lost)])
