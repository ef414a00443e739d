"""x86-64 machine code in the words of binutils, which are those of gdb's ``x/i``.

capstone decodes. Its AT&T text is not binutils': what depends on the encoding (prefixes,
how an address in memory is formed, where a branch goes) is read from the bytes, names
and operands are respelled by the tables below.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from capstone import Cs

WORD = (1 << 64) - 1
LONGEST = 15  # bytes of an instruction
CHUNK = 1 << 12  # bytes decoded at once
KEPT = 1 << 16  # texts of different instructions that are remembered
BAD = "(bad)"

# What the bytes mean

PREFIXES = {
    0x26: "es", 0x2E: "cs", 0x36: "ss", 0x3E: "ds", 0x64: "fs", 0x65: "gs",
    0x66: "data16", 0x67: "addr32", 0xF0: "lock", 0xF2: "repnz", 0xF3: "repz",
}  # fmt: skip
SEGMENTS = {0x64: "%fs:", 0x65: "%gs:"}  # the others mean nothing in 64-bit mode
KINDS = {0x26: 1, 0x2E: 1, 0x36: 1, 0x3E: 1, 0x64: 1, 0x65: 1}  # of these the last counts
LOW = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")
WIDE = tuple(f"%r{name}" for name in LOW) + tuple(f"%r{n}" for n in range(8, 16))
NARROW = tuple(f"%e{name}" for name in LOW) + tuple(f"%r{n}d" for n in range(8, 16))
SHORT = tuple(f"%{name}" for name in LOW) + tuple(f"%r{n}w" for n in range(8, 16))
BYTE = re.compile(r"%([a-d][lh]|(si|di|bp|sp)l|r\d+b)")

# Opcodes of one byte, and those behind 0f, ... that no ModRM byte follows.
PLAIN: tuple[frozenset[int], ...] = (
    frozenset((
        *(n for n in range(0x40) if n & 7 > 3), *range(0x40, 0x62), *range(0x64, 0x69), 0x6A,
        *range(0x6C, 0x80), *range(0x90, 0xC0), 0xC2, 0xC3, *range(0xC8, 0xD0),
        *range(0xD4, 0xD8), *range(0xE0, 0xF6), *range(0xF8, 0xFE),
    )),
    frozenset((
        *range(0x04, 0x0D), 0x0E, *range(0x30, 0x38), 0x77, *range(0x80, 0x90), 0xA0, 0xA1, 0xA2,
        0xA8, 0xA9, 0xAA, *range(0xC8, 0xD0),
    )),
)  # fmt: skip
# ... where REX.W makes the operands 64 bits wide,
WIDENED = (
    frozenset((
        *(n for n in range(0x40) if n & 7 in (1, 3, 5)), 0x63, 0x69, 0x6B, 0x81, 0x83, 0x85, 0x87,
        0x89, 0x8B, 0x8C, 0x8D, 0x8E, *range(0x90, 0x9A), *range(0xA1, 0xB0, 2),
        *range(0xB8, 0xC0), 0xC1, 0xC7, 0xCB, 0xCF, 0xD1, 0xD3, 0xF7, 0xFF,
    )),
    frozenset((
        0x00, 0x01, 0x02, 0x03, 0x07, 0x0D, *range(0x18, 0x20), 0x2A, 0x2C, 0x2D, 0x35,
        *range(0x40, 0x50), 0x6E, 0x7E, 0xA3, 0xA4, 0xA5, *range(0xAB, 0xB0), *range(0xB1, 0xB9),
        *range(0xBA, 0xC0), 0xC1, 0xC3, 0xC4, 0xC5, 0xC7, *range(0xC8, 0xD0), 0xD7,
    )),
)  # fmt: skip
# ... where the prefix 66 makes them 16 bits wide; behind 0f it does, or means another
# instruction, but for these,
SHORTENED = (WIDENED[0] - {0x63}) | {
    *range(0x50, 0x60), 0x68, 0x6A, 0x6D, 0x6F, 0x8F, 0x9C, 0x9D, *range(0xC8, 0xCB),
    0xC2, 0xC3, 0xE5, 0xE7, 0xED, 0xEF,
}  # fmt: skip
# What the prefix 66 makes a name end in w for: they have no register to tell it.
SHORT_NAMES = frozenset((0x68, 0x6A, 0x9C, 0x9D, 0xC2, 0xC3, 0xC9, 0xCA, 0xCB, 0xCF))
NEVER_SHORT = frozenset((0x05, 0x07, 0x0B, *range(0x20, 0x24), 0x30, 0x31, 0x32, 0xA2))
# ... that have a register in their lower bits,
REGISTER_CODES = (
    range(0x50, 0x60), range(0x90, 0x98), range(0xB0, 0xC0), range(0x1C8, 0x1D0),
)  # fmt: skip
# ... and where the middle of ModRM is no register but a part of the opcode.
GROUPS = (
    frozenset((
        *range(0x80, 0x84), 0x8F, 0xC0, 0xC1, 0xC6, 0xC7, *range(0xD0, 0xD4), *range(0xD8, 0xE0),
        0xF6, 0xF7, 0xFE, 0xFF,
    )),
    frozenset((
        0x00, 0x01, 0x0D, *range(0x18, 0x20), 0x71, 0x72, 0x73, *range(0x90, 0xA0), 0xAE, 0xBA,
        0xC7,
    )),
)  # fmt: skip


class Head(NamedTuple):
    """What comes before an instruction's operands."""

    prefixes: bytes  # without REX
    rex: int  # 0: none; of VEX and EVEX what stands for it
    map: int  # 0: opcodes of one byte, 1: those behind 0f, 2: 0f 38, 3: 0f 3a
    opcode: int
    end: int  # how many bytes that is
    modrm: int  # the next byte
    vector: int  # the byte that VEX or EVEX begins with; 0: neither

    @property
    def code(self) -> int:
        """Map and opcode in one number; none that is used here where it is VEX or EVEX."""
        return self.map << 8 | self.opcode if not self.vector else -1

    @property
    def is_plain(self) -> bool:
        return not self.vector and self.map < 2 and self.opcode in PLAIN[self.map]

    @property
    def is_branch(self) -> bool:
        """Whether its operand is a distance: jcc, loop, jrcxz, call, jmp."""
        code = self.code
        return self.is_jcc or 0xE0 <= code < 0xE4 or code in (0xE8, 0xE9, 0xEB)

    @property
    def is_jcc(self) -> bool:
        return 0x70 <= self.code < 0x80 or 0x180 <= self.code < 0x190

    @property
    def segment(self) -> str:
        last = next((p for p in reversed(self.prefixes) if p in KINDS), 0)
        return SEGMENTS.get(last, "")

    @property
    def register(self) -> str:
        """The general register that ModRM names last, as wide as the instruction is."""
        wide = WIDE if self.rex & 8 else SHORT if 0x66 in self.prefixes else NARROW
        return wide[self.modrm & 7 | (self.rex & 1) << 3]


