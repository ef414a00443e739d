"""Which of the user's paths is what: a dump, a set of split dumps, a kernel, its debug file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crashpy.opening.errors import OpeningError
from crashpy.opening.kernels import role
from crashpy.vmcore.kdump import SIGNATURE, read_header
from crashpy.vmcore.recognise import Vmcore, readable, recognise

LIVE = "/proc/kcore"


@dataclass
class Named:
    """What the paths name, by content; in the user's order."""

    dumps: list[str] = field(default_factory=list)
    kernels: list[str] = field(default_factory=list)
    maps: list[str] = field(default_factory=list)  # System.map
    folder: str = ""  # searched first for what was not named


def sort_out(paths: Sequence[str]) -> Named:
    """Tell dumps from kernels; a folder stands for the dump in it."""
    named = Named()
    for path in paths:
        if Path(path).is_dir():
            if len(paths) > 1:
                raise OpeningError(f"{path}: is a folder: name it alone, or name the files in it")
            return _in_folder(path)
        readable(path)
        kind = _role(path)
        if kind == "dump":
            named.dumps.append(path)
        elif kind in ("kernel", "boot image"):
            named.kernels.append(path)
        elif kind == "System.map":
            named.maps.append(path)
        elif kind == "module":
            raise OpeningError(
                f"{path}: is a kernel module or object file, neither a dump nor a kernel image"
            )
        else:
            raise OpeningError(f"{path}: not a supported file format: {_looks_like(path)}")
    if not named.dumps:
        if named.kernels:
            named.dumps.append(LIVE)
            if not os.access(LIVE, os.R_OK):
                raise OpeningError(
                    f"{named.kernels[0]}: is a kernel, and no dump is named: name the dump as well"
                    f" (this machine's own memory, {LIVE}, is not readable)"
                )
        elif not os.access(LIVE, os.R_OK):
            raise OpeningError(
                f"no dump is named, and this machine's own memory ({LIVE}) is not readable:"
                " usage is crashpy [VMLINUX] VMCORE"
            )
        else:
            named.dumps.append(LIVE)
    named.folder = named.folder or str(Path(named.dumps[0]).parent)
    return named


def _role(path: str) -> str:
    return "dump" if path == LIVE else role(path)


def _in_folder(folder: str) -> Named:
    """The one dump in a folder; kernels there are found by BUILD-ID later."""
    dumps = [path for path in files_in(folder) if role(path) == "dump"]
    if not dumps:
        raise OpeningError(
            f"{folder}: no dump in this folder: name the folder that holds the vmcore,"
            " or the file itself"
        )
    first = split_set([dumps[0]])
    if set(dumps) - {vmcore.path for vmcore in first}:
        for vmcore in first:
            vmcore.close()
        names = ", ".join(Path(path).name for path in dumps)
        raise OpeningError(f"{folder}: more than one dump in this folder: name one of {names}")
    for vmcore in first:
        vmcore.close()
    return Named(dumps=[vmcore.path for vmcore in first], folder=folder)


def files_in(folder: str) -> list[str]:
    """The readable files of a folder, by name."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return []
    return [e.path for e in entries if e.is_file() and os.access(e.path, os.R_OK)]


def split_set(paths: Sequence[str]) -> list[Vmcore]:
    """The dump's files, headers read. Of one file of a split set, its siblings are found."""
    opened = []
    for path in paths:
        vmcore = recognise(path)
        if vmcore is None:
            raise OpeningError(f"{path}: not a supported file format: {_looks_like(path)}")
        opened.append(vmcore)
    first = opened[0]
    if len(opened) == 1 and first.split:
        opened = sorted([first, *_siblings(first)], key=lambda part: (_range(part), part.path))
    if len(opened) > 1:
        for other in opened:
            if not other.split or _identity(other) != _identity(first):
                _refuse_two(first, opened[1] if other is first else other)
    return opened


def _refuse_two(one: Vmcore, other: Vmcore) -> None:
    raise OpeningError(
        f"{one.path} and {other.path} are two dumps ({one.describe()}; {other.describe()}),"
        " and not parts of one split dump: name one"
    )


def _identity(vmcore: Vmcore) -> tuple[object, ...]:
    """What all parts of a split dump have in common, and no two dumps have."""
    header = vmcore.header
    assert header
    return header.timestamp, header.max_mapnr, header.utsname, header.vmcoreinfo


def _range(vmcore: Vmcore) -> tuple[int, int]:
    header = vmcore.header
    return (header.start_pfn, header.end_pfn) if header else (0, 0)


def _siblings(first: Vmcore) -> Iterable[Vmcore]:
    """The other parts of a split dump, from its folder, by their headers."""
    from crashpy.vmcore.files import PlainFile

    found: list[Vmcore] = []
    for path in files_in(str(Path(first.path).parent)):
        if Path(path).samefile(first.path):
            continue
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.pread(fd, 8, 0) != SIGNATURE:
                continue
            header = read_header(PlainFile(fd))
        finally:
            os.close(fd)
        if header is None or not header.split:
            continue
        other = recognise(path)
        if other is None:
            continue
        # A copy of a part is not taken twice; parts without pages are all alike.
        taken = {_range(v) for v in (first, *found)}
        empty = header.start_pfn >= header.end_pfn
        if _identity(other) == _identity(first) and (empty or _range(other) not in taken):
            found.append(other)
        else:
            other.close()
    return found


def gaps(files: Sequence[Vmcore]) -> list[str]:
    """What a split set lacks, in words."""
    missing = []
    at = 0
    headers = [vmcore.header for vmcore in sorted(files, key=_range) if vmcore.header]
    for header in headers:
        if header.start_pfn > at:
            missing.append((at, header.start_pfn))
        at = max(at, header.end_pfn)
    if headers and at < headers[0].max_mapnr:
        missing.append((at, headers[0].max_mapnr))
    size = headers[0].block_size if headers else 4096
    return [
        f"the part of the split dump with physical addresses {a * size:#x}-{b * size:#x}"
        for a, b in missing
    ]


def _looks_like(path: str) -> str:
    """A guess at what the file is, for someone who named the wrong one."""
    with Path(path).open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"!<arch>"):
        return "it is an archive"
    if head[257:262] == b"ustar":
        return "it is a tar archive: unpack it first"
    if head.startswith(b"PK\x03\x04"):
        return "it is a zip archive: unpack it first"
    if head.startswith(b"\xed\xab\xee\xdb"):
        return "it is an RPM package: unpack it first"
    if not head.strip(b"\0"):
        return "it starts with zeros only, as a dump that was never written"
    if all(byte in b"\t\n\r\f\x1b" or byte >= 32 for byte in head):
        return "it is text"
    return "neither a dump nor a kernel image"
