"""Where dumps go, as the distributions' kdump configuration writes it: PROTOCOL://..."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from crashpy.command import CommandError

ALIASES = {"scp": "sftp", "smb": "cifs"}
IN_USER = "@!$&'()*+,;=\\ "  # of a user's name as it is shown: what parse() takes as it is
ODD_IN_PATH = re.compile(r"[%\x00-\x1f\x7f\udc80-\udcff]")  # bytes that are no UTF-8, too
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
        return self._spelled(quote(self.user, safe=IN_USER))

    def with_password(self) -> str:
        """As parse() reads it."""
        if self.password is None:
            return str(self)
        return self._spelled(f"{quote(self.user, safe='')}:{quote(self.password, safe='')}")

    def _spelled(self, login: str) -> str:
        if self.protocol == "file":
            return self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        share = f"/{self.share}" if self.share else ""
        path = ODD_IN_PATH.sub(_quoted, f"{share}{self.path}")
        return f"{self.protocol}://{login}{'@' if login else ''}{host}{port}{path}"


# LOGIN@HOST:PORT before the first slash: the path may hold `@` and `:` as it likes.
_HOST = r"(?P<host>\[[^\]/@]*\]|[\w.-]+)"
_PLAIN = re.compile(rf"(?:(?P<login>[^/]*)@)?{_HOST}(?::(?P<port>\d*))?(?P<path>/.*)?", re.DOTALL)
# A password that holds a slash: up to the last `@` that a host follows.
_SLASHED = re.compile(rf"(?P<login>.*)@{_HOST}(?::(?P<port>\d*))?(?P<path>/.*)?", re.DOTALL)


def parse(text: str) -> Url:
    """Raises CommandError, never with the password in it.

    User and password may hold %XX; a password may hold `@` and `:` as they are, as kdump's
    own parser took the last `@` before the path and the first `:`; and `/`, where no host
    could stand before it. IPv6 addresses stand in brackets.
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
            raise CommandError("file:// needs an absolute path: file:///var/crash")
        return Url("file", _folder(rest))
    place = _PLAIN.fullmatch(rest) or (_SLASHED.fullmatch(rest) if ":" in rest else None)
    if not place or not place["host"].strip("[]"):
        raise CommandError(f"{protocol}: no host, or a wrong port: {protocol}://HOST[:PORT]/PATH")
    if place["port"] and not 0 < int(place["port"]) < 65536:
        raise CommandError(f"{protocol}: no such port: {place['port']}")
    user, colon, secret = (place["login"] or "").partition(":")
    port = int(place["port"]) if place["port"] else None
    path, share = _folder(unquote(place["path"] or "/", errors="surrogateescape")), ""
    if protocol == "cifs":
        share, _, below = path.strip("/").partition("/")
        if not share:
            raise CommandError("cifs: no share: cifs://HOST/SHARE/PATH")
        path = f"/{below}" if below else ""
    if protocol in ("sftp", "ssh"):
        user = user or "root"
    password = unquote(secret) if colon else None
    return Url(protocol, path, place["host"].strip("[]"), port, unquote(user), password, share)


def _quoted(found: re.Match[str]) -> str:
    return quote(found[0], errors="surrogateescape")


def _folder(path: str) -> str:
    return path.rstrip("/") or "/"
