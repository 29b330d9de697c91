"""Recipes side by side: read from logs of one track, compared by the statistics of rule.py."""
import json
import math
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from speedrun.cli import Refusal
from speedrun.log.format import Log, without_note
from speedrun.log.header import schema_errors
from speedrun.log.reader import read_log
from speedrun.stats import intervals
from speedrun.stats.crossing import crossing_step, mean_crossing
from speedrun.text import printable
from speedrun.verify.claim import machine

from .runs import RecipeRuns, log_files, runs_of
from .svg import MOST_LINES


@dataclass
class Comparison:
    """The recipes in the order in which their first logs were named, no two of one name; no_time: why their
    seconds are not compared, None where they are."""

    track: dict
    recipes: list[RecipeRuns]
    no_time: str | None = None

    @cached_property
    def found(self) -> dict:
        return compare(self)


def read_comparison(paths: list[Path]) -> Comparison:
    """The recipes of the logs in `paths`, logs or record folders.

    Refusal for what `runs.runs_of` refuses, for a header that is not complete, logs of several tracks or of
    other data, a loss that is not finite, and more than MOST_LINES recipes.
    """
    recipes: list[RecipeRuns] = []
    for logs in _by_recipe(paths):
        runs = runs_of(logs)
        for log in logs:
            _check(log)
        _check_series(runs, printable(logs[0].path))
        recipes.append(replace(runs, name=_fresh_name(runs.name, recipes)))
        _check_same(recipes[0], runs)
    return Comparison(recipes[0].track, recipes, no_time([log for runs in recipes for log in runs.logs]))


def _by_recipe(paths: list[Path]) -> list[list[Log]]:
    """The logs of each recipe, in the order of `paths`."""
    buckets: dict[str, list[Log]] = {}
    for path in log_files(paths):
        log = read_log(path)
        try:
            key = json.dumps(without_note(log.header.get("recipe")), sort_keys=True)
        except RecursionError:
            raise Refusal(f"{printable(path)}: its recipe is nested too deeply to be one") from None
        buckets.setdefault(key, []).append(log)
    if len(buckets) > MOST_LINES:
        raise Refusal(f"{len(buckets)} recipes are more than a picture can tell apart; "
                      f"name at most {MOST_LINES}")
    return list(buckets.values())


def flat(recipe: dict) -> dict[str, str]:
    """dotted field -> value as text, of a resolved recipe; its name and note are no hyperparameters."""
    def walk(value, name, depth=0):
        if isinstance(value, dict) and depth < 6:
            for key, inner in value.items():
                yield from walk(inner, f"{name}.{key}".lstrip("."), depth + 1)
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            yield name, ", ".join(value) or "none"
        else:
            yield name, value if isinstance(value, str) else "none" if value is None else json.dumps(value)
    return {name: value for name, value in walk(recipe, "") if name not in ("name", "note")}


def _check(log: Log) -> None:
    """Refusal for a log without the header that a comparison needs."""
    where = printable(log.path)
    if log.foreign is not None:
        raise Refusal(f"{where} is a log of modded-nanogpt, which names no track and no recipe; compare "
                      "such logs with `python scripts/stats.py pair`")
    if wrong := schema_errors(log.header):
        raise Refusal(f"{where}: its header is not complete: {printable(wrong[0])}; see scripts/verify.py")


def _check_series(runs: RecipeRuns, where: str) -> None:
    """Refusal for validations that cannot be drawn or compared."""
    for seed, points in runs.series.items():
        if bad := [p for p in points if not math.isfinite(p.val_loss)]:
            raise Refusal(f"{where}: the loss of seed {seed} is {bad[0].val_loss} at step {bad[0].step}; "
                          "there is nothing to compare")
        if not runs.on_grid[seed]:
            raise Refusal(f"{where}: seed {seed} has no validation at a step of its track's grid")
    runs.last_step


def _check_same(first: RecipeRuns, other: RecipeRuns) -> None:
    """Refusal for another track or other data."""
    where = printable(other.logs[0].path)
    if first.track != other.track:
        raise Refusal(f"{where} is of another track than the logs before it; report one track at a time")
    if not first.of_same_data(other):
        raise Refusal(f"{where} is of other data than the logs before it; report runs on the same shards")


