"""Files of kernel modules: where they are, whether they belong to the dump, loading them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from drgn import Module as DrgnModule
from drgn import ModuleFileStatus, Object

from crashpy.command import CommandError
from crashpy.elf import ElfSymbols
from crashpy.vmcore.elf import SHT_NOBITS, Elf
from crashpy.vmcore.files import PackingError, PlainFile, memory_file, packed_with

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.modules import Module

DEBUG_ROOT = "/usr/lib/debug/lib/modules"
ENDINGS = (".ko", ".ko.debug", ".ko.xz", ".ko.gz", ".ko.zst")
MOST_FOLDERS = 20000  # of one place: a kernel may lie in somebody's home


@dataclass(eq=False)
class ModuleFile:
    """The ELF file of a module, unpacked where it was packed."""

    path: str  # as it was found, which is what is shown
    fd: int  # open on the ELF file
    build_id: bytes | None = None
    debug_info: bool = False  # rather than the symbols alone

    @property
    def readable(self) -> str:
        """A path that opens the ELF file itself."""
        return f"/proc/self/fd/{self.fd}"

    def close(self) -> None:
        os.close(self.fd)


def open_module(path: str) -> ModuleFile:
    """Raises OSError, or ValueError for what is no ELF file, packed or not."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        packing = packed_with(os.pread(fd, 8, 0))
        if packing is not None:
            packed, fd = fd, memory_file(Path(path).name)
            with os.fdopen(packed, "rb") as raw:
                for piece in packing.unpack(raw):
                    os.write(fd, piece)
        elf = Elf(PlainFile(fd))
        return ModuleFile(path, fd, elf.build_id, _has_debug_info(elf))
    except (ValueError, PackingError) as error:
        os.close(fd)
        raise ValueError(f"{path}: {error}") from error


def _has_debug_info(elf: Elf) -> bool:
    section = elf.sections.get(".debug_info")
    return section is not None and section.type != SHT_NOBITS


@dataclass
class Finder:
    """Searches the places where a dump's modules may be, each folder once."""

    dump: Dump
    tree: str | None = None  # the only place to search
    _found: dict[tuple[str, bool], dict[str, list[str]]] = field(default_factory=dict)

    def places(self) -> Iterator[tuple[str, bool]]:
        """Folders in crash's order, after the user's own; whether to follow links in them."""
        if self.tree is not None:
            yield self.tree, True
            return
        dump, release = self.dump, self.dump.release
        for folder in dump.options.module_dirs:
            yield folder, True
        yield str(Path(dump.vmcore).resolve().parent / "modules"), False
        for root in dump.options.debug_dirs:
            yield f"{root}/lib/modules/{release}", False
        yield f"{DEBUG_ROOT}/{release}", False
        if named := os.environ.get("CRASH_MODULE_PATH"):
            yield named, False
        yield f"/lib/modules/{release}/updates", False
        yield f"/lib/modules/{release}", False
        if (kernel := Path(dump.debuginfo or dump.kernel)).exists():
            yield str(kernel.resolve().parent), False

    def candidates(self, name: str) -> Iterator[list[str]]:
        """Files that by their name may be the module's, a list for each place.

        `-` and `_` are one letter.
        """
        wanted = name.replace("-", "_")
        for folder, follow in self.places():
            files = self._index(folder, follow=follow).get(wanted, ())
            yield [path for ending in ENDINGS for path in files if path.endswith(ending)]

    def find(self, module: Module, named: str | None = None) -> ModuleFile | None:
        """The first file that is the module's by BUILD-ID, or by name where there is none.

        `named` is searched for as a file name first. Of the files in one place, one with
        debug information goes before one without.
        """
        build_id = drgn_module(self.dump, module).build_id
        if named:
            for folder, follow in self.places():
                paths = [p for p in self._walk(folder, follow=follow) if Path(p).name == named]
                if found := _best(paths, build_id):
                    return found
        for paths in self.candidates(module.name):
            if found := _best(paths, build_id):
                return found
        return None

    def _index(self, folder: str, *, follow: bool) -> dict[str, list[str]]:
        key = folder, follow
        if key not in self._found:
            found: dict[str, list[str]] = {}
            for path in self._walk(folder, follow=follow):
                stem, dot, _ = Path(path).name.partition(".ko")
                if dot and path.endswith(ENDINGS):
                    found.setdefault(stem.replace("-", "_"), []).append(path)
            self._found[key] = found
        return self._found[key]

    @staticmethod
    def _walk(folder: str, *, follow: bool) -> Iterator[str]:
        for number, (at, _, files) in enumerate(os.walk(folder, followlinks=follow)):
            if number > MOST_FOLDERS:
                return
            for file in files:
                yield f"{at.rstrip('/')}/{file}"


def _best(paths: Sequence[str], build_id: bytes | None) -> ModuleFile | None:
    best: ModuleFile | None = None
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            file = open_module(path)
            if build_id is not None and file.build_id not in (None, build_id):
                file.close()
            elif file.debug_info:
                if best:
                    best.close()
                return file
            elif best:
                file.close()
            else:
                best = file
    return best


def drgn_module(dump: Dump, module: Module) -> DrgnModule:
    """drgn's own record of a module."""
    pointer = Object(dump.prog, "struct module *", value=module.address)
    found = dump.prog.linux_kernel_loadable_module(pointer, create=True)
    return found[0] if isinstance(found, tuple) else found


def load(dump: Dump, module: Module, file: ModuleFile, *, sections: bool = False) -> None:
    """Take the symbols of a module's file, and give it to drgn for types and lines.

    Raises CommandError for a file of another build, and for one without symbols.
    """
    known = drgn_module(dump, module)
    if known.build_id and file.build_id and known.build_id != file.build_id:
        dump.report(
            f"{file.path}: its BUILD-ID {file.build_id.hex()} is not that of"
            f" the {module.name} module, {known.build_id.hex()}"
        )
        raise CommandError(f"cannot load symbols from: {file.path}")
    try:
        elf = ElfSymbols.open(file.readable)
    except ValueError as error:
        raise CommandError(f"no symbols in object file: {file.path}") from error
    if known.debug_file_status != ModuleFileStatus.HAVE:
        for status in ("loaded_file_status", "debug_file_status"):
            if getattr(known, status) != ModuleFileStatus.HAVE:
                setattr(known, status, ModuleFileStatus.WANT)
        try:
            known.try_file(file.path, fd=os.dup(file.fd))
        except Exception as error:  # noqa: BLE001 (drgn has no base class for a bad file)
            dump.report(f"{file.path}: {error}")
    module.load(file.path, elf, sections=sections)


def load_all(dump: Dump, names: Sequence[str] = ()) -> list[str]:
    """Load what can be found, without a word; the names of the modules without a file."""
    finder = Finder(dump)
    missing = []
    for module in dump.symbols.modules:
        if (names and module.name not in names) or module.file:
            continue
        file = finder.find(module)
        if file is None:
            missing.append(module.name)
            continue
        try:
            load(dump, module, file)
        except CommandError:
            missing.append(module.name)
        finally:
            file.close()
    return missing
