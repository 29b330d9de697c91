"""What the warm-up asks of a GPU's memory: whether it is full, and room for what is in flight."""
import re

import torch
from torch import nn

FULL = re.compile(r"(?i)out ?of ?memory|alloc_failed")  # as torch, Triton and cuBLAS say it


def in_flight(run) -> torch.Tensor:
    """As much memory as --fast holds, between ranks, of gradients on their way during the backward pass."""
    sent = run.plan.args.fast and run.world.size > 1
    return torch.empty(sum(p.numel() for p in run.model.parameters()) * sent, device=run.world.device)


def memory_full(error: RuntimeError) -> bool:
    """Whether `error` says that a GPU's memory is full."""
    return FULL.search(str(error)) is not None


def forget(model: nn.Module) -> None:
    """Free what a pass that did not fit has left, and its graphs: torch would stop compiling after eight."""
    model.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    torch._dynamo.reset()
