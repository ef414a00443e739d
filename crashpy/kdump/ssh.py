"""SFTP and SSH servers whose host key is known: with the shell, or without."""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import logging
import os
import posixpath
import shlex
import stat
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

from crashpy.command import CommandError
from crashpy.kdump.targets import (
    BROKEN,
    CHUNK,
    PATIENCE,
    SYNC_PATIENCE,
    Entry,
    Login,
    NoRoom,
    Target,
    explained,
    explaining,
    kind_of,
    parse_listing,
    reason,
)
from crashpy.kdump.urls import Url

if TYPE_CHECKING:
    import paramiko

SYSTEM_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts"
WINDOW = 8 * CHUNK  # that are on their way at a time, and in memory
FULL = "the server could not write: its disk may be full"


def connect(url: Url, login: Login) -> paramiko.SSHClient:
    """A connection to a server whose key is known. Keys are tried before the password."""
    try:
        import paramiko
    except ImportError:
        raise CommandError(
            f"{url.protocol} needs the package paramiko: pip install 'crashpy[save]'"
        ) from None
    logging.getLogger("paramiko").addHandler(logging.NullHandler())  # errors are raised as well
    client = paramiko.SSHClient()
    _expect_host_key(client, url, login)
    password = url.password if url.password is not None else login.password
    try:
        client.connect(
            url.host,
            url.port or 22,
            url.user or login.user or "root",
            password,
            key_filename=login.identity,
            look_for_keys=login.identity is None,
            timeout=PATIENCE,
            banner_timeout=PATIENCE,
            auth_timeout=PATIENCE,
        )
        transport = client.get_transport()
        assert transport is not None
        transport.set_keepalive(15)
    except (OSError, EOFError, paramiko.SSHException) as error:
        client.close()
        raise _refusal(error) from None
    return client


def _refusal(error: Exception) -> Exception:
    """The error as a sentence, if it is one of those that users meet."""
    import paramiko

    if isinstance(error, paramiko.BadHostKeyException):
        return CommandError("the server's host key is not the one that is known for it")
    if isinstance(error, paramiko.ssh_exception.NoValidConnectionsError):
        return CommandError("connection refused: no server listens there")
    if isinstance(error, paramiko.AuthenticationException):
        return CommandError("wrong user, password or key")
    if isinstance(error, paramiko.SSHException):
        if "known_hosts" in str(error):
            return CommandError(
                "the server's host key is not known: put it into ~/.ssh/known_hosts, or give it by"
                " --host-key"
            )
        if "No authentication methods" in str(error):
            return CommandError("neither a password nor a key to log in with")
    return error


def _expect_host_key(client: paramiko.SSHClient, url: Url, login: Login) -> None:
    import paramiko

    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    if login.host_key == "*":
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    elif login.host_key:
        key = _key(login.host_key)
        name = url.host if url.port in (None, 22) else f"[{url.host}]:{url.port}"
        client.get_host_keys().add(name, key.get_name(), key)
    elif login.known_hosts:
        try:
            client.load_host_keys(login.known_hosts)
        except OSError as error:
            raise CommandError(f"{login.known_hosts}: {error.strerror}") from None
    else:
        client.load_system_host_keys()
        with contextlib.suppress(OSError):
            client.load_system_host_keys(SYSTEM_KNOWN_HOSTS)


def _key(text: str) -> paramiko.PKey:
    """A host key as known_hosts has it, with its type or without."""
    import paramiko

    words = text.split()
    data = words[1] if len(words) > 1 else words[0]
    try:
        blob = base64.b64decode(data, validate=True)
        kind = blob[4 : 4 + int.from_bytes(blob[:4], "big")].decode("ascii")
        return paramiko.PKey.from_type_string(kind, blob)
    except (binascii.Error, UnicodeDecodeError, ValueError, paramiko.SSHException):
        raise CommandError("the host key is none: give its type and its base64 text") from None
    except paramiko.pkey.UnknownKeyType:
        raise CommandError(f"the host key is of an unknown type: {kind or 'none'}") from None


