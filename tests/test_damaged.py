"""Cut and corrupted dumps: no exception but OpeningError escapes, no hang, no dead process.

The cases run in processes of their own, as what is tested for includes SIGBUS.
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
SAMPLE = EXAMPLES / "vmcore-null"
LINES = ("sys", "ps", "log", "bt", "mod", "p jiffies", "vm")
EVERY = (
    *("sys", "sys -c", "ps", "ps -l", "ps -t", "ps -a", "ps -p", "ps -c", "ps -g", "ps -r"),
    *("log", "log -T", "bt -a", "bt -l", "bt -FF", "bt -T", "bt -E", "foreach bt"),
    *("foreach files", "foreach files -c", "foreach vm", "foreach vm -p", "foreach vm -m"),
    *("mod", "sym -l", "kmem -i", "kmem -s", "kmem -S", "kmem -p", "kmem -V", "kmem -z"),
    *("kmem -f", "kmem -F", "kmem -v", "kmem -v 1000", "kmem -n", "kmem -o", "kmem -h"),
    *("kmem -f 4400000", "kmem 1000", "kmem ffffffffa5d5c1de", "kmem ffffa0bb80f9cd98"),
    *("p init_task", "p runqueues:a", "p modules", "struct -p task_struct init_task"),
    *("dev", "dev -i", "dev -p", "dev -d", "net", "net -a", "net -n", "foreach net -S"),
    *("foreach net", "ipcs", "ipcs -M", "swap", "mach", "mach -m", "mach -c"),
    *("task_struct.files.fdt init_task", "foreach sig", "foreach sig -g", "fuser /dev/console"),
    *("waitq log_wait", "search -c Linux", "search -t 0", "search -u 0", "search -p -h -x 1 abcd"),
    *("tree -t x -p -r pid_namespace.idr init_pid_ns", "tree -t m -v sparse_irqs"),
    *("dis schedule", "dis -l loop_queue_rq", "dis -f (vfs_read+9)", "dis ffffffffa5d5c1de 100"),
    "tree -l -o vmap_area.rb_node free_vmap_area_root",
)
SECONDS = 60  # for one dump; a healthy one takes one

WORKER = """
import contextlib, io, logging, signal, sys
import crashpy
from crashpy.opening import OpeningError
from crashpy.session import Session

logging.disable(logging.CRITICAL)
vmlinux, lines, seconds = sys.argv[1], sys.argv[2].split(","), int(sys.argv[3])


class Hang(BaseException):
    pass


def stop(*_):
    raise Hang


signal.signal(signal.SIGALRM, stop)
for path in sys.stdin.read().split():
    print("start", path, flush=True)
    signal.alarm(seconds)
    line = "opening"
    try:
        session = Session(crashpy.open(vmlinux, path))
        for line in lines:
            with contextlib.redirect_stdout(io.StringIO()):
                for n, text in enumerate(session.run(line)):
                    assert isinstance(text, str)
                    if n > 300_000:
                        raise Hang
    except OpeningError as error:
        print("opening", len(str(error).splitlines()), flush=True)
    except Hang:
        print("hang in", line, flush=True)
    except BaseException as error:
        print("escaped from", line, type(error).__name__, str(error)[:200], flush=True)
    finally:
        signal.alarm(0)
    print("end", path, flush=True)
"""


@pytest.fixture(scope="module")
def vmlinux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import zstandard

    out = tmp_path_factory.mktemp("kernel") / "vmlinux"
    with (EXAMPLES / "vmlinux.zst").open("rb") as raw, out.open("wb") as file:
        zstandard.ZstdDecompressor().copy_stream(raw, file)
    return out


def judge(vmlinux: Path, paths: list[Path], lines: tuple[str, ...] = LINES) -> dict[str, str]:
    """What went wrong, by file name."""
    workers = []
    for share in (paths[::2], paths[1::2]):
        worker = subprocess.Popen(
            [sys.executable, "-P", "-c", WORKER, str(vmlinux), ",".join(lines), str(SECONDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert worker.stdin
        worker.stdin.write("\n".join(map(str, share)))
        worker.stdin.close()
        worker.stdin = None
        workers.append((worker, share))
    wrong: dict[str, str] = {}
    for worker, share in workers:
        out, errors = worker.communicate(timeout=SECONDS * len(share) + 60)
        ended = set()
        name = ""
        for line in out.splitlines():
            word, _, rest = line.partition(" ")
            if word == "start":
                name = Path(rest).name
            elif word == "end":
                ended.add(name)
            elif line != "opening 1":
                wrong[name] = line
        if name not in ended:
            wrong[name] = f"the process died ({worker.returncode}): {errors[-300:]}"
        elif worker.returncode or len(ended) != len(share):
            wrong["worker"] = f"{worker.returncode}: {errors[-300:]}"
    return wrong


def test_dumps_cut_at_50_places(vmlinux: Path, tmp_path: Path) -> None:
    data = SAMPLE.read_bytes()
    rng = random.Random(6)
    sizes = [rng.randrange(1, 40_000) for _ in range(14)]
    sizes += [rng.randrange(40_000, len(data)) for _ in range(16)]
    sizes += [len(data) - rng.randrange(1, 600_000) for _ in range(14)]
    sizes += [rng.randrange(1, len(data) >> 12) << 12 for _ in range(6)]
    paths = []
    for size in sizes:
        paths.append(tmp_path / f"cut-at-{size}")
        paths[-1].write_bytes(data[:size])
    assert judge(vmlinux, paths) == {}


def test_dumps_with_garbage_in_memory(vmlinux: Path, tmp_path: Path) -> None:
    import forms

    counts = (5, 20, 60, 150, 300, 600, 1000, 2000)
    paths = [
        forms.corrupted(SAMPLE, tmp_path / f"garbage-in-{count}-pages", count, count)
        for count in counts
    ]
    assert judge(vmlinux, paths) == {}


def test_dumps_with_pointers_that_lead_astray(vmlinux: Path, tmp_path: Path) -> None:
    import forms

    counts = (50, 200, 800, 2000, 4000, 5000)
    paths = [
        forms.crossed(SAMPLE, tmp_path / f"astray-in-{count}-pages", count, count)
        for count in counts
    ]
    assert judge(vmlinux, paths, EVERY) == {}


def test_damaged_files(vmlinux: Path, tmp_path: Path) -> None:
    import forms

    counts = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000)
    paths = [
        forms.wild(SAMPLE, tmp_path / f"{count}-bytes-changed", count, count) for count in counts
    ]
    assert judge(vmlinux, paths) == {}
