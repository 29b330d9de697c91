"""Pairs of runs, A B B A A B B A ...: which of the two is faster, and which ends at the lower loss?

Taken in turn, so that a machine that warms up or slows down does so for both sides; an even number of pairs
cancels a steady drift. Times are of the training clock, which excludes warm-up and validation.
"""
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np

import train_gpt
from speedrun import ROOT, launch
from speedrun.cli import Refusal
from speedrun.log.command import Command
from speedrun.log.folder import logs_in
from speedrun.log.format import Log
from speedrun.log.reader import read_log
from speedrun.stats import intervals
from speedrun.stats.crossing import crossing_step
from speedrun.stats.ratio import interval_of, judged, order, time_ratio
from speedrun.verify.claim import machine

OURS = ("--help", "--list", "--dry-run", "--json", "--log-dir", "--resume")  # what a side may not ask for

########################################
#              The runs                #
########################################


@dataclass
class Side:
    """A or B: its command, and what that means."""

    name: str
    command: Command
    plan: train_gpt.Plan

    @property
    def names_seeds(self) -> bool:
        return "seeds" in self.command.given


@dataclass
class Trained:
    """One run as its log has it."""

    side: str
    pair: int
    log: Log
    step_avg: float            # ms a step of the training clock, the mean over its seeds
    losses: dict[int, float]   # seed -> final loss, nats
    to_target: float | None    # seconds to the target, the mean over its seeds; None where one misses it

    @classmethod
    def of(cls, side: str, pair: int, log: Log, target: float | None) -> "Trained":
        ends = {seed: points[-1] for seed, points in log.series.items()}
        times = [seconds_to(points, target) for points in log.series.values()]
        return cls(side, pair, log, mean(point.step_avg for point in ends.values()),
                   {seed: point.val_loss for seed, point in ends.items()},
                   None if None in times else mean(times))

    def facts(self) -> dict:
        """For the JSON: `calibration` is the machine's score at a fixed piece of work before the run."""
        return dict(side=self.side, pair=self.pair, step_avg=self.step_avg, val_loss=self.losses,
                    to_target=self.to_target, calibration=self.log.last("warmup").get("calibration"),
                    log=str(self.log.path))


def seconds_to(points: list, target: float | None) -> float | None:
    """Seconds of the training clock to `target`, between validations by linear interpolation."""
    step = crossing_step(points, target)
    if step is None:
        return None
    return float(np.interp(step, [p.step for p in points], [p.train_time for p in points]))


def read_side(name: str, text: str) -> Side:
    """The side that `text` asks for; Refusal (exit 2) for what train_gpt.py refuses, or what is ours."""
    try:
        words = shlex.split(text)
        for word in words:
            if word.split("=")[0] in OURS or word.startswith("-h"):
                raise Refusal(f"{word} is not a side's; compare.py has --out, --json and --help of its own")
        return Side(name, Command(words), train_gpt.parse(words))
    except (ValueError, Refusal) as error:
        raise Refusal(f"--{name.lower()}: {error}", code=2) from None


def check_sides(a: Side, b: Side) -> None:
    """Refusal (exit 2) where the two cannot be compared."""
    if a.plan.track != b.plan.track or a.plan.device != b.plan.device:
        places = [f"{side.plan.track.label} on {side.plan.device}" for side in (a, b)]
        alike = " (with other fields)" if places[0] == places[1] else ""
        raise Refusal(f"A trains {places[0]}, B {places[1]}{alike}; give both one --track, the same "
                      "--track.FIELD and one --device", code=2)
    if (a.names_seeds, a.plan.args.seeds) != (b.names_seeds, b.plan.args.seeds):
        raise Refusal("A and B name different seeds; give both the same --seeds, or none", code=2)


def train(runs: list[tuple[int, Side]], out: Path, processes: int) -> list[Trained]:
    """Train them one after the other, each with a log folder under `out`; Refusal at the first that fails, or
    that trained other code."""
    done: list[Trained] = []
    for number, (pair, side) in enumerate(runs, 1):
        folder = out / f"{number:02d}_{side.name.lower()}"
        folder.mkdir(parents=True)
        command = side.command.plus(seeds=None if side.names_seeds else [pair], log_dir=folder)
        words = launch.command_words(ROOT / "train_gpt.py", command.words, processes)
        with open(folder / "output.log", "w", encoding="utf-8") as file:
            code, why = launch.run(words, Path.cwd(), file.write)
        what = f"run {number} of {len(runs)} ({side.name}, pair {pair})"
        log = read_run(folder, code, f"{what} failed: {why}")
        if done and log.header["sha256"]["code"] != done[0].log.header["sha256"]["code"]:
            raise Refusal(f"{what} trained other code than run 1: a file was edited meanwhile; its log is "
                          f"{log.path}; compare again")
        done.append(Trained.of(side.name, pair, log, side.plan.track.target))
        losses = ", ".join(f"seed {seed} {loss:.4f}" for seed, loss in done[-1].losses.items())
        print(f"{what}: {done[-1].step_avg:.2f} ms a step, val_loss {losses}", file=sys.stderr, flush=True)
    return done


