"""The public results of modded-nanogpt's track 3, as figures: read from a clone, kept as JSON, read back.

A row of its README claims a step, a mean loss and a number of runs; `ingest` computes them again from the
logs that the row links, and names each deviation. Nothing but figures and short names is taken over.
"""
import json
import math
import re
import subprocess
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from speedrun.cli import Refusal
from speedrun.log.format import Point
from speedrun.log.reader import read_log
from speedrun.stats import rule
from speedrun.text import printable

SOURCE = "https://github.com/KellerJordan/modded-nanogpt"
FOLDER = "records/track_3_optimization"
SUFFIXES = (".txt", ".out", ".stdout", ".log")
TARGET = 3.28
JOINING = re.compile(r"[\s,;:=+]+$|"  # what no name ends with
                     r"\b(?:a|and|as|at|before|by|following|for|from|in|of|on|plus|the|to|with)$")
NEAR = 0.02  # nats around the target within which each loss is kept


CELLS = re.compile(r"([0-9]{1,9})\n"                                       # number
                   r"([0-9]{1,9}).*\n"                                     # steps, and (!) for a record
                   r"([0-9]\.[0-9]{1,9}) \(n=([0-9]{1,6})\).*\n"           # mean loss, runs
                   r"(.*)\n([0-9/]{1,20})\n\[log\]\(([^)\s]+)\).*\n.*")  # what, date, log, who


@dataclass
class Trial:
    """One run in a log of theirs."""

    file: Path
    gpu: str | None
    world_size: int | None
    code: str | None
    seed: int | None
    points: list[Point]

    @property
    def losses(self) -> dict[int, float]:
        return {point.step: point.val_loss for point in self.points}

    def step_ms(self) -> float | None:
        """The median time of a step, in ms: of the pace between validations, so that compiling, which their
        clock counts in the first of them, does not weigh."""
        paces = [1000 * (after.train_time - before.train_time) / (after.step - before.step)
                 for before, after in zip(self.points, self.points[1:])]
        paces = [pace for pace in paces if math.isfinite(pace) and pace > 0]
        return median(paces) if paces else None


########################################
#               The README             #
########################################


@dataclass
class Row:
    """What a row of their README claims."""

    number: int
    name: str
    step: int
    mean: float
    n: int
    date: str
    link: str


def read_rows(text: str) -> list[Row]:
    """The rows of the results table. Refusal for one that cannot be read."""
    rows = []
    for line in text.splitlines():
        if not re.match(r"\| [0-9]", line):
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        match = CELLS.fullmatch("\n".join(cells))
        if match is None:
            raise Refusal(f"a row of the README's table cannot be read: {printable(line, 100)}; is this a "
                          f"clone of {SOURCE}?")
        number, step, mean, n, what, date, link = match.groups()
        date = date.replace("/", "-")
        rows.append(Row(int(number), name_of(what), int(step), float(mean), int(n), date, link))
    if not rows:
        raise Refusal(f"{FOLDER}/README.md holds no table of results; is this a clone of {SOURCE}?")
    return rows


def name_of(description: str, longest: int = 48) -> str:
    """The start of a description as plain text, cut at a word that can end a name."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", description).replace("\\", "")
    name = " ".join(printable(plain, 400).split())
    name = name if len(name) <= longest else name[:longest + 1].rpartition(" ")[0]
    while name.count("(") > name.count(")"):
        name = name[:name.rindex("(")]
    while (shorter := JOINING.sub("", name)) != name:
        name = shorter
    return name


########################################
#               The logs               #
########################################


def read_trials(root: Path, link: str) -> list[Trial]:
    """Every run in the linked log, or in the folder it is in where that is a row's own; each once.

    A run that is in several files (a log, and what was printed) is taken from the one that says most.
    """
    linked = (root / link).resolve()
    if not linked.is_relative_to(root.resolve()):
        raise Refusal(f"the README links {printable(link)}, outside {FOLDER}")
    files = [linked] if linked.parent == (root / "results").resolve() else sorted(linked.parent.rglob("*"))
    trials = []
    for file in files:
        if file.suffix not in SUFFIXES or not file.is_file() or file.is_symlink():
            continue
        log = read_log(file)
        if log.foreign is not None and not log.problems:
            trials += [Trial(file, log.foreign["gpu"], log.foreign["world_size"], log.foreign["code"],
                             log.foreign["seeds"][i], points) for i, points in log.series.items()]
    trials.sort(key=lambda t: (-len(t.points), t.code is None, t.gpu is None, t.seed is None))
    kept: list[Trial] = []
    for trial in trials:
        losses = trial.losses.items()
        if not any(losses <= other.losses.items() for other in kept):
            kept.append(trial)
    return sorted(kept, key=lambda t: (str(t.file), t.points[0].line))


def chosen(row: Row, trials: list[Trial], linked: Path) -> list[Trial]:
    """The runs that a claim is about: those with a validation at its step; and where these are not as many
    as it says, those among them of the linked log's code, if they are."""
    there = [trial for trial in trials if row.step in trial.losses]
    codes = {trial.code for trial in there if trial.file == linked}
    same = [trial for trial in there if trial.code in codes]
    return same if len(there) != row.n == len(same) else there


def readout(row: Row, trials: list[Trial]) -> str:
    """The name of the loss that the row's mean is of: val_loss, unless only another one gives that mean."""
    def mean(key):
        values = [_loss(point, key) for t in trials for point in t.points if point.step == row.step]
        return sum(values) / len(values) if values else math.nan

    others = sorted({key for t in trials for key in t.points[-1].more if key.endswith("_loss")})
    if abs(mean("val_loss") - row.mean) > 5e-4:
        for key in others:
            if abs(mean(key) - row.mean) < 1e-4:
                return key
    return "val_loss"


