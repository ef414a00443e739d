"""Source lines of code addresses, chosen and written as gdb does for crash.

drgn's own answer is the inline chain of an address. What crash shows is something
else: the row of the line table that gdb keeps per source file, where a change of the
file drops rows, and the file's name as the compiler was given it.
"""

from __future__ import annotations

import mmap
import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crashpy.elf import ElfSymbols

# One row of a file's table: address, line (0: nothing from here on), is_stmt.
Row = tuple[int, int, bool]
Buffer = bytes | bytearray | mmap.mmap
UNIT = 256  # bytes that the first entry of a unit takes at most


@dataclass(slots=True)
class Cursor:
    """A place in a debug section."""

    data: Buffer
    at: int = 0

    def number(self, size: int) -> int:
        self.at += size
        return int.from_bytes(self.data[self.at - size : self.at], "little")

    def unsigned(self) -> int:
        """ULEB128"""
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def string(self) -> str:
        start, self.at = self.at, self.data.find(b"\0", self.at) + 1
        return self.data[start : self.at - 1].decode(errors="replace")


@dataclass(frozen=True, slots=True)
class FileLines:
    """The rows of one source file by address, in a tenth of the room of a list of rows."""

    name: str
    starts: array[int]
    lines: array[int]
    statements: bytes

    @classmethod
    def of(cls, name: str, rows: list[Row]) -> FileLines:
        # Where a file ends and goes on at the same address, it goes on.
        rows.sort(key=lambda row: (row[0], row[1] != 0))
        starts = array("Q", [row[0] for row in rows])
        return cls(name, starts, array("I", [r[1] for r in rows]), bytes(r[2] for r in rows))

    def row(self, address: int) -> int | None:
        """The last row up to an address; of those at one address a statement, if one is."""
        starts, lines, statements = self.starts, self.lines, self.statements
        at = bisect_right(starts, address) - 1
        if at < 0 or not lines[at]:
            return None
        chosen = at
        while (
            chosen
            and not statements[chosen]
            and starts[chosen - 1] == starts[at]
            and lines[chosen - 1]
        ):
            chosen -= 1
        return chosen if statements[chosen] else at


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A line of a source file, named as the compiler was given it."""

    directory: str  # where it was compiled
    name: str
    line: int

    def __str__(self) -> str:
        name = self.name
        path = name if name.startswith("/") else f"{self.directory.rstrip('/')}/{name}"
        while "//" in path:
            path = path.replace("//", "/")
        return f"{path}: {self.line}"

    def read(self, folder: str = "") -> list[str] | None:
        """The file's lines; None where it is neither as compiled, nor in the folder.

        gdb's find_and_open_source(): the name in each directory, then only its last part.
        """
        name = self.name
        if folder and folder.startswith("~"):
            folder = str(Path(folder).expanduser())
        folders = [*((folder,) if folder else ()), self.directory, "."]
        assembly = sorted(Path(folder).glob("arch/*/include/asm"))[:1] if folder else []
        folders[1:1] = map(str, assembly)
        candidates = [Path(name)] if name.startswith("/") else []
        candidates += [Path(place, name.lstrip("/")) for place in folders]
        candidates += [Path(place, Path(name).name) for place in folders]
        for candidate in candidates:
            try:
                text = candidate.read_text(errors="surrogateescape")
                return text.removesuffix("\n").split("\n")
            except OSError:
                continue
        return None


@dataclass(frozen=True, slots=True)
class Table:
    """The lines of one compilation unit."""

    directory: str
    files: list[FileLines]

    def place(self, address: int) -> SourceFile | None:
        """gdb's find_pc_sect_line(): the file whose last row is the closest."""
        best: tuple[int, str, int] | None = None
        for file in self.files:
            at = file.row(address)
            if at is not None and (best is None or file.starts[at] > best[0]):
                best = file.starts[at], file.name, file.lines[at]
        if best is None:
            return None
        return SourceFile(self.directory, *best[1:])


