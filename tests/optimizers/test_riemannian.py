"""Riemannian Aurora: the reference against first principles, the training mode against the reference."""
from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from optimizers import balanced_polar, polar
from optimizers.riemannian import RiemannianAurora, RiemannianPolar, constrained_polar, reference_optimum
from tests.support.matrices import SQUARE, TALL, WIDE, hostile, matrix

FAMILIES = ("iid", "rows", "both")


def family(name, shape, seed=0):
    """iid; rows of lognormal scale; those with columns of scale 1..1e-3, too."""
    G = matrix(shape, seed, 0.0 if name == "iid" else 1.0).double()
    return G * torch.logspace(0, -3, shape[1], dtype=G.dtype) if name == "both" else G


@lru_cache
def optimum(name, shape, seed=0, tolerance=1e-4):
    return reference_optimum(family(name, shape, seed), tolerance=tolerance)


def best(name, shape, seed):
    """The optimal Tr(G'U) to about 1e-4 of it: a relative gradient of 2e-3 saves most of the time."""
    return optimum(name, shape, seed, 2e-3)[1][-1].objective


def objective(G, U):
    return float((G.double() * U.double()).sum())


def errors(U):
    """The largest relative error of a row's norm, and of a singular value, of a tall U."""
    U = U.double()
    rows = (U.norm(dim=-1) * (U.size(-2) / U.size(-1)) ** 0.5 - 1).abs().max()
    return float(rows), float((torch.linalg.svdvals(U) - 1).abs().max())


def multipliers(G, U):
    """lam, S and the rest of G less diag(lam) U and U S: least squares on a dense basis of the normals."""
    m, n = U.shape
    rows = torch.zeros(m, m, n, dtype=U.dtype)
    rows[range(m), range(m)] = U
    pairs = [(i, j) for i in range(n) for j in range(i, n)]
    columns = torch.zeros(len(pairs), m, n, dtype=U.dtype)
    for k, (i, j) in enumerate(pairs):
        columns[k, :, j] += U[:, i]
        columns[k, :, i] += U[:, j]
    basis = torch.cat((rows, columns)).reshape(-1, m * n).T
    x = torch.linalg.lstsq(basis, G.reshape(-1, 1), driver="gelsd").solution
    S = torch.zeros(n, n, dtype=U.dtype)
    for value, (i, j) in zip(x[m:, 0], pairs):
        S[i, j] += value
        S[j, i] += value
    return x[:m], S, G - (basis @ x).view(m, n)


# ---------------------------------------------------------------- the reference


@pytest.mark.parametrize("name", FAMILIES)
def test_reference_is_a_stationary_feasible_point(name):
    G = family(name, (48, 12))
    U, trace = optimum(name, (48, 12))
    assert trace[-1].gradient < 1e-4 and max(trace[-1][1:3]) < 1e-8 and max(errors(U)) < 1e-8
    assert trace[-1].objective == pytest.approx(objective(G, U), rel=1e-12)
    assert all(after.objective > before.objective for before, after in zip(trace, trace[1:]))
    _, _, rest = multipliers(G, U)
    assert float(rest.norm() / G.norm()) == pytest.approx(trace[-1].gradient, rel=1e-2)


