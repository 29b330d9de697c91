"""The four questions, as scripts/stats.py asks them of log files written here and as Python code may."""
import json
import math
import subprocess
import sys

import pytest
from scipy import stats as scipy_stats

from scripts import stats
from speedrun import ROOT
from speedrun.log.writer import LogWriter
from speedrun.report import answers
from tests.support.made_logs import make_log

RACE = dict(name="fineweb-124m", official=True, target=3.28)
LAPTOP = dict(name="laptop", official=True, target=1.38)


def write(path, curves, recipe="muon", track=RACE, seeds=None, steps=(0, 3175, 3200), end="complete",
          data="abc", code="1"):
    """A log: losses by seed at `steps`."""
    log = LogWriter(path)
    log.event("run", seeds=list(curves) if seeds is None else seeds, track=track, recipe=dict(name=recipe),
              data=dict(val=[dict(sha256=data)]), sha256=dict(code=code))
    for seed, losses in curves.items():
        for step, loss in zip(steps, losses):
            log.validation(step, steps[-1], loss, 0.5 * step, seed)
    log.end(end)
    return path


def call(capsys, *words):
    """The JSON that the command prints."""
    assert stats.main([*words, "--json"]) == 0
    out = capsys.readouterr()
    assert out.err == ""
    return json.loads(out.out, parse_constant=lambda name: pytest.fail(f"{name} in the JSON"))


def text(capsys, *words):
    assert stats.main(list(words)) == 0
    out = capsys.readouterr()
    assert out.err == ""
    return out.out


@pytest.fixture
def muon(tmp_path):
    curves = {0: [11, 3.2812, 3.2785], 1: [11, 3.2801, 3.2772], 2: [11, 3.2795, 3.2768],
              3: [11, 3.2803, 3.2779]}
    return write(tmp_path / "muon.txt", curves)


########################################
#                 one                  #
########################################


def test_one_at_a_step(capsys, muon):
    found = call(capsys, "one", muon, "--step", "3200", "--target", "3.28")
    losses = [3.2785, 3.2772, 3.2768, 3.2779]
    mean = sum(losses) / 4
    assert found["n"] == 4 and found["mean"] == pytest.approx(mean) and found["pass"] is True
    assert found["z"] == pytest.approx((3.28 - mean) * 2 / 0.0013)
    assert found["p"] == pytest.approx(scipy_stats.norm.sf(found["z"]))
    assert found["t_p"] == pytest.approx(scipy_stats.ttest_1samp(losses, 3.28, alternative="less").pvalue)
    assert found["official_step"] == 3200 and found["seeds"] == [0, 1, 2, 3]
    assert found["crossing"]["crossed"] == 4 and 3170 < found["crossing"]["mean"] < 3195

    found = call(capsys, "one", muon, "--step", "3175", "--target", "3.28")
    assert found["pass"] is False and found["step"] == 3175 and found["official_step"] == 3200
    words = text(capsys, "one", muon, "--step", "3175")
    assert "the target is not shown to be reached; the first step that passes is 3200" in words


def test_one_finds_the_step_and_warns_of_the_choice(capsys, muon):
    found = call(capsys, "one", muon)  # the step is the official one, the target the track's
    assert (found["step"], found["target"]) == (3200, 3.28)
    assert "fresh seeds would pass there with probability 0." in found["warnings"][0]
    assert "overstated" in found["warnings"][1]
    assert call(capsys, "one", muon, "--step", "3175")["warnings"] == []
    words = text(capsys, "one", muon, "--best-of", "20")
    assert "warning: the best of 20 equal recipes passes at the target with probability 0.021" in words
    assert "by 0.00121 nats" in words  # 1.867 * .0013 / 2


def test_a_fork_claims_no_official_step(capsys):
    fork = ROOT / "records" / "studies" / "fork" / "forked-aurora"
    found = call(capsys, "one", fork)
    assert found["official_step"] is None and found["pass"] and found["step"] == 300
    assert found["forked"] and "forks claim no official step" in text(capsys, "one", fork)
    full = call(capsys, "one", ROOT / "records" / "studies" / "fork" / "full-cooldown")
    assert full["official_step"] and not full["forked"]


