"""What belongs to a dump: its kernel, debug files and modules, found by BUILD-ID."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from crashpy.command import CommandError
from crashpy.kdump import sums
from crashpy.kdump.layouts import kind
from crashpy.kdump.verbs import printable
from crashpy.opening.kernels import open_kernel
from crashpy.opening.modules import Finder, ModuleFile, drgn_module, open_module
from crashpy.opening.options import OpenOptions
from crashpy.opening.paths import LIVE
from crashpy.opening.search import DEBUG_ROOT, fetch
from crashpy.vmcore.elf import SHT_NOBITS, Elf
from crashpy.vmcore.files import PlainFile, packed_with

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.vmcore.recognise import Vmcore

IMPATIENCE_SECONDS = 5  # a debuginfod that took longer to know nothing is not asked again
SUFFIXES = {"gzip": ".gz", "bzip2": ".bz2", "xz": ".xz", "zstd": ".zst"}


@dataclass(frozen=True)
class Part:
    """One file of a bundle."""

    name: str  # in the bundle, at most one folder deep
    path: Path  # where it was found
    what: str
    build_id: str = ""
    saved_as: str = ""  # the SHA-256 that was noted when it was saved

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size


@dataclass
class Contents:
    """What goes into a bundle, and what was looked for in vain, in sentences."""

    release: str
    parts: list[Part] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def text(self) -> str:
        """BUNDLE.txt"""
        lines = [f"Dump of Linux {self.release}, with what its analysis needs:", ""]
        width = max(len(part.name) for part in self.parts)
        for part in self.parts:
            build = f", BUILD-ID {part.build_id}" if part.build_id else ""
            lines.append(f"{part.name:{width}}  {part.what}{build}")
        if self.missing:
            lines += ["", "Missing:", *self.missing]
        return "".join(f"{printable(line)}\n" for line in lines)


def collect(paths: Sequence[str], options: OpenOptions) -> Contents:
    """Everything that belongs to a dump; the paths are those of `crashpy [VMLINUX] VMCORE`."""
    from crashpy.opening import open_dump

    try:
        dump = open_dump(list(paths), options=options)
    except CommandError as error:
        return _unopened(paths, options, error)
    with dump:
        if dump.live:
            raise CommandError("this machine's own memory cannot be put into a bundle: name a dump")
        kernel = _Wanted(dump.release, dump.build_id, options)
        contents = Contents(kernel.name, [*_dump_parts(dump.files)])
        _add_kernel(dump, kernel, contents)
        _add_modules(dump, contents)
    return contents


def _unopened(paths: Sequence[str], options: OpenOptions, error: CommandError) -> Contents:
    """What can be had of a dump that cannot be opened here; elsewhere it may be."""
    from crashpy.opening.paths import sort_out, split_set

    named = sort_out(paths).dumps
    if LIVE in named:
        raise error
    files = split_set(named)
    kernel = _Wanted(files[0].release, files[0].build_id, options)
    contents = Contents(kernel.name, [*_dump_parts(files), *kernel.booted([])])
    contents.missing.append(f"which modules were loaded cannot be told: {error}")
    for file in files:
        file.close()
    return contents


def _dump_parts(dumps: Sequence[Vmcore]) -> Iterator[Part]:
    files = [Path(file.path).absolute() for file in dumps]
    folder = files[0].parent
    noted = sums.beside(folder)
    known = len({path.name for path in files if kind(path.name) == "dump"}) == len(files)
    for number, path in enumerate(files, 1):
        name = path.name if known else "vmcore" if len(files) == 1 else f"vmcore{number}"
        what = "the dump" if len(files) == 1 else f"part {number} of the dump"
        yield Part(name, path, what, saved_as=noted.get(path.name, ""))
    for path in sorted(folder.iterdir()):
        if kind(path.name) in ("log", "readme") and path.is_file():
            yield Part(path.name, path, "saved beside the dump")


@dataclass(frozen=True)
class _Wanted:
    """The kernel of a dump."""

    release: str
    build_id: bytes | None
    options: OpenOptions

    @property
    def name(self) -> str:
        """The release, as a part of a file's name."""
        return re.sub(r"[^\w.+~-]", "_", self.release)

    @property
    def digits(self) -> str:
        return self.build_id.hex() if self.build_id else ""

    def booted(self, likely: Sequence[Path]) -> Iterator[Part]:
        """The first image of this build, as it was booted."""
        if self.build_id is None or "/" in self.release:
            return
        paths = [
            *likely,
            Path(f"/boot/vmlinuz-{self.release}"),
            Path(f"/lib/modules/{self.release}/vmlinuz"),
        ]
        for path in paths:
            if stem := self._image(path):
                name = f"{stem}-{self.name}{_suffix(path)}"
                yield Part(name, path, "the kernel as it was booted", self.digits)
                return

    def _image(self, path: Path) -> str:
        """vmlinuz or vmlinux, where the file is one of this build."""
        with contextlib.suppress(OSError, CommandError):
            kernel = open_kernel(str(path), self.options)
            try:
                if kernel.build_id == self.build_id:
                    return "vmlinuz" if kernel.boot_image else "vmlinux"
            finally:
                kernel.close()
        return ""


