"""Real servers on 127.0.0.1: sshd, vsftpd, smbd, nfs-ganesha. They are plain processes.

Each runs in namespaces of its own, so that the user who logs in and the small file
systems exist for the server alone, and all that it started dies with it.

What a server offers, below its root:
    open     everything may be written there
    small    a file system of 2 MiB
    closed   nobody but root may write there
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

USER, UID = "dumper", 4242
PASSWORD = "p@ss:word"  # the grammar of URLs must cope
HASH = (  # openssl passwd -6 -salt crashpy
    "$6$crashpy$eCch57Lv9LQ7tc.frvf292TSRm6dE4SNg3R22EuovuDCxqu6o74EBARwL2GyCm2YwPOcOK9r7"
    "lJDRnrWdjtGI0"
)
PATIENCE_SECONDS = 20

PACKAGES = {
    "sshd": "openssh-server",
    "ssh-keygen": "openssh-client",
    "vsftpd": "vsftpd",
    "openssl": "openssl",
    "smbd": "samba",
    "smbpasswd": "samba-common-bin",
    "ganesha.nfsd": "nfs-ganesha",
    "dbus-daemon": "dbus-daemon",
    "mke2fs": "e2fsprogs",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}


@dataclass
class Server:
    """One that listens."""

    port: int
    base: Path  # its configuration, its log
    process: subprocess.Popen[bytes]
    inside: Path  # its view of the file system
    root: str  # of what it offers, as clients name it
    facts: dict[str, str] = field(default_factory=dict)

    def seen(self, relative: str = "open") -> Path:
        """A folder of the server, whatever it is mounted on."""
        return self.inside / str(self.base / "root" / relative).lstrip("/")

    def kill(self) -> None:
        """It is gone then, with all that it started."""
        pids = _descendants(self.process.pid)
        self.process.kill()
        self.process.wait()
        while any(map(_alive, pids)):
            time.sleep(0.01)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """As a machine that hangs: connections stay, nobody answers."""
        pids = _descendants(self.process.pid)
        _signal(pids, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(pids, signal.SIGCONT)


def need(*programs: str) -> None:
    """Fail with the name of the package where a program is missing."""
    for program in programs:
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            raise AssertionError(f"{program} is missing: install {PACKAGES[program]}")
    if os.geteuid() != 0:
        raise AssertionError("the servers of these tests are started by root only")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Where every user may look: not below pytest's own."""
    base = Path(tempfile.mkdtemp(prefix="crashpy-server-"))
    base.chmod(0o755)
    try:
        (base / "root").mkdir()
        for name in ("open", "small", "closed"):
            (base / "root" / name).mkdir(0o755)
        os.chown(base / "root" / "open", UID, UID)
        for name, line in (
            ("passwd", f"{USER}:x:{UID}:{UID}::{base}/root/open:/bin/sh"),
            ("group", f"{USER}:x:{UID}:"),
            ("shadow", f"{USER}:{HASH}:19000:0:99999:7:::"),
        ):
            (base / name).write_text(Path("/etc", name).read_text() + line + "\n")
        (base / "shadow").chmod(0o600)
        yield base
    finally:
        shutil.rmtree(base, ignore_errors=True)


PRELUDE = """
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/sshd /run/dbus /run/vsftpd/empty
for name in passwd group shadow; do mount --bind {base}/$name /etc/$name; done
"""
SMALL = """
mount -t tmpfs -o size=2m,mode=755,uid={uid},gid={uid} tmpfs {base}/root/small
"""


@contextlib.contextmanager
def _running(
    base: Path, setup: str, command: Sequence[str], port: int, root: str, **facts: str
) -> Iterator[Server]:
    script = (PRELUDE + setup).format(base=base, uid=UID) + f"{shlex.join(command)}\n:\n"
    with (base / "log").open("wb") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL",  # whatever becomes of the tests
             "unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child",
             "sh", "-c", script],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        _await(process, port, base / "log")
        inside = Path(f"/proc/{_descendants(process.pid)[0]}/root")
        yield Server(port, base, process, inside, root, facts)
    finally:
        process.kill()
        process.wait()


