"""Where a task's trace starts and how it goes on, as crash decides both.

A stack is read whole and looked at as words. A return address leads to the next one by
the size of its function's frame, taken from ORC; where no size is known, the next word
that is an address of kernel text is taken for it. This is crash's
x86_64_low_budget_back_trace_cmd(), so that the frames are those that crash shows.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from drgn import FaultError, Program, ProgramFlags, sizeof

from crashpy.command import Address
from crashpy.kernel.sched import PF_KTHREAD
from crashpy.kernel.stack import orc
from crashpy.kernel.stack.areas import Area, Areas
from crashpy.kernel.stack.prologue import call_target, pushed
from crashpy.kernel.stack.records import (
    PT_REGS,
    Frame,
    Item,
    Note,
    Registers,
    StackEnd,
    Words,
)
from crashpy.kernel.stack.reference import Reference

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.tasks import Task

# Entries of exceptions: after their return address lies a struct pt_regs, where it is one
# (crash's exception_functions_orig[] and exception_functions_5_8[]).
OLD_EXCEPTIONS = """
invalid_TSS segment_not_present alignment_check xen_stack_segment general_protection page_fault
divide_error overflow bounds invalid_op device_not_available coprocessor_segment_overrun
spurious_interrupt_bug coprocessor_error simd_coprocessor_error xen_hypervisor_callback xen_debug
xen_int3 async_page_fault
"""
NEW_EXCEPTIONS = """
asm_exc_invalid_tss asm_exc_segment_not_present asm_exc_alignment_check
asm_exc_general_protection asm_exc_page_fault asm_exc_divide_error asm_exc_overflow asm_exc_bounds
asm_exc_invalid_op asm_exc_device_not_available asm_exc_coproc_segment_overrun
asm_exc_spurious_interrupt_bug asm_exc_coprocessor_error asm_exc_simd_coprocessor_error
asm_exc_debug xen_asm_exc_stack_segment xen_asm_exc_xen_hypervisor_callback xen_asm_exc_int3
"""

# Functions whose first instructions tell whether the kernel keeps frame pointers.
SAMPLES = """
sys_open sys_fork sys_read __x64_sys_open __x64_sys_fork __x64_sys_read do_futex do_fork _do_fork
sys_write vfs_read __schedule
"""

GENERAL = "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi"  # as in struct pt_regs

KERNEL_MAP = 0xFFFFFFFF80000000  # the kernel's text and its modules lie above
MODULES = 0xFFFFFFFFA0000000, 0xFFFFFFFFFF000000
VSYSCALL = 0xFFFFFFFFFF600000
RESERVED_FLAGS = 0xFFFFFFFFFFC08028  # bits of RFLAGS that are always zero

# Indexes of registers in struct pt_regs.
RBP, RIP, CS, RFLAGS, RSP, SS = 4, 16, 17, 18, 19, 20

IGNORED, SHOWN, SHOWN_WITH_REGISTERS, COMPLETE = range(4)


NO_STACK = "(no stack)"  # a task that has exited


class StackError(Exception):
    """The trace cannot go on; crash's error(FATAL)."""


class Site(NamedTuple):
    """What lies at an address."""

    name: str
    offset: int
    module: str | None
    exception: bool  # an exception's entry


@dataclass(frozen=True, slots=True)
class Options:
    """What a trace looks for and keeps."""

    text: bool = False  # -t: every return address, from the stack pointer up
    all_text: bool = False  # -T: from the stack's lowest word
    old: bool = False  # -o: do not use the sizes of frames
    full: bool = False  # -f: keep the stack's words
    names: bool = False  # -F: with the names of what they point to
    lines: bool = False  # -l
    ip: int = 0  # -I
    sp: int = 0  # -S
    reference: str | None = None  # -R