@pytest.mark.parametrize("name", FAMILIES)
def test_reference_is_the_global_optimum_by_duality(name):
    """For any W and feasible U: Tr(G'U) = Tr((G - W)'U) + Tr(W'U) <= |G - W|_* + sqrt(r) sum_i |W_i|."""
    G = family(name, (48, 12))
    U, trace = optimum(name, (48, 12))
    lam, S, _ = multipliers(G, U)
    # lam + c, S - c are multipliers, too; this c makes S positive semidefinite. W = lam U then closes the
    # gap where lam >= 0, and nearly so where the convex relaxation is not quite tight.
    W = (lam + torch.linalg.eigvalsh(S)[0]).clamp(min=0) * U
    bound = float(torch.linalg.svdvals(G - W).sum() + (12 / 48) ** 0.5 * W.norm(dim=1).sum())
    assert 0.995 * bound < trace[-1].objective <= bound * (1 + 1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_reference_is_at_least_as_good_as_projections(name):
    G = family(name, (48, 12))
    _, trace = optimum(name, (48, 12))
    alternating = polar(G, "exact")
    for _ in range(200):
        alternating = polar(alternating / alternating.norm(dim=1, keepdim=True), "exact")
    vanilla = balanced_polar(G, iterations=60, method="exact")
    for other in (vanilla, alternating):
        assert max(errors(other)) < 1e-4  # feasible, so that the objectives compare
        assert trace[-1].objective > objective(G, other) * (1 - 1e-4)
    if name == "both":
        assert trace[-1].objective > 1.05 * max(objective(G, vanilla), objective(G, alternating))


def test_reference_with_zero_rows_of_low_rank_and_by_side():
    G = family("rows", (48, 12))
    G[:5] = 0
    low = matrix((48, 3), 1) @ matrix((3, 12), 2)
    for hard in (G, low):
        U, trace = reference_optimum(hard)
        assert trace[-1].gradient < 1e-4 and max(errors(U)) < 1e-8
    G = family("rows", (32, 8))
    U, _ = optimum("rows", (32, 8))
    wide, trace = reference_optimum(G.T, balance="columns")
    assert torch.allclose(wide, U.T) and trace
    for other, balance in ((G.T, "rows"), (G, None), (G[:8], "long")):
        U, trace = reference_optimum(other, balance)
        assert torch.equal(U, polar(other, "exact")) and trace == []
    with pytest.raises(ValueError, match="one matrix.*3, 32, 8"):
        reference_optimum(G.expand(3, 32, 8))


def test_reference_shows_where_it_has_not_converged():
    G = family("both", (48, 12))
    U, trace = reference_optimum(G, iterations=3)
    assert len(trace) == 4 and trace[-1].gradient > 1e-4
    assert trace[-1].objective == pytest.approx(objective(G, U), rel=1e-12)


# ---------------------------------------------------------------- the training mode against it


@pytest.mark.parametrize("shape, seeds", [((256, 64), 2), ((96, 64), 1), ((512, 128), 1)])
@pytest.mark.parametrize("name", FAMILIES)
def test_training_mode_comes_within_two_percent_of_the_optimum(name, shape, seeds):
    for seed in range(seeds):
        G = family(name, shape, seed)
        top = best(name, shape, seed)
        for dtype in (torch.float32, torch.bfloat16):  # bfloat16 is what CUDA multiplies in
            U = constrained_polar(G.float(), dtype=dtype)
            assert U.dtype == torch.float32 and max(errors(U)) < 1e-2, (seed, dtype)
            assert objective(G, U) > 0.98 * top, (seed, dtype)


@pytest.mark.long
@pytest.mark.parametrize("name", FAMILIES)
def test_so_it_does_at_the_size_of_gpt_2_small(name):
    """25 iterations of the reference do not converge there, but the trace shows that they gain no more."""
    G = family(name, (3072, 768), 0)
    U, (_, trace) = constrained_polar(G.float()), reference_optimum(G, iterations=25)
    top, before = trace[-1].objective, trace[-min(6, len(trace))].objective
    assert max(trace[-1].row_error, trace[-1].column_error) < 1e-8 and top - before < 5e-4 * top
    assert max(errors(U)) < 1e-2 and objective(G, U) > 0.98 * top


def test_more_iterations_come_closer():
    G = family("both", (256, 64))
    top = best("both", (256, 64), 0)
    gaps = [1 - objective(G, constrained_polar(G, iterations=k)) / top for k in (1, 4, 10, 40)]
    assert gaps == sorted(gaps, reverse=True) and gaps[0] > 0.02 and abs(gaps[-1]) < 0.003


def test_cost_is_what_the_docstring_says():
    G = matrix((256, 64))
    with FlopCounterMode(display=False) as counter:
        constrained_polar(G)
    assert counter.get_total_flops() == (216 + 5 * 20 + 10 * 44) * 64**3


def test_which_side_is_balanced_and_square_is_a_plain_polar():
    tall, wide, square = matrix(TALL), matrix(TALL, 1).T, matrix(SQUARE)
    for balance in ("rows", "columns", "long", None):
        assert torch.equal(constrained_polar(square, balance), polar(square))
    assert torch.equal(constrained_polar(tall, "columns"), polar(tall))
    assert torch.equal(constrained_polar(wide, "rows"), polar(wide))
    assert max(errors(constrained_polar(tall, "long"))) < 1e-2
    assert max(errors(constrained_polar(wide, "columns").T)) < 1e-2
    assert torch.equal(constrained_polar(wide, "long"), constrained_polar(wide.T, "long").T)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), exponent=st.integers(-12, 12))
