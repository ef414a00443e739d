"""crashkernel= on the kernel's command line, through whatever the system boots with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from crashpy.kdump.plan import Edit, Plan
from crashpy.kdump.size import parse_values
from crashpy.kdump.system import Refused, System

GRUB = "/etc/default/grub"
_WORD = re.compile(r"crashkernel=[^\s\"']+")
_COMMAND_LINE = re.compile(
    r"^(\s*(?:export\s+)?GRUB_CMDLINE_LINUX(?:_DEFAULT)?\+?=)(.*)$", re.MULTILINE
)


@dataclass(frozen=True)
class Change:
    """The values crashkernel= shall have from the next boot on; none: it goes."""

    values: tuple[str, ...]

    @property
    def words(self) -> str:
        return " ".join(f"crashkernel={value}" for value in self.values)

    def line(self, text: str) -> str:
        """A list of options with the words in it, where the old ones stood."""
        words = text.split(" ")
        at = next((n for n, word in enumerate(words) if word.startswith("crashkernel=")), None)
        rest = [word for word in words if not word.startswith("crashkernel=")]
        if at is None:
            at = len(rest)
        return " ".join([*rest[:at], *([self.words] if self.words else []), *rest[at:]]).strip(" ")


def kind(system: System) -> str:
    """Which way to the boot loader this system has."""
    if system.exists("/run/ostree-booted"):
        raise Refused(
            "the system is an ostree: its command line is changed with"
            " `rpm-ostree kargs --append-if-missing=crashkernel=SIZE`"
        )
    if system.tool("pbl") and system.exists("/etc/sysconfig/bootloader"):
        return "pbl"
    if system.tool("grubby"):
        return "grubby"
    if system.exists("/etc/zipl.conf"):
        return "zipl"
    if system.exists(GRUB):
        return "grub"
    if system.names("/boot/loader/entries", "*.conf"):
        return "bls"
    raise Refused(
        "no boot loader that crashpy knows: no pbl, no grubby, no /etc/default/grub,"
        " no /etc/zipl.conf, no /boot/loader/entries"
    )


def current(system: System) -> list[str]:
    """The values that the boot loader's configuration has now, as far as files tell."""
    for name in [*_grub_files(system), "/etc/zipl.conf", "/etc/kernel/cmdline"]:
        words = [m[0] for m in _WORD.finditer(_active(system.read(name) or ""))]
        if words:
            return [word.partition("=")[2] for word in words]
    return []


