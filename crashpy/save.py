"""`crashpy save`: a dump put where a URL says, and what is done with saved dumps.

The settings are options, or those of the machine's own kdump (--config): a capture
environment calls `crashpy save --config` and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from crashpy.command import CommandError

if TYPE_CHECKING:
    from crashpy.kdump.config import Config
    from crashpy.kdump.engine import Tool
    from crashpy.kdump.plan import SavePlan
    from crashpy.kdump.saving import Saving
    from crashpy.kdump.targets import Login, Target
    from crashpy.vmcore.recognise import Vmcore

CORE = "/proc/vmcore"
FREE_MIB = 64

# `crashpy save WORD ...`; a core of that name is written ./WORD.
SUB_VERBS = {
    "list": ("crashpy.kdump.inventory:list_main", "the dumps below a folder or a URL"),
    "prune": ("crashpy.kdump.retention:prune_main", "delete the oldest of them"),
    "fetch": ("crashpy.kdump.fetch:main", "copy one here"),
    "bundle": ("crashpy.kdump.bundle:main", "put kernel and modules beside one"),
    "notify": ("crashpy.kdump.notify:main", "send a mail about one"),
}

# KDUMP_DUMPFORMAT's own words as well.
FORMATS = {
    **{name: name for name in ("zlib", "lzo", "snappy", "zstd", "plain", "elf", "raw", "log")},
    **{"compressed": "zlib", "ELF": "elf", "none": "log"},
}


def save(words: Sequence[str]) -> int:
    """`crashpy save [OPTION]... [CORE] URL`; exit status 0, or 1 with a sentence on stderr."""
    if words and words[0] in SUB_VERBS:
        module, _, function = SUB_VERBS[words[0]][0].partition(":")
        status: int = getattr(importlib.import_module(module), function)(words[1:])
        return status
    asked = _parser().parse_args(words)
    with told("save") as complaints, _terminated_is_interrupted():
        _save(asked)
    return 1 if complaints else 0


@contextlib.contextmanager
def told(verb: str) -> Iterator[list[str]]:
    """What goes wrong becomes one sentence, without passwords; it is in the list then."""
    from crashpy.kdump.plan import hide

    complaints: list[str] = []
    try:
        yield complaints
    except BrokenPipeError:
        raise  # whoever read our words has enough: the program's affair
    except CommandError as error:
        complaints.append(str(error))
    except OSError as error:
        complaints.append(f"{error.filename or ''}: {error.strerror}".removeprefix(": "))
    except KeyboardInterrupt:
        complaints.append("interrupted")
    for sentence in complaints:
        sys.stderr.write(f"crashpy {verb}: {hide(sentence)}\n")


@contextlib.contextmanager
def _terminated_is_interrupted() -> Iterator[None]:
    """kill(1), or a terminal that goes, must not leave a mount or half a dump behind."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN  # as nohup wants it
    ]
    try:
        before = {number: signal.signal(number, stop) for number in numbers}
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _save(asked: argparse.Namespace) -> None:
    from crashpy.convert import one_dump, progress_line
    from crashpy.kdump.saving import Saving
    from crashpy.kdump.targets import open_target

    plan, login, paths = _wanted(asked)
    vmcore, *others = one_dump(paths)
    for file in (vmcore, *others):
        if file.damage:
            _say(asked, f"{file.path}: {file.damage}")
    saving = Saving(
        vmcore,
        plan,
        others,
        verify=not asked.no_verify,
        keep_incomplete=asked.keep_incomplete,
        tool=_tool(asked, plan, [vmcore, *others]),
        progress=progress_line(asked.quiet, time.monotonic()),
        say=lambda sentence: _say(asked, sentence),
    )
    if asked.flat:
        _to_output(saving)
        return
    with open_target(plan.target, login) as target:
        if asked.dry_run:
            sys.stdout.write("".join(f"{line}\n" for line in saving.dry_run(target)))
            return
        if asked.archive and target.local("") is None:
            raise CommandError("--archive: only where the dump is saved on this machine")
        folder = saving.save_to(target)
        if not asked.quiet:
            sys.stdout.write(f"{saving.place(target, folder)}\n")
        if asked.bundle or asked.archive:
            _bundle(asked, target, folder, paths)


