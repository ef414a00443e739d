"""Where a trace starts (crash's x86_64_get_dumpfile_stack_frame())."""

from __future__ import annotations

from functools import cached_property

from drgn import sizeof

from crashpy.kernel.stack.areas import Area
from crashpy.kernel.stack.records import Registers
from crashpy.kernel.stack.sizes import FrameSizes
from crashpy.kernel.stack.unwinder import KERNEL_MAP, StackError

Place = tuple[int, int]  # a return address, and the slot it is in


class Start(FrameSizes):
    """A stack whose innermost call can be found.

    A task that is not on a CPU goes on behind the switch to another one. Of one that is,
    the stack tells how its CPU was stopped; else the registers in the dump's notes do.
    """

    # Places by which a CPU may have been stopped, the less certain ones.
    _sysrq: Place | None = None
    _notified: Place | None = None
    _called: Place | None = None
    _halted: Place | None = None

    @cached_property
    def _thread_info_size(self) -> int:
        return sizeof(self._all.prog.type("struct thread_info")) & ~7

    def _start_as_told(self) -> None:
        options = self._options
        sp, cpu = options.sp or 0, self.task.cpu
        base, top = self.base, self.top
        if sp and not base <= sp < top and not self._all.areas.in_alternate(cpu, sp):
            raise StackError(
                f"non-process stack address for this task: {sp:x}\n"
                f"    (valid range: {base:x} - {top:x})"
            )
        self.read_stack(base, top)
        self.ip = options.ip or self._all.after_switch
        self.sp = sp or self._saved_sp()
        if not sp:
            self._saved_bp()

    def _start_inactive(self) -> None:
        self.ip = self._all.after_switch
        self.sp = self._saved_sp()
        low = None if self._options.all_text else self.sp & ~7
        if low is not None and not self.holds(low):
            return
        self.read_stack(self.base, self.top, low)
        self._saved_bp()

    def _saved_bp(self) -> None:
        frame = self._all.inactive_frame
        if frame is not None and self._all.orc is not None and self.holds(self.sp + frame[0]):
            self.bp = self.word(self.sp + frame[0])

    def _saved_sp(self) -> int:
        if self.task.stack_pointer is not None:
            return self.task.stack_pointer
        raise StackError("cannot determine starting stack pointer")

    def _start_active(self) -> None:
        """crash's x86_64_get_dumpfile_stack_frame(): look for how the CPU was stopped."""
        everything = self._all
        tasks = everything.dump.tasks
        panic = tasks.panic_found and tasks.panic.address == self.task.address
        stack = self.base, self.top, self.words
        found = None
        if not (panic and self._in_interrupt()):
            found = self._stopped(panic, 0, -1, False)
        if found is None:
            for area in self._other_stacks(self.task.cpu):
                try:
                    self.read_stack(area.base, area.top)
                except StackError:
                    continue
                index = -1 if area.name == "IRQ" else area.index
                found = self._stopped(panic, 1, index, area.name == "NMI")
                if found is not None:
                    break
        (self.base, self.top, self.words), self.low = stack, stack[0]
        if found is None:
            found = self._sysrq or self._notified
        if found is not None:
            self.ip, self.sp = found
            return
        if (registers := self._registers) is not None:
            self.ip, self.sp = registers.rip, registers.rsp
            self.in_user_space = registers.user
            self.in_kernel_space = not registers.user and everything.is_text(self.ip)
            return
        found = self._called or self._halted
        if found is None:
            found = everything.after_switch, self._saved_sp()
        self.ip, self.sp = found

    @cached_property
    def _registers(self) -> Registers | None:
        """The dump's registers of the task's CPU, if they can be the task's.

        crash does not take those of user mode, and shows what earlier calls left on the
        kernel's stack for a CPU that was not in the kernel at all.
        """
        registers = self._all.dumped_registers(self.task)
        if registers is None or registers.user:
            return registers
        sp, base = registers.rsp, self.task.stack
        own = base <= sp < base + self._all.stack_size
        return registers if own or self._all.areas.in_alternate(self.task.cpu, sp) else None

    def _in_interrupt(self) -> bool:
        """Whether the CPU's registers are good and on its interrupt stack."""
        registers = self._registers
        if registers is None:
            return False
        self.sp = registers.rsp
        return self._all.areas.in_irq(registers.rsp) is not None and self._verified(
            0, registers.cs, registers.ss, registers.rip, registers.rsp, registers.rflags
        )

    def _other_stacks(self, cpu: int) -> list[Area]:
        areas = self._all.areas
        found = [areas.irq[cpu]] if cpu in areas.irq else []
        return found + [a for a in areas.exception.get(cpu, ()) if a.available]

    def _stopped(self, panic: bool, stage: int, estack: int, nmi: bool) -> Place | None:
        """Where a stack says that the CPU was stopped: return address and its slot."""
        everything = self._all
        names = everything.function_at
        crashed = paniced = None
        start, end = everything.text
        for number, word in enumerate(self.words):
            if not start <= word < end:
                continue
            name = names(word)
            here = word, self.low + 8 * number
            if name in ("crash_kexec", "machine_kexec"):
                if (
                    name == "crash_kexec"
                    and everything.callee(word) != "machine_kexec"
                    and not self._text
                    and crashed is None
                ):
                    crashed = here  # the second one counts, if there is one
                    continue
                return here
            if estack >= 0 and name in ("nmi_watchdog_tick", "default_do_nmi"):
                entry = everything.address_of("die_nmi")
                if everything.callee(word) != "die_nmi" or entry is None:
                    continue
                self.starts_here = True
                return entry, here[1] - 56
            if name == "panic":
                paniced = here
                continue
            if name == "die":
                if (last := self._last(number + 1, "sysrq_handle_crash")) is None:
                    return here
                self._sysrq = last
            elif name == "sysrq_handle_crash":
                self._sysrq = self._last(number, name)
            if panic:
                continue
            if stage and name in ("smp_call_function_interrupt", "stop_this_cpu"):
                self._called = here
            elif name == "crash_nmi_callback":
                return here
            elif nmi and name == "notify_die":
                self._notified = here
            elif not stage and name == "cpu_idle" and self.task.pid == 0 and not self._halted:
                self._halted = here
        return paniced or crashed

    def _last(self, number: int, name: str) -> Place | None:
        found = None
        for n in range(number, len(self.words)):
            word = self.words[n]
            if word >= KERNEL_MAP and self._all.function_at(word) == name:
                found = word, self.low + 8 * n
        return found
