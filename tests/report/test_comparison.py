"""Recipes compared by scripts/report.py: the figures, and what cannot be compared."""
import json
import re

import numpy as np
import pytest

from scripts import report
from speedrun import ROOT
from speedrun.log.reader import read_log
from speedrun.report.comparison import read_comparison
from tests.support.made_logs import make_log, parts, rechain
from tests.support.reports import edited, make


def test_table_differences_and_picture(capsys, made, tmp_path):
    make([made / "muon.txt", made / "aurora.txt"], tmp_path / "out", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "out/summary.json").read_text())
    row = found["recipes"]["muon"]
    assert row["val_loss"]["mean"] == pytest.approx(1.354) and row["val_loss"]["n"] == 3
    steps = [np.interp(-1.38, [-p.val_loss for p in points], [p.step for p in points])
             for points in read_log(made / "muon.txt").series.values()]
    assert row["crossing_step"]["mean"] == pytest.approx(np.mean(steps))
    seconds = row["crossing_seconds"]["mean"] / row["crossing_step"]["mean"]
    assert seconds == pytest.approx(0.5, rel=0.01)  # made_logs: 500 ms a step
    assert row["tokens_per_second"] == pytest.approx(4096 / 0.5, rel=0.01)
    gap = found["recipes"]["aurora"]["difference"]  # -.10, -.11, -.12: t(.975, 2) = 4.303, sd = .01
    assert (gap["method"], gap["n"], gap["mean"]) == ("paired", 3, pytest.approx(-0.11))
    assert gap["high"] - gap["mean"] == pytest.approx(4.30265 * 0.01 / 3**0.5, rel=1e-4)
    assert found["recipes"]["aurora"]["crossing_difference"]["high"] < 0
    head, _, first, second = (tmp_path / "out/table.md").read_text().splitlines()
    assert first.startswith("| aurora | 3 | 300 | 1.2440 (sd 0.0053) | ")
    assert second.startswith("| muon | 3 | 300 | 1.3540 ")
    assert "loss minus muon's" in head and "-0.1100 (-0.1348 to -0.0852)" in first
    assert (tmp_path / "out/loss.png").read_bytes().startswith(b"\x89PNG")


def test_recipes_that_do_not_differ_significantly(made, tmp_path):
    ends = {0: 1.351, 1: 1.35, 2: 1.36}
    near = make_log(tmp_path / "log.txt", "--recipe normuon --seeds 0 1 2", ends, hour=2)
    found = make([made / "muon.txt", near], tmp_path / "out")
    assert re.search(r"normuon and muon do not differ significantly: [+-]0\.0003 nats at the end "
                     r"\(95 % -0\.00\d\d to \+0\.00\d\d, paired by seed\)", found.text)


def test_seeds_that_never_cross_are_counted_not_dropped(capsys, tmp_path):
    log = make_log(tmp_path / "log.txt", "--recipe muon --seeds 0 1", {0: 1.3, 1: 1.45})
    made = make([log], tmp_path / "out")
    assert "1 of 2 seeds cross" in capsys.readouterr().out and "1 of 2 seeds cross" in made.text


def test_what_cannot_be_reported(capsys, made, tmp_path):
    good, out = made / "muon.txt", tmp_path / "out"
    again = edited(good, tmp_path / "again.txt",
                   run=lambda run: run["data"]["val"][0].update(sha256="0" * 64))
    other = make_log(tmp_path / "custom.txt", "--recipe adamw --allow-custom --track.target 9")
    stopped = make_log(tmp_path / "stopped.txt", "--recipe aurora", status="interrupted")
    bare = edited(good, tmp_path / "bare.txt", run=lambda run: run.pop("hardware"))
    endless = edited(good, tmp_path / "endless.txt", end=lambda end: end.pop("ended"))
    foreign = tmp_path / "foreign.txt"
    foreign.write_text("step:0/10 val_loss:5.0 train_time:0ms\nstep:10/10 val_loss:3.0 train_time:9ms\n")
    nan = tmp_path / "nan.txt"
    nan.write_text(rechain(parts(re.sub("(step:50/300 val_loss:)[0-9.]+", r"\1nan", good.read_text()))))
    cut = tmp_path / "cut.txt"
    cut.write_text(good.read_text().replace("val_loss:1.3", "val_loss:1.2", 1))
    for logs, words in [
            ([stopped], "interrupted"), ([good, good], "seed 0"), ([good, other], "another track"),
            ([made / "aurora.txt", again], "other data"),
            ([ROOT / "README.md"], "not a record log"), ([cut], "cut.txt:"), ([bare], "hardware is missing"),
            ([endless], "does not say when"),
            ([foreign], "modded-nanogpt"), ([nan], "loss of seed 0 is nan")]:
        assert report.main([*map(str, logs), "--out", str(out)]) == 1
        err = capsys.readouterr().err
        assert words in err and len(err.splitlines()) == 1
    assert not out.exists()
    assert report.main([str(good), "--out", str(good)]) == 2
    assert report.main([str(tmp_path / "none.txt"), "--out", str(out)]) == 2


def test_recipes_are_told_apart_by_all_their_constants(made, tmp_path):
    tuned = edited(made / "aurora.txt", tmp_path / "tuned.txt", run=lambda run: run["recipe"].update(lr=0.5))
    found = make([made, tuned], tmp_path / "out")
    assert list(read_comparison([made, tuned]).found["recipes"]) == ["aurora", "muon", "aurora #2"]
    table = found.text[found.text.index("Fields that differ come first"):]
    different, same = table.split("Different")[1].split("The same in all")
    assert re.search(r"\blr [0-9.]+ [0-9.]+ 0.5 ", different) and "BalancedPolar" in different
    assert "momentum 0.95 0.95 0.95" in same and "steps 300 300 300" in same


def test_a_longer_run_may_have_read_more_shards(tmp_path):
    logs = [make_log(tmp_path / f"{steps}.txt", f"--track fineweb-124m --recipe muon --recipe.steps {steps}",
                     {0: 3.27}) for steps in (400, 200)]
    assert [len(read_log(log).header["data"]["train"]) for log in logs] == [3, 2]
    found = read_comparison(logs).found["recipes"]
    assert [row["steps"] for row in found.values()] == [400, 200]


def test_what_does_not_compare_is_said(capsys, made, tmp_path):
    other_code = edited(made / "aurora.txt", tmp_path / "other.txt",
                        run=lambda run: run["sha256"].update(code="0" * 64))
    found = make([made / "muon.txt", other_code], tmp_path / "out")
    assert "The logs hold 2 versions of the code" in found.text and "Loss by seconds" in found.text
    assert "The logs hold 2 versions of the code" in (tmp_path / "out/table.md").read_text()
    assert "The logs hold 2 versions of the code" in capsys.readouterr().out
    elsewhere = make_log(tmp_path / "log.txt", "--recipe aurora --seeds 0 1", device="another CPU")
    beside = make_log(tmp_path / "beside.txt", "--recipe aurora --seeds 0 1")  # one CPU's cores are shared
    found = make([made / "muon.txt", beside], tmp_path / "out")
    assert "No seconds are shown: runs went on at the same time" in found.text
    capsys.readouterr()
    found = make([made / "muon.txt", elsewhere], tmp_path / "out")
    assert "No seconds are shown: the runs are of different machines" in found.text
    assert "Loss by seconds" not in found.text and "seconds to target" not in found.text
    out = capsys.readouterr().out
    assert "seconds to target" not in out and "per second" not in out
    assert read_comparison([elsewhere]).found["recipes"]["aurora"]["crossing_seconds"]["mean"] > 0
