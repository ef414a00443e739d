"""What a dialect is: variables in files, and how neutral keys map to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crashpy.command import CommandError
from crashpy.kdump.keys import KEYS
from crashpy.kdump.plan import Mail, SavePlan
from crashpy.kdump.system import Refused, System, split_options
from crashpy.kdump.urls import Url, parse
from crashpy.kdump.values import Check, boolean, text

if TYPE_CHECKING:
    from crashpy.kdump.config import Config

OWN = "/etc/crashpy.conf"
# What our own saving and telling do wherever the distribution's own tools cannot.
BEYOND = (
    "keep",
    "free",
    "copy-kernel",
    "smtp-server",
    "smtp-user",
    "smtp-password",
    "mail-to",
    "mail-cc",
)


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


class Unable(Refused):
    """A dialect has no word for a key, or for this value of it; another may have."""

    def __init__(self, key: str, value: str = "") -> None:
        super().__init__(key)
        self.key, self.value = key, value


class Dialect:
    """How a distribution writes it down."""

    name: str
    title: str
    files: tuple[str, ...]
    variables: Mapping[str, Variable]
    simple: Mapping[str, str]  # neutral key: the variable that says the same
    limited: Mapping[str, Sequence[str]]  # neutral key: the values there are, when not all
    units: tuple[str, ...]  # that load the capture kernel at boot

    def __init__(self) -> None:
        """What a distribution cannot say is said in a file of our own."""
        lacking = [KEYS[name] for name in BEYOND if not self.can(name)]
        if not lacking:
            return
        own = {
            key.name: Variable(key.name, key.default, key.check, len(self.files)) for key in lacking
        }
        self.files = (*self.files, OWN)
        self.variables = {**self.variables, **own}
        self.simple = {**self.simple, **{name: name for name in own}}

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
                raise Unable(key, value)
            name = self.simple[key]
            variable = self.variables[name]
            if variable.check is boolean and value:
                value = config.like(name, value)
            elif value:
                variable.check(value)
            config.set_native(name, value)
        elif value:
            raise Unable(key)

    def can(self, key: str, value: str = "") -> bool:
        if value and key in self.limited:
            return value in self.limited[key]
        return key in self.simple or hasattr(self, f"set_{key}")

    # The capture kernel.

    builder: str  # what makes its initial RAM disk
    dropped = ""  # options that it must not inherit: it would look for what is not there for it

    def command_line(self, config: Config, running: str) -> str:
        """The capture kernel's options, composed of the running one's as the distribution does."""
        raise NotImplementedError

    def inherited(self, running: str, dropped: str = "") -> list[str]:
        names = set(f"{self.dropped} {dropped}".split())
        words = split_options(running)
        return [w for w in words if w.partition("=")[0] not in names and w not in names]

    def kernels(self, config: Config, release: str) -> Iterator[str]:  # noqa: ARG002
        """Where the capture kernel may be, the best first; one alone, if it is named."""
        for stem in ("vmlinuz", "Image", "image", "vmlinux"):
            yield from (f"/boot/{stem}-{release}", f"/lib/modules/{release}/{stem}")

    def initrd(self, config: Config, release: str) -> str | None:
        return capture_initrd(config.system, release)

    def reserve(self, config: Config, values: Sequence[str]) -> list[str]:  # noqa: ARG002
        """Say in the files, too, that crashkernel= changes; what the person should know."""
        return []

    # What becomes of a dump.

    def save_plan(self, config: Config) -> SavePlan:
        """The neutral keys say most of it; a dialect adds what only it has."""

        def word(key: str, default: str = "") -> str:
            value = config.get(key)
            if value is None:
                return default
            if value.value is None:
                raise Refused(f"{value.origin}: {key} is computed by the shell: write it out")
            return value.value or default

        def checked(key: str, default: str, part: str | None = None) -> str:
            try:
                return KEYS[key].check(word(key, default) if part is None else part)
            except CommandError as error:
                value = config.get(key)
                raise Refused(f"{value.origin if value else OWN}: {key}: {error}") from None

        def amount(key: str, default: str) -> int:
            return int(checked(key, default))

        device, target = self.device(config, word("target"))
        kept = checked("keep", "all")
        to, cc = tuple(word("mail-to").split()), tuple(word("mail-cc").split())
        mail = Mail(word("smtp-server"), word("smtp-user"), word("smtp-password"), to, cc)
        return SavePlan(
            target=target,
            device=device,
            levels=tuple(int(checked("level", "", n)) for n in word("level", "31").split(",")),
            format=checked("format", "zlib"),
            compression=word("compression"),
            threads=amount("cpus", "1"),
            keep=None if kept == "all" else int(kept),
            free_bytes=amount("free", "0") << 20,
            dmesg=checked("dmesg", "yes") == "yes",
            copy_kernel=checked("copy-kernel", "no") == "yes",
            options=tuple(word("makedumpfile").split()),
            transfer=word("transfer"),
            verbose=amount("verbose", "0"),
            host_tag=word("host-tag", "hostname"),
            ssh_keys=tuple(word("ssh-key").split()),
            host_key=word("host-key"),
            net_timeout_seconds=amount("net-timeout", "30"),
            before=word("before"),
            after=word("after"),
            finally_=checked("finally", "reboot"),
            failure=word("failure", "reboot"),
            mail=mail if to else None,
        )

    def device(self, config: Config, target: str) -> tuple[str, Url]:  # noqa: ARG002
        """What must be mounted first, and where the dump goes then."""
        return "", parse(KEYS["target"].check(target))


def joined(*parts: str) -> str:
    """Options one behind the other; blanks inside one of them stay."""
    return " ".join(part.strip() for part in parts if part.strip())


def cpu_fact(system: System, name: str) -> str | None:
    """A number of the first CPU in /proc/cpuinfo."""
    for line in (system.fact("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def capture_initrd(system: System, release: str) -> str | None:
    """The initial RAM disk of the capture kernel, wherever the distribution puts it."""
    for name in (
        "/var/lib/kdump/initrd",
        f"/boot/initramfs-{release}kdump.img",
        f"/var/lib/kdump/initramfs-{release}kdump.img",
        "/var/lib/kdump/initrd.img",
        f"/var/lib/kdump/initrd.img-{release}",
        f"/boot/initrd-{release}-kdump",
    ):
        if system.path(name).is_file():
            return name
    return None
