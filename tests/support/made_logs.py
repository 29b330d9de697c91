"""Record logs that keep every rule without any training: the real writer and header, made-up losses, and a
clock that is turned forward. For the tests of what reads logs, and for tests/bench/bench_verify.py."""
import hashlib
import json
import math
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import torch

import train_gpt
from data.shards import batches_in
from speedrun.experiments import challenge
from speedrun.log.format import link
from speedrun.log.writer import LogWriter
from speedrun.training.machine import hardware, write_header
from speedrun.training.world import World
from tests.support import clone

START = 1_800_000_000  # 2027-01-15


def curve(step: int, steps: int, end: float, start: float) -> float:
    """A loss that falls from `start` to `end` as runs do."""
    return end + (start - end) * (math.exp(-6 * step / steps) - math.exp(-6)) / (1 - math.exp(-6))


def shards_of(track, steps: int) -> dict:
    """Data as a header lists it: the shards that the track pins, else as many of 100M tokens as it takes."""
    pinned = track.sha256 if track.official else {}
    tokens = {"train": 3_919_872, "val": 264_192} if pinned else {"train": 10**8, "val": 10**8}
    found = {}
    for split in ("train", "val"):
        names = [name for name in pinned if f"_{split}_" in name]
        count = -(-steps // batches_in(tokens[split], track.tokens_per_step)) if split == "train" else 1
        names = names or [f"made_{split}_{i + (split == 'train'):06d}.bin" for i in range(count)]
        found[split] = [dict(name=name, tokens=tokens[split],
                             sha256=pinned.get(name) or hashlib.sha256(name.encode()).hexdigest())
                        for name in names]
    return found


@dataclass
class TurnedClock:
    """The time of day, in seconds, and how long the machine has run."""

    wall: float = START
    running: float = 0.0

    def forward(self, seconds: float) -> None:
        self.wall, self.running = self.wall + seconds, self.running + seconds


@contextmanager
def turned_clock():
    """The log's times come from the TurnedClock that this gives."""
    clock = TurnedClock()

    def now():
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(clock.wall))

    with mock.patch("speedrun.log.writer.now", now), mock.patch("speedrun.training.machine.now", now), \
            mock.patch("speedrun.log.writer.clocks", lambda: (clock.wall, clock.running)):
        yield clock


def make_log(path: Path, words: str = "", ends: dict | None = None, ms: float = 500.0, status="complete",
             device: str = "a CPU", hour: int = 0, clock_step: float = 0.0, git: dict | None = None) -> Path:
    """A log of `train_gpt.py WORDS` (track laptop, on the CPU, unless they say otherwise).

    ends: seed -> final loss (default: below the target, a little more for each seed); ms: of training per
    step; device: the processor's name; hour: when it started, after START; clock_step: seconds by which
    someone sets the clock during the run; git: the state in the header, by default clone.state().
    """
    argv = words.split()
    plan = train_gpt.parse([*argv, "--device", "cpu"])
    track, recipe, seeds = plan.track, plan.recipe, plan.args.seeds
    data = shards_of(track, recipe.steps)
    machine = dict(hardware(World(0, 1, torch.device("cpu"))), processor=device, name=device)
    state, nothing = git or clone.state(), dict(variables=[], paths=[], modules={})
    with turned_clock() as clock, mock.patch("speedrun.training.machine.git_state", lambda root: state), \
            mock.patch("speedrun.training.machine.imports", lambda: nothing):
        clock.forward(3600 * hour)
        log = LogWriter(Path(path))
        write_header(log, train_gpt.ROOT, 1, machine, argv, asdict(track), recipe.resolved(), seeds, data)
        log.event("warmup", seconds=1.25, micro_batch=1, compiled=False, attention="flash_attention")
        clock.forward(2)
        for i, seed in enumerate(seeds):
            end = (ends or {}).get(seed, (track.target or 1.38) - 0.08 + 0.002 * (i % 5))
            log.event("outcome", **_seed(log, plan, seed, end, ms, data))
            clock.forward(math.ceil(recipe.steps * ms / 990))
        clock.wall += clock_step
        log.end(status)
    return Path(path)


