#!/usr/bin/env python3
"""Compare the recipes of record logs: a table, a picture and one HTML page that needs nothing but itself.

Logs of one track are grouped by recipe; recipes are compared with the first log's, paired by seed where
both have it. The page holds loss by step and by seconds, the target near by, steps and seconds to it with
their intervals, leverage and dead neurons where the logs have them, hyperparameters, machines and code.
"""
import json
import re
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speedrun.cli import need

need("numpy", "scipy", "matplotlib")

from speedrun.cli import Parser, Refusal, command, print_json
from speedrun.report import curves
from speedrun.report.charts import whole_frame, zoom_frame
from speedrun.report.comparison import Comparison, figures, read_comparison
from speedrun.report.page import page
from speedrun.report.style import LIGHT

EXAMPLE = """example:
  python scripts/report.py records/laptop/*_muon records/laptop/*_aurora --out /tmp/report
"""
DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)))


def cell(text: str) -> str:
    """A text in a Markdown table: as it is where it is plain, else as code, which stays as it is."""
    if re.fullmatch(r"[\w .,+=#()%'-]+", text, re.ASCII):
        return text
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`"


def table(found: dict) -> str:
    """The comparison as Markdown, the lowest loss first; intervals are 95 %. Warnings stand below it."""
    columns = figures(found)
    rows = [(row["val_loss"]["mean"], [name, *texts]) for (name, row), *texts in
            zip(found["recipes"].items(), *columns.values())]
    lines = [["recipe", *columns], *(cells for _, cells in sorted(rows))]
    text = [f"| {' | '.join(map(cell, cells))} |" for cells in lines]
    text += [""] * bool(found["warnings"]) + found["warnings"]
    return "\n".join([text[0], "|---" * len(lines[0]) + "|", *text[1:]]) + "\n"


def picture(comparison: Comparison, path: Path) -> None:
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


@command
def main(argv: list[str]) -> int:
    """Write table.md, summary.json, loss.png and report.html into --out; the exit code."""
    parser = Parser(prog="report.py", description=__doc__, epilog=EXAMPLE)
    parser.add_argument("logs", type=Path, nargs="+", metavar="LOG",
                        help="a log or a record folder; the first one's recipe is the reference")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder")
    parser.add_argument("--json", action="store_true", help="print summary.json instead of the table")
    args = parser.parse_args(argv)
    if args.out.exists() and not args.out.is_dir():
        raise Refusal(f"--out {args.out} is a file; name a folder", code=2)
    comparison = read_comparison(args.logs)
    found = comparison.found
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "summary.json").write_text(json.dumps(found, indent=1) + "\n")
    (args.out / "table.md").write_text(table(found), encoding="utf-8")
    (args.out / "report.html").write_text(page(comparison), encoding="utf-8")
    picture(comparison, args.out / "loss.png")
    if args.json:
        print_json(found)
    else:
        print(f"{table(found)}\nwritten: {args.out / 'report.html'}, loss.png, table.md and summary.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
