"""scripts/compare.py: real runs in turn, wrong usage, and the arithmetic on made-up logs."""
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts import compare
from speedrun import ROOT
from speedrun.experiments import pairs
from speedrun.experiments.pairs import Trained
from speedrun.log.reader import read_log
from tests.support.made_logs import make_log

# The laptop track as small as it gets: `custom`, and a run is little more than its imports.
TINY = ("--device cpu --track laptop --allow-custom --track.val_tokens 256 --track.context 64 "
        "--track.tokens_per_step 256 --track.model.num_layers 1 --track.model.model_dim 32")
########################################
#               Real runs              #
########################################


@pytest.mark.process
def test_two_pairs_of_two_recipes(capsys, laptop, tmp_path):
    common = f"{TINY} --steps 3 --data-dir '{laptop}'"
    assert compare.main(["--a", f"--recipe aurora {common}", "--b", f"--recipe=muon {common}", "--pairs", 2,
                         "--out", tmp_path / "out", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(r["side"], r["pair"]) for r in found["runs"]] == [("A", 0), ("B", 0), ("B", 1), ("A", 1)]
    logs = [read_log(r["log"]) for r in found["runs"]]
    assert [log.header["recipe"]["name"] for log in logs] == [f"{r}+steps=3" for r in
                                                              ("aurora", "muon", "muon", "aurora")]
    assert [log.header["seeds"] for log in logs] == [[0], [0], [1], [1]]
    starts = [log.header["started"] for log in logs]
    assert starts == sorted(starts) and all((tmp_path / "out") in log.path.parents for log in logs)
    ends = [next(iter(log.series.values()))[-1] for log in logs]
    ratios = [ends[0].step_avg / ends[1].step_avg, ends[3].step_avg / ends[2].step_avg]
    assert found["step_time"]["ratio"] == pytest.approx(math.prod(ratios) ** 0.5)
    assert min(ratios) <= found["step_time"]["low"] <= found["step_time"]["high"] <= max(ratios)
    differences = [ends[0].val_loss - ends[1].val_loss, ends[3].val_loss - ends[2].val_loss]
    assert found["loss"]["mean"] == pytest.approx(sum(differences) / 2) and found["loss"]["seeds"] == [0, 1]
    assert found["track"] == "custom" and found["to_target"] is None and found["verdict"]


@pytest.mark.process
def test_a_run_that_fails_stops_it_and_is_named(capsys, laptop, tmp_path):
    common = f"{TINY} --data-dir {laptop} --steps 40"
    assert compare.main(["--a", f"{common} --recipe.lr 1e30 --recipe.aux.head_lr 1e30", "--b", common,
                         "--pairs", 3, "--out", tmp_path / "out"]) == 1
    out, err = capsys.readouterr()
    log, = (tmp_path / "out").rglob("*.txt")
    last = err.splitlines()[-1]
    assert not out and last.startswith("compare.py: run 1 of 6 (A, pair 0) failed: seed 0 diverged")
    assert str(log) in last and read_log(log).status == "diverged"


@pytest.mark.process
@pytest.mark.long
def test_a_signal_ends_the_run_too(laptop, tmp_path):
    common = f"{TINY} --data-dir {laptop} --recipe.schedule_steps 1000000 --steps 1000000"
    words = [sys.executable, ROOT / "scripts/compare.py", "--a", common, "--b", common, "--pairs", "2",
             "--out", tmp_path / "out"]
    process = subprocess.Popen(list(map(str, words)), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not any("step:25/" in path.read_text() for path in (tmp_path / "out").rglob("*.txt")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 143 and err.strip().endswith("stopped by SIGTERM; the logs so far are kept")
    log, = (tmp_path / "out").rglob("*.txt")
    assert read_log(log).status == "interrupted"


########################################
#             Wrong usage              #
########################################


@pytest.mark.parametrize("words, says", [
    (["--a", "", "--b", "--recipe nosuch", "--pairs", "2"], "--b: unknown recipe 'nosuch'"),
    (["--a", "--recipe 'muon", "--b", "", "--pairs", "2"], "--a: No closing quotation"),
    (["--a", "--log-dir x", "--b", "", "--pairs", "2"], "--log-dir is not a side's"),
    (["--a", "--resume=x", "--b", "", "--pairs", "2"], "--resume=x is not a side's"),
    (["--a", "-h", "--b", "", "--pairs", "2"], "-h is not a side's"),
    (["--a", "--json", "--b", "", "--pairs", "2"], "--json is not a side's"),
    (["--a", "--track laptop", "--b", "--track sprint", "--pairs", "2"], "A trains laptop on cpu, B sprint"),
    (["--a", "--track=laptop", "--b", f"{TINY} --track.context 32", "--pairs", "2"], "B custom on cpu"),
    (["--a", "--seeds 0 1", "--b", "--seeds=0", "--pairs", "2"], "different seeds"),
    (["--a", "--seeds 0", "--b", "", "--pairs", "2"], "different seeds"),
    (["--a", "", "--b", "", "--pairs", "0"], "--pairs 0: give at least 1"),
    (["--a", "", "--b", "", "--pairs", "2", "--nproc", "0"], "--nproc 0: give at least 1"),
    (["--a", "", "--b", "", "--pairs", "2", "--out", str(ROOT)], "is there already"),
    (["--a", "", "--b", ""], "--pairs"),
    (["--a"], "--a")])
def test_wrong_usage_is_one_line(capsys, words, says):
    if "--device" not in " ".join(words):
        words = [f"--device cpu {word}" if before in ("--a", "--b") else word
                 for before, word in zip(["", *words], words)]
    assert compare.main(words) == 2
    out, err = capsys.readouterr()
    assert not out and says in err and err.count("\n") == 1


########################################
#             Arithmetic               #
########################################


def made(tmp_path, rows):
    """Runs of made-up logs: (side, pair, ms a step, {seed: final loss})."""
    tmp_path.mkdir(exist_ok=True)
    return [Trained.of(side, pair, read_log(make_log(
        tmp_path / f"{i}.txt", f"--seeds {' '.join(map(str, ends))}", ends=ends, ms=ms)), 1.38)
        for i, (side, pair, ms, ends) in enumerate(rows)]


def weighed(tmp_path, rows, words="--device cpu"):
    sides = pairs.read_side("A", words), pairs.read_side("B", words)
    return pairs.weigh(*sides, made(tmp_path, rows))


def test_times_losses_and_verdict(tmp_path):
    """B is slower a step in every pair and lower in loss on every seed; the pairs come in any order."""
    found = weighed(tmp_path, [("A", 0, 500, {0: 1.32}), ("B", 0, 550, {0: 1.30}),
                               ("B", 1, 562, {1: 1.304}), ("A", 1, 510, {1: 1.323}),
                               ("A", 2, 490, {2: 1.331}), ("B", 2, 540, {2: 1.312})])
    assert found["loss"]["mean"] == pytest.approx(0.0193, abs=1e-4) and found["loss"]["low"] > 0
    ratio = (500 / 550 * 510 / 562 * 490 / 540) ** (1 / 3)
    assert found["step_time"]["ratio"] == pytest.approx(ratio, abs=1e-4)
    assert found["to_target"]["ratio"] > found["step_time"]["ratio"]  # A crosses later
    assert found["verdict"].startswith("A is faster a step; A ends at the higher loss; A reaches the target")
    text = "\n".join(pairs.lines(found))
    assert f"{ratio:.4f}" in text and "+0.01" in text and "verdict, for this machine alone" in text


def test_named_seeds_are_paired_by_seed(tmp_path):
    """Two pairs that train the same seeds again are two times, and still three seeds."""
    a, b = {0: 1.32, 1: 1.34, 2: 1.36}, {0: 1.31, 1: 1.331, 2: 1.349}
    found = weighed(tmp_path, [("A", 0, 500, a), ("B", 0, 500, b), ("B", 1, 501, b), ("A", 1, 500, a)],
                    words="--device cpu --seeds 0 1 2")
    assert found["step_time"]["n"] == 2 and found["loss"]["n"] == 3 and found["loss"]["seeds"] == [0, 1, 2]
    assert found["loss"]["mean"] == pytest.approx(0.01, abs=1e-5) and found["loss"]["low"] > 0
    assert "no difference in time a step is shown; A ends at the higher loss" in found["verdict"]


def test_what_has_no_interval_claims_nothing(tmp_path):
    one = weighed(tmp_path, [("A", 0, 500, {0: 1.32}), ("B", 0, 600, {0: 1.30})])
    assert one["loss"]["low"] is None and "faster" not in one["verdict"] and "--pairs 4" in one["verdict"]
    repeated = weighed(tmp_path / "b", [("A", 0, 500, {0: 1.32}), ("B", 0, 600, {0: 1.30}),
                                         ("B", 1, 600, {0: 1.30}), ("A", 1, 501, {0: 1.32})])
    assert repeated["loss"]["n"] == 1 and "one seed has no interval" in repeated["verdict"]
    never = weighed(tmp_path / "c", [("A", 0, 500, {0: 1.42}), ("B", 0, 600, {0: 1.30})])
    assert never["to_target"] is None and "target" not in never["verdict"]
