"""What the runs of an exported script show, by the rules of modded-nanogpt's track 3 (its README)."""
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from speedrun.board import track3
from speedrun.cli import Refusal
from speedrun.log.format import Log
from speedrun.log.reader import read_log
from speedrun.stats import rule
from speedrun.text import printable

TARGET, SIGMA = track3.TARGET, rule.SIGMA
RECIPE = re.compile(r"^ *# recipe ([\w.+=-]{1,80})$", re.MULTILINE)  # in the code of an exported script


@dataclass
class Evidence:
    """The runs and what they show."""

    recipe: str
    logs: dict[str, Log]       # file name in the folder -> log
    series: dict               # seed -> validations
    official: dict             # as rule.official_step
    before: dict | None        # the same of the validation before
    row: dict | None           # of track3.json: the previous result
    against: dict | None       # rule.exchange with it

    def around(self, count: int) -> list[dict]:
        """The rule's figures at the claimed step and at `count` validations before and after it."""
        steps = rule.common_steps(self.series)
        at = steps.index(self.official["step"])
        return [figures(self.series, step) for step in steps[max(0, at - count):at + count + 1]]


def figures(series: dict, step: int) -> dict:
    """What rule.one_sample finds at `step`, with `step` and the `statistic` (3.28 - mean) sqrt(n)."""
    found = rule.one_sample(rule.losses_at(series, step).values(), TARGET, SIGMA)
    return dict(found, step=step, statistic=(TARGET - found["mean"]) * found["n"] ** 0.5)


def judge(paths: list[Path], rows: list[dict]) -> Evidence:
    """The step that these runs reach, the validation before it, and the test against the previous result.

    rows: of track3.json. Refusal where no step is reached, and as `read_runs`.
    """
    recipe, logs, series = read_runs(paths)
    steps, official = rule.common_steps(series), rule.official_step(series, TARGET, SIGMA)
    if official is None:
        mean = fmean(rule.losses_at(series, steps[-1]).values())
        raise Refusal(f"no step of these {len(series)} runs reaches the target: (3.28 - mean) sqrt(n) must "
                      f"be {rule.MARGIN}, and at the last step the mean loss is {mean:.5f}; lengthen "
                      "the recipe's steps, or declare more seeds and run all of them")
    at = steps.index(official["step"])
    row, against = previous(rows, official["step"]), None
    if row is not None:
        theirs = rule.losses_at(track3.series(row), row["step"]).values()
        ours = rule.losses_at(series, official["step"]).values()
        against = rule.exchange(ours, theirs, official["step"], row["step"])
    return Evidence(recipe, logs, series, figures(series, official["step"]),
                    figures(series, steps[at - 1]) if at else None, row, against)


def previous(rows: list[dict], step: int) -> dict | None:
    """The result nearest to a claim of `step` among those that take as many steps or more and whose logs
    bear that out; of several with the same step the one with the lowest mean loss."""
    slower = [row for row in rows if row["passes"] and row["step"] >= step]
    return min(slower, key=lambda row: (row["step"], row["mean"]), default=None)


def read_rows(path: Path) -> list[dict]:
    """The rows of track3.json, [] where there is no such file."""
    if not path.is_file():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        for row in rows:
            losses = rule.losses_at(track3.series(row), row["step"])
            if row["passes"] and not (losses and row["row"] and row["name"] and row["mean"]):
                raise ValueError("a result that passes without its losses, or without what it claims")
        return rows
    except (ValueError, KeyError, TypeError):
        raise Refusal(f"{printable(path)} is not what scripts/ingest.py writes; run it again") from None


########################################
#               The logs               #
########################################


def read_runs(paths: list[Path]) -> tuple[str, dict[str, Log], dict]:
    """The recipe, the logs by the name they are to have, and the validations of every seed.

    Refusal for a log that is not of an exported script, ends early, is of other code than the first, or has
    a loss that is not finite or a seed that is there already.
    """
    logs, series, codes = {}, {}, set()
    for path in paths:
        log, where = read_log(path), printable(path)
        recipe, seeds = _origin(log, where)
        codes.add(log.foreign["code"])
        if len(codes) > 1:
            raise Refusal(f"{where} is of other code than the logs before it; submit runs of one script")
        for seed, points in zip(seeds, log.series.values()):
            if points[-1].step != points[-1].steps:
                raise Refusal(f"{where}: seed {seed} ends at step {points[-1].step} of "
                              f"{points[-1].steps}; a test without all its seeds is of survivors, so run "
                              "that seed again")
            if bad := [point for point in points if not math.isfinite(point.val_loss)]:
                raise Refusal(f"{where}:{bad[0].line}: seed {seed} has the loss {bad[0].val_loss} at step "
                              f"{bad[0].step}; a recipe that diverges on a seed shows nothing")
            if seed in series:
                raise Refusal(f"{where}: seed {seed} is in a run before it; a seed counts once")
            series[seed] = points
        logs[file_name(log.foreign["gpu"], seeds)] = log
    return recipe, logs, series


def _origin(log: Log, where: str) -> tuple[str, list[int]]:
    """The recipe that the script of a log was exported from, and the seeds of its trials."""
    if log.problems:
        line, what = log.problems[0]
        raise Refusal(f"{where}:{line}: {what}")
    recipes = RECIPE.findall(log.sources.get("train_gpt.py", ""))
    seeds = list(log.foreign["seeds"].values()) if log.foreign else [None]
    if len(recipes) != 1 or None in seeds:
        raise Refusal(f"{where} is not a log of an exported script, which holds that script and a seed for "
                      "each trial; run what `scripts/export.py RECIPE` writes")
    return recipes[0], seeds


def file_name(gpu: str | None, seeds: list[int]) -> str:
    """`H100-80GB-HBM3_seed3.txt`, or `..._seed0-7.txt` for several trials."""
    words = re.findall(r"[A-Za-z0-9]+", (gpu or "GPU").removeprefix("NVIDIA "))
    numbers = f"{min(seeds)}-{max(seeds)}" if len(seeds) > 1 else str(seeds[0])
    return f"{'-'.join(words)[:40]}_seed{numbers}.txt"