def test_other_tracks_estimate_sigma(capsys, tmp_path):
    curves = {0: [5, 1.4, 1.361], 1: [5, 1.4, 1.359], 2: [5, 1.4, 1.366]}
    log = write(tmp_path / "a.txt", curves, track=LAPTOP)
    found = call(capsys, "one", log, "--step", "3200", "--target", "1.38")
    test = scipy_stats.ttest_1samp([1.361, 1.359, 1.366], 1.38, alternative="less")
    assert (found["z"], found["p"]) == pytest.approx((-test.statistic, test.pvalue))
    assert found["sigma"] is None
    assert found["pass"] is False  # p = .0076: three seeds are few at this level
    sure = write(tmp_path / "c.txt", {k: [5, 1.4, 1.36 + k / 1e4] for k in range(5)}, track=LAPTOP)
    warnings = call(capsys, "one", sure)["warnings"]  # of a t-test, p says nothing of fresh seeds
    assert not any("fresh seeds" in warning for warning in warnings)
    assert "needs 0.001" in text(capsys, "one", log)
    custom = write(tmp_path / "b.txt", curves, track=dict(RACE, official=False))
    assert call(capsys, "one", custom, "--target", "1.38")["sigma"] is None


def test_one_seed_has_no_t_test_and_no_interval(capsys, tmp_path):
    log = write(tmp_path / "a.txt", {5: [5, 1.4, 1.361]}, track=LAPTOP)
    found = call(capsys, "one", log, "--step", "3200")
    assert (found["n"], found["sd"], found["z"], found["p"], found["pass"]) == (1, None, None, None, False)
    assert "one seed or equal losses" in text(capsys, "one", log)


def test_seeds_that_never_cross_are_kept(capsys, tmp_path):
    curves = {s: [11, 3.281, 3.2790 + 0.0002 * s] for s in range(4)} | {4: [11, 3.29, 3.2801]}
    words = text(capsys, "one", write(tmp_path / "a.txt", curves))
    assert "4 of 5 seeds cross the target, the others count as later" in words
    log = write(tmp_path / "b.txt", {0: [11, 3.4, 3.3]})
    assert "mean crossing step: none, as 0 of 1 seed cross the target" in text(capsys, "one", log)


def test_a_folder_is_its_logs(capsys, tmp_path):
    folder = tmp_path / "2026-11-22_muon"
    folder.mkdir()
    write(folder / "a.txt", {0: [11, 3.281, 3.2771], 1: [11, 3.281, 3.2775]})
    write(folder / "b.txt", {2: [11, 3.281, 3.2768]})
    (folder / "README.md").write_text("no log\n")
    assert call(capsys, "one", folder, "--step", "3200")["seeds"] == [0, 1, 2]


def test_logs_of_the_trainer_and_the_tracks_grid(capsys, tmp_path):
    """A finer grid than the track's (--val-every) does not move the official step."""
    ends = {seed: 1.30 + 0.001 * seed for seed in range(5)}
    seeds = "--seeds " + " ".join(map(str, ends))
    log = make_log(tmp_path / "a.txt", f"--track laptop --recipe muon {seeds} --val-every 1", ends)
    coarse = make_log(tmp_path / "b.txt", f"--track laptop --recipe muon {seeds}", ends)
    found, plain = call(capsys, "one", log), call(capsys, "one", coarse)
    assert found["official_step"] == plain["official_step"] and found["pass"]
    assert found["official_step"] % 5 == 0 and found["crossing"] == plain["crossing"]
    assert call(capsys, "one", log, "--step", "283")["step"] == 283


MODDED = """import torch
{bar}
Running Python 3.12.7 and PyTorch 2.10.0
{bar}
""".format(bar="=" * 100)


