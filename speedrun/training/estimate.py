"""What a run needs, estimated before anything is allocated: memory a rank, and bytes on disk.

Bytes of one rank, for P parameters of which M in hidden matrices, L layers, width d, hidden width h,
vocabulary V, context T, activations of b bytes:

    weights     their own dtypes
    gradients   4 P, and 2 more a parameter kept in 2 bytes (its gradient and that gradient's float32 sum)
    state       AdamW: two moments in the parameter's dtype; a chain: what its stages' `init` allocates
                for the matrices the rank owns; 8 P a wrapper (two float32 copies)
    sequence    T (48 d (L + 1) + k b h L + 24 V): what autograd keeps of a sequence, uncompiled; k = 2 for
                relu2 (both sides of the square), 4 for swiglu; the layer more stands for the two norms
                outside. 16 of the 24 V are kept, the rest are the logits' gradients in flight
    casts       b P where b is not 4: the weights in the activations' dtype
    step        4 (2 + 10) S: gradients and new weights of the largest stack, of S entries, and what aurora's
                chain holds of it; with several ranks 4 (2 M + 10 S), those of all stacks, and 4 more for
                each other parameter, the flat sum of the gradients

The most held at once: weights + gradients + state + max(casts + sequences sequence, step). A compiled
model keeps less. tests/preflight/test_preflight_machine.py measures `state`, `sequence` and `step` on a CPU.
"""
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from optimizers import MatrixOptimizer, Recipe, build_optimizers
from optimizers.stack import Stack, stacks_of
from optimizers.stage import init_state
from tracks import Track

from .world import divisor

LOG_BYTES, VALIDATION_BYTES = 64 * 2**20, 8192  # what records.log asks for; of a validation's events
CHECKPOINTS = 3  # two kept, one being written


def first_micro_batch(share: int, device: str, context: int) -> int:
    """Sequences of the micro-batch that is tried first, of a rank's `share` a step: at most 64 on a GPU, of
    1,024 tokens on a CPU."""
    return divisor(share, 64 if device == "cuda" else max(1, 1024 // context))


@dataclass(frozen=True)
class Memory:
    """Bytes that one rank holds, see the head of this file."""

    weights: int
    gradients: int
    state: int
    step: int
    casts: int
    sequence: int

    @property
    def fixed(self) -> int:
        """What no micro-batch can make smaller."""
        return self.weights + self.gradients + self.state

    def needed(self, sequences: int) -> int:
        """The most held at once with micro-batches of `sequences`."""
        return self.fixed + max(self.casts + sequences * self.sequence, self.step)

    def fitting(self, free: int) -> int:
        """The most sequences a micro-batch that `free` bytes hold; 0 where not even one."""
        return max(0, (free - self.fixed - self.casts) // self.sequence) if free >= self.needed(1) else 0


def chain_state_bytes(chain, stack: Stack) -> int:
    """Bytes of state that the stages of `chain` allocate for the matrices of `stack` that a rank owns."""
    p, total = stack.params[0], 0
    for stage in chain:
        weight, copies = torch.empty((len(stack.owned), *p.shape), device="meta"), 1
        try:
            state = init_state((stage,), weight, stack.group["balance"])
        except NotImplementedError:  # a stage that looks at the values of its weights
            weight, copies = torch.ones((1, *p.shape)), len(stack.owned)
            state = init_state((stage,), weight, stack.group["balance"])
        total += copies * sum(value.nbytes for value in state.values())
    return total


def estimate(model: nn.Module, recipe: Recipe, context: int, world_size: int = 1) -> Memory:
    """The memory of one of `world_size` ranks. `model`: a train_gpt.GPT on the meta device."""
    params = list(model.parameters())
    count = sum(p.numel() for p in params)
    state, step, matrices = 8 * count * len(recipe.wrappers), 0, 0
    for optimizer in build_optimizers(model, recipe):
        if not isinstance(optimizer, MatrixOptimizer):
            state += sum(2 * p.nbytes for group in optimizer.param_groups for p in group["params"])
            continue
        stacks = stacks_of(optimizer.param_groups, 0, world_size)  # the first rank owns the most
        state += sum(chain_state_bytes(optimizer.chain, stack) for stack in stacks)
        sizes = [len(stack.owned) * stack.params[0].numel() for stack in stacks]
        matrices = sum(len(stack.params) * stack.params[0].numel() for stack in stacks)
        largest = max(sizes, default=0)
        step = 4 * (2 * (matrices if world_size > 1 else largest) + 10 * largest)
    if world_size > 1:
        step += 4 * (count - matrices)
    config, width = model.config, 4 if model.config.dtype == "float32" else 2
    hidden = next(p.size(0) for name, p in model.named_parameters() if ".mlp." in name)
    kept = (2 if config.mlp == "relu2" else 4) * width * hidden
    layers = 48 * config.model_dim * (config.num_layers + 1) + kept * config.num_layers
    return Memory(weights=sum(p.nbytes for p in params),
                  gradients=sum((4 if p.element_size() == 4 else 6) * p.numel() for p in params),
                  state=state, step=step, casts=width * count if width < 4 else 0,
                  sequence=context * (layers + 24 * config.vocab_size))


def disk_bytes(plan, model: nn.Module) -> dict[str, int]:
    """What the run may write, by purpose. `plan`: a train_gpt.Plan."""
    track, recipe, seeds = plan.track, plan.recipe, len(plan.args.seeds)
    every = min(track.val_every, track.val_every_tail, plan.args.val_every or track.val_every)
    validations = seeds * (recipe.steps // every + 2)
    found = dict(log=max(LOG_BYTES, VALIDATION_BYTES * validations))
    memory = estimate(model, recipe, track.context)
    if plan.args.save:
        found["weights"] = seeds * memory.weights
    if vars(plan.args).get("checkpoint_every"):
        found["checkpoints"] = CHECKPOINTS * (memory.weights + memory.state)
    return found


def _numbers(path: str) -> dict[str, int]:
    """The `name number` lines of a file of the kernel; none where there is no such file."""
    try:
        return {name: int(number) for name, number in
                re.findall(r"^(\w+):?\s+(\d+)", Path(path).read_text(), re.MULTILINE)}
    except OSError:
        return {}


def flops_per_token(model, track: Track) -> float:
    """6 per parameter that is multiplied (all but the embedding) and 6 L T d for causal attention."""
    multiplied = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("embed."))
    return 6 * multiplied + 6 * track.model.num_layers * track.context * track.model.model_dim


def bytes_per_step(model: nn.Module, optimizers: list, world_size: int, overlap: bool = False) -> dict:
    """Bytes that one rank sends in a step, by kind, ring algorithms assumed: (W - 1) / W of the numbers for
    a reduce-scatter or an all-gather, twice that for an all-reduce. Padded as MatrixOptimizer pads; with
    `overlap` a gradient goes to its owner alone, through every other rank: (W - 1) / W on average."""
    share = (world_size - 1) / world_size
    found = dict(matrix_gradients=0, matrix_weights=0, other_gradients=0)
    matrices = set()
    for optimizer in (o for o in optimizers if isinstance(o, MatrixOptimizer)):
        for stack in stacks_of(optimizer.param_groups, 0, world_size):
            matrices |= set(stack.params)
            like, padded = stack.params[0], stack.per_rank * world_size
            numbers = (len(stack.params) if overlap else padded) * like.numel()
            found["matrix_gradients"] += round(share * 4 * numbers)
            found["matrix_weights"] += round(share * like.element_size() * padded * like.numel())
    others = sum(p.numel() for p in model.parameters() if p not in matrices)
    found["other_gradients"] = round(2 * share * 4 * others)
    return found