def challenged(path: Path, truth: Path | None = None) -> Path:
    """`path`, a record's folder or a log, with the challenge.json of someone who trained again: the losses
    are those of `truth`, a folder or log of the same shape, by default its own."""
    asked = challenge.read_challenge(path)
    honest = challenge.read_challenge(truth or path)
    points = next(log.series[asked.seed] for log in honest.logs if asked.seed in log.series)
    losses = {point.step: point.val_loss for point in points if point.step <= asked.steps}
    challenge.write(challenge.result(asked, losses, clone.state()["commit"], "made up", "a test"), path)
    return path


def _seed(log: LogWriter, plan, seed: int, end: float, ms: float, data: dict) -> dict:
    track, recipe, every, reached = plan.track, plan.recipe, plan.args.val_every, None
    log.event("seed", seed=seed)
    for step in range(recipe.steps + 1):
        if track.validates(step, recipe.steps, recipe.schedule_steps) or (every and step % every == 0):
            loss = curve(step, recipe.schedule_steps, end, math.log(track.model.vocab_size))
            seconds = step * ms / 1000 * (1 + step % 7 / 1000)
            log.validation(step, recipe.steps, loss, seconds, seed)
            if step == recipe.steps:
                log.event("diagnostics", seed=seed, step=step, **_diagnostics(plan))
            if reached is None and track.target is not None and loss <= track.target:
                reached = dict(step=step, seconds=round(seconds, 3))
    passes = recipe.steps / sum(batches_in(s["tokens"], track.tokens_per_step) for s in data["train"])
    return dict(seed=seed, steps=recipe.steps, val_loss=round(loss, 5), train_time=round(seconds, 3),
                tokens_per_second=round(recipe.steps * track.tokens_per_step / seconds), reached=reached,
                epochs=round(passes, 4))


def _diagnostics(plan) -> dict:
    """Figures such as a run of this recipe has, of each kind of matrix by layer."""
    model, layers = plan.track.model, plan.track.model.num_layers
    mlp = ("fc", "proj") if model.mlp == "relu2" else ("gate", "up", "down")
    kinds = [f"attn.{name}" for name in ("q", "k", "v", "proj")] + [f"mlp.{name}" for name in mlp]
    if not isinstance(plan.recipe.matrices, tuple):
        kinds = []  # AdamW: no polar factor to tell of
    usual = dict(leverage_dead=0.0, leverage_spread=0.01, row_spread=0.25, orthogonality=0.01, alignment=1.0,
                 update_ratio=1e-4)
    found = {f"blocks.{kind}": {name: [value] * layers for name, value in usual.items()} for kind in kinds}
    return dict(found, activation_dead=[0.0] * layers)


########################################
#               Forgery                #
########################################


def parts(text: str) -> list[list[str]]:
    """The lines of a log, each event's with those of its source: what can be moved as one piece."""
    lines, found = text.splitlines(keepends=True), []
    while lines:
        size = 1
        if lines[0].startswith("@ source "):
            size += json.loads(lines[0][9:].rsplit(" #", 1)[0])["lines"]
        found.append(lines[:size])
        lines = lines[size:]
    return found


def rechain(pieces: list[list[str]], digests: bool = False) -> str:
    """The text of a log from edited pieces with every hash computed anew: what a forger would do. With
    `digests` also each source's sha256 and the header's four."""
    hashed, text, sources = "", [], {}
    for head, *body in pieces:
        line = head.rstrip("\n").rsplit(" #", 1)[0]
        kind, _, data = line.removeprefix("@ ").partition(" ")
        if digests and kind == "source":
            header = json.loads(data)
            header.update(lines=len(body), sha256=hashlib.sha256("".join(body).encode()).hexdigest())
            sources[header["path"]] = "".join(body)
            line = f"@ source {json.dumps(header)}"
        if digests and kind == "run":
            header = json.loads(data)
            recipe = {k: v for k, v in header["recipe"].items() if k != "note"}
            for name, value in dict(code=sources, track=header["track"], recipe=recipe,
                                    data=header["data"]).items():
                canonical = json.dumps(value, sort_keys=True).encode()
                header["sha256"][name] = hashlib.sha256(canonical).hexdigest()
            line = f"@ run {json.dumps(header)}"
        hashed = link(hashed, line)
        text += [f"{line} #{hashed}\n", *body]
    return "".join(text)
