"""What a backtrace consists of."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from crashpy.command import Address

# struct pt_regs of x86-64: 21 words, the same in every kernel.
PT_REGS = struct.Struct("<21Q")


@dataclass(frozen=True, slots=True)
class Frame:
    """A call that had not returned yet."""

    number: int | None  # None in a list of return addresses (`bt -t`)
    sp: Address  # void **: where the return address is kept
    function: str
    offset: int
    ip: Address  # the return address, or where the function was stopped
    module: str | None
    line: str | None = None  # FILE: LINE
    guessed: bool = False  # how much its caller has on the stack could not be told


@dataclass(frozen=True, slots=True)
class Words:
    """Stack memory between two return addresses."""

    address: Address
    words: tuple[Address, ...]
    # Symbol, or name of the slab cache in brackets, of those words that have one.
    names: tuple[str | None, ...] | None = None


@dataclass(frozen=True, slots=True)
class Registers:
    """The registers an exception, an interrupt or a system call saved."""

    r15: Address
    r14: Address
    r13: Address
    r12: Address
    rbp: Address
    rbx: Address
    r11: Address
    r10: Address
    r9: Address
    r8: Address
    rax: Address
    rcx: Address
    rdx: Address
    rsi: Address
    rdi: Address
    orig_rax: Address | None  # None: the dump's note has none worth showing
    rip: Address
    cs: int
    rflags: int
    rsp: Address
    ss: int
    address: Address | None = None  # struct pt_regs *; None: from the dump's notes
    function: str | None = None  # where RIP points, None in user mode
    offset: int = 0
    where: str | None = None  # what is said instead of a function
    line: str | None = None

    @property
    def user(self) -> bool:
        return bool(self.cs & 3)

    @classmethod
    def of(
        cls,
        values: Sequence[int],
        address: int | None = None,
        function: str | None = None,
        offset: int = 0,
        where: str | None = None,
        line: str | None = None,
    ) -> Registers:
        """The words of a struct pt_regs by name. Without address, ORIG_RAX is not known."""
        general = map(Address, values)
        return cls(
            r15=next(general),
            r14=next(general),
            r13=next(general),
            r12=next(general),
            rbp=next(general),
            rbx=next(general),
            r11=next(general),
            r10=next(general),
            r9=next(general),
            r8=next(general),
            rax=next(general),
            rcx=next(general),
            rdx=next(general),
            rsi=next(general),
            rdi=next(general),
            orig_rax=None if address is None else Address(values[15]),
            rip=Address(values[16]),
            cs=values[17],
            rflags=values[18],
            rsp=Address(values[19]),
            ss=values[20],
            address=None if address is None else Address(address),
            function=function,
            offset=offset,
            where=where,
            line=line,
        )


@dataclass(frozen=True, slots=True)
class StackEnd:
    """The trace leaves this stack for the one it was entered from."""

    stack: str  # "NMI exception stack", "IRQ stack", "entry trampoline stack"


@dataclass(frozen=True, slots=True)
class Note:
    """A remark, or what went wrong."""

    text: str
    error: bool = False


Item = Frame | Words | Registers | StackEnd | Note
