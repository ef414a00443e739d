"""kmem -s, -S: slab caches, their slabs and their objects."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from drgn.helpers.linux.list import list_for_each_entry

from crashpy.command import Address, CommandError
from crashpy.dump import Dump
from crashpy.faults import skipping
from crashpy.kernel import slab as kernel
from crashpy.kernel.pages import direct_mapped, kernel_address, kernel_to_physical
from crashpy.kernel.slab import SlabError, Slub

from .machine import unsupported

CACHE_HEADER = "CACHE             OBJSIZE  ALLOCATED     TOTAL  SLABS  SSIZE  NAME"
SLAB_HEADER = "  SLAB              MEMORY            NODE  TOTAL  ALLOCATED  FREE"
OBJECT_HEADER = "  FREE / [ALLOCATED]"


@dataclass(frozen=True)
class SlabCache:
    """A row of `kmem -s`."""

    cache: Address  # struct kmem_cache *
    object_size: int
    allocated: int | None  # objects; None: what is needed to count them cannot be read
    total: int | None
    slabs: int | None
    slab_kib: int
    name: str
    ignored: bool = False  # named by -I


@dataclass(frozen=True)
class CacheName:
    """A row of `kmem -s list`."""

    cache: Address  # struct kmem_cache *
    name: str


@dataclass(frozen=True)
class CpuCache:
    """A CPU's part of a cache."""

    cpu: int
    address: Address | None  # struct kmem_cache_cpu *; None: the CPU is offline


@dataclass(frozen=True)
class NodeCache:
    """A node's part of a cache."""

    node: int
    address: Address  # struct kmem_cache_node *
    slabs: int
    partial: int
    per_cpu: int  # slabs that CPUs work on


@dataclass(frozen=True)
class SlabList:
    """What the slabs that follow are."""

    owner: str  # CPU 0, NODE 0, ...
    kind: str  # SLAB, PARTIAL, FULL
    empty: bool
    tracked: bool = True


@dataclass(frozen=True)
class SlabObject:
    address: Address
    free: bool


@dataclass(frozen=True)
class Slab:
    slab: Address  # struct slab *, or struct page *
    memory: Address  # its first object
    node: int
    total: int  # objects
    allocated: int
    free: int
    cpu: int | None = None  # the one that works on it
    objects: tuple[SlabObject, ...] | None = None  # None: not looked at


@dataclass(frozen=True)
class Lookup:
    """An address whose slab is looked for."""

    address: Address


Record = SlabCache | CacheName | CpuCache | NodeCache | SlabList | Slab | Lookup


def slub(dump: Dump) -> Slub:
    """The allocator; CommandError where this kernel has another."""
    try:
        allocator = Slub(dump.prog, dump.report)
    except LookupError as error:
        raise CommandError("kmem cache slab subsystem not available") from error
    if allocator.layout.nr_slabs is None:
        raise CommandError(
            "option requires kmem_cache_node.nr_slabs member!\n"
            "(the kernel must be built with CONFIG_SLUB_DEBUG)"
        )
    return allocator


def cache_names(dump: Dump) -> Iterator[CacheName]:
    """Every cache, in the kernel's order."""
    return (CacheName(Address(cache.address), cache.name) for cache in slub(dump).caches)


def caches(
    dump: Dump, *, name: str | None = None, ignore: Container[str] = ()
) -> Iterator[SlabCache]:
    """How many objects each cache has and how many are in use."""
    allocator = slub(dump)
    for cache in allocator.caches:
        if name is None or cache.name == name:
            yield row(allocator, cache, ignore)
            if name is not None:
                return


