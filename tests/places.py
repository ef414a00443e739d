"""The places that dumps go to, each on its real server, for tests that hold for all of them."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import servers
from servers import PASSWORD, USER, Server

from crashpy.kdump.targets import Login

START: dict[str, Callable[[], Any]] = {
    "sftp": servers.sshd,
    "ssh": servers.sshd,
    "ftp": servers.vsftpd,
    "cifs": servers.smbd,
    "nfs": servers.ganesha,
}
PROTOCOLS = tuple(START)


@dataclass
class Place:
    """A server of one protocol, and how to reach it."""

    protocol: str
    server: Server

    def url(self, folder: str = "open", *, password: str | None = PASSWORD) -> str:
        login = "" if self.protocol == "nfs" else f"{USER}@"
        if login and password is not None:
            login = f"{USER}:{password}@"
        root = f"/{self.server.root.strip('/')}/{folder}".replace("//", "/")
        return f"{self.protocol}://{login}127.0.0.1:{self.server.port}{root}"

    @property
    def options(self) -> list[str]:
        """More words of the command line."""
        hosts = self.server.facts.get("known_hosts")
        return ["--known-hosts", hosts] if hosts else []

    @property
    def login(self) -> Login:
        return Login(known_hosts=self.server.facts.get("known_hosts"))

    def found(self, folder: str = "open") -> list[str]:
        """Everything below a folder, as the server has it; also when it is dead."""
        if self.protocol == "nfs" and self.server.process.poll() is not None:
            return _in_image(self.server.base / f"{folder}.img")
        dead = self.server.process.poll() is not None
        top = self.server.base / "root" / folder if dead else self.server.seen(folder)
        return sorted(
            str(path.relative_to(top)) for path in top.rglob("*") if path.name != "lost+found"
        )

    def clear(self) -> None:
        """Remove what tests left."""
        for folder in ("open", "small"):
            for path in self.server.seen(folder).iterdir():
                if path.name != "lost+found":
                    subprocess.run(["rm", "-rf", str(path)], check=True)


def _in_image(image: Path) -> list[str]:
    """What lies in a file system whose server is gone."""
    script = 'mount -o loop "$1" /mnt && cd /mnt && find . -mindepth 1'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(image)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    names = (line.removeprefix("./") for line in done.stdout.splitlines())
    return sorted(name for name in names if name != "lost+found")


@contextlib.contextmanager
def place(protocol: str) -> Iterator[Place]:
    """A server for one test alone."""
    with START[protocol]() as server:
        yield Place(protocol, server)


class Places:
    """Servers that tests share, started when the first one wants them."""

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()
        self._servers: dict[Callable[[], Any], Server] = {}

    def __getitem__(self, protocol: str) -> Place:
        start = START[protocol]
        if start not in self._servers:
            self._servers[start] = self._open.enter_context(start())
        found = Place(protocol, self._servers[start])
        found.clear()
        return found

    def close(self) -> None:
        self._open.close()


def inside_tmpfs(size: str, command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A command that sees a small file system mounted on a folder, and what it left there.

    Its standard output ends with the names of the files in it.
    """
    script = (
        'folder=$1; shift; mount -t tmpfs -o size="$SIZE" tmpfs "$folder" && "$@"; status=$?;'
        ' find "$folder" -mindepth 1; exit $status'
    )
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(folder), *command],
        env={**os.environ, "SIZE": size},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
