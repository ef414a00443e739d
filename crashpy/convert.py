"""`crashpy convert` and `crashpy verify`: dumps filtered, packed and checked off-line.

The letters are makedumpfile's. Nothing but the dump is needed: the rules come from its
VMCOREINFO. A damaged source gives what can be read of it, and says how much is lost.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crashpy.command import CommandError
from crashpy.vmcore.files import FLATTENED
from crashpy.vmcore.sinks import (
    NO_ROOM,
    FileSink,
    FlattenedSink,
    draft_of,
    put_in_place,
    unflatten,
)

if TYPE_CHECKING:
    from crashpy.vmcore.erase import Erasure
    from crashpy.vmcore.memory import Memory
    from crashpy.vmcore.recognise import Vmcore
    from crashpy.vmcore.selection import Selection
    from crashpy.vmcore.sinks import Sink
    from crashpy.vmcore.write import Progress, Written

PACKINGS = {"c": "zlib", "l": "lzo", "p": "snappy", "z": "zstd"}


def convert(words: Sequence[str]) -> int:
    """`crashpy convert [OPTION]... IN... OUT`; exit status 0, or 1 with a sentence on stderr."""
    asked = _convert_parser().parse_args(words)
    _no_linear_algebra()
    try:
        return _convert(asked)
    except CommandError as error:
        return _complain("convert", str(error))
    except OSError as error:
        if isinstance(error, BrokenPipeError) and not asked.flattened:
            raise  # whoever read our words has enough: the program's affair
        out = "standard output" if asked.flattened or len(asked.paths) == 1 else asked.paths[-1]
        return _complain("convert", f"{error.filename or out}: {error.strerror}")
    except KeyboardInterrupt:
        return _complain("convert", "interrupted: nothing was left behind")


def verify(words: Sequence[str]) -> int:
    """`crashpy verify FILE...`: 0 when every dump is whole, 1 when one is not."""
    parser = argparse.ArgumentParser(
        "crashpy verify",
        description="check that everything a dump says it holds can be read, and try what a"
        " damaged one is still good for",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="FILE",
        help="a dump, or the folder it is in; files of a split set are one dump",
    )
    asked = parser.parse_args(words)
    _no_linear_algebra()
    try:
        return _verify(asked.paths)
    except BrokenPipeError:
        raise  # whoever read our words has enough: the program's affair
    except OSError as error:
        return _complain("verify", f"{error.filename or 'standard output'}: {error.strerror}")


def _verify(paths: Sequence[str]) -> int:
    sets: dict[tuple[object, ...], list[Vmcore]] = {}
    status = 0
    for path in dict.fromkeys(paths):
        try:
            for file in _meant(path):
                sets.setdefault(_set_of(file), []).append(file)
        except CommandError as error:
            status = 1
            _verdict(path, [str(error)])
    for files in sets.values():
        status |= _verified(_whole_set(files))
    return status


def one_dump(paths: Sequence[str]) -> list[Vmcore]:
    """The files of one dump: of one file of a split set, the others are found beside it.

    Raises CommandError where they are files of several.
    """
    paths = [*dict.fromkeys(paths)]
    if len(paths) == 1:
        file = recognised(paths[0], ordered=False)
        if not file.split:
            return [file]
        file.close()
    from crashpy.opening.paths import split_set

    return split_set(paths)


def _meant(path: str) -> list[Vmcore]:
    """The files of the dump that a path stands for."""
    if not Path(path).is_dir():
        return [recognised(path, ordered=False)]
    from crashpy.opening.paths import sort_out

    return [recognised(file) for file in sort_out([path]).dumps]


def _whole_set(files: list[Vmcore]) -> list[Vmcore]:
    """Of one file of a split set, the others that are beside it."""
    if len(files) > 1 or not files[0].split:
        return files
    from crashpy.opening.paths import split_set

    found = split_set([files[0].path])
    files[0].close()
    return found


def _verified(files: Sequence[Vmcore]) -> bool:
    """Say what is wrong with a dump, and what is not; whether something is."""
    name = files[0].path if len(files) == 1 else " ".join(file.path for file in files)
    remarks: list[str] = []
    try:
        findings = [*_changed(files), *check(files, remarks)]
    except CommandError as error:
        findings = [str(error)]
    except OSError as error:
        findings = [error.strerror or "cannot be read"]
    for file in files:
        file.close()
    _verdict(name, [*(findings or ["whole: every page can be read"]), *remarks])
    if findings:
        from crashpy.usable import usable

        _verdict(name, usable([file.path for file in files]).sentences())
    return bool(findings)


def _changed(files: Sequence[Vmcore]) -> Iterator[str]:
    """What is not as the checksums beside a saved dump have it."""
    from crashpy.kdump import sums

    for path in (Path(file.path) for file in files):
        with contextlib.suppress(OSError):
            noted = sums.beside(path.parent).get(path.name)
            if noted and sums.digest_of(path) != noted:
                yield f"{path.name} is not as it was saved: its checksum in {sums.NAME} is another"


def _verdict(name: str, sentences: Iterable[str]) -> None:
    for sentence in sentences:
        sys.stdout.write(f"{name}: {sentence.removeprefix(f'{name}: ')}\n")
        sys.stdout.flush()  # what follows may take a while


def _set_of(file: Vmcore) -> tuple[object, ...]:
    """What the files of one split set have in common, and nothing else has."""
    if file.header is None or not file.header.split:
        return (file.path,)
    header = file.header
    return header.timestamp, header.max_mapnr, header.utsname, header.dump_level, header.vmcoreinfo


def check(files: Sequence[Vmcore], remarks: list[str] | None = None) -> list[str]:
    """What is wrong with a dump, a sentence each; nothing when it is whole.

    What nobody can tell, though nothing is wrong, is put to the remarks.
    """
    import numpy as np

    from crashpy.vmcore.codecs import AT_ONCE
    from crashpy.vmcore.memory import CannotFilter, KdumpMemory, Unmapped, memory_of

    findings = [f"{file.damage}" for file in files if file.damage]
    if any(file.incomplete for file in files):
        findings.append("marked as incomplete: the machine could not write all of it")
    memory = memory_of(files)
    if isinstance(memory, KdumpMemory) and not memory.whole:
        findings.append("a file of the split set is missing")
    if isinstance(memory, KdumpMemory):
        findings += memory.misfits()
    stored = lost = 0
    first_lost = -1
    step = 1 << 18
    buffer = np.empty((AT_ONCE, memory.page_size), np.uint8)
    for low in range(0, memory.max_mapnr, step):
        pfns = np.flatnonzero(memory.stored(low, min(low + step, memory.max_mapnr))) + low
        for at in range(0, len(pfns), AT_ONCE):
            some = pfns[at : at + AT_ONCE]
            good = memory.read_into(some, buffer[: len(some)])
            stored += len(some)
            bad = some[~good]
            lost += len(bad)
            if len(bad) and first_lost < 0:
                first_lost = int(bad[0])
    if lost:
        findings.append(
            f"{lost} of {stored} pages cannot be read, the first at physical address"
            f" {first_lost * memory.page_size:#x}"
        )
    if not stored:
        findings.append("it holds no page at all")
    whole = isinstance(memory, KdumpMemory) and memory.whole
    if stored and whole and not lost:
        try:
            findings += [sentence] if (sentence := _wrongly_left_out(memory)) else []
        except CannotFilter as error:
            remarks = [] if remarks is None else remarks
            remarks.append(f"what was left out cannot be checked: {error}")
        except (CommandError, Unmapped) as error:
            findings.append(f"what was left out cannot be checked: {error}")
    return findings


def inherited(memory: Memory) -> str:
    """What is wrong with all that is made from a filtered dump; empty as far as one can tell."""
    from crashpy.vmcore.memory import KdumpMemory, Unmapped

    if not (isinstance(memory, KdumpMemory) and memory.whole):
        return ""
    try:
        return _wrongly_left_out(memory)
    except (CommandError, Unmapped):
        return ""


def _wrongly_left_out(memory: Memory) -> str:
    """Pages in use that the dump lacks although its level keeps them, in a sentence."""
    from crashpy.vmcore.filter import Filter

    wrong = 0
    if memory.level:
        for first, end, keep in Filter(memory, memory.level, judging=True).sections():
            wrong += int((keep & (memory.stored(first, end) ^ 1)).sum())
    if not wrong:
        return ""
    return (
        f"{wrong} pages that level {memory.level} keeps are missing: it was filtered by a"
        " makedumpfile too old for this kernel; commands that need them will fail"
    )


def _convert(asked: argparse.Namespace) -> int:
    if asked.dmesg or asked.vmcoreinfo:
        return _told(asked)
    if asked.estimate:
        return _estimate(asked.paths)
    *sources, target = asked.paths
    if asked.flattened:
        if asked.split or asked.limit or asked.raw:
            raise CommandError("-F, to the output, goes with none of -R, -L and --split")
        if sys.stdout.buffer.isatty():
            raise CommandError("-F writes a dump to the output: redirect it, or pipe it on")
        sources, target = asked.paths, ""
    elif not sources:
        raise CommandError("name the file to write behind the dump")
    if asked.raw:
        if len(sources) > 1:
            raise CommandError("-R takes one flattened dump, and the file to write")
        return _unflatten(sources[0], Path(target), asked)
    if asked.elf and (asked.packing != "none" or asked.split):
        raise CommandError("an ELF dump (-E) can be neither packed nor split")
    files = one_dump(sources)
    odd = next((file for file in files if file.bits != 64 or file.order != "<"), None)
    if odd is not None:
        raise CommandError(
            f"{odd.path}: only dumps of 64-bit little-endian machines can be written"
        )
    for level, following in itertools.zip_longest(asked.levels, asked.levels[1:]):
        try:
            return _rewritten(files, target, asked, level, last=following is None)
        except OSError as error:
            if error.errno not in NO_ROOM or following is None or asked.flattened:
                raise
            sys.stderr.write(
                f"crashpy convert: no room at level {level}: trying level {following}\n"
            )
    raise AssertionError("there is at least one level")


def _rewritten(
    files: list[Vmcore], target: str, asked: argparse.Namespace, level: int, *, last: bool
) -> int:
    from crashpy.vmcore.codecs import codec
    from crashpy.vmcore.memory import memory_of
    from crashpy.vmcore.selection import select, split_ranges
    from crashpy.vmcore.write import write_kdump
    from crashpy.vmcore.write_elf import write_elf

    packer = codec(asked.packing, threads=asked.num_threads, exact=asked.exact)
    memory = memory_of(files)
    began = time.monotonic()
    _say(asked, "choosing the pages to keep")
    selection = select(memory, level)
    selection.erasures = _erasures(memory, asked)
    progress = progress_line(asked.quiet, began)
    pages_done = 0

    def noted(done: int, of: int) -> None:
        nonlocal pages_done
        pages_done = done
        if progress:
            progress(done, of)

    def write(sink: Sink, part: tuple[int, int] | None) -> Written:
        if asked.elf:
            return write_elf(sink, selection, progress=noted)
        return write_kdump(sink, selection, packer, part=part, progress=noted)

    if asked.flattened:
        stream = FlattenedSink(sys.stdout.buffer)
        done = write(stream, None)
        stream.finish()
        return _finished(asked, selection, [done], began)
    ranges = split_ranges(selection, asked.split) if asked.split else [None]
    names = [f"{target}.{n}" for n in range(1, len(ranges) + 1)] if asked.split else [target]
    _room_for(Path(target), selection, packed=not asked.elf and asked.packing != "none")
    sinks: list[FileSink] = []
    try:
        written = []
        for name, part in zip(names, ranges, strict=True):
            sinks.append(_sink(Path(name), files, asked))
            written.append(write(sinks[-1], part))
        if all(done.lost_pages == done.pages for done in written):
            raise CommandError(f"{files[0].path}: no page of it can be read: copy it again")
        for sink in sinks:
            sink.finish()
    except BaseException as error:
        full = isinstance(error, OSError) and error.errno in NO_ROOM
        for sink in sinks:
            left = sink.give_up(keep=full and last and pages_done > 0)
            if left is not None:
                sys.stderr.write(f"crashpy convert: {left}: what there was room for\n")
        raise
    return _finished(asked, selection, written, began)


def _erasures(memory: Memory, asked: argparse.Namespace) -> list[Erasure]:
    """What --erase means in this dump: its debug information tells."""
    if not asked.erase:
        return []
    import crashpy
    from crashpy.opening.errors import OpeningError
    from crashpy.vmcore.erase import erasure

    image = [asked.image] if asked.image else []
    try:
        with crashpy.open(*image, *(file.path for file in memory.files)) as dump:
            return [erasure(memory, dump.prog, request) for request in asked.erase]
    except OpeningError as error:
        raise CommandError(f"--erase needs debug information (-x VMLINUX): {error}") from error


def _sink(path: Path, dump: Sequence[Vmcore], asked: argparse.Namespace) -> FileSink:
    """The file to write, which is none that is read, nor will be on the way."""
    _spare(path, [file.path for file in dump])
    if asked.force and dump[0].split and _is_part(path, dump[0]):
        raise CommandError(f"{path}: is a part of the dump: name another file to write")
    return FileSink(path, force=asked.force, limit=asked.limit)


def _is_part(path: Path, dump: Vmcore) -> bool:
    """Whether it is one more file of that split set."""
    try:
        there = recognised(str(path), ordered=False)
    except CommandError:
        return False
    there.close()
    return _set_of(there) == _set_of(dump)


def _spare(path: Path, sources: Sequence[str]) -> None:
    for source in sources:
        for name in (path, draft_of(path.resolve() if path.is_symlink() else path)):
            if name.exists() and Path(source).exists() and name.samefile(source):
                raise CommandError(f"{name}: is the dump itself: name another file to write")


def _room_for(path: Path, selection: Selection, *, packed: bool) -> None:
    """Refuse early what cannot fit, where pages take the room that they have."""
    if packed or selection.level & 1:
        return
    system = os.statvfs(path.parent)
    free = system.f_bavail * system.f_frsize
    needed = selection.pages * selection.memory.page_size
    if needed > free:
        sentence = f"needs {needed >> 20} MiB, {free >> 20} MiB are free there"
        raise OSError(errno.ENOSPC, sentence, str(path))


def _unflatten(source: str, target: Path, asked: argparse.Namespace) -> int:
    from crashpy.vmcore.files import FLATTENED, FlattenedFile, PlainFile
    from crashpy.vmcore.recognise import readable

    if source == "-":
        return _unflatten_stream(target, asked)
    readable(source)
    with open(source, "rb") as file:  # noqa: PTH123  a name, not a path to do things with
        plain = PlainFile(file.fileno())
        if plain.read(0, len(FLATTENED)) != FLATTENED:
            raise CommandError(f"{source}: is not flattened")
        flat = FlattenedFile(plain)
        _spare(target, [source])
        with _filled(FileSink(target, force=asked.force, limit=asked.limit)) as sink:
            unflatten(flat, sink)
    return _ended(source, flat.complete)


def _unflatten_stream(target: Path, asked: argparse.Namespace) -> int:
    stream = io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False), 1 << 16)
    if not stream.peek().startswith(FLATTENED[:1]):  # before there is a file
        raise CommandError("standard input: is not flattened")
    with _filled(FileSink(target, force=asked.force, limit=asked.limit)) as sink:
        complete = put_in_place(stream, sink)
    return _ended("standard input", complete)


@contextlib.contextmanager
def _filled(sink: FileSink) -> Iterator[FileSink]:
    """A file that has its name when all is well, and is gone when it is not."""
    try:
        yield sink
        sink.finish()
    except BaseException:
        sink.give_up(keep=False)
        raise


def _ended(source: str, complete: bool) -> int:
    if not complete:
        sys.stderr.write(f"crashpy convert: {source}: has no end record: it was cut short\n")
    return 0 if complete else 1


def _estimate(paths: Sequence[str]) -> int:
    """Pages and bytes by class and by level, as `makedumpfile --mem-usage` lays them out."""
    from crashpy.vmcore.estimate import estimate
    from crashpy.vmcore.memory import memory_of

    memory = memory_of(one_dump(paths))
    found = estimate(memory)

    def row(name: object, pages: int) -> None:
        sys.stdout.write(f"{name!s:16} {pages:12} {pages * memory.page_size:16}\n")

    sys.stdout.write(f"{'CLASS':16} {'PAGES':>12} {'BYTES':>16}\n")
    for name, pages in found.classes.items():
        row(name, pages)
    row("kept always", found.levels[31])
    sys.stdout.write(f"\n{'LEVEL':16} {'PAGES':>12} {'BYTES':>16}\n")
    for level, pages in enumerate(found.levels):
        row(level, pages)
    return 0


def _told(asked: argparse.Namespace) -> int:
    """--dmesg, --vmcoreinfo: what the dump says without being filtered."""
    *sources, target = asked.paths
    if not sources:
        sources, target = [target], ""
    files = one_dump(sources)
    if asked.vmcoreinfo:
        text = files[0].vmcoreinfo_text.decode(errors="replace")
        if not text:
            raise CommandError(f"{files[0].path}: holds no VMCOREINFO")
    else:
        from crashpy.vmcore.memory import memory_of

        text = log_of(memory_of(files))
    if not target:
        sys.stdout.write(text)
        sys.stdout.flush()
        return 0
    with _filled(_sink(Path(target), files, asked)) as sink:
        sink.write(0, text.encode())
    return 0


def log_of(memory: Memory) -> str:
    """The kernel's log. Raises CommandError where it cannot be read."""
    from crashpy.vmcore.log import log_text

    if memory.translates and memory.info:
        return log_text(memory)  # not by drgn, which a damaged VMCOREINFO may kill
    try:  # where we know no page tables: with drgn, if that is there
        from crashpy.opening.log import log_text as drgn_log_text

        return drgn_log_text(memory.files)
    except CommandError:
        raise
    except Exception as error:  # whatever a damaged dump leads to
        raise CommandError(f"the kernel's log cannot be read: {error}") from error


