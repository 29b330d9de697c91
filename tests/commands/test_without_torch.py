"""Who judges logs needs numpy and scipy (a picture: matplotlib), and no torch: each such command, whole. Only
that a record stands cannot be known: the lock of its name makes the recipe with the log's own optimizers."""
import pytest

from speedrun import ROOT
from tests.support.fewer_packages import without
from tests.support.track3_clone import log, make_clone, row

pytestmark = pytest.mark.process
RECORD, OTHER = (ROOT / "records/laptop" / name for name in ("2026-11-23_aurora", "2026-11-23_muon"))


def without_torch(script: str, *words):
    return without(("torch",), f"scripts/{script}", *words)


@pytest.mark.parametrize("words, says", [
    (["verify.py", RECORD, OTHER], "aurora, 5 seeds; 1.38 reached at step 250"),
    (["stats.py", "one", RECORD], "the first step that passes is 250"),
    (["stats.py", "pair", "--a", RECORD, "--b", OTHER], "A is lower"),
    (["stats.py", "power", "--margin", "0.001"], "t-test: "),
    (["stats.py", "plan", "--looks", "4", "8", "--margin", "0.001"], "after   8 seeds"),
], ids=["verify", "one", "pair", "power", "plan"])
def test_logs_are_judged(words, says):
    done = without_torch(*words)
    assert (done.returncode, done.stderr) == (0, "") and says in done.stdout


def test_what_needs_torch_to_be_known_is_said():
    done = without_torch("verify.py", RECORD)
    assert (done.returncode, done.stderr) == (0, "") and ": consistent: laptop, aurora" in done.stdout
    assert "not checked here: torch is missing; run scripts/setup.sh" in done.stdout
    done = without_torch("leaderboard.py", "--check")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "no record is known to stand: torch is missing: run scripts/setup.sh" in done.stderr


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
