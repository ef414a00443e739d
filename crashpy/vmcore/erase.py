"""Data to erase from a dump: makedumpfile's `erase` command, resolved with debug information.

    SYMBOL[.MEMBER...] [size BYTES[K|M] | nullify]

What a pointer points to is erased, of a `char *` the string; `nullify` erases the pointer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from drgn import FaultError, Object, ObjectAbsentError, Program, TypeKind, sizeof

from crashpy.command import CommandError
from crashpy.vmcore.memory import Memory, Unmapped

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from crashpy.vmcore.memory import Pages
    from crashpy.vmcore.selection import Bitmap

LONGEST_STRING = 1024
ERASED = ord("X")
UNITS = {"K": 1 << 10, "M": 1 << 20}


@dataclass(frozen=True)
class Erasure:
    """One thing to erase, and the pages it lies in."""

    expression: str
    nullify: bool
    pieces: tuple[tuple[int, int, int], ...]  # pfn, start in the page, end in the page

    def apply(self, pfns: NDArray[np.int64], pages: Pages) -> None:
        """Erase it from those of these pages (ascending) that it lies in."""
        for pfn, start, end in self.pieces:
            row = int(pfns.searchsorted(pfn))
            if row < len(pfns) and pfns[row] == pfn:
                pages[row, start:end] = 0 if self.nullify else ERASED

    def said(self, kept: Bitmap) -> str:
        """The line of ERASEINFO that says so; empty when no page of it is kept."""
        size = sum(end - start for pfn, start, end in self.pieces if kept[pfn // 8] >> pfn % 8 & 1)
        if not size:
            return ""
        return f"erase {self.expression} {'nullify' if self.nullify else f'size {size}'}\n"


def erasure(memory: Memory, prog: Program, request: str) -> Erasure:
    """What is meant by a request. Raises CommandError where nothing is."""
    expression, *how = request.split()
    nullify = how == ["nullify"]
    try:
        thing = _thing(prog, expression)
        address, size = _extent(thing, nullify, _size(how))
        pieces = tuple(_pieces(memory, address, size))
    except (LookupError, TypeError, AttributeError, ObjectAbsentError) as error:
        reason = error.args[0] if error.args else error
        raise CommandError(f"--erase {expression}: {reason}") from None
    except (FaultError, Unmapped) as error:
        raise CommandError(f"--erase {expression}: cannot be read: {error}") from None
    except ValueError:
        raise CommandError(
            f"--erase {request}: not SYMBOL[.MEMBER...] [size BYTES[K|M] | nullify]"
        ) from None
    return Erasure(expression, nullify, pieces)


def _size(how: list[str]) -> int | None:
    if not how or how == ["nullify"]:
        return None
    word, number = how
    if word != "size":
        raise ValueError(word)
    unit = UNITS.get(number[-1].upper(), 1)
    size = int(number[:-1] if unit > 1 else number, 0) * unit
    if size < 1:
        raise ValueError(number)
    return size


def _thing(prog: Program, expression: str) -> Object:
    name, *members = expression.split(".")
    found = prog[name]
    for member in members:
        found = (found[0] if _kind(found.type_) == TypeKind.POINTER else found).member_(member)
    return found


def _kind(found: Any) -> TypeKind:
    while found.kind == TypeKind.TYPEDEF:
        found = found.type
    return found.kind


def _extent(thing: Object, nullify: bool, size: int | None) -> tuple[int, int]:
    """Address and size of what goes."""
    if _kind(thing.type_) != TypeKind.POINTER:
        if nullify:
            raise TypeError("is no pointer that could be nullified")
        address = thing.address_
        if address is None:
            raise TypeError("is not in memory")
        return address, size or sizeof(thing)
    if nullify:
        return int(thing.address_ or 0), sizeof(thing)
    if size is None:
        target = thing.type_
        while target.kind == TypeKind.TYPEDEF:
            target = target.type
        if _kind(target.type) == TypeKind.VOID:
            raise TypeError("points to nobody knows what: say how many bytes (size N), or nullify")
        if sizeof(target.type) == 1:
            size = len(thing.string_()[:LONGEST_STRING])
        else:
            size = sizeof(target.type)
    return thing.value_(), size


def _pieces(memory: Memory, address: int, size: int) -> list[tuple[int, int, int]]:
    found = []
    while size > 0:
        physical, room = memory.translate(address)
        pfn, start = divmod(physical, memory.page_size)
        take = min(size, room, memory.page_size - start)
        found.append((pfn, start, start + take))
        address, size = address + take, size - take
    return found
