"""Armed or not, and why: what the machine will do when it crashes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from crashpy.command import CommandError
from crashpy.kdump.config import Config, settings
from crashpy.kdump.dialects import Value
from crashpy.kdump.dialects.base import capture_initrd
from crashpy.kdump.proof import Proof, judged
from crashpy.kdump.reboot import started_by_kexec
from crashpy.kdump.services import enabled, unit
from crashpy.kdump.size import parse_values, reserved, shown
from crashpy.kdump.system import System


@dataclass(frozen=True)
class Status:
    """What was found; None where it could not be told."""

    armed: bool | None
    why: list[str]  # sentences, when it is not armed
    distribution: str | None
    dialect: str | None
    release: str | None  # of the running kernel
    crashkernel: list[str] | None  # of its command line
    reserved_bytes: int | None
    loaded: bool | None
    next_loaded: bool | None  # a kernel for a fast reboot
    by_kexec: bool | None  # the running kernel was started past the boot loader
    unit: str | None
    enabled: bool | None
    lockdown: str | None
    secure_boot: bool | None
    damage: str | None = None  # why the configuration cannot be read
    settings: dict[str, Value] = field(default_factory=dict)
    stale: list[str] = field(default_factory=list)  # files newer than the capture initrd
    proof: Proof | None = None  # the last `setup test`


def status(system: System) -> Status:
    """Look at the machine; nothing is changed."""
    config: Config | None = None
    damage: str | None = None
    try:
        config = Config.read(system)
    except CommandError as error:
        damage = str(error)
    why = [damage] if damage else []
    name = unit(config) if config else None
    on = enabled(config) if config else None
    loaded = system.loaded
    given = system.crashkernel if system.cmdline is not None else None
    if loaded is False:
        why += _reasons(system, given, name, on)
    elif loaded is None:
        why.append(
            "whether a capture kernel is loaded cannot be told: no /sys/kernel/kexec_crash_loaded"
        )
    return Status(
        armed=loaded,
        why=[] if loaded else why,
        distribution=system.distribution,
        dialect=config.dialect.title if config else None,
        release=system.release,
        crashkernel=given,
        reserved_bytes=system.reserved_bytes,
        loaded=loaded,
        next_loaded=system.next_loaded,
        by_kexec=started_by_kexec(system),
        unit=name,
        enabled=on,
        lockdown=system.lockdown,
        secure_boot=system.secure_boot,
        damage=damage,
        settings=dict(settings(config)) if config else {},
        stale=stale(config) if config else [],
        proof=_proof(config) if config else None,
    )


def _reasons(
    system: System, given: list[str] | None, name: str | None, on: bool | None
) -> Iterator[str]:
    size, memory = system.reserved_bytes, system.memory_bytes
    if not given and not size:
        yield "the kernel was started without crashkernel=: `crashpy setup bootloader`, then reboot"
        return
    if size == 0:
        try:
            wanted = reserved(given or [], memory) if memory else None
            parse_values(given or [], memory)
        except CommandError as error:
            yield f"the kernel reserved nothing: {error}"
            return
        if wanted == 0:
            words = " ".join(given or [])
            yield f"the kernel reserved nothing: no range of {words} holds the memory there is"
        else:
            yield "the kernel could not reserve what crashkernel= asks for: see its messages"
        return
    if name is not None and on is False:
        yield f"{name} is off, nothing loads a capture kernel: `crashpy setup enable`"
    yield "no capture kernel is loaded: `crashpy setup load`"


def _proof(config: Config) -> Proof | None:
    try:
        return judged(config)
    except CommandError:
        return None  # damaged: the check says so


def stale(config: Config) -> list[str]:
    """Files that changed since the capture environment was built from them.

    Debian's reads its configuration when it runs: only its sysctls are built in.
    """
    system = config.system
    initrd = capture_initrd(system, system.release or "")
    if initrd is None:
        return []
    built = system.path(initrd).stat().st_mtime
    names = config.dialect.files if config.dialect.name != "debian" else ("/etc/kdump/sysctl.conf",)
    return [n for n in names if system.exists(n) and system.path(n).stat().st_mtime > built]


def _tested(proof: Proof | None) -> str:
    if proof is None:
        return "never: `crashpy setup test`"
    why = f": {proof.why}" if proof.why else ""
    return f"{proof.state}, on {proof.how}, {proof.ended or proof.started} UTC{why}"


def lines(found: Status) -> Iterator[str]:
    """The status as it is shown."""
    answer = {True: "yes", False: "no", None: "cannot be told"}
    yield f"armed:        {answer[found.armed]}"
    for sentence in found.why:
        yield f"              {sentence}"
    given = found.crashkernel
    words = "--" if given is None else " ".join(f"crashkernel={word}" for word in given) or "none"
    size = "--" if found.reserved_bytes is None else shown(found.reserved_bytes)
    yield f"reserved:     {size} ({words})"
    boot = {True: "on", False: "off", None: "--"}[found.enabled]
    yield f"at boot:      {boot} ({found.unit or 'no unit'})"
    by_kexec = ", started by kexec, past the boot loader" if found.by_kexec else ""
    yield f"kernel:       {found.release or '--'}{by_kexec}"
    if found.next_loaded:
        yield "next:         a kernel is loaded for a fast reboot"
    yield f"lockdown:     {found.lockdown or '--'}, Secure Boot {answer[found.secure_boot]}"
    yield f"system:       {found.distribution or '--'}"
    yield f"tested:       {_tested(found.proof)}"
    if found.damage and found.armed:
        yield f"damaged:      {found.damage}"
    for name in found.stale:
        yield f"stale:        {name} is newer than the capture environment: it must be rebuilt"
    if found.settings:
        yield ""
    width = max((len(name) for name in found.settings), default=0)
    for name, value in found.settings.items():
        text = "(computed)" if value.value is None else value.value or '""'
        yield f"{name:{width}}  {text}  [{value.origin}]"