def _add_kernel(dump: Dump, kernel: _Wanted, contents: Contents) -> None:
    image, debug = Path(dump.kernel), Path(dump.debuginfo or dump.kernel)
    with_debug_info = dump.symtab is None and debug.is_file()
    if with_debug_info:
        name = f"vmlinux-{kernel.name}{'.debug' if dump.debuginfo else ''}{_suffix(debug)}"
        what = "the kernel with debug information"
        contents.parts.append(Part(name, debug, what, kernel.digits))
    else:
        build = f" (BUILD-ID {kernel.digits})" if kernel.digits else ""
        contents.missing.append(
            f"the kernel with debug information of {dump.release}{build} was not found:"
            " only `crashpy` opens the dump, by the types in it"
        )
    own = image.is_file() and (dump.debuginfo or not with_debug_info)
    contents.parts += kernel.booted([image] if own else [])


def _suffix(path: Path) -> str:
    """What the name of a packed file ends with, so that it is known for one."""
    with path.open("rb") as file:
        packing = packed_with(file.read(16))
    return SUFFIXES.get(packing.name, "") if packing else ""


def _add_modules(dump: Dump, contents: Contents) -> None:
    finder = Finder(dump)
    servers = _Servers(dump.options)
    without: list[str] = []
    for module in dump.symbols.modules:
        build_id = drgn_module(dump, module).build_id
        found = _ModuleFiles(build_id)
        for path in _module_paths(dump, finder, module.name, build_id):
            found.take(path)
            if found.complete:
                break
        if build_id and not found.debug_info and (fetched := servers.ask(build_id)):
            found.take(fetched)
        contents.parts += found.parts(module.name)
        if not found.debug_info:
            without.append(module.name)
    if without:
        modules = "the module" if len(without) == 1 else "the modules"
        contents.missing.append(
            f"no file with debug information was found of {modules} {', '.join(without)}"
        )


def _module_paths(dump: Dump, finder: Finder, name: str, build_id: bytes | None) -> Iterator[str]:
    """Files worth a look, the likely ones first."""
    for paths in finder.candidates(name):
        yield from paths
    if build_id:
        digits = build_id.hex()
        for root in (*dump.options.debug_dirs, DEBUG_ROOT):
            yield f"{root}/.build-id/{digits[:2]}/{digits[2:]}.debug"


@dataclass
class _ModuleFiles:
    """A module's own file and its debug file, which may be one."""

    build_id: bytes | None
    image: Path | None = None
    debug: Path | None = None
    both: bool = False  # the image has debug information

    @property
    def debug_info(self) -> bool:
        return self.both or self.debug is not None

    @property
    def complete(self) -> bool:
        return self.both or bool(self.image and self.debug)

    def take(self, path: str) -> None:
        """Look at a file: it may be the module's, and better than what there is."""
        try:
            file = open_module(path)
        except (OSError, ValueError):
            return
        try:
            if self.build_id is not None and file.build_id != self.build_id:
                return
            if not _has_code(file):
                self.debug = self.debug or (Path(path) if file.debug_info else None)
            elif file.debug_info:
                self.image, self.debug, self.both = Path(path), None, True
            else:
                self.image = self.image or Path(path)
        finally:
            file.close()

    def parts(self, module: str) -> Iterator[Part]:
        build_id = self.build_id.hex() if self.build_id else ""
        stem = re.sub(r"[^\w.-]", "_", module)
        if self.image:
            name = f"modules/{stem}.ko{_suffix(self.image)}"
            yield Part(name, self.image, f"the module {module}", build_id)
        if self.debug:
            yield Part(f"modules/{stem}.ko.debug", self.debug, f"debug file of {module}", build_id)


def _has_code(file: ModuleFile) -> bool:
    """A module that can be loaded, rather than its debug file, whose sections are empty."""
    elf = Elf(PlainFile(file.fd))
    section = elf.sections.get(".gnu.linkonce.this_module") or elf.sections.get(".text")
    return section is not None and section.type != SHT_NOBITS


class _Servers:
    """The debuginfod servers, until one lets us wait."""

    def __init__(self, options: OpenOptions) -> None:
        self._options = options
        self._patient = True

    def ask(self, build_id: bytes) -> str | None:
        if not self._patient:
            return None
        began = time.monotonic()
        found = fetch(build_id, self._options)
        self._patient = found is not None or time.monotonic() - began < IMPATIENCE_SECONDS
        return found
