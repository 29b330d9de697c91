"""The page of the board, records/README.md: Markdown in which every name stays text."""
import json
import re
from urllib.parse import quote

from speedrun.stats import words
from speedrun.text import printable
from tracks import TRACKS

from .standings import Entry, Standing

INTRODUCTION = """# Records

Written by `python scripts/leaderboard.py` from the logs in these folders; nobody types a number into it.
Every record here passes `python scripts/verify.py`. Runs of a `custom` track, and of recipes overridden on
the command line, stand on no board."""

SUBMITTING = """## Submitting

1. Put the recipe into `optimizers/recipes.py` and commit it. Tune on other seeds than the record's. A recipe
   overridden on the command line (`--steps 20`, `--recipe.lr 0.02`) has another name and is on no board.
2. Declare the seeds and run, all in one log (`torchrun --standalone --nproc_per_node=8` for 8 GPUs):
   `python train_gpt.py --track TRACK --recipe RECIPE --seeds 0 1 2 3 4 --log-dir records/TRACK/DATE_RECIPE`
3. Every declared seed counts, whatever it shows. An interrupted run is resumed with `--resume` (its record
   makes no claim about time) or is run again in an empty folder; it is never cut.
4. Pack the log: `xz records/TRACK/DATE_RECIPE/*.txt`. The date is like 2026-01-31.
5. Optional, beside the log: `record.json` with `{"author": "your name"}`, a README.md, pictures (.png).
6. `python scripts/verify.py records/TRACK/DATE_RECIPE` until it stands.
7. `python scripts/leaderboard.py` writes this page.
8. `git add records/README.md records/TRACK/DATE_RECIPE`, commit, open a pull request.
9. Continuous integration verifies every record and compares this page with the logs.
10. To show more than a log can, replay it on another machine: `python scripts/replay.py LOG`."""

READING = """## How to read it

- **Official step**: the first step of the track's grid at which the mean of all declared seeds is shown to
  be below the target, at one-sided p = .001: on `fineweb-124m` by (3.28 - mean) sqrt(n) >= 0.004
  (modded-nanogpt's rule, sigma = 0.0013), elsewhere by a t-test. Mean loss and p are those at this step.
  More seeds buy a smaller one. Seeds declared in several logs may have been declared one look at a time,
  which makes the error larger than p says: `python scripts/verify.py` says how much.
- **Mean crossing step**: where each seed's loss crosses the target, interpolated between validations, and
  the mean over the seeds with its 95 % interval. A seed that never crosses counts as later than its last
  step.
- **Against the row above**: the difference in steps to the target (on `fineweb-124m` from the loss at the
  official step, 0.0045 nats being worth 100 steps; elsewhere of the crossing steps), or in final loss where
  there is no target or it is not reached; ± its 95 % interval; paired by seed where at least two seeds are
  in both, r being their correlation. No difference shown: two-sided p >= .05.
- **Seconds** are of the training clock, to the official step, and compare within one machine only; even
  there they hold what else it did. For a ratio that stands: `python scripts/compare.py`."""

# What GitHub would not take as text: marks, an entity, an emoji's or a link's colon, a bare www.
SPECIAL = re.compile(r"[\\`*_\[\]<>|~$]|&(?=[#\w])|:(?=\S)|(?<=www)\.")


