"""As much of ELF as opening needs: headers and notes, of kernels and of cores."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from crashpy.vmcore.files import Bytes

ET_CORE = 4
PT_LOAD, PT_NOTE = 1, 4
SHT_PROGBITS, SHT_SYMTAB, SHT_NOTE, SHT_NOBITS = 1, 2, 7, 8
PN_XNUM = 0xFFFF
MOST_SEGMENTS = 1 << 20  # more is a damaged header
KERNEL_HALF = 1 << 63  # of x86-64's, aarch64's and riscv64's addresses, from here on

# e_machine -> what `uname -m` says (of the 64-bit, then of the 32-bit class).
MACHINES = {
    3: ("i386", "i386"),
    62: ("x86_64", "x86_64"),
    183: ("aarch64", "aarch64"),
    40: ("arm", "arm"),
    20: ("ppc", "ppc"),
    21: ("ppc64", "ppc64"),
    22: ("s390x", "s390"),
    243: ("riscv64", "riscv32"),
    258: ("loongarch64", "loongarch32"),
    8: ("mips64", "mips"),
    43: ("sparc64", "sparc64"),
    50: ("ia64", "ia64"),
}


@dataclass(frozen=True)
class Segment:
    type: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    align: int


@dataclass(frozen=True)
class Section:
    name: str
    type: int
    flags: int
    addr: int
    offset: int
    size: int


@dataclass(frozen=True)
class Note:
    name: bytes
    type: int
    desc: bytes
    at: int = field(default=0, compare=False)  # where it begins in the file


class Elf:
    """An ELF file's headers. Garbage gives fewer entries, never an exception."""

    def __init__(self, file: Bytes) -> None:
        head = file.read(0, 64)
        if len(head) < 52 or head[:4] != b"\x7fELF":
            raise ValueError("not ELF")
        self.file = file
        self.is64 = head[4] == 2
        self.order = "<" if head[5] == 1 else ">"
        self.type, self.machine_number = struct.unpack_from(self.order + "HH", head, 16)
        names = MACHINES.get(self.machine_number, (f"machine {self.machine_number}",) * 2)
        self.machine = names[0 if self.is64 else 1]
        if self.machine == "ppc64" and self.order == "<":
            self.machine = "ppc64le"
        if self.is64 and len(head) < 64:
            raise ValueError("ELF header cut short")
        layout = "QQIHHHHHH" if self.is64 else "IIIHHHHHH"
        fields = struct.unpack_from(self.order + layout, head, 32 if self.is64 else 28)
        self._phoff, self._shoff, self.flags = fields[0], fields[1], fields[2]
        self._phentsize, self._phnum = fields[4], fields[5]
        self._shentsize, self._shnum, self._shstrndx = fields[6], fields[7], fields[8]

    @cached_property
    def _extended(self) -> tuple[int, int, int]:
        """Counts too big for the header: sh_size, sh_link, sh_info of section 0."""
        raw = self.file.read(self._shoff, self._shentsize) if self._shoff else b""
        at, form = (32, "QII") if self.is64 else (20, "III")
        if len(raw) < at + struct.calcsize("=" + form):
            return 0, 0, 0
        size, link, info = struct.unpack_from(self.order + form, raw, at)
        return size, link, info

    @cached_property
    def segments(self) -> list[Segment]:
        count = self._extended[2] if self._phnum == PN_XNUM else self._phnum
        form = struct.Struct(self.order + ("IIQQQQQQ" if self.is64 else "IIIIIIII"))
        if self._phentsize != form.size:
            return []
        raw = self.file.read(self._phoff, min(count, MOST_SEGMENTS) * form.size)
        raw = raw[: len(raw) - len(raw) % form.size]
        found = []
        for entry in form.iter_unpack(raw):
            if self.is64:
                kind, _, offset, vaddr, paddr, filesz, memsz, align = entry
            else:
                kind, offset, vaddr, paddr, filesz, memsz, _, align = entry
            found.append(Segment(kind, offset, vaddr, paddr, filesz, memsz, align))
        return found

    @cached_property
    def sections(self) -> dict[str, Section]:
        count = self._shnum or self._extended[0]
        index = self._extended[1] if self._shstrndx == 0xFFFF else self._shstrndx
        form = struct.Struct(self.order + ("IIQQQQIIQQ" if self.is64 else "IIIIIIIIII"))
        if self._shentsize != form.size or not self._shoff:
            return {}
        raw = self.file.read(self._shoff, min(count, 1 << 20) * form.size)
        raw = raw[: len(raw) - len(raw) % form.size]
        entries = list(form.iter_unpack(raw))
        if index >= len(entries):
            return {}
        names = self.file.read(entries[index][4], min(entries[index][5], 1 << 24))
        found: dict[str, Section] = {}
        for name, kind, flags, addr, offset, size, *_ in entries:
            end = names.find(b"\0", name)
            text = names[name : end if end >= 0 else None].decode(errors="replace")
            found.setdefault(text, Section(text, kind, flags, addr, offset, size))
        return found

    @cached_property
    def notes(self) -> list[Note]:
        """The notes of all PT_NOTE segments; of a file without, of its note sections."""
        ranges = [(s.offset, s.filesz) for s in self.segments if s.type == PT_NOTE]
        if self.type != ET_CORE:
            ranges += [(s.offset, s.size) for s in self.sections.values() if s.type == SHT_NOTE]
        found: list[Note] = []
        for offset, size in ranges:
            found += parse_notes(self.file.read(offset, min(size, 1 << 28)), self.order, offset)
        return found

    @cached_property
    def build_id(self) -> bytes | None:
        return build_id(self.notes)

    def content(self, name: str) -> bytes:
        section = self.sections.get(name)
        if section is None or section.type == SHT_NOBITS:
            return b""
        return self.file.read(section.offset, section.size)


