"""What a model needs, from its shapes alone: computed on the meta device, not measured."""
import torch

import train_gpt
from optimizers import build_optimizers
from speedrun.preflight.machine import PROCESS_BYTES
from speedrun.training.estimate import bytes_per_step, estimate, first_micro_batch


def needs(plan: train_gpt.Plan, ranks: int, card: int) -> dict:
    """Of one of `ranks` ranks, in bytes: weights, gradients, optimizer state; `needed` in all by sequences a
    micro-batch, an upper bound (the plain path, uncompiled, see records/memory.py); `fits`, the largest of
    these micro-batches that a card of `card` bytes holds, 0 for none; bytes sent a step, by kind; and FLOPs
    a token."""
    with torch.device("meta"):
        model = train_gpt.GPT(plan.track.model)
    track, memory = plan.track, estimate(model, plan.recipe, plan.track.context, ranks)
    share = max(1, track.tokens_per_step // track.context // ranks)
    sizes, size = [], first_micro_batch(share, "cuda", track.context)
    while size:
        sizes.append(size)
        size //= 2
    needed = {size: PROCESS_BYTES + memory.needed(size) for size in reversed(sizes)}
    fits = max((size for size, total in needed.items() if total <= card), default=0)
    sent = bytes_per_step(model, build_optimizers(model, plan.recipe), ranks, plan.args.fast)
    return dict(track=track.name, recipe=plan.recipe.name, weights=memory.weights, gradients=memory.gradients,
                state=memory.state, needed=needed, fits=fits, bytes_sent=sent,
                parameters=sum(p.numel() for p in model.parameters()),
                flops_per_token=train_gpt.flops_per_token(model, track))
