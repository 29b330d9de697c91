"""The folder of a submission to modded-nanogpt's track 3, drafted from the evidence of its runs."""
import time
from pathlib import Path
from statistics import fmean

from speedrun.board import track3
from speedrun.cli import Refusal
from speedrun.stats import rule
from speedrun.stats.crossing import crossing_step, mean_crossing
from speedrun.text import printable, read_text

from .evidence import TARGET, Evidence, judge, read_rows

README = """# {recipe}: {step} steps (n = {n})

TO DO: say what the optimizer does, what is new in it and what it builds on.
TO DO: confirm that these are all the runs that were made of this script: the rules take no chosen ones.

Mean loss {mean:.5f} at step {step}, seeds {seeds}: (3.28 - mean) sqrt(n) = {statistic:.5f}, needs {margin}.
{before}
The step is the first that all runs validate and at which they meet the rule together; each ran to its end.

| step | mean loss | sd | (3.28 - mean) sqrt(n) | z, sigma {sigma} | p, one-sided | reached |
|---|---|---|---|---|---|---|
{table}

{crossing}

![loss near the target](zoomed_figure.png)

## Against the previous result

{against}

## Runs

| log | seeds | GPUs |
|---|---|---|
{runs}

A log holds the script that ran, above its first line of equals signs. Saved as script.py it runs seeds
FIRST_SEED, FIRST_SEED + 1, ... again; figures by seed are in summary.tsv.

    torchrun --standalone --nproc_per_node=8 script.py FIRST_SEED TRIALS

## For the table of results

| # | {step} | {mean:.4f} (n={n}) | TO DO: what | {date} | [log](results/{folder}/{log}) | TO DO: who |
"""
COLUMNS = ("file", "seed", "gpu", "world_size", "step", "val_loss", "last_step", "last_val_loss",
           "crossing_step")
AROUND = 4   # validations of the table on either side of the claimed step
ZOOM = 0.02  # nats around the target that the figure shows
BLUE, RED = "#0072B2", "#D55E00"  # Okabe and Ito, for every eye


