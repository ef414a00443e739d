"""Where dumps go, as the distributions' kdump configuration writes it: PROTOCOL://..."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

from crashpy.command import CommandError

ALIASES = {"scp": "sftp", "smb": "cifs"}
PROTOCOLS = ("file", "ftp", "sftp", "ssh", "nfs", "cifs")


@dataclass(frozen=True)
class Url:
    """One place. Shown without the password, wherever it is shown."""

    protocol: str
    path: str  # absolute; for cifs inside the share
    host: str = ""
    port: int | None = None
    user: str = ""
    password: str | None = field(default=None, repr=False)
    share: str = ""  # cifs

    def __str__(self) -> str:
        if self.protocol == "file":
            return self.path
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        share = f"/{self.share}" if self.share else ""
        return f"{self.protocol}://{user}{host}{port}{share}{self.path}"


def parse(text: str) -> Url:
    """Raises CommandError, never with the password in it.

    User and password may hold %XX; a password may hold `@`, `:` and `/` as they are, as
    kdump's own parser took the last `@` and the first `:`. IPv6 addresses stand in brackets.
    """
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", text, re.DOTALL)
    if not found:
        if not text.startswith("/"):
            raise CommandError(f"{text}: neither an absolute path nor PROTOCOL://...")
        return Url("file", _folder(text))
    protocol, rest = found[1].lower(), found[2]
    protocol = ALIASES.get(protocol, protocol)
    if protocol not in PROTOCOLS:
        raise CommandError(f"{found[1]}: no such protocol: one of {', '.join(PROTOCOLS)}")
    if protocol == "file":
        if not rest.startswith("/"):
            raise CommandError(f"{text}: file:// needs an absolute path: file:///var/crash")
        return Url("file", _folder(rest))
    # The path may hold `@`, too: what stands before the last one that a host follows.
    user, password = "", None
    login = re.match(r"(.*)@(\[[^\]/@]*\]|[^/@:]+)(:\d*)?(/|$)", rest, re.DOTALL)
    slash = rest.find("/")
    if login and (slash < 0 or "@" in rest[:slash] or ":" in rest[:slash]):
        user, colon, secret = login[1].partition(":")
        # user:80/p@th is host:port and a path, not a login
        if colon and re.match(r"\d*/", secret) and "@" not in rest[:slash]:
            user = ""
        else:
            password = unquote(secret) if colon else None
            rest = rest[len(login[1]) + 1 :]
    place = re.match(r"(\[[^\]/]*\]|[^/:]*)(?::(\d*))?(/.*)?$", rest, re.DOTALL)
    if not place or not place[1].strip("[]"):
        raise CommandError(f"{protocol}: no host, or a wrong port: {protocol}://HOST[:PORT]/PATH")
    if place[2] and not 0 < int(place[2]) < 65536:
        raise CommandError(f"{protocol}: no such port: {place[2]}")
    host, port = place[1].strip("[]"), int(place[2]) if place[2] else None
    path, share = _folder(unquote(place[3] or "/")), ""
    if protocol == "cifs":
        share, _, below = path.strip("/").partition("/")
        if not share:
            raise CommandError("cifs: no share: cifs://HOST/SHARE/PATH")
        path = f"/{below}" if below else ""
    if protocol == "sftp" or protocol == "ssh":
        user = user or "root"
    return Url(protocol, path, host, port, unquote(user), password, share)


def _folder(path: str) -> str:
    return path.rstrip("/") or "/"
