"""The doctor: what will go wrong at the next crash, what it will cost, what to do."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crashpy.command import CommandError
from crashpy.kdump.config import Config
from crashpy.kdump.proof import changed, read
from crashpy.kdump.services import enabled, unit
from crashpy.kdump.size import MIB, need, shown
from crashpy.kdump.status import Status, stale, status
from crashpy.kdump.system import Refused, System
from crashpy.kdump.urls import Url, parse

PATIENCE_SECONDS = 3  # for a server to take a connection
PORTS = {"ftp": 21, "sftp": 22, "ssh": 22, "nfs": 2049, "cifs": 445}


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    severity: str  # error: there will be no dump; warning: there may be none, or a bad one
    what: str
    consequence: str
    remedy: str


def check(system: System, *, network: bool = True) -> Iterator[Finding]:
    """Everything that can be told from here. Servers are only connected to, never written."""
    found = status(system)
    try:
        config = Config.read(system)
    except CommandError as error:
        remedy = "install the distribution's kdump package"
        yield Finding("error", str(error), "nothing is saved when the machine crashes", remedy)
        yield from _machine(system, found)
        return
    yield from _machine(system, found)
    yield from _boot(config)
    yield from _reservation(system)
    yield from _environment(config)
    yield from _tools(config)
    yield from _target(config, network)
    yield from _mail(config, network)
    yield from _values(config)
    yield from _proof(config, found)


def _machine(system: System, found: Status) -> Iterator[Finding]:
    if found.loaded is False:
        for sentence in found.why:
            what, _, remedy = sentence.partition(": `")
            yield Finding(
                "error",
                what,
                "a crash leaves no dump",
                f"`{remedy}" if remedy else "`crashpy setup status`",
            )
    elif found.loaded is None and system.live:
        yield Finding(
            "error",
            "this kernel has no /sys/kernel/kexec_crash_loaded",
            "it cannot load a capture kernel",
            "use a kernel with CONFIG_KEXEC and CONFIG_CRASH_DUMP, outside a container",
        )
    if found.by_kexec:
        yield Finding(
            "warning",
            "this kernel was started by kexec, not by the boot loader",
            "what changed in the boot loader since, crashkernel= say, does not hold yet",
            "reboot through the firmware before relying on it",
        )


def _boot(config: Config) -> Iterator[Finding]:
    if config.dialect.name == "debian" and config.native("USE_KDUMP").value == "0":
        yield Finding(
            "error",
            f"USE_KDUMP is 0 in {config.dialect.files[0]}",
            "kdump-tools loads no capture kernel",
            "`crashpy setup enable`",
        )
    if enabled(config) is False:
        yield Finding(
            "error",
            f"{unit(config)} is off",
            "after the next boot a crash leaves no dump",
            "`crashpy setup enable`",
        )


def _reservation(system: System) -> Iterator[Finding]:
    size = system.reserved_bytes
    if not size:
        return
    try:
        wanted = sum(part for _, part in need(system, system.machine))
    except (Refused, OSError):
        return
    if wanted > size:
        yield Finding(
            "warning",
            f"{shown(size)} are reserved, and about {shown(wanted)} are needed",
            "the capture kernel may run out of memory before it has saved anything",
            f"`crashpy setup bootloader {-(-wanted // (32 * MIB)) * 32}M`",
        )


def _environment(config: Config) -> Iterator[Finding]:
    system = config.system
    for name in stale(config):
        yield Finding(
            "warning",
            f"{name} changed after the capture environment was built",
            "what it says now is not what happens at a crash",
            {"suse": "`mkdumprd -f`", "rhel": "`kdumpctl rebuild`"}.get(
                config.dialect.name, "`kdump-config unload` and `kdump-config load`"
            ),
        )
    if system.locked:
        kexec = config.native(config.dialect.simple["kexec"]).value or ""
        if re.search(r"(^|\s)(-c|--kexec-syscall)(\s|$)", kexec):
            yield Finding(
                "error",
                "the kernel is locked down, and kexec is told to use -c",
                "loading the capture kernel is refused",
                "`crashpy setup configure kexec=-s`",
            )


def _tools(config: Config) -> Iterator[Finding]:
    system = config.system
    for tool, package in (("kexec", "kexec-tools"), ("makedumpfile", "makedumpfile")):
        if system.tool(tool) is None:
            yield Finding(
                "error", f"there is no {tool}", "no dump can be made", f"install {package}"
            )
    if system.tool("makedumpfile") is None:
        return
    try:
        said = system.run(["makedumpfile", "-v"])
    except Refused:
        return
    packing = config.get("format")
    if packing and packing.value and re.search(rf"{packing.value}\s*disabled", said):
        yield Finding(
            "warning",
            f"this makedumpfile was built without {packing.value}",
            "it writes dumps that are not packed, and reports no error",
            "`crashpy setup configure format=zlib`",
        )
    found = re.search(r"version (\d+)\.(\d+)\.(\d+)", said)
    kernel = re.match(r"(\d+)\.(\d+)", system.release or "")
    if found and kernel:
        version = tuple(int(part) for part in found.groups())
        release = tuple(int(part) for part in kernel.groups())
        for since, least in KERNEL_BREAKS:
            if release >= since and version < least:
                yield Finding(
                    "error",
                    f"makedumpfile {'.'.join(found.groups())} is older than what Linux"
                    f" {kernel[0]} needs, {'.'.join(map(str, least))}",
                    "its dumps are too large, or lack pages in use, without an error",
                    "install a newer makedumpfile, or `crashpy setup configure level=1`",
                )
                break


# Kernels that changed what tells one kind of page from another, newest first, and the
# makedumpfile that follows: its commits c1a9301, 72c3414, 985e575, 9661c1d, 446c4f6.
KERNEL_BREAKS = (
    ((6, 16), (1, 7, 8)),
    ((6, 12), (1, 7, 7)),
    ((6, 9), (1, 7, 6)),
    ((6, 6), (1, 7, 4)),
    ((6, 3), (1, 7, 3)),
)


def _target(config: Config, network: bool) -> Iterator[Finding]:
    lost = "the dump cannot be saved"
    try:
        value = config.get("target")
        if value is None or value.value is None:
            return
        if config.dialect.name == "rhel" and " " in value.value:
            return  # a file system that is mounted for the dump alone
        url = parse(value.value)
    except CommandError as error:
        yield Finding("error", str(error), lost, "`crashpy setup configure target=...`")
        return
    if url.protocol == "file":
        yield from _folder(config, url)
        return
    if url.protocol in ("ssh", "sftp") and config.system.live:
        yield from _ssh(config, url)
    if network and config.system.live:
        port = url.port or PORTS[url.protocol]
        if reason := _unreachable(url.host, port):
            yield Finding(
                "warning",
                f"{url.host} port {port}: {reason}",
                lost,
                "start the server, or name another with `crashpy setup configure target=...`",
            )


def _folder(config: Config, url: Url) -> Iterator[Finding]:
    system = config.system
    path = system.path(url.path)
    if not path.is_dir():
        yield Finding(
            "error",
            f"{url.path}: there is no such folder",
            "the dump cannot be saved, or it is saved below the mount point of another disk",
            f"mount what it is on, or `mkdir -p {url.path}`",
        )
        return
    found = os.statvfs(path)
    if found.f_flag & os.ST_RDONLY:
        yield Finding(
            "error",
            f"{url.path} is mounted read-only",
            "the dump cannot be saved",
            "mount it for writing",
        )
    free, memory = found.f_bavail * found.f_frsize, system.memory_bytes
    level = config.get("level")
    part = 1 if level and level.value == "0" else 4  # pages in use of a level 31, packed
    keep = config.get("free")
    stays = int(keep.value) * MIB if keep and keep.value and keep.value.isdigit() else 0
    if memory is not None and free < memory // part + stays:
        yield Finding(
            "warning",
            f"{url.path} has {shown(free)} free; a dump of {shown(memory)} of memory"
            f" may take {shown(memory // part)}",
            "the dump may be cut off, or not saved at all",
            "delete old dumps, raise level=, or name a larger disk with target=",
        )
    yield from _encrypted(system, path)


def _encrypted(system: System, path: Path) -> Iterator[Finding]:
    """A dm-crypt device below the folder: the capture kernel must open it again."""
    device = path.stat().st_dev
    node = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    if (system.fact(f"{node}/dm/uuid") or "").startswith("CRYPT-"):
        yield Finding(
            "warning",
            f"{path} is on an encrypted disk",
            "nobody types its passphrase while the dump is saved, and opening it takes up to 1 GiB",
            "save to another disk or a server: `crashpy setup configure target=...`",
        )


def _ssh(config: Config, url: Url) -> Iterator[Finding]:
    system = config.system
    named = (config.get("ssh-key") or config.native(config.dialect.simple["level"])).value or ""
    keys = named.split() or [f"/root/.ssh/id_{kind}" for kind in ("ed25519", "ecdsa", "rsa")]
    if url.password is None and not any(system.exists(key) for key in keys):
        yield Finding(
            "error",
            f"{keys[0]}: there is no such key" if named else "root has no key to log in with",
            f"{url.host} does not let the capture environment in",
            f"`ssh-keygen -f {keys[0]}`, then `ssh-copy-id -i {keys[0]} {url.user}@{url.host}`",
        )
    for key in keys:
        if system.exists(key) and system.path(key).stat().st_mode & 0o077:
            yield Finding(
                "error",
                f"{key} can be read by others than its owner",
                "ssh refuses to use it",
                f"`chmod 600 {key}`",
            )
    given = config.get("host-key")
    if given and given.value == "*":
        yield Finding(
            "warning",
            "any host key is accepted",
            "whoever answers for the server gets the memory of this machine",
            "`crashpy setup configure host-key=` and ssh to the server once",
        )
    elif not (given and given.value) and system.tool("ssh-keygen"):
        name = url.host if url.port in (None, 22) else f"[{url.host}]:{url.port}"
        known = "/root/.ssh/known_hosts"
        try:
            system.run(["ssh-keygen", "-F", name, "-f", known])
        except Refused:
            yield Finding(
                "error",
                f"the host key of {name} is not in {known}",
                "the capture environment does not trust the server",
                f"`ssh {url.user}@{url.host}` once, as root, and compare the key",
            )


def _unreachable(host: str, port: int) -> str | None:
    try:
        with socket.create_connection((host, port), PATIENCE_SECONDS):
            return None
    except TimeoutError:
        return "no answer"
    except socket.gaierror:
        return "no such host"
    except OSError as error:
        return error.strerror or "not reached"


def _mail(config: Config, network: bool) -> Iterator[Finding]:
    server, to = config.get("smtp-server"), config.get("mail-to")
    if server is None or to is None:
        return
    if to.value and not server.value:
        yield Finding(
            "warning",
            f"{to.value} is to be told, and no mail server is named",
            "nobody is told about a dump",
            "`crashpy setup configure smtp-server=HOST`",
        )
    if server.value and not to.value:
        yield Finding(
            "warning",
            "a mail server is named, and nobody to tell",
            "nobody is told about a dump",
            "`crashpy setup configure mail-to=ADDRESS`",
        )
    if server.value and network and config.system.live:
        host, _, port = (
            server.value.rpartition(":") if ":" in server.value else (server.value, "", "25")
        )
        if port.isdigit() and (reason := _unreachable(host.strip("[]"), int(port))):
            yield Finding(
                "warning",
                f"{host} port {port}: {reason}",
                "nobody is told about a dump",
                "start the mail server, or name another with `setup configure smtp-server=`",
            )


def _values(config: Config) -> Iterator[Finding]:
    """Values that the distribution's scripts would ignore or trip over."""
    known = {(v.file, v.name): v for v in config.dialect.variables.values()}
    for number, document in enumerate(config.documents):
        for entry in document.entries:
            where = f"{document.name}:{entry.line}"
            variable = known.get((number, entry.name))
            if variable is None:
                if document.name.endswith(".conf"):
                    yield Finding(
                        "error",
                        f"{where}: {entry.name}: no such directive",
                        "kdumpctl refuses the whole file",
                        "remove the line",
                    )
                continue
            if entry.value and variable.deprecated:
                yield Finding(
                    "error" if document.name.endswith(".conf") else "warning",
                    f"{where}: {entry.name}: {variable.deprecated}",
                    "kdumpctl refuses the whole file",
                    "remove the line",
                )
            elif entry.value:
                try:
                    variable.check(entry.value)
                except CommandError as error:
                    yield Finding(
                        "warning",
                        f"{where}: {entry.name}: {error}",
                        "the value is ignored, or the line is an error",
                        "correct it with `crashpy setup configure`",
                    )


