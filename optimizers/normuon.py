"""NorMuon and U-NorMuon: Muon whose rows are evened out after the polar, at the price of orthogonality."""
from dataclasses import dataclass

import torch
from torch import Tensor

from .balance import balances_rows
from .decay import Decay
from .matrix import MatrixOptimizer
from .momentum import Nesterov
from .muon import Polar
from .scale import AspectScale, RootMeanSquare, frobenius, ratio
from .stage import Context, Stage, check_range

FORMS = ("track3", "paper")


@dataclass(frozen=True)
class RowVariance(Stage):
    """Adam's second moment, one number a row:

        v <- beta2 v + (1 - beta2) mean_j update_ij^2;   update <- update / sqrt(v), then scaled back to the
        Frobenius norm it had

    side "long": one number for each index of the longer side (columns of a wide matrix), as track 3 does;
    "rows": always rows, as the paper does. Keeps state["row_variance"], shape (batch, rows, 1) or (batch, 1,
    cols), from zero and without bias correction, which the scaling back makes up for.
    Source: NorMuon, arXiv 2510.05491; modded-nanogpt's track 3, row 10 (beta2 .95, v at least 1e-10).
    """

    beta2: float = 0.95
    side: str = "long"

    def __post_init__(self):
        check_range(self, "beta2", "[0, 1)")
        if self.side not in ("long", "rows"):
            raise ValueError(f"RowVariance: side must be 'long' or 'rows', got {self.side!r}")

    def _axis(self, shape) -> int:
        return -2 if self.side == "long" and shape[-2] < shape[-1] else -1

    def init(self, ctx: Context) -> None:
        axis = self._axis(ctx.weight.shape)
        ctx.state["row_variance"] = torch.zeros_like(ctx.weight.narrow(axis, 0, 1))

    def __call__(self, update: Tensor, ctx: Context) -> Tensor:
        energy = update.square().mean(dim=self._axis(update.shape), keepdim=True)
        v = ctx.state["row_variance"]
        v = v + (1 - self.beta2) * (energy - v)
        ctx.state["row_variance"] = v
        even = update * v.clamp(min=1e-10).rsqrt()
        return even * ratio(frobenius(update), frobenius(even))


@dataclass(frozen=True)
class RowNorm(Stage):
    """update_i <- update_i (sqrt(cols/rows) / |update_i|)^exponent on the side the group's `balance` names.

    After a polar, with exponent 1, it makes rows exactly even and leaves the columns no longer orthonormal
    (U-NorMuon); before one it is a row scaling of the momentum (MuonEq). Norms are relative to the matrix's
    mean row norm sqrt(cols/rows) of an orthonormal update; columns of a wide matrix by transposition; a side
    that is not named, a square matrix and a zero row stay as they are.
    """

    exponent: float = 1.0

    def __post_init__(self):
        check_range(self, "exponent", "[0, 2]")

    def __call__(self, update: Tensor, ctx: Context) -> Tensor:
        by_rows = balances_rows(update.shape, ctx.balance)
        if by_rows is None:
            return update
        axis = -1 if by_rows else -2
        norm = torch.linalg.vector_norm(update, dim=axis, keepdim=True)
        target = (min(update.shape[-2:]) / max(update.shape[-2:])) ** 0.5
        return update * torch.where(norm > 0, target / norm, 1).pow(self.exponent)


class NorMuon(MatrixOptimizer):
    """NorMuon: Muon with a second moment per row after the polar.

        M, u as Muon's;   O = RowVariance(polar(u))
        form "track3":  W <- (1 - lr wd) W - lr sqrt(max(1, rows/cols)) O      one v per long-side index
        form "paper":   W <- (1 - lr wd) W - lr .2 sqrt(rows cols) O / |O|_F   one v per row

    Source: arXiv 2510.05491, Algorithm 1; modded-nanogpt's track 3, row 10 (lr .035, weight decay .025,
    beta2 .95). The forms' learning rates differ: the paper's update has a root mean square of .2 per entry.
    Raises ValueError for a parameter that is not a plain 2-D tensor or a value out of range.
    """

    def __init__(self, params, lr, weight_decay=0.025, momentum=0.95, nesterov=True, beta2=0.95,
                 form="track3", polar="quintic12", process_group=None, precision=None):
        if form not in FORMS:
            raise ValueError(f"NorMuon: unknown form {form!r}; known: {', '.join(FORMS)}")
        after = ((RowVariance(beta2, "long"), AspectScale()) if form == "track3" else
                 (RowVariance(beta2, "rows"), RootMeanSquare(0.2)))
        chain = (Nesterov(nesterov), Polar(polar, precision), *after, Decay())
        super().__init__(params, chain, lr, weight_decay, momentum, process_group=process_group)


class UNorMuon(MatrixOptimizer):
    """U-NorMuon: rows of a tall matrix are scaled to sqrt(cols/rows) after the polar; others are Muon's.

        M, u as Muon's;   O_i = polar(u)_i sqrt(cols/rows) / |polar(u)_i|
        W <- (1 - lr wd) W - lr sqrt(max(1, rows/cols)) O

    Sources conflict on the scale. This is the one of the Aurora authors' blog as others retell it, without
    a moving average. Others: gvlassis/U-NorMuon keeps NorMuon's average and multiplies its step by
    sqrt(n/m) on tall matrices; other codes use .2 min(rows, cols) / |O|_F or .2 / sqrt(n) for every shape.
    Here rows have exactly even norm, and columns are no longer orthonormal.
    balance (per param group): as Aurora's. Raises ValueError as Muon does.
    """

    def __init__(self, params, lr, weight_decay=0.025, momentum=0.95, nesterov=True, balance="rows",
                 polar="quintic12", process_group=None, precision=None):
        chain = (Nesterov(nesterov), Polar(polar, precision), RowNorm(), AspectScale(), Decay())
        super().__init__(params, chain, lr, weight_decay, momentum, balance, process_group)
