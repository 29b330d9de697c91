"""The ranks of an optimizer: a matrix has one owner, to which its gradients go and whose result all get."""
import torch
import torch.distributed as dist
from torch import Tensor

from .stack import Stack

# torch 2.13 renamed the collectives of one tensor; 2.11 has only the old names.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class Sent:
    """The gradients of a stack that are on their way to their owners before the step."""

    def __init__(self, stack: Stack, dtype: torch.dtype):
        like = stack.params[0]
        self.sums = torch.empty((len(stack.params), *like.shape), dtype=dtype, device=like.device)
        self.works: dict = {}  # index of a parameter -> what to wait for


class Owners:
    """This rank among those of `group`, a torch.distributed process group (None: a single rank); its rank is
    negative where it does not belong to the group."""

    def __init__(self, group=None):
        self.group = group
        self.rank = dist.get_rank(group) if group is not None else 0
        self.world_size = dist.get_world_size(group) if group is not None else 1
        self.sent: dict[Stack, Sent] = {}

    def send(self, stack: Stack, i: int, grad: Tensor) -> None:
        """Begin to sum `grad`, which is copied, on the owner of `stack.params[i]`."""
        if stack not in self.sent:
            self.sent[stack] = Sent(stack, torch.promote_types(grad.dtype, torch.float32))
        sent = self.sent[stack]
        sent.sums[i].copy_(grad)
        sent.works[i] = dist.reduce(sent.sums[i], group_dst=i // stack.per_rank, group=self.group,
                                    async_op=True)

    def was_sent(self, stack: Stack) -> set[int]:
        """The indices of the stack's parameters whose gradients for the coming step are on their way."""
        return set(self.sent[stack].works) if stack in self.sent else set()

    def forget_sent(self) -> None:
        """Drop the gradients on their way, for a step that is not taken."""
        for sent in self.sent.values():
            for work in sent.works.values():
                work.wait()
        self.sent = {}

    def reduce(self, stack: Stack, grads: list) -> tuple[Tensor, list]:
        """This rank's share of the summed gradients (slots, rows, cols), and what to wait for. None among
        `grads`, one for each parameter, counts as zero."""
        if stack in self.sent:
            sent = self.sent.pop(stack)
            return sent.sums[stack.first:stack.first + len(stack.owned)], list(sent.works.values())
        grads = [torch.zeros_like(p) if g is None else g for p, g in zip(stack.params, grads)]
        dtype = torch.promote_types(grads[0].dtype, torch.float32)
        everyone = stack.batch(grads, stack.per_rank * self.world_size, dtype)
        if self.world_size == 1:
            return everyone, []
        mine = everyone.new_empty((stack.per_rank, *everyone.shape[1:]))
        return mine, [_reduce_scatter(mine, everyone, group=self.group, async_op=True)]

    def gather(self, stack: Stack, mine: Tensor) -> tuple:
        """Every rank's `mine` (slots, ...) as one tensor, and what to wait for."""
        full = mine.new_empty((stack.per_rank * self.world_size, *mine.shape[1:]))
        return full, _all_gather(full, mine.contiguous(), group=self.group, async_op=True)

    def whole_state(self, stacks: list[Stack]) -> dict:
        """parameter -> its state, gathered from the ranks that own it; a collective."""
        found: dict = {p: {} for stack in stacks for p in stack.params}
        for stack in stacks:
            for name, value in stack.state.items():
                mine = value.new_zeros((stack.per_rank, *value.shape[1:]))
                mine[:len(stack.owned)] = value
                full, work = self.gather(stack, mine)
                work.wait()
                for i, p in enumerate(stack.params):
                    found[p][name] = full[i]
        return found

    def largest(self, flags: Tensor) -> Tensor:
        """The entrywise maximum of `flags`, written in place, over the ranks."""
        if self.world_size > 1:
            dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self.group)
        return flags
