"""An initial RAM disk: a cpio archive in the kernel's "newc" form, packed.

Documentation/driver-api/early-userspace/buffer-format.rst. Written here and not by
cpio(1), as modes, owners and device nodes need no root this way, and nothing lands on disk
but the archive.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from crashpy.kdump.system import System

CONSOLE = os.makedev(5, 1)


@dataclass(frozen=True)
class Entry:
    """One file of the archive; its bytes are here, or read when it is written."""

    mode: int
    data: bytes | Path = b""
    device: int = 0

    @property
    def size(self) -> int:
        return len(self.data) if isinstance(self.data, bytes) else self.data.stat().st_size

    def read(self) -> bytes:
        return self.data if isinstance(self.data, bytes) else self.data.read_bytes()


@dataclass
class Archive:
    """Files by their absolute name; the folders they lie in come by themselves."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def folder(self, name: str, mode: int = 0o755) -> None:
        self._add(name, Entry(stat.S_IFDIR | mode))

    def file(self, name: str, data: bytes | str, mode: int = 0o644) -> None:
        data = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
        self._add(name, Entry(stat.S_IFREG | mode, data))

    def copy(self, name: str, source: Path, mode: int | None = None) -> None:
        """What `source` holds; a symbolic link counts as the file it leads to."""
        mode = stat.S_IMODE(source.stat().st_mode) & 0o755 if mode is None else mode
        self._add(name, Entry(stat.S_IFREG | mode, source))

    def link(self, name: str, target: str) -> None:
        self._add(name, Entry(stat.S_IFLNK | 0o777, target.encode()))

    def node(self, name: str, device: int, mode: int = 0o600) -> None:
        """A character device."""
        self._add(name, Entry(stat.S_IFCHR | mode, device=device))

    def _add(self, name: str, entry: Entry) -> None:
        path = Path("/") / name
        for parent in reversed(path.parents[:-1]):
            self.entries.setdefault(str(parent), Entry(stat.S_IFDIR | 0o755))
        self.entries[str(path)] = entry

    @property
    def memory_bytes(self) -> int:
        """How much memory the files take when they are unpacked: whole pages."""
        return sum(-(-entry.size // 4096) * 4096 for entry in self.entries.values())

    def extract(self, folder: Path) -> None:
        """Put the files below a folder, whose own symbolic links stay what they are."""
        inside = System(folder.absolute())
        for name, entry in sorted(self.entries.items()):
            path = inside.path(name)
            if stat.S_ISDIR(entry.mode):
                if not path.is_dir():
                    path.mkdir(stat.S_IMODE(entry.mode))
            elif stat.S_ISLNK(entry.mode):
                if not path.exists():
                    path.symlink_to(entry.read().decode())
            elif stat.S_ISREG(entry.mode):
                path.unlink(missing_ok=True)
                path.touch(stat.S_IMODE(entry.mode))
                path.write_bytes(entry.read())

    def write(self, write: Callable[[bytes], object]) -> None:
        for number, (name, entry) in enumerate(sorted(self.entries.items()), 1):
            _write(write, number, name.lstrip("/"), entry)
        _write(write, 0, "TRAILER!!!", Entry(0))

    def pack(self, out: BinaryIO, *, packing: str) -> None:
        """Write it packed: zstd, gzip, or none."""
        if packing == "zstd":
            import zstandard

            compressor = zstandard.ZstdCompressor(level=6, write_checksum=False)
            with compressor.stream_writer(out, closefd=False) as stream:
                self.write(stream.write)
        elif packing == "gzip":
            gzip = zlib.compressobj(9, wbits=31)
            self.write(lambda data: out.write(gzip.compress(data)))
            out.write(gzip.flush())
        else:
            self.write(out.write)


def _write(write: Callable[[bytes], object], number: int, name: str, entry: Entry) -> None:
    data = entry.read()
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    raw = name.encode() + b"\0"
    fields = (
        number, entry.mode, 0, 0, links, 0, len(data), 0, 0,
        os.major(entry.device), os.minor(entry.device), len(raw), 0,
    )  # fmt: skip
    head = b"070701" + b"".join(b"%08X" % value for value in fields) + raw
    write(head + bytes(-len(head) % 4))
    write(data + bytes(-len(data) % 4))
