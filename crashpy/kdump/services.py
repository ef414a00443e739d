"""The units that load the capture kernel at boot: systemd's, or SysV's links."""

from __future__ import annotations

from crashpy.kdump.config import Config
from crashpy.kdump.plan import Plan
from crashpy.kdump.system import Refused, System

UNIT_FOLDERS = ("/usr/lib/systemd/system", "/lib/systemd/system", "/etc/systemd/system")


def unit(config: Config) -> str | None:
    """The unit of the distribution's package, or the script of its SysV age."""
    for name in config.dialect.units:
        folders = UNIT_FOLDERS if name.endswith(".service") else ("/etc/init.d",)
        if any(config.system.exists(f"{folder}/{name}") for folder in folders):
            return name
    return None


def enabled(config: Config) -> bool | None:
    """Whether it runs at boot; None: there is no unit to ask about."""
    name = unit(config)
    if name is None:
        return None
    if name.endswith(".service"):
        return bool(_links(config.system, name)) and not masked(config.system, name)
    return bool(config.system.names("/etc", f"rc*.d/S*{name}") or _started(config.system, name))


def masked(system: System, name: str) -> bool:
    """A unit that leads to /dev/null is never started."""
    own = system.root.joinpath("etc/systemd/system", name)
    return own.is_symlink() and str(own.readlink()) == "/dev/null"


def _links(system: System, name: str) -> list[str]:
    found = []
    for folder in system.names("/etc/systemd/system", "*.wants"):
        if system.root.joinpath(f"{folder}/{name}".lstrip("/")).is_symlink():
            found.append(f"{folder}/{name}")
    return found


def _started(system: System, name: str) -> list[str]:
    """SUSE's links lie in /etc/init.d/boot.d and rcN.d."""
    root = system.root
    return [str(path) for path in root.glob(f"etc/**/*.d/S*{name}") if path.is_symlink()]


def switch(config: Config, *, on: bool) -> Plan:
    """Everything that makes the capture kernel load at boot, or stops that."""
    system, plan = config.system, Plan()
    name = unit(config)
    if name is None and not config.dialect.units:
        raise Refused("no package of kdump is here, whose unit could load a capture kernel at boot")
    if name is None:
        raise Refused(
            f"there is no unit of kdump here, none of {', '.join(config.dialect.units)}:"
            " is its package installed?"
        )
    if config.dialect.name == "debian":
        config.set_native("USE_KDUMP", "1" if on else "0")
        plan.edits = config.edits()
    if on and masked(system, name):
        raise Refused(f"{name} is masked: `systemctl unmask {name}` first")
    word = "enable" if on else "disable"
    if enabled(config) is not on:
        command = _command(system, name, word)
        plan.commands.append(command)
        plan.opposites[command] = _command(system, name, "disable" if on else "enable")
        plan.checks.append(lambda _: _check(config, name, on))
    if on and not system.crashkernel and system.live:
        plan.notes.append("no memory is reserved yet: `crashpy setup bootloader`, then a reboot")
    return plan


def _command(system: System, name: str, word: str) -> tuple[str, ...]:
    if name.endswith(".service"):
        return ("systemctl", word, name)
    if system.tool("chkconfig"):
        return ("chkconfig", name, "on" if word == "enable" else "off")
    return ("update-rc.d", name, word)


def _check(config: Config, name: str, on: bool) -> None:
    if enabled(config) is not on:
        raise Refused(f"{name} is still {'off' if on else 'on'} although no error was reported")
