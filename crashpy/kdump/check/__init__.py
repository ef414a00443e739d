"""The doctor: what will go wrong at the next crash, what it will cost, what to do.

machine   armed, reserved, booted as it is set up to boot
capture   the capture environment, its network, what it does when it fails
tools     kexec and makedumpfile
target    folders, servers, keys, who may read
words     values, mail, whether it was ever tried
"""

from __future__ import annotations

from collections.abc import Iterator

from crashpy.command import CommandError
from crashpy.kdump.check import capture, machine, target, tools, words
from crashpy.kdump.check.finding import Finding
from crashpy.kdump.check.tools import KERNEL_BREAKS
from crashpy.kdump.config import Config
from crashpy.kdump.status import status
from crashpy.kdump.system import System

__all__ = ["KERNEL_BREAKS", "Finding", "check", "lines"]


def check(system: System, *, network: bool = True) -> Iterator[Finding]:
    """Everything that can be told from here. Servers are only connected to, never written."""
    found = status(system)
    try:
        config = Config.read(system)
    except CommandError as error:
        remedy = "install the distribution's kdump package"
        yield Finding("error", str(error), "nothing is saved when the machine crashes", remedy)
        yield from machine.state(system, found)
        return
    yield from machine.state(system, found)
    for findings in (
        machine.boot(config),
        machine.reservation(system),
        machine.drift(config),
        machine.kexec(config),
        machine.debug_information(system),
        capture.environment(config),
        capture.network(config),
        capture.failing(config),
        tools.tools(config),
        target.target(config, network),
        words.mail(config, network),
        words.values(config),
        words.secrets(config),
        words.tested(config, found),
    ):
        yield from findings


def lines(findings: list[Finding]) -> Iterator[str]:
    for finding in findings:
        yield f"{finding.severity}: {finding.what}"
        yield f"    so:  {finding.consequence}"
        yield f"    do:  {finding.remedy}"
    if not findings:
        yield "nothing was found: the next crash should leave a dump"
