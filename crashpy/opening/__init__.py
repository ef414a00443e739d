"""Paths to an open Dump: what the files are, which kernel belongs to which dump."""

from crashpy.opening.errors import OpeningError
from crashpy.opening.options import OpenOptions
from crashpy.opening.start import open_dump

__all__ = ["OpenOptions", "OpeningError", "open_dump"]
