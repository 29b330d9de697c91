"""SOAP as a stage before the polar: the momentum, whitened in the eigenbases of the gradient."""
from dataclasses import dataclass

import torch
from torch import Tensor

from .scale import ratio
from .stage import Context, Stage, check_range


def schatten4(X: Tensor) -> Tensor:
    """(sum sigma^4)^(1/4) of each matrix, (..., 1, 1); over its largest entry, or fourth powers overflow."""
    largest = X.abs().amax(dim=(-2, -1), keepdim=True)
    X = X * ratio(torch.ones_like(largest), largest)
    gram = X.mT @ X if X.size(-2) > X.size(-1) else X @ X.mT
    return largest * torch.linalg.vector_norm(gram, dim=(-2, -1), keepdim=True).sqrt()


@dataclass(frozen=True)
class Soap(Stage):
    """update <- Q_L [(Q_L' update Q_R) / sqrt(V)] Q_R', scaled to the update's Schatten-4 norm, where

        L <- beta L + (1 - beta) g g',   R <- beta R + (1 - beta) g'g      of the raw gradient g
        Q_L, Q_R: eigenvectors of L, R
        V <- beta V + (1 - beta) (Q_L' update Q_R)^2

    L, R and the bases are refreshed after the weight step, so a step uses those of the step before, and the
    first passes the update on unchanged. The bases come from an eigendecomposition at the optimizer's first
    step, then from one power iteration with QR a step, columns (and V with them) sorted by Rayleigh quotient;
    a matrix whose first gradient comes later has power iterations alone.
    Keeps state["soap_L"], ["soap_R"], ["soap_QL"], ["soap_QR"], ["soap_V"]: (batch, rows, rows), ...
    Source: SOAP, arXiv 2409.11321; before the polar: modded-nanogpt's track 3, rows 14 and 44 (beta .9,
    refreshed every step).
    """

    beta: float = 0.9
    asks_first = True

    def __post_init__(self):
        check_range(self, "beta", "[0, 1)")

    def init(self, ctx: Context) -> None:
        batch, rows, cols = ctx.weight.shape
        for name, shape in (("L", (rows, rows)), ("R", (cols, cols)), ("QL", (rows, rows)),
                            ("QR", (cols, cols)), ("V", (rows, cols))):
            ctx.state[f"soap_{name}"] = ctx.weight.new_zeros((batch, *shape))

    def __call__(self, update: Tensor, ctx: Context) -> Tensor:
        QL, QR, V = (ctx.state[f"soap_{name}"] for name in ("QL", "QR", "V"))
        inside = QL.mT @ update @ QR
        V = V + (1 - self.beta) * (inside.square() - V)
        ctx.state["soap_V"] = V
        # V and the update have the gradient's scale, which may be tiny: an entry without variance is 0.
        white = QL @ ratio(inside, V.sqrt()) @ QR.mT
        norm = schatten4(white)
        return torch.where(norm > 0, white * ratio(schatten4(update), norm), update)

    def after_step(self, ctx: Context) -> None:
        g, V = ctx.grad, ctx.state["soap_V"]
        for side, outer, axis in (("L", g @ g.mT, -2), ("R", g.mT @ g, -1)):
            P = ctx.state[f"soap_{side}"]
            P = P + (1 - self.beta) * (outer - P)
            ctx.state[f"soap_{side}"] = P
            if ctx.first:
                Q = torch.linalg.eigh(P).eigenvectors.flip(-1)
            else:
                Q = ctx.state[f"soap_Q{side}"]
                order = (Q * (P @ Q)).sum(dim=-2).argsort(dim=-1, descending=True)
                Q = torch.linalg.qr(P @ Q.gather(-1, order.unsqueeze(-2).expand_as(Q))).Q
                V = V.gather(axis, order.unsqueeze(-1 if axis == -2 else -2).expand_as(V))
            ctx.state[f"soap_Q{side}"] = Q
        ctx.state["soap_V"] = V
