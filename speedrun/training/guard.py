"""The guard of a run: no update that is not finite is applied, and all ranks stop at the same step.

A step's status is one small tensor, summed over ranks: [loss, ranks told to stop, losses not finite, and for
each parameter the gradients not finite]. It masks the update on the device; the host reads it one step
later, when the device is long past it, so no step waits.
"""
import math
import signal
from pathlib import Path

import torch
from torch import Tensor

from optimizers.finite import HostCopy
from speedrun.cli import Refusal, go_on

from . import checkpoint
from .world import StopSignal, World


class Diverged(Refusal):
    """A loss, a gradient or a weight was not finite."""

    status = "diverged"


class Interrupted(Refusal):
    """SIGINT or SIGTERM."""

    status = "interrupted"


class Guard:
    """Makes, keeps and reads the status of each step of one seed."""

    def __init__(self, world: World, stop: StopSignal, parameters: dict[str, Tensor], tokens_per_step: int,
                 seed: int, folder: Path | None):
        self.world, self.stop, self.parameters, self.folder = world, stop, parameters, folder
        self.tokens_per_step, self.seed = tokens_per_step, seed
        self.step = self.status = None

    def record(self, step: int, loss: Tensor) -> Tensor:
        """Note the summed loss and the gradients of `step`; returns what the optimizers take as `found_inf`:
        a 0-d tensor, non-zero where the update must be skipped, the same on every rank."""
        largest = torch.stack(_largest([p.grad for p in self.parameters.values()]))
        stop = torch.full_like(loss, self.stop.number != 0)  # a fill, not a copy that would wait
        flags = torch.cat(((~loss.isfinite()).view(1), ~largest.isfinite())).float()
        status = self.world.sum(torch.cat((torch.stack((loss, stop)), flags)))
        self.step, self.status = step, HostCopy(status)
        return status[2:].sum().clamp(max=1)

    def raise_if_bad(self) -> float | None:
        """The mean training loss of the step noted last, None before the first.

        Raises Diverged where it was not finite, Interrupted where a rank was told to stop, all ranks alike.
        """
        if self.status is None:
            return None
        loss, stop, bad_loss, *bad = self.status.get()
        mean = loss / self.tokens_per_step
        if bad_loss or any(bad):
            first = next((name for name, flag in zip(self.parameters, bad) if flag), "none")
            broken = self._broken_weight()
            weights = "the weights are intact" if broken is None else (
                f"one before it had made {broken} non-finite")
            raise Diverged(f"seed {self.seed} diverged at step {self.step}: the loss is {mean:.4f}, the "
                           f"first non-finite gradient is that of {first}; that update was not applied and "
                           f"{weights}; {self._remedy()}")
        if stop:
            raise Interrupted(f"stopped by a signal after step {self.step + 1} of seed {self.seed}; the log "
                              f"is closed, go on with {go_on(self.folder)}",
                              code=128 + (self.stop.number or signal.SIGTERM))
        return mean

    def check_weights(self, step: int) -> None:
        """Raises Diverged where a weight that `step` starts from is not finite, on all ranks alike: an update
        can be so where loss and gradients are not."""
        broken = self._broken_weight()
        if broken is not None:
            raise Diverged(f"seed {self.seed} diverged before step {step}: an update of finite gradients "
                           f"made {broken} non-finite; {self._remedy()}")

    def _broken_weight(self) -> str | None:
        finite = torch.stack(_largest(list(self.parameters.values()))).isfinite().tolist()
        return next((name for name, good in zip(self.parameters, finite) if not good), None)

    def _remedy(self) -> str:
        """What to do after a divergence: a recipe that diverges by itself needs another, a fault only its
        last checkpoint, whose weights are all finite."""
        fresh = "start again with a lower learning rate (--recipe.lr) and another --log-dir"
        kept = checkpoint.names(self.folder) if self.folder else []
        if not kept:
            return f"no checkpoint was written yet: {fresh}"
        return (f"the last good checkpoint is {kept[0].stem}: after a fault of the machine or the data "
                f"resume with {go_on(self.folder)}; a recipe that diverges by itself would do so again: "
                f"{fresh}")


@torch.no_grad()
def _largest(tensors: list[Tensor]) -> list[Tensor]:
    """The largest entry of each, in float32; one call a dtype, for of mixed ones torch makes a call each."""
    found = {}
    for dtype in {t.dtype for t in tensors}:
        at = [i for i, t in enumerate(tensors) if t.dtype == dtype]
        found |= zip(at, torch._foreach_norm([tensors[i] for i in at], math.inf))
    return [found[i].float() for i in range(len(tensors))]
