"""Pages of a kdump-compressed file, unpacked by the fastest library that is there.

zlib and zstd always are; lzo and snappy are read without a library, too.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import threading
import zlib
from collections.abc import Callable
from typing import Any

Unpacker = Callable[[bytes], bytes]

# page_desc.flags, and header.status, of each packing.
FLAGS = {"none": 0, "zlib": 1, "lzo": 2, "snappy": 4, "zstd": 0x20}


@functools.lru_cache(8)
def unpacker(flags: int, size: int) -> Unpacker:
    """How to unpack a page with these page_desc.flags; it raises whatever garbage leads to."""
    if flags & FLAGS["zlib"]:
        isal = _library("isal.isal_zlib")  # in half the time
        return zlib.decompress if isal is None else isal.decompress
    if flags & FLAGS["lzo"]:
        return _lzo_unpacker(size)
    if flags & FLAGS["snappy"]:
        cramjam = _library("cramjam")
        return unsnappy if cramjam is None else lambda d: bytes(cramjam.snappy.decompress_raw(d))
    if flags & FLAGS["zstd"]:
        return functools.partial(_unzstd, threading.local(), size)
    return bytes


def _unzstd(local: Any, size: int, data: bytes) -> bytes:
    if not hasattr(local, "decompress"):
        import zstandard

        local.decompress = zstandard.ZstdDecompressor().decompress
    return local.decompress(data, max_output_size=size)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _lzo_unpacker(size: int) -> Unpacker:
    if library := liblzo2():
        decompress = library.lzo1x_decompress_safe

        def unpack(data: bytes) -> bytes:
            out = ctypes.create_string_buffer(size)
            length = ctypes.c_size_t(size)
            failed = decompress(bytes(data), len(data), out, ctypes.byref(length), None)
            if failed:
                raise ValueError(f"lzo: damaged data ({failed})")
            return ctypes.string_at(out, length.value)

        return unpack
    if lzallright := _library("lzallright"):
        return lambda data: bytes(lzallright.LZOCompressor.decompress(bytes(data), size))
    return functools.partial(unlzo, limit=size)


@functools.cache
def liblzo2() -> ctypes.PyDLL | None:
    """The system's lzo, where there is one."""
    try:  # PyDLL: a page takes 2 us, too little to let go of the interpreter for it
        library = ctypes.PyDLL("liblzo2.so.2")
    except OSError:
        return None
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.lzo1x_1_compress.argtypes = [pointer, size, pointer, pointer, pointer]
    library.lzo1x_decompress_safe.argtypes = [ctypes.c_char_p, size, pointer, pointer, pointer]
    return library


def unsnappy(data: bytes) -> bytes:
    """Snappy's raw format: a length, then literals and copies."""
    at = shift = 0
    length = 0
    while True:  # varint
        byte = data[at]
        at += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    out = bytearray()
    while at < len(data):
        tag = data[at]
        at += 1
        kind, count = tag & 3, tag >> 2
        if kind == 0:
            if count >= 60:
                extra = count - 59
                count = int.from_bytes(data[at : at + extra], "little")
                at += extra
            out += data[at : at + count + 1]
            at += count + 1
            continue
        if kind == 1:
            count, back = (count & 7) + 4, tag >> 5 << 8 | data[at]
            at += 1
        else:
            width = 2 if kind == 2 else 4
            count, back = count + 1, int.from_bytes(data[at : at + width], "little")
            at += width
        _copy(out, back, count)
    if len(out) != length:
        raise ValueError("snappy: wrong length")
    return bytes(out)


def unlzo(data: bytes, limit: int) -> bytes:
    """LZO1X as its stream is documented in Linux (Documentation/staging/lzo.rst)."""
    out = bytearray()
    at = 0

    def length(start: int, bits: int) -> tuple[int, int]:
        """A count of `bits` bits; 0 means that more bytes follow."""
        nonlocal at
        count = start & (1 << bits) - 1
        if count:
            return count, at
        count = (1 << bits) - 1
        while data[at] == 0:
            count += 255
            at += 1
        count += data[at]
        at += 1
        return count, at

    literals = 0  # copied by the previous instruction: 0, 1-3, or 4 for more
    if data[0] > 17:
        literals = data[0] - 17
        at = 1 + literals
        out += data[1:at]
        literals = min(literals, 4)
    while len(out) <= limit:
        code = data[at]
        at += 1
        if code >= 64:
            count = (code >> 5) + 1
            back = (data[at] << 3) + (code >> 2 & 7) + 1
            at += 1
            tail = code & 3
        elif code >= 32:
            count = length(code, 5)[0] + 2
            word = int.from_bytes(data[at : at + 2], "little")
            at += 2
            back, tail = (word >> 2) + 1, word & 3
        elif code >= 16:
            high = (code & 8) << 11
            count = length(code, 3)[0] + 2
            word = int.from_bytes(data[at : at + 2], "little")
            at += 2
            back, tail = high + (word >> 2) + 0x4000, word & 3
            if back == 0x4000:
                return bytes(out)
        elif literals == 0:
            count = length(code, 4)[0] + 3
            out += data[at : at + count]
            at += count
            literals = 4
            continue
        else:
            back = (data[at] << 2) + (code >> 2) + 1
            count, tail = 2, code & 3
            if literals == 4:
                back, count = back + 0x800, 3
            at += 1
        _copy(out, back, count)
        out += data[at : at + tail]
        at += tail
        literals = tail
    raise ValueError("lzo: more than a page")


def _copy(out: bytearray, back: int, count: int) -> None:
    """Repeat what was written `back` bytes ago; it may overlap what it writes."""
    start = len(out) - back
    if start < 0 or not back:
        raise ValueError("copy from before the start")
    if back >= count:
        out += out[start : start + count]
        return
    piece = bytes(out[start:])
    out += (piece * (count // back + 1))[:count]
