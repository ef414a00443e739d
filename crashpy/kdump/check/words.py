"""What the configuration says: values, mail, and whether it was ever tried."""

from __future__ import annotations

from collections.abc import Iterator

from crashpy.command import CommandError
from crashpy.kdump.check.finding import Finding
from crashpy.kdump.check.target import unreachable
from crashpy.kdump.config import Config
from crashpy.kdump.dialects import OWN
from crashpy.kdump.plan import Edit
from crashpy.kdump.proof import changed, read
from crashpy.kdump.status import Status


def mail(config: Config, network: bool) -> Iterator[Finding]:
    server, to = config.get("smtp-server"), config.get("mail-to")
    if server is None or to is None:
        return
    if to.value and not server.value and config.system.tool("sendmail") is None:
        yield Finding(
            "warning",
            f"{to.value} is to be told, and there is no mail server, named or here",
            "nobody is told about a dump",
            "`crashpy setup configure smtp-server=HOST`",
        )
    if server.value and not to.value:
        yield Finding(
            "warning",
            "a mail server is named, and nobody to tell",
            "nobody is told about a dump",
            "`crashpy setup configure mail-to=ADDRESS`",
        )
    if server.value and network and config.system.live:
        host, _, port = (
            server.value.rpartition(":") if ":" in server.value else (server.value, "", "25")
        )
        if port.isdecimal() and (reason := unreachable(host.strip("[]"), int(port))):
            yield Finding(
                "warning",
                f"{host} port {port}: {reason}",
                "nobody is told about a dump",
                "start the mail server, or name another with `setup configure smtp-server=`",
            )


def values(config: Config) -> Iterator[Finding]:
    """Values that the distribution's scripts would ignore or trip over."""
    known = {(v.file, v.name): v for v in config.dialect.variables.values()}
    for number, document in enumerate(config.documents):
        if "\r\n" in document.text and document.name != OWN:
            yield Finding(
                "error",
                f"{document.name} has lines that end as DOS has them, with a carriage return",
                "the distribution's scripts take it for a part of the value",
                f"`sed -i 's/\\r$//' {document.name}`",
            )
        for entry in document.entries:
            where = f"{document.name}:{entry.line}"
            variable = known.get((number, entry.name))
            if variable is None:
                if document.name.endswith(".conf"):
                    yield Finding(
                        "error",
                        f"{where}: {entry.name}: no such directive",
                        "kdumpctl refuses the whole file",
                        "remove the line",
                    )
                continue
            if entry.value and variable.deprecated:
                yield Finding(
                    "error" if document.name.endswith(".conf") else "warning",
                    f"{where}: {entry.name}: {variable.deprecated}",
                    "kdumpctl refuses the whole file",
                    "remove the line",
                )
            elif entry.value:
                try:
                    variable.check(entry.value)
                except CommandError as error:
                    yield Finding(
                        "warning",
                        f"{where}: {entry.name}: {error}",
                        "the value is ignored, or the line is an error",
                        "correct it with `crashpy setup configure`",
                    )


def secrets(config: Config) -> Iterator[Finding]:
    """Passwords in a file that others may read."""
    for name, text in zip(config.dialect.files, config.old, strict=True):
        path = config.system.path(name)
        if text and Edit(name, None, text).holds_password and path.stat().st_mode & 0o077:
            yield Finding(
                "error",
                f"{name} holds a password, and others than its owner can read it",
                "whoever logs in here can read it",
                f"`chmod 600 {name}`",
            )


def tested(config: Config, found: Status) -> Iterator[Finding]:
    """Whether it was ever tried, and with what is there now."""
    proof = found.proof
    if proof is None:
        try:
            proof = read(config.system)
        except CommandError as error:
            yield Finding("warning", str(error), "whether it was tested is not known", "remove it")
            return
    again = "`crashpy setup test`"
    if proof is None:
        what = "nobody has tried whether a crash leaves a dump here"
        yield Finding("warning", what, "whether it does shows at the next crash", again)
    elif proof.state == "fail":
        what = f"the test of {proof.started} UTC left no dump: {proof.why}"
        yield Finding("error", what, "the next crash leaves none either", again)
    elif proof.state == "pending":
        what = f"the test of {proof.started} UTC has no result yet"
        look = "`crashpy setup test --result`, after the crash"
        yield Finding("warning", what, "whether a crash leaves a dump is not known", look)
    elif changed_since := changed(config, proof):
        what = f"{' and '.join(changed_since)} changed after the test of {proof.started} UTC"
        yield Finding("warning", what, "what was tested is not what is there now", again)
