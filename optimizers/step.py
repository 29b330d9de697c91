"""What turns a direction into a step: the aspect-ratio scale and decoupled weight decay."""
from dataclasses import dataclass

from torch import Tensor

from .matrix import Context, Stage


@dataclass(frozen=True)
class AspectScale(Stage):
    """update * sqrt(max(1, rows / cols)): Muon's scale, so that one lr serves every shape.

    3072 x 768: 2;  768 x 3072: 1;  768 x 768: 1. Source: https://kellerjordan.github.io/posts/muon/
    """

    def __call__(self, update: Tensor, ctx: Context) -> Tensor:
        rows, cols = update.shape[-2:]
        return update * max(1.0, rows / cols) ** 0.5


@dataclass(frozen=True)
class Decay(Stage):
    """Decoupled weight decay: update + wd W, which the step turns into W <- (1 - lr wd) W - lr update.

    wd is the param group's `weight_decay`. Source: AdamW, https://arxiv.org/abs/1711.05101 (decay times lr).
    """

    def __call__(self, update: Tensor, ctx: Context) -> Tensor:
        return update + ctx.weight_decay * ctx.weight
