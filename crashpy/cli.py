"""The command line: crash's own arguments, and a few of ours.

crashpy [OPTION]... [VMLINUX] [VMCORE...]
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from crashpy.command import CommandError
from crashpy.opening import OpenOptions, open_dump
from crashpy.progress import Progress
from crashpy.settings import (
    Settings,
    apply_early,
    crashpager,
    default_edit,
    default_pager,
    read_startup_files,
)

if TYPE_CHECKING:
    from crashpy.dump import Dump
    from crashpy.session import Session

log = logging.getLogger("crashpy")

# Verbs beside crash's own arguments, `crashpy VERB ...`: name, module, what it does.
VERBS = (
    ("convert", "crashpy.convert", "filter, pack, split, join or unflatten a dump"),
    ("verify", "crashpy.convert", "check that everything a dump says it holds can be read"),
    (
        "save",
        "crashpy.save",
        "filter and pack a dump, and send it where it is kept",
    ),
    ("setup", "crashpy.kdump.setup", "arm this machine, so that its next crash leaves a dump"),
    ("capture", "crashpy.kdump.capture", "the environment that saves the dump after a crash"),
)

USAGE = "crashpy [OPTION]... [VMLINUX] [VMCORE...]"

# Spelling, metavar (empty: takes no argument), help. A metavar in brackets may be left out.
OPTIONS = (
    ("-h --help", "[COMMAND]", "this text, or the help page of a command, and leave"),
    ("-v --version", "", "the versions of crashpy, drgn and Python, and leave"),
    ("-s", "", "no banner, no prompt, no pager"),
    ("-i", "FILE", "run the commands in FILE first"),
    ("-c --command", "COMMAND", "run COMMAND and leave; may be given several times"),
    ("--json", "", "commands print one JSON object a line"),
    ("--strict", "", "leave with status 1 when a command printed an error"),
    ("-t", "", "the time of the crash, and leave"),
    ("--osrelease", "VMCORE", "the kernel release of a dump, and leave"),
    ("--build-id", "VMCORE", "the BUILD-ID of a dump's kernel, and leave"),
    ("-x", "", "load the extensions in $CRASH_EXTENSIONS or ./extensions"),
    ("-e", "vi|emacs", "keys of the line editor"),
    ("-d", "NUMBER", "debug level: from 1 on, an unexpected error shows where it happened"),
    ("--mod", "DIR", "look for modules with debug information in DIR"),
    ("--src", "DIR", "the kernel's source is in DIR, for `dis -s`"),
    ("--debuginfo", "auto|dwarf|btf", "where types come from: vmlinux, or the dump's own BTF"),
    ("--kallsyms", "FILE", "a System.map, for a dump without vmlinux that hides its symbols"),
    ("--log", "VMCORE...", "the kernel's log, and leave; nothing but the dump is needed"),
    ("--zero_excluded", "", "pages that the dump lacks read as zero"),
    ("--offline", "show|hide", "what commands do about CPUs that are offline"),
    ("--hex", "", "numbers are hexadecimal, whatever a startup file says"),
    ("--dec", "", "numbers are decimal, likewise"),
    ("--active", "", "list only the task that was on each CPU"),
    ("--no_panic", "", "start with the first task, not with the one that panicked"),
    ("--no_modules", "", "leave modules out"),
    ("--no_strip", "", "keep the endings of names such as schedule.part.0"),
    ("--minimal", "", "only log, dis, rd, sym, eval, set, extend and exit"),
    ("--no_crashrc", "", "run no .crashrc and no .crashpyrc"),
    ("--no_scroll", "", "no pager"),
    ("--more", "", "page with more"),
    ("--less", "", "page with less"),
    ("--CRASHPAGER", "", "page with $CRASHPAGER"),
    ("--no-cache", "", "keep no unpacked kernel for the next time"),
    ("--demo", "", "open the sample dump of a crashpy checkout"),
    ("--kaslr", "auto", "nothing: the offset is always found in the dump"),
    ("--hash", "NUMBER", "nothing: no table has a fixed size"),
)

_GDB = "there is no gdb inside"
_XEN = "Xen hypervisor dumps are not supported"
_ALWAYS = "what it turns off is read only when a command needs it"
REFUSED: Mapping[str, str] = {
    "-f": "a compressed kernel is recognised by its content, whatever its name",
    "-g": "opening a dump says whether the kernel has debug information",
    "-k": "LKCD Kerntypes files are not supported",
    "-L": "memory is not locked",
    "-m": "machine-dependent values are read from the dump",
    "-o": "raw memory without a header is not supported",
    "-p": "the page size is read from the dump",
    "-S": "a System.map cannot replace the symbols of the kernel image",
    "--machdep": "machine-dependent values are read from the dump",
    "--buildinfo": "crashpy is not compiled; see --version",
    "--memory_module": "live memory is read from /proc/kcore alone",
    "--memory_device": "live memory is read from /proc/kcore alone",
    "--no_kallsyms": "symbols of modules come from the dump",
    "--no_ikconfig": _ALWAYS,
    "--no_data_debug": _ALWAYS,
    "--no_kmem_cache": _ALWAYS,
    "--kmem_cache_delay": _ALWAYS,
    "--no_elf_notes": "registers of the CPUs that were running are only in these notes",
    "--readnow": _GDB,
    "--smp": "the number of CPUs is read from the dump",
    "--cpus": "the number of CPUs is read from the dump",
    "--hyper": _XEN,
    "--p2m_mfn": _XEN,
    "--xen_phys_start": _XEN,
    "--max-malloc-bufs": "memory is not limited by a number of buffers",
    "--reloc": "only 32-bit x86 kernels of long ago need it",
    "--kvmhost": "dumps of `virsh save` are not supported",
    "--kvmio": "dumps of `virsh save` are not supported",
}


class OptionError(CommandError):
    """What is wrong with the arguments, in one sentence."""


@dataclass
class Arguments:
    """What was asked for on the command line."""

    given: dict[str, list[str]] = field(default_factory=dict)  # by the first spelling
    files: list[str] = field(default_factory=list)

    def __contains__(self, name: str) -> bool:
        return name in self.given

    def last(self, name: str) -> str | None:
        return self.given[name][-1] if name in self.given else None

    def every(self, name: str) -> Sequence[str]:
        return self.given.get(name, ())


def parse(words: Sequence[str]) -> Arguments:
    """Split the arguments as getopt_long(3) does, options and files in any order."""
    spellings = {
        name: (names.split()[0], metavar) for names, metavar, _ in OPTIONS for name in names.split()
    }
    found = Arguments()
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--":
            found.files += queue
            break
        if word == "-" or not word.startswith("-"):
            found.files.append(word)
            continue
        name, value = _split(word)
        if name not in spellings and name.startswith("--"):
            longer = [s for s in (*spellings, *REFUSED) if s.startswith(name)]
            name = longer[0] if len(longer) == 1 else name
        if reason := REFUSED.get(name):
            raise OptionError(f"{name}: {reason}")
        if name not in spellings:
            raise OptionError(f'invalid option: {name} (see "crashpy -h")')
        key, metavar = spellings[name]
        if not metavar:
            if value and name.startswith("--"):
                raise OptionError(f"{name} takes no argument")
            if value:  # a cluster of letters
                queue.insert(0, f"-{value}")
            value = ""
        elif value is None and metavar.startswith("["):
            value = queue.pop(0) if queue and not queue[0].startswith("-") else ""
        elif value is None:
            if not queue:
                raise OptionError(f"{name} needs an argument: {metavar}")
            value = queue.pop(0)
        if "|" in metavar and value not in metavar.split("|"):
            raise OptionError(f"{name}: {value}: not one of {metavar.replace('|', ', ')}")
        found.given.setdefault(key, []).append(value or "")
    return found


def _split(word: str) -> tuple[str, str | None]:
    """``--name=value`` or ``-nvalue`` as name and value."""
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        return name, value if equals else None
    return word[:2], word[2:] or None


def main(argv: Sequence[str] | None = None) -> int:
    _configure_streams()
    words = sys.argv[1:] if argv is None else argv
    try:
        for verb, module, _ in VERBS:
            if words and words[0] == verb:
                return getattr(importlib.import_module(module), verb)(words[1:])
        return _main(parse(words))
    except CommandError as error:
        sys.stderr.write(f"crashpy: {error}\n")
        return 2 if isinstance(error, OptionError) else 1
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return 130
    except BrokenPipeError:
        # Whoever read our output has enough; the interpreter must not try to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _main(wanted: Arguments) -> int:
    if "-v" in wanted:
        sys.stdout.write("".join(f"{line}\n" for line in version()))
        return 0
    if "-h" in wanted:
        return _help(wanted.last("-h") or "")
    for option, key in (("--osrelease", "OSRELEASE"), ("--build-id", "BUILD-ID")):
        if option in wanted:
            return _vmcoreinfo(wanted.last(option) or "", key)
    if path := wanted.last("--log"):
        return _log([path, *wanted.files])
    settings = _settings(wanted)
    startup: list[tuple[Path, list[str]]] = []
    if "--no_crashrc" not in wanted:
        startup, refused = read_startup_files()
        for sentence in refused:
            sys.stderr.write(f"WARNING: {sentence}\n")
        for _, lines in startup:
            if namelist := apply_early(settings, lines):
                wanted.files.insert(0, namelist)
    _override(settings, wanted)

    session = _open(wanted, settings)
    if "-t" in wanted:
        return _crash_time(session)
    commands = wanted.every("-c")
    if not settings.silent and not commands:
        session.console.show(banner(session))
    for sentence in session.dump.missing:
        session.console.complain(f"WARNING: {sentence}")
    for _, lines in startup:
        session.console.show(session.start_with(lines))
    if "-x" in wanted:
        _load_extensions(session)
    if path := wanted.last("-i"):
        session.execute(f"< {path}")
    for line in commands:
        if not session.finished and not session.interrupted:
            session.execute(line)
    if not commands and not session.finished:
        _converse(session)
    if session.interrupted:
        return 130
    return 1 if "--strict" in wanted and session.failures else 0


def _log(paths: Sequence[str]) -> int:
    from crashpy.convert import log_of
    from crashpy.opening.paths import split_set
    from crashpy.vmcore.memory import memory_of

    sys.stdout.write(log_of(memory_of(split_set(paths))))
    return 0


def _configure_streams() -> None:
    """Bytes that are no UTF-8 pass through; remarks of the program go to standard error."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed by whoever started us: the next file would get it
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(encoding="utf-8", errors="surrogateescape")
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("crashpy: %(message)s"))
        log.addHandler(handler)
        log.propagate = False


