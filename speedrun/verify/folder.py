"""What the folder of a record must keep: its logs belong together; it lies and is named as a record is.

Each rule takes a Folder and yields (0, what is wrong).
"""
from collections import Counter
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path

from speedrun.cli import Refusal, near
from speedrun.log.folder import ABOUT, FOLDER_NAME
from speedrun.log.format import Log
from speedrun.text import plain_json, printable, read_text
from tracks import TRACKS

from .claim import claim, shortfall


@dataclass
class Folder:
    """A folder and its logs, each of which keeps every rule of a log."""

    path: Path
    logs: list[Log]
    record: bool   # False for the folder that a run made for itself, which is no record yet

    @cached_property
    def claim(self) -> dict:
        """What the logs say together, as `claim` has it."""
        return claim(self.logs)


def same_record(folder: Folder):
    """The logs are runs of one code, track, recipe and data."""
    first = folder.logs[0]
    for log in folder.logs[1:]:
        for name in ("code", "track", "recipe", "data"):
            if log.header["sha256"][name] != first.header["sha256"][name]:
                yield 0, f"{log.path.name} and {first.path.name} are runs of different {name}"
        if log.header["recipe"]["name"] != first.header["recipe"]["name"]:
            yield 0, f"{log.path.name} and {first.path.name} name different recipes"


def every_seed(folder: Folder):
    """No seed is in two logs, and none is left out between the seeds of the logs."""
    seeds = Counter(seed for log in folder.logs for seed in log.header["seeds"])
    twice = sorted(seed for seed, times in seeds.items() if times > 1)
    if twice:
        yield 0, f"in more than one log: seed {', '.join(map(str, twice[:10]))}"
    between = range(min(seeds), min(max(seeds), min(seeds) + 10**5)) if len(folder.logs) > 1 else ()
    gaps = [seed for seed in between if seed not in seeds]
    if gaps:
        yield 0, (f"no log declares seed {', '.join(map(str, gaps[:10]))}, between the seeds of "
                  "these logs; add its log, whatever it shows")


def location(folder: Folder):
    """The folder's name has a day of the calendar and its recipe; a record lies in the folder of its track,
    as records/TRACK/YYYY-MM-DD_RECIPE, and its record.json, where it has one, can be read."""
    path, header = folder.path.resolve(), folder.logs[0].header
    track, recipe = header["track"], header["recipe"]["name"]
    named, above = FOLDER_NAME.fullmatch(path.name), path.parent
    if named and named[2] != recipe:
        yield 0, f"its name says {printable(named[2], 60)}, its logs say {printable(recipe, 60)}"
    if not folder.record:
        return
    if above.parent.name == "records" and above.name in TRACKS and not named:
        yield 0, "a record's folder is records/TRACK/YYYY-MM-DD_RECIPE"
    if named:
        try:
            date.fromisoformat(named[1])
        except ValueError:
            yield 0, f"{named[1]} in its name is no day of the calendar"
    meant = above.name in TRACKS or above.parent.name == "records"
    if named and meant and track["official"] and "+" not in recipe and above.name != track["name"]:
        yield 0, (f"its logs are of the track {printable(track['name'], 40)}, and it lies in "
                  f"{printable(above.name, 40)}/")
    try:
        author(path)
    except Refusal as refusal:
        yield 0, str(refusal)


def evidence(folder: Folder):
    """A record whose mean ends below the track's target shows that by the track's rule at some step of the
    grid. One that ends above it claims nothing, and a custom track, an overridden recipe and a fork
    neither."""
    found = folder.claim
    if folder.record and found["board"] and found["step"] is None and found["target"] is not None \
            and found["final"]["mean"] <= found["target"]:
        yield 0, shortfall(found)


def author(folder: Path) -> str | None:
    """Who a record's folder says it is from. Refusal where what it says cannot be read."""
    path = folder / ABOUT
    if not path.exists():
        return None
    try:
        about = plain_json(read_text(path))
    except ValueError as error:
        raise Refusal(f"{ABOUT} is no plain JSON object ({printable(error)})") from None
    if unknown := sorted(set(about) - {"author"}):
        name = printable(unknown[0], 40)
        raise Refusal(f"{ABOUT} has an entry {name!r}, which nothing reads; {near(name, ['author'])}")
    found = about.get("author")
    if found is not None and not (isinstance(found, str) and 0 < len(found) <= 60):
        raise Refusal(f"the author in {ABOUT} is no name of 1 to 60 characters")
    return found


def runs(logs: list[Log]) -> set:
    """What identifies the runs in `logs`: the same twice is a copy."""
    return {(log.header["recipe"]["name"], seed, *((p.step, p.val_loss, p.train_time) for p in points))
            for log in logs for seed, points in log.series.items()}
