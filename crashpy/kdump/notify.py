"""`crashpy save notify`: a mail about every saved dump that nobody was told about yet.

The settings are those of the machine's kdump configuration; options go before them.
A password comes from the configuration, a file or the environment, never from an
argument, and no message holds it. The marker .notified in a dump's folder is written
when the mail server has accepted the mail, not before.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fcntl
import os
import shutil
import smtplib
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path

from crashpy.command import CommandError
from crashpy.kdump import report
from crashpy.kdump.config import Config
from crashpy.kdump.inventory import SavedDump, dumps_below, panic_in, read_text
from crashpy.kdump.layouts import NOTIFIED, README
from crashpy.kdump.logins import environment
from crashpy.kdump.plan import Mail, save_plan
from crashpy.kdump.system import System
from crashpy.kdump.targets import Target, reason
from crashpy.kdump.values import mail as checked_address
from crashpy.kdump.values import server as checked_server
from crashpy.kdump.verbs import complain, open_place, place_parser, printable
from crashpy.save import told

PASSWORD = "CRASHPY_SMTP_PASSWORD"  # in the environment
PATIENCE_SECONDS = 30  # for an answer of the mail server
BT_SECONDS = 300  # for opening the dump and following one stack
LOG_LINES = 150
BT_LINES = 400
MOST_MAILS = 20  # in one run
PORT, TLS_PORT = 25, 465
# What SUSE's kdump-notify writes: its marker stands for the older folders as well.
FOR_ALL_OLDER = "this and all older"


@dataclass(frozen=True)
class Letterbox:
    """How mail is sent, and to whom."""

    host: str
    port: int
    sender: str
    to: tuple[str, ...]
    cc: tuple[str, ...] = ()
    user: str = ""
    password: str = field(default="", repr=False)
    tls: str = "auto"  # auto, required, implicit, none
    ca_file: str | None = None
    wait_seconds: int = 0  # for the network to come up
    program: str = ""  # sendmail(8), which takes the mail instead of a server

    @property
    def verified(self) -> bool:
        """Whether the server must show a certificate that is trusted.

        A password goes to nobody else. Without one, encryption that cannot be verified
        is better than none, which is what there was before STARTTLS.
        """
        return bool(self.user) or self.tls in ("required", "implicit")


class Unreachable(CommandError):
    """The server takes no mail at all, whatever is in it."""


# The mail


def compose(dump: SavedDump, texts: Texts, letterbox: Letterbox) -> EmailMessage:
    host = dump.host or texts.report.host or socket.gethostname()
    message = EmailMessage()
    panic = dump.panic or panic_in(texts.log) or "see below"
    message["Subject"] = _header(f"kdump: {host} crashed: {panic}")
    message["From"] = letterbox.sender
    message["To"] = ", ".join(letterbox.to)
    if letterbox.cc:
        message["Cc"] = ", ".join(letterbox.cc)
    message["Date"] = formatdate(localtime=True)
    message["Message-ID"] = make_msgid(domain=letterbox.sender.rpartition("@")[2])
    message["Auto-Submitted"] = "auto-generated"
    message.set_content("".join(f"{line}\n" for line in _body(dump, texts)), cte="quoted-printable")
    return message


def _header(text: str) -> str:
    """One short line: what a dump holds must not become another header."""
    return "".join(c if c.isprintable() else " " for c in text)[:200]


def _body(dump: SavedDump, texts: Texts) -> Iterator[str]:
    yield f"Crash dump in {dump.place}{f'/{dump.folder}' if dump.folder else ''}:"
    if dump.state != "complete":
        yield f"it is not complete: {dump.why}"
    for title, lines in (
        (README, texts.readme),
        ("bt", texts.stack),
        (f"End of the log ({dump.log or 'of the dump'})", texts.log),
    ):
        yield ""
        yield f"{title}:"
        yield ""
        yield from lines or ["(none)"]


@dataclass(frozen=True)
class Texts:
    """What is told about a dump."""

    readme: Sequence[str]
    stack: Sequence[str]
    log: Sequence[str]
    report: report.Report = field(default_factory=report.Report)


def texts_of(place: Target, dump: SavedDump) -> Texts:
    readme = read_text(place, dump, README)
    told = report.parse(readme)
    if not readme:
        told = report.Report(release=dump.release, crashed=dump.crashed, host=dump.host)
        readme = report.readme(told)
    stack = _clean(_stack(place, dump))[:BT_LINES]
    log = read_text(place, dump, dump.log) if dump.log else _crashpy(place, dump, "--log")
    return Texts(_clean(readme.rstrip()), stack, _clean(log)[-LOG_LINES:], told)


def _clean(text: str) -> list[str]:
    """Lines that no mail reader and no terminal stumbles over."""
    return [
        "".join(c if c.isprintable() or c == "\t" else "?" for c in x) for x in text.split("\n")
    ]


def _stack(place: Target, dump: SavedDump) -> str:
    """`bt` of the task that panicked; without vmlinux by the types in the dump."""
    return _crashpy(place, dump, "-s", "--no_crashrc", "-c", "bt")


def _crashpy(place: Target, dump: SavedDump, *options: str) -> str:
    """What a process of our own prints about a dump, as a damaged one may kill it."""
    if not dump.files:
        return "(no dump to look into)"
    paths = [str(path) for file in dump.files if (path := place.local(_inside(dump, file)))]
    if not paths:
        return "(the dump is on another machine: it was not looked into)"
    if options[0] == "--log":
        paths = paths[:1]
    own = (PASSWORD, "DEBUGINFOD_URLS")
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "crashpy", *options, *paths],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=BT_SECONDS,
            env={name: value for name, value in environment().items() if name not in own},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"(given up after {BT_SECONDS} s)"
    said = done.stdout or done.stderr
    return said.decode(errors="replace").rstrip() or f"(nothing: exit status {done.returncode})"


def _inside(dump: SavedDump, file: str) -> str:
    return f"{dump.folder}/{file}" if dump.folder else file


# Sending


def send(message: EmailMessage, letterbox: Letterbox) -> dict[str, str]:
    """The recipients that were refused, and why, where others were not.

    Raises CommandError when the mail was accepted for nobody.
    """
    if letterbox.program:
        _submit(message, letterbox)
        return {}
    with _explaining(letterbox, Unreachable):
        server = _connected(letterbox)
    try:
        with _explaining(letterbox, Unreachable):
            _secure(server, letterbox)
            if letterbox.user:
                _log_in(server, letterbox.user, letterbox.password)
        with _explaining(letterbox, CommandError):
            refused = server.send_message(message)
        with contextlib.suppress(smtplib.SMTPException, OSError):
            server.quit()  # what is said here does not take back what was accepted
    finally:
        server.close()
    return {address: _reply(*answer) for address, answer in refused.items()}


def _log_in(server: smtplib.SMTP, user: str, password: str) -> None:
    """smtplib's own knows ASCII alone; UTF-8 is what RFC 4616 has for the rest."""
    if (user + password).isascii():
        server.login(user, password)
        return
    secret = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
    code, answer = server.docmd("AUTH", f"PLAIN {secret}")
    if code != 235:
        raise smtplib.SMTPAuthenticationError(code, answer)


