"""The trainer, through its command line: real runs of a few steps, real processes, real signals."""
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import train_gpt
from data import shards
from optimizers import build_optimizers, resolve
from speedrun import ROOT
from speedrun.log.folder import lock_folder
from speedrun.log.reader import read_log
from speedrun.training import checkpoint, resume
from speedrun.training.gradients import Gradients
from speedrun.training.world import StopSignal, World
from speedrun.verify.verdict import judge_log
from tests.support.ranks import Ranks, Trainer, limit_files
from tracks import TRACKS
from train_gpt import GPT, initialise, lr_factor

# The laptop track on few validation tokens, which makes it `custom` and a run quick.
SMALL = ["--track.context", "64", "--track.tokens_per_step", "1024", "--track.model.num_layers", "2",
         "--track.model.model_dim", "64"]  # for what does not depend on the size
QUICK = ["--device", "cpu", "--track", "laptop", "--allow-custom", "--track.val_tokens", "8192"]
# modded-nanogpt's make_figures.py finds validations by this pattern, searched for in every line of a file.
THEIR_PATTERN = re.compile(r"step:(\d+)/(\d+)\s+val_loss:([0-9.]+)")


def train(capsys, laptop, folder, *args):
    """Run main in this process; its JSON and its log."""
    code = train_gpt.main([*QUICK, "--data-dir", laptop, "--log-dir", folder, "--json", *args])
    out = capsys.readouterr()
    assert code == 0, out.err
    result = json.loads(out.out)
    return result, read_log(result["log"])