def _await(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.05)
    raise AssertionError(f"the server did not start: {log.read_text(errors='replace')[-2000:]}")


def _alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # one that has just done its work
            os.kill(pid, number)


def _descendants(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *_descendants(int(child))]
    return found


@contextlib.contextmanager
def sshd() -> Iterator[Server]:
    """Its facts: `host_key`, `known_hosts` (a file), `identity` (a private key that it takes)."""
    need("sshd", "ssh-keygen", "setpriv", "unshare")
    port = free_port()
    with _folder() as base:
        for name in ("host", "identity"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(base / name))
        key = (base / "host.pub").read_text().strip()
        (base / "known_hosts").write_text(f"[127.0.0.1]:{port} {key}\n")
        (base / "authorized").write_text((base / "identity.pub").read_text())
        (base / "sshd_config").write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {base}/host\nPidFile none\n"
            "UsePAM no\nStrictModes no\nPasswordAuthentication yes\n"
            f"AuthorizedKeysFile {base}/authorized\nSubsystem sftp internal-sftp\n"
            "MaxStartups 100\n"
        )
        sshd = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/bin") or "sshd"
        command = [sshd, "-D", "-e", "-f", str(base / "sshd_config")]
        facts = {
            "host_key": key,
            "known_hosts": str(base / "known_hosts"),
            "identity": str(base / "identity"),
        }
        with _running(base, SMALL, command, port, f"{base}/root", **facts) as server:
            yield server


@contextlib.contextmanager
def vsftpd(*, tls: bool = False) -> Iterator[Server]:
    """Its fact, with TLS: `certificate`, a file."""
    need("vsftpd", "setpriv", "unshare", *(["openssl"] if tls else []))
    port = free_port()
    with _folder() as base:
        (base / "pam").write_text("auth required pam_unix.so\naccount required pam_unix.so\n")
        lines = [
            "listen=YES", "listen_address=127.0.0.1", f"listen_port={port}", "background=NO",
            "local_enable=YES", "write_enable=YES", "seccomp_sandbox=NO", "isolate=NO",
            "isolate_network=NO", "secure_chroot_dir=/run/vsftpd/empty", "pam_service_name=vsftpd",
            "anonymous_enable=NO", "delay_failed_login=0", "max_login_fails=1",
            "file_open_mode=0600", "local_umask=077",
        ]  # fmt: skip
        facts = {}
        if tls:
            _run(
                "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
                "-keyout", str(base / "key.pem"), "-out", str(base / "certificate.pem"),
            )  # fmt: skip
            lines += [
                "ssl_enable=YES", "force_local_logins_ssl=YES", "force_local_data_ssl=YES",
                f"rsa_cert_file={base}/certificate.pem", f"rsa_private_key_file={base}/key.pem",
                "ssl_tlsv1=YES",
            ]  # fmt: skip
            facts["certificate"] = str(base / "certificate.pem")
        (base / "conf").write_text("".join(f"{line}\n" for line in lines))
        setup = "mount --bind {base}/pam /etc/pam.d/vsftpd\n" + SMALL
        command = ["/usr/sbin/vsftpd", str(base / "conf")]
        with _running(base, setup, command, port, f"{base}/root", **facts) as server:
            yield server


