"""`crashpy setup VERB`: arm the machine, so that its next crash leaves a dump.

looking    status, check, size
changing   configure, bootloader, enable, disable, tui
kernels    load, unload, kexec
proving    test
asking     what they share

Exit status: 0 done, 1 findings (or not armed), 2 wrong words, 3 refused or failed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence

from crashpy.command import CommandError
from crashpy.kdump.plan import hide
from crashpy.kdump.setup.asking import DONE, REFUSED, WRONG, json_option, say, writes
from crashpy.kdump.setup.changing import (
    bootloader_arguments,
    configure_arguments,
    do_bootloader,
    do_configure,
    do_switch,
    do_tui,
)
from crashpy.kdump.setup.kernels import (
    do_kexec,
    do_load,
    do_unload,
    kexec_arguments,
    load_arguments,
)
from crashpy.kdump.setup.looking import (
    check_arguments,
    do_check,
    do_size,
    do_status,
    size_arguments,
)
from crashpy.kdump.setup.proving import do_test, test_arguments
from crashpy.kdump.system import System
from crashpy.kdump.writing import recover


def setup(words: Sequence[str]) -> int:
    """Run one verb; errors become a sentence on standard error."""
    if not words or words[0] in ("-h", "--help"):
        say(usage())
        return DONE if words else WRONG
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        sys.stderr.write(f'crashpy setup: "{verb}" is no verb of it: see `crashpy setup -h`\n')
        return WRONG
    about, arguments, act = VERBS[verb]
    parser = argparse.ArgumentParser(f"crashpy setup {verb}", description=about)
    parser.add_argument("--root", metavar="DIR", default="/", help="act on the system in DIR")
    arguments(parser)
    asked = parser.parse_args(rest)
    try:
        system = System.at(asked.root)
        if hasattr(asked, "yes") and not asked.dry_run and (names := recover(system)):
            say([f"note: a change was cut off: {', '.join(names)}: as they were before it"])
        return act(system, asked)
    except CommandError as error:
        sys.stderr.write(f"crashpy setup {verb}: {hide(str(error))}\n")
    except BrokenPipeError:
        raise  # who reads our words has had enough: the program's affair
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"crashpy setup {verb}: {where}{error.strerror or error}\n")
    except (KeyboardInterrupt, EOFError):
        sys.stderr.write(f"\ncrashpy setup {verb}: interrupted: nothing was changed\n")
    return REFUSED


def usage() -> Iterable[str]:
    yield "usage: crashpy setup VERB [--root DIR] [OPTION]..."
    yield ""
    for verb, (about, _, _) in VERBS.items():
        yield f"  {verb:12} {about}"
    yield ""
    yield "What writes shows what it will do and asks; --dry-run only shows, --yes does not ask."


VERBS: dict[
    str,
    tuple[
        str,
        Callable[[argparse.ArgumentParser], None],
        Callable[[System, argparse.Namespace], int],
    ],
] = {
    "status": (
        "armed or not, and why; every setting and where it comes from",
        json_option,
        do_status,
    ),
    "configure": (
        "what is dumped, how, where to, and what follows",
        configure_arguments,
        do_configure,
    ),
    "size": ("how much memory to reserve, by whose advice", size_arguments, do_size),
    "check": ("what will go wrong, what it will cost, what to do", check_arguments, do_check),
    "bootloader": (
        "crashkernel= on the kernel's command line",
        bootloader_arguments,
        do_bootloader,
    ),
    "enable": ("load the capture kernel at every boot", writes, do_switch(True)),
    "disable": ("do not", writes, do_switch(False)),
    "load": ("load the capture kernel now", load_arguments, do_load),
    "kexec": ("a fast reboot: load what the boot loader would start", kexec_arguments, do_kexec),
    "test": ("crash a virtual machine, or this one, and see the dump", test_arguments, do_test),
    "tui": ("all of it on a screen, in the pages of YaST's module", writes, do_tui),
    "unload": ("unload it: a crash leaves no dump from then on", writes, do_unload),
}
