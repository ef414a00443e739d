"""One stack as words, and the exception frames on it."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING

from drgn import FaultError

from crashpy.kernel.stack.areas import Area
from crashpy.kernel.stack.records import PT_REGS, Item, Registers
from crashpy.kernel.stack.reference import Reference
from crashpy.kernel.stack.unwinder import MODULES, Options, StackError, Unwinder

if TYPE_CHECKING:
    from crashpy.tasks import Task

VSYSCALL = 0xFFFFFFFFFF600000
RESERVED_FLAGS = 0xFFFFFFFFFFC08028  # bits of RFLAGS that are always zero

# Indexes of registers in struct pt_regs.
RBP, RIP, CS, RFLAGS, RSP, SS = 4, 16, 17, 18, 19, 20

NOTHING: tuple[int, ...] = ()  # instead of the words of a struct pt_regs that is none


class StackView:
    """The stack a trace is on, and where the trace is."""

    def __init__(self, unwinder: Unwinder, task: Task, options: Options) -> None:
        self._all = unwinder
        self.task = task
        self._options = options
        self._flat = options.text or options.all_text or options.old or unwinder.old
        self._text = options.text or options.all_text
        self.items: list[Item] = []
        self.reference: Reference | None = None
        self.level = 0
        # The stack at hand: its bounds, and its words from `low` up.
        self.base = task.stack
        self.top = task.stack + unwinder.stack_size
        self.low = 0
        self.words: tuple[int, ...] = ()
        # Where the trace is (struct bt_info's members of these meanings).
        self.ip = 0
        self.sp = 0
        self.bp = 0
        self.exception_ip = 0  # where the last exception shown came from
        self.shown_up_to = 0  # stack words up to here are shown (-f)
        self.called = ""
        self.checking_callers = False
        self.never_check_callers = False
        self.guessing = False  # no more sizes: the next text address is taken
        self.on_exception_stack = False
        self.on_irq_stack = False
        self.searching = False  # for exception frames
        self.looking_for_caller = False  # of an interrupted function
        self.in_user_space = False
        self.in_kernel_space = False
        self.starts_here = False  # at the start of a function, not after a call

    @property
    def is_active(self) -> bool:
        return self.task.address in self._all.active

    def holds(self, address: int) -> bool:
        return self.base <= address < self.top

    def read_stack(self, base: int, top: int, low: int | None = None) -> None:
        start = base if low is None else low
        try:
            data = self._all.prog.read(start, top - start)
        except FaultError as error:
            raise StackError(f"read of stack at {base:x} failed") from error
        self.base, self.top, self.low = base, top, start
        self.words = struct.unpack(f"<{len(data) // 8}Q", data)

    def word(self, address: int) -> int:
        index = (address - self.low) >> 3
        if not 0 <= index < len(self.words):
            raise StackError(f'invalid kernel virtual address: {address:x}  type: "stack"')
        return self.words[index]

    def _switch_to(self, area: Area, message: str) -> None:
        try:
            self.read_stack(area.base, area.top)
        except StackError as error:
            raise StackError(message) from error

    def _exception_frame(
        self, address: int, *, verify: bool, show: bool = True, search: bool = False
    ) -> tuple[int, ...]:
        """Show a struct pt_regs; its words, or NOTHING where it had to be one and is not."""
        everything = self._all
        index = (address - self.low) >> 3
        if not address & 7 and index >= 0 and index + 21 <= len(self.words):
            values = self.words[index : index + 21]
        else:
            try:
                values = PT_REGS.unpack(everything.prog.read(address, PT_REGS.size))
            except (FaultError, OverflowError, ValueError) as error:
                if verify:
                    return NOTHING
                raise StackError(
                    f'invalid kernel virtual address: {address:x}  type: "pt_regs"'
                ) from error
        verified = not verify or self._verified(
            address, values[CS], values[SS], values[RIP], values[RSP], values[RFLAGS]
        )
        if verified and show:
            self._show_registers(address, values, search)
        if everything.orc is not None:
            self.bp = values[RBP]
        return values if verified else NOTHING

    def _show_registers(self, address: int, values: tuple[int, ...], search: bool) -> None:
        everything = self._all
        function = where = line = None
        offset = 0
        rip = values[RIP]
        if not values[CS] & 3:
            site = everything.site(rip)
            if site is None:
                where = self._unknown(rip)
            else:
                function, offset = site.name, site.offset
                if not search:
                    self.exception_ip = rip
                if self._options.lines:
                    line = everything.line(rip)
        self.items.append(Registers.of(values, address, function, offset, where, line))
        if self.reference is not None:
            self.reference.check_registers(values)

    def _described(self, registers: Registers | None, where: str | None = None) -> Registers:
        """Registers with what their RIP points to."""
        assert registers is not None
        if where is None and (site := self._all.site(registers.rip)) is not None:
            return replace(registers, function=site.name, offset=site.offset)
        return replace(registers, where=where or self._unknown(registers.rip))

    def _unknown(self, rip: int) -> str:
        if self._is_vmalloc(rip) and self._all.readable(rip):
            return "no symbolic reference"
        return "unknown or invalid address"

    def _is_vmalloc(self, address: int) -> bool:
        address = int(address)  # of a class of its own it would be searched for one by one
        return address in self._all.vmalloc or MODULES[0] <= address < MODULES[1]

    def _verified(self, address: int, cs: int, ss: int, rip: int, rsp: int, flags: int) -> bool:
        """Whether registers make sense as an exception's (crash's x86_64_eframe_verify())."""
        if flags & RESERVED_FLAGS or not flags & 2:
            return False
        everything = self._all
        if cs in (0x33, 0x23):
            user = rip < everything.user_top or (cs == 0x33 and rip & ~0xFFF == VSYSCALL)
            return ss == 0x2B and user and rsp < everything.user_top
        if cs != 0x10:
            return False
        text = everything.is_text(rip)
        kernel = rsp >= everything.page_offset
        end = address + PT_REGS.size
        if ss == 0x18:
            if text and kernel:
                return True
            if kernel and rsp == end and MODULES[0] <= rip < MODULES[1]:
                return True
            if text:
                area = everything.areas.in_exception(self.sp)
                if area is not None and (area.index <= 1 or (self.searching and not kernel)):
                    return True
                if self.on_exception_stack and everything.in_user_stack(self.task, rsp):
                    return True
            if everything.function_at(rip) == "ia32_sysenter_target":
                return True
            if not rip and self.holds(rsp) and self.called == "ret_from_fork":
                return True
            if self._page_faulted(address) or rsp == end:
                return True
        if not address or not kernel:
            return False
        if text and (rsp in (end, end + 8) or everything.areas.in_exception(self.sp)):
            return True
        return self._is_vmalloc(rip) and everything.readable(rip)

    def _page_faulted(self, address: int) -> bool:
        try:
            (word,) = struct.unpack("<Q", self._all.prog.read(address - 8, 8))
        except (FaultError, OverflowError, ValueError):
            return False
        return self._all.function_at(word) == "page_fault"
