"""The rules of verification: what a log, and a folder of logs, must keep to stand.

A log stands where it is whole and agrees with itself, with its track and with the arithmetic of its events;
a record where all its logs stand, are runs of one thing, and show by the track's rule what they seem to show.
Whether the runs happened, only a replay shows.
"""
import os
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path

from speedrun.cli import Refusal
from speedrun.log.format import Log, read_log
from speedrun.log.header import Run, misfits
from speedrun.stats import rule
from speedrun.text import printable
from speedrun.training import checkpoint

from . import events, header
from .events import expected_steps
from .folder import BESIDE, FOLDER_NAME, LOGS, place, runs, together

RULES = header.RULES | events.RULES
MOST_FAILURES = 20  # of one rule in one log


@dataclass(frozen=True)
class Failure:
    """A rule that a file breaks, and where; line 0 is the file as a whole."""

    path: str
    line: int
    rule: str
    what: str

    def __str__(self) -> str:
        return f"{printable(self.path, 400)}:{self.line}: {self.rule}: {printable(self.what, 400)}"


@dataclass
class Verdict:
    """What verification says of one log (kind "log") or of a folder of logs ("record")."""

    path: Path
    kind: str
    failures: list[Failure] = field(default_factory=list)
    claim: dict | None = None   # None where nothing can be computed
    logs: list[Log] = field(default_factory=list)  # of a record, those that stand

    @property
    def stands(self) -> bool:
        return not self.failures


def check_log(log: Log) -> list[Failure]:
    """Every rule that `log` breaks, in order of line, each MOST_FAILURES times at most. Never raises for what
    the log says."""
    path, found = str(log.path), [(line, "log", what) for line, what in log.problems]
    if log.foreign is not None and not found:
        found = [(1, "log", "a log of modded-nanogpt: without header, hashes and declared seeds it cannot "
                            "stand here; scripts/stats.py reads it")]
    headers = [line for line, kind, _ in log.events if kind == "run"]
    wrong = misfits(log.header) if headers else []
    found += [(headers[-1], "header", what) for what in wrong[:MOST_FAILURES]]
    if headers and not wrong:
        run = Run.of(log, headers[-1])
        for rule, check in RULES.items():
            found += [(line, rule, what) for line, what in islice(check(run), MOST_FAILURES)]
    return [Failure(path, *row) for row in sorted(found, key=lambda row: row[0])]


def _read(path: Path) -> tuple[Log | None, list[Failure]]:
    try:
        log = read_log(path)
    except Refusal as refusal:
        return None, [Failure(str(path), 0, "log", str(refusal))]
    return log, check_log(log)


def judge_log(path: Path) -> Verdict:
    """The verdict on one log by itself: it stands where it is whole, whether or not it shows its target."""
    log, failures = _read(path)
    return Verdict(path, "log", failures, None if failures else claim([log]))


def judge_record(folder: Path) -> Verdict:
    """The verdict on the folder of a record: its logs, that they belong together, and the evidence.

    A record that ends above its target claims nothing, and stands: a result, if not the one hoped for. One
    that ends below it without a step at which the track's rule holds does not stand: it lacks seeds. The
    folder that a run made for itself (it holds its .lock, and is not called DATE_RECIPE) is no record yet: it
    claims nothing, and may hold weights and outputs.
    """
    logs, failures = [], []
    record = FOLDER_NAME.fullmatch(folder.resolve().name) or not (folder / ".lock").exists()
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name in (".lock", ".run_id") or checkpoint.NAME.fullmatch(entry.name):  # the trainer's own
            continue
        suffix = Path(entry.name).suffix
        file = entry.is_file(follow_symlinks=False)
        if suffix in LOGS and not file or record and not (file and suffix in LOGS + BESIDE):
            failures.append(Failure(entry.path, 0, "folder", "a record folder holds logs (.txt, .gz, .xz), "
                                    ".md, .json and .png files, and nothing else"))
        elif suffix in LOGS:
            log, wrong = _read(Path(entry.path))
            failures += wrong
            logs += [log] if not wrong else []
    found = None
    if logs and not failures:
        broken = [*together(folder, logs), *(place(folder, logs) if record else ())]
        failures = [Failure(str(folder), 0, rule, what) for rule, what in broken]
        found = None if failures else claim(logs)
    if record and found and found["board"] and found["step"] is None and found["target"] is not None \
            and found["final"]["mean"] <= found["target"]:
        failures.append(Failure(str(folder), 0, "evidence", shortfall(found)))
    return Verdict(folder, "record", failures, found, logs)


