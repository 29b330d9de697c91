"""Aurora: Muon whose update has rows of equal norm as well as orthonormal columns."""
from dataclasses import dataclass

import torch
from torch import Tensor

from .matrix import Context, MatrixOptimizer, Stage
from .momentum import Nesterov
from .polar import METHODS, polar
from .step import AspectScale, Decay


def balances_rows(shape, balance: str | None) -> bool | None:
    """Whether `balance` evens out the rows (True), the columns (False) or nothing (None) of such a matrix.

    Only the long side of a matrix is free: the short side of a polar factor is orthonormal, its norms are 1.
    """
    rows, cols = shape[-2:]
    if rows > cols and balance in ("rows", "long"):
        return True
    if rows < cols and balance in ("columns", "long"):
        return False
    return None


def balanced_polar(G: Tensor, balance: str | None = "rows", iterations: int = 2, beta: float = 0.5,
                   method: str = "quintic12") -> Tensor:
    """A polar factor of G (..., rows, cols) rescaled by rows until those have equal norm; G is not written.

        D_0 = 1 / |G_i|;   for k < K:  U_k = polar(D_k G),  D_{k+1} = D_k ((cols/rows) / |U_k,i|^2)^beta

    U'U = I and |U_i| near sqrt(cols/rows), for a tall G; columns of a wide G likewise by transposition. A
    side that `balance` does not name, and a square G, get the plain polar factor. A zero row stays zero.
    Source: the Aurora release, https://github.com/tilde-research/aurora-release src/aurora.py, May 2026;
    paper: arXiv 2606.27715 (its Algorithm 3 is another map).
    """
    by_rows = balances_rows(G.shape, balance)
    if by_rows is None:
        return polar(G, method)
    G32 = G.to(torch.promote_types(G.dtype, torch.float32))
    side = -1 if by_rows else -2  # the axis along which norms are taken
    target = min(G.shape[-2:]) / max(G.shape[-2:])
    # All is relative to the matrix: scaled to a mean norm of 1, a row below 1e-8 of that counts as zero.
    norm = torch.linalg.vector_norm(G32, dim=side, keepdim=True)
    mean = norm.mean(dim=(-2, -1), keepdim=True).clamp(min=torch.finfo(G32.dtype).tiny)
    G32, norm = G32 / mean, norm / mean
    D = 1 / norm.clamp(min=1e-8)
    U = polar(D * G32, method)
    for _ in range(iterations - 1):
        energy = U.square().sum(dim=side, keepdim=True)
        # A zero row has no energy to even out; its D must not grow, or 0 * inf would make it NaN.
        D = D * torch.where(energy > 1e-14, target / energy, 1).pow(beta)
        U = polar(D * G32, method)
    return U.to(G.dtype)


@dataclass(frozen=True)
class BalancedPolar(Stage):
    """update <- balanced_polar(update); the side to balance is the param group's `balance`.

    schedule "restart": every polar starts again from D G, as the release does.
    Defaults K = 2, beta = .5: the release's and the paper's speedrun setting.
    """

    iterations: int = 2
    beta: float = 0.5
    method: str = "quintic12"
    schedule: str = "restart"

    def __post_init__(self):
        if not isinstance(self.iterations, int) or self.iterations < 1:
            raise ValueError("BalancedPolar: iterations must be an integer of at least 1, got "
                             f"{self.iterations}")
        if not 0 < self.beta <= 1:
            raise ValueError(f"BalancedPolar: beta must lie in (0, 1], got {self.beta}")
        if self.method not in METHODS:
            raise ValueError(f"BalancedPolar: unknown polar {self.method!r}; known: {', '.join(METHODS)}")
        if self.schedule != "restart":
            raise ValueError(f"BalancedPolar: unknown schedule {self.schedule!r}; known: restart")

    def __call__(self, update: Tensor, ctx: Context) -> Tensor:
        return balanced_polar(update, ctx.balance, self.iterations, self.beta, self.method)


class Aurora(MatrixOptimizer):
    """Aurora: among left semi-orthogonal updates of a tall matrix, one whose rows all have norm sqrt(n/m).

        M <- M + (1 - mu) (g - M);   u = M + (1 - mu) (g - M)
        W <- (1 - lr wd) W - lr sqrt(max(1, rows/cols)) balanced_polar(u)

    balance (per param group): "rows" balances the rows of tall matrices (the paper's scope), "columns" the
    columns of wide ones, "long" both (the May 2026 release), None nothing (Muon). Square matrices: Muon.
    params: 2-D parameters, param groups, or named_parameters(). `process_group`: see MatrixOptimizer.
    Source: arXiv 2606.27715 and https://github.com/tilde-research/aurora-release.
    Raises ValueError for a parameter that is not a plain 2-D tensor or a value out of range.
    """

    def __init__(self, params, lr, weight_decay=0.025, momentum=0.95, nesterov=True, balance="rows",
                 iterations=2, beta=0.5, schedule="restart", polar="quintic12", process_group=None):
        balanced = BalancedPolar(iterations, beta, polar, schedule)
        chain = (Nesterov(nesterov), balanced, AspectScale(), Decay())
        super().__init__(params, chain, lr, weight_decay, momentum, balance, process_group)
