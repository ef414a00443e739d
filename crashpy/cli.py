"""The command line: crash's own arguments."""

import sys
from pathlib import Path

from drgn import Program

from crashpy.dump import Dump
from crashpy.session import Session


def main() -> int:
    words = [w for w in sys.argv[1:] if not w.startswith("-")]
    prog = Program()
    prog.set_core_dump(words[1])
    prog.load_debug_info([words[0]])
    dump = Dump(prog, words[0], words[1])
    session = Session(dump)
    for line in sys.stdin:
        command, redirected, target = line.rstrip("\n").partition(" > ")
        sink = Path(target).open("w") if redirected else sys.stdout
        if command.startswith("!"):
            import subprocess

            subprocess.run(command[1:], shell=True)
            continue
        for text in session.run(command):
            sink.write(text + "\n")
        sink.flush()
    return 0
