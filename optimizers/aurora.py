"""Aurora: Muon whose update has rows of equal norm as well as orthonormal columns."""
from dataclasses import dataclass

import torch
from torch import Tensor

from .balance import SCHEDULES, balanced_polar, balances_rows, correction, row_norms
from .decay import Decay
from .matrix import MatrixOptimizer
from .momentum import Nesterov
from .polar import PRECISIONS, check_method, polar
from .scale import AspectScale
from .stage import Context, Stage, check_range


@dataclass(frozen=True)
class BalancedPolar(Stage):
    """update <- balanced_polar(update), shape (batch, rows, cols); the side is the param group's `balance`.

    schedule: "restart" (the release's map), "polish" (Muon's price), "algorithm3" (the paper's), or "warm":

        U = polar(D G);   D <- D ((cols/rows) / |U_i|^2)^beta, scaled to geometric mean 1

    one polar a step (`iterations` does not apply), D kept in state["row_scale"], (batch, rows, 1) or (batch,
    1, cols), and 1 / |G_i| where it is still zero. See balance.py.
    method, precision: of the polars, see Polar.
    Defaults K = 2, beta = .5: the release's and the paper's speedrun setting.
    Raises ValueError for an unknown name or a value out of range.
    """

    iterations: int = 2
    beta: float = 0.5
    method: str = "quintic12"
    schedule: str = "restart"
    precision: str | None = None

    def __post_init__(self):
        most = 4 if self.schedule == "polish" else 100
        if not isinstance(self.iterations, int) or not 1 <= self.iterations <= most:
            raise ValueError("BalancedPolar: iterations must be an integer of at least 1 and at most "
                             f"{most}, got {self.iterations}")
        check_range(self, "beta", "(0, 1]")
        check_method("BalancedPolar", self.method, self.precision)
        if self.schedule not in SCHEDULES:
            raise ValueError(f"BalancedPolar: unknown schedule {self.schedule!r}; known: "
                             f"{', '.join(SCHEDULES)}")

    def init(self, ctx: Context) -> None:
        by_rows = balances_rows(ctx.weight.shape, ctx.balance)
        if self.schedule == "warm" and by_rows is not None:
            like = ctx.weight[..., :1] if by_rows else ctx.weight[..., :1, :]
            ctx.state["row_scale"] = torch.zeros_like(like)

    def __call__(self, update: Tensor, ctx: Context) -> Tensor:
        if self.schedule == "warm":
            return self.warm(update, ctx)
        return balanced_polar(update, ctx.balance, self.iterations, self.beta, self.method, self.schedule,
                              PRECISIONS[self.precision])

    def warm(self, update: Tensor, ctx: Context) -> Tensor:
        by_rows = balances_rows(update.shape, ctx.balance)
        if by_rows is None:
            return polar(update, self.method, PRECISIONS[self.precision])
        G = update if by_rows else update.mT
        norm = row_norms(G)
        D = ctx.state["row_scale"] if by_rows else ctx.state["row_scale"].mT
        D = torch.where(D > 0, D, 1 / norm)
        U = polar(D * G, self.method, PRECISIONS[self.precision])
        alive = norm > 1e-8  # a zero row says nothing about its scale: it starts again when it has a gradient
        log = torch.where(alive, (D * correction(U, self.beta)).log(), 0)
        log = log - log.sum(dim=(-2, -1), keepdim=True) / alive.sum(dim=(-2, -1), keepdim=True).clamp(min=1)
        D = torch.where(alive, log.exp(), 0)
        ctx.state["row_scale"] = D if by_rows else D.mT
        return U if by_rows else U.mT


class Aurora(MatrixOptimizer):
    """Aurora: among left semi-orthogonal updates of a tall matrix, one whose rows all have norm sqrt(n/m).

        M <- M + (1 - mu) (g - M);   u = M + (1 - mu) (g - M)
        W <- (1 - lr wd) W - lr sqrt(max(1, rows/cols)) balanced_polar(u)

    balance (per param group): "rows" balances the rows of tall matrices (the paper's scope), "columns" the
    columns of wide ones, "long" both (the May 2026 release), None nothing (Muon). Square matrices: Muon.
    schedule: "restart" (the release's map), "polish", "warm" or "algorithm3": see BalancedPolar.
    params: 2-D parameters, param groups, or named_parameters(). `process_group`: see MatrixOptimizer.
    Source: arXiv 2606.27715 and https://github.com/tilde-research/aurora-release.
    Raises ValueError for a parameter that is not a plain 2-D tensor or a value out of range.
    """

    def __init__(self, params, lr, weight_decay=0.025, momentum=0.95, nesterov=True, balance="rows",
                 iterations=2, beta=0.5, schedule="restart", polar="quintic12", process_group=None,
                 precision=None):
        balanced = BalancedPolar(iterations, beta, polar, schedule, precision)
        chain = (Nesterov(nesterov), balanced, AspectScale(), Decay())
        super().__init__(params, chain, lr, weight_decay, momentum, balance, process_group)
