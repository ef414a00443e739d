"""Where dumps go, as kdump's configuration writes it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from crashpy.command import CommandError
from crashpy.kdump.urls import Url, parse

URLS = [
    ("/var/crash/", Url("file", "/var/crash")),
    ("file:///var/crash", Url("file", "/var/crash")),
    ("/a b%20c", Url("file", "/a b%20c")),
    ("ftp://host", Url("ftp", "/", "host")),
    ("FTP://host/x", Url("ftp", "/x", "host")),
    (
        "ftp://username:password@ftp.example.com:123/var/crash",
        Url("ftp", "/var/crash", "ftp.example.com", 123, "username", "password"),
    ),
    ("ftp://joe@host/x", Url("ftp", "/x", "host", None, "joe")),
    ("ftp://joe:@host/x", Url("ftp", "/x", "host", None, "joe", "")),
    ("sftp://host/x", Url("sftp", "/x", "host", None, "root")),
    ("scp://host/x", Url("sftp", "/x", "host", None, "root")),
    ("ssh://host:/x", Url("ssh", "/x", "host", None, "root")),
    ("nfs://host:2049/export", Url("nfs", "/export", "host", 2049)),
    ("cifs://host/share", Url("cifs", "", "host", share="share")),
    ("smb://joe:pw@host:/share/x", Url("cifs", "/x", "host", None, "joe", "pw", "share")),
    # IPv6, and a path that looks like a login
    ("nfs://[::1]/p@th/x", Url("nfs", "/p@th/x", "::1")),
    ("sftp://a:b@[fe80::1]:22/x", Url("sftp", "/x", "fe80::1", 22, "a", "b")),
    ("cifs://[::1]:445/share/a@b:c", Url("cifs", "/a@b:c", "::1", 445, share="share")),
    ("ftp://joe@host:21/a@b", Url("ftp", "/a@b", "host", 21, "joe")),
    ("ftp://joe:pw@host/a@b/c", Url("ftp", "/a@b/c", "host", None, "joe", "pw")),
    ("ftp://host/a@b:c/d", Url("ftp", "/a@b:c/d", "host")),
    # passwords: the last @ before the path, the first colon; %XX
    ("ftp://joe:p@ss:w@host/x", Url("ftp", "/x", "host", None, "joe", "p@ss:w")),
    ("ftp://joe@x.org:pw@host/x", Url("ftp", "/x", "host", None, "joe@x.org", "pw")),
    ("ftp://joe:p/w@host/x", Url("ftp", "/x", "host", None, "joe", "p/w")),
    ("ftp://joe:p%40%2Fw@host/x", Url("ftp", "/x", "host", None, "joe", "p@/w")),
    ("ftp://joe:100%@host/a%20b", Url("ftp", "/a b", "host", None, "joe", "100%")),
    ("cifs://DOMAIN%2Fjoe:x@host/s", Url("cifs", "", "host", None, "DOMAIN/joe", "x", "s")),
]


@pytest.mark.parametrize(("text", "url"), URLS)
def test_what_a_url_means(text: str, url: Url) -> None:
    assert parse(text) == url
    assert parse(url.with_password()) == url


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("ftp://", "ftp: no host"),
        ("nfs:///x", "nfs: no host"),
        ("nfs://[]/x", "nfs: no host"),
        ("ftp://host:x/y", "ftp: no host, or a wrong port"),
        ("ftp://host:0/x", "ftp: no such port: 0"),
        ("ftp://host:65536/x", "ftp: no such port: 65536"),
        ("http://host/x", "http: no such protocol"),
        ("cifs://host/", "cifs: no share"),
        ("file://host/x", "file:// needs an absolute path"),
        ("var/crash", "var/crash: neither an absolute path nor PROTOCOL://"),
    ],
)
def test_what_is_no_url(text: str, sentence: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse(text)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_shown_can_be_given_again(seed: int) -> None:
    """`fetch` takes what `list` shows, but for the password."""
    chance = random.Random(seed)

    def word(most: int) -> str:
        return "".join(chance.choice("ab@:/%[] .#?'\"\\ü") for _ in range(chance.randrange(most)))

    for _ in range(200):
        protocol = chance.choice(("ftp", "sftp", "nfs", "cifs"))
        path = f"/{word(6)}".rstrip("/")
        url = Url(
            protocol,
            path if protocol == "cifs" else path or "/",
            chance.choice(("host", "10.0.0.1", "::1")),
            chance.choice((None, 22)),
            word(4) or "root",
            word(5),
            "share" if protocol == "cifs" else "",
        )
        assert parse(str(url)) == replace(url, password=None)
        assert parse(url.with_password()) == url


@pytest.mark.parametrize("seed", range(20))
def test_no_error_shows_a_password(seed: int) -> None:
    """Whatever is in it, but a slash behind an @: that must be written %2F."""
    chance = random.Random(seed)
    for _ in range(200):
        middle = "".join(chance.choice("ab:/%[] .#?'\"\\ü") for _ in range(chance.randrange(5)))
        protocol = chance.choice(("ftp", "sftp", "nfs", "cifs", "file", "gopher"))
        place = chance.choice(("h", "[::1]", "h:21", "h:x", "", ":")) + chance.choice(("", "/x"))
        text = f"{protocol}://joe:s3cr{middle}et@{place}"
        try:
            said = str(parse(text))
        except CommandError as error:
            said = str(error)
        assert "s3cr" not in said, text
