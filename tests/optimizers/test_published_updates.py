"""Muon and Aurora against the published updates."""
import json

import pytest
import torch
from torch import nn

from optimizers import Aurora, Muon
from speedrun import ROOT
from tests.golden.inputs import SHAPES, weight_and_gradients

WEIGHTS = json.loads((ROOT / "tests/golden/weights.json").read_text())  # see golden/make.py


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["muon", "aurora"])
def test_three_steps_are_the_published_ones(kind, shape):
    W, grads = weight_and_gradients(shape)
    p = nn.Parameter(W.clone())
    optimizer = (Muon([p], lr=0.05) if kind == "muon" else
                 Aurora([p], lr=0.05, balance="long", polar="quintic12"))
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
        assert torch.equal(p.grad, g)  # the caller's gradient is not written
    rounded, plain = (torch.tensor(WEIGHTS[cast][f"{kind} {shape[0]}x{shape[1]}"]).view(shape)
                      for cast in ("bfloat16", "float"))
    # Their Newton-Schulz steps round to bfloat16's 2^-9, ours here to float32: 4e-3 to 7e-3 of the change in
    # W. Of a long side, K = 1 or 3, a beta of 1 and the other maps are 2e-2 to 1e-1 away.
    error, change = p.detach() - rounded, rounded - W
    assert error.norm() < 1e-2 * change.norm()
    assert error.abs().max() < 2e-2 * change.abs().max()
    # With their one cast to bfloat16 made one to float32, the file's last digit is what is left.
    assert torch.allclose(p, plain, rtol=0, atol=1e-5)
