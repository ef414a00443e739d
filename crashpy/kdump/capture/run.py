"""The save step in the capture environment: the configuration's words, carried out.

The environment has set up the network and mounted what can be mounted; $FOLDER is the
target's folder then.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from crashpy.command import CommandError
from crashpy.kdump.plan import SavePlan, hide, save_plan
from crashpy.kdump.system import System
from crashpy.kdump.targets import FileTarget, Login, Target

STATE = Path("/run/crashpy")
LOG = "kexec-dmesg.log"


def main() -> None:
    """For the environment's shell: `... CORE`."""
    sys.exit(run(sys.argv[1]))


def run(core: str, system: System | None = None) -> int:
    """Save the dump; its failure is one sentence on standard error."""
    from crashpy.kdump.config import Config

    try:
        plan = save_plan(Config.read(system or System()))
        with _target(plan, os.environ.get("FOLDER", "")) as target:
            _save(core, plan, target)
    except CommandError as error:
        return _complain(str(error))
    except OSError as error:
        return _complain(f"{error.filename or core}: {error.strerror}")
    except ImportError as error:
        return _complain(f"the capture environment was built without {error.name}")
    except MemoryError:
        return _complain("there is not enough memory: more must be reserved")
    return 0


def _target(plan: SavePlan, folder: str) -> Target:
    from crashpy.kdump.targets import open_target

    if folder:
        return FileTarget(plan.target, Path(folder))
    keys = (key for key in plan.ssh_keys if Path(key).exists())
    return open_target(
        plan.target, Login(identity=next(keys, None), host_key=plan.host_key or None)
    )


def _save(core: str, plan: SavePlan, target: Target) -> None:
    from crashpy.convert import recognised
    from crashpy.kdump.saving import Saving

    saving = Saving(recognised(core), plan, say=_say)
    name = saving.save_to(target)
    _say(f"saved: {saving.place(target, name)}")
    if local := target.local(name):
        with contextlib.suppress(OSError):  # by it, the environment adds its log
            (STATE / "saved").write_text(f"{local}\n")
    else:
        with contextlib.suppress(CommandError, OSError):
            target.store(f"{name}/{LOG}", _log())


def _log() -> bytes:
    """This kernel's messages, and what the environment said until now."""
    said = subprocess.run(["dmesg"], capture_output=True, check=False).stdout
    return said + b"\n" + (STATE / "log").read_bytes()


def _say(sentence: str) -> None:
    sys.stderr.write(f"crashpy: {hide(sentence)}\n")


def _complain(sentence: str) -> int:
    _say(sentence)
    return 1
