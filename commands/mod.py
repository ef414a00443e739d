"""mod: the modules of the dump, and loading what their files know."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from drgn import FaultError

from crashpy.command import Address, CommandError, Option, UsageError, command, flag, getopt, value
from crashpy.modules import Module
from crashpy.numbers import htol, is_hexadecimal
from crashpy.opening.modules import Finder, ModuleFile, load, open_module

if TYPE_CHECKING:
    from crashpy.dump import Dump

OPTIONS: dict[str, Option] = {
    option.name: option
    for option in (
        value("-s", "load", "module", str, "load the file of one module"),
        value("-d", "unload", "module", str, "forget the file of one module"),
        flag("-S", "load_all", "load the files of all modules"),
        flag("-D", "unload_all", "forget all files"),
        flag("-t", "taints", "the modules that taint the kernel"),
        flag("-R", "restart", "forget all files and read the list of modules again"),
        flag("-o", "old", "accepted"),
    )
}


@dataclass(frozen=True, slots=True)
class Listed:
    """One module."""

    address: Address  # struct module *
    name: str
    base: Address  # of its code
    size: int  # bytes
    file: str | None  # whose symbols are loaded
    kallsyms: bool  # the kernel kept its symbols
    by_kind: bool  # its memory is in pieces by kind: `base` is the code's (Linux 6.4)
    first: bool = field(default=True, repr=False)  # opens a table
    widths: tuple[int, int] = field(default=(0, 0), repr=False)  # of the longest name and size


@dataclass(frozen=True, slots=True)
class Tainting:
    """A module that taints the kernel."""

    name: str
    taints: str  # the kernel's letters; hexadecimal where it has none
    width: int = field(default=0, repr=False)  # of the longest name


@dataclass(frozen=True, slots=True)
class Remark:
    """A line that is no table."""

    text: str


Record = Listed | Tainting | Remark


@command(
    usage="-s module [objfile] | -d module | -S [directory] [-D|-t|-r|-R|-o|-g]",
    words=True,
)
def mod(dump: Dump, *, words: Sequence[str] = ()) -> Iterator[Record]:
    """the modules, and loading of their symbols and types

    Lists struct module, name, address and size in bytes of each module, and the file
    that its symbols were loaded from. The symbols that the kernel itself keeps
    (CONFIG_KALLSYMS) are known without a file; types and source lines are not.

    -s module [objfile]  load the module's file
    -S [directory]       load the files of all modules
    -d module            forget it
    -D                   forget all
    -t                   the modules that taint the kernel
    -g                   with -s or -S: also mark where sections begin and end
    -R                   forget all and read the list again
    -r, -o               accepted, they change nothing here

    A file is searched in the folders of --mod, in `modules` beside the dump,
    /usr/lib/debug/lib/modules/RELEASE, $CRASH_MODULE_PATH, /lib/modules/RELEASE and in
    the folder of the kernel; it may be packed (.xz, .gz, .zst), and must have the
    BUILD-ID of the module.

    EXAMPLES
      crash> mod -t
      NAME     TAINTS
      crashme  O

      crash> mod -s crashme modules/crashme.ko
           MODULE       NAME        TEXT_BASE       SIZE  OBJECT FILE
      ffffffffc01bd100  crashme  ffffffffc01bb000  12288  modules/crashme.ko

      crash> mod -S modules
    """
    if not dump.symbols.modules:
        if dump.symbols.modules_broken:
            raise CommandError("cannot access vmalloc'd module memory")
        yield Remark("no modules installed")
        return
    sections, rest = _without(words)
    found, operands = getopt(rest, OPTIONS)
    if not found:
        yield from _table(dump)
        return
    action, argument = "", ""
    module: Module | None = None
    for option, given in found:
        if action:
            raise UsageError
        if option.dest == "old":
            return
        action, argument = option.dest, given or ""
        if action in ("load", "unload"):
            module = _module(dump, argument)
    # crash counts the words, and a module's name may be part of its option's word.
    count = len(rest) + 1
    if action == "load" and module is not None:
        yield from _load(dump, module, operands, count, sections)
    elif action == "load_all":
        yield from _load_all(dump, operands, count, sections)
    elif action == "unload" and module is not None:
        module.unload()
        dump.symbols.forget_lines()
    elif action in ("unload_all", "restart"):
        for each in dump.symbols.modules:
            each.unload()
        dump.symbols.forget_lines()
        if action == "restart":
            dump.symbols.read_modules_again()
            yield from _table(dump)
    elif action == "taints":
        yield from _taints(dump)


def _without(words: Sequence[str]) -> tuple[bool, list[str]]:
    """Whether -g is given; the words without it and -r, wherever they hide in other words."""
    sections = False
    rest = []
    for word in words:
        if word.startswith("-"):
            sections = sections or "g" in word
            word = word.replace("g", "", 1).replace("r", "", 1)
            if word == "-":
                continue
        rest.append(word)
    return sections, rest


def _module(dump: Dump, word: str) -> Module:
    """The module of that name or base address."""
    if is_hexadecimal(word) and len(word) == 16:
        base = htol(word)
        for module in dump.symbols.modules:
            if module.base == base:
                return module
    elif (found := dump.symbols.module(word)) is not None:
        return found
    raise UsageError


def _listed(dump: Dump) -> list[Listed]:
    modules = dump.symbols.modules
    names = max(len(m.name) for m in modules)
    sizes = max(len(str(m.size)) for m in modules)
    return [
        Listed(
            Address(m.address),
            m.name,
            Address(m.base),
            m.size,
            m.file or None,
            m.has_kallsyms,
            m.by_kind,
            i == 0,
            (names, sizes),
        )
        for i, m in enumerate(modules)
    ]


def _table(dump: Dump) -> Iterator[Listed]:
    yield from _listed(dump)
    if broken := dump.symbols.modules_broken:
        dump.report(broken)


def _one(dump: Dump, module: Module, *, first: bool = True) -> Listed:
    row = next(r for r in _listed(dump) if r.address == module.address)
    return replace(row, first=first)


def _load(
    dump: Dump, module: Module, operands: Sequence[str], count: int, sections: bool
) -> Iterator[Record]:
    if count not in (3, 4):
        raise UsageError
    named = operands[0] if count == 4 and operands else None
    if named is not None and Path(named).exists():
        path: str | None = named
        file = _opened(dump, named)
        if file is None:
            raise UsageError
    else:
        path = None if named is None else named
        found = Finder(dump).find(module, named and Path(named).name)
        if found is None:
            raise CommandError(
                f"{module.name}: cannot find or load object file: {path}"
                if named
                else f"cannot find or load object file for {module.name} module"
            )
        file = found
    try:
        if not module.file:
            load(dump, module, file, sections=sections)
    finally:
        file.close()
    yield _one(dump, module)


def _opened(dump: Dump, path: str) -> ModuleFile | None:
    try:
        return open_module(path)
    except OSError as error:
        dump.report(f"{path}: {error.strerror}")
    except ValueError:
        pass
    dump.report(f"{path}: not an ELF format object file")
    return None


def _load_all(dump: Dump, operands: Sequence[str], count: int, sections: bool) -> Iterator[Record]:
    if count not in (2, 3):
        raise UsageError
    tree = operands[0] if operands else None
    if tree is not None and not Path(tree).is_dir():
        dump.report(f"{tree} is not a directory")
        raise UsageError
    finder = Finder(dump, tree)
    first = True
    for module in dump.symbols.modules:
        if not module.file:
            file = finder.find(module)
            if file is None:
                dump.report(f"cannot find or load object file for {module.name} module")
                continue
            try:
                load(dump, module, file, sections=sections)
            except CommandError as error:
                dump.report(str(error))
            finally:
                file.close()
        yield _one(dump, module, first=first)
        first = False


def _taints(dump: Dump) -> Iterator[Record]:
    prog = dump.prog
    found: list[tuple[str, int]] = []
    for module in dump.symbols.modules:
        with suppress(FaultError, AttributeError):
            if taints := module.struct.taints.value_():
                found.append((module.name, taints))
    if not found:
        yield Remark("no tainted modules")
        return
    try:
        flags = [(i, f) for i, f in enumerate(prog["taint_flags"]) if f.module.value_()]
    except LookupError:
        flags = []
    width = max(len(name) for name, _ in found)
    for name, taints in found:
        letters = f"{taints:x}"
        if flags:
            letters = "".join(_letter(f) for i, f in flags if taints >> i & 1)
        yield Tainting(name, letters, width)


def _letter(flag: object) -> str:
    """struct taint_flag: c_true, which was called `true` up to Linux 6.1"""
    for member in ("c_true", "true"):
        with suppress(AttributeError):
            return chr(getattr(flag, member).value_())
    return "?"


@mod.text
def lines(records: Iterable[Record]) -> Iterator[str]:
    header = False
    for record in records:
        if isinstance(record, Remark):
            yield record.text
        elif isinstance(record, Tainting):
            if not header:
                yield f"{'NAME':<{record.width}}  TAINTS"
                header = True
            yield f"{record.name:<{record.width}}  {record.taints}"
        else:
            names, sizes = record.widths
            if record.first:
                base = "   TEXT_BASE    " if record.by_kind else "      BASE      "
                yield f"     MODULE       {'NAME':<{names}}  {base}  {'SIZE':>{sizes}}  OBJECT FILE"
            file = f"{record.file} " if record.file else "(not loaded)"
            if not record.file and record.kallsyms:
                file += "  [CONFIG_KALLSYMS]"
            yield (
                f"{record.address:016x}  {record.name:<{names}}  {record.base:016x}"
                f"  {record.size:>{sizes}}  {file}"
            )
