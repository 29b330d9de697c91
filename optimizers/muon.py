"""Muon: momentum, orthogonalised."""
from dataclasses import dataclass

from torch import Tensor

from .decay import Decay
from .matrix import MatrixOptimizer
from .momentum import Nesterov
from .polar import PRECISIONS, check_method, polar
from .scale import AspectScale
from .stage import Context, Stage


@dataclass(frozen=True)
class Polar(Stage):
    """update <- polar(update), shape (batch, rows, cols): see polar.py for the methods.

    precision: of the iteration, "float32", "bfloat16" or "float16"; None is polar's choice by device.
    """

    method: str = "quintic12"
    precision: str | None = None

    def __post_init__(self):
        check_method("Polar", self.method, self.precision)

    def __call__(self, update: Tensor, ctx: Context) -> Tensor:
        return polar(update, self.method, PRECISIONS[self.precision])


class Muon(MatrixOptimizer):
    """Muon: the orthogonalised momentum is the update.

        M <- M + (1 - mu) (g - M);   u = M + (1 - mu) (g - M)
        W <- (1 - lr wd) W - lr sqrt(max(1, rows/cols)) polar(u)

    params: 2-D parameters, param groups, or named_parameters(). `process_group`: see MatrixOptimizer;
    `polar` and `precision`: see Polar.
    Source: https://kellerjordan.github.io/posts/muon/; defaults as Aurora's, so that the two compare.
    Raises ValueError for a parameter that is not a plain 2-D tensor or a value out of range.
    """

    def __init__(self, params, lr, weight_decay=0.025, momentum=0.95, nesterov=True, polar="quintic12",
                 process_group=None, precision=None):
        chain = (Nesterov(nesterov), Polar(polar, precision), AspectScale(), Decay())
        super().__init__(params, chain, lr, weight_decay, momentum, process_group=process_group)