def modded(path, trials):
    """A log of modded-nanogpt's track 3 with several trials."""
    lines = []
    for losses in trials:
        for step, loss in zip((0, 3175, 3200), losses):
            seconds = step * 0.15
            lines.append(f"step:{step}/3200 val_loss:{loss:.5f} train_time:{seconds:.3f}s step_avg:1.00ms\n")
    path.write_text(MODDED + "".join(lines))
    return path


def test_logs_of_modded_nanogpt(capsys, tmp_path):
    log = modded(tmp_path / "a.txt", [[11, 3.2812, 3.2785], [11, 3.2801, 3.2772], [11, 3.2795, 3.2768]])
    more = modded(tmp_path / "b.txt", [[11, 3.2803, 3.2779]])
    found = call(capsys, "one", log, more, "--step", "3200", "--target", "3.28")
    assert (found["n"], found["sigma"], found["pass"]) == (4, 0.0013, True)
    assert "declare no seeds" in found["warnings"][0]
    found = call(capsys, "pair", "--a", log, "--b", more, "--step", "3200")
    assert found["method"] == "welch"  # trial 0 of one is not the seed of trial 0 of the other
    assert found["exchange"]["pass"] is False
    assert stats.main(["one", str(log)]) == 2
    assert "give --target" in capsys.readouterr().err


########################################
#                 pair                 #
########################################


def test_pair_by_seed(capsys, muon, tmp_path):
    curves = {0: [11, 3.2790, 3.2766], 1: [11, 3.2780, 3.2755], 2: [11, 3.2778, 3.2749],
              9: [11, 3.2783, 3.2761]}
    aurora = write(tmp_path / "aurora.txt", curves, recipe="aurora")
    found = call(capsys, "pair", "--a", aurora, "--b", muon)
    test = scipy_stats.ttest_rel([3.2766, 3.2755, 3.2749], [3.2785, 3.2772, 3.2768])
    assert (found["method"], found["n"], found["left_out"]) == ("paired", 3, 2)
    assert (found["p"], found["mean"]) == pytest.approx((test.pvalue, -0.0055 / 3))
    assert (found["a"], found["b"], found["steps"]) == ("aurora", "muon", [3200, 3200])
    gain = sum([3.2785, 3.2772, 3.2768, 3.2779]) / 4 - sum([3.2766, 3.2755, 3.2749, 3.2761]) / 4
    assert found["exchange"]["statistic"] == pytest.approx(gain / math.sqrt(0.5))
    correlation = scipy_stats.pearsonr([3.2790, 3.2780, 3.2778], [3.2812, 3.2801, 3.2795]).statistic
    words = text(capsys, "pair", "--a", aurora, "--b", muon, "--step", "3175", "--best-of", "3")
    assert "verdict: A is lower at the 5 % level" in words and f"correlation {correlation:.2f}" in words
    assert "left out: 2 losses" in words and "the best of 3 equal recipes is called lower" in words
    assert "of the same code" not in words
    other = write(tmp_path / "other.txt", curves, recipe="aurora", code="2")
    assert "warning: A and B are not of the same code" in text(capsys, "pair", "--a", other, "--b", muon)


def test_pair_at_different_steps_by_the_exchange_rate(capsys, muon, tmp_path):
    curves = {seed: [11, 3.2790, 3.2785 + 0.0001 * seed] for seed in range(4)}
    fast = write(tmp_path / "fast.txt", curves, recipe="fast", steps=(0, 2900, 3000))
    found = call(capsys, "pair", "--a", fast, "--b", muon)
    assert found["steps"] == [3000, 3200] and found["exchange"]["pass"] is True
    assert "each at its own step" in text(capsys, "pair", "--a", fast, "--b", muon)
    curves = {0: [5, 4, 3], 1: [5, 4, 3.1]}
    laptop = [write(tmp_path / f"{x}.txt", curves, track=LAPTOP, steps=(0, 10, x)) for x in (20, 30)]
    assert stats.main(["pair", "--a", str(laptop[0]), "--b", str(laptop[1])]) == 2
    assert "no exchange rate" in capsys.readouterr().err
    assert call(capsys, "pair", "--a", laptop[0], "--b", laptop[1], "--step", "10")["exchange"] is None