def _bundle(asked: argparse.Namespace, target: Target, folder: str, cores: Sequence[str]) -> None:
    """What belongs to the dump, beside it, and all of it in one file; it is saved already."""
    from crashpy.kdump.bundle import add_to, options_of, write_archive
    from crashpy.kdump.parts import collect

    options = options_of(asked)
    missing: list[str] = []
    if asked.bundle:
        missing = add_to(target, folder, cores, options).missing
    if asked.archive:
        contents = collect([str(target.local(folder))], options)
        write_archive(contents, Path(asked.archive))
        missing = contents.missing
    for sentence in missing:
        _say(asked, sentence, always=True)


def _wanted(asked: argparse.Namespace) -> tuple[SavePlan, Login, list[str]]:
    """The plan, who logs in, and the core's files: options go before the configuration."""
    from crashpy.kdump.logins import login_of
    from crashpy.kdump.plan import SavePlan, save_plan
    from crashpy.kdump.urls import Url, parse

    login = login_of(asked)
    cores, url = list(asked.places), ""
    if not asked.flat and (asked.config is None or len(cores) > 1):
        if not cores:
            raise CommandError("say where the dump goes: a folder, PROTOCOL://..., or --config")
        url = cores.pop()
    if any("://" in core for core in cores):
        raise CommandError("a core is a file of this machine, and the place it goes to comes last")
    if asked.config is not None:
        plan = save_plan(_config(asked.config))
        if not url and plan.device:
            raise CommandError(
                f"the dump goes to {plan.device}: mount it, and name the folder on it"
            )
        keys = plan.ssh_keys
        login = replace(
            login,
            identity=login.identity or next((key for key in keys if Path(key).exists()), None),
            host_key=login.host_key or plan.host_key or None,
        )
        asked.bundle = asked.bundle or plan.copy_kernel
        for sentence in _passed_over(plan):
            _say(asked, sentence)
    else:
        plan = SavePlan(target=Url("file", "/"), free_bytes=FREE_MIB << 20)
    if url:
        plan = replace(plan, target=parse(url if "://" in url else str(Path(url).absolute())))
    return _with_options(asked, plan), login, cores or [CORE]


def _passed_over(plan: SavePlan) -> Iterator[str]:
    """What the configuration wants, and save does not do."""
    if plan.compression:
        yield f"compression={plan.compression}: the pages are packed already"
    for what in ("before", "after", "transfer"):
        if getattr(plan, what):
            yield f"{what}: only the capture environment runs {getattr(plan, what)}"


def _config(root: str) -> Config:
    from crashpy.kdump.config import Config
    from crashpy.kdump.system import System

    return Config.read(System(Path(root)))


def _with_options(asked: argparse.Namespace, plan: SavePlan) -> SavePlan:
    if asked.levels is not None:
        plan = replace(plan, levels=tuple(asked.levels))
    if asked.format is not None:
        plan = replace(plan, format=asked.format)
    if asked.keep is not None:
        kept = {0: None, -1: 1}.get(asked.keep, asked.keep + 1)
        plan = replace(plan, keep=kept)
    if asked.free is not None:
        plan = replace(plan, free_bytes=asked.free << 20)
    if asked.num_threads is not None:
        plan = replace(plan, threads=asked.num_threads)
    return plan


def _tool(asked: argparse.Namespace, plan: SavePlan, files: Sequence[Vmcore]) -> Tool | None:
    """makedumpfile, where it was asked for and may be trusted with this kernel."""
    from crashpy.kdump.engine import LETTERS, installed, objection

    if asked.engine != "makedumpfile" or plan.format not in LETTERS:
        return None
    tool = installed()
    if tool is None:
        _say(asked, "makedumpfile is not installed: crashpy writes the dump", always=True)
        return None
    core = files[0]
    before = core.header.dump_level if core.header else 0  # it filters by these rules again
    levels = [before | level for level in plan.levels]
    reasons = [objection(tool, core.vmcoreinfo, level, plan.format) for level in levels]
    reason = next(filter(None, reasons), "")
    if core.flattened or core.packing or len(files) > 1:
        reason, forced = "makedumpfile does not read flattened, packed or split cores", False
    else:
        forced = asked.force
    if reason:
        what = "it writes the dump, as you force it" if forced else "crashpy writes the dump"
        _say(asked, f"{reason}: {what}", always=True)
    return tool if not reason or forced else None


