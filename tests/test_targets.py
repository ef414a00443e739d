"""Every protocol against its real server: what works, and what each failure says."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import servers
from places import PROTOCOLS, Place, Places, place

from crashpy.command import CommandError
from crashpy.kdump import ftp, logins, mounted, nfs, ssh
from crashpy.kdump.targets import (
    FileTarget,
    Login,
    NoRoom,
    Stream,
    Target,
    open_target,
    parse_listing,
)
from crashpy.kdump.urls import Url, parse

SECRETS = (servers.PASSWORD, "wr0ng")


@pytest.fixture(scope="module")
def places() -> Iterator[Places]:
    shared = Places()
    yield shared
    shared.close()


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No keys, no known hosts, no agent of whoever runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


def opened(where: Place, folder: str = "open") -> Target:
    return open_target(parse(where.url(folder)), where.login)


def written(stream: Stream, data: bytes, times: int) -> None:
    for _ in range(times):
        stream.write(data)
    stream.finish()


def refusal(url: str, login: Login) -> str:
    with pytest.raises(CommandError) as caught:
        open_target(parse(url), login).store("x", b"x")
    sentence = str(caught.value)
    assert not any(secret in sentence for secret in SECRETS)
    assert "\n" not in sentence
    return re.sub(r"^\w+://\S+: ", "", sentence)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_a_target_does(places: Places, protocol: str) -> None:
    where = places[protocol]
    data = os.urandom(5 << 20)
    with opened(where) as target:
        names = target.names()
        target.make_folder("d")
        target.store("d/a b'c", b"old")
        target.store("d/a b'c", b"hello world")
        stream = target.stream("d/big")
        for at in range(0, len(data), 1 << 20):
            stream.write(data[at : at + (1 << 20)])
        stream.finish()
        found = {entry.name: (entry.kind, entry.size_bytes) for entry in target.entries("d")}
        assert found == {"a b'c": ("file", 11), "big": ("file", len(data))}
        assert [entry.kind for entry in target.entries() if entry.name == "d"] == ["folder"]
        assert (target.size("d/big"), target.size("d/none")) == (len(data), None)
        assert b"".join(target.read("d/big")) == data
        assert b"".join(target.read("d/big", 3 << 20)) == data[3 << 20 :]
        assert b"".join(target.read("d/a b'c", 6, 3)) == b"wor"
        assert (target.free() or 1 << 20) > 1000
        below = where.server.seen() / "d"
        assert below.stat().st_mode & 0o777 == 0o700
        if protocol != "nfs":
            assert below.stat().st_uid == servers.UID
        assert {path.stat().st_mode & 0o777 for path in below.iterdir()} == {0o600}
        target.rename("d/big", "d/large")
        target.remove("d/a b'c")
        assert target.names("d") == ["large"]
        target.remove_folder("d")
        assert target.names() == names


@pytest.mark.parametrize("protocol", [p for p in PROTOCOLS if p != "cifs"])
def test_names_that_are_no_utf8(places: Places, protocol: str) -> None:
    """Somebody else's must not keep a dump from being saved beside it."""
    where = places[protocol]
    name = "\udcff'\udce4 ü"
    below = where.server.seen() / name
    with opened(where) as target:
        target.make_folder(name)
        assert below.is_dir()
        assert name in target.names()
        target.make_folder(f"{name}/d")
        target.store(f"{name}/d/{name}", b"hello")
        assert target.names(f"{name}/d") == [name]
        assert target.size(f"{name}/d/{name}") == 5
        assert b"".join(target.read(f"{name}/d/{name}")) == b"hello"
        assert (below / "d" / name).read_bytes() == b"hello"
    url = parse(where.url())
    with open_target(replace(url, path=f"{url.path}/{name}"), where.login) as target:
        assert target.names() == ["d"]
        assert parse(str(target.url)) == replace(target.url, password=None)
        target.remove_folder("d")
        assert target.names() == []


def test_line_breaks_are_no_commands(places: Places) -> None:
    where = places["ftp"]
    for url in (where.url("open%0AQUIT"), where.url(password=None).replace("@", ":a%0D%0Ab@")):
        assert "line breaks" in refusal(url, where.login)


