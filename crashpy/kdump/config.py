"""What kdump shall do, in one set of words, and in the files of three distributions.

A key is neutral (`level`, `target`, `keep`) or a variable or directive of the file at
hand (`KDUMP_DUMPLEVEL`, `core_collector`). Values are checked before they are written;
what a distribution cannot express is refused with the name of one that can.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from crashpy.command import CommandError
from crashpy.kdump.documents import DirectiveFile, ShellFile
from crashpy.kdump.plan import SECRET, Edit, hide
from crashpy.kdump.system import FAMILIES, Refused, System
from crashpy.kdump.urls import Url, parse

Check = Callable[[str], str]  # the value in its canonical form; Refused says why not

# What each dump level leaves out, bit by bit: makedumpfile(8).
LEVEL_BITS = {
    1: "zero pages",
    2: "cache pages without private data",
    4: "cache pages",
    8: "user pages",
    16: "free pages",
}
FORMATS = {
    "zlib": "every page packed with zlib",
    "lzo": "every page packed with LZO: fast",
    "snappy": "every page packed with snappy: fast",
    "zstd": "every page packed with zstd: small",
    "plain": "pages as they are, in makedumpfile's file",
    "elf": "ELF, which gdb reads too",
    "raw": "/proc/vmcore as it is, nothing left out",
    "log": "the kernel's messages only, no dump",
}


ACTIONS = ("reboot", "halt", "poweroff", "shell")

# Checks.


def text(value: str) -> str:
    if re.search(r"[\x00-\x1f\x7f]", value):
        raise Refused("a value is one line, without control characters")
    return value


def number(low: int, high: int | None = None) -> Check:
    def check(value: str) -> str:
        most = f" to {high}" if high is not None else " on"
        if not re.fullmatch(r"[+-]?\d{1,9}", value):
            raise Refused(f'"{value}" is not a number: it goes from {low}{most}')
        if int(value) < low or (high is not None and int(value) > high):
            raise Refused(f"{value} is out of range: it goes from {low}{most}")
        return str(int(value))

    return check


def one_of(*words: str) -> Check:
    def check(value: str) -> str:
        if value not in words:
            raise Refused(f'"{value}" is not one of {", ".join(words)}')
        return value

    check.words = words  # type: ignore[attr-defined]
    return check


def boolean(value: str) -> str:
    if value.lower() in ("yes", "true", "on", "1"):
        return "yes"
    if value.lower() in ("no", "false", "off", "0"):
        return "no"
    raise Refused(f'"{value}" is neither yes nor no')


def absolute(value: str) -> str:
    if not text(value).startswith("/"):
        raise Refused(f'"{value}" is not a path that starts with /')
    return value


def mail(value: str) -> str:
    for word in text(value).split():
        if not re.fullmatch(r"[^\s@<>,;]+@[^\s@<>,;]+", word):
            raise Refused(f'"{word}" is not a mail address')
    return " ".join(value.split())


def server(value: str) -> str:
    if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?", value):
        raise Refused(f'"{value}" is not HOST or HOST:PORT')
    return value


def network(value: str) -> str:
    modes = "static|dhcp|dhcp4|dhcp6|auto6"
    if not re.fullmatch(rf"auto(:force)?|[\w.@-]+:({modes})(:force)?", value):
        raise Refused(f'"{value}" is not auto or INTERFACE:MODE with {modes.replace("|", ", ")}')
    return value


def keep(value: str) -> str:
    if value in ("all", "0"):
        return "all"
    return number(1, 999)(value)


def options(value: str) -> str:
    if re.search(r"(^|\s)crashkernel=", text(value)):
        raise Refused(
            "crashkernel= is for the kernel that may crash: see `crashpy setup bootloader`"
        )
    return value


def target(value: str) -> str:
    """As it was given: kdump's own readers know no other spelling of it."""
    if re.search(r"\s", text(value)):
        raise Refused("a target holds no blank: write %20")
    parse(value)
    return value


def spelled(url: Url) -> str:
    """A URL with its password, as parse() reads it."""
    if url.password is None:
        return str(url)
    secret = quote(url.password, safe="")
    return str(url).replace(f"{url.user}@", f"{quote(url.user, safe='')}:{secret}@", 1)


@dataclass(frozen=True)
class Key:
    """A word that means the same on every distribution."""

    name: str
    check: Check
    help: str
    takes: str = ""  # what values there are, where the check does not list them

    @property
    def values(self) -> str:
        return self.takes or ", ".join(getattr(self.check, "words", ()))


