"""gdb's layout of types: what ptype and whatis print of them.

`show` is gdb's depth of detail: above 0 the members of a structure are written out, at 0
those of one without a tag, below 0 none (``struct {...}``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from drgn import Qualifiers, Type, TypeKind

from crashpy.gdb.target import resolved

COMPOUND = (TypeKind.STRUCT, TypeKind.UNION, TypeKind.CLASS)
KEYWORDS = {
    TypeKind.STRUCT: "struct",
    TypeKind.UNION: "union",
    TypeKind.CLASS: "class",
    TypeKind.ENUM: "enum",
}
QUALIFIERS = (
    (Qualifiers.CONST, "const"),
    (Qualifiers.VOLATILE, "volatile"),
    (Qualifiers.RESTRICT, "restrict"),
    (Qualifiers.ATOMIC, "_Atomic"),
)


def declaration(type_: Type, name: str = "", show: int = 0, level: int = 0) -> str:
    """A type as C declares `name` with it (gdb's c_print_type())."""
    if show > 0:
        type_ = resolved(type_)
    base = _base(type_, show, level)
    spaced = bool(name) or (
        (show > 0 or _name(type_) is None)
        and type_.kind in (TypeKind.POINTER, TypeKind.FUNCTION, TypeKind.ARRAY)
    )
    prefix, suffix = _around(type_, show, inside_pointer=False, spaced=bool(name))
    return base + (" " if spaced else "") + prefix + name + suffix


def name_of(type_: Type) -> str:
    """How casts and `whatis` name a type."""
    return declaration(type_, show=-1)


def ptype(type_: Type) -> list[str]:
    """The lines of gdb's ptype, without its `type = `."""
    return declaration(type_, show=1).split("\n")


def _name(type_: Type) -> str | None:
    """The name that gdb gives a type; pointers, arrays and functions have none."""
    if type_.kind in KEYWORDS:
        return type_.tag
    if type_.kind == TypeKind.VOID:
        return "void"
    if type_.kind in (TypeKind.POINTER, TypeKind.ARRAY, TypeKind.FUNCTION):
        return None
    return type_.name


def _qualified(type_: Type) -> str:
    found = type_.qualifiers
    if not found:
        return ""
    return "".join(f"{word} " for bit, word in QUALIFIERS if found & bit)


def _base(type_: Type, show: int, level: int) -> str:
    """What stands left of all stars and brackets (gdb's c_type_print_base_1())."""
    extra = Qualifiers(0)
    while True:
        name = _name(type_)
        if show <= 0 and name is not None:
            keyword = KEYWORDS.get(type_.kind)
            words = _qualified(type_.qualified(type_.qualifiers | extra))
            return words + (f"{keyword} {name}" if keyword else name)
        if type_.kind == TypeKind.TYPEDEF:
            extra |= type_.qualifiers
            type_ = type_.type
        elif type_.kind in (TypeKind.POINTER, TypeKind.FUNCTION):
            type_ = type_.type
        elif type_.kind == TypeKind.ARRAY:
            extra |= type_.qualifiers  # a qualified array has qualified elements
            type_ = type_.type
        else:
            break
    words = _qualified(type_.qualified(type_.qualifiers | extra))
    if type_.kind in COMPOUND:
        return words + _compound(type_, show, level)
    if type_.kind == TypeKind.ENUM:
        return words + _enum(type_, show)
    return words + (_name(type_) or "")


def _compound(type_: Type, show: int, level: int) -> str:
    text = KEYWORDS[type_.kind] + " "
    if type_.tag is not None:
        text += type_.tag + (" " if show > 0 else "")
    if show < 0:
        return text + ("{...}" if type_.tag is None else "")
    if show == 0 and type_.tag is not None:
        return text
    indent = " " * level
    lines = [text + "{"]
    if not type_.is_complete():
        lines.append(f"{indent}    <incomplete type>")
    elif not type_.members:
        lines.append(f"{indent}    <no data fields>")
    else:
        for member in type_.members:
            # crash's gdb spells out unnamed members as deep as they go.
            inner = show - 1 if member.name else show
            text = declaration(member.type, member.name or "", inner, level + 4)
            if member.bit_field_size is not None:
                text += f" : {member.bit_field_size}"
            lines.append(f"{indent}    {text};")
    lines.append(indent + "}")
    return "\n".join(lines)


def _enum(type_: Type, show: int) -> str:
    text = "enum "
    if type_.tag is not None:
        text += type_.tag + (" " if show > 0 else "")
    if show < 0:
        return text + ("{...}" if type_.tag is None else "")
    expected = 0
    words = []
    for enumerator in type_.enumerators or ():
        word = enumerator.name
        if enumerator.value != expected:
            word += f" = {enumerator.value}"
            expected = enumerator.value
        expected += 1
        words.append(word)
    return text + "{" + ", ".join(words) + "}"


def _around(type_: Type, show: int, *, inside_pointer: bool, spaced: bool) -> tuple[str, str]:
    """Stars, brackets and parameters left and right of the name."""
    if show <= 0 and _name(type_) is not None:
        return "", ""
    kind = type_.kind
    if kind == TypeKind.TYPEDEF:
        return _around(type_.type, show, inside_pointer=inside_pointer, spaced=spaced)
    if kind == TypeKind.POINTER:
        prefix, suffix = _around(type_.type, show, inside_pointer=True, spaced=True)
        words = _qualified(type_).rstrip()
        if words:
            words = f" {words}" + (" " if spaced else "")
        return f"{prefix}*{words}", suffix
    opening, closing = ("(", ")") if inside_pointer else ("", "")
    if kind == TypeKind.ARRAY:
        prefix, suffix = _around(type_.type, show, inside_pointer=False, spaced=spaced)
        length = "" if type_.length is None else str(type_.length)
        return prefix + opening, f"{closing}[{length}]{suffix}"
    if kind == TypeKind.FUNCTION:
        prefix, suffix = _around(type_.type, show, inside_pointer=False, spaced=False)
        return prefix + opening, f"{closing}({_parameters(type_)}){suffix}"
    return "", ""


def _parameters(type_: Type) -> str:
    words = [declaration(parameter.type) for parameter in type_.parameters]
    if type_.is_variadic:
        words.append("...")
    return ", ".join(words) or "void"


@dataclass(frozen=True)
class Place:
    """Where a member lies."""

    type: Type
    offset: int  # bytes from the start of the structure
    bit_offset: int  # of the whole, in bits
    bits: int | None  # the width of a bit field


def members(type_: Type) -> dict[str, Place]:
    """The members of a structure by name, those of unnamed members included."""
    found: dict[str, Place] = {}
    _collect(resolved(type_), 0, found)
    return found


def _collect(type_: Type, bits: int, found: dict[str, Place]) -> None:
    if type_.kind not in COMPOUND or not type_.is_complete():
        return
    for member in type_.members:
        at = bits + member.bit_offset
        if not member.name:
            _collect(resolved(member.type), at, found)
        else:
            place = Place(member.type, at // 8, at, member.bit_field_size)
            found.setdefault(member.name, place)


def declared(name: str, type_: Type, *, typedef: bool = False) -> list[str]:
    """A declaration as `struct NAME` and `whatis NAME` begin it (do_datatype_declaration())."""
    lines = ptype(type_)
    first = lines[0]
    word = "typedef " if typedef else ""
    if "(*)()" in first:
        return [f"{word}{first.partition('(*)()')[0]}(*{name})();", *lines[1:]]
    if "()" in first:
        return [f"{word}{first.partition('()')[0]}({name})();", *lines[1:]]
    if "{" not in first:
        return [f"{word}{first} {name};", *lines[1:]]
    if typedef and len(lines) > 1:
        for i, line in enumerate(lines):
            if line.startswith("}"):
                lines[i] = f"}} **({name})();" if "} **()" in line else f"{line} {name};"
    return [word + first, *lines[1:]]


def with_offsets(
    lines: list[str],
    places: dict[str, Place],
    *,
    size: int,
    hexadecimal: bool = False,
    base: int = 0,
    only: str | None = None,
) -> Iterator[str]:
    """The lines of a declaration, each member behind ``[its offset]`` or ``[its address]``.

    crash finds the members in gdb's text (show_member_offset()); so what it cannot tell
    apart there, like two members of one name in two nested structures, gets what a look-up
    by name finds. `only` leaves out the lines of all other members.
    """
    shown_size = f"{size:#x}" if hexadecimal else str(size)
    width = len(shown_size) + 4
    block = ""  # the unnamed structure or union at the first level that the line lies in
    for line in lines:
        if not line.startswith((" ", "\t")):
            yield line
            continue
        if line.startswith("    union {"):
            block = "union" if not block or block == "union" else block
        if line.startswith("    struct {"):
            block = "struct" if not block or block == "struct" else "union"
        closing = line.startswith("    } ")
        target = _target(line)
        if target and only is not None and target != only:
            if closing:
                block = ""
            continue
        place = places.get(target) if target else None
        if place is None:
            if closing:
                block = ""
            if only is None:
                yield " " * (len(shown_size) + 1) + line
            continue
        where = place.offset
        if base:
            mark = f"  [{base + where:x}]"
        else:
            mark = f"  [{where:#x}]" if hexadecimal else f"  [{where}]"
        if closing and only is not None:
            if block:
                yield " " * (width + 1) + f"{block} {{"
            block = ""
        yield mark.rjust(width) + line[3:]


def _target(line: str) -> str | None:
    """The name that a line of a declaration declares, found as crash does."""
    words = line.split()
    target: str | None = None
    if ":" in line:
        at = next((i for i, word in enumerate(words) if i and word == ":"), None)
        target = words[at - 1] if at is not None else None
    elif words:
        if "(*" in line:
            for word in words:
                for opening in ("(*", "*(*", "**(*"):
                    if word.startswith(opening):
                        rest = word[len(opening) :]
                        if ")" in rest:
                            target = rest.partition(")")[0]
                        break
                if target is not None:
                    break
        if target is None:
            target = words[-1] if ";" in words[-1] else None
    if target is None:
        return None
    for char in "*[];()":
        target = target.replace(char, " ")
    names = target.split()
    return names[0] if names else None
