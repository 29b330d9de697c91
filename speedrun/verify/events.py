"""What a log's events must agree on: their order, the seeds, the grid, losses, times and outcomes.

Each rule takes a LoggedRun and yields (line, what is wrong).
"""
import math
from datetime import datetime

from speedrun.log.format import Log
from speedrun.log.header import fork_errors, number
from speedrun.log.run import LoggedRun
from speedrun.text import printable

from .header import batches, clip

ONCE = ("log", "run", "warmup", "end")


def whole(log: Log):
    """The text is a log of this project: every line an event or a validation, every hash follows from the
    line before it, every source has the sha256 it states, and an `end` event closes it."""
    yield from log.problems
    if log.foreign is not None and not log.problems:
        yield 1, ("a log of modded-nanogpt: without header, hashes and declared seeds it is no record here; "
                  "scripts/stats.py reads it")


def superseded(run: LoggedRun) -> set[int]:
    """The lines of `end` events that a `resume` follows: the run continued after them."""
    kinds = [(line, kind) for line, kind, _ in run.log.events]
    return {line for (line, kind), (_, following) in zip(kinds, kinds[1:])
            if (kind, following) == ("end", "resume")}


def status(run: LoggedRun):
    """The run closed its log as complete."""
    earlier = superseded(run)
    for line, data in run.of_kind("end"):
        if line not in earlier and data.get("status") != "complete":
            why = f" ({printable(data['reason'], 160)})" if "reason" in data else ""
            yield line, f"the run is {clip(data.get('status'))}, not complete{why}"


def seeds(run: LoggedRun):
    """Exactly the declared seeds: each has its outcome, no other is there."""
    declared, there = run.header["seeds"], [data.get("seed") for _, data in run.of_kind("outcome")]
    if len(set(declared)) < len(declared):
        yield run.line, "a seed is declared twice"
    missing = [str(seed) for seed in declared if seed not in there]
    if missing:
        yield run.line, f"declared, and without an outcome: seed {', '.join(missing)}"
    for seed, points in run.log.series.items():
        if seed not in declared:
            yield points[0].line, f"seed {seed} was not declared"


def order(run: LoggedRun):
    """log, sources, run, warmup; for each declared seed in turn seed, its validations and diagnostics,
    outcome; then end. An `end` that a `resume` follows may be anywhere after the header, and so may
    events of other kinds: no rule reads them."""
    earlier = superseded(run)
    entries = [(line, kind, data.get("seed")) for line, kind, data in run.log.events if line not in earlier]
    entries += [(point.line, "step", seed) for seed, points in run.log.series.items() for point in points]
    coming, current, seen = list(run.header["seeds"]), None, dict.fromkeys(ONCE, 0)
    for line, kind, seed in sorted(entries, key=lambda entry: entry[0]):
        if kind in ONCE:
            seen[kind] += 1
            if seen[kind] > 1:
                yield line, f"a second `{kind}` event"
        if kind not in ("log", "run") and (kind == "source") == (seen["run"] > 0):
            yield line, f"`{kind}` on the wrong side of the header"
        if kind == "seed":
            if current is not None or type(seed) is not int or coming[:1] != [seed]:
                yield line, f"seed {clip(seed)} starts out of turn"
            if not seen["warmup"]:
                yield line, f"seed {clip(seed)} starts before the warm-up"
            current, coming = seed, [s for s in coming if s != seed]
        elif kind in ("step", "diagnostics", "outcome") and (current is None or seed != current):
            yield line, f"a line of seed {clip(seed)} outside that seed's part of the log"
        elif kind in ("warmup", "end") and current is not None:
            yield line, f"`{kind}` within seed {clip(current)}"
        if kind == "outcome":
            current = None
    for kind in ("log", "warmup"):
        if not seen[kind]:
            yield run.line, f"no `{kind}` event"


