"""The kernels that guests run: Debian's 6.1 and 6.12 cloud kernels, without debug packages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Unpacked linux-image packages, each in a folder named as the release.
CACHE = Path(os.environ.get("CRASHPY_KERNELS", "~/.cache/crash-kernels")).expanduser()


@dataclass(frozen=True)
class Kernel:
    release: str
    tree: Path  # boot/, lib/modules/

    @property
    def image(self) -> Path:
        return self.tree / "boot" / f"vmlinuz-{self.release}"

    @property
    def modules(self) -> Path:
        return self.tree / "lib/modules" / self.release


@cache
def kernel(series: str) -> Kernel:
    """The newest of a series; downloaded when it is not there."""
    found = sorted(CACHE.glob(f"{series}.*-cloud-amd64/boot/vmlinuz-*"))
    if not found:
        _download(series)
        found = sorted(CACHE.glob(f"{series}.*-cloud-amd64/boot/vmlinuz-*"))
    image = found[-1]
    return Kernel(image.name.removeprefix("vmlinuz-"), image.parent.parent)


def _download(series: str) -> None:
    names = subprocess.run(
        ["apt-cache", "pkgnames", f"linux-image-{series}."],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    fitting = [name for name in names if re.search(r"-cloud-amd64$", name)]
    assert fitting, f"apt knows no linux-image-{series}.*-cloud-amd64: run `apt-get update`"
    package = max(fitting, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])
    target = CACHE / package.removeprefix("linux-image-")
    draft = target.with_name(f"{target.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    download = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package]
    subprocess.run(download, cwd=draft, check=True, stdout=subprocess.DEVNULL)
    [package_file] = draft.glob("*.deb")
    subprocess.run(["dpkg", "-x", package_file, draft], check=True)
    package_file.unlink()
    draft.rename(target)
