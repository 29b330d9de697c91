"""The pin of a weight's norm."""
from dataclasses import dataclass

from torch import Tensor

from .scale import frobenius, ratio
from .stage import Context, Stage


@dataclass(frozen=True)
class Hyperball(Stage):
    """The weight keeps its Frobenius norm, and moves by lr times it:

        W' = W - lr |W| update / |update|;   W <- W' |W| / |W'|

    The last stage of its chain; weight decay has no place in it. At lr 0 nothing changes.
    Source: MuonH, modded-nanogpt's track 3, row 5. Raises ValueError for a weight of norm 0, which could
    never move.
    """

    def init(self, ctx: Context) -> None:
        for name, norm in zip(ctx.names, frobenius(ctx.weight).flatten().tolist()):
            if norm == 0:
                raise ValueError(f"Hyperball: {name} is zero and would stay zero on a sphere of radius 0; "
                                 "initialise it to something else, or leave it out of this chain")

    def __call__(self, update: Tensor, ctx: Context) -> Tensor:
        return update * ratio(frobenius(ctx.weight), frobenius(update))

    def after_step(self, ctx: Context) -> None:
        ctx.weight = ctx.weight * ratio(frobenius(ctx.before), frobenius(ctx.weight))
