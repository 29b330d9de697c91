"""scripts/leaderboard.py on folders of made-up records: what enters, in which order, and as text."""
import json
import random
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts import leaderboard, verify
from speedrun import ROOT
from speedrun.board import page, standings
from speedrun.cli import Refusal
from speedrun.stats import rule
from speedrun.stats.crossing import crossing_step
from speedrun.text import printable
from speedrun.verify import locks
from tests.support import clone
from tests.support.made_logs import challenged, make_log

pytestmark = pytest.mark.process  # the lock of the name runs optimizers/ by themselves

HOSTILE = "a|b`c`<b>*d*[e](javascript:1)\x1b[31m\u202e&lt;www.f.g"


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """made(words, **options) -> the path of a log as make_log writes it, made once."""
    folder, known = tmp_path_factory.mktemp("made"), {}

    def get(words: str, **options) -> Path:
        key = (words, repr(options))
        if key not in known:
            known[key] = make_log(folder / f"{len(known)}.txt", words, **options)
        return known[key]
    return get


@pytest.fixture
def records(made, tmp_path):
    """A folder of records: aurora and muon reach 1.38 on one machine, adamw does not, on another."""
    root = tmp_path / "records"
    add(root, "laptop/2027-01-15_aurora", made("--recipe aurora --seeds 0 1 2 3", ends=ends(1.31)))
    add(root, "laptop/2027-01-15_muon", made("--recipe muon --seeds 0 1 2 3", ends=ends(1.35), ms=350))
    add(root, "laptop/2027-01-15_adamw", made("--recipe adamw --seeds 0 1 2 3", ends=ends(1.9), device="B"))
    return root


def ends(start: float, n: int = 4) -> dict:
    """seed -> final loss: a pattern of the seeds around `start`, and noise of its own."""
    noise = random.Random(start)
    return {seed: start + 0.001 * (seed % 3) + noise.uniform(0, 0.001) for seed in range(n)}


def add(root: Path, path: str, *logs: Path) -> Path:
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    for i, log in enumerate(logs):
        shutil.copy(log, folder / f"{i}.txt")
    with suppress(Refusal):  # what is on no board is not challenged
        challenged(folder)
    return folder


@pytest.fixture
def pinned(monkeypatch):
    """As if tracks.py had the sha256 of FineWeb's shards."""
    monkeypatch.setitem(locks.LOCKS, "pins", lambda evidence: (True, "as if"))


@pytest.fixture(autouse=True)
def clones(monkeypatch):
    """The history that records are held to is that of the clone that made-up logs say they ran in."""
    monkeypatch.setattr("speedrun.verify.history.ROOT", clone.clone())


@pytest.fixture
def run(capsys):
    """run(root, *words) -> exit code, the JSON, the lines of stderr."""
    def run(root, *words):
        code = leaderboard.main(["--records", root, "--json", *words])
        out, err = capsys.readouterr()
        assert all(c == "\n" or c.isprintable() for c in err)
        return code, json.loads(out) if out else None, err.splitlines()
    return run


def cells(page: str, start: str) -> list[list[str]]:
    """The rows of the first table behind the line that starts with `start`, split at its pipes."""
    behind = page[page.index(f"\n{start}"):]
    lines = re.search(r"^\|.*(?:\n\|.*)*", behind, re.MULTILINE)[0].splitlines()
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert len(set(map(len, rows))) == 1, "a row of another width than its table"
    return rows[2:]


########################################
#            The right rows            #
########################################


def test_records_in_order_of_their_steps_with_figures_from_the_logs(records, run):
    code, found, err = run(records)
    assert (code, err, found["changed"]) == (0, [], True)
    aurora, muon, adamw = found["records"]
    assert [r["recipe"] for r in found["records"]] == ["aurora", "muon", "adamw"]
    assert [r["place"] for r in found["records"]] == [1, 2, None]

    for record in (aurora, muon):
        entry, = (e for e in standings.read_board(records).entries if e.path == record["path"])
        at = list(rule.losses_at(entry.series, record["step"]).values())
        before = max(step for step in rule.common_steps(entry.series) if step < record["step"])
        assert rule.one_sample(at, 1.38)["pass"] and record["mean"] == pytest.approx(sum(at) / 4)
        assert not rule.one_sample(rule.losses_at(entry.series, before).values(), 1.38)["pass"]
    steps = [{seed: crossing_step(points, 1.38) for seed, points in entry.series.items()}
             for entry in standings.read_board(records).entries if entry.claim["recipe"] != "adamw"]
    differences = [steps[1][seed] - steps[0][seed] for seed in range(4)]
    assert muon["against"]["mean"] == pytest.approx(sum(differences) / 4) and muon["against"]["mean"] > 0
    assert aurora["against"] is None and adamw["against"] is None

    page = (records / "README.md").read_text()
    first, second = cells(page, "## `laptop`")
    assert first[:3] == ["1", "aurora", str(aurora["step"])]
    assert second[:3] == ["2", "muon", str(muon["step"])]
    assert re.fullmatch(r"\d+\.\d±\d+\.\d steps later<br>4 pairs, r -?\d\.\d\d", second[7])
    assert first[8:] == ["[2027-01-15](laptop/2027-01-15_aurora)", "-"]
    last, = cells(page, "**Target not reached.**")
    loss = "{mean:.4f} ({low:.4f}–{high:.4f})".format(**adamw["final"])
    assert last[:4] == ["adamw", loss, "300", "4 (0 cross)"]