def _settings(wanted: Arguments) -> Settings:
    settings = Settings(edit=default_edit())
    if sys.stdout.isatty():
        settings.pager = default_pager()
    settings.scroll = settings.pager != "none" or not sys.stdout.isatty()
    if level := wanted.last("-d"):
        try:
            settings.assign("debug", level)
        except ValueError:
            raise OptionError(f"-d: not a number: {level}") from None
    return settings


def _override(settings: Settings, wanted: Arguments) -> None:
    """What the command line says goes before the startup files."""
    settings.edit = wanted.last("-e") or settings.edit
    settings.offline = wanted.last("--offline") or settings.offline
    settings.zero_excluded = settings.zero_excluded or "--zero_excluded" in wanted
    settings.output = "json" if "--json" in wanted else settings.output
    settings.radix = 16 if "--hex" in wanted else 10
    settings.radix_fixed = "--hex" in wanted or "--dec" in wanted
    settings.strip = "--no_strip" not in wanted
    for pager in ("more", "less", "CRASHPAGER"):
        if f"--{pager}" in wanted and settings.pager != "none":
            settings.pager = pager if pager != "CRASHPAGER" or crashpager() else settings.pager
    if "-s" in wanted or "-c" in wanted:
        settings.silent = True
    if settings.silent or "--no_scroll" in wanted:
        settings.scroll = False