def recognised(path: str, *, ordered: bool = True) -> Vmcore:
    from crashpy.vmcore.recognise import recognise

    vmcore = recognise(path, ordered=ordered)
    if vmcore is None:
        raise CommandError(f"{path}: not a dump")
    return vmcore


def progress_line(quiet: bool, began: float) -> Progress | None:
    """A line that is rewritten on a terminal: share, rate, time left."""
    if quiet or not sys.stderr.isatty():
        return None
    shown = 0.0

    def show(done: int, of: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown < 0.5 and done < of:
            return
        shown = now
        rate = done / max(now - began, 1e-3)
        left = (of - done) / rate if rate else 0
        sys.stderr.write(
            f"\r{100 * done // max(of, 1):3} %  {rate * 4096 / 1e6:7.0f} MB/s  {left:4.0f} s left "
        )
        if done >= of:
            sys.stderr.write("\r" + " " * 40 + "\r")
        sys.stderr.flush()

    return show


def _finished(
    asked: argparse.Namespace, selection: Selection, written: Sequence[Written], began: float
) -> int:
    lost = sum(w.lost_pages for w in written)
    pages, size = sum(w.pages for w in written), sum(w.bytes for w in written)
    _say(
        asked,
        f"{pages} pages, level {selection.level}, {size} bytes in {time.monotonic() - began:.1f} s",
    )
    fault = "" if lost else inherited(selection.memory)  # lost struct pages tell nothing
    if fault:
        sys.stderr.write(f"crashpy convert: {selection.memory.vmcore.path}: {fault}\n")
    if lost:
        so = ": zeroes stand for them" if asked.elf else ""
        sys.stderr.write(f"crashpy convert: {lost} pages of the source could not be read{so}\n")
    return 1 if lost or fault else 0


def _say(asked: argparse.Namespace, sentence: str) -> None:
    if not asked.quiet and sys.stderr.isatty():
        sys.stderr.write(f"{sentence}\n")


def _complain(verb: str, sentence: str) -> int:
    sys.stderr.write(f"crashpy {verb}: {sentence}\n")
    return 1


def _levels(word: str) -> list[int]:
    levels = [int(part) for part in word.split(",")]
    if not all(0 <= level <= 31 for level in levels):
        raise ValueError(word)
    return levels


def _count(word: str) -> int:
    if int(word) < 1:
        raise ValueError(word)
    return int(word)


def _convert_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "crashpy convert",
        usage="crashpy convert [OPTION]... IN [IN...] OUT",
        description="filter, pack, split, join or unflatten a dump; letters as makedumpfile's",
    )
    add = parser.add_argument
    add(
        *("-d", "--level"), dest="levels", type=_levels, default=[0], metavar="LEVEL[,LEVEL]...",
        help="dump level, 0 to 31; the next one where the first finds no room",
    )  # fmt: skip
    for letter, name in PACKINGS.items():
        add(f"-{letter}", dest="packing", action="store_const", const=name, help=f"pack by {name}")
    add("-E", dest="elf", action="store_true", help="write an ELF file")
    add("-F", dest="flattened", action="store_true", help="write a flattened dump to the output")
    add(
        "-R",
        dest="raw",
        action="store_true",
        help="put a flattened dump (- is standard input) in order, as it is",
    )
    add("-f", "--force", action="store_true", help="replace the file to write")
    add("--num-threads", type=_count, default=1, metavar="N", help="pack N pages at a time")
    add("--split", type=_count, metavar="N", help="write OUT.1 ... OUT.N")
    add(
        "--erase", action="append", default=[], metavar="SYMBOL[.MEMBER...]",
        help="erase this data; 'SYMBOL size BYTES' and 'SYMBOL nullify', too",
    )  # fmt: skip
    add("-x", dest="image", metavar="VMLINUX", help="the kernel with debug information, to erase")
    add("-L", dest="limit", type=_count, metavar="BYTES", help="write no file greater than this")
    add(
        "--exact",
        action="store_true",
        help="the very bytes that makedumpfile writes, of packed pages (not of -E and -p)",
    )
    add(
        "--estimate",
        action="store_true",
        help="only say how many pages each level keeps, not packed",
    )
    add("--dmesg", action="store_true", help="only the kernel's log, to OUT or the output")
    add("--vmcoreinfo", action="store_true", help="only VMCOREINFO, to OUT or the output")
    add("-q", "--quiet", action="store_true", help="no progress")
    add("paths", nargs="+", metavar="FILE", help="the dump (all files of a split set), the result")
    parser.set_defaults(packing="none")
    return parser


def _no_linear_algebra() -> None:
    """Keep numpy from starting a thread for each CPU: none would have anything to do."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
