"""One address through the page tables of x86-64, entry by entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from drgn import FaultError, Program

from crashpy.kernel.mm import has_symbol
from crashpy.kernel.pages import kernel_to_physical, mem_map

PRESENT, PSE, PROTNONE = 1 << 0, 1 << 7, 1 << 8
NAMES = "PTE", "PMD", "PUD", "P4D"  # from the page up; above them all is the PGD


class Step(NamedTuple):
    """An entry of a page table."""

    table: str  # PGD, P4D, PUD, PMD, PTE
    physical: int  # where the entry is
    entry: int


@dataclass(frozen=True)
class Walk:
    steps: tuple[Step, ...]
    page: int | None = None  # physical address of the page; None where nothing is mapped
    size: int = 0  # of that page, in bytes
    fault: str | None = None  # what the dump lacks: the walk ends before it

    @property
    def entry(self) -> int:
        """The last one."""
        return self.steps[-1].entry if self.steps else 0


@dataclass(frozen=True)
class Paging:
    """How page table entries are to be read."""

    levels: int
    mask: int  # of a page's physical address in an entry
    encryption: int  # sme_me_mask
    inverted: bool  # entries that are not present hold the complement of the address

    @classmethod
    def of(cls, prog: Program) -> Paging:
        found = prog.cache.get(cls)
        if not isinstance(found, cls):
            shift = _value(prog, "pgdir_shift") or 39  # absent without CONFIG_X86_5LEVEL
            levels = (shift - 12) // 9 + 1
            bits = 46 if levels == 4 else 52  # MAX_PHYSMEM_BITS
            found = prog.cache[cls] = cls(
                levels,
                (1 << bits) - (1 << 12),
                _value(prog, "sme_me_mask"),
                # Since Linux kernel commit 6b28baca9b1f ("x86/speculation/l1tf: Protect
                # PROT_NONE PTEs against speculation") (in v4.19)
                has_symbol(prog, "l1tf_mitigation"),
            )
        return found

    @property
    def user_end(self) -> int:
        """The first address that can be no task's (crash's USERSPACE_TOP)."""
        return 1 << (47 if self.levels == 4 else 56)

    def address(self, entry: int) -> int:
        """The physical address that an entry holds."""
        if self.inverted and not entry & PRESENT and entry & PROTNONE:
            entry = ~entry
        return entry & self.mask & ~self.encryption

    def walk(self, prog: Program, pgd: int, address: int) -> Walk:
        """From a ``pgd_t *`` down to a page."""
        steps: list[Step] = []
        table = kernel_to_physical(prog, pgd)
        if table is None:
            return Walk((), fault=f"{pgd:x} is no page table")
        for level in range(self.levels - 1, -1, -1):
            shift = 12 + 9 * level
            where = table + 8 * (address >> shift & 511)
            try:
                entry = prog.read_u64(where, True) & ~self.encryption
            except FaultError as fault:
                return Walk(tuple(steps), fault=str(fault))
            name = "PGD" if level == self.levels - 1 else NAMES[level]
            steps.append(Step(name, where, entry))
            # A huge page may be there, but closed to its task, as a page may.
            if not entry & (PRESENT | PROTNONE if level < 2 else PRESENT):
                return Walk(tuple(steps))
            table = self.address(entry)
            if level == 0 or (level < 3 and entry & PSE):
                size = 1 << shift
                return Walk(tuple(steps), table & -size, size)
        return Walk(tuple(steps))


def is_zero_page(prog: Program, page: int) -> bool:
    """Whether it is the page of zeros that is mapped where nothing was written."""
    if has_symbol(prog, "empty_zero_page"):
        zero = kernel_to_physical(prog, prog.symbol("empty_zero_page").address)
        if page == zero:
            return True
    pfn = _value(prog, "huge_zero_pfn")
    if pfn and pfn != 2**64 - 1:
        return page == pfn * mem_map(prog).page_size
    struct_page = _value(prog, "huge_zero_folio") or _value(prog, "huge_zero_page")
    frame = mem_map(prog).pfn(struct_page) if struct_page else None
    return frame is not None and page == frame * mem_map(prog).page_size


def _value(prog: Program, name: str) -> int:
    try:
        return int(prog[name].value_())
    except (LookupError, FaultError):
        return 0
