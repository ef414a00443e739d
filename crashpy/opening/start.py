"""Open a dump: sort out the paths, match kernel and dump, hand both to drgn."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence

from drgn import Architecture, Platform, PlatformFlags, Program

from crashpy.dump import Dump
from crashpy.opening.errors import OpeningError
from crashpy.opening.kernels import Kernel, open_kernel, role
from crashpy.opening.options import OpenOptions
from crashpy.vmcore.recognise import Vmcore, readable, recognise

ARCHITECTURES = {
    "x86_64": Architecture.X86_64,
    "i386": Architecture.I386,
    "i686": Architecture.I386,
    "aarch64": Architecture.AARCH64,
    "arm": Architecture.ARM,
    "ppc64": Architecture.PPC64,
    "ppc64le": Architecture.PPC64,
    "s390x": Architecture.S390X,
    "s390": Architecture.S390,
    "riscv64": Architecture.RISCV64,
    "riscv32": Architecture.RISCV32,
}


def open_dump(paths: Sequence[str], *, options: OpenOptions | None = None) -> Dump:
    """Open what the paths name: `[VMLINUX] VMCORE` in any order, a folder, nothing (live).

    Raises OpeningError, one sentence, when that is not possible.
    """
    options = options or OpenOptions()
    try:
        return _open(paths, options)
    except OSError as error:
        name = error.filename or (paths[0] if paths else "")
        raise OpeningError(f"{name}: {error.strerror}") from error


def _open(paths: Sequence[str], options: OpenOptions) -> Dump:
    kernels: list[str] = []
    dumps: list[str] = []
    for path in paths:
        readable(path)
        found = role(path)
        if found == "dump":
            dumps.append(path)
        elif found in ("kernel", "boot image"):
            kernels.append(path)
        else:
            raise OpeningError(f"{path}: neither a dump nor a kernel image")
    vmcore = recognise(dumps[0])
    assert vmcore is not None
    kernel = open_kernel(kernels[0], options)
    if vmcore.build_id and kernel.build_id and vmcore.build_id != kernel.build_id:
        raise OpeningError(f"{kernel.path} and {vmcore.path} do not match")
    prog = start(vmcore, options)
    missing = load(prog, kernel)
    return Dump(
        prog,
        kernel.path,
        vmcore.path,
        partial=vmcore.partial,
        incomplete=vmcore.incomplete,
        missing=missing,
        options=options,
        files=(vmcore,),
        kernel_file=kernel.file,
        build_id=vmcore.build_id or kernel.build_id,
    )


def start(vmcore: Vmcore, options: OpenOptions) -> Program:
    """drgn's program on the dump, without types and symbols."""
    platform = options.platform
    if platform is None and vmcore.header and not vmcore.header.utsname[0]:
        platform = platform_of(vmcore)  # QEMU leaves the names empty, and drgn at a loss
    prog = Program(platform, vmcoreinfo=options.vmcoreinfo)
    with _quiet_drgn():
        prog.set_core_dump(os.dup(vmcore.file.fd))
    return prog


def platform_of(vmcore: Vmcore) -> Platform | None:
    architecture = ARCHITECTURES.get(vmcore.machine)
    if architecture is None:
        return None
    flags = PlatformFlags(0)
    if vmcore.bits == 64:
        flags |= PlatformFlags.IS_64_BIT
    if vmcore.order == "<":
        flags |= PlatformFlags.IS_LITTLE_ENDIAN
    return Platform(architecture, flags)


def load(prog: Program, kernel: Kernel) -> list[str]:
    """Give drgn the kernel's debug info and the list of modules; what is missing, in words."""
    missing: list[str] = []
    with _quiet_drgn():
        main, _ = next(iter(prog.loaded_modules()))
        main.try_file(kernel.file, fd=os.dup(kernel.fd))
        try:
            for _ in prog.loaded_modules():
                pass
        except Exception as error:  # noqa: BLE001 (a damaged list raises anything)
            missing.append(f"the list of modules: {error}")
    return missing


@contextlib.contextmanager
def _quiet_drgn() -> Iterator[None]:
    """Without drgn's plugins (0.1 s of start-up for commands we do not use) and its warnings.

    What it warns of (flattened files, modules without debug info) is told by the
    commands that meet it.
    """
    log = logging.getLogger("drgn")
    before, level = os.environ.get("DRGN_DISABLE_PLUGINS"), log.level
    os.environ.setdefault("DRGN_DISABLE_PLUGINS", "*")
    log.setLevel(max(level, logging.ERROR))
    try:
        yield
    finally:
        log.setLevel(level)
        if before is None:
            del os.environ["DRGN_DISABLE_PLUGINS"]
