"""The balanced polar factor: even rows and orthonormal columns, by every schedule."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from optimizers import Aurora, balanced_polar, constrained_polar, polar
from tests.support.matrices import SQUARE, TALL, WIDE, hostile, matrix, spectra, spread

STATELESS = ("restart", "polish", "algorithm3")


def test_rows_become_even_as_iterations_grow_and_columns_stay_orthonormal():
    G = matrix((256, 64), uneven=1.0)
    muon = spread(polar(G).norm(dim=1))
    spreads = [spread(balanced_polar(G, iterations=k).norm(dim=1)) for k in (1, 2, 3, 5)]
    assert muon > 0.3 and spreads[0] < 0.12 and spreads[1] < 0.05 and spreads[2] < 0.02
    assert spreads == sorted(spreads, reverse=True)
    for schedule in ("restart", "polish"):
        U = balanced_polar(G, schedule=schedule)
        assert torch.allclose(U.T @ U, torch.eye(64), atol=2e-2)
        assert U.norm(dim=1).mean() == pytest.approx(math.sqrt(64 / 256), rel=1e-2)


@pytest.mark.parametrize("shape", [(256, 64), (192, 128)])
def test_polish_is_as_even_as_three_polars_at_the_flops_of_one(shape):
    for name, G in spectra(*shape).items():
        two, three = (spread(balanced_polar(G, iterations=k).norm(dim=1)) for k in (2, 3))
        U = balanced_polar(G, schedule="polish")
        even, s = spread(U.norm(dim=1)), torch.linalg.svdvals(U)
        assert even < two and even < 1.1 * three + 1e-3, name
        assert s.min() > 0.9 and s.max() < 1.01, name
    flops = []
    for work in (lambda: polar(G), lambda: balanced_polar(G, schedule="polish")):
        with FlopCounterMode(display=False) as counter:
            work()
        flops.append(counter.get_total_flops())
    assert flops[1] <= 1.05 * flops[0]


@pytest.mark.parametrize("schedule", STATELESS)
def test_hostile_matrices_stay_bounded(schedule):
    for name, G in hostile(128, 32).items():
        for dtype in (torch.float32, torch.bfloat16):
            for k in (1, 2, 3):
                U = balanced_polar(G.to(dtype), iterations=k, schedule=schedule, dtype=dtype).float()
                assert U.isfinite().all() and torch.linalg.svdvals(U).max() < 1.2, (name, k)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_warm_row_scales_stay_bounded_from_one_hostile_matrix_to_the_next(precision):
    p = nn.Parameter(torch.zeros(128, 32))
    optimizer = Aurora([p], lr=1, weight_decay=0, momentum=0, schedule="warm", precision=precision)
    for name, G in list(hostile(128, 32).items()) * 2:
        p.data.zero_()
        p.grad = G.float()
        optimizer.step()
        U = p.detach() / 2  # the aspect scale, sqrt(128 / 32)
        assert U.isfinite().all() and torch.linalg.svdvals(U).max() < 1.2, name


@pytest.mark.parametrize("balance, tall, wide", [("rows", "rows", None), ("columns", None, "columns"),
                                                 ("long", "rows", "columns"), (None, None, None)])
@pytest.mark.parametrize("schedule", ["restart", "polish"])
def test_which_side_is_balanced(balance, tall, wide, schedule):
    for shape, side in ((TALL, tall), (WIDE, wide), (SQUARE, None)):
        G = matrix(TALL).T if shape == WIDE else matrix(shape)
        U = balanced_polar(G, balance, schedule=schedule)
        if side is None:
            assert torch.equal(U, polar(G))
        else:
            assert spread(U.norm(dim=1 if side == "rows" else 0)) < 0.05
    assert torch.allclose(balanced_polar(matrix(TALL), "long"), balanced_polar(matrix(TALL).T, "long").T,
                          atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), exponent=st.integers(-12, 12), k=st.integers(1, 3),
       schedule=st.sampled_from(STATELESS))
def test_equivariance(seed, exponent, k, schedule):
    def U(G):
        return balanced_polar(G, iterations=k, schedule=schedule)

    G = matrix((40, 12), seed)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(U(G[order]), U(G)[order], atol=1e-3)
    Q = torch.randn(12, 12, generator=torch.Generator().manual_seed(seed + 1))
    Q = polar(Q.double(), "exact").float()
    assert torch.allclose(U(G @ Q), U(G) @ Q, atol=5e-3)
    assert torch.allclose(U(G * 10.0**exponent), U(G), atol=1e-4)
    if k == 1 and schedule == "restart":  # the first D undoes any positive scale of the rows
        scale = torch.rand(40, 1, generator=torch.Generator().manual_seed(seed)) + 0.1
        assert torch.allclose(U(G * scale), U(G), atol=1e-3)


@pytest.mark.parametrize("schedule", STATELESS)
@pytest.mark.parametrize("iterations", [1, 2, 4])
def test_zero_rows_and_zero_matrices_stay_zero(iterations, schedule):
    G = matrix((2, 40, 12))
    G[0, ::3] = 0
    G[1] = 0
    kept = G.clone()
    U = balanced_polar(G, iterations=iterations, schedule=schedule)
    assert torch.equal(G, kept)
    assert U.isfinite().all() and not U[0, ::3].any() and not U[1].any()
    assert U[0, 1::3].norm(dim=1).min() > 0.1


@pytest.mark.parametrize("f", [balanced_polar, constrained_polar, polar,
                               lambda G: balanced_polar(G, schedule="polish")])
def test_zero_and_tiny_matrices_of_any_size(f):
    assert not f(torch.zeros(2, 300, 150)).any()
    G = matrix((300, 150), 0, 0.3)
    for scale in (2.0**-120, 2.0**-60, 2.0**60, 2.0**100):
        assert torch.allclose(f(G * scale), f(G), atol=1e-5)


def test_algorithm3_is_the_papers():
    G = matrix(TALL)
    X, D = G / G.norm(), torch.ones(96, 1)
    for _ in range(2):
        D = D**0.5 * X.norm(dim=1, keepdim=True) ** 0.5
        X = polar((24 / 96) ** 0.5 * X / D)
    assert torch.allclose(balanced_polar(G, schedule="algorithm3"), X, atol=1e-5)


def test_warm_evens_out_a_slowly_changing_momentum_at_one_polar_a_step():
    p = nn.Parameter(torch.zeros(96, 24))
    optimizer = Aurora([p], lr=1.0, weight_decay=0.0, momentum=0.0, schedule="warm")
    G, spreads = matrix((96, 24)), []
    for step in range(6):
        G[5] = 0 if step in (1, 2) else 1e-3 * step  # a row that dies and comes back
        before, p.grad = p.detach().clone(), G + 0.01 * matrix((96, 24), step)
        if step in (1, 2):
            p.grad[5] = 0
        optimizer.step()
        update = (before - p.detach()) / 2  # sqrt(96 / 24) = 2
        assert torch.linalg.svdvals(update).max() < 1.01
        spreads.append(spread(update.norm(dim=1)[6:]))
    assert spreads[-1] < 0.5 * spreads[0] and spreads[-1] < 0.05
    assert optimizer.state[p]["row_scale"].shape == (96, 1)


def test_bad_values_are_refused():
    p = nn.Parameter(torch.ones(4, 3))
    for options, word in (({"schedule": "sometimes"}, "sometimes"),
                          ({"iterations": 5, "schedule": "polish"}, "5")):
        with pytest.raises(ValueError, match=word):
            Aurora([p], lr=0.1, **options)


@pytest.mark.parametrize("what, word", [("balance", "row"), ("schedule", "polsh"), ("schedule", "warm")])
def test_a_mistyped_name_is_refused(what, word):
    with pytest.raises(ValueError, match=f"{what} must be .* got '{word}'"):
        balanced_polar(torch.ones(4, 2), **{what: word})
