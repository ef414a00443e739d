"""What was written, in short: enough to tell whether the place still has all of it."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from crashpy.command import CommandError

RUN = 64 << 20  # bytes; pieces that follow each other are one up to this size


@dataclass
class Ledger:
    """Where each piece went, and its checksum. A piece may be written anew."""

    pieces: dict[int, tuple[int, int]] = field(default_factory=dict)  # by offset: size, CRC-32
    end: int = 0
    _open: dict[int, int] = field(default_factory=dict)  # where a piece ends: where it starts

    def note(self, offset: int, data: bytes | memoryview) -> None:
        data = memoryview(data).cast("B")
        size = len(data)
        if not size:
            return
        start = self._open.pop(offset, 0)
        before, crc = self.pieces.get(start, (0, 0))
        # what starts the file, its header, is written again at the end
        if start and start + before == offset and before < RUN:
            self.pieces[start] = before + size, zlib.crc32(data, crc)
        else:
            start = offset
            self.pieces[start] = size, zlib.crc32(data)
        self._open[offset + size] = start
        self.end = max(self.end, offset + size)

    def compare(self, file: Iterable[bytes]) -> str:
        """The SHA-256 of a file that should hold all this; CommandError where it does not."""
        whole = hashlib.sha256()
        parts = self._checked_parts()
        at, crc = 0, 0
        low, high, expected = next(parts, (0, 0, 0))
        for data in file:
            whole.update(data)
            view = memoryview(data)
            while view and high:
                take = view[: (high if at >= low else low) - at]
                if at >= low:
                    crc = zlib.crc32(take, crc)
                at, view = at + len(take), view[len(take) :]
                if at == high:
                    if crc != expected:
                        raise CommandError(
                            f"what was read back differs from what was written,"
                            f" between byte {low} and byte {high}"
                        )
                    crc = 0
                    low, high, expected = next(parts, (0, 0, 0))
            at += len(view)
        if at != self.end:
            raise CommandError(f"{at} of {self.end} bytes could be read back")
        return whole.hexdigest()

    def _checked_parts(self) -> Iterator[tuple[int, int, int]]:
        """(from, to, CRC-32) in the order of the file; none that overlap."""
        ordered = sorted(self.pieces.items())
        reach = 0
        for index, (offset, (size, crc)) in enumerate(ordered):
            following = ordered[index + 1][0] if index + 1 < len(ordered) else offset + size
            if offset >= reach and offset + size <= following:
                yield offset, offset + size, crc
            reach = max(reach, offset + size)
