"""The program where some folders are empty, to prove that it does not need what is in them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def crashpy(hidden: Sequence[Path], *words: str) -> str:
    """What it prints, without a home, a cache, or a server to ask."""
    mounts = "".join(f"mount -t tmpfs tmpfs {shlex.quote(str(path))} && " for path in hidden)
    environment = {"PATH": os.environ["PATH"], "HOME": "/proc", "TZ": "UTC"}
    command = [sys.executable, "-P", "-m", "crashpy", "-s", "--no_crashrc", *words]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f'{mounts}exec "$@"', "sh", *command],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=environment,
        cwd="/",
    )  # fmt: skip
    assert "unshare:" not in done.stderr, "these tests are run by root, as CI does"
    assert "mount:" not in done.stderr, done.stderr
    return done.stdout + done.stderr
