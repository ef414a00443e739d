"""FTP servers, with TLS or without. They take streams only."""

from __future__ import annotations

import contextlib
import ftplib
import getpass
import posixpath
import re
import socket
import ssl
from collections.abc import Generator

from crashpy.command import CommandError
from crashpy.kdump.targets import (
    CHUNK,
    PATIENCE,
    Entry,
    Login,
    NoRoom,
    Target,
    explained,
    explaining,
    parse_listing,
    reason,
)
from crashpy.kdump.urls import Url


class _Tls(ftplib.FTP_TLS):
    """Data connections continue the TLS session, as servers want it by default."""

    def ntransfercmd(
        self, cmd: str, rest: int | str | None = None
    ) -> tuple[socket.socket, int | None]:
        connection, size = ftplib.FTP.ntransfercmd(self, cmd, rest)
        assert isinstance(self.sock, ssl.SSLSocket)
        wrapped = self.context.wrap_socket(
            connection, server_hostname=self.host, session=self.sock.session
        )
        return wrapped, size


class FtpTarget(Target):
    flattened = True

    def __init__(self, url: Url, login: Login) -> None:
        super().__init__(url)
        self._ftp = _Tls(context=ssl.create_default_context()) if login.tls else ftplib.FTP()
        self._ftp.timeout = PATIENCE
        self._ftp.encoding = "latin-1"  # every byte there is: see _wire()
        try:
            self._log_in(login)
        except BaseException:
            self.close()
            raise

    @explained
    def _log_in(self, login: Login) -> None:
        ftp, url = self._ftp, self.url
        user = url.user or login.user
        password = url.password if url.password is not None else login.password
        if not user:
            user, password = "anonymous", f"{getpass.getuser()}@{socket.gethostname()}"
        if re.search(r"[\r\n]", f"{url.path}{user}{password}"):
            raise CommandError("FTP has no line breaks in names and passwords")
        try:
            ftp.connect(url.host, url.port or 21)
            if isinstance(ftp, ftplib.FTP_TLS):
                ftp.auth()
        except ssl.SSLCertVerificationError as error:
            raise CommandError(f"its certificate: {error.verify_message}") from None
        except ftplib.Error as error:
            raise CommandError(f"the server refuses: {_said(error)}") from None
        try:
            ftp.login(_wire(user), _wire(password or ""))
        except ftplib.error_perm:
            raise CommandError("wrong user or password") from None
        if isinstance(ftp, ftplib.FTP_TLS):
            ftp.prot_p()
        try:
            ftp.cwd(self.path(""))
        except ftplib.error_perm:
            raise CommandError("no such folder, or no permission") from None
        ftp.voidcmd("TYPE I")

    def path(self, relative: str) -> str:
        return _wire(super().path(relative))

    @explained
    def entries(self, folder: str = "") -> list[Entry]:
        self._asked("cwd", self.path(folder))  # LIST takes options, but then no blanks
        lines: list[str] = []
        self._ftp.retrlines("LIST -a", lambda line: lines.append(_from_wire(line)))
        return sorted(parse_listing(lines), key=lambda entry: entry.name)

    @explained
    def size(self, file: str) -> int | None:
        try:
            self._ftp.voidcmd("TYPE I")
            return self._ftp.size(self.path(file))
        except ftplib.error_perm:
            return None

    @explained
    def make_folder(self, folder: str) -> None:
        self._asked("mkd", self.path(folder))
        with contextlib.suppress(ftplib.error_perm):
            self._ftp.sendcmd(f"SITE CHMOD 700 {self.path(folder)}")

    @explained
    def rename(self, old: str, new: str) -> None:
        self._asked("rename", self.path(old), self.path(new))

    @explained
    def remove(self, file: str) -> None:
        self._asked("delete", self.path(file))

    @explained
    def _remove_empty(self, folder: str) -> None:
        self._asked("rmd", self.path(folder))

    def _asked(self, what: str, *paths: str) -> None:
        try:
            getattr(self._ftp, what)(*paths)
        except ftplib.Error as error:
            name = _from_wire(posixpath.basename(paths[0]))
            raise CommandError(f"{name}: {_said(error)}") from None

    @explained
    def _stream(self, file: str) -> _FtpStream:
        return _FtpStream(self.url, self._ftp, self.path(file))

    def _read(self, file: str, offset: int, most: int | None) -> Generator[bytes, None, None]:
        with explaining(self.url):
            self._ftp.voidcmd("TYPE I")
            try:
                data = self._ftp.transfercmd(f"RETR {self.path(file)}", offset or None)
            except ftplib.Error as error:
                raise CommandError(f"{posixpath.basename(file)}: {_said(error)}") from None
            whole = False
            try:
                with data:
                    while chunk := data.recv(min(CHUNK, most or CHUNK)):
                        yield chunk
                whole = True
            finally:
                try:
                    self._ftp.voidresp()
                except ftplib.Error:  # when the reader had enough, the server complains
                    if whole:
                        raise

    def close(self) -> None:
        self._ftp.close()


class _FtpStream:
    def __init__(self, url: Url, ftp: ftplib.FTP, path: str) -> None:
        self.url = url
        self._ftp, self._path = ftp, path
        ftp.voidcmd("TYPE I")
        try:
            self._data = ftp.transfercmd(f"STOR {path}")
        except ftplib.Error as error:
            name = _from_wire(posixpath.basename(path))
            raise CommandError(f"{name}: {_said(error)}") from None
        self._data.settimeout(PATIENCE)
        self._sent = 0

    @explained
    def write(self, data: bytes | memoryview) -> None:
        try:
            self._data.sendall(data)
        except OSError as error:
            complaint = self._complaint()
            raise (NoRoom if complaint else CommandError)(complaint or reason(error)) from None
        self._sent += len(data)

    def _complaint(self) -> str:
        """What the server says when it takes no more: that its disk is full, perhaps."""
        self._data.close()
        try:
            self._ftp.voidresp()
        except ftplib.Error as error:
            return f"the server could not write: {_said(error)}"
        except (OSError, EOFError):
            pass
        return ""

    @explained
    def finish(self) -> None:
        if isinstance(self._data, ssl.SSLSocket):
            self._data.unwrap()
        self._data.close()
        try:
            self._ftp.voidresp()
        except ftplib.Error as error:
            raise NoRoom(f"the server could not write: {_said(error)}") from None
        there = self._ftp.size(self._path)
        if there is not None and there != self._sent:
            name = _from_wire(posixpath.basename(self._path))
            raise CommandError(f"the server has {there} of {self._sent} bytes of {name}")
        with contextlib.suppress(ftplib.error_perm):
            self._ftp.sendcmd(f"SITE CHMOD 600 {self._path}")

    def give_up(self, *, keep: bool = False) -> None:
        if self._data.fileno() >= 0:
            self._complaint()
        if not keep:
            with contextlib.suppress(Exception):
                self._ftp.delete(self._path)


def _wire(text: str) -> str:
    """UTF-8, or whatever bytes a name has, as ftplib shall see them: a character each."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def _from_wire(text: str) -> str:
    return text.encode("latin-1").decode("utf-8", "surrogateescape")


def _said(error: ftplib.Error) -> str:
    """A server's answer without its number."""
    text = _from_wire(str(error)).strip().splitlines()[0]
    return text[4:].rstrip(".") if text[:3].isdigit() else text
