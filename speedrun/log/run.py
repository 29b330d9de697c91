"""A log whose header is complete, with its track, its recipe and what its command asked for."""
from dataclasses import dataclass
from types import SimpleNamespace

from tracks import Track

from .command import asked
from .format import Log
from .header import fork_misfits, header_track


@dataclass
class LoggedRun:
    """A log whose header is complete, with what the rules ask of it."""

    log: Log
    line: int                 # of the header
    header: dict
    track: Track
    recipe: SimpleNamespace   # name, steps, schedule_steps
    asked: SimpleNamespace    # what the command asked for

    @classmethod
    def of(cls, log: Log, line: int) -> "LoggedRun":
        recipe = {key: log.header["recipe"][key] for key in ("name", "steps", "schedule_steps")}
        return cls(log, line, log.header, header_track(log.header), SimpleNamespace(**recipe),
                   asked(log.header["command"]))

    @property
    def official(self) -> bool:
        return self.track.official

    @property
    def start(self) -> tuple[int, float]:
        """The step, and the second of the training clock, from which this log tells: the beginning, or where
        its well-formed `fork` event says."""
        data = next((data for _, data in self.of_kind("fork") if not fork_misfits(data)), None)
        return (data["step"], data["seconds"]) if data else (0, 0.0)

    @property
    def options(self) -> list[str]:
        """What the command asks of train_gpt.py, beside track, recipe and seeds, that may change a loss; each
        as one word: no shell, nothing that is not known."""
        asked = self.asked
        words = [f"--{kind}.{field}={text}" for kind, field, text in asked.overrides]
        words += ["--allow-custom"] * any(kind == "track" for kind, _, _ in asked.overrides)
        words += ["--fast"] * asked.fast
        return words + [f"--val-every={asked.val_every}"] * (asked.val_every is not None)

    def of_kind(self, kind: str) -> list[tuple[int, dict]]:
        return self.log.of_kind(kind)
