"""What the logs of a study show, as plain JSON: the statistics are those of speedrun.stats."""
import numpy as np

from speedrun.cli import Refusal
from speedrun.log.format import Log
from speedrun.log.reader import read_log
from speedrun.report import curves
from speedrun.report.comparison import no_time, span
from speedrun.report.runs import read_runs
from speedrun.stats import intervals, rule
from speedrun.stats.crossing import mean_crossing
from speedrun.stats.intervals import rank_correlation

from .study import Contrast, Study

UNITS = ("leverage_dead", "activation_dead")         # shares of hidden units that are dead
METRICS = (*UNITS, "row_spread", "orthogonality")    # the latter of the update, see diagnostics.py
UP = ("blocks.mlp.fc", "blocks.mlp.gate", "blocks.mlp.up")  # the matrices whose rows are hidden units


def figures(study: Study) -> dict:
    """name, question, track, seeds, target, no_time, code_versions (how many there are in the logs), cost,
    `cells`: label -> figures, `contrasts`: label -> difference in final loss; where the picture is of death
    `dead`: metric -> label -> difference in the share of units dead at the end; where it is of ranks `ranks`
    and `ranges`, a list: their correlation in all, and within each of the study's ranges of x.

    A cell without every one of its seeds has only `done`, how many `of` them are, and `diverged`, where
    some did: a mean over those that happen to be there is not what the study asks. Differences are over the
    seeds that all of their cells have. Refusal for logs that are not whole or of other data.
    """
    logs = {cell.label: [read_log(path) for path in study.logs(cell)] for cell in study.cells}
    series = _series(study)
    whole = {cell.label: series[cell.label] for cell in study.cells
             if len(series[cell.label]) == len(cell.seeds)}
    why = no_time([log for label in whole for log in logs[label]])
    if why is None and any(cell.logs is not None for cell in study.cells):
        why = "some runs were made at another time"
    last = {label: {seed: points[-1].val_loss for seed, points in runs.items()}
            for label, runs in whole.items()}
    target = max((log.header["track"]["target"] for of in logs.values() for log in of
                  if log.header["track"]["target"] is not None), default=None)
    cells = {}
    for cell in study.cells:
        cells[cell.label] = found = dict(done=len(series[cell.label]), of=len(cell.seeds))
        if lost := study.diverged(cell):
            found["diverged"] = len(lost)
        if cell.label in whole:
            found.update(_figures(whole[cell.label], target, why))
            found["diagnostics"] = _diagnostics(logs[cell.label], cell.seeds)
            if cell.baseline in whole and cell.baseline != cell.label:
                found.update(baseline=cell.baseline,
                             difference=intervals.compare(last[cell.label], last[cell.baseline]))
    result = dict(name=study.name, question=study.question, track=study.track, seeds=study.seeds,
                  target=target, no_time=why, cost=_cost(study, logs), cells=cells,
                  code_versions=len({log.header["sha256"]["code"] for label in whole for log in logs[label]}),
                  contrasts={of.label: _contrast(of, last) for of in study.contrasts})
    if study.picture == "death":
        dead = {cell.label: _dead_at_end(logs[cell.label], cell.seeds) for cell in study.cells
                if cell.label in whole}
        result["dead"] = {}
        for metric in UNITS:
            values = {label: of[metric] for label, of in dead.items() if metric in of}
            result["dead"][metric] = {of.label: _contrast(of, values) for of in study.contrasts}
    if study.picture == "ranks":
        pairs = [(cell.x, cells[cell.label]["val_loss"]["mean"]) for cell in study.cells
                 if cell.label in whole and cell.x]
        result["ranks"] = rank_correlation(pairs)
        result["ranges"] = [dict(rank_correlation([pair for pair in pairs if low <= pair[0] <= high]) or {},
                                 range=[low, high]) for low, high in study.ranges]
    return result


def _series(study: Study) -> dict:
    """label -> seed -> validations, of each cell's own seeds alone. Refusal for runs on other data than those
    of the first cell."""
    found, first = {}, None
    for cell in study.cells:
        if not (paths := study.logs(cell)):
            found[cell.label] = {}
            continue
        runs = read_runs(paths)
        first = first or (cell, runs)
        if not first[1].of_same_data(runs):
            raise Refusal(f"study {study.name}: the logs of {cell.label} are of other data than those of "
                          f"{first[0].label}; a study compares runs on the same shards")
        found[cell.label] = {seed: runs.series[seed] for seed in cell.seeds if seed in runs.series}
    return found


