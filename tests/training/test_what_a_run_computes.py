"""What a run computes: the digits of a plain loop, at every world size, and what the log says of it."""
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data import shards
from optimizers import build_optimizers, resolve
from speedrun import ROOT
from speedrun.training import resume
from speedrun.verify.verdict import judge_log
from tests.support.ranks import Ranks
from tests.support.trainer import QUICK, SMALL, losses, the_log, train
from tracks import TRACKS
from train_gpt import GPT, initialise, lr_factor

pytestmark = pytest.mark.process

# modded-nanogpt's make_figures.py finds validations by this pattern, searched for in every line of a file.
THEIR_PATTERN = re.compile(r"step:(\d+)/(\d+)\s+val_loss:([0-9.]+)")


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
    args = [*SMALL, "--recipe", "muon", "--steps", "4", "--seeds"]
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
                       "--log-dir", tmp_path / "log", "--steps", "2"])),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
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


def test_their_parser_finds_one_series_a_seed(capsys, laptop, tmp_path):
    result, log = train(capsys, laptop, tmp_path, *SMALL, "--seeds", "3", "5", "--steps", "3",
                        "--val-every", "2")
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


def test_a_custom_run_may_wrap_epochs(capsys, laptop, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "x_val_000000.bin").write_bytes((laptop / "laptop_val_000000.bin").read_bytes())
    tokens = shards.open_shard(laptop / "laptop_train_000001.bin")[:9000]
    shards.write_shard(data / "x_train_000001.bin", tokens)
    result, log = train(capsys, data, tmp_path / "log", "--steps", "3")
    assert result["seeds"][0]["epochs"] == 1.5 and log.header["track"]["official"] is False
