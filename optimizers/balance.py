"""Polar factors whose long side is evened out: the maps of Aurora, by the schedule they run on.

A tall U with U'U = I has row norms that square to the leverage scores of its column space and sum to its
number of columns. Aurora scales the rows of G by D > 0 so that polar(D G) has rows of equal norm sqrt(n/m).

schedule   | polars | FLOPs, 3072x768 | the map
-----------|--------|-----------------|----------------------------------------------------------------
restart    | K      | K x Muon's      | D_0 = 1/|G_i|, D <- D (n/m / |U_i|^2)^beta, U = polar(D G) again
polish     | 1      | Muon's 12 steps | as restart, but each polar continues from the last one's U
warm       | 1      | Muon's          | D of the step before, corrected once a step by the same rule
algorithm3 | K      | K x Muon's      | r = |X_i|, D <- D^beta r^(1-beta), X <- polar(X / D); D = I at first

polish rests on this: row norms of a polar factor depend on the column space of D G alone, which scaling the
rows of U changes as scaling those of G does. Scaled rows leave singular values that may exceed 1, and then
plain Newton-Schulz steps diverge; so each round first divides by |A^2|_F^(1/4) / 1.2, A = X'X, which its
first step computes anyway (without the 1.2 it bounds sigma_1: see `polish`). Its first steps, up to five,
are Polar Express's, which bring singular values down to 1e-3 near 1 in fewer steps. Two rounds give rows
that are more even than restart's K = 2, at half the cost.
Sources: restart, https://github.com/tilde-research/aurora-release src/aurora.py (May 2026); algorithm3, the
paper's, arXiv 2606.27715 (another map, gentler at K = 2 and not convergent); polish and warm are ours.
"""
import torch
from torch import Tensor

from .polar import (
    COEFFICIENTS,
    QUINTIC,
    addmm,
    batched,
    by_largest,
    iteration_dtype,
    polar,
    quintics,
    syrk,
    transposed,
    unit,
)

BALANCES = ("rows", "columns", "long", None)
SCHEDULES = ("restart", "polish", "warm", "algorithm3")
POLISH_STEPS = 12   # in all, as quintic12 has
ROUND_STEPS = 2     # of them after each scaling of the rows


def balances_rows(shape, balance: str | None) -> bool | None:
    """Whether `balance` evens out the rows (True), the columns (False) or nothing (None) of such a matrix.

    Only the long side of a matrix is free: the short side of a polar factor is orthonormal, its norms are 1.
    ValueError for an unknown balance.
    """
    if balance not in BALANCES:
        raise ValueError(f"balance must be one of {BALANCES}, got {balance!r}")
    rows, cols = shape[-2:]
    if rows > cols and balance in ("rows", "long"):
        return True
    if rows < cols and balance in ("columns", "long"):
        return False
    return None


def balanced_polar(G: Tensor, balance: str | None = "rows", iterations: int = 2, beta: float = 0.5,
                   method: str = "quintic12", schedule: str = "restart",
                   dtype: torch.dtype | None = None) -> Tensor:
    """A polar factor of G (..., rows, cols) rescaled by rows until those have equal norm; G is not written.

        D_0 = 1 / |G_i|;   for k < K:  U_k = polar(D_k G),  D_{k+1} = D_k ((cols/rows) / |U_k,i|^2)^beta

    U'U = I and |U_i| near sqrt(cols/rows), for a tall G; columns of a wide G likewise by transposition. A
    side that `balance` does not name, and a square G, get the plain polar factor. A zero row stays zero.
    ValueError for an unknown balance or schedule.
    schedule: "restart", "polish" or "algorithm3", see above ("warm" keeps state: BalancedPolar). For polish
    `iterations` counts its rounds and `method` is that of the sides that are not balanced. dtype: precision
    of the Newton-Schulz steps, as in `polar`.
    """
    if schedule not in SCHEDULES or schedule == "warm":
        raise ValueError(f"balanced_polar: schedule must be restart, polish or algorithm3, got {schedule!r}")
    by_rows = balances_rows(G.shape, balance)
    if by_rows is None:
        return polar(G, method, dtype)
    X = G if by_rows else G.mT
    if schedule == "polish":
        U = polish(X / row_norms(X), iterations, beta, dtype or iteration_dtype(X))
    elif schedule == "algorithm3":
        U = algorithm3(X, iterations, beta, method, dtype)
    else:
        U = restart(X, 1 / row_norms(X), iterations, beta, method, dtype)
    return (U if by_rows else U.mT).to(G.dtype)


def row_norms(G: Tensor) -> Tensor:
    """Norms of the rows of G over their mean, (..., rows, 1), in float32 or more; one below 1e-8 counts as
    zero and is given as 1e-8."""
    norm = torch.linalg.vector_norm(by_largest(G), dim=-1, keepdim=True)
    mean = norm.mean(dim=(-2, -1), keepdim=True).clamp(min=torch.finfo(norm.dtype).tiny)
    return (norm / mean).clamp(min=1e-8)


def correction(U: Tensor, beta: float) -> Tensor:
    """((cols/rows) / |U_i|^2)^beta, (..., rows, 1); 1 where a row is zero: 0 * inf would make it NaN."""
    energy = U.to(full(U)).square().sum(dim=-1, keepdim=True)
    return torch.where(energy > 1e-14, U.size(-1) / U.size(-2) / energy, 1).pow(beta)


def full(U: Tensor) -> torch.dtype:
    """float32, or float64 for float64."""
    return torch.promote_types(U.dtype, torch.float32)


def restart(G: Tensor, D: Tensor, iterations: int, beta: float, method: str, dtype) -> Tensor:
    """`iterations` polars of D G for a tall G, D corrected between them."""
    U = polar(D * G, method, dtype)
    for _ in range(iterations - 1):
        D = D * correction(U, beta)
        U = polar(D * G, method, dtype)
    return U


def polish(X: Tensor, rounds: int, beta: float, dtype: torch.dtype) -> Tensor:
    """The balanced factor of a tall X (rows of norm 1) in twelve Newton-Schulz steps, see above."""
    head = (*COEFFICIENTS["polar_express"], *(QUINTIC,) * POLISH_STEPS)[:POLISH_STEPS - ROUND_STEPS * rounds]
    a, b, c = QUINTIC

    def work(X):  # X is wide from here on: its columns are those rows
        X = quintics(X, head)
        for _ in range(rounds):
            X = (X * correction(X.mT, beta).mT).to(dtype)
            A = syrk(X)
            A2 = syrk(A)
            # |A^2|_F^(1/4) overestimates sigma_1, by n^(1/8) where all are equal; 1.2 takes back a part of
            # that and keeps sigma below 1.2, where the quintic is still at most 1.06.
            s = 1.2 / torch.linalg.vector_norm(A2, dim=(-2, -1), keepdim=True, dtype=full(A2)).pow(0.25)
            s = torch.where(s.isfinite(), s, 1)  # of a zero matrix
            B = (b * s**2 * A + c * s**4 * A2).to(dtype)
            X = (s * X).to(dtype)
            X = quintics(addmm(X, B, X, a), (QUINTIC,) * (ROUND_STEPS - 1))
        return X

    return transposed(batched(work, transposed(unit(X, dtype)))).reshape(X.shape)


def algorithm3(X: Tensor, iterations: int, beta: float, method: str, dtype) -> Tensor:
    """The paper's Algorithm 3 for a tall X: D is a running geometric mean of the row norms."""
    D = 1.0
    for _ in range(iterations):
        D = D**beta * row_norms(X).pow(1 - beta)
        X = polar(X / D, method, dtype)
    return X
