"""The neutral keys: words that mean the same on every distribution."""

from __future__ import annotations

from dataclasses import dataclass

from crashpy.kdump.values import (
    ACTIONS,
    FORMATS,
    Check,
    absolute,
    boolean,
    collector,
    host_key,
    keep,
    mail,
    network,
    number,
    one_of,
    options,
    server,
    target,
    text,
)


@dataclass(frozen=True)
class Key:
    """A word that means the same on every distribution."""

    name: str
    check: Check
    help: str
    takes: str = ""  # what values there are, where the check does not list them
    default: str = ""  # where it stands in our own file

    @property
    def values(self) -> str:
        return self.takes or ", ".join(getattr(self.check, "words", ()))


KEYS = {
    key.name: key
    for key in (
        Key(
            "target",
            target,
            "where dumps are saved",
            "/DIR, or PROTOCOL://HOST/DIR",
            default="/var/crash",
        ),
        Key(
            "level",
            number(0, 31),
            "what is left out of a dump",
            "0 (nothing) to 31 (most)",
            default="31",
        ),
        Key("format", one_of(*FORMATS), "how a dump is packed", default="zlib"),
        Key("compression", one_of("bzip2", "gzip", "lz4", "xz"), "packs the whole file again"),
        Key(
            "keep",
            keep,
            "how many dumps are kept, the new one too",
            "a number, or all",
            default="all",
        ),
        Key(
            "free",
            number(0),
            "MiB that stay free on the disk of the dumps",
            "a number",
            default="64",
        ),
        Key("finally", one_of(*ACTIONS), "what follows a saved dump", default="reboot"),
        Key(
            "failure",
            one_of(*ACTIONS, "dump_to_rootfs"),
            "what follows when saving failed",
            default="reboot",
        ),
        Key("kernel", text, "the kernel that captures", "a version, or a path"),
        Key("initrd", absolute, "its initial RAM disk", "a path"),
        Key("cpus", number(0, 4096), "how many CPUs it uses", "a number; 0: all", default="1"),
        Key("cmdline", options, "its whole command line", "options"),
        Key("append", options, "what is added to its command line", "options"),
        Key("remove", text, "what is removed from its command line", "names of options"),
        Key("makedumpfile", collector, "more options for makedumpfile", "options"),
        Key(
            "copy-kernel",
            boolean,
            "the kernel and its debug file beside the dump",
            "yes, no",
            default="no",
        ),
        Key("transfer", text, "a command that saves the dump instead", "a command"),
        Key(
            "verbose",
            number(0, 31),
            "what saving says: 1 syslog, 2 progress, 8 debug",
            "a sum",
            default="0",
        ),
        Key(
            "resize",
            boolean,
            "gives back at boot what is reserved in excess",
            "yes, no",
            default="no",
        ),
        Key("kexec", text, "more options for kexec", "options"),
        Key("network", network, "its network", "auto, or INTERFACE:MODE", default="auto"),
        Key("net-timeout", number(0), "seconds to wait for the network", "a number", default="30"),
        Key("ssh-key", absolute, "the private key to log in with", "a path"),
        Key("host-key", host_key, "the key that the server must show", "base64; * for any"),
        Key(
            "host-tag",
            one_of("ip", "hostname"),
            "what a remote dump is named after",
            default="hostname",
        ),
        Key("smtp-server", server, "who takes the mail about a dump", "HOST or HOST:PORT"),
        Key("smtp-user", text, "who it is sent as", "a name"),
        Key("smtp-password", text, "and with which password", "-: asks for it"),
        Key("mail-to", mail, "who is told about a dump", "an address"),
        Key("mail-cc", mail, "who else is", "addresses"),
        Key("before", text, "a program that runs before saving", "a path"),
        Key("after", text, "a program that runs after saving", "a path"),
        Key("programs", text, "more programs for the capture environment", "paths"),
        Key("modules", text, "more modules for it", "names"),
        Key(
            "dmesg",
            boolean,
            "the kernel's messages in a file of their own",
            "yes, no",
            default="yes",
        ),
        Key("fadump", boolean, "dumps assisted by the firmware of POWER", "yes, no", default="no"),
    )
}
