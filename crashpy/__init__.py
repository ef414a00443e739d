"""Linux crash dumps, opened and analysed: crash's commands as typed Python, on drgn.

The way of the data, left to right; a stage knows nothing of those after it::

    argv -> cli -> opening -> Dump -> Session -> grammar -> command -> records -> text or JSON

crashpy.cli        crash's own arguments, or `save`, `setup`, ...
crashpy.opening    paths -> Dump: recognises files by content, matches kernel and dump by BUILD-ID
crashpy.vmcore     dump files themselves: containers, headers, formats
crashpy.dump       Dump: drgn's Program, where it came from, what is missing, shared tables
crashpy.session    one open dump: finds commands, runs a line, sends the lines where they go
crashpy.grammar    one input line: words, quotes, pipes, redirection
crashpy.command    the kit: a command is a generator of records, its options, its text
crashpy.kernel     kernel knowledge, as functions on drgn's Objects
crashpy.commands   one file per crash command (the folder `commands/` of the source)
crashpy.repl       the prompt; only it and crashpy.kdump.tui import prompt_toolkit
crashpy.kdump      the machine that crashes: configured, armed, and where its dumps go

From Python, the commands are functions that yield records::

    import crashpy
    from crashpy.commands.ps import ps

    with crashpy.open("vmlinux", "vmcore") as dump:
        print(sum(task.rss_kib for task in ps(dump)))

and everything drgn offers is there as `dump.prog`.

Rationale: collectors yield records and never print, so that the prompt, a script
and `--json` share them, and a listing can be stopped at any line.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crashpy.dump import Dump

__all__ = ["open"]


def open(*paths: str | os.PathLike[str], **options: Any) -> Dump:  # as in gzip.open
    """Open a dump: `open("vmlinux", "vmcore")`, `open("vmcore")`, `open("folder")`.

    The options are the fields of crashpy.opening.OpenOptions. What cannot be
    opened raises crashpy.opening.OpeningError. The Dump is a context manager.
    """
    # Imported here, so that `import crashpy` costs nothing.
    from crashpy.opening import OpenOptions, open_dump

    return open_dump([os.fspath(path) for path in paths], options=OpenOptions(**options))
