"""A step's time and its parts, the fast path against the plain one, another script beside ours, and what
models need: what scripts/bench_step.py asks, each as plain JSON and as lines for a person."""
import math
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

import train_gpt
from optimizers import build_optimizers
from speedrun import ROOT
from speedrun.cli import Refusal
from speedrun.preflight.machine import PROCESS_BYTES
from speedrun.stats.ratio import interval_of, order, time_ratio
from speedrun.training.estimate import bytes_per_step, estimate, first_micro_batch, flops_per_token
from speedrun.training.machine import hardware, software
from speedrun.training.plan import open_streams
from speedrun.training.world import World, join_world

from . import against as beside
from . import measure as timing
from .modes import TOLERANCE

ESTIMATED = ("fineweb-124m", "350m", "1b")
CARD = 24 * 2**30          # bytes of the card that --estimate fits the micro-batch to
GIB = 2**30


def plan_of(words: list[str], steps: int | None = None):
    """train_gpt.py's plan of its own arguments; Refusal for those that mean nothing here."""
    plan = train_gpt.parse([*words, *([] if steps is None else ["--steps", str(steps)])])
    asked = vars(plan.args)
    for name in ("list", "dry_run", "resume", "save", "wandb", "log_dir"):
        if asked[name]:
            raise Refusal(f"--{name.replace('_', '-')} means nothing to a benchmark; leave it out", code=2)
    return plan


########################################
#           Here, or parity            #
########################################


def with_world(plan, work):
    """work(world) on the ranks that torchrun started, or on one."""
    track = plan.track
    world = join_world(plan.device, track.tokens_per_step // track.context, track.val_tokens // track.context)
    # With the minute: a place that does not change for ten of them is taken for a rank that hangs.
    with world.together(lambda: f"the benchmark ({time.strftime('%H:%M')})"):
        found = work(world)
    if world.size > 1:
        dist.destroy_process_group()
    return found if world.rank == 0 else None


def measured(words: list[str], steps: int, synthetic: bool) -> dict | None:
    """The figures of a step of the trainer with the arguments `words`; None on all ranks but the first."""
    parts = min(steps, 5)
    plan = plan_of(words, timing.steps_needed(steps, parts))
    return with_world(plan, lambda world: timing.measure(plan, world, synthetic, steps, parts))


def step_lines(found: dict) -> list[str]:
    """The figures of a step for a person."""
    ms, where, total = found["ms"], found["hardware"]["name"], found["parts_total"]
    peak, mfu = found["peak_flops"], found["mfu"]
    of_peak = "n/a (the peak of this device is not in the table)" if mfu is None else (
        f"{mfu:.1%} of {peak / 1e12:,.0f} TFLOP/s, dense bfloat16")
    held = "tensors on the GPU" if found["hardware"]["device"] == "cuda" else "the process"
    lines = [f"{found['recipe']} on {found['track']}{', --fast' if found['fast'] else ''}: {found['steps']} "
             f"steps of {found['tokens_per_step']:,} {found['tokens']} tokens on {found['world_size']} x "
             f"{where}, torch {found['versions']['torch']}",
             f"time a step      {ms['median']:.2f} ms (median; 80 % in {ms['low']:.2f} to {ms['high']:.2f}; "
             f"mean {ms['mean']:.2f})",
             f"tokens/s         {found['tokens_per_second']:,.0f}",
             f"MFU              {of_peak}; {found['flops_per_token'] / 1e6:.1f} MFLOP a token",
             f"peak memory      {found['peak_memory'] / GIB:.2f} GiB, {held}; micro-batches of "
             f"{found['micro_batch']} sequences",
             f"warm-up          {found['warm_up']['seconds']:.1f} s",
             "", "in parts, the device waited for at each boundary     ms   share"]
    for name, value in found["parts"].items():
        lines.append(f"  {name.replace('_', ' '):46}{value:9.2f}{value / total:8.1%}")
    lines += [f"  {'sum':46}{total:9.2f}",
              f"  undisturbed less this: {found['beside']:+.2f} ms (overlap gained; or the cost of waiting)"]
    if found["world_size"] > 1:
        sent = ", ".join(f"{name.replace('_', ' ')} {size / 1e6:,.1f} MB"
                         for name, size in found["bytes_sent"].items())
        lines += [f"  collectives in flight for {found['communication_in_flight']:.2f} ms, hidden parts "
                  "included; times are those of rank 0", f"sent by a rank in a step: {sent}"]
    return lines


def checked(words: list[str], steps: int, synthetic: bool) -> dict | None:
    """How far the fast path's losses are from the plain path's, and whether it `stands`; None as measured."""
    plan = plan_of(words, steps)
    found = with_world(plan, lambda world: timing.parity(plan, world, synthetic, steps))
    return found and dict(stands=found["largest"] < TOLERANCE, tolerance=TOLERANCE, **found)


def check_lines(found: dict) -> list[str]:
    """The same for a person."""
    passes, again = found["stands"], found["plain_again"]
    lines = [f"--fast against the plain path, {found['steps']} steps of {found['recipe']} on "
             f"{found['track']}: training losses differ by at most {found['largest']:.2e} nats (step "
             f"{found['at_step']}); {'below' if passes else 'NOT below'} {TOLERANCE}"]
    if again is not None:
        undecided = not passes and again >= TOLERANCE
        lines.append(f"two runs of the plain path differ by at most {again:.2e} (atomic sums)"
                     + "; so this does not decide whether the fast path is right" * undecided)
    return lines


########################################
#         Beside another script        #
########################################


def against(words: list[str], file: Path, steps: int, pairs: int, processes: int) -> dict:
    """The times a step of another script and of train_gpt.py, in turn, and their ratio. Refusal where the
    script cannot be read or shortened, or the shards hold too few tokens for it."""
    try:
        original = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"--against {file}: cannot read this script ({error})", code=2) from None
    plan = plan_of(words)
    tokens = plan.track.tokens_per_step
    length = beside.Length.timing(steps, tokens)
    ours = plan_of(words, length.steps)  # refuses what our own runs would
    text = beside.shortened(original, length, tokens, file.name)
    enough_shards(ours, length.val_tokens)
    changed = beside.difference(original, text)
    print("\n".join([f"{file.name} runs as a copy with these lines changed:", *changed]),
          file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="bench_step_") as folder:
        script = beside.place(text, plan.data_dir, plan.track.data, Path(folder))
        runs = beside.run_all(order("ours", "theirs", pairs), ROOT, words, script, length, processes,
                              Path(folder))
    by_side = {side: [run["ms"] for run in runs if run["side"] == side] for side in ("ours", "theirs")}
    return dict(track=plan.track.label, recipe=plan.recipe.name, fast=plan.args.fast, steps=steps,
                tokens_per_step=tokens, processes=processes, file=file.name,
                sha256=beside.digest(original), changed=changed,
                ratio=time_ratio(by_side["theirs"], by_side["ours"]), ms=by_side, runs=runs,
                **software(), hardware=hardware(World(0, 1, torch.device(plan.device))))


