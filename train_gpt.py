"""Train a GPT-2-small-class model to a target validation loss, with Aurora or a baseline; log the evidence.

    torchrun --standalone --nproc_per_node=8 train_gpt.py            FineWeb to 3.28, recipe aurora
    python train_gpt.py --track laptop                               a CPU, some three minutes of training

A track fixes what may not change (data, model, tokens per step, target), a recipe holds what may
(optimizers/recipes.py), and the run writes one self-contained record log (speedrun/log/format.py). World
size and micro-batch only split the work. This file reads top to bottom: model, tracks, initialisation and
schedule, command line and data, micro-batch and warm-up, step, validation and one seed, main.
"""
import argparse
import hashlib
import math
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from types import MethodType

from speedrun import ROOT

try:
    import numpy as np
    import torch
except ImportError as missing:
    sys.exit(f"train_gpt.py: {missing}; run scripts/run.sh once and then .venv/bin/python train_gpt.py")
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from data import shards
from optimizers import RECIPES, Init, Recipe, build_optimizers, build_wrappers, resolve
from optimizers.diagnostics import diagnose
from speedrun.cli import Parser, Refusal, command, near
from speedrun.preflight.machine import quick
from speedrun.training import checkpoint, progress
from speedrun.training.begin import open_log
from speedrun.training.calibration import score
from speedrun.training.chunked import chunked
from speedrun.training.estimate import first_micro_batch, forget, in_flight, memory_full
from speedrun.training.gradients import Gradients, bytes_per_step
from speedrun.training.guard import Diverged, Guard, Interrupted
from speedrun.training.machine import attention_backend, without_folders
from speedrun.training.overrides import apply_overrides, read_overrides
from speedrun.training.world import ALONE, Clock, StopSignal, World, divisor, join_world

########################################
#                Model                 #
########################################


@dataclass(frozen=True)
class ModelConfig:
    vocab_size: int
    num_layers: int
    model_dim: int
    head_dim: int = 128
    mlp_ratio: float = 4
    mlp: str = "relu2"         # relu2: fc, proj;  swiglu: gate, up, down
    dtype: str = "bfloat16"    # of the embedding, and so of every activation


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
        dim, head_dim, mlp, ratio = config.model_dim, config.head_dim, config.mlp, config.mlp_ratio
        for wrong, message in (
                (head_dim < 4 or head_dim % 4, f"head_dim {head_dim} must be a multiple of 4"),
                (dim % max(1, head_dim) or not 0 < dim <= 2**16,
                 f"model_dim {dim} must be a multiple of {head_dim=}, up to 65536"),
                (mlp not in ("relu2", "swiglu"), f"mlp {mlp!r} must be relu2 or swiglu"),
                (not 1 <= ratio * dim <= 2**20, f"mlp_ratio {ratio} must leave 1 to 2**20 hidden units"),
                (config.dtype not in ("float32", "bfloat16"),
                 f"dtype {config.dtype!r} must be float32 or bfloat16"),
                (not (0 < config.vocab_size <= 2**16 and 0 < config.num_layers <= 1000),
                 "vocab_size must lie in 1..65536 (the shards are uint16), num_layers in 1..1000")):
            if wrong:
                raise ValueError(f"model: {message}")
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
#                Tracks                #
########################################


@dataclass(frozen=True)
class Track:
    """What a run may not change. The validation grid: every `val_every` steps, and every `val_every_tail` in
    the last `tail` of the recipe's schedule; step 0 and the last step always."""

    name: str
    data: str                  # folder under data/
    model: ModelConfig
    tokens_per_step: int
    context: int
    val_tokens: int
    val_every: int
    val_every_tail: int
    tail: float
    target: float | None       # nats
    sha256: dict = field(default_factory=dict)  # shard -> content, where the track pins it
    official: bool = True      # False for presets and for overridden tracks: on no board, may wrap epochs

    @property
    def label(self) -> str:
        return self.name if self.official else "custom"

    def validates(self, step: int, recipe: Recipe) -> bool:
        in_tail = step >= (1 - self.tail) * recipe.schedule_steps
        return step == recipe.steps or step % (self.val_every_tail if in_tail else self.val_every) == 0

    def check(self) -> None:
        """Raises ValueError naming a field that cannot be."""
        for name, tokens in (("tokens_per_step", self.tokens_per_step), ("val_tokens", self.val_tokens)):
            if self.context < 1 or tokens < self.context or tokens % self.context:
                raise ValueError(f"track.{name} {tokens} must be a multiple of context {self.context}")
        if min(self.val_every, self.val_every_tail) < 1 or not 0 <= self.tail <= 1:
            raise ValueError("track.val_every and val_every_tail must be at least 1, and tail lie in 0..1")
        if self.target is not None and not 0 < self.target < math.inf:
            raise ValueError(f"track.target {self.target} must be a number above 0, or none")
        with torch.device("meta"):
            GPT(self.model)


