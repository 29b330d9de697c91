"""Bad input is answered by one line and loses nothing; --list, --dry-run, --wandb."""
import json
import os
import subprocess
import sys

import pytest
import torch

import train_gpt
from data import shards
from speedrun import ROOT
from speedrun.log.folder import lock_folder
from tests.support.ranks import limit_files
from tests.support.trainer import QUICK, refused, start, the_log

pytestmark = pytest.mark.process


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