class Unwinder:
    """What all traces of a dump share: symbols, tables and sizes once found."""

    def __init__(self, dump: Dump) -> None:
        self.dump = dump
        self.prog: Program = dump.prog
        self.symbols = dump.symbols
        self.old = False  # bt -O: the old method is the default
        self._sites: dict[int, Site | None] = {}
        self._texts: dict[int, bool] = {}
        self._lines: dict[int, str | None] = {}
        self._pushed: dict[tuple[int, bool], int] = {}
        self._callees: dict[int, str | None] = {}
        self._caches: dict[int, str | None] = {}

    # The layout of the kernel.

    @cached_property
    def stack_size(self) -> int:
        try:
            return sizeof(self.prog.type("union thread_union"))
        except LookupError:
            return 16384

    @cached_property
    def areas(self) -> Areas:
        return Areas(self.prog, self.function_at)

    @cached_property
    def orc(self) -> orc.OrcTables | None:
        if self.frame_pointers:
            return None
        try:
            return orc.OrcTables(self.prog)
        except (LookupError, AttributeError, FaultError):
            return None

    @cached_property
    def frame_pointers(self) -> bool:
        """Whether functions start with push %rbp; mov %rsp,%rbp."""
        found = 0
        for name in SAMPLES.split():
            if (address := self.address_of(name)) is None:
                continue
            try:
                code = self.prog.read(address, 9)
            except FaultError:
                return False
            if code[:4] in (b"\x66\x66\x66\x66", b"\x0f\x1f\x44\x00"):
                code = code[5:]
            found += code[:4] == b"\x55\x48\x89\xe5"
        return found > 2

    @cached_property
    def inactive_frame(self) -> tuple[int, int] | None:
        """Offsets of bp and ret_addr in what __switch_to_asm() leaves on the stack."""
        try:
            # Linux kernel commit 0100301bfdf5 ("sched/x86: Rewrite the switch_to() code") (v4.9)
            kind = self.prog.type("struct inactive_task_frame")
            return kind.member("bp").offset, kind.member("ret_addr").offset
        except LookupError:
            return None

    @cached_property
    def after_switch(self) -> int:
        """Where a task goes on that is switched to: behind the call in __schedule()."""
        if (address := self.address_of("thread_return")) is not None:
            return address
        targets = {self.address_of("__switch_to"), self.address_of("__switch_to_asm")}
        targets.discard(None)
        for name in ("schedule", "__schedule"):
            try:
                symbol = self.prog.symbol(name)
                code = self.prog.read(symbol.address, symbol.size)
            except (LookupError, FaultError):
                continue
            at = code.find(b"\xe8")
            while 0 <= at <= len(code) - 5:
                ip = symbol.address + at + 5
                if call_target(code[at : at + 5], ip) in targets:
                    return ip
                at = code.find(b"\xe8", at + 1)
        return self.address_of("schedule") or 0

    @cached_property
    def initial_text(self) -> range:
        """The kernel's code that is freed once it is up: no frame of it has a known size."""
        start, end = self.address_of("__init_begin"), self.address_of("__init_end")
        return range(start or 0, end or 0)

    @cached_property
    def page_offset(self) -> int:
        try:
            return int(self.prog["page_offset_base"].value_())
        except (LookupError, FaultError):
            return 0xFFFF880000000000

    @cached_property
    def user_top(self) -> int:
        return 1 << 56 if self.five_levels else 1 << 47

    @cached_property
    def five_levels(self) -> bool:
        try:
            return b"NUMBER(pgtable_l5_enabled)=1" in self.prog["VMCOREINFO"].string_()
        except (LookupError, FaultError):
            return False

    @cached_property
    def vmalloc(self) -> range:
        try:
            start = int(self.prog["vmalloc_base"].value_())
        except (LookupError, FaultError):
            start = 0xFFFFC90000000000
        return range(start, start + ((12800 if self.five_levels else 32) << 40))

    @cached_property
    def padding(self) -> int:
        """Bytes between the user's registers and the top of a stack."""
        try:
            # Linux kernel commit df8838737b36 ("x86/fred: Disallow the swapgs instruction
            # when FRED is enabled") and its siblings (in v6.9): room for a larger frame.
            self.prog.type("struct fred_frame")
        except LookupError:
            return 0
        return 16

    @cached_property
    def nested_nmi(self) -> int | None:
        return self.address_of("repeat_nmi")

    @cached_property
    def new_interrupts(self) -> int | None:
        """How far below what an IRQ stack points to its registers are; None before v5.8."""
        if self.address_of("asm_common_interrupt") is None:
            return None
        return -64 if self.address_of("asm_call_on_stack") is not None else -32

    @cached_property
    def exceptions(self) -> frozenset[str]:
        new = self.address_of("asm_exc_page_fault") is not None
        return frozenset((NEW_EXCEPTIONS if new else OLD_EXCEPTIONS).split())

    @cached_property
    def active(self) -> frozenset[int]:
        """The tasks that were on a CPU, by address."""
        tasks = self.dump.tasks
        return frozenset(t.address for t in (*tasks.active.values(), tasks.panic))

    @cached_property
    def live(self) -> bool:
        return bool(self.prog.flags & ProgramFlags.IS_LIVE)

    # Symbols and code.

    def site(self, address: int) -> Site | None:
        try:
            return self._sites[address]
        except KeyError:
            pass
        found = self.symbols.at(address)
        site = None
        if found is not None:
            symbol, offset = found
            site = Site(symbol.name, offset, symbol.module, symbol.name in self.exceptions)
        self._sites[address] = site
        return site

    def function_at(self, address: int) -> str | None:
        site = self.site(address)
        return None if site is None else site.name

    def is_text(self, address: int) -> bool:
        if address < KERNEL_MAP:
            return False
        try:
            return self._texts[address]
        except KeyError:
            pass
        found = self._texts[address] = self.symbols.is_text(address)
        return found

    def line(self, ip: int) -> str | None:
        if ip not in self._lines:
            self._lines[ip] = self.symbols.line(ip) or None
        return self._lines[ip]

    def address_of(self, name: str) -> int | None:
        try:
            return int(self.prog.symbol(name).address)
        except LookupError:
            return None

    def callee(self, ip: int) -> str | None:
        """The function that the direct call before a return address calls."""
        if ip not in self._callees:
            try:
                target = call_target(self.prog.read(ip - 5, 5), ip)
            except FaultError:
                target = None
            name = self.function_at(target) if target else None
            if name in ("schedule_timeout_interruptible", "schedule_timeout_uninterruptible"):
                name = "schedule_timeout"
            elif name == "__cond_resched":
                name = "schedule"
            self._callees[ip] = name
        return self._callees[ip]

    def counted(self, ip: int, site: Site, interrupted: bool) -> int | None:
        """The size of a frame by its function's code; None where that cannot be read."""
        key = ip, interrupted
        if key not in self._pushed:
            start = ip - site.offset
            try:
                # A few bytes more: the last instruction may cross the address.
                code = self.prog.read(start, site.offset + 16)
            except FaultError:
                return None
            self._pushed[key] = pushed(code, site.offset, interrupted)
        return self._pushed[key]

    def symbolic(self, value: int) -> str | None:
        """crash's format_stack_entry(): the symbol or the slab cache of a word."""
        if value < 1 << 63:
            return None
        if not self.readable(value):
            return None
        if name := self.symbols.format(value):
            return name
        cache = self.cache_of(value)
        return None if cache is None else f"[{cache}]"

    def cache_of(self, value: int) -> str | None:
        page = value >> 12
        if page not in self._caches:
            from drgn.helpers.linux.slab import find_containing_slab_cache

            try:
                cache = find_containing_slab_cache(self.prog, value)
                name = cache.name.string_().decode(errors="replace") if cache else None
            except (FaultError, LookupError, ValueError):
                name = None
            self._caches[page] = name
        return self._caches[page]

    def readable(self, address: int) -> bool:
        try:
            self.prog.read(address, 1)
        except (FaultError, OverflowError, ValueError):
            return False
        return True

    # Registers that the dump keeps.

    def dumped_registers(self, task: Task) -> Registers | None:
        """The registers of the CPU a task was on (NT_PRSTATUS)."""
        from drgn import Object

        try:
            thread = Object(self.prog, "struct task_struct *", value=task.address)
            trace = self.prog.stack_trace(thread)
            values = trace[0].registers() if len(trace) else {}
        except (FaultError, LookupError, ValueError):
            return None
        if "rip" not in values or "rsp" not in values:
            return None
        general = [Address(values.get(name, 0)) for name in GENERAL.split()]
        return Registers(
            *general,
            None,
            Address(values["rip"]),
            values.get("cs", 0) & 0xFFFF,
            values.get("rflags", 0),
            Address(values["rsp"]),
            values.get("ss", 0) & 0xFFFF,
        )

    def in_user_stack(self, task: Task, address: int) -> bool:
        """Whether a user address lies in a mapping that is, or can be, a stack."""
        if not task.mm or address >= self.user_top:
            return False
        from drgn import Object
        from drgn.helpers.linux.mm import vma_find

        try:
            vma = vma_find(Object(self.prog, "struct mm_struct *", value=task.mm), address)
            if not vma:
                return False
            flags = vma.vm_flags.value_()
        except (FaultError, LookupError):
            return False
        return bool(flags & 0x100) or flags & 3 == 3  # VM_GROWSDOWN, VM_READ | VM_WRITE

    def trace(self, task: Task, options: Options) -> Trace:
        return Trace(self, task, options)


