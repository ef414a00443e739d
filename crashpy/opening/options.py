"""How a dump is to be opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # crashpy.vmcore, which needs this package, runs where drgn is not
    from drgn import Platform


def _silent(_step: str) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class OpenOptions:
    """The choices a user has; every default is what `crashpy VMLINUX VMCORE` does."""

    module_dirs: tuple[str, ...] = ()  # searched before the dump's own folder (--mod)
    source_dir: str = ""  # where the kernel's source is (--src)
    debug_dirs: tuple[str, ...] = ()  # searched like /usr/lib/debug, before it
    cache: bool = True  # keep decompressed kernels under $XDG_CACHE_HOME/crashpy
    zero_excluded: bool = False  # pages that were left out read as zero
    debuginfod: bool = True  # ask the servers in $DEBUGINFOD_URLS
    debuginfo: str = "auto"  # or "dwarf", "btf": where types come from
    kallsyms: str = ""  # a System.map, for a dump that does not tell its symbols
    platform: Platform | None = None  # when the dump does not say it
    vmcoreinfo: bytes | None = None  # likewise: the text of the note
    progress: Callable[[str], None] = _silent  # told the name of each long step
