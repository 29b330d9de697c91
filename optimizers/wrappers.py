"""Wrappers: what acts on all parameters at once, around the optimizers. The trainer's calls:

    before_forward()   at the start of a training step, once the learning rates are set
    after_step()       after the optimizers' steps
    rewind()           in the place of after_step(), where a step that was begun is not taken
    readout()          a context manager around validation, in which the weights are those to be read out

A recipe holds wrappers as it holds stages; `attach` returns one at work on a model's parameters.
"""
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from .stage import check_range


@dataclass
class Wrapper:
    """Base class: does nothing. Subclasses' fields are the recipe; `state` is what a checkpoint keeps."""

    def attach(self, named_parameters, optimizers) -> "Wrapper":
        """A copy of this wrapper that works on (name, parameter) pairs updated by `optimizers`."""
        live = replace(self)
        live.params = [p for name, p in named_parameters if live.covers(name)]
        live.optimizers, live.step, live.state = list(optimizers), 0, {}
        return live

    def covers(self, name: str) -> bool:
        return True

    def before_forward(self) -> None:
        pass

    def rewind(self) -> None:
        """Take back what before_forward did to the weights: the step that it began is not taken."""

    def after_step(self) -> None:
        self.step += 1

    @contextmanager
    def readout(self):
        yield

    def state_dict(self) -> dict:
        """{"step": steps taken, "state": {name: a list of tensors, one a parameter}}."""
        return {"step": self.step, "state": self.state}

    def load_state_dict(self, state_dict: dict) -> None:
        self.step = state_dict["step"]
        self.state = {name: [value.to(p.device).clone() for value, p in zip(values, self.params)]
                      for name, values in state_dict["state"].items()}

    def _float(self) -> list:
        return [p.detach().to(torch.promote_types(p.dtype, torch.float32)).clone() for p in self.params]


@dataclass
class EmaNesterov(Wrapper):
    """Nesterov's look ahead along a moving average of whole steps, over all parameters:

        before the forward pass, at steps first <= t < last:   W <- W + strength (lr / lr_peak) m
        after the step:    m <- decay m + (1 - decay) (W - W at the end of the step before)

    The gradient is taken at, and the step starts from, the weights looked ahead; lr / lr_peak is that of the
    first optimizer's first group. Averages in float32, for float64 weights in float64.
    Source: arXiv 2605.25395; modded-nanogpt's track 3, row 39 (strength .6, decay .99, steps 500 to 2,400).
    """

    strength: float = 0.6
    decay: float = 0.99
    first: int = 500
    last: int = 2400

    def __post_init__(self):
        check_range(self, "strength", "[0, inf)")
        check_range(self, "decay", "[0, 1)")

    @torch.no_grad()
    def before_forward(self) -> None:
        if not self.state:
            before = self._float()
            self.state = {"before": before, "average": [torch.zeros_like(w) for w in before]}
        if self.first <= self.step < self.last:
            group = self.optimizers[0].param_groups[0]
            scale = self.strength * float(group["lr"]) / float(group.get("initial_lr", group["lr"]) or 1)
            for p, m in zip(self.params, self.state["average"]):
                p.add_((scale * m).to(p.dtype))

    @torch.no_grad()
    def rewind(self) -> None:
        for p, before in zip(self.params, self.state.get("before", ())):
            p.copy_(before)

    @torch.no_grad()
    def after_step(self) -> None:
        for p, before, m in zip(self.params, self.state["before"], self.state["average"]):
            now = p.detach().to(before.dtype)
            m.lerp_(now - before, 1 - self.decay)
            before.copy_(now)
        self.step += 1


@dataclass
class TailAverage(Wrapper):
    """Validation reads (1 - weight) W + weight A, where A is a moving average of W from step `first` on:

        A = W at step `first` (after the first step for 0), then   A <- A + (W - A) / horizon

    over every parameter but the embedding's. Training continues from W.
    Source: modded-nanogpt's track 3, row 45 (first 2,000, horizon 150 steps, weight .6).
    """

    first: int = 2000
    horizon: int = 150
    weight: float = 0.6

    def __post_init__(self):
        check_range(self, "horizon", "[1, inf)")
        check_range(self, "weight", "[0, 1]")

    def covers(self, name: str) -> bool:
        return not name.startswith("embed.")

    @torch.no_grad()
    def after_step(self) -> None:
        self.step += 1
        if self.step == self.first or (self.step > self.first and not self.state):
            self.state = {"average": self._float()}
        elif self.step > self.first:
            for p, average in zip(self.params, self.state["average"]):
                average.lerp_(p.detach().to(average.dtype), 1 / self.horizon)

    @contextmanager
    def readout(self):
        if not self.state:
            yield
            return
        kept = [p.detach().clone() for p in self.params]
        with torch.no_grad():
            for p, average in zip(self.params, self.state["average"]):
                p.copy_(p.to(average.dtype).lerp(average, self.weight))
        try:
            yield
        finally:
            with torch.no_grad():
                for p, w in zip(self.params, kept):
                    p.copy_(w)
