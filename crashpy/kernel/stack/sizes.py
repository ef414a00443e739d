"""How much of the stack belongs to a function (crash's x86_64_get_framesize())."""

from __future__ import annotations

from drgn import FaultError

from crashpy.kernel.stack import orc
from crashpy.kernel.stack.records import Note
from crashpy.kernel.stack.view import StackView


class FrameSizes(StackView):
    """A stack on which frames can be measured."""

    def _size(self, ip: int, sp: int, slot: int | None = None) -> int:
        """Bytes between a return address's slot and its caller's.

        `slot` is where `sp` stands for on the task's own stack: there the frame pointer is
        followed as well.
        """
        if self._flat or self.guessing:
            return 0
        everything = self._all
        site = everything.site(ip)
        if site is None:
            self.guessing = True
            return 0
        interrupted = self.exception_ip == ip
        if self.looking_for_caller and (distance := self._to_caller(sp)) is not None:
            return distance
        if site.name == "irq_entries_start":
            try:
                return 0 if everything.prog.read(ip, 1) == b"\x6a" else 8
            except FaultError:
                return 8
        if everything.frame_pointers and not interrupted and (frame := self._frame_pointer(sp)):
            return frame - sp
        if ip - site.offset in everything.initial_text:
            return 0
        if everything.orc is not None and (size := self._by_orc(ip, sp, slot)) >= 0:
            return size
        counted = everything.counted(ip, site, interrupted)
        if counted is None:
            self.guessing = True
            return 0
        return counted

    def _by_orc(self, ip: int, sp: int, slot: int | None) -> int:
        tables = self._all.orc
        assert tables is not None
        entry = tables.find(ip)
        if entry is None:
            if not tables.covers(ip):
                self.items.append(
                    Note(
                        f"WARNING: {ip:x}: ip is outside kernel and module text ranges",
                        error=True,
                    )
                )
            return -1
        sp_offset, bp_offset, sp_reg, bp_reg, call = entry
        if not call:
            return -1
        size, caller_sp = -1, 0
        if sp_reg == orc.REG_SP:
            size, caller_sp = sp_offset - 8, sp + 8 + sp_offset
        elif sp_reg == orc.REG_BP and self.bp and self.base <= self.bp < self.top:
            caller_sp = self.bp + sp_offset
            size = caller_sp - sp - 16
        if bp_reg == orc.REG_PREV_SP and caller_sp:
            saved = caller_sp + bp_offset
            self.bp = 0
            if slot is not None and self.base <= saved < self.top:
                index = (slot + saved - sp - self.low) >> 3
                self.bp = self.words[index] if 0 <= index < len(self.words) else 0
        elif bp_reg != orc.REG_UNDEFINED:
            self.bp = 0
        return size

    def _frame_pointer(self, sp: int) -> int:
        """The slot of the caller's return address less one word, by the saved %rbp."""
        if not self.holds(sp - 8) or sp - 8 < self.low:
            return 0
        frame = self.word(sp - 8)
        if not self.holds(frame) or frame & 7 or frame <= sp + 8 or not self.holds(frame + 8):
            return 0
        return frame if self._all.is_text(self.word(frame + 8)) else 0

    def _to_caller(self, sp: int) -> int | None:
        """How far up an interrupted function's caller is, found by what it calls."""
        everything = self._all
        name = everything.function_at(self.exception_ip)
        if name is None:
            return None
        for slot in range(max(sp, self.low), self.low + 8 * len(self.words), 8):
            word = self.word(slot)
            if not everything.is_text(word):
                continue
            site = everything.site(word)
            if site is None or (not site.offset and not self.guessing):
                continue
            if everything.callee(word) == name:
                return slot - sp
        return None