def _submit(message: EmailMessage, letterbox: Letterbox) -> None:
    """To this machine's own mail system."""
    argv = [letterbox.program, "-oi", "-f", letterbox.sender, "--", *letterbox.to, *letterbox.cc]
    try:
        done = subprocess.run(
            argv, input=message.as_bytes(), capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unreachable(f"{letterbox.program}: {error}") from None
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())
        raise Unreachable(f"{letterbox.program}: {printable(said) or done.returncode}")


@contextlib.contextmanager
def _explaining(letterbox: Letterbox, kind: type[CommandError]) -> Iterator[None]:
    """Errors as one sentence, without the password even if a server repeats it."""
    try:
        yield
    except (smtplib.SMTPException, OSError) as error:
        sentence = f"{letterbox.host} port {letterbox.port}: {printable(_sentence(error))}"
        if letterbox.password:
            sentence = sentence.replace(letterbox.password, "(hidden)")
        raise kind(sentence) from None


def _sentence(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        whom = (f"{name} ({_reply(*why)})" for name, why in error.recipients.items())
        return f"refused: {'; '.join(whom)}"
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return f"wrong user or password ({error.smtp_code})"
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return f"the server cannot do it: {error}"
    if isinstance(error, smtplib.SMTPServerDisconnected):
        silent = "timed out" in str(error)
        return "the server does not answer" if silent else "the server broke the connection"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"the server refused: {_reply(error.smtp_code, error.smtp_error)}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message} (see --ca-file)"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    return reason(error)


def _reply(code: int, text: bytes | str) -> str:
    words = text.decode(errors="replace") if isinstance(text, bytes) else text
    return f"{code} {' '.join(words.split())}"


def _connected(letterbox: Letterbox) -> smtplib.SMTP:
    """Greeted by the server; while the network comes up, tried again."""
    give_up = time.monotonic() + letterbox.wait_seconds
    while True:
        try:
            if letterbox.tls == "implicit":
                return smtplib.SMTP_SSL(
                    letterbox.host,
                    letterbox.port,
                    timeout=PATIENCE_SECONDS,
                    context=_context(letterbox),
                )
            return smtplib.SMTP(letterbox.host, letterbox.port, timeout=PATIENCE_SECONDS)
        except ssl.SSLError:
            raise
        except OSError:
            if time.monotonic() >= give_up:
                raise
            time.sleep(min(5, max(0.1, give_up - time.monotonic())))


def _secure(server: smtplib.SMTP, letterbox: Letterbox) -> None:
    """STARTTLS, where it is offered; required before a password is sent."""
    if letterbox.tls in ("implicit", "none"):
        return
    server.ehlo()
    if server.has_extn("starttls"):
        server.starttls(context=_context(letterbox))
        server.ehlo()
    elif letterbox.verified:
        why = "the password is not sent without it" if letterbox.user else "it was asked for"
        raise Unreachable(f"{letterbox.host}: the server offers no TLS, and {why}")


def _context(letterbox: Letterbox) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=letterbox.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise CommandError(f"{letterbox.ca_file}: holds no certificate: {error}") from None
    if not letterbox.verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


# Which dumps


def untold(place: Target, dumps: Sequence[SavedDump], *, again: bool = False) -> list[SavedDump]:
    """Dumps without a marker, the oldest first."""
    if again:
        return list(dumps)
    found: list[SavedDump] = []
    for dump in dumps:
        if dump.notified:
            if FOR_ALL_OLDER in read_text(place, dump, NOTIFIED):
                found.clear()
        else:
            found.append(dump)
    return found


def tell(place: Target, dump: SavedDump, letterbox: Letterbox) -> list[str]:
    """Send the mail and leave the marker; a sentence for each recipient that was refused."""
    local = place.local(dump.folder)
    if local and not os.access(local, os.W_OK):
        raise CommandError(f"{local}: cannot be marked as told, so nothing was sent")
    message = compose(dump, texts_of(place, dump), letterbox)
    refused = send(message, letterbox)
    told = [address for address in (*letterbox.to, *letterbox.cc) if address not in refused]
    marker = f"Notification sent to {', '.join(told)} on {formatdate(localtime=True)}\n"
    place.store(_inside(dump, NOTIFIED), marker.encode())
    return [f"{address}: refused: {why}" for address, why in refused.items()]


@contextlib.contextmanager
def alone(place: Target) -> Iterator[None]:
    """Nobody else sends mails about the same dumps meanwhile."""
    folder = place.local("")
    if folder is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise CommandError(f"{place.url}: another crashpy save notify is at work there") from None
    finally:
        os.close(handle)


# The verb


def main(words: Sequence[str]) -> int:
    """`crashpy save notify`: 0 when all was told, 1 when somebody could not be."""
    asked = _parser().parse_args(words)
    failed = 0
    with told("save notify") as complaints:
        failed = _notify(asked)
    return 1 if complaints or failed else 0


def _notify(asked: argparse.Namespace) -> int:
    letterbox = letterbox_of(asked)
    failed = 0
    with open_place(asked) as place, alone(place):
        dumps = untold(place, dumps_below(place), again=asked.again)
        if asked.dry_run:
            for dump in dumps:
                sys.stdout.write(compose(dump, texts_of(place, dump), letterbox).as_string())
            return 0
        for dump in dumps[:MOST_MAILS]:
            try:
                refused = tell(place, dump, letterbox)
            except Unreachable:
                raise  # so it is for all of them
            except CommandError as error:
                refused = [str(error)]
            else:
                sys.stdout.write(f"{printable(dump.folder or str(place.url))}: told\n")
            for sentence in refused:
                complain("notify", f"{dump.folder or place.url}: {sentence}")
                failed = 1
        if len(dumps) > MOST_MAILS:
            complain("notify", f"{len(dumps) - MOST_MAILS} more dumps: run it again")
            failed = 1
        if not dumps:
            sys.stdout.write(f"{place.url}: nothing new\n")
    return failed


def letterbox_of(asked: argparse.Namespace) -> Letterbox:
    """The options, and what they leave out from the machine's configuration."""
    own = Mail("", "", "", (), ())
    try:
        own = save_plan(Config.read(System())).mail or own
    except CommandError as error:
        if not asked.to:
            raise CommandError(f"nobody to tell: --to ADDRESS, as {error}") from None
    to = tuple(asked.to or own.to)
    if not to:
        raise CommandError("nobody to tell: --to ADDRESS, or `crashpy setup configure mail-to=`")
    cc = tuple(asked.cc or (() if asked.to else own.cc))
    for address in (*to, *cc, *([asked.sender] if asked.sender else [])):
        checked_address(address)
    server = checked_server(asked.server) if asked.server else own.server
    host, port = _place(server or "localhost")
    tls = asked.smtp_tls or ("implicit" if port == TLS_PORT else "auto")
    user = asked.user or ("" if asked.server else own.user)
    if user and tls == "none":
        raise CommandError("a password is not sent without TLS")
    return Letterbox(
        host=host,
        port=port or (TLS_PORT if tls == "implicit" else PORT),
        sender=asked.sender or f"root@{_own_name()}",
        to=to,
        cc=cc,
        user=user,
        password=_password(asked, own) if user else "",
        tls=tls,
        ca_file=asked.ca_file,
        wait_seconds=asked.wait,
        program="" if server or asked.smtp_tls or user else _sendmail(),
    )


def _own_name() -> str:
    name = socket.getfqdn()
    return socket.gethostname() if name.startswith("localhost") else name


def _sendmail() -> str:
    return shutil.which("sendmail", path="/usr/sbin:/usr/lib:/usr/bin") or ""


def _place(server: str) -> tuple[str, int | None]:
    """HOST, HOST:PORT or [IPV6]:PORT"""
    host, colon, port = server.rpartition(":")
    if not colon or server.endswith("]") or not port.isdigit():
        return server.strip("[]"), None
    if not 0 < int(port) < 65536:
        raise CommandError(f"{server}: no such port")
    return host.strip("[]"), int(port)


def _password(asked: argparse.Namespace, own: Mail) -> str:
    if asked.password_file:
        path = Path(asked.password_file)
        if path.stat().st_mode & 0o077:
            raise CommandError(f"{path}: others can read it: chmod 600 it")
        return path.read_text().partition("\n")[0]
    if PASSWORD in os.environ:
        return os.environ[PASSWORD]
    others = asked.server not in (None, own.server)  # whose server has no business with ours
    if asked.user and (others or asked.user != own.user):
        raise CommandError(f"no password for {asked.user}: --password-file, or ${PASSWORD}")
    return own.password


def _parser() -> argparse.ArgumentParser:
    parser = place_parser(
        "notify",
        "send a mail about every saved dump that nobody was told about: its README.txt, the"
        " stack of the task that panicked, the end of its log",
    )
    parser.epilog = (
        "What no option says is taken from the configuration of kdump; a password from"
        f" --password-file, ${PASSWORD}, or there."
    )
    add = parser.add_argument
    add("--server", metavar="HOST[:PORT]", help="the mail server; default: sendmail, localhost")
    add("--user", metavar="NAME", help="log in as NAME; only through TLS")
    add("--password-file", metavar="FILE", help="its first line is the password")
    add("--to", action="append", metavar="ADDRESS", help="who is told; may be given several times")
    add("--cc", action="append", metavar="ADDRESS", help="who else is")
    add("--from", dest="sender", metavar="ADDRESS", help="default: root of this machine")
    add(
        "--smtp-tls", choices=("auto", "required", "implicit", "none"),
        help="auto: STARTTLS where it is offered; implicit: from the start, as on port 465",
    )  # fmt: skip
    add("--ca-file", metavar="FILE", help="certificates to trust, beside none of the system's")
    add("--wait", type=int, default=0, metavar="SECONDS", help="for the network to come up")
    add("--again", action="store_true", help="about dumps that were told about, too")
    add("--dry-run", action="store_true", help="show the mails, send none, mark nothing")
    return parser
