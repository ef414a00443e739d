"""The memory map: where every ``struct page`` is, and how to read them by the megabyte."""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from drgn import FaultError, Object, PlatformFlags, Program, TypeKind, offsetof, sizeof
from drgn.helpers.linux.mm import follow_phys, pfn_to_virt
from drgn.helpers.linux.mmzone import for_each_online_pgdat

from crashpy.faults import skipping

SECTION_MARKED_PRESENT, SECTION_HAS_MEM_MAP = 1 << 0, 1 << 1
# section_mem_map keeps flags in the bits below a page's alignment (mmzone.h).
SECTION_MAP_MASK = ~0x3F & 0xFFFF_FFFF_FFFF_FFFF
# __START_KERNEL_map, KERNEL_IMAGE_SIZE with CONFIG_RANDOMIZE_BASE, and where nothing but
# arithmetic is left above the modules and the fixmap.
X86_IMAGE, X86_IMAGE_SIZE, X86_FIXMAP_END = 0xFFFFFFFF80000000, 1 << 30, 0xFFFFFFFFFF601000


@dataclass(frozen=True, slots=True)
class Section:
    """A run of page frames whose struct pages lie one after the other."""

    first_pfn: int
    pages: int
    mem_map: int  # struct page * of the first one
    readable: bool  # SECTION_HAS_MEM_MAP


class MemMap:
    """Page frames to struct pages and back, without reading memory for each."""

    def __init__(self, prog: Program) -> None:
        self.prog = prog
        self.page_type = prog.type("struct page")
        self.entry = self.page_type.size
        self.page_size: int = prog["PAGE_SIZE"].value_()
        self.sections = _sections(prog, self.entry)
        self._by_pfn = [s.first_pfn for s in self.sections]
        self._by_map = sorted(self.sections, key=lambda s: s.mem_map)
        self._maps = [s.mem_map for s in self._by_map]
        self.direct_map: int = pfn_to_virt(prog, 0).value_()

    def section(self, pfn: int) -> Section | None:
        index = bisect_right(self._by_pfn, pfn) - 1
        if index >= 0 and pfn < self._by_pfn[index] + self.sections[index].pages:
            return self.sections[index]
        return None

    def pfn(self, page: int) -> int | None:
        """The frame of a ``struct page *``; None where there is none (is_page_ptr())."""
        index = bisect_right(self._maps, page) - 1
        if index < 0:
            return None
        section = self._by_map[index]
        number, odd = divmod(page - section.mem_map, self.entry)
        return None if odd or number >= section.pages else section.first_pfn + int(number)

    def page(self, pfn: int) -> int | None:
        """The ``struct page *`` of a frame (phys_to_page())."""
        section = self.section(pfn)
        if section is None or not section.readable:
            return None
        return section.mem_map + (pfn - section.first_pfn) * self.entry

    def memory(self, pfn: int) -> int:
        """Where the direct map shows a frame (PTOV())."""
        return self.direct_map + pfn * self.page_size

    def read(self, section: Section) -> Iterator[tuple[int, bytes]]:
        """The struct pages of a section: index of the first, and their bytes.

        One piece where the dump holds them all; pages of struct pages that it lacks are
        left out, each run of them reported once.
        """
        for start, data in readable(self.prog, section.mem_map, section.pages * self.entry):
            # A struct page is a power of two on nearly every kernel. Where it is not, one
            # that straddles the edge of a hole is lost with it.
            skip = -start % self.entry
            whole = (len(data) - skip) // self.entry * self.entry
            yield (start + skip) // self.entry, data[skip : skip + whole]


def mem_map(prog: Program) -> MemMap:
    found = prog.cache.get("crashpy.mem_map")
    if not isinstance(found, MemMap):
        found = prog.cache["crashpy.mem_map"] = MemMap(prog)
    return found


def _sections(prog: Program, entry: int) -> list[Section]:
    if "mem_section" not in prog:  # !CONFIG_SPARSEMEM
        return [
            Section(
                first_pfn=node.node_start_pfn.value_(),
                pages=node.node_spanned_pages.value_(),
                mem_map=node.node_mem_map.value_(),
                readable=True,
            )
            for node in for_each_online_pgdat(prog)
        ]
    pages = section_pages(prog)
    found = []
    for number, _, coded in present_sections(prog):
        first = number * pages
        # sparse_decode_mem_map(): coded so that coded[pfn] is the page.
        start = ((coded & SECTION_MAP_MASK) + first * entry) & 0xFFFF_FFFF_FFFF_FFFF
        found.append(Section(first, pages, start, bool(coded & SECTION_HAS_MEM_MAP)))
    return found