KEYS = {
    key.name: key
    for key in (
        Key("target", target, "where dumps are saved", "/DIR, or PROTOCOL://HOST/DIR"),
        Key("level", number(0, 31), "what is left out of a dump", "0 (nothing) to 31 (most)"),
        Key("format", one_of(*FORMATS), "how a dump is packed"),
        Key("compression", one_of("bzip2", "gzip", "lz4", "xz"), "packs the whole file again"),
        Key("keep", keep, "how many dumps are kept, the new one too", "a number, or all"),
        Key("free", number(0), "MiB that stay free on the disk of the dumps", "a number"),
        Key("finally", one_of(*ACTIONS), "what follows a saved dump"),
        Key("failure", one_of(*ACTIONS, "dump_to_rootfs"), "what follows when saving failed"),
        Key("kernel", text, "the kernel that captures", "a version, or a path"),
        Key("initrd", absolute, "its initial RAM disk", "a path"),
        Key("cpus", number(0, 4096), "how many CPUs it uses", "a number; 0: all"),
        Key("cmdline", options, "its whole command line", "options"),
        Key("append", options, "what is added to its command line", "options"),
        Key("remove", text, "what is removed from its command line", "names of options"),
        Key("kexec", text, "more options for kexec", "options"),
        Key("network", network, "its network", "auto, or INTERFACE:MODE"),
        Key("net-timeout", number(0), "seconds to wait for the network", "a number"),
        Key("ssh-key", absolute, "the private key to log in with", "a path"),
        Key("host-key", text, "the key that the server must show", "base64; * for any"),
        Key("host-tag", one_of("ip", "hostname"), "what a remote dump is named after"),
        Key("smtp-server", server, "who takes the mail about a dump", "HOST or HOST:PORT"),
        Key("smtp-user", text, "who it is sent as", "a name"),
        Key("smtp-password", text, "and with which password", "-: asks for it"),
        Key("mail-to", mail, "who is told about a dump", "an address"),
        Key("mail-cc", mail, "who else is", "addresses"),
        Key("before", text, "a program that runs before saving", "a path"),
        Key("after", text, "a program that runs after saving", "a path"),
        Key("programs", text, "more programs for the capture environment", "paths"),
        Key("modules", text, "more modules for it", "names"),
        Key("dmesg", boolean, "the kernel's messages in a file of their own", "yes, no"),
        Key("fadump", boolean, "dumps assisted by the firmware of POWER", "yes, no"),
    )
}


@dataclass(frozen=True)
class Variable:
    """A setting by the name that its file has for it."""

    name: str
    default: str = ""
    check: Check = text
    file: int = 0  # which of the dialect's files
    deprecated: str = ""


@dataclass(frozen=True)
class Value:
    """What a setting is, and who says so."""

    value: str | None  # None: the shell computes it
    origin: str  # "/etc/sysconfig/kdump:12", "default"


@dataclass
class Config:
    """The configuration of one system, read and perhaps changed, not yet written."""

    system: System
    dialect: Dialect
    documents: list[ShellFile | DirectiveFile]
    old: list[str | None]

    @classmethod
    def read(cls, system: System) -> Config:
        dialect = recognise(system)
        old = [system.read(name) for name in dialect.files]
        kinds = zip(dialect.files, old, strict=True)
        return cls(
            system,
            dialect,
            [
                (DirectiveFile if name.endswith(".conf") else ShellFile)(name, text or "")
                for name, text in kinds
            ],
            old,
        )

    # In the file's own words.

    def native(self, name: str) -> Value:
        variable = self.dialect.variables[name]
        document = self.documents[variable.file]
        entry = document.get(name)
        if entry is None or (entry.value == "" and not isinstance(document, DirectiveFile)):
            return Value(variable.default, "default")
        return Value(entry.value, f"{document.name}:{entry.line}")

    def own(self, name: str) -> str:
        """A value that is there; computed ones are refused."""
        value = self.native(name)
        if value.value is None:
            raise Refused(
                f"{value.origin}: {name} is computed by the shell: change it there by hand"
            )
        return value.value

    def set_native(self, name: str, value: str) -> None:
        variable = self.dialect.variables[name]
        document = self.documents[variable.file]
        if value == "" and document.get(name) is None:
            return
        document.set(name, value)

    # In neutral words.

    def get(self, key: str) -> Value | None:
        """None: this distribution has no such setting."""
        return self.dialect.get(self, key)

    def assign(self, name: str, value: str) -> None:
        """Check a value and set it; "" is the distribution's own default."""
        try:
            if name in KEYS:
                self.dialect.set(self, name, KEYS[name].check(value) if value else "")
            elif name in self.dialect.variables:
                variable = self.dialect.variables[name]
                if variable.deprecated and value:
                    raise Refused(variable.deprecated)
                if value:
                    checked = variable.check(value)
                    value = self.like(name, checked) if variable.check is boolean else value
                self.set_native(name, value)
            else:
                raise Refused(self._unknown(name))
        except CommandError as error:
            sentence = hide(str(error))
            raise Refused(
                sentence if sentence.startswith(name) else f"{name}: {sentence}"
            ) from None

    def like(self, name: str, answer: str) -> str:
        """yes or no, as the file spells it."""
        before = self.native(name).value or ""
        pairs = {"1": "1", "0": "1", "true": "t", "false": "t", "yes": "y", "no": "y"}
        spelling = {"1": ("1", "0"), "t": ("true", "false"), "y": ("yes", "no")}
        return spelling[pairs.get(before.lower(), "y")][answer != "yes"]

    def _unknown(self, name: str) -> str:
        if name == "crashkernel":
            return "it is the boot loader's: see `crashpy setup bootloader`"
        for other in DIALECTS:
            if name in other.variables:
                return (
                    f"{self.dialect.title} has no such setting, {other.title} has:"
                    " see `crashpy setup configure` for the words that all share"
                )
        return "no such setting: `crashpy setup configure` lists what there is"

    def edits(self) -> list[Edit]:
        rows = zip(self.documents, self.old, strict=True)
        return [Edit(d.name, old, d.text) for d, old in rows if d.text != (old or "")]