def test_seconds_stand_in_tables_of_one_machine(records, made, run):
    add(records, "laptop/2027-01-16_aurora",
        made("--recipe aurora --seeds 0 1 2 3", device="B",
             ends={seed: end + 2e-5 for seed, end in ends(1.31).items()}))
    add(records, "laptop/2027-01-17_normuon", made("--recipe normuon --seeds 0 1 2", ends=ends(1.33)),
        made("--recipe normuon --seeds 3 4 5", ends=ends(1.33, 6), device="B"))
    code, found, _ = run(records)
    assert code == 0
    page = (records / "README.md").read_text()
    on_a = cells(page, "Seconds on one machine, a CPU, ")
    assert [row[0] for row in on_a] == ["muon", "aurora"] and float(on_a[0][1]) < float(on_a[1][1])
    on_b, = cells(page, "Seconds on one machine, B, ")
    assert on_b[5] == "[2027-01-15](laptop/2027-01-16_aurora)"
    mixed, = (r for r in found["records"] if r["path"].endswith("17_normuon"))
    assert mixed["machine"] is None and mixed["place"] and page.count("2027-01-17_normuon") == 1
    assert mixed["looks"] == [3, 6] and page.count("| 6 in 2 logs |") == 1


def test_seeds_that_never_cross_are_kept_and_prevent_the_paired_verdict(made, run, tmp_path):
    few = {seed: 1.36 + 0.0005 * (seed % 5) for seed in range(20)} | {7: 1.3805}
    words = f"--seeds {' '.join(map(str, range(20)))}"
    add(tmp_path, "laptop/2027-01-15_aurora", made(f"--recipe aurora {words}", ends=few))
    add(tmp_path, "laptop/2027-01-15_muon", made("--recipe muon --seeds 0 1 2 3", ends=ends(1.31)))
    code, found, _ = run(tmp_path)
    assert code == 0 and [r["recipe"] for r in found["records"]] == ["muon", "aurora"]
    crossing = found["records"][1]["crossing"]
    assert (crossing["n"], crossing["crossed"]) == (20, 19)
    entry = max(standings.read_board(tmp_path).entries, key=lambda entry: entry.claim["n"])
    seen = [crossing_step(points, 1.38) for seed, points in entry.series.items() if seed != 7]
    assert crossing["mean"] > sum(seen) / 19 and crossing["low"] < crossing["mean"] < crossing["high"]
    row = cells((tmp_path / "README.md").read_text(), "## `laptop`")[1]
    assert row[5] == "20 (19 cross)" and row[7] == "no test: a seed never crosses"


def test_on_the_race_steps_are_exchanged_for_loss(made, run, pinned, tmp_path):
    """In steps, the difference of two records is the bracket of track 3's pairwise rule."""
    for recipe, end in (("aurora", 3.270), ("muon", 3.276)):
        words = f"--track fineweb-124m --recipe {recipe} --seeds 0 1 2 3"
        add(tmp_path, f"fineweb-124m/2027-01-15_{recipe}", made(words, ends=ends(end), ms=60_000))
    code, found, _ = run(tmp_path)
    first, second = found["records"]
    assert code == 0 and first["step"] < second["step"]
    losses = [list(rule.losses_at(e.series, e.claim["step"]).values())
              for e in sorted(standings.read_board(tmp_path).entries, key=lambda e: e.claim["step"])]
    gain = rule.exchange(*losses, first["step"], second["step"])["gain"]
    assert second["against"]["mean"] == pytest.approx(gain / rule.NATS_PER_STEP)
    assert "| 1 | aurora |" in (tmp_path / "README.md").read_text()


