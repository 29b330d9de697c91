"""The machine's score at a fixed piece of work."""
import os
import subprocess
import sys

import pytest
import torch

from speedrun import ROOT
from speedrun.training.calibration import score
from speedrun.training.world import World

SCORE = """
from speedrun.training.calibration import score
from speedrun.training.world import join_world
print(*score(join_world("cpu", 8, 8)).values(), flush=True)
"""


def test_the_score_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    found = score(World(0, 1, torch.device("cpu")))
    assert found["product_ms"] > 0 and found["all_reduce_ms"] is None
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.process
@pytest.mark.long
def test_ranks_agree_on_the_score_of_the_slowest(tmp_path):
    script = tmp_path / "score.py"
    script.write_text(SCORE)
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
             "--redirects=3", "--log-dir", tmp_path / "ranks", script]
    subprocess.run(list(map(str, words)), env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    said = [path.read_text() for path in (tmp_path / "ranks").rglob("stdout.log")]
    assert len(said) == 2 and said[0] == said[1] and all(float(x) > 0 for x in said[0].split())
