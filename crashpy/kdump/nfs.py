"""NFS exports without mounting, where the kernel has no nfs: version 4.0 (RFC 7530) over TCP.

Just what saving and fetching dumps needs: no locks, no delegations, no Kerberos. Files
are written and read with the anonymous stateid, so that nothing on the server expires.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import socket
import struct
import time
from collections.abc import Generator

from crashpy.command import CommandError
from crashpy.kdump.targets import (
    CHUNK,
    PATIENCE,
    SYNC_PATIENCE,
    Entry,
    Login,
    Target,
    explained,
    explaining,
)
from crashpy.kdump.urls import Url

PORT = 2049
PROGRAM, VERSION, COMPOUND = 100003, 4, 1
LAST_FRAGMENT = 0x80000000
LONGEST_REPLY = CHUNK + (1 << 16)
ANONYMOUS = bytes(16)  # the stateid that needs no open file
NOWHERE = b"0.0.0.0.0.0"  # where we listen for callbacks: then there are none
READDIR_BYTES = 1 << 16

# Operations.
CLOSE, COMMIT, CREATE, GETATTR, GETFH, LOOKUP, OPEN = 4, 5, 6, 9, 10, 15, 18
OPEN_CONFIRM, PUTFH, PUTROOTFH, READ, READDIR, REMOVE, RENAME = 20, 22, 24, 25, 26, 28, 29
SAVEFH, SETCLIENTID, SETCLIENTID_CONFIRM, WRITE = 32, 35, 36, 38

# Attributes, by number, and how they are packed.
TYPE, SIZE, MAXREAD, MAXWRITE, MODE, SPACE_AVAIL, TIME_MODIFY = 1, 4, 30, 31, 33, 42, 53
PACKED_AS = {
    TYPE: ">I", SIZE: ">Q", MAXREAD: ">Q", MAXWRITE: ">Q",
    MODE: ">I", SPACE_AVAIL: ">Q", TIME_MODIFY: ">qI",
}  # fmt: skip
REGULAR, DIRECTORY, LINK = 1, 2, 5  # values of TYPE
KINDS = {REGULAR: "file", DIRECTORY: "folder", LINK: "link"}

# Status: up to 100 as errno has it. These two say that it may work a moment later.
DELAY, GRACE = 10008, 10013
WRONGSEC = 10016


# XDR (RFC 4506)


def u32(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers)


def u64(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}Q", *numbers)


def opaque(data: bytes | memoryview) -> bytes:
    return b"".join((u32(len(data)), data, bytes(-len(data) % 4)))


def attributes(values: dict[int, int]) -> bytes:
    """fattr4: which attributes, and their values in the order of their numbers."""
    packed = b"".join(struct.pack(PACKED_AS[n], values[n]) for n in sorted(values))
    return bitmap(*values) + opaque(packed)


def bitmap(*numbers: int) -> bytes:
    words = [0, 0]
    for number in numbers:
        words[number // 32] |= 1 << number % 32
    return u32(2, *words)


class Reply:
    """What a server answered, read from its start."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def u32(self) -> int:
        return int.from_bytes(self.fixed(4), "big")

    def u64(self) -> int:
        return int.from_bytes(self.fixed(8), "big")

    def fixed(self, size: int) -> bytes:
        data = self._data[self._at : self._at + size]
        if len(data) < size:
            raise CommandError("the server's answer is cut short")
        self._at += size
        return data

    def opaque(self) -> bytes:
        size = self.u32()
        data = self.fixed(size)
        self.fixed(-size % 4)
        return data

    def attributes(self) -> dict[int, int]:
        """The values of those that we know; the first of several numbers."""
        words = [self.u32() for _ in range(self.u32())]
        values = Reply(self.opaque())
        found = {}
        bits = sum(word << 32 * index for index, word in enumerate(words))
        for number in (n for n in range(bits.bit_length()) if bits >> n & 1):
            if (layout := PACKED_AS.get(number)) is None:
                raise CommandError(f"the server tells what was not asked for ({number})")
            found[number] = struct.unpack(layout, values.fixed(struct.calcsize(layout)))[0]
        return found

    def after(self, *operations: object) -> Reply:
        """Behind the answers to these, which say nothing but that they succeeded."""
        self.fixed(8 * len(operations))
        return self