def test_a_track_without_target_ranks_by_loss(made, run, pinned, tmp_path):
    for recipe, end in (("muon", 3.9), ("aurora", 3.8)):
        words = f"--track sprint --recipe {recipe} --seeds 0 1 2"
        add(tmp_path, f"sprint/2027-01-15_{recipe}", made(words, ends=ends(end), ms=60_000))
    code, found, _ = run(tmp_path)
    assert code == 0 and [r["recipe"] for r in found["records"]] == ["aurora", "muon"]
    rows = cells((tmp_path / "README.md").read_text(), "## `sprint`")
    assert [row[0] for row in rows] == ["1", "2"] and "nats higher" in rows[1][5]


########################################
#           What stays outside         #
########################################


def test_a_record_that_is_consistent_is_on_no_board_and_no_failure(records, run, made):
    (records / "laptop/2027-01-15_muon/challenge.json").unlink()
    add(records, "laptop/2027-01-16_aurora", made("--recipe aurora --seeds 0 1 2 3", ends=ends(1.29)))
    code, found, err = run(records)
    assert (code, err) == (0, []) and [r["recipe"] for r in found["records"]] == ["aurora", "adamw"]
    assert "not challenged yet" in found["left_out"]["laptop/2027-01-15_muon"]
    assert "of the same recipe and seed" in found["left_out"]["laptop/2027-01-16_aurora"]
    page = (records / "README.md").read_text()
    assert "_muon" not in page and "16_aurora" not in page


def test_no_page_is_written_where_it_is_not_known_what_stands(records, run, monkeypatch, tmp_path):
    monkeypatch.setattr("speedrun.verify.history.ROOT", tmp_path)
    code, found, err = run(records)
    assert (code, found, len(err)) == (1, None, 1) and "no record is known to stand" in err[0]
    assert not (records / "README.md").exists()


def test_a_record_that_does_not_stand_is_named_and_listed_nowhere(records, run):
    log = records / "laptop/2027-01-15_muon/0.txt"
    log.write_text(log.read_text().replace("step:100/300 val_loss:1", "step:100/300 val_loss:0", 1))
    code, found, err = run(records)
    assert code == 1 and list(found["failures"]) == ["laptop/2027-01-15_muon"]
    assert len(err) == 1 and "laptop/2027-01-15_muon does not stand" in err[0] and "0.txt:" in err[0]
    assert [r["recipe"] for r in found["records"]] == ["aurora", "adamw"]
    assert "_muon" not in (records / "README.md").read_text()
    assert run(records, "--check")[0] == 1, "the page is current, the record still does not stand"


@pytest.mark.parametrize("words, why", [
    ("--recipe aurora --recipe.lr 0.02 --seeds 0 1 2", "a recipe overridden on the command line"),
    ("--recipe aurora --seeds 0 1 2 --allow-custom --track.target 1.5", "a custom track")])
def test_custom_runs_and_overridden_recipes_are_on_no_board(records, made, run, words, why):
    name = "aurora+lr=0.02" if "lr" in words else "aurora"
    add(records, f"laptop/2027-01-18_{name}", made(words, ends=ends(1.29)))
    code, found, err = run(records)
    assert (code, err, found["left_out"]) == (0, [], {f"laptop/2027-01-18_{name}": why})
    assert len(found["records"]) == 3 and "2027-01-18" not in (records / "README.md").read_text()


@pytest.mark.parametrize("path", ["laptop/aurora", "laptop/2027-1-1_aurora", "2027-01-16_aurora",
                                  "sprint/2027-01-16_aurora", "laptop/2027-01-16_muon", "laptop", ".",
                                  "laptob/2027-01-16_aurora", "laptop/x/2027-01-16_aurora"])
def test_a_log_in_a_folder_of_another_name_is_a_failure(records, made, run, path):
    add(records, path, made("--recipe aurora --seeds 0 1 2", ends=ends(1.29)))
    code, found, err = run(records)
    assert code == 1 and list(found["failures"]) == [path] and len(err) == 1 and len(found["records"]) == 3


def test_logs_of_studies_are_not_the_boards(records, made, run):
    add(records, "studies/schedules/polish", made("--recipe aurora --seeds 0 1 2", ends=ends(1.29)))
    code, found, err = run(records)
    assert (code, err, found["failures"], len(found["records"])) == (0, [], {}, 3)


def test_a_copied_run_and_an_empty_record_are_failures(records, run):
    shutil.copytree(records / "laptop/2027-01-15_muon", records / "laptop/2027-01-16_muon")
    (records / "laptop/2027-01-16_aurora").mkdir()
    code, found, _ = run(records)
    assert code == 1 and len(found["records"]) == 3
    assert found["failures"]["laptop/2027-01-16_aurora"] == "it holds no log"
    assert "laptop/2027-01-15_muon" in found["failures"]["laptop/2027-01-16_muon"]


