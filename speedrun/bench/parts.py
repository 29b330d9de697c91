"""Where a step of train_gpt.py spends its time: the device is waited for at each boundary of two parts.

    data                    reading the tokens, and their copy to the device
    forward, backward       of the embedding and the blocks; backward with the float32 sums over micro-batches
    head_and_loss           both passes of the last norm, the head and the loss, timed alone on random hidden
                            states; the two parts above are what it leaves of the model's own passes
    gradient_communication  while a collective was under way and the rank computed nothing, from a profile
    optimizer               guard, optimizers and wrappers, without that
"""
import time
from collections import defaultdict
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

import train_gpt

UPDATE = "bench:update"


def speed_up(model: train_gpt.GPT, plan: train_gpt.Plan) -> train_gpt.GPT:
    """The model as train_gpt.main makes it ready for the plan's path."""
    if plan.args.fast:
        model.speed_up(compile=plan.device == "cuda")
    elif plan.device == "cuda":
        model.compile(dynamic=False)
    return model


class Parts:
    """A stopwatch: `begin(name)` waits for the device and gives the time from here on to `name`."""

    def __init__(self, device: torch.device):
        self.device, self.ms, self.name, self.since = device, defaultdict(float), None, 0.0

    def begin(self, name: str | None) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self.name is not None:
            self.ms[self.name] += 1000 * (now - self.since)
        self.name, self.since = name, now


class TimedStream:
    def __init__(self, stream, parts: Parts):
        self.stream, self.parts = stream, parts

    def __getitem__(self, step: int):
        self.parts.begin("data")  # until the first forward pass: reading, and the copy to the device
        return self.stream[step]


class TimedModel(nn.Module):
    def __init__(self, model: nn.Module, parts: Parts):
        super().__init__()
        self.model, self.parts = model, parts

    def forward(self, inputs, targets):
        self.parts.begin("forward")
        loss = self.model(inputs, targets)
        self.parts.begin("backward")
        return loss


@contextmanager
def in_parts(run: train_gpt.Run, parts: Parts):
    """Inside, a step of the run tells `parts` where it is."""
    train, model, update = run.train, run.model, train_gpt.update

    def timed_update(*args) -> None:
        parts.begin("optimizer")
        with record_function(UPDATE):
            update(*args)
            parts.begin("optimizer")  # the device is done inside the range, so its collectives lie in it

    run.train, run.model, train_gpt.update = TimedStream(train, parts), TimedModel(model, parts), timed_update
    try:
        yield
    finally:
        run.train, run.model, train_gpt.update = train, model, update


def take_step(now: train_gpt.SeedRun, step: int, parts: Parts) -> None:
    parts.begin("optimizer")  # learning rates and wrappers, until the data
    now.step(step)
    parts.begin(None)


class Hidden(nn.Module):
    """Stands in for the embedding and all blocks: hidden states that want a gradient."""

    def __init__(self, x: torch.Tensor):
        super().__init__()
        self.x = nn.Parameter(x)

    def forward(self, inputs):
        return self.x


def head_times(run: train_gpt.Run, steps: int) -> dict[str, float]:
    """Milliseconds a step of the last norm, the head and the loss alone, forward and backward: the model
    without its blocks, made ready like it, on hidden states of the run's micro-batch."""
    plan, parts = run.plan, Parts(run.world.device)
    track, share = plan.track, run.train.local // plan.track.context
    with torch.device("meta"):
        head = train_gpt.GPT(track.model)
    shape = (run.micro, track.context, track.model.model_dim)
    dtype = run.model.embed.weight.dtype
    head.embed, head.blocks = Hidden(torch.randn(shape, device=run.world.device).to(dtype)), nn.ModuleList()
    # Copies: the run's own parameters may have hooks that send their gradients.
    head.norm1, head.norm2, head.proj = nn.Identity(), deepcopy(run.model.norm2), deepcopy(run.model.proj)
    speed_up(head, plan)
    tokens = torch.randint(track.model.vocab_size, shape[:2], device=run.world.device)
    for step in range(steps + 1):
        if step == 1:  # the first compiles
            parts.ms.clear()
        for _ in range(share // run.micro):
            parts.begin("forward")
            loss = head(tokens, tokens)
            parts.begin("backward")
            loss.backward()
            parts.begin(None)
        head.zero_grad(set_to_none=True)
    return {name: ms / steps for name, ms in parts.ms.items()}


def communication(now: train_gpt.SeedRun, first: int, count: int) -> dict[str, float]:
    """Milliseconds a step, from a profile of `count` steps in parts on this rank: `in_flight`, while a
    collective was under way; `backward` and `update`, how much of that passed while nothing was computed."""
    run = now.run
    cuda, parts = run.world.device.type == "cuda", Parts(run.world.device)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with in_parts(run, parts), profile(activities=kinds) as trace:
        for step in range(first, first + count):
            take_step(now, step, parts)
    here, update = torch.autograd.DeviceType.CUDA if cuda else torch.autograd.DeviceType.CPU, []
    sent, computed = [], []
    for event in trace.events():
        span = event.time_range.start, event.time_range.end
        if event.name == UPDATE and event.device_type == torch.autograd.DeviceType.CPU:
            update.append(span)
        elif event.device_type != here or event.is_user_annotation and cuda:
            continue
        elif event.name.lower().startswith(("nccl", "gloo:")):
            sent.append(span)
        elif cuda or event.name.startswith("aten::"):
            computed.append(span)
    sent, computed, update = union(sent), union(computed), union(update)
    exposed = length(sent) - length(meet(sent, computed))
    late = meet(sent, update)
    late = length(late) - length(meet(late, computed))
    us = 1000 * count  # the trace is in microseconds
    return dict(in_flight=length(sent) / us, backward=(exposed - late) / us, update=late / us)


def part_times(now: train_gpt.SeedRun, first: int, count: int) -> dict:
    """Means over `count` steps in parts, ms: `parts`, which add up to `total`; and `in_flight`, of the
    collectives, also under the parts that hide them. See docs/speed.md."""
    run, timed = now.run, Parts(now.run.world.device)
    with in_parts(run, timed):
        for step in range(first, first + count):
            take_step(now, step, timed)
    sent = dict(in_flight=0.0, backward=0.0, update=0.0)
    if run.world.size > 1:
        sent = communication(now, first + count, count)
    ms, head = {name: total / count for name, total in timed.ms.items()}, head_times(run, count)
    parts = dict(data=ms["data"], forward=ms["forward"] - head["forward"],
                 backward=ms["backward"] - head["backward"] - sent["backward"],
                 head_and_loss=head["forward"] + head["backward"],
                 gradient_communication=sent["backward"] + sent["update"],
                 optimizer=ms["optimizer"] - sent["update"])
    return dict(parts=parts, total=sum(parts.values()), in_flight=sent["in_flight"])


def union(spans) -> list[tuple[float, float]]:
    """The time covered by any of `spans`."""
    found: list = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def meet(a: list, b: list) -> list[tuple[float, float]]:
    """The time covered by both of two unions."""
    found, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        start, end = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if start < end:
            found.append((start, end))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return found


def length(spans: list) -> float:
    """The time a union covers."""
    return sum(end - start for start, end in spans)
