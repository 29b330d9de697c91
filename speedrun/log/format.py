"""The record log: one plain text file a run, flushed event by event, each event hashed onto the last.

    @ log {"format": 1, ...} #5f0c2a7b9d3e4f61
    @ source {"path": "train_gpt.py", "lines": 612, "sha256": "..."} #...      then those lines, verbatim
    @ run {command, track, recipe, seeds, versions, settings, hardware, data, git} #...
    @ warmup {...} #...        @ seed {"seed": 0, ...} #...
    step:<step>/<steps> val_loss:<nats> train_time:<s>s step_avg:<ms>ms seed:<k> #...
    @ checkpoint {...} #...    @ resume {...} #...    (where a run that stopped is resumed, after its `end`)
    @ fork {trunk, sha256, step, seconds} #...    (after `run`: it continues from that log's checkpoint)
    @ end {"status": "complete", ...} #...

The hash after an event is the start of sha256(hash of the event before it + the line), so an edit, a splice
or a dropped line is found; a source's lines are covered by the sha256 in its event. Whoever edits a log can
compute the hashes again: they show that a log is consistent, not that it is true. A log
without an `end` event is incomplete. The `step:` lines stand at column 0, as modded-nanogpt's own parser
reads them.
"""
import hashlib
import json
import math
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

FORMAT = 1
NO_END = "no `end` event"
MAX_PROBLEMS, MAX_EVENTS = 20, 200_000  # a text that has more is not read further
EVENT = re.compile(r"@ ([a-z_]+) (\{.*\}) #([0-9a-f]{16})")
WHOLE = r"(0|[1-9][0-9]{0,17})"
STEP = re.compile(rf"step:{WHOLE}/{WHOLE} val_loss:([0-9]{{1,9}}\.[0-9]{{5}}|nan|inf) "
                  r"train_time:([0-9]{1,9}\.[0-9]{3})s step_avg:([0-9]{1,9}\.[0-9]{2})ms "
                  rf"seed:{WHOLE}((?: [a-z_]+:\S+)*) #([0-9a-f]{{16}})")


def link(before: str, line: str) -> str:
    """The 16 hex digits after `line`, given those after the event before it ("" at the start)."""
    return hashlib.sha256((before + line).encode()).hexdigest()[:16]


def without_note(recipe):
    """A resolved recipe without its note, which decides nothing; what is no recipe as it is."""
    return {k: v for k, v in recipe.items() if k != "note"} if isinstance(recipe, dict) else recipe


def now() -> str:
    """UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def clocks() -> tuple[float, float]:
    """Seconds by the clock on the wall, which someone or a time server may set, and by one that only runs."""
    return time.time(), time.monotonic()


@dataclass(slots=True)
class Point:
    """One validation."""

    step: int
    val_loss: float      # nats
    train_time: float    # seconds of the training clock
    line: int            # in the log, from 1
    steps: int = 0       # where the run stops
    step_avg: float = math.nan                 # milliseconds
    more: dict = field(default_factory=dict)   # what else the line says: key -> text


@dataclass
class Log:
    """What a log says, and what is wrong: `problems` holds (line, what), empty for a consistent log.

    A log of modded-nanogpt has no header, no hashes, no declared seeds and no status: `foreign` then holds
    what it says of itself (upstream.py), and `series` its trials by number.
    """

    path: Path
    header: dict = field(default_factory=dict)               # the `run` event
    sources: dict[str, str] = field(default_factory=dict)    # path -> text
    events: list = field(default_factory=list)               # (line, kind, data), in order
    series: dict[int, list[Point]] = field(default_factory=dict)  # seed -> validations
    status: str = "incomplete"
    problems: list = field(default_factory=list)
    foreign: dict | None = None
    last_hash: str = ""                                      # of the last event

    def of_kind(self, kind: str) -> list[tuple[int, dict]]:
        """(line, data) of each event of this kind, in order."""
        return [(line, data) for line, k, data in self.events if k == kind]

    def last(self, kind: str) -> dict:
        """The data of the last event of this kind, {} where there is none."""
        found = self.of_kind(kind)
        return found[-1][1] if found else {}

    @property
    def forked(self) -> bool:
        """Does the run start from a checkpoint of another run?"""
        return bool(self.of_kind("fork"))

    @property
    def resumed(self) -> bool:
        """Did the run stop and resume? (A fork begins by a `resume`, so it did too.)"""
        return bool(self.of_kind("resume"))


def digest(value) -> str:
    """sha256 of plain JSON, written canonically."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sums(sources: dict, track: dict, recipe: dict, data: dict) -> dict:
    """The sha256 of what decides a run; a recipe's note does not."""
    return dict(code=digest(sources), track=digest(track), data=digest(data),
                recipe=digest(without_note(recipe)))
