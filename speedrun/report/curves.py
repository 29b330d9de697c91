"""The curves of a report's pictures: pure functions from validations and diagnostics to points."""
import math
from dataclasses import dataclass

from speedrun.log.format import Log
from speedrun.stats import intervals, rule

MOST_POINTS = 400  # of a curve: more than a picture shows
# of each matrix in a log's diagnostics: those of optimizers/diagnostics.py, which needs torch
METRICS = ("leverage_dead", "leverage_spread", "row_spread", "orthogonality", "alignment", "update_ratio")
MLP_INPUT = ("blocks.mlp.fc", "blocks.mlp.gate", "blocks.mlp.up")  # the tall matrices that Aurora evens out


@dataclass(frozen=True)
class Curve:
    """(x, y) in order of x, and the outline of a band around them, [] where there is none."""

    points: list[tuple[float, float]]
    band: list[tuple[float, float]]

    @classmethod
    def between(cls, points: list, low: list, high: list) -> "Curve":
        """With the band from `low` to `high`, both lists of (x, y)."""
        return cls(points, [*low, *reversed(high)] if low != high else [])


def thin(items: list, most: int = MOST_POINTS) -> list:
    """At most `most` of the items, evenly chosen, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _by_seed(series: dict) -> tuple[list[int], list[dict]]:
    """The steps that all seeds validate, and for each seed step -> validation."""
    return thin(rule.common_steps(series)), [{p.step: p for p in points} for points in series.values()]


def loss_by_step(series: dict) -> Curve:
    """The mean loss; the band goes from the lowest seed to the highest."""
    steps, seeds = _by_seed(series)
    losses = [[seed[step].val_loss for seed in seeds] for step in steps]
    return Curve.between([(step, sum(row) / len(row)) for step, row in zip(steps, losses)],
                         [(step, min(row)) for step, row in zip(steps, losses)],
                         [(step, max(row)) for step, row in zip(steps, losses)])


def loss_by_seconds(series: dict) -> Curve:
    """The mean loss of each step at its mean time; the band goes from the fastest seed to the slowest."""
    steps, seeds = _by_seed(series)
    points, fast, slow = [], [], []
    for step in steps:
        times = [seed[step].train_time for seed in seeds]
        loss = sum(seed[step].val_loss for seed in seeds) / len(seeds)
        points.append((sum(times) / len(times), loss))
        fast.append((min(times), loss))
        slow.append((max(times), loss))
    return Curve.between(points, fast, slow)


def seed_lines(series: dict, most: int = 40) -> list[list[tuple[float, float]]]:
    """Loss by step of each of the first seeds."""
    return [thin([(p.step, p.val_loss) for p in points]) for points in list(series.values())[:most]]


def difference(a: dict, b: dict) -> Curve | None:
    """The mean of a - b over the seeds that both have, with its 95 % interval; None without such a seed."""
    both = [seed for seed in a if seed in b]
    steps = sorted(set(rule.common_steps({seed: a[seed] for seed in both}))
                   & set(rule.common_steps({seed: b[seed] for seed in both}))) if both else []
    points, low, high = [], [], []
    losses = [[{p.step: p.val_loss for p in series[seed]} for series in (a, b)] for seed in both]
    for step in thin(steps):
        found = intervals.mean_interval(of_a[step] - of_b[step] for of_a, of_b in losses)
        ends = (found["mean"], found["mean"]) if found["low"] is None else (found["low"], found["high"])
        points.append((step, found["mean"]))
        low.append((step, ends[0]))
        high.append((step, ends[1]))
    return Curve.between(points, low, high) if points else None


########################################
#              Diagnostics             #
########################################


def diagnostics(logs: list[Log]) -> dict:
    """step -> seed -> the `diagnostics` event (optimizers/diagnostics.py); {} for logs without."""
    found: dict = {}
    for log in logs:
        for _, data in log.of_kind("diagnostics"):
            step, seed = data.get("step"), data.get("seed")
            if type(step) is type(seed) is int and step >= 0:
                found.setdefault(step, {})[seed] = data
    return dict(sorted(found.items()))


def _numbers(value) -> list[float]:
    return [v for v in value if type(v) in (int, float) and abs(v) < 1e9] if isinstance(value, list) else []


def of_matrices(data: dict, kinds, metric: str) -> list[float]:
    """`metric` of every layer of these kinds of matrix, in one event.

    A matrix without momentum yet (or whose optimizer keeps none) has no leverage at all, which reads as
    "all dead": such layers are left out.
    """
    found = []
    for kind in kinds:
        of = data.get(kind)
        if isinstance(of, dict):
            dead, values = _numbers(of.get("leverage_dead")), _numbers(of.get(metric))
            found += [v for v, share in zip(values, dead) if share < 1]
    return found


def of_activations(data: dict) -> list[float]:
    """The share of dead hidden units of every layer, in one event."""
    return _numbers(data.get("activation_dead"))


def by_step(found: dict, layers, scale: float = 1.0) -> Curve | None:
    """The mean over seeds of the mean over `layers(event)`, times `scale`; the band goes from the lowest
    seed to the highest. None where no event has a value."""
    rows = []
    for step in thin(list(found)):
        means = [scale * math.fsum(values) / len(values) for data in found[step].values()
                 if (values := layers(data))]
        if means:
            rows.append((step, means))
    if not rows:
        return None
    return Curve.between([(step, sum(means) / len(means)) for step, means in rows],
                         [(step, min(means)) for step, means in rows],
                         [(step, max(means)) for step, means in rows])
