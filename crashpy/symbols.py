"""The kernel's and the modules' symbols, as crash keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crashpy.dump import Dump


@dataclass(frozen=True, slots=True)
class Symbol:
    name: str
    address: int
    kind: str  # nm's letter: T, t, D, B, ...
    module: str | None = None  # its module's name; None in the kernel


class SymbolTable:
    def __init__(self, dump: Dump) -> None:
        self._dump = dump

    def __iter__(self) -> Iterator[Symbol]:
        """Every symbol, by address."""
        raise NotImplementedError

    def named(self, name: str) -> Symbol | None:
        """The first symbol of that name (crash's symbol_search())."""
        raise NotImplementedError

    def all_named(self, name: str) -> list[Symbol]:
        raise NotImplementedError

    def at(self, address: int) -> tuple[Symbol, int] | None:
        """The symbol an address lies in and the offset into it (crash's value_search())."""
        raise NotImplementedError

    def is_text(self, address: int) -> bool:
        """Whether it is an address of kernel or module code (crash's is_kernel_text())."""
        raise NotImplementedError

    def line(self, address: int) -> str | None:
        """``FILE: LINE`` of a text address as crash's `sym`, `bt -l`, `dis -l` show it."""
        raise NotImplementedError