# Remote procedure calls (RFC 5531)


class Connection:
    """Calls COMPOUND on a server, as the user that we are."""

    def __init__(self, url: Url) -> None:
        self._socket = _connected(url.host, url.port or PORT)
        self._numbers = itertools.count(random.getrandbits(31))
        groups = os.getgroups()[:16]
        machine = opaque(socket.gethostname().encode()[:255])
        user = u32(0) + machine + u32(os.geteuid(), os.getegid(), len(groups), *groups)
        self._head = u32(0, 2, PROGRAM, VERSION, COMPOUND, 1) + opaque(user) + u32(0, 0)

    def compound(self, *operations: bytes) -> Reply:
        """The answers to the operations; an error when one failed."""
        call = self._head + opaque(b"") + u32(0, len(operations)) + b"".join(operations)
        deadline = time.monotonic() + PATIENCE
        while True:
            reply = self._call(call)
            status = reply.u32()
            reply.opaque()
            reply.u32()
            if status not in (DELAY, GRACE) or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        if status:
            raise _failure(status)
        return reply

    @contextlib.contextmanager
    def patient(self, seconds: float) -> Generator[None, None, None]:
        self._socket.settimeout(seconds)
        yield
        self._socket.settimeout(PATIENCE)

    def _call(self, call: bytes) -> Reply:
        number = next(self._numbers) & 0xFFFFFFFF
        self._socket.sendall(u32(LAST_FRAGMENT | len(call) + 4, number) + call)
        reply = Reply(self._record())
        answered, kind, denied = reply.u32(), reply.u32(), reply.u32()
        if (answered, kind) != (number, 1):
            raise CommandError("what answers there is no NFS server")
        if denied:
            raise CommandError("the server does not accept our user (sec=sys)")
        reply.u32()
        reply.opaque()
        if reply.u32():
            raise CommandError("the server has no NFS version 4")
        return reply

    def _record(self) -> bytes:
        pieces, last = [], 0
        while not last:
            head = int.from_bytes(self._exactly(4), "big")
            last, size = head & LAST_FRAGMENT, head & ~LAST_FRAGMENT
            if size > LONGEST_REPLY:
                raise CommandError("what answers there is no NFS server")
            pieces.append(self._exactly(size))
        return b"".join(pieces)

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    def close(self) -> None:
        self._socket.close()


def _connected(host: str, port: int) -> socket.socket:
    """From a port that only root can use, if we are root: servers may insist on one."""
    if os.geteuid() == 0:
        for own in random.sample(range(665, 1024), 20):
            try:
                return socket.create_connection((host, port), PATIENCE, ("", own))
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES):
                    raise
    return socket.create_connection((host, port), PATIENCE)


def _failure(status: int) -> Exception:
    if status < 100:
        return OSError(status, os.strerror(status))
    if status == WRONGSEC:
        return CommandError("the export wants more than sec=sys")
    return CommandError(f"the server refuses (NFS4ERR {status})")


# NFS


