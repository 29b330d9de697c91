"""A small model that is trained under wrappers, with gradients that are known beforehand."""
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import nn

from optimizers import RECIPES, build_wrappers


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(3, 2, dtype=torch.bfloat16)
        self.layer = nn.Linear(2, 2, bias=False)


class Wrapped:
    """A Model trained by SGD with lr .5, half of its peak, under `wrappers`."""

    def __init__(self, *wrappers):
        torch.manual_seed(0)
        self.model = Model()
        self.params = list(self.model.parameters())
        optimizer = torch.optim.SGD(self.params, lr=0.5)
        for group in optimizer.param_groups:
            group["initial_lr"] = 1.0
        self.parts = build_wrappers(self.model, replace(RECIPES["muon"], wrappers=wrappers), [optimizer])
        self.optimizer = optimizer

    def run(self, steps):
        """Steps whose gradients are .1 (step + 1) for the embedding and .1 (step + 2) for the layer."""
        for step in steps:
            for wrapper in self.parts:
                wrapper.before_forward()
            for i, p in enumerate(self.params):
                p.grad = torch.full_like(p, 0.1 * (step + 1 + i))
            self.optimizer.step()
            for wrapper in self.parts:
                wrapper.after_step()

    def readout(self):
        """All wrappers' readouts."""
        stack = ExitStack()
        for wrapper in self.parts:
            stack.enter_context(wrapper.readout())
        return stack
