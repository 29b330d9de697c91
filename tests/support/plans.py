"""What the tests of preflight share: plans, small shards, and the command as a process."""
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import train_gpt
from data import cached_fineweb10B as fineweb
from data import hub
from data.shards import sha256_of, write_shard
from scripts.preflight import main
from speedrun import ROOT
from speedrun.training.world import World

ONE = World(0, 1, torch.device("cpu"))
# FineWeb's data at a size that fits a test; overriding the track makes it `custom`.
SMALL = ["--device", "cpu", "--track", "fineweb-124m", "--allow-custom", "--track.tokens_per_step", "2048",
         "--track.val_tokens", "2048", "--steps", "5"]
ALONE = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}


def plan_of(folder, *args):
    return train_gpt.parse([*SMALL, "--data-dir", str(folder), *map(str, args)])


def meta(plan):
    with torch.device("meta"):
        return train_gpt.GPT(plan.track.model)


def fill(path, count, seed=0, vocab_size=50257):
    write_shard(path, np.random.default_rng(seed).integers(0, vocab_size, count))
    return path


@pytest.fixture
def folder(tmp_path):
    """Two training shards of 12,000 tokens, which hold 5 steps each, and one for validation, as fetched."""
    folder = tmp_path / "shards"
    folder.mkdir()
    names = ["fineweb_val_000000.bin", "fineweb_train_000001.bin", "fineweb_train_000002.bin"]
    for seed, name in enumerate(names):
        fill(folder / name, 12_000, seed)
    note(folder, names)
    return folder


def note(folder, names):
    paths = [folder / name for name in names]
    hub.save_manifest(folder, {p.name: hub.entry_of(p, sha256_of(p), "c") for p in paths}, "of/tests")


def found(findings, level):
    return [finding for finding in findings if finding.level == level]


def only(findings, level):
    """The one finding of `level`, which says cost and fix."""
    (finding,) = found(findings, level)
    assert finding.what and finding.cost and finding.fix, finding
    return finding


def ask(capsys, *args):
    """The command in this process: (exit code, its JSON)."""
    code = main([*map(str, args), "--json"])
    out, err = capsys.readouterr()
    assert err == "", err
    return code, json.loads(out)


def run(*words, **env):
    """The command in a process of its own, from another folder; never a traceback."""
    done = subprocess.run(list(map(str, words)), cwd="/", env={**ALONE, "OMP_NUM_THREADS": "1", **env},
                          capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    return done
