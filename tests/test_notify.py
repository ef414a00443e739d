"""save notify, against a real postfix, and against servers that refuse."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mailservers
import places
import pytest
import servers
from mailservers import DOMAIN, Postfix

from crashpy.kdump import logins, notify
from crashpy.kdump.inventory import dumps_below
from crashpy.kdump.report import SAVED, Report, readme
from crashpy.kdump.system import System
from crashpy.kdump.targets import open_target
from crashpy.kdump.urls import Url

SECRET = "s3cr3t-word"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mailservers.certificate_in(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def postfix(certificate: Path) -> Iterator[Postfix]:
    with mailservers.postfix(certificate) as server:
        yield server


@pytest.fixture
def crash(tmp_path: Path) -> Path:
    """A folder with one dump, of which only the log is left: the quickest to tell about."""
    folder = tmp_path / "crash"
    save(folder / "2026-11-20-10-00")
    return folder


def save(folder: Path, panic: str = "Oops: 0002 [#1]") -> None:
    folder.mkdir(parents=True)
    told = Report(SAVED, "skipped", release="6.12", host="web1", level=31)
    (folder / "README.txt").write_text(readme(told))
    log = f"[    1.0] first\n[    2.0] {panic}\n[    2.1] last\n"
    (folder / "dmesg").write_bytes(log.encode(errors="surrogateescape"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run(folder, "--to", ...)``: exit status, output, complaints."""
    monkeypatch.delenv(notify.PASSWORD, raising=False)
    monkeypatch.setattr(notify, "_sendmail", lambda: "")  # this machine's own sends nothing

    def call(folder: Path, *words: str) -> tuple[int, str, str]:
        status = notify.main([str(folder), "--from", f"root@{DOMAIN}", *words])
        said = capsys.readouterr()
        assert SECRET not in said.out + said.err
        return status, said.out, said.err

    return call


def marker(folder: Path) -> Path:
    return folder / "2026-11-20-10-00" / ".notified"


def awaited(postfix: Postfix, count: int) -> None:
    for _ in range(100):
        if len(postfix.mails()) >= count:
            return
        time.sleep(0.05)
    raise AssertionError(postfix.log.read_text())


# A real server


def test_a_mail_arrives_once(postfix: Postfix, examples: Path, tmp_path: Path, run: Run) -> None:
    before = len(postfix.mails())
    folder = tmp_path / "crash" / "2026-11-20-10-00"
    folder.mkdir(parents=True)
    shutil.copy(examples / "vmcore-null", folder / "vmcore")
    (folder / "README.txt").write_text(readme(Report(SAVED, SAVED, host="web1")))
    words = ("--server", f"127.0.0.1:{postfix.port}", "--to", postfix.address)
    status, said, complaints = run(folder.parent, *words)
    assert (status, said, complaints) == (0, "2026-11-20-10-00: told\n", "")
    awaited(postfix, before + 1)
    mail = postfix.mails()[-1]
    assert mail["Subject"].startswith("kdump: web1 crashed: Oops: Oops: 0000 [#1]")
    assert mail["To"] == postfix.address
    assert mail["From"] == f"root@{DOMAIN}"
    text = mail.get_content()
    assert "vmcore status: saved successfully" in text
    assert 'COMMAND: "sh"' in text
    assert " #8 [ffffa2e000227dd8] do_null at ffffffffc01bb4fb [crashme]" in text
    assert "BUG: kernel NULL pointer dereference" in text
    assert postfix.address in (folder / ".notified").read_text()
    assert run(folder.parent, *words)[:2] == (0, f"{folder.parent}: nothing new\n")
    assert run(folder.parent, *words, "--again")[0] == 0
    awaited(postfix, before + 2)


def test_a_recipient_that_postfix_refuses(postfix: Postfix, crash: Path, run: Run) -> None:
    status, _, said = run(
        crash, "--server", f"localhost:{postfix.port}", "--to", f"nobodyatall@{DOMAIN}"
    )
    assert status == 1
    assert f"refused: nobodyatall@{DOMAIN} (550 5.1.1" in said
    assert not marker(crash).exists()


def test_postfix_does_not_relay(postfix: Postfix, crash: Path, run: Run) -> None:
    status, _, said = run(
        crash, "--server", f"localhost:{postfix.port}", "--to", "a@elsewhere.test"
    )
    assert status == 1
    assert "Relay access denied" in said
    assert not marker(crash).exists()