@pytest.mark.parametrize("path, about, says", [
    ("laptop/2027-01-16_normuon", None, ""),
    ("laptop/2027-01-16_normuon", '{"author": "A. B."}', ""),
    ("laptop/2027-01-16_normuon", '{"autor": "A. B."}', "did you mean author?"),
    ("laptop/2027-01-16_normuon", '{"author": 3}', "no name of 1 to 60 characters"),
    ("laptop/2027-01-16_normuon", "{", "no plain JSON object"),
    ("laptop/20270116_normuon", None, "records/TRACK/YYYY-MM-DD_RECIPE"),
    ("laptop/2027-01-33_normuon", None, "no day of the calendar"),
    ("sprint/2027-01-16_normuon", None, "its logs are of the track laptop"),
    ("laptob/2027-01-16_normuon", None, "its logs are of the track laptop"),
    ("laptop/2027-01-16_aurora", "copy", "a run counts once")])
def test_verify_says_what_the_board_says(records, made, run, capsys, path, about, says):
    """`verify.py until it stands` is what a contributor is told: the board may know no rule beyond it."""
    words, end = ("--recipe normuon --seeds 0 1 2", 1.29) if about != "copy" else (
        "--recipe aurora --seeds 0 1 2 3", 1.31)
    folder = add(records, path, made(words, ends=ends(end)))
    if about not in (None, "copy"):
        (folder / "record.json").write_text(about)
    code, found, _ = run(records)
    assert code == bool(says) and list(found["failures"]) == [path] * bool(says)
    assert verify.main([str(records), "--history", str(clone.clone())]) == code
    out = capsys.readouterr().out
    failed = [line for line in out.splitlines() if ": stands: " not in line]
    assert len(failed) == bool(says) and all(str(folder) in line and says in line for line in failed)


########################################
#               The page               #
########################################


def test_check_says_whether_the_page_would_change_and_writes_nothing(records, run):
    code, found, err = run(records, "--check")
    assert (code, found["changed"], len(err)) == (1, True, 1)
    assert "README.md is not what the logs give" in err[0]
    assert not (records / "README.md").exists()
    assert run(records)[0] == 0 and run(records, "--check")[0] == 0
    page = (records / "README.md").read_text()
    (records / "README.md").write_text(page.replace("| 1 | aurora |", "| 1 | mine |"))
    assert run(records, "--check")[0] == 1 and "mine" in (records / "README.md").read_text()
    assert run(records)[0] == 0 and (records / "README.md").read_text() == page


def test_the_page_depends_on_nothing_but_the_logs(records, run, tmp_path):
    assert run(records)[0] == 0
    other = tmp_path / "elsewhere/deeper"
    for folder in reversed(sorted(records.glob("*/*"))):
        shutil.copytree(folder, other / folder.relative_to(records))
    assert run(other)[0] == 0
    page = (other / "README.md").read_bytes()
    assert page == (records / "README.md").read_bytes() and str(tmp_path).encode() not in page


@pytest.mark.process
def test_many_records_are_read_by_several_processes_with_the_same_page(records, run, monkeypatch):
    log = records / "laptop/2027-01-15_adamw/0.txt"
    log.write_text(log.read_text()[:-20])
    (code, found, err), page = run(records), (records / "README.md").read_bytes()
    monkeypatch.setattr(standings, "MANY", 1)
    assert run(records) == (code, dict(found, changed=False), err) and code == 1
    assert (records / "README.md").read_bytes() == page


def test_the_author_is_what_the_folder_says_and_stays_text(records, made, run):
    (records / "laptop/2027-01-15_muon/record.json").write_text(json.dumps({"author": HOSTILE}))
    add(records, "laptop/2027-01-19_normuon",
        made("--recipe normuon --seeds 0 1 2", ends=ends(1.33), device=f"{HOSTILE}\n# no heading"))
    code, found, _ = run(records)
    assert code == 0 and HOSTILE in [r["author"] for r in found["records"]]
    page = (records / "README.md").read_text()
    author = next(row[9] for row in cells(page, "## `laptop`") if row[1] == "muon")
    assert re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", author) == printable(HOSTILE)
    assert re.search(r"(?<!\\)<(?!br>|0\.0001)", page) is None and "\n# no heading" not in page
    assert all(c == "\n" or c.isprintable() for c in page)
    assert len(cells(page, "Seconds on one machine, a\\|b")) == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"author": 1}', '{"author": ""}',
                                  '{"author": "a", "author": "b"}'])
