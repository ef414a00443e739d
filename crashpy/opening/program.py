"""drgn's Program for each form of dump, some of which drgn does not open by itself."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence

from drgn import Architecture, FaultError, Platform, PlatformFlags, Program

from crashpy.opening.errors import OpeningError
from crashpy.opening.kernels import Kernel
from crashpy.opening.options import OpenOptions
from crashpy.vmcore.elf import KERNEL_HALF, Note
from crashpy.vmcore.kdump import KdumpHeader
from crashpy.vmcore.recognise import Vmcore

ARCHITECTURES = {
    "x86_64": Architecture.X86_64,
    "i386": Architecture.I386,
    "i686": Architecture.I386,
    "aarch64": Architecture.AARCH64,
    "arm": Architecture.ARM,
    "armv7l": Architecture.ARM,
    "ppc64": Architecture.PPC64,
    "ppc64le": Architecture.PPC64,
    "s390x": Architecture.S390X,
    "s390": Architecture.S390,
    "riscv64": Architecture.RISCV64,
    "riscv32": Architecture.RISCV32,
}

# Where the kernel's addresses are the upper half of all.
SPLIT_IN_HALVES = ("x86_64", "aarch64", "riscv64")

# The least that drgn takes for a VMCOREINFO: a program with it reads physical memory.
NO_VMCOREINFO = (
    b"OSRELEASE=6.0.0\nPAGESIZE=4096\nSYMBOL(_stext)=ffffffff81000000\n"
    b"SYMBOL(swapper_pg_dir)=ffffffff81000000\nSYMBOL(init_uts_ns)=ffffffff81000000\n"
    b"KERNELOFFSET=0\nNUMBER(phys_base)=0\n"
)


@contextlib.contextmanager
def quiet_drgn(**environment: str) -> Iterator[None]:
    """Without drgn's plugins (0.1 s of start-up for commands we do not use) and its warnings.

    What it warns of (flattened files, modules without debug info) is told by the
    commands that meet it.
    """
    log = logging.getLogger("drgn")
    level = log.level
    wanted = {"DRGN_DISABLE_PLUGINS": "*", **environment}
    before = {name: os.environ.get(name) for name in wanted}
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    log.setLevel(max(level, logging.ERROR))
    try:
        yield
    finally:
        log.setLevel(level)
        for name, old in before.items():
            if old is None:
                del os.environ[name]


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


def start(files: Sequence[Vmcore], options: OpenOptions) -> Program:
    """The program on the dump's memory, without types and symbols."""
    first = files[0]
    info = options.vmcoreinfo
    if info is None and not first.vmcoreinfo_text and first.form != "kcore":
        options.progress("searching the dump's memory for VMCOREINFO")
        info = find_vmcoreinfo(first, options)
        if info is None:
            raise OpeningError(
                f"{first.path}: {first.describe()} without VMCOREINFO, and none is in its memory:"
                " not a dump of a Linux kernel, or too much of it is missing"
            )
        first.vmcoreinfo_text = info
    if len(files) == 1 and not options.zero_excluded:
        return _program(first, info, options)
    # Translation of addresses is left to drgn, as libkdumpfile would read page
    # tables past the overlays.
    with quiet_drgn(DRGN_PREFER_PGTABLE_READER="1"):
        prog = _program(first, info, options)
    for part in files[1:]:
        header = part.header
        assert header
        inner = _program(part, info, options)
        start_, end = header.start_pfn * header.block_size, header.end_pfn * header.block_size
        if end > start_:
            prog.add_memory_segment(start_, end - start_, _reader(inner), physical=True)
    if options.zero_excluded:
        _zero_excluded(prog, files, info, options)
    return prog


def _program(vmcore: Vmcore, info: bytes | None, options: OpenOptions) -> Program:
    platform = options.platform
    header = vmcore.header
    if platform is None and header and not (header.utsname[0] and header.utsname[2]):
        # QEMU fills in the machine alone, and libkdumpfile does not look at it then.
        platform = platform_of(vmcore)
    if header and vmcore.damage and vmcore.bits == 64:
        # libkdumpfile maps the file, and touching what was cut off kills the process
        return _paged_program(vmcore, info, options)
    try:
        prog = Program(platform, vmcoreinfo=info)
        with quiet_drgn():
            prog.set_core_dump(os.dup(vmcore.file.fd))
    except Exception as error:
        # drgn raises plain Exception for what libkdumpfile and libelf say
        raise _refused(vmcore, error) from error
    if header and vmcore.bits == 64 and not _decompresses(prog, header):
        return _paged_program(vmcore, info, options)
    for segment in vmcore.segments:
        if vmcore.machine in SPLIT_IN_HALVES and segment.vaddr < KERNEL_HALF and segment.memsz:
            prog.add_memory_segment(segment.vaddr, segment.memsz, _unmapped)
    return prog


