"""The verdict on a log and on the folder of a record: it stands, it is consistent, or it does not verify.

A log verifies where it is whole and agrees with itself, with its track and with the arithmetic of its events;
a record where all its logs do, are runs of one thing, and show by the track's rule what they seem to show.
Of these, those stand that every lock holds of (locks.py, agreement.py); the others are consistent: on no
board, and `why` says for which reason.
"""
import os
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path

from speedrun.cli import Refusal
from speedrun.log.folder import BESIDE, CHECKPOINT, FOLDER_NAME, LOCK, RUN_ID, SUFFIXES
from speedrun.log.format import Log
from speedrun.log.reader import read_log
from speedrun.log.run import LoggedRun
from speedrun.text import printable

from .agreement import Seen, conflicts
from .claim import claim as claim_of
from .folder import Folder, runs
from .history import History
from .history import history as history_of
from .locks import Evidence, Lock, locks_of
from .rules import Rule, rules_of

MOST_FAILURES = 20  # of one rule in one log; the reader says itself where it stopped


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
    logs: list[Log] = field(default_factory=list)    # those that keep every rule of a log
    locks: list[Lock] = field(default_factory=list)  # none where it does not verify, or can be on no board

    @property
    def verifies(self) -> bool:
        return not self.failures

    @property
    def stands(self) -> bool:
        return self.verifies and self.why is None

    @property
    def outcome(self) -> str:
        return "stands" if self.stands else "consistent" if self.verifies else "does not verify"

    @property
    def why(self) -> str | None:
        """Why one that verifies is on no board; None for one that stands."""
        if self.claim is not None and not self.claim["board"]:
            return off_board(self.claim)
        broken = sorted((lock for lock in self.locks if not lock.holds), key=lambda lock: lock.holds is None)
        return str(broken[0]) if broken else None if self.locks else "it holds no log that verifies"


def off_board(claim: dict) -> str:
    """Why runs of this claim can be on no board."""
    return ("a custom track" if claim["track"] == "custom" else "forked from another run" if claim["forked"]
            else "a recipe overridden on the command line")


def check_log(log: Log) -> list[Failure]:
    """Every rule that `log` breaks, in order of line, each MOST_FAILURES times at most. Never raises for what
    the log says."""
    found = _broken(rules_of("text"), log)
    headers = [line for line, kind, _ in log.events if kind == "run"]
    if headers and all(rule != "header" for _, rule, _ in found):
        found += _broken(rules_of("log"), LoggedRun.of(log, headers[-1]))
    return [Failure(str(log.path), *row) for row in sorted(found, key=lambda row: row[0])]


def _broken(rules: list[Rule], subject) -> list[tuple]:
    """(line, rule, what) of every rule that the subject breaks."""
    return [(line, rule.name, what) for rule in rules
            for line, what in islice(rule.check(subject), MOST_FAILURES + (rule.name == "log"))]


def _read(path: Path) -> tuple[Log | None, list[Failure]]:
    try:
        log = read_log(path)
    except Refusal as refusal:
        return None, [Failure(str(path), 0, "log", str(refusal))]
    return log, check_log(log)


def judge_log(path: Path, history: History | None = None) -> Verdict:
    """The verdict on one log by itself, whether or not it shows its target. The lock of agreement is left
    out: `verdicts` has it."""
    log, failures = _read(path)
    claim, logs = (None, []) if failures else (claim_of([log]), [log])
    return Verdict(path, "log", failures, claim, logs, _locks(path, logs, claim, history))


def _locks(path: Path, logs: list[Log], claim: dict | None, history: History | None) -> list[Lock]:
    if claim is None or not claim["board"]:
        return []
    return locks_of(Evidence(path, logs, history or history_of()))


def judge_record(folder: Path, history: History | None = None) -> Verdict:
    """The verdict on the folder of a record: its logs, that they belong together, the evidence, the locks
    (agreement left out, as in judge_log).

    A record that ends above its target claims nothing, and may stand: a result, if not the one hoped for. One
    that ends below it without a step at which the track's rule holds does not verify: it lacks seeds. The
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
    claim = None
    if logs and not failures:
        subject = Folder(folder, logs, bool(record))
        for stage in ("folder", "evidence"):  # no evidence is weighed of logs that do not belong together
            if not failures:
                failures = [Failure(str(folder), *row) for row in _broken(rules_of(stage), subject)]
                claim = claim or (None if failures else subject.claim)
    return Verdict(folder, "record", failures, claim, logs,
                   [] if failures else _locks(folder, logs, claim, history))


def verdicts(paths: list[Path], history: History | None = None) -> list[Verdict]:
    """The verdicts on each log, record folder, and on every record folder at and below a folder, with the
    lock of agreement: among these, and with the records of the history's clone."""
    history = history or history_of()
    found = [verdict for path in paths for verdict in _below(path, history)]
    others = [verdict for track in {v.claim["track"] for v in found if v.locks}
              for verdict in _records(history, track)]
    where = {verdict.path.resolve() for verdict in found} | {v.path.resolve().parent for v in found}
    _agree(found, [verdict for verdict in others if verdict.path.resolve() not in where])
    return found


def _below(path: Path, history: History) -> list[Verdict]:
    if not path.is_dir():
        return [judge_log(path, history)]
    folders = [Path(top) for top, _, names in os.walk(path)
               if any(Path(name).suffix in SUFFIXES for name in names)]
    found = [judge_record(folder, history) for folder in sorted(folders)]
    owners: dict = {}
    for verdict in found:
        if verdict.verifies and FOLDER_NAME.fullmatch(verdict.path.name):
            if copied := sorted(str(owners[run]) for run in runs(verdict.logs) if run in owners):
                what = f"a run in it is one of {copied[0]}: a run counts once"
                verdict.failures.append(Failure(str(verdict.path), 0, "record", what))
            owners |= dict.fromkeys(runs(verdict.logs), verdict.path)
    return found or [
        Verdict(path, "record", [Failure(str(path), 0, "folder", "holds no log (.txt, .gz, .xz)")])]


@lru_cache
def _records(history: History, track: str) -> list[Verdict]:
    """The verdicts on the records of a track in the history's clone."""
    folders = sorted((history.root / "records" / track).glob("*/"))
    return [judge_record(folder, history) for folder in folders if FOLDER_NAME.fullmatch(folder.name)]


def _agree(found: list[Verdict], others: list[Verdict]) -> None:
    """Give each of `found` the lock of agreement, among themselves and with `others`."""
    seen = [Seen.of(v.path, v.logs, all(lock.holds is not False for lock in v.locks))
            for v in (*others, *found) if v.locks]
    broken = conflicts(seen)
    for verdict in (v for v in found if v.locks):
        why, count = broken.get(str(verdict.path)), sum(s.recipe == verdict.claim["recipe"] and s.counts and
                                                        s.path != str(verdict.path) for s in seen)
        how = why or f"compared with {count} other record{'s' * (count != 1)} of {verdict.claim['recipe']}"
        verdict.locks.append(Lock("agreement", why is None, how))
