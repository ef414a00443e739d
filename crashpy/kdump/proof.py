"""Whether a crash has ever left a dump here: tried, and written down.

A test on the machine itself ends in a reboot, so that what was begun must outlive it: a
marker says `pending` until somebody looks whether a dump has come.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from crashpy.command import CommandError
from crashpy.kdump.config import Config
from crashpy.kdump.plan import SavePlan, save_plan
from crashpy.kdump.system import Refused, System
from crashpy.kdump.urls import Url
from crashpy.kdump.writing import replace_file

if TYPE_CHECKING:
    from crashpy.kdump.targets import Login, Target

FILE = "/var/lib/crashpy/proof.json"
HERE, MACHINE = "this machine", "a virtual machine"
TRIGGER = "/proc/sysrq-trigger"


@dataclass(frozen=True)
class Proof:
    """One try, and how it ended."""

    how: str  # HERE or MACHINE
    state: str  # pending, success, fail
    started: str  # UTC
    release: str  # of the kernel
    settings: str  # a digest of the configuration that was tried
    boot_id: str = ""
    before: tuple[str, ...] = ()  # the dumps there were
    ended: str = ""
    dump: str = ""
    why: str = ""

    def ends(self, state: str, *, dump: str = "", why: str = "") -> Proof:
        return dataclasses.replace(self, state=state, ended=now(), dump=dump, why=why)


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")


def begun(config: Config, how: str, before: tuple[str, ...] = ()) -> Proof:
    system = config.system
    return Proof(
        how=how,
        state="pending",
        started=now(),
        release=system.release or "",
        settings=digest(config),
        boot_id=system.fact("/proc/sys/kernel/random/boot_id") or "",
        before=before,
    )


def digest(config: Config) -> str:
    """Changes when what the configuration says changes, not when its comments do."""
    rows = [(name, config.native(name).value) for name in sorted(config.dialect.variables)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def read(system: System) -> Proof | None:
    text = system.read(FILE)
    if text is None:
        return None
    try:
        rows = json.loads(text)
        return Proof(**{**rows, "before": tuple(rows["before"])})
    except (ValueError, TypeError, KeyError):
        raise Refused(f"{system.shown(FILE)}: damaged: remove it, and test again") from None


def write(system: System, proof: Proof) -> None:
    path = system.path(FILE)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    data = json.dumps(dataclasses.asdict(proof), indent=1).encode() + b"\n"
    replace_file(path, data, like=path, private=True)


# Whether a dump has come.


def judged(config: Config, *, remote: Login | None = None) -> Proof | None:
    """The last try as it stands now. A server is asked only with a login."""
    proof = read(config.system)
    if proof is None or proof.state != "pending":
        return proof
    if (config.system.fact("/proc/sys/kernel/random/boot_id") or "") == proof.boot_id:
        return proof  # it has not crashed yet
    plan = save_plan(config)
    if plan.target.protocol != "file" and remote is None:
        return proof
    try:
        found = [dump for dump in dumps(config, plan, remote) if dump[0] not in proof.before]
    except CommandError as error:
        return dataclasses.replace(proof, why=str(error))
    whole = [name for name, state in found if state == "complete"]
    if whole:
        return proof.ends("success", dump=whole[-1])
    why = f"{found[-1][0]} is {found[-1][1]}" if found else f"no dump came to {plan.target}"
    return proof.ends("fail", why=why)


def dumps(config: Config, plan: SavePlan, login: Login | None) -> Iterator[tuple[str, str]]:
    """The dumps at the target, with what they are, the oldest first."""
    from crashpy.kdump.inventory import dumps_below

    with _place(config, plan, login) as place:
        for dump in dumps_below(place, details=False):
            state = dump.state
            path = place.local(f"{dump.folder}/{dump.files[0]}") if dump.files else None
            if state == "complete" and path and not _opens(path):
                state = "no dump that can be read"
            yield f"{str(plan.target).rstrip('/')}/{dump.folder}", state


def _opens(path: Path) -> bool:
    from crashpy.vmcore.recognise import recognise

    try:
        return recognise(str(path)) is not None
    except CommandError:
        return False


def _place(config: Config, plan: SavePlan, login: Login | None) -> Target:
    from crashpy.kdump.targets import FileTarget, open_target

    if plan.target.protocol != "file":
        return open_target(plan.target, login)
    folder = f"{_mounted(config.system, plan.device)}{plan.target.path}"
    return FileTarget(Url("file", folder), config.system.path(folder))


def _mounted(system: System, device: str) -> str:
    """Where a target that is mounted for the dump alone is mounted now."""
    if not device:
        return ""
    node = device.partition(" ")[2]
    for line in (system.fact("/proc/self/mounts") or "").splitlines():
        words = line.split()
        if words[0] == node:
            return words[1].rstrip("/")
    raise Refused(f"{node} is not mounted: mount it, so that its dumps can be seen")


# A crash of this machine.


def crash(config: Config) -> None:
    """Everything written that can be, then the crash. It does not come back."""
    plan = save_plan(config)
    there: tuple[str, ...] = ()
    if plan.target.protocol == "file":
        there = tuple(name for name, _ in dumps(config, plan, None))
    write(config.system, begun(config, HERE, there))
    os.sync()
    trigger = config.system.path(TRIGGER)
    for letter, seconds in (("s", 3), ("u", 3), ("c", 10)):
        trigger.write_text(letter)
        time.sleep(seconds)
    raise Refused(f"{TRIGGER} took the c, and yet the machine runs on")


def ready(config: Config) -> None:
    """Refused says why a crash now would be for nothing."""
    system = config.system
    if not system.live:
        raise Refused("--on-this-machine crashes the running kernel: it does not go with --root")
    if os.geteuid() != 0:
        raise Refused("only root may crash the machine")
    if not system.loaded:
        raise Refused("no capture kernel is loaded: `crashpy setup status` says why")
    if not system.exists(TRIGGER):
        raise Refused(f"there is no {TRIGGER}: the kernel was built without CONFIG_MAGIC_SYSRQ")
    save_plan(config)  # what cannot be saved is refused before, not after


STEPS = (
    "this machine will crash NOW: everything that runs on it is lost, and it reboots",
    "first, as the guide has it: runlevel 1 (`systemctl isolate rescue.target`, or `init 1`),"
    " `umount -a`, `mount -o remount,ro /` (`device is busy` is to be expected for /)",
    "the screen may freeze while the dump is written: do not reset the machine",
    "then SysRq s (write), u (remount read-only), c (crash)",
    "after the reboot `crashpy setup test --result` says whether a dump has come",
)


def lines(proof: Proof) -> Iterator[str]:
    yield f"tried:        on {proof.how}, {proof.started} UTC, Linux {proof.release or '--'}"
    yield f"result:       {proof.state}{f', {proof.ended} UTC' if proof.ended else ''}"
    if proof.dump:
        yield f"dump:         {proof.dump}"
    if proof.why:
        yield f"why:          {proof.why}"


def changed(config: Config, proof: Proof) -> list[str]:
    """What is no longer as it was tried."""
    rows = {
        "the kernel": proof.release == (config.system.release or ""),
        "the configuration": proof.settings == digest(config),
    }
    return [what for what, same in rows.items() if not same]
