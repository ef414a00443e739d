"""rustfilt: what a mangled name of Rust stands for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crashpy.command import UsageError, command, operands
from crashpy.kernel.rust import demangle
from crashpy.output import Unended

if TYPE_CHECKING:
    from crashpy.dump import Dump


@dataclass(frozen=True)
class Demangled:
    symbol: str
    name: str | None  # None: it is no mangled name of Rust


@command(
    operands("symbols", "symbol", str, "as the symbol table has it; the first one counts"),
    usage="<symbol>",
)
def rustfilt(dump: Dump, *, symbols: Sequence[str] = ()) -> Iterator[Demangled]:  # noqa: ARG001
    """a mangled name of Rust made readable

    Crates come without their hashes, constants without their types.

    EXAMPLES
      crash> rustfilt _RNvNtCshc5sK6KjdJJ_6kernel5print11call_printk
      kernel::print::call_printk
    """
    if not symbols:
        raise UsageError
    yield Demangled(symbols[0], demangle(symbols[0]))


@rustfilt.text
def lines(names: Iterable[Demangled]) -> Iterator[str]:
    for each in names:
        if each.name is None:
            yield "Not a rust symbol: "
        yield Unended(each.symbol if each.name is None else each.name)
