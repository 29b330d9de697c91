"""Riemannian Aurora: the best update among those with orthonormal columns and rows of equal norm.

For a tall G (m x n, m > n, r = n/m) both solvers here climb

    max Tr(G'U)   over   U'U = I,   |U_i|^2 = r for every row i

Vanilla Aurora (aurora.py) lands near the same set, but not at its best point. With multipliers lam, Lam =
diag(lam), for the rows and a symmetric S for the columns, a stationary U has G = Lam U + U S. One iteration:

    project   A = G - Lam U,   S = sym(U'A),   Z = A - U S,   c_i = <Z_i, U_i> / r,   Z <- Z - diag(c) U,
              lam <- lam + w c          (Z is the gradient's tangent part once lam has settled)
    search    V <- Z + beta V,   beta = <Z, Z - Z'> / |Z'|^2 in [0, 1], Z' the last Z    (Polak-Ribiere)
    step      eta = <Z, V> / <V, Lam V + V S>   (to the maximum along V of the Lagrangian's quadratic model)
    retract   Y = U + eta V;   Y_i <- Y_i (r / |Y_i|^2)^(w/2);   U = p(Y / sqrt(b)),   b >= |Y'Y|_2

The exact lam would solve (r I - P o P) lam = q with P = UU' and o the entrywise product, but P alone takes
m^2 n. P o P / r is positive semidefinite and doubly stochastic, with most eigenvalues near r: so one
over-relaxed pass an iteration (stable for w < 2) settles lam, which is carried along. Alternating between
rows and columns in `retract` is linear in the same matrix, hence the same w.

p(s) = (15 s - 10 s^3 + 3 s^5) / 8 is the Newton-Schulz step of order 5: monotone on [0, 1] with p(1) = 1,
so after division by a true bound no singular value exceeds 1, for any input. Y is near the constraint set,
where this bound is tight: b = t + |E^4|_F^(1/4), t = tr(Y'Y) / n, E = Y'Y - t I.

Cost of an iteration in matmul FLOPs: (10 m/n + 4) n^3, which is 44 n^3 for 4n x n, of which 20 retract.
With one polar before and five further retractions, ten iterations take 756 n^3; vanilla Aurora's two polars
432.

Source of the problem: arXiv 2606.27715, Riemannian Aurora (another solver: src/riemannian_aurora.py of
https://github.com/tilde-research/aurora-release). Of the search: J. Nocedal, S. Wright, Numerical
Optimization, section 5.2; of gradients and retractions: P.-A. Absil, R. Mahony, R. Sepulchre, Optimization
Algorithms on Matrix Manifolds, chapters 4 and 8.
"""
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .balance import balances_rows
from .decay import Decay
from .matrix import MatrixOptimizer
from .momentum import Nesterov
from .polar import PRECISIONS, by_largest, check_method, iteration_dtype, polar
from .scale import AspectScale, frobenius, ratio
from .stage import Context, Stage

RELAXATION = 1.5   # w: contracts best for eigenvalues of P o P / r in 0 .. .7, what generic matrices have
FEASIBLE = 1e-10   # the reference's constraint errors, see Iterate
PASSES = 500       # at most, of the reference's inner loops


def constrained_polar(G: Tensor, balance: str | None = "rows", iterations: int = 10,
                      method: str = "quintic12", dtype: torch.dtype | None = None) -> Tensor:
    """U that nearly maximises Tr(G'U) among U'U = I, |U_i|^2 = cols/rows; G (..., rows, cols) not written.

    So for a tall G where `balance` names the rows; for a wide one by transposition where it names the
    columns; otherwise the plain polar factor. Starts from polar(G, method); no line search, no host sync.
    dtype: precision of the multiplications, as in `polar`. The result does not depend on the scale of G; a
    zero row stays zero, and so does a zero matrix. Row norms are even within 1 % where rows >= 1.5 cols;
    closer to square, badly conditioned columns leave a few percent. Raises ValueError as `polar` does.
    """
    by_rows = balances_rows(G.shape, balance)
    if by_rows is None:
        return polar(G, method, dtype)
    tall = _scaled(G if by_rows else G.mT)
    U = polar(tall, method, dtype)
    dtype = dtype or iteration_dtype(G)
    U = _retract(U, dtype)
    lam, V, last = torch.zeros_like(U[..., :1]), torch.zeros_like(U), torch.zeros_like(U)
    for _ in range(iterations):
        Z, S, lam, _ = _project(tall, U, lam, dtype)
        V, eta = _search(Z, last, V, lam, S, dtype)
        last = Z
        U = _retract(U + eta * V, dtype)
    # To rows even within 1 %: closer to square, rows and columns pull at each other, and it takes longer.
    for _ in range(4 if tall.size(-2) >= 2 * tall.size(-1) else 8):
        U = _retract(U, dtype)
    return (U if by_rows else U.mT).to(G.dtype)


