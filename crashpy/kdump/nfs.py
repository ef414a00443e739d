"""NFS exports without mounting, by libnfs: for whoever may not mount."""

from __future__ import annotations

from crashpy.command import CommandError
from crashpy.kdump.targets import Login, Target
from crashpy.kdump.urls import Url


class NfsTarget(Target):
    def __init__(self, url: Url, login: Login) -> None:  # noqa: ARG002
        raise CommandError("nfs needs root, mount(8) and the kernel's nfs module")
