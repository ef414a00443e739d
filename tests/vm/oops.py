"""A module that dies when it is inserted: one of the kernel's own, its first instructions
replaced by a write to address 0."""

from __future__ import annotations

import struct
from pathlib import Path

from vm.kernels import Kernel

from crashpy.kdump.capture.parts import module_name, unpacked

CRASH = bytes.fromhex("31c0 8900")  # xor %eax,%eax; mov %eax,(%rax)
SIGNED = b"~Module signature appended~\n"
ENDBR, CALL = b"\xf3\x0f\x1e\xfa", 0xE8
CANDIDATES = ("dummy", "crc_itu_t", "crc7", "libcrc32c", "loop", "veth")


def oops_module(kernel: Kernel) -> tuple[str, bytes]:
    """Its name and its bytes."""
    for path in sorted(kernel.modules.rglob("*.ko*")):
        name = module_name(path.name)
        if name in CANDIDATES and (patched := _patched(unpacked(path))):
            return name, patched
    raise AssertionError(f"no module of {kernel.release} can be made to crash")


def _patched(data: bytes) -> bytes | None:
    sections = _sections(data)
    symtab = next(section for section in sections if section[1] == 2)
    strings = sections[symtab[6]]
    for at in range(symtab[4], symtab[4] + symtab[5], 24):
        name, _, _, index, value, _ = struct.unpack_from("<IBBHQQ", data, at)
        start = strings[4] + name
        if data[start : data.index(b"\0", start)] == b"init_module":
            break
    else:
        return None
    code = sections[index][4]
    at = value + 4 * data.startswith(ENDBR, code + value)
    at += 5 * (data[code + at] == CALL)  # of __fentry__, which ftrace patches
    if _relocated(data, sections, index, at, at + len(CRASH)):
        return None
    patched = data[: code + at] + CRASH + data[code + at + len(CRASH) :]
    return patched.removesuffix(SIGNED)  # unsigned it is let in, with a wrong signature not


def _sections(data: bytes) -> list[tuple[int, ...]]:
    """sh_name, sh_type, sh_flags, sh_addr, sh_offset, sh_size, sh_link, sh_info, ..."""
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    return [struct.unpack_from("<IIQQQQIIQQ", data, table + n * size) for n in range(count)]


def _relocated(
    data: bytes, sections: list[tuple[int, ...]], index: int, first: int, end: int
) -> bool:
    for section in sections:
        if section[1] == 4 and section[7] == index:
            for at in range(section[4], section[4] + section[5], 24):
                (offset,) = struct.unpack_from("<Q", data, at)
                if first - 4 < offset < end:
                    return True
    return False


def write_oops_module(kernel: Kernel, target: Path) -> str:
    """Where it is; the name that the log will have."""
    name, data = oops_module(kernel)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return name
