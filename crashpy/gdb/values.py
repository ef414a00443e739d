"""gdb's layout of values: what print and output show of the bytes of a type.

A type is compiled once into a Layout: one struct.Struct per run of members that do not
overlap, and one text with a `%` for each of them. Showing a value is then an unpack, a
few conversions and one formatting, some tenths of a microsecond a member.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from drgn import FaultError, Object, PlatformFlags, Type, TypeKind, sizeof

from crashpy.command import Address
from crashpy.gdb.memory import KERNEL, Memory, UnreadableError
from crashpy.gdb.target import Target, resolved
from crashpy.gdb.types import COMPOUND, name_of

if TYPE_CHECKING:
    from crashpy.gdb.expressions import Value
    from crashpy.settings import Settings

# What converts one unpacked value, and what needs the bytes themselves: those of the
# whole value, where in them it begins, and the address of their first byte.
Convert = Callable[[Any], object]
Render = Callable[[bytes, int, int], str]


@dataclass(frozen=True)
class Style:
    """The variables that change how values look."""

    radix: int = 10
    most: int = 256  # print_max: elements of an array, characters of a string
    arrays: bool = False  # print_array: one element a line
    null_stop: bool = False  # a string ends at its first NUL
    format: str = ""  # the letter of `p/x`
    kind: str = KERNEL  # whose memory pointers to characters are followed in

    @classmethod
    def of(
        cls, settings: Settings, radix: int | None = None, format: str = "", kind: str = KERNEL
    ) -> Style:
        return cls(
            kind=kind,
            radix=radix or settings.radix,
            most=settings.print_max or 1 << 31,
            arrays=getattr(settings, "print_array", False),
            null_stop=getattr(settings, "null_stop", False),
            format=format,
        )


ESCAPES = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r"}


def _escaped(byte: int, quote: str) -> str:
    if byte in ESCAPES:
        return ESCAPES[byte]
    if 32 <= byte < 127:
        char = chr(byte)
        return "\\" + char if char in (quote, "\\") else char
    return f"\\{byte:03o}"


IN_STRING = [_escaped(byte, '"') for byte in range(256)]
UNSIGNED_CHARS = [f"{byte} '{_escaped(byte, chr(39))}'" for byte in range(256)]
SIGNED_CHARS = [f"{byte - 256 * (byte > 127)} '{_escaped(byte, chr(39))}'" for byte in range(256)]


def quoted(data: bytes, most: int, *, ellipsis: bool = False) -> str:
    """Bytes as gdb shows a string (generic_printstr()): the last NUL is not shown."""
    if not ellipsis and data.endswith(b"\0"):
        data = data[:-1]
    if len(data) > most:
        data, ellipsis = data[:most], True
    if not data:
        return '""'
    rest = "..." if ellipsis else ""
    text = data.decode("latin-1")
    if not (text.isascii() and text.isprintable()) or '"' in text or "\\" in text:
        whole, broken = _whole_characters(data)
        text = _escaped_text(whole)
        if broken:
            shown = f"<incomplete sequence {''.join([IN_STRING[byte] for byte in broken])}>"
            return (f'"{text}", ' if whole else "") + shown + rest
    return f'"{text}"{rest}'


def _whole_characters(data: bytes) -> tuple[bytes, bytes]:
    """Split off the beginning of a UTF-8 character that the end of the string cuts."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte >= 0xC0:
            length = 2 if 0xC2 <= byte < 0xE0 else 3 if byte < 0xF0 else 4 if byte < 0xF5 else 0
            if byte >= 0xC2 and length > back:
                return data[:-back], data[-back:]
            break
        if byte < 0x80:
            break
    return data, b""


def _escaped_text(data: bytes) -> str:
    if data.isascii():
        return "".join([IN_STRING[byte] for byte in data])
    words = []
    for char in data.decode("utf-8", errors="surrogateescape"):
        code = ord(char)
        if 0xDC80 <= code <= 0xDCFF:
            words.append(IN_STRING[code - 0xDC00])
        elif code < 128:
            words.append(IN_STRING[code])
        elif char.isprintable():
            words.append(char)
        else:
            words.append("".join([IN_STRING[byte] for byte in char.encode()]))
    return "".join(words)


