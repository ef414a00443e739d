"""What a file is, told from its content."""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from crashpy.opening.errors import OpeningError
from crashpy.vmcore.elf import ET_CORE, PT_LOAD, Elf, Note, Segment
from crashpy.vmcore.files import Bytes, FlattenedFile, open_bytes
from crashpy.vmcore.kdump import DISKDUMP, EXCLUDED_VMEMMAP, SIGNATURE, KdumpHeader, read_header

ELF_INCOMPLETE = 0x1  # e_flags of a file that makedumpfile could not finish


@dataclass(eq=False)
class Vmcore:
    """One dump file, its headers read."""

    path: str  # as the user named it
    file: Bytes
    form: str  # "kdump", "elf", "kcore"
    packing: str = ""  # gzip, bzip2, xz, zstd: the whole file is packed
    machine: str = ""  # as `uname -m` says it; empty when the dump does not tell
    bits: int = 64
    order: str = "<"
    vmcoreinfo_text: bytes = b""  # as the file has it, or found in memory
    notes: list[Note] = field(default_factory=list)
    header: KdumpHeader | None = None
    segments: list[Segment] = field(default_factory=list)
    incomplete: bool = False  # the header says that writing was not finished
    damage: str = ""  # why the file is not all there, in words
    warnings: list[str] = field(default_factory=list)

    @property
    def vmcoreinfo(self) -> dict[str, str]:
        return parse_vmcoreinfo(self.vmcoreinfo_text)

    @property
    def release(self) -> str:
        """The kernel's release, from VMCOREINFO or the header."""
        named = self.header.utsname[2] if self.header else ""
        return self.vmcoreinfo.get("OSRELEASE", named)

    @property
    def build_id(self) -> bytes | None:
        """The kernel's BUILD-ID: in VMCOREINFO since Linux 5.9."""
        try:
            return bytes.fromhex(self.vmcoreinfo.get("BUILD-ID", "")) or None
        except ValueError:
            return None

    @property
    def flattened(self) -> bool:
        return isinstance(self.file, FlattenedFile)

    @property
    def qemu(self) -> bool:
        return any(note.name == b"QEMU" for note in self.notes)

    @property
    def partial(self) -> bool:
        """crash's [PARTIAL DUMP]: pages were left out on purpose."""
        if self.header:
            return self.header.dump_level > 0
        return False

    @property
    def vmemmap_excluded(self) -> bool:
        return bool(self.header and self.header.status & EXCLUDED_VMEMMAP)

    @property
    def split(self) -> bool:
        return bool(self.header and self.header.split)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.file.fd)

    def describe(self) -> str:
        """In a few words, for messages."""
        words = {"kdump": "kdump-compressed dump", "elf": "ELF dump", "kcore": "live memory"}
        release = f" of {self.release}" if self.release else ""
        build = f", BUILD-ID {self.build_id.hex()}" if self.build_id else ""
        return f"{words[self.form]}{release}{build}"


@functools.lru_cache(4)
def parse_vmcoreinfo(text: bytes) -> dict[str, str]:
    """KEY=VALUE lines; the values hold `=` and are otherwise plain."""
    found = {}
    for line in text.split(b"\0")[0].decode(errors="replace").splitlines():
        key, equals, value = line.partition("=")
        if equals:
            found[key] = value
    return found


def recognise(path: str, *, ordered: bool = True) -> Vmcore | None:
    """The dump in this file, or None when it is something else; `ordered` as open_bytes has it.

    Raises OpeningError for a file that is meant to be a dump and cannot be used.
    """
    readable(path)
    file, packing, damage = open_bytes(path, ordered=ordered)
    start = file.read(0, 16)
    if start[:8] in (SIGNATURE, DISKDUMP):
        dump = _kdump(path, file)
    elif start[:4] == b"\x7fELF":
        found = _elf(path, file)
        if found is None:
            os.close(file.fd)
            return None
        dump = found
    else:
        if isinstance(file, FlattenedFile):
            raise OpeningError(
                f"{path}: flattened dump without its headers: the file is cut short or damaged"
            )
        os.close(file.fd)
        if damage:
            raise OpeningError(f"{path}: {damage}, nothing of it can be used: copy it again")
        return None
    dump.packing = packing
    if damage:
        dump.damage = damage
    return dump