GPT2_SMALL = ModelConfig(vocab_size=50304, num_layers=12, model_dim=768)
FINEWEB = Track("fineweb-124m", "fineweb10B", GPT2_SMALL, tokens_per_step=524288, context=1024,
                val_tokens=10485760, val_every=125, val_every_tail=25, tail=0.1, target=3.28)
TRACKS = {track.name: track for track in (
    FINEWEB,
    replace(FINEWEB, name="sprint", tokens_per_step=65536, target=None),
    Track("laptop", "laptop", ModelConfig(256, 4, 128, head_dim=32, dtype="float32"), tokens_per_step=4096,
          context=256, val_tokens=262144, val_every=25, val_every_tail=10, tail=0.2, target=1.38, sha256={
              "laptop_train_000001.bin": "aabc889d49905f60088863fd913f84d1eb2ec9149b4aef335e5f60406d7af4ff",
              "laptop_val_000000.bin": "a468bbff9de7516856e9bd07314f10f024928212b894258791071e8a4767e692"}),
)}
PRESETS = {track.name: track for track in (  # models without a track
    replace(FINEWEB, name="350m", target=None, official=False,
            model=ModelConfig(50304, 20, 1024, mlp="swiglu", mlp_ratio=2.75)),
    replace(FINEWEB, name="1b", target=None, official=False,
            model=ModelConfig(50304, 24, 1792, mlp="swiglu", mlp_ratio=8 / 3)),
)}

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
#        Command line and data         #
########################################

EXAMPLE = """examples:
  python train_gpt.py --track laptop --recipe muon --seeds 0 1 2
  torchrun --standalone --nproc_per_node=8 train_gpt.py --recipe.lr 0.03
"""


@dataclass
class Plan:
    """A run as the command line asks for it."""

    args: argparse.Namespace
    track: Track
    recipe: Recipe
    data_dir: Path
    device: str