def is_char(type_: Type) -> bool:
    """Whether gdb takes an integer of this type for a character."""
    type_ = resolved(type_)
    return type_.kind == TypeKind.INT and type_.size == 1


def length_of(type_: Type) -> int | None:
    """The size of a type in bytes; None of one without (incomplete, void, a function)."""
    try:
        return sizeof(type_)
    except TypeError:
        return None


def type_key(type_: Type) -> object:
    """Equal for types that look the same: the tag with the size, or the type in full."""
    if type_.kind in COMPOUND and type_.tag and type_.is_complete():
        members = type_.members
        last = members[-1].name if members else ""
        return type_.kind, type_.tag, type_.size, len(members), last
    return None


class Layout:
    """How the value of one type looks at one indentation and style."""

    def __init__(self, text: str) -> None:
        self.text = text
        # struct.Struct, and for each of its values its place among the text's
        self.layers: list[tuple[struct.Struct, int, list[int]]] = []
        self.conversions: list[tuple[int, Convert]] = []
        self.renders: list[tuple[int, Render, int]] = []
        self.count = 0

    def render(self, data: bytes, offset: int, base: int) -> str:
        values: list[Any] = [None] * self.count
        for unpacker, start, places in self.layers:
            for place, value in zip(
                places, unpacker.unpack_from(data, offset + start), strict=True
            ):
                values[place] = value
        for place, convert in self.conversions:
            values[place] = convert(values[place])
        for place, render, at in self.renders:
            values[place] = render(data, offset + at, base)
        return self.text % tuple(values)


INTEGERS = {(1, False): "B", (1, True): "b", (2, False): "H", (2, True): "h",
            (4, False): "I", (4, True): "i", (8, False): "Q", (8, True): "q"}  # fmt: skip


