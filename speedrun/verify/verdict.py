"""The rules of verification: what a log, and a folder of logs, must keep to stand.

A log stands where it is whole and agrees with itself, with its track and with the arithmetic of its events;
a record where all its logs stand, are runs of one thing, and show by the track's rule what they seem to show.
Whether the runs happened, only a replay shows.
"""
import os
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from speedrun.cli import Refusal
from speedrun.log.folder import BESIDE, CHECKPOINT, FOLDER_NAME, LOCK, RUN_ID, SUFFIXES
from speedrun.log.format import Log
from speedrun.log.header import schema_errors
from speedrun.log.reader import read_log
from speedrun.log.run import LoggedRun
from speedrun.text import printable

from . import events, header
from .claim import claim, shortfall
from .folder import place, runs, together

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
    wrong = schema_errors(log.header) if headers else []
    found += [(headers[-1], "header", what) for what in wrong[:MOST_FAILURES]]
    if headers and not wrong:
        run = LoggedRun.of(log, headers[-1])
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
    record = FOLDER_NAME.fullmatch(folder.resolve().name) or not (folder / LOCK).exists()
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name in (LOCK, RUN_ID) or CHECKPOINT.fullmatch(entry.name):  # the trainer's own
            continue
        suffix = Path(entry.name).suffix
        file = entry.is_file(follow_symlinks=False)
        if suffix in SUFFIXES and not file or record and not (file and suffix in SUFFIXES + BESIDE):
            failures.append(Failure(entry.path, 0, "folder", "a record folder holds logs (.txt, .gz, .xz), "
                                    ".md, .json and .png files, and nothing else"))
        elif suffix in SUFFIXES:
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
    folders = [Path(top) for top, _, names in os.walk(path) if any(Path(n).suffix in SUFFIXES for n in names)]
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