def _loss(point: Point, key: str) -> float:
    try:
        return point.val_loss if key == "val_loss" else float(point.more.get(key, "nan"))
    except ValueError:
        return math.nan


########################################
#               A row                  #
########################################


def figures(row: Row, trials: list[Trial]) -> dict:
    """The figures of a row: what it claims, what its logs give, the losses near the target."""
    key = readout(row, trials)
    at_step = [_loss(point, key) for t in trials for point in t.points if point.step == row.step]
    found = rule.one_sample(at_step, TARGET, rule.SIGMA) if at_step else None
    hardware = defaultdict(list)
    for trial in trials:
        hardware[trial.gpu, trial.world_size].append(trial.step_ms())
    return dict(
        row=row.number, name=row.name, date=row.date, step=row.step, claimed_mean=row.mean, claimed_n=row.n,
        n=len(trials), mean=found and round(found["mean"], 6), sd=found and _rounded(found["sd"]),
        passes=bool(found and found["pass"]), readout=key,
        hardware=[dict(gpu=gpu, world_size=size, n=len(paces), step_ms=_median(paces))
                  for (gpu, size), paces in sorted(hardware.items(), key=str)],
        near=_near(trials, key, row.step))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _median(values: list) -> float | None:
    values = [value for value in values if value is not None]
    return round(median(values), 1) if values else None


def _near(trials: list[Trial], key: str, step: int) -> list[dict]:
    """The losses around the target and at the claimed step, of runs validated at the same steps together:
    [dict(steps, losses by run)]. Kept is each step where a run is within NEAR, and those next to these."""
    grids = defaultdict(list)
    for trial in trials:
        steps = tuple(point.step for point in trial.points)
        grids[steps].append([_loss(point, key) for point in trial.points])
    found = []
    for steps, runs in sorted(grids.items()):
        near = {i for i, losses in enumerate(zip(*runs)) if min(abs(x - TARGET) for x in losses) <= NEAR}
        kept = {j for i in near for j in (i - 1, i, i + 1) if 0 <= j < len(steps)}
        kept = sorted(kept | {steps.index(step)})
        found.append(dict(steps=[steps[i] for i in kept], losses=[[run[i] for i in kept] for run in runs]))
    return found


def series(row: dict) -> dict[int, list[Point]]:
    """run -> its validations near the target, from a row of the JSON: what speedrun/stats takes."""
    runs = [(grid["steps"], losses) for grid in row["near"] for losses in grid["losses"]]
    return {i: [Point(step, loss, math.nan, 0) for step, loss in zip(steps, losses)]
            for i, (steps, losses) in enumerate(runs)}


def deviations(row: Row, trials: list[Trial], found: dict, linked: Path) -> list[str]:
    """In which ways the logs are not what the row claims."""
    said = []
    if not linked.is_file():
        said.append("the linked log is not there")
    if found["n"] != row.n:
        said.append(f"claims n = {row.n}, the logs hold {found['n']}")
    if found["readout"] != "val_loss":
        said.append(f"the mean is of {found['readout']}, not of val_loss")
    if found["mean"] is not None and round(abs(found["mean"] - row.mean), 6) > 6e-5:
        said.append(f"claims a mean of {row.mean:.4f}, the logs give {found['mean']:.5f}")
    if not found["passes"]:
        said.append("(3.28 - mean) sqrt(n) does not reach 0.004 in the logs")
    seeds = Counter(trial.seed for trial in trials if trial.seed is not None)
    repeated = sorted(seed for seed, times in seeds.items() if times > 1)
    if repeated:
        said.append(f"runs state the same seed: {', '.join(map(str, repeated))}")
    codes = len({trial.code for trial in trials if trial.code is not None})
    if codes > 1:
        said.append(f"runs of {codes} versions of the code")
    if len(found["hardware"]) > 1:
        said.append("runs on several kinds of hardware")
    return said


########################################
#             The whole                #
########################################


def commit(clone: Path) -> dict:
    """The commit of a clone, and its date. Refusal where it is none or its files are changed."""
    def git(*words):
        done = subprocess.run(["git", "-C", str(clone), *words], capture_output=True, text=True)
        if done.returncode:
            raise Refusal(f"{printable(clone)} is no git clone ({printable(done.stderr.strip())}); "
                          f"run `git clone {SOURCE}` and name that folder")
        return done.stdout.strip()

    try:
        sha, date = git("log", "-1", "--format=%H %cs").split()
        if git("status", "--porcelain", "--", FOLDER):
            raise Refusal(f"files under {printable(clone)}/{FOLDER} are changed; figures are taken from a "
                          "commit as it is, so undo the changes")
    except FileNotFoundError:
        raise Refusal("git is not installed; the figures need the commit they are from") from None
    return dict(commit=sha, date=date)


def ingest(clone: Path) -> dict:
    """The figures of every row of the README in a clone of modded-nanogpt."""
    root = Path(clone) / FOLDER
    of = commit(clone)
    try:
        text = (root / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise Refusal(f"cannot read {FOLDER}/README.md in {printable(clone)}; is this a clone of "
                      f"{SOURCE}?") from None
    rows = []
    for row in read_rows(text):
        linked = (root / row.link).resolve()
        trials = chosen(row, read_trials(root, row.link), linked)
        found = figures(row, trials)
        rows.append(dict(found, deviations=deviations(row, trials, found, linked)))
    return dict(source=SOURCE, **of, target=TARGET, rows=rows)


def to_text(reference: dict) -> str:
    """The JSON of a reference, a row a line."""
    head = json.dumps({key: value for key, value in reference.items() if key != "rows"})
    return f'{head[:-1]}, "rows": [\n' + ",\n".join(map(json.dumps, reference["rows"])) + "\n]}\n"
