"""The locks: what makes a record that agrees with itself one that stands.

Each takes an Evidence and returns (holds, how): True with how it was checked, False with what is wrong, None
with what is missing for it to be known.
"""
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from speedrun.log.folder import FOLDER_NAME
from speedrun.log.format import Log
from speedrun.log.run import LoggedRun
from speedrun.text import printable

from . import challenged, closure, names, plausible
from .history import History

Answer = tuple[bool | None, str]
CLOCKS_DIFFER = 3600  # seconds by which two machines' clocks may differ
HOOKS = {"sitecustomize", "usercustomize"}  # what Python runs before the code that a log holds


@dataclass(frozen=True)
class Evidence:
    """Logs that keep every rule, where they lie, and the history that they are held to."""

    path: Path          # of the record's folder, or of a log by itself
    logs: list[Log]
    history: History

    @property
    def runs(self) -> list[LoggedRun]:
        return [LoggedRun.of(log, 0) for log in self.logs]


@dataclass(frozen=True)
class Lock:
    """A lock's state for one record: `holds` is None where it is not known."""

    name: str
    holds: bool | None
    how: str

    def __str__(self) -> str:
        state = {True: "holds", False: "does not hold", None: "not known"}[self.holds]
        return f"{self.name}: {state}: {printable(self.how, 600)}"


def _commit(log: Log, history: History) -> tuple[str | None, Answer | None]:
    """The log's commit where the history has it, else the answer of a lock that needs it."""
    state = log.header["git"]
    if history.missing and (state is None or state["commit"] not in history.commits):
        return None, (None, f"not checked here: {history.missing}")
    if state is None:
        return None, (False, "the log names no commit: it ran outside a git clone")
    if state["commit"] not in history.commits:
        return None, (False, f"its commit {state['commit'][:10]} is none that this checkout descends from; a "
                             "submission brings the commit it ran, and it is merged, not squashed")
    return state["commit"], None


def harness(evidence: Evidence) -> Answer:
    """Every source outside optimizers/ is, byte for byte, the file of that path in the log's commit, which is
    one that this checkout descends from (`--base main`: and unchanged since main, so that a submission brings
    no harness of its own); and the log holds every module that its sources import."""
    for log in evidence.logs:
        commit, answer = _commit(log, evidence.history)
        if answer:
            return answer
        base = evidence.history.reviewed(commit)
        if base is None:
            return False, f"its commit {commit[:10]} has nothing in common with {evidence.history.base}"
        asked = "harness", log.header["sha256"]["code"], commit, base
        if asked not in evidence.history.known:
            evidence.history.known[asked] = _foreign(log, evidence.history, commit, base)
        if wrong := evidence.history.known[asked]:
            return False, f"{log.path.name}: {wrong}"
    return True, f"every source outside optimizers/ is that of commit {base[:10]}, of this checkout's history"


def _foreign(log: Log, history: History, commit: str, base: str) -> str | None:
    """What of a log's sources outside optimizers/ is not that of a commit, or is left out."""
    own = {path: text for path, text in log.sources.items() if not path.startswith("optimizers/")}
    if altered := history.altered(base, own):
        more = f" and {len(altered) - 1} more" if len(altered) > 1 else ""
        return f"{altered[0]}{more} is not that of commit {base[:10]}"
    missing = closure.not_in_the_log(log.sources, history.tree(commit))
    return f"its sources import {missing[0]}, which it does not hold" if missing else None


def name(evidence: Evidence) -> Answer:
    """The recipe is what optimizers/ of the log's commit make of its name on its track, field by field; these
    are the log's own optimizers/, byte for byte, and they are run for that in a process of its own. Never
    skipped: without torch it is not known."""
    for run in evidence.runs:
        commit, answer = _commit(run.log, evidence.history)
        if answer:
            return answer
        own = {path: text for path, text in run.log.sources.items() if path.startswith("optimizers/")}
        if altered := evidence.history.altered(commit, own):
            return False, (f"{altered[0]} in {run.log.path.name} is not that of commit {commit[:10]}: commit "
                           "optimizers/ before the run")
        if not names.can_ask():
            return None, "not checked here: torch is missing; run scripts/setup.sh"
        recipes = names.recipes_of(run.header["sha256"]["code"], run.log.sources)
        if recipes is None:
            return None, f"optimizers/ of commit {commit[:10]} cannot be asked for their recipes here"
        made = recipes.get(run.recipe.name, {}).get(run.track.name)
        if made is None:
            return False, f"commit {commit[:10]} has no recipe {printable(run.recipe.name, 40)}"
        there = run.header["recipe"]
        for field in sorted((made.keys() | there.keys()) - {"name", "note"}):
            if made.get(field) != there.get(field):
                return False, (f"{field} is {printable(there.get(field), 60)} in the log; {run.recipe.name} "
                               f"of commit {commit[:10]} has {printable(made.get(field), 60)}")
    return True, f"optimizers/ of commit {commit[:10]}, run by themselves, make it {run.recipe.name}"