class Dialect:
    """How a distribution writes it down."""

    name: str
    title: str
    files: tuple[str, ...]
    variables: Mapping[str, Variable]
    simple: Mapping[str, str]  # neutral key: the variable that says the same
    limited: Mapping[str, Sequence[str]]  # neutral key: the values there are, when not all
    units: tuple[str, ...]  # that load the capture kernel at boot

    def get(self, config: Config, key: str) -> Value | None:
        if reader := getattr(self, f"get_{key}", None):
            found: Value | None = reader(config)
            return found
        if key not in self.simple:
            return None
        name = self.simple[key]
        value = config.native(name)
        if self.variables[name].check is boolean and value.value:
            return Value(boolean(value.value), value.origin)
        return value

    def set(self, config: Config, key: str, value: str) -> None:
        if writer := getattr(self, f"set_{key}", None):
            writer(config, value)
        elif key in self.simple:
            if value and value not in self.limited.get(key, (value,)):
                raise self.cannot(f"{key}={value}")
            name = self.simple[key]
            variable = self.variables[name]
            if variable.check is boolean and value:
                value = config.like(name, value)
            elif value:
                variable.check(value)
            config.set_native(name, value)
        elif value:
            raise self.cannot(key)

    def cannot(self, what: str) -> Refused:
        """This distribution has no word for it; another may have."""
        key, _, value = what.partition("=")
        able = [d.title for d in DIALECTS if d.can(key, value) and d is not self]
        whose = f", {' and '.join(able)} {'has' if len(able) == 1 else 'have'}" if able else ""
        return Refused(f"{what}: {self.title} has no such setting{whose}")

    def can(self, key: str, value: str = "") -> bool:
        if value and key in self.limited:
            return value in self.limited[key]
        return key in self.simple or hasattr(self, f"set_{key}")


