"""wr: a dump is not written to."""

import pytest


@pytest.mark.parametrize("line", ["wr", "wr jiffies 0", "wr -q", "wr --json jiffies 0"])
def test_it_is_refused(opened, line):
    assert list(opened("vmcore-null").run(line)) == ["wr: not allowed on dumpfiles"]