def head(data: bytes) -> Head:
    data += b"\0\0\0\0\0"  # what is cut off
    at = rex = kind = vector = 0
    while data[at] in PREFIXES:
        at += 1
    prefixes = data[:at]
    if data[at] & 0xF0 == 0x40:
        rex = data[at]
        at += 1
    byte = data[at]
    if byte in (0xC4, 0xC5, 0x62):
        first, vector = data[at + 1], byte
        rex = 0x40 | ~first >> 5 & (4 if byte == 0xC5 else 7)
        kind = 1 if byte == 0xC5 else first & (0x1F if byte == 0xC4 else 7)
        at += {0xC5: 2, 0xC4: 3, 0x62: 4}[byte]
    elif byte == 0x0F:
        at += 1
        kind = {0x38: 2, 0x3A: 3}.get(data[at], 1)
        at += kind > 1
    return Head(prefixes, rex, kind, data[at], at + 1, data[at + 1], vector)


# How binutils calls it


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _table(lines: str) -> dict[str, str]:
    """A name and its text in each line."""
    pairs = (line.strip().partition(" ") for line in lines.strip().splitlines())
    return {name: text for name, _, text in pairs}


SIZES = {"b": 0xFF, "w": 0xFFFF, "l": 0xFFFFFFFF, "q": WORD}
# capstone has the size at the end of these names always, binutils where no register tells it;
SIZED = _set("""
    adc add and bt btc btr bts cmp cvtsi2sd cvtsi2ss dec div idiv imul inc mov mul neg nop not or
    ptwrite rcl rcr rol ror sar sbb shl shr sub test vcvtsi2sd vcvtsi2ss vcvtusi2sd vcvtusi2ss xor
""")
# of these binutils has it never.
UNSIZED = _set("""
    adcx adox andn bextr blsi blsmsk blsr bsf bsr bswap bzhi call cmpxchg enter in jmp lar
    lcall lea leave lfs lgdt lgs lidt lldt ljmp lmsw lsl lss ltr lzcnt movbe movnti mulx out
    pdep pext pop popcnt popf push pushf rdfsbase rdgsbase rdrand rdseed ret rorx sarx sgdt shld
    shlx shrd shrx sidt sldt smsw str tzcnt vmread vmwrite wrfsbase wrgsbase xadd xchg
    cmova cmovae cmovb cmovbe cmove cmovg cmovge cmovl cmovle cmovne cmovno cmovnp cmovns cmovo
    cmovp cmovs
""")
SHIFTS = _set("rcl rcr rol ror sar shl shr")
# Sized ones whose immediate operand is a byte all the same.
COUNTED = SHIFTS | _set("bt btc btr bts in out rorx shld shrd")
SELECTORS = _set("lar lldt lsl ltr verr verw")  # shown with a register as wide as the instruction
RENAMED = _table("""
    fcompi fcomip
    fucompi fucomip
    iretl iret
    lretl lret
    movabsb movabs
    movabsl movabs
    movabsq movabs
    movabsw movabs
    wait fwait
    xcryptcbc xcrypt-cbc
    xcryptcfb xcrypt-cfb
    xcryptctr xcrypt-ctr
    xcryptecb xcrypt-ecb
    xcryptofb xcrypt-ofb
    xstore xstore-rng
""")
# What pclmulqdq multiplies has names: the lower and the upper halves.
HALVES = {0x00: "lqlq", 0x01: "hqlq", 0x10: "lqhq", 0x11: "hqhq", 0x02: "lqhq", 0x03: "hqhq"}
# Operands that are implied: binutils shows other ones than capstone.
IMPLIED = _table("""
    0f01c8 monitor %rax,%ecx,%edx
    0f01c9 mwait %eax,%ecx
    0f01d8 vmrun
    0f01da vmload
    0f01db vmsave
    0f01df invlpga
    0f01fa monitorx %rax,%ecx,%edx
    0f01fb mwaitx %eax,%ecx,%ebx
    6690 xchg %ax,%ax
    0f01de skinit
    f30f01d9 vmgexit
    f30f01ee clui
    f30f01ef stui
    f30f01fa mcommit
""")
# Instructions younger than capstone.
YOUNG = _table("""
    0f01c6 wrmsrns
    0f01e8 serialize
    0f01fe invlpgb
    0f01ff tlbsync
    660f01cc tdcall
    660f01cd seamret
    660f01ce seamops
    660f01cf seamcall
    c4e27849c0 tilerelease
    f20f01ca eretu
    f20f01e8 xsusldtrk
    f20f01e9 xresldtrk
    f20f01fe rmpupdate
    f20f01ff pvalidate
    f30f01ca erets
    f30f01ec uiret
    f30f01ed testui
    f30f01fe rmpadjust
    f30f01ff psmash
""")
# Those with a ModRM byte: prefix, code, the middle of ModRM (None: a register).
YOUNG_OPERANDS = {
    (0xF2, 0x100, 6): "lkgs",
    (0xF2, 0x2F8, None): "enqcmd",
    (0xF3, 0x1C7, 6): "senduipi",
    (0xF3, 0x2F8, None): "enqcmds",
}
RESERVED = range(0x11A, 0x120)  # do nothing, unless they have a name
# capstone does not read the operands of the first two, and not 67 63.
MISREAD = {0x1B9: "ud1", 0x1FF: "ud0", 0x63: "movsxd"}
# x87: what capstone leaves out.
TOP = "%st"
TOP_LAST = _set("fadd fcomi fcompi fdiv fdivr fmul fsub fsubr fucomi fucompi")
TOP_FIRST = _set("faddp fdivp fdivrp fmulp fsubp fsubrp")

