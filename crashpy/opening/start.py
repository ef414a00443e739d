"""Open a dump: sort out the paths, match kernel and dump, hand both to drgn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from drgn import FaultError, Program

from crashpy.dump import Dump
from crashpy.opening import paths as naming
from crashpy.opening.errors import OpeningError
from crashpy.opening.kernels import Kernel, open_kernel
from crashpy.opening.options import OpenOptions
from crashpy.opening.program import load, start
from crashpy.opening.search import find_debug_file, find_kernel
from crashpy.vmcore.recognise import Vmcore

SOURCES = ("auto", "dwarf", "btf")  # OpenOptions.debuginfo


def open_named(paths: Sequence[str], options: OpenOptions) -> Dump:
    """crashpy.opening.open_dump()."""
    if options.debuginfo not in SOURCES:
        raise OpeningError(f"debuginfo={options.debuginfo}: not one of {', '.join(SOURCES)}")
    try:
        named = naming.sort_out(paths)
        if named.maps and not options.kallsyms:
            options = replace(options, kallsyms=named.maps[0])
        return _open(named, options)
    except OSError as error:
        name = error.filename or (paths[0] if paths else naming.LIVE)
        raise OpeningError(f"{name}: {error.strerror}") from error


def _open(named: naming.Named, options: OpenOptions) -> Dump:
    files = naming.split_set(named.dumps)
    dump = files[0]
    kernels = _named_kernels(named.kernels, options)
    for kernel in kernels:
        _same_machine(kernel, dump)
    if dump.build_id:  # compared before anything slow is done
        for kernel in kernels:
            _same_build(kernel, dump, dump.build_id)
    prog = start(files, options)
    build_id = dump.build_id or _live_build_id(dump)
    missing = [*_damage(files), *naming.gaps(files)] if dump.split else _damage(files)
    if options.debuginfo == "btf":
        why = OpeningError(f"{dump.path}: only its own types and symbols were asked for")
        return _bare(files, missing, options, why, kernels[0] if kernels else None)
    if kernels:
        for kernel in kernels:
            if build_id is None:
                _same_memory(kernel, dump, prog)
            else:  # known only now, of live memory and of a dump whose headers lack it
                _same_build(kernel, dump, build_id)
        try:
            kernels = _with_debug_info(kernels, dump, named, options)
        except OpeningError as error:
            return _bare(files, missing, options, error, kernels[0])
    else:
        options.progress("searching the kernel")
        found = find_kernel(dump.release, build_id, [named.folder], options)
        if found is None:
            nothing = OpeningError(
                f"{dump.path}: {dump.describe()}: no kernel with debug info for it was found in"
                f" {named.folder}, {', '.join([*options.debug_dirs, '/usr/lib/debug', '/boot'])}"
                f" or by debuginfod: {_advice(dump.release)}"
            )
            return _bare(files, missing, options, nothing)
        _same_machine(found, dump)
        if build_id is None:
            _same_memory(found, dump, prog)
        kernels = _with_debug_info([found], dump, named, options)
    missing += load(prog, dump, kernels)
    image, debug = kernels[0], kernels[1] if len(kernels) > 1 else None
    return Dump(
        prog,
        image.path,
        dump.path,
        debuginfo=debug.path if debug else None,
        partial=dump.partial,
        incomplete=dump.incomplete,
        missing=missing,
        options=options,
        files=tuple(files),
        kernel_file=(debug or image).file,
        build_id=build_id or image.build_id,
    )


def _bare(
    files: list[Vmcore],
    missing: list[str],
    options: OpenOptions,
    why: OpeningError,
    image: Kernel | None = None,
) -> Dump:
    """The dump by what the kernel says of itself in memory, where there is no debug info."""
    from crashpy.opening.bare import describe
    from crashpy.opening.systemmap import read_symbols

    if options.debuginfo == "dwarf":
        raise why
    dump = files[0]
    prog = start(files, options)
    map_ = read_symbols(options.kallsyms, dump.vmcoreinfo) if options.kallsyms else None
    btf = image.elf.content(".BTF") if image else b""
    options.progress("reading the kernel's own types and symbols")
    try:
        symbols, lacking = describe(prog, dump.vmcoreinfo, map_, btf)
    except OpeningError as error:
        reason = "" if options.debuginfo == "btf" else f"; {why}"
        raise OpeningError(f"{dump.path}: {error}{reason}") from error
    return Dump(
        prog,
        image.path if image else "[BTF in the dump]",
        dump.path,
        partial=dump.partial,
        incomplete=dump.incomplete,
        missing=[*missing, *lacking],
        options=options,
        files=tuple(files),
        build_id=dump.build_id,
        symtab=symbols,
    )


def _named_kernels(paths: Sequence[str], options: OpenOptions) -> list[Kernel]:
    """The user's kernel, or kernel and debug file; the image first."""
    kernels = [open_kernel(path, options) for path in paths]
    for kernel in kernels:
        if not kernel.is_kernel:
            raise OpeningError(f"{kernel.path}: an ELF program, but not a Linux kernel")
    if len(kernels) == 2:
        one, other = kernels
        if one.build_id != other.build_id or one.has_debug_info == other.has_debug_info:
            raise OpeningError(
                f"{one.path} ({one.describe()}) and {other.path} ({other.describe()}) are two"
                " kernels: name the one that belongs to the dump"
            )
        kernels.sort(key=lambda kernel: kernel.has_debug_info)
    elif len(kernels) > 2:
        raise OpeningError(f"{', '.join(paths)}: more than one kernel: name one")
    return kernels


