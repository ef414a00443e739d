"""A dump with all that its analysis needs: kernel, debug files, modules, in one folder.

    README.txt dmesg       what was saved beside the dump
    vmcore                 the dump, or the files of a split one
    vmlinux-R vmlinuz-R    the kernel with debug information, and as it was booted
    modules/NAME.ko        the modules that were loaded
    modules/NAME.ko.debug  their debug files
    BUNDLE.txt             what is there, by BUILD-ID, and what was not found
    SHA256SUMS             for `sha256sum -c`, or `crashpy save bundle --check`

`crashpy DIR` opens it anywhere. Parts are taken by BUILD-ID, never by their name alone.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import io
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, BinaryIO, Protocol

from crashpy.command import CommandError
from crashpy.kdump import sums
from crashpy.kdump.layouts import folder_name
from crashpy.kdump.parts import Contents, Part, collect
from crashpy.kdump.verbs import megabytes, printable
from crashpy.opening.options import OpenOptions
from crashpy.save import told

if TYPE_CHECKING:
    from crashpy.kdump.targets import Target

CONTENTS = "BUNDLE.txt"
INCOMPLETE = "-incomplete"
CHUNK = 1 << 20
FICLONE = 0x40049409  # ioctl(2): the blocks of another file, shared until one is written


# Writing


class Carrier(Protocol):
    """Where a bundle goes."""

    def copy(self, name: str, source: Path) -> str:
        """Take a file over; its SHA-256."""
        ...

    def store(self, name: str, data: bytes) -> None: ...

    def known(self) -> dict[str, str]:
        """The checksums of what is there already."""
        ...

    def undo(self) -> None:
        """Take back what was done, as well as it goes."""
        ...


def deliver(contents: Contents, carrier: Carrier, progress: Callable[[Part], None]) -> None:
    """Every part, then the list of them, then the checksums; or nothing."""
    try:
        found = carrier.known()
        for part in contents.parts:
            progress(part)
            found[part.name] = carrier.copy(part.name, part.path)
            if part.saved_as not in ("", found[part.name]):
                raise CommandError(
                    f"{part.path}: is not as it was saved: {sums.NAME} has another checksum of it"
                )
        text = contents.text().encode()
        carrier.store(CONTENTS, text)
        found[CONTENTS] = hashlib.sha256(text).hexdigest()
        carrier.store(sums.NAME, sums.text(found).encode())
    except BaseException:
        carrier.undo()
        raise


class FolderCarrier:
    """A folder of this machine. What it did can be undone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: list[Path] = []

    def copy(self, name: str, source: Path) -> str:
        target = self._folder / name
        if target.exists() and target.samefile(source):
            return sums.digest_of(source)
        if target.exists():
            raise CommandError(f"{target}: exists already, and is another file")
        draft = self._draft(target)
        if _linkable(source, target):
            os.link(source, draft)
            digest = sums.digest_of(source)
        else:
            digest = _copied(source, draft)
        draft.rename(target)
        self._written.append(target)
        return digest

    def store(self, name: str, data: bytes) -> None:
        target = self._folder / name
        there = target.exists()
        draft = self._draft(target)
        with _create(draft) as file:
            file.write(data)
        draft.rename(target)
        if not there:
            self._written.append(target)

    def known(self) -> dict[str, str]:
        return {}

    def _draft(self, target: Path) -> Path:
        target.parent.mkdir(0o700, parents=True, exist_ok=True)
        draft = target.with_name(target.name + INCOMPLETE)
        draft.unlink(missing_ok=True)
        self._written.append(draft)
        return draft

    def undo(self) -> None:
        for path in self._written:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (self._folder / "modules").rmdir()


def _linkable(source: Path, target: Path) -> bool:
    """Whether a second name does: only for what nobody else may read or own."""
    status = source.stat()
    ours = status.st_uid == os.geteuid() and status.st_mode & 0o777 == 0o600
    return ours and status.st_dev == target.parent.stat().st_dev and not source.is_symlink()