# Instructions on strings, and xlat: {s} is the source's segment, {i} {d} {b} are the registers
# in parentheses, {a} is the accumulator and {n} the letter of its size.
STRINGS = {
    0x6C: "insb (%dx) %es:{d}", 0x6D: "ins{n} (%dx) %es:{d}",
    0x6E: "outsb {s}{i} (%dx)", 0x6F: "outs{n} {s}{i} (%dx)",
    0xA4: "movsb {s}{i} %es:{d}", 0xA5: "movs{n} {s}{i} %es:{d}",
    0xA6: "cmpsb %es:{d} {s}{i}", 0xA7: "cmps{n} %es:{d} {s}{i}",
    0xAA: "stos %al %es:{d}", 0xAB: "stos {a} %es:{d}",
    0xAC: "lods {s}{i} %al", 0xAD: "lods {s}{i} {a}",
    0xAE: "scas %es:{d} %al", 0xAF: "scas %es:{d} {a}",
    0xD7: "xlat {s}{b}",
}  # fmt: skip
COMPARING = (0xA6, 0xA7, 0xAE, 0xAF)  # those that repz and repnz differ for
ABSOLUTE = range(0xA0, 0xA4)  # mov between the accumulator and an address in the instruction
OPERAND = re.compile(r"(?:[^,(]|\([^)]*\))+(?=, |$)")


