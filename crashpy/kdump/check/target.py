"""Where dumps go: there, large enough, and reached."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from crashpy.command import CommandError
from crashpy.kdump.check.finding import Finding
from crashpy.kdump.config import Config
from crashpy.kdump.layouts import folder_name, kind
from crashpy.kdump.size import MIB, shown
from crashpy.kdump.system import Refused, System
from crashpy.kdump.urls import Url, parse
from crashpy.kdump.values import key_type

PATIENCE_SECONDS = 3  # for a server to take a connection
PORTS = {"ftp": 21, "sftp": 22, "ssh": 22, "nfs": 2049, "cifs": 445}


def target(config: Config, network: bool) -> Iterator[Finding]:
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
    if url.protocol in ("ssh", "sftp"):
        yield from _keys(config, url)
        yield from _host_key(config, url)
    if url.protocol == "ftp":
        yield Finding(
            "warning",
            f"dumps go to {url.host} by ftp",
            "the memory of this machine, and the password, cross the network for all to read",
            "use sftp or ssh where the distribution can: `crashpy setup configure target=...`",
        )
    if network and config.system.live:
        port = url.port or PORTS[url.protocol]
        if reason := unreachable(url.host, port):
            yield Finding(
                "warning",
                f"{url.host} port {port}: {reason}",
                lost,
                "start the server, or name another with `crashpy setup configure target=...`",
            )
        else:
            yield from logs_in(config, url)


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
    stays = int(keep.value) * MIB if keep and keep.value and keep.value.isdecimal() else 0
    if memory is not None and free < memory // part + stays:
        yield Finding(
            "warning",
            f"{url.path} has {shown(free)} free; a dump of {shown(memory)} of memory"
            f" may take {shown(memory // part)}",
            "the dump may be cut off, or not saved at all",
            "delete old dumps, raise level=, or name a larger disk with target=",
        )
    yield from _encrypted(system, path)
    yield from _kept(config, path)


MANY = 5  # dumps that nobody deletes


def _kept(config: Config, path: Path) -> Iterator[Finding]:
    """The dumps that are there: how many, and who may read them."""
    there = [each for each in path.iterdir() if folder_name(each.name) and each.is_dir()]
    keep = config.get("keep")
    if len(there) >= MANY and (keep is None or keep.value == "all"):
        yield Finding(
            "warning",
            f"{len(there)} dumps are in {path}, and nothing deletes old ones",
            "they fill the disk, until there is no room for the next",
            "`crashpy setup configure keep=3`, and `crashpy save prune`",
        )
    files = (file for folder in there for file in folder.iterdir() if kind(file.name) == "dump")
    open_to_all = [file for file in files if file.stat().st_mode & stat.S_IROTH]
    shut = any(not each.stat().st_mode & stat.S_IXOTH for each in (path, *path.parents))
    if open_to_all and not shut:
        yield Finding(
            "warning",
            f"{open_to_all[0]} can be read by everybody",
            "a dump holds what was in memory: passwords, keys, what users wrote",
            f"`chmod -R go= {path}`",
        )


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


def _keys(config: Config, url: Url) -> Iterator[Finding]:
    system = config.system
    asked = config.get("ssh-key")
    named = (asked.value or "") if asked else ""
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


def _host_key(config: Config, url: Url) -> Iterator[Finding]:
    system = config.system
    given = config.get("host-key")
    if given and given.value == "*":
        yield Finding(
            "warning",
            "any host key is accepted",
            "whoever answers for the server gets the memory of this machine",
            "`crashpy setup configure host-key=` and ssh to the server once",
        )
    elif not (given and given.value) and system.live and system.tool("ssh-keygen"):
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


def logs_in(config: Config, url: Url) -> Iterator[Finding]:
    """One try, as the capture environment will do it: with the key, and nobody to ask."""
    system = config.system
    if url.protocol not in ("ssh", "sftp") or url.password or system.tool("ssh") is None:
        return
    named = config.get("ssh-key")
    keys = (named.value or "").split() if named else []
    argv = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={PATIENCE_SECONDS}"]
    argv += [word for key in keys if system.exists(key) for word in ("-i", key)]
    argv += ["-p", str(url.port or 22)]
    there = f"{url.user}@{url.host}"
    # a server for files alone runs no command
    argv += ["-s", there, "sftp"] if url.protocol == "sftp" else [there, "true"]
    given = config.get("host-key")
    try:
        with _trusting(url, (given.value or "") if given else "") as options:
            system.run([argv[0], *options, *argv[1:]])
    except Refused as refused:
        yield Finding(
            "error",
            f"{url.user}@{url.host} does not let root log in: {refused}",
            "the dump cannot be sent",
            f"`ssh-copy-id -i {keys[0] if keys else '/root/.ssh/id_ed25519'}"
            f" {url.user}@{url.host}`, and log in once by hand",
        )


@contextlib.contextmanager
def _trusting(url: Url, host_key: str) -> Iterator[list[str]]:
    """ssh's options for the one host key that the configuration names, or for any."""
    kind = "" if host_key == "*" else key_type(host_key)
    if kind is None:
        yield []
        return
    with tempfile.NamedTemporaryFile("w", prefix="crashpy-") as known:
        name = url.host if url.port in (None, 22) else f"[{url.host}]:{url.port}"
        known.write(f"{name} {kind} {host_key.split()[-1]}\n" if kind else "")
        known.flush()
        strict = "yes" if kind else "no"
        files = [f"UserKnownHostsFile={known.name}", "GlobalKnownHostsFile=/dev/null"]
        words = [*files, f"StrictHostKeyChecking={strict}"]
        yield [word for pair in words for word in ("-o", pair)]


def unreachable(host: str, port: int) -> str | None:
    try:
        with socket.create_connection((host, port), PATIENCE_SECONDS):
            return None
    except TimeoutError:
        return "no answer"
    except socket.gaierror:
        return "no such host"
    except OSError as error:
        return error.strerror or "not reached"
