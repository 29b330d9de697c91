"""The tiers of the tests: a test without a mark is of the unit tier, which starts no process."""
import subprocess
import sys

import pytest


def test_a_test_of_the_unit_tier_cannot_start_a_process(request):
    assert request.node.get_closest_marker("unit")
    with pytest.raises(RuntimeError, match=r"starts a process: mark it, or its file, `process`"):
        subprocess.run([sys.executable, "-c", ""])


@pytest.mark.process
def test_a_test_that_says_so_can(request):
    assert request.node.get_closest_marker("unit") is None
    assert subprocess.run([sys.executable, "-c", ""]).returncode == 0
