"""Record what the real crash prints about the sample dumps: golden/DUMP/COMMAND.txt.

usage: python tests/golden/record.py [COMMAND...]

Runs the command lines of golden/commands/COMMAND.txt (all files by default) in crash
9.0.2, on every dump in examples/. $CRASH names the program; by default the one that
`get-reference` installed. The transcripts are never edited by hand.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from driver import Driver, ask

GOLDEN = Path(__file__).parent
EXAMPLES = GOLDEN.parent.parent / "examples"
DEFAULT_CRASH = "~/.cache/crash-reference/crash"
VERSION = "9.0.2"
# What these print depends on the kernel more than on the dump: two dumps are enough.
STATIC = {"ascii", "eval", "mod", "p", "struct", "sym", "union", "whatis"}
STATIC_ON = {"vmcore-null", "vmcore-abba"}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("commands", nargs="*", metavar="COMMAND")
    parser.add_argument("--dump", default="", help="only the dumps whose name matches this regex")
    wanted = parser.parse_args()
    crash = Path(os.environ.get("CRASH", DEFAULT_CRASH)).expanduser()
    if not crash.exists():
        return complain(f"{crash} is missing: run shared/tools/get-reference, or set CRASH")
    version = subprocess.run([crash, "--version"], capture_output=True, text=True).stdout
    if f"crash {VERSION}" not in version:
        return complain(f"{crash} is not crash {VERSION}: its texts would not be comparable")
    lists = sorted((GOLDEN / "commands").glob("*.txt"))
    lists = [p for p in lists if not wanted.commands or p.stem in wanted.commands]
    dumps = [d.name for d in sorted(EXAMPLES.glob("vmcore-*")) if re.search(wanted.dump, d.name)]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        with (work / "vmlinux").open("wb") as image:
            subprocess.run(["zstd", "-dc", EXAMPLES / "vmlinux.zst"], stdout=image, check=True)
        (work / "modules").symlink_to(EXAMPLES / "modules")
        for dump in dumps:
            (work / dump).symlink_to(EXAMPLES / dump)
            argv = [str(crash), "-s", "--no_crashrc", "vmlinux", dump]
            with Driver(argv, work) as driver:
                transcripts: dict[str, list[str]] = {}
                wanted_lists = [p for p in lists if dump in STATIC_ON or p.stem not in STATIC]
                for path, answer in ask(driver, wanted_lists):
                    if answer.died:
                        print(f"{dump}: crash did not survive {answer.line!r}", file=sys.stderr)  # noqa: T201
                        continue
                    printed = answer.printed
                    if printed and not printed.endswith("\n"):
                        printed += "\n"
                    transcripts.setdefault(path.name, []).append(f"crash> {answer.line}\n{printed}")
            for name, entries in transcripts.items():
                target = GOLDEN / dump / name
                target.parent.mkdir(exist_ok=True)
                target.write_text("".join(entries))
    return 0


def complain(sentence: str) -> int:
    print(f"record: {sentence}", file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main())