def _to_output(saving: Saving) -> None:
    """--flat: nothing but the dump, flattened, for a pipe."""
    from crashpy.kdump import engine
    from crashpy.vmcore.sinks import FlattenedSink

    if sys.stdout.isatty():
        raise CommandError("--flat writes a dump to the output: redirect it, or pipe it on")
    plan = saving.plan
    if plan.format in ("raw", "log"):
        raise CommandError(f"--flat: a dump of format {plan.format} is not flattened")
    flat = FlattenedSink(sys.stdout.buffer)
    level = plan.levels[0]
    if saving.tool:
        engine.makedumpfile(
            flat, saving.tool, saving.core.path, level, plan.format, threads=saving.threads
        )
        lost = 0
    else:
        done = engine.native(
            flat, engine.chosen(saving.memory, level)[0], plan.format,
            threads=saving.threads, progress=saving.progress,
        )  # fmt: skip
        lost = done.lost_pages
    flat.finish()
    if lost:
        raise CommandError(f"{saving.core.path}: {lost} pages could not be read")


def _say(asked: argparse.Namespace, sentence: str, *, always: bool = False) -> None:
    if always or not asked.quiet:
        sys.stderr.write(f"crashpy save: {sentence}\n")


def _levels(word: str) -> list[int]:
    levels = [int(part) for part in word.split(",")]
    if not all(0 <= level <= 31 for level in levels):
        raise ValueError(word)
    return levels


def _format(word: str) -> str:
    if word not in FORMATS:
        raise argparse.ArgumentTypeError(f"{word}: not one of {', '.join(FORMATS)}")
    return FORMATS[word]


def _number(low: int) -> Callable[[str], int]:
    def number(word: str) -> int:
        if int(word) < low:
            raise ValueError(word)
        return int(word)

    return number


def _parser() -> argparse.ArgumentParser:
    from crashpy.kdump.logins import add_options

    verbs = "".join(f"  crashpy save {verb:8} {help}\n" for verb, (_, help) in SUB_VERBS.items())
    parser = argparse.ArgumentParser(
        "crashpy save",
        usage="crashpy save [OPTION]... [CORE]... URL\n"
        "       crashpy save [OPTION]... --config | --flat [CORE]...",
        description="filter and pack a dump, send it where it is kept, and read it back",
        epilog="URL is a folder, or PROTOCOL://[USER[:PASSWORD]@]HOST[:PORT]/PATH with one of\n"
        "ftp, sftp, ssh, nfs, cifs (cifs://HOST/SHARE/PATH). The dump is put into a new folder\n"
        f"there, with README.txt, dmesg and vmcore.\n\n{verbs}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        *("-d", "--level"), dest="levels", type=_levels, metavar="LEVEL[,LEVEL]...",
        help="dump level, 0 to 31 (31); the next one where the first finds no room",
    )  # fmt: skip
    add(
        "--format", type=_format, metavar="FORMAT",
        help="zlib (the default), lzo, snappy, zstd, plain, elf; raw: the core as it is; log:"
        " the kernel's log only; or a word of KDUMP_DUMPFORMAT",
    )  # fmt: skip
    add("--num-threads", type=_number(1), metavar="N", help="pack N pages at a time")
    add(
        "--keep", type=_number(-1), metavar="N",
        help="old dumps of this machine that stay: N of them, 0 all (the default), -1 none;"
        " deleted when the new one is complete and has been read back",
    )  # fmt: skip
    add(
        "--free", type=_number(0), metavar="MIB",
        help=f"disk space that must stay free ({FREE_MIB}), where the place tells it",
    )  # fmt: skip
    add(
        "--config", nargs="?", const="/", metavar="DIR",
        help="settings and target of the machine's kdump, or of the one whose tree is DIR",
    )  # fmt: skip
    add(
        "--engine", choices=("crashpy", "makedumpfile"), default="crashpy",
        help="who filters; an installed makedumpfile only where it knows the kernel",
    )  # fmt: skip
    add("--force", action="store_true", help="makedumpfile even where it does not")
    add("--flat", action="store_true", help="the dump alone, flattened, to the output")
    add("--no-verify", action="store_true", help="do not read back what was written")
    add("--keep-incomplete", action="store_true", help="leave what was written when it fails")
    add("--bundle", action="store_true", help="put kernel, modules and debug files beside it")
    add("--archive", metavar="FILE.tar.zst", help="a bundle of it in one file here, as well")
    add("--mod", action="append", default=[], metavar="DIR", help="look for modules in DIR first")
    add("--debug", action="append", default=[], metavar="DIR", help="as /usr/lib/debug, before it")
    add("-n", "--dry-run", action="store_true", help="only say what would be done")
    add("-q", "--quiet", action="store_true", help="say nothing unless something is wrong")
    add(
        "places", nargs="*", metavar="[CORE]... URL",
        help=f"the core ({CORE}; all files of a split one), and where it goes",
    )  # fmt: skip
    add_options(parser)
    return parser
