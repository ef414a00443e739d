"""What values a setting may have: each check gives the value in its canonical form.

Refused says in one sentence what is wrong with it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

from crashpy.kdump.size import parse_values
from crashpy.kdump.system import Refused
from crashpy.kdump.urls import Url, parse

Check = Callable[[str], str]

# What each dump level leaves out, bit by bit: makedumpfile(8).
LEVEL_BITS = {
    1: "zero pages",
    2: "cache pages without private data",
    4: "cache pages",
    8: "user pages",
    16: "free pages",
}
FORMATS = {
    "zlib": "every page packed with zlib",
    "lzo": "every page packed with LZO: fast",
    "snappy": "every page packed with snappy: fast",
    "zstd": "every page packed with zstd: small",
    "plain": "pages as they are, in makedumpfile's file",
    "elf": "ELF, which gdb reads too",
    "raw": "/proc/vmcore as it is, nothing left out",
    "log": "the kernel's messages only, no dump",
}


ACTIONS = ("reboot", "halt", "poweroff", "shell")


def text(value: str) -> str:
    if re.search(r"[\x00-\x1f\x7f]", value):
        raise Refused("a value is one line, without control characters")
    return value


def number(low: int, high: int | None = None) -> Check:
    def check(value: str) -> str:
        most = f" to {high}" if high is not None else " on"
        if not re.fullmatch(r"[+-]?\d{1,9}", value):
            raise Refused(f'"{value}" is not a number: it goes from {low}{most}')
        if int(value) < low or (high is not None and int(value) > high):
            raise Refused(f"{value} is out of range: it goes from {low}{most}")
        return str(int(value))

    return check


def one_of(*words: str) -> Check:
    def check(value: str) -> str:
        if value not in words:
            raise Refused(f'"{value}" is not one of {", ".join(words)}')
        return value

    check.words = words  # type: ignore[attr-defined]
    return check


def boolean(value: str) -> str:
    if value.lower() in ("yes", "true", "on", "1"):
        return "yes"
    if value.lower() in ("no", "false", "off", "0"):
        return "no"
    raise Refused(f'"{value}" is neither yes nor no')


def absolute(value: str) -> str:
    if not text(value).startswith("/"):
        raise Refused(f'"{value}" is not a path that starts with /')
    return value


def mail(value: str) -> str:
    for word in text(value).split():
        if not re.fullmatch(r"[^\s@<>,;]+@[^\s@<>,;]+", word):
            raise Refused(f'"{word}" is not a mail address')
    return " ".join(value.split())


def server(value: str) -> str:
    if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?", value):
        raise Refused(f'"{value}" is not HOST or HOST:PORT')
    return value


def network(value: str) -> str:
    modes = "static|dhcp|dhcp4|dhcp6|auto6"
    if not re.fullmatch(rf"auto(:force)?|[\w.@-]+:({modes})(:force)?", value):
        raise Refused(f'"{value}" is not auto or INTERFACE:MODE with {modes.replace("|", ", ")}')
    return value


def keep(value: str) -> str:
    if value in ("all", "0"):
        return "all"
    return number(1, 999)(value)


def options(value: str) -> str:
    if re.search(r"(^|\s)crashkernel=", text(value)):
        raise Refused(
            "crashkernel= is for the kernel that may crash: see `crashpy setup bootloader`"
        )
    return value


def collector(value: str) -> str:
    for word in text(value).split():
        if re.fullmatch(r"-[clpzE]|-d[\d,]*", word):
            raise Refused(f"{word}: that is what level= and format= are for")
    return " ".join(value.split())


def target(value: str) -> str:
    """As it was given: kdump's own readers know no other spelling of it."""
    url = parse(text(value))
    if re.search(r"\s", value):
        two = url.protocol == "file"
        why = ": kdump's own scripts would take it for two" if two else ": write %20"
        raise Refused(f"a target holds no blank{why}")
    if url.protocol == "nfs" and url.user:
        raise Refused("nfs knows no login: the server's exports say who may write")
    return value


def targets(value: str) -> str:
    """SLES 11 splits a dump among several, with blanks between them."""
    for word in text(value).split() or [value]:
        parse(word)
    return value


def reservation(value: str) -> str:
    """SUSE's own spelling of crashkernel=: with its name in front of each value."""
    if value != "auto":
        words = text(value).split()
        if not words or any(not word.startswith("crashkernel=") for word in words):
            raise Refused(f'"{value}" is neither auto nor crashkernel=SIZE')
        parse_values([word.removeprefix("crashkernel=") for word in words])
    return value


def like(pattern: str, example: str) -> Check:
    """Values of one form."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, text(value)):
            raise Refused(f'"{value}" is not {example}')
        return value

    return check


def host_key(value: str) -> str:
    """As ssh-keyscan(1) prints it behind the host's name, with its type or without; * for any."""
    if value != "*" and key_type(value) is None:
        raise Refused(f'"{value}" is no host key: its base64 text as in known_hosts, or * for any')
    return value


def key_type(value: str) -> str | None:
    """The type that a key's base64 text begins with."""
    words = text(value).split()
    try:
        blob = base64.b64decode(words[-1] if words else "", validate=True)
        kind = blob[4 : 4 + int.from_bytes(blob[:4], "big")].decode("ascii")
    except ValueError:
        return None
    return kind if words[:-1] in ([], [kind]) and re.fullmatch(r"[\w@.-]+", kind) else None


export = like(r"[^\s:/]+:/\S*", "SERVER:/EXPORT")
login = like(r"[^\s@]+@[^\s@:/]+", "USER@SERVER")
device = like(r"(/dev/|(PART)?(UUID|LABEL)=)\S+", "/dev/NAME, UUID=... or LABEL=...")


def spelled(url: Url) -> str:
    """A URL with its password, as parse() reads it."""
    return url.with_password()