class Instruction(NamedTuple):
    """One instruction. A tuple, as there are thousands of them in a listing."""

    address: int
    data: bytes
    text: str  # name and operands; a target is its last word
    target: int | None = None  # where it branches to, or an address that counts from %rip


class Disassembler:
    """Makes instructions of bytes. The texts of those it has met are remembered."""

    def __init__(self) -> None:
        self.skipped = 0  # bytes behind each ud2 that belong to it: old kernels kept a line there
        self._texts: dict[tuple[bytes, str, str], tuple[str, int | None]] = {}

    @cached_property
    def _capstone(self) -> Cs:
        import capstone

        found = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        found.syntax = capstone.CS_OPT_SYNTAX_ATT
        return found

    def instructions(self, data: bytes, address: int) -> Iterator[Instruction]:
        """All instructions in the data; an incomplete one at its end is left out."""
        texts, at = self._texts, 0
        while at < len(data):
            end = at
            # Addresses do not matter to capstone: targets are taken from the bytes.
            found = self._capstone.disasm_lite(data[at : at + CHUNK], at)
            for start, size, name, operands in found:
                code = data[start : start + size]
                if name in MISREAD.values() or _has_idle_rex(code):
                    break
                end = start + size
                key = code, name, "" if operands[:2] == "0x" else operands
                if (known := texts.get(key)) is None:
                    if len(texts) >= KEPT:
                        texts.clear()
                    known = texts[key] = spelled(code, name, operands)
                if name == "ud2" and self.skipped > 0:
                    end += self.skipped
                    if end <= len(data):
                        yield _placed(address + start, data[start:end], *known)
                    break
                yield _placed(address + start, code, *known)
            if end == at:
                rest = data[at : at + LONGEST]
                size, text, distance = self._locked(rest) or unknown(rest)
                if size > len(data) - at:
                    return
                end = at + size
                yield _placed(address + at, data[at:end], text, distance)
            at = end

    def _locked(self, data: bytes) -> tuple[int, str, int | None] | None:
        """What cannot be locked, which is why capstone refuses it."""
        prefixes = head(data).prefixes
        if 0xF0 not in prefixes:
            return None
        rest = prefixes.replace(b"\xf0", b"") + data[len(prefixes) :]
        for _, size, name, operands in self._capstone.disasm_lite(rest, 0, 1):
            size += len(data) - len(rest)
            return size, *spelled(data[:size], name, operands)
        return None


def _placed(address: int, code: bytes, text: str, distance: int | None) -> Instruction:
    if distance is None:
        return Instruction(address, code, text)
    target = address + len(code) + distance & WORD
    return Instruction(address, code, f"{text}{target:#x}", target)


def spelled(code: bytes, name: str, operands: str) -> tuple[str, int | None]:
    """capstone's words as binutils': the text, and how far behind the target is that ends it."""
    parts = head(code)
    name = name.rpartition(" ")[2]  # without prefixes
    if parts.is_branch:
        return _branch(code, parts, name)
    if name == "xbegin":
        return "xbegin ", int.from_bytes(code[-4:], "little", signed=True)
    memory, distance = None, None
    if not parts.is_plain:
        memory, distance, _ = _memory(code, parts, operands)
    if parts.code in STRINGS:
        name, shown = _string(parts)
    elif parts.code in ABSOLUTE:
        memory = f"{parts.segment}{int.from_bytes(code[parts.end :], 'little'):#x}"
        first, _, second = operands.partition(", ")
        name, shown = "movabs", [first, memory] if parts.opcode & 2 else [memory, second]
    else:
        name, shown = _operands(code, parts, name, operands, memory)
    text = _prefixed(parts, name, shown, reads_memory=memory is not None)
    if shown:
        text = f"{text:6} {','.join(shown)}"
    return (text if distance is None else f"{text}        # "), distance