def parse_notes(raw: bytes, order: str, start: int = 0) -> Iterator[Note]:
    """Notes of 4-byte alignment, as every kernel writes them."""
    at = 0
    while at + 12 <= len(raw):
        namesz, descsz, kind = struct.unpack_from(order + "III", raw, at)
        name_at = at + 12
        desc_at = name_at + (namesz + 3 & ~3)
        if namesz > 256 or desc_at + descsz > len(raw):
            return
        if namesz or descsz:
            name = raw[name_at : name_at + namesz].rstrip(b"\0")
            yield Note(name, kind, raw[desc_at : desc_at + descsz], start + at)
        at = desc_at + (descsz + 3 & ~3)


def build_id(notes: list[Note]) -> bytes | None:
    return next((n.desc for n in notes if n.name == b"GNU" and n.type == 3 and n.desc), None)


def machine_number(machine: str) -> int:
    """e_machine of what `uname -m` says on a 64-bit machine; 0 when nobody knows it."""
    return next((n for n, names in MACHINES.items() if machine.startswith(names[0])), 0)


def core_of_notes(notes: list[Note], machine: str, order: str) -> bytes:
    """A 64-bit ELF core that has notes and no memory."""
    raw = b"".join(
        struct.pack(order + "III", len(n.name) + 1, len(n.desc), n.type)
        + (n.name + b"\0").ljust(len(n.name) + 4 & ~3, b"\0")
        + n.desc.ljust(len(n.desc) + 3 & ~3, b"\0")
        for n in notes
    )
    number = machine_number(machine)
    ident = b"\x7fELF\2" + (b"\1" if order == "<" else b"\2") + b"\1"
    fields = ET_CORE, number, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0
    head = ident.ljust(16, b"\0") + struct.pack(order + "HHIQQQIHHHHHH", *fields)
    at = len(head) + 56
    return head + struct.pack(order + "IIQQQQQQ", PT_NOTE, 0, at, 0, 0, len(raw), 0, 4) + raw
