"""swap: where pages are swapped to."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drgn import Object

from crashpy.command import Address, CommandError, command, operands
from crashpy.faults import skipping
from crashpy.kernel.mm import Swap
from crashpy.text import centered

if TYPE_CHECKING:
    from crashpy.dump import Dump

SWP_USED = 1


@dataclass(frozen=True)
class SwapSpace:
    swap_info: Address  # struct swap_info_struct *
    partition: bool  # a block device, not a file
    size_kib: int
    used_kib: int
    priority: int
    path: str | None


@command(
    operands("_ignored", "word", str, "crash ignores them, too"),
    usage=" ",
)
def swap(
    dump: Dump,
    *,
    _ignored: Sequence[str] = (),
) -> Iterator[SwapSpace]:
    """swap devices and swap files

    The struct swap_info_struct of each file or partition that the kernel swaps to, its
    size and how much of it is in use, its priority and its path.

    EXAMPLES
      crash> swap
      SWAP_INFO_STRUCT    TYPE       SIZE       USED     PCT  PRI  FILENAME
      ffffa0bb80ae9c00    FILE       4092k      1856k    45%   -2  /mnt/disk/swapfile
    """
    prog = dump.prog
    for name in ("nr_swapfiles", "swap_info"):
        if name not in prog:
            raise CommandError(f"{name} doesn't exist in this kernel!")
    areas = prog["swap_info"]
    for number in range(min(prog["nr_swapfiles"].value_(), areas.type_.length or 0)):
        with skipping(f"swap space {number}"):
            area = areas[number].read_()
            if area and area.flags.value_() & SWP_USED:
                yield _space(dump, area)


def _space(dump: Dump, area: Object) -> SwapSpace:
    from drgn.helpers.linux.swap import swap_usage_in_pages

    page_kib = dump.page_size >> 10
    file = area.swap_file.read_()
    path = Swap.of(dump.prog).file_name(file.value_()) if file else None
    return SwapSpace(
        Address(area.value_()),
        bool(file) and stat.S_ISBLK(file.f_inode.i_mode.value_()),
        area.pages.value_() * page_kib,
        swap_usage_in_pages(area) * page_kib,
        area.prio.value_(),
        path,
    )


@swap.text
def lines(spaces: Iterable[SwapSpace]) -> Iterator[str]:
    """Its dump_swap_info()."""
    found = list(spaces)  # there are few; what goes wrong before them comes without titles
    yield "SWAP_INFO_STRUCT    TYPE       SIZE       USED     PCT  PRI  FILENAME"
    for one in found:
        percent = 100 * one.used_kib // one.size_kib if one.size_kib else 0
        columns = (
            centered(f"{one.size_kib}k", 10, right=True),
            centered(f"{one.used_kib}k", 10, right=True),
            centered(f"{percent:2}%", 4, right=True),
            f"{one.priority:>4}",
        )
        kind = "PARTITION" if one.partition else "  FILE   "
        path = "(unknown)" if one.path is None else one.path
        yield f"{centered(f'{one.swap_info:x}', 16)}  {kind} {' '.join(columns)}  {path}"
