"""scripts/ingest.py on a small repository of the same layout, and the figures that are committed."""
import json
import subprocess

import pytest

from scripts import ingest
from speedrun import ROOT
from speedrun.board import track3
from speedrun.stats import rule
from speedrun.stats.crossing import mean_crossing
from tests.support.track3_clone import FOLDER, git, log, make_clone, row


@pytest.fixture
def clone(tmp_path):
    """clone(rows, files) makes the repository."""
    return lambda rows, files, name="clone": make_clone(tmp_path / name, rows, files)


def run(clone, out):
    assert ingest.main([str(clone), "--out", str(out)]) == 0
    return json.loads(out.read_text())


def test_figures_of_a_row(clone, capsys, tmp_path):
    finals = (3.2770, 3.2780, 3.2775, 3.2765)
    files = {f"results/a/{i}.txt": log(final, seed=i) for i, final in enumerate(finals)}
    folder = clone([row(1, "2200(!)", 3.2772, 4, "results/a/0.txt")], files)
    found = run(folder, tmp_path / "out.json")
    again = tmp_path / "again.json"
    assert run(folder, again) == found and again.read_text() == (tmp_path / "out.json").read_text()
    one, = found["rows"]
    head = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    assert found["commit"] == head.strip() and one["deviations"] == []
    assert (one["row"], one["step"], one["n"]) == (1, 2200, 4)
    assert one["name"] == "Muon with aux Adam, lr=.02 (tuned)"
    assert one["mean"] == pytest.approx(3.27725) and one["passes"] and one["readout"] == "val_loss"
    # compiling, 60 s in the first interval, does not weigh
    assert one["hardware"] == [dict(gpu="NVIDIA H100", world_size=8, n=4, step_ms=150.0)]
    assert one["near"][0]["steps"] == [1000, 2000, 2100, 2200, 2300]
    crossing = mean_crossing(track3.series(one), 3.28)
    assert crossing["n"] == 4 and crossing["mean"] == pytest.approx(2200 - 100 * 0.00275 / 0.005)
    assert "code" not in json.dumps(found["rows"])  # figures only
    capsys.readouterr()
    assert ingest.main([str(folder), "--out", str(again), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == 4


def test_each_deviation_is_named(clone, capsys, tmp_path):
    ema = " val_ema_loss:3.27000"
    files = {
        "results/one.txt": log(3.2790), "results/other.txt": log(3.2),
        "results/few/a.txt": log(3.2790, seed=1),
        "results/mean/a.txt": log(3.2770, seed=1), "results/mean/b.txt": log(3.2760, seed=2),
        "results/seeds/a.txt": log(3.2770, seed=3), "results/seeds/b.txt": log(3.2760, seed=3, code="b"),
        "results/gpus/a.txt": log(3.2770, seed=1), "results/gpus/b.txt": log(3.2760, seed=2, size=4),
        "results/ema/a.txt": log(3.2900, extra=ema),
        "results/twice/a.txt": log(3.2750, seed=1), "results/twice/a.stdout": log(3.2750, printed=True),
        "results/twice/metadata.txt": "seed=1\n", "results/twice/README.md": "hello",
        "results/codes/a.txt": log(3.2750, seed=1), "results/codes/b.txt": log(3.2700, seed=1, code="b"),
    }
    rows = [row(1, 2200, 3.2790, 1, "results/one.txt"), row(2, 2200, 3.2790, 20, "results/few/README.md"),
            row(3, 2200, 3.2760, 2, "results/mean/a.txt"), row(4, 2200, 3.2765, 2, "results/seeds/a.txt"),
            row(5, 2200, 3.2765, 2, "results/gpus/a.txt"), row(6, 2200, 3.2700, 1, "results/ema/a.txt"),
            row(7, 2200, 3.2750, 1, "results/twice/a.txt"), row(8, 2200, 3.2750, 1, "results/codes/a.txt"),
            row(9, 2250, 3.2750, 1, "results/twice/a.txt")]
    found = {r["row"]: r for r in run(clone(rows, files), tmp_path / "out.json")["rows"]}
    rule = "(3.28 - mean) sqrt(n) does not reach 0.004 in the logs"
    assert {number: r["deviations"] for number, r in found.items()} == {
        1: [rule],
        2: ["the linked log is not there", "claims n = 20, the logs hold 1", rule],
        3: ["claims a mean of 3.2760, the logs give 3.27650"],
        4: ["runs state the same seed: 3", "runs of 2 versions of the code"],
        5: ["runs on several kinds of hardware"],
        6: ["the mean is of val_ema_loss, not of val_loss"],
        7: [], 8: [],
        9: ["claims n = 1, the logs hold 0", rule]}
    assert found[6]["mean"] == 3.27 and found[7]["n"] == 1 and found[9]["mean"] is None
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"row 1: {rule}" and "7 rows deviate" in out[-1]


@pytest.mark.parametrize("description, name", [
    ("[Muon](https://x.y) with aux Adam, lr=.02", "Muon with aux Adam, lr=.02"),
    ("Setup from #11, plus SOAP preconditioning before that", "Setup from #11, plus SOAP preconditioning"),
    ("Shampoo(lr=0.0015, wd=0.2, betas=(.9, .95), precond_freq=5, power=-1/4)", "Shampoo"),
    ("u/w-floor that clamps ‖u‖\\_F \x1b[2J", "u/w-floor that clamps ‖u‖_F \\x1b[2J"), ("the", ""),
    ("x" * 99, "")])
def test_names_are_short_and_plain(description, name):
    assert track3.name_of(description) == name


def test_what_is_no_clone(clone, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    changed = clone([row(1, 2200, 3.2, 1, "results/a.txt")], {"results/a.txt": log(3.2)}, "changed")
    (changed / FOLDER / "results/a.txt").write_text("x")
    cases = [(tmp_path / "empty", "no git clone"), (tmp_path / "none", "no git clone"),
             (changed, "are changed"), (clone([], {}, "rows"), "no table of results"),
             (clone(["| 1 | many | 3.2 |"], {}, "row"), "cannot be read"),
             (clone([row(1, 2200, 3.2, 1, "../../../a.txt")], {}, "link"), "outside")]
    other = clone([], {}, "other")
    git(other, "rm", "-q", "-r", str(FOLDER))
    git(other, "commit", "-q", "--allow-empty", "-m", "x")
    for folder, says in [*cases, (other, "cannot read")]:
        assert ingest.main([str(folder), "--out", str(tmp_path / "out.json")]) == 1
        err = capsys.readouterr().err
        assert says in err and len(err.splitlines()) == 1, err
    assert not (tmp_path / "out.json").exists()


def test_the_committed_figures_agree_with_themselves():
    path = ROOT / "records/reference/track3.json"
    found = json.loads(path.read_text())
    assert path.stat().st_size < 200_000 and track3.to_text(found) == path.read_text()
    assert [row["row"] for row in found["rows"]] == list(range(1, 47))
    for of in found["rows"]:
        losses = list(rule.losses_at(track3.series(of), of["step"]).values())
        assert len(losses) == of["n"] and sum(losses) / of["n"] == pytest.approx(of["mean"], abs=1e-6)
        assert of["passes"] == rule.one_sample(losses, found["target"], rule.SIGMA)["pass"]
        assert sum(machine["n"] for machine in of["hardware"]) == of["n"]