@pytest.mark.parametrize("protocol", ["sftp", "cifs", "nfs"])
def test_bytes_at_offsets(places: Places, protocol: str) -> None:
    with opened(places[protocol]) as target:
        sink = target.sink("dump")
        sink.write(8192, memoryview(b"end"))
        sink.write(0, b"a" * 4096)
        sink.write(0, b"b" * 10)
        sink.finish()
        assert b"".join(target.read("dump")) == b"b" * 10 + b"a" * 4086 + bytes(4096) + b"end"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_beyond_4_gib(places: Places, protocol: str) -> None:
    where = places[protocol]
    far = 5 << 30
    path = where.server.seen() / "large"
    with path.open("wb") as file:
        os.pwrite(file.fileno(), b"the end", far)  # the rest is a hole
    os.chown(path, servers.UID, servers.UID)
    with opened(where) as target:
        assert target.size("large") == far + 7
        assert b"".join(target.read("large", far + 4)) == b"end"
        assert [e.size_bytes for e in target.entries() if e.name == "large"] == [far + 7]
        if not target.flattened:
            sink = target.sink("other")
            sink.write(far, b"beyond")
            sink.finish()
            assert b"".join(target.read("other", far)) == b"beyond"
    path.unlink()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_refusals(places: Places, protocol: str) -> None:
    where = places[protocol]
    assert refusal(where.url("missing"), where.login) in (
        "no such folder",
        "no such folder, or no permission",
        "no such folder, or it is not exported",
        "missing: No such file or directory",
    )
    sentence = refusal(where.url("closed"), where.login)
    assert "ermission denied" in sentence or "Could not create file" in sentence
    closed = re.sub(r":\d+/", f":{servers.free_port()}/", where.url())
    sentence = refusal(closed, where.login)
    assert sentence in (
        "connection refused: no server listens there",
        "no NFS server answers there",
    )
    if protocol != "nfs":
        assert refusal(where.url(password="wr0ng"), where.login).startswith("wrong user")


@pytest.mark.parametrize("protocol", ["sftp", "ssh"])
def test_host_keys(places: Places, protocol: str, tmp_path: Path) -> None:
    where = places[protocol]
    facts = where.server.facts
    assert "host key is not known" in refusal(where.url(), Login())
    servers._run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other"))
    other = (tmp_path / "other.pub").read_text()
    wrong = "the server's host key is not the one that is known for it"
    assert refusal(where.url(), Login(host_key=other)) == wrong
    hosts = tmp_path / "hosts"
    hosts.write_text(f"[127.0.0.1]:{where.server.port} {other}")
    assert refusal(where.url(), Login(known_hosts=str(hosts))) == wrong
    for key in (facts["host_key"], facts["host_key"].split()[1], "*"):
        open_target(parse(where.url()), Login(host_key=key)).close()
    assert "host key is none" in refusal(where.url(), Login(host_key="nonsense!"))
    # the user's own file is read when nothing else is said
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "known_hosts").write_text(Path(facts["known_hosts"]).read_text())
    open_target(parse(where.url()), Login()).close()