class Iterate(NamedTuple):
    """A point that `reference_optimum` passed; the last one is the point it returns."""

    objective: float     # Tr(G'U)
    row_error: float     # the largest | |U_i|^2 / r - 1 |
    column_error: float  # the largest entry of |U'U - I|
    gradient: float      # |Z|_F / |G|_F, Z the gradient's part that is tangent to both constraints


def reference_optimum(G: Tensor, balance: str | None = "rows", tolerance: float = 1e-4,
                      iterations: int = 1000) -> tuple[Tensor, list[Iterate]]:
    """The constrained optimum of one matrix (rows, cols) in float64, and the trace of the run.

    The algorithm at the top of this file with its inner loops run until they have settled and an Armijo
    line search, until trace[-1].gradient < tolerance; where `iterations` do not suffice, the trace shows it.
    For tests and controls: it takes minutes where constrained_polar takes seconds. Rows that are zero in G
    are free: they get a direction from noise of 1e-6. No side to balance: the exact polar factor, and an
    empty trace. The problem is not convex: what is found is a point that no small step improves.
    Raises ValueError for anything but one matrix.
    """
    if G.ndim != 2:
        raise ValueError(f"reference_optimum: takes one matrix, got shape {tuple(G.shape)}: "
                         "call it for each")
    by_rows = balances_rows(G.shape, balance)
    if by_rows is None:
        return polar(G.double(), "exact"), []
    tall = _scaled(G.double() if by_rows else G.double().mT)
    noise = torch.randn(tall.shape, generator=torch.Generator().manual_seed(0), dtype=tall.dtype)
    U = _feasible(polar(tall + 1e-6 * _scaled(noise).to(tall.device), "exact"))
    unit = float(ratio(frobenius(G.double()), frobenius(tall)))
    lam, V, last, trace = torch.zeros_like(U[:, :1]), torch.zeros_like(U), torch.zeros_like(U), []
    for done in range(iterations + 1):
        Z, S, lam = _tangent(tall, U, lam)
        gradient = float(ratio(frobenius(Z), frobenius(tall)))
        trace.append(Iterate(unit * float(_dot(tall, U)), *_errors(U), gradient))
        if gradient < tolerance or done == iterations:
            break
        V, eta = _search(Z, last, V, lam, S, U.dtype)
        if _dot(Z, V) <= 0:  # no ascent: begin again with the gradient
            V, eta = _search(Z, torch.zeros_like(Z), torch.zeros_like(V), lam, S, U.dtype)
        last, before = Z, U
        U = _climb(tall, U, Z, V, eta)
        if U is before:  # rounding allows no better
            break
    return U if by_rows else U.mT, trace


@dataclass(frozen=True)
class RiemannianPolar(Stage):
    """update <- constrained_polar(update), shape (batch, rows, cols); the side is the group's `balance`.

    method, precision: of the polar and of the multiplications, see Polar.
    Raises ValueError for an unknown name or a value out of range.
    """

    iterations: int = 10
    method: str = "quintic12"
    precision: str | None = None

    def __post_init__(self):
        if not isinstance(self.iterations, int) or not 1 <= self.iterations <= 100:
            raise ValueError("RiemannianPolar: iterations must be an integer in 1..100, got "
                             f"{self.iterations}")
        check_method("RiemannianPolar", self.method, self.precision)

    def __call__(self, update: Tensor, ctx: Context) -> Tensor:
        return constrained_polar(update, ctx.balance, self.iterations, self.method,
                                 PRECISIONS[self.precision])


class RiemannianAurora(MatrixOptimizer):
    """Aurora whose update is, nearly, the best one with orthonormal columns and rows of norm sqrt(n/m).

        M <- M + (1 - mu) (g - M);   u = M + (1 - mu) (g - M)
        W <- (1 - lr wd) W - lr sqrt(max(1, rows/cols)) constrained_polar(u)

    All but the last factor is Aurora's, its arguments too. iterations: of constrained_polar.
    Source: arXiv 2606.27715, Riemannian Aurora; for the solver see riemannian.py.
    Raises ValueError for a parameter that is not a plain 2-D tensor or a value out of range.
    """

    def __init__(self, params, lr, weight_decay=0.025, momentum=0.95, nesterov=True, balance="rows",
                 iterations=10, polar="quintic12", process_group=None, precision=None):
        chain = (Nesterov(nesterov), RiemannianPolar(iterations, polar, precision), AspectScale(), Decay())
        super().__init__(params, chain, lr, weight_decay, momentum, balance, process_group)


# ---------------------------------------------------------------- the parts of an iteration


def _scaled(G: Tensor) -> Tensor:
    """G in float32 or more, scaled to |G|_F = sqrt(n): singular values of the order of 1, as those of U."""
    G = by_largest(G)
    return G * ratio(G.new_tensor(G.size(-1) ** 0.5), frobenius(G))


