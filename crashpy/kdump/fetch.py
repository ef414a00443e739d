"""`crashpy save fetch`: a saved dump copied here; what was fetched before is not fetched again."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from crashpy.command import CommandError
from crashpy.kdump import sums
from crashpy.kdump.layouts import kind
from crashpy.kdump.logins import add_options, login_of
from crashpy.kdump.targets import INCOMPLETE, Entry, Target, open_target
from crashpy.kdump.urls import parse


def main(words: Sequence[str]) -> int:
    """`crashpy save fetch [OPTION]... URL [DIR]`; exit status 0 or 1."""
    from crashpy.save import told

    parser = argparse.ArgumentParser(
        "crashpy save fetch",
        usage="crashpy save fetch [OPTION]... URL [DIR]",
        description="copy a saved dump here; the same line again goes on where it was cut off",
    )
    add = parser.add_argument
    add("-q", "--quiet", action="store_true", help="say nothing unless something is wrong")
    add("--no-verify", action="store_true", help="only compare sizes and checksums")
    add("url", metavar="URL", help="the folder of one dump, as `crashpy save list` names it")
    add("folder", nargs="?", default=".", metavar="DIR", help="where a folder for it is made (.)")
    add_options(parser)
    asked = parser.parse_args(words)
    with told("save fetch") as complaints:
        place = asked.url if "://" in asked.url else str(Path(asked.url).absolute())
        with open_target(parse(place), login_of(asked)) as target:
            here = Path(asked.folder, target.name)
            fetch(target, here, quiet=asked.quiet, verify=not asked.no_verify)
        if not asked.quiet:
            sys.stdout.write(f"{here}\n")
    return 1 if complaints else 0


def fetch(target: Target, here: Path, *, quiet: bool = False, verify: bool = True) -> None:
    """All files of one dump's folder. Raises CommandError."""
    files = [entry for entry in _files(target) if not entry.name.endswith(INCOMPLETE)]
    dumps = [entry for entry in files if kind(entry.name) == "dump"]
    if not dumps:
        raise CommandError(f"{target.url}: no complete dump there")
    source = target.local("")
    if source and here.exists() and source.samefile(here):
        raise CommandError(f"{here}: is the dump that is to be fetched: name another folder")
    here.mkdir(0o700, parents=True, exist_ok=True)
    noted = any(entry.name == sums.NAME for entry in files)
    expected = sums.parse(b"".join(target.read(sums.NAME))) if noted else {}
    for entry in files:
        _fetch(target, entry, here / entry.name, expected.get(entry.name), quiet=quiet)
    if verify:
        _verify([here / entry.name for entry in dumps])


def _files(target: Target) -> Iterator[Entry]:
    """What is in the folder, and in its folders, as a bundle's modules.

    A server may say any name: none leads out of the folder that it is fetched to.
    """
    for entry in target.entries():
        if not _plain(entry.name):
            continue
        if entry.kind == "file":
            yield entry
        elif entry.folder:
            for inner in target.entries(entry.name):
                if inner.kind == "file" and _plain(inner.name):
                    yield replace(inner, name=f"{entry.name}/{inner.name}")


def _plain(name: str) -> bool:
    return "/" not in name and name not in ("", ".", "..")


def _fetch(target: Target, entry: Entry, path: Path, expected: str | None, *, quiet: bool) -> None:
    """One file, under a name of its own until it is whole."""
    size = entry.size_bytes
    if path.exists():
        same = size in (None, path.stat().st_size)
        if same and expected in (None, sums.digest_of(path)):
            return
        if kind(path.name) == "dump":
            raise CommandError(f"{path}: another dump is there, or a damaged one: move it away")
    path.parent.mkdir(0o700, exist_ok=True)
    draft = path.with_name(path.name + INCOMPLETE)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    with os.fdopen(os.open(draft, flags, 0o600), "r+b") as file:
        at = file.seek(0, os.SEEK_END)
        if size is None or at > size:
            at = file.seek(0)
            file.truncate()
        if at and not quiet:
            sys.stderr.write(f"crashpy save fetch: {entry.name}: going on at byte {at}\n")
        if size is None or at < size:
            for data in target.read(entry.name, at):
                file.write(data)
        file.flush()
        os.fsync(file.fileno())
        got = file.tell()
    if size is not None and got != size:
        raise CommandError(f"{target.url}/{entry.name}: {got} of {size} bytes came: try again")
    if expected is not None and sums.digest_of(draft) != expected:
        draft.unlink()  # going on would not make it better
        raise CommandError(
            f"{target.url}/{entry.name}: what came does not have the checksum of {sums.NAME}"
        )
    draft.rename(path)


def _verify(paths: Sequence[Path]) -> None:
    from crashpy.convert import check, recognised

    files = [recognised(str(path)) for path in paths]
    try:
        findings = check(files)
    finally:
        for file in files:
            file.close()
    if findings:
        raise CommandError(f"{paths[0]}: {findings[0]}")