def _fresh_name(name: str, recipes: list[RecipeRuns]) -> str:
    """`name`, numbered where recipes of other constants have it already."""
    taken, found, number = {runs.name for runs in recipes}, name, 1
    while found in taken:
        number += 1
        found = f"{name} #{number}"
    return found


def no_time(logs: list[Log]) -> str | None:
    if any(log.resumed for log in logs):
        return "a run was resumed, and its clock is then no measure of it"
    if any(machine(log) != machine(logs[0]) for log in logs):
        return "the runs are of different machines, which differ more than optimizers do"
    on_cpus = sorted(span(log) for log in logs if log.header["hardware"]["device"] == "cpu")
    if any(later < ended for (_, ended), (later, _) in pairwise(on_cpus)):
        return "runs went on at the same time on one CPU, and slow each other down"
    return None


def span(log: Log) -> tuple[datetime, datetime]:
    """When a run started and when it ended, as its log says. Refusal where it does not."""
    try:
        times = log.header["started"], log.last("end")["ended"]
        return tuple(datetime.fromisoformat(t).astimezone() for t in times)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise Refusal(f"{printable(log.path)} does not say when its run started and ended; see "
                      "scripts/verify.py") from None


########################################
#               Comparing              #
########################################


def track_name(track: dict) -> str:
    """As verify has it: a track with anything overridden is "custom"."""
    return track["name"] if track["official"] else "custom"


def by_seconds(series: dict) -> dict:
    """`series` with the training clock in the place of the step, for `mean_crossing`."""
    return {seed: [replace(p, step=p.train_time) for p in points] for seed, points in series.items()}


def compare(comparison: Comparison) -> dict:
    """Plain JSON: track, target, reference (the first recipe), no_time, warnings (what else than the recipes
    may make a difference), and `recipes`, name -> figures.

    These are seeds, steps, val_loss (intervals.mean_interval of the last losses), official_step (None for
    forks, on a custom track or without target), crossing_step and crossing_seconds (mean_crossing),
    tokens_per_second (both None where there is no_time); and but for the reference `difference`, of the last
    losses, and `crossing_difference`, of the crossing steps where every seed of both has one, each as
    intervals.compare.
    """
    track, timed = comparison.track, comparison.no_time is None
    first, target, rows = comparison.recipes[0], track["target"], {}
    for runs in comparison.recipes:
        last = [points[-1] for points in runs.series.values()]
        rates = [p.step * track["tokens_per_step"] / max(p.train_time, 1e-9) for p in last]
        official = None
        if track["official"] and target is not None:
            official = runs.official_step(target)
        row = dict(seeds=sorted(runs.series), steps=max(p.step for p in last),
                   val_loss=intervals.mean_interval(p.val_loss for p in last),
                   official_step=official and official["step"],
                   crossing_step=mean_crossing(runs.on_grid, target),
                   crossing_seconds=mean_crossing(by_seconds(runs.on_grid), target) if timed else None,
                   tokens_per_second=intervals.mean_interval(rates)["mean"] if timed else None)
        if runs is not first:
            row["difference"] = intervals.compare(*(
                {seed: points[-1].val_loss for seed, points in g.series.items()} for g in (runs, first)))
            row["crossing_difference"] = _crossing_difference(runs, first, target)
        rows[runs.name] = row
    return dict(track=track_name(track), target=target, reference=first.name,
                no_time=comparison.no_time, warnings=_warnings(comparison, rows), recipes=rows)


def _warnings(comparison: Comparison, rows: dict) -> list[str]:
    found, steps = [], sorted({row["steps"] for row in rows.values()})
    if len(steps) > 1:
        found.append(f"The runs end after different numbers of steps, {', '.join(map(str, steps))}: their "
                     "final losses do not compare optimizers alone.")
    codes = set().union(*(runs.codes for runs in comparison.recipes))
    if len(codes) > 1:
        found.append(f"The logs hold {len(codes)} versions of the code; a difference may be theirs.")
    return found


def _crossing_difference(runs: RecipeRuns, first: RecipeRuns, target: float | None) -> dict | None:
    steps = [{seed: step for seed, points in g.on_grid.items()
              if (step := crossing_step(points, target)) is not None} for g in (runs, first)]
    if any(len(of) < len(g.series) for of, g in zip(steps, (runs, first))):
        return None  # to leave out the seeds that never cross would flatter
    return intervals.compare(*steps)
