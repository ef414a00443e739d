"""Kernel stacks: what tasks and CPUs were doing, as crash's bt sees it.

    for frame in frames(dump, task):  # the calls only, the innermost first
        frame.function, frame.ip, frame.sp

    Trace(stacks(dump), task, Options(full=True)).run()  # everything, in order

`unwinder` has what the traces of a dump share. A `Trace` is built in layers: `view` (the
words of a stack, exception frames), `sizes` (of frames), `start`, `trace`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crashpy.kernel.stack.records import Frame, Item, Note, Registers, StackEnd, Words
from crashpy.kernel.stack.trace import NO_STACK, Trace
from crashpy.kernel.stack.unwinder import Options, StackError, Unwinder

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.tasks import Task

__all__ = [
    "NO_STACK",
    "Frame",
    "Item",
    "Note",
    "Options",
    "Registers",
    "StackEnd",
    "StackError",
    "Trace",
    "Unwinder",
    "Words",
    "frames",
    "stacks",
]


def stacks(dump: Dump) -> Unwinder:
    """The dump's unwinder, with all that it found out before."""
    kept: Unwinder | None = vars(dump).get("_unwinder")
    if kept is None:
        kept = vars(dump)["_unwinder"] = Unwinder(dump)
    return kept


def frames(dump: Dump, task: Task, options: Options | None = None) -> list[Frame]:
    """The calls on a task's stack, the innermost first. What cannot be read is left out."""
    trace = Trace(stacks(dump), task, options or Options())
    try:
        items = trace.run()
    except StackError:
        items = trace.items
    return [item for item in items if isinstance(item, Frame)]