def _active(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def plan(system: System, values: Sequence[str]) -> Plan:
    """What sets crashkernel= to the values, or, without any, takes it away."""
    if values:
        parse_values(values, system.memory_bytes)
    change = Change(tuple(values))
    made = BACKENDS[kind(system)](system, change)
    if not made.empty:
        made.notes.append("it takes effect at the next boot")
    return made


# SUSE: pbl knows all of its boot loaders.


def _pbl(system: System, change: Change) -> Plan:
    option = ("--add-option", change.words) if change.values else ("--del-option", "crashkernel")

    def check(system: System) -> None:
        said = system.run(["pbl", "--get-option", "crashkernel"])
        _compare("pbl", _values(said), change)

    old = _values(_quietly(system, ["pbl", "--get-option", "crashkernel"]))
    if old == [*change.values]:
        return Plan()
    command: tuple[str, ...] = ("pbl", *option, "--config")
    back = ("--add-option", Change(tuple(old)).words) if old else ("--del-option", "crashkernel")
    made = Plan(commands=[command], checks=[check])
    made.opposites[command] = ("pbl", *back, "--config")
    return made


def _quietly(system: System, argv: Sequence[str]) -> str:
    try:
        return system.run(argv)
    except Refused:
        return ""


def _values(text: str) -> list[str]:
    return [found[0].partition("=")[2] for found in _WORD.finditer(text)]


def _compare(who: str, found: Sequence[str], change: Change) -> None:
    if list(found) != list(change.values):
        has = " ".join(found) or "none"
        raise Refused(f"{who} reported no error, yet crashkernel= is {has} afterwards")


# Red Hat: grubby writes the entries of the Boot Loader Specification, and grub's defaults.


def _grubby(system: System, change: Change) -> Plan:
    def entries(system: System) -> list[list[str]]:
        said = system.run(["grubby", "--info=ALL"])
        return [_values(line) for line in said.splitlines() if line.startswith("args=")]

    def check(system: System) -> None:
        for found in entries(system):
            _compare("grubby", found, change)

    old = entries(system)
    if all(found == [*change.values] for found in old):
        return Plan()
    option = f"--args={change.words}" if change.values else "--remove-args=crashkernel"
    commands: list[tuple[str, ...]] = [("grubby", "--update-kernel=ALL", option)]
    if system.machine == "s390x" and system.tool("zipl"):
        commands.append(("zipl",))
    made = Plan(commands=commands, checks=[check])
    if all(found == old[0] for found in old):  # else there is no one way back
        before = Change(tuple(old[0]))
        back = f"--args={before.words}" if before.values else "--remove-args=crashkernel"
        made.opposites[commands[0]] = ("grubby", "--update-kernel=ALL", back)
    return made


# GRUB's defaults, and what makes grub.cfg of them.


def _grub_files(system: System) -> list[str]:
    """In the order in which grub-mkconfig reads them: the last one has its way."""
    return [GRUB, *system.names("/etc/default/grub.d", "*.cfg")]


def _grub(system: System, change: Change) -> Plan:
    edits: list[Edit] = []
    placed = False
    for name in reversed(_grub_files(system)):
        old = system.read(name) or ""
        new = old
        if _WORD.search(_active(old)):
            # The first one found from the end takes the words, the others lose theirs.
            only = change if not placed else Change(())
            new, done = _in_command_lines(name, old, only, add=False)
            placed = placed or done
        edits.append(Edit(name, old, new))
    if change.values and not placed:
        first = edits[-1]
        new, done = _in_command_lines(first.name, first.new, change, add=True)
        if not done:
            tail = "" if new.endswith("\n") or not new else "\n"
            new += f'{tail}GRUB_CMDLINE_LINUX_DEFAULT="{change.words}"\n'
        edits[-1] = Edit(first.name, first.old, new)
    edits = [edit for edit in reversed(edits) if edit.new != edit.old]
    made = Plan(edits=edits)
    config = next(
        (n for n in ("/boot/grub2/grub.cfg", "/boot/grub/grub.cfg") if system.exists(n)), None
    )
    if not edits and (config is None or _booted(system, config) == [*change.values]):
        return Plan()
    if system.tool("update-grub"):
        made.commands.append(("update-grub",))
    else:
        tool = next((t for t in ("grub2-mkconfig", "grub-mkconfig") if system.tool(t)), None)
        if tool is None or config is None:
            missing = "update-grub nor grub2-mkconfig" if tool is None else "grub.cfg in /boot"
            raise Refused(
                f"there is neither {missing}: grub.cfg cannot be made anew"
                if tool is None
                else f"there is no {missing}: what shall be made anew?"
            )
        made.commands.append((tool, "-o", config))
    if config is not None:
        made.checks.append(lambda system: _check_grub(system, config, change))
    made.opposites = {argv: argv for argv in made.commands}  # once the files are as they were
    return made


def _in_command_lines(name: str, text: str, change: Change, *, add: bool) -> tuple[str, bool]:
    """The text with the words in one of its command lines; whether there was one."""
    found = list(_COMMAND_LINE.finditer(text))
    having = [match for match in found if _WORD.search(match[2])]
    plain = [m for m in found if "DEFAULT" in m[1]] or found
    chosen = having or (plain[-1:] if add else [])
    done = False
    for match in reversed(chosen):
        value = match[2].rstrip()
        quote = value[:1] if value[:1] in "\"'" else ""
        closing = value.rfind(quote) if quote else len(value)
        if quote and closing == 0:
            number = text.count("\n", 0, match.start()) + 1
            raise Refused(
                f"{name}: line {number}: its value goes on in the next line: change it by hand"
            )
        inside, behind = value[len(quote) : closing], value[closing + len(quote) :]
        if not quote and re.search(r"\s#", inside):
            inside, behind = inside[: inside.index("#")].rstrip(), f" {inside[inside.index('#') :]}"
        only = change if not done else Change(())
        new = only.line(inside)
        mark = quote or '"'
        text = f"{text[: match.start(2)]}{mark}{new}{mark}{behind}{text[match.end(2) :]}"
        done = True
    return text, done


def _booted(system: System, config: str) -> list[str]:
    """What the entries of grub.cfg say, the first of them for all."""
    for line in (system.read(config) or "").splitlines():
        if line.lstrip().startswith("linux") and "single" not in line and "recovery" not in line:
            return _values(line)
    return []


def _check_grub(system: System, config: str, change: Change) -> None:
    text = system.read(config) or ""
    if any(line.lstrip().startswith("linux") for line in text.splitlines()):
        _compare(config, _booted(system, config), change)


# The Boot Loader Specification without grubby: the entries, and what new ones are made of.


def _bls(system: System, change: Change) -> Plan:
    names = system.names("/boot/loader/entries", "*.conf")
    edits = []
    for name in names:
        old = system.read(name) or ""
        if re.search(r"^options\b.*\$", old, re.MULTILINE):
            raise Refused(f"{name}: its options are variables of grubenv: install grubby")
        new = re.sub(
            r"^(options[ \t]+)(.*)$",
            lambda m: m[1] + change.line(m[2]),
            old,
            count=1,
            flags=re.MULTILINE,
        )
        if change.values and new == old and not _values(old):
            new = old.rstrip("\n") + f"\noptions {change.words}\n"
        edits.append(Edit(name, old, new))
    for name in ("/etc/kernel/cmdline",):
        if (text := system.read(name)) is not None:
            edits.append(Edit(name, text, change.line(text.strip()) + "\n"))
    return Plan(edits=[edit for edit in edits if edit.new != edit.old])


# s390x: zipl.conf, then zipl writes the boot record.


def _zipl(system: System, change: Change) -> Plan:
    name = "/etc/zipl.conf"
    old = system.read(name) or ""

    def changed(match: re.Match[str]) -> str:
        value = match[2].strip()
        quote = value[:1] if value[:1] in "\"'" else '"'
        return f"{match[1]}{quote}{change.line(value.strip(quote))}{quote}"

    new, count = re.subn(r"^(\s*parameters\s*=\s*)(.*)$", changed, old, flags=re.MULTILINE)
    if not count:
        raise Refused(f"{system.shown(name)}: no line `parameters=` to put crashkernel= in")
    if new == old:
        return Plan()
    command = ("zipl",)
    return Plan([Edit(name, old, new)], [command], opposites={command: command})


BACKENDS = {"pbl": _pbl, "grubby": _grubby, "grub": _grub, "bls": _bls, "zipl": _zipl}