def _open(wanted: Arguments, settings: Settings) -> Session:
    from crashpy.session import Session

    paths = demo_files() if "--demo" in wanted else wanted.files
    module_dirs = [*wanted.every("--mod")]
    if path := os.environ.get("CRASH_MODULE_PATH"):
        module_dirs.append(path)
    with Progress() as progress:
        progress("opening the dump")
        dump = open_dump(
            paths,
            options=OpenOptions(
                module_dirs=tuple(module_dirs),
                source_dir=wanted.last("--src") or "",
                cache="--no-cache" not in wanted,
                zero_excluded=settings.zero_excluded,
                debuginfo=wanted.last("--debuginfo") or "auto",
                kallsyms=wanted.last("--kallsyms") or "",
                progress=progress,
            ),
        )
    dump.symbols.strip = settings.strip
    _restrict(dump, wanted)
    return Session(dump, settings, minimal="--minimal" in wanted)


def _restrict(dump: Dump, wanted: Arguments) -> None:
    if "--no_modules" in wanted:
        dump.symbols.modules = []
    if "--active" in wanted:
        dump.tasks.all = list(dump.tasks.active.values())
    if "--no_panic" in wanted:
        dump.context = dump.tasks.all[0]


def demo_files() -> list[str]:
    """The sample dump beside the program, in a checkout."""
    folder = Path(__file__).parent.parent / "examples"
    files = [folder / "vmlinux.zst", folder / "vmcore-null"]
    if not all(file.is_file() for file in files):
        raise OptionError("--demo: the sample dumps are in the examples folder of a checkout")
    return [str(file) for file in files]