class Suse(Dialect):
    """/etc/sysconfig/kdump: kdump(5). It holds for SLES 11 and for today's."""

    name = "suse"
    title = "SUSE"
    files = ("/etc/sysconfig/kdump",)
    units = ("kdump.service", "kdump-early.service", "boot.kdump")
    variables = {  # noqa: RUF012
        variable.name: variable
        for variable in (
            Variable("KDUMP_KERNELVER"),
            Variable("KDUMP_CRASHKERNEL", "auto"),
            Variable("KDUMP_UPDATE_BOOTLOADER", "true", boolean),
            Variable("KDUMP_CPUS", "32", number(0, 4096)),
            Variable("KDUMP_COMMANDLINE", "", options),
            Variable("KDUMP_COMMANDLINE_APPEND", "", options),
            Variable("KEXEC_OPTIONS"),
            Variable("MAKEDUMPFILE_OPTIONS"),
            Variable("KDUMP_RUNLEVEL", "1", one_of("1", "2", "3", "5", "s")),
            Variable("KDUMP_IMMEDIATE_REBOOT", "yes", boolean),
            Variable("KDUMP_TRANSFER"),
            Variable("KDUMP_SAVEDIR", "/var/crash"),
            Variable("KDUMP_KEEP_OLD_DUMPS", "0", number(-1)),
            Variable("KDUMP_FREE_DISK_SIZE", "64", number(0)),
            Variable("KDUMP_VERBOSE", "0", number(0, 31)),
            Variable("KDUMP_DUMPLEVEL", "31", number(0, 31)),
            Variable(
                "KDUMP_DUMPFORMAT",
                "compressed",
                one_of("none", "ELF", "compressed", "lzo", "snappy", "zstd", "raw"),
            ),
            Variable("KDUMP_CONTINUE_ON_ERROR", "true", boolean),
            Variable("KDUMP_REQUIRED_PROGRAMS"),
            Variable("KDUMP_PRESCRIPT"),
            Variable("KDUMP_POSTSCRIPT"),
            Variable("KDUMP_COPY_KERNEL", "", boolean),
            Variable("KDUMPTOOL_FLAGS"),
            Variable("KDUMP_NETCONFIG", "auto", network),
            Variable("KDUMP_NET_TIMEOUT", "30", number(0)),
            Variable("KDUMP_SMTP_SERVER", "", server),
            Variable("KDUMP_SMTP_USER"),
            Variable("KDUMP_SMTP_PASSWORD"),
            Variable("KDUMP_NOTIFICATION_TO", "", mail),
            Variable("KDUMP_NOTIFICATION_CC", "", mail),
            Variable("KDUMP_HOST_KEY"),
            Variable("KDUMP_SSH_IDENTITY"),
            Variable("KDUMP_AUTO_RESIZE", "false", boolean),
            Variable("KDUMP_FADUMP", "false", boolean),
            Variable("KDUMP_FADUMP_SHELL", "false", boolean),
        )
    }
    simple = {  # noqa: RUF012
        "target": "KDUMP_SAVEDIR",
        "level": "KDUMP_DUMPLEVEL",
        "free": "KDUMP_FREE_DISK_SIZE",
        "kernel": "KDUMP_KERNELVER",
        "cpus": "KDUMP_CPUS",
        "cmdline": "KDUMP_COMMANDLINE",
        "append": "KDUMP_COMMANDLINE_APPEND",
        "kexec": "KEXEC_OPTIONS",
        "network": "KDUMP_NETCONFIG",
        "net-timeout": "KDUMP_NET_TIMEOUT",
        "ssh-key": "KDUMP_SSH_IDENTITY",
        "host-key": "KDUMP_HOST_KEY",
        "smtp-server": "KDUMP_SMTP_SERVER",
        "smtp-user": "KDUMP_SMTP_USER",
        "smtp-password": "KDUMP_SMTP_PASSWORD",
        "mail-to": "KDUMP_NOTIFICATION_TO",
        "mail-cc": "KDUMP_NOTIFICATION_CC",
        "before": "KDUMP_PRESCRIPT",
        "after": "KDUMP_POSTSCRIPT",
        "programs": "KDUMP_REQUIRED_PROGRAMS",
        "fadump": "KDUMP_FADUMP",
    }
    formats = {  # noqa: RUF012
        "log": "none",
        "elf": "ELF",
        "zlib": "compressed",
        "lzo": "lzo",
        "snappy": "snappy",
        "zstd": "zstd",
        "raw": "raw",
    }
    limited = {  # noqa: RUF012
        "format": tuple(formats),
        "finally": ("reboot", "shell"),
        "failure": ("reboot", "shell"),
    }

    def get_format(self, config: Config) -> Value:
        value = config.native("KDUMP_DUMPFORMAT")
        names = {own: name for name, own in self.formats.items()}
        return Value(names.get(value.value or "", value.value), value.origin)

    def set_format(self, config: Config, value: str) -> None:
        if value and value not in self.formats:
            raise self.cannot(f"format={value}")
        config.set_native("KDUMP_DUMPFORMAT", self.formats[value] if value else "")

    # Old dumps are deleted before the new one is saved: N of them stay, and one comes.

    def get_keep(self, config: Config) -> Value:
        value = config.native("KDUMP_KEEP_OLD_DUMPS")
        if value.value is None or not re.fullmatch(r"-?\d+", value.value):
            return value
        old = int(value.value)
        return Value("all" if old == 0 else "1" if old < 0 else str(old + 1), value.origin)

    def set_keep(self, config: Config, value: str) -> None:
        known = {"": "", "all": "0", "1": "-1"}
        config.set_native(
            "KDUMP_KEEP_OLD_DUMPS", known[value] if value in known else str(int(value) - 1)
        )

    def get_finally(self, config: Config) -> Value:
        return self._action(config, "KDUMP_IMMEDIATE_REBOOT")

    def set_finally(self, config: Config, value: str) -> None:
        self._set_action(config, "KDUMP_IMMEDIATE_REBOOT", "finally", value)

    def get_failure(self, config: Config) -> Value:
        return self._action(config, "KDUMP_CONTINUE_ON_ERROR")

    def set_failure(self, config: Config, value: str) -> None:
        self._set_action(config, "KDUMP_CONTINUE_ON_ERROR", "failure", value)

    @staticmethod
    def _action(config: Config, name: str) -> Value:
        value = config.native(name)
        if value.value is None:
            return value
        try:
            answer = boolean(value.value)
        except Refused:
            return value
        return Value("reboot" if answer == "yes" else "shell", value.origin)

    def _set_action(self, config: Config, name: str, key: str, value: str) -> None:
        if value not in ("", "reboot", "shell"):
            raise self.cannot(f"{key}={value}")
        answer = "yes" if value == "reboot" else "no"
        config.set_native(name, config.like(name, answer) if value else "")


