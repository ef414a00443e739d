"""`crashpy setup VERB`: arm the machine, so that its next crash leaves a dump.

Exit status: 0 done, 1 findings (or not armed), 2 wrong words, 3 refused or failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import getpass
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crashpy.command import CommandError
from crashpy.kdump.config import Config, is_secret
from crashpy.kdump.dialects import OWN
from crashpy.kdump.keys import KEYS
from crashpy.kdump.plan import Plan, hide
from crashpy.kdump.system import Refused, System
from crashpy.kdump.writing import recover

if TYPE_CHECKING:
    from crashpy.kdump.tui import Fields

DONE, FINDINGS, WRONG, REFUSED = 0, 1, 2, 3


def setup(words: Sequence[str]) -> int:
    """Run one verb; errors become a sentence on standard error."""
    if not words or words[0] in ("-h", "--help"):
        _say(usage())
        return DONE if words else WRONG
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        sys.stderr.write(f'crashpy setup: "{verb}" is no verb of it: see `crashpy setup -h`\n')
        return WRONG
    about, arguments, act = VERBS[verb]
    parser = argparse.ArgumentParser(f"crashpy setup {verb}", description=about)
    parser.add_argument("--root", metavar="DIR", default="/", help="act on the system in DIR")
    arguments(parser)
    asked = parser.parse_args(rest)
    try:
        root = Path(asked.root)
        if not root.is_dir():
            raise Refused(f"{root}: there is no such folder")
        system = System(root.absolute())
        if hasattr(asked, "yes") and not asked.dry_run and (names := recover(system)):
            _say([f"note: a change was cut off: {', '.join(names)}: as they were before it"])
        return act(system, asked)
    except CommandError as error:
        sys.stderr.write(f"crashpy setup {verb}: {hide(str(error))}\n")
    except BrokenPipeError:
        raise  # who reads our words has had enough: the program's affair
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"crashpy setup {verb}: {where}{error.strerror or error}\n")
    except (KeyboardInterrupt, EOFError):
        sys.stderr.write(f"\ncrashpy setup {verb}: interrupted: nothing was changed\n")
    return REFUSED


def usage() -> Iterable[str]:
    yield "usage: crashpy setup VERB [--root DIR] [OPTION]..."
    yield ""
    for verb, (about, _, _) in VERBS.items():
        yield f"  {verb:12} {about}"
    yield ""
    yield "What writes shows what it will do and asks; --dry-run only shows, --yes does not ask."


def _say(lines: Iterable[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _writes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="show what would be done")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def carry_out(system: System, plan: Plan, asked: argparse.Namespace) -> int:
    """Show the plan, ask, and do it."""
    _say(plan.lines())
    if plan.empty:
        _say(["nothing to do: it is so already"] if not plan.notes else [])
        return DONE
    if asked.dry_run:
        return DONE
    if not asked.yes:
        if not sys.stdin.isatty():
            raise Refused("there is nobody to ask: give --yes, or --dry-run")
        if input("Do this? [y/N] ").strip().lower() not in ("y", "yes"):
            raise Refused("nothing was changed")
    for backup in plan.carry_out(system):
        _say([f"kept: {backup}"])
    return DONE


# Verbs.


def _status(system: System, asked: argparse.Namespace) -> int:
    from crashpy.kdump.status import lines, status

    found = status(system)
    if asked.json:
        _say([json.dumps(dataclasses.asdict(found))])
    else:
        _say(lines(found))
    return DONE if found.armed else FINDINGS


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as a JSON object")


def _check(system: System, asked: argparse.Namespace) -> int:
    from crashpy.kdump.check import check, lines

    found = [*check(system, network=not asked.offline)]
    if asked.json:
        _say(json.dumps(dataclasses.asdict(finding)) for finding in found)
    else:
        _say(hide(line) for line in lines(found))
    return FINDINGS if found else DONE


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--offline", action="store_true", help="connect to no server")


def _configure(system: System, asked: argparse.Namespace) -> int:
    config = Config.read(system)
    if not asked.settings:
        _say(_keys(config))
        return DONE
    shown = ""
    beyond = []
    for word in asked.settings:
        name, equals, value = word.partition("=")
        if not equals:
            raise Refused(f"{hide(word)}: give a value, {name}=VALUE; {name}= is the default")
        if is_secret(name) and value == "-":
            value = _password(name)
        elif is_secret(name) and value:
            shown = name
        config.assign(name, value)
        beyond += [name] if config.beyond(name) else []
    plan = Plan(config.edits())
    if shown and not plan.empty:
        plan.notes.append(f"others may have seen the password in `ps`: {shown}=- asks for it")
    if beyond and not plan.empty:
        plan.notes.append(
            f"{config.dialect.title} itself has no {', '.join(beyond)}: {OWN} says it to"
            " `crashpy save`"
        )
    if any(edit.private and _mode(system, edit.name) & 0o077 for edit in plan.edits):
        plan.notes.append("the file will hold a password: only its owner will be able to read it")
    plan.checks.append(lambda system: _read_back(system, config))
    return carry_out(system, plan, asked)


def _read_back(system: System, wanted: Config) -> None:
    """What a fresh look at the files finds is what was asked for."""
    found = Config.read(system)
    for name in wanted.dialect.variables:
        if found.native(name).value != wanted.native(name).value:
            raise Refused(f"{name} does not read back as it was written")


def _mode(system: System, name: str) -> int:
    path = system.path(name)
    return path.stat().st_mode if path.exists() else 0o644


def _password(name: str) -> str:
    if sys.stdin.isatty():
        return getpass.getpass(f"{name}: ")
    return sys.stdin.readline().rstrip("\n")


def _keys(config: Config) -> Iterable[str]:
    """The words there are on this distribution."""
    able = [key for name, key in KEYS.items() if config.dialect.can(name)]
    for key in able:
        limited = config.dialect.limited.get(key.name)
        values = ", ".join(limited) if limited else key.values
        place = f" (in {OWN})" if config.beyond(key.name) else ""
        yield f"{key.name:14} {key.help}: {values}{place}"
    if names := [name for name in config.dialect.variables if name not in KEYS]:
        yield ""
        yield f"or {config.dialect.title}'s own names: {', '.join(names)}"


def _configure_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="none: lists the keys")
    _writes(parser)


def _size(system: System, asked: argparse.Namespace) -> int:
    from crashpy.kdump.policies import MEANT, advise, default_policy
    from crashpy.kdump.size import explain, parse_size, parse_values

    memory = parse_size(asked.memory) if asked.memory else system.memory_bytes
    machine = asked.machine or system.machine
    if asked.explain:
        values = asked.explain.replace("crashkernel=", "").split()
        parse_values(values, memory)
        _say(explain(values, memory))
        return DONE
    policies = [*MEANT] if asked.policy == "all" else [asked.policy or default_policy(system)]
    said = []
    for policy in policies:
        try:
            advice = advise(policy, system, machine, memory)
        except CommandError as error:
            if len(policies) == 1:
                raise
            _say([f"{policy}: {error}", ""])
            continue
        said.append(advice)
        if asked.json:
            _say([json.dumps(dataclasses.asdict(advice))])
            continue
        _say([f"{policy}: {' '.join(f'crashkernel={value}' for value in advice.values)}"])
        _say(f"    {line}" for line in (*advice.why, *explain(advice.values, memory)))
        _say([""] if len(policies) > 1 else [])
    return DONE if said else REFUSED


def _size_arguments(parser: argparse.ArgumentParser) -> None:
    from crashpy.kdump.policies import POLICIES

    parser.add_argument("--policy", metavar="NAME", help=f"{', '.join(POLICIES)}, or all")
    parser.add_argument("--memory", metavar="SIZE", help="for a machine with this much: 64G")
    parser.add_argument("--machine", metavar="ARCH", help="of this architecture: aarch64")
    parser.add_argument("--explain", metavar="VALUE", help="what a value of crashkernel= means")
    _json(parser)


def _bootloader(system: System, asked: argparse.Namespace) -> int:
    from crashpy.kdump.bootloader import current, kind
    from crashpy.kdump.policies import advise, default_policy

    if asked.remove and (asked.values or asked.policy):
        raise Refused("--remove takes no value")
    values = [value.removeprefix("crashkernel=") for value in asked.values]
    if asked.policy:
        if values:
            raise Refused("give a value, or --policy, not both")
        policy = default_policy(system) if asked.policy == "default" else asked.policy
        values = [*advise(policy, system, system.machine, system.memory_bytes).values]
    if not values and not asked.remove:
        found = " ".join(f"crashkernel={value}" for value in current(system))
        _say([f"{kind(system)}: {found or 'no crashkernel='}"])
        return DONE
    return carry_out(system, _reserve(system, values), asked)


def _reserve(system: System, values: Sequence[str]) -> Plan:
    """crashkernel= in the boot loader, and where a distribution would put it back from."""
    from crashpy.kdump.bootloader import plan

    made = plan(system, values)
    try:
        config = Config.read(system)
    except CommandError:
        return made  # no kdump here yet
    made.notes += config.dialect.reserve(config, values)
    made.edits += config.edits()
    return made


def _bootloader_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "values", nargs="*", metavar="VALUE", help="such as 512M, or 512M,high 72M,low"
    )
    parser.add_argument(
        "--policy", metavar="NAME", help="the value that `setup size` names; or default"
    )
    parser.add_argument("--remove", action="store_true", help="take crashkernel= away")
    _writes(parser)


def _switch(on: bool) -> Callable[[System, argparse.Namespace], int]:
    def act(system: System, asked: argparse.Namespace) -> int:
        from crashpy.kdump.services import switch

        return carry_out(system, switch(Config.read(system), on=on), asked)

    return act


def _load(system: System, asked: argparse.Namespace) -> int:
    from crashpy.kdump.kexec import load

    system = _running(system, asked)
    plan = load(
        Config.read(system),
        kernel=asked.kernel or "",
        initrd=asked.initrd or "",
        append=asked.append or "",
    )
    return carry_out(system, plan, asked)


def _load_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kernel", metavar="FILE", help="instead of the configured one")
    parser.add_argument("--initrd", metavar="FILE", help="likewise")
    parser.add_argument("--append", metavar="OPTIONS", help="more options for it")
    _writes(parser)


def _unload(system: System, asked: argparse.Namespace) -> int:
    from crashpy.kdump.kexec import unload

    system = _running(system, asked)
    return carry_out(system, unload(system), asked)


def _kexec(system: System, asked: argparse.Namespace) -> int:
    from crashpy.kdump import reboot

    chosen = (asked.kernel, asked.initrd, asked.append, asked.reuse_cmdline)
    if asked.exec or asked.unload:
        word = "--exec" if asked.exec else "--unload"
        if any(chosen) or (asked.exec and asked.unload):
            raise Refused(f"{word} goes with no other word: load first, then start")
    system = _running(system, asked)
    if asked.exec:
        return _exec(system, asked)
    if asked.unload:
        return carry_out(system, reboot.unload(system), asked)
    words = reboot.Asked(
        asked.kernel or "", asked.initrd or "", asked.append or "", asked.reuse_cmdline
    )
    return carry_out(system, reboot.load(system, words), asked)


def _exec(system: System, asked: argparse.Namespace) -> int:
    """Start the loaded kernel, once somebody has typed this machine's name."""
    from crashpy.kdump import reboot

    argv, notes = reboot.start(system, at_once=asked.at_once)
    _say([*(f"note: {note}" for note in notes), f"run: {' '.join(argv)}"])
    if asked.dry_run:
        return DONE
    reboot.confirmed(_typed("Type the name of this machine to do it: "))
    sys.stdout.flush()
    system.run(argv)
    return DONE