def test_equivariance(seed, exponent):
    g = torch.Generator().manual_seed(seed)
    G = matrix((40, 12), seed)
    U = constrained_polar(G)
    assert torch.allclose(constrained_polar(G * 10.0**exponent), U, atol=2e-2)
    assert torch.equal(constrained_polar(G * 2.0**exponent), U)
    # In float64, so that rounding is not amplified by the iterations.
    G, U = G.double(), constrained_polar(G.double())
    order = torch.randperm(40, generator=g)
    assert torch.allclose(constrained_polar(G[order]), U[order], atol=1e-5)
    Q = torch.linalg.qr(torch.randn(12, 12, generator=g, dtype=torch.float64)).Q
    assert torch.allclose(constrained_polar(G @ Q), U @ Q, atol=1e-5)


def test_a_batch_is_its_matrices_and_no_input_is_written():
    G = torch.stack([family(name, TALL).float() for name in FAMILIES])
    before = G.clone()
    U = constrained_polar(G)
    assert torch.equal(G, before)
    for i in range(len(G)):
        assert torch.allclose(constrained_polar(G[i]), U[i], atol=1e-3)
    assert torch.equal(constrained_polar(G.bfloat16()).float().bfloat16(), constrained_polar(G.bfloat16()))


def test_zero_rows_and_zero_matrices_stay_zero():
    G = matrix((2, 40, 12))
    G[0, ::4] = 0
    G[1] = 0
    U = constrained_polar(G)
    assert U.isfinite().all() and not U[0, ::4].any() and not U[1].any()
    assert U[0, 1::4].norm(dim=1).min() > 0.3
    reference_optimum(torch.zeros(8, 2))  # any feasible point will do


@pytest.mark.parametrize("iterations", [3, 10, 20])
def test_hostile_matrices_stay_bounded(iterations):
    for shape in ((128, 32), (128, 100)):
        for name, G in hostile(*shape).items():
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                U = constrained_polar(G, iterations=iterations, dtype=dtype)
                assert U.isfinite().all() and torch.linalg.svdvals(U).max() < 1.2, (name, dtype)


def test_compiles_into_one_graph():
    def solve(G):
        return constrained_polar(G, iterations=1)

    G = matrix((2, *TALL))
    compiled = torch.compile(solve, fullgraph=True, backend="eager", dynamic=False)
    assert torch.allclose(compiled(G), solve(G), atol=1e-5)


# ---------------------------------------------------------------- the optimizer


def test_a_step_is_the_scaled_update_of_the_named_side():
    shapes = (TALL, WIDE, SQUARE)
    params = [nn.Parameter(matrix(shape)) for shape in shapes]
    before = [p.detach().clone() for p in params]
    for i, p in enumerate(params):
        p.grad = matrix(p.shape, 10 + i)
    RiemannianAurora(params, lr=0.1, weight_decay=0.0, momentum=0).step()
    for p, old in zip(params, before):
        scale = max(1.0, p.shape[0] / p.shape[1]) ** 0.5
        update = constrained_polar(p.grad) if p.shape == TALL else polar(p.grad)
        assert torch.allclose(p.detach(), old - 0.1 * scale * update, atol=2e-3)


def test_training_reduces_the_loss_and_resumes():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 16, generator=g), torch.randn(64, 8, generator=g)
    model = nn.Sequential(nn.Linear(16, 48, bias=False), nn.ReLU(), nn.Linear(48, 8, bias=False))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g) / p.size(1) ** 0.5)
    optimizer = RiemannianAurora(model.named_parameters(), lr=0.03, balance="long", iterations=4)
    losses = []
    for step in range(20):
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step == 9:
            saved = optimizer.state_dict()
            optimizer = RiemannianAurora(model.named_parameters(), lr=0.03, balance="long", iterations=4)
            optimizer.load_state_dict(saved)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("wrong", [dict(iterations=0), dict(iterations=2.5), dict(method="newton"),
                                   dict(precision="int8")])
def test_wrong_values_are_refused(wrong):
    with pytest.raises(ValueError, match=str(*wrong.values())):
        RiemannianPolar(**wrong)