def start(laptop, folder, *args, ranks=1, **more):
    """The trainer as a process, on a small model; under torchrun where ranks > 1."""
    words = [*QUICK, *SMALL, "--data-dir", laptop, "--log-dir", folder, *args]
    if ranks == 1:
        return Trainer(words, folder.parent, **more)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return subprocess.Popen(list(map(str, [*torchrun, ROOT / "train_gpt.py", *words])),
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def wait_for(process, folder, pattern, seconds=60):
    """Until the log matches."""
    deadline = time.monotonic() + seconds
    while not any(re.search(pattern, path.read_text()) for path in folder.glob("*.txt")):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate(timeout=9)
        time.sleep(0.02)


def losses(log):
    return {seed: [(p.step, p.val_loss) for p in points] for seed, points in log.series.items()}


def the_log(folder):
    return read_log(next(Path(folder).glob("*.txt")))


# ---------------------------------------------------------------- what a run computes


def test_a_run_is_what_a_plain_loop_computes(capsys, laptop, tmp_path):
    """Initialisation, stream, schedule, micro-batches and warm-up change no digit of a plain loop."""
    _, log = train(capsys, laptop, tmp_path, "--recipe", "aurora", "--seeds", "7", "--steps", "5",
                   "--val-every", "1")
    recipe, model = resolve("aurora", "laptop"), GPT(TRACKS["laptop"].model)
    initialise(model, 7)
    optimizers = build_optimizers(model, recipe)
    stream = shards.TokenStream(shards.find_shards(laptop, "train"), 4096, 256)
    val = shards.TokenStream(shards.find_shards(laptop, "val"), 8192, 256)[0]
    as_ids = lambda arrays: (torch.from_numpy(a.astype("int64")) for a in arrays)  # noqa: E731
    for step in range(6):
        with torch.no_grad():
            loss = model(*as_ids(val)).item() / 8192
        assert loss == pytest.approx(dict(losses(log)[7])[step], abs=2e-5), step
        model(*as_ids(stream[step])).backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * lr_factor(step, recipe, group["cooldown_frac"])
            optimizer.step()
        model.zero_grad()


def test_a_seed_in_a_batch_equals_that_seed_alone(capsys, laptop, tmp_path):
    args = ["--recipe", "muon", "--steps", "4", "--seeds"]
    _, both = train(capsys, laptop, tmp_path / "both", *args, "0", "1")
    _, alone = train(capsys, laptop, tmp_path / "alone", *args, "1")
    assert list(both.series) == [0, 1] and both.header["seeds"] == [0, 1]
    assert losses(both)[1] == losses(alone)[1] != losses(both)[0]


@pytest.mark.parametrize("recipe", ["aurora", pytest.param("adamw", marks=pytest.mark.long)])
def test_world_sizes_agree(laptop, tmp_path, recipe):
    found = {}
    for ranks in (1, 2, 4):
        with Ranks(laptop, tmp_path / str(ranks), "--recipe", recipe, "--steps", "6",
                   "--val-every", "3", size=ranks) as run:
            assert run.wait() == [0] * ranks, run.said()
        found[ranks] = losses(the_log(tmp_path / str(ranks)))[0]
    for ranks in (2, 4):
        assert [s for s, _ in found[ranks]] == [s for s, _ in found[1]] == [0, 3, 6]
        assert [x for _, x in found[ranks]] == pytest.approx([x for _, x in found[1]], abs=2e-3)


def test_two_nodes(laptop, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = [subprocess.Popen(
        list(map(str, [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1",
                       f"--node_rank={node}", "--master_addr=127.0.0.1", f"--master_port={port}",
                       ROOT / "train_gpt.py", *QUICK, *SMALL, "--data-dir", laptop,
                       "--log-dir", tmp_path / "log", "--steps", "2"])), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for node in (0, 1)]
    for node in nodes:
        _, err = node.communicate(timeout=120)
        assert node.returncode == 0, err
    log = the_log(tmp_path / "log")
    assert log.status == "complete" and log.header["world_size"] == 2 and losses(log)[0][-1][0] == 2


def test_saved_weights_load_in_three_lines(capsys, laptop, tmp_path):
    result, log = train(capsys, laptop, tmp_path, "--steps", "2", "--save")
    model = GPT(TRACKS["laptop"].model)
    model.load_state_dict(torch.load(tmp_path / "weights_seed0.pt", weights_only=True))
    val = shards.TokenStream(shards.find_shards(laptop, "val"), 8192, 256)[0]
    with torch.no_grad():
        loss = model(*(torch.from_numpy(a.astype("int64")) for a in val)).item() / 8192
    assert loss == pytest.approx(result["seeds"][0]["val_loss"], abs=2e-5)


def test_schedule():
    recipe = resolve("muon", "fineweb-124m")
    assert lr_factor(0, recipe, 0.7) == lr_factor(974, recipe, 0.7) == 1
    assert lr_factor(975 + 1137, recipe, 0.7) == pytest.approx(0.5, abs=1e-3)
    assert 0 < lr_factor(3249, recipe, 0.7) < 1e-3
    adam = resolve("adamw", "fineweb-124m")
    assert lr_factor(0, adam, 0.7) == pytest.approx(1 / 250) and lr_factor(249, adam, 0.7) == 1


def test_validation_grid():
    track, recipe = TRACKS["fineweb-124m"], resolve("muon", "fineweb-124m")
    steps = [s for s in range(recipe.steps + 1) if track.validates(s, recipe.steps, recipe.schedule_steps)]
    assert steps[:3] == [0, 125, 250] and steps[-3:] == [3200, 3225, 3250]
    assert 2925 in steps and 2950 in steps and 2900 not in steps


# ---------------------------------------------------------------- the log


def test_their_parser_finds_one_series_a_seed(capsys, laptop, tmp_path):
    result, log = train(capsys, laptop, tmp_path, "--seeds", "3", "5", "--steps", "3", "--val-every", "2")
    series = []
    for line in Path(result["log"]).read_text().splitlines():
        match = THEIR_PATTERN.search(line)
        if match:
            assert line.startswith("step:")
            if match[1] == "0":
                series.append([])
            series[-1].append((int(match[1]), int(match[2]), float(match[3])))
    assert [[(s, x) for s, _, x in one] for one in series] == [losses(log)[3], losses(log)[5]]
    assert [s for s, _, _ in series[0]] == [0, 2, 3] and {n for one in series for _, n, _ in one} == {3}


def test_a_command_with_spaces_is_kept(capsys, laptop, tmp_path):
    result, log = train(capsys, laptop, tmp_path, "--track.data", "my data", "--steps", "2")
    assert log.header["command"].count("'my data'") == 1
    assert judge_log(Path(result["log"])).failures == []
    words = resume.arguments(tmp_path)
    assert words[words.index("--track.data") + 1] == "my data"


def test_the_log_carries_what_the_run_was(capsys, laptop, tmp_path, monkeypatch):
    for name, value in dict(NVIDIA_TF32_OVERRIDE="1", TORCHINDUCTOR_CACHE_DIR=f"{tmp_path}/my cache",
                            NCCL_HOSTID="name", NCCL_COMM_ID="name:1", TORCHELASTIC_RUN_ID="name").items():
        monkeypatch.setenv(name, value)
    result, log = train(capsys, laptop, tmp_path, "--recipe.lr", "0.02", "--steps", "2")
    assert log.problems == [] and log.status == "complete"
    for path in ("train_gpt.py", "optimizers/aurora.py", "optimizers/recipes.py", "data/shards.py",
                 "speedrun/log/format.py"):
        assert log.sources[path] == (ROOT / path).read_text()
    header = log.header
    assert header["recipe"]["name"] == "aurora+lr=0.02+steps=2" and header["recipe"]["lr"] == 0.02
    assert header["recipe"]["schedule_steps"] == 300 and header["track"]["official"] is False
    assert header["versions"]["torch"] == torch.__version__ and header["hardware"]["processor"]
    assert [s["tokens"] for s in header["data"]["train"]] == [3919872]
    settings = header["settings"]
    assert settings["NVIDIA_TF32_OVERRIDE"] == "1" and settings["TORCHINDUCTOR_CACHE_DIR"] == "DIR"
    assert not {"NCCL_HOSTID", "NCCL_COMM_ID", "TORCHELASTIC_RUN_ID"} & set(settings)
    text = Path(result["log"]).read_text()
    assert str(tmp_path) not in text and str(laptop) not in text and str(Path.home()) + "/" not in text
    assert os.uname().nodename not in json.dumps(header)


# ---------------------------------------------------------------- stopping


@pytest.mark.parametrize("number, code", [
    (signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)])
def test_a_signal_closes_the_log(laptop, tmp_path, number, code):
    process = start(laptop, tmp_path / "log", "--val-every", "2")
    wait_for(process, tmp_path / "log", "(?m)^step:2/")
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert len(err.splitlines()) == 1 and "stopped by a signal" in err
    log = the_log(tmp_path / "log")
    assert log.status == "interrupted" and log.problems == []


def test_a_signal_stops_all_ranks_at_the_same_step(laptop, tmp_path):
    process = start(laptop, tmp_path, "--val-every", "5", ranks=2, start_new_session=True)
    wait_for(process, tmp_path, "(?m)^step:5/")
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does: launcher and workers
    process.communicate(timeout=20)  # torchrun would wait 30 s for a rank that stays
    assert process.returncode != 0
    log = the_log(tmp_path)
    assert log.status == "interrupted" and log.problems == []


@pytest.mark.parametrize("recipe", ["aurora", "adamw"])
def test_divergence_stops_with_weights_intact(laptop, tmp_path, recipe):
    plan = train_gpt.parse([*QUICK, "--recipe", recipe, "--data-dir", str(laptop)])
    world = World(0, 1, torch.device("cpu"))
    streams = train_gpt.open_streams(plan, world)
    run = train_gpt.Run(plan, world, GPT(plan.track.model), *streams, StopSignal(), flops=0.0)
    initialise(run.model, 0)
    optimizers, guard = run.optimizers(), run.guard(seed=4)
    gradients = Gradients(world, run.model, optimizers)
    for step in range(2):
        loss = train_gpt.forward_backward(run, gradients, *map(run.tokens, run.train[step]))
        if step == 1:
            run.model.blocks[2].mlp.fc.weight.grad[3, 5] = float("inf")
            before = [p.clone() for p in run.model.parameters()]
            state = [s.clone() for o in optimizers for p in o.state.values() for s in p.values()]
        train_gpt.update(run, gradients, optimizers, guard, step, loss)
        guard.check_weights(step + 1)
    message = r"seed 4 diverged at step 1.*blocks\.2\.mlp\.fc\.weight.*intact"
    with pytest.raises(train_gpt.Diverged, match=message):
        guard.raise_if_bad()
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters()))
    assert all(torch.equal(a, b) for a, b in
               zip(state, [s for o in optimizers for p in o.state.values() for s in p.values()]))


@pytest.mark.parametrize("every, remedy", [
    (250, r"no checkpoint was written yet: start again with .*\(--recipe\.lr\)"),
    (1, r"the last good checkpoint is (checkpoint_000_\d{7}): .* --resume (\S+); .*--recipe\.lr.*--log-dir"),
])
def test_a_learning_rate_that_diverges(capsys, laptop, tmp_path, every, remedy):
    code = train_gpt.main([*QUICK, "--data-dir", laptop, "--log-dir", tmp_path, "--recipe.lr", "1e30",
                           "--checkpoint-every", str(every)])
    err = capsys.readouterr().err
    assert code == 1 and len(err.splitlines()) == 1 and "diverged at step" in err
    found = re.search(remedy, err)
    assert found, err
    if every == 1:  # it is there, and the newest
        name, folder = found.groups()
        assert name == max(path.stem for path in tmp_path.glob("*.pt")) and folder == str(tmp_path)
    assert the_log(tmp_path).status == "diverged" and the_log(tmp_path).problems == []


def test_an_update_that_is_not_finite_is_in_no_checkpoint(capsys, laptop, tmp_path):
    """lr u overflows, though the gradients are finite; the second checkpoint would hold it."""
    code = train_gpt.main([*QUICK, "--data-dir", laptop, "--log-dir", tmp_path, "--recipe", "muon",
                           "--recipe.lr", "3e38", "--recipe.aux.head_lr", "1e38", "--checkpoint-every", "1"])
    err = capsys.readouterr().err
    found = re.search(r"seed 0 diverged before step 1: .* made \S+ non-finite; no checkpoint", err)
    assert code == 1 and found, err
    assert not [*tmp_path.glob("*.pt")] and the_log(tmp_path).status == "diverged"


def test_a_divergence_says_whether_the_weights_are_intact(capsys, laptop, tmp_path):
    train_gpt.main([*QUICK, "--data-dir", laptop, "--log-dir", tmp_path, "--recipe", "muon",
                    "--recipe.lr", "3e38", "--recipe.aux.head_lr", "1e38"])
    err = capsys.readouterr().err
    assert re.search(r"diverged at step 1: .*; that update was not applied and one before it had made \S+ "
                     "non-finite; no checkpoint", err), err


# ---------------------------------------------------------------- bad input: one line each, nothing lost


def refused(capsys, *args, code=2):
    assert train_gpt.main(list(args)) == code
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and err.startswith("train_gpt.py: "), err
    return err


@pytest.mark.parametrize("args, words", [
    (["--track", "lapto"], ["lapto", "did you mean laptop"]),
    (["--recipe", "aurra"], ["aurra", "did you mean aurora"]),
    (["--recipe.lrr", "1"], ["lrr", "did you mean lr"]),
    (["--recipe.aux.embed", "1"], ["did you mean embed_lr"]),
    (["--recipe.matrices.Polr.x", "1"], ["BalancedPolar"]),
    (["--recipe.matrices.BalancedPolar.iterations", "0"], ["at least 1"]),
    (["--recipe.lr", "fast"], ["--recipe.lr fast"]),
    (["--recipe.lr", "-1"], ["recipe.lr", "-1"]),
    (["--recipe.lr"], ["needs a value"]),
    (["--recipe.aux", "1"], ["group", "embed_lr"]),
    (["--name", "1"], ["unknown argument '--name'", "--save"]),
    (["--recipe.balance", "rows"], ["attn, up, down"]),
    (["--recipe.aux", "none"], ["group"]),
    (["--recipe.matrices.Nesterov", "1"], ["name a field"]),
    (["--recipe", "track3-17", "--recipe.matrices.Contra.strength", "nan"], ["strength nan", "[0, inf)"]),
    (["--allow-custom", "--track.data", "/home/me/shards"], ["--data-dir"]),
    (["--recipe.matrices.Nesterov.nesterov", "2"], ["true or false"]),
    (["--recipe.lr", "abc"], ["--recipe.lr abc: it is a number"]),
    (["--recipe.steps", "1.5"], ["it is a whole number"]),
    (["--recipe.momentum", "1.5"], ["momentum", "1.5"]),
    (["--recipe.balance.up", "row"], ["balance.up", "row"]),
    (["--recipe", "adamw", "--recipe.momentum", "0.9"], ["AdamW"]),
    (["--recipe.warmup_steps", "1000"], ["schedule_steps"]),
    (["--lr", "0.1"], ["did you mean --recipe.lr?"]),
    (["--allow-custom", "--track.context", "0"], ["context"]),
    (["--allow-custom", "--track.model.head_dim", "0"], ["head_dim 0"]),
    (["--allow-custom", "--track.model.dtype", "int8"], ["int8"]),
    (["--steps", "0"], ["recipe.steps", "0"]),
    (["--steps", "301"], ["recipe.steps", "schedule_steps"]),
    (["--seeds", "1", "1"], ["each seed once"]),
    (["--seeds", "-1"], []),
    (["--val-every", "0"], ["--val-every 0"]),
    (["--track.context", "128"], ["--allow-custom"]),
    (["--allow-custom", "--track.model.mlp", "gelu"], ["gelu"]),
    (["--allow-custom", "--track.val_tokens", "100"], ["multiple of context"]),
    (["--nonsense"], ["--nonsense"]),
    (["--device", "tpu"], ["tpu"]),
    pytest.param(["--device", "cuda"], ["no CUDA device"],
                 marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")),
])
def test_bad_usage(capsys, args, words):
    err = refused(capsys, "--track", "laptop", *args)
    for word in words:
        assert word in err


def test_a_world_size_that_does_not_divide(laptop, tmp_path):
    """Rank 0, which speaks, may be the last to know; torchrun ends all with the first that ends."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\ntime.sleep(5 * (os.environ.get('LOCAL_RANK') == '0'))\n")
    process = start(laptop, tmp_path, ranks=3, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    _, err = process.communicate(timeout=60)
    lines = [line for line in err.splitlines() if line.startswith("train_gpt.py:")]
    assert process.returncode != 0 and len(lines) == 1
    assert "world size 3" in lines[0] and "1, 2, 4, 8, 16" in lines[0]


def test_missing_and_few_shards(capsys, laptop, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    where = ["--device", "cpu", "--track", "laptop", "--data-dir", str(data),
             "--log-dir", str(tmp_path / "log")]
    assert "data/sample.py" in refused(capsys, *where, code=1)
    shards.write_shard(data / "x_val_000000.bin", torch.zeros(262144 + 2).numpy())
    shards.write_shard(data / "x_train_000001.bin", torch.zeros(4096 * 10).numpy())
    err = refused(capsys, *where, code=1)
    assert "need 300 batches" in err and "hold 9" in err
    err = refused(capsys, *where, "--steps", "5", code=1)
    assert "not the shard that the track pins" in err
    assert "data/cached_fineweb10B.py 18" in refused(capsys, "--device", "cpu", "--track", "fineweb-124m",
                                                     "--data-dir", str(tmp_path / "none"), code=1)
    assert not (tmp_path / "log").exists() or not list((tmp_path / "log").glob("*.txt"))


def test_a_token_outside_the_vocabulary(capsys, laptop, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "x_val_000000.bin").write_bytes((laptop / "laptop_val_000000.bin").read_bytes())
    tokens = shards.open_shard(laptop / "laptop_train_000001.bin").copy()
    tokens[1000] = 256
    shards.write_shard(data / "x_train_000001.bin", tokens)
    err = refused(capsys, *QUICK, "--data-dir", str(data), "--log-dir", str(tmp_path / "log"), code=1)
    assert "token 256 at position 1000" in err and "vocabulary of 256" in err


def test_log_folders_that_cannot_be_used(capsys, laptop, tmp_path):
    (tmp_path / "file").write_text("")
    data = [*QUICK, "--data-dir", str(laptop)]
    assert "--log-dir" in refused(capsys, *data, "--log-dir", str(tmp_path / "file" / "x"), code=1)
    lock = lock_folder(tmp_path / "taken")
    assert "another run" in refused(capsys, *data, "--log-dir", str(tmp_path / "taken"), code=1)
    lock.close()


@pytest.mark.long
def test_a_full_disk_leaves_a_whole_log(laptop, tmp_path):
    process = start(laptop, tmp_path / "log")
    limit_files(process.pid, 60_000)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and len(err.splitlines()) == 1 and "cannot write the log" in err
    log = the_log(tmp_path / "log")
    assert {what for _, what in log.problems} <= {"no `run` event: the header is missing",
                                                  "no `end` event: the run did not close its log"}


# ---------------------------------------------------------------- list, dry run, wandb


def test_list_and_dry_run(capsys, laptop):
    assert train_gpt.main(["--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert set(listed["tracks"]) == {"fineweb-124m", "sprint", "laptop", "350m", "1b"}
    assert set(listed["recipes"]) >= {"adamw", "muon", "aurora"}
    assert train_gpt.main([*QUICK, "--dry-run", "--json", "--data-dir", laptop]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["steps"] == 300 and facts["steps_that_the_shards_hold"] == 956
    assert facts["track"] == "custom" and facts["recipe"]["name"] == "aurora"
    assert facts["track_fields"]["val_tokens"] == 8192 and facts["track_fields"]["model"]["mlp_ratio"] == 4
    assert train_gpt.main([*QUICK, "--dry-run", "--json", "--data-dir", "/none"]) == 0
    assert "data/sample.py" in json.loads(capsys.readouterr().out)["data"]
    assert train_gpt.main(["--list"]) == 0
    assert "aurora" in capsys.readouterr().out
    assert train_gpt.main([*QUICK, "--dry-run", "--track.model.mlp_ratio", "8", "--data-dir", laptop]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["track.model.mlp_ratio", "8.0"] in lines and ["recipe.lr", "0.028"] in lines


def test_what_to_fetch(tmp_path, laptop):
    def needs(*args):
        found = subprocess.run([sys.executable, "-m", "speedrun.training.needs", "--track", *args], text=True,
                               capture_output=True, cwd=tmp_path, env=dict(os.environ, PYTHONPATH=str(ROOT)))
        return found.returncode, found.stdout.split("\n"), found.stderr

    assert needs("laptop", "--device", "cpu", "--data-dir", laptop) == (0, ["1", ""], "")
    code, _, err = needs("nope")
    assert code == 2 and err.startswith("train_gpt.py: unknown track") and err.count("\n") == 1
    assert needs("fineweb-124m", "--device", "cpu", "--recipe", "muon")[1] in (
        ["1", "data/cached_fineweb10B.py", "18", ""], ["1", ""])


def test_wandb_offline(laptop, tmp_path):
    process = start(laptop, tmp_path / "log", "--steps", "2", "--wandb",
                    environment=dict(WANDB_MODE="offline", WANDB_SILENT="true"))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert list(tmp_path.glob("log/wandb/offline-run-*/run-*.wandb"))
    assert the_log(tmp_path / "log").status == "complete"


def test_a_custom_run_may_wrap_epochs(capsys, laptop, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "x_val_000000.bin").write_bytes((laptop / "laptop_val_000000.bin").read_bytes())
    tokens = shards.open_shard(laptop / "laptop_train_000001.bin")[:9000]
    shards.write_shard(data / "x_train_000001.bin", tokens)
    result, log = train(capsys, data, tmp_path / "log", "--steps", "3")
    assert result["seeds"][0]["epochs"] == 1.5 and log.header["track"]["official"] is False