class Client:
    """Files below one folder of a server, by their paths in it."""

    def __init__(self, url: Url) -> None:
        self._connection = Connection(url)
        self.call = self._connection.compound
        self.close = self._connection.close
        self._opened = itertools.count()
        try:
            path = [part for part in url.path.split("/") if part]
            lookups = [_lookup(part) for part in path]
            reply = self.call(u32(PUTROOTFH), *lookups, u32(GETFH))
            self._top = reply.after(PUTROOTFH, *lookups, GETFH).opaque()
            found = self.stat("", TYPE, MAXREAD, MAXWRITE)
            if found.get(TYPE) != DIRECTORY:
                raise CommandError("is no folder")
            self.most_read = min(CHUNK, found.get(MAXREAD, 1 << 15))
            self.most_written = min(CHUNK, found.get(MAXWRITE, 1 << 15))
            self._number = 0
        except BaseException:
            self.close()
            raise

    def on(self, path: str, *operations: bytes) -> Reply:
        """Do something with a file; the answers to that alone."""
        parts = [part for part in path.split("/") if part]
        lookups = [_lookup(part) for part in parts]
        reply = self.call(u32(PUTFH) + opaque(self._top), *lookups, *operations)
        return reply.after(PUTFH, *lookups)

    def stat(self, path: str, *wanted: int) -> dict[int, int]:
        return self.on(path, u32(GETATTR) + bitmap(*wanted)).after(GETATTR).attributes()

    def handle(self, path: str) -> bytes:
        return self.on(path, u32(GETFH)).after(GETFH).opaque()

    def create(self, path: str) -> bytes:
        """A file without content, for its owner alone; its handle."""
        self._introduce()
        folder, _, name = path.rpartition("/")
        owner = u64(self._number) + opaque(b"crashpy %d" % next(self._opened))
        how = u32(1, 0) + attributes({SIZE: 0, MODE: 0o600})
        what = u32(OPEN, 0, 2, 0) + owner + how + u32(0) + opaque(os.fsencode(name))
        reply = self.on(folder, what).after(OPEN)
        state = reply.fixed(16)
        reply.fixed(20)
        confirm = reply.u32() & 2
        handle = self.handle(path)
        here, number = u32(PUTFH) + opaque(handle), 1
        if confirm:
            done = self.call(here, u32(OPEN_CONFIRM) + state + u32(number))
            state, number = done.after(PUTFH, OPEN_CONFIRM).fixed(16), 2
        self.call(here, u32(CLOSE, number) + state)
        return handle

    def _introduce(self) -> None:
        """Who creates files must be known to the server."""
        if self._number:
            return
        ours = b"crashpy %d %s" % (os.getpid(), os.urandom(8).hex().encode())
        callback = u32(0) + opaque(b"tcp") + opaque(NOWHERE) + u32(0)
        reply = self.call(u32(SETCLIENTID) + os.urandom(8) + opaque(ours) + callback)
        self._number, verifier = reply.after(SETCLIENTID).u64(), reply.fixed(8)
        self.call(u32(SETCLIENTID_CONFIRM) + u64(self._number) + verifier)

    def write(self, handle: bytes, offset: int, data: memoryview) -> tuple[int, bytes]:
        """How much was written, and the verifier of that server's life."""
        what = u32(WRITE) + ANONYMOUS + u64(offset) + u32(0) + opaque(data)
        reply = self.call(u32(PUTFH) + opaque(handle), what).after(PUTFH, WRITE)
        count, _ = reply.u32(), reply.u32()
        return count, reply.fixed(8)

    def commit(self, handle: bytes) -> bytes:
        """What was written is on the disk then; the verifier of that server's life."""
        what = u32(COMMIT) + u64(0) + u32(0)
        with self._connection.patient(SYNC_PATIENCE):
            return self.call(u32(PUTFH) + opaque(handle), what).after(PUTFH, COMMIT).fixed(8)

    def read(self, handle: bytes, offset: int, size: int) -> bytes:
        what = u32(READ) + ANONYMOUS + u64(offset) + u32(min(size, self.most_read))
        reply = self.call(u32(PUTFH) + opaque(handle), what).after(PUTFH, READ)
        reply.u32()  # end of file, or not
        return reply.opaque()

    def names(self, path: str) -> Generator[tuple[str, dict[int, int]], None, None]:
        """What a folder holds, with type, size and time."""
        cookie, verifier, done = 0, bytes(8), 0
        while not done:
            what = u32(READDIR) + u64(cookie) + verifier + u32(READDIR_BYTES, READDIR_BYTES)
            reply = self.on(path, what + bitmap(TYPE, SIZE, TIME_MODIFY)).after(READDIR)
            verifier = reply.fixed(8)
            while reply.u32():
                cookie = reply.u64()
                yield os.fsdecode(reply.opaque()), reply.attributes()
            done = reply.u32()

    def make_folder(self, path: str) -> None:
        folder, _, name = path.rpartition("/")
        what = u32(CREATE, DIRECTORY) + opaque(os.fsencode(name)) + attributes({MODE: 0o700})
        self.on(folder, what)

    def remove(self, path: str) -> None:
        """A file, or an empty folder."""
        folder, _, name = path.rpartition("/")
        self.on(folder, u32(REMOVE) + opaque(os.fsencode(name)))

    def rename(self, old: str, new: str) -> None:
        source, goal = self.handle(old.rpartition("/")[0]), self.handle(new.rpartition("/")[0])
        names = [opaque(os.fsencode(path.rpartition("/")[2])) for path in (old, new)]
        self.call(
            u32(PUTFH) + opaque(source), u32(SAVEFH), u32(PUTFH) + opaque(goal),
            u32(RENAME) + b"".join(names),
        )  # fmt: skip


