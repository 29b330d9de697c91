#!/usr/bin/env python3
"""Compare the recipes of record logs: a table, paired differences with their intervals, and a picture.

Logs of one track are grouped by recipe; recipes are compared with the first log's, on the seeds both have.
"""
import json
import math
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from records.cli import Parser, Refusal, command, print_json  # noqa: E402
from records.evidence import mean_crossing, mean_interval, paired  # noqa: E402
from records.log import Log, read_log  # noqa: E402

EXAMPLE = """example:
  python scripts/report.py records/laptop/*/*.xz --out /tmp/report
"""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito, for every eye
DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)))


def read_groups(paths: list[Path]) -> tuple[dict, dict[str, dict]]:
    """The track, and by recipe the validations of every seed. Refusal for a log that is not whole."""
    track, data, groups = None, None, {}
    for path in paths:
        log: Log = read_log(path)
        if log.problems or log.status != "complete":
            line, what = (log.problems or [(0, f"the run is {log.status}")])[0]
            raise Refusal(f"{path}:{line}: {what}; only whole, complete logs are reported")
        if track is not None and (log.header["track"], log.header["data"]) != (track, data):
            raise Refusal(f"{path} is of another track or of other data than the logs before it; report "
                          "logs that share both")
        track, data = log.header["track"], log.header["data"]
        group = groups.setdefault(log.header["recipe"]["name"], {})
        for seed, points in log.series.items():
            if seed in group:
                raise Refusal(f"{path}: seed {seed} of this recipe is in a log before it; name each once")
            if not math.isfinite(points[-1].val_loss):
                raise Refusal(f"{path}:{points[-1].line}: seed {seed} ends with the loss "
                              f"{points[-1].val_loss}; there is nothing to compare")
            group[seed] = points
    return track, groups


def compare(track: dict, groups: dict[str, dict]) -> dict:
    """Per recipe: final loss, crossing step, tokens/s; and its paired differences from the first recipe."""
    found, first = {}, next(iter(groups))
    for name, seeds in groups.items():
        rates = [p[-1].step * track["tokens_per_step"] / max(p[-1].train_time, 1e-9) for p in seeds.values()]
        row = dict(seeds=sorted(seeds), steps=max(p[-1].step for p in seeds.values()),
                   val_loss=mean_interval(p[-1].val_loss for p in seeds.values()),
                   tokens_per_second=mean_interval(rates)["mean"],
                   crossing_step=mean_crossing(seeds, track["target"]))
        both = sorted(set(seeds) & set(groups[first]))
        if name != first and both:
            row["difference"] = paired(*([group[seed][-1].val_loss for seed in both]
                                         for group in (seeds, groups[first])))
        found[name] = row
    return dict(track=track["name"], target=track["target"], reference=first, recipes=found)


def with_interval(found: dict | None, form: str) -> str:
    """"mean (low to high)", without the interval where there is none, "" where there is no mean either."""
    if found is None or found["mean"] is None:
        return ""
    ends = "" if found["low"] is None else f" ({found['low']:{form}} to {found['high']:{form}})"
    return f"{found['mean']:{form}}{ends}"


def table(found: dict) -> str:
    """The comparison as Markdown."""
    first = found["reference"]
    lines = ["| recipe | seeds | final loss (sd) | mean crossing step (95 %) | "
             f"loss minus {first}'s, paired (95 %) |", "|---|---|---|---|---|"]
    for name, row in sorted(found["recipes"].items(), key=lambda item: item[1]["val_loss"]["mean"]):
        loss, n = row["val_loss"], len(row["seeds"])
        spread = "" if loss["sd"] is None else f" ({loss['sd']:.4f})"
        step, crossed = with_interval(row["crossing_step"], ".0f"), row["crossing_step"]["crossed"]
        if crossed < n:
            step += f"{', ' * bool(step)}{crossed} of {n} seeds cross"
        gap = with_interval(row.get("difference"), "+.4f") or "-"
        lines.append(f"| {name} | {n} | {loss['mean']:.4f}{spread} | {step} | {gap} |")
    return "\n".join(lines) + "\n"


def picture(track: dict, groups: dict, path: Path) -> None:
    """Loss by step: each seed a thin line, the mean a thick one; all of the run, and its last third."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    figure, (whole, end) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    last = max(p[-1].step for seeds in groups.values() for p in seeds.values())
    tops = []
    for i, (name, seeds) in enumerate(groups.items()):
        colour, dash = COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]
        steps = [p.step for p in next(iter(seeds.values()))]
        mean = [sum(p[k].val_loss for p in seeds.values()) / len(seeds) for k in range(len(steps))]
        tops += [loss for step, loss in zip(steps, mean) if step >= 2 * last / 3]
        for axes in (whole, end):
            for points in seeds.values():
                losses = [p.val_loss for p in points]
                axes.plot([p.step for p in points], losses, color=colour, alpha=0.3, lw=0.7)
            axes.plot(steps, mean, color=colour, ls=dash, lw=2, label=f"{name} (n = {len(seeds)})")
    for axes in (whole, end):
        if track["target"]:
            axes.axhline(track["target"], color="0.4", lw=1, ls=(0, (2, 2)))
        axes.set(xlabel="step", ylabel="validation loss (nats)")
        axes.grid(alpha=0.25)
    margin = 0.05 * (max(tops) - min(tops)) or 0.01
    end.set(xlim=(2 * last / 3, last), ylim=(min(tops) - margin, max(tops) + margin), title="the last third")
    if track["target"]:
        end.annotate(f"target {track['target']}", (last, track["target"]), xytext=(-4, 4), ha="right",
                     textcoords="offset points", color="0.3", fontsize=9)
    whole.set(title=f"track {track['name']}, {track['tokens_per_step']:,} tokens a step")
    whole.legend(frameon=False)
    figure.savefig(path, dpi=150)


@command
def main(argv: list[str]) -> int:
    """Write table.md, summary.json and loss.png into --out; the exit code."""
    parser = Parser(prog="report.py", description=__doc__.split("\n")[0], epilog=EXAMPLE)
    parser.add_argument("logs", type=Path, nargs="+", help="the first one's recipe is the reference")
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--json", action="store_true", help="print summary.json instead of the table")
    args = parser.parse_args(argv)
    if args.out.exists() and not args.out.is_dir():
        raise Refusal(f"--out {args.out} is a file; name a folder", code=2)
    track, groups = read_groups(args.logs)
    found = compare(track, groups)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "summary.json").write_text(json.dumps(found, indent=1) + "\n")
    (args.out / "table.md").write_text(table(found))
    picture(track, groups, args.out / "loss.png")
    print_json(found) if args.json else print(table(found), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
