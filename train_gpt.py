"""Train a GPT-2-small-class model to a target validation loss, with Aurora or a baseline; log the evidence.

    torchrun --standalone --nproc_per_node=8 train_gpt.py            FineWeb to 3.28, recipe aurora
    python train_gpt.py --track laptop                               a CPU, some three minutes of training

A track fixes what may not change (data, model, tokens per step, target), a recipe holds what may
(optimizers/recipes.py), and the run writes one self-contained record log (speedrun/log/format.py). World
size and micro-batch only split the work. This file reads top to bottom: model, initialisation and schedule,
run, warm-up, step, validation, one seed, main; tracks.py and speedrun/training/ hold the rest.
"""
import hashlib
import math
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from types import MethodType

from speedrun import ROOT
from speedrun.cli import need

need("numpy", "torch")

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from data import shards
from optimizers import RECIPES, Init, Recipe, build_optimizers, build_wrappers
from optimizers.diagnostics import diagnose
from speedrun.cli import Refusal, command
from speedrun.preflight.machine import quick
from speedrun.text import without_folders
from speedrun.training import checkpoint, progress, resume
from speedrun.training.begin import Opened, open_log
from speedrun.training.calibration import score
from speedrun.training.chunked import chunked
from speedrun.training.estimate import bytes_per_step, first_micro_batch, flops_per_token
from speedrun.training.gradients import Gradients
from speedrun.training.guard import Diverged, Guard, Interrupted
from speedrun.training.machine import attention_backend
from speedrun.training.plan import Plan, open_streams, parse
from speedrun.training.resume import Start
from speedrun.training.room import forget, in_flight, memory_full
from speedrun.training.world import Clock, StopSignal, World, divisor, join_world
from tracks import PRESETS, TRACKS, ModelConfig, Track  # noqa: F401

########################################
#                Model                 #
########################################


class RMSNorm(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.gains = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.gains.shape, self.gains.type_as(x))


