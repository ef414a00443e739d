"""What is open: the program, where its files came from, and what all commands share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING

from drgn import FaultError, Program

if TYPE_CHECKING:
    from crashpy.disassembly import Disassembler
    from crashpy.elf import ElfSymbols
    from crashpy.gdb.target import Target
    from crashpy.opening.options import OpenOptions
    from crashpy.symbols import SymbolTable
    from crashpy.tasks import Task, TaskTable
    from crashpy.vmcore.recognise import Vmcore

log = logging.getLogger("crashpy")


def _default_options() -> OpenOptions:
    from crashpy.opening.options import OpenOptions  # its package imports this module

    return OpenOptions()


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
    options: OpenOptions = field(default_factory=_default_options)  # how it was opened
    files: tuple[Vmcore, ...] = ()  # the dump's files, their headers read; several: a split set
    kernel_file: str = ""  # the ELF file drgn reads: `kernel`, or what it was unpacked to
    build_id: bytes | None = None  # the kernel's
    symtab: ElfSymbols | None = None  # the kernel's symbols where there is no vmlinux
    _context: Task | None = None

    @property
    def tag(self) -> str:
        """What crash appends to a dump's name: what is known to be missing from it."""
        if self.files and self.files[0].form == "elf":
            return "  [INCOMPLETE]" if self.incomplete else ""
        tags = [(self.partial, " [PARTIAL DUMP]"), (self.incomplete, " [INCOMPLETE]")]
        if self.files:
            tags.append((self.files[0].vmemmap_excluded, " [EXCLUDED VMEMMAP]"))
        text = "".join(text for there, text in tags if there)
        if len(self.files) > 1:  # show_split_dumpfiles() has one blank less
            return text
        return f" {text}" if text else ""

    @property
    def live(self) -> bool:
        """This machine's own memory, not a dump."""
        return any(file.form == "kcore" for file in self.files)

    @cached_property
    def vmcoreinfo(self) -> dict[str, str]:
        """What the kernel says of itself: KEY=VALUE, as in `NUMBER(phys_base)`."""
        from crashpy.vmcore.recognise import parse_vmcoreinfo

        if self.files and self.files[0].vmcoreinfo_text:
            return self.files[0].vmcoreinfo
        return parse_vmcoreinfo(self.prog["VMCOREINFO"].string_())

    @cached_property
    def release(self) -> str:
        """The kernel's release, as `uname -r` says it."""
        return self.vmcoreinfo.get("OSRELEASE", "") or self.utsname[2]

    @cached_property
    def utsname(self) -> tuple[str, ...]:
        """sysname, nodename, release, version, machine, domainname, from memory.

        From the dump's header where memory does not have them.
        """
        try:
            name = self.prog["init_uts_ns"].name
            members = "sysname", "nodename", "release", "version", "machine", "domainname"
            return tuple(
                getattr(name, member).string_().decode(errors="replace") for member in members
            )
        except (LookupError, FaultError):
            header = self.files[0].header if self.files else None
            return header.utsname if header else ("",) * 6

    @cached_property
    def page_size(self) -> int:
        """Bytes of a page of this kernel."""
        if size := self.vmcoreinfo.get("PAGESIZE"):
            return int(size)
        return int(self.prog["PAGE_SIZE"])

    def close(self) -> None:
        """Let go of the files. drgn keeps its own until the program is gone."""
        for file in self.files:
            file.close()

    def __enter__(self) -> Dump:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @cached_property
    def tasks(self) -> TaskTable:
        from crashpy.tasks import TaskTable

        return TaskTable(self)

    @cached_property
    def symbols(self) -> SymbolTable:
        from crashpy.symbols import SymbolTable

        return SymbolTable(self)

    @cached_property
    def gdb(self) -> Target:
        from crashpy.gdb.target import Target

        return Target(self)

    @cached_property
    def disassembler(self) -> Disassembler:
        from crashpy.disassembly import Disassembler

        return Disassembler()

    @property
    def context(self) -> Task:
        """The task that commands act on: the panic task until `set` chooses another."""
        if self._context is None:
            self._context = self.tasks.panic
        return self._context

    @context.setter
    def context(self, task: Task) -> None:
        self._context = task
