"""How much memory the capture environment takes, as it was measured.

Measured in machines of QEMU with 1 GiB and one CPU for the capture kernel, by the
standalone image with Debian's cloud kernels: what was reserved, less the least MemAvailable
that the environment saw, a look a second, while it saved level 31. It says so in its log:
"the least memory that was available".
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20
GIB = 1 << 30

DRIVERS_MIB = 48  # those of a physical machine, and their buffers
RESERVE = 0.25  # of what was measured


@dataclass(frozen=True)
class Measured:
    """One machine that was crashed."""

    engine: str
    place: str  # disk, share (NFS, CIFS), stream (SFTP, SSH, FTP)
    kernel: str
    reserved_mib: int
    least_available_mib: int

    @property
    def used_mib(self) -> int:
        return self.reserved_mib - self.least_available_mib


MEASURED = (
    Measured("makedumpfile", "disk", "6.1", 256, 181),
    Measured("makedumpfile", "share", "6.1", 256, 169),
    Measured("makedumpfile", "stream", "6.1", 256, 172),
    Measured("native", "disk", "6.1", 256, 99),
    Measured("native", "disk", "6.12", 256, 68),
    Measured("native", "share", "6.12", 256, 65),
    Measured("native", "stream", "6.12", 256, 49),
)
PLACES = {"file": "disk", "nfs": "share", "cifs": "share"}


def need_mib(engine: str, protocol: str, memory_bytes: int | None = None) -> list[tuple[str, int]]:
    """What to reserve, in parts with their reasons; the largest that was measured counts."""
    place = PLACES.get(protocol, "stream")
    rows = [row for row in MEASURED if (row.engine, row.place) == (engine, place)]
    if not rows:
        raise LookupError(f"{engine} was never measured")
    worst = max(rows, key=lambda row: row.used_mib)
    parts = [
        (f"what {engine} took saving to a {place} (Linux {worst.kernel})", worst.used_mib),
        ("a quarter more, as no machine is like another", round(worst.used_mib * RESERVE)),
        ("drivers that a virtual machine does not have", DRIVERS_MIB),
    ]
    if memory_bytes:
        parts.append(("two bits for each of the machine's pages", _bitmaps_mib(memory_bytes)))
    return parts


def _bitmaps_mib(memory_bytes: int) -> int:
    """Which pages there are, and which are kept: makedumpfile's and ours alike."""
    return -(-memory_bytes // 4096 * 2 // 8 // MIB)
