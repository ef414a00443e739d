"""Kernel images: what a file is, and the ELF file that drgn can read.

vmlinux as it is or packed (.gz .bz2 .xz .zst), split into a stripped image and
a debug file, and the boot image (vmlinuz, bzImage), whose payload is a stripped
vmlinux.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from crashpy.opening import cache
from crashpy.opening.errors import OpeningError
from crashpy.opening.options import OpenOptions
from crashpy.vmcore.elf import SHT_NOBITS, Elf
from crashpy.vmcore.files import (
    FLATTENED,
    Packing,
    PackingError,
    PlainFile,
    first_bytes,
    memory_file,
    packed_with,
    write_sparse,
)
from crashpy.vmcore.kdump import DISKDUMP, SIGNATURE


def role(path: str) -> str:
    """What a file looks like: "dump", "kernel", "boot image", "module", "System.map" or "".

    A packed file is unpacked only as far as its first bytes.
    """
    with Path(path).open("rb") as raw:
        head = first_bytes(raw, 1024)
    if head[:8] in (SIGNATURE, DISKDUMP) or head[:16] == FLATTENED:
        return "dump"
    if head[:4] == b"\x7fELF" and len(head) >= 18:
        kind = int.from_bytes(head[16:18], "little" if head[5] == 1 else "big")
        return {1: "module", 2: "kernel", 3: "kernel", 4: "dump"}.get(kind, "")
    if head[0x202:0x206] == b"HdrS" or head[56:60] == b"ARM\x64" or head[4:8] == b"zimg":
        return "boot image"
    if re.match(rb"[0-9a-f]{8}([0-9a-f]{8})? [A-Za-z] [^ \n]+\n", head):
        return "System.map"
    return ""


@dataclass(eq=False)
class Kernel:
    """A kernel image, ready for drgn."""

    path: str  # as the user named it, or where it was found
    file: str  # the ELF file: `path` itself, one in the cache or in memory
    fd: int  # open on `file`
    boot_image: bool = False

    @cached_property
    def elf(self) -> Elf:
        return Elf(PlainFile(self.fd))

    @property
    def machine(self) -> str:
        return self.elf.machine

    @property
    def build_id(self) -> bytes | None:
        return self.elf.build_id

    @cached_property
    def is_kernel(self) -> bool:
        """A kernel rather than some program: it has sections that only kernels have."""
        names = self.elf.sections
        return self.boot_image or any(
            name in names
            for name in ("__ksymtab", "__ksymtab_strings", ".init.text", ".data..percpu")
        )

    @property
    def has_debug_info(self) -> bool:
        sections = self.elf.sections
        return any(
            name in sections and sections[name].type != SHT_NOBITS
            for name in (".debug_info", ".zdebug_info")
        )

    @cached_property
    def debug_link(self) -> tuple[str, int] | None:
        """The name and CRC of the file that holds the debug info."""
        raw = self.elf.content(".gnu_debuglink")
        name = raw.split(b"\0")[0]
        if not name or len(raw) < len(name) + 5:
            return None
        return name.decode(errors="replace"), struct.unpack_from(
            self.elf.order + "I", raw, len(raw) - 4
        )[0]

    @cached_property
    def release(self) -> str:
        """From "Linux version ..." in the image; for messages, as it is slow."""
        for name in (".rodata", ".init.data", ".data"):
            if release := _release_in(self.elf.content(name)):
                return release
        if self.boot_image:
            with mmap.mmap(self.fd, 0, prot=mmap.PROT_READ) as image:
                return _release_in(image)
        return ""

    def describe(self) -> str:
        words = ["boot image" if self.boot_image else "kernel"]
        if self.release:
            words.append(self.release)
        if self.build_id:
            words.append(f"with BUILD-ID {self.build_id.hex()}")
        return " ".join(words)

    def close(self) -> None:
        os.close(self.fd)


def _release_in(data: bytes | mmap.mmap) -> str:
    at = data.find(b"Linux version ")
    while at >= 0:
        word = bytes(data[at + 14 : at + 14 + 128]).split(b" ")[0]
        if word[:1].isdigit() and word.isascii():
            return word.decode()
        at = data.find(b"Linux version ", at + 1)
    return ""


def open_kernel(path: str, options: OpenOptions) -> Kernel:
    """The image in this file, unpacked when it is packed."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    head = os.pread(fd, 1024, 0)
    if packing := packed_with(head):
        kernel = _unpacked(path, fd, packing, options)
    elif head[:4] == b"\x7fELF":
        kernel = Kernel(path, path, fd)
    else:
        kernel = _from_boot_image(path, fd, options)
    try:
        _ = kernel.elf
    except ValueError as error:
        kernel.close()
        raise OpeningError(f"{path}: {error}: copy it again") from error
    return kernel


def _unpacked(path: str, fd: int, packing: Packing, options: OpenOptions) -> Kernel:
    with os.fdopen(fd, "rb") as raw:
        key = cache.source_key(path) if options.cache else ""
        if key and (found := cache.find(key)):
            return Kernel(path, str(found), os.open(found, os.O_RDONLY | os.O_CLOEXEC))
        options.progress(f"unpacking {path}")

        def pieces() -> Iterator[bytes]:
            raw.seek(0)
            return packing.unpack(raw)

        return _store(path, key, pieces)


