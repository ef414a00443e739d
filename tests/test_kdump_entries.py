"""What a boot loader starts by default: found in its own files, as it would find it."""

import contextlib

import pytest
from trees import Tree

from crashpy.kdump import bls, entries
from crashpy.kdump.system import Refused

DEBIAN = """\
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="DEFAULT"
fi
if [ x"${feature_menuentry_id}" = xy ]; then
  menuentry_id_option="--id"
else
  menuentry_id_option=""
fi
function savedefault {
  if [ -z "${boot_once}" ]; then
    saved_entry="${chosen}"
    save_env saved_entry
  fi
}
set theme='a "b'
menuentry 'Debian GNU/Linux' --class os $menuentry_id_option 'gnulinux-simple-1' {
\tload_video
\tinsmod gzio
\tif [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi
\tsearch --no-floppy --fs-uuid --set=root 1
\techo\t'Loading Linux 6.1.0-9 ...'
\tlinux\t/vmlinuz-6.1.0-9 root=UUID=1 ro  quiet dyndbg="file  a +p" $extra
\techo\t'Loading initial ramdisk ...'
\tinitrd\t/ucode.img /initrd.img-6.1.0-9
}
submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced-1' {
\tmenuentry 'Debian GNU/Linux, with Linux 6.1.0-9' $menuentry_id_option 'six-nine' {
\t\tlinux\t/vmlinuz-6.1.0-9 root=UUID=1 ro quiet
\t\tinitrd\t/initrd.img-6.1.0-9
\t}
\tmenuentry 'Debian >> 6.1.0-8' $menuentry_id_option 'six-eight' {
\t\tlinux\t/vmlinuz-6.1.0-8 root=UUID=1 ro quiet
\t\tinitrd\t/initrd.img-6.1.0-8
\t}
}
if [ "$grub_platform" = "efi" ]; then
menuentry 'UEFI Firmware Settings' $menuentry_id_option 'uefi-firmware' {
\tfwsetup
}
fi
"""
RED_HAT = """\
if [ -f ${config_directory}/grubenv ]; then
  load_env -f ${config_directory}/grubenv
elif [ -s $prefix/grubenv ]; then
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
else
   set default="${saved_entry}"
fi
set kernelopts="root=/dev/mapper/r ro "
insmod blscfg
blscfg
"""
ENTRY = """\
title Linux (VERSION) 9
version VERSION
linux /vmlinuz-VERSION
initrd /initramfs-VERSION.img $tuned_initrd
options $kernelopts crashkernel=256M $tuned_params
grub_users $grub_users
"""


@pytest.fixture
def tree(tmp_path):
    made = Tree(tmp_path)
    for version in ("6.1.0-8", "6.1.0-9", "6.1.0-10"):
        made.write(f"/boot/vmlinuz-{version}", "kernel")
        made.write(f"/boot/initrd.img-{version}", "initrd")
        made.write(f"/boot/initramfs-{version}.img", "initrd")
    made.write("/boot/ucode.img", "microcode")
    return made


def debian(tree, default="0", environment=""):
    tree.write("/boot/grub/grub.cfg", DEBIAN.replace("DEFAULT", default))
    tree.write("/boot/grub/grubenv", f"# GRUB Environment Block\n{environment}####")
    return entries.default_entry(tree.system)


def test_grub_s_first_entry(tree):
    found = debian(tree)
    assert found.title == "Debian GNU/Linux"
    assert found.kernel == "/boot/vmlinuz-6.1.0-9"
    assert found.initrds == ("/boot/ucode.img", "/boot/initrd.img-6.1.0-9")
    assert found.options == 'root=UUID=1 ro quiet dyndbg="file  a +p"'
    number = DEBIAN[: DEBIAN.index("menuentry 'Debian")].count("\n") + 1
    assert found.origin == f"/boot/grub/grub.cfg:{number}"


