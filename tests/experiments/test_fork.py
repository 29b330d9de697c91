"""scripts/fork.py: real processes on a tiny track, its refusals, its figures, and verify on its logs."""
import io
import json
import os
import re
import shutil
import signal
import time
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
import torch
from scipy import stats

import train_gpt
from optimizers import RECIPES, EmaNesterov, TailAverage
from scripts import fork, replay
from speedrun import ROOT
from speedrun.board import standings
from speedrun.experiments.fork_figures import lines, weigh
from speedrun.experiments.variants import differs, read_variant
from speedrun.log.format import Log, Point
from speedrun.log.reader import read_log
from speedrun.stats import intervals, rule
from speedrun.stats.planning import seeds_for_interval
from speedrun.verify.verdict import judge_record
from tests.support.edits import check  # noqa: F401
from tests.support.made_logs import make_log, parts, rechain

pytestmark = pytest.mark.process

TINY = ["--track", "laptop", "--device", "cpu", "--allow-custom", "--track.val_tokens=256",
        "--track.val_every", "10", "--track.tail", "0", "--track.context", "64", "--track.tokens_per_step",
        "256", "--track.model.num_layers", "1", "--track.model.model_dim", "32", "--steps", "200"]
WRAPPERS = (EmaNesterov(0.6, 0.9, first=5, last=120), TailAverage(first=100, horizon=10, weight=0.5))
WRAPPED = replace(RECIPES["aurora"], name="wrapped", wrappers=WRAPPERS)
PARTING = "wrapped+cooldown_frac=0.5+wrappers.TailAverage.first=80"  # from the lr of step 91 on
AT = 60

########################################
#               Real runs              #
########################################


