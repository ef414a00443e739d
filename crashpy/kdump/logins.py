"""Passwords and keys: from a URL, a file or the environment, and never shown."""

from __future__ import annotations

import argparse
import os
import stat
from pathlib import Path

from crashpy.command import CommandError
from crashpy.kdump.targets import Login

PASSWORD = "CRASHPY_PASSWORD"

EPILOG = (
    f"A password stands in the URL, in the file of --credentials, or in ${PASSWORD};\n"
    "what is in the URL, all users of the machine can see while the program runs."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of every verb that may log in somewhere."""
    group = parser.add_argument_group("logging in", EPILOG)
    add = group.add_argument
    add(
        "--credentials", metavar="FILE",
        help="lines username=, password=, domain= (mount.cifs's format); for its owner's eyes only",
    )  # fmt: skip
    add("--identity", metavar="FILE", help="private key for sftp and ssh")
    add(
        "--host-key", metavar="KEY",
        help="the server's key for sftp and ssh: BASE64, or TYPE BASE64; else known_hosts decides",
    )  # fmt: skip
    add("--known-hosts", metavar="FILE", help="instead of ~/.ssh/known_hosts")
    add("--tls", action="store_true", help="ftp over TLS")


def login_of(asked: argparse.Namespace) -> Login:
    """What these options say. Raises CommandError."""
    found = _read(Path(asked.credentials)) if asked.credentials else {}
    password = found.get("password", os.environ.get(PASSWORD))
    return Login(
        user=found.get("username", ""),
        password=password,
        domain=found.get("domain", ""),
        identity=asked.identity,
        host_key=asked.host_key,
        known_hosts=asked.known_hosts,
        tls=asked.tls,
    )


def _read(path: Path) -> dict[str, str]:
    """A file of credentials; others must not be able to read it."""
    try:
        with path.open() as file:
            status = os.fstat(file.fileno())
            if stat.S_IMODE(status.st_mode) & 0o077 or status.st_uid not in (0, os.geteuid()):
                raise CommandError(
                    f"{path}: others can read or change it: chmod 600 it, and be its owner"
                )
            lines = file.read().splitlines()
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CommandError(f"{path}: not a text file") from None
    found = {}
    for number, line in enumerate(lines, 1):
        name, equals, value = line.partition("=")
        name = {"user": "username", "pass": "password", "dom": "domain"}.get(
            name.strip().lower(), name.strip().lower()
        )
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not equals or name not in ("username", "password", "domain"):
            raise CommandError(f"{path}: line {number} is none of username=, password=, domain=")
        found[name] = value
    return found


def environment() -> dict[str, str]:
    """The environment for programs that we start: without the password."""
    return {name: value for name, value in os.environ.items() if name != PASSWORD}
