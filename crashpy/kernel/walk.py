"""Walks through lists that a dying kernel may have corrupted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from drgn import Object


def once(objects: Iterable[Object]) -> Iterator[Object]:
    """Pointers up to the first that comes again: drgn's helpers would turn for ever."""
    seen: set[int] = set()
    for found in objects:
        address = found.value_()
        if address in seen:
            return
        seen.add(address)
        yield found