def unknown(data: bytes) -> tuple[int, str, int | None]:
    """What capstone has no name for: how many bytes, text and distance of the target."""
    digits = data.hex()
    for code, name in YOUNG.items():
        if digits.startswith(code):
            return len(code) // 2, name, None
    parts = head(data)
    prefix = parts.prefixes[-1] if parts.prefixes else 0
    for middle in (None, parts.modrm >> 3 & 7):
        young = YOUNG_OPERANDS.get((prefix, parts.code, middle)) or MISREAD.get(parts.code)
        if middle is not None and parts.code in RESERVED and parts.modrm >> 6 == 3:
            young = "nop"
        if young is not None:
            return _young(data, parts, young, register=middle is None)
    size = len(parts.prefixes)
    words = [PREFIXES[prefix] for prefix in parts.prefixes]
    if parts.rex and not parts.vector:
        size += 1
        words.append(_rex(parts.rex))
        if _has_idle_rex(data):
            return size, " ".join(words), None
    if parts.vector:
        return size + 1 if parts.vector == 0xC4 else parts.end, BAD, None
    end = parts.end + (0xD8 <= parts.code < 0xE0)  # of x87 the second byte tells which
    return end, " ".join((*words, BAD)), None


def _young(data: bytes, parts: Head, name: str, *, register: bool) -> tuple[int, str, int | None]:
    memory, distance, end = _memory(data, parts, "")
    wide = WIDE if parts.rex & 8 or parts.map == 2 else NARROW
    shown = [memory or (WIDE[parts.modrm & 7] if name == "senduipi" else parts.register)]
    if register:
        shown.append(wide[parts.modrm >> 3 & 7 | (parts.rex & 4) << 1])
    text = f"{_prefixed(parts, name, shown, reads_memory=memory is not None):6} {','.join(shown)}"
    return end, text if distance is None else f"{text}        # ", distance


# Operands


def _branch(code: bytes, parts: Head, name: str) -> tuple[str, int]:
    near = parts.map or parts.opcode in (0xE8, 0xE9)
    distance = int.from_bytes(code[-4:] if near else code[-1:], "little", signed=True)
    if parts.is_jcc:
        hint = next((p for p in reversed(parts.prefixes) if p in KINDS), 0)
        name += {0x2E: ",pn", 0x3E: ",pt"}.get(hint, "")
    elif parts.opcode >= 0xE8:
        name = "call" if parts.opcode == 0xE8 else "jmp"
    return f"{_prefixed(parts, name, (), reads_memory=False):6} ", distance


def _string(parts: Head) -> tuple[str, list[str]]:
    letter, accumulator = "l", "%eax"
    if parts.rex & 8:
        letter, accumulator = "l" if parts.opcode in (0x6D, 0x6F) else "q", "%rax"
    elif 0x66 in parts.prefixes:
        letter, accumulator = "w", "%ax"
    names = NARROW if 0x67 in parts.prefixes else WIDE
    b, i, d = (f"({names[n]})" for n in (3, 6, 7))
    name, *operands = (
        STRINGS[parts.opcode]
        .format(s=parts.segment or "%ds:", n=letter, a=accumulator, b=b, i=i, d=d)
        .split()
    )
    return name, operands


