"""The verdict on the gradients of a step: which are not finite, which are missing, and what is skipped."""
import torch
from torch import Tensor

from .owners import Owners
from .stack import Stack


class HostCopy:
    """A small tensor on its way to the host; get() waits for that copy alone, not for later work."""

    def __init__(self, value: Tensor):
        self.host, self.event = value, None
        if value.is_cuda:
            self.host = torch.empty(value.shape, dtype=value.dtype, device="cpu", pin_memory=True)
            self.host.copy_(value, non_blocking=True)
            self.event = torch.cuda.Event()
            self.event.record()

    def get(self) -> list:
        if self.event is not None:
            self.event.synchronize()
        return self.host.tolist()


class GradientCheck:
    """Finds the gradients that are not finite on any rank, and raises FloatingPointError with their names:
    on the CPU at once, on CUDA when the next step asks, so that no step waits for the device."""

    def __init__(self, kind: str, owners: Owners):
        self.kind, self.owners = kind, owners  # kind: the optimizer's, for messages
        self.pending: tuple | None = None      # (HostCopy, names) of a step on CUDA not yet looked at

    def raise_pending(self) -> None:
        """Look at the step before: the device is past it, or nearly."""
        if self.pending is not None:
            verdict, names = self.pending
            self.pending = None
            self._raise_if_bad(verdict, names)

    def _raise_if_bad(self, verdict: HostCopy, names: list) -> None:
        bad = [name for name, flag in zip(names, verdict.get()) if flag]
        if bad:
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise FloatingPointError(f"{self.kind}: non-finite gradient in {bad[0]}{more} (or its norm "
                                     "overflows); no weight was changed: lower the learning rate or look at "
                                     "the loss")

    def skips(self, stacks: list[Stack], grads: list[list], found_inf: Tensor | None) -> list[Tensor]:
        """For each stack a bool tensor, true where weight and state stay: 0-d (a gradient on any rank is not
        finite; or the caller's `found_inf`) or (owned,), where some have no gradient, too.

        grads: of each stack's parameters, None where there is none.
        """
        flat, there = [g for of in grads for g in of], None
        if found_inf is None:
            found_inf, there = self._verdict(stacks, flat)
        elif any(g is None for g in flat):
            there = _flags([g is not None for g in flat], found_inf.device)
        skip = found_inf != 0
        if there is None:
            return [skip] * len(stacks)
        skips, start = [], 0
        for stack in stacks:
            first = start + stack.first
            skips.append(skip | (there[first:first + len(stack.owned)] == 0))
            start += len(stack.params)
        return skips

    def _verdict(self, stacks: list, grads: list) -> tuple:
        """0-d, non-zero where a gradient on any rank is not finite, which is raised or noted; and which
        parameters have a gradient on any rank, None where it is known that all have."""
        device = stacks[0].params[0].device
        flat = [g.float() if g.dtype == torch.float16 else g for g in grads if g is not None]
        # The 2-norm: on a CPU the inf-norm takes 18 times as long.
        norms = iter([norm.to(device, torch.float32) for norm in torch._foreach_norm(flat)] if flat else ())
        zero = torch.zeros((), device=device)
        bad = (~torch.stack([zero if g is None else next(norms) for g in grads]).isfinite()).float()
        there, alone = None, self.owners.world_size == 1
        if not alone or len(flat) < len(grads):
            there = _flags([g is not None for g in grads], device)
        if not alone:
            bad, there = self.owners.largest(torch.stack((bad, there)))
        names = [name for stack in stacks for name in stack.names]
        if bad.is_cuda:
            self.pending = HostCopy(bad), names
        else:
            self._raise_if_bad(HostCopy(bad), names)
        return bad.amax(), there


def _flags(values: list, device) -> Tensor:
    """Bools as a float32 tensor on the device, without a copy from the host, which would wait for it."""
    zero, one = torch.arange(2, dtype=torch.float32, device=device)
    return torch.stack([one if value else zero for value in values])
