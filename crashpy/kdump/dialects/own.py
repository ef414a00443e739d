"""/etc/crashpy.conf: neutral keys as they are, where a distribution has no word for them.

Beside a distribution's file it holds what `crashpy save` and `crashpy save notify` do and
the distribution does not: rotation and mail on RHEL, say. On a machine that has no kdump
package at all it holds everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from crashpy.kdump.dialects.base import OWN, Dialect, Variable, joined
from crashpy.kdump.keys import KEYS

if TYPE_CHECKING:
    from crashpy.kdump.config import Config


class Own(Dialect):
    """All keys, none of them limited."""

    name = "own"
    title = "crashpy"
    files = (OWN,)
    units = ()
    variables = {key.name: Variable(key.name, key.default, key.check) for key in KEYS.values()}  # noqa: RUF012
    simple = {name: name for name in KEYS}  # noqa: RUF012
    limited = {}  # noqa: RUF012

    # The capture kernel.

    builder = "crashpy capture image"
    dropped = "crashkernel hugepages hugepagesz BOOT_IMAGE initrd quiet splash"

    def command_line(self, config: Config, running: str) -> str:
        cpus = config.own("cpus")
        line = config.own("cmdline") or joined(
            *self.inherited(running, config.own("remove")),
            "reset_devices irqpoll panic=10",
            f"nr_cpus={cpus}" if cpus != "0" else "",
        )
        return joined(line, config.own("append"))

    def kernels(self, config: Config, release: str) -> Iterator[str]:
        name = config.own("kernel")
        if name.startswith("/"):
            yield name
            return
        yield from super().kernels(config, name or release)

    def initrd(self, config: Config, release: str) -> str | None:
        return config.own("initrd") or super().initrd(config, release)