def _typed(question: str) -> str:
    """A line from whoever sits there; --yes does not stand in for it."""
    sys.stdout.write(question)
    sys.stdout.flush()
    return sys.stdin.readline()


def _kexec_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kernel", metavar="FILE", help="instead of the boot loader's default")
    parser.add_argument("--initrd", metavar="FILE", help="likewise")
    parser.add_argument("--append", metavar="OPTIONS", help="more options for it")
    parser.add_argument(
        "--reuse-cmdline", action="store_true", help="with the options of the running kernel"
    )
    parser.add_argument("--unload", action="store_true", help="unload it")
    parser.add_argument("--exec", action="store_true", help="start what is loaded: a reboot")
    parser.add_argument(
        "--at-once", action="store_true", help="--exec by `kexec -e`, not `systemctl kexec`"
    )
    _writes(parser)


def _test(system: System, asked: argparse.Namespace) -> int:
    """Prove it: in a virtual machine, or on this one."""
    from crashpy.kdump import proof
    from crashpy.kdump.reboot import confirmed

    config = Config.read(system)
    if asked.on_this_machine and asked.result:
        raise Refused("--on-this-machine begins a test, --result looks how it ended")
    if asked.result:
        return _result(config)
    if asked.on_this_machine:
        proof.ready(config)
        _say(f"note: {step}" for step in proof.STEPS)
        if not asked.dry_run:
            confirmed(_typed("Type the name of this machine to crash it: "))
            proof.crash(config)
        return DONE
    return _rehearse(config, asked)