def fork(run: LoggedRun):
    """A run that continues from another's checkpoint says so once, after the header; it is of one seed, and
    a `resume` at that step follows."""
    for i, (line, data) in enumerate(run.of_kind("fork")):
        for what in fork_errors(data):
            yield line, what
        kinds = [(kind, later.get("step")) for at, kind, later in run.log.events if at > line]
        for wrong, what in (
                (i, "a second `fork` event"), (len(run.header["seeds"]) > 1, "a fork of several seeds"),
                (run.start[0] >= run.recipe.steps, f"a fork at step {run.start[0]}, where the run ends"),
                (kinds[:1] != [("resume", data.get("step"))], "no `resume` at the step of the fork follows")):
            if wrong:
                yield line, what


def warmup(run: LoggedRun):
    """The micro-batch divides a rank's share of a step; a GPU run is compiled, a CPU run is not."""
    sequences, ranks = run.track.tokens_per_step // run.track.context, run.header["world_size"]
    device = run.header["hardware"]["device"]
    for line, data in run.of_kind("warmup"):
        micro = data.get("micro_batch")
        if type(micro) is not int or micro < 1 or sequences % (ranks * micro):
            yield line, f"micro-batches of {clip(micro)} on {ranks} ranks do not make {sequences} sequences"
        if data.get("compiled") is not (device == "cuda"):
            yield line, f"compiled: {clip(data.get('compiled'))}, on {clip(device)}"
        if not number(data.get("seconds")):
            yield line, f"{clip(data.get('seconds'))} seconds of warm-up"


def expected_steps(run: LoggedRun, every: int | None = None) -> list[int]:
    """The steps of the track's grid for this recipe, and with `every` also its multiples, from where the log
    starts to tell."""
    lengths = run.recipe.steps, run.recipe.schedule_steps
    return [step for step in range(run.start[0], run.recipe.steps + 1)
            if run.track.validates(step, *lengths) or (every and step % every == 0)]


def grid(run: LoggedRun):
    """Each seed is validated at exactly the steps of the track's grid, and at those of --val-every."""
    steps, every = run.recipe.steps, run.command.args.val_every
    expected = expected_steps(run, every if every and every > 0 else None)
    for seed, points in run.log.series.items():
        for point in points:
            if point.steps != steps:
                yield point.line, f"a run of {point.steps} steps, the recipe takes {steps}"
                break
        there = [point.step for point in points]
        if there != expected:
            at = next((i for i, (a, b) in enumerate(zip(there, expected)) if a != b),
                      min(len(there), len(expected)))
            want = f"step {expected[at]}" if at < len(expected) else "no further step"
            have = f"step {there[at]}" if at < len(there) else "none"
            line = points[min(at, len(points) - 1)].line
            yield line, f"seed {seed}: the grid has {want} here, the log {have}"


def losses(run: LoggedRun):
    """Every loss is finite and above zero."""
    for seed, points in run.log.series.items():
        for point in points:
            if not math.isfinite(point.val_loss) or point.val_loss <= 0:
                yield point.line, f"seed {seed}, step {point.step}: a loss of {point.val_loss}"


def times(run: LoggedRun):
    """Each seed's clock starts at 0, or where it is forked, and runs forward; step_avg is train_time by step,
    to their digits."""
    start, seconds = run.start
    for seed, points in run.log.series.items():
        before = None
        for point in points:
            if before is None and (point.train_time <= seconds if point.step > start > 0 else
                                   point.train_time != seconds):
                yield point.line, f"seed {seed} starts at {point.train_time} s"
            elif before is not None and point.train_time <= before.train_time:
                yield point.line, (f"seed {seed}: {point.train_time} s at step {point.step}, after "
                                   f"{before.train_time} s at step {before.step}")
            average = 1000 * point.train_time / point.step if point.step else 0.0
            if abs(point.step_avg - average) > 0.0051 + 0.5 / max(1, point.step):
                yield point.line, (f"seed {seed}, step {point.step}: step_avg is {point.step_avg} ms, "
                                   f"train_time gives {average:.2f} ms")
            before = point