def test_the_longer_run_may_have_read_more_shards(capsys, tmp_path):
    shards, log = [dict(name=f"{i}.bin", sha256=str(i)) for i in range(3)], {}
    for name, train in (("a", shards[:2]), ("b", shards), ("c", shards[1:])):
        log[name] = LogWriter(tmp_path / f"{name}.txt")
        log[name].event("run", seeds=[0], track=RACE, recipe=dict(name=name), data=dict(val=[], train=train))
        log[name].validation(3200, 3200, 3.28, 1.0, 0)
        log[name].end("complete")
    a, b, c = (str(log[name].path) for name in "abc")
    assert call(capsys, "pair", "--a", a, "--b", b)["mean"] == 0
    assert stats.main(["pair", "--a", a, "--b", c]) == 1
    assert "different tracks or data" in capsys.readouterr().err


def test_what_does_not_differ_significantly(capsys, muon, tmp_path):
    curves = {0: [11, 3.28, 3.2786], 1: [11, 3.28, 3.2771], 2: [11, 3.28, 3.2769]}
    near = write(tmp_path / "near.txt", curves, recipe="near")
    found = call(capsys, "pair", "--a", near, "--b", muon)
    assert found["low"] < 0 < found["high"] and found["p"] > 0.05
    words = text(capsys, "pair", "--a", near, "--b", muon)
    assert "verdict: no significant difference at the 5 % level" in words


def test_a_recipe_against_itself(capsys, muon):
    found = call(capsys, "pair", "--a", muon, "--b", muon)
    assert (found["mean"], found["low"], found["p"]) == (0, None, None)
    assert "no test" in text(capsys, "pair", "--a", muon, "--b", muon)


########################################
#            power and plan            #
########################################


def test_power(capsys):
    found = call(capsys, "power", "--margin", "0.001", "--alpha", "0.01")
    assert found["t_test"]["n"] == 20 and found["rule"] == 26
    found = call(capsys, "power", "--difference", "0.001", "--alpha", "0.01", "--correlation", "0.9")
    assert found["unpaired"]["n"] == 36 and found["paired"]["n"] < 10
    words = text(capsys, "power", "--difference", "0.001", "--alpha", "0.01")
    assert "unrelated seeds: 36 of each recipe" in words and "same seeds" not in words


def test_plan(capsys):
    words = ("plan", "--looks", "4", "8", "12", "16", "20", "--margin", "0.001", "--alpha", "0.025")
    found = call(capsys, *words)
    z = [row["z"] for row in found["looks"]]
    assert z == pytest.approx([4.877, 3.357, 2.680, 2.290, 2.031], abs=6e-4)
    assert found["naive_error"] == pytest.approx(0.142 / 2, abs=1e-3)
    assert "at each of these looks would be wrong with probability 0.071" in text(capsys, *words)
    paired = call(capsys, *words[:-4], "--difference", "0.001", "--correlation", "0.9")
    alone = call(capsys, *words[:-4], "--difference", "0.001", "--spending", "pocock")
    assert paired["power"] > alone["power"] and paired["expected_alternative"] < 20
    assert "never" in text(capsys, "plan", "--looks", "1", "20", "--margin", "0.001")


def test_python_code_may_ask(capsys, muon):
    assert answers.one([muon], step=3175) == call(capsys, "one", muon, "--step", "3175")
    assert answers.pair([muon], [muon]) == call(capsys, "pair", "--a", muon, "--b", muon)
    assert answers.power(margin=0.001) == call(capsys, "power", "--margin", "0.001")
    assert answers.plan([4, 8], difference=0.001, correlation=0.5) == call(
        capsys, "plan", "--looks", "4", "8", "--difference", "0.001", "--correlation", "0.5")
    with pytest.raises(ValueError, match="effect -1 must be"):
        answers.power(margin=-1)


########################################
#               Bad input              #
########################################


