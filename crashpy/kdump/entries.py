"""What the boot loader starts by default: its configuration read, never run."""

from __future__ import annotations

import configparser
import re
from collections.abc import Sequence
from dataclasses import dataclass

from crashpy.kdump import bls, grubcfg
from crashpy.kdump.documents import ShellFile
from crashpy.kdump.system import Refused, System, split_options

MOUNTS = ("", "/boot", "/boot/efi", "/efi")  # what a loader's paths may be relative to


@dataclass(frozen=True)
class BootEntry:
    """A kernel as the boot loader would start it; files as this machine names them."""

    title: str
    kernel: str
    initrds: tuple[str, ...]
    options: str
    origin: str  # the file that says so, and where in it


def default_entry(system: System) -> BootEntry:
    """The entry that is started when nobody chooses."""
    return LOADERS[loader(system)](system)


def loader(system: System) -> str:
    """Which boot loader's configuration counts: what SUSE says, else what there is."""
    text = system.read("/etc/sysconfig/bootloader")
    if text is not None:
        entry = ShellFile("/etc/sysconfig/bootloader", text).get("LOADER_TYPE")
        named = (entry.value if entry else "") or ""
        if named == "systemd-boot":
            return named
        if named.startswith("grub2"):
            return "grub" if _grub_config(system) else "bls"
    grub = _grub_config(system)
    if system.exists("/etc/zipl.conf") and not grub:
        return "zipl"
    if grub and not bls.systemd_started(system):
        return "grub"
    if bls.systemd_started(system) or bls.systemd_set_up(system):
        return "systemd-boot"
    if bls.snippets(system):
        return "bls"
    raise Refused(
        "no boot loader's configuration that crashpy knows: no grub.cfg, no loader/entries,"
        " no /etc/zipl.conf: give --kernel, --initrd and --append"
    )


def _grub_config(system: System) -> str | None:
    return next((name for name in grubcfg.FILES if system.exists(name)), None)


def _grub(system: System) -> BootEntry:
    config = _grub_config(system) or ""
    found = grubcfg.default(system, config)
    if found is None:
        raise Refused(f"{system.shown(config)}: no entry of it starts Linux")
    return _entry(system, found.title, found.kernel, found.initrds, found.options, found.origin)


def _systemd(system: System) -> BootEntry:
    return _snippet(system, bls.systemd_default(system))


def _bls(system: System) -> BootEntry:
    """GRUB with such entries and no grub.cfg of its own, as SUSE's grub2-bls."""
    found = bls.grub_order(bls.snippets(system))
    saved = grubcfg.grubenv(system, "/boot/grub2/grub.cfg").get("saved_entry", "")
    chosen = next((entry for entry in found if saved in (entry.id, entry.title)), None)
    return _snippet(system, chosen or next(iter(found), None))


def _snippet(system: System, found: bls.Snippet | None) -> BootEntry:
    if found is None:
        raise Refused("loader/entries: no entry starts a Linux kernel: give --kernel")
    return _entry(system, found.title, found.kernel, found.initrds, found.options, found.origin)


def _zipl(system: System) -> BootEntry:
    """The default section of zipl.conf, or of its default menu."""
    name = "/etc/zipl.conf"
    text = system.read(name) or ""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    try:
        # a menu's head is `:name`
        parser.read_string(re.sub(r"^:(\S+)", r"[:\1]", text, flags=re.MULTILINE))
    except configparser.Error:
        raise Refused(f"{system.shown(name)}: it is not written as zipl.conf(5) says") from None
    sections = {name: dict(parser[name]) for name in parser.sections()}
    boot = sections.get("defaultboot", {})
    chosen = boot.get("default", "")
    if menu := boot.get("defaultmenu", ""):
        rows = sections.get(f":{menu}", {})
        chosen = rows.get(rows.get("default", "1"), "")
    if not chosen and bls.snippets(system):
        return _bls(system)
    section = sections.get(chosen, {})
    if "image" not in section:
        raise Refused(
            f"{system.shown(name)}: its default, {chosen or 'none'}, is no section with an image"
        )
    disks = [section["ramdisk"].partition(",")[0]] if "ramdisk" in section else []
    options = section.get("parameters", "").strip("\"'")
    return _entry(system, chosen, section["image"].partition(",")[0], disks, options, name)


def _entry(
    system: System,
    title: str,
    kernel: str,
    initrds: Sequence[str],
    options: str,
    origin: str,
) -> BootEntry:
    if "$" in options:
        raise Refused(f"{origin}: its options hold a variable: give --reuse-cmdline")
    disks = tuple(_located(system, name, origin) for name in initrds)
    kernel = _located(system, kernel, origin)
    return BootEntry(title, kernel, disks, " ".join(split_options(options)), origin)


def _located(system: System, name: str, origin: str) -> str:
    """Where a loader's file is for us: /boot may be a disk of its own, or a subvolume."""
    name = re.sub(r"^\([^)]*\)", "", name)
    tails = [f"{mount}/{name.lstrip('/')}" for mount in MOUNTS]
    if "/boot/" in name:
        tails.append(name[name.index("/boot/") :])
    for tail in tails:
        if system.path(tail).is_file():
            return tail
    raise Refused(f"{origin}: {name} is not to be found: is its file system mounted?")


LOADERS = {"grub": _grub, "systemd-boot": _systemd, "bls": _bls, "zipl": _zipl}
