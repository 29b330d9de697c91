"""A comparison of recipes as one HTML page that needs nothing but itself: no script, no network."""
from xml.etree.ElementTree import Element

from speedrun.log.format import Log
from speedrun.stats.crossing import crossing_step

from . import curves
from .charts import legend, loss_figures, neuron_figures
from .comparison import Comparison, flat, track_name
from .markup import element, write
from .style import STYLE
from .svg import sample
from .table import figures, verdict

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
MOST_ROWS, MOST_FIELDS = 60, 300  # of a table of steps or kinds of matrix, of the hyperparameters


def page(comparison: Comparison) -> str:
    """The document."""
    *others, last = [runs.name for runs in comparison.recipes]
    names = f"{', '.join(others)}{' and ' * bool(others)}{last}"
    names = names if len(others) < 4 else f"{len(others) + 1} recipes"
    title = f"{names}, track {track_name(comparison.track)}"
    head = element("head", element("meta", charset="utf-8"),
                   element("meta", name="viewport", content="width=device-width, initial-scale=1"),
                   element("meta", http_equiv="Content-Security-Policy", content=POLICY),
                   element("title", title), element("style"))
    head[-1].text = STYLE
    found = [curves.diagnostics(runs.logs) for runs in comparison.recipes]
    body = element("main", element("h1", title), _track(comparison.track), *_result(comparison),
                   *_loss(comparison), *_neurons(comparison, found), *_hyperparameters(comparison),
                   *_runs(comparison))
    return write(element("html", head, element("body", body), lang="en"))


def _track(track: dict) -> Element:
    model = track["model"]
    custom = "" if track["official"] else f", after {track['name']}"
    target = "no target" if track["target"] is None else f"target loss {track['target']:g} nats"
    return element("p", f"Track {track_name(track)}{custom}: data {track['data']}, "
                   f"{track['tokens_per_step']:,} tokens a step, {track['val_tokens']:,} validation "
                   f"tokens; {model['num_layers']} layers, width {model['model_dim']}, context "
                   f"{track['context']:,}; {target}.", class_="soft")


def table(caption: str, heads: list, rows: list[list], groups: dict[int, str] | None = None,
          long: bool = False) -> Element:
    """A table that scrolls sideways where it must. The first cell of a row is its head; a cell is text or
    an element. groups: number of a row -> heading above it. long: words may break anywhere."""
    bodies = [element("tbody")]
    for i, (first, *rest) in enumerate(rows):
        if groups and i in groups:
            head = element("th", groups[i], scope="rowgroup", colspan=len(heads))
            bodies.append(element("tbody", element("tr", head)))
        cells = (element("td", cell, class_="long" if long else None) for cell in rest)
        bodies[-1].append(element("tr", element("th", first, scope="row"), *cells))
    return element("div", element(
        "table", element("caption", caption),
        element("thead", element("tr", *(element("th", head, scope="col") for head in heads))),
        *filter(len, bodies)), class_="wide", tabindex=0, role="region", aria_label=caption)


def _columns(comparison: Comparison) -> list[Element]:
    return [element("span", sample(i), runs.name) for i, runs in enumerate(comparison.recipes)]


########################################
#           Result and curves          #
########################################


def _result(comparison: Comparison) -> list[Element]:
    found = comparison.found
    notes = [verdict(name, row, found["reference"]) for name, row in found["recipes"].items()
             if "difference" in row]
    notes += found["warnings"]
    notes.append(f"No seconds are shown: {comparison.no_time}." if comparison.no_time else
                 "Seconds are of one machine and of whatever else ran on it; scripts/compare.py times two "
                 "recipes side by side.")
    rows = [[name, *map(_unbroken, texts)] for name, texts in figures(found).items()]
    return [element("h2", "Result"), element("ul", *(element("li", note) for note in notes)),
            table("Each recipe over its seeds", ["recipe", *_columns(comparison)], rows),
            element("p", "In brackets: 95 % intervals, or the standard deviation over seeds (sd). The "
                    "official step is the first at which the track's rule shows the target. The mean "
                    "crossing step is interpolated seed by seed; a seed that never crosses counts as later "
                    "than its last step.", class_="soft"), _seeds(comparison)]


def _unbroken(text: str) -> Element:
    """The text, whose bracket stays on one line."""
    head, bracket, rest = text.partition(" (")
    inside, end, after = rest.partition(")")
    return element("span", head, " " if bracket else None,
                   element("span", f"({inside}{end}", class_="whole") if bracket else None, after)


def _seeds(comparison: Comparison) -> Element:
    target, rows = comparison.track["target"], []
    for runs in comparison.recipes:
        for seed, points in runs.series.items():
            step = crossing_step(runs.on_grid[seed], target)
            rows.append([runs.name, str(seed), f"{points[-1].val_loss:.4f}",
                         "-" if step is None else f"{step:,.1f}",
                         "-" if comparison.no_time else f"{points[-1].train_time:,.1f}"])
    return element("details", element("summary", "Every seed"),
                   table("Each seed by itself", ["recipe", "seed", "loss at the end", "crossing step",
                                                 "seconds in all"], rows))