def _figures(runs: dict, target: float | None, why: str | None) -> dict:
    ends = [points[-1] for points in runs.values()]
    return dict(steps=max(p.step for p in ends), val_loss=intervals.mean_interval(p.val_loss for p in ends),
                losses={str(seed): points[-1].val_loss for seed, points in runs.items()},
                crossing_step=mean_crossing(runs, target) if _dense(runs, target) else None,
                seconds=None if why else intervals.mean_interval(p.train_time for p in ends))


def _dense(runs: dict, target: float | None) -> bool:
    """Whether there is a target, and validations so close that a crossing between them means something."""
    return target is not None and len(rule.common_steps(runs)) > 5


def _contrast(contrast: Contrast, values: dict) -> dict | None:
    """The mean of the contrast over seeds, paired, of `values`, label -> seed -> value; None where a cell has
    none."""
    if any(label not in values for label in (*contrast.of, *contrast.minus)):
        return None
    a, b = (values[label] for label in contrast.of)
    if not contrast.minus:
        return intervals.compare(a, b)
    c, d = (values[label] for label in contrast.minus)
    return intervals.compare({seed: a[seed] - b[seed] for seed in a if seed in b},
                            {seed: c[seed] - d[seed] for seed in c if seed in d})


def _cost(study: Study, logs: dict) -> dict:
    """Runs of this study's own, and their core hours (of a GPU: GPU hours), from start to end of each."""
    hours, runs, kinds = 0.0, 0, set()
    for cell in study.cells:
        for log in logs[cell.label] if cell.logs is None else ():
            started, ended = span(log)
            hardware, cpu = log.header["hardware"], log.header["hardware"]["device"] == "cpu"
            each = hardware["threads"] if cpu else log.header["world_size"]
            hours += (ended - started).total_seconds() / 3600 * each
            kinds.add("core" if cpu else "GPU")
            runs += len(log.header["seeds"])
    return dict(runs=runs, hours=round(hours, 2), unit=" and ".join(sorted(kinds)) or "core")


########################################
#             Diagnostics              #
########################################


def _diagnostics(logs: list[Log], seeds: list[int]) -> dict | None:
    """metric -> step -> mean, low and high over seeds, each [layer] -> value; None where there is none."""
    found = {metric: {} for metric in METRICS}
    for step, by_seed in curves.diagnostics(logs).items():
        events = [_layers(data) for seed, data in by_seed.items() if seed in seeds]
        for metric in METRICS:
            values = [of[metric] for of in events if metric in of]
            if len(values) == len(seeds):
                found[metric][step] = {name: over(values, axis=0).tolist() for name, over in
                                       (("mean", np.mean), ("low", np.min), ("high", np.max))}
    return found if found["activation_dead"] else None


def _dead_at_end(logs: list[Log], seeds: list[int]) -> dict:
    """metric of UNITS -> seed -> mean over layers at the last step; without those that not every seed has."""
    steps = curves.diagnostics(logs)
    events = {seed: _layers(data) for seed, data in steps[max(steps)].items()} if steps else {}
    return {metric: {seed: float(np.mean(events[seed][metric])) for seed in seeds} for metric in UNITS
            if all(metric in events.get(seed, ()) for seed in seeds)}


def _layers(data: dict) -> dict:
    """metric -> [layer] -> value of one event.

    All but activation_dead are of the matrices into the MLP, whose rows are its hidden units (SwiGLU: the
    smaller value of gate's and up's; for those dead in both, that is a bound from above). A matrix without
    momentum yet reads as all dead: then there are none of these.
    """
    found = dict(activation_dead=data["activation_dead"])
    into = [data[kind] for kind in UP if kind in data]
    if into and all(share < 1 for of in into for share in of["leverage_dead"]):
        found |= {metric: np.min([of[metric] for of in into], axis=0)
                  for metric in METRICS if metric in into[0]}
    return found


def worst(found: dict, metric: str) -> tuple[float, int] | None:
    """The largest mean over the layers of any step, and that step; None where fewer than three were measured,
    which show no course."""
    means = {step: float(np.mean(of["mean"])) for step, of in found[metric].items()}
    if len(means) < 3:
        return None
    step = max(means, key=lambda step: (means[step], -step))
    return means[step], step


def final(found: dict, metric: str) -> float | None:
    """The mean over the layers at the last step."""
    return float(np.mean(found[metric][max(found[metric])]["mean"])) if found[metric] else None