def section_pages(prog: Program) -> int:
    """How many page frames a section of CONFIG_SPARSEMEM has."""
    return 1 << (prog["SECTION_SIZE_BITS"] - prog["PAGE_SHIFT"]).value_()


def present_sections(prog: Program) -> Iterator[tuple[int, int, int]]:
    """Of each section that is there its number, address, and section_mem_map.

    What drgn's for_each_present_section() finds, a page of sections at a time.
    """
    kind = prog.type("struct mem_section")
    size, word = sizeof(kind), prog.type("unsigned long").size or 8
    at = offsetof(kind, "section_mem_map")
    per_root = prog["SECTIONS_PER_ROOT"].value_()
    code = "Q" if word == 8 else "I"
    for root, address in enumerate(_section_roots(prog, per_root * size, word, code)):
        if not address:
            continue
        with skipping(f"sections of memory from number {root * per_root}"):
            words = column(prog, prog.read(address, per_root * size), code, at, size)
            for number, coded in enumerate(words):
                if coded & SECTION_MARKED_PRESENT:
                    yield root * per_root + number, address + number * size, coded


def _section_roots(prog: Program, size: int, word: int, code: str) -> Sequence[int]:
    """Where the tables of sections are, 0 for one that is not there."""
    roots = prog["NR_SECTION_ROOTS"].value_()
    if "__highest_present_section_nr" in prog:  # since 4.13
        highest = prog["__highest_present_section_nr"].value_()
        roots = min(roots, highest // prog["SECTIONS_PER_ROOT"].value_() + 1)
    table = prog["mem_section"]
    kind = table.type_.unaliased()
    start = table.value_() if kind.kind == TypeKind.POINTER else table.address_ or 0
    if not start:
        return ()
    if kind.type.unaliased_kind() != TypeKind.POINTER:  # !CONFIG_SPARSEMEM_EXTREME
        return range(start, start + roots * size, size)
    return column(prog, prog.read(start, roots * word), code, 0, word)


def readable(
    prog: Program, address: int, size: int, step: int = 4096
) -> Iterator[tuple[int, bytes]]:
    """What the dump holds of a range: offset and bytes of each piece without a hole."""
    try:
        whole = prog.read(address, size)
    except FaultError:
        pass
    else:
        yield 0, whole
        return
    pieces: list[bytes] = []
    begin = hole = 0
    fault: FaultError | None = None
    offset = 0
    while offset < size:
        length = min(step - (address + offset) % step, size - offset)
        try:
            piece = prog.read(address + offset, length)
        except FaultError as error:
            if pieces:
                yield begin, b"".join(pieces)
                pieces = []
            if fault is None:
                fault, hole = error, offset
        else:
            if fault is not None:
                _report(address + hole, address + offset, fault)
                fault = None
            if not pieces:
                begin = offset
            pieces.append(piece)
        offset += length
    if pieces:
        yield begin, b"".join(pieces)
    if fault is not None:
        _report(address + hole, address + size, fault)


def _report(start: int, end: int, fault: FaultError) -> None:
    with skipping(f"{start:x}-{end:x}"):
        raise fault


def gather(prog: Program, addresses: Iterable[int], size: int, gap: int = 4096) -> dict[int, bytes]:
    """`size` bytes at each address, read in as few runs as neighbours allow.

    Addresses that the dump does not hold are missing from the result.
    """
    found: dict[int, bytes] = {}
    run: list[int] = []
    for address in [*sorted(set(addresses)), -1]:
        if run and (address < 0 or address - run[-1] > gap or address - run[0] > 1 << 20):
            start = run[0]
            try:
                data = prog.read(start, run[-1] + size - start)
            except FaultError:
                for one in run:
                    try:
                        found[one] = prog.read(one, size)
                    except FaultError:
                        continue
            else:
                for one in run:
                    found[one] = data[one - start : one - start + size]
            run = []
        run.append(address)
    return found


def column(prog: Program, data: bytes, code: str, offset: int, stride: int) -> list[int]:
    """One integer member of an array of structures: struct's letter, offset, size of each."""
    width = struct.calcsize(code)
    if offset % width or stride % width:
        order = "<" if byte_order(prog) == "little" else ">"
        pad = f"{order}{offset}x{code}{stride - offset - width}x"
        return [value for (value,) in struct.iter_unpack(pad, data)]
    if byte_order(prog) == sys.byteorder:
        words: memoryview[int] = memoryview(data).cast(code)  # type: ignore[call-overload]
        return words[offset // width :: stride // width].tolist()
    swapped = array(code, data)
    swapped.byteswap()
    return swapped[offset // width :: stride // width].tolist()


def byte_order(prog: Program) -> Literal["little", "big"]:
    assert prog.platform is not None
    little = prog.platform.flags & PlatformFlags.IS_LITTLE_ENDIAN
    return "little" if little else "big"


def kernel_address(prog: Program, address: int) -> bool:
    """Whether an address is the kernel's rather than a physical one (IS_KVADDR())."""
    # x86-64 has no hole between: everything from PAGE_OFFSET up.
    return address >= mem_map(prog).direct_map


def direct_mapped(prog: Program, physical: int) -> int | None:
    """Where the direct map shows a physical address; None beyond the end of memory."""
    direct_map = mem_map(prog).direct_map
    if physical < prog["high_memory"].value_() - direct_map:
        return physical + direct_map
    return None


def kernel_to_physical(prog: Program, address: int) -> int | None:
    """The physical address behind a kernel address (kvtop()).

    What the kernel maps by arithmetic has one even beyond the end of memory.
    """
    if not kernel_address(prog, address):
        return None
    direct_map = mem_map(prog).direct_map
    if direct_map <= address < _variable(prog, "vmalloc_base"):
        return address - direct_map
    try:
        return int(follow_phys(prog["init_mm"].address_of_(), address).value_())
    except (FaultError, LookupError, ValueError, NotImplementedError):
        pass
    # What x86-64 shows as the kernel's image, but for the modules at its end.
    if X86_IMAGE <= address < X86_IMAGE + X86_IMAGE_SIZE or address >= X86_FIXMAP_END:
        return (address - X86_IMAGE + _phys_base(prog)) & 0xFFFF_FFFF_FFFF_FFFF
    return None


def _variable(prog: Program, name: str) -> int:
    try:
        return int(prog.variable(name).value_())
    except LookupError:
        return 0


def _phys_base(prog: Program) -> int:
    try:  # defined in assembly: a symbol, not a variable
        return prog.read_u64(prog.symbol("phys_base").address)
    except (LookupError, FaultError):
        return 0


@dataclass(frozen=True, slots=True)
class Node:
    """A memory node as crash's node table has it: online ones, numbered from 0."""

    number: int
    identifier: int  # node_id
    pgdat: Object  # struct pglist_data *
    first_pfn: int
    pages: int  # node_spanned_pages


def nodes(prog: Program) -> list[Node]:
    return [
        Node(
            number=number,
            identifier=pgdat.node_id.value_(),
            pgdat=pgdat,
            first_pfn=pgdat.node_start_pfn.value_(),
            pages=pgdat.node_spanned_pages.value_(),
        )
        for number, pgdat in enumerate(for_each_online_pgdat(prog))
    ]


def node_of(known: Sequence[Node], pfn: int) -> int | None:
    """The number of the node that spans a frame (page_to_nid())."""
    for node in known:
        if node.first_pfn <= pfn < node.first_pfn + node.pages:
            return node.number
    return None


def flag_names(prog: Program) -> list[tuple[int, str]]:
    """Masks and names of page flags, in the kernel's order of printing (pageflag_names)."""
    try:
        table = prog["pageflag_names"]
    except LookupError:  # no such table before 3.x: the enumerators' own names
        return [
            (1 << value, name.removeprefix("PG_"))
            for name, value in flag_bits(prog)
            if name.startswith("PG_")
        ]
    found = []
    for entry in table:
        mask, name = entry.mask.value_(), entry.name
        if not name:  # the end: mask is -1 until 3.5, 0 since 4.6
            break
        found.append((mask, name.string_().decode(errors="backslashreplace")))
    return found


def flag_bits(prog: Program) -> list[tuple[str, int]]:
    """The enumerators of enum pageflags."""
    enumerators = prog.type("enum pageflags").enumerators or ()
    return [(name, value) for name, value in enumerators]
