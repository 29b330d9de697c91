"""What the folder of a record must keep: its logs belong together; it lies and is named as a record is."""
from collections import Counter
from datetime import date
from pathlib import Path

from speedrun.cli import Refusal, near
from speedrun.log.folder import ABOUT, FOLDER_NAME
from speedrun.log.format import Log
from speedrun.text import plain_json, printable, read_text
from tracks import TRACKS


def together(folder: Path, logs: list[Log]):
    """(rule, what) of each way in which logs that stand are not the runs of one record."""
    first = logs[0]
    for log in logs[1:]:
        for name in ("code", "track", "recipe", "data"):
            if log.header["sha256"][name] != first.header["sha256"][name]:
                yield "record", f"{log.path.name} and {first.path.name} are runs of different {name}"
        if log.header["recipe"]["name"] != first.header["recipe"]["name"]:
            yield "record", f"{log.path.name} and {first.path.name} name different recipes"
    seeds = Counter(seed for log in logs for seed in log.header["seeds"])
    twice = sorted(seed for seed, times in seeds.items() if times > 1)
    if twice:
        yield "seeds", f"in more than one log: seed {', '.join(map(str, twice[:10]))}"
    between = range(min(seeds), min(max(seeds), min(seeds) + 10**5)) if len(logs) > 1 else ()
    gaps = [seed for seed in between if seed not in seeds]
    if gaps:
        yield "seeds", (f"no log declares seed {', '.join(map(str, gaps[:10]))}, between the seeds of "
                        "these logs; add its log, whatever it shows")
    named, recipe = FOLDER_NAME.fullmatch(folder.resolve().name), first.header["recipe"]["name"]
    if named and named[2] != recipe:
        yield "folder", f"its name says {printable(named[2], 60)}, its logs say {printable(recipe, 60)}"


def place(folder: Path, logs: list[Log]):
    """(rule, what) of what keeps a folder that is a record, or is meant as one, off the board."""
    folder, track = folder.resolve(), logs[0].header["track"]
    named, above = FOLDER_NAME.fullmatch(folder.name), folder.parent
    official = track["official"] and "+" not in logs[0].header["recipe"]["name"]
    if above.parent.name == "records" and above.name in TRACKS and not named:
        yield "folder", "a record's folder is records/TRACK/YYYY-MM-DD_RECIPE"
    if named:
        try:
            date.fromisoformat(named[1])
        except ValueError:
            yield "folder", f"{named[1]} in its name is no day of the calendar"
    meant = above.name in TRACKS or above.parent.name == "records"
    if named and meant and official and above.name != track["name"]:
        yield "folder", (f"its logs are of the track {printable(track['name'], 40)}, and it lies in "
                         f"{printable(above.name, 40)}/")
    try:
        author(folder)
    except Refusal as refusal:
        yield "folder", str(refusal)


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
