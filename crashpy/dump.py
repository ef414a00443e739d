"""What is open: the program, where its files came from, and what all commands share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from drgn import Program

if TYPE_CHECKING:
    from crashpy.symbols import SymbolTable
    from crashpy.tasks import Task, TaskTable

log = logging.getLogger("crashpy")


@dataclass(eq=False)
class Dump:
    """One open dump. Reading it never writes; the tables are built at their first use."""

    prog: Program
    kernel: str  # as the user named it; what the banner shows after KERNEL:
    vmcore: str  # likewise, after DUMPFILE:
    debuginfo: str | None = None  # a debug file apart from the kernel image, after DEBUGINFO:
    partial: bool = False  # pages were left out on purpose: [PARTIAL DUMP]
    incomplete: bool = False  # the file was cut short while it was written
    missing: list[str] = field(default_factory=list)  # sentences on what could not be had
    # crash's error(INFO): a remark in the middle of a command's output. The
    # session shows it as `CMD: message` where the output goes.
    report: Callable[[str], None] = log.warning
    _context: Task | None = None

    @cached_property
    def tasks(self) -> TaskTable:
        from crashpy.tasks import TaskTable

        return TaskTable(self)

    @cached_property
    def symbols(self) -> SymbolTable:
        from crashpy.symbols import SymbolTable

        return SymbolTable(self)

    @property
    def context(self) -> Task:
        """The task that commands act on: the panic task until `set` chooses another."""
        if self._context is None:
            self._context = self.tasks.panic
        return self._context

    @context.setter
    def context(self, task: Task) -> None:
        self._context = task