@pytest.mark.parametrize(
    ("default", "environment", "title"),
    [
        ("1>0", "", "Debian GNU/Linux, with Linux 6.1.0-9"),
        ("1", "", "Debian GNU/Linux, with Linux 6.1.0-9"),
        ("gnulinux-advanced-1>six-nine", "", "Debian GNU/Linux, with Linux 6.1.0-9"),
        ("gnulinux-advanced-1>six-eight", "", "Debian >> 6.1.0-8"),
        ("${saved_entry}", "saved_entry=gnulinux-simple-1\n", "Debian GNU/Linux"),
        ("${saved_entry}", "saved_entry=1>1\n", "Debian >> 6.1.0-8"),
        ("${saved_entry}", "", "Debian GNU/Linux"),
        ("${saved_entry}", "saved_entry=gone\n", "Debian GNU/Linux"),
        ("0", "next_entry=1>1\n", "Debian >> 6.1.0-8"),
        ("7", "", "Debian GNU/Linux"),
    ],
)
def test_grub_s_default(tree, default, environment, title):
    assert debian(tree, default, environment).title == title


def red_hat(tree, environment):
    tree.write("/boot/grub2/grub.cfg", RED_HAT)
    tree.write("/boot/grub2/grubenv", environment)
    for version in ("6.1.0-9", "6.1.0-10", "6.1.0-8"):
        name = f"/boot/loader/entries/0123-{version}.conf"
        tree.write(name, ENTRY.replace("VERSION", version))
    return entries.default_entry(tree.system)


@pytest.mark.parametrize(
    ("environment", "version"),
    [
        ("", "6.1.0-10"),
        ("saved_entry=0123-6.1.0-9\n", "6.1.0-9"),
        ("saved_entry=2\n", "6.1.0-8"),
        ("saved_entry=Linux (6.1.0-8) 9\n", "6.1.0-8"),
    ],
)
def test_entries_of_the_specification_in_grub_s_menu(tree, environment, version):
    found = red_hat(tree, environment)
    assert found.kernel == f"/boot/vmlinuz-{version}"
    assert found.initrds == (f"/boot/initramfs-{version}.img",)
    assert found.options == "root=/dev/mapper/r ro crashkernel=256M"
    assert found.origin == f"/boot/loader/entries/0123-{version}.conf"


def test_options_that_grubenv_holds(tree):
    found = red_hat(tree, "tuned_params=skew_tick=1 nohz=on\n")
    assert found.options == "root=/dev/mapper/r ro crashkernel=256M skew_tick=1 nohz=on"


SUSE = """\
set default="0"
menuentry 'openSUSE' --class opensuse $menuentry_id_option 'os' {
  linux /@/.snapshots/1/snapshot/boot/vmlinuz-6.1.0-9 root=/dev/sda2 ${extra_cmdline} splash=silent
  initrd ($root)/boot/initrd.img-6.1.0-9
}
"""


def test_suse_s_subvolumes(tree):
    tree.write("/etc/sysconfig/bootloader", 'LOADER_TYPE="grub2-efi"\n')
    tree.write("/boot/grub2/grub.cfg", SUSE)
    found = entries.default_entry(tree.system)
    assert found.kernel == "/boot/vmlinuz-6.1.0-9"
    assert found.initrds == ("/boot/initrd.img-6.1.0-9",)
    assert found.options == "root=/dev/sda2 splash=silent"


def test_suse_s_grub_without_a_menu_of_its_own(tree):
    tree.write("/etc/sysconfig/bootloader", 'LOADER_TYPE="grub2-bls"\n')
    for version in ("6.1.0-9", "6.1.0-10"):
        text = f"title S\nlinux /boot/vmlinuz-{version}\noptions ro\noptions quiet\n"
        tree.write(f"/boot/efi/loader/entries/suse-{version}.conf", text)
    assert entries.default_entry(tree.system).kernel == "/boot/vmlinuz-6.1.0-10"
    tree.write("/boot/grub2/grubenv", "saved_entry=suse-6.1.0-9\n")
    found = entries.default_entry(tree.system)
    assert (found.kernel, found.options) == ("/boot/vmlinuz-6.1.0-9", "ro quiet")


def systemd(tree):
    for name, version, key in (("a", "6.1.0-9", "deb"), ("b", "6.1.0-10", "deb"), ("c", "9", "")):
        linux = f"/vmlinuz-{version}" if key else "/vmlinuz-6.1.0-8"
        sort = f"sort-key {key}\nmachine-id 1\n" if key else ""
        text = f"title {name}\nversion {version}\n{sort}linux {linux}\noptions ro\n"
        tree.write(f"/boot/loader/entries/{name}+3-1.conf", text)
    tree.write("/boot/loader/loader.conf", "timeout 3\n")