class _Compiler:
    """Collects the members of one value, nested structures included, into a Layout."""

    def __init__(self, target: Target, style: Style) -> None:
        self.target = target
        self.style = style
        platform = target.prog.platform
        self.little = platform is None or bool(platform.flags & PlatformFlags.IS_LITTLE_ENDIAN)
        self.text: list[str] = []
        self.scalars: list[tuple[int, int, str, int]] = []  # offset, size, code, place
        self.conversions: list[tuple[int, Convert]] = []
        self.renders: list[tuple[int, Render, int]] = []
        self.count = 0

    def finish(self) -> Layout:
        layout = Layout("".join(self.text))
        layout.count = self.count
        layout.conversions = self.conversions
        layout.renders = self.renders
        order = "<" if self.little else ">"
        waiting = sorted(self.scalars)
        while waiting:
            start = end = waiting[0][0]
            codes, places, later = [order], [], []
            for scalar in waiting:
                offset, size, code, place = scalar
                if offset < end:
                    later.append(scalar)
                    continue
                if offset > end:
                    codes.append(f"{offset - end}x")
                codes.append(code)
                places.append(place)
                end = offset + size
            layout.layers.append((struct.Struct("".join(codes)), start, places))
            waiting = later
        return layout

    def scalar(self, offset: int, size: int, code: str, spec: str, convert: Convert | None) -> None:
        self.text.append(spec)
        self.scalars.append((offset, size, code, self.count))
        if convert is not None:
            self.conversions.append((self.count, convert))
        self.count += 1

    def rendered(self, render: Render, offset: int) -> None:
        self.text.append("%s")
        self.renders.append((self.count, render, offset))
        self.count += 1

    def add(self, type_: Type, offset: int, indent: int) -> None:
        type_ = resolved(type_)
        kind = type_.kind
        if kind in COMPOUND:
            self.compound(type_, offset, indent)
        elif kind == TypeKind.ARRAY:
            self.rendered(self.array(type_, indent), offset)
        elif kind == TypeKind.FUNCTION:
            self.rendered(self.function(type_), offset)
        elif kind == TypeKind.VOID:
            self.text.append("void")
        elif kind == TypeKind.POINTER:
            size = type_.size
            self.scalar(offset, size, INTEGERS[size, False], "%s", self.pointer(type_))
        else:
            self.number(type_, offset)

    def number(self, type_: Type, offset: int) -> None:
        size = length_of(type_)
        if size is None:
            self.text.append("<incomplete type>")
            return
        convert, signed = numeral(self.target, type_, self.style)
        if type_.kind == TypeKind.FLOAT or (size, signed) not in INTEGERS:
            self.scalar(offset, size, f"{size}s", "%s", _from_bytes(type_, self.little, convert))
        elif convert is _decimal:
            self.scalar(offset, size, INTEGERS[size, signed], "%d", None)
        elif convert is _hexadecimal:
            self.scalar(offset, size, INTEGERS[size, False], "%#x", None)
        else:
            self.scalar(offset, size, INTEGERS[size, signed], "%s", convert)

    def bit_field(self, type_: Type, bit_offset: int, bits: int) -> None:
        plain = resolved(type_)
        first, last = bit_offset // 8, (bit_offset + bits - 1) // 8
        size = last - first + 1
        if self.little:
            shift = bit_offset - 8 * first
        else:
            shift = 8 * size - (bit_offset - 8 * first) - bits
        mask = (1 << bits) - 1
        convert, signed = numeral(self.target, plain, self.style, bits)
        order = "little" if self.little else "big"
        top = 1 << (bits - 1)

        def value(data: bytes) -> object:
            number = int.from_bytes(data, order) >> shift & mask  # type: ignore[arg-type]
            if signed and number & top:
                number -= mask + 1
            return convert(number)

        self.scalar(first, size, f"{size}s", "%s", value)

    def compound(self, type_: Type, offset: int, indent: int) -> None:
        if not type_.is_complete():
            self.text.append("<incomplete type>")
            return
        members = type_.members
        if not members:
            self.text.append("{<No data fields>}")
            return
        inner = indent + 2
        separator = "{\n" + " " * inner
        for member in members:
            self.text.append(separator)
            separator = ",\n" + " " * inner
            if member.name:
                self.text.append(member.name.replace("%", "%%") + " = ")
            if member.bit_field_size is not None:
                self.bit_field(member.type, 8 * offset + member.bit_offset, member.bit_field_size)
            else:
                self.add(member.type, offset + member.bit_offset // 8, inner)
        self.text.append("\n" + " " * indent + "}")

    def pointer(self, type_: Type) -> Convert:
        target, style = self.target, self.style
        symbolic = target.symbolic
        if style.format and style.format != "a":
            convert, _ = numeral(target, type_, style)
            return convert
        if is_char(type_.type):

            def string(value: int) -> str:
                return (
                    f"{value:#x}{symbolic(value)} {char_pointer(target, value, style)}"
                    if value
                    else "0x0"
                )

            return string
        return lambda value: f"{value:#x}{symbolic(value)}"

    def function(self, type_: Type) -> Render:
        name = name_of(type_)
        symbolic = self.target.symbolic

        def render(_: bytes, offset: int, base: int) -> str:
            address = base + offset
            return f"{{{name}}} {address:#x}{symbolic(address)}"

        return render

    def array(self, type_: Type, indent: int) -> Render:
        target, style = self.target, self.style
        element = resolved(type_.type)
        size = length_of(element)
        length = type_.length or 0
        if not length or not size:
            # gdb takes an array without a length for a pointer to its first element.
            if style.format:
                symbolic = target.symbolic
                return lambda _, offset, base: f"{base + offset:#x}{symbolic(base + offset)}"
            show = self.pointer(target.prog.pointer_type(type_.type))
            return lambda _, offset, base: str(show(base + offset))
        if is_char(element) and not (style.format and style.format != "s"):
            if style.null_stop:
                return lambda data, offset, _: _stopped(data[offset : offset + length], style.most)
            return lambda data, offset, _: quoted(data[offset : offset + length], style.most)
        shown = min(length, style.most)
        rest = "..." if shown < length else ""
        if style.arrays:
            opening = "{\n" + " " * (indent + 2)
            between = ",\n" + " " * (indent + 2)
            closing = rest + "\n" + " " * indent + "}"
        else:
            opening, between, closing = "{", ", ", rest + "}"
        if element.kind in COMPOUND or element.kind in (TypeKind.ARRAY, TypeKind.FUNCTION):
            layout = compiled(target, element, style, indent + 2)
            render = layout.render

            def elements(data: bytes, offset: int, base: int) -> str:
                words = [
                    render(data, at, base) for at in range(offset, offset + shown * size, size)
                ]
                return opening + between.join(words) + closing

            return elements
        if element.kind == TypeKind.POINTER:
            convert: Convert = self.pointer(element)
            signed = False
        else:
            convert, signed = numeral(target, element, style)
        if element.kind == TypeKind.FLOAT or (size, signed) not in INTEGERS:
            one = _from_bytes(element, self.little, convert)

            def others(data: bytes, offset: int, _: int) -> str:
                places = range(offset, offset + shown * size, size)
                return (
                    opening + between.join([str(one(data[i : i + size])) for i in places]) + closing
                )

            return others
        code = INTEGERS[size, signed and convert is not _hexadecimal]
        unpacker = struct.Struct(f"{'<' if self.little else '>'}{shown}{code}")

        def scalars(data: bytes, offset: int, _: int) -> str:
            values = unpacker.unpack_from(data, offset)
            return opening + between.join([str(convert(v)) for v in values]) + closing

        return scalars


def _decimal(value: int) -> object:
    return value


def _hexadecimal(value: int) -> object:
    return f"{value:#x}"


def _stopped(data: bytes, most: int) -> str:
    """A string up to its first NUL (`set null-stop`)."""
    end = data.find(b"\0")
    if end < 0:
        return quoted(data, most)
    return quoted(data[: end + 1], most)


def _from_bytes(type_: Type, little: bool, convert: Convert) -> Convert:
    order = "little" if little else "big"
    if type_.kind == TypeKind.FLOAT and convert is _decimal:
        code = {2: "e", 4: "f", 8: "d"}.get(type_.size)
        if code is None:
            return lambda data: f"0x{int.from_bytes(data, order):x}"  # type: ignore[arg-type]
        unpack = struct.Struct(("<" if little else ">") + code).unpack
        digits = 17 if type_.size == 8 else 9
        return lambda data: floating(unpack(data)[0], digits)
    signed = bool(getattr(type_, "is_signed", False)) if type_.kind == TypeKind.INT else False
    return lambda data: convert(int.from_bytes(data, order, signed=signed))  # type: ignore[arg-type]


def floating(value: float, digits: int = 17) -> str:
    if value != value:
        return "nan(0x8000000000000)"
    if value in (float("inf"), float("-inf")):
        return "inf" if value > 0 else "-inf"
    return f"{value:.{digits}g}"


def numeral(
    target: Target, type_: Type, style: Style, bits: int | None = None
) -> tuple[Convert, bool]:
    """How a number of a type looks, and whether to read it with its sign."""
    kind = type_.kind
    if kind == TypeKind.ENUM:
        under = type_.type
        signed = bool(under is not None and under.is_signed)
    else:
        signed = kind == TypeKind.INT and type_.is_signed
    width = bits if bits is not None else 8 * sizeof(type_)
    if style.format == "a" and kind != TypeKind.POINTER:
        symbolic = target.symbolic
        mask = (1 << width) - 1
        return (lambda value: f"{value & mask:#x}{symbolic(value & mask)}"), False
    if style.format:
        return formatted(style.format, width, type_), signed and style.format in "dcs"
    if kind == TypeKind.ENUM:
        return enumerator(type_), signed
    if style.radix == 16 and kind != TypeKind.FLOAT:
        mask = (1 << width) - 1
        return (_hexadecimal if not signed else lambda value: f"{value & mask:#x}"), signed and (
            bits is not None or width not in (8, 16, 32, 64)
        )
    if kind == TypeKind.BOOL:
        return (lambda value: "false" if value == 0 else "true" if value == 1 else value), False
    if kind == TypeKind.INT and type_.size == 1:
        if bits is None:
            chars = SIGNED_CHARS if signed else UNSIGNED_CHARS
            return (lambda value: chars[value & 255]), signed
        return (lambda value: f"{value} '{_escaped(value & 255, chr(39))}'"), signed
    return _decimal, signed


def formatted(letter: str, width: int, type_: Type) -> Convert:
    """What `p/LETTER` makes of a number of so many bits."""
    mask = (1 << width) - 1
    if letter == "f" and type_.kind == TypeKind.INT and width in (32, 64):
        code = "f" if width == 32 else "d"
        unpack = struct.Struct("<" + code).unpack
        digits = 9 if width == 32 else 17
        return lambda value: floating(
            unpack((value & mask).to_bytes(width // 8, "little"))[0], digits
        )
    if letter == "x":
        return lambda value: f"{value & mask:#x}"
    if letter == "o":
        return lambda value: f"0{value & mask:o}" if value & mask else "0"
    if letter == "t":
        return lambda value: f"{value & mask:b}"
    if letter == "z":
        return lambda value: f"0x{value & mask:0{(width + 3) // 4}x}"
    if letter == "u":
        return lambda value: value & mask
    if letter == "d":
        top = 1 << (width - 1)
        return lambda value: (value & mask) - ((mask + 1) if value & top else 0)
    if letter == "c":

        def char(value: int) -> str:
            signed = (value & 255) - 256 * bool(value & 128)
            shown = signed if not _unsigned(type_) else value & 255
            return f"{shown} '{_escaped(value & 255, chr(39))}'"

        return char
    return _decimal


def _unsigned(type_: Type) -> bool:
    return type_.kind == TypeKind.INT and not type_.is_signed


def enumerator(type_: Type) -> Convert:
    """The name of an enumerator; flags ORed together as ``(A | B)``."""
    names: dict[int, str] = {}
    flags: list[tuple[int, str]] = []
    is_flags = True
    for item in type_.enumerators or ():
        names.setdefault(item.value, item.name)
        flags.append((item.value, item.name))
        if item.value < 0 or item.value.bit_count() > 1:
            is_flags = False

    def convert(value: int) -> object:
        name = names.get(value)
        if name is not None:
            return name
        if not is_flags:
            return value
        words = []
        left = value
        for bit, name in flags:
            if left & bit:
                words.append(name)
                left &= ~bit
        if left:
            words.append(f"unknown: {left & 0xFFFFFFFFFFFFFFFF:#x}")
        return f"({' | '.join(words)})" if words else "0"

    return convert


def char_pointer(target: Target, address: int, style: Style) -> str:
    """What stands behind a pointer to characters (val_print_string())."""
    data, whole = target.string(address, min(style.most, 1 << 16), style.kind)
    if not whole:
        error = f"<error: Cannot access memory at address {address + len(data):#x}>"
        return quoted(data, style.most, ellipsis=True) + error if data else error
    return quoted(data, style.most, ellipsis=not data.endswith(b"\0"))


def compiled(target: Target, type_: Type, style: Style, indent: int = 0) -> Layout:
    """The layout of a type, from the target's store where it was made before."""
    type_ = resolved(type_)
    key = type_key(type_)
    store = (key, style, indent)
    if key is not None and (found := target.layouts.get(store)) is not None:
        return found
    compiler = _Compiler(target, style)
    compiler.add(type_, 0, indent)
    layout = compiler.finish()
    if key is not None:
        target.layouts[store] = layout
    return layout


def show(target: Target, type_: Type, data: bytes, base: int, style: Style, indent: int = 0) -> str:
    """The value that bytes from the address `base` on have as a type (gdb's output)."""
    return compiled(target, type_, style, indent).render(data, 0, base)


def compiled_bits(target: Target, type_: Type, bit_offset: int, bits: int, style: Style) -> Layout:
    """The layout of a bit field of a structure."""
    compiler = _Compiler(target, style)
    compiler.bit_field(type_, bit_offset, bits)
    return compiler.finish()


def show_object(target: Target, value: Value, style: Style, memory: Memory | None = None) -> str:
    """A value as gdb's print shows it after `$1 = `; UnreadableError where it cannot be read."""
    if value is None:
        return "void"
    if not isinstance(value, Object):
        symbol = f"{value.address:#x}{target.symbolic(value.address)}"
        if value.is_pointer:
            return f"({value} *) {symbol}"
        if not value.is_text:
            raise UnreadableError("")
        return f"{{{value}}} {symbol}"
    type_ = value.type_
    plain = resolved(type_)
    if plain.kind == TypeKind.VOID:
        return "void"
    text, base = "", 0
    if value.bit_field_size_ is not None:
        convert, _ = numeral(target, plain, style, value.bit_field_size_)
        try:
            return str(convert(int(value.value_())))
        except FaultError as fault:
            raise UnreadableError("") from fault
    if plain.kind == TypeKind.FUNCTION:
        assert value.address_ is not None
        data, base = b"", value.address_
    elif value.absent_:
        return "<optimized out>"
    elif plain.kind == TypeKind.ARRAY and not (plain.length or 0):
        data, base = b"", value.address_ or 0
    else:
        base = value.address_ or 0
        data = object_bytes(target, value, memory)
    if plain.kind == TypeKind.POINTER and not style.format:
        plain_char = type_.kind == TypeKind.POINTER and is_plain_char(plain.type)
        text = "" if plain_char else f"({name_of(type_)}) "
    return text + show(target, type_, data, base, style)


def object_bytes(target: Target, value: Object, memory: Memory | None = None) -> bytes:
    """The bytes of a value; UnreadableError where the dump does not have them."""
    size = length_of(value.type_)
    if size is None:
        return b""
    if value.address_ is None:
        return value.to_bytes_()
    return (memory or Memory(target.dump)).read(value.address_, size)


def is_plain_char(type_: Type) -> bool:
    """`char` by this very name: gdb leaves out `(char *)` before a string."""
    return type_.kind == TypeKind.INT and type_.name == "char"


def plain_value(target: Target, type_: Type, data: bytes, offset: int, base: int) -> Any:
    """The same as dicts, lists, numbers and strings: what --json shows."""
    type_ = resolved(type_)
    kind = type_.kind
    if kind in COMPOUND:
        if not type_.is_complete():
            return None
        found: dict[str, Any] = {}
        for member in type_.members:
            if member.bit_field_size is not None:
                at = 8 * offset + member.bit_offset
                found[member.name or ""] = _bits(
                    target, member.type, data, at, member.bit_field_size
                )
                continue
            at = offset + member.bit_offset // 8
            value = plain_value(target, member.type, data, at, base)
            if member.name:
                found[member.name] = value
            elif isinstance(value, dict):
                found.update(value)
        return found
    if kind == TypeKind.ARRAY:
        element = resolved(type_.type)
        length = type_.length or 0
        size = length_of(element)
        if not length or not size:
            return []
        if is_char(element) and element.name == "char":
            return data[offset : offset + length].partition(b"\0")[0]
        return [
            plain_value(target, element, data, at, base)
            for at in range(offset, offset + length * size, size)
        ]
    if kind in (TypeKind.VOID, TypeKind.FUNCTION) or not type_.is_complete():
        return None
    chunk = data[offset : offset + sizeof(type_)]
    value = Object.from_bytes_(target.prog, type_, chunk).value_()
    if kind == TypeKind.POINTER:
        return Address(value)
    if kind == TypeKind.ENUM:
        return _enumerator_name(type_, value)
    return value


def _bits(target: Target, type_: Type, data: bytes, bit_offset: int, bits: int) -> Any:
    value = Object.from_bytes_(
        target.prog, type_, data, bit_offset=bit_offset, bit_field_size=bits
    ).value_()
    plain = resolved(type_)
    return _enumerator_name(plain, value) if plain.kind == TypeKind.ENUM else value


def _enumerator_name(type_: Type, value: int) -> Any:
    return next((e.name for e in type_.enumerators or () if e.value == value), value)


def indented(lines: Sequence[str], spaces: int) -> list[str]:
    """Lines moved to the right."""
    return [" " * spaces + line for line in lines]


__all__ = [
    "Layout",
    "Style",
    "char_pointer",
    "compiled",
    "compiled_bits",
    "is_char",
    "plain_value",
    "quoted",
    "show",
    "show_object",
    "type_key",
]