def _with_debug_info(
    kernels: list[Kernel], dump: Vmcore, named: naming.Named, options: OpenOptions
) -> list[Kernel]:
    """The kernel, and its debug file where the kernel is stripped."""
    if any(kernel.has_debug_info for kernel in kernels):
        return kernels
    kernel = kernels[0]
    options.progress("searching the debug file")
    found = find_debug_file(kernel, dump.release, [named.folder], options)
    if found:
        return [kernel, found]
    link = kernel.debug_link
    wanted = f"its debug file {link[0]}" if link else "the vmlinux with debug info of this build"
    build = f" (BUILD-ID {kernel.build_id.hex()})" if kernel.build_id else ""
    raise OpeningError(
        f"{kernel.path}: no debugging data available: name {wanted}{build} as well,"
        f" or {_advice(dump.release)}"
    )


def _same_machine(kernel: Kernel, dump: Vmcore) -> None:
    names = {"i686": "i386", "i586": "i386", "armv7l": "arm", "": kernel.machine}
    if names.get(dump.machine, dump.machine) != kernel.machine:
        raise OpeningError(
            f"{kernel.path} is a kernel for {kernel.machine}, {dump.path} a dump for"
            f" {dump.machine}{f' of {dump.release}' if dump.release else ''}:"
            f" {_advice(dump.release)}"
        )


def _same_build(kernel: Kernel, dump: Vmcore, build_id: bytes) -> None:
    if kernel.build_id == build_id:
        return
    raise OpeningError(
        f"{kernel.path} ({kernel.describe()}) and {dump.path}"
        f" ({dump.release or 'release unknown'}, BUILD-ID {build_id.hex()}) do not match!"
        f" {_sentence(_advice(dump.release))}"
    )


def _same_memory(kernel: Kernel, dump: Vmcore, prog: Program) -> None:
    """Kernels before 5.9 have no BUILD-ID in VMCOREINFO: compare the notes in memory."""
    section = kernel.elf.sections.get(".notes")
    offset = int(dump.vmcoreinfo.get("KERNELOFFSET", "0"), 16)
    if section:
        wanted = kernel.elf.content(".notes")
        try:
            if prog.read(section.addr + offset, len(wanted)) == wanted:
                return
        except FaultError:
            if kernel.release == dump.release:  # nothing better to go by
                return
    elif kernel.release == dump.release:
        return
    raise OpeningError(
        f"{kernel.path} ({kernel.describe()}) and {dump.path} ({dump.release or 'no release'})"
        f" do not match! {_sentence(_advice(dump.release))}"
    )


def _live_build_id(dump: Vmcore) -> bytes | None:
    from crashpy.vmcore.elf import build_id, parse_notes

    if dump.form != "kcore":
        return None
    return build_id(list(parse_notes(Path("/sys/kernel/notes").read_bytes(), dump.order)))


def _damage(files: Sequence[Vmcore]) -> list[str]:
    found = [f"{file.path}: {file.damage}" for file in files if file.damage]
    found += [
        f"{file.path}: this dumpfile is incomplete: its writer ran out of space, pages are missing"
        for file in files
        if file.incomplete
    ]
    return found


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:]


def _advice(release: str) -> str:
    """Where the right kernel comes from, by what its release looks like."""
    if not release:
        return "name the vmlinux that the dumped machine ran"
    if "amd64" in release or "arm64" in release:
        package = f"linux-image-{release}-dbg"
    elif ".el" in release or ".fc" in release:
        package = f"kernel-debuginfo-{release}"
    elif "generic" in release:
        package = f"linux-image-{release}-dbgsym"
    elif "default" in release:
        package = f"kernel-default-debuginfo of {release}"
    else:
        return f"name the vmlinux of {release} with that BUILD-ID"
    return f"install {package}, or name its vmlinux"
