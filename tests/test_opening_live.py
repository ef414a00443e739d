"""makedumpfile's and QEMU's own files, of two kernels: every form prints the same.

pytest -m live tests/test_opening_live.py
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import crashpy
from crashpy.session import Session

pytestmark = pytest.mark.live

sys.path.insert(0, str(Path(__file__).parent / "live"))
LINES = ("sys", "ps", "log", "bt -a", "mod", "foreach bt", "kmem -i")
FORMS = {
    "lzo": ["-l", "-d", "31"],
    "zlib": ["-c", "-d", "31"],
    "ELF": ["-E", "-d", "31"],
    "flattened": ["-F", "-c", "-d", "31"],
    "split": ["--split", "-c", "-d", "31"],
}


def printed(vmlinux: Path, *dumps: Path) -> str:
    session = Session(crashpy.open(vmlinux, *dumps))
    text = "\n".join(line for command in LINES for line in session.run(command))
    # the name of the dump, and of the further files of a split one
    return re.sub(r"(?m)^ +DUMPFILES?: .*\n( +\S+ \[PARTIAL DUMP\]\n)*", "", text)


@pytest.fixture(scope="module", params=["6.1", "6.12"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    import dumps

    full = next(d for d in dumps.live_dumps() if d.name == f"{request.param}-kdump-elf")
    folder = tmp_path_factory.mktemp("forms")
    dumps.crash()  # makedumpfile comes with it
    for form, options in FORMS.items():
        command = [dumps.REFERENCE / "makedumpfile", *options, full.vmcore]
        if form == "flattened":
            with (folder / form).open("wb") as out:
                subprocess.run(command, check=True, stdout=out, stderr=subprocess.DEVNULL)
        else:
            outs = [folder / form] if form != "split" else [folder / f"split{n}" for n in "123"]
            subprocess.run([*command, *outs], check=True, stdout=subprocess.DEVNULL)
    return full.vmlinux, folder, printed(full.vmlinux, folder / "zlib")


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_makedumpfile(form: str, made: tuple[Path, Path, str]) -> None:
    vmlinux, folder, expected = made
    assert printed(vmlinux, folder / (form if form != "split" else "split2")) == expected


@pytest.mark.parametrize("series", ["6.1", "6.12"])
def test_forms_of_qemu(series: str, tmp_path: Path) -> None:
    import dumps

    full = next(d for d in dumps.live_dumps() if d.name == f"{series}-qemu-qemu-elf")
    expected = printed(full.vmlinux, full.vmcore)
    compressed = full.vmcore.with_name("vmcore.qemu-kdump-zlib")
    assert printed(full.vmlinux, compressed) == expected
    data = bytearray(full.vmcore.read_bytes())  # as without QEMU's vmcoreinfo device
    at = data.find(b"VMCOREINFO\0")
    data[at : at + 10] = b"SOMETHING\0"
    bare = tmp_path / "bare"
    bare.write_bytes(data)
    assert printed(full.vmlinux, bare) == expected
