"""The charts of a report's page: which curves, in which frame, with what words."""
from xml.etree.ElementTree import Element

from speedrun.stats import words

from . import curves
from .comparison import Comparison
from .curves import Curve
from .markup import element
from .svg import Line, chart, frame, sample

LOSS = "validation loss (nats)"


def labels(comparison: Comparison) -> list[str]:
    """What the lines' ends are called: the names where all are short, else letters."""
    names = [runs.name for runs in comparison.recipes]
    return names if max(map(len, names)) <= 9 else [chr(65 + i) for i in range(len(names))]


def legend(comparison: Comparison) -> Element:
    """The lines' styles, with their letters where the lines' ends have these."""
    items = []
    for i, (runs, label) in enumerate(zip(comparison.recipes, labels(comparison))):
        n = len(runs.series)
        name = runs.name if label == runs.name else f"{label}: {runs.name}"
        items.append(element("li", sample(i), f"{name} ({words.count(n, 'seed')})"))
    return element("ul", *items, class_="legend")


def _lines(comparison: Comparison, found: list[Curve | None], seeds=None, marks=None) -> list[Line]:
    return [Line(i, runs.name, label, curve, seeds[i] if seeds else [], marks[i] if marks else None)
            for i, (runs, label, curve) in enumerate(zip(comparison.recipes, labels(comparison), found))
            if curve is not None]


def _figure(name: str, title: str, lines: list[Line], axes: tuple, x: tuple, y: tuple, caption: str,
            level=None) -> Element:
    said = [f"{line.name} goes from {line.curve.points[0][1]:.5g} to {line.curve.points[-1][1]:.5g}"
            for line in lines]
    description = f"{title}. {axes[1]} by {axes[0]}: {'; '.join(said)}."
    return element("figure", element("h3", title), chart(name, description, lines, axes, x, y, level),
                   element("figcaption", caption))


def _level(target: float | None) -> tuple[float, str] | None:
    return None if target is None else (target, f"target {target:g}")


def _values(found: list[Curve], start: float = 0.0) -> list[float]:
    """The losses that curves and bands have from x = start on."""
    return [y for curve in found for x, y in (*curve.points, *curve.band) if x >= start]


def whole_frame(found: list[Curve], target: float | None) -> tuple[float, float]:
    """The losses from the second validation on, and the target below them: the first loss, of a model that
    knows nothing, would flatten the rest."""
    later = [curve.points[min(1, len(curve.points) - 1)][0] for curve in found]
    values = _values(found, min(later))
    low, high = frame(values)
    return (low if target is None else min(low, target - 0.06 * (high - low)), high)


def zoom_frame(comparison: Comparison, found: list[Curve]) -> tuple[tuple, tuple, bool]:
    """Steps and losses from a little before the first recipe crosses the target, and True; those of the
    last third, and False, where none does."""
    last = max(curve.points[-1][0] for curve in found)
    means = [row["crossing_step"]["mean"] for row in comparison.found["recipes"].values()]
    found = [curve for curve, mean in zip(found, means) if mean is not None] or found  # others lie far above
    first = min((mean for mean in means if mean is not None and mean < last), default=None)
    start = 2 * last / 3 if first is None else max(0.0, first - max((last - first) / 2, last / 20))
    values = (_values(found, start) or _values(found)) + [comparison.track["target"]] * (first is not None)
    return (start, last) if last > start else frame([last]), frame(values), first is not None


def loss_figures(comparison: Comparison) -> list[Element]:
    """Loss by step, near the target or at the end, by seconds, and its difference from the reference."""
    series, target = [runs.series for runs in comparison.recipes], comparison.track["target"]
    found = [curves.loss_by_step(of) for of in series]
    band = "Line: mean of the seeds; band: lowest to highest seed. "
    whole = whole_frame(found, target)
    last = max(curve.points[-1][0] for curve in found)
    figures = [_figure("steps", "Loss by step", _lines(comparison, found), ("step", LOSS), (0, last or 1),
                       whole, band + _above(found, whole), _level(target)), _zoom(comparison, found)]
    if comparison.no_time is None:
        timed = [curves.loss_by_seconds(of) for of in series]
        end = max(x for curve in timed for x, _ in (*curve.points, *curve.band))
        caption = ("Line: mean of the seeds; band: fastest to slowest seed. Seconds also show what else "
                   "the machine did.")
        figures.append(_figure("seconds", "Loss by seconds", _lines(comparison, timed),
                               ("seconds of the training clock", LOSS), (0, end or 1),
                               whole_frame(timed, target), caption, _level(target)))
    return figures + _differences(comparison)


