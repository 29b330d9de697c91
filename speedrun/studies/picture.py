"""The picture of a study, one kind for each question: losses, growth, death, ranks. Colours and markers both
tell lines apart (Okabe and Ito's palette); every interval is of 95 %, a band that of the seeds."""
import hashlib
import json
import warnings
from pathlib import Path
from statistics import median

from speedrun.report.picture import DASHES
from speedrun.report.style import LIGHT
from speedrun.report.svg import frame
from speedrun.stats import words

from .figures import UNITS
from .study import Study

MARKERS = ("o", "s", "^", "D", "v", "P")
TITLES = {"leverage_dead": "units with leverage below\n1 % of uniform (% of the layer)",
          "activation_dead": "units with activation below\n1 % of the median (% of the layer)"}
KEY = "Figures"  # in the file's metadata: what it was drawn from


def mark(study: Study, found: dict) -> str:
    """A digest of all that is drawn, to six digits: the last ones differ between machines."""
    def rounded(value):
        if isinstance(value, dict):
            return {str(key): rounded(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [rounded(inner) for inner in value]
        return f"{value:.6g}" if isinstance(value, float) else value
    drawn = rounded([found["cells"], found.get("ranks"), study.picture, study.axis, study.over,
                     [[cell.label, cell.x, cell.line] for cell in study.cells]])
    return hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()


def is_of(path: Path, study: Study, found: dict) -> bool:
    """Whether the picture at `path` was drawn from these figures."""
    return path.exists() and mark(study, found).encode() in path.read_bytes()


def draw(study: Study, found: dict, path: Path) -> None:
    """Write the picture as PNG; nothing where no cell is whole."""
    if not any("val_loss" in row for row in found["cells"].values()):
        path.unlink(missing_ok=True)
        return
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    with plt.rc_context({"text.parse_math": False}), warnings.catch_warnings(action="ignore"):
        kinds = dict(losses=_losses, growth=_growth, death=_death, ranks=_ranks)
        figure = kinds[study.picture](plt, study, found)
        figure.savefig(path, dpi=150, metadata={KEY: mark(study, found)})
        plt.close(figure)


def _ends(row: dict) -> list[list[float]]:
    """matplotlib's error bar of a mean with its interval; nothing where there is none."""
    if row["low"] is None:
        return [[0], [0]]
    return [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]


def _whole(study: Study, found: dict) -> list:
    return [(cell, row) for cell in study.cells if "val_loss" in (row := found["cells"][cell.label])]


def _losses(plt, study: Study, found: dict):
    """Left the loss of every seed and the mean, right the paired difference from the baseline."""
    rows = sorted(_whole(study, found), key=lambda pair: -pair[1]["val_loss"]["mean"])
    paired = any("difference" in row for _, row in rows)
    size = (4.6 * (1 + paired), 1.3 + 0.32 * len(rows))
    figure, axes = plt.subplots(1, 1 + paired, figsize=size, layout="constrained", sharey=True,
                                squeeze=False)
    left, right = axes[0][0], axes[0][-1]
    _bars(left, [row["val_loss"] for _, row in rows], "o", LIGHT[0])
    for i, (_, row) in enumerate(rows):
        left.plot(list(row["losses"].values()), [i] * len(row["losses"]), "|", color=LIGHT[5], ms=9)
    left.set(xlabel="final validation loss (nats): mean, 95 %, seeds", yticks=range(len(rows)),
             yticklabels=[cell.label for cell, _ in rows], ylim=(-0.6, len(rows) - 0.4))
    if paired:
        names = [row["baseline"] for _, row in rows if "difference" in row]
        names = sorted(set(names), key=lambda name: (-names.count(name), name))
        _bars(right, [row.get("difference") for _, row in rows], "s", LIGHT[1],
              [row.get("baseline") not in names[:1] for _, row in rows], signed=True)
        right.axvline(0, color="0.4", lw=1, ls=(0, (2, 2)))
        text = " or ".join([names[0], *(f"{name} (open)" for name in names[1:])])
        right.set(xlabel=f"loss minus that of {text}\n(nats, paired by seed, 95 %)")
    for ax in axes[0]:
        ax.grid(alpha=0.25)
    return figure


def _bars(ax, found: list, marker: str, colour: str, hollow=None, signed=False) -> None:
    """Means with their intervals, a line each; `hollow`: which are open; `signed`: differences, whose frame
    holds zero. What lies so far above the rest that it would press them together is written as text."""
    means = [row["mean"] for row in found if row]
    halves = [row["high"] - row["mean"] for row in found if row and row["high"] is not None]
    most = min(means) + 8 * max(median(means) - min(means), median(halves or [0]))
    inside = [row for row in found if row and row["mean"] <= most] or [row for row in found if row]
    for i, row in enumerate(found):
        if row in inside:
            fill = "white" if hollow and hollow[i] else colour
            ax.errorbar(row["mean"], i, xerr=_ends(row), fmt=marker, color=colour, mfc=fill, capsize=3)
        elif row:
            text = words.interval(row, "+.4f" if signed else ".4f")
            ax.annotate(f"{text} \u2192", (0.99, i), xycoords=("axes fraction", "data"), ha="right",
                        va="center", color=colour, fontsize=8, bbox=dict(fc="white", ec="none", pad=1))
    ends = [row[end] if row[end] is not None else row["mean"] for row in inside for end in ("low", "high")]
    ax.set_xlim(*frame([*ends, *[0] * signed], 0.12))
    ax.locator_params(axis="x", nbins=5)  # more labels than that meet each other


def _growth(plt, study: Study, found: dict):
    """The gain over the baseline (its loss minus the cell's) by the cell's x, a line for each `line`."""
    figure, axes = plt.subplots(figsize=(5.6, 4), layout="constrained")
    rows = [(cell, row) for cell, row in _whole(study, found) if "difference" in row and cell.line]
    names = list(dict.fromkeys(cell.line for cell, _ in rows))
    for k, name in enumerate(names):
        points = sorted(((cell.x, row["difference"]) for cell, row in rows if cell.line == name),
                        key=lambda point: point[0])
        shift = 1 + 0.02 * (k - (len(names) - 1) / 2)  # apart, so that no interval hides another
        x, gains = [x * shift for x, _ in points], [-found["mean"] for _, found in points]
        ends = [[end[0] for end in side] for side in zip(*(_ends(found)[::-1] for _, found in points))]
        axes.errorbar(x, gains, yerr=ends, label=name, color=LIGHT[k % 6], marker=MARKERS[k % 6],
                      ls=DASHES[k % 6], capsize=3)
    ticks = sorted({cell.x for cell, _ in rows})
    axes.axhline(0, color="0.4", lw=1, ls=(0, (2, 2)))
    over = f" over {study.over}" if study.over else ""
    axes.set(xscale="log", xlabel=study.axis, ylabel=f"gain in final loss{over}\n(nats, paired, 95 %)")
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.set_xticks([], minor=True)
    if ticks:
        axes.set_xlim(ticks[0] / 1.3, ticks[-1] * 1.3)
    axes.grid(alpha=0.25)
    if rows:
        axes.legend(frameon=False)
    return figure


def _death(plt, study: Study, found: dict):
    """Dead units by step, a row of panels for each kind of death and a panel for each layer: the mean over
    seeds, with a band from the lowest seed to the highest."""
    rows = [(cell, row["diagnostics"]) for cell, row in _whole(study, found) if row.get("diagnostics")]
    layers = max((len(of["mean"]) for _, dead in rows for of in dead[UNITS[1]].values()), default=1)
    figure, axes = plt.subplots(2, layers, figsize=(2.4 * layers + 1, 5.2), layout="constrained",
                                sharex=True, sharey="row", squeeze=False)
    for panels, metric in zip(axes, UNITS):
        for layer, ax in enumerate(panels):
            for k, (cell, dead) in enumerate(rows):
                points = [(step, *(100 * of[what][layer] for what in ("mean", "low", "high")))
                          for step, of in dead[metric].items() if layer < len(of["mean"])]
                if points:
                    steps, mean, low, high = zip(*points)
                    ax.plot(steps, mean, label=cell.label, color=LIGHT[k % 6], ls=DASHES[k % 6],
                            marker=MARKERS[k % 6], ms=3, lw=1.5)
                    ax.fill_between(steps, low, high, color=LIGHT[k % 6], alpha=0.2, lw=0)
            ax.set_title(f"layer {layer}", fontsize=9)
            ax.grid(alpha=0.25)
        panels[0].set_ylabel(TITLES[metric], fontsize=8)
    for ax in axes[-1]:
        ax.set_xlabel("step")
    handles, names = axes[-1][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=max(1, len(names)), frameon=False,
                  title="line: mean of the seeds; band: from the lowest seed to the highest")
    return figure


def _ranks(plt, study: Study, found: dict):
    """The final loss here, in order of the public number of the same recipe."""
    rows = sorted(((cell, row) for cell, row in _whole(study, found) if cell.x is not None),
                  key=lambda pair: -pair[0].x)
    figure, axes = plt.subplots(figsize=(6.4, 1.4 + 0.32 * len(rows)), layout="constrained")
    _bars(axes, [row["val_loss"] for _, row in rows], "o", LIGHT[0])
    if ranks := found["ranks"]:
        ends = words.ends(ranks["low"], ranks["high"], ".2f")
        axes.set_title(f"rank correlation {ranks['mean']:.2f} ({ends}, n = {ranks['n']})", fontsize=10)
    axes.set(xlabel=f"final loss on {study.track} (nats): mean, 95 %", ylabel=f"in order of {study.axis}",
             yticks=range(len(rows)), yticklabels=[f"{cell.label} ({cell.x:,g})" for cell, _ in rows],
             ylim=(-0.6, len(rows) - 0.4))
    axes.grid(alpha=0.25)
    return figure
