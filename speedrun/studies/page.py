"""The README.md of a study: its question, tables, tuning and command, all from logs."""
import json

from speedrun import ROOT
from speedrun.report.table import markdown_table
from speedrun.stats import words

from .figures import UNITS, final, worst
from .study import Study

NOT_RUN = "not run yet"


def page(study: Study, found: dict) -> str:
    """The whole text; `found` is figures.figures(study)."""
    parts = [f"# {study.name}", study.question, _runs(study, found), table(study, found)]
    if found["contrasts"]:
        parts.append(_contrasts(found))
    if found.get("ranks"):
        parts.append(f"Rank correlation of the two columns (Spearman, 95 %): {rank_words(found['ranks'])}.")
        parts += [f"The same within a range of {study.axis}, {range_words(row)}." for row in found["ranges"]]
    if any(row.get("diagnostics") for row in found["cells"].values()):
        parts.append(_diagnostics(found))
    if any("val_loss" in row for row in found["cells"].values()):
        parts.append(f"![{study.name}](picture.png)")
    parts += [_notes(study, found), *([study.note] if study.note else [])]
    if study.tuning is not None:
        parts.append(_tuning(study))
    parts += [_command(study, found),
              "This page is written by scripts/study.py from the logs; `scripts/study.py --check` compares."]
    return "\n\n".join(parts) + "\n"


def _runs(study: Study, found: dict) -> str:
    left = sum(row["of"] - row["done"] - row.get("diverged", 0) for row in found["cells"].values())
    seeds = ", ".join(map(str, study.seeds))
    state = f"; {left} of its runs are {NOT_RUN}" if left else ""
    return f"Track `{study.track}`, seeds {seeds}{state}."


def table(study: Study, found: dict) -> str:
    """A row a cell, in the order of the file; columns that no cell has are left out."""
    axis = study.axis
    own = any(cell.seeds != study.seeds for cell in study.cells)
    columns = {"cell": lambda cell, row: f"`{cell.label}`" if cell.logs is None else _link(cell),
               axis: lambda cell, row: f"{cell.x:,g}" if axis and cell.x is not None else "",
               "seeds": lambda cell, row: f"{len(cell.seeds)}" if own else "",
               "final loss, nats": lambda _, row: words.mean_and_sd(row["val_loss"], ".4f"),
               "crossing step": lambda _, row: words.crossing(row["crossing_step"])
               if row["crossing_step"] else "",
               "training seconds": lambda _, row: f"{row['seconds']['mean']:.0f}" if row["seconds"] else "",
               "minus": lambda _, row: f"`{row['baseline']}`" if "difference" in row else "",
               "pairs": lambda _, row: f"{row['difference']['n']}" if own and "difference" in row else "",
               "difference, nats": lambda _, row: words.interval(row.get("difference"), "+.4f"),
               "p": lambda _, row: p_words(row.get("difference")),
               "r": lambda _, row: _correlation(row.get("difference"))}
    rows = []
    for cell in study.cells:
        row = found["cells"][cell.label]
        if "val_loss" not in row:
            state = unfinished(row)
            rows.append([say(cell, row) if i < 3 else state * (i == 3) for i, say in
                         enumerate(columns.values())])
        else:
            rows.append([say(cell, row) for say in columns.values()])
    keep = [i for i, _ in enumerate(columns) if any(row[i] for row in rows)]
    return markdown_table([list(columns)[i] for i in keep], [[row[i] for i in keep] for row in rows])


def unfinished(row: dict) -> str:
    """What a table says of a cell that has not every seed."""
    if "diverged" in row:
        return f"{row['diverged']} of {row['of']} seeds diverged"
    return f"{row['done']} of {row['of']} seeds done" if row["done"] else NOT_RUN


def _link(cell) -> str:
    return f"[`{cell.label}`](../../../{cell.logs.relative_to(ROOT).as_posix()})"


def p_words(found: dict | None) -> str:
    return "" if found is None or found["p"] is None else words.p_value(found["p"], ".001")


def _correlation(found: dict | None) -> str:
    """Of fewer than five pairs it says nothing: three unrelated ones exceed .9 every third time."""
    value = (found or {}).get("correlation")
    return "" if value is None or found["n"] < 5 else f"{value:.2f}"


def _contrasts(found: dict) -> str:
    rows = [[f"`{label}`", words.interval(row, "+.4f") if row else NOT_RUN, p_words(row),
             *(points(of[label]) if of[label] else NOT_RUN for of in found.get("dead", {}).values())]
            for label, row in found["contrasts"].items()]
    more = ["dead at the end by leverage, points (95 %)", "by activation"] if "dead" in found else []
    return markdown_table(["contrast", "nats (95 %)", "p", *more], rows)


def points(row: dict) -> str:
    """A difference of shares in percentage points."""
    return words.interval({end: row[end] and 100 * row[end] for end in ("mean", "low", "high")}, "+.2f")


