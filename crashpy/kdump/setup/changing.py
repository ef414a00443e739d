"""Verbs that change files: configure, bootloader, enable, disable, and tui."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from crashpy.command import CommandError
from crashpy.kdump.config import Config, is_secret
from crashpy.kdump.dialects import OWN
from crashpy.kdump.keys import KEYS
from crashpy.kdump.plan import Plan, hide
from crashpy.kdump.setup.asking import (
    DONE,
    carry_out,
    say,
    writes,
)
from crashpy.kdump.system import Refused, System

if TYPE_CHECKING:
    from crashpy.kdump.tui import Fields


HOLD_URLS = ("target", "KDUMP_SAVEDIR")  # which may have a password in them


def do_configure(system: System, asked: argparse.Namespace) -> int:
    config = Config.read(system)
    if not asked.settings:
        say(_keys(config))
        return DONE
    for word in asked.settings:
        name, equals, value = word.partition("=")
        if not equals:
            raise Refused(f"{hide(word)}: give a value, {name}=VALUE; {name}= is the default")
        asks = value == "-" and (is_secret(name) or name in HOLD_URLS)
        config.assign(name, _password(name) if asks else value)
    plan = Plan(config.edits())
    if not plan.empty:
        plan.notes += [*_remarks(config, asked.settings, plan), *_doubts(config)]
    plan.checks.append(lambda system: _read_back(system, config))
    return carry_out(system, plan, asked)


def _remarks(config: Config, settings: Sequence[str], plan: Plan) -> Iterator[str]:
    """What follows from the words as they were given."""
    pairs = [setting.split("=", 1) for setting in settings]
    for name, value in pairs:
        if value not in ("", "-") and (is_secret(name) or hide(value) != value):
            yield f"others may have seen the password in `ps`: {name}=- asks for it"
    if beyond := [name for name, _ in pairs if config.beyond(name)]:
        names = ", ".join(beyond)
        yield f"{config.dialect.title} itself has no {names}: {OWN} says it to `crashpy save`"
    for edit in plan.edits:
        if "\r\n" in edit.new and edit.name != OWN:
            yield f"lines of {edit.name} end with a carriage return: `crashpy setup check`"
    if any(e.holds_password and _mode(config.system, e.name) & 0o077 for e in plan.edits):
        yield "the file will hold a password: only its owner will be able to read it"


def _doubts(config: Config) -> Iterator[str]:
    """What the new values will not do here, though they may be said."""
    from crashpy.kdump.check import capture, target

    for finding in (*target.target(config, network=False), *capture.network(config)):
        yield hide(f"{finding.what}: {finding.consequence}")


def _read_back(system: System, wanted: Config) -> None:
    """What a fresh look at the files finds is what was asked for."""
    found = Config.read(system)
    for name in wanted.dialect.variables:
        if found.native(name).value != wanted.native(name).value:
            raise Refused(f"{name} does not read back as it was written")


def _mode(system: System, name: str) -> int:
    path = system.path(name)
    return path.stat().st_mode if path.exists() else 0o644


def _password(name: str) -> str:
    if sys.stdin.isatty():
        given = getpass.getpass(f"{name}: ")
    else:
        given = sys.stdin.readline().rstrip("\r\n")
    if not given:
        raise Refused(f"{name}: nothing was given; {name}= is the default")
    return given


def _keys(config: Config) -> Iterable[str]:
    """The words there are on this distribution."""
    able = [key for name, key in KEYS.items() if config.dialect.can(name)]
    for key in able:
        limited = config.dialect.limited.get(key.name)
        values = ", ".join(limited) if limited else key.values
        place = f" (in {OWN})" if config.beyond(key.name) else ""
        yield f"{key.name:14} {key.help}: {values}{place}"
    if names := [name for name in config.dialect.variables if name not in KEYS]:
        yield ""
        yield f"or {config.dialect.title}'s own names: {', '.join(names)}"


def configure_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="none: lists the keys")
    writes(parser)


def do_bootloader(system: System, asked: argparse.Namespace) -> int:
    from crashpy.kdump.bootloader import current, kind
    from crashpy.kdump.policies import advise, default_policy

    if asked.remove and (asked.values or asked.policy):
        raise Refused("--remove takes no value")
    values = [value.removeprefix("crashkernel=") for value in asked.values]
    if asked.policy:
        if values:
            raise Refused("give a value, or --policy, not both")
        policy = default_policy(system) if asked.policy == "default" else asked.policy
        values = [*advise(policy, system, system.machine, system.memory_bytes).values]
    if not values and not asked.remove:
        found = " ".join(f"crashkernel={value}" for value in current(system))
        say([f"{kind(system)}: {found or 'no crashkernel='}"])
        return DONE
    return carry_out(system, _reserve(system, values), asked)


def _reserve(system: System, values: Sequence[str]) -> Plan:
    """crashkernel= in the boot loader, and where a distribution would put it back from."""
    from crashpy.kdump.bootloader import plan

    made = plan(system, values)
    try:
        config = Config.read(system)
    except CommandError:
        return made  # no kdump here yet
    made.notes += config.dialect.reserve(config, values)
    made.edits += config.edits()
    return made


def bootloader_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "values", nargs="*", metavar="VALUE", help="such as 512M, or 512M,high 72M,low"
    )
    parser.add_argument(
        "--policy", metavar="NAME", help="the value that `setup size` names; or default"
    )
    parser.add_argument("--remove", action="store_true", help="take crashkernel= away")
    writes(parser)


def do_switch(on: bool) -> Callable[[System, argparse.Namespace], int]:
    def act(system: System, asked: argparse.Namespace) -> int:
        from crashpy.kdump.services import switch

        return carry_out(system, switch(Config.read(system), on=on), asked)

    return act


def do_tui(system: System, asked: argparse.Namespace) -> int:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Refused("it needs a terminal: `crashpy setup configure` does not")
    from crashpy.kdump import bootloader, tui
    from crashpy.kdump.services import enabled

    config = Config.read(system)
    given = bootloader.current(system)
    before = tui.fields(config, on=enabled(config), crashkernel=given)
    shown = before
    while True:
        after = tui.run(config, before, shown)
        if after is None:
            raise Refused("nothing was changed")
        try:
            plan = _filled_in(system, Config.read(system), before, after)
        except CommandError as error:
            say([hide(str(error))])
            if input("Back to the pages? [Y/n] ").strip().lower() not in ("", "y", "yes"):
                raise Refused("nothing was changed") from None
            shown = after
        else:
            return carry_out(system, plan, asked)


def _filled_in(system: System, config: Config, before: Fields, after: Fields) -> Plan:
    """What the pages ask for, as one plan."""
    from crashpy.kdump import tui
    from crashpy.kdump.services import switch

    for name, value in tui.settings(before, after):
        config.assign(name, value)
    plan = Plan(config.edits(), checks=[lambda system: _read_back(system, config)])
    plan.notes += _doubts(config) if plan.edits else ()
    parts = []
    if after["on"] != before["on"]:
        parts.append(switch(config, on=after["on"] == "yes"))
        plan.edits = config.edits()  # Debian has it in the same file
        parts[0].edits = []
    if after["crashkernel"] != before["crashkernel"]:
        parts.append(_reserve(system, after["crashkernel"].split()))
    for part in parts:
        plan.add(part)
    return plan
