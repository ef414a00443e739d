"""Each variable of each distribution's configuration: what sets it, and what follows."""

import dataclasses

from crashpy.kdump.urls import Url

MAIL = ["mail-to=root@example.com"]
SERVER = ["target=ssh://joe@server/in"]
SHARE = ["target=nfs://server/export"]
FTP = ["target=ftp://joe:geheim@server:2121/in"]
POWER = {"/sys/kernel/fadump/enabled": "1", "/sys/kernel/fadump/registered": "1"}


@dataclasses.dataclass(frozen=True)
class Row:
    """A variable, what sets it, and what follows."""

    name: str
    setting: str
    written: str  # as the file has it, without quotes
    load: str | None = None  # stands in a command of `setup load`
    gone: str | None = None  # stands in none of them any more
    plan: dict | None = None  # fields of SavePlan; mail's with a dot
    read: dict | None = None  # neutral keys that the capture environment is built from
    other: str = ""  # has no effect here: why
    more: tuple[str, ...] = ()  # settings it goes with
    files: dict | None = None  # of the machine


def row(name, setting, written=None, **effect):
    value = setting.partition("=")[2] if written is None else written
    return Row(name, setting, value, **effect)


OPTIONS = "panic=5 my.opt"
SUSE = [
    row("KDUMP_SAVEDIR", "target=/srv/x", plan={"target": Url("file", "/srv/x")}),
    row(
        "KDUMP_SAVEDIR",
        "target=ftp://username:password@ftp.example.com:123/var/crash",
        plan={"target": Url("ftp", "/var/crash", "ftp.example.com", 123, "username", "password")},
    ),
    row("KDUMP_SAVEDIR", *SERVER, plan={"target": Url("ssh", "/in", "server", None, "joe")}),
    row("KDUMP_SAVEDIR", *SHARE, plan={"target": Url("nfs", "/export", "server")}),
    row(
        "KDUMP_SAVEDIR",
        "target=sftp://joe:p@server/x",
        plan={"target": Url("sftp", "/x", "server", None, "joe", "p")},
    ),
    row(
        "KDUMP_SAVEDIR",
        "target=cifs://joe:p@server/share/x",
        plan={"target": Url("cifs", "/x", "server", None, "joe", "p", "share")},
    ),
    row("KDUMP_KEEP_OLD_DUMPS", "keep=all", "0", plan={"keep": None}),
    row("KDUMP_KEEP_OLD_DUMPS", "keep=1", "-1", plan={"keep": 1}),
    row("KDUMP_KEEP_OLD_DUMPS", "keep=6", "5", plan={"keep": 6}),
    row("KDUMP_FREE_DISK_SIZE", "free=100", plan={"free_bytes": 100 << 20}),
    *(row("KDUMP_DUMPLEVEL", f"level={n}", plan={"levels": (n,)}) for n in range(32)),
    row("KDUMP_DUMPFORMAT", "format=zlib", "compressed", plan={"format": "zlib"}),
    row("KDUMP_DUMPFORMAT", "format=elf", "ELF", plan={"format": "elf"}),
    row("KDUMP_DUMPFORMAT", "format=lzo", plan={"format": "lzo"}),
    row("KDUMP_DUMPFORMAT", "format=snappy", plan={"format": "snappy"}),
    row("KDUMP_DUMPFORMAT", "format=zstd", plan={"format": "zstd"}),
    row("KDUMP_DUMPFORMAT", "format=raw", plan={"format": "raw"}),
    row("KDUMP_DUMPFORMAT", "format=log", "none", plan={"format": "log"}),
    row("KDUMP_IMMEDIATE_REBOOT", "finally=reboot", "yes", plan={"finally_": "reboot"}),
    row("KDUMP_IMMEDIATE_REBOOT", "finally=shell", "no", plan={"finally_": "shell"}),
    row("KDUMP_CONTINUE_ON_ERROR", "failure=reboot", "true", plan={"failure": "reboot"}),
    row("KDUMP_CONTINUE_ON_ERROR", "failure=shell", "false", plan={"failure": "shell"}),
    row("KDUMP_NETCONFIG", "network=auto", read={"network": "auto"}),
    row("KDUMP_NETCONFIG", "network=eth0:dhcp", read={"network": "eth0:dhcp"}),
    row("KDUMP_NETCONFIG", "network=vlan0:static", read={"network": "vlan0:static"}),
    row("KDUMP_NETCONFIG", "network=eth0:dhcp6:force", read={"network": "eth0:dhcp6:force"}),
    row("KDUMP_NET_TIMEOUT", "net-timeout=90", plan={"net_timeout_seconds": 90}),
    row("KDUMP_COPY_KERNEL", "copy-kernel=yes", plan={"copy_kernel": True}),
    row("KDUMP_SMTP_SERVER", "smtp-server=h:587", plan={"mail.server": "h:587"}, more=MAIL),
    row("KDUMP_SMTP_USER", "smtp-user=joe", plan={"mail.user": "joe"}, more=MAIL),
    row("KDUMP_SMTP_PASSWORD", "smtp-password=a b", plan={"mail.password": "a b"}, more=MAIL),
    row("KDUMP_NOTIFICATION_TO", "mail-to=a@b c@d", plan={"mail.to": ("a@b", "c@d")}),
    row("KDUMP_NOTIFICATION_CC", "mail-cc=a@b", plan={"mail.cc": ("a@b",)}, more=MAIL),
    row("KDUMP_KERNELVER", "kernel=/boot/other", load="/boot/other"),
    row("KDUMP_KERNELVER", "kernel=6.1.0-8-amd64", load="/boot/vmlinuz-6.1.0-8-amd64"),
    row("KDUMP_COMMANDLINE", "cmdline=root=/dev/sdb1 ro", load="=root=/dev/sdb1 ro panic=1"),
    row("KDUMP_COMMANDLINE_APPEND", f"append={OPTIONS}", load=f" {OPTIONS}", gone="panic=1"),
    row("KDUMP_CPUS", "cpus=4", load=" nr_cpus=4 ", plan={"threads": 4}),
    row("KDUMP_CPUS", "cpus=0", gone="nr_cpus", plan={"threads": 0}),
    row("KEXEC_OPTIONS", "kexec=--noefi -d", load="--noefi"),
    row(
        "MAKEDUMPFILE_OPTIONS",
        "makedumpfile=--non-cyclic -X",
        plan={"options": ("--non-cyclic", "-X")},
    ),
    row("KDUMP_PRESCRIPT", "before=/usr/bin/b", plan={"before": "/usr/bin/b"}),
    row("KDUMP_POSTSCRIPT", "after=/usr/bin/a", plan={"after": "/usr/bin/a"}),
    row("KDUMP_TRANSFER", "transfer=cp /proc/vmcore /x", plan={"transfer": "cp /proc/vmcore /x"}),
    row("KDUMP_REQUIRED_PROGRAMS", "programs=/bin/a /b", read={"programs": "/bin/a /b"}),
    row("KDUMP_HOST_KEY", "host-key=*", plan={"host_key": "*"}),
    row("KDUMP_SSH_IDENTITY", "ssh-key=/root/k", plan={"ssh_keys": ("/root/k",)}),
    row("KDUMP_VERBOSE", "verbose=8", plan={"verbose": 8}, gone=" quiet"),
    row("KDUMP_AUTO_RESIZE", "resize=yes", "true", load="kdumptool calibrate --shrink"),
    row(
        "KDUMP_FADUMP",
        "fadump=yes",
        "true",
        load="echo 1 > /sys/kernel/fadump/registered",
        files=POWER,
    ),
    row(
        "FADUMP_COMMANDLINE_APPEND",
        "FADUMP_COMMANDLINE_APPEND=numa=off",
        load="echo 'nr_cpus=32 numa=off' > /sys/kernel/fadump/bootargs_append",
        more=["fadump=yes"],
        files={**POWER, "/sys/kernel/fadump/bootargs_append": ""},
    ),
    row("KDUMP_FADUMP_SHELL", "KDUMP_FADUMP_SHELL=yes", "true", other="the firmware's own reboot"),
    row("KDUMP_CRASHKERNEL", "KDUMP_CRASHKERNEL=auto", other="`setup bootloader` writes it"),
    row(
        "KDUMP_UPDATE_BOOTLOADER", "KDUMP_UPDATE_BOOTLOADER=no", "false", other="SUSE's own service"
    ),
    row("KDUMP_RUNLEVEL", "KDUMP_RUNLEVEL=1", other="SLES 10's; no runlevel is reached today"),
    row("KDUMPTOOL_FLAGS", "KDUMPTOOL_FLAGS=x", other="deprecated there, no tool reads it"),
]
RHEL = [
    row("path", "target=/srv/x", plan={"target": Url("file", "/srv/x")}),
    row(
        "nfs",
        "target=nfs://server/export",
        "server:/export",
        plan={"target": Url("nfs", "/export", "server")},
    ),
    row(
        "ssh",
        "target=ssh://joe@server/in",
        "joe@server",
        plan={"target": Url("ssh", "/in", "server", None, "joe")},
    ),
    *(
        row(kind, f"{kind}=/dev/sda2", plan={"device": f"{kind} /dev/sda2"})
        for kind in ("ext2", "ext3", "ext4", "minix", "btrfs", "xfs", "virtiofs")
    ),
    row("raw", "raw=/dev/sda2", other="refused: `crashpy save` writes no raw partition"),
    row("sshkey", "ssh-key=/root/k", plan={"ssh_keys": ("/root/k",)}),
    row(
        "core_collector",
        "level=17",
        "makedumpfile -l --message-level 7 -d 17",
        plan={"levels": (17,), "format": "lzo", "options": ("--message-level", "7")},
    ),
    row(
        "core_collector",
        "format=zstd",
        "makedumpfile -z --message-level 7 -d 31",
        plan={"format": "zstd"},
    ),
    row(
        "core_collector",
        "makedumpfile=--message-level 1 -X",
        "makedumpfile -l --message-level 1 -X -d 31",
        plan={"options": ("--message-level", "1", "-X")},
    ),
    row(
        "core_collector",
        "core_collector=makedumpfile -c -d 31,1",
        plan={"levels": (31, 1), "format": "zlib", "options": ()},
    ),
    row("core_collector", "core_collector=cp", plan={"format": "raw", "levels": (0,)}),
    row("kdump_pre", "before=/b", plan={"before": "/b", "before_aborts": True}),
    row("kdump_post", "after=/a", plan={"after": "/a"}),
    row("kdump_emergency", "kdump_emergency=/e", other="the capture environment's own shell"),
    row("extra_bins", "programs=/bin/a /b", read={"programs": "/bin/a /b"}),
    row("extra_modules", "modules=bonding", read={"modules": "bonding"}),
    row("dracut_args", 'dracut_args=--omit "x"', other="dracut alone reads it"),
    row("failure_action", "failure=dump_to_rootfs", plan={"failure": "dump_to_rootfs"}),
    row("failure_action", "failure=poweroff", plan={"failure": "poweroff"}),
    row("final_action", "finally=halt", plan={"finally_": "halt"}),
    row("force_rebuild", "force_rebuild=1", other="kdumpctl alone rebuilds"),
    row("force_no_rebuild", "force_no_rebuild=1", other="kdumpctl alone rebuilds"),
    row("auto_reset_crashkernel", "auto_reset_crashkernel=no", other="the package's update"),
    row("fence_kdump_nodes", "fence_kdump_nodes=a b", other="the cluster's own"),
    row("fence_kdump_args", "fence_kdump_args=-p 7410", other="the cluster's own"),
    row("KDUMP_KERNELVER", "kernel=6.1.0-8-amd64", load="/boot/vmlinuz-6.1.0-8-amd64"),
    row("KDUMP_COMMANDLINE", "cmdline=root=/dev/sdb1 ro", load="=ro "),
    row("KDUMP_COMMANDLINE_REMOVE", "remove=quiet ro", gone=" ro "),
    row("KDUMP_COMMANDLINE_APPEND", f"append={OPTIONS}", load=f" {OPTIONS} "),
    row("KDUMP_COMMANDLINE_APPEND", "cpus=3", "nr_cpus=3", load=" nr_cpus=3", plan={"threads": 3}),
    row("KEXEC_ARGS", "kexec=-s --noefi", load="--noefi"),
    row("KDUMP_BOOTDIR", "KDUMP_BOOTDIR=/kernels", load="/kernels/vmlinuz-6.1.0-9-amd64"),
    row("KDUMP_IMG", "KDUMP_IMG=Image", load="/boot/Image-6.1.0-9-amd64"),
    row("KDUMP_IMG_EXT", "KDUMP_IMG_EXT=.gz", load="/boot/vmlinuz-6.1.0-9-amd64.gz"),
    row("FADUMP_COMMANDLINE_APPEND", "FADUMP_COMMANDLINE_APPEND=a", other="POWER's kdumpctl"),
    row("KDUMP_STDLOGLVL", "KDUMP_STDLOGLVL=4", other="kdumpctl's own messages"),
    row("KDUMP_SYSLOGLVL", "KDUMP_SYSLOGLVL=4", other="kdumpctl's own messages"),
    row("KDUMP_KMSGLOGLVL", "KDUMP_KMSGLOGLVL=4", other="kdumpctl's own messages"),
    row("VMCORE_CREATION_NOTIFICATION", "VMCORE_CREATION_NOTIFICATION=no", other="kdumpctl's"),
]
DEBIAN = [
    row("USE_KDUMP", "USE_KDUMP=0", other="`setup enable` and `disable` write it"),
    row("KDUMP_KERNEL", "kernel=/boot/other", load="/boot/other"),
    row("KDUMP_INITRD", "initrd=/boot/disk", load="--initrd=/boot/disk"),
    row("KDUMP_COREDIR", "target=/srv/x", plan={"target": Url("file", "/srv/x")}),
    row("KDUMP_FAIL_CMD", "failure=reboot", "reboot -f", plan={"failure": "reboot"}),
    row("KDUMP_FAIL_CMD", "failure=halt", "halt -f", plan={"failure": "halt"}),
    row("KDUMP_FAIL_CMD", "failure=poweroff", "poweroff -f", plan={"failure": "poweroff"}),
    row("KDUMP_FAIL_CMD", "failure=shell", "/bin/bash; reboot -f", plan={"failure": "shell"}),
    row("KDUMP_DUMP_DMESG", "dmesg=no", "0", plan={"dmesg": False}),
    row("KDUMP_NUM_DUMPS", "keep=4", plan={"keep": 4}),
    row("KDUMP_NUM_DUMPS", "keep=all", "0", plan={"keep": None}),
    row("KDUMP_COMPRESSION", "compression=xz", plan={"compression": "xz"}),
    row("MAKEDUMP_ARGS", "level=17", "-F -c -d 17", plan={"levels": (17,)}),
    row("MAKEDUMP_ARGS", "format=zstd", "-F -z -d 31", plan={"format": "zstd", "options": ()}),
    row("MAKEDUMP_ARGS", "format=plain", "-F -d 31", plan={"format": "plain"}),
    row(
        "MAKEDUMP_ARGS",
        "makedumpfile=--message-level 1",
        "-F -c --message-level 1 -d 31",
        plan={"options": ("--message-level", "1")},
    ),
    row("KDUMP_KEXEC_ARGS", "kexec=--noefi", load="--noefi"),
    row("KDUMP_CMDLINE", "cmdline=root=/dev/sdb1", load="=root=/dev/sdb1 reset_devices"),
    row("KDUMP_CMDLINE_APPEND", f"append={OPTIONS}", load=f" {OPTIONS}", gone="reset_devices"),
    row("HOSTTAG", "host-tag=hostname", plan={"host_tag": "hostname"}),
    row("NFS", *SHARE, "server:/export", plan={"target": Url("nfs", "/export", "server")}),
    row("NFS_TIMEO", "NFS_TIMEO=50", plan={"mount_options": "timeo=50,retrans=3"}, more=SHARE),
    row("NFS_RETRANS", "NFS_RETRANS=5", plan={"mount_options": "timeo=600,retrans=5"}, more=SHARE),
    row("NFS_MOUNT_RETRY", "NFS_MOUNT_RETRY=9", plan={"tries": 9}, more=SHARE),
    row("FTP", *FTP, "server:/in", plan={"target.host": "server", "target.path": "/in"}),
    row("FTP_USER", *FTP, "joe", plan={"target.user": "joe"}),
    row("FTP_PASSWORD", *FTP, "geheim", plan={"target.password": "geheim"}),
    row("FTP_PORT", *FTP, "2121", plan={"target.port": 2121}),
    row("SSH", *SERVER, "joe@server", plan={"target": Url("ssh", "/in", "server", None, "joe")}),
    row("SSH_KEY", "ssh-key=/root/k", plan={"ssh_keys": ("/root/k",)}),
    row("SSH_KDUMP_RETRY", "SSH_KDUMP_RETRY=2", plan={"tries": 2}, more=SERVER),
]
BEYOND = [
    row("keep", "keep=4", plan={"keep": 4}),
    row("free", "free=100", plan={"free_bytes": 100 << 20}),
    row("copy-kernel", "copy-kernel=yes", plan={"copy_kernel": True}),
    row("smtp-server", "smtp-server=h", plan={"mail.server": "h"}, more=MAIL),
    row("smtp-user", "smtp-user=joe", plan={"mail.user": "joe"}, more=MAIL),
    row("smtp-password", "smtp-password=a b", plan={"mail.password": "a b"}, more=MAIL),
    row("mail-to", "mail-to=a@b", plan={"mail.to": ("a@b",)}),
    row("mail-cc", "mail-cc=a@b", plan={"mail.cc": ("a@b",)}, more=MAIL),
]
TABLES = {
    "suse": SUSE,
    "rhel": [*RHEL, *BEYOND],
    "debian": [*DEBIAN, *(row for row in BEYOND if row.name != "keep")],
}
