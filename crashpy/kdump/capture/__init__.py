"""`crashpy capture`: what runs between a crash and the reboot that follows it.

cpio, parts     an initial RAM disk, and what goes into one
disks, engine   where the dump goes, and who saves it
image           the standalone capture environment; environment/ is what it runs
hooks           dracut's and initramfs-tools' instead, with our save step in them
run             the save step
memory          how much memory each takes, as measured

Rationale: everything about the surroundings (devices, network, mounting, the reboot) is
done by one shell script, whichever environment and engine there are, so that makedumpfile
needs no Python in the memory that was reserved.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crashpy.command import CommandError
from crashpy.kdump.plan import hide
from crashpy.kdump.system import System

if TYPE_CHECKING:
    from crashpy.kdump.capture.image import Built, Wanted

DONE, WRONG, REFUSED = 0, 2, 3


def capture(words: Sequence[str]) -> int:
    """Run one verb; errors become a sentence on standard error."""
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(usage())
        return DONE if words else WRONG
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        sys.stderr.write(f'crashpy capture: "{verb}" is no verb of it: see `crashpy capture -h`\n')
        return WRONG
    about, arguments, act = VERBS[verb]
    parser = argparse.ArgumentParser(f"crashpy capture {verb}", description=about)
    arguments(parser)
    try:
        return act(parser.parse_args(rest))
    except CommandError as error:
        sys.stderr.write(f"crashpy capture {verb}: {hide(str(error))}\n")
    except BrokenPipeError:
        raise  # who reads our words has had enough: the program's affair
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"crashpy capture {verb}: {where}{error.strerror or error}\n")
    except KeyboardInterrupt:
        sys.stderr.write(f"\ncrashpy capture {verb}: interrupted\n")
    return REFUSED


def usage() -> str:
    lines = ["usage: crashpy capture VERB [OPTION]...", ""]
    lines += [f"  {verb:10} {about}" for verb, (about, _, _) in VERBS.items()]
    return "".join(f"{line}\n" for line in lines)


def _root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", metavar="DIR", default="/", help="the system in DIR")


def _system(asked: argparse.Namespace) -> System:
    return System.at(asked.root)


def _contents(parser: argparse.ArgumentParser) -> None:
    """What both an image and a staged folder may be told."""
    from crashpy.kdump.capture.engine import ENGINES

    add = parser.add_argument
    _root(parser)
    add("--kernel", metavar="RELEASE", default="", help="instead of the one that runs")
    add("--engine", choices=ENGINES, default="auto", help="who saves the dump")
    add("--module", metavar="NAME", action="append", default=[], help="one more module")
    add("--generic", action="store_true", help="drivers for any machine, not only for this one")
    add("--disk", metavar="DEVICE[:FS]", default="", help="what a local target is on")
    add("--ip", metavar="SPEC", default="", help="the network, as ip= on a kernel's command line")
    add("--timeout", metavar="SECONDS", type=int, default=3600, help="reboot after so long")


def _wanted(asked: argparse.Namespace, packing: str = "") -> Wanted:
    from crashpy.kdump.capture.image import Wanted

    return Wanted(
        asked.kernel, asked.engine, tuple(asked.module), asked.generic, asked.disk, asked.ip,
        asked.timeout, packing,
    )  # fmt: skip


def _image_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", help="the file to write")
    parser.add_argument(
        "--packing", choices=("zstd", "gzip", "none"), default="", help="of the image"
    )
    _contents(parser)


def _image(asked: argparse.Namespace) -> int:
    from crashpy.kdump.capture.image import build

    out = Path(asked.out)
    built = build(_system(asked), _wanted(asked, asked.packing), out)
    sizes = f"{built.packed_bytes >> 20} MiB packed, {built.unpacked_bytes >> 20} MiB unpacked"
    sys.stdout.write(f"{out}: {_described(built)}, {sizes}\n")
    return DONE


def _stage_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="what the image is made of")
    _contents(parser)


def _stage(asked: argparse.Namespace) -> int:
    from crashpy.kdump.capture.image import stage

    built = stage(_system(asked), _wanted(asked), Path(asked.folder))
    sys.stdout.write(f"crashpy: {_described(built)}, {built.unpacked_bytes >> 20} MiB\n")
    return DONE


def _described(built: Built) -> str:
    why = f" ({built.engine.why})" if built.engine.why else ""
    return f"kernel {built.release}, engine {built.engine.name}{why}"


def _install_arguments(parser: argparse.ArgumentParser) -> None:
    from crashpy.kdump.capture.hooks import BUILDERS

    add = parser.add_argument
    _root(parser)
    add("--with", dest="builder", choices=[*BUILDERS], default="", help="that one")
    add("--kernel", metavar="RELEASE", default="", help="instead of the one that runs")
    add("--out", metavar="FILE", default="", help="instead of the distribution's place for it")
    add("--no-build", action="store_true", help="write the hooks only")
    _writes(parser)


def _writes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="show what would be done")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _install(asked: argparse.Namespace) -> int:
    from crashpy.kdump.capture.hooks import builder, install
    from crashpy.kdump.setup.asking import carry_out

    system = _system(asked)
    plan = install(
        system, builder(system, asked.builder),
        release=asked.kernel, out=asked.out, build=not asked.no_build,
    )  # fmt: skip
    return carry_out(system, plan, asked)


def _uninstall_arguments(parser: argparse.ArgumentParser) -> None:
    _root(parser)
    _writes(parser)


def _uninstall(asked: argparse.Namespace) -> int:
    from crashpy.kdump.capture.hooks import uninstall
    from crashpy.kdump.setup.asking import carry_out

    system = _system(asked)
    return carry_out(system, uninstall(system), asked)


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("core", nargs="?", default="/proc/vmcore", help="the crashed memory")


def _run(asked: argparse.Namespace) -> int:
    from crashpy.kdump.capture.run import run

    return run(asked.core)


VERBS: dict[
    str,
    tuple[
        str,
        Callable[[argparse.ArgumentParser], None],
        Callable[[argparse.Namespace], int],
    ],
] = {
    "image": ("write an initial RAM disk for the capture kernel", _image_arguments, _image),
    "stage": (
        "put the environment into a folder: what the hooks run",
        _stage_arguments,
        _stage,
    ),
    "install": (
        "hooks for dracut or initramfs-tools, and the environment built with them",
        _install_arguments,
        _install,
    ),
    "uninstall": ("remove those hooks", _uninstall_arguments, _uninstall),
    "run": ("save the dump: what the capture environment runs", _run_arguments, _run),
}
