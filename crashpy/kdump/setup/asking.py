"""What the verbs share: showing, asking, doing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from crashpy.kdump.plan import Plan
from crashpy.kdump.system import Refused, System

DONE, FINDINGS, WRONG, REFUSED = 0, 1, 2, 3


def say(lines: Iterable[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as a JSON object")


def writes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="show what would be done")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def carry_out(system: System, plan: Plan, asked: argparse.Namespace) -> int:
    """Show the plan, ask, and do it."""
    say(plan.lines())
    if plan.empty:
        say(["nothing to do: it is so already"] if not plan.notes else [])
        return DONE
    if asked.dry_run:
        return DONE
    if not asked.yes:
        if not sys.stdin.isatty():
            raise Refused("there is nobody to ask: give --yes, or --dry-run")
        if input("Do this? [y/N] ").strip().lower() not in ("y", "yes"):
            raise Refused("nothing was changed")
    for backup in plan.carry_out(system):
        say([f"kept: {backup}"])
    return DONE


def typed(question: str) -> str:
    """A line from whoever sits there; --yes does not stand in for it."""
    sys.stdout.write(question)
    sys.stdout.flush()
    return sys.stdin.readline()


def running(system: System, asked: argparse.Namespace) -> System:
    """A tree can be asked what would be done, as nothing is run in it."""
    return System(system.root, chroot=False) if asked.dry_run and not system.live else system
