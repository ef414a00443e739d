"""What the verbs of `crashpy save` have in common: the place they act on, their words."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from crashpy.command import CommandError
from crashpy.kdump.config import Config
from crashpy.kdump.logins import add_options, login_of
from crashpy.kdump.plan import SavePlan, hide, save_plan
from crashpy.kdump.system import System
from crashpy.kdump.targets import Target, open_target
from crashpy.kdump.urls import parse


def place_parser(verb: str, about: str) -> argparse.ArgumentParser:
    """Of a verb that acts on a folder or a URL: open_place() knows which."""
    usage = f"crashpy save {verb} [OPTION]... [DIR|URL]"
    parser = argparse.ArgumentParser(f"crashpy save {verb}", usage=usage, description=about)
    parser.add_argument(
        "place", nargs="?", metavar="DIR|URL", help="default: where this machine saves its dumps"
    )
    add_options(parser)
    return parser


def open_place(asked: argparse.Namespace) -> Target:
    text: str | None = asked.place
    if text is None:
        url = own_plan().target
    elif not text:
        raise CommandError("the name of the place is empty")
    else:
        url = parse(text if "://" in text else str(Path(text).absolute()))
    return open_target(url, login_of(asked))


def own_plan() -> SavePlan:
    """What this machine's configuration says of its dumps."""
    try:
        return save_plan(Config.read(System()))
    except CommandError as error:
        raise CommandError(f"name a folder or a URL, as {error}") from None


def say(lines: Iterable[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def complain(verb: str, sentence: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"crashpy save {verb}: {printable(hide(sentence))}\n")


def megabytes(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def printable(text: str) -> str:
    """A name may hold anything; a line break in it is shown as \\n."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
