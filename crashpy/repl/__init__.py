"""The interactive prompt. prompt_toolkit and pygments are imported below here only.

prompt.py     reads a line: history, completion, highlighting, the toolbar, vi and emacs
completion.py what Tab offers;  names.py  the names it offers, gathered when first needed
highlight.py  colours of input and output
pager.py      the screen, and the pager for what exceeds it
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crashpy.session import Session


def colourful() -> bool:
    """Whether the terminal shows colours and its user wants them (https://no-color.org)."""
    plain = os.environ.get("TERM", "dumb") == "dumb" or "NO_COLOR" in os.environ
    return sys.stdout.isatty() and not plain


def run(session: Session) -> None:
    """Read and execute lines until `exit` or Ctrl-D.

    Ctrl-C ends the running command or the half-typed line, never the session.
    """
    from crashpy.repl.pager import Terminal
    from crashpy.repl.prompt import Prompt

    colour = None
    if colourful():
        from crashpy.repl.highlight import colourer

        colour = colourer()
    session.console = Terminal(session.settings, colour)
    prompt = Prompt(session)
    while not session.finished:
        try:
            line = prompt.read()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        try:
            session.enter(line)
        except KeyboardInterrupt:
            session.console.complain("")
