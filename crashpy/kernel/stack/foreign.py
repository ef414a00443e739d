"""Traces of architectures other than x86-64: drgn's, in this package's records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drgn import FaultError, Object, StackFrame

from crashpy.command import Address
from crashpy.kernel.stack.records import Frame
from crashpy.kernel.stack.unwinder import StackError, Unwinder

if TYPE_CHECKING:
    from crashpy.tasks import Task


def foreign_frames(unwinder: Unwinder, task: Task, *, lines: bool = False) -> list[Frame]:
    """The calls of a task by debug information; inlined ones are part of their callers."""
    try:
        thread = Object(unwinder.prog, "struct task_struct *", value=task.address)
        trace = unwinder.prog.stack_trace(thread)
    except (FaultError, LookupError, ValueError) as error:
        raise StackError(f"cannot unwind: {error}") from error
    found: list[Frame] = []
    for frame in trace:
        if frame.is_inline:
            continue
        try:
            ip, sp = frame.pc, _stack_pointer(frame)
        except LookupError:
            continue
        if (site := unwinder.site(ip)) is None:
            continue
        line = unwinder.line(ip) if lines else None
        found.append(
            Frame(len(found), Address(sp), site.name, site.offset, Address(ip), site.module, line)
        )
    return found


def _stack_pointer(frame: StackFrame) -> int:
    try:
        return frame.sp
    except LookupError:  # found by frame pointers: a record of them is at a frame's bottom
        return frame.register("fp")
