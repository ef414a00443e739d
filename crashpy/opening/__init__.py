"""Paths to an open Dump: what the files are, which kernel belongs to which dump."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from crashpy.opening.errors import OpeningError
from crashpy.opening.options import OpenOptions

if TYPE_CHECKING:
    from crashpy.dump import Dump

__all__ = ["OpenOptions", "OpeningError", "open_dump"]


def open_dump(paths: Sequence[str], *, options: OpenOptions | None = None) -> Dump:
    """Open what the paths name: `[VMLINUX] VMCORE` in any order, a folder, nothing (live).

    Raises OpeningError, one sentence, when that is not possible.
    """
    # Imported here, as crashpy.vmcore and crashpy.dump use errors and options of this package.
    from crashpy.opening.start import open_named

    return open_named(paths, options or OpenOptions())
