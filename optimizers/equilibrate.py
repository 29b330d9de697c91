"""Rows and columns of the momentum evened out before the polar."""
from dataclasses import dataclass

from torch import Tensor

from .balance import row_norms
from .stage import Context, Stage, check_range


@dataclass(frozen=True)
class Equilibrate(Stage):
    """update_ij <- update_ij / (r_i^exponent c_j^other), shape (batch, rows, cols)

    r, c: norms of the lines on the side that the group's `balance` names (here rows), and on the other one,
    of the update as it comes and over their mean; one below 1e-8 of that counts as zero. "rows" and
    "columns" mean those of any matrix, square ones too, since before the polar every side is free; "long" is
    the longer side (square: rows); None leaves the update as it is. The scale of the result means nothing: a
    polar follows.
    With "rows", exponent 1 and other 0 it is MuonEq's row form (arXiv 2603.28254), and on a tall matrix
    BalancedPolar's first iteration. Softer exponents are ours. Raises ValueError for one outside 0..2.
    """

    exponent: float = 1.0
    other: float = 0.0

    def __post_init__(self):
        check_range(self, "exponent", "[0, 2]")
        check_range(self, "other", "[0, 2]")

    def __call__(self, update: Tensor, ctx: Context) -> Tensor:
        if ctx.balance is None:
            return update
        rows, cols = update.shape[-2:]
        by_rows = rows >= cols if ctx.balance == "long" else ctx.balance == "rows"
        r, c = (self.exponent, self.other) if by_rows else (self.other, self.exponent)
        return update / (row_norms(update).pow(r) * row_norms(update.mT).mT.pow(c))