def _above(found: list[Curve], y: tuple[float, float]) -> str:
    """Which first validations the frame leaves out, in words."""
    starts = [curve.points[0][1] for curve in found if curve.points[0][1] > y[1]]
    ends = dict.fromkeys(f"{end(starts):.2f}" for end in (min, max)) if starts else {}
    return f"The first validation, at {' to '.join(ends)}, is above the frame." if ends else ""


def _zoom(comparison: Comparison, found: list[Curve]) -> Element:
    target = comparison.track["target"]
    crossings = [row["crossing_step"] for row in comparison.found["recipes"].values()]
    marks = [None if row["mean"] is None else row for row in crossings]
    seeds = [curves.seed_lines(runs.series) for runs in comparison.recipes]
    x, y, crosses = zoom_frame(comparison, found)
    caption = "Thin lines: single seeds. "
    if crosses:
        caption += "On the target: each recipe's mean crossing step; its bar is its 95 % interval."
    elif target is not None:
        caption += "No recipe has a mean crossing step before its end."
    return _figure("zoom", "At the target" if crosses else "The last third",
                   _lines(comparison, found, seeds, marks), ("step", LOSS), x, y, caption, _level(target))


def _differences(comparison: Comparison) -> list[Element]:
    """Loss minus the reference's, where a recipe shares seeds with it."""
    first = comparison.recipes[0]
    found = [None] + [curves.difference(runs.series, first.series) for runs in comparison.recipes[1:]]
    seen = [curve for curve in found if curve is not None]
    if not seen:
        return []
    last = max(curve.points[-1][0] for curve in seen)
    return [_figure("difference", f"Loss minus that of {first.name}", _lines(comparison, found),
                    ("step", "difference (nats)"), (0, last or 1), frame([0.0, *_values(seen)]),
                    "Paired: over the seeds that both have. Line: mean; band: its 95 % interval.",
                    (0.0, f"{labels(comparison)[0]} = 0"))]


########################################
#              Diagnostics             #
########################################


def neuron_figures(comparison: Comparison, found: list[dict]) -> list[Element]:
    """Leverage, row spread and dead units by step; `found` holds `curves.diagnostics` of each recipe."""
    def of(metric):
        return lambda data: curves.of_matrices(data, curves.MLP_INPUT, metric)

    band = "Mean over layers and seeds; band: lowest to highest seed."
    figures = []
    for name, title, y_label, layers, scale, what in (
            ("spread", "Leverage spread", "sd / mean of the scores", of("leverage_spread"), 1,
             "Of the momentum of the MLP's input matrices; 0: every neuron counts alike. "),
            ("rows", "Row spread of the update", "sd / mean of the row norms", of("row_spread"), 1,
             "Of the update of the same matrices; 0: every neuron moves alike. "),
            ("dead", "Dead by leverage", "% of neurons", of("leverage_dead"), 100,
             "Leverage under 1 % of the uniform share (arXiv 2606.27715, 4.1). "),
            ("silent", "Dead by activation", "% of hidden units", curves.of_activations, 100,
             "Activation RMS under 1 % of its layer's median. ")):
        lines = _lines(comparison, [curves.by_step(steps, layers, scale) for steps in found])
        if lines:
            values = _values([line.curve for line in lines])
            x = max(line.curve.points[-1][0] for line in lines)
            y = (min(0.0, *values), frame([0.0, *values])[1]) if any(values) else (0.0, 1.0)
            figures.append(_figure(name, title, lines, ("step", y_label), (0, x or 1), y, what + band))
    return figures
