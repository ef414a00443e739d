"""kmem: what the kernel uses memory for, page by page and object by object."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from typing import Any

from drgn.helpers.linux.cpumask import for_each_online_cpu

from crashpy.command import Address, CommandError, UsageError, command, flag, operands, value
from crashpy.dump import Dump
from crashpy.kernel.percpu import cpu_count, cpu_list
from crashpy.numbers import htol, is_hexadecimal
from crashpy.settings import Settings

from . import info, pages, slab, vmstat, zones
from .info import MemoryUse
from .pages import PageFlags, PageInfo, PageMembers
from .vmstat import VmStat
from .zones import Zone

Record = MemoryUse | PageInfo | PageMembers | PageFlags | VmStat | Zone | slab.Record

USAGE = """[-f|-F|-c|-C|-i[=shared]|-v|-V|-n|-z|-o|-h] [-p | -m member[,member]]
       [[-s|-S|-S=cpu[s]|-r] [slab] [-I slab[,slab]]] [-g [flags]] [[-P] address]]"""


@command(
    value("-i", "use", "=shared", str, "what memory is used for", optional=True),
    flag("-p", "listed", "every page structure"),
    value("-m", "members", "member[,member]", str, "these members of page structures"),
    replace(flag("-s", "caches", "slab caches", value="-s"), repeat=True),
    value("-S", "caches", "=cpu[s]", str, "slabs and objects", repeat=True, optional=True),
    value("-I", "ignore", "slab[,slab]", str, "leave these caches out"),
    flag("-V", "vm_stat", "counters of the whole machine"),
    flag("-z", "zone", "counters of each zone"),
    flag("-g", "bits", "the bits of page flags"),
    flag("-P", "physical", "addresses are physical"),
    operands("words", "slab|address", str, "only these"),
    usage=USAGE,
)
def kmem(
    dump: Dump,
    *,
    use: str | bool = False,
    listed: bool = False,
    members: str = "",
    caches: Sequence[str | bool] = (),
    ignore: str = "",
    vm_stat: bool = False,
    zone: bool = False,
    bits: bool = False,
    physical: bool = False,
    words: Sequence[str] = (),
    settings: Settings | None = None,
) -> Iterator[Record]:
    """kernel memory

    Without operands each form lists all there is; an address, virtual or
    physical, or the name of a slab cache limits it.

      -i           what memory is used for; with -i=shared how much is shared, too
      -s           slab caches: objects in use and in all, slabs
      -S           every slab and object as well; -S=0,2 only those that CPUs 0
                   and 2 work on. An address shows the slab that it is in.
      -s list      names and addresses of the caches
      -I           slab caches not to look at
      -p           every page structure, or that of an address
      -m           some of its members
      -g           the bits of page flags, or those in a flags word
      -V           counters of zones, nodes, and virtual memory events
      -z           zones: sizes, watermarks, counters
      -P           the address is a physical one

    EXAMPLES
      kmem -i                what memory is used for
      kmem -s mm_struct      how many address spaces there are, in how many slabs
      kmem -S=0 filp         the open files in the slabs that CPU 0 works on
      kmem -p 1000 2000      the pages of two physical addresses
      kmem -m flags,lru 1000  members of a page structure
      kmem -g 4001           PG_locked and PG_private
      kmem -p --json         every page for a program
    """
    members_asked = pages.page_members(dump.prog, members) if members else ()
    objects, cpus = _slab_form(dump, caches)
    forms = (bool(use), listed or bool(members), bool(caches), vm_stat, bits)
    if sum(forms) > 1:
        dump.report("only one flag allowed!")
        raise UsageError
    if not any(forms) and not zone:
        raise UsageError
    if objects and not dump.prog.type("struct kmem_cache").has_member("cpu_slab"):
        raise CommandError("-S not supported for this kernel")  # since 7.0
    addresses, name = _operands(words, named=bool(caches))

    if members:
        yield from pages.page_member_values(dump, members_asked, addresses, physical=physical)
    elif listed:
        yield from pages.page_infos(dump, addresses, physical=physical)
    if caches:
        options: dict[str, Any] = {"ignore": ignore.replace(",", " ").split()}
        if objects:
            options |= {"cpus": cpus, "hidden": _hidden(dump, settings)}
            options["padded"] = getattr(settings, "redzone", True)
        if addresses:
            yield from _lookups(dump, addresses, name, objects, physical, options)
        elif name == "list" or (objects and name == "\\list"):
            yield from slab.cache_names(dump)
        else:
            name = name and name.removeprefix("\\")  # a cache may be named list
            yield from (slab.everything if objects else slab.caches)(dump, name=name, **options)
    if bits and addresses:
        yield from pages.page_flags(dump, addresses)
    if addresses and (zone or use or vm_stat):
        dump.report("no address arguments allowed with this option")
        raise UsageError
    if use:
        yield from info.memory_use(dump, shared=use == "=shared")
    if zone:
        yield from zones.zones(dump)
    if vm_stat:
        yield from vmstat.vm_stats(dump)
    if bits and not addresses:
        yield from pages.page_flags(dump, ())


def _slab_form(dump: Dump, given: Sequence[str | bool]) -> tuple[bool, set[int] | None]:
    """Whether the last of -s and -S asks for objects, and the CPUs that -S=... names."""
    cpus: set[int] | None = None
    for form in given:
        if form == "-s":
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
    return bool(given) and given[-1] != "-s", cpus


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
    name: str | None,
    objects: bool,
    physical: bool,
    options: dict[str, Any],
) -> Iterator[slab.Record]:
    """The caches or slabs that addresses name; the last cache is listed, as in crash."""
    allocator = slab.slub(dump)
    for number, given in enumerate(addresses, 1):
        address = slab.virtual(dump, allocator, given, physical)
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
    for module, own in groupby(records, attrgetter("__module__")):
        found: Iterator[Any] = own
        if module == pages.__name__:
            yield from pages.lines(found, radix=settings.radix if settings else 10)
        else:
            yield from PARTS[module].lines(found)


PARTS = {part.__name__: part for part in (info, slab, vmstat, zones)}
