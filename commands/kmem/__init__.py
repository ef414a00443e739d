"""kmem: what the kernel uses memory for, page by page and object by object."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Any

from drgn.helpers.linux.cpumask import for_each_online_cpu

from crashpy.command import (
    Address,
    CommandError,
    Option,
    UsageError,
    command,
    flag,
    operands,
    value,
)
from crashpy.dump import Dump
from crashpy.kernel.percpu import cpu_count, cpu_list
from crashpy.numbers import htol, is_hexadecimal
from crashpy.settings import Settings

from . import free, info, machine, nodes, pages, search, slab, vmalloc, vmstat, zones
from .info import MemoryUse
from .machine import unsupported
from .pages import PageFlags, PageInfo, PageMembers
from .vmstat import VmStat
from .zones import Zone

Record = (
    MemoryUse
    | PageInfo
    | PageMembers
    | PageFlags
    | VmStat
    | Zone
    | slab.Record
    | free.Record
    | machine.Record
    | nodes.Record
    | search.Record
    | vmalloc.Record
)

USAGE = """[-f|-F|-c|-C|-i[=shared]|-v|-V|-n|-z|-o|-h] [-p | -m member[,member]]
       [[-s|-S|-S=cpu[s]|-r] [slab] [-I slab[,slab]]] [-g [flags]] [[-P] address]]"""

# What -l and -L list of kernels before 2.6: the list's name, and the counter's.
PAGE_LISTS = {
    "a": ("active_list", "nr_active_pages"),
    "i": ("inactive_list", "nr_active_pages"),
    "id": ("inactive_dirty_list", "nr_inactive_dirty_pages"),
    "ic": ("", ""),
}


def _letter(name: str, dest: str, help: str) -> Option:
    """One of the letters of which the last given counts."""
    return flag(name, dest, help, value=name)


def _listed(name: str, help: str) -> Option:
    return value(name, "page_lists", "a|i|ic|id", f"{name} {{}}".format, help, repeat=True)


@command(
    _letter("-f", "free_lists", "lists of free pages"),
    _letter("-F", "free_lists", "the free pages as well"),
    _letter("-c", "page_cache", "the hash table of cached pages, which no kernel has any more"),
    _letter("-C", "page_cache", "the pages in it as well"),
    value("-i", "use", "=shared", str, "what memory is used for", optional=True),
    flag("-v", "mapped", "the kernel's mapped areas"),
    flag("-n", "numa", "nodes, sections and blocks of memory"),
    flag("-o", "offsets", "where the variables of each CPU are"),
    flag("-h", "huge", "sizes of huge pages"),
    flag("-p", "listed", "every page structure"),
    value("-m", "members", "member[,member]", str, "these members of page structures"),
    replace(_letter("-s", "caches", "slab caches"), repeat=True),
    value("-S", "caches", "=cpu[s]", str, "slabs and objects", repeat=True, optional=True),
    replace(_letter("-r", "caches", "slab caches and those of cgroups together"), repeat=True),
    value("-I", "ignore", "slab[,slab]", str, "leave these caches out"),
    flag("-V", "vm_stat", "counters of the whole machine"),
    flag("-z", "zone", "counters of each zone"),
    flag("-g", "bits", "the bits of page flags"),
    _listed("-l", "lists of pages that no kernel has any more"),
    _listed("-L", "the pages on them as well"),
    flag("-P", "physical", "addresses are physical"),
    operands("words", "slab|address", str, "only these"),
    usage=USAGE,
)
def kmem(
    dump: Dump,
    *,
    free_lists: str = "",
    page_cache: str = "",
    use: str | bool = False,
    mapped: bool = False,
    numa: bool = False,
    offsets: bool = False,
    huge: bool = False,
    listed: bool = False,
    members: str = "",
    caches: Sequence[str | bool] = (),
    ignore: str = "",
    vm_stat: bool = False,
    zone: bool = False,
    bits: bool = False,
    page_lists: Sequence[str] = (),
    physical: bool = False,
    words: Sequence[str] = (),
    settings: Settings | None = None,
) -> Iterator[Record]:
    """kernel memory

    Without operands each form lists all there is; an address, virtual or
    physical, or the name of a slab cache limits it. An address without a form:
    all that is known of it (its symbol, the task whose it is, the mapped area,
    the slab and the object, the free block, the page structure).

      -i           what memory is used for; with -i=shared how much is shared, too
      -f           lists of free pages by zone, size and migrate type; or the
                   free block that an address is in
      -F           the blocks on the lists, too: the first page structure of each
      -v           areas that the kernel mapped (vmalloc, ioremap, modules), or
                   the one of an address
      -n           nodes, sections and blocks of memory
      -o           what is added to the addresses of each CPU's own variables
      -h           sizes of huge pages, how many there are, how many are free
      -s           slab caches: objects in use and in all, slabs
      -S           every slab and object as well; -S=0,2 only those that CPUs 0
                   and 2 work on. An address shows the slab that it is in.
      -r           slab caches, those of cgroups added to the ones that they
                   were made from (4.11 to 5.8)
      -s list      names and addresses of the caches
      -I           slab caches not to look at
      -p           every page structure, or that of an address
      -m           some of its members
      -g           the bits of page flags, or those in a flags word
      -V           counters of zones, nodes, and virtual memory events
      -z           zones: sizes, watermarks, counters
      -P           the address is a physical one

    -c, -C, -l and -L are about tables that kernels before 2.6 had.

    EXAMPLES
      kmem -i                what memory is used for
      kmem -f                how much memory is free, in blocks of which sizes
      kmem -f ffffc75ec0072000  the free block of a page
      kmem -v ffffffffc019c000  the mapped area around an address
      kmem -s mm_struct      how many address spaces there are, in how many slabs
      kmem -S=0 filp         the open files in the slabs that CPU 0 works on
      kmem -p 1000 2000      the pages of two physical addresses
      kmem -m flags,lru 1000  members of a page structure
      kmem -g 4001           PG_locked and PG_private
      kmem -p --json         every page for a program

      crash> kmem ffffa2e00000a000
          PID: 1
      COMMAND: "init"
         TASK: ffffa0bb801c0000  [THREAD_INFO: ffffa0bb801c0000]
          CPU: 0
        STATE: TASK_INTERRUPTIBLE

         VMAP_AREA         VM_STRUCT                 ADDRESS RANGE                SIZE
      ffffa0bb801440d8  ffffa0bb80163120  ffffa2e000008000 - ffffa2e00000d000    20480

            PAGE       PHYSICAL      MAPPING       INDEX CNT FLAGS
      ffffc75ec0006940   1a5000                0        0  1 0

      crash> kmem -h
           HSTATE        SIZE    FREE   TOTAL  NAME
      ffffffffa668e660    2MB       1       2  hugepages-2048kB
    """
    members_asked = pages.page_members(dump.prog, members) if members else ()
    form, cpus = _slab_form(dump, caches)
    if any(word.partition(" ")[2] not in PAGE_LISTS for word in page_lists):
        raise UsageError
    once = (free_lists, page_cache, use, mapped, offsets, huge, listed or members, form)
    if sum(map(bool, (*once, vm_stat, bits, page_lists))) > 1:
        dump.report("only one flag allowed!")
        raise UsageError
    if form == "-S" and not dump.prog.type("struct kmem_cache").has_member("cpu_slab"):
        raise CommandError("-S not supported for this kernel")  # since 7.0
    addresses, name = _operands(words, named=bool(form))
    if not any((*once, vm_stat, bits, page_lists, numa, zone, addresses)):
        raise UsageError
    options: dict[str, Any] = {"ignore": ignore.replace(",", " ").split()}
    if form == "-S":
        options |= {"cpus": cpus, "hidden": _hidden(dump, settings)}
        options["padded"] = getattr(settings, "redzone", True)
    # These come without an address; crash says so after it has looked for the first.
    bare = any((numa, zone, use, vm_stat, offsets, huge, form == "-r", free_lists == "-F"))
    bare = bare or page_cache == "-C" or any(word.startswith("-L") for word in page_lists[-1:])
    looked_for = addresses[:1] if bare else addresses

    if members:
        yield from pages.page_member_values(dump, members_asked, looked_for, physical=physical)
    elif listed:
        yield from pages.page_infos(dump, looked_for, physical=physical)
    elif bits and addresses:
        yield from pages.page_flags(dump, looked_for)
    elif form in ("-s", "-S") and addresses:
        yield from _lookups(dump, addresses, len(looked_for), name, form == "-S", physical, options)
    elif addresses:
        look_up = _look_up(dump, free_lists, page_cache, mapped, page_lists, bare)
        for address in looked_for:
            yield from look_up(address, physical=physical)
    if addresses:
        if bare:
            dump.report("no address arguments allowed with this option")
            raise UsageError
        return

    if use:
        yield from info.memory_use(dump, shared=use == "=shared")
    if free_lists:
        yield from free.free_pages(dump, listed=free_lists == "-F")
    if huge:
        yield from machine.huge_pages(dump)
    if form == "-r":
        yield from slab.roots(dump, name=name, **options)
    elif form and (name == "list" or (form == "-S" and name == "\\list")):
        yield from slab.cache_names(dump)
    elif form:
        name = name and name.removeprefix("\\")  # a cache may be named list
        yield from (slab.everything if form == "-S" else slab.caches)(dump, name=name, **options)
    if mapped:
        yield from vmalloc.mapped_areas(dump)
    if page_cache:
        raise CommandError(unsupported(page_cache[1]))
    if numa:
        yield from nodes.memory_nodes(dump)
    if zone:
        yield from zones.zones(dump)
    if page_lists:
        raise CommandError(_no_lists(dump, page_lists))
    if vm_stat:
        yield from vmstat.vm_stats(dump)
    if offsets:
        yield from machine.per_cpu(dump, _hidden(dump, settings))
    if bits:
        yield from pages.page_flags(dump, ())


def _look_up(
    dump: Dump, free_lists: str, page_cache: str, mapped: bool, lists: Sequence[str], bare: bool
) -> Callable[..., Iterator[Record]]:
    """What to ask of an address."""
    if free_lists == "-f":
        return partial(free.look_up, dump)
    if mapped:
        return partial(vmalloc.look_up, dump)
    if page_cache == "-c":
        raise CommandError(unsupported("c"))
    if lists and lists[-1].startswith("-l"):
        raise CommandError(_no_lists(dump, lists))
    return _nothing if bare else search.Searcher(dump).look_up


def _nothing(_: int, **__: bool) -> Iterator[Record]:
    return iter(())


def _no_lists(dump: Dump, asked: Sequence[str]) -> str:
    """The first of the lists that are not there."""
    words = {word.partition(" ")[2] for word in asked}
    for word, (pages_on, counter) in PAGE_LISTS.items():
        if word in words:
            if not pages_on:
                return "inactive_clean_list(s) do not exist in this kernel"
            missing = counter if dump.symbols.named(pages_on) else pages_on
            return f"{missing} does not exist in this kernel"
    raise UsageError


def _slab_form(dump: Dump, given: Sequence[str | bool]) -> tuple[str, set[int] | None]:
    """The last of -s, -S and -r, and the CPUs that -S=... names."""
    cpus: set[int] | None = None
    last = ""
    for form in given:
        last = str(form) if form in ("-s", "-r") else "-S"
        if last != "-S":
            continue
        if cpus is not None:
            raise CommandError("only one -S option allowed")
        if isinstance(form, str):
            if not form.startswith("="):
                raise CommandError(
                    "CPU-specific slab data to be displayed "
                    "must be written as expected only e.g. -S=1,45."
                )
            cpus = set(cpu_list(form[1:], cpu_count(dump.prog)))
    return last, cpus


def _hidden(dump: Dump, settings: Settings | None) -> Collection[int]:
    """The CPUs that `set offline hide` leaves out."""
    if getattr(settings, "offline", "show") != "hide":
        return ()
    return set(range(cpu_count(dump.prog))) - set(for_each_online_cpu(dump.prog))


def _operands(words: Sequence[str], *, named: bool) -> tuple[list[int], str | None]:
    """Addresses, and the one name of a cache that may be among them."""
    addresses: list[int] = []
    name: str | None = None
    for word in words:
        if is_hexadecimal(word):
            addresses.append(htol(word))
            continue
        if name is not None:
            raise CommandError("only one kmem_cache reference is allowed")
        if not named:
            raise UsageError
        name = word
    return addresses, name


def _lookups(
    dump: Dump,
    addresses: Sequence[int],
    count: int,
    name: str | None,
    objects: bool,
    physical: bool,
    options: dict[str, Any],
) -> Iterator[slab.Record]:
    """The caches or slabs that the first `count` addresses name.

    A cache is listed if it is the last of all, as in crash.
    """
    allocator = slab.slub(dump)
    for number, given in enumerate(addresses[:count], 1):
        address = slab.virtual(dump, given, physical)
        if (cache := allocator.cache_at(address)) is None:
            yield slab.Lookup(Address(address))
            yield from slab.lookup(
                dump,
                allocator,
                address,
                whole=objects,
                selected=name,
                ignore=options["ignore"],
                padded=options.get("padded", True),
            )
            continue
        if name is not None:
            raise CommandError("only one kmem_cache reference is allowed")
        name = cache.name
        if number == len(addresses):
            yield slab.Lookup(Address(address))
            yield from (slab.everything if objects else slab.caches)(dump, name=name, **options)


@kmem.text
def lines(records: Iterable[Record], *, settings: Settings | None = None) -> Iterator[str]:
    """Each part shows its own records: a record is of the module that made it."""
    radix = settings.radix if settings else 10
    for module, own in groupby(records, attrgetter("__module__")):
        found: Iterator[Any] = own
        if module in WITH_RADIX:
            yield from WITH_RADIX[module].lines(found, radix=radix)
        else:
            yield from PARTS[module].lines(found)


PARTS = {part.__name__: part for part in (free, info, machine, slab, vmalloc, vmstat, zones)}
WITH_RADIX = {part.__name__: part for part in (nodes, pages, search)}
