"""Mail servers on 127.0.0.1: a real postfix, and aiosmtpd for what postfix would need more for."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import servers

DOMAIN = "crashpy.test"
SERVICES = """
{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
local unix - n n - - local
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""


@dataclass
class Postfix:
    """One that delivers to the mailboxes of this machine's users."""

    port: int
    address: str  # of a user who has a mailbox
    mailbox: Path  # its new mails, a file each
    log: Path

    def mails(self) -> list[EmailMessage]:
        """Those that were delivered, the oldest first."""
        files = sorted(self.mailbox.glob("*"), key=lambda path: path.stat().st_mtime_ns)
        parsed = [message_from_bytes(path.read_bytes(), policy=policy.default) for path in files]
        return [mail for mail in parsed if isinstance(mail, EmailMessage)]


def certificate_in(folder: Path) -> Path:
    """A certificate for localhost and 127.0.0.1 that nobody has signed; .key beside it."""
    servers.need("openssl")
    certificate = folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(certificate.with_suffix(".key")), "-out", str(certificate)),
        ],
        stdin=subprocess.DEVNULL, capture_output=True, check=True,
    )  # fmt: skip
    return certificate


@contextlib.contextmanager
def postfix(certificate: Path) -> Iterator[Postfix]:
    """In namespaces of its own, its user and mailbox too."""
    servers.PACKAGES.setdefault("postfix", "postfix")
    servers.need("postfix", "unshare")
    port = servers.free_port()
    with servers._folder() as base:
        for name in ("queue", "data", "spool", "etc"):
            (base / name).mkdir(0o755)
        (base / "spool").chmod(0o1777)
        (base / "etc" / "master.cf").write_text(SERVICES.format(port=f"127.0.0.1:{port}"))
        (base / "etc" / "main.cf").write_text(
            f"compatibility_level = 3.6\nqueue_directory = {base}/queue\n"
            f"data_directory = {base}/data\nmaillog_file = /dev/stdout\n"
            f"inet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nmyhostname = {DOMAIN}\n"
            f"mydestination = {DOMAIN}\nmynetworks =\nalias_maps =\nalias_database =\n"
            f"mail_spool_directory = {base}/spool/\nlocal_recipient_maps = unix:passwd.byname\n"
            "smtpd_relay_restrictions = reject_unauth_destination\nbiff = no\n"
            f"smtpd_tls_security_level = may\nsmtpd_tls_cert_file = {certificate}\n"
            f"smtpd_tls_key_file = {certificate.with_suffix('.key')}\n"
        )
        setup = "chown postfix {base}/data\n"
        command = ["postfix", "-c", str(base / "etc"), "start-fg"]
        with servers._running(base, setup, command, port, ""):
            mailbox = base / "spool" / servers.USER / "new"
            yield Postfix(port, f"{servers.USER}@{DOMAIN}", mailbox, base / "log")


@dataclass
class Fake:
    """What a server shall answer, and what it was told."""

    port: int = 0
    refuse: dict[str, str] = field(default_factory=dict)  # recipient: answer to RCPT
    data: str = ""  # answer to DATA, where it is a refusal
    mails: list[tuple[list[str], EmailMessage]] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)  # of each mail
    hang_up: bool = False  # when the mail comes
    farewell: str = "221 Bye"

    async def handle_RCPT(
        self, _server: Any, _session: Any, envelope: Any, address: str, _: Any
    ) -> str:
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_QUIT(self, _server: Any, _session: Any, _envelope: Any) -> str:
        return self.farewell

    async def handle_DATA(self, server: Any, _session: Any, envelope: Any) -> str:
        if self.hang_up:
            server.transport.close()
            return "421 going"
        if self.data:
            return self.data
        mail = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append((list(envelope.rcpt_tos), mail))
        self.encrypted.append(server.transport.get_extra_info("sslcontext") is not None)
        return "250 OK"


@contextlib.contextmanager
def fake(
    certificate: Path | None = None,
    *,
    implicit: bool = False,
    login: tuple[str, str] | None = None,
    **answers: Any,
) -> Iterator[Fake]:
    """STARTTLS is offered where there is a certificate, a login where there is one."""
    from aiosmtpd.controller import Controller
    from aiosmtpd.smtp import AuthResult

    told = Fake(**answers)
    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))

    def check(_server: Any, _session: Any, _envelope: Any, _method: str, given: Any) -> Any:
        words = given.login.decode(), given.password.decode()
        told.logins.append(words)
        return AuthResult(success=words == login, handled=False)

    options: dict[str, Any] = {"authenticator": check, "auth_required": True} if login else {}
    if context and not implicit:
        options["tls_context"] = context
    controller = Controller(
        told,
        hostname="127.0.0.1",
        port=servers.free_port(),
        ssl_context=context if implicit else None,
        auth_require_tls=not implicit,
        **options,
    )
    told.port = controller.port
    controller.start()
    try:
        yield told
    finally:
        controller.stop()