def _unmapped(address: int, *_: object) -> bytes:
    """Of addresses that are no kernel's: QEMU's dumps have physical ones for virtual."""
    raise FaultError("address is not the kernel's", address)


def _decompresses(prog: Program, header: KdumpHeader) -> bool:
    """Whether this build of libkdumpfile has the dump's compression: not every one has all."""
    pfn = header.first_stored_pfn
    if pfn is None:
        return True
    try:
        prog.read(pfn * header.block_size, 8, True)
    except FaultError as error:
        return "nsupported" not in str(error)
    return True


def _paged_program(vmcore: Vmcore, info: bytes | None, options: OpenOptions) -> Program:
    """Physical memory by our own reader, registers and VMCOREINFO as a small ELF core."""
    from crashpy.vmcore.elf import core_of_notes
    from crashpy.vmcore.files import memory_file
    from crashpy.vmcore.pages import PageReader

    header = vmcore.header
    assert header
    platform = options.platform or platform_of(vmcore)
    notes = list(vmcore.notes)
    text = info or vmcore.vmcoreinfo_text
    if not any(note.name == b"VMCOREINFO" for note in notes):
        notes.append(Note(b"VMCOREINFO", 0, text))
    core = memory_file("notes")
    os.write(core, core_of_notes(notes, vmcore.machine, vmcore.order))
    try:
        prog = Program(platform, vmcoreinfo=info)
        with quiet_drgn():
            prog.set_core_dump(core)
        memory = header.max_mapnr * header.block_size
        prog.add_memory_segment(0, memory, PageReader(header).read, physical=True)
    except Exception as error:
        raise _refused(vmcore, error) from error
    return prog


def _refused(vmcore: Vmcore, error: Exception) -> OpeningError:
    if vmcore.damage:
        return OpeningError(f"{vmcore.path}: {vmcore.damage}, nothing of it can be read ({error})")
    return OpeningError(f"{vmcore.path}: {vmcore.describe()} cannot be opened: {error}")


def _reader(inner: Program) -> Callable[[int, int, int, bool], bytes]:
    def read(address: int, count: int, _offset: int, physical: bool) -> bytes:
        return inner.read(address, count, physical)

    return read


def _zero_excluded(
    prog: Program, files: Sequence[Vmcore], info: bytes | None, options: OpenOptions
) -> None:
    """Lay readers over the dump that give zeros for pages that were left out.

    A page that the machine did not have still faults. Each read crosses into Python,
    which costs a few microseconds: only with this option.
    """
    for vmcore in files:
        inner = _program(vmcore, info, options)
        header = vmcore.header
        if header:
            first = header.start_pfn if vmcore.split else 0
            last = header.end_pfn if vmcore.split else header.max_mapnr
            size = header.block_size
            read = _zeroing(inner, size, header.page_existed)
            prog.add_memory_segment(first * size, (last - first) * size, read, physical=True)
            continue
        # ELF: drgn gives zeros for what makedumpfile left out; here for what was cut off.
        read = _zeroing(inner, 4096, lambda _pfn: True)
        for segment in vmcore.segments:
            if segment.vaddr >= KERNEL_HALF or (
                segment.vaddr and vmcore.machine not in SPLIT_IN_HALVES
            ):
                prog.add_memory_segment(segment.vaddr, segment.memsz, read)
            prog.add_memory_segment(segment.paddr, segment.memsz, read, physical=True)


