"""Reading memory as gdb does through crash: what fails is named in crash's words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from drgn import Architecture, FaultError, Object, Program

if TYPE_CHECKING:
    from crashpy.dump import Dump

KERNEL, USER, FILE = "kernel", "user", "file"  # what an address counts in
CALLER = "gdb_readmem_callback"  # who reads, in crash's messages
WORD = (1 << 64) - 1
KERNEL_MAP = 0xFFFFFFFF80000000  # START_KERNEL_map of x86-64
PAGE = 4096
# Of x86-64 (Documentation/arch/x86/x86_64/mm.rst): where modules lie, and the sizes of
# the vmalloc and vmemmap areas with four and with five levels of page tables.
MODULES = 0xFFFFFFFFA0000000, 0xFFFFFFFFFF000000
VMALLOC = 32 << 40, 12800 << 40
VMEMMAP = 1 << 40, 64 << 40


class UnreadableError(Exception):
    """Memory that the dump does not have; the text is what crash says about it."""


def is_kernel(dump: Dump, address: int) -> bool:
    """Whether an address lies in the kernel's half (crash's IS_KVADDR())."""
    try:
        return address >= int(dump.prog["page_offset_base"].value_())
    except (LookupError, FaultError):
        return address >= lowest_kernel_address(dump.prog)


def lowest_kernel_address(prog: Program) -> int:
    """Where the kernel's addresses begin at the earliest; s390's share none with user's."""
    platform = prog.platform
    if platform is not None and platform.arch == Architecture.S390X:
        return 0
    return 1 << 47 if platform is None or platform.arch == Architecture.X86_64 else 1 << 63


@dataclass(frozen=True)
class Memory:
    """The kernel's memory, the context's user memory, or the dump file itself."""

    dump: Dump
    kind: str = KERNEL

    def read(self, address: int, size: int, caller: str = CALLER) -> bytes:
        try:
            if self.kind == KERNEL:
                if size and not is_kernel(self.dump, address):
                    # gdb asks crash, and crash tells it no without a word.
                    text = "" if caller == CALLER else self._complaint("invalid", address, caller)
                    raise UnreadableError(text)
                return self.dump.prog.read(address, size)
            if self.kind == USER:
                return self._user(address, size)
            return self._file(address, size)
        except (FaultError, OverflowError, ValueError, OSError, MemoryError) as error:
            raise UnreadableError(self._reason(error, address, size, caller)) from error

    def _user(self, address: int, size: int) -> bytes:
        from drgn.helpers.linux.mm import access_remote_vm

        task = self.dump.context
        if is_kernel(self.dump, address):  # mapped there too, but not the user's
            raise ValueError("an address of the kernel")
        mm = Object(self.dump.prog, "struct mm_struct *", value=task.mm)
        if not task.mm:
            raise ValueError("no user memory")
        return access_remote_vm(mm, address, size)

    def _file(self, address: int, size: int) -> bytes:
        with Path(self.dump.vmcore).open("rb") as file:
            file.seek(address)
            data = file.read(size)
        if len(data) < size:
            raise ValueError("past the end of the file")
        return data

    def _reason(self, error: Exception, address: int, size: int, caller: str) -> str:
        """Which page it was, and what crash calls the reason (readmem())."""
        if self.kind == FILE:
            return f'seek error: dumpfile address: {address:x}  type: "{caller}"'
        at = self._first_unreadable(address, size)
        if caller == CALLER and size == 4:
            caller = "gdb_readmem callback"  # so crash spells it for four bytes
        if "xcluded" in str(error):
            return ""  # crash has no word for a page that was left out on purpose
        if self.kind == USER or not (self._is_linear(at) or self._is_mapped(at)):
            return self._complaint("invalid", at, caller)
        # crash's readers differ: what a kdump file lacks is past its last page frame.
        form = self.dump.files[0].form if self.dump.files else ""
        return self._complaint("seek error:" if form == "kdump" else "read error:", at, caller)

    def _complaint(self, what: str, address: int, caller: str) -> str:
        return f'{what} {self.kind} virtual address: {address & WORD:x}  type: "{caller}"'

    def _first_unreadable(self, address: int, size: int) -> int:
        at = address
        while at < address + size:
            end = min((at // PAGE + 1) * PAGE, address + size)
            try:
                if self.kind == USER:
                    self._user(at, end - at)
                else:
                    self.dump.prog.read(at, end - at)
            except (FaultError, OverflowError, ValueError):
                return at
            at = end
        return address

    def _is_linear(self, address: int) -> bool:
        """Whether crash finds the page by arithmetic: it looks for it in the dump at once."""
        if address >= KERNEL_MAP:
            return not MODULES[0] <= address <= MODULES[1]
        prog = self.dump.prog
        for name, size in (("vmalloc_base", VMALLOC), ("vmemmap_base", VMEMMAP)):
            try:
                start = int(prog[name].value_())
            except (LookupError, FaultError):
                return False
            if start <= address < start + size[self._five_levels()]:
                return False
        return True

    def _is_mapped(self, address: int) -> bool:
        """Whether the kernel's page tables lead to a page, be it in the dump or not."""
        from drgn.helpers.linux.mm import follow_phys

        try:
            follow_phys(self.dump.prog["init_mm"].address_of_(), address)
        except (FaultError, LookupError, ValueError, NotImplementedError):
            return False
        return True

    def _five_levels(self) -> bool:
        try:
            return bool(self.dump.prog["__pgtable_l5_enabled"].value_())
        except (LookupError, FaultError):
            return False
