"""The model is modded-nanogpt's track-3 model, and `track3-*` follow its rows: see golden/make.py."""
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from optimizers import RECIPES, build_optimizers
from speedrun import ROOT
from tests.golden.inputs import DIM, LAYERS, STEPS, VOCAB, fill, tokens
from tracks import PRESETS, TRACKS, ModelConfig
from train_gpt import GPT, initialise

GOLDEN = json.loads((ROOT / "tests/golden/golden.json").read_text())


def meta(config):
    with torch.device("meta"):
        return GPT(config)


def test_names_shapes_loss_and_gradients_are_the_reference_models():
    model = GPT(ModelConfig(VOCAB, LAYERS, DIM))
    assert {n: list(p.shape) for n, p in model.named_parameters()} == GOLDEN["shapes"]
    fill(model, zero_proj=False)
    ids = tokens(0)
    loss = model(ids[:, :-1], ids[:, 1:])
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(GOLDEN["loss"], rel=1e-4)
    for name, p in model.named_parameters():
        assert p.grad.float().norm().item() == pytest.approx(GOLDEN["grad_norms"][name], rel=2e-2), name


@pytest.mark.process
@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("track3-")])
def test_twenty_steps_follow_the_row(name):
    recipe, number = RECIPES[name], name.removeprefix("track3-")
    model = GPT(ModelConfig(VOCAB, LAYERS, DIM))
    fill(model, zero_proj=True, hidden_proj=recipe.init.down > 0)
    optimizers, losses = build_optimizers(model, recipe), []
    for step in range(STEPS):
        ids = tokens(step)
        loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        losses.append(loss.item() / ids[:, 1:].numel())
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad()
    apart = {row: max(abs(here - there) for here, there in zip(losses, theirs, strict=True))
             for row, theirs in GOLDEN["rows"].items()}
    # Rounding leaves 1e-3; 3e-3 for row 5, whose model multiplies by its gains before it rounds to bfloat16.
    assert apart[number] < 2e-2, apart
    # The comparison has teeth: the inputs are learnable, and every other row is further away.
    assert GOLDEN["rows"][number][-1] < GOLDEN["rows"][number][0] - 1
    assert all(apart[number] < apart[row] / 2 for row in apart if row != number), apart


def test_muon_is_row_36():
    row = RECIPES["track3-36"]
    assert replace(RECIPES["muon"], name=row.name, note=row.note) == row


@pytest.mark.parametrize("name, millions", [("fineweb-124m", 162.4), ("350m", 360.2), ("1b", 1100.2)])
def test_sizes(name, millions):
    model = meta({**TRACKS, **PRESETS}[name].model)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_swiglu_has_tall_gate_and_up_and_wide_down():
    shapes = {n: tuple(p.shape) for n, p in meta(PRESETS["350m"].model).named_parameters()}
    assert shapes["blocks.0.mlp.gate.weight"] == shapes["blocks.0.mlp.up.weight"] == (2816, 1024)
    assert shapes["blocks.0.mlp.down.weight"] == (1024, 2816)
    assert meta(PRESETS["1b"].model).blocks[0].mlp.gate.weight.shape == (4736, 1792)


def test_initialisation_depends_on_the_seed_and_the_name_alone():
    small, deep = (GPT(ModelConfig(64, layers, 32, head_dim=16, dtype="float32")) for layers in (1, 2))
    initialise(small, 3)
    initialise(deep, 3)
    own = dict(deep.named_parameters())
    assert all(torch.equal(p, own[name]) for name, p in small.named_parameters())
    assert not torch.equal(own["blocks.0.mlp.fc.weight"], own["blocks.1.mlp.fc.weight"])
    first = own["blocks.0.attn.q.weight"].clone()
    initialise(deep, 4)
    assert not torch.equal(first, own["blocks.0.attn.q.weight"])


def test_initialisation_is_the_baselines():
    model = GPT(ModelConfig(512, 1, 256))
    initialise(model, 0)
    for name, p in model.named_parameters():
        if "proj" in name or name.endswith("bias"):
            assert not p.any(), name
        elif name.endswith("gains"):
            assert (p == 1).all(), name
        else:
            expected = 1 if name.startswith("embed") else (0.33 / p.shape[1]) ** 0.5
            assert p.float().std().item() == pytest.approx(expected, rel=0.05), name


def test_attention_is_causal():
    model = GPT(ModelConfig(VOCAB, 1, 64, head_dim=32, dtype="float32"))
    fill(model, zero_proj=False)
    ids = tokens(0)[:1, :16]
    changed = ids.clone()
    changed[0, 10] = (changed[0, 10] + 1) % VOCAB
    before, upto = torch.full((2, 1, 16), -100).unbind(0)  # -100: a position that the loss leaves out
    before[0, :10], upto[0, :11] = 3, 3
    assert model(ids, before) == model(changed, before)
    assert model(ids, upto) != model(changed, upto)


@pytest.mark.process
def test_importing_prints_nothing_and_touches_no_file_and_no_network():
    code = ("import socket, builtins, os, sys\n"
            "def no(*a, **k): raise AssertionError('import reached the network')\n"
            "socket.socket.connect = no\n"
            "import torch, numpy\n"
            "real = builtins.open\n"
            "def watched(f, mode='r', *a, **k):\n"
            "    assert not set(mode) & set('wax+'), f'import wrote {f}'\n"
            "    return real(f, mode, *a, **k)\n"
            "builtins.open = watched\n"
            f"sys.path.insert(0, {str(ROOT)!r})\n"
            "import train_gpt\n"
            "assert 'wandb' not in sys.modules and 'huggingface_hub' not in sys.modules\n"
            "assert not torch.cuda.is_initialized()\n")
    done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