def _zeroing(
    inner: Program, page: int, existed: Callable[[int], bool]
) -> Callable[[int, int, int, bool], bytes]:
    def read(address: int, count: int, _offset: int, physical: bool) -> bytes:
        try:
            return inner.read(address, count, physical)
        except FaultError:
            pass
        out = bytearray()
        while count:
            take = min(count, page - address % page)
            try:
                out += inner.read(address, take, physical)
            except FaultError:
                if physical and not existed(address // page):
                    raise
                out += bytes(take)
            address += take
            count -= take
        return bytes(out)

    return read


def find_vmcoreinfo(vmcore: Vmcore, options: OpenOptions) -> bytes | None:
    """The text of VMCOREINFO from the dumped memory (QEMU without its vmcoreinfo device).

    The kernel keeps it at the start of a page, in `vmcoreinfo_data`, and as a note
    in `vmcoreinfo_note`.
    """
    prog = _program(vmcore, NO_VMCOREINFO, options) if vmcore.header else None
    best = b""
    for address, size in _physical_ranges(vmcore):
        for at in range(0, size, STEP):
            chunk = _chunk(vmcore, prog, address + at, min(STEP, size - at))
            found = chunk.find(b"OSRELEASE=")
            while found >= 0:
                text = _vmcoreinfo_at(vmcore, prog, address + at + found)
                if len(text) > len(best):
                    best = text
                found = chunk.find(b"OSRELEASE=", found + 1)
    return best or None


STEP = 4 << 20


def _physical_ranges(vmcore: Vmcore) -> Iterator[tuple[int, int]]:
    if vmcore.header:
        yield from vmcore.header.stored_ranges()
    else:
        for segment in vmcore.segments:
            # a damaged header may claim more than there is
            yield segment.paddr, min(segment.filesz, vmcore.file.size - segment.offset)


def _chunk(vmcore: Vmcore, prog: Program | None, address: int, size: int) -> bytes:
    if prog:
        try:
            return prog.read(address, size, True)
        except FaultError:
            return b""
    for segment in vmcore.segments:
        if segment.paddr <= address < segment.paddr + segment.filesz:
            left = segment.paddr + segment.filesz - address
            return vmcore.file.read(segment.offset + address - segment.paddr, min(size, left))
    return b""


def _vmcoreinfo_at(vmcore: Vmcore, prog: Program | None, address: int) -> bytes:
    """A text that has the fields of a real one; the kernel's holds less than a page."""
    text = _chunk(vmcore, prog, address, 4096 - address % 4096)
    text = text.split(b"\0")[0]
    wanted = (b"\nPAGESIZE=", b"\nSYMBOL(_stext)=", b"\nSYMBOL(init_uts_ns)=")
    if all(key in text for key in wanted) and text.endswith(b"\n") and text.isascii():
        return text
    return b""


# x86-64: where the kernel's image is mapped, and how much of it at most.
IMAGE, IMAGE_SIZE = 0xFFFFFFFF80000000, 1 << 30


def bridge_page_tables(prog: Program, vmcore: Vmcore) -> str:
    """Where the page tables were cut off, translate what follows from constants alone.

    x86-64 maps the kernel's image and all memory linearly; module, stack and vmemmap
    addresses are lost. Returns what is missing, in words.
    """
    info = vmcore.vmcoreinfo
    try:
        prog.read(int(info["SYMBOL(init_uts_ns)"], 16), 8)
        return ""
    except FaultError:
        pass
    except KeyError:
        return ""
    if vmcore.machine != "x86_64" or "NUMBER(phys_base)" not in info:
        return "the kernel's page tables"
    phys_base = int(info["NUMBER(phys_base)"], 0)

    def linear(start: int, physical_start: int) -> Callable[[int, int, int, bool], bytes]:
        def read(address: int, count: int, _offset: int, _physical: bool) -> bytes:
            return prog.read(address - start + physical_start, count, True)

        return read

    prog.add_memory_segment(IMAGE, IMAGE_SIZE, linear(IMAGE, phys_base))
    base = 0xFF11000000000000 if _five_levels(info) else 0xFFFF888000000000
    with contextlib.suppress(FaultError, LookupError):
        address = prog.symbol("page_offset_base").address  # randomised
        base = prog.read_u64(address)
    prog.add_memory_segment(base, 1 << 46, linear(base, 0))
    return "the kernel's page tables: modules, stacks and user memory cannot be read"


def _five_levels(info: dict[str, str]) -> bool:
    return info.get("NUMBER(pgtable_l5_enabled)") == "1"


def load(prog: Program, vmcore: Vmcore, kernels: Sequence[Kernel]) -> list[str]:
    """Give drgn the kernel's files and the list of modules; what is missing, in words."""
    missing: list[str] = []
    with quiet_drgn():
        main, _ = next(iter(prog.loaded_modules()))
        for kernel in kernels:
            # forced, as the BUILD-ID was compared, or the dump has none
            main.try_file(kernel.file, fd=os.dup(kernel.fd), force=True)
        if lost := bridge_page_tables(prog, vmcore):
            missing.append(lost)
        try:
            for _ in prog.loaded_modules():
                pass
        except Exception as error:  # noqa: BLE001 (a damaged list raises anything)
            missing.append(f"the list of modules ({error})")
    return missing