def roots(
    dump: Dump, *, name: str | None = None, ignore: Container[str] = ()
) -> Iterator[SlabCache]:
    """The caches that are no cgroup's own, with those of cgroups added to them."""
    if "slab_root_caches" not in dump.prog:  # from 510ded33e075 (4.11) to 9855609bde03 (5.9)
        raise CommandError(unsupported("r"))
    allocator = slub(dump)
    params = "memcg_params"
    for root in list_for_each_entry(
        "struct kmem_cache",
        dump.prog["slab_root_caches"].address_of_(),
        f"{params}.__root_caches_node",
    ):
        cache = allocator.cache_at(root.value_())
        if cache is None or name not in (None, cache.name):
            continue
        found = row(allocator, cache, ignore)
        if not found.ignored:
            with skipping(f"children of cache {root.value_():x}"):
                for child in list_for_each_entry(
                    "struct kmem_cache",
                    root.memcg_params.children.address_of_(),
                    f"{params}.children_node",
                ):
                    if (of_cgroup := allocator.cache_at(child.value_())) is not None:
                        found = together(found, row(allocator, of_cgroup))
        yield found
        if name is not None:
            return


def together(root: SlabCache, child: SlabCache) -> SlabCache:
    """What cannot be counted does not count."""
    if root.total is None or child.total is None:
        return root
    return replace(
        root,
        allocated=(root.allocated or 0) + (child.allocated or 0),
        total=root.total + child.total,
        slabs=(root.slabs or 0) + (child.slabs or 0),
    )


def row(allocator: Slub, cache: kernel.Cache, ignore: Container[str] = ()) -> SlabCache:
    counts: kernel.Counts | None = None
    ignored = cache.name in ignore
    if not ignored:
        try:
            counts = allocator.counts(cache)
        except SlabError:
            allocator.warn(f"{cache.name}: cannot gather relevant slab data")
    return SlabCache(
        cache=Address(cache.address),
        object_size=cache.object_size,
        allocated=counts.allocated if counts else None,
        total=counts.total if counts else None,
        slabs=counts.slabs if counts else None,
        slab_kib=(allocator.pages.page_size << (cache.order & 31)) // 1024,
        name=cache.name,
        ignored=ignored,
    )


def everything(
    dump: Dump,
    *,
    name: str | None = None,
    ignore: Container[str] = (),
    cpus: Container[int] | None = None,
    hidden: Container[int] = (),
    padded: bool = False,
) -> Iterator[Record]:
    """The caches with every slab that the kernel keeps track of, and every object in it."""
    allocator = slub(dump)
    for cache in allocator.caches:
        if name is not None and cache.name != name:
            continue
        found = row(allocator, cache, ignore)
        yield found
        if found.total is not None:
            yield from contents(allocator, cache, cpus, hidden, padded)
        if name is not None:
            return


def contents(
    allocator: Slub,
    cache: kernel.Cache,
    cpus: Container[int] | None,
    hidden: Container[int],
    padded: bool,
) -> Iterator[Record]:
    """The slabs of a cache, by CPU and node (do_kmem_cache_slub())."""
    per_node = [0] * len(allocator.nodes)
    for cpu in allocator.cpu_slabs(cache):
        if cpus is not None and cpu.cpu not in cpus:
            continue
        if cpu.cpu in hidden:
            yield CpuCache(cpu.cpu, None)
            continue
        yield CpuCache(cpu.cpu, Address(cpu.address))
        owner = f"CPU {cpu.cpu}"
        yield SlabList(owner, "SLAB", empty=not cpu.slab)
        if cpu.slab:
            slab = allocator.slab(cache, cpu.slab)
            if slab is None:
                continue
            if slab.node >= 0:
                per_node[slab.node] += 1
            yield from detailed(allocator, cache, slab, padded=padded)
        if allocator.layout.cpu_partial is not None:
            yield SlabList(owner, "PARTIAL", empty=not cpu.partial)
            for one in allocator.cpu_partial_slabs(cache, cpu):
                if one is not None:
                    yield from detailed(allocator, cache, one, padded=padded)
    for number, address in enumerate(cache.node):
        if not address:
            yield NodeCache(number, Address(0), 0, 0, per_node[number])
            continue
        try:
            node = allocator.node_slabs(address)
        except SlabError:
            return
        yield NodeCache(number, Address(address), node.slabs, node.partial, per_node[number])
        yield from _listed(allocator, cache, number, address, "PARTIAL")
        if allocator.layout.full is None or not cache.flags & allocator.layout.store_user:
            yield SlabList(f"NODE {number}", "FULL", empty=True, tracked=False)
        else:
            yield from _listed(allocator, cache, number, address, "FULL")


