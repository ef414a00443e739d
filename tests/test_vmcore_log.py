"""The log read without drgn is the one that drgn reads."""

from pathlib import Path

import pytest

from crashpy.command import CommandError
from crashpy.convert import recognised
from crashpy.opening.log import log_text as by_drgn
from crashpy.vmcore.log import log_text
from crashpy.vmcore.memory import memory_of

EXAMPLES = Path(__file__).parent.parent / "examples"
DUMPS = ("vmcore-null", "vmcore-abba", "vmcore-softlockup", "vmcore-irq")


@pytest.mark.parametrize("name", DUMPS)
def test_as_drgn_reads_it(name):
    core = recognised(str(EXAMPLES / name))
    text = log_text(memory_of([core]))
    assert text == by_drgn([core])
    assert "Linux version" in text


def test_a_dump_that_does_not_tell():
    core = recognised(str(EXAMPLES / "vmcore-null"))
    core.vmcoreinfo_text = b"OSRELEASE=6.12\n"
    with pytest.raises(CommandError, match="does not tell where the kernel's log is"):
        log_text(memory_of([core]))