def _dot(X: Tensor, Y: Tensor) -> Tensor:
    return (X * Y).sum(dim=(-2, -1), keepdim=True)


def _matmul(X: Tensor, Y: Tensor, dtype: torch.dtype) -> Tensor:
    """X @ Y, computed in `dtype`, in the dtype of X."""
    return (X.to(dtype) @ Y.to(dtype)).to(X.dtype)


def _project(G: Tensor, U: Tensor, lam: Tensor, dtype: torch.dtype) -> tuple:
    """One pass for the multipliers: Z, S, the new lam, and c (see the top of this file)."""
    A = G - lam * U
    S = _matmul(U.mT, A, dtype)
    S = (S + S.mT) / 2
    Z = A - _matmul(U, S, dtype)
    # Where most rows of G are zero the others are longer than sqrt(r), and c / r would make lam diverge.
    energy = U.square().sum(dim=-1, keepdim=True).clamp(min=U.size(-1) / U.size(-2))
    c = (Z * U).sum(dim=-1, keepdim=True) / energy
    return Z - c * U, S, lam + RELAXATION * c, c


def _search(Z: Tensor, last: Tensor, V: Tensor, lam: Tensor, S: Tensor, dtype: torch.dtype) -> tuple:
    """The search direction that follows V, and the step along it; last = V = 0 gives steepest ascent."""
    beta = ratio(_dot(Z, Z - last), _dot(last, last)).clamp(0, 1)
    V = Z + beta * V
    H = lam * V + _matmul(V, S, dtype)
    # Where the model bends little or the wrong way, the step is bounded by 20 times 1 / |H|.
    return V, ratio(_dot(Z, V), torch.maximum(_dot(V, H), 0.05 * frobenius(V) * frobenius(H)))


def _retract(Y: Tensor, dtype: torch.dtype) -> Tensor:
    """A point closer to the constraint set: rows rescaled, then one Newton-Schulz step for the columns."""
    m, n = Y.shape[-2:]
    # The clamp keeps a row whose norm vanishes in float32 from being divided by nothing.
    norm = torch.linalg.vector_norm(Y, dim=-1, keepdim=True).clamp(min=1e-8)
    Y = Y * ((n / m) ** 0.5 / norm) ** RELAXATION
    gram = _matmul(Y.mT, Y, dtype)
    eye = torch.eye(n, dtype=Y.dtype, device=Y.device)
    mean = gram.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[..., None, None]
    E = gram - mean * eye
    size = frobenius(E)
    E = ratio(E, size)  # of norm 1, as `even` is: no power may leave the range of float16
    square = _matmul(E, E, dtype)
    even = ratio(square, frobenius(square))
    fourth = frobenius(square) ** 0.5 * frobenius(_matmul(even, even, dtype)) ** 0.25  # |E^4|_F^(1/4)
    bound = mean + 1.01 * size * fourth                      # 1.01: bfloat16 rounds to 1/256
    a, b = ratio(mean, bound), ratio(size, bound)            # Y'Y / bound = a I + b E
    # p(s)/s at s^2 = a + b E. Added to Y as a correction, small near the constraint set, it loses nothing
    # where the multiplication is in bfloat16.
    p = (15 - 10 * a + 3 * a * a) / 8 * eye + (6 * a - 10) / 8 * b * E + 3 / 8 * b * b * square
    return Y + _matmul(Y, ratio(p, bound.sqrt()) - eye, dtype)


# ---------------------------------------------------------------- the reference's loops, in float64


def _errors(U: Tensor) -> tuple[float, float]:
    """Row and column error of a tall U, see Iterate."""
    m, n = U.shape
    rows = (U.square().sum(dim=1) * (m / n) - 1).abs().max()
    return float(rows), float((U.mT @ U - torch.eye(n, dtype=U.dtype, device=U.device)).abs().max())


def _feasible(Y: Tensor) -> Tensor:
    """Y, retracted until it fulfils the constraints."""
    for _ in range(PASSES):
        Y = _retract(Y, Y.dtype)
        if max(_errors(Y)) < FEASIBLE:
            break
    return Y


def _tangent(G: Tensor, U: Tensor, lam: Tensor) -> tuple:
    """Z, S and lam, projected until Z is tangent to both constraints."""
    for _ in range(PASSES):
        Z, S, lam, c = _project(G, U, lam, U.dtype)
        if c.abs().max() < 1e-8:
            break
    return Z, S, lam


def _climb(G: Tensor, U: Tensor, Z: Tensor, V: Tensor, eta: Tensor) -> Tensor:
    """The first of U + eta V, U + eta/3 V, ... that, retracted, gains a share of what its slope promises;
    else U."""
    start, slope = _dot(G, U), _dot(Z, V)
    for _ in range(25):
        Y = _feasible(U + eta * V)
        if _dot(G, Y) >= start + 1e-4 * eta * slope:
            return Y
        eta = eta / 3
    return U