def read_run(folder: Path, code: int, failure: str) -> Log:
    """The log of a run; Refusal, `failure` and the place of the log, where it did not end well."""
    paths = logs_in(folder)
    if not paths:
        raise Refusal(f"{failure}; it left no log, what it printed is {folder / 'output.log'}")
    log = read_log(paths[0])
    if code or log.problems or log.status != "complete":
        raise Refusal(f"{failure}; its log is {paths[0]}")
    return log


########################################
#             The verdict              #
########################################


def compare(a: Side, b: Side, pairs: int, out: Path, processes: int = 1) -> dict:
    """Train `pairs` runs of each side with their logs under `out`, a new folder; what they show, plain JSON.

    Tells its progress on stderr. Refusal where the sides cannot be compared (exit 2), or a run fails.
    """
    check_sides(a, b)
    runs = order(a, b, pairs)
    for side in (a, b):
        plan = side.plan
        print(f"{side.name}: track {plan.track.label}, recipe {plan.recipe.name}, {plan.recipe.steps} steps",
              file=sys.stderr)
    turns = " ".join(side.name for _, side in runs)
    print(f"{turns}: {len(runs)} runs, logs in {out}", file=sys.stderr, flush=True)
    return dict(weigh(a, b, train(runs, out, processes)), out=str(out))


def weigh(a: Side, b: Side, done: list[Trained]) -> dict:
    """Times and losses of the pairs, and the verdict; plain JSON."""
    by_side = {name: sorted((r for r in done if r.side == name), key=lambda r: r.pair) for name in "AB"}
    pairs = list(zip(by_side["A"], by_side["B"]))
    found = dict(step_time=time_ratio(*zip(*((x.step_avg, y.step_avg) for x, y in pairs))), to_target=None)
    if all(run.to_target for run in done):
        found["to_target"] = time_ratio(*zip(*((x.to_target, y.to_target) for x, y in pairs)))
    seeds = sorted({seed for run in done for seed in run.losses})
    losses = {name: [mean(run.losses[seed] for run in runs if seed in run.losses) for seed in seeds]
              for name, runs in by_side.items()}
    found["loss"] = dict(intervals.paired(losses["A"], losses["B"]), seeds=seeds)
    sides = {side.name.lower(): dict(arguments=shlex.join(side.command.words), recipe=side.plan.recipe.name,
                                     steps=side.plan.recipe.steps, val_loss=mean(losses[side.name]),
                                     step_avg=mean(run.step_avg for run in by_side[side.name]))
             for side in (a, b)}
    track = a.plan.track
    return dict(track=track.label, target=track.target, machine=machine(done[0].log), pairs=len(pairs),
                **sides, **found, verdict=verdict(found), runs=[run.facts() for run in done])


def verdict(found: dict) -> str:
    """In words. A difference counts as shown where its intervals leave out that there is none."""
    step, loss, target = found["step_time"], found["loss"], found["to_target"]
    parts = [dict(below="A is faster a step", above="A is slower a step",
                  open="no difference in time a step is shown")[judged(step, 1)],
             dict(below="A ends at the lower loss", above="A ends at the higher loss",
                  open="no difference in loss is shown")[judged(loss, 0)]]
    if target:
        parts.append(dict(below="A reaches the target sooner", above="A reaches the target later",
                          open="neither is shown to reach the target sooner")[judged(target, 1)])
    if step["low"] is None:
        parts.append("one pair, or equal ones, have no interval: give --pairs 4 or more")
    elif loss["low"] is None:
        parts.append("one seed has no interval for the loss: leave --seeds out, or name several")
    return "; ".join(parts)


def lines(found: dict) -> list[str]:
    """The result for a person."""
    a, b, loss = found["a"], found["b"], found["loss"]
    out = [f"{name}: {side['recipe']}, {side['steps']} steps: {side['step_avg']:.2f} ms a step, final loss "
           f"{side['val_loss']:.5f}" for name, side in (("A", a), ("B", b))]
    for what, ratio in (("time a step", found["step_time"]),
                        (f"time to {found['target']}", found["to_target"])):
        if ratio:
            interval = "" if ratio["low"] is None else f" ({interval_of(ratio)})"
            pairs = f"{ratio['n']} pair{'s' * (ratio['n'] > 1)}"
            out.append(f"{what}, A / B, {pairs}: {ratio['ratio']:.4f}{interval}")
    interval = "" if loss["low"] is None else f" (95 %: {loss['low']:+.5f} to {loss['high']:+.5f})"
    out.append(f"final loss, A - B, {loss['n']} seed{'s' * (loss['n'] > 1)}: {loss['mean']:+.5f}{interval}")
    if a["steps"] != b["steps"]:
        out.append("A and B stop at different steps; each loss is that of its own last step")
    return [*out, f"verdict, for this machine alone: {found['verdict']}"]
