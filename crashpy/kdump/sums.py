"""SHA256SUMS beside a saved dump, as sha256sum(1) writes and reads it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

NAME = "SHA256SUMS"
_ESCAPES = {"\\n": "\n", "\\r": "\r", "\\\\": "\\"}


def text(sums: Mapping[str, str]) -> str:
    """A line for each file; in a name, a line break is escaped."""
    lines = []
    for name, digest in sums.items():
        plain = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        lines.append(f"{'' if plain == name else chr(92)}{digest}  {plain}\n")
    return "".join(lines)


def parse(data: bytes) -> dict[str, str]:
    """File -> SHA-256; what is no such line is passed over."""
    found = {}
    for line in data.decode("utf-8", "surrogateescape").splitlines():
        match = re.fullmatch(r"(\\?)([0-9a-f]{64}) [ *](.+)", line)
        if match:
            escaped, digest, name = match.groups()
            if escaped:
                name = re.sub(r"\\[nr\\]", lambda m: _ESCAPES[m[0]], name)
            found[name] = digest
    return found


def beside(folder: Path) -> dict[str, str]:
    """Those of a folder; none where there is no such file."""
    try:
        return parse((folder / NAME).read_bytes())
    except FileNotFoundError:
        return {}


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
