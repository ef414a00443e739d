"""The save step in the capture environment: the configuration's words, carried out."""

from __future__ import annotations

import sys


def main() -> None:
    """For the environment's shell: `... CORE`."""
    sys.exit(run(sys.argv[1]))


def run(core: str) -> int:
    return 1 if core else 0
