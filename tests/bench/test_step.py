"""scripts/bench_step.py: real steps on a track as small as it gets, real processes beside each other."""
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import train_gpt
from data.shards import write_shard
from optimizers import build_optimizers
from scripts import bench_step
from speedrun import ROOT
from speedrun.bench import against, measure, parts
from speedrun.bench.against import Length
from speedrun.cli import Refusal
from speedrun.log.format import Point
from speedrun.preflight.machine import PROCESS_BYTES
from speedrun.training import chunked
from speedrun.training.estimate import bytes_per_step, estimate
from speedrun.training.world import World
from tracks import FINEWEB

pytestmark = pytest.mark.process

TINY = ["--device", "cpu", "--track", "laptop", "--allow-custom", "--track.val_tokens", "256",
        "--track.context", "64", "--track.tokens_per_step", "256", "--track.model.num_layers", "1",
        "--track.model.model_dim", "32"]
MODEL = train_gpt.ModelConfig(256, 1, 32, head_dim=32, dtype="float32")
# What the benchmark asks of another script: four lines of this form, and validations in this form. It takes
# half a second a step by its own clock, and its first window far more.
THEIRS = """
import os
from pathlib import Path
assert os.environ["WORLD_SIZE"] == "1" and list(Path("data/laptop").glob("laptop_train_*.bin"))
batch_size = 2 * 128  # tokens
val_tokens = 4 * 256
train_steps = 3250
for step in range(train_steps + 1):
    val_step_freq = 125 if step / train_steps < 0.9 else 25
    seconds = 0.5 * step + (60 if step else 0)
    if step == train_steps or step % val_step_freq == 0:
        print(f"step:{step}/{train_steps} val_loss:1.0 train_time:{seconds:.3f}s step_avg:500.00ms")
    print(f"step:{step + 1}/{train_steps} train_time:9.000s step_avg:9.00ms")
"""


def run(capsys, *args) -> tuple[int, dict]:
    code = bench_step.main([*args, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else err


########################################
#            Figures of a step         #
########################################


def test_the_figures_of_a_step(capsys):
    code, found = run(capsys, *TINY, "--recipe", "muon", "--synthetic", "--steps", "4")
    assert code == 0 and found["steps"] == 4 and found["tokens"] == "synthetic" and not found["fast"]
    ms, parts = found["ms"], found["parts"]
    assert 0 < ms["low"] <= ms["median"] <= ms["high"]
    assert found["tokens_per_second"] == pytest.approx(256 / ms["mean"] * 1000)
    with torch.device("meta"):
        model = train_gpt.GPT(MODEL)
    multiplied = sum(p.numel() for n, p in model.named_parameters() if n != "embed.weight")
    assert found["flops_per_token"] == 6 * multiplied + 6 * 64 * 32
    assert found["mfu"] is None and found["peak_flops"] is None  # a CPU's peak is not known
    assert list(parts) == ["data", "forward", "backward", "head_and_loss", "gradient_communication",
                           "optimizer"]
    assert sum(parts.values()) == pytest.approx(found["parts_total"])
    assert found["beside"] == pytest.approx(ms["mean"] - found["parts_total"])
    assert min(parts["data"], parts["head_and_loss"], parts["optimizer"]) > 0
    assert parts["gradient_communication"] == 0 and not any(found["bytes_sent"].values())
    assert found["peak_memory"] > 2**26 and found["warm_up"]["micro_batch"] == found["micro_batch"]


def test_real_tokens_for_a_person(capsys, laptop, tmp_path):
    assert bench_step.main([*TINY, "--fast", "--steps", "3", "--data-dir", laptop]) == 0
    out = capsys.readouterr().out
    assert "aurora+steps=" in out and "--fast: 3 steps of 256 real tokens on 1 x" in out
    for what in ("head and loss", "gradient communication", "tokens/s", "MFU              n/a", "peak"):
        assert what in out
    assert bench_step.main([*TINY, "--data-dir", tmp_path]) == 1
    assert "no train shards" in capsys.readouterr().err


def sleep(*_):
    time.sleep(0.2)


def delay_data(run):
    stream = run.train

    class Slow:
        local = stream.local

        def __getitem__(self, step):
            sleep()
            return stream[step]
    run.train = Slow()


def delay_forward(run):
    run.model.blocks[0].register_forward_hook(sleep)


def delay_backward(run):
    run.model.blocks[0].mlp.fc.weight.register_hook(sleep)


def delay_optimizer(run):
    make = run.guard

    def slow(seed):
        guard = make(seed)
        record = guard.record
        guard.record = lambda *args: (sleep(), record(*args))[1]
        return guard
    run.guard = slow


@pytest.mark.parametrize("part, delay", [("data", delay_data), ("forward", delay_forward),
                                         ("backward", delay_backward), ("optimizer", delay_optimizer)])
def test_the_time_of_a_part_is_counted_there(part, delay):
    plan = train_gpt.parse(TINY)
    run, _ = measure.build(plan, World(0, 1, torch.device("cpu")), synthetic=True)
    run.micro = len(run.train[0][0])  # one pass
    delay(run)
    update = train_gpt.update
    found = parts.part_times(train_gpt.SeedRun(run, 0), 0, 2)
    assert found["parts"][part] > 150 and train_gpt.update is update


@pytest.mark.long
def test_two_ranks_count_what_they_send():
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
             "scripts/bench_step.py", *TINY, "--synthetic", "--fast", "--steps", "3", "--json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)  # by one rank alone
    with torch.device("meta"):
        model = train_gpt.GPT(MODEL)
    recipe = train_gpt.parse(TINY).recipe
    assert found["bytes_sent"] == bytes_per_step(model, build_optimizers(model, recipe), 2)
    assert all(found["bytes_sent"].values()) and found["world_size"] == 2 and found["fast"]
    assert 0 < found["parts"]["gradient_communication"] <= found["communication_in_flight"]


cells = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6)).map(lambda t: (t[0], t[0] + t[1])))


