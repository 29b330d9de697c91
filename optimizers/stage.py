"""Stage: one function of the update, on a stack of equal-shaped matrices; and a step through a chain."""
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(kw_only=True)
class Context:
    """What a stage sees of its stack; `context` makes one. Scalars are 0-d tensors on the CPU, so that a
    schedule neither recompiles nor copies (not compiled, CUDA's addcmul takes one as its last tensor only).
    """

    weight: Tensor                 # (batch, rows, cols), read only except in after_step
    grad: Tensor                   # (batch, rows, cols), the raw gradient, read only
    lr: Tensor                     # as scheduled
    lr_peak: Tensor                # the group's initial_lr, else lr
    weight_decay: Tensor
    momentum: Tensor
    step: Tensor                   # calls of step() before this one, skipped ones too
    balance: str | None            # the side that is evened out, by the stages that do
    names: Sequence = ()           # of the parameters, for a refusal by init
    first: bool = False            # the optimizer's first step; False unless a stage asks_first
    before: Tensor | None = None   # in after_step: the weight before this step
    state: dict[str, Tensor] = field(default_factory=dict)  # stages may write into entries, or replace them


SCALARS = ("lr", "lr_peak", "weight_decay", "momentum", "step")


def scalars_of(group: dict, **instead) -> dict[str, Tensor]:
    """What stages see of a param group's numbers, as 0-d float32 tensors on the CPU; `instead` replaces
    some of them."""
    values = {**group, "lr_peak": group.get("initial_lr", group["lr"]), **instead}
    return {name: values[name].float() if isinstance(values[name], Tensor) else
            torch.tensor(values[name], dtype=torch.float32, device="cpu") for name in SCALARS}


def context(weight: Tensor, balance: str | None, grad: Tensor | None = None, scalars: dict | None = None,
            **more) -> Context:
    """The context of a stack. Where nothing is stepped yet, the gradient is the weight, the scalars zero."""
    if scalars is None:
        scalars = dict.fromkeys(SCALARS, torch.zeros((), device="cpu"))
    return Context(weight=weight, grad=weight if grad is None else grad, balance=balance, **scalars, **more)


def check_range(part, name: str, interval: str) -> None:
    """ValueError where a stage's or wrapper's field `name` is no number of `interval`, like "[0, 1)"."""
    value, (low, high) = getattr(part, name), map(float, interval[1:-1].split(","))
    if not (low <= value <= high and (value > low or interval[0] == "[")
            and (value < high or interval[-1] == "]")):
        raise ValueError(f"{type(part).__name__}: {name} must lie in {interval}, got {value}")


class Stage:
    """One function of the update. Subclasses are frozen dataclasses: their fields are the recipe."""

    asks_first = False  # whether it reads ctx.first, no tensor, so that the first step has a graph of its own

    def init(self, ctx: Context) -> None:
        """Allocate what the stage keeps: ctx.state[name] = a tensor whose first dimension is the batch.

        May raise ValueError for weights the stage cannot work on, naming one of ctx.names.
        """

    def __call__(self, update: Tensor, ctx: Context) -> Tensor:
        """The next update, same shape. `update` is read only: it may be the gradient, or a state. New state
        is assigned to ctx.state[name], or written into it."""
        raise NotImplementedError

    def after_step(self, ctx: Context) -> None:
        """Optional, after W <- W - lr update: refresh a basis, or pin a norm by assigning ctx.weight."""


def init_state(chain, weight: Tensor, balance: str | None, names=()) -> dict[str, Tensor]:
    """What the stages of `chain` keep for the matrices `weight` (batch, rows, cols), as it is at first."""
    ctx = context(weight, balance, names=names)
    for stage in chain:
        stage.init(ctx)
    return ctx.state


def run_chain(chain, weight, grad, state, scalars, balance, first, skip) -> Tensor:
    """One step of `chain` on a stack: returns the new weight and writes `state` in place.

    skip: (batch,) bool, true keeps weight and state exactly as they are (a non-finite gradient, or none), no
    host sync; None where it is known to be false.
    """
    def unless_skipped(new: Tensor, old) -> Tensor:
        return new if skip is None else torch.where(skip.view(-1, *(1,) * (new.ndim - 1)), old, new)

    high = torch.promote_types(weight.dtype, torch.float32)
    grad = unless_skipped(grad.to(high), 0)  # a stage that decomposes it must not meet a NaN
    ctx = context(weight.to(high), balance, grad, scalars, first=first)
    # Where the step may yet be skipped, stages write into copies (which a compiler leaves out).
    ctx.state = {name: value.to(high, copy=skip is not None) for name, value in state.items()}
    update = ctx.grad
    for stage in chain:
        update = stage(update, ctx)
    ctx.before, ctx.weight = ctx.weight, torch.addcmul(ctx.weight, update, ctx.lr, value=-1)
    for stage in chain:
        stage.after_step(ctx)
    for name, old in state.items():
        if ctx.state[name] is not old:
            new = ctx.state[name]
            if old.dtype == torch.float16:  # whose range is small
                new = new.clamp(-65504, 65504)
            old.copy_(unless_skipped(new.to(old.dtype), old))
    return unless_skipped(ctx.weight.to(weight.dtype), weight)
