"""scripts/sweep.py: what its table holds is not run again, one that diverges loses, none starts in vain."""
import json

import pytest

from scripts import sweep
from speedrun.experiments.sweep import fixed


def test_a_sweep_does_not_repeat_what_its_table_holds(capsys, tmp_path):
    rows = [dict(lr=lr, weight_decay=wd, seeds=[100], val_loss=loss) for lr, wd, loss in
            ((0.1, 0.0, 2.0), (0.2, 0.0, 1.5), (0.4, 0.0, None), (0.2, 0.1, 1.4))]
    table = tmp_path / "t.json"
    about = dict(track="laptop", recipe="muon", fixed=fixed("muon", "laptop"), seeds=[100])
    table.write_text(json.dumps(dict(about, rows=rows)))
    words = ["--recipe", "muon", "--lr", "0.1", "0.2", "0.4", "--weight-decay", "0", "0.1"]
    words += ["--out", str(table)]
    assert sweep.main(words) == 0
    assert "best: lr 0.2 weight_decay 0.1 val_loss 1.4 (4 runs" in capsys.readouterr().out
    assert sweep.main([*words, "--seeds", "7"]) == 1
    assert "another --out" in capsys.readouterr().err
    assert sweep.main([*words, "--jobs", "0"]) == 2
    table.write_text(json.dumps(dict(about, fixed="of muon with another momentum", rows=rows)))
    assert sweep.main(words) == 1
    table.write_text("{}")
    assert sweep.main(words) == 1


@pytest.mark.process
def test_a_run_that_diverges_loses_and_its_row_names_no_folder(capsys, tmp_path, monkeypatch):
    (tmp_path / "train_gpt.py").write_text(
        "import os, sys\n"
        "sys.exit(f'train_gpt.py: it diverged (WORLD_SIZE {os.environ.get(\"WORLD_SIZE\")}); go on with '\n"
        "         '--resume /home/me/logs/one')\n")
    monkeypatch.setattr("speedrun.experiments.sweep.ROOT", tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")  # of another launcher: a single process would wait for its peer
    table = tmp_path / "t.json"
    assert sweep.main(["--recipe", "muon", "--lr", "9", "--weight-decay", "0", "--out", str(table)]) == 0
    row, = json.loads(table.read_text())["rows"]
    assert row["val_loss"] is None and "(WORLD_SIZE None)" in row["error"] and "/home" not in row["error"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.json", "train_gpt.py"]


def test_a_sweep_stops_where_a_run_cannot_start(capsys, tmp_path):
    words = ["--recipe", "nope", "--lr", "0.1", "--weight-decay", "0", "--out", str(tmp_path / "t.json")]
    assert sweep.main(words) == 2
    err = capsys.readouterr().err
    assert "unknown recipe 'nope'" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "t.json").exists()
    assert sweep.main([*words[:-1], str(tmp_path / "none" / "t.json")]) == 2