class Trace:
    """The way up one task's stacks."""

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
        self._registers: Registers | None = None

    @property
    def is_active(self) -> bool:
        return self.task.address in self._all.active

    def holds(self, address: int) -> bool:
        return self.base <= address < self.top

    # Reading.

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

    # Where it starts.

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
        if options.ip or options.sp:
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

    @cached_property
    def _thread_info_size(self) -> int:
        return sizeof(self._all.prog.type("struct thread_info")) & ~7

    def _start_as_told(self) -> None:
        options = self._options
        sp, cpu = options.sp, self.task.cpu
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
        everything, areas, cpu = self._all, self._all.areas, self.task.cpu
        panic = everything.dump.tasks.panic.address == self.task.address
        registers = everything.dumped_registers(self.task)
        if registers is not None and not (
            self.holds(registers.rsp) or areas.in_alternate(cpu, registers.rsp)
        ):
            registers = None
        self._registers = registers
        stack = self.base, self.top, self.words
        if registers is not None and panic:
            self.sp = registers.rsp
            in_interrupt = areas.in_irq(registers.rsp) is not None and self._verified(
                0, registers.cs, registers.ss, registers.rip, registers.rsp, registers.rflags
            )
        else:
            in_interrupt = False
        found = None if in_interrupt else self._stopped(panic, 0, -1, False)
        stage = 1
        if found is None:
            for area in self._other_stacks(cpu):
                try:
                    self.read_stack(area.base, area.top)
                except StackError:
                    continue
                index = -1 if area.name == "IRQ" else area.index
                found = self._stopped(panic, stage, index, area.name == "NMI")
                if found is not None:
                    break
        (self.base, self.top, self.words), self.low = stack, stack[0]
        if found is None:
            found = self._sysrq or self._notified
        if found is not None:
            self.ip, self.sp = found
            return
        if registers is not None:
            self.ip, self.sp = registers.rip, registers.rsp
            if everything.is_text(self.ip) and (
                self.holds(self.sp) or areas.in_alternate(cpu, self.sp)
            ):
                self.in_kernel_space = True
            elif not everything.is_text(self.ip) and everything.in_user_stack(self.task, self.sp):
                self.in_user_space = True
            return
        found = self._called or self._halted
        if found is None:
            found = everything.after_switch, self._saved_sp()
        self.ip, self.sp = found

    _sysrq: tuple[int, int] | None = None
    _notified: tuple[int, int] | None = None
    _called: tuple[int, int] | None = None
    _halted: tuple[int, int] | None = None

    def _other_stacks(self, cpu: int) -> list[Area]:
        areas = self._all.areas
        found = [areas.irq[cpu]] if cpu in areas.irq else []
        return found + [a for a in areas.exception.get(cpu, ()) if a.available]

    def _stopped(self, panic: bool, stage: int, estack: int, nmi: bool) -> tuple[int, int] | None:
        """Where a stack says that the CPU was stopped: return address and its slot."""
        everything = self._all
        names = everything.function_at
        crashed = paniced = None
        for number, word in enumerate(self.words):
            if word < KERNEL_MAP:
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
                start = everything.address_of("die_nmi")
                if everything.callee(word) != "die_nmi" or start is None:
                    continue
                self._starts_here = True
                return start, here[1] - 56
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

    _starts_here = False

    def _last(self, number: int, name: str) -> tuple[int, int] | None:
        found = None
        for n in range(number, len(self.words)):
            if self.words[n] >= KERNEL_MAP and self._all.function_at(self.words[n]) == name:
                found = self.words[n], self.low + 8 * n
        return found

    # The way up.

    def _walk(self) -> None:
        everything = self._all
        areas = everything.areas
        if not self.in_user_space and not (self.sp and everything.readable(self.sp)):
            self.items.append(Note("cannot determine starting stack pointer", error=True))
            if self._registers is not None:
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

    _user_entry = False

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
        elif self._starts_here:
            self._entry(self.sp, self.ip, started=True)
            self.level += 1
        return False

    def _described(self, registers: Registers | None, where: str | None = None) -> Registers:
        """Registers with what their RIP points to."""
        assert registers is not None
        values = {name: getattr(registers, name) for name in Registers.__slots__}
        site = None if where else self._all.site(registers.rip)
        if site is not None:
            values.update(function=site.name, offset=site.offset)
        else:
            values["where"] = where or self._unknown(registers.rip)
        return Registers(**values)

    def _unknown(self, rip: int) -> str:
        if self._is_vmalloc(rip) and self._all.readable(rip):
            return "no symbolic reference"
        return "unknown or invalid address"

    def _is_vmalloc(self, address: int) -> bool:
        return address in self._all.vmalloc or MODULES[0] <= address < MODULES[1]

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
            if self.exception_ip and (size := self._size(self.exception_ip, sp, False)) >= 0:
                sp += size
            self.level += 1
        end = area.top - PT_REGS.size
        nested = everything.nested_nmi is not None and area.index == 1
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
        if (size := self._size(self.ip, self.sp, False)) >= 0:
            self._resume += size
        return False, False

    _resume: int | None = None

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

    def _switch_to(self, area: Area, message: str) -> None:
        try:
            self.read_stack(area.base, area.top)
        except StackError as error:
            raise StackError(message) from error

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
        if self.exception_ip and (size := self._size(self.exception_ip, sp, False)) >= 0:
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
        end = min(end, low + 8 * len(words))
        while sp < end:
            word = words[(sp - low) >> 3]
            if word < KERNEL_MAP or not (
                texts[word] if word in texts else everything.is_text(word)
            ):
                sp += 8
                continue
            if process and self.checking_callers and not self._calls_right(word):
                sp += 8
                continue
            slot = sp
            result = self._entry(slot, word)
            if result == SHOWN_WITH_REGISTERS:
                last = slot + 8
                sp = self._behind(last, self._exception_values) - 8
                self.level += 1
                if self.exception_ip and (size := self._size(self.exception_ip, sp, process)) >= 0:
                    sp += size
            elif result == SHOWN:
                self.level += 1
                size = self._size(self.exception_ip or word, sp, process)
                if size >= 0:
                    sp += size
            elif result == COMPLETE:
                break
            sp += 8
        return last if process else 0

    _exception_values: tuple[int, ...] = ()

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
            names = tuple(map(self._all.symbolic, words))
        self.items.append(Words(Address(start), tuple(map(Address, words)), names))

    # Exception frames.

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
        self.items.append(
            Registers(
                *map(Address, values[:17]),
                values[CS],
                values[RFLAGS],
                Address(values[RSP]),
                values[SS],
                Address(address),
                function,
                offset,
                where,
                line,
            )
        )
        if self.reference is not None:
            self.reference.check_registers(values)

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

    # The size of a frame.

    def _size(self, ip: int, sp: int, on_stack: bool) -> int:
        """Bytes between a return address's slot and its caller's (x86_64_get_framesize())."""
        if self._flat or self.guessing:
            return 0
        everything = self._all
        site = everything.site(ip)
        if site is None:
            self.guessing = True
            return 0
        interrupted = self.exception_ip == ip
        if self.looking_for_caller and (size := self._to_caller(sp)) is not None:
            return size
        if site.name == "irq_entries_start":
            try:
                return 0 if everything.prog.read(ip, 1) == b"\x6a" else 8
            except FaultError:
                return 8
        if everything.frame_pointers and not interrupted and (frame := self._frame_pointer(sp)):
            return frame - sp
        if ip - site.offset in everything.initial_text:
            return 0
        if everything.orc is not None and (size := self._by_orc(ip, sp, on_stack)) >= 0:
            return size
        counted = everything.counted(ip, site, interrupted)
        if counted is None:
            self.guessing = True
            return 0
        return counted

    def _by_orc(self, ip: int, sp: int, on_stack: bool) -> int:
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
            index = (saved - self.low) >> 3
            on_stack = on_stack and self.base <= saved < self.top and 0 <= index < len(self.words)
            self.bp = self.words[index] if on_stack else 0
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

    # Searching for exception frames.

    def search(self, area: Area | None = None) -> list[Item]:
        """Every struct pt_regs of the task's stack, or of another one (`bt -e`, `bt -E`)."""
        self.searching = True
        start = 0
        if area is not None:
            self.sp = area.base
            self._switch_to(area, f"read of stack at {area.base:x} failed")
        else:
            self.read_stack(self.base, self.top)
            if start := self._options.sp:
                self._search_from(start)
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


NOTHING: tuple[int, ...] = ()
