"""Every stage against its formula, written out for one matrix."""
import re

import pytest
import torch
from torch import nn

from optimizers import (
    BalancedPolar,
    CautiousDecay,
    Contra,
    EmaNesterov,
    Equilibrate,
    Hyperball,
    MatrixOptimizer,
    Nesterov,
    NorMuon,
    Polar,
    RootMeanSquare,
    RowNorm,
    RowVariance,
    Soap,
    TailAverage,
    UNorMuon,
    UpdateFloor,
    balanced_polar,
    polar,
)
from tests.support.matrices import SQUARE, TALL, WIDE, matrix, spread


def one(chain, W, grads, lr=0.1, **options):
    """The weight after a step for each of `grads`, without momentum."""
    p = nn.Parameter(W.clone())
    optimizer = MatrixOptimizer([p], chain, lr=lr, momentum=0.0, **options)
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
    return p.detach()


@pytest.mark.parametrize("shape", [TALL, WIDE, SQUARE])
@pytest.mark.parametrize("form", ["track3", "paper"])
def test_normuon(shape, form):
    W, grads = matrix(shape, 1), [matrix(shape, seed) for seed in (2, 3, 4)]
    p = nn.Parameter(W.clone())
    optimizer = NorMuon([p], lr=0.05, form=form)
    M, v, rows, cols = torch.zeros(shape), 0.0, *shape
    for g in grads:
        p.grad = g
        optimizer.step()
        M = M.lerp(g, 0.05)
        U = polar(g.lerp(M, 0.95))
        axis = 1 if form == "paper" or rows >= cols else 0
        v = 0.95 * v + 0.05 * U.square().mean(dim=axis, keepdim=True)
        even = U / v.sqrt()
        if form == "track3":
            even = even * U.norm() / even.norm() * max(1, rows / cols) ** 0.5
        else:
            even = even * 0.2 * (rows * cols) ** 0.5 / even.norm()
        W = W * (1 - 0.05 * 0.025) - 0.05 * even
    assert torch.allclose(p, W, atol=1e-5)


@pytest.mark.parametrize("shape", [TALL, WIDE, SQUARE])
@pytest.mark.parametrize("balance", ["rows", "columns", "long", None])
def test_equilibrate(shape, balance):
    W, G = torch.zeros(shape), matrix(shape) * torch.logspace(-1, 1, shape[1])
    r, c = G.norm(dim=1, keepdim=True), G.norm(dim=0, keepdim=True)
    columns = balance == "columns" or balance == "long" and shape == WIDE
    a, b = {None: (0, 0)}.get(balance, (0.25, 0.75) if columns else (0.75, 0.25))
    chain = (Nesterov(), Equilibrate(0.75, 0.25), Polar())
    assert torch.allclose(one(chain, W, [G], balance=balance), -0.1 * polar(G / (r**a * c**b)), atol=1e-5)


def test_equilibrate_before_a_polar_is_the_first_iteration_of_aurora():
    W, G = torch.zeros(TALL), matrix(TALL)
    before, aurora = (Equilibrate(), Polar()), (BalancedPolar(iterations=1),)
    found = [one((Nesterov(), *chain), W, [G], balance="rows") for chain in (before, aurora)]
    assert torch.allclose(*found, atol=1e-6) and not torch.allclose(found[0], -0.1 * polar(G), atol=1e-2)


def test_unormuon_has_even_rows_on_tall_matrices_and_is_muon_elsewhere():
    for shape in (TALL, WIDE, SQUARE):
        p, G = nn.Parameter(torch.zeros(shape)), matrix(shape)
        optimizer = UNorMuon([p], lr=1.0, weight_decay=0.0, momentum=0.0)
        p.grad = G
        optimizer.step()
        U = polar(G)
        expected = 0.5 * U / U.norm(dim=1, keepdim=True) * 2 if shape == TALL else U
        assert torch.allclose(-p, expected, atol=1e-6)
    assert spread(polar(matrix(TALL)).norm(dim=1)) > 0.2


def test_contra():
    G = matrix(TALL)
    v = torch.ones(24) / 24**0.5
    for _ in range(5):
        u = G @ v
        v = G.T @ (u / u.norm())
        v = v / v.norm()
    P = balanced_polar(G)
    expected = P - 0.2 * G / (G @ v).norm()
    expected *= P.norm() / expected.norm()
    moved = one((Contra(BalancedPolar(), 0.2),), torch.zeros(TALL), [G], lr=1.0, balance="rows")
    assert torch.allclose(-moved, expected, atol=1e-5)