class SftpTarget(Target):
    def __init__(self, url: Url, login: Login) -> None:
        super().__init__(url)
        with explaining(url):
            self._client = connect(url, login)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    @explained
    def _open(self) -> None:
        self._sftp = self._client.open_sftp()
        channel = self._sftp.get_channel()
        assert channel is not None
        channel.settimeout(PATIENCE)
        try:
            mode = self._sftp.stat(self._bytes("")).st_mode
        except FileNotFoundError:
            raise CommandError("no such folder") from None
        if not stat.S_ISDIR(mode or 0):
            raise CommandError("is no folder")

    def _bytes(self, relative: str) -> bytes:
        """The path as the server has it: names there may be no UTF-8."""
        return self.path(relative).encode("utf-8", "surrogateescape")

    @explained
    def entries(self, folder: str = "") -> list[Entry]:
        path = self._bytes(folder)
        try:
            attributes = self._sftp.listdir_attr(path)  # type: ignore[arg-type]
            listed = [(told.filename, told) for told in attributes]
        except UnicodeDecodeError:
            listed = [*_listed(self._sftp, path)]
        found = [
            Entry(name, kind_of(told.st_mode), told.st_size, told.st_mtime) for name, told in listed
        ]
        return sorted(found, key=lambda entry: entry.name)

    @explained
    def size(self, file: str) -> int | None:
        try:
            return self._sftp.stat(self._bytes(file)).st_size
        except FileNotFoundError:
            return None

    @explained
    def free(self) -> int | None:
        answer = _extended(self._sftp, "statvfs@openssh.com", self._bytes(""))
        if answer is None:
            return None
        fields = [answer.get_int64() for _ in range(5)]
        return int(fields[1] * fields[4])  # f_frsize, f_bavail

    @explained
    def make_folder(self, folder: str) -> None:
        self._sftp.mkdir(self._bytes(folder), 0o700)

    @explained
    def rename(self, old: str, new: str) -> None:
        self._sftp.posix_rename(self._bytes(old), self._bytes(new))

    @explained
    def remove(self, file: str) -> None:
        self._sftp.remove(self._bytes(file))

    @explained
    def _remove_empty(self, folder: str) -> None:
        self._sftp.rmdir(self._bytes(folder))

    @explained
    def _sink(self, file: str) -> _SftpSink:
        return _SftpSink(self.url, self._sftp, self._bytes(file))

    def _read(self, file: str, offset: int, most: int | None) -> Generator[bytes, None, None]:
        with explaining(self.url), self._sftp.open(self._bytes(file), "rb") as source:
            end = source.stat().st_size or 0
            end = end if most is None else min(end, offset + most)
            # paramiko asks for pieces in a thread that dies noisily with the connection
            asking = getattr(source, "_prefetch_thread", None)
            source._prefetch_thread = _quiet(asking)  # type: ignore[attr-defined]
            for low in range(offset, end, WINDOW):
                high = min(low + WINDOW, end)
                pieces = [(at, min(CHUNK, high - at)) for at in range(low, high, CHUNK)]
                yield from source.readv(pieces)

    def close(self) -> None:
        self._client.close()


def _quiet(call: Any) -> Callable[..., None]:
    """The same; an error of the connection is told by whoever waits for its data."""

    def quietly(*arguments: Any) -> None:
        with contextlib.suppress(OSError, EOFError):
            call(*arguments)

    return quietly


