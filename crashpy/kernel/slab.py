"""SLUB: caches, their slabs, and which of their objects are free."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from drgn import FaultError, Object, Program, Type, sizeof
from drgn.helpers.linux.mm import PageSlab, compound_head

from crashpy.command import CommandError
from crashpy.kernel.pages import (
    byte_order,
    gather,
    kernel_address,
    mem_map,
    node_of,
    nodes,
)
from crashpy.kernel.percpu import per_cpu_offsets

Warn = Callable[[str], None]

# Flags of a cache. Since 6.9 they are numbered by enum _slab_flag_bits.
RED_ZONE, STORE_USER = 0x400, 0x10000
LARGEST = 32 << 20  # bytes of a slab: a larger one is garbage
ON_PAGE_LIST = 1  # bit 0 of a "pointer" that ends a free list (PAGE_MAPPING_ANON)


class SlabError(Exception):
    """A cache whose slabs cannot be counted; what is wrong has been said."""


@dataclass(frozen=True, slots=True)
class Cache:
    """A ``struct kmem_cache``."""

    address: int
    name: str
    object_size: int  # what kmem_cache_alloc() promises
    size: int  # with metadata and alignment
    offset: int  # of the free pointer in a free object
    order: int
    objects: int  # in a slab of that order
    flags: int
    red_left_pad: int
    random: int | None  # CONFIG_SLAB_FREELIST_HARDENED
    cpu_slab: int  # struct kmem_cache_cpu __percpu *
    node: tuple[int, ...]  # struct kmem_cache_node *, by crash's node number


@dataclass(frozen=True, slots=True)
class CpuSlab:
    """A CPU's ``struct kmem_cache_cpu``."""

    cpu: int
    address: int
    freelist: int
    slab: int  # 0 for none
    partial: int  # struct slab *, the first of the CPU's list


@dataclass(frozen=True, slots=True)
class NodeSlabs:
    """A node's ``struct kmem_cache_node``."""

    address: int
    partial: int
    slabs: int
    total_objects: int


@dataclass(frozen=True, slots=True)
class Counts:
    allocated: int
    total: int
    slabs: int


@dataclass(frozen=True, slots=True)
class Slab:
    """A ``struct slab`` (before 5.17 the struct page of its first page)."""

    address: int
    memory: int  # its first object
    node: int
    objects: int
    inuse: int  # free ones that a CPU keeps count as used here
    freelist: int
    following: int  # next of the CPU's partial list


@dataclass(frozen=True, slots=True)
class FreeList:
    """A chain of free objects."""

    objects: frozenset[int] = frozenset()
    fault: int | None = None  # the address of the free pointer that could not be read
    duplicate: int | None = None  # an object that came up twice

    @property
    def broken(self) -> bool:
        return self.fault is not None or self.duplicate is not None

    def __contains__(self, address: int) -> bool:
        return address in self.objects


@dataclass(frozen=True, slots=True)
class Bits:
    """A bit-field of a 32-bit word."""

    offset: int
    shift: int
    mask: int

    def of(self, data: bytes, order: Literal["little", "big"]) -> int:
        word = data[self.offset : self.offset + 4]
        return int.from_bytes(word, order) >> self.shift & self.mask


class Layout:
    """Where the members are that are read in bulk."""

    def __init__(self, prog: Program) -> None:
        try:  # struct slab since d122019bf061 ("mm: Split slab into its own type") (5.17)
            slab = prog.type("struct slab")
            slab.member("inuse")
        except LookupError:
            slab = prog.type("struct page")
        self.slab_size: int = slab.size or 0
        self.slab_cache = _offset(slab, "slab_cache")
        self.freelist = _offset(slab, "freelist")
        self.next = _optional(slab, "next")
        listed = _optional(slab, "slab_list")
        self.slab_list = _offset(slab, "lru") if listed is None else listed
        self.inuse = _bits(prog, slab, "inuse")
        self.objects = _bits(prog, slab, "objects")

        node = prog.type("struct kmem_cache_node")
        self.node_size: int = node.size or 0
        self.nr_partial = _offset(node, "nr_partial")
        self.partial = _offset(node, "partial")
        # The rest only with CONFIG_SLUB_DEBUG.
        self.full = _optional(node, "full")
        self.nr_slabs = _optional(node, "nr_slabs")
        self.total_objects = _optional(node, "total_objects")

        self.has_cpu_slabs = prog.type("struct kmem_cache").has_member("cpu_slab")
        self.cpu_size = self.cpu_freelist = self.cpu_slab = 0
        self.cpu_partial: int | None = None
        if self.has_cpu_slabs:
            cpu = prog.type("struct kmem_cache_cpu")
            self.cpu_size = cpu.size or 0
            self.cpu_freelist = _offset(cpu, "freelist")
            # page until 5.16
            self.cpu_slab = _offset(cpu, "slab" if cpu.has_member("slab") else "page")
            self.cpu_partial = _optional(cpu, "partial")

        self.red_zone, self.store_user = RED_ZONE, STORE_USER
        try:
            enumerators = prog.type("enum _slab_flag_bits").enumerators or ()
        except LookupError:
            pass
        else:  # the debugging flags exist with CONFIG_SLUB_DEBUG; 0 matches none
            bits = {name: 1 << value for name, value in enumerators}
            self.red_zone = bits.get("_SLAB_RED_ZONE", 0)
            self.store_user = bits.get("_SLAB_STORE_USER", 0)