def _store(
    path: str, key: str, pieces: Callable[[], Iterable[bytes]], *, boot_image: bool = False
) -> Kernel:
    """Write an image to the cache, or to memory when there is no cache to write to."""
    slot = None
    if key:
        with contextlib.suppress(OSError):  # a read-only home is no reason to fail
            slot = cache.Slot()
    target = slot.fd if slot else memory_file(Path(path).name)
    try:
        write_sparse(target, pieces())
        kernel = Kernel(path, f"/proc/self/fd/{target}", target, boot_image)
        build_id = kernel.build_id
    except (OSError, PackingError, ValueError) as error:
        if slot:
            slot.drop()
        os.close(target)
        if slot and isinstance(error, OSError):  # the disk is full
            return _store(path, "", pieces, boot_image=boot_image)
        raise OpeningError(f"{path}: cannot be unpacked: {error}: copy it again") from error
    if slot:
        kernel.file = str(slot.keep(build_id.hex() if build_id else "none", key))
    return kernel


def _from_boot_image(path: str, fd: int, options: OpenOptions) -> Kernel:
    """A boot image's payload: vmlinux without symbols and debug info, but with its BUILD-ID."""
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as image:
        payload = _payload(image)
    os.close(fd)
    if payload is None:
        raise OpeningError(
            f"{path}: boot image whose kernel cannot be unpacked:"
            " give the vmlinux with debug info of the same build"
        )
    key = cache.source_key(path) if options.cache else ""
    if key and (found := cache.find(key)):
        file = os.open(found, os.O_RDONLY | os.O_CLOEXEC)
        return Kernel(path, str(found), file, boot_image=True)

    return _store(path, key, lambda: [payload], boot_image=True)


# What a boot image's payload may be packed with, in the order worth trying.
LZ4_LEGACY, LZMA_ALONE, LZO = b"\x02\x21\x4c\x18", b"\x5d\0\0\0", b"\x89LZO"


def _payload(image: mmap.mmap) -> bytes | None:
    """The vmlinux inside; x86 tells where, elsewhere it is searched."""
    places: list[int] = []
    if image[0x202:0x206] == b"HdrS" and len(image) > 0x250:
        sectors = image[0x1F1] or 4
        offset = int.from_bytes(image[0x248:0x24C], "little")
        places.append((sectors + 1) * 512 + offset)
    elif image[4:8] == b"zimg":  # EFI zboot: offset and size of the payload
        places.append(int.from_bytes(image[8:12], "little"))
    for place in places:
        packed = image[place:]
        data = _unpack_payload(packed)
        if data and data[:4] == b"\x7fELF":
            return data
    return None


def _unpack_payload(packed: bytes) -> bytes | None:
    try:
        if packed.startswith(b"\x1f\x8b\x08"):
            return zlib.decompressobj(31).decompress(packed)
        if packed.startswith(b"BZh"):
            import bz2

            return bz2.BZ2Decompressor().decompress(packed)
        if packed.startswith(b"\xfd7zXZ\0"):
            import lzma

            return lzma.LZMADecompressor().decompress(packed)
        if packed.startswith(LZMA_ALONE):
            import lzma

            return lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(packed)
        if packed.startswith(b"\x28\xb5\x2f\xfd"):
            import zstandard

            return zstandard.ZstdDecompressor().decompressobj().decompress(packed)
        if packed.startswith(LZ4_LEGACY):
            return _unlz4_legacy(packed)
    except Exception:  # noqa: BLE001 (each packer has its own exceptions)
        return None
    return None


def _unlz4_legacy(packed: bytes) -> bytes:
    """LZ4's old frame, which the kernel's build uses: blocks of 8 MiB."""
    out = io.BytesIO()
    at = 4
    while at + 4 <= len(packed):
        size = int.from_bytes(packed[at : at + 4], "little")
        if not 0 < size <= 8 << 20 or at + 4 + size > len(packed):
            break
        out.write(_unlz4_block(packed[at + 4 : at + 4 + size]))
        at += 4 + size
    return out.getvalue()


def _unlz4_block(block: bytes) -> bytearray:
    out = bytearray()
    at = 0
    while at < len(block):
        token = block[at]
        at += 1
        literals = token >> 4
        if literals == 15:
            while True:
                literals += block[at]
                at += 1
                if block[at - 1] != 255:
                    break
        out += block[at : at + literals]
        at += literals
        if at >= len(block):
            break
        back = len(out) - int.from_bytes(block[at : at + 2], "little")
        at += 2
        length = (token & 15) + 4
        if token & 15 == 15:
            while True:
                length += block[at]
                at += 1
                if block[at - 1] != 255:
                    break
        while length > 0:  # a copy may overlap what it writes
            piece = out[back : back + length]
            out += piece
            back += len(piece)
            length -= len(piece)
    return out
