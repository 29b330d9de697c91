"""What challenge.json beside a record says: that a part was trained again, by whom, with what outcome."""
import hashlib
from pathlib import Path

from speedrun.cli import Refusal
from speedrun.log.format import Log
from speedrun.log.header import number, text, whole
from speedrun.text import plain_json, printable, read_text

from .history import History

CHALLENGE = "challenge.json"
STEPS = 25          # from the start of the seed; fewer where its first validation comes earlier
TOLERANCE = 1e-4    # nats between two machines, of the first STEPS steps; measured: under .00005


def drawn_seed(logs: list[Log]) -> int:
    """The seed to be trained again: drawn by the hashes that end the logs, which no one knows before."""
    seeds = sorted(seed for log in logs for seed in log.header["seeds"])
    mark = hashlib.sha256(last_hash(logs).encode()).hexdigest()
    return seeds[int(mark, 16) % len(seeds)]


def last_hash(logs: list[Log]) -> str:
    """The hashes of the last lines of a record's logs, in order."""
    return " ".join(sorted(log.last_hash for log in logs))


def read(path: Path, logs: list[Log], history: History) -> tuple[bool | None, str]:
    """Whether the record at `path` (a folder, or a log) was challenged and agreed, as a lock answers."""
    file = (path if path.is_dir() else path.parent) / CHALLENGE
    if not file.exists():
        return None, f"not challenged yet: run `python scripts/challenge.py {printable(path, 200)}`"
    try:
        found = plain_json(read_text(file))
    except (Refusal, ValueError) as error:
        return False, f"{CHALLENGE} cannot be read ({printable(error)})"
    if not (text(found.get("last_hash")) and whole(found.get("seed")) and text(found.get("by"))
            and text(found.get("when")) and isinstance(found.get("points"), list)):
        return False, f"{CHALLENGE} is not what scripts/challenge.py writes"
    if found["last_hash"] != last_hash(logs):
        return False, f"{CHALLENGE} is of other logs: run scripts/challenge.py again"
    if found["seed"] != drawn_seed(logs):
        return False, f"{CHALLENGE} is of seed {found['seed']}; these logs draw seed {drawn_seed(logs)}"
    if found.get("harness") not in history.commits:
        harness = f"the harness of {CHALLENGE}, {printable(found.get('harness'), 10)},"
        return (None, f"not checked here: {history.missing}") if history.missing else (
            False, f"{harness} is of no commit that this checkout descends from")
    return _outcome(found, logs)


def _outcome(found: dict, logs: list[Log]) -> tuple[bool | None, str]:
    points = next(log.series[found["seed"]] for log in logs if found["seed"] in log.series)
    logged = {point.step: point.val_loss for point in points}
    by = f"by {printable(found['by'], 60)}, {printable(found['when'], 30)}"
    again = {point.get("step"): point.get("loss") for point in found["points"] if isinstance(point, dict)}
    trained = [step for step in again if whole(step) and step > 0]
    if not trained or not all(number(again[step]) and step in logged for step in again):
        return False, f"{CHALLENGE} has no loss of a step that the log has"
    far = max(again, key=lambda step: abs(again[step] - logged[step]))
    gap = abs(again[far] - logged[far])
    if gap > TOLERANCE:
        return False, (f"challenged {by}: seed {found['seed']}, step {far}: the log has {logged[far]:.5f}, "
                       f"trained again {again[far]:.5f}; {TOLERANCE} is allowed")
    return True, (f"challenged {by}: seed {found['seed']} to step {max(trained)}, largest difference "
                  f"{gap:.5f}, with the harness of {printable(found.get('harness'), 10)}")
