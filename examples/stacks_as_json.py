"""Every uninterruptible task's stack, one JSON object a task, for another program to read.

usage: python examples/stacks_as_json.py [VMLINUX] VMCORE
"""

import sys

import crashpy
from crashpy.command import to_json
from crashpy.commands.bt import bt
from crashpy.commands.ps import ps


def main(paths: list[str]) -> None:
    with crashpy.open(*paths) as dump:
        blocked = [f"{p.task:x}" for p in ps(dump) if p.state == "UN"]
        for stack in bt(dump, tasks=blocked):
            print(to_json(stack))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
