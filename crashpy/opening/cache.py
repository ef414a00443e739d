"""Decompressed kernels, kept between runs: $XDG_CACHE_HOME/crashpy/kernels.

Each file is named BUILD-ID then source, so that the same kernel packed twice
is told apart and a packed file that was replaced is unpacked again.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

LIMIT = 8 << 30  # bytes; the least recently used files go first


def folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "crashpy", "kernels")


def source_key(path: str) -> str:
    """What tells one packed file from another, and from its next version."""
    import hashlib

    status = Path(path).stat()
    words = f"{Path(path).resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}"
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def find(key: str) -> Path | None:
    """The kernel that was unpacked from this source, if it is still there."""
    for found in folder().glob(f"*-{key}"):
        # our own file and no one else's, or it is not trusted
        with contextlib.suppress(OSError):
            if found.stat().st_uid == os.getuid() and not found.is_symlink():
                os.utime(found)
                return found
    return None


class Slot:
    """A file being written: seen by others only when it is whole."""

    def __init__(self) -> None:
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = folder() / f"tmp.{os.getpid()}.{os.urandom(4).hex()}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.fd = os.open(self.path, flags, 0o600)

    def keep(self, build_id: str, key: str) -> Path:
        final = folder() / f"{build_id}-{key}"
        self.path.rename(final)
        trim(keep=final)
        return final

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)


def trim(keep: Path, limit: int | None = None) -> None:
    """Remove the files used longest ago until the rest fits."""
    limit = LIMIT if limit is None else limit
    entries = []
    with contextlib.suppress(OSError):
        for path in folder().iterdir():
            with contextlib.suppress(OSError):
                status = path.stat()
                entries.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= limit:
            return
        if path != keep:
            with contextlib.suppress(OSError):
                path.unlink()
                total -= size
