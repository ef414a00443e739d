"""How each distribution writes down what kdump shall do.

base                what a dialect is
suse, rhel, debian  the three; makedumpfile: what the latter two share
own                 /etc/crashpy.conf: what a distribution has no word for
"""

from __future__ import annotations

from crashpy.kdump.dialects.base import OWN, Dialect, Unable, Value, Variable
from crashpy.kdump.dialects.debian import Debian
from crashpy.kdump.dialects.own import Own
from crashpy.kdump.dialects.rhel import Rhel
from crashpy.kdump.dialects.suse import Suse
from crashpy.kdump.system import Refused, System

__all__ = ["DIALECTS", "OWN", "Dialect", "Unable", "Value", "Variable", "recognise"]

DIALECTS: tuple[Dialect, ...] = (Suse(), Rhel(), Debian())


def recognise(system: System) -> Dialect:
    """Whose configuration this is: by its files, not by its name."""
    suse, rhel, debian = DIALECTS
    if system.exists(rhel.files[0]):
        return rhel
    if system.exists(debian.files[0]):
        return debian
    if system.exists(suse.files[0]) and system.family != "rhel":
        return suse
    if system.exists(OWN):
        return Own()
    packages = {"suse": "kdump", "rhel": "kdump-utils", "debian": "kdump-tools"}
    if family := system.family:
        name = next(d for d in DIALECTS if d.name == family).files[0]
        raise Refused(
            f"{system.shown(name)}: there is no such file: install {packages[family]},"
            f" or say everything in our own {OWN}"
        )
    raise Refused(
        "no configuration of kdump was found: neither /etc/sysconfig/kdump, /etc/kdump.conf,"
        f" /etc/default/kdump-tools nor our own {OWN}"
    )