class Linear(nn.Linear):
    """Stored in float32, used in the activation's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.type_as(x), self.bias.type_as(x))


def rotary_angles(length: int, head_dim: int, device) -> tuple[Tensor, Tensor]:
    """cos and sin, (length, 1, head_dim / 2); the second half of the frequencies is 0 (no rotation)."""
    frequencies = (1 / 1024) ** torch.linspace(0, 1, head_dim // 4, device=device)
    positions = torch.arange(length, dtype=torch.float32, device=device)
    angles = F.pad(torch.outer(positions, frequencies), (0, head_dim // 2 - head_dim // 4))[:, None, :]
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    x1, x2 = x.float().chunk(2, dim=-1)
    return torch.cat((x1 * cos + x2 * sin, x2 * cos - x1 * sin), dim=-1).type_as(x)


class Attention(nn.Module):
    def __init__(self, dim: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.q, self.k, self.v, self.proj = (Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = (m(x).unflatten(-1, (-1, self.head_dim)) for m in (self.q, self.k, self.v))  # (B, T, H, D)
        q, k = (rotate(F.rms_norm(t, (self.head_dim,)), cos, sin) for t in (q, k))
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.12)
        return self.proj(y.transpose(1, 2).flatten(-2))


class ReLU2MLP(nn.Module):
    def __init__(self, dim: int, ratio: float):
        super().__init__()
        self.fc, self.proj = Linear(dim, int(ratio * dim)), Linear(int(ratio * dim), dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.fc(x).relu().square())


class SwiGLUMLP(nn.Module):
    def __init__(self, dim: int, ratio: float):
        super().__init__()
        hidden = max(1, round(ratio * dim / 128)) * 128
        self.gate, self.up, self.down = Linear(dim, hidden), Linear(dim, hidden), Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.attn = Attention(config.model_dim, config.head_dim)
        self.mlp = {"relu2": ReLU2MLP, "swiglu": SwiGLUMLP}[config.mlp](config.model_dim, config.mlp_ratio)
        self.norm1, self.norm2 = RMSNorm(config.model_dim), RMSNorm(config.model_dim)

    def forward(self, x: Tensor, late: Tensor | int, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """x, and what the MLP adds to it, `late`: the next block adds that, in one kernel with its norm1."""
        x = x + late
        x = x + self.attn(self.norm1(x), cos, sin)
        return x, self.mlp(self.norm2(x))


def head_loss(x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """The summed cross-entropy of x (tokens, dim), its float32 logits softcapped to |logit| < 15."""
    logits = F.linear(x, weight.type_as(x), bias.type_as(x)).float()
    logits = 15 * logits * torch.rsqrt(logits.square() + 225)
    return F.cross_entropy(logits, targets, reduction="sum")


class GPT(nn.Module):
    """The model of modded-nanogpt's track 3, parameter names included. forward(inputs, targets), both
    (batch, length) of token ids, returns the summed cross-entropy in float32."""

    loss = staticmethod(head_loss)

    def __init__(self, config: ModelConfig):
        super().__init__()
        config.check()
        self.config = config
        # In the order of use, so that gradients are ready in the reverse of it.
        self.embed = nn.Embedding(config.vocab_size, config.model_dim, dtype=getattr(torch, config.dtype))
        self.norm1 = RMSNorm(config.model_dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm2 = RMSNorm(config.model_dim)
        self.proj = Linear(config.model_dim, config.vocab_size)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        cos, sin = rotary_angles(inputs.size(1), self.config.head_dim, inputs.device)
        x, late = self.norm1(self.embed(inputs)), 0
        for block in self.blocks:
            x, late = block(x, late, cos, sin)
        x = self.norm2(x + late).flatten(0, 1)
        return self.loss(x, self.proj.weight, self.proj.bias, targets.flatten())

    def speed_up(self, compile: bool) -> None:
        """The fast path, equal within rounding: the loss in chunks, and one compiled block for all."""
        wrap = partial(torch.compile, dynamic=False) if compile else lambda function: function
        self.loss, block = chunked(head_loss, wrap), wrap(Block.forward)
        for each in self.blocks:
            each.forward = MethodType(block, each)


########################################
#      Initialisation and schedule     #
########################################


@torch.no_grad()
def initialise(model: nn.Module, seed: int, init: Init = Init()) -> None:
    """Biases and the head zero, gains one, embedding N(0, 1), other weights N(0, variance / fan_in) with the
    recipe's variances: by default .33, and 0 for every `proj` and `down`. Each parameter has a generator of
    its own, seeded by the run's seed and the parameter's name and drawn on the CPU, so that recipes, devices
    and world sizes start from the same weights."""
    for name, p in model.named_parameters():
        kind = name.split(".")[-1]
        if kind == "gains":
            p.fill_(1)
        elif kind == "bias" or not init.variance(name):
            p.zero_()
        else:
            digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
            std = 1.0 if name.startswith("embed.") else (init.variance(name) / p.size(-1)) ** 0.5
            p.copy_(torch.randn(p.shape, generator=generator) * std)


def lr_factor(step: int, recipe: Recipe, cooldown_frac: float) -> float:
    """What multiplies a peak learning rate at `step`: linear warm-up, flat, and linear cooldown to 0 over
    the last `cooldown_frac` of the schedule."""
    warmup = min(1.0, (step + 1) / recipe.warmup_steps) if recipe.warmup_steps else 1.0
    left = 1 - step / recipe.schedule_steps
    return warmup * (min(1.0, left / cooldown_frac) if cooldown_frac else 1.0)


########################################
#                 Run                  #
########################################


@dataclass
class Run:
    """What the seeds of a run share."""

    plan: Plan
    world: World
    model: GPT
    train: shards.TokenStream
    val: shards.TokenStream
    stop: StopSignal
    flops: float                                     # per token
    opened: Opened = field(default_factory=Opened)   # its folder, its log, where it starts
    micro: int = 1                                   # sequences per forward pass; the warm-up chooses it
    gradients: Gradients | None = None               # made by the warm-up
    place: str = "the warm-up"                       # for the message of a rank that lost the others

    def optimizers(self) -> list:
        group = dist.group.WORLD if self.world.size > 1 else None
        return build_optimizers(self.model, self.plan.recipe, process_group=group)

    def guard(self, seed: int) -> Guard:
        return Guard(self.world, self.stop, dict(self.model.named_parameters()),
                     self.plan.track.tokens_per_step, seed, self.opened.folder)

    def tokens(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array.astype(np.int64))
        tensor = tensor.pin_memory() if self.world.device.type == "cuda" else tensor
        return tensor.to(self.world.device, non_blocking=True)


########################################
#       Micro-batch and warm-up        #
########################################


def warm_up(run: Run) -> dict:
    """Choose the micro-batch, compile, and step on dummy tokens; a seed starts from new weights and
    optimizers. Returns what the log says of it."""
    started = time.perf_counter()
    initialise(run.model, 0, run.plan.recipe.init)
    optimizers, guard = run.optimizers(), run.guard(seed=0)
    choose_micro_batch(run, optimizers, guard)
    start_overlap(run, optimizers, guard)
    if run.world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    run.world.barrier()
    seconds = time.perf_counter() - started
    config, fast, cuda = run.plan.track.model, run.plan.args.fast, run.world.device.type == "cuda"
    attention = attention_backend(run.world.device, config.dtype, config.head_dim, run.plan.track.context)
    return dict(seconds=round(seconds, 2), micro_batch=run.micro, calibration=score(run.world),
                bytes_sent=bytes_per_step(run.model, optimizers, run.world.size, fast),
                compiled=cuda, fast=fast, attention=attention)


def choose_micro_batch(run: Run, optimizers: list, guard: Guard) -> None:
    """Set run.micro to the first of min(64 sequences, the rank's share) and its halves with which two steps
    fit in the memory of every rank; on a CPU to 1,024 tokens."""
    share = run.train.local // run.plan.track.context
    run.micro = first_micro_batch(share, run.world.device.type, run.plan.track.context)
    steps_done = 0
    while steps_done < 2:  # the second step runs beside the optimizers' state
        done = dummy_pass(run, optimizers)
        if run.world.minimum(done is not None):
            update(run, done[0], optimizers, guard, 0, done[1])
            steps_done += 1
            continue
        forget(run.model)
        if run.micro == 1:
            raise Refusal("one sequence a pass does not fit in the GPU's memory; use larger GPUs, or more")
        run.micro = divisor(share, run.micro // 2)
        steps_done = 0


def dummy_pass(run: Run, optimizers: list) -> tuple[Gradients, Tensor] | None:
    """Two micro-batches forward and backward, and one as a validation takes it, on dummy tokens: the
    gradients and the loss, or None where this rank's memory is full."""
    tokens = dummy_tokens(run)
    try:  # without overlap, for a rank may fail on the way, but with room for what it has in flight
        spare = in_flight(run)
        gradients = Gradients(run.world, run.model, optimizers)
        loss = forward_backward(run, gradients, tokens, tokens)
        with torch.no_grad():
            run.model(tokens[:run.micro], tokens[:run.micro])
        del spare
    except RuntimeError as error:
        if not memory_full(error):
            raise
        return None
    return gradients, loss


def dummy_tokens(run: Run) -> Tensor:
    """(sequences, context) of zeros: two micro-batches, or the rank's share where that is less."""
    context = run.plan.track.context
    sequences = min(run.train.local // context, 2 * run.micro)
    return torch.zeros((sequences, context), dtype=torch.int64, device=run.world.device)


def start_overlap(run: Run, optimizers: list, guard: Guard) -> None:
    """Make run.gradients; with overlap, whose hooks begin the collectives, step once more: these would meet
    their first errors in step 0."""
    run.gradients = Gradients(run.world, run.model, optimizers, overlap=run.plan.args.fast)
    if run.gradients.overlap:
        tokens = dummy_tokens(run)
        loss = forward_backward(run, run.gradients, tokens, tokens)
        update(run, run.gradients, optimizers, guard, 0, loss)


########################################
#                 Step                 #
########################################


def forward_backward(run: Run, gradients: Gradients, inputs: Tensor, targets: Tensor) -> Tensor:
    """The summed loss of this rank's share; the gradients of that sum are left with `gradients`."""
    total = torch.zeros((), device=run.world.device)
    for i in range(0, len(inputs), run.micro):
        loss = run.model(inputs[i:i + run.micro], targets[i:i + run.micro])
        gradients.backward(loss, last=i + run.micro >= len(inputs))
        total += loss.detach()
    return total


def update(run: Run, gradients: Gradients, optimizers: list, guard: Guard, step: int, loss: Tensor) -> None:
    """Sum the gradients over the ranks and step, which is skipped where anything is not finite."""
    gradients.finish()
    found_inf = guard.record(step, loss)
    for optimizer in optimizers:
        optimizer.found_inf = found_inf
        optimizer.step()
    run.model.zero_grad(set_to_none=True)


########################################
#              Validation              #
########################################


@torch.no_grad()
def validate(run: Run) -> float:
    """Mean loss in nats over the track's validation tokens, each rank its slice."""
    inputs, targets = run.val[0]
    micro = divisor(len(inputs), run.micro)
    total = torch.zeros((), dtype=torch.float64, device=run.world.device)
    for i in range(0, len(inputs), micro):
        total += run.model(run.tokens(inputs[i:i + micro]), run.tokens(targets[i:i + micro]))
    return float(run.world.sum(total)) / run.plan.track.val_tokens


########################################
#               One seed               #
########################################


class SeedRun:
    """One seed of a run: what a checkpoint holds beside the model, and the clock."""

    def __init__(self, run: Run, seed: int):
        self.run = run
        self.seed = seed
        self.guard = run.guard(seed)
        initialise(run.model, seed, run.plan.recipe.init)
        self.optimizers = run.optimizers()
        self.wrappers = build_wrappers(run.model, run.plan.recipe, self.optimizers)
        run.gradients.use_optimizers(self.optimizers)
        # A resumed run continues one seed from a checkpoint; every other seed starts from its first weights.
        start = run.opened.start if run.opened.start.seed == seed else Start()
        self.logged_step, self.logged_seconds = run.opened.start.logged.get(seed, (-1, 0.0))
        self.first = start.step
        self.reached = start.reached
        self.clock = Clock(run.world, start.seconds)
        if start.tensors is not None:
            checkpoint.restore(start.tensors, run.model, self.optimizers, self.wrappers)
            start.tensors = None

    def step(self, step: int) -> float | None:
        """One step of training; the training loss of the step before."""
        run, recipe = self.run, self.run.plan.recipe
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * lr_factor(step, recipe, group["cooldown_frac"])
        for wrapper in self.wrappers:
            wrapper.before_forward()  # e.g. look ahead
        inputs, targets = map(run.tokens, run.train[step])
        loss = forward_backward(run, run.gradients, inputs, targets)
        # The step before is long done on the device, so reading its loss waits for nothing.
        train_loss = self.guard.raise_if_bad()
        update(run, run.gradients, self.optimizers, self.guard, step, loss)
        for wrapper in self.wrappers:
            wrapper.after_step()
        return train_loss

    def validate_and_log(self, step: int, tracker) -> float:
        """Validate at `step`, off the clock; log and show it unless the log has it already."""
        run, track, last = self.run, self.run.plan.track, step == self.run.plan.recipe.steps
        seconds = self.clock.stop()
        train_loss = self.guard.raise_if_bad()
        with ExitStack() as readouts:  # e.g. an average of weights is what a validation reads
            for wrapper in self.wrappers:
                readouts.enter_context(wrapper.readout())
            val_loss = validate(run)
            if not math.isfinite(val_loss):
                raise Diverged(f"seed {self.seed}: the validation loss at step {step} is {val_loss}; lower "
                               "the learning rate (--recipe.lr)")
            if last and run.plan.args.save and run.world.rank == 0:
                checkpoint.save_weights(run.opened.folder / f"weights_seed{self.seed}.pt", run.model)
        if self.reached is None and track.target is not None and val_loss <= track.target:
            self.reached = dict(step=step, seconds=round(seconds, 3))
        if step <= self.logged_step:
            return val_loss  # a resumed run comes by here again
        if run.opened.log is not None:  # rank 0
            run.opened.log.validation(step, run.plan.recipe.steps, val_loss, seconds, self.seed)
            if tracker:
                tracker.log(dict(val_loss=val_loss, train_loss=train_loss, train_time=seconds), step=step)
        progress.report(run, step, seconds, train_loss, val_loss)
        sample = (run.tokens(t[:8]) for t in run.val[0])
        found = diagnose(run.model, self.optimizers, *sample, run.world.sum)
        if run.opened.log is not None:
            run.opened.log.event("diagnostics", seed=self.seed, step=step, **found)
        return val_loss

    def save_checkpoint(self, step: int) -> None:
        """Write a checkpoint of the weights that `step` starts from, off the clock; Diverged, not one, where
        they are not finite."""
        seconds = self.clock.stop()
        self.guard.check_weights(step)
        checkpoint.keep(self.run, self.seed, step, seconds, self.optimizers, self.wrappers)


def train_seed(run: Run, seed: int, tracker=None) -> dict:
    """Train one seed from where it starts; returns its outcome."""
    track, recipe, args = run.plan.track, run.plan.recipe, run.plan.args
    seed_run = SeedRun(run, seed)
    val_loss = math.nan
    shown = time.perf_counter()
    for step in range(seed_run.first, recipe.steps + 1):
        run.place = f"step {step} of seed {seed}"
        last = step == recipe.steps
        try:
            # Validate before the step, so that step 0 is the loss of the first weights.
            on_grid = track.validates(step, recipe.steps, recipe.schedule_steps)
            asked = args.val_every and step % args.val_every == 0
            if last or ((on_grid or asked) and step > seed_run.logged_step):
                val_loss = seed_run.validate_and_log(step, tracker)
                shown = time.perf_counter()
            if last:
                break
            if step > seed_run.first and step % args.checkpoint_every == 0:
                seed_run.guard.raise_if_bad()
                seed_run.save_checkpoint(step)
            seed_run.clock.start()
            train_loss = seed_run.step(step)
        except Interrupted:  # by a signal: the update of this step is not taken
            for wrapper in seed_run.wrappers:
                wrapper.rewind()
            seed_run.save_checkpoint(step)
            raise
        if step > seed_run.first and time.perf_counter() - shown > 10:
            shown = time.perf_counter()
            progress.report(run, step, seed_run.clock.read(), train_loss)
    done = recipe.steps <= seed_run.logged_step  # a run that stopped after its last validation
    seconds = seed_run.logged_seconds if done else seed_run.clock.stop()
    return dict(seed=seed, steps=recipe.steps, val_loss=round(val_loss, 5), train_time=round(seconds, 3),
                tokens_per_second=round(recipe.steps * track.tokens_per_step / seconds),
                reached=seed_run.reached, epochs=round(recipe.steps / len(run.train), 4))


########################################
#                 Main                 #
########################################


def run_seeds(run: Run) -> list[dict]:
    """Warm up, then train every declared seed; the outcomes. Rank 0 logs and prints."""
    plan, log, start = run.plan, run.opened.log, run.opened.start
    rank0 = run.world.rank == 0
    warm = warm_up(run)
    if rank0 and not start.begun:
        log.event("warmup", **warm)
    outcomes = list(start.outcomes)
    for seed in plan.args.seeds[len(outcomes):]:
        if rank0 and seed not in start.begun:
            log.event("seed", seed=seed)
        name, track = plan.recipe.name, plan.track.label
        progress.say(run, f"{name} on {track}, seed {seed}, log in {run.opened.folder}")
        tracker = progress.start_wandb(run, seed) if rank0 and plan.args.wandb else None
        outcomes.append(train_seed(run, seed, tracker))
        if tracker:
            tracker.finish()
        if rank0:
            log.event("outcome", **outcomes[-1])
    return outcomes


def dry_run(plan: Plan, model: GPT) -> None:
    """What would run, for --dry-run; reads only the headers of the shards."""
    try:
        held = len(open_streams(plan)[0])
    except Refusal as refusal:
        held = refusal
    parameters = sum(p.numel() for p in model.parameters())
    progress.dry_run(plan, parameters, flops_per_token(model, plan.track), held)


def make_run(plan: Plan, model: GPT) -> Run:
    """Join the ranks, open the shards, check what would stop the run, and put the model on the device."""
    track = plan.track
    world = join_world(plan.device, track.tokens_per_step // track.context, track.val_tokens // track.context)
    train, val = open_streams(plan, world)
    quick(plan, world, model)
    model.to_empty(device=world.device)
    cuda = world.device.type == "cuda"
    if plan.args.fast:
        model.speed_up(compile=cuda)
    elif cuda:
        model.compile(dynamic=False)
    return Run(plan, world, model, train, val, StopSignal(), flops_per_token(model, track))


@command
def main(argv: list[str]) -> int:
    """Run the command line; the exit code."""
    plan = resume.plan_of(parse, argv)
    folder = plan.args.resume or resume.folder_of_restart(ROOT, plan.args.log_dir)
    if plan.args.list:
        return progress.listing(TRACKS, PRESETS, RECIPES, plan.args.json)
    with torch.device("meta"):
        model = GPT(plan.track.model)
    if plan.args.dry_run:
        return dry_run(plan, model)
    run = make_run(plan, model)
    run.opened = open_log(run, ROOT, folder)
    status = dict(status="failed")
    try:
        with run.stop, run.world.together(lambda: run.place):
            outcomes = run_seeds(run)
        status = dict(status="complete")
    except Refusal as refusal:
        reason = without_folders(str(refusal), run.opened.folder, plan.data_dir)
        status = dict(status=refusal.status, reason=reason)
        raise
    finally:
        if run.opened.log is not None:
            run.opened.log.end(**status)
        if run.world.size > 1 and status["status"] != "failed":  # alone, nccl's would wait for the others
            dist.destroy_process_group()
    progress.summary(run, outcomes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
