"""Verbs that load kernels: load, unload, kexec."""

from __future__ import annotations

import argparse
import sys

from crashpy.kdump.config import Config
from crashpy.kdump.setup.asking import (
    DONE,
    carry_out,
    running,
    say,
    typed,
    writes,
)
from crashpy.kdump.system import Refused, System


def do_load(system: System, asked: argparse.Namespace) -> int:
    from crashpy.kdump.kexec import load

    system = running(system, asked)
    plan = load(
        Config.read(system),
        kernel=asked.kernel or "",
        initrd=asked.initrd or "",
        append=asked.append or "",
    )
    return carry_out(system, plan, asked)


def load_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kernel", metavar="FILE", help="instead of the configured one")
    parser.add_argument("--initrd", metavar="FILE", help="likewise")
    parser.add_argument("--append", metavar="OPTIONS", help="more options for it")
    writes(parser)


def do_unload(system: System, asked: argparse.Namespace) -> int:
    from crashpy.kdump.kexec import unload

    system = running(system, asked)
    return carry_out(system, unload(system), asked)


def do_kexec(system: System, asked: argparse.Namespace) -> int:
    from crashpy.kdump import reboot

    chosen = (asked.kernel, asked.initrd, asked.append, asked.reuse_cmdline)
    if asked.exec or asked.unload:
        word = "--exec" if asked.exec else "--unload"
        if any(chosen) or (asked.exec and asked.unload):
            raise Refused(f"{word} goes with no other word: load first, then start")
    system = running(system, asked)
    if asked.exec:
        return _exec(system, asked)
    if asked.unload:
        return carry_out(system, reboot.unload(system), asked)
    words = reboot.Asked(
        asked.kernel or "", asked.initrd or "", asked.append or "", asked.reuse_cmdline
    )
    return carry_out(system, reboot.load(system, words), asked)


def _exec(system: System, asked: argparse.Namespace) -> int:
    """Start the loaded kernel, once somebody has typed this machine's name."""
    from crashpy.kdump import reboot

    argv, notes = reboot.start(system, at_once=asked.at_once)
    say([*(f"note: {note}" for note in notes), f"run: {' '.join(argv)}"])
    if asked.dry_run:
        return DONE
    reboot.confirmed(typed("Type the name of this machine to do it: "))
    sys.stdout.flush()
    system.run(argv)
    return DONE


def kexec_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kernel", metavar="FILE", help="instead of the boot loader's default")
    parser.add_argument("--initrd", metavar="FILE", help="likewise")
    parser.add_argument("--append", metavar="OPTIONS", help="more options for it")
    parser.add_argument(
        "--reuse-cmdline", action="store_true", help="with the options of the running kernel"
    )
    parser.add_argument("--unload", action="store_true", help="unload it")
    parser.add_argument("--exec", action="store_true", help="start what is loaded: a reboot")
    parser.add_argument(
        "--at-once", action="store_true", help="--exec by `kexec -e`, not `systemctl kexec`"
    )
    writes(parser)