def _listed(
    allocator: Slub, cache: kernel.Cache, number: int, address: int, kind: str
) -> Iterator[Record]:
    empty = True
    for one in allocator.node_partial_slabs(cache, address, full=kind == "FULL"):
        if empty:
            yield SlabList(f"NODE {number}", kind, empty=False)
            empty = False
        if one is not None:
            yield Slab(
                slab=Address(one.address),
                memory=Address(one.memory),
                node=one.node,
                total=one.objects,
                allocated=one.inuse,
                free=one.objects - one.inuse,
            )
    if empty:
        yield SlabList(f"NODE {number}", kind, empty=True)


def detailed(
    allocator: Slub,
    cache: kernel.Cache,
    slab: kernel.Slab,
    *,
    only: int | None = None,
    padded: bool = False,
) -> Iterator[Slab]:
    """A slab with its objects, or with the one that `only` is in (do_slab_slub())."""
    cpu = next((c for c in allocator.cpu_slabs(cache) if c.slab == slab.address), None)
    chains = [allocator.free_list(cache, slab, slab.freelist)]
    inuse = slab.inuse
    if cpu is not None:
        # The CPU takes all objects of a slab for its own free list; those that other CPUs
        # free hang on the slab's.
        chains.append(allocator.free_list(cache, slab, cpu.freelist))
        allocator.complain(cache, slab, chains[-1])
        free = len(chains[-1].objects)
        if slab.freelist:
            free += slab.objects - inuse
        inuse = slab.objects - free
    pad = cache.red_left_pad if cache.flags & allocator.layout.red_zone else 0
    objects: list[SlabObject] = []
    broken: kernel.FreeList | None = None
    end = slab.memory + slab.objects * cache.size
    for address in range(slab.memory, end, cache.size or 1):
        free, broken = _is_free(chains, address + pad)
        if broken is not None:
            break
        if only is None or address <= only < address + cache.size:
            shown = address if padded else address + pad
            objects.append(SlabObject(Address(shown), free))
    yield Slab(
        slab=Address(slab.address),
        memory=Address(slab.memory),
        node=slab.node,
        total=slab.objects,
        allocated=inuse,
        free=slab.objects - inuse,
        cpu=None if cpu is None else cpu.cpu,
        objects=tuple(objects),
    )
    if broken is not None:
        allocator.complain(cache, slab, broken)


def _is_free(
    chains: Sequence[kernel.FreeList], address: int
) -> tuple[bool, kernel.FreeList | None]:
    """Whether an object is on a free list; the list that is broken before that is known."""
    for chain in chains:
        if address in chain:
            return True, None
        if chain.broken:
            return False, chain
    return False, None