def outcomes(run: LoggedRun):
    """Each outcome is what the seed's validations give."""
    for line, data in run.of_kind("outcome"):
        seed = data.get("seed")
        points = run.log.series.get(seed) if type(seed) is int else None
        figures = [data.get(key) for key in ("val_loss", "train_time", "tokens_per_second", "epochs")]
        if not points or not all(map(number, figures)):
            yield line, "an outcome without validations, or without its figures"
            continue
        last, (val_loss, train_time, per_second, epochs) = points[-1], figures
        for name, there, want in (("steps", data.get("steps"), last.step),
                                  ("val_loss", val_loss, last.val_loss),
                                  ("train_time", train_time, last.train_time)):
            if there != want:
                yield line, f"{name} is {clip(there)}, the last validation has {want}"
        seconds = max(last.train_time, 1e-3)
        rate = last.step * run.track.tokens_per_step / seconds
        if abs(per_second - rate) > 1 + rate * 6e-4 / seconds:
            yield line, f"tokens_per_second is {per_second}, steps and time give {rate:.0f}"
        passes = last.step / max(1, batches(run))
        if epochs > passes + 1e-4:
            yield line, f"epochs is {epochs}, the shards are passed {passes:.4f} times at most"
        # A loss printed as the target may have been a little above it.
        reached = [_first(points, run.track.target, slack) for slack in (0, 1e-9)]
        if data.get("reached") not in reached:
            yield line, f"reached is {clip(data.get('reached'))}, the validations give {reached[0]}"


def _first(points: list, target: float | None, slack: float) -> dict | None:
    """The first validation at the target, as an outcome has it."""
    for point in points:
        if target is not None and point.val_loss <= target - slack:
            return dict(step=point.step, seconds=point.train_time)
    return None


def clock(run: LoggedRun):
    """The times of day are in order, except where the log notes that the clock was set, and there was room
    for the warm-up and the training: by `seconds` of the `end`, which no setting of a clock moves, or in an
    older log by the times of day. A run that was resumed was interrupted: its times tell nothing of that."""
    read, earlier = [], superseded(run)
    ends = [(line, data) for line, data in run.of_kind("end") if line not in earlier][:1]
    for kind, key in (("log", "started"), ("run", "started"), ("end", "ended")):
        for line, data in ends if kind == "end" else run.of_kind(kind)[:1]:
            try:
                read.append((line, datetime.strptime(str(data.get(key)), "%Y-%m-%dT%H:%M:%SZ")))
            except ValueError:
                yield line, f"{clip(data.get(key))!r} is no time like 2026-01-31T12:00:00Z"
    step, lasted = (ends[0][1].get(key) for key in ("clock_step", "seconds")) if ends else (None, None)
    for value, what in ((step, "clock_step"), (lasted, "seconds")):
        if value is not None and not (type(value) in (int, float) and (what == "clock_step" or value >= 0)):
            yield ends[0][0], f"{what} is {clip(value)}, no number of seconds"
            return
    resumed = len(run.of_kind("resume")) > len(run.of_kind("fork"))  # one follows each fork
    for (_, before), (line, after) in zip(read, read[1:]):
        if after < before and step is None and not resumed:
            yield line, "this time is earlier than the one before it"
    spent = sum(points[-1].train_time - run.start[1] for points in run.log.series.values())
    spent += sum(data["seconds"] for _, data in run.of_kind("warmup") if number(data.get("seconds")))
    if len(read) == 3 and not resumed:
        (_, started), _, (line, ended) = read
        took = (ended - started).total_seconds() if step is None else None
        for there in (took, lasted):
            if there is not None and spent > there + 1.1:  # the times of day are whole seconds
                yield line, f"{spent:.1f} s of warm-up and training in a run of {there:.0f} s"
                break