def test_a_certificate_that_is_not_trusted(
    postfix: Postfix, certificate: Path, crash: Path, run: Run
) -> None:
    before = len(postfix.mails())
    server = ("--server", f"localhost:{postfix.port}", "--to", postfix.address)
    status, _, said = run(crash, *server, "--smtp-tls", "required")
    assert status == 1
    assert "its certificate is not trusted: self-signed certificate" in said
    assert not marker(crash).exists()
    status, _, said = run(crash, *server, "--smtp-tls", "required", "--ca-file", str(certificate))
    assert (status, said) == (0, "")
    awaited(postfix, before + 1)
    assert "TLS" in postfix.log.read_text() or "STARTTLS" in str(postfix.mails()[-1]["Received"])


# Servers that refuse


@pytest.mark.parametrize("name", ["me", "mé"])
def test_login(certificate: Path, crash: Path, run: Run, tmp_path: Path, name: str) -> None:
    password = tmp_path / "password"
    password.touch(0o600)
    password.write_text(f"{SECRET}\nmore\n")
    with mailservers.fake(certificate, login=(name, SECRET)) as server:
        status, _, said = run(
            *(crash, "--server", f"localhost:{server.port}", "--ca-file", str(certificate)),
            *("--user", name, "--password-file", str(password)),
            *("--to", "a@x.test", "--to", "b@x.test", "--cc", "c@x.test"),
        )
        assert (status, said) == (0, "")
        assert server.logins == [(name, SECRET)]
        assert server.encrypted == [True]
        ((recipients, mail),) = server.mails
    assert recipients == ["a@x.test", "b@x.test", "c@x.test"]
    assert (mail["To"], mail["Cc"]) == ("a@x.test, b@x.test", "c@x.test")
    assert SECRET not in mail.as_string()
    assert SECRET not in marker(crash).read_text()
    assert "[    2.1] last" in mail.get_content()