class Slub:
    """The allocator of one dump. `warn` hears of what is broken, in crash's words."""

    def __init__(self, prog: Program, warn: Warn) -> None:
        self.prog = prog
        self.warn = warn
        self.pages = mem_map(prog)
        self.nodes = nodes(prog)
        self.offsets = per_cpu_offsets(prog)
        self.order = byte_order(prog)
        self.word: int = prog.type("unsigned long").size or 8
        self.layout = Layout(prog)

    def _word(self, data: bytes, offset: int) -> int:
        return int.from_bytes(data[offset : offset + self.word], self.order)

    def _unread(self, address: int, what: str) -> None:
        """readmem()'s complaint."""
        self.warn(f'invalid kernel virtual address: {address:x}  type: "{what}"')

    @functools.cached_property
    def caches(self) -> list[Cache]:
        """Every cache, in the order of slab_caches."""
        return list(self._caches())

    def _caches(self) -> Iterator[Cache]:
        """One read for each struct kmem_cache, as far as its last node."""
        kind = self.prog.type("struct kmem_cache")
        at = {
            name: _offset(kind, name)
            for name in ("object_size", "size", "offset", "oo", "flags", "name", "list")
        }
        random = _optional(kind, "random")
        pad = _optional(kind, "red_left_pad")
        cpu_slab = _optional(kind, "cpu_slab")
        node = _offset(kind, "node")
        flags_size = sizeof(kind.member("flags").type)
        last = max((n.identifier for n in self.nodes), default=0)
        length = max(node + (last + 1) * self.word, *(o + 8 for o in at.values()))
        length = min(length, kind.size or length)

        def integer(data: bytes, offset: int, size: int = 4) -> int:
            return int.from_bytes(data[offset : offset + size], self.order)

        head = self.prog["slab_caches"].address_of_().value_()
        following = self.prog["slab_caches"].next.value_()
        seen = set()
        while following != head:
            if following in seen:
                raise CommandError(f"duplicate list entry: {following:x}")
            seen.add(following)
            address = following - at["list"]
            try:
                data = self.prog.read(address, length)
            except FaultError as fault:
                raise CommandError(f"invalid list entry: {following:x}") from fault
            oo = integer(data, at["oo"])
            yield Cache(
                address=address,
                name=self._name(self._word(data, at["name"])),
                object_size=integer(data, at["object_size"]),
                size=integer(data, at["size"]),
                offset=integer(data, at["offset"]),
                order=oo >> 16,
                objects=oo & 0xFFFF,
                flags=integer(data, at["flags"], flags_size),
                red_left_pad=0 if pad is None else integer(data, pad),
                random=None if random is None else self._word(data, random),
                cpu_slab=0 if cpu_slab is None else self._word(data, cpu_slab),
                node=tuple(self._word(data, node + n.identifier * self.word) for n in self.nodes),
            )
            following = self._word(data, at["list"])

    def _name(self, address: int) -> str:
        try:
            name = self.prog.read_c_string(address, max_size=255)
        except FaultError:
            return "(unknown)"
        return name.decode(errors="backslashreplace")

    def cpu_slabs(self, cache: Cache) -> list[CpuSlab]:
        """The cache's slab of each CPU; the structures of all caches are read at once."""
        found: list[CpuSlab] = []
        layout = self.layout
        if not layout.has_cpu_slabs:
            return found
        for cpu, offset in enumerate(self.offsets):
            address = (cache.cpu_slab + offset) & 0xFFFF_FFFF_FFFF_FFFF
            data = self._cpu_data.get(address)
            if data is None:
                self._unread(address, "kmem_cache_cpu")
                continue
            partial = 0 if layout.cpu_partial is None else self._word(data, layout.cpu_partial)
            found.append(
                CpuSlab(
                    cpu=cpu,
                    address=address,
                    freelist=self._word(data, layout.cpu_freelist),
                    slab=self._word(data, layout.cpu_slab),
                    partial=partial,
                )
            )
        return found

    @functools.cached_property
    def _cpu_data(self) -> dict[int, bytes]:
        wrap = 0xFFFF_FFFF_FFFF_FFFF
        addresses = (c.cpu_slab + o & wrap for c in self.caches for o in self.offsets)
        return gather(self.prog, addresses, self.layout.cpu_size)

    def node_slabs(self, address: int) -> NodeSlabs:
        layout = self.layout
        data = self._node_data.get(address)
        if data is None:
            self._unread(address, "kmem_cache_node nr_partial")
            raise SlabError
        if layout.nr_slabs is None or layout.total_objects is None:
            raise SlabError
        return NodeSlabs(
            address=address,
            partial=self._word(data, layout.nr_partial),
            slabs=self._word(data, layout.nr_slabs),
            total_objects=self._word(data, layout.total_objects),
        )

    @functools.cached_property
    def _node_data(self) -> dict[int, bytes]:
        addresses = (a for c in self.caches for a in c.node if a)
        return gather(self.prog, addresses, self.layout.node_size)

    def slab(self, cache: Cache, address: int) -> Slab | None:
        """A slab's numbers; None, and a complaint, where they make no sense."""
        layout = self.layout
        pfn = self.pages.pfn(address)
        if pfn is None:
            self.warn(f"{cache.name}: invalid slab address: {address:x}")
            return None
        try:
            data = self.prog.read(address, layout.slab_size)
        except FaultError:
            self._unread(address + layout.inuse.offset, "page.inuse")
            return None
        node = node_of(self.nodes, pfn)
        if node is None:
            self.warn(f"page_to_nid: cannot determine node for pages: {address:x}")
        objects = layout.objects.of(data, self.order)
        if not objects:
            return None
        return Slab(
            address=address,
            memory=self.pages.memory(pfn),
            node=-1 if node is None else node,
            objects=objects,
            inuse=layout.inuse.of(data, self.order),
            freelist=self._word(data, layout.freelist),
            following=0 if layout.next is None else self._word(data, layout.next),
        )

    def cpu_partial_slabs(self, cache: Cache, cpu: CpuSlab) -> Iterator[Slab | None]:
        """A CPU's list of partial slabs. The last is None when one of them is garbage."""
        address = cpu.partial
        seen = set()
        while address:
            if self.pages.pfn(address) is None or address in seen:
                self.warn(f"{cache.name}: invalid partial list slab pointer: {address:x}")
                yield None
                return
            seen.add(address)
            slab = self.slab(cache, address)
            yield slab
            if slab is None:
                return
            address = slab.following

    def node_partial_slabs(
        self, cache: Cache, node: int, *, full: bool = False
    ) -> Iterator[Slab | None]:
        """A node's list of partial (or full) slabs. None: the list ends in garbage."""
        kind = "full" if full else "partial"
        start = self.layout.full if full else self.layout.partial
        head = node + (start or 0)
        try:
            following = self.prog.read_word(head)
        except FaultError:
            self._unread(head, f"kmem_cache_node.{kind}")
            yield None
            return
        last, seen = 0, set()
        while following != head:
            address = following - self.layout.slab_list
            if not kernel_address(self.prog, following) or self.pages.pfn(address) is None:
                if last:
                    text = f"{kind} list slab: {last:x} invalid page.lru.next: {following:x}"
                else:
                    text = f"invalid {kind} list slab pointer: {address & (1 << 64) - 1:x}"
                self.warn(f"{cache.name}: {text}")
                yield None
                return
            if address in seen:
                self.warn(
                    f"{cache.name}: {kind} list slab: {last:x} duplicate slab entry: {following:x}"
                )
                yield None
                return
            seen.add(address)
            slab = self.slab(cache, address)
            yield slab
            if slab is None:
                return
            last = address
            try:
                following = self.prog.read_word(following)
            except FaultError:
                self._unread(following, "page.lru.next")
                yield None
                return

    def free_list(self, cache: Cache, slab: Slab, first: int) -> FreeList:
        """The objects that hang on a free pointer, most of them in `slab`."""
        if not first or first & ON_PAGE_LIST:
            return FreeList()
        start, size = slab.memory, min(slab.objects * cache.size, LARGEST)
        try:
            memory = self.prog.read(start, size)
        except FaultError:
            memory, size = b"", 0
        word, order, random, at = self.word, self.order, cache.random, cache.offset
        seen: set[int] = set()
        current = first
        while current and not current & ON_PAGE_LIST:
            if current in seen:
                return FreeList(frozenset(seen), duplicate=current)
            seen.add(current)
            where = current + at
            inside = where - start
            if 0 <= inside <= size - word:
                value = int.from_bytes(memory[inside : inside + word], order)
            else:
                try:
                    value = self.prog.read_word(where)
                except (FaultError, OverflowError):
                    return FreeList(frozenset(seen), fault=where)
            if random is not None:
                # freelist_ptr_decode(): mixed with the swapped address since 5.7.
                mixed = int.from_bytes(where.to_bytes(word, "little"), "big")
                pointer = value ^ random ^ mixed
                if pointer and not 0 <= pointer - start < size and not self._readable(pointer):
                    pointer = value ^ random ^ where
                value = pointer
            current = value
        return FreeList(frozenset(seen))

    def _readable(self, address: int) -> bool:
        try:
            self.prog.read(address, self.word)
        except (FaultError, OverflowError):
            return False
        return True

    def count_free(self, cache: Cache, slab: Slab, first: int) -> int:
        """How many objects hang on a free pointer; broken chains are complained of."""
        chain = self.free_list(cache, slab, first)
        self.complain(cache, slab, chain)
        return len(chain.objects)

    def complain(self, cache: Cache, slab: Slab, chain: FreeList) -> None:
        where = f"{cache.name}: slab: {slab.address:x}"
        if chain.fault is not None:
            self.warn(f"{where} invalid freepointer: {chain.fault:x}")
        if chain.duplicate is not None:
            self.warn(f"{where} duplicate freelist object: {chain.duplicate:x}")

    def counts(self, cache: Cache) -> Counts:
        """What /sys/kernel/slab counts, less the free objects that CPUs keep.

        get_kmem_cache_slub_data(). Raises SlabError where the numbers cannot be had.
        """
        free = slabs = total = 0
        per_node = [0] * len(self.nodes)
        for cpu in self.cpu_slabs(cache):
            if not cpu.slab:
                continue
            if (slab := self.slab(cache, cpu.slab)) is None or slab.node < 0:
                raise SlabError
            per_node[slab.node] += 1
            slabs += 1
            free += slab.objects - slab.inuse
            free += self.count_free(cache, slab, cpu.freelist)
            partial = 0
            for one in self.cpu_partial_slabs(cache, cpu):
                if one is None:  # crash forgets the whole list then
                    partial = 0
                    break
                partial += one.objects - one.inuse
            free += partial
        for number, address in enumerate(cache.node):
            if not address:
                continue
            node = self.node_slabs(address)
            for one in self.node_partial_slabs(cache, address):
                if one is None:
                    raise SlabError
                free += one.objects - one.inuse
            slabs += node.slabs - per_node[number]
            total += node.total_objects
        return Counts(allocated=total - free, total=total, slabs=slabs)

    def cache_at(self, address: int) -> Cache | None:
        return next((c for c in self.caches if c.address == address), None)

    def slab_of(self, page: int, *, head: bool = True) -> tuple[Cache, int] | None:
        """The cache and the slab that a struct page belongs to (vaddr_to_kmem_cache()).

        Without `head`, only if it is a slab's first page itself (is_slab_page()).
        """
        found = Object(self.prog, "struct page *", page)
        try:
            if head:
                found = compound_head(found)
            if not PageSlab(found):
                return None
            address: int = found.value_()
            owner = self.prog.read_word(address + self.layout.slab_cache)
        except FaultError:
            self._unread(page, "page.flags")
            return None
        cache = self.cache_at(owner)
        return None if cache is None else (cache, address)


def _offset(kind: Type, name: str) -> int:
    """The byte offset of a member, also of an unnamed union's."""
    return kind.member(name).offset


def _optional(kind: Type, name: str) -> int | None:
    return kind.member(name).offset if kind.has_member(name) else None


def _bits(prog: Program, kind: Type, name: str) -> Bits:
    member = kind.member(name)
    size = member.bit_field_size or 8 * sizeof(member.type)
    word, shift = divmod(member.bit_offset, 32)
    if byte_order(prog) == "big":
        shift = 32 - shift - size
    return Bits(word * 4, shift, (1 << size) - 1)