@given(cells, cells)
def test_spans(a, b):
    def covered(found):
        return {i for start, end in found for i in range(start, end)}
    both = parts.meet(parts.union(a), parts.union(b))
    assert covered(parts.union(a)) == covered(a) and parts.length(parts.union(a)) == len(covered(a))
    assert covered(both) == covered(a) & covered(b) and parts.length(both) == len(covered(both))


########################################
#            Parity, estimate          #
########################################


def test_the_fast_path_keeps_the_losses(capsys, monkeypatch):
    long = ["--track.context", "4160", "--track.tokens_per_step", "4160", "--track.val_tokens", "4160"]
    monkeypatch.setattr(chunked, "CHUNK", 4096)
    code, found = run(capsys, *TINY, *long, "--track.model.dtype", "bfloat16", "--synthetic", "--steps", "4",
                      "--check")
    assert code == 0 and found["stands"] and found["largest"] < found["tolerance"] == 2e-3
    assert found["steps"] == 4 and found["last_losses"][0] == pytest.approx(found["last_losses"][1], abs=2e-3)


def test_a_fast_path_that_changes_the_loss_fails(capsys, monkeypatch):
    def wrong(model, compile):
        model.loss = lambda *args: 1.001 * train_gpt.head_loss(*args)
    monkeypatch.setattr(train_gpt.GPT, "speed_up", wrong)
    code, found = run(capsys, *TINY, "--synthetic", "--steps", "4", "--check")
    assert code == 1 and not found["stands"] and found["largest"] > 2e-3