def _memory(code: bytes, parts: Head, operands: str) -> tuple[str | None, int | None, int]:
    """The operand in memory, its distance where it counts from %rip, and where its bytes end."""
    data = code + b"\0\0\0\0\0"
    mode, base = parts.modrm >> 6, parts.modrm & 7
    at, rex = parts.end + 1, parts.rex
    if mode == 3 or 0x120 <= parts.code < 0x124:  # mov from and to %cr0, ...
        return None, None, at
    names = NARROW if 0x67 in parts.prefixes else WIDE
    index, scale, sib = 4, 0, base == 4
    if sib:
        byte = data[at]
        scale, index, base = byte >> 6, byte >> 3 & 7 | (rex & 2) << 2, byte & 7
        at += 1
    absolute = mode == 0 and base == 5  # no base, but 32 bits of address
    size = 4 if absolute or mode == 2 else mode
    shift = int.from_bytes(data[at : at + size], "little", signed=True)
    at += size
    if mode == 1 and parts.vector == 0x62:  # EVEX counts in units of what is read
        found = re.search(r"(-?)(0x[0-9a-f]+|\d+)\(", operands)
        shift = int(found[1] + found[2], 0) if found else 0
    segment = parts.segment
    if absolute and not sib:
        return f"{segment}{_hex(shift)}({'%eip' if names is NARROW else '%rip'})", shift, at
    vector = re.search(r"\([^()]*(%[xyz]mm\d+)", operands) if parts.vector and sib else None
    indexed = vector is not None or index != 4
    if absolute and not indexed and not scale:
        return f"{segment}{shift & WORD:#x}", None, at
    inner = "" if absolute else names[base | (rex & 1) << 3]
    if sib and (scale or indexed or base != 4):
        nothing = "%eiz" if names is NARROW else "%riz"
        second = vector[1] if vector else names[index] if indexed else nothing
        inner += f",{second},{1 << scale}"
    return f"{segment}{_hex(shift) if size else ''}({inner})", None, at


def _hex(value: int) -> str:
    return f"-{-value:#x}" if value < 0 else f"{value:#x}"


def _operands(
    code: bytes, parts: Head, name: str, operands: str, memory: str | None
) -> tuple[str, list[str]]:
    """The name and the operands."""
    if (whole := IMPLIED.get(code.hex())) is not None:
        name, _, implied = whole.partition(" ")
        return name, [implied] if implied else []
    plain, name = name, RENAMED.get(name, name)
    if name[:3] == "sal":  # its second code
        name = f"shl{name[3:]}"
    elif parts.code == 0x63 and not parts.rex & 8:
        name = "movsxd"
    stem = name[:-1] if name[-1] in SIZES else ""
    sized, unsized = stem in SIZED, stem in UNSIZED
    mask = 0xFF
    if name == "movabs":
        mask = WORD
    elif "ret" in (name, stem) or name == "lret":
        mask = 0xFFFF
    elif stem not in COUNTED and (sized or unsized):
        mask = SIZES[name[-1]]
    given = _split(operands)
    shown = []
    general = vector = False  # whether there are registers of the kind
    for position, operand in enumerate(given):
        word = operand
        if word[0] == "$":
            wide = 0xFFFF if name == "enter" and not position else mask
            word = f"${int(word[1:], 0) & wide:#x}"
        elif word[0] == "%" and word[3:4] != ":":
            if word == "%dx" and stem in ("in", "out"):
                word = "(%dx)"
            elif word[1:3] == "dr":
                word = f"%db{word[3:]}"
            elif stem in SELECTORS and not position and memory is None:
                word = parts.register
            elif stem not in SHIFTS or word != "%cl" or position or len(given) == 1:
                general = True
                vector |= "mm" in word
        elif memory is not None:
            rest = word.find("{")
            word = f"{'*' * (word[0] == '*')}{memory}{word[rest:] if rest >= 0 else ''}"
        shown.append(word.replace(" {", "{"))
    if 0xD8 <= parts.code < 0xE0 and memory is None and shown:
        if len(shown) > 1:
            shown = [TOP if word == "%st(0)" else word for word in shown]
        elif plain in TOP_FIRST:
            shown.insert(0, TOP)
        elif plain in TOP_LAST:
            shown.append(TOP)
    if parts.code in (0xD0, 0xD1) and stem in SHIFTS:
        shown = ["$1", shown[-1]]
    if sized and general:
        # movq keeps it with a vector register, cvtsi2sd with an integer in memory.
        unsized = not vector or (stem != "mov" and memory is None)
    elif stem == "crc32":
        unsized = memory is None
    if unsized:
        name = stem
    if parts.code in SHORT_NAMES and 0x66 in parts.prefixes and not parts.rex & 8:
        name = f"{name.removesuffix('w')}w"
    if name.endswith("pclmulqdq") and (half := HALVES.get(int(shown[0][1:], 0))):
        name, shown = f"{name[:-3]}{half}dq", shown[1:]
    return name, shown


def _split(operands: str) -> list[str]:
    """At the commas that are not within parentheses."""
    if "(" not in operands:
        return operands.split(", ") if operands else []
    return [part.lstrip() for part in OPERAND.findall(operands)]


