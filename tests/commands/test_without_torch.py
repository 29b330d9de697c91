"""Who judges logs needs numpy and scipy (a picture: matplotlib), and no torch: each such command, whole."""
import subprocess
import sys

import pytest

from speedrun import ROOT
from tests.support.track3_clone import log, make_clone, row

WITHOUT = """
import runpy, sys
class NoTorch:  # not sys.modules["torch"] = None, which scipy takes for a torch
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
sys.meta_path.insert(0, NoTorch)
sys.argv[:] = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
RECORD, OTHER = "records/laptop/2026-11-23_aurora", "records/laptop/2026-11-23_muon"


def without_torch(script: str, *words) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", WITHOUT, f"scripts/{script}", *map(str, words)], cwd=ROOT,
                          capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("words, says", [
    (["verify.py", RECORD, OTHER], "stands: laptop, aurora, 5 seeds; 1.38 reached at step 250"),
    (["stats.py", "one", RECORD], "the first step that passes is 250"),
    (["stats.py", "pair", "--a", RECORD, "--b", OTHER], "A is lower"),
    (["stats.py", "power", "--margin", "0.001"], "t-test: "),
    (["stats.py", "plan", "--looks", "4", "8", "--margin", "0.001"], "after   8 seeds"),
    (["leaderboard.py", "--check"], "README.md is up to date"),
], ids=["verify", "one", "pair", "power", "plan", "leaderboard"])
def test_logs_are_judged(words, says):
    done = without_torch(*words)
    assert (done.returncode, done.stderr) == (0, "") and says in done.stdout


def test_recipes_are_reported(tmp_path):
    done = without_torch("report.py", RECORD, OTHER, "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "") and "written: " in done.stdout
    made = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    assert set(made) == {"report.html", "loss.png", "table.md", "summary.json"} and min(made.values()) > 100


def test_track_3_is_read(tmp_path):
    clone = make_clone(tmp_path / "clone", [row(1, 2200, 3.277, 1, "results/a.txt")],
                       {"results/a.txt": log(3.277)})
    done = without_torch("ingest.py", clone, "--out", tmp_path / "out.json")
    assert (done.returncode, done.stderr) == (0, "") and "1 rows, 1 runs" in done.stdout


def test_a_study_which_trains_says_what_is_missing():
    done = without_torch("study.py", "--list")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("study.py: No module named 'torch'; run scripts/setup.sh and then ")