def test_bad_input_is_answered_by_one_line(capsys, muon, tmp_path):
    good = str(muon)
    edited = tmp_path / "edited.txt"
    edited.write_text(muon.read_text().replace("val_loss:3.27850", "val_loss:3.27750"))
    (tmp_path / "empty").mkdir()
    one = {0: [11, 3.29, 3.28]}
    other = str(write(tmp_path / "r.txt", {8: [11, 3.29, 3.28]}, recipe="other"))
    not_a_number = str(write(tmp_path / "n.txt", {0: [11, 3.29, math.nan]}))
    cases = [
        (1, ["one", str(edited)], "edited.txt:5: the hash"),
        (1, ["one", str(ROOT / "README.md")], "not a record log"),
        (2, ["one", str(tmp_path / "none.txt")], "none.txt"),
        (2, ["one", str(tmp_path / "empty")], "holds no log"),
        (1, ["one", str(write(tmp_path / "i.txt", one, end="interrupted"))], "the run is interrupted"),
        (1, ["one", str(write(tmp_path / "m.txt", one, seeds=[0, 1]))], "every declared seed counts"),
        (1, ["one", str(write(tmp_path / "v.txt", {}))], "no validation"),
        (1, ["one", good, good], "a seed counts once"),
        (1, ["one", good, other], "another track, recipe"),
        (1, ["one", not_a_number, "--step", "3200"], "is nan there"),
        (2, ["one", good, "--step", "3190"], "name one that all have, as 0, 3175, 3200"),
        (2, ["one", good, "--target", "nan"], "--target"),
        (2, ["one", good, "--best-of", "0"], "best of 0"),
        (2, ["one"], "logs"),
        (2, [], "one"),
        (1, ["pair", "--a", good, "--b", str(write(tmp_path / "d.txt", one, data="x"))], "different tracks"),
        (2, ["pair", "--a", good], "--b"),
        (2, ["power"], "--margin"),
        (2, ["power", "--margin", "0.001", "--difference", "0.001"], "not allowed"),
        (2, ["power", "--margin", "-1"], "effect -1.0 must be"),
        (2, ["power", "--difference", "0.001", "--correlation", "1"], "correlation 1.0 must be"),
        (2, ["plan", "--looks", "8", "4", "--margin", "0.001"], "ascending"),
        (2, ["plan", "--looks", "4", "--margin", "0.001", "--alpha", "2"], "alpha 2.0 must"),
    ]
    for code, words, part in cases:
        assert stats.main(words) == code, words
        out = capsys.readouterr()
        assert part in out.err and len(out.err.splitlines()) == 1 and out.out == "", (words, out.err)


def test_a_name_from_a_log_stays_text(capsys, tmp_path):
    log = write(tmp_path / "a.txt", {0: [11, 3.29, 3.28]}, recipe="\x1b[31mred")
    assert stats.main(["one", str(log), "--step", "7"]) == 2
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("mode", [[], ["one"], ["pair"], ["power"], ["plan"]])
def test_help_has_an_example(capsys, mode):
    with pytest.raises(SystemExit) as end:
        stats.main([*mode, "--help"])
    assert end.value.code == 0 and "python scripts/stats.py plan" in capsys.readouterr().out


@pytest.mark.process
def test_as_a_process_from_another_folder(muon, tmp_path):
    words = [sys.executable, str(ROOT / "scripts/stats.py"), "one", "muon.txt", "--step", "3200", "--json"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "" and json.loads(done.stdout)["pass"] is True


def test_a_reworded_note_is_the_same_recipe(capsys, tmp_path, monkeypatch):
    from dataclasses import replace

    from optimizers import RECIPES
    make_log(tmp_path / "a.txt", "--track laptop --recipe muon --seeds 0 1")
    monkeypatch.setitem(RECIPES, "muon", replace(RECIPES["muon"], note="another note"))
    make_log(tmp_path / "b.txt", "--track laptop --recipe muon --seeds 2 3")
    assert stats.main(["one", str(tmp_path / "a.txt"), str(tmp_path / "b.txt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 4
