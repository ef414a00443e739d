"""What the completion offers: names gathered once, and only when they are first asked for."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from drgn import FaultError, Program, Type, TypeKind

from crashpy.opening.btf import Btf

if TYPE_CHECKING:
    from crashpy.dump import Dump


class Names:
    """The names of a dump, each list sorted; a list that cannot be had is empty."""

    def __init__(self, dump: Dump) -> None:
        self._dump = dump

    @cached_property
    def symbols(self) -> list[str]:
        try:
            return sorted({symbol.name for symbol in self._dump.symbols})
        except (FaultError, LookupError, NotImplementedError, OSError):
            return []

    @cached_property
    def types(self) -> list[str]:
        """Structures, unions and typedefs, from the BTF that the kernel carries."""
        prog = self._dump.prog
        try:
            start = prog.symbol("__start_BTF").address
            stop = prog.symbol("__stop_BTF").address
            return sorted(Btf(prog, prog.read(start, stop - start)).type_names())
        except (FaultError, LookupError, ValueError):
            return []

    @cached_property
    def tasks(self) -> list[tuple[str, str]]:
        """(PID, command) of every task."""
        try:
            return [(str(task.pid), task.comm) for task in self._dump.tasks]
        except (FaultError, LookupError):
            return []

    def members(self, path: str) -> list[str]:
        """The members of ``NAME.member.member``, pointers followed."""
        name, *through = path.split(".")
        try:
            type_ = _aggregate(self._dump.prog, name)
            for member in through:
                found = type_.member(member.partition("[")[0]).type
                while found.kind in (TypeKind.TYPEDEF, TypeKind.POINTER, TypeKind.ARRAY):
                    found = found.type
                type_ = found
            return sorted(_member_names(type_))
        except (LookupError, AttributeError, TypeError, SyntaxError):
            return []


def _member_names(type_: Type) -> Iterator[str]:
    """Names of members, those of unnamed structures and unions among them included."""
    for member in type_.members or ():
        if member.name:
            yield member.name
        elif member.type.kind in (TypeKind.STRUCT, TypeKind.UNION):
            yield from _member_names(member.type)


def _aggregate(prog: Program, name: str) -> Type:
    for word in ("struct", "union", ""):
        try:
            type_ = prog.type(f"{word} {name}".strip())
        except LookupError:
            continue
        while type_.kind == TypeKind.TYPEDEF:
            type_ = type_.type
        return type_
    raise LookupError(name)


def starting(names: list[str], prefix: str, most: int = 2000) -> list[str]:
    """Those of a sorted list that start with a prefix."""
    first = bisect_left(names, prefix)
    found = []
    for name in names[first : first + most]:
        if not name.startswith(prefix):
            break
        found.append(name)
    return found