def challenge(evidence: Evidence) -> Answer:
    """Someone trained the first steps of one seed again, with the repository's harness and the record's
    optimizers/, and the losses agree: challenge.json beside the log says so. The seed is drawn from the
    hashes that end the logs, which nobody chooses before the run ends."""
    return challenged.read(evidence.path, evidence.logs, evidence.history)


def plausibility(evidence: Evidence) -> Answer:
    """The loss at step 0 is ln V, as a head of zeros gives; each seed ends with diagnostics of the kind that
    its recipe has; its training clock shows no less than its hardware's peak allows."""
    for run in evidence.runs:
        for check in plausible.CHECKS:
            for what in check(run):
                return False, what
    least = plausible.least_seconds(evidence.runs[0])
    known = "no peak of its hardware is known" if least is None else f"no seed took under {least:.1f} s"
    return True, f"first losses and diagnostics are those of the track and the recipe; {known}"


def pins(evidence: Evidence) -> Answer:
    """The sha256 of every shard is in tracks.py; seeds are 0 to n - 1; a run starts after its commit was
    made, and its folder is not dated before it; no hook of Python's start and no module from elsewhere was
    loaded, as far as the harness of its commit logs that."""
    runs = evidence.runs
    declared = sorted(seed for run in runs for seed in run.header["seeds"])
    if declared != list(range(len(declared))):
        shown = " ".join(map(str, declared[:8]))
        return False, f"its seeds are {shown}, and those of a record are 0 to n - 1"
    for run in runs:
        commit, answer = _commit(run.log, evidence.history)
        if answer:
            return answer
        for wrong in (_dated(run, evidence, commit), _loaded(run)):
            if wrong:
                return False, wrong
    shards = [shard["name"] for split in ("train", "val") for shard in runs[0].header["data"][split]]
    if unpinned := [shard for shard in shards if shard not in runs[0].track.sha256]:
        return None, (f"tracks.py has no sha256 of {printable(unpinned[0], 60)}: `sha256sum data/"
                      f"{runs[0].track.data}/*.bin` prints those here, to compare with the hub's")
    return True, "shards of tracks.py, seeds 0 to n - 1, begun after its commit, no code from elsewhere"


def _dated(run: LoggedRun, evidence: Evidence, commit: str) -> str | None:
    started = datetime.strptime(run.header["started"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    made = evidence.history.commits[commit]
    if started.timestamp() < made - CLOCKS_DIFFER:
        return (f"{run.log.path.name} starts at {run.header['started']}, before its commit was made "
                f"({datetime.fromtimestamp(made, UTC):%Y-%m-%dT%H:%M:%SZ})")
    named = FOLDER_NAME.fullmatch(evidence.path.resolve().name)
    if named and date.fromisoformat(named[1]) < started.date() - timedelta(days=1):
        return f"its folder is dated {named[1]}, before the run ({run.header['started']})"
    return None


def _loaded(run: LoggedRun) -> str | None:
    """What was loaded that no source tells, by every `imports` of the log."""
    found = [run.header, *(data for _, data in run.of_kind("resume"))]
    logs_it = "speedrun/training/provenance.py" in run.log.sources  # from that commit on the harness does
    for about in (data.get("imports") for data in found):
        if not logs_it and about is None:
            continue
        modules = about.get("modules") if isinstance(about, dict) else None
        if not isinstance(modules, dict):
            return "the log does not say what was loaded beside its sources"
        if hooks := sorted(HOOKS & set(modules)):
            return f"{hooks[0]} ran before the code that the log holds (sha256 {modules[hooks[0]]})"
        if about.get("variables"):
            return f"{printable(about['variables'][0], 40)} was set, which can change what is imported"
        if modules:
            first = min(modules)
            return f"{printable(first, 60)} was loaded, of no package that the requirements name"
    return None


LOCKS: dict[str, Callable[[Evidence], Answer]] = dict(
    harness=harness, name=name, challenge=challenge, plausibility=plausibility, pins=pins)


def locks_of(evidence: Evidence) -> list[Lock]:
    """Each lock for one record, agreement left out: that takes the other records, see agreement.py."""
    return [Lock(title, *lock(evidence)) for title, lock in LOCKS.items()]
