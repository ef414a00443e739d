"""NFS exports and CIFS shares, mounted by mount(8) for as long as they are needed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from crashpy.command import CommandError
from crashpy.kdump.logins import environment
from crashpy.kdump.targets import FileTarget, Login, Target, explaining
from crashpy.kdump.urls import Url

# A server that is gone must become an error, not a wait without end.
NFS_OPTIONS = ("nolock", "soft", "timeo=100", "retrans=3")
# 4.2 only where nothing else is: its READ_PLUS fails between some kernels and servers, so
# that what was written cannot be read back. Last what mount.nfs finds out by itself.
NFS_VERSIONS = (("vers=4.1",), ())


def open_share(url: Url, login: Login) -> Target:
    """Mounted where that is possible, else through a library of the same protocol."""
    with explaining(url):
        if can_mount(url.protocol):
            return MountedTarget(url, login)
        if url.protocol == "cifs":
            from crashpy.kdump.smb import SmbTarget

            return SmbTarget(url, login)
        from crashpy.kdump.nfs import NfsTarget

        return NfsTarget(url, login)


def can_mount(filesystem: str) -> bool:
    """Whether we may mount, and the kernel has the file system or a module of it."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    known = Path("/proc/filesystems").read_text().split()
    if filesystem in known:
        return True
    modules = Path("/lib/modules", os.uname().release, "modules.dep")
    with contextlib.suppress(OSError):
        return f"/{filesystem}.ko" in modules.read_text()
    return False


class MountedTarget(FileTarget):
    """A password goes into a file that only root can read, never into an argument."""

    def __init__(self, url: Url, login: Login) -> None:
        self.url = url
        self._mounted = False
        # /run is memory: what lies there is on no disk
        run = "/run" if os.access("/run", os.W_OK) else None
        self._private = Path(tempfile.mkdtemp(prefix="crashpy-", dir=run))
        self._point = self._private / "mnt"
        try:
            self._point.mkdir()
            with explaining(url):
                self._mount(login)
            below = url.path.strip("/") if url.protocol == "cifs" else ""
            super().__init__(url, self._point / below)
        except BaseException:
            self.close()
            raise

    def _mount(self, login: Login) -> None:
        url = self.url
        host = f"[{url.host}]" if ":" in url.host else url.host
        options = [f"port={url.port}"] if url.port else []
        secrets = self._private / "credentials"
        if url.protocol == "nfs":
            source = f"{host}:{url.path}"
            attempts = [[*options, *NFS_OPTIONS, *version] for version in NFS_VERSIONS]
        else:
            source = f"//{url.host}/{url.share}"
            attempts = [[*options, self._credentials(secrets, login)]]
        try:
            for attempt in attempts:
                why = self._mount_once(source, attempt)
                if why is None:
                    self._mounted = True
                    return
        finally:
            secrets.unlink(missing_ok=True)
        raise CommandError(f"cannot be mounted: {why}")

    def _mount_once(self, source: str, options: list[str]) -> str | None:
        """What mount(8) says against it."""
        words = ["mount", "-t", self.url.protocol, "-o", ",".join(options)]
        done = subprocess.run(
            [*words, source, str(self._point)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment(),
            check=False,
        )
        if not done.returncode:
            return None
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return said[0] if said else f"status {done.returncode}"

    def _credentials(self, file: Path, login: Login) -> str:
        """The option of mount.cifs that says who we are."""
        user = self.url.user or login.user
        if not user:
            return "guest"
        password = self.url.password if self.url.password is not None else login.password or ""
        if "\n" in password:
            raise CommandError("a password for cifs is one line")
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as text:
            text.write(f"username={user}\npassword={password}\n")
            if login.domain:
                text.write(f"domain={login.domain}\n")
        return f"credentials={file}"

    def close(self) -> None:
        if self._mounted:
            for command in (["umount"], ["umount", "-l"]):  # lazily, where it is busy
                argv = [*command, str(self._point)]
                done = subprocess.run(
                    argv,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    env=environment(),
                    check=False,
                )
                if not done.returncode:
                    break
            self._mounted = False
        with contextlib.suppress(OSError):
            self._point.rmdir()
            self._private.rmdir()
