"""Weight decay."""
from dataclasses import dataclass

import torch
from torch import Tensor

from .stage import Context, Stage


@dataclass(frozen=True)
class Decay(Stage):
    """Decoupled weight decay: update + wd W, which the step turns into W <- (1 - lr wd) W - lr update.

    wd is the param group's `weight_decay`. Source: AdamW, https://arxiv.org/abs/1711.05101 (decay times lr).
    """

    def __call__(self, update: Tensor, ctx: Context) -> Tensor:
        return torch.addcmul(update, ctx.weight, ctx.weight_decay)


@dataclass(frozen=True)
class CautiousDecay(Stage):
    """Decay of those entries that the update moves towards zero: update + wd W [update W > 0].

    Source: Cautious Weight Decay, arXiv 2510.12402; modded-nanogpt's track 3, row 46 (wd .025).
    """

    def __call__(self, update: Tensor, ctx: Context) -> Tensor:
        return update + ctx.weight_decay * ctx.weight * (update * ctx.weight > 0)