def escape(text, limit: int = 60) -> str:
    """A stranger's `text` as Markdown that shows it as it is, in one line and in one cell of a table."""
    return SPECIAL.sub(r"\\\g<0>", printable(text, limit))


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A table of Markdown; a column whose name ends with a space is aligned to the right."""
    rule = ["---:" if name.endswith(" ") else "---" for name in columns]
    lines = [[name.strip() for name in columns], rule, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def page(tracks: dict[str, list[Standing]], beside: str) -> str:
    """The text of records/README.md, from standings.standings. beside: from others.read_others."""
    parts, empty = [INTRODUCTION], []
    for name, rows in tracks.items():
        parts += _track(name, rows) if rows else []
        empty += [] if rows else [f"`{name}`"]
    if empty:
        parts.append(f"No record yet on {' and '.join(empty)}.")
    return "\n\n".join([*parts, READING, SUBMITTING, *([beside] if beside else [])]) + "\n"


########################################
#                Tracks                #
########################################


def _track(name: str, rows: list[Standing]) -> list[str]:
    """The part of one track."""
    target = TRACKS[name].target
    if target is None:
        return [f"## `{name}`: lowest loss", _by_loss(rows, places=True), *_seconds(rows)]
    reached, above = ([row for row in rows if row.entry.reached == yes] for yes in (True, False))
    parts = [f"## `{name}`: first to {target:g}", *([_by_step(reached)] if reached else [])]
    if above:
        said = f"**Target not reached.** The mean of these seeds ends above {target:g}. In order of it:"
        parts += [said, _by_loss(above, places=False)]
    return parts + _seconds(reached)


def _by_step(rows: list[Standing]) -> str:
    columns = ["place ", "recipe", "official step ", "mean crossing step", "mean loss ", "n ", "p ",
               "against the row above", "date, log", "author"]
    cells = []
    for row in rows:
        entry, claim = row.entry, row.entry.claim
        p = words.p_value(claim["p"], "0.0001", ".4f").replace(" ", "")
        cells.append([str(row.place), escape(claim["recipe"]), str(claim["step"]),
                      crossing(claim["crossing"]), f"{claim['mean']:.4f}",
                      seeds(claim["n"], claim["crossing"], claim["looks"]), p,
                      versus(row.against), link(entry), escape(entry.author or "-")])
    return table(columns, cells)


def _by_loss(rows: list[Standing], places: bool) -> str:
    columns = ["place ", "recipe", "final loss (95 %)", "steps ", "n ", "against the row above",
               "date, log", "author"]
    cells = []
    for row in rows:
        entry, claim = row.entry, row.entry.claim
        cells.append([str(row.place), escape(claim["recipe"]), words.interval(claim["final"], ".4f", to="–"),
                      str(last_step(entry)), seeds(claim["n"], claim["crossing"], claim["looks"]),
                      versus(row.against), link(entry), escape(entry.author or "-")])
    return table(columns, cells) if places else table(columns[1:], [line[1:] for line in cells])


def _seconds(rows: list[Standing]) -> list[str]:
    """A table for each machine of the records with a time claim."""
    machines = {}
    for row in rows:
        if row.entry.machine is not None:
            key = json.dumps(row.entry.machine, sort_keys=True)
            machines.setdefault(key, []).append(row.entry)
    parts = []
    for _, entries in sorted(machines.items()):
        cells = []
        for entry in sorted(entries, key=lambda entry: (entry.claim["seconds"], entry.path)):
            claim, step = entry.claim, entry.claim["step"] or last_step(entry)
            cells.append([escape(claim["recipe"]), f"{claim['seconds']:.1f}", str(step),
                          f"{1000 * claim['seconds'] / step:.1f}", str(claim["n"]), link(entry)])
        parts += [f"Seconds on one machine, {machine_words(entries[0].machine)}:",
                  table(["recipe", "seconds ", "to step ", "ms per step ", "n ", "date, log"], cells)]
    return parts


def machine_words(machine: dict) -> str:
    """A machine of claim.machine in words."""
    gpus, ranks = machine["gpus"], machine["world_size"]
    processes = f"{ranks} process{'es' * (ranks > 1)}"
    if machine["device"] == "cuda":
        kinds = [f"{gpus.count(gpu)}x {escape(gpu)}" for gpu in sorted(set(gpus))]
        return f"{' and '.join(kinds) or escape(machine['name'])}, {processes}"
    threads = words.count(machine["threads"], "thread")
    return f"{escape(machine['name'])}, {machine['cores']} cores, {processes} of {threads}"


########################################
#                Cells                 #
########################################


def last_step(entry: Entry) -> int:
    return next(iter(entry.series.values()))[-1].step


def link(entry: Entry) -> str:
    return f"[{entry.date}]({quote(entry.path)})"


def crossing(found: dict) -> str:
    return words.interval(found, ".0f", to="–") or "-"


def seeds(n: int, found: dict | None, looks=()) -> str:
    """n, in how many logs it was declared, and how many cross the target where not all do."""
    said = f"{n:d} in {len(looks)} logs" if len(looks) > 1 else f"{n:d}"
    return f"{said} ({found['crossed']} cross)" if found and found["crossed"] < found["n"] else said


def versus(found: dict | None) -> str:
    """What the seeds say of a record and the row above it, from board.against."""
    if found is None:
        return "-"
    if found["p"] is None:
        return "no test: a seed never crosses" if found["method"] is None else "no test: no spread"
    digits, later, earlier = (1, "later", "earlier") if found["unit"] == "steps" else (4, "higher", "lower")
    if found["method"] == "paired":
        seen = f"{found['n']} pairs"
        seen += "" if found["correlation"] is None else f", r {found['correlation']:.2f}"
        seen += f", {found['left_out']} unpaired" if found["left_out"] else ""
    else:
        seen = "{} and {} unpaired".format(*found["n"])
    half = (found["high"] - found["low"]) / 2  # of a t-interval: as far on either side
    side = later if found["mean"] > 0 else earlier
    said = f"{abs(found['mean']):.{digits}f}±{half:.{digits}f} {found['unit']} {side}"
    return f"{said}<br>{'' if found['p'] < 0.05 else 'no difference shown, '}{seen}"
