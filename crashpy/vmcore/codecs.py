"""How the pages of a kdump-compressed file are packed: zlib, lzo, snappy, zstd, or not.

Each page is packed by itself, a batch of them in one go: in C where the library can.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from crashpy.command import CommandError
from crashpy.vmcore.unpack import FLAGS, liblzo2

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pages = NDArray[np.uint8]  # a row for each page
    Rows = NDArray[np.intp]  # which of them

S = TypeVar("S")
T = TypeVar("T")

AT_ONCE = 512  # pages of a batch: they should stay in a processor's own cache
LZO_WORK = 1 << 17  # bytes of LZO1X_1_MEM_COMPRESS on 64-bit machines


@dataclass(frozen=True)
class Packed:
    """A batch of pages, packed; those that did not shrink are as they were."""

    data: bytes | memoryview  # one behind the other
    sizes: NDArray[np.int64]
    flags: NDArray[np.uint32]  # page_desc.flags of each


@dataclass(frozen=True)
class Codec:
    """Packs batches of pages, `threads` of them at a time."""

    name: str
    batch: Callable[[Pages, Rows], Packed]
    threads: int = 1

    @property
    def flag(self) -> int:
        return FLAGS[self.name]

    def pack(self, pages: Pages, rows: Rows) -> Packed:
        if not len(rows):
            return Packed(b"", np.empty(0, np.int64), np.empty(0, np.uint32))
        return self.batch(pages, rows)


def in_order(threads: int, work: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """map(), by threads beside this one; no further ahead than keeps them busy."""
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def codec(name: str, *, threads: int = 1, exact: bool = False) -> Codec:
    """The codec of that name.

    `exact` asks for the bytes that makedumpfile writes; without it zlib's format is
    made by ISA-L where that is installed: in half the time, its bytes a few less or more
    from run to run. Raises CommandError where a library is missing.
    """
    if name == "none":
        return Codec(name, _stored)
    if name == "zlib":
        return Codec(name, _page_by_page(_zlib(exact), FLAGS[name]), threads)
    if name == "zstd":
        return Codec(name, _zstd(), threads)
    if name == "lzo":
        return Codec(name, _lzo(exact))
    if name == "snappy":
        return Codec(name, _page_by_page(_snappy(), FLAGS[name]), threads)
    raise CommandError(f"no such compression: {name} (zlib, lzo, snappy, zstd or none)")


def _stored(pages: Pages, rows: Rows) -> Packed:
    count, size = len(rows), pages.shape[1]
    stored = pages[rows]  # a copy: the buffer is filled again meanwhile
    sizes, flags = np.full(count, size, np.int64), np.zeros(count, np.uint32)
    return Packed(stored.reshape(-1).data, sizes, flags)


def _page_by_page(pack: Callable[[memoryview], Any], flag: int) -> Callable[[Pages, Rows], Packed]:
    def batch(pages: Pages, rows: Rows) -> Packed:
        size = pages.shape[1]
        whole = pages.reshape(-1).data
        pieces = (whole[at : at + size] for at in (rows * size).tolist())
        return _joined(list(map(pack, pieces)), pages, rows, flag)

    return batch


def _joined(parts: list[Any], pages: Pages, rows: Rows, flag: int) -> Packed:
    count, size = len(rows), pages.shape[1]
    sizes = np.fromiter(map(len, parts), np.int64, count)
    flags = np.full(count, flag, np.uint32)
    for index in np.flatnonzero(sizes >= size).tolist():
        parts[index] = pages[rows[index]].data
        sizes[index], flags[index] = size, 0
    return Packed(b"".join(parts), sizes, flags)


def _zlib(exact: bool) -> Callable[[memoryview], bytes]:
    if not exact:
        try:
            from isal import isal_zlib
        except ImportError:
            pass
        else:
            return functools.partial(isal_zlib.compress, level=1)
    return functools.partial(zlib.compress, level=1)


def _snappy() -> Callable[[memoryview], Any]:
    try:
        from cramjam import snappy
    except ImportError:
        raise CommandError(
            "snappy needs the package cramjam: pip install 'crashpy[save]'"
        ) from None
    return snappy.compress_raw


def _zstd() -> Callable[[Pages, Rows], Packed]:
    """A whole batch in one call of the library, each thread with its own context."""
    import zstandard

    local = threading.local()

    def batch(pages: Pages, rows: Rows) -> Packed:
        if not hasattr(local, "compressor"):
            local.compressor = zstandard.ZstdCompressor(
                level=1, write_checksum=False, write_dict_id=False
            )
        size = pages.shape[1]
        segments = np.empty((len(rows), 2), "<u8")
        segments[:, 0] = rows * size
        segments[:, 1] = size
        source = zstandard.BufferWithSegments(pages.reshape(-1).data, segments.tobytes())
        parts = list(local.compressor.multi_compress_to_buffer(source))
        return _joined(parts, pages, rows, FLAGS["zstd"])

    return batch


def _lzo(exact: bool) -> Callable[[Pages, Rows], Packed]:
    """makedumpfile's own library where the system has it: its bytes, and 40 times the speed."""
    if (library := liblzo2()) is not None:
        return functools.partial(_lzo_batch, library.lzo1x_1_compress)
    if exact:
        raise CommandError("--exact needs the library liblzo2 (Debian: liblzo2-2, others: lzo)")
    try:
        from lzallright import LZOCompressor
    except ImportError:
        raise CommandError(
            "lzo needs the library liblzo2 (Debian: liblzo2-2, others: lzo) or the package"
            " lzallright: pip install 'crashpy[save]'"
        ) from None
    compress = LZOCompressor().compress
    return _page_by_page(lambda page: compress(bytes(page)), FLAGS["lzo"])


def _lzo_batch(compress: Callable[..., int], pages: Pages, rows: Rows) -> Packed:
    """Each page packed to where the one before ends: no object is made for it."""
    count, size = len(rows), pages.shape[1]
    worst = size + size // 16 + 67
    out = np.empty(count * size + worst, np.uint8)
    work = ctypes.create_string_buffer(LZO_WORK)
    length = ctypes.c_size_t()
    length_at, work_at = ctypes.addressof(length), ctypes.addressof(work)
    source, start = pages.ctypes.data, out.ctypes.data
    target = start
    sizes = []
    for page in (rows * size + source).tolist():
        compress(page, size, target, length_at, work_at)
        packed = length.value
        if packed >= size:
            ctypes.memmove(target, page, size)
            packed = size
        sizes.append(packed)
        target += packed
    lengths = np.array(sizes, np.int64)
    flags = np.where(lengths < size, FLAGS["lzo"], 0).astype(np.uint32)
    return Packed(out.data[: target - start], lengths, flags)
