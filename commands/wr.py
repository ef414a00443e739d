"""wr: crash's word for writing memory, which crashpy never does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from crashpy.command import CommandError, command

if TYPE_CHECKING:
    from crashpy.dump import Dump


@command(usage="[-u|-k|-p] [-8|-16|-32|-64] [address|symbol] value", words=True)
def wr(dump: Dump, *, words: Sequence[str] = ()) -> Iterator[NoReturn]:  # noqa: ARG001
    """write memory: refused

    crash can write to the memory of the machine it runs on. A dump cannot be changed,
    and crashpy does not change a running machine either.

    EXAMPLES
      crash> wr jiffies 0
      wr: not allowed on dumpfiles
    """
    if dump.live:
        raise CommandError("not allowed: memory is only read")
    raise CommandError("not allowed on dumpfiles")
    yield