def _result(config: Config) -> int:
    from crashpy.kdump import proof
    from crashpy.kdump.plan import save_plan
    from crashpy.kdump.targets import Login

    plan = save_plan(config)
    login = Login(identity=next(iter(plan.ssh_keys), None), host_key=plan.host_key or None)
    found = proof.judged(config, remote=login)
    if found is None:
        raise Refused("nothing was ever tried here: `crashpy setup test`")
    if found != proof.read(config.system):
        proof.write(config.system, found)
    _say(proof.lines(found))
    return DONE if found.state == "success" else FINDINGS


def _rehearse(config: Config, asked: argparse.Namespace) -> int:
    import tempfile

    from crashpy.kdump import proof, rehearsal
    from crashpy.kdump.size import parse_size

    chosen = rehearsal.machine(
        config,
        crashkernel=asked.crashkernel or "",
        memory_bytes=parse_size(asked.memory) if asked.memory else None,
        seconds=asked.seconds,
    )
    if asked.dry_run:
        _say(rehearsal.lines(chosen))
        return DONE
    begun = proof.begun(config, proof.MACHINE)
    with tempfile.TemporaryDirectory(prefix="crashpy-") as scratch:
        folder = rehearsal.empty_folder(asked.keep) if asked.keep else Path(scratch)
        outcome = rehearsal.rehearse(config, chosen, folder, say=lambda line: _say([line]))
    if outcome.dump:
        said = f"{outcome.size_bytes} bytes in {outcome.seconds:.0f} seconds"
        ended = begun.ends("success", dump=outcome.dump if asked.keep else said)
    else:
        ended = begun.ends("fail", why=outcome.why)
        _say(f"console: {row}" for row in outcome.console)
    try:
        proof.write(config.system, ended)
    except OSError as error:
        _say([f"note: not written down: {error.filename}: {error.strerror}"])
    _say(proof.lines(ended))
    return DONE if outcome.dump else FINDINGS


