"""/etc/crashpy.conf: neutral keys as they are, where a distribution has no word for them.

Beside a distribution's file it holds what `crashpy save` and `crashpy save notify` do and
the distribution does not: rotation and mail on RHEL, say. On a machine that has no kdump
package at all it holds everything.
"""

from __future__ import annotations

from crashpy.kdump.dialects.base import OWN, Dialect, Variable
from crashpy.kdump.keys import KEYS


class Own(Dialect):
    """All keys, none of them limited."""

    name = "own"
    title = "crashpy"
    files = (OWN,)
    units = ()
    variables = {key.name: Variable(key.name, key.default, key.check) for key in KEYS.values()}  # noqa: RUF012
    simple = {name: name for name in KEYS}  # noqa: RUF012
    limited = {}  # noqa: RUF012