def _listed(
    sftp: paramiko.SFTPClient, folder: bytes
) -> Iterator[tuple[str, paramiko.SFTPAttributes]]:
    """As listdir_attr(), where a name is no UTF-8: paramiko has no public way to such."""
    from paramiko import SFTPAttributes
    from paramiko.sftp import CMD_CLOSE, CMD_OPENDIR, CMD_READDIR

    ask: Callable[..., tuple[int, Any]] = sftp._request  # type: ignore[attr-defined]
    _, answer = ask(CMD_OPENDIR, folder)
    handle = answer.get_binary()
    with contextlib.suppress(EOFError):  # the server's word for the end of the list
        while True:
            _, answer = ask(CMD_READDIR, handle)
            for _ in range(answer.get_int()):
                raw, _ = answer.get_binary(), answer.get_binary()
                told = SFTPAttributes._from_msg(answer)  # type: ignore[attr-defined]
                if raw not in (b".", b".."):
                    yield raw.decode("utf-8", "surrogateescape"), told
    ask(CMD_CLOSE, handle)


def _extended(sftp: paramiko.SFTPClient, name: str, *arguments: Any) -> Any:
    """OpenSSH's extensions of SFTP; None where the server, or paramiko, lacks them."""
    import paramiko
    from paramiko.sftp import CMD_EXTENDED

    try:
        # paramiko has no public way to send one
        _, answer = sftp._request(CMD_EXTENDED, name, *arguments)  # type: ignore[attr-defined]
    except (AttributeError, OSError, paramiko.SFTPError):
        return None
    return answer


class _SftpSink:
    def __init__(self, url: Url, sftp: paramiko.SFTPClient, path: bytes) -> None:
        self.url = url
        self._sftp, self._path = sftp, path
        self._file = sftp.open(path, "wb")
        sftp.chmod(path, 0o600)
        self._end = 0

    @explained
    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Pieces go one after the other without waiting, but for the last one.

        The answers to all of them are read then: close() would not tell of an error.
        """
        view = memoryview(data).cast("B")
        self._file.seek(offset)
        try:
            self._file.set_pipelined(True)
            self._file.write(bytes(view[:-1]))
            self._file.set_pipelined(False)
            self._file.write(bytes(view[-1:]))
        except OSError as error:
            if str(error) == "Failure":  # all that version 3 of SFTP has to say
                raise NoRoom(FULL) from None
            raise
        self._end = max(self._end, offset + len(view))

    @explained
    def finish(self) -> None:
        channel = self._sftp.get_channel()
        assert channel is not None
        channel.settimeout(SYNC_PATIENCE)
        _extended(self._sftp, "fsync@openssh.com", getattr(self._file, "handle", b""))
        channel.settimeout(PATIENCE)
        self._file.close()
        there = self._sftp.stat(self._path).st_size
        if there != self._end:
            raise CommandError(f"the server has {there} of {self._end} bytes")

    def give_up(self, *, keep: bool = False) -> None:
        with contextlib.suppress(Exception):
            self._file.close()
        if not keep:
            with contextlib.suppress(Exception):
                self._sftp.remove(self._path)


class SshTarget(Target):
    """A server with a shell: mkdir, cat, mv. It takes streams only."""

    flattened = True

    def __init__(self, url: Url, login: Login) -> None:
        super().__init__(url)
        with explaining(url):
            self._shell = _Shell(connect(url, login))
        try:
            with explaining(url):
                self._shell.run("test -d {}", url.path, otherwise="no such folder")
        except BaseException:
            self.close()
            raise

    @explained
    def entries(self, folder: str = "") -> list[Entry]:
        said = self._shell.run("cd {} && LC_ALL=C ls -lAn", self.path(folder))
        lines = said.decode(errors="surrogateescape").splitlines()
        return sorted(parse_listing(lines), key=lambda entry: entry.name)

    @explained
    def size(self, file: str) -> int | None:
        command = "test ! -f {0} || LC_ALL=C ls -lnL {0}"
        said = self._shell.run(command, self.path(file)).decode(errors="surrogateescape")
        return next((entry.size_bytes for entry in parse_listing([said])), None)

    @explained
    def free(self) -> int | None:
        """By df(1), whose lines POSIX prescribes."""
        lines = self._shell.run("LC_ALL=C df -Pk {}", self.url.path).decode(errors="replace")
        words = lines.splitlines()[-1].split()
        return int(words[3]) * 1024 if len(words) > 3 and words[3].isdigit() else None

    @explained
    def make_folder(self, folder: str) -> None:
        self._shell.run("mkdir -m 700 {}", self.path(folder))

    @explained
    def rename(self, old: str, new: str) -> None:
        self._shell.run("mv -f {} {}", self.path(old), self.path(new))

    @explained
    def remove(self, file: str) -> None:
        self._shell.run("rm {}", self.path(file))

    @explained
    def remove_folder(self, folder: str) -> None:
        self._shell.run("rm -r {}", self.path(folder))

    @explained
    def _stream(self, file: str) -> _SshStream:
        return _SshStream(self.url, self._shell, self.path(file))

    def _read(self, file: str, offset: int, most: int | None) -> Generator[bytes, None, None]:
        with explaining(self.url):
            end = "" if most is None else f" | head -c {most}"
            channel = self._shell.start(f"tail -c +{offset + 1} {{}}{end}", self.path(file))
            while data := channel.recv(CHUNK):
                yield data
            self._shell.ended(channel)

    def close(self) -> None:
        self._shell.client.close()


class _Shell:
    """Commands run by the server's shell, their paths quoted."""

    def __init__(self, client: paramiko.SSHClient) -> None:
        self.client = client

    def start(self, command: str, *paths: str, patience: float = 0) -> paramiko.Channel:
        transport = self.client.get_transport()
        if transport is None:
            raise CommandError(BROKEN)
        channel = transport.open_session(timeout=PATIENCE)
        channel.settimeout(patience or PATIENCE)
        script = command.format(*map(shlex.quote, paths))
        command = f"sh -c {shlex.quote(script)}"  # whatever the user's shell is
        channel.exec_command(command.encode("utf-8", "surrogateescape"))
        return channel

    def ended(self, channel: paramiko.Channel, otherwise: str = "") -> None:
        """Wait for the end of a command; its failure is a CommandError."""
        if not channel.status_event.wait(PATIENCE):
            raise TimeoutError
        status = channel.recv_exit_status()
        if not status:
            return
        if status < 0:
            raise CommandError(BROKEN)
        said = channel.makefile_stderr("rb").read().decode(errors="replace").strip()
        complaint = said.splitlines()[-1] if said else f"a remote command failed ({status})"
        full = os.strerror(errno.ENOSPC) in complaint
        raise (NoRoom if full else CommandError)(otherwise or complaint)

    def run(self, command: str, *paths: str, otherwise: str = "", patience: float = 0) -> bytes:
        channel = self.start(command, *paths, patience=patience)
        said: bytes = channel.makefile("rb").read()
        self.ended(channel, otherwise)
        return said