@pytest.mark.parametrize("protocol", ["sftp", "ssh"])
def test_key_instead_of_password(places: Places, protocol: str) -> None:
    where = places[protocol]
    login = Login(
        known_hosts=where.server.facts["known_hosts"], identity=where.server.facts["identity"]
    )
    open_target(parse(where.url(password=None)), login).close()
    open_target(parse(where.url(password="wr0ng")), login).close()
    assert "password" in refusal(where.url(password=None), where.login)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_full_disk(places: Places, protocol: str) -> None:
    with opened(places[protocol], "small") as target:
        target.store("old", b"x")
        stream = target.stream("big")
        data = os.urandom(1 << 20)
        with pytest.raises(NoRoom) as caught:
            written(stream, data, 6)
        stream.give_up()
        assert any(word in str(caught.value) for word in ("No space left", "could not write"))
        assert target.names() in (["old"], ["lost+found", "old"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_server_killed(protocol: str) -> None:
    with place(protocol) as where, opened(where) as target:
        stream = target.stream("big")
        data = os.urandom(1 << 20)
        stream.write(data)
        where.server.kill()
        with pytest.raises(CommandError) as caught:
            written(stream, data, 20)
        stream.give_up()
        sentence = re.sub(r"^\w+://\S+: ", "", str(caught.value))
        assert sentence in (
            "the server broke the connection",
            "connection refused: no server listens there",
        )


@pytest.mark.parametrize("protocol", ["ftp", "sftp", "ssh", "nfs"])
def test_server_that_hangs(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (ftp, nfs, ssh):
        for name in ("PATIENCE", "SYNC_PATIENCE"):
            monkeypatch.setattr(module, name, 1, raising=False)
    with place(protocol) as where, opened(where) as target:
        stream = target.stream("big")
        data = os.urandom(1 << 20)
        with where.server.stopped(), pytest.raises(CommandError, match="does not answer"):
            written(stream, data, 50)


def test_guest(places: Places) -> None:
    where = places["cifs"]
    with open_target(parse(f"cifs://127.0.0.1:{where.server.port}/public")) as target:
        target.store("x", b"hello")
        assert b"".join(target.read("x")) == b"hello"
    assert (
        "permission denied"
        in refusal(f"cifs://127.0.0.1:{where.server.port}/crash", Login()).lower()
    )


def test_ftp_over_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    with servers.vsftpd(tls=True) as server:
        where = Place("ftp", server)
        assert "self-signed certificate" in refusal(where.url(), Login(tls=True))
        monkeypatch.setenv("SSL_CERT_FILE", server.facts["certificate"])
        with open_target(parse(where.url()), Login(tls=True)) as target:
            target.store("x", b"hello")
            assert b"".join(target.read("x")) == b"hello"
        # the server wants TLS: without it, no password is sent that it would take
        assert "wrong user" in refusal(where.url(), Login())


def test_share_is_mounted_where_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With programs that only note how they were called."""
    log = tmp_path / "log"
    for name in ("mount", "umount"):
        tool = tmp_path / name
        tool.write_text(
            f'#!/bin/sh\necho {name} "$@" >>{log}\n'
            'for word; do case $word in *credentials=*) cat "${word#*credentials=}"'
            f" >>{log};; esac; done\nenv | grep {logins.PASSWORD} >>{log}; :\n"
        )
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(mounted, "can_mount", lambda _: True)
    monkeypatch.setenv(logins.PASSWORD, "wr0ng")  # is for us alone
    with open_target(parse("cifs://me:s,ecret@host:4450/share"), Login(domain="work")) as target:
        point = target.path("")
        assert Path(point).is_dir()
    assert not Path(point).exists()
    text = log.read_text()
    assert "wr0ng" not in text
    commands = [line for line in text.splitlines() if re.match("u?mount ", line)]
    assert re.fullmatch(
        r"mount -t cifs -o port=4450,credentials=(\S+) //host/share (\S+)", commands[0]
    )
    assert commands[1:] == [f"umount {point}"]
    assert "username=me\npassword=s,ecret\ndomain=work\n" in text
    assert not Path(re.findall(r"credentials=(\S+) ", text)[0]).exists()
    log.unlink()
    with pytest.raises(CommandError, match="no such folder"):
        open_target(parse("cifs://me@host/share/below"), Login())
    assert "umount" in log.read_text()  # whatever goes wrong behind the mount
    log.unlink()
    open_target(parse("nfs://[fe80::1]/export/crash"), Login()).close()
    assert re.search(r"^mount -t nfs -o nolock,soft,\S+,vers=4.1 ", log.read_text())
    assert " [fe80::1]:/export/crash " in log.read_text()


def test_mount_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "mount"
    tool.write_text("#!/bin/sh\necho 'mount error(13): Permission denied' >&2\nexit 32\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(mounted, "can_mount", lambda _: True)
    before = set(Path("/run").glob("crashpy-*"))
    sentence = refusal("cifs://me:wr0ng@host/share", Login())
    assert sentence == "cannot be mounted: mount error(13): Permission denied"
    assert set(Path("/run").glob("crashpy-*")) == before


def test_nfs_of_whatever_version_the_server_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, tool = tmp_path / "log", tmp_path / "mount"
    tool.write_text(
        f'#!/bin/sh\necho "$4" >>{log}\n'
        "case $4 in *vers=*) echo 'mount.nfs: Protocol not supported' >&2; exit 32;; esac\n"
    )
    tool.chmod(0o755)
    (tmp_path / "umount").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(mounted, "can_mount", lambda _: True)
    open_target(parse("nfs://host/export"), Login()).close()
    options = "nolock,soft,timeo=100,retrans=3"
    assert log.read_text().splitlines() == [f"{options},vers=4.1", options]


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no such folder"):
        open_target(Url("file", str(tmp_path / "none")))
    (tmp_path / "file").touch()
    with pytest.raises(CommandError, match="is no folder"):
        open_target(Url("file", str(tmp_path / "file")))
    (tmp_path / "link").symlink_to(tmp_path)
    target = FileTarget(Url("file", str(tmp_path)))
    assert [(entry.name, entry.kind) for entry in target.entries()] == [
        ("file", "file"),
        ("link", "link"),
    ]
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "link").symlink_to(tmp_path / "file")
    target.remove_folder("d")  # what a link points to stays
    assert target.names() == ["file", "link"]
    sink = target.sink("dump")
    sink.write(0, b"x")
    sink.give_up()
    assert target.size("dump") is None


def test_listings() -> None:
    lines = [
        "total 12",
        "drwx------    2 1000     1000         4096 Nov 24 03:02 2026-11-24-03-02",
        "-rw-------    1 0        0       123456789 Nov 24  2025 a name  with blanks",
        "lrwxrwxrwx    1 0        0               4 Nov 24 03:02 a -> b",
        "drwx------    2 1000     1000         4096 Nov 24 03:02 .",
        "nonsense",
        "",
    ]
    found = [(entry.name, entry.kind, entry.size_bytes) for entry in parse_listing(lines)]
    assert found == [
        ("2026-11-24-03-02", "folder", 4096),
        ("a name  with blanks", "file", 123456789),
        ("a", "link", 4),
    ]


def test_password_is_in_no_command_line(places: Places) -> None:
    """Not even for the moment that a connection takes."""
    where = places["ssh"]
    with opened(where) as target:
        target.store("x", b"x")
        seen = []
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                seen.append(file.read_bytes())
    assert any(b"sshd" in line for line in seen)
    assert not any(servers.PASSWORD.encode() in line for line in seen)