# Prefixes


def _prefixed(parts: Head, name: str, shown: Sequence[str], *, reads_memory: bool) -> str:
    """The name behind the prefixes that have no other effect on the text."""
    rex = parts.rex and not parts.vector and _is_idle(parts, shown)
    if not parts.prefixes and not rex:
        return name
    words = []
    for at, prefix in enumerate(parts.prefixes):
        kind = KINDS.get(prefix, prefix)
        if any(KINDS.get(later, later) == kind for later in parts.prefixes[at + 1 :]):
            words.append(PREFIXES[prefix])
        else:
            words.append(_prefix(parts, prefix, name, reads_memory))
    if rex:
        words.append(_rex(parts.rex))
    return " ".join(filter(None, (*words, name)))


def _prefix(parts: Head, prefix: int, name: str, reads_memory: bool) -> str:
    """How a prefix is shown; "" where it is part of the rest."""
    code = parts.code
    if prefix in (0xF2, 0xF3):
        return _repeat(parts, prefix, name, reads_memory)
    if prefix == 0x67:
        return "" if reads_memory or code in STRINGS else PREFIXES[prefix]
    if prefix in KINDS and "{s}" in STRINGS.get(code, ""):
        return ""
    if prefix in SEGMENTS:
        return "" if reads_memory else PREFIXES[prefix]
    if prefix == 0x66 and parts.map:
        idle = parts.map == 1 and (parts.is_branch or parts.opcode in NEVER_SHORT)
        return "data16" if idle else ""
    if prefix == 0x66:
        return "" if parts.opcode in SHORTENED and not parts.rex & 8 else "data16"
    if prefix in (0x2E, 0x3E) and parts.is_jcc:
        return ""  # a hint, at the name
    if prefix == 0x3E and code == 0xFF and name in ("call", "jmp"):
        return "notrack"
    return PREFIXES[prefix]


def _repeat(parts: Head, prefix: int, name: str, reads_memory: bool) -> str:
    code = parts.code
    if code in STRINGS:
        return "rep" if prefix == 0xF3 and code not in COMPARING else PREFIXES[prefix]
    if 0xF0 in parts.prefixes:
        return "xacquire" if prefix == 0xF2 else "xrelease"
    if (prefix == 0xF2 and name in ("call", "jmp", "ret")) or parts.is_jcc:
        return "bnd" if prefix == 0xF2 else "repz"
    if code == 0x90 and prefix == 0xF3:
        return ""  # pause
    if prefix == 0xF3 and reads_memory and code in (0x88, 0x89, 0xC6, 0xC7):
        return "xrelease"  # of a lock that was elided
    if parts.map and code not in (0x1A6, 0x1A7):
        return ""  # it makes another instruction of the opcode
    return PREFIXES[prefix]


def _rex(rex: int) -> str:
    bits = "".join(letter for letter, bit in zip("WRXB", (8, 4, 2, 1), strict=True) if rex & bit)
    return f"rex.{bits}" if bits else "rex"


def _has_idle_rex(code: bytes) -> bool:
    """Whether another prefix follows REX, which then has no effect (capstone skips it)."""
    at = 0
    while at < len(code) and code[at] in PREFIXES:
        at += 1
    rest = code[at : at + 2]
    return len(rest) == 2 and rest[0] & 0xF0 == 0x40 and (
        rest[1] in PREFIXES or rest[1] & 0xF0 == 0x40
    )  # fmt: skip


def _is_idle(parts: Head, shown: Sequence[str]) -> bool:
    """Whether REX has bits that nothing in the instruction makes use of."""
    opcode, kind = parts.opcode, parts.map
    if parts.rex == 0x40:
        return not any(BYTE.fullmatch(operand) for operand in shown)
    used = 8 if kind > 1 or opcode in WIDENED[kind] else 0
    if parts.code == 0xFF and parts.modrm >> 3 & 7 in (2, 4, 6):
        used = 0  # call, jmp, push
    if parts.code == 0x90 and not parts.rex & 1:
        used = 0  # nop
    if not parts.is_plain:
        used |= 1 if kind < 2 and opcode in GROUPS[kind] else 5
        used |= 2 if parts.modrm >> 6 < 3 and parts.modrm & 7 == 4 else 0
    elif any(parts.code in those for those in REGISTER_CODES):
        used |= 1
    return bool(parts.rex & 0xF & ~used)
