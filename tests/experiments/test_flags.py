"""A flag that may change a loss is declared once, and no command that starts train_gpt.py loses it: each is
given a flag made up for the test, and stopped where it would start a run."""
import subprocess

import pytest

import train_gpt
from scripts import compare, fork, replay, verify
from speedrun import ROOT, launch
from speedrun.bench import against
from speedrun.cli import Refusal
from speedrun.experiments import challenge, sweep
from speedrun.experiments.variants import read_variant
from speedrun.log import command
from speedrun.log.command import Command, Flag
from speedrun.training import resume
from tests.support.made_logs import make_log

MADE_UP = Flag("--made-up", "of a test", loss=True, options=dict(type=float, metavar="X"))
LOGGED = "--track laptop --recipe muon --recipe.lr 0.5 --val-every 50 --fast --save --seeds 3 4 --made-up 0.5"


@pytest.fixture(autouse=True)
def declared(monkeypatch):
    monkeypatch.setattr(command, "FLAGS", (*command.FLAGS, MADE_UP))


@pytest.fixture
def started(monkeypatch):
    """The commands with which train_gpt.py would have been started; none is."""
    found, other = [], subprocess.run

    def stop(words, *args, **options):
        at = next((i for i, word in enumerate(words) if word.endswith("train_gpt.py")), None)
        if at is None:  # git
            return other(words, *args, **options)
        found.append(Command(words[at + 1:]))
        raise Refusal("stopped by the test")

    monkeypatch.setattr(launch, "run", stop)
    monkeypatch.setattr("subprocess.run", stop)
    return found


def test_the_trainer_reads_it(capsys):
    assert train_gpt.parse(["--device", "cpu", "--made-up", "0.5"]).args.made_up == 0.5
    assert train_gpt.main(["--device", "cpu", "--made-up", "x"]) == 2
    assert "argument --made-up: invalid float value: 'x'" in capsys.readouterr().err


def test_a_replay_and_a_rerun_keep_it(tmp_path, started, capsys):
    log = make_log(tmp_path / "log.txt", LOGGED)
    assert replay.main([log, "--yes", "--seed", "4", "--log-dir", tmp_path / "again"]) == 1
    assert "--made-up 0.5" in capsys.readouterr().out.splitlines()[-1]  # what is shown before consent
    assert verify.main([log, "--rerun"]) == 1
    assert "stopped by the test" in capsys.readouterr().err
    for run, seed in zip(started, (4, 3), strict=True):
        args = run.args
        assert run.wrong is None and (args.made_up, args.seeds, args.device) == (0.5, [seed], "cpu")
        assert (args.track, args.recipe, args.val_every, args.fast) == ("laptop", "muon", 50, True)
        assert run.overrides == (("recipe", "lr", "0.5"),) and not args.save


def test_a_run_that_stopped_goes_on_with_it(tmp_path):
    make_log(tmp_path / "log.txt", LOGGED, status="interrupted")
    words = ["--resume", str(tmp_path), "--device", "cpu"]
    assert resume.plan_of(train_gpt.parse, words).args.made_up == 0.5
    with pytest.raises(Refusal, match="--made-up cannot change within a run"):
        resume.plan_of(train_gpt.parse, [*words, "--made-up", "0.25"])


def test_a_fork_keeps_it_and_takes_no_trunk_of_another_value(tmp_path, started, capsys):
    common = ["--track", "laptop", "--device", "cpu", "--made-up", "0.5"]
    words = ["--trunk", tmp_path / "D", "--at", "60", "--variants", "aurora", "aurora+cooldown_frac=0.5",
             "--seeds", "0", *common]
    assert fork.main(words) == 1
    trunk, = started
    assert (trunk.args.made_up, trunk.args.steps, trunk.args.recipe) == (0.5, 61, "aurora")
    # a fork is started by --resume: its log has the words of its plan
    plan = read_variant("aurora+cooldown_frac=0.5", common, [0]).plan_of(0)
    assert Command.read(Command(plan.args.argv).logged()).args.made_up == 0.5
    (tmp_path / "D" / "seed0").mkdir()
    make_log(tmp_path / "D" / "seed0" / "log.txt", "--track laptop --steps 61 --made-up 0.25")
    assert fork.main(words) == 1
    assert "it has another --made-up than aurora" in capsys.readouterr().err and len(started) == 1


def test_a_sweep_keeps_it(tmp_path, started):
    shared = Command().plus(track="laptop", recipe="muon", seeds=[100], made_up=0.5)
    with pytest.raises(Refusal, match="stopped by the test"):
        sweep.sweep(shared, [0.1], [0.0], tmp_path / "table.json")
    run, = started
    assert run.args.made_up == 0.5 and run.overrides[:2] == (("recipe", "lr", "0.1"),
                                                              ("recipe", "weight_decay", "0.0"))


def test_both_sides_of_a_comparison_keep_it(tmp_path, started):
    sides = ["--device cpu --made-up 0.5", "--device cpu --recipe muon"]
    for a, b in (sides, sides[::-1]):
        words = ["--a", a, "--b", b, "--pairs", "1", "--out", tmp_path / str(len(started))]
        assert compare.main(words) == 1
    assert [(run.args.made_up, run.args.recipe, run.args.seeds) for run in started] == [
        (0.5, "aurora", [0]), (None, "muon", [0])]


def test_a_challenge_keeps_it(tmp_path):
    log = make_log(tmp_path / "log.txt", "--recipe muon --seeds 3 --fast --made-up 0.5")
    words = challenge.training_words(tmp_path, challenge.read_challenge(log), tmp_path, tmp_path / "log")
    run = Command(words[words.index(str(tmp_path / "train_gpt.py")) + 1:])
    assert run.wrong is None and run.overrides == (("recipe", "steps", "25"),)
    assert (run.args.made_up, run.args.fast, run.args.recipe, run.args.seeds) == (0.5, True, "muon", [3])


def test_a_benchmark_keeps_it(tmp_path, started):
    with pytest.raises(Refusal, match="stopped by the test"):
        against.run_ours(ROOT, ["--made-up", "0.5"], against.Length.timing(5, 256), 1, tmp_path, "a run")
    assert started[0].args.made_up == 0.5 and started[0].args.steps == 10
