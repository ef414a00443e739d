"""What vmalloc(), vmap(), ioremap() and the loader of modules have mapped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from drgn import FaultError, Program, offsetof, sizeof

from crashpy.faults import skipping
from crashpy.kernel.lists import Words, linked
from crashpy.kernel.mm import page_table

VM_VM_AREA = 4  # of vmap_area.flags, as long as there was a purge_list


class VmapArea(NamedTuple):
    """A ``struct vmap_area`` that has a ``struct vm_struct``."""

    address: int
    vm_struct: int
    start: int
    end: int


def vmap_areas(prog: Program, report: Callable[[str], None]) -> list[VmapArea]:
    """Every area, by address. Raises LookupError where the kernel keeps them otherwise."""
    kind = prog.type("struct vmap_area")
    link, start, end, vm = (offsetof(kind, name) for name in ("list", "va_start", "va_end", "vm"))
    flagged = kind.has_member("flags") and kind.has_member("purge_list")  # until 5.4
    flags = offsetof(kind, "flags") if flagged else None
    words, seen = Words(prog), set[int]()
    found: list[VmapArea] = []
    scattered = "vmap_nodes" in prog
    for head in _heads(prog):
        chain = linked(words, head, seen)
        for entry in chain.entries:
            area = entry - link
            try:
                owner = words.at(area + vm)
                used = owner if flags is None else words.at(area + flags) == VM_VM_AREA
                bounds = words.at(area + start), words.at(area + end)
            except FaultError as fault:
                with skipping(f"vmap_area {area:x}"):
                    raise fault
                continue
            if used:
                found.append(VmapArea(area, owner, *bounds))
        if chain.duplicate is not None:
            report(f"duplicate list entry: {chain.duplicate:x}")
        if chain.fault is not None:
            with skipping(f"some of the list of vmap areas {head:x}"):
                raise chain.fault
    return sorted(found, key=lambda area: area.start) if scattered else found


def _heads(prog: Program) -> Iterator[int]:
    """One list until 55c49fee57af ("mm/vmalloc: remove vmap_area_list") (6.9)."""
    if "vmap_nodes" not in prog:
        yield prog["vmap_area_list"].address_ or 0
        return
    kind = prog.type("struct vmap_node")
    first = prog["vmap_nodes"].value_()
    for number in range(prog["nr_vmap_nodes"].value_()):
        yield first + number * sizeof(kind) + offsetof(kind, "busy.head")


class KernelPages:
    """Where the pages of the kernel's own mappings are."""

    def __init__(self, prog: Program) -> None:
        space = prog["init_mm"]
        self._size: int = prog["PAGE_SIZE"].value_()
        self._table = page_table(prog, space.address_ or 0, space.pgd.value_())

    def find(self, area: VmapArea, physical: int) -> int | None:
        """The address in the area at which a physical one is mapped."""
        page, inside = physical // self._size * self._size, physical % self._size
        try:
            for run in self._table.runs(area.start, area.end):
                if run.physical is not None and page in run.physical:
                    return run.start + run.physical.index(page) * self._size + inside
        except FaultError:
            pass
        return None
