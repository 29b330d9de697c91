"""What a training step of train_gpt.py costs on this machine: undisturbed, and part by part.

Both passes take the trainer's own steps (train_gpt.SeedRun.step), one pass after the other:

    undisturbed   as a run takes them; on CUDA an event at each step's start, read when all are done, so that
                  the host runs ahead of the device as ever
    in parts      records/bench_parts.py

The difference of the two is no part's: it is what steps gain by overlapping, and what waiting costs.
"""
import gc
import resource
import sys
import time
from argparse import Namespace
from dataclasses import replace
from unittest import mock

import numpy as np
import torch

import train_gpt
from speedrun.log.peaks import peak_flops
from speedrun.training import chunked
from speedrun.training.estimate import bytes_per_step
from speedrun.training.machine import hardware, software
from speedrun.training.world import StopSignal, World
from tracks import Track

from .parts import part_times, speed_up

SETTLE = 3  # steps before the timed ones


class SyntheticStream:
    """Uniform random tokens in the place of data.shards.TokenStream; the same numbers each time."""

    def __init__(self, track: Track, world: World):
        self.vocab_size, self.context, self.rank = track.model.vocab_size, track.context, world.rank
        self.local = track.tokens_per_step // world.size

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng([step, self.rank])
        window = random.integers(self.vocab_size, size=self.local + 1, dtype=np.uint16)
        return window[:-1].reshape(-1, self.context), window[1:].reshape(-1, self.context)


def on_path(plan: train_gpt.Plan, fast: bool) -> train_gpt.Plan:
    """The plan on the fast path, or on the plain one."""
    return replace(plan, args=Namespace(**{**vars(plan.args), "fast": fast}))


def build(plan: train_gpt.Plan, world: World, synthetic: bool) -> tuple[train_gpt.Run, dict]:
    """A run of the plan after its warm-up, without log and validation; and what the warm-up found."""
    gc.collect()  # a compiled model is in cycles: the last one's memory would count here
    torch.cuda.empty_cache()
    train = SyntheticStream(plan.track, world) if synthetic else train_gpt.open_streams(plan, world)[0]
    with torch.device("meta"):
        model = train_gpt.GPT(plan.track.model)
    speed_up(model.to_empty(device=world.device), plan)
    flops = train_gpt.flops_per_token(model, plan.track)
    run = train_gpt.Run(plan, world, model, train, None, StopSignal(), flops)
    return run, train_gpt.warm_up(run)


########################################
#             Undisturbed              #
########################################


def step_times(now: train_gpt.SeedRun, first: int, count: int) -> list[float]:
    """Milliseconds of each of `count` steps, as a run takes them, after SETTLE that are not counted."""
    world, marks = now.run.world, []

    def mark():
        if world.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    for step in range(first, first + SETTLE):
        now.step(step)
    world.barrier()
    for step in range(first + SETTLE, first + SETTLE + count):
        marks.append(mark())
        now.step(step)
    marks.append(mark())
    world.barrier()
    pairs = zip(marks, marks[1:])
    return [a.elapsed_time(b) if world.device.type == "cuda" else 1000 * (b - a) for a, b in pairs]


def peak_memory(world: World) -> int:
    """Bytes, of the rank that held most: of tensors on the GPU since the warm-up; on a CPU of the process."""
    if world.device.type == "cuda":
        held = torch.cuda.max_memory_allocated()
    else:
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return -world.minimum(-held)


def steps_needed(steps: int, parts: int) -> int:
    """Steps of training that `measure` takes."""
    return SETTLE + steps + 2 * parts


def measure(plan: train_gpt.Plan, world: World, synthetic: bool, steps: int, parts: int) -> dict:
    """The figures of the plan's step on this machine, plain JSON: times in ms, memory in bytes, FLOPs a
    token as train_gpt.flops_per_token counts them; `mfu` is None where the device's peak is not known."""
    run, warm = build(plan, world, synthetic)
    now = train_gpt.SeedRun(run, plan.args.seeds[0])
    times, memory = step_times(now, 0, steps), peak_memory(world)
    found = part_times(now, SETTLE + steps, parts)
    now.guard.raise_if_bad()
    mean, machine = sum(times) / steps, hardware(world)
    rate = 1000 * plan.track.tokens_per_step / mean
    peak = peak_flops(machine["name"]) if world.device.type == "cuda" else None
    low, median, high = (float(x) for x in np.percentile(times, (10, 50, 90)))
    return dict(
        track=plan.track.label, recipe=plan.recipe.name, fast=plan.args.fast, steps=steps,
        tokens="synthetic" if synthetic else "real", tokens_per_step=plan.track.tokens_per_step,
        world_size=world.size, micro_batch=run.micro, ms=dict(median=median, low=low, high=high, mean=mean),
        tokens_per_second=rate, flops_per_token=run.flops, peak_flops=peak,
        mfu=rate * run.flops / (peak * world.size) if peak else None, peak_memory=memory,
        parts=found["parts"], parts_total=found["total"], beside=mean - found["total"],
        communication_in_flight=found["in_flight"],
        bytes_sent=bytes_per_step(run.model, now.optimizers, world.size, plan.args.fast), warm_up=warm,
        **software(), hardware=machine)


########################################
#                Parity                #
########################################


def losses(plan: train_gpt.Plan, world: World, synthetic: bool, steps: int) -> list[float]:
    """The mean training loss of each of the first `steps` steps of the plan's first seed, nats."""
    now = train_gpt.SeedRun(build(plan, world, synthetic)[0], plan.args.seeds[0])
    later = [now.step(step) for step in range(steps)]  # each gives the loss of the step before
    return [*later[1:], now.guard.raise_if_bad()]


def parity(plan: train_gpt.Plan, world: World, synthetic: bool, steps: int) -> dict:
    """The fast path against the plain one, from equal weights and tokens: `largest`, the largest difference
    of their training losses, and the step it is at; on a GPU, where sums by atomics differ from run to run,
    also `plain_again`, the largest difference of two plain runs. On a CPU, whose micro-batches are shorter
    than a chunk of the loss, a chunk is one sequence."""
    gpu = world.device.type == "cuda"
    with mock.patch.object(chunked, "CHUNK", chunked.CHUNK if gpu else plan.track.context):
        plain, fast, *again = (losses(on_path(plan, path), world, synthetic, steps)
                               for path in (False, True, *[False] * gpu))
    differences = [abs(a - b) for a, b in zip(plain, fast)]
    largest = max(differences)
    return dict(track=plan.track.label, recipe=plan.recipe.name, steps=steps, world_size=world.size,
                tokens="synthetic" if synthetic else "real", largest=largest,
                at_step=differences.index(largest), last_losses=[plain[-1], fast[-1]],
                plain_again=max(abs(a - b) for a, b in zip(plain, again[0])) if again else None,
                **software(), hardware=hardware(world))
