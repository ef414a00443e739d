"""crashkernel= on the kernel's command line, through whatever the system boots with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crashpy.kdump.documents import ShellFile
from crashpy.kdump.plan import Edit, Plan
from crashpy.kdump.size import parse_values
from crashpy.kdump.system import Refused, System

GRUB = "/etc/default/grub"
_WORD = re.compile(r"(?<![\w.-])crashkernel=[^\s\"']+")
_COMMAND_LINE = re.compile(
    r"^[ \t]*(?:export[ \t]+)?(GRUB_CMDLINE_LINUX(?:_DEFAULT)?)(\+?)=", re.MULTILINE
)
# One word of shell in one piece, and what may follow it.
_VALUE = re.compile(
    r"(?:\"(?P<double>(?:\\.|[^\"\\])*)\"|'(?P<single>[^']*)'|(?P<bare>[^\s\"'\\;&|<>()]*))"
    r"(?=[\s;&]|\Z)",
    re.DOTALL,
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
    texts = {name: system.read(name) or "" for name in _grub_files(system)}
    if found := _together(texts):
        return found
    for name in ("/etc/zipl.conf", "/etc/kernel/cmdline"):
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


# SUSE: pbl knows all of its boot loaders, but tells only the last of several values: where
# it works on GRUB's defaults, they are changed as without it.


def _pbl(system: System, change: Change) -> Plan:
    named = ShellFile("", system.read("/etc/sysconfig/bootloader") or "").get("LOADER_TYPE")
    if system.exists(GRUB) and (named is None or named.value in ("grub2", "grub2-efi")):
        return _grub(system, change, ("pbl", "--config"))
    option = ("--add-option", change.words) if change.values else ("--del-option", "crashkernel")

    def check(system: System) -> None:
        said = _values(system.run(["pbl", "--get-option", "crashkernel"]))
        _compare("pbl", said, Change(change.values[-1:] if len(said) == 1 else change.values))

    told = _values(_quietly(system, ["pbl", "--get-option", "crashkernel"]))
    known = current(system)
    old = known if known[-1:] == told[-1:] else told
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
    if len(change.values) > 1:
        raise Refused(
            f"grubby keeps one crashkernel= alone, not {change.words}: with SIZE,high the kernel"
            " reserves what it needs below 4 GiB by itself"
        )

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


@dataclass(frozen=True)
class _Assignment:
    """A variable of GRUB's defaults is given a value, or more of one."""

    variable: str
    adds: bool
    start: int  # of the value's word, in the text
    end: int
    inside: str | None  # the word without its quotes; None: it is more than one piece

    @property
    def usual(self) -> bool:
        """Of the entries that are not for recovery."""
        return self.variable.endswith("DEFAULT")


def _assignments(text: str) -> list[_Assignment]:
    found = []
    for head in _COMMAND_LINE.finditer(text):
        value = _VALUE.match(text, head.end())
        end = text.find("\n", head.end())
        end = value.end() if value else len(text) if end < 0 else end
        inside = next((part for part in value.groups() if part is not None), "") if value else None
        found.append(_Assignment(head[1], bool(head[2]), head.end(), end, inside))
    return found


def _together(texts: Mapping[str, str]) -> list[str]:
    """The values that the files have as one after the other is read."""
    lines = {"GRUB_CMDLINE_LINUX": "", "GRUB_CMDLINE_LINUX_DEFAULT": ""}
    for text in texts.values():
        for each in _assignments(text):
            inside = text[each.start : each.end] if each.inside is None else each.inside
            known = re.sub(
                r"\$(?:\{(\w+)\}|(\w+))", lambda m: lines.get(m[1] or m[2], m[0]), inside
            )
            lines[each.variable] = f"{lines[each.variable] if each.adds else ''}{known}"
    return _values(" ".join(lines.values()))


def _grub(system: System, change: Change, make: tuple[str, ...] = ()) -> Plan:
    old = {name: system.read(name) for name in _grub_files(system)}
    texts = {name: text or "" for name, text in old.items()}
    edits = [Edit(n, old[n], new) for n, new in _changed(texts, change).items() if new != texts[n]]
    made = Plan(edits=edits)
    config = next(
        (n for n in ("/boot/grub2/grub.cfg", "/boot/grub/grub.cfg") if system.exists(n)), None
    )
    if not edits and (config is None or _booted(system, config) == [*change.values]):
        return Plan()
    if make:
        made.commands.append(make)
    elif system.tool("update-grub"):
        made.commands.append(("update-grub",))
    else:
        tool = next((t for t in ("grub2-mkconfig", "grub-mkconfig") if system.tool(t)), None)
        if tool is None:
            raise Refused(
                "there is neither update-grub nor grub2-mkconfig: grub.cfg cannot be made anew"
            )
        if config is None:
            raise Refused("there is no grub.cfg in /boot: what shall be made anew?")
        made.commands.append((tool, "-o", config))
    if config is not None:
        made.checks.append(lambda system: _check_grub(system, config, change))
    made.opposites = {argv: argv for argv in made.commands}  # once the files are as they were
    return made


def _changed(texts: Mapping[str, str], change: Change) -> dict[str, str]:
    """The files with the words in one of them: where old ones stood, or where they count.

    A file that is read later may set a variable anew, as those of cloud images do.
    """
    none = Change(())
    without = {name: _in_command_lines(name, text, none) for name, text in texts.items()}
    if not change.values:
        return without
    later = [name for name, text in reversed([*texts.items()]) if _assignments(text)]
    having = [name for name in later if _has(texts[name])]
    tried = []
    for place in [*having, GRUB, *later]:
        tried.append({**without, place: _in_command_lines(place, texts[place], change)})
        if _together(tried[-1]) == [*change.values]:
            return tried[-1]
    return tried[0]  # grub.cfg will tell


def _has(text: str) -> bool:
    return any(_WORD.search(text, each.start, each.end) for each in _assignments(text))


def _in_command_lines(name: str, text: str, change: Change) -> str:
    """The text with the words in one of its command lines, in place of old ones if it has some."""
    found = _assignments(text)
    chosen = [each for each in found if _WORD.search(text, each.start, each.end)]
    if not chosen and change.values:
        chosen = ([each for each in found if each.usual] or found)[-1:]
        if not chosen:
            tail = "" if text.endswith("\n") or not text else "\n"
            return f'{text}{tail}GRUB_CMDLINE_LINUX_DEFAULT="{change.words}"\n'
    for each in reversed(chosen):
        if each.inside is None or "\n" in each.inside:
            number = text.count("\n", 0, each.start) + 1
            why = "is of several pieces" if each.inside is None else "goes on in the next line"
            raise Refused(f"{name}: line {number}: its value {why}: change it by hand")
        new = change.line(each.inside)
        mark = "'" if text[each.start] == "'" else '"'
        text = f"{text[: each.start]}{mark}{new}{mark}{text[each.end :]}"
        change = Change(())
    return text


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