class Collector:
    """makedumpfile's options, wherever a distribution keeps them."""

    FLAGS = {"zlib": "-c", "lzo": "-l", "snappy": "-p", "zstd": "-z", "elf": "-E", "plain": ""}  # noqa: RUF012

    @staticmethod
    def level(words: list[str]) -> str:
        """0 when no -d is given."""
        for at, word in enumerate(words):
            if word == "-d":
                return words[at + 1] if at + 1 < len(words) else "0"
            if re.fullmatch(r"-d[\d,]+", word):
                return word[2:]
        return "0"

    @staticmethod
    def with_level(words: list[str], level: str) -> list[str]:
        for at, word in enumerate(words):
            if word == "-d":
                return [*words[: at + 1], level, *words[at + 2 :]]
            if re.fullmatch(r"-d[\d,]+", word):
                return [*words[:at], f"-d{level}", *words[at + 1 :]]
        return [*words, "-d", level]

    @classmethod
    def format(cls, words: list[str]) -> str:
        for name, letter in cls.FLAGS.items():
            if letter and letter in words:
                return name
        return "plain"

    @classmethod
    def with_format(cls, words: list[str], name: str) -> list[str]:
        letters = [letter for letter in cls.FLAGS.values() if letter]
        at = next((at for at, word in enumerate(words) if word in letters), None)
        others = [word for word in words if word not in letters]
        if not cls.FLAGS[name]:
            return others
        if at is None:  # behind the program's name, when that comes first
            at = 1 if words and not words[0].startswith("-") else 0
        return [*others[:at], cls.FLAGS[name], *others[at:]]


class Makedumpfile(Dialect):
    """What Debian's and Red Hat's dialects have in common: level and format are options."""

    collector: str  # the variable that holds them
    append: str  # the one that holds the capture kernel's options

    def words(self, config: Config) -> list[str]:
        return config.own(self.collector).split()

    def get_level(self, config: Config) -> Value:
        return self._of(config, Collector.level)

    def get_format(self, config: Config) -> Value:
        return self._of(config, Collector.format)

    def _of(self, config: Config, part: Callable[[list[str]], str]) -> Value:
        value = config.native(self.collector)
        if value.value is None:
            return value
        words = value.value.split()
        if words and not words[0].startswith("-") and words[0] != "makedumpfile":
            return Value("raw" if part == Collector.format else "0", value.origin)
        return Value(part(words), value.origin)

    def set_level(self, config: Config, value: str) -> None:
        default = Collector.level(self.variables[self.collector].default.split())
        self._set(config, Collector.with_level(self.words(config), value or default))

    def set_format(self, config: Config, value: str) -> None:
        default = Collector.format(self.variables[self.collector].default.split())
        if value and value not in Collector.FLAGS:
            raise self.cannot(f"format={value}")
        self._set(config, Collector.with_format(self.words(config), value or default))

    def _set(self, config: Config, words: list[str]) -> None:
        if words and not words[0].startswith("-") and words[0] != "makedumpfile":
            raise Refused(f"{self.collector} runs {words[0]}, not makedumpfile: change that first")
        new = " ".join(words)
        if new != config.own(self.collector):
            config.set_native(self.collector, new)

    def get_cpus(self, config: Config) -> Value:
        value = config.native(self.append)
        if value.value is None:
            return value
        found = re.search(r"(?:^|\s)nr_cpus=(\d+)", value.value)
        return Value(found[1] if found else "0", value.origin)

    def set_cpus(self, config: Config, value: str) -> None:
        old = config.own(self.append)
        words = [word for word in old.split() if not re.match(r"(nr_cpus|maxcpus)=", word)]
        if value != "0":
            words.append(f"nr_cpus={value or '1'}")
        if sorted(words) != sorted(old.split()):
            config.set_native(self.append, " ".join(words))


