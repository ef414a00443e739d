"""What x86-64 code does to the stack: the last resort where no ORC entry helps."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

PREFIXES = frozenset(b"\x66\x67\xf2\xf3\x2e\x36\x3e\x26\x64\x65\xf0")


def _table(*ranges: tuple[int, int]) -> frozenset[int]:
    return frozenset(code for first, last in ranges for code in range(first, last + 1))


# Of the one-byte opcodes, those with a ModRM byte and those with immediates.
MODRM = frozenset(
    {code for code in range(0x40) if code & 7 < 4}
    | {0x63, 0x69, 0x6B, 0xC0, 0xC1, 0xC6, 0xC7, 0xF6, 0xF7, 0xFE, 0xFF}
) | _table((0x80, 0x8F), (0xD0, 0xD3), (0xD8, 0xDF))
IMM8 = frozenset({code for code in range(0x40) if code & 7 == 4}) | _table(
    (0x6A, 0x6B), (0x70, 0x7F), (0x80, 0x80), (0x82, 0x83), (0xA8, 0xA8), (0xB0, 0xB7),
    (0xC0, 0xC1), (0xC6, 0xC6), (0xCD, 0xCD), (0xE0, 0xE7), (0xEB, 0xEB),
)  # fmt: skip
IMM32 = frozenset({code for code in range(0x40) if code & 7 == 5}) | _table(
    (0x68, 0x69), (0x81, 0x81), (0xA9, 0xA9), (0xB8, 0xBF), (0xC7, 0xC7), (0xE8, 0xE9)
)
# Of the opcodes after 0F, those without a ModRM byte and those with an immediate byte.
NO_MODRM_0F = _table(
    (0x05, 0x09), (0x0B, 0x0B), (0x0E, 0x0E), (0x30, 0x37), (0x77, 0x77), (0x80, 0x8F),
    (0xA0, 0xA2), (0xA8, 0xAA), (0xC8, 0xCF),
)  # fmt: skip
IMM8_0F = _table((0x0F, 0x0F), (0x70, 0x73), (0xC4, 0xC6)) | {0xA4, 0xAC, 0xBA, 0xC2}

PUSHES = _table((0x50, 0x57)) | {0x68, 0x6A, 0x9C, 0x0FA0, 0x0FA8}
POPS = _table((0x58, 0x5F)) | {0x8F, 0x9D, 0x0FA1, 0x0FA9}


class Instruction(NamedTuple):
    offset: int
    size: int  # bytes
    opcode: int  # 0F00 | second byte for two-byte opcodes; of VEX and EVEX -1
    rex: int
    modrm: int  # -1: none
    immediate: int
    repeated: bool  # with an F2 or F3 prefix


def instructions(code: bytes) -> Iterator[Instruction]:
    """Decode as far as lengths and what concerns the stack go; stops at the end of the bytes."""
    at = 0
    try:
        while at < len(code):
            found = _decode(code, at)
            yield found
            at += found.size
    except (IndexError, struct.error):
        return


def _decode(code: bytes, start: int) -> Instruction:
    at = start
    short = repeated = False
    while code[at] in PREFIXES:
        short |= code[at] == 0x66
        repeated |= code[at] in (0xF2, 0xF3)
        at += 1
    rex = 0
    if code[at] & 0xF0 == 0x40:
        rex = code[at]
        at += 1
    opcode = code[at]
    at += 1
    has_modrm, immediate = opcode in MODRM, 0
    if opcode in (0xC4, 0xC5, 0x62):
        return _vector(code, start, at, opcode)
    if opcode == 0x0F:
        second = code[at]
        at += 1
        opcode = 0x0F00 | second
        if second in (0x38, 0x3A):
            at += 1
        has_modrm = second not in NO_MODRM_0F
        if second in IMM8_0F or second == 0x3A:
            immediate = 1
        elif 0x80 <= second <= 0x8F:
            immediate = 4
    elif opcode in IMM8:
        immediate = 1
    elif opcode in IMM32:
        immediate = 4
        if 0xB8 <= opcode <= 0xBF and rex & 8:
            immediate = 8
        elif short and opcode not in (0xE8, 0xE9):
            immediate = 2
    elif 0xA0 <= opcode <= 0xA3:
        immediate = 8
    elif opcode in (0xC2, 0xCA):
        immediate = 2
    elif opcode == 0xC8:
        immediate = 3
    modrm = -1
    if has_modrm:
        modrm = code[at]
        at = _after_modrm(code, at)
        if opcode in (0xF6, 0xF7) and modrm >> 3 & 7 < 2:
            immediate = 1 if opcode == 0xF6 else 2 if short else 4
    value = 0
    if immediate in (1, 2, 4, 8):
        (value,) = struct.unpack_from("<" + " bh i   q"[immediate], code, at)
    return Instruction(start, at + immediate - start, opcode, rex, modrm, value, repeated)


def _after_modrm(code: bytes, at: int) -> int:
    modrm = code[at]
    at += 1
    mod, rm = modrm >> 6, modrm & 7
    if mod == 3:
        return at
    if rm == 4:
        if mod == 0 and code[at] & 7 == 5:
            return at + 5
        at += 1
    if mod == 0:
        return at + 4 if rm == 5 else at
    return at + (1 if mod == 1 else 4)


def _vector(code: bytes, start: int, at: int, first: int) -> Instruction:
    """A VEX or EVEX encoded instruction: only its length matters."""
    if first == 0xC5:
        space, at = 1, at + 1
    elif first == 0xC4:
        space, at = code[at] & 31, at + 2
    else:
        space, at = code[at] & 7, at + 3
    opcode = code[at]
    at += 1
    if not (space == 1 and opcode == 0x77):
        at = _after_modrm(code, at)
    if space == 3 or (space == 1 and opcode in IMM8_0F):
        at += 1
    return Instruction(start, at - start, -1, 0, -1, 0, False)


def pushed(code: bytes, stop: int, interrupted: bool) -> int:
    """Bytes that a function's code up to offset `stop` leaves on the stack.

    Counted as crash's x86_64_get_framesize() counts: down the code, without following
    jumps; after a return what had been pushed at most holds again.
    """
    size = most = 0
    for number, (offset, _, opcode, rex, modrm, value, repeated) in enumerate(instructions(code)):
        if offset > stop or (offset == stop and not interrupted) or number >= stop:
            break
        if opcode in PUSHES or (opcode == 0xFF and modrm >> 3 & 7 == 6):
            most = size = size + 8
        elif opcode in POPS:
            if size > 0:
                size -= 8
        elif opcode in (0x81, 0x83) and modrm == 0xC4 and rex & 9 == 8:
            if size > 0:
                size -= value
        elif opcode in (0x81, 0x83) and modrm == 0xEC and rex & 9 == 8:
            most = size = size + value
        elif opcode in (0xC3, 0xC2) and not interrupted and not repeated:
            size = most
    return size


def call_target(code: bytes, ip: int) -> int | None:
    """Where the five bytes before a return address call, if they are a direct call."""
    if len(code) < 5 or code[0] != 0xE8:
        return None
    (distance,) = struct.unpack_from("<i", code, 1)
    return (ip + int(distance)) & 0xFFFFFFFFFFFFFFFF