def find(path: Path) -> list[Verdict]:
    """The verdicts on a log, on a record folder, or on every record folder at and below a folder."""
    if not path.is_dir():
        return [judge_log(path)]
    folders = [Path(top) for top, _, names in os.walk(path) if any(Path(n).suffix in LOGS for n in names)]
    verdicts = [judge_record(folder) for folder in sorted(folders)]
    owners: dict = {}
    for verdict in verdicts:
        if verdict.stands and FOLDER_NAME.fullmatch(verdict.path.name):
            if copied := sorted(str(owners[run]) for run in runs(verdict.logs) if run in owners):
                what = f"a run in it is one of {copied[0]}: a run counts once"
                verdict.failures.append(Failure(str(verdict.path), 0, "record", what))
            owners |= dict.fromkeys(runs(verdict.logs), verdict.path)
    return verdicts or [
        Verdict(path, "record", [Failure(str(path), 0, "folder", "holds no log (.txt, .gz, .xz)")])]


########################################
#         What a record claims         #
########################################


def track_series(log: Log) -> dict:
    """`log.series` at the steps of the track's grid alone: what is seen in between makes no claim."""
    run = Run.of(log, 0)
    steps = set(expected_steps(run))
    return {seed: [p for p in points if p.step in steps] for seed, points in log.series.items()}


def machine(log: Log) -> dict:
    """What must be equal for two runs' seconds to be compared at all."""
    hardware = log.header["hardware"]
    gpus = hardware.get("gpus") if isinstance(hardware.get("gpus"), list) else []
    return dict({key: hardware[key] for key in ("device", "name", "cores", "threads")},
                gpus=[str(gpu.get("name")) for gpu in gpus if isinstance(gpu, dict)],
                world_size=log.header["world_size"])


def claim(logs: list[Log]) -> dict:
    """What logs that stand say together, computed from their events alone.

    track, recipe, seeds, n, target, sigma; `step`: the official step, None where the rule holds nowhere or
    the track is custom, with the `mean`, `sd`, `z` and `p` there; `crossing`: the mean crossing step;
    `final`: the mean loss at the end; `seconds`: the mean train_time at `step`, else at the end, None with
    `no_time` saying why; `forked`: the step at which these runs go on from another's checkpoint, None where
    they are whole: forks claim no step, crossing or time; `board`: may it stand on the board, which custom
    tracks, overridden recipes and forks may not; `uncommitted`: a log's code is in the log and in no commit;
    `looks`: how many seeds were declared with the first log,
    the second and so on, in order of their start: one number where nobody could stop by what was seen.
    """
    header, series = logs[0].header, {}
    for log in logs:
        series |= track_series(log)
    track, recipe = header["track"], header["recipe"]
    official, seeds = track["official"], [seed for log in logs for seed in log.header["seeds"]]
    target, sigma = track["target"], rule.KNOWN_SIGMA.get(track["name"]) if official else None
    found, starts = None, [Run.of(log, 0).start[0] for log in logs]
    forked = max(starts) or None
    if official and target is not None and not forked:
        found = rule.official_step(series, target, sigma, seeds)
    step = found["step"] if found else recipe["steps"]
    times = [point.train_time for points in series.values() for point in points if point.step == step]
    machines, resumed = list(map(machine, logs)), any(k == "resume" for log in logs for _, k, _ in log.events)
    declared = [len(log.header["seeds"]) for log in sorted(logs, key=lambda log: log.header["started"])]
    mixed = any(m != machines[0] or len(set(m["gpus"])) > 1 for m in machines)
    no_time = "forked runs" if forked else "resumed runs" if resumed else "mixed hardware" if mixed else None
    return dict(
        track=track["name"] if official else "custom", recipe=recipe["name"], seeds=seeds, n=len(seeds),
        looks=list(accumulate(declared)),
        target=target, sigma=sigma, forked=forked,
        board=official and not forked and "+" not in recipe["name"],
        uncommitted=any((log.header["git"] or {}).get("changed") for log in logs),
        step=found["step"] if found else None,
        **{key: found[key] if found else None for key in ("mean", "sd", "z", "p")},
        crossing=rule.mean_crossing(series, target) if target is not None and not forked else None,
        final=rule.mean_interval(points[-1].val_loss for points in series.values()),
        seconds=None if no_time else rule.mean_interval(times)["mean"], no_time=no_time)


def shortfall(found: dict) -> str:
    """Why a claim has no official step, in words."""
    if found["forked"]:
        return f"it goes on from another run's checkpoint at step {found['forked']}"
    n, final, target = found["n"], found["final"]["mean"], found["target"]
    ends = f"the mean of {n} seed{'s' * (n > 1)} ends at {final:.5f}"
    if final > target:
        return f"{ends}, above the target {target}"
    if found["sigma"] is None and n < 2:
        return f"{ends}, and one seed shows nothing of the spread between seeds: declare more"
    return (f"{ends}, and at no step is it below the target {target} by the track's rule: run more seeds, "
            "declared beforehand")