def test_what_models_need_is_computed(capsys):
    code, found = run(capsys, "--estimate", "--nproc", "8", "--device", "cpu")
    assert code == 0 and found["computed"] and len(found["rows"]) == 3
    assert [row["track"] for row in found["rows"]] == ["fineweb-124m", "350m", "1b"]
    first = found["rows"][0]
    with torch.device("meta"):
        model = train_gpt.GPT(FINEWEB.model)
    memory = estimate(model, train_gpt.parse(["--track", "fineweb-124m", "--device", "cpu"]).recipe, 1024, 8)
    assert first["needed"] == {str(n): PROCESS_BYTES + memory.needed(n) for n in (1, 2, 4, 8, 16, 32, 64)}
    assert first["needed"][str(first["fits"])] <= found["card"] < first["needed"][str(2 * first["fits"])]
    outside = ("embed.weight", "proj.weight")  # and what is no matrix: all-reduced in float32
    others = sum(p.numel() for n, p in model.named_parameters() if p.ndim < 2 or n in outside)
    assert first["bytes_sent"]["other_gradients"] == round(2 * 7 / 8 * 4 * others)
    assert bench_step.main(["--estimate", "--track", "1b", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("computed from shapes, not measured") and "fineweb-124m" not in out


########################################
#         Beside another script        #
########################################


def test_against_another_script(capsys, laptop, tmp_path):
    script = tmp_path / "theirs.py"
    script.write_text(THEIRS)
    code, found = run(capsys, *TINY, "--data-dir", laptop, "--against", script, "--steps", "4",
                      "--pairs", "1")
    assert code == 0, found
    assert script.read_text() == THEIRS and sorted(p.name for p in tmp_path.iterdir()) == ["theirs.py"]
    assert found["changed"] == [
        "-val_tokens = 4 * 256", "-train_steps = 3250", "+val_tokens = 256", "+train_steps = 8",
        "-    val_step_freq = 125 if step / train_steps < 0.9 else 25", "+    val_step_freq = 4"]
    assert [run["side"] for run in found["runs"]] == ["ours", "theirs"]
    assert found["ms"]["theirs"] == [pytest.approx(500)]  # without the first window
    assert found["runs"][0]["windows"] == [pytest.approx(found["ms"]["ours"][0])]
    assert found["ratio"]["ratio"] == pytest.approx(500 / found["ms"]["ours"][0])
    assert found["ratio"]["low"] is None and found["processes"] == 1
    assert found["file"] == "theirs.py" and found["tokens_per_step"] == 256


def test_only_the_named_lines_change():
    length = Length.timing(50, 65536)
    assert length == Length(steps=60, every=10, val_tokens=65536)
    before = THEIRS.replace("2 * 128", "8 * 64 * 1024")
    after = against.shortened(before, length, 65536, "theirs.py")
    wanted = (("8 * 64 * 1024", "65536"), ("4 * 256", "65536"), ("train_steps = 3250", "train_steps = 60"),
              ("125 if step / train_steps < 0.9 else 25", "10"))
    for old, new in wanted:
        before = before.replace(old, new)
    assert after == before
    assert "batch_size = 65536  # tokens\n" in after


@pytest.mark.parametrize("old, new, message", [
    ("train_steps = 3250", "steps = 3250", "0 lines `train_steps = ...`"),
    ("val_tokens = 4", "val_tokens = 1\nval_tokens = 4", "2 lines `val_tokens = ...`"),
    ("batch_size = 2 * 128", "batch_size = tokens()", "cannot read `batch_size = tokens()`")])
def test_a_script_without_these_lines_is_refused(capsys, tmp_path, old, new, message):
    script = tmp_path / "theirs.py"
    script.write_text(THEIRS.replace(old, new))
    assert bench_step.main([*TINY, "--against", script]) == 1
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 1 and message in err


def test_too_few_tokens_for_the_other_script_are_refused_before_any_run(capsys, tmp_path):
    script, folder = tmp_path / "theirs.py", tmp_path / "laptop"
    script.write_text(THEIRS)
    folder.mkdir()
    for split in ("train", "val"):  # 7 batches of 256, which ours would begin anew
        write_shard(folder / f"laptop_{split}_000001.bin", np.zeros(7 * 256 + 2, dtype=np.int64))
    words = [*TINY, "--data-dir", str(folder), "--against", str(script), "--pairs", "1", "--steps"]
    assert bench_step.main([*words, "4"]) == 1
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 1 and "hold 7 batches" in err and "a run takes 8" in err
    assert bench_step.main([*words, "3"]) == 0, capsys.readouterr().err


def test_a_run_without_the_lines_to_time_is_refused():
    points = [Point(step, 1.0, float(step), 1, 8, 1.0, {}) for step in (0, 8)]
    with pytest.raises(Refusal, match="printed no lines `step:4/8 val_loss:"):
        against.check(points, Length(8, 4, 256), "run 2 of 2 (the other script)")


@pytest.mark.parametrize("args, message", [
    (["--pairs", "2"], "--pairs goes with --against"),
    (["--nproc", "2"], "--nproc goes with --against or --estimate"),
    (["--check", "--estimate"], "ask for one of them"),
    (["--steps", "0"], "give at least 1"),
    (["--list"], "--list means nothing to a benchmark"),
    (["--recipe", "auror"], "did you mean aurora"),
    (["--against", "no_such.py", "--device", "cpu"], "cannot read this script"),
    (["--against", __file__, "--synthetic"], "reads its own shards"),
    (["--steps", "1000000", "--device", "cpu"], "must not exceed recipe.schedule_steps")])
def test_usage(capsys, args, message):
    assert bench_step.main(args) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("bench_step.py: ") and message in err and len(err.splitlines()) == 1