@pytest.fixture
def wrapped(monkeypatch):
    """A recipe whose checkpoint holds the state of a wrapper; its tail average begins after the fork."""
    monkeypatch.setitem(RECIPES, "wrapped", WRAPPED)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the project that knows the recipe `wrapped`, for processes of its own."""
    root = tmp_path_factory.mktemp("checkout")
    folders = ("optimizers", "data", "speedrun", "scripts")
    for path in [*ROOT.glob("*.py"), *(p for part in folders for p in (ROOT / part).rglob("*.py"))]:
        target = root / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    with open(root / "optimizers/recipes.py", "a", encoding="utf-8") as file:
        file.write("\nfrom .wrappers import EmaNesterov, TailAverage  # noqa: E402\nRECIPES['wrapped'] = "
                   f"replace(RECIPES['aurora'], name='wrapped', wrappers={WRAPPERS!r})\n")
    return root


def words(laptop, folder):
    return ["--trunk", folder, "--at", AT, "--variants", "wrapped", PARTING, "--seeds", "0", *TINY, "--save",
            "--data-dir", laptop]


def kill_the_trainer(folder, step):
    """Kill the process that trains in `folder` once its log has `step`."""
    while not any(f"step:{step}/" in path.read_text() for path in folder.glob("*.txt")):
        time.sleep(0.02)
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended in between
            if str(folder).encode() in (process / "cmdline").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


@pytest.fixture(scope="module")
def forked(checkout, laptop, tmp_path_factory):
    """The folder of a fork of two variants of which one was killed and that the same command ended, and what
    it printed both times."""
    folder, printed = tmp_path_factory.mktemp("forked") / "D", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "wrapped", WRAPPED)
        patch.setattr("speedrun.experiments.fork.ROOT", checkout)
        Thread(target=kill_the_trainer, args=(folder / "seed0_wrapped", AT + 10), daemon=True).start()
        for code in (1, 0):
            with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
                assert fork.main([*words(laptop, folder), "--json"]) == code
            printed.append((out.getvalue(), err.getvalue()))
    return folder, printed


def the_log(folder):
    path, = folder.glob("*.txt")
    return read_log(path)


@pytest.mark.parametrize("variant", ["wrapped", PARTING])
def test_a_fork_has_the_digits_of_a_full_run(wrapped, forked, laptop, tmp_path, variant):
    words = read_variant(variant, TINY, [0]).command([0]).words
    full, forked = tmp_path / "full", forked[0] / f"seed0_{variant}"
    assert train_gpt.main([*words, "--data-dir", laptop, "--log-dir", full, "--save"]) == 0
    ends = [{p.step: p.val_loss for p in the_log(folder).series[0]} for folder in (full, forked)]
    assert ends[1] == {step: loss for step, loss in ends[0].items() if step >= AT} and AT in ends[1]
    weights = [torch.load(folder / "weights_seed0.pt", weights_only=True) for folder in (full, forked)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_an_interrupted_fork_goes_on_and_what_is_done_is_kept(forked):
    folder, ((nothing, first), (out, second)) = forked
    assert not nothing and first.splitlines()[-1].startswith("fork.py: wrapped of seed 0 failed: ")
    assert "trunk" in first and "trunk" not in second  # that was done
    found = json.loads(out)
    kinds = {name: [kind for _, kind, _ in the_log(folder / f"seed0_{name}").events if kind != "source"]
             for name in ("wrapped", PARTING)}
    assert kinds["wrapped"].count("resume") == 2 and kinds[PARTING].count("resume") == 1
    assert kinds[PARTING][:4] == ["log", "run", "fork", "resume"]
    assert not list(folder.glob("seed0_*/checkpoint_*")) and list(folder.glob("seed0/checkpoint_*"))
    trunk, = (folder / "seed0").glob("*.txt")
    event = next(data for _, kind, data in the_log(folder / "seed0_wrapped").events if kind == "fork")
    assert event["trunk"] == trunk.name and event["step"] == AT
    ends = {name: row["val_loss"]["0"] for name, row in found["variants"].items()}
    assert found["variants"][PARTING]["difference"]["mean"] == ends[PARTING] - ends["wrapped"] != 0
    assert (found["at"], found["seeds"], found["reference"]) == (AT, [0], "wrapped")
    assert 0 < found["seconds"]["saved"] < found["seconds"]["full"]


def test_verify_takes_a_fork_as_consistent_and_without_a_claim(wrapped, forked):
    for folder in forked[0].glob("seed0*"):
        (folder / "weights_seed0.pt").rename(forked[0] / "kept.pt")  # no part of a record
        verdict = judge_record(folder)
        (forked[0] / "kept.pt").rename(folder / "weights_seed0.pt")
        assert verdict.failures == [] and not verdict.claim["board"]
        assert verdict.claim["forked"] == (None if folder.name == "seed0" else AT)
        assert verdict.claim["no_time"] == (None if folder.name == "seed0" else "forked runs")


@pytest.mark.faults
def test_two_ranks_agree_with_one_and_so_does_a_replay(checkout, wrapped, forked, laptop, tmp_path,
                                                       monkeypatch):
    monkeypatch.setattr("speedrun.experiments.fork.ROOT", checkout)
    assert fork.main([*words(laptop, tmp_path / "D"), "--nproc", "2"]) == 0
    for variant in ("wrapped", PARTING):
        one, two = (the_log(folder / f"seed0_{variant}").series[0] for folder in (forked[0], tmp_path / "D"))
        assert [p.step for p in one] == [p.step for p in two]
        assert all(abs(a.val_loss - b.val_loss) < 2e-3 for a, b in zip(one, two))
    log, = (tmp_path / "D" / f"seed0_{PARTING}").glob("*.txt")
    assert read_log(log).header["world_size"] == 2
    assert replay.main([log, "--yes", "--data-dir", laptop, "--log-dir", tmp_path / "replay"]) == 0


@pytest.mark.parametrize("damage, word", [
    (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"), "does not have the sha256"),
    (lambda path: path.unlink(), "No such file"),
    (lambda path: path.with_suffix(".json").unlink(), "No such file"),
])
def test_a_damaged_trunk_is_refused(capsys, wrapped, forked, laptop, tmp_path, damage, word):
    folder = tmp_path / "D"
    shutil.copytree(forked[0], folder)
    shutil.rmtree(folder / f"seed0_{PARTING}")
    damage(folder / "seed0" / f"checkpoint_000_{AT:07d}.pt")
    line = refusal(capsys, "--trunk", folder, "--variants", "wrapped", PARTING, "--data-dir", laptop, code=1)
    assert word in line and f"delete that folder and {folder / 'seed0'}_*" in line
    assert not (folder / f"seed0_{PARTING}").exists()


@pytest.mark.parametrize("args, word", [
    (["--at", "50"], "holds another run than wrapped from step 50"),
    (["--variants", "wrapped+lr=0.01", "wrapped"], "differ"),
    (["--variants", "wrapped+lr=0.01", "wrapped+lr=0.01+cooldown_frac=0.5"], "lr: 0.028 there, 0.01 here"),
    (["--track.val_every", "20"], "another track"),
])
def test_the_trunk_of_another_fork_is_refused(capsys, wrapped, forked, laptop, args, word):
    given = {"--at": [AT], "--variants": ["wrapped", f"{PARTING}5"]}
    given |= {args[0]: args[1:]}
    args = [w for flag, values in given.items() for w in (flag, *values)]
    code = 2 if word == "differ" else 1
    assert word in refusal(capsys, "--trunk", forked[0], *args, "--data-dir", laptop, code=code)


########################################
#               Refusals               #
########################################


def refusal(capsys, *args, code=2) -> str:
    """The one line with which fork.py answers."""
    given = ["--at", str(AT), "--seeds", "0", *TINY, *map(str, args)]  # the last of a flag counts
    assert fork.main(given) == code
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and err.startswith("fork.py: "), err
    return err


@pytest.mark.parametrize("other, at, word", [
    ("aurora+lr=0.01", 60, "lr: 0.028 there, 0.01 here"),
    ("muon", 60, "balance.up: rows there, None here"),
    ("aurora+matrices.BalancedPolar.beta=0.4", 60, "matrices.1: BalancedPolar(iterations=2, beta=0.5"),
    ("aurora+aux.head_lr=0.1", 60, "aux.head_lr: 0.004 there, 0.1 here"),
    ("aurora+init.up=1", 60, "init.up: 0.33 there, 1.0 here"),
    ("aurora+cooldown_frac=0.5", 92, "the lr of the hidden matrices at step 91: 0.995238 of its peak there, "
     "1 here"),
    ("aurora+aux.cooldown_frac=0.8", 92, "the lr of the auxiliary AdamW at step 61"),
    ("aurora+warmup_steps=5", 2, "the lr of the hidden matrices at step 0: 1 of its peak there, 0.2 here"),
    ("aurora+schedule_steps=200", 92, "at step 61: 1 of its peak there"),
    ("wrapped", 2, "wrappers.0: None there, EmaNesterov("),
])
def test_variants_that_differ_before_the_fork_are_refused(capsys, wrapped, tmp_path, other, at, word):
    line = refusal(capsys, "--trunk", tmp_path / "D", "--at", at, "--variants", "aurora", other)
    assert word in line and f"differ before step {at}" in line and not (tmp_path / "D").exists()


def test_the_last_step_at_which_schedules_agree(wrapped):
    cooled, flat, tail, later = (read_variant(text, TINY, [0]).plan_of(0).recipe for text in (
        "wrapped", "wrapped+cooldown_frac=0.5", "wrapped+wrappers.TailAverage.first=91",
        "wrapped+schedule_steps=320+steps=310"))
    assert differs(cooled, flat, 91) is None and differs(cooled, flat, 92) is not None
    assert differs(cooled, tail, 90) is None and "wrappers.1" in differs(cooled, tail, 91)
    assert differs(cooled, later, 91) is None and differs(cooled, later, 92) is not None


@pytest.mark.parametrize("args, word", [
    (["--at", "0"], "--at 0"), (["--at", "200"], "aurora takes 200 steps"),
    (["--variants", "aurora"], "at least two"), (["--variants", "aurora", "aurora"], "each once"),
    (["--variants", "aurora", "aurorra"], "unknown recipe 'aurorra'; did you mean aurora"),
    (["--variants", "aurora", "aurora+lr"], "unknown recipe 'aurora+lr'"),
    (["--variants", "aurora", "aurora+../x=1"], "write a recipe and its overrides"),
    (["--variants", "aurora", "aurora+lrr=1"], "no field 'lrr'"),
    (["--recipe.lr", "0.1"], "--recipe.lr is not for all the runs"),
    (["--log-dir", "x"], "--log-dir is not for all the runs"), (["--nproc", "0"], "--nproc 0"),
    (["--seeds", "1", "1"], "each seed once"), (["--what"], "unknown argument '--what'"),
])
def test_usage_that_cannot_be(capsys, tmp_path, args, word):
    given = [] if "--variants" in args else ["--variants", "aurora", "aurora+cooldown_frac=0.5"]
    assert word in refusal(capsys, "--trunk", tmp_path / "D", *given, *args)
    assert not (tmp_path / "D").exists()


########################################
#               Figures                #
########################################


@pytest.fixture(scope="module")
def whole_text(tmp_path_factory):
    """The text of a log of one seed of the laptop track."""
    return make_log(tmp_path_factory.mktemp("whole") / "log.txt", "--seeds 0").read_text()


def a_fork(text: str, at: int, **changed) -> str:
    """The text of a log as if it were a fork at step `at`, with the fields of the event changed."""
    pieces, seconds = [], 0.0
    for piece in parts(text):
        if piece[0].startswith("step:") and int(piece[0][5:].split("/")[0]) <= at:
            seconds = float(piece[0].split("train_time:")[1].split("s ")[0])
        if not re.match(r"step:(\d+)/", piece[0]) or int(piece[0][5:].split("/")[0]) >= at:
            pieces.append(piece)
    header = next(i for i, piece in enumerate(pieces) if piece[0].startswith("@ run "))
    event = dict(dict(trunk="a.txt", sha256="0" * 64, step=at, seconds=seconds), **changed)
    more = [[f"@ fork {json.dumps(event)} #\n"], [f'@ resume {{"seed": 0, "step": {at}}} #\n']]
    return rechain(pieces[:header + 1] + more + pieces[header + 1:])


def without(text: str, start: str) -> str:
    return rechain([piece for piece in parts(text) if not piece[0].startswith(start)])


def test_forks_of_an_official_track_stand_and_are_on_no_board(check, whole_text, tmp_path):  # noqa: F811
    folder = tmp_path / "records/laptop/2027-01-15_aurora"
    for at in (100, 110):  # on the grid, and beside it
        assert check(text=a_fork(whole_text, at)) == (0, [])
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text(a_fork(whole_text, 100))
    found = standings.read_board(tmp_path / "records")
    assert found.entries == [] and found.failures == {}
    assert found.left_out == {"laptop/2027-01-15_aurora": "forked from another run"}


@pytest.mark.parametrize("edit, rule", [
    (lambda t: a_fork(t, 100, step=75), "grid"), (lambda t: a_fork(t, 100, seconds=30.0), "times"),
    (lambda t: a_fork(t, 110, seconds=90.0), "times"), (lambda t: a_fork(t, 100, sha256="x"), "fork"),
    (lambda t: a_fork(t, 100, step="a"), "fork"), (lambda t: a_fork(a_fork(t, 100), 100), "fork"),
    (lambda t: a_fork(t, 300), "fork"), (lambda t: without(a_fork(t, 100), "@ resume"), "fork"),
    (lambda t: without(a_fork(t, 100), "@ fork"), "grid"),
])
def test_a_fork_that_does_not_add_up_is_found(check, whole_text, edit, rule):  # noqa: F811
    code, found = check(text=edit(whole_text))
    assert code == 1 and rule in {name for _, name, _ in found}


def a_log(seed: int, loss: float, seconds: float, steps: int, at: int | None = None) -> Log:
    """A run that ends at `loss` after `seconds`; with `at` one forked there after at / 2 seconds."""
    header = dict(recipe=dict(steps=steps), track=dict(name="laptop", official=True, target=1.38))
    events = [] if at is None else [(1, "fork", dict(step=at, seconds=at / 2))]
    return Log(Path("a.txt"), header, {}, events, {seed: [Point(steps, loss, seconds, 2)]})


def test_the_figures_of_a_fork():
    a, b = [1.30, 1.34, 1.32, 1.36], [1.31, 1.352, 1.329, 1.373]
    trunks = {seed: a_log(seed, 1.9, 45.5, 91) for seed in range(4)}
    forks = {name: {seed: a_log(seed, losses[seed], 150, 300, at=90) for seed in range(4)}
             for name, losses in (("aurora", a), ("other", b))}
    found = weigh(trunks, forks)
    d = found["variants"]["other"]["difference"]
    assert d["mean"] == pytest.approx(0.011) and d["p"] == pytest.approx(stats.ttest_rel(b, a).pvalue)
    assert d["correlation"] == pytest.approx(stats.pearsonr(a, b).statistic)
    assert "difference" not in found["variants"]["aurora"]
    half = (d["high"] - d["low"]) / 2
    sds = [intervals.mean_interval(losses)["sd"] for losses in (b, a)]
    assert d["unpaired_seeds"] == seeds_for_interval(half, sds) > 100
    # 8 full runs of 150 s; of these 4 trunks of 45.5 s, and 8 rests of 105 s
    assert found["seconds"] == dict(trunks=182, forks=840, full=1200, saved=178)
    text = lines(found)
    assert f"above aurora, two-sided p = {d['p']:.2g} over 4 pairs" in text[-2]
    assert f"need {d['unpaired_seeds']} seeds" in text[-2] and "0.049 h (15%) are saved" in text[-1]


@pytest.mark.parametrize("half, sds", [(0.001, (0.002, 0.002)), (0.0004, (0.0013, 0.0007)), (1, (1e-3, 0))])
def test_unrelated_seeds_for_an_interval(half, sds):
    def reach(n):  # scipy's own Welch interval, from samples of exactly these sds
        x = stats.norm.ppf((torch.arange(n) + 0.5) / n)
        a, b = (sd * (x - x.mean()) / x.std(ddof=1) for sd in sds)
        low, high = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
        return (high - low) / 2
    n = seeds_for_interval(half, sds)
    assert reach(n) <= half * (1 + 1e-6) and (n == 2 or reach(n - 1) > half)
    with pytest.raises(ValueError, match="positive"):
        seeds_for_interval(0.0, sds)