class _SshStream:
    def __init__(self, url: Url, shell: _Shell, path: str) -> None:
        self.url = url
        self._shell, self._path = shell, path
        self._channel = shell.start("umask 077; cat > {}", path)
        self._sent = 0

    @explained
    def write(self, data: bytes | memoryview) -> None:
        try:
            self._channel.sendall(bytes(data))
        except OSError as error:
            self._shell.ended(self._channel)  # what cat complained of
            raise CommandError(reason(error)) from None
        self._sent += len(data)

    @explained
    def finish(self) -> None:
        self._channel.shutdown_write()
        self._shell.ended(self._channel)
        command = "sync {0} 2>/dev/null || sync; LC_ALL=C ls -ln {0}"
        said = self._shell.run(command, self._path, patience=SYNC_PATIENCE)
        listed = parse_listing([said.decode(errors="surrogateescape")])
        there = next((entry.size_bytes for entry in listed), None)
        if there != self._sent:
            name = posixpath.basename(self._path)
            raise CommandError(f"the server has {there} of {self._sent} bytes of {name}")

    def give_up(self, *, keep: bool = False) -> None:
        with contextlib.suppress(Exception):
            self._channel.close()
        if not keep:
            with contextlib.suppress(Exception):
                self._shell.run("rm -f {}", self._path)