def _lookup(name: str) -> bytes:
    return u32(LOOKUP) + opaque(os.fsencode(name))


# The target


class NfsTarget(Target):
    def __init__(self, url: Url, login: Login) -> None:  # noqa: ARG002
        super().__init__(url)
        with explaining(url):
            try:
                self._client = Client(url)
            except FileNotFoundError:
                raise CommandError("no such folder, or it is not exported") from None

    @explained
    def entries(self, folder: str = "") -> list[Entry]:
        found = []
        for name, told in self._client.names(folder):
            kind = KINDS.get(told.get(TYPE, 0), "other")
            found.append(Entry(name, kind, told.get(SIZE), told.get(TIME_MODIFY)))
        return sorted(found, key=lambda entry: entry.name)

    @explained
    def size(self, file: str) -> int | None:
        try:
            return self._client.stat(file, SIZE).get(SIZE)
        except FileNotFoundError:
            return None

    @explained
    def free(self) -> int | None:
        return self._client.stat("", SPACE_AVAIL).get(SPACE_AVAIL)

    @explained
    def make_folder(self, folder: str) -> None:
        self._client.make_folder(folder)

    @explained
    def rename(self, old: str, new: str) -> None:
        self._client.rename(old, new)

    @explained
    def remove(self, file: str) -> None:
        self._client.remove(file)

    def _remove_empty(self, folder: str) -> None:
        self.remove(folder)

    @explained
    def _sink(self, file: str) -> _NfsSink:
        return _NfsSink(self.url, self._client, file)

    def _read(self, file: str, offset: int, most: int | None) -> Generator[bytes, None, None]:
        with explaining(self.url):
            handle = self._client.handle(file)
            while data := self._client.read(handle, offset, most or CHUNK):
                yield data
                offset += len(data)

    def close(self) -> None:
        self._client.close()


class _NfsSink:
    def __init__(self, url: Url, client: Client, path: str) -> None:
        self.url = url
        self._client, self._path = client, path
        self._handle = client.create(path)
        self._lives: set[bytes] = set()  # verifiers: one, unless the server was started anew

    @explained
    def write(self, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        while view:
            piece = view[: self._client.most_written]
            done, life = self._client.write(self._handle, offset, piece)
            self._lives.add(life)
            view, offset = view[done:], offset + done

    @explained
    def finish(self) -> None:
        self._lives.add(self._client.commit(self._handle))
        if len(self._lives) > 1:
            raise CommandError("the server was started anew and lost what it had not written")

    def give_up(self, *, keep: bool = False) -> None:
        if not keep:
            with contextlib.suppress(CommandError, OSError, EOFError):
                self._client.remove(self._path)
