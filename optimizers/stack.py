"""Stacks: how the parameters of an optimizer become batches of equal-shaped matrices.

`stacks_of` is the one place that says it. A stack holds the state of the matrices that this rank owns;
`optimizer.state` holds views of it, one a parameter.
"""
import torch
from torch import Tensor

from .stage import init_state

CPU_STACK_BYTES = 2**22  # of weights; larger stacks are split on the CPU, where it costs no launches


class Stack:
    """Matrices of one shape, dtype and param group; this rank owns `params[first : first + len(owned)]`."""

    def __init__(self, group: dict, params: list, names: list, rank: int, world_size: int):
        self.group, self.params, self.names = group, params, names
        self.per_rank = -(-len(params) // world_size)  # slots; the last ranks' may be empty
        self.first = min(rank * self.per_rank, len(params))
        self.owned = params[self.first:(rank + 1) * self.per_rank]
        self.state: dict[str, Tensor] = {}
        self.views: list[dict] = []  # of the owned matrices: the state's entries, by name

    def batch(self, tensors: list, slots: int, dtype: torch.dtype | None = None) -> Tensor:
        """`tensors` as one (slots, rows, cols), zeros after the last; a single one is not copied."""
        like = self.params[0]
        if len(tensors) == slots == 1:
            return tensors[0].detach().to(dtype or like.dtype)[None]
        out = torch.empty((slots, *like.shape), dtype=dtype or like.dtype, device=like.device)
        if tensors:
            torch._foreach_copy_(list(out[:len(tensors)].unbind(0)), tensors)
        out[len(tensors):].zero_()
        return out

    def write(self, full: Tensor) -> None:
        """The new weights, (slots, rows, cols), to the parameters."""
        torch._foreach_copy_(self.params, list(full[:len(self.params)].unbind(0)))

    def allocate(self, chain, old: dict) -> None:
        """State for the owned matrices, as per-parameter views in `old`; what `old` holds already stays."""
        weight = self.batch(self.owned, len(self.owned))
        names = self.names[self.first:self.first + len(self.owned)]
        self.state = init_state(chain, weight, self.group["balance"], names)
        for i, p in enumerate(self.owned):
            for name, value in self.state.items():
                # A row's or column's own state is of no use where the balance has changed sides since.
                if name in old.get(p, {}) and value[i].shape in (p.shape, old[p][name].shape):
                    value[i].copy_(old[p][name])
            self.views.append({name: value[i] for name, value in self.state.items()})
            old[p] = dict(self.views[i])
        for p in self.params[:self.first] + self.params[self.first + len(self.owned):]:
            old[p] = {}  # with no entry, torch's checkpoints would call step() for one, on this rank alone

    def put_by_hand(self, state: dict) -> list:
        """(entries of a parameter, name, view, a copy of the value) where a caller has put something in a
        view's place in `state`, which may be another view; a cleared one is zero."""
        return [(state[p], name, view, state[p][name].clone() if name in state[p] else torch.zeros_like(view))
                for p, views in zip(self.owned, self.views) for name, view in views.items()
                if state[p].get(name) is not view]


def stacks_of(groups: list[dict], rank: int = 0, world_size: int = 1) -> list[Stack]:
    """The stacks of these param groups as `rank` of `world_size` sees them, the largest first: matrices of
    one group, shape, dtype and device. Nothing is allocated."""
    stacks = []
    for group in groups:
        members: dict = {}
        for p, name in zip(group["params"], names_of(group)):
            members.setdefault((tuple(p.shape), p.dtype, p.device), []).append((p, name))
        for (_, _, device), pairs in members.items():
            length = len(pairs)
            if device.type == "cpu" and world_size == 1:  # a stack should fit the cache
                length = max(1, CPU_STACK_BYTES // pairs[0][0].nbytes)
            for i in range(0, len(pairs), length):
                params, names = zip(*pairs[i:i + length])
                stacks.append(Stack(group, params, names, rank, world_size))
    return sorted(stacks, key=lambda stack: -stack.params[0].numel() * stack.per_rank)


def names_of(group: dict) -> list:
    """The names of a group's parameters, or their numbers."""
    given = group.get("param_names", ())  # of other length where only `params` was changed by hand
    known = len(given) == len(group["params"])
    return given if known else [f"parameter {i}" for i in range(len(group["params"]))]