def _vmcoreinfo(path: str, key: str) -> int:
    from crashpy.vmcore.recognise import recognise

    vmcore = recognise(path)
    value = vmcore.vmcoreinfo.get(key) if vmcore else None
    sys.stdout.write(f"{value or 'unknown'}\n")
    return 0 if value else 1


def _crash_time(session: Session) -> int:
    """The DATE line of `sys`, alone."""
    for line in session.run("sys"):
        if line.lstrip().startswith("DATE: "):
            sys.stdout.write(f"{line.partition('DATE: ')[2]}\n\n")
            return 0
    return 1


def version() -> list[str]:
    from importlib.metadata import version as version_of

    python = ".".join(str(part) for part in sys.version_info[:3])
    return [f"crashpy {version_of('crashpy')}", f"drgn {version_of('drgn')}, Python {python}"]


def _help(topic: str) -> int:
    from drgn import Program

    from crashpy.dump import Dump
    from crashpy.session import Session

    if topic:
        session = Session(Dump(Program(), "", ""))
        session.execute(f"help {topic}")
        return 0
    sys.stdout.write("".join(f"{line}\n" for line in usage()))
    return 0


def usage() -> Iterator[str]:
    yield f"usage: {USAGE}"
    yield ""
    yield "Look into a crashed Linux kernel with the commands of crash(8)."
    yield ""
    yield "  VMLINUX   the kernel with its debug information, compressed or not"
    yield "  VMCORE    the dump; several where it was split"
    yield ""
    for names, metavar, help in OPTIONS:
        left = " ".join((", ".join(names.split()), metavar)).rstrip()
        if len(left) > 22:
            yield f"  {left}"
            left = ""
        yield f"  {left:22} {help}"
    yield ""
    for verb, _, help in VERBS:
        yield f"  crashpy {verb:14} {help}"
    yield ""
    yield "Commands come from the terminal, or line by line from standard input."


def banner(session: Session) -> Iterator[str]:
    """Line by line what crash shows before the first prompt, but for its licences."""
    yield ""
    yield from version()
    yield " "
    if not sys.stdin.isatty():
        yield "NOTE: stdin: not a tty"
        yield ""
    if session.minimal:
        from crashpy.session import MINIMAL_NOTE

        yield f"NOTE: {MINIMAL_NOTE}"
    else:
        yield from session.run("sys")
        for line in session.run("set"):
            yield f"     {line}"
        if not session.dump.tasks.panic_found:
            yield "     WARNING: panic task not found"
    yield ""


def _load_extensions(session: Session) -> None:
    for folder in (os.environ.get("CRASH_EXTENSIONS"), "extensions"):
        if folder and (files := sorted(Path(folder).glob("*.py"))):
            session.execute("extend " + " ".join(f'"{file}"' for file in files))
            return
    session.console.complain("NOTE: no extensions found")


def _converse(session: Session) -> None:
    """Commands from the terminal or, one line at a time, from whoever holds our input."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        from crashpy.repl import run

        run(session)
        session.interrupted = False
        return
    while not session.finished and not session.interrupted:
        if not session.settings.silent:
            sys.stdout.write(session.prompt)
        sys.stdout.flush()
        line = sys.stdin.readline()
        if not line:
            break
        if not session.settings.silent:
            sys.stdout.write(line)
        session.execute(line)
