"""exit, q: leave."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from crashpy.command import command

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.session import Session


@command(usage=" ")
def exit(_dump: Dump, *, session: Session) -> Iterator[str]:
    """leave crashpy

    The session ends with the line that holds this command; the rest of an
    input file is not read. `q` and `quit` are the same.

    EXAMPLES
      Leave from an input file:

        crash> < commands
        crash> sys | grep PANIC
               PANIC: "Oops: Oops: 0000 [#1] SMP" (check log for details)
        crash> exit
    """
    session.finished = True
    yield from ()


@command(name="q", usage=" ")
def quit(dump: Dump, *, session: Session) -> Iterator[str]:
    """leave crashpy

    The same as `exit`.

    EXAMPLES
        crash> q
    """
    yield from exit(dump, session=session)