def parse(argv: list[str]) -> Plan:
    """The plan of a command line; Refusal (exit 2) for one that cannot be."""
    parser = Parser(prog="train_gpt.py", description=__doc__.split("\n")[0], epilog=EXAMPLE)
    add = parser.add_argument
    add("--track", help=f"{', '.join([*TRACKS, *PRESETS])} (default: {FINEWEB.name} on CUDA; laptop)")
    add("--recipe", default="aurora", help=f"{', '.join(RECIPES)} (default: aurora)")
    add("--seeds", type=int, nargs="+", default=[0], metavar="K", help="declared before the run")
    add("--steps", type=int, metavar="N", help="stop early; the schedule stays as it is")
    add("--log-dir", type=Path, metavar="D", help="default: logs/<time>_<track>_<recipe>")
    add("--data-dir", type=Path, metavar="D", help="the folder of the shards")
    add("--val-every", type=int, metavar="N", help="validate every N steps too, off the clock")
    add("--checkpoint-every", type=int, default=250, metavar="N", help="steps, off the clock (default: 250)")
    add("--resume", type=Path, metavar="D", help="go on with the run that stopped in this log folder")
    add("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    add("--fast", action="store_true", help="chunked loss, one compiled block, overlap; see docs/speed.md")
    add("--save", action="store_true", help="write the final weights of each seed")
    add("--wandb", action="store_true", help="log to Weights & Biases too")
    add("--allow-custom", action="store_true", help="allow --track.FIELD; on no board")
    add("--dry-run", action="store_true", help="say what would run, and stop")
    add("--list", action="store_true", help="list tracks and recipes, and stop")
    add("--json", action="store_true", help="print one JSON object; progress goes to stderr")
    args, rest = parser.parse_known_args(argv, argparse.Namespace(argv=argv))
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise Refusal("--device cuda: this torch sees no CUDA device; check nvidia-smi, or use cpu", code=2)
    name, tracks = args.track or ("fineweb-124m" if device == "cuda" else "laptop"), {**TRACKS, **PRESETS}
    for noun, given, known in (("track", name, tracks), ("recipe", args.recipe, RECIPES)):
        if given not in known:
            raise Refusal(f"unknown {noun} {given!r}; {near(given, known)}", code=2)
    if len(set(args.seeds)) < len(args.seeds) or not 0 <= min(args.seeds) <= max(args.seeds) < 2**32:
        raise Refusal(f"--seeds {' '.join(map(str, args.seeds))}: each seed once, in 0..2**32-1", code=2)
    for flag, every in (("--val-every", args.val_every), ("--checkpoint-every", args.checkpoint_every)):
        if every is not None and every < 1:
            raise Refusal(f"{flag} {every}: give a number of steps of at least 1", code=2)
    flags = [*parser._option_string_actions, *(f"--recipe.{f.name}" for f in fields(Recipe)[2:-2])]
    overrides = read_overrides(rest, flags)
    overrides += [] if args.steps is None else [("recipe", "steps", str(args.steps))]
    track, recipe = apply_overrides(tracks[name], resolve(args.recipe, name), overrides, args.allow_custom)
    folder = args.data_dir or ROOT / "data"
    nested = folder / track.data  # --data-dir may name the shards' folder or the one around it
    return Plan(args, track, recipe, nested if nested.is_dir() or not args.data_dir else folder, device)


def open_streams(plan: Plan, world: World = ALONE) -> tuple[shards.TokenStream, shards.TokenStream]:
    """The training and validation streams; Refusal where the shards are missing, broken, or too few."""
    fix = f"run `python {shards.fetch_words(plan.track, plan.recipe.steps)}`"
    if plan.args.data_dir:
        fix += " and leave --data-dir out, or fit the track to your data: --allow-custom --track.val_tokens N"
    return shards.open_streams(plan.data_dir, plan.track, plan.recipe.steps, world.rank, world.size, fix)


########################################
#       Micro-batch and warm-up        #
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
    flops: float                   # per token
    log: object = None             # the LogWriter; rank 0 only, like the folder's lock
    folder: Path | None = None
    lock: object = None
    micro: int = 1                 # sequences per forward pass
    start: checkpoint.Start = field(default_factory=checkpoint.Start)
    gradients: Gradients | None = None  # made by the warm-up
    identity: str = ""             # what a checkpoint must be of to be continued
    place: str = "the warm-up"     # for the message of a rank that lost the others

    def optimizers(self) -> list:
        group = dist.group.WORLD if self.world.size > 1 else None
        return build_optimizers(self.model, self.plan.recipe, process_group=group)

    def guard(self, seed: int) -> Guard:
        return Guard(self.world, self.stop, dict(self.model.named_parameters()),
                     self.plan.track.tokens_per_step, seed, self.folder)

    def tokens(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array.astype(np.int64))
        tensor = tensor.pin_memory() if self.world.device.type == "cuda" else tensor
        return tensor.to(self.world.device, non_blocking=True)


def warm_up(run: Run) -> dict:
    """Choose the micro-batch, compile, and step twice on dummy tokens, with overlap once more; a seed starts
    from new weights and optimizers. On a GPU the micro-batch starts at min(64 sequences, the rank's share)
    and is halved while any rank runs out of memory in the first two."""
    started, world, context = time.perf_counter(), run.world, run.plan.track.context
    share = run.train.local // context
    run.micro = first_micro_batch(share, world.device.type, context)
    initialise(run.model, 0, run.plan.recipe.init)
    optimizers, guard, done = run.optimizers(), run.guard(seed=0), 0
    while done < 2:  # the second step runs beside the optimizers' state
        dummy = torch.zeros((min(share, 2 * run.micro), context), dtype=torch.int64, device=world.device)
        try:  # without overlap, for a rank may fail on the way, but with room for what it has in flight
            spare, gradients = in_flight(run), Gradients(world, run.model, optimizers)
            loss = forward_backward(run, gradients, dummy, dummy)
            with torch.no_grad():
                run.model(dummy[:run.micro], dummy[:run.micro])
            fits, spare = 1, None
        except RuntimeError as error:
            fits, spare = memory_full(error), None
        if world.minimum(fits):
            update(run, gradients, optimizers, guard, 0, loss)
            done += 1
            continue
        forget(run.model)
        if run.micro == 1:
            raise Refusal("one sequence a pass does not fit in the GPU's memory; use larger GPUs, or more")
        run.micro, done = divisor(share, run.micro // 2), 0
    run.gradients = Gradients(world, run.model, optimizers, overlap=run.plan.args.fast)
    if run.gradients.overlap:  # its collectives, begun by hooks, would meet their first errors in step 0
        update(run, run.gradients, optimizers, guard, 0, forward_backward(run, run.gradients, dummy, dummy))
    sent = bytes_per_step(run.model, optimizers, world.size, run.plan.args.fast)
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    world.barrier()
    seconds, config = time.perf_counter() - started, run.plan.track.model
    return dict(seconds=round(seconds, 2), micro_batch=run.micro, calibration=score(world), bytes_sent=sent,
                compiled=world.device.type == "cuda", fast=run.plan.args.fast,
                attention=attention_backend(world.device, config.dtype, config.head_dim, context))


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
    """Take the step, which is skipped where anything is not finite."""
    gradients.finish()
    found_inf = guard.put(step, loss)
    for optimizer in optimizers:
        optimizer.found_inf = found_inf
        optimizer.step()
    run.model.zero_grad(set_to_none=True)


########################################
#       Validation and one seed        #
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


def flops_per_token(model: GPT, track: Track) -> float:
    """6 per parameter that is multiplied (all but the embedding) and 6 L T d for causal attention."""
    multiplied = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("embed."))
    return 6 * multiplied + 6 * track.model.num_layers * track.context * track.model.model_dim


class Training:
    """One seed on its way: what a checkpoint must hold beside the model."""

    def __init__(self, run: Run, seed: int):
        self.run, self.seed, self.guard = run, seed, run.guard(seed)
        initialise(run.model, seed, run.plan.recipe.init)
        self.optimizers = run.optimizers()
        run.gradients.serve(self.optimizers)
        self.wrappers = build_wrappers(run.model, run.plan.recipe, self.optimizers)
        start = run.start if run.start.seed == seed else checkpoint.Start()
        self.logged = run.start.logged.get(seed, (-1, 0.0))  # the last validation in the log, and its time
        self.first, self.reached, self.clock = start.step, start.reached, Clock(run.world, start.seconds)
        if start.tensors is not None:
            checkpoint.restore(start.tensors, run.model, self.optimizers, self.wrappers)
            start.tensors = None

    def keep(self, step: int) -> None:
        """Write a checkpoint of the weights that `step` starts from, off the clock; Diverged, not one, where
        they are not finite."""
        seconds = self.clock.stop()
        self.guard.check_weights(step)
        checkpoint.keep(self.run, self.seed, step, seconds, self.optimizers, self.wrappers)

    def read_out(self, step: int, tracker) -> float:
        """Validate at `step`, off the clock; log and tell it where the log does not have it yet."""
        run, track, seconds = self.run, self.run.plan.track, self.clock.stop()
        train_loss = self.guard.check()
        with ExitStack() as readouts:
            for wrapper in self.wrappers:
                readouts.enter_context(wrapper.readout())
            val_loss = validate(run)
            if not math.isfinite(val_loss):
                raise Diverged(f"seed {self.seed}: the validation loss at step {step} is {val_loss}; lower "
                               "the learning rate (--recipe.lr)")
            if step == run.plan.recipe.steps and run.plan.args.save and run.world.rank == 0:
                checkpoint.save_weights(run.folder / f"weights_seed{self.seed}.pt", run.model)
        if self.reached is None and track.target is not None and val_loss <= track.target:
            self.reached = dict(step=step, seconds=round(seconds, 3))
        if step > self.logged[0]:
            progress.report(run, self.seed, step, seconds, train_loss, val_loss, tracker)
            sample = (run.tokens(t[:8]) for t in run.val[0])
            found = diagnose(run.model, self.optimizers, *sample, run.world.sum)
            if run.log is not None:
                run.log.event("diagnostics", seed=self.seed, step=step, **found)
        return val_loss

    def step(self, step: int) -> float | None:
        """One step of training; the training loss of the step before."""
        run, recipe = self.run, self.run.plan.recipe
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = group["initial_lr"] * lr_factor(step, recipe, group["cooldown_frac"])
        for wrapper in self.wrappers:
            wrapper.before_forward()
        loss = forward_backward(run, run.gradients, *map(run.tokens, run.train[step]))
        train_loss = self.guard.check()
        update(run, run.gradients, self.optimizers, self.guard, step, loss)
        for wrapper in self.wrappers:
            wrapper.after_step()
        return train_loss


def train_seed(run: Run, seed: int, tracker=None) -> dict:
    """Train one seed from where it starts; returns its outcome."""
    track, recipe, args, now = run.plan.track, run.plan.recipe, run.plan.args, Training(run, seed)
    shown, val_loss = time.perf_counter(), math.nan
    for step in range(now.first, recipe.steps + 1):
        run.place, last = f"step {step} of seed {seed}", step == recipe.steps
        try:
            if last or step > now.logged[0] and (
                    track.validates(step, recipe) or (args.val_every and step % args.val_every == 0)):
                val_loss, shown = now.read_out(step, tracker), time.perf_counter()
            if last:
                break
            if step > now.first and step % args.checkpoint_every == 0:
                now.guard.check()
                now.keep(step)
            now.clock.start()
            train_loss = now.step(step)
        except Interrupted:  # by a signal: the update of this step is not taken
            for wrapper in now.wrappers:
                wrapper.rewind()
            now.keep(step)
            raise
        if step > now.first and time.perf_counter() - shown > 10:
            shown = time.perf_counter()
            progress.report(run, seed, step, now.clock.read(), train_loss)
    seconds = now.clock.stop() if recipe.steps > now.logged[0] else now.logged[1]
    return dict(seed=seed, steps=recipe.steps, val_loss=round(val_loss, 5), train_time=round(seconds, 3),
                tokens_per_second=round(recipe.steps * track.tokens_per_step / seconds), reached=now.reached,
                epochs=round(recipe.steps / len(run.train), 4))


########################################
#                 Main                 #
########################################


def run_seeds(run: Run) -> list[dict]:
    """Warm up, then train every declared seed; the outcomes. Rank 0 logs and prints."""
    plan, rank0 = run.plan, run.world.rank == 0
    warm, outcomes = warm_up(run), list(run.start.outcomes)
    if rank0 and not run.start.begun:
        run.log.event("warmup", **warm)
    for seed in plan.args.seeds[len(outcomes):]:
        if rank0 and seed not in run.start.begun:
            run.log.event("seed", seed=seed)
        progress.say(run, f"{plan.recipe.name} on {plan.track.label}, seed {seed}, log in {run.folder}")
        tracker = progress.start_wandb(run, seed) if rank0 and plan.args.wandb else None
        outcomes.append(train_seed(run, seed, tracker))
        if tracker:
            tracker.finish()
        if rank0:
            run.log.event("outcome", **outcomes[-1])
    return outcomes


def dry_run(plan: Plan, model: GPT) -> None:
    """What would run, for --dry-run; reads only the headers of the shards."""
    try:
        held = len(open_streams(plan)[0])
    except Refusal as refusal:
        held = refusal
    parameters = sum(p.numel() for p in model.parameters())
    progress.dry_run(plan, parameters, flops_per_token(model, plan.track), held)


@command
def main(argv: list[str]) -> int:
    """Run the command line; the exit code."""
    plan = checkpoint.plan_of(parse, argv)
    folder = plan.args.resume or checkpoint.folder_of_restart(ROOT, plan.args.log_dir)
    if plan.args.list:
        return progress.listing(TRACKS, PRESETS, RECIPES, plan.args.json)
    with torch.device("meta"):
        model = GPT(plan.track.model)
    if plan.args.dry_run:
        return dry_run(plan, model)
    track, context = plan.track, plan.track.context
    world = join_world(plan.device, track.tokens_per_step // context, track.val_tokens // context)
    train, val = open_streams(plan, world)
    quick(plan, world, model)
    model.to_empty(device=world.device)
    if plan.args.fast:
        model.speed_up(compile=world.device.type == "cuda")
    elif world.device.type == "cuda":
        model.compile(dynamic=False)
    run = Run(plan, world, model, train, val, StopSignal(), flops_per_token(model, track))
    status = dict(status="failed")
    open_log(run, ROOT, folder)
    try:
        with run.stop, world.together(lambda: run.place):
            outcomes = run_seeds(run)
        status = dict(status="complete")
    except Refusal as refusal:
        status = dict(status=refusal.status, reason=without_folders(str(refusal), run.folder, plan.data_dir))
        raise
    finally:
        if run.log is not None:
            run.log.end(**status)
        if world.size > 1 and status["status"] != "failed":  # alone, nccl's would wait for the other ranks
            dist.destroy_process_group()
    progress.summary(run, outcomes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