def _loss(comparison: Comparison) -> list[Element]:
    by_recipe = [dict(curves.loss_by_step(runs.series).points) for runs in comparison.recipes]
    every = sorted(set().union(*by_recipe))
    steps = curves.thin(every, MOST_ROWS)
    some = "" if len(steps) == len(every) else f", {len(steps)} of {len(every)} steps"
    rows = [[f"{step:,}", *(f"{of[step]:.4f}" if step in of else "-" for of in by_recipe)]
            for step in steps]
    return [element("h2", "Loss"), legend(comparison),
            element("div", *loss_figures(comparison), class_="charts"),
            element("details", element("summary", "The mean losses as a table"),
                    table(f"Mean validation loss (nats){some}", ["step", *_columns(comparison)], rows))]


def _neurons(comparison: Comparison, found: list[dict]) -> list[Element]:
    without = [runs.name for runs, steps in zip(comparison.recipes, found) if not steps]
    charts, tables = neuron_figures(comparison, found), []
    parts = [element("h2", "Neurons")]
    if without or not charts:
        whose = ", ".join(without if charts else [runs.name for runs in comparison.recipes])
        parts.append(element("p", f"The logs of {whose} hold no diagnostics.", class_="soft"))
    if not charts:
        return parts
    for runs, steps in zip(comparison.recipes, found):
        if rows := _matrices(steps):
            tables.append(table(f"{runs.name}, step {max(steps):,}: mean over layers and seeds",
                                ["matrices", *(metric.replace("_", " ") for metric in curves.METRICS)], rows))
    return parts + [legend(comparison), element("div", *charts, class_="charts"),
                    element("details", element("summary", "Every kind of matrix, at the end"), *tables)]


def _matrices(steps: dict) -> list[list[str]]:
    """A row for each kind of matrix in the last step's diagnostics."""
    last = list(steps[max(steps)].values()) if steps else []
    kinds = dict.fromkeys(kind for data in last for kind, value in data.items() if isinstance(value, dict))
    rows = []
    for kind in list(kinds)[:MOST_ROWS]:
        means = [[v for data in last for v in curves.of_matrices(data, [kind], metric)]
                 for metric in curves.METRICS]
        rows.append([kind, *(f"{sum(of) / len(of):.3g}" if of else "-" for of in means)])
    return rows


########################################
#          What ran, and where         #
########################################


def _hyperparameters(comparison: Comparison) -> list[Element]:
    recipes = [flat(runs.recipe) for runs in comparison.recipes]
    names = list(dict.fromkeys(name for fields in recipes for name in fields))
    rows = {name: [fields.get(name, "-") for fields in recipes] for name in names}
    apart = [name for name in names if len(set(rows[name])) > 1]
    order = (apart + [name for name in names if name not in apart])[:MOST_FIELDS]
    groups = {0: "Different", len(apart): "The same in all"} if apart else None
    notes = [element("li", element("strong", runs.name), ": ", runs.recipe["note"])
             for runs in comparison.recipes]
    return [element("h2", "Hyperparameters"), element("ul", *notes),
            table("Fields that differ come first", ["field", *_columns(comparison)],
                  [[name, *rows[name]] for name in order], groups, long=True)]


def _runs(comparison: Comparison) -> list[Element]:
    cards = [_run(runs.name, log) for runs in comparison.recipes for log in runs.logs]
    return [element("h2", "Runs"), element("div", *cards, class_="runs"),
            element("p", "Drawn by scripts/report.py from these logs alone. scripts/verify.py checks them; "
                    "that they are true, only scripts/replay.py can show.", class_="soft")]


def _run(name: str, log: Log) -> Element:
    """Where, when and with which code one log came to be; the sha256 is of the sources that it carries."""
    header, git = log.header, log.header["git"]
    changes = {True: " and changes", False: "", None: ", changes not known"}
    commit = "none" if git is None else git["commit"][:12] + changes[git["changed"]]
    facts = {"recipe": name, "seeds": ", ".join(map(str, header["seeds"])), "started": header["started"],
             "machine": _machine(header), "software": _software(log),
             "sources": f"sha256 {header['sha256']['code'][:12]}", "git commit": commit,
             "command": header["command"]}
    rows = [part for key, value in facts.items() for part in (element("dt", key), element("dd", value))]
    return element("section", element("h3", log.path.name), element("dl", *rows))


def _machine(header: dict) -> str:
    hardware, world = header["hardware"], header["world_size"]
    if hardware["device"] != "cpu":
        gpu = next(iter(gpus), None) if isinstance(gpus := hardware.get("gpus"), list) else None
        facts = [f"{key} {gpu[key]}" for key in ("driver_version", "clocks.max.sm", "power.limit")
                 if isinstance(gpu, dict) and isinstance(gpu.get(key), str)]
        return ", ".join([f"{world} × {hardware['name']}", *facts])
    return (f"{hardware['name']}, {hardware['cores']} cores; processes: {world}, threads of each: "
            f"{hardware['threads']}")


def _software(log: Log) -> str:
    found = [f"{name} {version}" for name, version in log.header["versions"].items()
             if isinstance(version, str | int)]
    if isinstance(settings := log.header.get("settings"), dict):
        found += [f"{name}={value}" for name, value in settings.items()]
    warmup = log.last("warmup")
    if isinstance(attention := warmup.get("attention"), str):
        found.append(f"attention by {attention}")
    return ", ".join(found + ["compiled"] * (warmup.get("compiled") is True))
