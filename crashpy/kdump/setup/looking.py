"""Verbs that only look: status, check, size."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence

from crashpy.command import CommandError
from crashpy.kdump.plan import hide
from crashpy.kdump.setup.asking import (
    DONE,
    FINDINGS,
    REFUSED,
    json_option,
    say,
)
from crashpy.kdump.system import Refused, System


def do_status(system: System, asked: argparse.Namespace) -> int:
    from crashpy.kdump.status import lines, status

    found = status(system)
    if asked.json:
        say([json.dumps(dataclasses.asdict(found))])
    else:
        say(lines(found))
    return DONE if found.armed else FINDINGS


def do_check(system: System, asked: argparse.Namespace) -> int:
    from crashpy.kdump.check import check, lines

    found = [*check(system, network=not asked.offline)]
    if asked.json:
        say(json.dumps(dataclasses.asdict(finding)) for finding in found)
    else:
        say(hide(line) for line in lines(found))
    return FINDINGS if found else DONE


def check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--offline", action="store_true", help="connect to no server")


def do_size(system: System, asked: argparse.Namespace) -> int:
    from crashpy.kdump.policies import MEANT, advise, default_policy
    from crashpy.kdump.size import explain, parse_size, parse_values

    memory = system.memory_bytes if asked.memory is None else parse_size(asked.memory)
    if memory == 0:
        raise Refused("a machine has some memory: --memory 8G, say")
    machine = asked.machine or system.machine
    if asked.explain is not None:
        values = asked.explain.replace("crashkernel=", "").split()
        parse_values(values, memory)
        say(explain(values, memory))
        return DONE
    policies = [*MEANT] if asked.policy == "all" else [asked.policy or default_policy(system)]
    said = []
    for policy in policies:
        try:
            advice = advise(policy, system, machine, memory)
        except CommandError as error:
            if len(policies) == 1:
                raise
            say([f"{policy}: {error}", ""])
            continue
        said.append(advice)
        if asked.json:
            say([json.dumps(dataclasses.asdict(advice))])
            continue
        say([f"{policy}: {' '.join(f'crashkernel={value}' for value in advice.values)}"])
        say(f"    {line}" for line in (*advice.why, *explain(advice.values, memory)))
        say(f"    {line}" for line in _impossible(advice.values, memory))
        say([""] if len(policies) > 1 else [])
    return DONE if said else REFUSED


def _impossible(values: Sequence[str], memory: int | None) -> Iterator[str]:
    """Advice that this machine is too small for."""
    from crashpy.kdump.size import parse_values

    try:
        parse_values(values, memory)
    except CommandError as error:
        yield f"not here: {error}"


def size_arguments(parser: argparse.ArgumentParser) -> None:
    from crashpy.kdump.policies import POLICIES

    parser.add_argument("--policy", metavar="NAME", help=f"{', '.join(POLICIES)}, or all")
    parser.add_argument("--memory", metavar="SIZE", help="for a machine with this much: 64G")
    parser.add_argument("--machine", metavar="ARCH", help="of this architecture: aarch64")
    parser.add_argument("--explain", metavar="VALUE", help="what a value of crashkernel= means")
    json_option(parser)