def lookup(
    dump: Dump,
    allocator: Slub,
    address: int,
    *,
    whole: bool,
    selected: str | None = None,
    ignore: Container[str] = (),
    padded: bool = False,
) -> Iterator[Record]:
    """The slab that an address lies in, or that it is (dump_kmem_cache_slub())."""
    found: tuple[kernel.Cache, int] | None = None
    if allocator.pages.pfn(address) is not None:
        found = allocator.slab_of(address, head=False)
    if found is not None:
        whole = True
    else:
        physical = kernel_to_physical(dump.prog, address)
        if physical is None:
            warning(dump, f"cannot make virtual-to-physical translation: {address:x}")
        else:
            page = allocator.pages.page(physical // allocator.pages.page_size)
            if page is None:
                warning(dump, f"cannot find mem_map page for address: {address:x}")
            else:
                found = allocator.slab_of(page)
    if found is None:
        dump.report(f"address is not allocated in slab subsystem: {address:x}")
        return
    cache, slab_address = found
    if selected is not None:
        dump.report(f"ignoring pre-selected {selected} cache for address: {address:x}")
    counted = row(allocator, cache, ignore)
    yield counted
    if counted.total is None:
        return
    slab = allocator.slab(cache, slab_address)
    if slab is not None:
        only = None if whole else address
        yield from detailed(allocator, cache, slab, only=only, padded=padded)


def warning(dump: Dump, text: str) -> None:
    """crash's error(WARNING)."""
    dump.report(f"WARNING: {text}")


def virtual(dump: Dump, address: int, physical: bool) -> int:
    """A physical address below the end of memory as the direct map's."""
    if physical or not kernel_address(dump.prog, address):
        if (found := direct_mapped(dump.prog, address)) is not None:
            return found
        warning(dump, f"cannot make virtual-to-physical translation: {address:x}")
    return address


def lines(records: Iterable[Record]) -> Iterator[str]:
    """crash's layout of caches, slabs and objects."""
    cache_header = slab_header = True
    contents = False  # of a cache: an empty line ends them
    lookups = 0
    for record in records:
        match record:
            case Slab():
                yield from _slab_lines(record, slab_header)
                slab_header = record.objects is not None
            case SlabCache():
                if contents:
                    yield ""
                if cache_header or contents:
                    yield CACHE_HEADER
                cache_header = contents = False
                slab_header = True
                yield _cache_line(record)
            case SlabList():
                slab_header = True
                yield f"{record.owner} {record.kind}:"
                if not record.tracked:
                    yield "  (not tracked)"
                elif record.empty:
                    yield "  (empty)"
            case CpuCache(cpu=cpu, address=address):
                contents = True
                if address is None:
                    yield f"CPU {cpu} [OFFLINE]"
                else:
                    yield f"CPU {cpu} KMEM_CACHE_CPU:"
                    yield f"  {address:x}"
            case NodeCache():
                contents = True
                yield "KMEM_CACHE_NODE   NODE  SLABS  PARTIAL  PER-CPU"
                yield (
                    f"{record.address:x}  {record.node:4}  {record.slabs:5}  "
                    f"{record.partial:7}  {record.per_cpu:7}"
                )
            case CacheName():
                yield f"{record.cache:x} {record.name}"
            case Lookup():
                if contents:
                    yield ""
                if lookups:
                    yield ""
                lookups += 1
                cache_header, contents = True, False
    if contents:
        yield ""


def _cache_line(cache: SlabCache) -> str:
    if cache.ignored:
        return f"{cache.cache:x} {'[IGNORED]':<43}  {cache.name}"
    if cache.total is None:
        numbers = f"{'?':>9}  {'?':>8}  {'?':>5}"
    else:
        numbers = f"{cache.allocated:9}  {cache.total:8}  {cache.slabs:5}"
    start = f"{cache.cache:<16x} {cache.object_size:8}"
    return f"{start}  {numbers}  {cache.slab_kib:4}k  {cache.name}"


def _slab_lines(slab: Slab, header: bool) -> Iterator[str]:
    if header:
        yield SLAB_HEADER
    yield (
        f"  {slab.slab:<16x}  {slab.memory:<16x}  {slab.node:4}  {slab.total:5}  "
        f"{slab.allocated:9}  {slab.free:4}"
    )
    if slab.objects is None:
        return
    yield OBJECT_HEADER
    cached = "" if slab.cpu is None else f"(cpu {slab.cpu} cache)"
    for one in slab.objects:
        yield f"   {one.address:x}  {cached}" if one.free else f"  [{one.address:x}]"