@contextlib.contextmanager
def _create(path: Path) -> Iterator[BinaryIO]:
    """A file that only its owner reads, on the disk when it is left."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "w+b") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _copied(source: Path, target: Path) -> str:
    with source.open("rb") as data, _create(target) as copy:
        try:
            fcntl.ioctl(copy.fileno(), FICLONE, data.fileno())
        except OSError:
            return _pumped(data, copy.write)
        return hashlib.file_digest(data, "sha256").hexdigest()


def _pumped(data: IO[bytes], write: Callable[[bytes], object]) -> str:
    digest = hashlib.sha256()
    while piece := data.read(CHUNK):
        digest.update(piece)
        write(piece)
    return digest.hexdigest()


class TargetCarrier:
    """The folder of a dump that was just saved, wherever it is."""

    def __init__(self, target: Target, folder: str) -> None:
        self._target, self._folder = target, folder
        self._made: set[str] = set()
        self._written: list[str] = []

    def copy(self, name: str, source: Path) -> str:
        parent = str(PurePosixPath(self._folder, name).parent)
        if parent != self._folder and parent not in self._made:
            self._target.make_folder(parent)
            self._made.add(parent)
        path = f"{self._folder}/{name}"
        stream = self._target.stream(path)
        try:
            with source.open("rb") as data:
                digest = _pumped(data, stream.write)
            stream.finish()
        except BaseException:
            stream.give_up()
            raise
        self._written.append(path)
        return digest

    def store(self, name: str, data: bytes) -> None:
        self._target.store(f"{self._folder}/{name}", data)

    def known(self) -> dict[str, str]:
        if sums.NAME not in self._target.names(self._folder):
            return {}
        return sums.parse(b"".join(self._target.read(f"{self._folder}/{sums.NAME}")))

    def undo(self) -> None:
        with contextlib.suppress(CommandError):
            for path in self._written:
                self._target.remove(path)
            for folder in self._made:
                self._target.remove_folder(folder)


class ArchiveCarrier:
    """A .tar.zst; in it, everything is in one folder."""

    def __init__(self, out: BinaryIO, top: str) -> None:
        import zstandard

        self._top = top
        self._packed = zstandard.ZstdCompressor(level=3, threads=-1).stream_writer(
            out, closefd=False
        )
        self._tar = tarfile.open(fileobj=self._packed, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._folder(top)

    def _folder(self, name: str) -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o700, int(time.time())
        self._tar.addfile(entry)

    def copy(self, name: str, source: Path) -> str:
        with source.open("rb") as data:
            status = os.fstat(data.fileno())
            entry = self._entry(name, status.st_size, int(status.st_mtime))
            reader = _Digesting(data)
            self._tar.addfile(entry, reader)
        return reader.digest.hexdigest()

    def store(self, name: str, data: bytes) -> None:
        self._tar.addfile(self._entry(name, len(data), int(time.time())), io.BytesIO(data))

    def known(self) -> dict[str, str]:
        return {}

    def undo(self) -> None:
        """The caller removes the file."""

    def _entry(self, name: str, size: int, changed_s: int) -> tarfile.TarInfo:
        entry = tarfile.TarInfo(f"{self._top}/{name}")
        entry.size, entry.mode, entry.mtime = size, 0o600, changed_s
        return entry

    def close(self) -> None:
        self._tar.close()
        self._packed.close()  # type: ignore[no-untyped-call]


class _Digesting:
    def __init__(self, data: IO[bytes]) -> None:
        self._data = data
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        piece = self._data.read(size)
        self.digest.update(piece)
        return piece


def write_folder(
    contents: Contents, folder: Path, progress: Callable[[Part], None] = lambda _: None
) -> None:
    """A new folder, whole or not at all; or what is missing beside the dump in its own."""
    own = folder.is_dir() and folder.samefile(contents.parts[0].path.absolute().parent)
    _room_for(contents, folder if own else folder.absolute().parent)
    if own:
        with _naming(folder):
            deliver(_in_place(contents, folder), FolderCarrier(folder), progress)
        _sync(folder)
        return
    if folder.exists():
        raise CommandError(f"{folder}: exists already: name a new folder")
    draft = folder.with_name(folder.name + INCOMPLETE)
    try:
        draft.mkdir(0o700)
    except FileExistsError:
        raise CommandError(
            f"{draft}: is there from a bundle that was interrupted, or is being written:"
            " delete it, or wait"
        ) from None
    try:
        with _naming(folder):
            deliver(contents, FolderCarrier(draft), progress)
        _sync(draft)
        draft.rename(folder)
        _sync(folder.absolute().parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _in_place(contents: Contents, folder: Path) -> Contents:
    """What lies in the folder already keeps its name."""
    parts = [
        replace(part, name=part.path.name) if part.path.parent.samefile(folder) else part
        for part in contents.parts
    ]
    return replace(contents, parts=parts)


def _sync(folder: Path) -> None:
    """The names in it are on the disk then."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _room_for(contents: Contents, parent: Path) -> None:
    needed = sum(
        part.size_bytes for part in contents.parts if not _linkable(part.path, parent / "x")
    )
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise CommandError(
            f"{parent}: the bundle takes {megabytes(needed)}, and {megabytes(free)} are free"
        )


def add_to(target: Target, folder: str, cores: Sequence[str], options: OpenOptions) -> Contents:
    """Put what belongs to a dump beside it, where it was just saved; also what is missing.

    On a server, what it needs is told by the core that it was made from.
    """
    if local := target.local(folder):
        contents = collect([str(local)], options)
        write_folder(contents, local)
        return contents
    contents = collect(cores, options)
    contents.parts = [part for part in contents.parts if part.build_id]
    deliver(contents, TargetCarrier(target, folder), lambda _: None)
    return contents


def write_archive(
    contents: Contents, archive: Path, progress: Callable[[Part], None] = lambda _: None
) -> None:
    """One .tar.zst, whole or not at all."""
    if archive.exists():
        raise CommandError(f"{archive}: exists already: name a new file")
    draft = archive.with_name(archive.name + INCOMPLETE)
    top = archive.name.removesuffix(".zst").removesuffix(".tar") or "bundle"
    draft.unlink(missing_ok=True)
    try:
        with _naming(archive), _create(draft) as out:
            carrier = ArchiveCarrier(out, top)
            deliver(contents, carrier, progress)
            carrier.close()
        draft.rename(archive)
        _sync(archive.absolute().parent)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An error of write(2) does not tell of which file it is: a full disk, say."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


