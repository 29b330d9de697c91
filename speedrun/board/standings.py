"""The board: the records under a folder that stand, ranked track by track, from their logs alone."""
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from speedrun.cli import Refusal
from speedrun.log.folder import FOLDER_NAME, SUFFIXES
from speedrun.stats import intervals, rule
from speedrun.stats.crossing import crossing_step
from speedrun.text import printable
from speedrun.verify.agreement import Seen, conflicts
from speedrun.verify.claim import machine, track_series
from speedrun.verify.folder import author, runs
from speedrun.verify.history import history
from speedrun.verify.names import can_ask
from speedrun.verify.verdict import judge_record
from tracks import TRACKS

MANY = 50  # records from which several processes are worth their start


@dataclass
class Entry:
    """A record that stands."""

    path: str             # of its folder, under that of the records: TRACK/YYYY-MM-DD_RECIPE
    claim: dict           # as verdict.claim
    series: dict          # seed -> validations on the track's grid
    date: str             # of its last run's start, UTC
    author: str | None
    machine: dict | None  # as verdict.machine, None where no time is claimed
    runs: set             # what identifies its runs: the same twice is a copy
    seen: Seen            # what other records are compared with
    why: str | None       # why it does not stand, agreement left out; None where it does

    @property
    def reached(self) -> bool:
        return self.claim["step"] is not None


@dataclass
class Board:
    """The records of a folder by what becomes of them."""

    entries: list[Entry]      # on the board
    failures: dict[str, str]  # folder -> why it does not verify
    left_out: dict[str, str]  # folder -> why a record that verifies does not stand


########################################
#              The records             #
########################################


def record_folders(root: Path) -> list[Path]:
    """The folders in which a record is, or is meant: those below a track's that hold a log, and those with
    the name of a record. Logs in other folders, as those of studies, are not the board's."""
    found = []
    for top, _, names in os.walk(root):
        parts = Path(top).relative_to(root).parts
        holds = any(Path(name).suffix in SUFFIXES for name in names)
        named = 0 < len(parts) <= 2 and FOLDER_NAME.fullmatch(parts[-1])
        if named or (holds and (not parts or parts[0] in TRACKS)):
            found.append(Path(top))
    return sorted(found)


def read_board(root: Path) -> Board:
    """Verify every record at and below `root`. Refusal where it cannot be known of any whether it stands."""
    if missing := history().missing or (None if can_ask() else "torch is missing: run scripts/setup.sh"):
        raise Refusal(f"no record is known to stand: {missing}")
    folders = record_folders(root)
    paths = [folder.relative_to(root).as_posix() for folder in folders]
    if len(folders) < MANY:
        found = list(map(_try, folders, paths))
    else:
        with ProcessPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            found = list(pool.map(_try, folders, paths, chunksize=8))
    board, owners = Board([], {}, {}), {}
    for path, entry in zip(paths, found):
        if isinstance(entry, str):
            board.failures[path] = entry
        elif copied := sorted(owners[run] for run in entry.runs if run in owners):
            board.failures[path] = f"a run in it is one of {copied[0]}: a run counts once"
        elif entry.why:
            board.left_out[path] = entry.why
        else:
            board.entries.append(entry)
        if path not in board.failures:
            owners |= dict.fromkeys(entry.runs, path)
    board.left_out |= conflicts([entry.seen for entry in board.entries])
    board.entries = [entry for entry in board.entries if entry.path not in board.left_out]
    return board


def _try(folder: Path, path: str) -> Entry | str:
    """The entry of a record folder, or why it does not stand."""
    try:
        return _enter(folder, path)
    except Refusal as refusal:
        return str(refusal)


def _enter(folder: Path, path: str) -> Entry:
    """The entry of a record folder. Refusal where it does not stand."""
    parts = path.split("/")
    if len(parts) != 2 or not FOLDER_NAME.fullmatch(parts[1]) or not path.isprintable():
        raise Refusal("a record's folder is records/TRACK/YYYY-MM-DD_RECIPE")
    verdict = judge_record(folder)
    if not verdict.verifies:
        first, *rest = verdict.failures
        more = f", and {len(rest)} more" if rest else ""
        raise Refusal(f"{Path(first.path).name}:{first.line}: {first.rule}: {first.what}{more}")
    if (claim := verdict.claim) is None:
        raise Refusal("it holds no log")
    if claim["board"] and claim["track"] != parts[0]:
        raise Refusal(f"its logs are of the track {printable(claim['track'], 40)}")
    logs = verdict.logs
    series = {seed: points for log in logs for seed, points in track_series(log).items()}
    date = max(log.header["started"] for log in logs)[:10]
    of = None if claim["no_time"] else machine(logs[0])
    return Entry(path, claim, series, date, author(folder), of, runs(logs), Seen.of(path, logs), verdict.why)


########################################
#              The ranking             #
########################################


@dataclass
class Standing:
    """A record in its track's table."""

    entry: Entry
    place: int | None      # None for one that does not reach the track's target
    against: dict | None   # `against` the row above; None for the first of those that reach it, or do not

    def plain(self) -> dict:
        """Plain JSON: the claim, and where it puts the record."""
        entry = self.entry
        return dict(entry.claim, path=entry.path, place=self.place, reached=entry.reached,
                    against=self.against, date=entry.date, author=entry.author, machine=entry.machine)


def standings(entries: list[Entry]) -> dict[str, list[Standing]]:
    """track -> its records: by official step, then by mean crossing step; after these, or where the track
    has no target, by mean final loss."""
    found = {}
    for track in TRACKS:
        rows = []
        for entry in sorted((e for e in entries if e.claim["track"] == track), key=_rank):
            placed = entry.reached or entry.claim["target"] is None
            above = rows[-1].entry if rows and rows[-1].entry.reached == entry.reached else None
            rows.append(Standing(entry, len(rows) + 1 if placed else None, above and against(entry, above)))
        found[track] = rows
    return found


def _rank(entry: Entry) -> tuple:
    claim, last = entry.claim, float("inf")
    crossing = claim["crossing"]["mean"] if entry.reached else None
    return (claim["step"] if entry.reached else last, last if crossing is None else crossing,
            claim["final"]["mean"], entry.path)


def steps_to_target(entry: Entry) -> dict | None:
    """seed -> the step at which its loss comes down to the target, for a record that reached it.

    Where the track has an exchange rate (the pairwise rule of modded-nanogpt's track 3) it is the official
    step + (loss there - target) / rate, so that two records differ by that rule's bracket / rate. Elsewhere
    it is the crossing step; None where a seed never crosses.
    """
    claim = entry.claim
    if claim["sigma"] is not None:
        return {seed: claim["step"] + (loss - claim["target"]) / rule.NATS_PER_STEP
                for seed, loss in rule.losses_at(entry.series, claim["step"]).items()}
    steps = {seed: crossing_step(points, claim["target"]) for seed, points in entry.series.items()}
    return None if None in steps.values() else steps


def against(entry: Entry, above: Entry) -> dict:
    """`entry` - `above` as intervals.compare has it, in steps to the target where both reached it, else in
    final loss; `unit` says which. `method` and `p` are None where the steps cannot be compared."""
    if entry.reached and above.reached:
        steps = steps_to_target(entry), steps_to_target(above)
        return dict(dict(method=None, p=None) if None in steps else intervals.compare(*steps), unit="steps")
    final = ({seed: points[-1].val_loss for seed, points in e.series.items()} for e in (entry, above))
    return dict(intervals.compare(*final), unit="nats")
