"""How the pages of a kdump-compressed file are packed: zlib, lzo, snappy, zstd, or not.

Pages are packed each by itself, many of them in one call where the library can.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import itertools
import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from crashpy.command import CommandError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# page_desc.flags, and header.status, of each packing.
FLAGS = {"none": 0, "zlib": 1, "lzo": 2, "snappy": 4, "zstd": 0x20}

LZO_WORK = 1 << 17  # bytes of LZO1X_1_MEM_COMPRESS on 64-bit machines


@dataclass(frozen=True)
class Packed:
    """A batch of pages, packed; those that did not shrink are as they were."""

    parts: Sequence[Any]  # a buffer for each page
    sizes: NDArray[np.int64]
    flags: NDArray[np.uint32]  # page_desc.flags of each


class Codec:
    """Packs pages, `threads` at a time."""

    def __init__(self, name: str, pack: Callable[[memoryview], bytes], threads: int = 1) -> None:
        self.name, self.flag = name, FLAGS[name]
        self._pack = pack
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def pack(self, pages: NDArray[np.uint8]) -> Packed:
        """Pack each row of `pages`."""
        size = pages.shape[1]
        whole = pages.reshape(-1).data
        pieces = [whole[at : at + size] for at in range(0, len(pages) * size, size)]
        return self._kept(pieces, self._packed(pieces), size)

    def _packed(self, pieces: list[memoryview]) -> list[Any]:
        if self._pool is None:
            return list(map(self._pack, pieces))
        share = max(64, -(-len(pieces) // (4 * self._threads)))
        slices = [pieces[at : at + share] for at in range(0, len(pieces), share)]
        done = self._pool.map(lambda part: list(map(self._pack, part)), slices)
        return list(itertools.chain.from_iterable(done))

    def _kept(self, pieces: list[memoryview], parts: list[Any], size: int) -> Packed:
        sizes = np.fromiter(map(len, parts), np.int64, len(parts))
        flags = np.full(len(parts), self.flag, np.uint32)
        for index in np.flatnonzero(sizes >= size).tolist():
            parts[index] = pieces[index]
            sizes[index], flags[index] = size, 0
        return Packed(parts, sizes, flags)


class Zstd(Codec):
    """A whole batch in one call, threads inside the library."""

    def __init__(self, threads: int = 1) -> None:
        import zstandard

        super().__init__("zstd", bytes)
        self._library = zstandard
        self._workers = threads if threads > 1 else 0
        self._compressor = zstandard.ZstdCompressor(
            level=1, write_checksum=False, write_dict_id=False
        )

    def pack(self, pages: NDArray[np.uint8]) -> Packed:
        count, size = pages.shape
        segments = np.empty((count, 2), "<u8")
        segments[:, 0] = np.arange(count) * size
        segments[:, 1] = size
        whole = pages.reshape(-1).data
        buffer = self._library.BufferWithSegments(whole, segments.tobytes())
        done = self._compressor.multi_compress_to_buffer(buffer, threads=self._workers)
        parts: list[Any] = [done[index] for index in range(count)]
        pieces = [whole[at : at + size] for at in range(0, count * size, size)]
        return self._kept(pieces, parts, size)


def codec(name: str, *, threads: int = 1, exact: bool = False) -> Codec:
    """The codec of that name.

    `exact` asks for the bytes that makedumpfile writes; without it zlib's format is
    made by ISA-L where that is installed, in half the time and 4 % larger. Raises
    CommandError where a library is missing.
    """
    if name == "none":
        return Codec(name, bytes)
    if name == "zlib":
        return Codec(name, _zlib(exact), threads)
    if name == "zstd":
        return Zstd(threads)
    if name == "lzo":
        return Codec(name, _lzo_packer())
    if name == "snappy":
        return Codec(name, _snappy().compress_raw)
    raise CommandError(f"no such compression: {name} (zlib, lzo, snappy, zstd or none)")


def decompressor(flags: int, page_size: int) -> Callable[[bytes], bytes]:
    """How to unpack a page with these page_desc.flags. Raises CommandError for unknown ones."""
    if flags == FLAGS["lzo"]:
        return functools.partial(_lzo_unpacked, page_size)
    if flags == FLAGS["snappy"]:
        return lambda data: bytes(_snappy().decompress_raw(data))
    if flags == FLAGS["zstd"]:
        import zstandard

        unpacker = zstandard.ZstdDecompressor()
        return lambda data: unpacker.decompress(data, max_output_size=page_size)
    raise CommandError(f"a page is packed in an unknown way (flags {flags:#x})")


def _zlib(exact: bool) -> Callable[[memoryview], bytes]:
    if not exact:
        try:
            from isal import isal_zlib
        except ImportError:
            pass
        else:
            return functools.partial(isal_zlib.compress, level=1)
    return functools.partial(zlib.compress, level=1)


@functools.cache
def _snappy() -> Any:
    try:
        from cramjam import snappy
    except ImportError:
        raise CommandError(
            "snappy needs the package cramjam: pip install 'crashpy[save]'"
        ) from None
    return snappy


@functools.cache
def _lzo() -> ctypes.CDLL:
    path = ctypes.util.find_library("lzo2")
    if path is None:
        raise CommandError("lzo needs the library liblzo2 (Debian: liblzo2-2, others: lzo)")
    library = ctypes.CDLL(path)
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.lzo1x_1_compress.argtypes = [pointer, size, pointer, pointer, pointer]
    library.lzo1x_decompress_safe.argtypes = [ctypes.c_char_p, size, pointer, pointer, pointer]
    return library


def _lzo_packer() -> Callable[[memoryview], bytes]:
    compress = _lzo().lzo1x_1_compress
    local = threading.local()

    def pack(page: memoryview) -> bytes:
        size = len(page)
        if not hasattr(local, "out"):
            local.out = ctypes.create_string_buffer(size + size // 16 + 67)
            local.work = ctypes.create_string_buffer(LZO_WORK)
            local.length = ctypes.c_size_t()
        source = (ctypes.c_char * size).from_buffer(page)
        compress(source, size, local.out, ctypes.byref(local.length), local.work)
        return local.out.raw[: local.length.value]

    return pack


def _lzo_unpacked(page_size: int, data: bytes) -> bytes:
    out = ctypes.create_string_buffer(page_size)
    length = ctypes.c_size_t(page_size)
    failed = _lzo().lzo1x_decompress_safe(data, len(data), out, ctypes.byref(length), None)
    if failed:
        raise ValueError(f"damaged lzo data ({failed})")
    return out.raw[: length.value]