# Checking


def check(path: Path) -> list[str]:
    """What is wrong with a bundle, a sentence each; nothing when all is as it was written."""
    written, digests = _folder_digests(path) if path.is_dir() else _archive_digests(path)
    if written is None:
        raise CommandError(f"{path}: no bundle: it has no {sums.NAME}")
    wrong = []
    for name, digest in sums.parse(written).items():
        found = digests(name)
        if found != digest:
            changed = "is not as it was written"
            wrong.append(f"{name}: {found if ' ' in found else changed}")
    return wrong


# What is known of a file: its SHA-256, or in a sentence why there is none.
Digests = Callable[[str], str]


def _folder_digests(folder: Path) -> tuple[bytes | None, Digests]:
    def digest(name: str) -> str:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            return "is named outside of the bundle"
        try:
            return sums.digest_of(folder / path)
        except FileNotFoundError:
            return "is missing"
        except OSError as error:
            return f"cannot be read: {error.strerror}"

    written = folder / sums.NAME
    return written.read_bytes() if written.is_file() else None, digest


def _archive_digests(archive: Path) -> tuple[bytes | None, Digests]:
    import zstandard

    found: dict[str, str] = {}
    written = None
    try:
        with (
            archive.open("rb") as packed,
            zstandard.ZstdDecompressor().stream_reader(packed) as stream,
            tarfile.open(fileobj=stream, mode="r|") as tar,
        ):
            for entry in tar:
                _, _, name = entry.name.partition("/")
                if not entry.isfile() or (data := tar.extractfile(entry)) is None:
                    continue
                if name == sums.NAME:
                    written = data.read()
                else:
                    found[name] = _pumped(data, len)
    except (tarfile.TarError, zstandard.ZstdError, EOFError) as error:
        raise CommandError(f"{archive}: is damaged, or no .tar.zst: {error}") from None
    return written, lambda name: found.get(name, "is missing")


# The verb


def main(words: Sequence[str]) -> int:
    """`crashpy save bundle`: 0 when all was found, 1 when a part is missing or it failed."""
    asked = _parser().parse_args(words)
    failed = 0
    with told("save bundle") as complaints:
        failed = _check(asked) if asked.check else _bundle(asked)
    return 1 if complaints or failed else 0


def _check(asked: argparse.Namespace) -> int:
    wrong = check(Path(asked.check))
    for sentence in wrong or ["whole: every file is as it was written"]:
        sys.stdout.write(f"{asked.check}: {printable(sentence)}\n")
    return 1 if wrong else 0


def _bundle(asked: argparse.Namespace) -> int:
    if not asked.paths:
        raise CommandError("name the dump, or the folder that it is in")
    folder = Path(asked.to) if asked.to else None
    contents = collect(asked.paths, options_of(asked))
    if folder is None and not asked.archive and not asked.dry_run:
        folder = contents.parts[0].path.absolute().parent
        if not folder_name(folder.name):
            raise CommandError(
                f"{folder}: is not the folder of one saved dump: name a new one, --to DIR,"
                " or --archive FILE.tar.zst"
            )
    if asked.dry_run:
        sys.stdout.write(contents.text())
    else:
        progress = _progress(asked.quiet)
        if folder:
            write_folder(contents, folder, progress)
        if asked.archive:
            write_archive(contents, Path(asked.archive), progress)
        for sentence in contents.missing:
            sys.stderr.write(f"crashpy save bundle: {printable(sentence)}\n")
    return 1 if contents.missing else 0


def options_of(asked: argparse.Namespace) -> OpenOptions:
    return OpenOptions(module_dirs=tuple(asked.mod), debug_dirs=tuple(asked.debug))


def _progress(quiet: bool) -> Callable[[Part], None]:
    def show(part: Part) -> None:
        if not quiet and sys.stderr.isatty():
            sys.stderr.write(f"{part.name}  {megabytes(part.size_bytes)}\n")

    return show


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "crashpy save bundle",
        usage="crashpy save bundle [OPTION]... [VMLINUX] VMCORE\n"
        "       crashpy save bundle --check DIR|FILE.tar.zst",
        description="put a dump, its kernel, its modules and their debug files into one folder,"
        " which `crashpy DIR` opens anywhere",
    )
    add = parser.add_argument
    add("--to", metavar="DIR", help="a new folder; default: the saved dump's own")
    add("--archive", metavar="FILE.tar.zst", help="one file instead, or as well")
    add("--mod", action="append", default=[], metavar="DIR", help="look for modules in DIR first")
    add("--debug", action="append", default=[], metavar="DIR", help="as /usr/lib/debug, before it")
    add("--check", metavar="DIR|FILE", help="whether a bundle is as it was written")
    add("--dry-run", action="store_true", help="only say what would be in it")
    add("-q", "--quiet", action="store_true", help="no progress")
    add("paths", nargs="*", metavar="FILE", help="as for `crashpy [VMLINUX] VMCORE`")
    return parser
