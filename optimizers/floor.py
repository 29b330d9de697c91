"""A floor under an update's size, measured by its weight's."""
from dataclasses import dataclass

from torch import Tensor

from .scale import frobenius, ratio
from .stage import Context, Stage, check_range


@dataclass(frozen=True)
class UpdateFloor(Stage):
    """The u/w-floor: update * max(1, floor |W|_F / |update|_F); nothing happens to a zero weight or update.

    Takes the place of weight decay: a weight that outgrows its update gets larger ones. floor .35 is that of
    modded-nanogpt's track 3, rows 9 to 28 (.3825 from row 29 on). It comes after the aspect scale.
    """

    floor: float = 0.35

    def __post_init__(self):
        check_range(self, "floor", "[0, inf)")

    def __call__(self, update: Tensor, ctx: Context) -> Tensor:
        return update * ratio(self.floor * frobenius(ctx.weight), frobenius(update)).clamp(min=1)
