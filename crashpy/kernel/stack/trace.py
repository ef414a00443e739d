"""The way up a task's stacks, as crash goes it.

A return address leads to the next one by the size of its function's frame; where no size
is known, the next word that is an address of kernel text is taken for it. This is crash's
x86_64_low_budget_back_trace_cmd(), so that the frames are those that crash shows.
"""

from __future__ import annotations

from crashpy.command import Address
from crashpy.kernel.sched import PF_KTHREAD
from crashpy.kernel.stack.areas import Area
from crashpy.kernel.stack.foreign import foreign_frames
from crashpy.kernel.stack.records import PT_REGS, Frame, Item, Note, StackEnd, Words
from crashpy.kernel.stack.reference import Reference
from crashpy.kernel.stack.start import Start
from crashpy.kernel.stack.unwinder import KERNEL_MAP, StackError
from crashpy.kernel.stack.view import CS, NOTHING, RSP

NO_STACK = "(no stack)"  # a task that has exited

# What became of a word on the stack.
IGNORED, SHOWN, SHOWN_WITH_REGISTERS, COMPLETE = range(4)


class Trace(Start):
    """One task's trace, or a search of its stack."""

    _user_entry = False  # the interrupt came from user mode
    _resume: int | None = None  # where to go on after an exception stack
    _exception_values: tuple[int, ...] = ()  # the registers shown last

    def run(self) -> list[Item]:
        """All that the trace has to show. Raises StackError; `items` has what came before."""
        everything = self._all
        options = self._options
        if everything.live and self.is_active and not self._text:
            self.items.append(Note("(active)"))
            return self.items
        if not self.task.stack:
            self.items.append(Note(NO_STACK))
            return self.items
        if options.reference is not None:
            self.reference = Reference(everything, options.reference)
        if not everything.native:
            return self._foreign()
        if options.ip is not None or options.sp is not None:
            self._start_as_told()
        elif not self.is_active:
            self._start_inactive()
        else:
            self.read_stack(self.base, self.top)
            self._start_active()
        if options.all_text:
            # struct thread_info was there once: crash starts behind it.
            self.sp = self.task.stack + self._thread_info_size
            self.ip = 0
        self._walk()
        return self.items

    def _foreign(self) -> list[Item]:
        for frame in foreign_frames(self._all, self.task, lines=self._options.lines):
            self.items.append(frame)
            if self.reference is not None:
                self.reference.check_frame(frame.ip, frame.function)
        return self.items

    def _walk(self) -> None:
        everything = self._all
        areas = everything.areas
        known = self.low <= self.sp < self.low + 8 * len(self.words)
        if not (self.in_user_space or known or (self.sp and everything.readable(self.sp))):
            self.items.append(Note("cannot determine starting stack pointer", error=True))
            if self.is_active and self._registers is not None:
                self.items.append(self._registers)
            return
        if self._introduced():
            return
        first = self.sp
        done = False
        entry: int | None = None  # struct pt_regs of the interrupt, on another stack
        on_other_stack = not self.holds(self.sp) or self.is_active
        if on_other_stack:
            for _ in range(16):
                if area := areas.in_exception(self.sp):
                    done, left = self._exception_stack(area, entry)
                    if left:
                        return
                entry = None
                if not done and (area := areas.in_irq(self.sp)):
                    entry = self._irq_stack(area)
                if done or areas.in_exception(self.sp) is None:
                    break
            if not done and (self.on_exception_stack or self.on_irq_stack):
                done, left = self._back_to_process(first)
                if left:
                    return
        if not self.holds(self.sp) and not done:
            self.items.append(Note("cannot determine starting stack pointer", error=True))
            return
        sp = self.sp
        if not (done or self._text or self.on_exception_stack or self.on_irq_stack):
            sp = self._scheduled(sp)
        if entry is not None:
            done, sp = self._interrupted(entry)
        self.guessing = False
        last = 0
        if not done:
            last = self._climb(sp, self.top, process=True)
        if (
            (entry is None or not self._user_entry)
            and not self.task.flags & PF_KTHREAD
            and self.base == self.task.stack
            and last < self.top - PT_REGS.size
        ):
            address = self.top - everything.padding - PT_REGS.size
            self._exception_frame(address, verify=False)

    def _introduced(self) -> bool:
        """What comes before the first frame; whether that is all."""
        if self._text:
            if self.in_user_space and not self._options.all_text:
                return True
            if not self._options.all_text:
                name = self._all.function_at(self.ip)
                more = " (schedule)" if name == "thread_return" else ""
                self.items.append(Note(f"{'START: ':>21}{name or '(null)'}{more} at {self.ip:x}"))
        elif self.in_user_space:
            self.items.append(self._described(self._registers, "user space"))
            return True
        elif self.in_kernel_space:
            self.items.append(self._described(self._registers))
        elif self.starts_here:
            self._entry(self.sp, self.ip, started=True)
            self.level += 1
        return False

    def _exception_stack(self, area: Area, entry: int | None) -> tuple[bool, bool]:
        """Up an exception stack: whether the trace ends with it, and whether at once."""
        everything = self._all
        self.on_exception_stack = True
        sp = self.sp if self._resume is None else self._resume
        self._switch_to(area, f"read of exception stack at {area.base:x} failed")
        if entry is not None:
            self._entry(entry, self.ip, from_exception=True)
            self._exception_frame(entry, verify=False)
            sp += PT_REGS.size
            if self.exception_ip and (size := self._size(self.exception_ip, sp)) >= 0:
                sp += size
            self.level += 1
        end = area.top - PT_REGS.size
        nested = everything.nested_nmi is not None and area.name == "NMI"
        if nested:
            end -= 12 * 8
        self.guessing = False
        self._climb(sp, end, process=False)
        cs = self._exception_frame(end, verify=False)[CS]
        self.items.append(StackEnd(f"{area.name} exception stack"))
        saved = area.top - 5 * 8
        if nested and self.sp <= area.top - 17 * 8:
            # A second copy of the registers, for NMIs that come while one is handled.
            saved -= 12 * 8
            if self.word(saved) == everything.nested_nmi:
                saved += 5 * 8
        self.ip, self.sp = self.word(saved), self.word(saved + 24)
        self.shown_up_to = 0
        if cs & 3:
            return True, False
        self._entry(self.sp, self.ip, started=True, keep_exception_ip=True)
        self.guessing = False
        if everything.areas.in_exception(self.sp) == area:
            self.items.append(
                Note(
                    f"    [ {area.name} exception stack recursion: "
                    "prior stack location overwritten ]"
                )
            )
            return False, True
        self.level += 1
        self._resume = self.sp
        if (size := self._size(self.ip, self.sp)) >= 0:
            self._resume += size
        return False, False

    def _irq_stack(self, area: Area) -> int | None:
        """Up an interrupt stack; the address of the registers it was entered with."""
        everything = self._all
        self.on_irq_stack = True
        sp = self.sp if self._resume is None else self._resume
        self._resume = None
        self._switch_to(area, f"read of IRQ stack at {area.base:x} failed")
        self.guessing = False
        self._climb(sp, area.top, process=False)
        self.items.append(StackEnd("IRQ stack"))
        entry: int | None = self._linked(self.word(area.top - 8))
        assert entry is not None
        self.sp = entry
        self.ip = self.word(area.top - 16)
        # These come without an interrupt.
        if everything.function_at(self.ip) in (
            "do_softirq",
            "do_softirq_own_stack",
            "call_softirq",
        ):
            entry = None
        self.shown_up_to = 0
        return entry

    def _linked(self, pointer: int) -> int:
        """The registers that the link at the top of an interrupt stack stands for."""
        link = self._all.new_interrupts
        guess = pointer - (40 if link is None else link)
        for address in (pointer, guess, guess + 8, guess - 8, guess + 16, guess - 16):
            if self._exception_frame(address, verify=True, show=False) is not NOTHING:
                return address
        return guess

    def _back_to_process(self, first: int) -> tuple[bool, bool]:
        """From the other stacks to the task's own: whether the trace ends, and at once."""
        everything = self._all
        sp = self.sp if self._resume is None else self._resume
        base = self.task.stack
        top = base + everything.stack_size
        if not base <= sp < top:
            self.base, self.top = base, top
            if frame := everything.areas.entry_frame(self.task.cpu, sp):
                self._exception_frame(frame, verify=False)
                self.items.append(StackEnd("entry trampoline stack"))
                return True, True
            if self.on_exception_stack and self.on_irq_stack:
                raise StackError(
                    "cannot transition from exception stack to IRQ stack to current process"
                    f" stack:\n    exception stack pointer: {first:x}\n"
                    f"          IRQ stack pointer: {self.sp:x}\n"
                    f"      process stack pointer: {sp:x}\n"
                    f"         current stack base: {base:x}"
                )
            if self.on_irq_stack:
                raise StackError(
                    "cannot transition from IRQ stack to current process stack:\n"
                    f"        IRQ stack pointer: {first:x}\n"
                    f"    process stack pointer: {sp:x}\n"
                    f"       current stack base: {base:x}"
                )
            name = everything.function_at(self.ip)
            if not everything.in_user_stack(self.task, sp):
                if name != "ia32_sysenter_target":
                    raise StackError(
                        "cannot transition from exception stack to current process stack:\n"
                        f"    exception stack pointer: {first:x}\n"
                        f"      process stack pointer: {sp:x}\n"
                        f"         current stack base: {base:x}"
                    )
                if not sp:
                    return True, True
            self.read_stack(base, top)
            return True, False
        try:
            self.read_stack(base, top)
        except StackError as error:
            raise StackError(f"read of process stack at {base:x} failed") from error
        self.sp = sp
        return False, False

    def _scheduled(self, sp: int) -> int:
        """Of a task that gave up its CPU: the slot of its first return address."""
        everything = self._all
        name = everything.function_at(self.ip)
        if name not in ("thread_return", "schedule", "__schedule"):
            return sp
        if everything.orc is not None and everything.inactive_frame is not None:
            return sp + everything.inactive_frame[1]
        as_schedule = name != "__schedule"
        if not as_schedule:
            self._entry(sp, self.ip)
            self.level += 1
            for address in range(sp, self.top, 8):
                word = self.word(address)
                site = everything.site(word) if everything.is_text(word) else None
                if site and site.offset and everything.callee(word) == "__schedule":
                    sp, self.ip = address, word
                    break
            as_schedule = everything.function_at(self.ip) == "schedule"
        if as_schedule:
            self._entry(sp, self.ip, scheduling=True)
            self.level += 1
            sp += 8
        return sp

    def _interrupted(self, entry: int) -> tuple[bool, int]:
        """The registers an interrupt left on the task's stack; where to go on."""
        if self._all.new_interrupts is not None:
            self.ip = self.word(entry - 8)
        self._entry(entry, self.ip, from_exception=True)
        values = self._exception_frame(entry, verify=False)
        self._user_entry = bool(values[CS] & 3)
        if self._user_entry:
            self.level += 1
            return True, entry
        sp = self._behind(entry, values)
        self.looking_for_caller = True
        if self.exception_ip and (size := self._size(self.exception_ip, sp)) >= 0:
            sp += size
        self.looking_for_caller = False
        self.level += 1
        return False, sp

    def _behind(self, address: int, values: tuple[int, ...]) -> int:
        """The stack pointer before an exception left its registers.

        The CPU aligns the stack first: the word it may skip is no part of any frame. crash
        starts with that word, and shows it where it happens to be a return address.
        """
        end = address + PT_REGS.size
        return end + 8 if values[RSP] == end + 8 and not self._flat else end

    def _climb(self, sp: int, end: int, *, process: bool) -> int:
        """Show the return addresses from a slot up to the end of a stack.

        Returns the address of the last exception's registers on the task's own stack.
        """
        everything = self._all
        low, words = self.low, self.words
        texts = everything._texts
        last = 0
        if sp < low:
            return last
        if self._text:
            first = (sp - low) >> 3
            for index, word in enumerate(words[first : (end - low + 7) >> 3], first):
                if word >= KERNEL_MAP and everything.is_text(word):
                    self._entry(low + 8 * index, word)
            return last
        # As a wrong %rbp may lead anywhere, `sp` need not be a multiple of 8; slots are.
        slot = low + (sp - low & ~7)
        end = min(end, low + 8 * len(words))
        while sp < end and slot < end:
            word = words[(slot - low) >> 3]
            size = 0
            if (
                word >= KERNEL_MAP
                and (texts[word] if word in texts else everything.is_text(word))
                and (not process or not self.checking_callers or self._calls_right(word))
            ):
                result = self._entry(slot, word)
                ip = 0
                if result == COMPLETE:
                    break
                if result == SHOWN:
                    self.level += 1
                    ip = self.exception_ip or word
                elif result == SHOWN_WITH_REGISTERS:
                    self.level += 1
                    ip = self.exception_ip
                    last = slot + 8
                    size = self._behind(last, self._exception_values) - last
                if ip:
                    own = slot + size if process else None
                    size += max(0, self._size(ip, sp + size, own))
            sp += size + 8
            slot += (size & ~7) + 8
        return last if process else 0

    def _calls_right(self, word: int) -> bool:
        """Whether the caller at a return address calls the function shown before it."""
        site = self._all.site(word)
        if site is None or (not site.offset and not self.guessing):
            return False
        callee = self._all.callee(word)
        if callee is None:
            return not site.offset
        return callee == self.called

    def _entry(
        self,
        slot: int,
        ip: int,
        *,
        started: bool = False,
        from_exception: bool = False,
        scheduling: bool = False,
        keep_exception_ip: bool = False,
    ) -> int:
        """Show one return address (crash's x86_64_print_stack_entry())."""
        everything = self._all
        if not keep_exception_ip:
            self.exception_ip = 0
        site = everything.site(ip)
        if site is None:
            return IGNORED
        name, offset, module, exception = site
        if from_exception:
            slot = self.sp
        elif started:
            # crash's lists of return addresses have the stack's base here.
            slot = self.base if self._text else self.sp
        if self._text:
            self.items.append(Frame(None, Address(slot), name, offset, Address(ip), module))
            if self.reference is not None:
                self.reference.check_frame(ip, name)
            return SHOWN
        check = None
        if not (from_exception or started):
            if not offset:
                if name == "child_rip":
                    name = "kernel_thread"
                elif not scheduling:
                    if name != "error_exit":
                        return IGNORED
                    check = 8
            elif not scheduling:
                if exception:
                    check = 8
                if "_interrupt" in name and everything.areas.in_irq(self.sp):
                    check = 0
        if scheduling:
            name = "schedule"
        if name == "child_rip":
            name = "kernel_thread"
        result = (
            COMPLETE if name in ("kernel_thread", "cpu_idle", "system_call_fastpath") else SHOWN
        )
        if self._options.full:
            if self.shown_up_to:
                self._show_words(slot)
            self.shown_up_to = slot + 8
        self.items.append(
            Frame(
                self.level,
                Address(slot),
                name,
                offset,
                Address(ip),
                module,
                everything.line(ip) if self._options.lines else None,
                self.guessing,
            )
        )
        if check is not None:
            values = self._exception_frame(slot + check, verify=True)
            if values is not NOTHING:
                self._exception_values = values
                result = SHOWN_WITH_REGISTERS
        if self.reference is not None:
            self.reference.check_frame(ip, name)
        self.called = name
        if everything.orc is None:
            self._watch_callers()
        return result

    def _watch_callers(self) -> None:
        """Without ORC: whether the next frame must be one that calls this function."""
        direct = self.called in ("schedule", "schedule_timeout") and not (
            self.never_check_callers or self.is_active
        )
        if not direct and self.checking_callers:
            self.never_check_callers = True
        self.checking_callers = direct

    def _show_words(self, slot: int) -> None:
        start = self.shown_up_to
        if slot < start or not self.holds(slot) or not self.holds(start) or start < self.low:
            return
        first = (start - self.low) >> 3
        words = self.words[first : first + ((slot - start) >> 3) + 1]
        names = None
        if self._options.names:
            radix = self._options.radix
            names = tuple(self._all.symbolic(word, radix) for word in words)
        self.items.append(Words(Address(start), tuple(map(Address, words)), names))

    def search(self, area: Area | None = None) -> list[Item]:
        """Every struct pt_regs of the task's stack, or of another one (`bt -e`, `bt -E`)."""
        self.searching = True
        start = 0
        if area is not None:
            self.sp = area.base
            self._switch_to(area, f"read of stack at {area.base:x} failed")
        else:
            self.read_stack(self.base, self.top)
            if self._options.sp:
                self._search_from(self._options.sp)
                start = self.sp
        words, low = self.words, self.low
        first = (start - low) >> 3 if start else 0
        found: list[Item] = []
        for index in range(first, len(words) - 20):
            if words[index + CS] in (0x10, 0x33, 0x23):
                self._exception_frame(low + 8 * index, verify=True, search=True)
        found, self.items = self.items, []
        return found

    def _search_from(self, sp: int) -> None:
        areas = self._all.areas
        self.sp = sp
        area = areas.in_exception(sp) or areas.in_irq(sp)
        if area is not None:
            self._switch_to(area, f"read of stack at {area.base:x} failed")
        elif not self.holds(sp):
            raise StackError(f"unrecognized stack address for this task: {sp:x}")
