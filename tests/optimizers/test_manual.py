"""optimizers/README.md: its snippets run with torch alone, its figures are those of their sources."""
import inspect
import json
import multiprocessing
import os
import re
import shutil
import socket
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import optimizers
from optimizers import RECIPES, Aurora, Muon, NorMuon, RiemannianAurora, UNorMuon
from optimizers.polar import METHODS
from speedrun import ROOT
from tests.support.matrices import TALL, matrix

MANUAL = (ROOT / "optimizers/README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", MANUAL, flags=re.S)
ALONE = """
import importlib.machinery, sys
class Fewer(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {other} else super().find_spec(name, path, target)
sys.meta_path[:] = [Fewer if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
sys.path.insert(0, {folder!r})
import torch
model = torch.nn.Module()
model.embed = torch.nn.Embedding(16, 8)
model.blocks = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8))
{blocks}
before = [p.clone() for p in model.parameters()]
model.blocks(model.embed(torch.arange(16))).square().sum().backward()
optimizer.step(), adamw.step()
print(len(matrices), len(others), all((a != b).any().item() for a, b in zip(before, model.parameters())))
"""


def block(part):
    found, = (text for text in BLOCKS if part in text)
    return found


@pytest.mark.process
@pytest.mark.parametrize("more", ["", "RootMeanSquare"], ids=["Aurora", "of AdamW's size"])
def test_its_snippets_run_in_a_copy_with_torch_alone(tmp_path, more):
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "optimizers", tmp_path / "optimizers", ignore=leave)
    requirements = re.findall(r"^([\w-]+)", (ROOT / "requirements.txt").read_text(), flags=re.M)
    other = {name.replace("-", "_") for name in requirements} - {"torch"} | {
        "train_gpt", "tracks", "speedrun", "data"}
    blocks = block("from optimizers import Aurora") + (block(more) if more else "")
    code = ALONE.format(other=sorted(other), folder=str(tmp_path), blocks=blocks)
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          timeout=60)
    assert {"numpy", "scipy"} < other and done.stdout == "2 3 True\n", done.stderr


def scaled(rank, port, folder, snippet):
    """Two steps of a rank by the snippet; in the first only the last rank's gradient overflows."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    p = nn.Parameter(matrix(TALL))
    optimizer = Aurora([p], lr=0.1, process_group=dist.group.WORLD)
    scaler, found = torch.amp.GradScaler("cpu", init_scale=4.0), []
    for bad in (True, False):
        weight = float("inf") if bad and rank == 1 else 1.0
        scaler.scale((weight * p * matrix(TALL, 1)).sum()).backward()
        run = {"torch": torch, "scaler": scaler, "optimizer": optimizer}
        exec(snippet, run)
        optimizer.zero_grad()
        found.append((p.detach().clone(), scaler.get_scale()))
    torch.save(found, f"{folder}/rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.process
def test_an_overflow_on_one_rank_skips_the_step_on_all(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.set_forkserver_preload(["torch", "optimizers"])
    snippet = block("scaler.unscale_(optimizer)")
    mp.start_processes(scaled, (port, str(tmp_path), snippet), 2, start_method="forkserver")
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    for (weight, scale), (there, of_other) in zip(first, second):
        assert torch.equal(weight, there) and scale == of_other
    assert torch.equal(first[0][0], matrix(TALL)) and first[0][1] == 2.0
    assert not torch.equal(first[1][0], matrix(TALL)) and first[1][0].isfinite().all()


def test_its_names_are_those_of_the_folder():
    chains = MANUAL.split("## Chains\n")[1].split("\n## ")[0]
    for line in re.findall(r"^    (\S+) +(\w+(?:, \w+)+)$", chains, flags=re.M):
        kind = getattr(optimizers, line[0].replace("-", ""))
        chain = kind([nn.Parameter(torch.eye(3))], lr=0.1).chain
        assert [type(stage).__name__ for stage in chain] == line[1].split(", ")
    for name in re.findall(r"`([A-Z]\w+)`", MANUAL):
        assert hasattr(optimizers, name) or name in ("True", "None", "DistributedDataParallel", "GradScaler")
    rows = re.search(r"rows ([\d, and]+) of modded-nanogpt's track 3", MANUAL)[1]
    assert {f"track3-{row}" for row in re.findall(r"\d+", rows)} == {
        name for name in RECIPES if name.startswith("track3-")}
    assert all(f"`{method}`" in MANUAL for method in METHODS)


def test_its_table_has_every_option_with_its_default():
    table = {}
    for line in re.findall(r"^\| `.*\|$", MANUAL.split("## Options\n")[1].split("\n\n`")[0], flags=re.M):
        names, defaults, *_, of = [cell.strip() for cell in line.split("|")[1:-1]]
        table |= dict(zip(re.findall(r"`(\w+)`", names), defaults.split(", ")))
    of_classes = {}
    for kind in (Muon, NorMuon, UNorMuon, RiemannianAurora, Aurora):
        of_classes |= {name: p.default for name, p in inspect.signature(kind).parameters.items()}
    assert table.keys() == of_classes.keys() - {"params"}
    for name, shown in table.items():
        default = of_classes[name]
        if name not in ("lr", "precision"):  # has none; goes by the device
            shown = shown.strip('`"')
            assert shown == str(default) or float(shown) == default, name


def test_its_figures_are_those_of_their_sources():
    rows = {row["name"]: row for row in json.loads((ROOT / "docs/optimizers_cpu.json").read_text())["rows"]}
    flat = " ".join(MANUAL.split())
    torchs = rows["torch.Muon quintic12"]["ratio"]
    assert f"`torch.optim.Muon` takes {torchs:.2f} times as long" in flat
    assert f"`Aurora(schedule=\"polish\")` {rows['aurora polish']['ratio']:.2f} times" in flat
    study = (ROOT / "records/studies/schedules/README.md").read_text()
    ends = [re.search(rf"^\| \[`{cell}`.*?\(([-+])0(.\d+) to ([-+])0(.\d+)\)", study, flags=re.M).groups()
            for cell in ("polish", "warm")]
    assert "({}{} to {}{} and {}{} to {}{} nats)".format(*ends[0], *ends[1]) in flat
    worse = re.search(r"^\| \[`riemannian`.*?\+0(.\d+) \(\+0(.\d+) to \+0(.\d+)\)", study, flags=re.M)
    assert "ends {} higher ({} to {})".format(*worse.groups()) in flat
