"""Resident memory by command, largest first: records of `ps` summed up.

usage: python examples/memory_by_command.py [VMLINUX] VMCORE
"""

import sys
from collections import Counter

import crashpy
from crashpy.commands.ps import ps


def main(paths: list[str]) -> None:
    resident: Counter[str] = Counter()
    with crashpy.open(*paths) as dump:
        for process in ps(dump, user=True, leaders=True):
            resident[process.comm] += process.rss_kib or 0
    for command, kib in resident.most_common(10):
        print(f"{kib:8} KiB  {command}")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