def rank_words(row: dict) -> str:
    return f"{words.interval(row, '.2f')}, n = {row['n']}, p = {row['p']:.2g}"


def range_words(row: dict) -> str:
    low, high = row["range"]
    return f"{low:,g} to {high:,g}: {rank_words(row) if 'mean' in row else 'fewer than five cells'}"


def share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


def _diagnostics(found: dict) -> str:
    rows = []
    for label, row in found["cells"].items():
        if of := row.get("diagnostics"):
            cells = [f"`{label}`"]
            for metric in UNITS:
                top = worst(of, metric)
                cells += [f"{share(top[0])} at step {top[1]}" if top else "", share(final(of, metric))]
            rows.append([*cells, *(number(final(of, metric)) for metric in ("row_spread", "orthogonality"))])
    head = ["cell", "leverage below 1 % of uniform: most", "at the end",
            "activation below 1 % of the layer's median: most", "at the end", "row spread", "orthogonality"]
    return ("Hidden units that are dead, and at the end the update of the matrices into the MLP: spread of "
            "its row norms over their mean, |U'U - I| / sqrt(n). Means over layers and seeds.\n\n"
            + markdown_table(head, rows))


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _notes(study: Study, found: dict) -> str:
    said = ["Differences are paired by seed, with 95 % t-intervals and two-sided p, uncorrected for their "
            "number; sd is over seeds."]
    if any(cell.seeds != study.seeds for cell in study.cells):
        said.append("They are over the seeds that all of their cells have.")
    if any(_correlation(row.get("difference")) for row in found["cells"].values()):
        said.append("r is the correlation over seeds.")
    if any(row.get("crossing_step") for row in found["cells"].values()):
        said.append(f"The crossing step is where the loss comes down to {found['target']:g}, with its 95 % "
                    "interval.")
    if found["no_time"]:
        said.append(f"No training seconds are compared: {found['no_time']}.")
    elif any(row.get("seconds") for row in found["cells"].values()):
        said.append("Training seconds are of runs beside one another on one machine; for a fair ratio of "
                    "two recipes see scripts/compare.py.")
    if found["code_versions"] > 1:
        said.append(f"The logs hold {found['code_versions']} versions of the code.")
    if any(cell.logs is not None for cell in study.cells):
        said.append("Cells with a link are runs made elsewhere, here with this study's seeds alone.")
    return " ".join(said)


def tuning_rows(study: Study) -> list[list[str]]:
    """recipe, then each point of its grid and the loss there; the best in bold."""
    rows = []
    for recipe, grid in study.tuning.grids.items():
        if not (path := study.table(recipe)).exists():
            rows.append([recipe, NOT_RUN, *[""] * (study.tuning.runs - 1)])
            continue
        held = json.loads(path.read_text())
        cells = []
        for row in held["rows"]:
            best = row["lr"] == held["best"]["lr"] and row["weight_decay"] == held["best"]["weight_decay"]
            loss = "diverged" if row["val_loss"] is None else f"{row['val_loss']:.4f}"
            mark = "**" if best else ""
            cells.append(f"{row['lr']:g}, {row['weight_decay']:g}: {mark}{loss}{mark}")
        rows.append([recipe, *cells, *[""] * (study.tuning.runs - len(cells))])
    return rows


def _tuning(study: Study) -> str:
    runs, seeds = study.tuning.runs, ", ".join(map(str, study.tuning.seeds))
    head = ["recipe", *(f"run {i + 1}: lr, weight decay" for i in range(runs))]
    return (f"## Tuning\n\nLearning rate, then weight decay at the best one, {runs} runs a recipe on seed "
            f"{seeds}, by scripts/sweep.py; final loss, the best in bold.\n\n"
            + markdown_table(head, tuning_rows(study)))


def cost_words(found: dict) -> str:
    cost = found["cost"]
    if not cost["runs"]:
        return "no runs of its own"
    half = f", {cost['hours'] / 2:.1f} on two" if cost["unit"] == "core" else ""
    return f"{cost['runs']} runs, {cost['hours']:.1f} {cost['unit']} hours{half}"


def _command(study: Study, found: dict) -> str:
    if all(cell.logs is not None for cell in study.cells):
        return ("## Again\n\nThe runs are made by the commands above; `python scripts/study.py --write` then "
                "makes this page from their logs.")
    return (f"## Again\n\n    python scripts/study.py {study.name}\n\ntrains what is missing, by this "
            "checkout's code, and nothing where nothing is; with `--records DIR`\n(an empty folder) every "
            f"run but those of the cells with a link. Made by {cost_words(found)}{_budget(study)}.")


def _budget(study: Study) -> str:
    """The runs of the tuning, whose logs are not kept and so have no cost here."""
    return "" if study.tuning is None else (f", and {len(study.tuning.grids) * study.tuning.runs} runs of "
                                            "tuning, of which only the losses are kept")