def test_a_record_json_that_cannot_be_read_is_a_failure(records, run, text):
    (records / "laptop/2027-01-15_muon/record.json").write_text(text)
    code, found, err = run(records)
    assert code == 1 and list(found["failures"]) == ["laptop/2027-01-15_muon"]
    assert len(err) == 1 and "record.json" in err[0]


@given(st.text(max_size=80))
def test_any_name_is_one_cell_of_text(text):
    shown = page.escape(text)
    assert shown.isprintable()
    bare = re.sub(r"\\[!-/:-@\[-`{-~]", " ", shown)  # what is left when each escaped mark is taken out
    assert not set(bare) & set("\\`*_[]<>|~$")
    assert re.search(r"www\.|:\S|&[#\w]", bare) is None


########################################
#           Others' results            #
########################################


def row(number: int, step: int, runs: list, n: int | None = None, **more) -> dict:
    """A row of the reference file whose runs have these losses at the steps 2800, 2900, 3000."""
    return dict(row=number, name=f"recipe {number}", date="2026-05-01", step=step, claimed_mean=3.27,
                claimed_n=n or len(runs), n=len(runs), mean=3.27, sd=None, passes=True, readout="val_loss",
                hardware=[dict(gpu="NVIDIA H100 80GB HBM3", world_size=8, n=len(runs), step_ms=1.0)],
                near=[dict(steps=[2800, 2900, 3000], losses=runs)], deviations=[]) | more


def reference(root: Path, *rows: dict) -> None:
    path = root / "reference/track3.json"
    path.parent.mkdir(exist_ok=True)
    head = dict(source="S", commit="0" * 40, date="2026-08-01", target=3.28)
    path.write_text(json.dumps(dict(head, rows=rows)))


def test_others_results_stand_apart_with_official_step_and_crossing_step(records, run):
    first = [[3.285, 3.275, 3.270], [3.286, 3.274, 3.270]]   # cross at 2850 and 2850
    second = [[3.300, 3.284, 3.274], [3.301, 3.283, 3.275]]  # at 2940 and 2937.5
    third = [[3.292, 3.282, 3.277], [3.293, 3.282, 3.278]]   # at 2940 and 2950
    reference(records, row(1, 2950, second), row(3, 3000, third, passes=False),
              row(2, 3000, first, name="a|b", n=9, deviations=["claims n = 9"]),
              row(4, 2900, [[3.27, 3.26, 3.25]]))
    assert run(records)[0] == 0
    page = (records / "README.md").read_text()
    assert page.index("Others' results") > page.index("## Submitting")
    rows = cells(page, "## Others' results")
    assert [r[:2] for r in rows] == [["1", "2"], ["2", "1"], ["3", "3"], ["-", "4"]]
    assert [r[4] for r in rows] == ["3000 (3)", "2950 (2)", "3000† (3)", "2900 (1)"]
    mean, low, high = map(int, re.fullmatch(r"(\d+) \((\d+)–(\d+)\)", rows[1][3]).groups())
    assert low < mean < high and mean == round((2940 + 2937.5) / 2)
    assert rows[0][2:4] == ["a\\|b", "2850"], "two equal crossings have no interval"
    assert rows[0][5:] == ["2 of 9 claimed", "8x H100"] and rows[3][3] == "not in its logs"
    assert re.search(r"Of 2 pairs[^.]* 1 cross in the other order", page.replace("\n", " "))
    assert "- row 2: claims n = 9" in page


def test_a_broken_reference_file_is_one_line(records, run):
    reference(records, row(1, 2950, [[3.3, 3.2, 3.1]], near=[dict(steps=[1])]))
    code, found, err = run(records)
    assert (code, found, len(err)) == (1, None, 1) and "scripts/ingest.py" in err[0]
    assert not (records / "README.md").exists()


########################################
#              The command             #
########################################


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit):
        leaderboard.main(["--help"])
    assert "example" in capsys.readouterr().out


@pytest.mark.process
def test_a_folder_that_is_not_there_is_one_line_of_usage(tmp_path):
    wrong = subprocess.run([sys.executable, ROOT / "scripts/leaderboard.py", "--records", "nowhere"],
                           cwd=tmp_path, capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "nowhere" in wrong.stderr


def test_an_empty_folder_has_a_page_without_records(run, tmp_path):
    code, found, _ = run(tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert code == 0 and found["records"] == []
    assert "No record yet on `fineweb-124m` and `sprint` and `laptop`." in page and "## Submitting" in page
