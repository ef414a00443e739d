"""repeat: run a command line again and again."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from crashpy.command import CommandError, UsageError, command

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.session import Session


@command(usage="[-seconds] command", words=True)
def repeat(_dump: Dump, *, session: Session, words: Sequence[str] = ()) -> Iterator[str]:
    """run a command again and again

    Runs the command until Ctrl-C, until the pager or the program that reads
    the output is closed, or until the command fails; with -SECONDS it waits
    that long between two runs. A dump does not change, so this is of use on a
    live system.

    EXAMPLES
      Stopped by the program that reads the output:

        crash> repeat eval 5 | head -3
        hexadecimal: 5
            decimal: 5
              octal: 5
    """
    if not words:
        raise UsageError
    seconds = 0
    if words[0].startswith("-"):
        seconds = _seconds(words[0][1:])
        words = words[1:]
    line = " ".join(words)
    failures = session.failures
    while line and session.failures == failures and not session.finished:
        yield from session.run(line)
        time.sleep(seconds)


def _seconds(word: str) -> int:
    if not re.match("[0-9]", word):
        raise UsageError
    if bad := re.search("[^0-9]", word):
        raise CommandError(f'{word}: "{bad[0]}" is not a digit 0 - 9')
    return int(word)
