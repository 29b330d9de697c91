"""Why a run failed, told from what it printed: the trainer's own line, and never one of its warnings."""
import sys

import pytest

from speedrun.launch import run
from speedrun.studies.runs import Task, said

pytestmark = pytest.mark.process

WARNED = "train_gpt.py: warning: versions: driver 570.1: no GPU run of this code has been tested"


@pytest.mark.parametrize("lines, why", [
    ([WARNED, "step 0", "train_gpt.py: seed 0 diverged", "torchrun: rank 0 exited"], "seed 0 diverged"),
    ([WARNED, "Segmentation fault"], "Segmentation fault"),
    ([WARNED, "sweep.py: lr=1 failed: seed 0 diverged"], "lr=1 failed: seed 0 diverged"),
    ([], "it said nothing")])
def test_the_cause_of_a_failure_is_told(tmp_path, lines, why):
    program, output = tmp_path / "fails.py", tmp_path / "output.log"
    program.write_text(f"print({chr(10).join(lines)!r})\nraise SystemExit(3)\n")
    with open(output, "w") as file:
        assert run([sys.executable, str(program)], tmp_path, file.write) == (3, why)
    assert said(Task("x", [], tmp_path)) == why