@contextlib.contextmanager
def smbd() -> Iterator[Server]:
    """Two shares: `crash`, and `public` for guests."""
    need("smbd", "smbpasswd", "setpriv", "unshare")
    port = free_port()
    with _folder() as base:
        folders = ("private", "lock", "state", "cache", "pid", "ncalrpc")
        for name in folders:
            (base / name).mkdir(0o755)
        (base / "conf").write_text(
            "[global]\nserver role = standalone server\ninterfaces = lo\n"
            f"bind interfaces only = yes\nsmb ports = {port}\ndisable netbios = yes\n"
            "disable spoolss = yes\nload printers = no\nprintcap name = /dev/null\n"
            "map to guest = bad user\nlog level = 0\n"
            + "".join(
                f"{'private dir' if name == 'private' else f'{name} directory'} = {base}/{name}\n"
                for name in folders
                if name != "ncalrpc"
            )
            + f"ncalrpc dir = {base}/ncalrpc\n"
            f"[crash]\npath = {base}/root\nread only = no\nstrict allocate = no\n"
            "create mask = 0600\ndirectory mask = 0700\n"
            f"[public]\npath = {base}/root/open\nread only = no\nguest ok = yes\n"
            f"force user = {USER}\n"
        )
        (base / "password").write_text(f"{PASSWORD}\n{PASSWORD}\n")
        add = f"smbpasswd -c {{base}}/conf -s -a {USER} <{{base}}/password >/dev/null\n"
        command = ["/usr/sbin/smbd", "-F", "--no-process-group", "-s", str(base / "conf")]
        with _running(base, SMALL + add, command, port, "crash") as server:
            yield server


@contextlib.contextmanager
def ganesha() -> Iterator[Server]:
    """NFSv4 alone; its exports lie on file systems of its own, as it takes neither tmpfs nor
    overlayfs."""
    need("ganesha.nfsd", "dbus-daemon", "mke2fs", "setpriv", "unshare")
    if not Path("/usr/lib/x86_64-linux-gnu/ganesha/libfsalvfs.so").exists():
        raise AssertionError("the VFS module of ganesha.nfsd is missing: install nfs-ganesha-vfs")
    port = free_port()
    with _folder() as base:
        exports = ""
        for number, (name, size) in enumerate((("open", "256M"), ("small", "3M")), 1):
            image = base / f"{name}.img"
            _run("truncate", "-s", size, str(image))
            options = f"root_owner={UID}:{UID},nodiscard"
            _run("mke2fs", "-q", "-F", "-m", "0", "-E", options, str(image))
            exports += (
                f"EXPORT {{ Export_Id = {number}; Path = {base}/root/{name};"
                f" Pseudo = /{name}; Access_Type = RW; Squash = No_Root_Squash;"
                " SecType = sys; Protocols = 4; Transports = TCP; FSAL { Name = VFS; } }\n"
            )
        exports += (
            f"EXPORT {{ Export_Id = 3; Path = {base}/root/open; Tag = closed; Pseudo = /closed;"
            " Access_Type = RW; Squash = All_Squash; SecType = sys; Protocols = 4;"
            " Transports = TCP; FSAL { Name = VFS; } }\n"
        )
        (base / "conf").write_text(
            f"NFS_CORE_PARAM {{ NFS_Port = {port}; Protocols = 4; Bind_addr = 127.0.0.1;"
            " Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false; }\n"
            "NFSV4 { RecoveryBackend = fs; RecoveryRoot = /run/recovery; Graceless = true;"
            " Minor_Versions = 0, 1, 2; }\n"
            "EXPORT_DEFAULTS { SecType = sys; }\n" + exports
        )
        setup = (
            "mount -o loop {base}/open.img {base}/root/open\n"
            "mount -o loop {base}/small.img {base}/root/small\n"
            "mkdir -p /run/ganesha /run/recovery\n"
            "dbus-daemon --system --fork --nopidfile\n"
        )
        command = [
            "ganesha.nfsd", "-F", "-f", str(base / "conf"), "-p", "/run/ganesha/pid",
            "-L", "STDERR", "-N", "NIV_EVENT",
        ]  # fmt: skip
        with _running(base, setup, command, port, "") as server:
            yield server


def _run(*command: str) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert not done.returncode, f"{command[0]}: {done.stderr}"
