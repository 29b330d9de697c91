"""A log whose header is complete, with its track, its recipe and what its command asked for."""
from dataclasses import dataclass
from types import SimpleNamespace

from tracks import Track

from .command import Command
from .format import Log
from .header import fork_errors, header_track


@dataclass
class LoggedRun:
    """A log whose header is complete, with what the rules ask of it."""

    log: Log
    line: int                 # of the header
    header: dict
    track: Track
    recipe: SimpleNamespace   # name, steps, schedule_steps
    command: Command          # what was asked for

    @classmethod
    def of(cls, log: Log, line: int) -> "LoggedRun":
        recipe = {key: log.header["recipe"][key] for key in ("name", "steps", "schedule_steps")}
        return cls(log, line, log.header, header_track(log.header), SimpleNamespace(**recipe),
                   Command.read(log.header["command"]))

    @property
    def official(self) -> bool:
        return self.track.official

    @property
    def start(self) -> tuple[int, float]:
        """The step, and the second of the training clock, from which this log tells: the beginning, or where
        its well-formed `fork` event says."""
        data = next((data for _, data in self.of_kind("fork") if not fork_errors(data)), None)
        return (data["step"], data["seconds"]) if data else (0, 0.0)

    def of_kind(self, kind: str) -> list[tuple[int, dict]]:
        return self.log.of_kind(kind)
