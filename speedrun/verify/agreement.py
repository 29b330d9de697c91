"""What records must agree on with each other."""
from dataclasses import dataclass

from speedrun.log.format import Log

from .claim import track_series

# Nats by which two runs of one recipe, track and seed may differ at any validation. On the CPU they differ by
# some .00004; on GPUs, in bfloat16 and with other kernels, by about as much as two seeds.
TOLERANCE = {"laptop": 2e-3}
ON_GPUS = 2e-2


@dataclass
class Seen:
    """Of a record, what others are compared with."""

    path: str
    started: str      # of its first run
    track: str
    recipe: str
    sha256: str       # of the resolved recipe
    losses: dict      # seed -> step -> loss
    counts: bool      # whether it can keep a later one from standing: no other lock is broken

    @classmethod
    def of(cls, path, logs: list[Log], counts: bool = True) -> "Seen":
        header = logs[0].header
        losses = {seed: {point.step: point.val_loss for point in points}
                  for log in logs for seed, points in track_series(log).items()}
        return cls(str(path), min(log.header["started"] for log in logs), header["track"]["name"],
                   header["recipe"]["name"], header["sha256"]["recipe"], losses, counts)


def conflicts(records: list[Seen]) -> dict[str, str]:
    """Two recipes of one name on one track do not both stand; of one recipe, equal seeds agree within the
    track's tolerance; and losses that are all those of an earlier record are no new evidence. The later one
    does not stand, and keeps none from standing."""  # returns path -> why, for those that do not
    found, names, first, known = {}, {}, {}, {}
    for record in sorted(records, key=lambda record: (record.started, record.path)):
        kind = record.track, record.recipe
        runs = {(*kind, seed, *sorted(steps.items())) for seed, steps in record.losses.items()}
        why = _other_recipe(record, names.get(kind)) or _repeats(runs, known) or next(filter(None, (
            _differs(record, seed, first.get((*kind, seed))) for seed in record.losses)), None)
        if why is not None:
            found[record.path] = why
        elif record.counts:  # what comes later is compared with the earliest
            names.setdefault(kind, record)
            for seed in record.losses:
                first.setdefault((*kind, seed), record)
            for run in runs:
                known.setdefault(run, record.path)
    return found


def _other_recipe(record: Seen, other: Seen | None) -> str | None:
    if other is None or record.sha256 == other.sha256:
        return None
    return (f"{record.recipe} is another recipe (sha256 {record.sha256[:10]}) than in {other.path} "
            f"({other.sha256[:10]}): give it a name of its own")


def _repeats(runs: set, known: dict) -> str | None:
    if not runs <= known.keys():
        return None
    return f"every loss is that of {min(known[run] for run in runs)}: it counts once"


def _differs(record: Seen, seed: int, other: Seen | None) -> str | None:
    theirs = other.losses[seed] if other else {}
    for step, loss in record.losses[seed].items():
        if step in theirs and abs(loss - theirs[step]) > TOLERANCE.get(record.track, ON_GPUS):
            return (f"seed {seed}, step {step}: loss {loss:.5f}, and {theirs[step]:.5f} in {other.path}, of "
                    "the same recipe and seed")
    return None
