"""The symbol table of an ELF file, as bfd and nm see it."""

from __future__ import annotations

import functools
import mmap
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR, SHF_COMPRESSED = 1, 2, 4, 0x800
SHT_SYMTAB, SHT_NOBITS = 2, 8
EM_X86_64 = 62
SHN_ABS, SHN_COMMON = 0xFFF1, 0xFFF2
STT_OBJECT, STT_FUNC, STT_SECTION, STT_FILE, STT_GNU_IFUNC = 1, 2, 3, 4, 10
STB_LOCAL, STB_WEAK, STB_GNU_UNIQUE = 0, 2, 10


@dataclass(frozen=True, slots=True)
class Section:
    """A section of an ELF file, as far as symbols need it."""

    name: str
    address: int
    size: int
    flags: int  # SHF_*
    nobits: bool

    @property
    def is_code(self) -> bool:
        return bool(self.flags & SHF_EXECINSTR)

    @property
    def letter(self) -> str:
        """nm's letter of a local symbol in this section (bfd's decode_section_type())."""
        if self.is_code:
            return "t"
        if self.flags & SHF_ALLOC and not self.nobits:
            return "d" if self.flags & SHF_WRITE else "r"
        if self.nobits:
            return "b"
        if self.name.startswith((".debug", ".zdebug", ".stab", ".gnu.linkonce.wi.")):
            return "N"
        return "?" if self.flags & SHF_WRITE else "n"


class ElfSymbols:
    """The symbol table of a 64-bit ELF file; the file is mapped, not copied.

    Symbols are named by their index in the table. `words` holds for each of them
    st_name | st_info << 32 | st_shndx << 48, then st_value, then st_size.
    """

    def __init__(self, table: memoryview, strings: str, sections: Sequence[Section]) -> None:
        self.table = table
        words = table.cast("Q")
        self.heads = words[0::3]
        self.values = words[1::3]
        self.sizes = words[2::3]
        self.strings = strings
        self.sections = sections
        self.machine = EM_X86_64
        self._content: dict[str, tuple[mmap.mmap, int]] = {}

    @classmethod
    def open(cls, path: str) -> ElfSymbols:
        """Raises OSError, or ValueError when it is no ELF file with symbols."""
        with Path(path).open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError(f"{path}: not a little-endian 64-bit ELF file")
        try:
            return cls._parse(data)
        except (struct.error, IndexError) as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def _parse(cls, data: mmap.mmap) -> ElfSymbols:
        (start,) = struct.unpack_from("<Q", data, 40)
        size, number, names_index = struct.unpack_from("<HHH", data, 58)
        headers = [struct.unpack_from("<IIQQQQIIQQ", data, start + i * size) for i in range(number)]
        names_at = headers[names_index][4]
        sections: list[Section] = []
        content: dict[str, tuple[mmap.mmap, int]] = {}
        table = strings = (0, 0)
        for name_at, kind, flags, address, offset, length, link, *_ in headers:
            end = data.find(b"\0", names_at + name_at)
            name = data[names_at + name_at : end].decode(errors="replace")
            sections.append(Section(name, address, length, flags, kind == SHT_NOBITS))
            content.setdefault(name, (data, offset))
            if kind == SHT_SYMTAB:
                table = offset, length // 24 * 24
                strings = headers[link][4], headers[link][5]
        if not table[1]:
            raise ValueError("no symbols")
        text = data[strings[0] : sum(strings)].decode("latin-1")
        found = cls(memoryview(data)[table[0] : sum(table)], text, sections)
        found._content = content
        (found.machine,) = struct.unpack_from("<H", data, 18)
        return found

    def __len__(self) -> int:
        return len(self.values)

    def name(self, index: int) -> str:
        head = self.heads[index]
        start = head & 0xFFFFFFFF
        if not start and head >> 32 & 15 == STT_SECTION and head >> 48 < len(self.sections):
            return self.sections[head >> 48].name
        return self.strings[start : self.strings.index("\0", start)]

    def letter(self, index: int) -> str:
        """nm's letter (bfd_decode_symclass())."""
        return self.letter_of(self.heads[index] >> 32)

    @cached_property
    def letter_of(self) -> Callable[[int], str]:
        """The same from st_info | st_shndx << 16."""
        return functools.cache(lambda key: self._letter(key & 0xFF, key >> 16))

    def _letter(self, info: int, section: int) -> str:
        bind, kind = info >> 4, info & 15
        if section == SHN_COMMON:
            return "C"
        if section == 0:
            return ("v" if kind == STT_OBJECT else "w") if bind == STB_WEAK else "U"
        if kind == STT_GNU_IFUNC:
            return "i"
        if bind == STB_WEAK:
            return "V" if kind == STT_OBJECT else "W"
        if bind == STB_GNU_UNIQUE:
            return "u"
        letter = "a" if section >= len(self.sections) else self.sections[section].letter
        return letter if bind == STB_LOCAL else letter.upper()

    def section(self, name: str) -> tuple[bytes | mmap.mmap, int, int]:
        """The first section of a name: what holds it, from where, how many bytes.

        Nothing is copied, unless the section is compressed.
        """
        for section in self.sections:
            if section.name == name:
                if section.nobits or name not in self._content:
                    break
                data, start = self._content[name]
                if section.flags & SHF_COMPRESSED:
                    content = inflated(data[start : start + section.size])
                    return content, 0, len(content)
                return data, start, section.size
        return b"", 0, 0


def inflated(data: bytes) -> bytes:
    """A section with SHF_COMPRESSED: ELF's header of the compression, then the data."""
    kind, size = struct.unpack_from("<I4xQ", data)
    if kind == 1:
        import zlib

        return zlib.decompress(data[24:])
    import zstandard

    return zstandard.ZstdDecompressor().decompress(data[24:], max_output_size=size)