def _proof(config: Config, found: Status) -> Iterator[Finding]:
    """Whether it was ever tried, and with what is there now."""
    proof = found.proof
    if proof is None:
        try:
            proof = read(config.system)
        except CommandError as error:
            yield Finding("warning", str(error), "whether it was tested is not known", "remove it")
            return
    again = "`crashpy setup test`"
    if proof is None:
        what = "nobody has tried whether a crash leaves a dump here"
        yield Finding("warning", what, "whether it does shows at the next crash", again)
    elif proof.state == "fail":
        what = f"the test of {proof.started} UTC left no dump: {proof.why}"
        yield Finding("error", what, "the next crash leaves none either", again)
    elif proof.state == "pending":
        what = f"the test of {proof.started} UTC has no result yet"
        look = "`crashpy setup test --result`, after the crash"
        yield Finding("warning", what, "whether a crash leaves a dump is not known", look)
    elif changed_since := changed(config, proof):
        what = f"{' and '.join(changed_since)} changed after the test of {proof.started} UTC"
        yield Finding("warning", what, "what was tested is not what is there now", again)


def lines(findings: list[Finding]) -> Iterator[str]:
    for finding in findings:
        yield f"{finding.severity}: {finding.what}"
        yield f"    so:  {finding.consequence}"
        yield f"    do:  {finding.remedy}"
    if not findings:
        yield "nothing was found: the next crash should leave a dump"