def test_a_server_without_login(
    postfix: Postfix, certificate: Path, crash: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(notify.PASSWORD, SECRET)
    words = ("--server", f"localhost:{postfix.port}", "--ca-file", str(certificate))
    status, _, said = run(crash, *words, "--user", "me", "--to", postfix.address)
    assert status == 1
    assert "the server cannot do it: SMTP AUTH extension not supported by server" in said
    assert not marker(crash).exists()


@pytest.mark.parametrize("user", ["me", "mé"])
def test_wrong_password(
    certificate: Path, crash: Path, run: Run, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    monkeypatch.setattr("crashpy.kdump.notify._password", lambda *_: SECRET)
    with mailservers.fake(certificate, login=("me", "other")) as server:
        status, _, said = run(
            *(crash, "--server", f"localhost:{server.port}", "--ca-file", str(certificate)),
            *("--user", user, "--to", "a@x.test"),
        )
        assert status == 1
        assert "wrong user or password (535)" in said
        assert server.mails == []
    assert not marker(crash).exists()


def test_no_password_goes_out_in_the_clear(
    certificate: Path, crash: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--user", "me", "--to", "a@x.test")
    with mailservers.fake(login=("me", SECRET)) as server:
        monkeypatch.setenv(notify.PASSWORD, SECRET)
        status, _, said = run(crash, "--server", f"localhost:{server.port}", *words)
        assert status == 1
        assert "offers no TLS, and the password is not sent without it" in said
        assert server.logins == []
    with mailservers.fake(certificate, login=("me", SECRET)) as server:
        status, _, said = run(crash, "--server", f"localhost:{server.port}", *words)
        assert status == 1
        assert "not trusted" in said
        assert server.logins == []
        status, _, said = run(
            crash, "--server", f"localhost:{server.port}", *words, "--smtp-tls", "none"
        )
        assert (status, server.logins) == (1, [])
        assert "not sent without TLS" in said


def test_tls_that_the_server_does_not_have(crash: Path, run: Run) -> None:
    with mailservers.fake() as server:
        words = ("--server", f"localhost:{server.port}", "--to", "a@x.test")
        status, _, said = run(crash, *words, "--smtp-tls", "required")
        assert status == 1
        assert "offers no TLS, and it was asked for" in said
        status, _, said = run(crash, *words, "--smtp-tls", "implicit")
        assert status == 1
        assert "TLS failed" in said
        assert server.mails == []
        assert run(crash, *words)[0] == 0
        assert server.encrypted == [False]


def test_tls_that_the_server_wants(certificate: Path, crash: Path, run: Run) -> None:
    with mailservers.fake(certificate) as server:
        words = ("--server", f"localhost:{server.port}", "--to", "a@x.test")
        assert run(crash, *words)[0] == 0
        assert server.encrypted == [True]


def test_tls_from_the_start(certificate: Path, crash: Path, run: Run) -> None:
    with mailservers.fake(certificate, implicit=True) as server:
        words = ("--server", f"localhost:{server.port}", "--to", "a@x.test")
        status, _, said = run(
            crash, *words, "--smtp-tls", "implicit", "--ca-file", str(certificate)
        )
        assert (status, said) == (0, "")
        assert server.encrypted == [True]


def test_some_recipients_are_refused(crash: Path, run: Run) -> None:
    with mailservers.fake(refuse={"b@x.test": "550 no such user"}) as server:
        words = ("--server", f"localhost:{server.port}", "--to", "a@x.test", "--cc", "b@x.test")
        status, said, complaints = run(crash, *words)
        assert status == 1
        assert "told" in said
        assert "b@x.test: refused: 550 no such user" in complaints
        assert [recipients for recipients, _ in server.mails] == [["a@x.test"]]
        assert marker(crash).read_text().startswith("Notification sent to a@x.test on ")
        assert run(crash, *words)[0] == 0
        assert len(server.mails) == 1


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ({"refuse": {"a@x.test": "450 4.2.0 try again later"}}, "450 4.2.0 try again later"),
        ({"data": "554 5.7.1 spam\x1b[31m"}, "the server refused: 554 5.7.1 spam"),
        ({"hang_up": True}, "the server broke the connection"),
    ],
)
def test_nothing_is_marked_that_was_not_accepted(
    crash: Path, run: Run, answers: dict[str, object], sentence: str
) -> None:
    with mailservers.fake(**answers) as server:
        status, _, said = run(crash, "--server", f"localhost:{server.port}", "--to", "a@x.test")
        assert status == 1
        assert sentence in said
        assert "\x1b" not in said
        assert not marker(crash).exists()
        server.refuse, server.data, server.hang_up = {}, "", False
        assert run(crash, "--server", f"localhost:{server.port}", "--to", "a@x.test")[0] == 0
        assert marker(crash).exists()


def test_no_server(crash: Path, run: Run) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        status, _, said = run(crash, "--server", f"127.0.0.1:{port}", "--to", "a@x.test")
    assert status == 1
    assert "connection refused: no server listens there" in said
    assert run(crash, "--server", "no.such.host.invalid", "--to", "a@x.test")[2].endswith(
        "no such host\n"
    )
    assert not marker(crash).exists()


def test_a_server_that_says_nothing(crash: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "PATIENCE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        status, _, said = run(crash, "--server", f"127.0.0.1:{port}", "--to", "a@x.test")
    assert status == 1
    assert "the server does not answer" in said


def test_what_a_server_says_at_the_end_does_not_matter(crash: Path, run: Run) -> None:
    with mailservers.fake(farewell="421 4.3.2 going down") as server:
        words = ("--server", f"localhost:{server.port}", "--to", "a@x.test")
        assert run(crash, *words) == (0, "2026-11-20-10-00: told\n", "")
        assert marker(crash).exists()


def test_one_sentence_when_no_mail_can_be_sent(crash: Path, run: Run) -> None:
    save(crash / "2026-11-21-10-00")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        server = f"127.0.0.1:{closed.getsockname()[1]}"
        status, _, said = run(crash, "--server", server, "--to", "a@x.test")
    assert status == 1
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(("exit_status", "told"), [(0, True), (75, False)])
def test_the_machines_own_mail_system(
    crash: Path,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    exit_status: int,
    told: bool,
) -> None:
    program = tmp_path / "sendmail"
    program.write_text(
        f'#!/bin/sh\necho "$@" >{tmp_path}/words; cat >{tmp_path}/mail\n'
        f"echo mail system is down >&2; exit {exit_status}\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(notify, "_sendmail", lambda: str(program))
    status, _, said = run(crash, "--to", "a@x.test", "--cc", "b@x.test")
    assert (status == 0) == told
    assert marker(crash).exists() == told
    assert ("mail system is down" in said) == (not told)
    assert (tmp_path / "words").read_text() == f"-oi -f root@{DOMAIN} -- a@x.test b@x.test\n"
    assert "Subject: kdump: web1 crashed" in (tmp_path / "mail").read_text()


def test_it_waits_for_the_network(crash: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real, tries = notify.smtplib.SMTP, []

    def late(*args: object, **options: object) -> object:
        tries.append(1)
        if len(tries) < 3:
            raise OSError(101, "Network is unreachable")
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("smtplib.SMTP", late)
    monkeypatch.setattr("time.sleep", lambda _: None)
    with mailservers.fake() as server:
        words = ("--server", f"localhost:{server.port}", "--to", "a@x.test")
        status, _, said = run(crash, *words)
        assert status == 1
        assert "Network is unreachable" in said
        assert run(crash, *words, "--wait", "60")[0] == 0


# Which dumps


def test_every_dump_that_was_not_told(crash: Path, run: Run) -> None:
    save(crash / "2026-11-21-10-00", "kernel BUG at mm/slub.c:1")
    save(crash / "2026-11-22-10-00")
    (crash / "2026-11-22-10-00" / ".notified").write_text("")
    with mailservers.fake() as server:
        assert run(crash, "--server", f"localhost:{server.port}", "--to", "a@x.test")[0] == 0
        assert [mail["Subject"] for _, mail in server.mails] == [
            "kdump: web1 crashed: Oops: 0002 [#1]",
            "kdump: web1 crashed: kernel BUG at mm/slub.c:1",
        ]


def test_a_failure_does_not_keep_the_others(
    crash: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(crash / "2026-11-21-10-00")
    with mailservers.fake() as server:
        answers = iter(["554 no", ""])
        real = notify.send

        def first_fails(*words: object) -> dict[str, str]:
            server.data = next(answers)
            return real(*words)  # type: ignore[arg-type]

        monkeypatch.setattr(notify, "send", first_fails)
        status, said, _ = run(crash, "--server", f"localhost:{server.port}", "--to", "a@x.test")
    assert status == 1
    assert said == "2026-11-21-10-00: told\n"
    assert not marker(crash).exists()
    assert (crash / "2026-11-21-10-00" / ".notified").exists()


def test_the_marker_of_suse_stands_for_older_dumps(crash: Path) -> None:
    save(crash / "2026-11-21-10-00")
    save(crash / "2026-11-22-10-00")
    text = "Notification sent for this and all older directories on today\n"
    (crash / "2026-11-21-10-00" / ".notified").write_text(text)
    with open_target(Url("file", str(crash))) as place:
        found = notify.untold(place, dumps_below(place))
    assert [dump.folder for dump in found] == ["2026-11-22-10-00"]


def test_a_folder_that_takes_no_marker(crash: Path) -> None:
    script = f'mount --bind {crash} {crash} && mount -o remount,bind,ro {crash} && exec "$@"'
    with mailservers.fake() as server:
        words = [
            *(sys.executable, "-P", "-m", "crashpy", "save", "notify", str(crash)),
            *("--server", f"localhost:{server.port}", "--to", "a@x.test"),
        ]
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, "sh", *words],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert server.mails == []
    assert done.returncode == 1
    assert "cannot be marked as told, so nothing was sent" in done.stderr


def test_two_at_a_time(crash: Path, run: Run) -> None:
    with open_target(Url("file", str(crash))) as place, notify.alone(place):
        status, _, said = run(crash, "--to", "a@x.test")
    assert status == 1
    assert "another crashpy save notify is at work" in said


def test_so_many_that_it_stops(crash: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "MOST_MAILS", 1)
    save(crash / "2026-11-21-10-00")
    with mailservers.fake() as server:
        status, _, said = run(crash, "--server", f"localhost:{server.port}", "--to", "a@x.test")
        assert (status, len(server.mails)) == (1, 1)
    assert "1 more dumps: run it again" in said


def test_dumps_on_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with places.place("sftp") as where, mailservers.fake() as server:
        save(where.server.seen("open") / "web1-2026-11-20-10-00")
        subprocess.run(["chown", "-R", str(servers.UID), where.server.seen("open")], check=True)
        words = [*where.options, "--server", f"localhost:{server.port}", "--to", "a@x.test"]
        monkeypatch.setenv("CRASHPY_PASSWORD", servers.PASSWORD)
        url = where.url("open", password=None)
        for expected in (1, 1):
            assert notify.main([url, *words]) == 0
            assert len(server.mails) == expected
        assert "web1-2026-11-20-10-00/.notified" in where.found()
    text = server.mails[0][1].as_string()
    assert servers.PASSWORD not in text


# The mail


def test_dry_run(crash: Path, run: Run) -> None:
    status, said, _ = run(crash, "--to", "a@x.test", "--dry-run")
    assert status == 0
    assert "Subject: kdump: web1 crashed: Oops: 0002 [#1]" in said
    assert "Auto-Submitted: auto-generated" in said
    assert not marker(crash).exists()


def test_a_log_puts_nothing_into_the_headers(tmp_path: Path, run: Run) -> None:
    save(tmp_path / "2026-11-20-10-00", "Oops: \rBcc: evil@x.test\r\n\x1b[31m é \udc80")
    with mailservers.fake() as server:
        words = ("--server", f"localhost:{server.port}", "--to", "a@x.test")
        assert run(tmp_path, *words)[0] == 0
        ((recipients, mail),) = server.mails
    assert recipients == ["a@x.test"]
    assert mail["Bcc"] is None
    assert "\x1b" not in mail.get_content()


def test_a_dump_that_is_damaged(tmp_path: Path, examples: Path, run: Run) -> None:
    folder = tmp_path / "2026-11-20-10-00"
    folder.mkdir()
    data = bytearray((examples / "vmcore-null").read_bytes()[:200_000])
    data[8192:9000] = bytes(808)
    (folder / "vmcore").write_bytes(data)
    with mailservers.fake() as server:
        words = ("--server", f"localhost:{server.port}", "--to", "a@x.test")
        assert run(tmp_path, *words)[0] == 0
        ((_, mail),) = server.mails
    text = mail.get_content()
    assert "bt:" in text
    assert "Traceback" not in text


def test_a_dump_that_hangs(
    tmp_path: Path, examples: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "BT_SECONDS", 0.01)
    folder = tmp_path / "2026-11-20-10-00"
    folder.mkdir()
    shutil.copy(examples / "vmcore-null", folder / "vmcore")
    status, said, _ = run(tmp_path, "--to", "a@x.test", "--dry-run")
    assert status == 0
    assert "given up after 0.01 s" in said


def test_what_looks_into_the_dump_knows_no_password(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "2026-11-20-10-00"
    folder.mkdir()
    (folder / "vmcore").write_bytes(b"x")
    seen: list[str] = []

    def record(argv: list[str], *, env: dict[str, str], **_: object) -> object:
        seen.append(f"{argv} {env}")
        return subprocess.CompletedProcess(argv, 0, b"", b"")

    monkeypatch.setattr("subprocess.run", record)
    words = ("--to", "a@x.test", "--user", "me", "--dry-run")
    monkeypatch.setenv(notify.PASSWORD, SECRET)
    monkeypatch.setenv(logins.PASSWORD, SECRET)
    assert run(tmp_path, *words)[0] == 0
    assert seen
    assert SECRET not in "".join(seen)


# Settings


def test_settings_of_the_machine(
    certificate: Path, crash: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SUSE's own file; its words have no certificates: those of the system are trusted."""
    file = tmp_path / "etc" / "sysconfig" / "kdump"
    file.parent.mkdir(parents=True)
    monkeypatch.setattr(notify, "System", lambda: System(tmp_path))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with mailservers.fake(certificate, login=("me", SECRET)) as server:
        file.write_text(
            f'KDUMP_SAVEDIR="{crash}"\nKDUMP_SMTP_SERVER="localhost:{server.port}"\n'
            f'KDUMP_SMTP_USER="me"\nKDUMP_SMTP_PASSWORD="{SECRET}"\n'
            'KDUMP_NOTIFICATION_TO="boss@x.test"\nKDUMP_NOTIFICATION_CC="a@x.test b@x.test"\n'
        )
        assert run(crash)[0] == 0
        assert server.logins == [("me", SECRET)]
        ((recipients, _),) = server.mails
        assert recipients == ["boss@x.test", "a@x.test", "b@x.test"]
        # another server is not told this one's password
        for user in ("me", "you"):
            status, _, said = run(crash, "--again", "--server", "localhost:1", "--user", user)
            assert status == 1
            assert f"no password for {user}" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "nobody to tell"),
        (("--to", "no address"), "not a mail address"),
        (("--to", "a@x.test\nBcc: b@x.test"), "one line"),
        (("--to", "a@x.test", "--user", "me"), "no password for me"),
        (("--to", "a@x.test", "--user", "me", "--password-file", "/nonexistent"), "No such file"),
        (("--to", "a@x.test", "--user", "me", "--password-file", "/etc/hostname"), "chmod 600"),
        (("--to", "a@x.test", "--server", "x y"), "not HOST or HOST:PORT"),
        (("--to", "a@x.test", "--server", "x:99999"), "no such port"),
        (("--to", "a@x.test", "--smtp-tls", "required", "--ca-file", "/etc/hostname"), "port"),
    ],
)
def test_settings_that_are_wrong(
    crash: Path, run: Run, words: tuple[str, ...], sentence: str
) -> None:
    status, _, said = run(crash, *words)
    assert status == 1
    assert sentence in said
    assert not marker(crash).exists()
