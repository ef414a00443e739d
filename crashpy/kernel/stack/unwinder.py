"""What all traces of a dump share: the kernel's layout, its symbols and code."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from drgn import Architecture, FaultError, Program, ProgramFlags, sizeof

from crashpy.kernel.stack import orc
from crashpy.kernel.stack.areas import Areas
from crashpy.kernel.stack.prologue import call_target, pushed
from crashpy.kernel.stack.records import Registers

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

# drgn's names of the registers in struct pt_regs; it has none for orig_ax.
PT_REGS_NAMES = """
r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs rflags rsp ss
"""
WORD = (1 << 64) - 1

# An NT_PRSTATUS note up to the end of struct pt_regs in it.
NOTE = struct.Struct("<III5s3x112x21Q")
PRSTATUS_SIZE = 336  # struct elf_prstatus

KERNEL_MAP = 0xFFFFFFFF80000000  # the kernel's text and its modules lie above
MODULES = 0xFFFFFFFFA0000000, 0xFFFFFFFFFF000000


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
    ip: int | None = None  # -I
    sp: int | None = None  # -S
    reference: str | None = None  # -R
    radix: int = 10  # of symbols' offsets


class Unwinder:
    """The dump as traces see it; what was found once is kept."""

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
        # By page: whether it is in the dump, and its slab cache.
        self._pages: dict[int, bool] = {}
        self._caches: dict[int, str | None] = {}
        self._names: dict[tuple[int, int], str] = {}
        self._dumped: dict[int, Registers | None] = {}
        self._module_files: tuple[object, ...] = ()

    def refresh(self) -> None:
        """Forget what modules' symbols said, if `mod` gave or took debug information."""
        modules = vars(self.symbols).get("modules", ())  # none before something asks for them
        files = tuple(module.file for module in modules)
        if files != self._module_files:
            self._module_files = files
            for kept in (self._sites, self._texts, self._lines, self._names, self._callees):
                kept.clear()

    # The layout of the kernel.

    @cached_property
    def native(self) -> bool:
        """Whether the dump is of the architecture that this package knows itself."""
        platform = self.prog.platform
        return platform is not None and platform.arch == Architecture.X86_64

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
            return orc.OrcTables(self.prog, self.text)
        except (LookupError, AttributeError, FaultError):
            return None

    @cached_property
    def frame_pointers(self) -> bool:
        """Whether functions start with push %rbp; mov %rsp,%rbp."""
        found = 0
        for name in SAMPLES.split():
            try:
                # Of prog.symbol() each look-up goes through all symbols.
                code = self.prog.read(self.prog.function(name).address_, 9)
            except LookupError:
                continue
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
                # kallsyms do not tell how long a function is.
                code = self.prog.read(symbol.address, symbol.size or 8192)
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
    def text(self) -> tuple[int, int]:
        """The kernel's own code, without its modules'."""
        return self.address_of("_stext") or KERNEL_MAP, self.address_of("_etext") or MODULES[1]

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
        found = {task.address for task in tasks.active.values()}
        return frozenset(found | {tasks.panic.address} if tasks.panic_found else found)

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
        if not KERNEL_MAP <= address < MODULES[1]:
            return False
        try:
            return self._texts[address]
        except KeyError:
            pass
        found = self.symbols.is_text(address)
        if not found and address in self.initial_text:
            # Without an ELF file no section tells that its weak functions are code.
            found = self._initial_start <= address < self._initial_end
        self._texts[address] = found
        return found

    @cached_property
    def _initial_start(self) -> int:
        return self.address_of("_sinittext") or 0

    @cached_property
    def _initial_end(self) -> int:
        return self.address_of("_einittext") or 0

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

    def symbolic(self, value: int, radix: int = 10) -> str | None:
        """crash's format_stack_entry(): the symbol or the slab cache of a word."""
        if value < 1 << 63:
            return None
        page = value >> 12
        if page not in self._pages:
            self._pages[page] = self.readable(value)
        if not self._pages[page]:
            return None
        return self.symbol_text(value, radix) or self.cache_of(value)

    def symbol_text(self, value: int, radix: int = 10) -> str:
        """``name+offset`` of a word that points into the kernel's image or a module."""
        if value < (KERNEL_MAP if self.native else 1 << 63):
            return ""
        key = value, radix
        if key not in self._names:
            self._names[key] = self.symbols.format(value, radix)
        return self._names[key]

    def cache_of(self, value: int) -> str | None:
        """The name of the slab cache that an address belongs to, in brackets."""
        page = value >> 12
        if page not in self._caches:
            from drgn.helpers.linux.slab import find_containing_slab_cache

            try:
                cache = find_containing_slab_cache(self.prog, value)
                name = cache.name.string_().decode(errors="replace") if cache else None
            except (FaultError, LookupError, ValueError):
                name = None
            self._caches[page] = None if name is None else f"[{name}]"
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
        if task.address not in self._dumped:
            self._dumped[task.address] = self._dumped_registers(task)
        return self._dumped[task.address]

    def _dumped_registers(self, task: Task) -> Registers | None:
        from drgn import Object

        if (saved := self._saved_registers(task.cpu)) is not None:
            return saved
        try:
            thread = Object(self.prog, "struct task_struct *", value=task.address)
            trace = self.prog.stack_trace(thread)
            values = trace[0].registers() if len(trace) else {}
        except (FaultError, LookupError, ValueError):
            return None
        if "rip" not in values or "rsp" not in values:
            return None
        return Registers.of([values.get(name, 0) & WORD for name in PT_REGS_NAMES.split()])

    def _saved_registers(self, cpu: int) -> Registers | None:
        """What a CPU left for the dump's note in memory (crash_save_cpu()).

        drgn has the note itself, but gives its registers only with a whole trace.
        """
        from drgn.helpers.linux.percpu import per_cpu_ptr

        try:
            address = per_cpu_ptr(self.prog["crash_notes"], cpu).value_()
            note = self.prog.read(address, NOTE.size)
        except (FaultError, LookupError, ValueError):
            return None
        name_size, size, kind, name, *values = NOTE.unpack(note)
        if (name_size, kind, name) != (5, 1, b"CORE\0") or size != PRSTATUS_SIZE:
            return None
        return Registers.of(values)

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