class Lines:
    """The source lines in the debugging information of one ELF file.

    `sections` says where the sections of a relocatable file (a module) were loaded.
    """

    def __init__(
        self, elf: ElfSymbols, bias: int = 0, sections: Mapping[str, int] | None = None
    ) -> None:
        self._elf = elf
        self._bias = bias
        self._loaded = sections
        self._tables: dict[int, Table | None] = {}
        self._data: dict[str, tuple[Buffer, int]] = {}
        self._relocations: dict[str, tuple[memoryview, memoryview]] = {}

    def at(self, address: int) -> SourceFile | None:
        """The line of an address; as a string it is ``FILE: LINE``."""
        address -= self._bias
        starts, ends, units = self._ranges
        at = bisect_right(starts, address) - 1
        if at < 0 or address >= ends[at]:
            return None
        unit = units[at]
        if unit not in self._tables:
            try:
                self._tables[unit] = self._table(unit)
            except (IndexError, ValueError, struct.error):
                self._tables[unit] = None
        table = self._tables[unit]
        return table.place(address) if table else None

    def _at(self, name: str, offset: int, size: int = 0) -> Cursor:
        """A place in a section.

        In a module's file, addresses in so many bytes from there are filled in.
        """
        if name not in self._data:
            content, begin, length = self._elf.section(name)
            if self._loaded is None:
                self._data[name] = content, begin
            else:
                self._data[name] = bytearray(content[begin : begin + length]), 0
        data, start = self._data[name]
        if isinstance(data, bytearray):
            self._relocate(name, data, offset, offset + size)
        return Cursor(data, start + offset)

    def _relocate(self, name: str, data: bytearray, start: int, end: int) -> None:
        elf = self._elf
        if name not in self._relocations:
            content, at, length = elf.section(f".rela{name}")
            entries = memoryview(content)[at : at + length // 24 * 24]
            self._relocations[name] = entries, entries.cast("Q")[0::3]
        entries, offsets = self._relocations[name]
        first, last = bisect_left(offsets, start), bisect_left(offsets, end)
        for offset, info, addend in struct.iter_unpack("<QQq", entries[24 * first : 24 * last]):
            kind = info & 0xFFFFFFFF
            size = 8 if kind == 1 else 4 if kind in (2, 10, 11) else 0
            if not size or offset + size > len(data):
                continue
            index = info >> 32
            section = elf.heads[index] >> 48
            base = self._bases[section] if section < len(self._bases) else 0
            result = (base + elf.values[index] + addend) & ((1 << 8 * size) - 1)
            data[offset : offset + size] = result.to_bytes(size, "little")

    @cached_property
    def _bases(self) -> list[int]:
        loaded = self._loaded or {}
        return [loaded.get(section.name, 0) for section in self._elf.sections]

    @cached_property
    def _ranges(self) -> tuple[list[int], list[int], list[int]]:
        """What .debug_aranges says: addresses from, to, and the unit's offset in .debug_info."""
        size = self._elf.section(".debug_aranges")[2]
        cursor = self._at(".debug_aranges", 0, size)
        data = bytes(cursor.data[cursor.at : cursor.at + size])
        found: list[tuple[int, int, int]] = []
        at = 0
        while at + 12 <= len(data):
            length, version, unit, size, _ = struct.unpack_from("<IHIBB", data, at)
            if version != 2 or size != 8 or length >= 0xFFFFFFF0:
                break
            end = min(at + 4 + length, len(data))
            start = at + 16
            for address, extent in struct.iter_unpack(
                "<QQ", data[start : start + (end - start) // 16 * 16]
            ):
                if extent:
                    found.append((address, address + extent, unit))
            at = end
        found.sort()
        return [f[0] for f in found], [f[1] for f in found], [f[2] for f in found]

    def _unit(self, offset: int) -> tuple[str, int | None]:
        """DW_AT_comp_dir and DW_AT_stmt_list of the unit at this place in .debug_info."""
        info = self._at(".debug_info", offset, UNIT)
        info.at += 4
        version = info.number(2)
        if version >= 5:
            kind, _ = info.number(1), info.number(1)
            abbreviations = info.number(4)
            if kind in (4, 5):  # skeleton, split
                info.number(8)
        else:
            abbreviations = info.number(4)
            info.number(1)
        code = info.unsigned()
        forms = self._at(".debug_abbrev", abbreviations)
        while (entry := forms.unsigned()) and entry != code:
            forms.unsigned()
            forms.number(1)
            while True:
                attribute, form = forms.unsigned(), forms.unsigned()
                if form == 0x21:
                    forms.unsigned()
                if not attribute and not form:
                    break
        forms.unsigned()
        forms.number(1)
        directory, program = "", None
        while True:
            attribute, form = forms.unsigned(), forms.unsigned()
            if not attribute and not form:
                break
            value = forms.unsigned() if form == 0x21 else self._form(info, form)
            if attribute == 0x1B:
                directory = str(value)
            elif attribute == 0x10 and isinstance(value, int):
                program = value
        return directory, program

    def _form(self, at: Cursor, form: int) -> int | str:
        """The value of one attribute; of those kinds that a unit or a file name has."""
        if form == 0x08:  # DW_FORM_string
            return at.string()
        if form in (0x0E, 0x1F):  # DW_FORM_strp, DW_FORM_line_strp
            name = ".debug_str" if form == 0x0E else ".debug_line_str"
            return self._at(name, at.number(4)).string()
        if form in (0x0F, 0x0D, 0x1A, 0x1B, 0x22, 0x23):  # udata, sdata, strx, addrx, ...listx
            return at.unsigned()
        if form == 0x19:  # DW_FORM_flag_present
            return 1
        sizes = {0x01: 8, 0x05: 2, 0x06: 4, 0x07: 8, 0x0B: 1, 0x0C: 1, 0x17: 4, 0x1E: 16}
        sizes |= {0x25: 1, 0x26: 2, 0x27: 3, 0x28: 4, 0x29: 1, 0x2A: 2, 0x2B: 3, 0x2C: 4}
        if form not in sizes:
            raise ValueError(f"DWARF form {form:#x}")
        return at.number(sizes[form])

    def _entries(self, at: Cursor) -> list[tuple[str, int]]:
        """A table of directories or files of DWARF 5: path, index of its directory."""
        formats = [(at.unsigned(), at.unsigned()) for _ in range(at.number(1))]
        found = []
        for _ in range(at.unsigned()):
            path, directory = "", 0
            for content, form in formats:
                value = self._form(at, form)
                if content == 1:  # DW_LNCT_path
                    path = str(value)
                elif content == 2 and isinstance(value, int):  # DW_LNCT_directory_index
                    directory = value
            found.append((path, directory))
        return found

    def _table(self, unit: int) -> Table | None:
        directory, offset = self._unit(unit)
        if offset is None:
            return None
        length = self._at(".debug_line", offset).number(4)
        at = self._at(".debug_line", offset + 4, length)
        end = at.at + length
        version = at.number(2)
        if version >= 5:
            at.number(2)
        program = at.number(4) + at.at
        minimum = at.number(1)
        if version >= 4:
            at.number(1)
        is_stmt = bool(at.number(1))
        line_base = at.number(1)
        line_base -= 256 if line_base > 127 else 0
        line_range, opcode_base = at.number(1), at.number(1)
        lengths = [0, *(at.number(1) for _ in range(opcode_base - 1))]
        if version >= 5:
            directories: list[str] = [path for path, _ in self._entries(at)]
            files = self._entries(at)
        else:
            directories = [""]
            while path := at.string():
                directories.append(path)
            files = [("", 0)]
            while path := at.string():
                files.append((path, at.unsigned()))
                at.unsigned(), at.unsigned()
        names = []
        for path, index in files:
            folder = directories[index] if index < len(directories) else ""
            joined = f"{folder.rstrip('/')}/{path}" if folder and path[:1] != "/" else path
            names.append(joined)
        machine = Machine(names, minimum, is_stmt, line_base, line_range, opcode_base, lengths)
        machine.run(bytes(at.data[program:end]))
        return Table(directory, [FileLines.of(n, rows) for n, rows in machine.rows.items() if rows])


@dataclass
class Machine:
    """DWARF's line number program, recording rows per file as gdb's buildsym does."""

    names: list[str]
    minimum: int
    is_stmt: bool
    line_base: int
    line_range: int
    opcode_base: int
    lengths: list[int]

    def __post_init__(self) -> None:
        self.rows: dict[str, list[Row]] = {name: [] for name in self.names}

    def finish(self, name: str | None, address: int) -> None:
        """A file's rows end here; those at this very address never counted."""
        if name is None:
            return
        rows = self.rows[name]
        last: int | None = None
        while rows:
            last = rows[-1][1]
            if rows[-1][0] != address:
                break
            rows.pop()
        if last:
            rows.append((address, 0, True))

    def run(self, data: bytes) -> None:
        at, end = 0, len(data)
        names, all_rows = self.names, self.rows
        base, line_base, line_range = self.opcode_base, self.line_base, self.line_range
        step = self.minimum
        const_pc = (255 - base) // line_range * step
        cursor = Cursor(data)
        # (address, line) advance of each special opcode
        special = [
            ((op - base) // line_range * step, line_base + (op - base) % line_range)
            if op >= base
            else (0, 0)
            for op in range(256)
        ]
        while at < end:
            address = last_address = discriminator = last_line = 0
            line = file = 1
            is_stmt, stmt_here, discriminated = self.is_stmt, False, False
            last: str | None = None
            name = names[file] if file < len(names) else ""
            done = False
            while at < end and not done:
                op = data[at]
                at += 1
                emit = False
                if op >= base:
                    advance, delta = special[op]
                    address += advance
                    if delta:
                        line += delta
                        discriminated = discriminator != 0
                    emit = True
                elif op == 1:
                    emit = True
                elif op in (2, 3, 4, 5):
                    value = data[at]
                    at += 1
                    if value >= 0x80:
                        shift = 7
                        value &= 0x7F
                        while True:
                            byte = data[at]
                            at += 1
                            value |= (byte & 0x7F) << shift
                            shift += 7
                            if byte < 0x80:
                                break
                        if op == 3 and byte & 0x40:
                            value -= 1 << shift
                    elif op == 3 and value & 0x40:
                        value -= 128
                    if op == 2:
                        address += value * step
                    elif op == 3:
                        if value:
                            line += value
                            discriminated = discriminator != 0
                    elif op == 4:
                        file = value
                        if file < len(names):
                            name = names[file]
                            discriminated = discriminator != 0
                elif op == 6:
                    is_stmt = not is_stmt
                elif op == 8:
                    address += const_pc
                elif op == 9:
                    address += data[at] | data[at + 1] << 8
                    at += 2
                elif op == 0:
                    cursor.at = at
                    length = cursor.unsigned()
                    at = cursor.at
                    code = data[at]
                    if code == 1:
                        done = True
                    elif code == 2:
                        address = int.from_bytes(data[at + 1 : at + length], "little")
                    elif code == 4:
                        cursor.at = at + 1
                        discriminator = cursor.unsigned()
                        discriminated = discriminated or discriminator != 0
                    at += length
                elif op < len(self.lengths) and op not in (7, 10, 11):
                    cursor.at = at
                    for _ in range(self.lengths[op]):
                        cursor.unsigned()
                    at = cursor.at
                if not emit:
                    continue
                changed = last != name
                ignored = not line or (
                    changed and last_address == address and not is_stmt and stmt_here
                )
                if changed and not ignored:
                    self.finish(last, address)
                if not ignored and (changed or line != last_line or not discriminated):
                    last = name
                    all_rows[name].append((address, line, is_stmt))
                    last_line = line
                if last_address != address:
                    stmt_here = False
                    last_address = address
                stmt_here = stmt_here or is_stmt
                discriminator = 0
            self.finish(last, address)
