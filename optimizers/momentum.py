"""Momentum: the first stage of every chain."""
from dataclasses import dataclass

import torch
from torch import Tensor

from .stage import Context, Stage


@dataclass(frozen=True)
class Nesterov(Stage):
    """Exponential moving average of gradients with Nesterov's look ahead.

        M <- M + (1 - mu) (g - M);    update = M + (1 - mu) (g - M)    (nesterov=False: update = M)

    Keeps state["momentum"], shape (batch, rows, cols), from zero and without bias correction: every later
    stage of these chains ignores the scale. mu is the param group's `momentum`; mu = 0 gives the gradient.
    Source: Muon, https://kellerjordan.github.io/posts/muon/ (EMA form, as in modded-nanogpt).
    """

    nesterov: bool = True

    def init(self, ctx: Context) -> None:
        ctx.state["momentum"] = ctx.weight.new_zeros(ctx.weight.shape)

    def __call__(self, update: Tensor, ctx: Context) -> Tensor:
        M = ctx.state["momentum"].lerp_(update, 1 - ctx.momentum)
        return torch.lerp(M, update, 1 - ctx.momentum) if self.nesterov else M
