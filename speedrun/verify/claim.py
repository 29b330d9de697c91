"""What the logs of a record claim, and what keeps them from claiming it."""
from itertools import accumulate

from speedrun.log.format import Log
from speedrun.log.run import LoggedRun
from speedrun.stats import intervals, rule
from speedrun.stats.crossing import mean_crossing

from .events import expected_steps


def track_series(log: Log) -> dict:
    """`log.series` at the steps of the track's grid alone: what is seen in between makes no claim."""
    run = LoggedRun.of(log, 0)
    steps = set(expected_steps(run))
    return {seed: [p for p in points if p.step in steps] for seed, points in log.series.items()}


def machine(log: Log) -> dict:
    """What must be equal for two runs' seconds to be compared at all."""
    hardware = log.header["hardware"]
    gpus = hardware.get("gpus") if isinstance(hardware.get("gpus"), list) else []
    return dict({key: hardware[key] for key in ("device", "name", "cores", "threads")},
                gpus=[str(gpu.get("name")) for gpu in gpus if isinstance(gpu, dict)],
                world_size=log.header["world_size"])


def claim(logs: list[Log]) -> dict:
    """What logs that stand say together, computed from their events alone.

    track, recipe, seeds, n, target, sigma; `step`: the official step, None where the rule holds nowhere or
    the track is custom, with the `mean`, `sd`, `z` and `p` there; `crossing`: the mean crossing step;
    `final`: the mean loss at the end; `seconds`: the mean train_time at `step`, else at the end, None with
    `no_time` saying why; `forked`: the step at which these runs continue from a checkpoint, None
    where they are whole: forks claim no step, crossing or time; `board`: may it be on the board, which custom
    tracks, overridden recipes and forks may not; `uncommitted`: a log's code is in the log and in no commit;
    `looks`: how many seeds were declared with the first log,
    the second and so on, in order of their start: one number where nobody could stop by what was seen.
    """
    header, series = logs[0].header, {}
    for log in logs:
        series |= track_series(log)
    track, recipe = header["track"], header["recipe"]
    official, seeds = track["official"], [seed for log in logs for seed in log.header["seeds"]]
    target, sigma = track["target"], rule.KNOWN_SIGMA.get(track["name"]) if official else None
    found, starts = None, [LoggedRun.of(log, 0).start[0] for log in logs]
    forked = max(starts) or None
    if official and target is not None and not forked:
        found = rule.official_step(series, target, sigma, seeds)
    step = found["step"] if found else recipe["steps"]
    times = [point.train_time for points in series.values() for point in points if point.step == step]
    machines, resumed = list(map(machine, logs)), any(k == "resume" for log in logs for _, k, _ in log.events)
    declared = [len(log.header["seeds"]) for log in sorted(logs, key=lambda log: log.header["started"])]
    mixed = any(m != machines[0] or len(set(m["gpus"])) > 1 for m in machines)
    no_time = "forked runs" if forked else "resumed runs" if resumed else "mixed hardware" if mixed else None
    return dict(
        track=track["name"] if official else "custom", recipe=recipe["name"], seeds=seeds, n=len(seeds),
        looks=list(accumulate(declared)),
        target=target, sigma=sigma, forked=forked,
        board=official and not forked and "+" not in recipe["name"],
        uncommitted=any((log.header["git"] or {}).get("changed") for log in logs),
        step=found["step"] if found else None,
        **{key: found[key] if found else None for key in ("mean", "sd", "z", "p")},
        crossing=mean_crossing(series, target) if target is not None and not forked else None,
        final=intervals.mean_interval(points[-1].val_loss for points in series.values()),
        seconds=None if no_time else intervals.mean_interval(times)["mean"], no_time=no_time)


def shortfall(found: dict) -> str:
    """Why a claim has no official step, in words."""
    if found["forked"]:
        return f"it continues from another run's checkpoint at step {found['forked']}"
    n, final, target = found["n"], found["final"]["mean"], found["target"]
    ends = f"the mean of {n} seed{'s' * (n > 1)} ends at {final:.5f}"
    if final > target:
        return f"{ends}, above the target {target}"
    if found["sigma"] is None and n < 2:
        return f"{ends}, and one seed shows nothing of the spread between seeds: declare more"
    return (f"{ends}, and at no step is it below the target {target} by the track's rule: run more seeds, "
            "declared beforehand")