def readable(path: str) -> None:
    """Complain about what is no readable file."""
    try:
        status = Path(path).stat()
        if stat.S_ISDIR(status.st_mode):
            raise OpeningError(f"{path}: is a directory")
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
            raise OpeningError(f"{path}: is a pipe, a terminal or another device, not a file")
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        # crash's wording for the errors it has words for
        raise OpeningError(f"{path}: {error.strerror}") from error
    if stat.S_ISREG(status.st_mode) and not status.st_size and not path.startswith("/proc/"):
        raise OpeningError(f"{path}: the file is empty")


def _kdump(path: str, file: Bytes) -> Vmcore:
    header = read_header(file)
    if header is None:
        raise OpeningError(
            f"{path}: kdump-compressed dump with a damaged or incomplete header"
            f" ({file.size} bytes): copy it again"
        )
    # Checked here, as libkdumpfile maps what a header points to and dies of SIGBUS.
    if file.size < max(header.headers_end, header.descriptors_offset):
        raise OpeningError(
            f"{path}: kdump-compressed dump of {header.utsname[2] or 'an unnamed kernel'}, cut"
            f" short before its first page or damaged ({file.size} bytes): copy it again"
        )
    dump = Vmcore(
        path,
        file,
        "kdump",
        machine=header.utsname[4],
        bits=header.bits,
        order=header.order,
        vmcoreinfo_text=header.vmcoreinfo or _vmcoreinfo_note(header.notes),
        notes=header.notes,
        header=header,
        incomplete=header.incomplete,
    )
    if (needed := header.needed_size) > file.size:
        dump.damage = f"the file is cut short: {file.size} of at least {needed} bytes"
    return dump


def _vmcoreinfo_note(notes: list[Note]) -> bytes:
    return next((note.desc for note in notes if note.name == b"VMCOREINFO"), b"").rstrip(b"\0")


def _elf(path: str, file: Bytes) -> Vmcore | None:
    try:
        elf = Elf(file)
    except ValueError as error:
        raise OpeningError(f"{path}: {error}: copy it again") from error
    if elf.type != ET_CORE:
        return None
    loads = [s for s in elf.segments if s.type == PT_LOAD]
    info = _vmcoreinfo_note(elf.notes)
    live = path == "/proc/kcore"
    dump = Vmcore(
        path,
        file,
        "kcore" if live else "elf",
        machine=elf.machine,
        bits=64 if elf.is64 else 32,
        order=elf.order,
        vmcoreinfo_text=info,
        notes=elf.notes,
        segments=loads,
        incomplete=bool(elf.flags & ELF_INCOMPLETE),
    )
    if live:
        return dump
    if not elf.segments:
        raise OpeningError(
            f"{path}: ELF core without its program headers ({file.size} bytes):"
            " the file is cut short, copy it again"
        )
    if not info and not dump.qemu:
        # A process leaves NT_PRPSINFO, NT_AUXV, NT_FILE; a kernel does not.
        command = next((n.desc for n in elf.notes if n.name == b"CORE" and n.type == 3), None)
        if command is not None:
            name = command[40 if elf.is64 else 28 :][:16].split(b"\0")[0].decode(errors="replace")
            raise OpeningError(
                f'{path}: core dump of the user process "{name}", not of a kernel: use gdb'
            )
    needed = max((s.offset + s.filesz for s in loads), default=0)
    if needed > file.size:
        dump.damage = f"the file is cut short: {file.size} of {needed} bytes"
    return dump
