"""The gradients of a step: float32 sums over micro-batches, and over the ranks for what no optimizer shards.

A matrix of a sharded MatrixOptimizer is summed by that optimizer, which sends each sum to its owner alone.
All others (embedding, head, gains, biases) are reduced here, in buckets. With `overlap` a bucket, and each
matrix, leaves as soon as its last gradient exists, while the backward pass continues; without, buckets leave
at its end and matrices in the optimizer's step.
"""
import torch
import torch.distributed as dist
from torch import Tensor, nn

from optimizers import MatrixOptimizer

from .world import World

BUCKET = 2**23  # numbers of a bucket; a larger tensor is one of its own


def owners_of(optimizers: list) -> dict:
    """parameter -> the optimizer that sums its gradients over the ranks itself."""
    return {p: o for o in optimizers if isinstance(o, MatrixOptimizer) and o.world_size > 1
            for group in o.param_groups for p in group["params"]}


def buckets_of(params: list) -> list[list]:
    """The parameters in the order in which the backward pass is done with them, cut at BUCKET numbers."""
    buckets, room = [], 0
    for p in reversed(params):
        if not buckets or p.numel() > room:
            buckets.append([])
            room = max(BUCKET, p.numel())
        buckets[-1].append(p)
        room -= p.numel()
    return buckets


class Gradients:
    """Sums the gradients of a step: `backward(loss, last)` for each micro-batch, then `finish()`."""

    def __init__(self, world: World, model: nn.Module, optimizers: list, overlap: bool = False):
        self.world, self.params, self.overlap = world, list(model.parameters()), overlap and world.size > 1
        self.low: dict = {}    # p -> float32 sum of what p.grad can only hold in a lower precision
        self.sent: list = []   # of the messages on their way, in order: (flat sums, work) of a bucket
        self.missing = None    # for each message not sent, the parameters that have no gradient yet
        self.use_optimizers(optimizers)
        if self.overlap:
            for p in self.params:
                p.register_post_accumulate_grad_hook(self._arrived)

    def use_optimizers(self, optimizers: list) -> None:
        """From now on the gradients are those that `optimizers` step with: another seed's."""
        self.owners = owners_of(optimizers) if self.world.size > 1 else {}
        self.messages = buckets_of([p for p in self.params if p not in self.owners])
        if self.overlap:  # in the order in which they are whole
            place = {p: i for i, p in enumerate(reversed(self.params))}
            self.messages += [[p] for p in self.owners]
            self.messages.sort(key=lambda message: max(place[p] for p in message))

    def backward(self, loss: Tensor, last: bool) -> None:
        """loss.backward(); `last` says that this is the step's last micro-batch."""
        self.missing = [set(message) for message in self.messages] if last and self.overlap else None
        loss.backward()
        for p in self.params:
            self._widen(p)

    def _widen(self, p: Tensor) -> None:
        if p.grad is not None and p.dtype != torch.float32:
            self.low[p] = self.low[p] + p.grad.float() if p in self.low else p.grad.float()
            p.grad = None

    def _arrived(self, p: Tensor) -> None:
        if self.missing is None:
            return
        self._widen(p)
        for missing in self.missing:
            missing.discard(p)
        # In one order on every rank, or they would add unlike messages.
        while len(self.sent) < len(self.messages) and not self.missing[len(self.sent)]:
            self._send()

    def _send(self) -> None:
        message = self.messages[len(self.sent)]
        totals = [self.low.get(p, p.grad) for p in message]
        if owner := self.owners.get(message[0]):
            owner.send(message[0], totals[0])
            self.sent.append(None)
        else:
            flat = torch.cat([total.flatten() for total in totals])
            self.sent.append((flat, dist.all_reduce(flat, async_op=True)))

    def finish(self) -> None:
        """Leaves in every p.grad the sum over micro-batches, and over the ranks where that is done here."""
        if self.world.size > 1:
            while len(self.sent) < len(self.messages):
                self._send()
            for bucket, (flat, work) in ((m, sent) for m, sent in zip(self.messages, self.sent) if sent):
                work.wait()
                self.low.update((p, total.view_as(p)) for p, total in
                                zip(bucket, flat.split([p.numel() for p in bucket])))
        for p, total in self.low.items():
            p.grad = total.to(p.dtype)
        self.low, self.sent = {}, []
