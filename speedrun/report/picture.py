"""The curves of a comparison as one PNG."""
import warnings
from pathlib import Path

from . import curves
from .charts import whole_frame, zoom_frame
from .comparison import Comparison
from .style import LIGHT

DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)))


def draw(comparison: Comparison, path: Path) -> None:
    """Loss by step, near the target, and by seconds where these compare: means with the seeds' band."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    series, target = [runs.series for runs in comparison.recipes], comparison.track["target"]
    by_step = [curves.loss_by_step(of) for of in series]
    x, y, crosses = zoom_frame(comparison, by_step)
    near = "at the target" if crosses else "the last third"
    panels = [("step", by_step, dict(ylim=whole_frame(by_step, target), title="by step")),
              ("step", by_step, dict(xlim=x, ylim=y, title=near))]
    if comparison.no_time is None:
        timed = [curves.loss_by_seconds(of) for of in series]
        panels.append(("seconds", timed, dict(ylim=whole_frame(timed, target), title="by seconds")))
    # a recipe may be named "$x": text, no formula; and a glyph that the font lacks is no one's concern
    with plt.rc_context({"text.parse_math": False}), warnings.catch_warnings(action="ignore"):
        size = (4.5 * len(panels), 3.8)
        figure, all_axes = plt.subplots(1, len(panels), figsize=size, layout="constrained")
        for axes, (x_label, found, frame) in zip(all_axes, panels):
            for i, curve in enumerate(found):
                style = dict(color=LIGHT[i % 6], ls=DASHES[(i + i // 6) % 6], lw=2)
                axes.plot(*zip(*curve.points), **style)
                if curve.band:
                    axes.fill(*zip(*curve.band), color=LIGHT[i % 6], alpha=0.25, lw=0)
            if target is not None:
                axes.axhline(target, color="0.4", lw=1, ls=(0, (2, 2)))
            axes.set(xlabel=x_label, ylabel="validation loss (nats)", **frame)
            axes.grid(alpha=0.25)
        names = [f"{runs.name} (n = {len(runs.series)})" for runs in comparison.recipes]
        figure.legend(all_axes[0].lines[:len(names)], names, loc="outside lower center", frameon=False,
                      ncols=max(1, 120 // (8 + max(map(len, names)))))
        figure.savefig(path, dpi=150)
        plt.close(figure)