class Rhel(Makedumpfile):
    """/etc/kdump.conf, kdump.conf(5), and the loader's own /etc/sysconfig/kdump."""

    name = "rhel"
    title = "RHEL"
    files = ("/etc/kdump.conf", "/etc/sysconfig/kdump")
    units = ("kdump.service", "kdump")
    collector = "core_collector"
    append = "KDUMP_COMMANDLINE_APPEND"
    local = ("ext2", "ext3", "ext4", "minix", "btrfs", "xfs", "virtiofs")
    places = ("raw", "nfs", "ssh", *local)  # of which there may be one
    variables = {  # noqa: RUF012
        variable.name: variable
        for variable in (
            *(Variable(name) for name in places),
            Variable("path", "/var/crash", absolute),
            Variable("core_collector", "makedumpfile -l --message-level 7 -d 31"),
            Variable("sshkey", "/root/.ssh/kdump_id_rsa", absolute),
            Variable("kdump_pre", "", absolute),
            Variable("kdump_post", "", absolute),
            Variable("kdump_emergency", "", absolute),
            Variable("extra_bins"),
            Variable("extra_modules"),
            Variable("dracut_args"),
            Variable(
                "failure_action",
                "reboot",
                one_of("reboot", "halt", "poweroff", "shell", "dump_to_rootfs"),
            ),
            Variable("final_action", "reboot", one_of("reboot", "halt", "poweroff")),
            Variable("force_rebuild", "0", number(0, 1)),
            Variable("force_no_rebuild", "0", number(0, 1)),
            Variable("auto_reset_crashkernel", "yes", one_of("yes", "no")),
            Variable("fence_kdump_nodes"),
            Variable("fence_kdump_args"),
            Variable("default", deprecated="kdumpctl no longer has it: use failure_action"),
            *(
                Variable(name, deprecated="kdumpctl no longer has it: see kdump.conf(5)")
                for name in (
                    "net",
                    "options",
                    "link_delay",
                    "disk_timeout",
                    "debug_mem_level",
                    "blacklist",
                )
            ),
            Variable("KDUMP_KERNELVER", file=1),
            Variable("KDUMP_COMMANDLINE", "", options, file=1),
            Variable("KDUMP_COMMANDLINE_REMOVE", file=1),
            Variable("KDUMP_COMMANDLINE_APPEND", "", options, file=1),
            Variable("KEXEC_ARGS", file=1),
            Variable("KDUMP_BOOTDIR", "", absolute, file=1),
            Variable("KDUMP_IMG", "vmlinuz", file=1),
            Variable("KDUMP_IMG_EXT", file=1),
            Variable("FADUMP_COMMANDLINE_APPEND", file=1),
            Variable("KDUMP_STDLOGLVL", "3", number(0, 4), file=1),
            Variable("KDUMP_SYSLOGLVL", "0", number(0, 4), file=1),
            Variable("KDUMP_KMSGLOGLVL", "0", number(0, 4), file=1),
            Variable("VMCORE_CREATION_NOTIFICATION", "yes", one_of("yes", "no"), file=1),
        )
    }
    simple = {  # noqa: RUF012
        "finally": "final_action",
        "failure": "failure_action",
        "kernel": "KDUMP_KERNELVER",
        "cmdline": "KDUMP_COMMANDLINE",
        "append": "KDUMP_COMMANDLINE_APPEND",
        "remove": "KDUMP_COMMANDLINE_REMOVE",
        "kexec": "KEXEC_ARGS",
        "ssh-key": "sshkey",
        "before": "kdump_pre",
        "after": "kdump_post",
        "programs": "extra_bins",
        "modules": "extra_modules",
    }
    limited = {  # noqa: RUF012
        "format": tuple(Collector.FLAGS),
        "finally": ("reboot", "halt", "poweroff"),
    }

    def place(self, config: Config) -> tuple[str, Value] | None:
        """The directive that says where dumps go; more than one is kdumpctl's error."""
        found = [
            (name, config.native(name)) for name in self.places if config.documents[0].get(name)
        ]
        if len(found) > 1:
            names = " and ".join(name for name, _ in found)
            raise Refused(f"{self.files[0]}: {names} are two targets: remove one")
        return found[0] if found else None

    def get_target(self, config: Config) -> Value:
        path = config.native("path")
        folder = path.value or "/"
        found = self.place(config)
        if found is None:
            return path
        kind, place = found
        folder = f"/{folder.strip('/')}"
        value = place.value or ""
        if kind == "nfs":
            host, _, export = value.rpartition(":/")
            return Value(f"nfs://{host}/{export}{folder}".rstrip("/"), place.origin)
        if kind == "ssh":
            return Value(f"ssh://{value}{folder}", place.origin)
        return Value(f"{kind} {value} {folder if kind != 'raw' else ''}".strip(), place.origin)

    def set_target(self, config: Config, value: str) -> None:
        url = parse(value) if value else Url("file", "/var/crash")
        if url.protocol not in ("file", "nfs", "ssh"):
            raise Refused(
                f"kdump.conf has no {url.protocol}, only local file systems, nfs and ssh;"
                " SUSE has all of them"
            )
        if url.port or url.password:
            what = "password" if url.password else "port"
            raise Refused(f"kdump.conf cannot hold a {what} for {url.protocol}")
        if "[" in str(url):
            raise Refused("kdump.conf cannot hold an IPv6 address: give the host's name")
        if self.get_target(config).value == str(url):
            return  # perhaps divided otherwise between export and folder
        for name in self.places:
            self.set_native_if(config, name, "")
        if url.protocol == "nfs":
            config.set_native("nfs", f"{url.host}:{url.path}")
            config.set_native("path", "/")
            return
        if url.protocol == "ssh":
            config.set_native("ssh", f"{url.user}@{url.host}")
        if config.native("path").value != url.path:
            config.set_native("path", url.path)

    @staticmethod
    def set_native_if(config: Config, name: str, value: str) -> None:
        if config.documents[0].get(name) is not None:
            config.set_native(name, value)