def draft(paths: list[Path], out: Path, rows: Path) -> dict:
    """Write the folder `out` from the logs at `paths`; what it claims, as plain JSON.

    rows: what scripts/ingest.py wrote. Refusal where `out` holds something, and as `judge`.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Refusal(f"--out {printable(out)} is there and no empty folder; name a new one", code=2)
    found = judge(paths, read_rows(rows))
    out.mkdir(parents=True, exist_ok=True)
    for name, log in found.logs.items():
        (out / name).write_bytes(read_text(log.path).encode())
    (out / "README.md").write_text(readme(found, out.resolve().name), encoding="utf-8")
    (out / "summary.tsv").write_text(summary(found), encoding="utf-8")
    picture(found, out / "zoomed_figure.png")
    against = found.row and dict(row=found.row["row"], step=found.row["step"], **found.against)
    return dict(out=str(out), recipe=found.recipe, **found.official, seeds=sorted(found.series),
                before=found.before, against=against, files=sorted(path.name for path in out.iterdir()))


def readme(found: Evidence, folder: str) -> str:
    """The README of the folder: what is claimed, and what shows it."""
    table = [f"| {at['step']} | {at['mean']:.5f} | {sd_words(at['sd'])} | "
             f"{at['statistic']:.5f} | {at['z']:.2f} | {at['p']:.2g} | {'yes' if at['pass'] else 'no'} |"
             for at in found.around(AROUND)]
    runs = [f"| {name} | {', '.join(map(str, log.foreign['seeds'].values()))} | "
            f"{log.foreign['world_size']} x {name.rsplit('_', 1)[0]} |" for name, log in found.logs.items()]
    return README.format(
        recipe=found.recipe, **found.official, seeds=", ".join(map(str, sorted(found.series))),
        margin=rule.MARGIN, sigma=rule.SIGMA, before=before_words(found.before),
        table="\n".join(table), crossing=crossing_words(found.series), against=against_words(found),
        runs="\n".join(runs), date=time.strftime("%Y/%m/%d"), folder=folder, log=next(iter(found.logs)))


def sd_words(sd: float | None) -> str:
    return "-" if sd is None else f"{sd:.5f}"


def before_words(before: dict | None) -> str:
    if before is None:
        return "No step before it has a validation in all runs."
    return (f"The validation before, at step {before['step']}, does not reach it: mean loss "
            f"{before['mean']:.5f}, {before['statistic']:.5f}.")


def crossing_words(series: dict) -> str:
    found = mean_crossing(series, TARGET)
    count = f"{found['crossed']} of {found['n']} runs cross the target"
    if found["mean"] is None:
        return f"Mean crossing step: none, as {count}."
    ends = "" if found["low"] is None else f" (95 % {found['low']:.0f} to {found['high']:.0f})"
    return f"Mean crossing step: {found['mean']:.0f}{ends}; {count}."


def against_words(found: Evidence) -> str:
    row, test = found.row, found.against
    if row is None:
        return "No result here takes as many steps or more."
    n = len(rule.losses_at(track3.series(row), row["step"]))
    verdict = "better" if test["pass"] else "not shown to be better"
    return (f"The nearest that takes as many steps or more is row {row['row']} ({row['name']}): "
            f"{row['step']} steps, mean loss {row['mean']:.5f} in its logs (n = {n}).\n"
            f"(loss difference + {rule.NATS_PER_STEP * 100:g} x steps / 100) / sqrt(1/n1 + 1/n2) = "
            f"{test['statistic']:.5f}, needs {rule.MARGIN}; one-sided p = {test['p']:.2g}: {verdict}.")


def summary(found: Evidence) -> str:
    """Tab-separated, a line for each seed, under the names in COLUMNS."""
    lines, step = [COLUMNS], found.official["step"]
    for name, log in found.logs.items():
        for run, points in log.series.items():
            loss, crossing = rule.losses_at({0: points}, step)[0], crossing_step(points, TARGET)
            lines.append((name, log.foreign["seeds"][run], printable(log.foreign["gpu"]),
                          log.foreign["world_size"], step, f"{loss:.5f}", points[-1].step,
                          f"{points[-1].val_loss:.5f}", "" if crossing is None else f"{crossing:.1f}"))
    return "".join("\t".join(map(str, line)) + "\n" for line in lines)


def picture(found: Evidence, path: Path) -> None:
    """Loss by step near the target: every seed and their mean, here and of the previous result."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    shown = [(found.series, f"{found.recipe} (n = {len(found.series)})", BLUE, "-")]
    if found.row is not None:
        theirs = track3.series(found.row)
        shown.append((theirs, f"row {found.row['row']} (n = {len(theirs)})", RED, "--"))
    first = found.official["step"]
    for series, label, colour, dash in shown:
        means = [(step, fmean(rule.losses_at(series, step).values())) for step in rule.common_steps(series)]
        first = min([first, *(step for step, mean in means if mean <= TARGET + ZOOM)])
        for points in series.values():
            line = [(point.step, point.val_loss) for point in points]
            axes.plot(*zip(*line), color=colour, alpha=0.3, lw=0.7)
        axes.plot(*zip(*means), color=colour, ls=dash, lw=2, label=label)
    last = max(points[-1].step for series, *_ in shown for points in series.values())
    axes.axhline(TARGET, color="0.4", lw=1, ls=(0, (2, 2)))
    claim = found.official["step"], found.official["mean"]
    axes.plot(*claim, "o", color=BLUE)
    axes.annotate(f"step {claim[0]}", claim, xytext=(-2, -14), ha="right", textcoords="offset points")
    axes.set(xlabel="step", ylabel="validation loss (nats)", xlim=(first, last + (last - first) / 50),
             ylim=(TARGET - ZOOM / 2, TARGET + ZOOM))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def words(found: dict) -> list[str]:
    """What `draft` returned, for a person."""
    lines = [f"{found['recipe']}: step {found['step']}, mean loss {found['mean']:.5f} (n = {found['n']}); "
             f"(3.28 - mean) sqrt(n) = {found['statistic']:.5f}, needs {rule.MARGIN}; one-sided p = "
             f"{found['p']:.2g}", before_words(found["before"])]
    if test := found["against"]:
        verdict = "" if test["pass"] else "not "
        lines.append(f"against row {test['row']} ({test['step']} steps): {test['statistic']:.5f}, needs "
                     f"{rule.MARGIN}: {verdict}shown to be better")
    return [*lines, f"{found['out']}: {len(found['files'])} files; what is yours to write is marked TO DO "
            "in README.md"]