def _test_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--on-this-machine", action="store_true", help="crash this machine, not a virtual one")
    add("--result", action="store_true", help="after its reboot: whether a dump has come")
    add("--crashkernel", metavar="SIZE", help="of the virtual machine, instead of this one's")
    add("--memory", metavar="SIZE", help="of the virtual machine")
    add("--seconds", metavar="N", type=int, default=900, help="after which it has failed")
    add("--keep", metavar="DIR", help="leave its console and the dump there")
    add("--dry-run", action="store_true", help="show what would be done")


def _tui(system: System, asked: argparse.Namespace) -> int:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Refused("it needs a terminal: `crashpy setup configure` does not")
    from crashpy.kdump import bootloader, tui
    from crashpy.kdump.services import enabled

    config = Config.read(system)
    given = bootloader.current(system)
    before = tui.fields(config, on=enabled(config), crashkernel=given)
    shown = before
    while True:
        after = tui.run(config, before, shown)
        if after is None:
            raise Refused("nothing was changed")
        try:
            plan = _filled_in(system, Config.read(system), before, after)
        except CommandError as error:
            _say([hide(str(error))])
            if input("Back to the pages? [Y/n] ").strip().lower() not in ("", "y", "yes"):
                raise Refused("nothing was changed") from None
            shown = after
        else:
            return carry_out(system, plan, asked)


def _filled_in(system: System, config: Config, before: Fields, after: Fields) -> Plan:
    """What the pages ask for, as one plan."""
    from crashpy.kdump import tui
    from crashpy.kdump.services import switch

    for name, value in tui.settings(before, after):
        config.assign(name, value)
    plan = Plan(config.edits(), checks=[lambda system: _read_back(system, config)])
    parts = []
    if after["on"] != before["on"]:
        parts.append(switch(config, on=after["on"] == "yes"))
        plan.edits = config.edits()  # Debian has it in the same file
        parts[0].edits = []
    if after["crashkernel"] != before["crashkernel"]:
        parts.append(_reserve(system, after["crashkernel"].split()))
    for part in parts:
        plan.edits += part.edits
        plan.commands += part.commands
        plan.checks += part.checks
        plan.notes += part.notes
    return plan


def _running(system: System, asked: argparse.Namespace) -> System:
    """A tree can be asked what would be done, as nothing is run in it."""
    return System(system.root, chroot=False) if asked.dry_run and not system.live else system


VERBS: dict[
    str,
    tuple[
        str,
        Callable[[argparse.ArgumentParser], None],
        Callable[[System, argparse.Namespace], int],
    ],
] = {
    "status": ("armed or not, and why; every setting and where it comes from", _json, _status),
    "configure": (
        "what is dumped, how, where to, and what follows",
        _configure_arguments,
        _configure,
    ),
    "size": ("how much memory to reserve, by whose advice", _size_arguments, _size),
    "check": ("what will go wrong, what it will cost, what to do", _check_arguments, _check),
    "bootloader": ("crashkernel= on the kernel's command line", _bootloader_arguments, _bootloader),
    "enable": ("load the capture kernel at every boot", _writes, _switch(True)),
    "disable": ("do not", _writes, _switch(False)),
    "load": ("load the capture kernel now", _load_arguments, _load),
    "kexec": ("a fast reboot: load what the boot loader would start", _kexec_arguments, _kexec),
    "test": ("crash a virtual machine, or this one, and see the dump", _test_arguments, _test),
    "tui": ("all of it on a screen, in the pages of YaST's module", _writes, _tui),
    "unload": ("unload it: a crash leaves no dump from then on", _writes, _unload),
}
