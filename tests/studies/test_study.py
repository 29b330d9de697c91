"""scripts/study.py: a tiny study of real runs, stopped and continued; its pages; and wrong study files."""
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from optimizers import resolve
from scripts import study
from speedrun import ROOT
from speedrun.cli import Refusal
from speedrun.experiments.sweep import fixed
from speedrun.log.reader import read_log
from speedrun.stats.intervals import rank_correlation
from speedrun.studies import findings, publish
from speedrun.studies.figures import figures, final, worst
from speedrun.studies.file import names, read_study
from speedrun.studies.page import page
from speedrun.studies.picture import draw
from speedrun.verify import verdict

pytestmark = pytest.mark.process

TINY = """
question = "Is it small?"
track = "laptop"
device = "cpu"
seeds = [0, 1]
baseline = "muon"
overrides.recipe = { schedule_steps = 4, steps = 4 }
[overrides.track]
val_tokens = 256
context = 64
tokens_per_step = 256
val_every = 2
model.num_layers = 1
model.model_dim = 32
[[cells]]
label = "muon"
recipe = "muon"
[[cells]]
label = "wide"
recipe = "aurora"
overrides.recipe.lr = 0.05
[[contrasts]]
label = "wide-minus-muon"
of = ["wide", "muon"]
[tuning]
seeds = [100]
muon = { lr = [0.02, 0.04], weight_decay = [0] }
"""


class Place:
    """A folder with a study file, its records, and a table of tuning that is complete."""

    def __init__(self, folder: Path, data: Path):
        self.file, self.records, self.data = folder / "tiny.toml", folder / "records", data
        self.file.write_text(TINY)
        (self.records / "tuning").mkdir(parents=True)
        rows = [dict(lr=lr, weight_decay=0, seeds=[100], val_loss=loss)
                for lr, loss in ((0.02, 2.0), (0.04, 1.9))]
        table = dict(track="laptop", recipe="muon", fixed=fixed("muon", "laptop"), seeds=[100], runs=2,
                     best=rows[1], rows=rows)
        (self.records / "tuning" / "laptop_muon.json").write_text(json.dumps(table))
        self.study = self.records / "studies" / "tiny"
        self.argv = [str(self.file), "--records", str(self.records)]

    def logs(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.study)): path.read_bytes() for path in self.study.glob("*/*.xz")}

    def run(self, *words) -> int:
        return study.main([*self.argv, "--data-dir", str(self.data), *words])


