"""scripts/export.py --evidence: the submission that is drafted from logs of an exported script."""
import json
from pathlib import Path

import pytest

from scripts import export
from speedrun import ROOT
from speedrun.board import track3
from speedrun.cli import Refusal
from speedrun.export import submission
from speedrun.log.writer import LogWriter
from speedrun.stats import rule
from tests.support.stand_in import exported

LOSSES = {3150: 3.2795, 3175: 3.2782, 3200: 3.2779, 3225: 3.2775}  # n = 4: .0010, .0036, .0042, .0050


@pytest.fixture
def logs(tmp_path, upstream):
    """Logs of the exported script: three files, seeds 0 to 3."""
    code = exported(upstream, "aurora")

    def write(code=code, files=((0,), (1,), (2, 3)), losses=LOSSES, gpu="NVIDIA H100 80GB HBM3", last=3225):
        paths = []
        for seeds in files:
            lines = [code.rstrip("\n"), "=" * 100,
                     f"Running PyTorch 2.11.0 compiled for CUDA 13.0 on {gpu} with world_size 8", "=" * 100]
            for seed in seeds:
                lines.append(f"Using seed={seed}")
                for step, loss in {0: 10.8, **losses}.items():
                    lines.append(f"step:{step}/{last} val_loss:{loss + (seed % 4 - 1.5) / 1000:.5f} "
                                 f"train_time:{step / 8:.3f}s step_avg:125.00ms")
            paths.append(tmp_path / f"{'-'.join(map(str, seeds))}.txt")
            paths[-1].write_text("\n".join(lines) + "\n")
        return paths
    return write


def test_draft(logs, tmp_path):
    near = [dict(steps=[3175, 3200, 3225, 3300], losses=[[3.281, 3.2795, 3.2788, 3.277]] * 2)]
    rows = [dict(row=11, name="Base", step=step, mean=3.27885, passes=passes, near=near)
            for step, passes in ((3175, True), (3200, False), (3225, True), (3300, True))]
    (tmp_path / "track3.json").write_text(json.dumps(dict(rows=rows)))
    paths, out = logs(), tmp_path / "submission"
    found = submission.draft(paths, out, tmp_path / "track3.json")
    assert (found["recipe"], found["step"], found["n"], found["seeds"]) == ("aurora", 3200, 4, [0, 1, 2, 3])
    assert found["statistic"] == pytest.approx(0.0042) and found["mean"] == pytest.approx(3.2779)
    assert found["before"]["step"] == 3175 and found["before"]["statistic"] == pytest.approx(0.0036)
    assert found["before"]["pass"] is False
    at_3200, theirs = [3.2779 + (seed - 1.5) / 1000 for seed in range(4)], [3.2788, 3.2788]
    assert found["against"] == dict(row=11, step=3225, **rule.exchange(at_3200, theirs, 3200, 3225))
    assert sorted(path.name for path in out.iterdir()) == found["files"] == [
        "H100-80GB-HBM3_seed0.txt", "H100-80GB-HBM3_seed1.txt", "H100-80GB-HBM3_seed2-3.txt", "README.md",
        "summary.tsv", "zoomed_figure.png"]
    assert (out / "H100-80GB-HBM3_seed2-3.txt").read_bytes() == paths[2].read_bytes()
    assert (out / "zoomed_figure.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    table = [line.split("\t") for line in (out / "summary.tsv").read_text().splitlines()]
    assert [row[1] for row in table[1:]] == ["0", "1", "2", "3"] and {len(row) for row in table} == {9}
    assert dict(zip(table[0], table[3])) == dict(
        file="H100-80GB-HBM3_seed2-3.txt", seed="2", gpu="NVIDIA H100 80GB HBM3", world_size="8",
        step="3200", val_loss="3.27840", last_step="3225", last_val_loss="3.27800", crossing_step="3150.0")
    readme = (out / "README.md").read_text()
    for said in ("# aurora: 3200 steps (n = 4)", "= 0.00420,", "at step 3175, does not reach it", "0.00360",
                 "| 3200 | 3.27790 |", "row 11 (Base)", "results/submission/H100-80GB-HBM3_seed0.txt",
                 "Mean crossing step: 31", "| # | 3200 | 3.2779 (n=4) |"):
        assert said in readme


def test_draft_by_command(logs, tmp_path, capsys):
    out = tmp_path / "folder"
    assert export.main(["--evidence", *logs(), "--out", out, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = json.loads((ROOT / "records/reference/track3.json").read_text())["rows"]
    row = next(row for row in rows if row["row"] == found["against"]["row"])
    assert found["against"]["step"] == row["step"] >= found["step"] == 3200
    assert len(track3.series(row)) == row["n"]
    out.joinpath("README.md").unlink()
    assert export.main(["--evidence", *logs(), "--out", out]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert export.main(["--evidence", *logs(), "--out", tmp_path / "another"]) == 0
    assert "the validation before, at step 3175" in capsys.readouterr().out.lower()


def test_no_result_below_and_one_seed(logs, tmp_path):
    with pytest.raises(Refusal, match="not what scripts/ingest.py writes"):
        (tmp_path / "track3.json").write_text('{"rows": [{"passes": true, "step": 3300}]}')
        submission.draft(logs(), tmp_path / "s", tmp_path / "track3.json")
    paths = logs(files=[(5,)], losses={9000: 3.2, 9025: 3.1}, gpu="../x|y", last=9025)
    found = submission.draft(paths, tmp_path / "s", tmp_path / "none.json")
    assert found["against"] is None and found["before"]["step"] == 0
    assert "x-y_seed5.txt" in found["files"] and "No result here" in (tmp_path / "s/README.md").read_text()


@pytest.mark.parametrize("change, says", [
    (lambda logs: logs(losses={3225: 3.2785}), "no step of these 4 runs reaches the target"),
    (lambda logs: logs(losses={3200: float("nan"), 3225: 3.2}), "seed 0 has the loss nan at step 3200"),
    (lambda logs: logs(losses={3175: 3.27}), "seed 0 ends at step 3175 of 3225"),
    (lambda logs: logs(files=[(0,), (0, 1)]), "seed 0 is in a run before it"),
    (lambda logs: logs() + logs(code="# recipe aurora", files=[(7,)]), "is of other code"),
    (lambda logs: logs(code="x = 1"), "is not a log of an exported script"),
    (lambda logs: unseeded(logs()), "is not a log of an exported script"),
    (lambda logs: [of_this_project(logs()[0])], "is not a log of an exported script")])
def test_evidence_that_is_refused(logs, tmp_path, capsys, change, says):
    assert export.main(["--evidence", *change(logs), "--out", tmp_path / "out"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and says in error and not (tmp_path / "out").exists()
    assert export.main(["--evidence", Path("none.txt"), "--out", tmp_path / "out"]) == 2


def unseeded(paths):
    paths[0].write_text(paths[0].read_text().replace("\nUsing seed=", "\nseed "))
    return paths


def of_this_project(path):
    path.unlink()
    log = LogWriter(path)
    log.event("run", seeds=[0])
    log.validation(0, 1, 3.0, 0.0, 0)
    log.validation(1, 1, 3.0, 1.0, 0)
    log.end("complete")
    return path
