"""Diagnostics: each figure against its definition, sharded as whole, and in the log of a run."""
import json

import pytest
import torch
from torch import nn

import train_gpt
from optimizers import Aurora, Muon, UNorMuon, balanced_polar, polar
from optimizers.diagnostics import activation_dead, diagnose, leverage, of_optimizer
from speedrun.log.reader import read_log
from tests.support.matrices import TALL, WIDE, matrix, spread
from tracks import ModelConfig
from train_gpt import GPT, initialise


def test_leverage_is_that_of_the_left_singular_vectors():
    for G in (matrix(TALL), matrix(WIDE), matrix((96, 5)) @ matrix((5, 24), 1)):
        rank = 5 if torch.linalg.matrix_rank(G) == 5 else 24
        tall = G if G.shape == TALL else G.T
        U, S, _ = torch.linalg.svd(tall.double(), full_matrices=False)
        scores, nuclear = leverage(G[None])
        assert torch.allclose(scores[0], U[:, :rank].square().sum(1), atol=1e-5)
        assert float(scores.sum()) == pytest.approx(rank, rel=1e-5)
        assert float(nuclear) == pytest.approx(float(S.sum()), rel=1e-4)


@pytest.mark.parametrize("optimizer", [Muon, UNorMuon, Aurora])
def test_figures_of_a_matrix_are_those_of_their_definitions(optimizer):
    p, W = nn.Parameter(matrix(TALL, 1)), matrix(TALL, 1)
    o = optimizer([("fc", p)], lr=0.1, weight_decay=0.0, momentum=0.0)
    assert of_optimizer(o) == {}
    p.grad = G = matrix(TALL, 2)
    G[7] *= 1e-4
    o.step()
    W, state = p.detach().clone(), {k: v.clone() for k, v in o.state[p].items()}
    found = of_optimizer(o)["fc"]
    U = polar(G) if optimizer is not Aurora else balanced_polar(G)
    if optimizer is UNorMuon:
        U = 0.5 * U / U.norm(dim=1, keepdim=True)
    nuclear = float(torch.linalg.svdvals(G).sum())
    scores = torch.linalg.svd(G, full_matrices=False).U.square().sum(1)
    dead = float((scores < 0.01 * 24 / 96).float().mean())
    assert dead > 0 and found["leverage_dead"] == pytest.approx(dead)
    assert found["row_spread"] == pytest.approx(spread(U.norm(dim=1)), rel=1e-3, abs=1e-5)
    assert found["alignment"] == pytest.approx(float((G * U).sum()) / nuclear, rel=1e-4)
    defect = float((U.T @ U - torch.eye(24)).norm()) / 24**0.5
    assert found["orthogonality"] == pytest.approx(defect, abs=1e-4)
    assert found["update_ratio"] == pytest.approx(0.1 * 2 * float(U.norm() / W.norm()), rel=1e-4)
    assert torch.equal(p, W) and all(torch.equal(state[k], o.state[p][k]) for k in state)


def test_dead_units_are_found_where_they_are():
    model = GPT(ModelConfig(64, 2, 32, head_dim=16, dtype="float32"))
    initialise(model, 0)
    tokens = torch.randint(64, (4, 16), generator=torch.Generator().manual_seed(0))
    assert activation_dead(model, tokens, tokens) == {"blocks.0.mlp": 0, "blocks.1.mlp": 0}
    with torch.no_grad():
        model.blocks[1].mlp.fc.weight[:32] = 0
    assert activation_dead(model, tokens, tokens) == {"blocks.0.mlp": 0, "blocks.1.mlp": 0.25}
    assert diagnose(model, [], tokens, tokens) == {"activation_dead": [0, 0.25]}


@pytest.mark.process
@pytest.mark.parametrize("recipe", ["aurora", "track3-10", "adamw"])
def test_a_run_logs_them_at_each_validation(laptop, tmp_path, recipe):
    args = ["--track", "laptop", "--recipe", recipe, "--steps", "2", "--device", "cpu", "--data-dir", laptop,
            "--log-dir", tmp_path, "--allow-custom", "--track.val_tokens", "4096", "--track.val_every", "1",
            "--track.model.num_layers", "2", "--track.tokens_per_step", "1024"]
    assert train_gpt.main([str(a) for a in args]) == 0
    (log,) = (read_log(path) for path in tmp_path.glob("*.txt"))
    events = [data for _, kind, data in log.events if kind == "diagnostics"]
    assert [(e["seed"], e["step"]) for e in events] == [(0, 0), (0, 1), (0, 2)]
    assert all(len(e["activation_dead"]) == 2 for e in events)
    matrices = [key for key in events[-1] if key.startswith("blocks.")]
    assert len(matrices) == (0 if recipe == "adamw" else 6)
    for key in matrices:
        assert all(len(values) == 2 for values in events[-1][key].values())
        assert json.loads(json.dumps(events[-1][key], allow_nan=False))
    if recipe == "aurora":
        assert max(events[-1]["blocks.mlp.fc"]["row_spread"]) < 0.3
