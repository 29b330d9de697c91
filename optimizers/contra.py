"""Contra-Muon: the orthogonalised update less a part of the momentum itself."""
from dataclasses import dataclass

import torch
from torch import Tensor

from .scale import frobenius, ratio
from .stage import Context, Stage, check_range


def spectral_norm(X: Tensor, iterations: int = 5) -> Tensor:
    """sigma_1 of each matrix, (..., 1, 1), from below: power iteration from the vector of ones."""
    v = torch.ones_like(X[..., :1, :]).mT
    for _ in range(iterations):
        u = X @ v
        u = u * ratio(torch.ones_like(u[..., :1, :]), frobenius(u))
        v = X.mT @ u
        v = v * ratio(torch.ones_like(v[..., :1, :]), frobenius(v))
    return frobenius(X @ v)


@dataclass(frozen=True)
class Contra(Stage):
    """p = inner(update);  update <- p - strength update / sigma_1(update), scaled back to |p|_F.

    It lowers the large singular values of the step: sigma of the momentum relative to its largest one, times
    `strength`, is taken off. inner: the stage that orthogonalises, Polar or BalancedPolar. The aspect scale
    comes after it. Source: modded-nanogpt's track 3, rows 11 and 17 (c = .4, which is strength .2 here).
    """

    inner: Stage
    strength: float = 0.2

    def __post_init__(self):
        check_range(self, "strength", "[0, inf)")

    def init(self, ctx: Context) -> None:
        self.inner.init(ctx)

    def __call__(self, update: Tensor, ctx: Context) -> Tensor:
        p = self.inner(update, ctx)
        scale = frobenius(update)  # power iteration of the unit matrix: no under- or overflow
        unit = update * ratio(torch.ones_like(scale), scale)
        contra = p - self.strength * unit * ratio(torch.ones_like(scale), spectral_norm(unit))
        return contra * ratio(frobenius(p), frobenius(contra))

    def after_step(self, ctx: Context) -> None:
        self.inner.after_step(ctx)
