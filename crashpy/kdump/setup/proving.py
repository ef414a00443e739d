"""`crashpy setup test`: prove that a crash leaves a dump."""

from __future__ import annotations

import argparse
from pathlib import Path

from crashpy.kdump.config import Config
from crashpy.kdump.setup.asking import (
    DONE,
    FINDINGS,
    say,
    typed,
)
from crashpy.kdump.system import Refused, System
from crashpy.kdump.writing import interruptible


def do_test(system: System, asked: argparse.Namespace) -> int:
    """Prove it: in a virtual machine, or on this one."""
    from crashpy.kdump import proof
    from crashpy.kdump.reboot import confirmed

    config = Config.read(system)
    if asked.on_this_machine and asked.result:
        raise Refused("--on-this-machine begins a test, --result looks how it ended")
    if asked.result:
        return _result(config)
    if asked.on_this_machine:
        proof.ready(config)
        say(f"note: {step}" for step in proof.STEPS)
        if not asked.dry_run:
            confirmed(typed("Type the name of this machine to crash it: "))
            proof.crash(config)
        return DONE
    return _rehearse(config, asked)


def _result(config: Config) -> int:
    from crashpy.kdump import proof
    from crashpy.kdump.plan import save_plan
    from crashpy.kdump.targets import Login

    plan = save_plan(config)
    login = Login(identity=next(iter(plan.ssh_keys), None), host_key=plan.host_key or None)
    found = proof.judged(config, remote=login)
    if found is None:
        raise Refused("nothing was ever tried here: `crashpy setup test`")
    if found != proof.read(config.system):
        proof.write(config.system, found)
    say(proof.lines(found))
    return DONE if found.state == "success" else FINDINGS


def _rehearse(config: Config, asked: argparse.Namespace) -> int:
    import tempfile

    from crashpy.kdump import proof, rehearsal
    from crashpy.kdump.size import parse_size, shown

    chosen = rehearsal.machine(
        config,
        crashkernel=asked.crashkernel or "",
        memory_bytes=parse_size(asked.memory) if asked.memory else None,
        seconds=asked.seconds,
    )
    if asked.dry_run:
        say(rehearsal.lines(chosen))
        return DONE
    begun = proof.begun(config, proof.MACHINE)
    with tempfile.TemporaryDirectory(prefix="crashpy-", dir=_roomy()) as scratch, interruptible():
        folder = rehearsal.empty_folder(asked.keep) if asked.keep else Path(scratch)
        outcome = rehearsal.rehearse(config, chosen, folder, say=lambda line: say([line]))
    if outcome.dump:
        said = f"{shown(outcome.size_bytes)} in {outcome.seconds:.0f} seconds"
        if outcome.spare_bytes is not None:
            spare = shown(outcome.spare_bytes)
            say([f"memory: {spare} of crashkernel={chosen.crashkernel} were never needed"])
        ended = begun.ends("success", dump=outcome.dump if asked.keep else said)
    else:
        ended = begun.ends("fail", why=outcome.why)
        say(f"console: {row}" for row in outcome.console)
    try:
        proof.write(config.system, ended)
    except OSError as error:
        say([f"note: not written down: {error.filename}: {error.strerror}"])
    say(proof.lines(ended))
    return DONE if outcome.dump else FINDINGS


def _roomy() -> str | None:
    """/tmp may be a file system in memory, too small for a disk."""
    return "/var/tmp" if Path("/var/tmp").is_dir() else None


def test_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--on-this-machine", action="store_true", help="crash this machine, not a virtual one")
    add("--result", action="store_true", help="after its reboot: whether a dump has come")
    add("--crashkernel", metavar="SIZE", help="of the virtual machine, instead of this one's")
    add("--memory", metavar="SIZE", help="of the virtual machine")
    add("--seconds", metavar="N", type=int, default=900, help="after which it has failed")
    add("--keep", metavar="DIR", help="leave its console and the dump there")
    add("--dry-run", action="store_true", help="show what would be done")