def test_update_floor():
    W, U = 0.1 * matrix(TALL, 1), polar(matrix(TALL))
    for factor in (0.5, 100.0):  # below the floor, and above it
        moved = factor * W - one((Polar(), UpdateFloor(0.35)), factor * W, [matrix(TALL)], lr=1.0)
        size = max(float(U.norm()), 0.35 * factor * float(W.norm()))
        assert torch.allclose(moved, U * size / U.norm(), atol=1e-4 * factor)
    assert torch.allclose(one((Polar(), UpdateFloor(0.35)), torch.zeros(TALL), [matrix(TALL)], lr=1.0), -U,
                          atol=1e-6)


def test_cautious_decay_decays_where_the_update_agrees():
    W, U = matrix(TALL, 1), polar(matrix(TALL))
    moved = one((Polar(), CautiousDecay()), W, [matrix(TALL)], lr=0.1, weight_decay=0.5)
    assert torch.allclose(moved, W - 0.1 * U - 0.1 * 0.5 * W * (U * W > 0), atol=1e-6)


def test_hyperball():
    W, grads = matrix(TALL, 1), [matrix(TALL, seed) for seed in (2, 3)]
    moved, expected = one((Polar(), Hyperball()), W, grads, lr=0.02), W
    for g in grads:
        U = polar(g)
        step = expected - 0.02 * U * expected.norm() / U.norm()
        expected = step * expected.norm() / step.norm()
    assert torch.allclose(moved, expected, atol=1e-5)
    assert moved.norm() == pytest.approx(float(W.norm()), rel=1e-5)
    assert torch.equal(one((Polar(), Hyperball()), W, grads, lr=0.0), W)
    with pytest.raises(ValueError, match="Hyperball: mlp.proj is zero"):
        p = nn.Parameter(torch.zeros(4, 3))
        optimizer = MatrixOptimizer([("mlp.proj", p)], (Polar(), Hyperball()), lr=0.1)
        p.grad = torch.ones(4, 3)
        optimizer.step()


@pytest.mark.parametrize("make, words", [
    (lambda: BalancedPolar(beta=0), "BalancedPolar: beta must lie in (0, 1], got 0"),
    (lambda: Contra(Polar(), float("nan")), "Contra: strength must lie in [0, inf), got nan"),
    (lambda: Contra(Polar(), float("inf")), "Contra: strength must lie in [0, inf), got inf"),
    (lambda: Equilibrate(other=3), "Equilibrate: other must lie in [0, 2], got 3"),
    (lambda: RootMeanSquare(0), "RootMeanSquare: value must lie in (0, inf), got 0"),
    (lambda: RowNorm(-1), "RowNorm: exponent must lie in [0, 2], got -1"),
    (lambda: RowVariance(1), "RowVariance: beta2 must lie in [0, 1), got 1"),
    (lambda: Soap(1), "Soap: beta must lie in [0, 1), got 1"),
    (lambda: UpdateFloor(-0.1), "UpdateFloor: floor must lie in [0, inf), got -0.1"),
    (lambda: EmaNesterov(decay=1), "EmaNesterov: decay must lie in [0, 1), got 1"),
    (lambda: TailAverage(horizon=0), "TailAverage: horizon must lie in [1, inf), got 0"),
])
def test_values_out_of_range_are_refused(make, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        make()


def test_soap():
    shape = (12, 12)  # L and R of full rank: their eigenvectors are then determined but for signs
    grads = [matrix(shape, seed, 0.3) for seed in range(4)]
    moved, W = one((Soap(0.9),), torch.zeros(shape), grads, lr=1.0), torch.zeros(shape)
    L, R, V, Q = 0, 0, 0, None
    for g in grads:
        u = g
        if Q is not None:
            inside = Q[0].T @ g @ Q[1]
            V = 0.9 * V + 0.1 * inside**2
            u = Q[0] @ (inside / V.sqrt()) @ Q[1].T
            u = u * ((g.T @ g).norm() / (u.T @ u).norm()).sqrt()
        W = W - u
        L, R = 0.9 * L + 0.1 * g @ g.T, 0.9 * R + 0.1 * g.T @ g
        if Q is None:
            Q = [torch.linalg.eigh(P).eigenvectors.flip(1) for P in (L, R)]
            V = torch.zeros(shape)
            continue
        for i, P in enumerate((L, R)):
            order = (Q[i].T @ P @ Q[i]).diag().argsort(descending=True)
            Q[i] = torch.linalg.qr(P @ Q[i][:, order]).Q
            V = V[order] if i == 0 else V[:, order]
    assert torch.allclose(moved, W, atol=2e-3 * float(W.abs().max()))