class Debian(Makedumpfile):
    """/etc/default/kdump-tools, kdump-tools(5)."""

    name = "debian"
    title = "Debian"
    files = ("/etc/default/kdump-tools",)
    units = ("kdump-tools.service", "kdump-tools")
    collector = "MAKEDUMP_ARGS"
    append = "KDUMP_CMDLINE_APPEND"
    variables = {  # noqa: RUF012
        variable.name: variable
        for variable in (
            Variable("USE_KDUMP", "0", number(0, 1)),
            Variable("KDUMP_KERNEL", "", absolute),
            Variable("KDUMP_INITRD", "", absolute),
            Variable("KDUMP_COREDIR", "/var/crash", absolute),
            Variable("KDUMP_FAIL_CMD", "reboot -f"),
            Variable("KDUMP_DUMP_DMESG", "1", number(0, 1)),
            Variable("KDUMP_NUM_DUMPS", "0", number(0)),
            Variable("KDUMP_COMPRESSION", "", one_of("bzip2", "gzip", "lz4", "xz")),
            Variable("MAKEDUMP_ARGS", "-F -c -d 31"),
            Variable("KDUMP_KEXEC_ARGS"),
            Variable("KDUMP_CMDLINE", "", options),
            Variable(
                "KDUMP_CMDLINE_APPEND",
                "reset_devices systemd.unit=kdump-tools-dump.service nr_cpus=1 irqpoll"
                " usbcore.nousb",
                options,
            ),
            Variable("HOSTTAG", "ip", one_of("ip", "hostname")),
            Variable("NFS"),
            Variable("NFS_TIMEO", "600", number(1)),
            Variable("NFS_RETRANS", "3", number(0)),
            Variable("NFS_MOUNT_RETRY", "4", number(1)),
            Variable("FTP"),
            Variable("FTP_USER"),
            Variable("FTP_PASSWORD"),
            Variable("FTP_PORT", "", number(1, 65535)),
            Variable("SSH"),
            Variable("SSH_KEY", "/root/.ssh/kdump_id_rsa", absolute),
            Variable("SSH_KDUMP_RETRY", "16", number(1)),
        )
    }
    simple = {  # noqa: RUF012
        "kernel": "KDUMP_KERNEL",
        "initrd": "KDUMP_INITRD",
        "cmdline": "KDUMP_CMDLINE",
        "append": "KDUMP_CMDLINE_APPEND",
        "kexec": "KDUMP_KEXEC_ARGS",
        "compression": "KDUMP_COMPRESSION",
        "host-tag": "HOSTTAG",
        "ssh-key": "SSH_KEY",
    }
    failures = {  # noqa: RUF012
        "reboot": "reboot -f",
        "halt": "halt -f",
        "poweroff": "poweroff -f",
        "shell": "/bin/bash; reboot -f",
    }
    limited = {"format": tuple(Collector.FLAGS), "failure": tuple(failures)}  # noqa: RUF012

    def get_target(self, config: Config) -> Value:
        folder = config.native("KDUMP_COREDIR")
        for name in ("FTP", "SSH", "NFS"):  # the order in which kdump-config tries them
            place = config.native(name)
            if place.value is None:
                return place
            if not place.value:
                continue
            if name == "NFS":
                host, _, export = place.value.partition(":/")
                return Value(f"nfs://{host}/{export}", place.origin)
            if name == "SSH":
                return Value(f"ssh://{place.value}{folder.value}", place.origin)
            host, _, path = place.value.partition(":")
            own = {n: config.native(f"FTP_{n}").value or "" for n in ("USER", "PASSWORD", "PORT")}
            port = int(own["PORT"]) if own["PORT"] not in ("", "21") else None
            password = own["PASSWORD"] or None
            url = Url("ftp", f"/{path.lstrip('/')}", host, port, own["USER"], password)
            return Value(spelled(url), place.origin)
        return folder

    def set_target(self, config: Config, value: str) -> None:
        url = parse(value) if value else Url("file", "/var/crash")
        if url.protocol not in ("file", "nfs", "ssh", "ftp"):
            more = ": use ssh" if url.protocol == "sftp" else "; SUSE has"
            raise Refused(f"kdump-tools has no {url.protocol}, only ftp, nfs and ssh{more}")
        if url.protocol != "ftp" and (url.port or url.password):
            what = "password" if url.password else "port"
            raise Refused(f"kdump-tools cannot hold a {what} for {url.protocol}")
        if ":" in url.host:
            raise Refused("kdump-tools cannot hold an IPv6 address: give the host's name")
        path = url.path
        if url.protocol == "ftp" and any(re.search(r"\s", part) for part in (path, url.user)):
            raise Refused("kdump-tools cannot hold a blank for ftp")
        wanted = dict.fromkeys(("NFS", "SSH", "FTP", "FTP_USER", "FTP_PASSWORD", "FTP_PORT"), "")
        if url.protocol == "nfs":
            wanted["NFS"] = f"{url.host}:{path}"
        elif url.protocol == "ssh":
            wanted["SSH"] = f"{url.user}@{url.host}"
        elif url.protocol == "ftp":
            wanted["FTP"] = f"{url.host}:{path}"
            wanted["FTP_USER"] = url.user
            wanted["FTP_PASSWORD"] = url.password or ""
            wanted["FTP_PORT"] = str(url.port or "")
        if url.protocol in ("file", "ssh"):
            wanted["KDUMP_COREDIR"] = path
        for name, text in wanted.items():
            if config.own(name) != (text or self.variables[name].default):
                config.set_native(name, text)

    # Debian purges after a dump has been saved: the new one counts.

    def get_keep(self, config: Config) -> Value:
        value = config.native("KDUMP_NUM_DUMPS")
        return Value("all", value.origin) if value.value == "0" else value

    def set_keep(self, config: Config, value: str) -> None:
        config.set_native("KDUMP_NUM_DUMPS", "0" if value == "all" else value)

    def get_failure(self, config: Config) -> Value:
        value = config.native("KDUMP_FAIL_CMD")
        names = {command: name for name, command in self.failures.items()}
        return Value(names.get(value.value or "", value.value), value.origin)

    def set_failure(self, config: Config, value: str) -> None:
        if value and value not in self.failures:
            raise self.cannot(f"failure={value}")
        config.set_native("KDUMP_FAIL_CMD", self.failures[value] if value else "")

    def get_dmesg(self, config: Config) -> Value:
        value = config.native("KDUMP_DUMP_DMESG")
        return Value({"1": "yes", "0": "no"}.get(value.value or "", value.value), value.origin)

    def set_dmesg(self, config: Config, value: str) -> None:
        config.set_native("KDUMP_DUMP_DMESG", {"yes": "1", "no": "0"}.get(value, ""))


