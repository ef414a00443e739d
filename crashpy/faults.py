"""Dumps have holes: makedumpfile leaves pages out, and a dying kernel corrupts others."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from drgn import FaultError

log = logging.getLogger("crashpy")


@contextmanager
def skipping(what: object) -> Iterator[None]:
    """Go on without `what` when the dump does not hold it, and say so on the log."""
    try:
        yield
    except FaultError as fault:
        log.warning("skipped %s: %s", what, fault)