def efi(tree, name, text):
    path = tree.root / f"sys/firmware/efi/efivars/{name}-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\6\0\0\0" + text.encode("utf-16-le") + b"\0\0")


def test_systemd_boot(tree):
    systemd(tree)
    assert entries.default_entry(tree.system).title == "b"
    tree.write("/boot/loader/loader.conf", "#default c\ndefault a*\n")
    assert entries.default_entry(tree.system).title == "a"
    efi(tree, "LoaderEntryDefault", "c.conf")
    assert entries.default_entry(tree.system).title == "c"
    efi(tree, "LoaderEntryOneShot", "b.conf")
    assert entries.default_entry(tree.system).title == "b"


def test_systemd_boot_beside_grub(tree):
    systemd(tree)
    assert debian(tree).title == "Debian GNU/Linux"
    efi(tree, "LoaderInfo", "systemd-boot 252")
    assert entries.default_entry(tree.system).title == "b"


ZIPL = """\
[defaultboot]
default = linux
target = /boot/zipl
[linux]
  image = /boot/vmlinuz-6.1.0-9
  ramdisk = /boot/initrd.img-6.1.0-9,0x2000000
  parameters = "root=/dev/dasda1 crashkernel=256M"
[old]
  image = /boot/vmlinuz-6.1.0-8
:menu1
  default = 2
  1 = linux
  2 = old
"""


def test_zipl(tree):
    tree.write("/etc/zipl.conf", ZIPL)
    found = entries.default_entry(tree.system)
    assert (found.title, found.kernel) == ("linux", "/boot/vmlinuz-6.1.0-9")
    assert found.initrds == ("/boot/initrd.img-6.1.0-9",)
    assert found.options == "root=/dev/dasda1 crashkernel=256M"
    tree.write("/etc/zipl.conf", ZIPL.replace("default = linux", "defaultmenu = menu1", 1))
    assert entries.default_entry(tree.system).title == "old"


def test_versions_in_order():
    names = ["6.1", "6.1.0~rc2", "6.1.0-9", "6.1.0-10", "6.10.0", "rescue"]
    ordered = ["rescue", "6.1", "6.1.0~rc2", "6.1.0-9", "6.1.0-10", "6.10.0"]
    assert sorted(names, key=bls.version_key) == ordered


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "no boot loader's configuration that crashpy knows: no grub.cfg"),
        ({"/boot/grub/grub.cfg": "set default=0\n"}, "no entry of it starts Linux"),
        ({"/boot/grub/grub.cfg": "menuentry 'x' {\nlinux /gone\n}\n"}, "/gone is not to be found"),
        ({"/etc/zipl.conf": "[linux]\n"}, "its default, none, is no section with an image"),
        ({"/etc/zipl.conf": "image = x\n"}, "it is not written as zipl.conf"),
        ({"/boot/loader/loader.conf": "timeout 3\n"}, "no entry starts a Linux kernel"),
        (
            {"/boot/loader/entries/a.conf": "linux /vmlinuz-6.1.0-9\noptions $x\n"},
            "a.conf: its options hold a variable: give --reuse-cmdline",
        ),
        (
            {
                "/boot/grub/grub.cfg": "menuentry 'x' {\nlinux /vmlinuz-6.1.0-9\ninitrd /gone\n}\n",
            },
            "/boot/grub/grub.cfg:1: /gone is not to be found: is its file system mounted",
        ),
    ],
)
def test_no_entry_is_one_sentence(tree, files, sentence):
    for name, text in files.items():
        tree.write(name, text)
    with pytest.raises(Refused) as refused:
        entries.default_entry(tree.system)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "damage", ["menuentry", "menuentry 'x' {", "}", "fi", "if [", "linux", "a='"]
)
def test_damaged_menus_are_no_accident(tree, damage):
    tree.write("/boot/grub/grub.cfg", f"{damage}\n{DEBIAN}\n{damage}\n")
    with contextlib.suppress(Refused):  # a sentence, or an entry: no traceback
        entries.default_entry(tree.system)