DIALECTS: tuple[Dialect, ...] = (Suse(), Rhel(), Debian())


def recognise(system: System) -> Dialect:
    """Whose configuration this is: by its files, not by its name."""
    suse, rhel, debian = DIALECTS
    if system.exists(rhel.files[0]):
        return rhel
    if system.exists(debian.files[0]):
        return debian
    if system.exists(suse.files[0]) and system.family != "rhel":
        return suse
    packages = {"suse": "kdump", "rhel": "kdump-utils", "debian": "kdump-tools"}
    if family := system.family:
        name = next(d for d in DIALECTS if d.name == family).files[0]
        raise Refused(f"{system.shown(name)}: there is no such file: install {packages[family]}")
    raise Refused(
        "no configuration of kdump was found: neither /etc/sysconfig/kdump, /etc/kdump.conf"
        " nor /etc/default/kdump-tools"
    )


def settings(config: Config) -> Iterator[tuple[str, Value]]:
    """Every neutral key that this distribution has, with its value; passwords hidden."""
    for key in KEYS:
        try:
            value = config.get(key)
        except CommandError as error:
            yield key, Value(None, str(error))
            continue
        if value is None:
            continue
        secret = key == "smtp-password" and value.value
        yield key, Value("(hidden)" if secret else value.value and hide(value.value), value.origin)


def is_secret(name: str) -> bool:
    return name == "smtp-password" or re.fullmatch(SECRET, name) is not None


assert set(FAMILIES) == {"suse", "rhel", "debian"}
