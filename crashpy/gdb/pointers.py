"""What a member points to, as `struct -p` shows it (crash's dereference_pointer())."""

from __future__ import annotations

from dataclasses import dataclass

from drgn import FaultError, Object, Type, TypeKind

from crashpy.gdb.memory import Memory, UnreadableError
from crashpy.gdb.target import Target, resolved
from crashpy.gdb.types import declaration
from crashpy.gdb.values import Style, show_object

INDENT = "     "
STRING = 1499  # characters crash reads of one


@dataclass(frozen=True)
class Pointee:
    lines: list[str]


def pointee(target: Target, type_: Type, name: str, data: bytes, style: Style) -> Pointee | None:
    """The lines for a pointer member of these bytes; None for any other member."""
    plain = resolved(type_)
    if plain.kind != TypeKind.POINTER or len(data) < 8:
        return None
    address = int.from_bytes(data[:8], "little")
    symbol = _symbol_at(target, address)
    mark = f"<{symbol}> " if symbol else ""
    if type_.kind == TypeKind.TYPEDEF:
        shown, joint, pointed = type_.name or "", " ", plain.type
        return _target(target, shown, joint, name, address, mark, symbol, pointed, style, True)
    shown = declaration(type_, name)
    if resolved(plain.type).kind == TypeKind.FUNCTION and f"(*{name})(" in shown:
        where = f"<{symbol}>" if symbol else "(unknown)" if address else "NULL"
        return Pointee([f"  {shown} = {address:#x}", f"  -> {where}"])
    if shown.endswith(f"**{name}"):
        word = shown[: -len(name)]
        first = f"  {word}{name} = {address:#x}"
        if not address:
            return Pointee([first, "  -> NULL"])
        value = _word(target, address)
        if value is None:
            return Pointee([first, "  -> (not accessible)"])
        return Pointee([first, f"  -> {mark}{value:x}"])
    if not shown.endswith(f" *{name}"):
        return None
    word = shown[: -len(name)]
    first = f"  {word}{name} = {address:#x}"
    if "char *" in word:
        return Pointee([first, "  -> " + mark + _string(target, address)])
    if "void *" in word and not _is_variable(target, symbol):
        where = f"<{symbol}>" if symbol else "(unknown target type)" if address else "NULL"
        return Pointee([first, f"  -> {where}"])
    base = word.removesuffix(" *")
    return _target(target, base, " *", name, address, mark, symbol, plain.type, style, False)


def _target(
    target: Target,
    word: str,
    joint: str,
    name: str,
    address: int,
    mark: str,
    symbol: str | None,
    pointed: Type,
    style: Style,
    typedef: bool,
) -> Pointee | None:
    first = f"  {word}{joint}{name} = {address:#x}"
    if not address:
        return Pointee([first, "  -> NULL"])
    if _word(target, address) is None:
        return Pointee([first, "  -> (not accessible)"])
    use_symbol = _is_variable(target, symbol)
    try:
        if use_symbol and symbol is not None:
            value = target.prog[symbol]
        else:
            value = Object(target.prog, pointed, address=address)
        text = show_object(target, value, style)
    except (FaultError, UnreadableError, LookupError, ValueError, TypeError):
        return None
    target.history.append(value)
    first_line, *rest = text.split("\n")
    if (typedef or use_symbol) and "(" in first_line and ")" in first_line:
        return Pointee([first, f"  -> {mark}"])
    return Pointee([first, f"  -> {mark}{first_line}", *(INDENT + line for line in rest)])


def _symbol_at(target: Target, address: int) -> str | None:
    if not address:
        return None
    found = target.dump.symbols.at(address)
    return found[0].name if found is not None and found[1] == 0 else None


def _is_variable(target: Target, symbol: str | None) -> bool:
    """Whether debug information knows the symbol as data."""
    if symbol is None:
        return False
    try:
        kind = resolved(target.prog.variable(symbol).type_).kind
    except LookupError:
        return False
    return kind in (
        TypeKind.ARRAY, TypeKind.UNION, TypeKind.STRUCT, TypeKind.INT, TypeKind.POINTER
    )  # fmt: skip


def _word(target: Target, address: int) -> int | None:
    try:
        return int.from_bytes(Memory(target.dump).read(address, 8), "little")
    except UnreadableError:
        return None


def _string(target: Target, address: int) -> str:
    if not address:
        return "NULL"
    data, _ = target.string(address, STRING)
    if not data or data == b"\0":
        return "(not accessible)"
    return '"' + data.partition(b"\0")[0].decode(errors="surrogateescape") + '"'
