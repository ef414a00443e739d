"""The capture environment: built from what is there now, and able to do its work."""

from __future__ import annotations

import re
from collections.abc import Iterator

from crashpy.command import CommandError
from crashpy.kdump.check.finding import Finding
from crashpy.kdump.config import Config
from crashpy.kdump.plan import save_plan
from crashpy.kdump.status import stale
from crashpy.kdump.system import System


def environment(config: Config) -> Iterator[Finding]:
    for name in stale(config):
        yield Finding(
            "warning",
            f"{name} changed after the capture environment was built",
            "what it says now is not what happens at a crash",
            {"suse": "`mkdumprd -f`", "rhel": "`kdumpctl rebuild`"}.get(
                config.dialect.name, "`kdump-config unload` and `kdump-config load`"
            ),
        )


def network(config: Config) -> Iterator[Finding]:
    """Whether the capture environment comes to its server."""
    system = config.system
    try:
        plan = save_plan(config)
    except CommandError:
        return
    if plan.target.protocol == "file":
        return
    asked = config.get("network")
    name = (asked.value or "").partition(":")[0] if asked else ""
    if name not in ("", "auto") and not system.exists(f"/sys/class/net/{name}"):
        yield Finding(
            "error",
            f"network={asked.value if asked else ''}: there is no interface {name}",
            "the capture environment has no network, and the dump cannot be sent",
            "`crashpy setup configure network=auto`",
        )
        return
    interface = name if name not in ("", "auto") else _way_out(system)
    for kind in _kinds(system, interface):
        yield Finding(
            "warning",
            f"{interface}, the way to {plan.target.host}, is {kind}",
            "the capture environment must build it again, which often fails",
            "prove it: `crashpy setup test --on-this-machine`, or save to a disk of this machine",
        )


def _way_out(system: System) -> str:
    """The interface of the default route."""
    for line in (system.fact("/proc/net/route") or "").splitlines()[1:]:
        words = line.split()
        if len(words) > 1 and words[1] == "00000000":
            return words[0]
    return ""


def _kinds(system: System, interface: str) -> Iterator[str]:
    if not interface:
        return
    folder = f"/sys/class/net/{interface}"
    facts = {
        "bonding": "a bond",
        "bridge": "a bridge",
        "wireless": "wireless",
        "phy80211": "wireless",
        "tun_flags": "a tunnel",
    }
    found = {what for name, what in facts.items() if system.exists(f"{folder}/{name}")}
    if system.exists(f"/proc/net/vlan/{interface}"):
        found.add("a VLAN")
    kind = re.search(r"^DEVTYPE=(\w+)", system.fact(f"{folder}/uevent") or "", re.MULTILINE)
    if kind and kind[1] in ("openvswitch", "team", "wlan"):
        found.add({"openvswitch": "of Open vSwitch", "team": "a team", "wlan": "wireless"}[kind[1]])
    yield from sorted(found)


def failing(config: Config) -> Iterator[Finding]:
    """What happens to the machine when saving fails."""
    action = config.get("failure")
    if action and action.value in ("shell", "halt", "poweroff"):
        waits = action.value == "shell"
        yield Finding(
            "warning",
            f"failure={action.value}",
            "a machine whose dump fails "
            + ("waits for somebody at its console" if waits else "does not come back by itself"),
            "where nobody watches it: `crashpy setup configure failure=reboot`",
        )