@pytest.fixture(scope="module")
def stopped(laptop, tmp_path_factory):
    """A study that Ctrl-C stopped in its second run: (place, exit code, stderr, logs, processes left)."""
    place = Place(tmp_path_factory.mktemp("study"), laptop)
    words = [sys.executable, str(ROOT / "scripts" / "study.py"), *place.argv, "--data-dir", str(laptop),
             "--jobs", "1"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("wide, seed 0: running"):
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
    process.wait(60)
    left = subprocess.run(["pgrep", "-f", str(place.file.parent)], capture_output=True, text=True).stdout
    return place, process.returncode, "".join(lines), place.logs(), left


@pytest.fixture(scope="module")
def done(stopped):
    """The same study, continued to its end."""
    place = stopped[0]
    assert place.run("--jobs", "2") == 0
    return place


def test_ctrl_c_keeps_what_is_done_and_leaves_no_process(stopped):
    place, code, stderr, logs, left = stopped
    assert code == 130 and "stopped by SIGINT" in stderr.splitlines()[-1] and "Traceback" not in stderr
    assert list(logs) == ["muon/seed0.txt.xz"] and left == ""
    page = (place.study / "README.md").read_text()
    assert "1 of 2 seeds done" in page and "not run yet" in page


def test_the_same_command_goes_on_with_the_rest(stopped, done, capsys):
    before, after = stopped[3], done.logs()
    assert sorted(after) == [f"{cell}/seed{k}.txt.xz" for cell in ("muon", "wide") for k in (0, 1)]
    assert after["muon/seed0.txt.xz"] == before["muon/seed0.txt.xz"]
    assert done.run("--json") == 0 and done.logs() == after  # nothing is left to run
    found = json.loads(capsys.readouterr().out)
    losses = {cell: [read_log(done.study / cell / f"seed{k}.txt.xz").series[k][-1].val_loss for k in (0, 1)]
              for cell in ("muon", "wide")}
    differences = [losses["wide"][k] - losses["muon"][k] for k in (0, 1)]
    for row in (found["cells"]["wide"]["difference"], found["contrasts"]["wide-minus-muon"]):
        assert row["mean"] == pytest.approx(sum(differences) / 2) and row["low"] < row["mean"] < row["high"]
    assert found["cost"]["runs"] == 4 and found["cells"]["muon"]["steps"] == 4
    assert (done.study / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_cells_stand_and_are_trained_as_tuned(done):
    verdicts = verdict.verdicts([done.study])
    assert len(verdicts) == 2 and all(verdict.verifies for verdict in verdicts)
    rates = [read_log(done.study / cell / "seed1.txt.xz").header["recipe"]["lr"] for cell in ("muon", "wide")]
    assert rates == [0.04, 0.05]  # the table's best; the cell's own
    assert "**1.9000**" in (done.study / "README.md").read_text()


def test_a_cell_may_have_seeds_of_its_own(done, tmp_path):
    def with_seeds(seeds):
        file = tmp_path / "tiny.toml"
        file.write_text(TINY.replace('label = "wide"', f'label = "wide"\nseeds = {seeds}', 1))
        return read_study(str(file), done.records)

    assert [(cell.label, seed) for cell, seed in with_seeds([0, 1, 5]).missing()] == [("wide", 5)]
    found = figures(with_seeds([0, 1, 5]))
    assert found["cells"]["wide"] == dict(done=2, of=3) and found["contrasts"]["wide-minus-muon"] is None
    few = with_seeds([1])
    assert few.missing() == [] and re.search(r"\| `wide` \| 1 \|", page(few, figures(few)))
    assert "| seeds |" in page(few, figures(few))


def test_differences_are_over_the_seeds_that_all_cells_have():
    found = figures(read_study("expansion"))
    losses = {label: row["losses"] for label, row in found["cells"].items()}
    four = ["aurora-relu2-x8", "none-relu2-x8", "aurora-relu2-x4", "none-relu2-x4"]
    assert [len(losses[label]) for label in (*four, "muon-relu2-x8")] == [5, 5, 5, 5, 3]
    a, b, c, d = (losses[label] for label in four)
    row = found["contrasts"]["aurora-relu2-x8-minus-x4"]
    assert row["n"] == 5 and row["mean"] == pytest.approx(sum(a[k] - b[k] - c[k] + d[k] for k in a) / 5)
    assert found["cells"]["muon-relu2-x8"]["difference"]["n"] == 3
    assert found["contrasts"]["aurora-relu2-x8-minus-x4-against-muon"]["n"] == 3


def test_check_finds_a_changed_page_and_a_changed_log(done, capsys):
    assert done.run("--check") == 0
    page, picture, log = (done.study / name for name in ("README.md", "picture.png", "wide/seed1.txt.xz"))
    for path, data in ((page, page.read_bytes().replace(b"tiny", b"tinier", 1)), (picture, b""),
                       (log, (done.study / "wide/seed0.txt.xz").read_bytes())):
        kept = path.read_bytes()
        path.write_bytes(data)
        assert done.run("--check") == 1
        path.write_bytes(kept)
    capsys.readouterr()
    assert done.run("--check", "--json") == 0
    assert json.loads(capsys.readouterr().out) == dict(ok=True, wrong=[])


def test_a_log_of_another_cell_is_refused(done, capsys, tmp_path):
    other = Place(tmp_path, done.data)
    (other.study / "muon").mkdir(parents=True)
    shutil.copy(done.study / "wide" / "seed0.txt.xz", other.study / "muon" / "seed0.txt.xz")
    assert other.run() == 1
    said = capsys.readouterr().err
    assert re.search(r"muon.seed0.txt.xz is not of cell muon: its recipe is aurora", said)
    assert not list(other.records.glob("studies/tiny/wide"))


@pytest.mark.long
def test_a_run_that_cannot_start_is_named(capsys, tmp_path):
    place = Place(tmp_path, tmp_path / "nowhere")
    assert place.run("--jobs", "1") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("study.py: muon, seed 0 failed: ") and "no train shards" in said
    assert place.logs() == {}


def test_findings_are_filled_in(done):
    tiny = read_study(str(done.file), done.records)
    found = figures(tiny)

    def render(text):
        return findings.render(text, lambda name: (tiny, found)).split("\n\n", 1)[1]

    row = found["contrasts"]["wide-minus-muon"]
    assert render("{{tiny wide-minus-muon difference}}.") == \
        f"{row['mean']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})."
    verdict = ("holds" if row["high"] < 0 else "does not hold" if row["low"] > 0 else
               "not shown at this scale")
    assert render("{{tiny wide below}}") == verdict and "| `wide` |" in render("{{tiny table}}")
    assert render("{{tiny muon difference}} {{tiny muon leverage-dead}}").startswith("not run yet ")
    for wrong, hint in (("{{tiny wide los}}", "did you mean loss"), ("{{tiny}}", "neither"),
                        ("{{tiny wid loss}}", "did you mean wide")):
        with pytest.raises(Refusal, match=hint):
            render(wrong)


def test_the_recipe_named_after_a_point_of_the_family_is_that_point():
    logs = sorted((ROOT / "records/studies/family/before-rows-and-half-columns").glob("*.xz"))
    assert len(logs) == 3
    here = json.loads(json.dumps(resolve("muoneq-fc", "laptop").resolved()))
    there = read_log(logs[0]).header["recipe"]
    assert {**there, "name": here["name"], "note": here["note"]} == here


def test_an_altered_finding_is_seen(tmp_path, monkeypatch, capsys):
    for name in ("PAGE", "TEMPLATE"):
        monkeypatch.setattr(findings, name, tmp_path / name)
    findings.TEMPLATE.write_text("# Findings\n\n{{ladder aurora loss}}, {{ladder aurora below}}\n")
    findings.PAGE.write_text(findings.text(publish.Studies().load))
    assert study.main(["ladder", "--check"]) == 0
    text = findings.PAGE.read_text()
    digit = re.search(r"\d\.\d+(\d)", text)
    findings.PAGE.write_text(text[:digit.start(1)] + str((int(digit[1]) + 1) % 10) + text[digit.end(1):])
    assert study.main(["ladder", "--check"]) == 1
    assert f"{findings.PAGE} is not what the logs give" in capsys.readouterr().out


def test_a_study_without_logs_has_no_numbers(done, tmp_path):
    tiny = read_study(str(done.file), tmp_path)
    found = figures(tiny)
    text = findings.render("{{tiny wide loss}}, {{tiny wide below}}, {{tiny picture}}, {{tiny table}}",
                           lambda name: (tiny, found))
    assert text.count("not run yet") == 5 and not re.search(r"\d\.\d", text)


def test_rank_correlation():
    found = rank_correlation([(1, 10), (2, 9), (3, 20), (4, 25), (5, 30), (6, 28)])
    assert found["mean"] == pytest.approx(1 - 6 * 4 / (6 * 35))  # 1 - 6 sum d^2 / (n (n^2 - 1))
    assert found["low"] < found["mean"] < found["high"] < 1 and rank_correlation([(1, 1)] * 4) is None


def test_rank_correlations_within_ranges_are_those_of_the_cells_there():
    study_, low = read_study("fidelity"), 3325
    found = figures(study_)
    pairs = [(cell.x, found["cells"][cell.label]["val_loss"]["mean"]) for cell in study_.cells]
    whole, crowd = found["ranges"]
    assert whole["range"] == [0, 3600] and whole["n"] == sum(x <= 3600 for x, _ in pairs) < len(pairs)
    assert crowd["mean"] == rank_correlation([pair for pair in pairs if low <= pair[0] <= 3600])["mean"]
    assert f"3,325 to 3,600: {crowd['mean']:.2f} (" in page(study_, found)


def test_what_three_seeds_and_two_steps_cannot_show_is_not_printed():
    three, five = read_study("death"), read_study("schedules")
    assert "| r |" not in page(three, figures(three)) and "| r |" in page(five, figures(five))
    row = figures(five)["cells"]["riemannian"]["diagnostics"]  # measured at the first and the last step alone
    assert worst(row, "activation_dead") is None and final(row, "activation_dead") is not None
    said = findings.render("{{schedules riemannian leverage-dead}}; {{death muon leverage-dead}}",
                           publish.Studies().load)
    assert re.search(r"\n\d\.\d\d % at the end; \d\.\d\d % at step \d+, \d\.\d\d % at the end$", said)


def test_pictures_of_cells_that_coincide_and_of_models_of_other_depths(tmp_path):
    study_ = read_study("expansion")
    found, twin = figures(study_), next(cell for cell in study_.cells if cell.line)
    found["cells"]["twin"] = found["cells"][twin.label]
    study_ = replace(study_, cells=[*study_.cells, replace(twin, label="twin")])
    draw(study_, found, tmp_path / "growth.png")
    study_ = read_study("death")
    found = figures(study_)
    for of in found["cells"]["muon"]["diagnostics"]["activation_dead"].values():
        for name, layers in of.items():
            of[name] = layers[:1]
    draw(study_, found, tmp_path / "death.png")
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("growth.png", "death.png"))


########################################
#         Files that are wrong         #
########################################


@pytest.mark.parametrize("change, message", [
    (("track = ", "trak = "), "has no `track`"),
    (('track = "laptop"', 'track = "laptob"'), "did you mean laptop"),
    (("seeds = [0, 1]", "seeds = [0, 0]"), "no list of seeds"),
    (('recipe = "aurora"', 'recipe = "auror"'), "did you mean aurora"),
    (("overrides.recipe.lr = 0.05", "overrides.recipe.ls = 0.05"), "cell wide: --recipe.ls: no field"),
    (("overrides.recipe.lr = 0.05", 'logs = "records"'), "either a `recipe` to run, or"),
    (('label = "wide"', 'label = "../wide"'), "letters, digits"),
    (('label = "wide"', 'label = "muon"'), "two cells or contrasts are called"),
    (('baseline = "muon"', 'baseline = "muo"'), "did you mean muon"),
    (('of = ["wide", "muon"]', 'of = ["wide"]'), "no list of two labels"),
    (('track = "laptop"', 'track = "laptop"\nranges = [[2, 1]]'), "no list of pairs, lowest and highest"),
    (("weight_decay = [0] }", "weight_decay = [0] }\naurora = { lr = [1], weight_decay = [0] }"),
     "unequal budgets"),
    (("[[cells]]", "[cells"), "is no TOML"),
    (('label = "wide"', 'label = "wide"\nline = "swiglu"'), "cell wide has a `line` and no `x`"),
])
def test_a_wrong_file_is_answered_with_one_line(capsys, tmp_path, change, message):
    assert TINY.count(change[0])
    path = tmp_path / "wrong.toml"
    path.write_text(TINY.replace(*change, 1))
    assert study.main([str(path), "--records", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and message in said and str(path) in said


def test_the_format_as_the_docs_have_it_is_read(tmp_path):
    shown = re.search(r"```toml\n(.*?)```", (ROOT / "docs/studies.md").read_text(), re.S)[1]
    (tmp_path / "shown.toml").write_text(shown)
    found = read_study(str(tmp_path / "shown.toml"), tmp_path)
    assert [cell.label for cell in found.cells] == ["aurora-x8", "muon-x8", "aurora", "muon"]
    assert all(getattr(found, field) for field in vars(found)), "a field of the study's that is not shown"
    cells = [vars(cell) for cell in found.cells]
    assert all(any(cell[field] for cell in cells) for field in cells[0]), "a field of a cell's, not shown"
    assert found.contrasts[0].minus and found.tuning.runs == 4 and len(found.missing()) == 8


def test_usage(capsys):
    for argv, hint in (([], "name a study"), (["ladde"], "mean ladder"), (["no.toml"], "name a .toml"),
                       (["ladder", "--jobs", "0"], "--jobs 0"),
                       (["--list", "--records", "no"], "no such folder")):
        assert study.main(argv) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and hint in said


def test_the_studies_of_the_repository_can_be_read():
    assert {"ladder", "expansion", "balance", "family", "death", "length", "fidelity"} <= set(names())
    for name in names():
        assert read_study(name).cells


def test_a_seed_that_diverged_is_a_result_and_not_run_again(done, capsys):
    log, end = done.study / "wide/seed1.txt.xz", done.study / "wide/seed1.diverged.json"
    kept = log.rename(log.with_suffix(".away"))
    try:
        end.write_text(json.dumps(dict(why="seed 1: the loss is nan")))
        assert done.run() == 0 and not log.exists()
        assert "1 of 2 seeds diverged" in capsys.readouterr().out
    finally:
        end.unlink()
        kept.rename(log)
        assert done.run("--write") == 0


def test_a_log_that_is_none_of_its_cell_fails_the_check(done, capsys):
    text = done.file.read_text()
    done.file.write_text(text.replace("overrides.recipe.lr = 0.05", "overrides.recipe.lr = 0.06"))
    try:
        assert done.run("--check") == 1
        assert "lr" in capsys.readouterr().out
    finally:
        done.file.write_text(text)