def enough_shards(plan, val_tokens: int) -> None:
    """Refusal where the shards do not hold the steps of a run. Ours would begin them again, on a custom
    track; the other script would fail, after our run."""
    plan = replace(plan, track=replace(plan.track, val_tokens=val_tokens))
    held, steps = len(open_streams(plan)[0]), plan.recipe.steps
    if held < steps:
        raise Refusal(f"the shards in {plan.data_dir} hold {held} batches of {plan.track.tokens_per_step} "
                      f"tokens; a run takes {steps}, and the other script cannot begin them again; give "
                      "fewer --steps, or more shards")


def ratio_lines(found: dict) -> list[str]:
    """The comparison for a person."""
    ours, theirs = (math.fsum(ms) / len(ms) for ms in (found["ms"]["ours"], found["ms"]["theirs"]))
    ratio, interval = found["ratio"], "one pair, or equal ones, have no interval"
    if ratio["low"] is not None:
        interval = interval_of(ratio)
    return [f"{found['tokens_per_step']:,} tokens a step, {found['processes']} x "
            f"{found['hardware']['name']}, {found['steps']} steps timed a run",
            f"train_gpt.py {found['recipe']}{' --fast' if found['fast'] else ''}: {ours:.2f} ms a step",
            f"{found['file']}: {theirs:.2f} ms a step",
            f"ms a step, {found['file']} / train_gpt.py, {ratio['n']} pair{'s' * (ratio['n'] > 1)}: "
            f"{ratio['ratio']:.4f} ({interval})"]


########################################
#        Computed, not measured        #
########################################


def needs(plan: train_gpt.Plan, ranks: int, card: int) -> dict:
    """Of one of `ranks` ranks, in bytes: weights, gradients, optimizer state; `needed` in all by sequences a
    micro-batch, an upper bound (the plain path, uncompiled: speedrun/training/estimate.py); `fits`, the
    largest of these micro-batches that a card of `card` bytes holds, 0 for none; bytes sent a step, by kind;
    and FLOPs a token."""
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
                flops_per_token=flops_per_token(model, track))


def estimated(words: list[str], ranks: int) -> dict:
    """What the plan of `words` needs on each of `ranks` ranks; without a --track, what ESTIMATED need."""
    named = any(word.split("=")[0] == "--track" for word in words)
    plans = [plan_of(words)] if named else [plan_of([*words, "--track", name]) for name in ESTIMATED]
    return dict(computed=True, ranks=ranks, card=CARD, rows=[needs(plan, ranks, CARD) for plan in plans])


def estimate_lines(found: dict) -> list[str]:
    """What models need, for a person."""
    rows, ranks = found["rows"], found["ranks"]
    sizes = sorted({size for row in rows for size in row["needed"]})
    lines = [f"computed from shapes, not measured; GiB of one of {ranks} rank{'s' * (ranks > 1)}, an upper "
             "bound (the plain path, uncompiled)",
             f"{'':14}{'weights':>9}{'gradients':>11}{'state':>7}  in all, by sequences a micro-batch",
             f"{'':43}" + "".join(f"{size:>8}" for size in sizes) + f"   {CARD // GIB} GiB hold"]
    for row in rows:
        cells = "".join(f"{row['needed'][size] / GIB:8.1f}" if size in row["needed"] else " " * 8
                        for size in sizes)
        lines.append(f"{row['track']:14}{row['weights'] / GIB:9.2f}{row['gradients'] / GIB:11.2f}"
                     f"{row['state'] / GIB:7.2f}  {cells}   {row['fits'] or 'none'}")
    for row in rows:
        sent = sum(row["bytes_sent"].values())
        kinds = ", ".join(f"{name.replace('_', ' ')} {size / 1e6:,.1f}"
                          for name, size in row["bytes_sent"].items())
        lines.append(f"{row['track']}: {row['parameters'] / 1e6:,.1f}M parameters, "
                     f"{row['flops_per_token'] / 1e6:,.1f} MFLOP a token"
                     + (f", a rank sends {sent / 1e6:,.1f} MB a step ({kinds})" if ranks > 1 else ""))
    return lines
