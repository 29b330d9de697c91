"""scripts/report.py and scripts/sweep.py on logs and tables written here."""
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import report  # noqa: E402
import sweep  # noqa: E402

from records.log import LogWriter  # noqa: E402

TRACK = dict(name="laptop", tokens_per_step=4096, target=1.5)


def write(folder, recipe, losses, end="complete", track=TRACK, data="abc"):
    """A log of one recipe: losses by seed, validated every 10 steps."""
    log = LogWriter(folder / f"{recipe}_{min(losses)}.txt")
    log.event("run", track=track, recipe=dict(name=recipe), data=dict(val=[dict(name="v", sha256=data)]))
    for seed, values in losses.items():
        for i, loss in enumerate(values):
            log.validation(10 * i, 10 * (len(values) - 1), loss, 1.0 * i, seed)
    log.end(end)
    return str(log.path)


def test_table_differences_and_picture(capsys, tmp_path):
    muon = write(tmp_path, "muon", {0: [3, 2, 1.4], 1: [3, 1.8, 1.2], 2: [3, 1.7, 1.3]})
    aurora = write(tmp_path, "aurora", {0: [3, 1.5, 1.30], 1: [3, 1.5, 1.09], 2: [3, 1.5, 1.18]})
    assert report.main([muon, aurora, "--out", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "out/summary.json").read_text())
    row = found["recipes"]["muon"]
    assert row["val_loss"]["mean"] == pytest.approx(1.3) and row["val_loss"]["sd"] == pytest.approx(0.1)
    steps = [10 + 10 * 0.5 / 0.6, 10 + 10 * 0.3 / 0.6, 10 + 10 * 0.2 / 0.4]
    assert row["crossing_step"]["mean"] == pytest.approx(sum(steps) / 3)
    assert row["tokens_per_second"] == pytest.approx(20 * 4096 / 2)
    gap = found["recipes"]["aurora"]["difference"]  # -.10, -.11, -.12: t(.975, 2) = 4.303, sd = .01
    assert (gap["n"], gap["mean"], gap["sd"]) == (3, pytest.approx(-0.11), pytest.approx(0.01))
    assert gap["high"] - gap["mean"] == pytest.approx(4.30265 * 0.01 / 3**0.5, rel=1e-4)
    text = (tmp_path / "out/table.md").read_text()
    assert text.splitlines()[2].startswith(
        "| aurora | 3 | 1.1900 (0.1054) | 10 | -0.1100 (-0.1348 to")  # no spread: no interval
    assert (tmp_path / "out/loss.png").read_bytes().startswith(b"\x89PNG")


def test_seeds_that_never_cross_are_counted_not_dropped(capsys, tmp_path):
    log = write(tmp_path, "muon", {0: [3, 2, 1.4], 1: [3, 1.8, 1.6]})
    assert report.main([log, "--out", str(tmp_path / "out")]) == 0
    assert "1 of 2 seeds cross" in capsys.readouterr().out


def test_what_cannot_be_reported(capsys, tmp_path):
    good = write(tmp_path, "muon", {0: [3, 2], 1: [3, 2]})
    cases = [
        ([write(tmp_path, "aurora", {0: [3, 2]}, end="interrupted")], "interrupted"),
        ([good, good], "seed 0 of this recipe"),
        ([good, write(tmp_path, "adamw", {0: [3, 2]}, track=dict(TRACK, target=9))], "another track"),
        ([good, write(tmp_path, "other", {0: [3, 2]}, data="def")], "other data"),
        ([str(tmp_path / "none.txt")], "none.txt"),
        ([str(ROOT / "README.md")], "not a record log"),
    ]
    edited = tmp_path / "edited.txt"
    edited.write_text(Path(good).read_text().replace("val_loss:2.00000", "val_loss:1.00000", 1))
    cases.append(([str(edited)], "edited.txt:"))
    for logs, words in cases:
        assert report.main([*logs, "--out", str(tmp_path / "out")]) == 1
        err = capsys.readouterr().err
        assert words in err and len(err.splitlines()) == 1


def test_a_sweep_does_not_repeat_what_its_table_holds(capsys, tmp_path):
    rows = [dict(lr=lr, weight_decay=wd, seeds=[100], val_loss=loss) for lr, wd, loss in
            ((0.1, 0.0, 2.0), (0.2, 0.0, 1.5), (0.4, 0.0, None), (0.2, 0.1, 1.4))]
    table = tmp_path / "t.json"
    table.write_text(json.dumps(dict(track="laptop", recipe="muon", seeds=[100], rows=rows)))
    words = ["--recipe", "muon", "--lr", "0.1", "0.2", "0.4", "--weight-decay", "0", "0.1"]
    words += ["--out", str(table)]
    assert sweep.main(words) == 0
    assert "best: lr 0.2 weight_decay 0.1 val_loss 1.4 (4 runs" in capsys.readouterr().out
    assert sweep.main([*words, "--seeds", "7"]) == 1
    assert "another --out" in capsys.readouterr().err
    assert sweep.main([*words, "--jobs", "0"]) == 2
    table.write_text("{}")
    assert sweep.main(words) == 1


def test_a_sweep_stops_where_a_run_cannot_start(capsys, tmp_path):
    words = ["--recipe", "nope", "--lr", "0.1", "--weight-decay", "0", "--out", str(tmp_path / "t.json")]
    assert sweep.main(words) == 2
    err = capsys.readouterr().err
    assert "unknown recipe 'nope'" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "t.json").exists()
    assert sweep.main([*words[:-1], str(tmp_path / "none" / "t.json")]) == 2
