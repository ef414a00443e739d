"""Find the kernel that belongs to a dump, and the debug file that belongs to a kernel.

By BUILD-ID wherever the dump has one; a name alone proves nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from crashpy.opening import cache
from crashpy.opening.errors import OpeningError
from crashpy.opening.kernels import Kernel, open_kernel, role
from crashpy.opening.options import OpenOptions
from crashpy.opening.paths import files_in

DEBUG_ROOT = "/usr/lib/debug"
TIMEOUT = 30  # seconds a debuginfod server may stay silent


def find_kernel(
    release: str, build_id: bytes | None, folders: list[str], options: OpenOptions
) -> Kernel | None:
    """The vmlinux with debug info of this BUILD-ID; by release only when there is no BUILD-ID.

    A stripped one is returned when nothing better is found.
    """
    best: Kernel | None = None
    seen: set[str] = set()
    for path in _candidates(release, build_id, folders, options):
        real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        kernel = _usable(path, release, build_id, options)
        if kernel is None:
            continue
        if kernel.has_debug_info:
            return kernel
        best = best or kernel
    if build_id and (fetched := fetch(build_id, options)):
        kernel = _usable(fetched, release, build_id, options)
        if kernel and kernel.has_debug_info:
            return kernel
    return best


def find_debug_file(
    kernel: Kernel, release: str, folders: list[str], options: OpenOptions
) -> Kernel | None:
    """The file with the debug info of a stripped kernel: by debug link, then by BUILD-ID."""
    build_id = kernel.build_id
    here = Path(kernel.path).resolve().parent
    if build_id is None:
        return None
    named: list[Path] = []
    if link := kernel.debug_link:
        roots = [*options.debug_dirs, DEBUG_ROOT]
        named = [here / link[0], here / ".debug" / link[0]]
        named += [Path(root, str(here).lstrip("/"), link[0]) for root in roots]
        named += [Path(root, "boot", link[0]) for root in roots]
    for path in named:
        found = _usable(str(path), release, build_id, options)
        if found and found.has_debug_info:
            return found
    found = find_kernel(release, build_id, [str(here), *folders], options)
    return found if found and found.has_debug_info else None


def _usable(path: str, release: str, build_id: bytes | None, options: OpenOptions) -> Kernel | None:
    """This file, if it is the kernel that is looked for."""
    try:
        if role(path) not in ("kernel", "boot image"):
            return None
        kernel = open_kernel(path, options)
    except (OSError, OpeningError):
        return None
    if build_id:
        matches = kernel.build_id == build_id
    else:
        matches = kernel.is_kernel and kernel.release == release
    if matches:
        return kernel
    kernel.close()
    return None


def _candidates(
    release: str, build_id: bytes | None, folders: list[str], options: OpenOptions
) -> Iterator[str]:
    """Files worth a look, the likely ones first."""
    for folder in folders:
        files = [path for path in files_in(folder) if _may_be_kernel(path)]
        # unpacked before packed ones, which cost seconds to look into
        yield from sorted(files, key=lambda path: Path(path).suffix in _PACKED)
    roots = [*options.debug_dirs, DEBUG_ROOT]
    if build_id:
        digits = build_id.hex()
        for root in roots:
            yield f"{root}/.build-id/{digits[:2]}/{digits[2:]}.debug"
            yield f"{root}/.build-id/{digits[:2]}/{digits[2:]}"
    if release and "/" not in release:
        for root in (*roots, ""):
            for name in (
                f"{root}/boot/vmlinux-{release}",
                f"{root}/boot/vmlinux-{release}.debug",
                f"{root}/lib/modules/{release}/vmlinux",
                f"{root}/lib/modules/{release}/vmlinux.debug",
                f"{root}/usr/lib/modules/{release}/vmlinux",
                f"{root}/usr/lib/modules/{release}/vmlinux.debug",
                f"{root}/lib/modules/{release}/build/vmlinux",
            ):
                yield name
                for suffix in _PACKED:
                    yield name + suffix
        yield f"/boot/vmlinuz-{release}"


_PACKED = (".gz", ".xz", ".zst", ".bz2")


def _may_be_kernel(path: str) -> bool:
    """Spare unpacking a packed dump, or mapping a big one, to look for a BUILD-ID in it."""
    name = Path(path).name.lower()
    if Path(name).suffix in _PACKED:
        return "vmlinu" in name or "image" in name
    return role(path) in ("kernel", "boot image")


def fetch(build_id: bytes, options: OpenOptions) -> str | None:
    """The debug file from the servers in $DEBUGINFOD_URLS, kept in the cache."""
    servers = os.environ.get("DEBUGINFOD_URLS", "").split()
    if not servers or not options.debuginfod or not options.cache:
        return None
    import shutil
    import urllib.request

    digits = build_id.hex()
    kept = cache.folder() / f"{digits}-debuginfod"
    if kept.exists():
        return str(kept)
    for server in servers:
        url = f"{server.rstrip('/')}/buildid/{digits}/debuginfo"
        if not url.startswith(("http://", "https://")):
            continue
        options.progress(f"asking {server}")
        try:
            slot = cache.Slot()
        except OSError:
            return None
        try:
            with (
                urllib.request.urlopen(url, timeout=TIMEOUT) as answer,
                os.fdopen(slot.fd, "wb") as out,
            ):
                shutil.copyfileobj(answer, out, 1 << 20)
            return str(slot.keep(digits, "debuginfod"))
        except (OSError, ValueError):  # URLError is an OSError
            slot.drop()
    return None
