"""Scales: what gives a direction the size of a step."""
from dataclasses import dataclass

import torch
from torch import Tensor

from .stage import Context, Stage, check_range


def frobenius(X: Tensor) -> Tensor:
    """|X|_F of each matrix, shape (..., 1, 1)."""
    return torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True)


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0."""
    return torch.where(b > 0, a / b, 0)


@dataclass(frozen=True)
class AspectScale(Stage):
    """update * sqrt(max(1, rows / cols)): Muon's scale, so that one lr serves every shape.

    3072 x 768: 2;  768 x 3072: 1;  768 x 768: 1. Source: https://kellerjordan.github.io/posts/muon/
    """

    def __call__(self, update: Tensor, ctx: Context) -> Tensor:
        rows, cols = update.shape[-2:]
        return update * (rows / cols) ** 0.5 if rows > cols else update


@dataclass(frozen=True)
class RootMeanSquare(Stage):
    """update <- value sqrt(rows cols) update / |update|_F: a root mean square of `value` per entry.

    .2 is AdamW's usual one. Source: Moonlight, arXiv 2502.16982, section 2.2; NorMuon, arXiv 2510.05491.
    """

    value: float = 0.2

    def __post_init__(self):
        check_range(self, "value", "(0, inf)")

    def __call__(self, update: Tensor, ctx: Context) -> Tensor:
        rows, cols = update.shape[-2:]
        return update * ratio(update.new_tensor(self.value * (rows * cols) ** 0.5), frobenius(update))
