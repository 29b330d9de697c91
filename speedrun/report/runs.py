"""The runs of one recipe, from the logs and record folders that a command line names."""
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from speedrun.cli import Refusal
from speedrun.log.folder import SUFFIXES
from speedrun.log.format import Log, without_note
from speedrun.log.header import schema_errors
from speedrun.log.reader import read_log
from speedrun.stats import rule
from speedrun.text import printable
from speedrun.verify.claim import track_series

RACE = "fineweb-124m"  # modded-nanogpt's logs, which name no track, are of this one's conditions


@dataclass
class RecipeRuns:
    """The runs of one recipe on one track, by seed.

    A log of modded-nanogpt declares no seeds and seldom states them: a run of unknown seed goes by its file
    and number, and is never paired. name: the recipe's, printable. track, recipe, data: None where the logs
    do not say.
    """

    name: str
    track: dict | None
    recipe: dict | None
    data: dict | None
    logs: list[Log] = field(default_factory=list)
    series: dict = field(default_factory=dict)   # seed -> validations
    on_grid: dict = field(default_factory=dict)  # those at the steps of the track's grid
    paired: bool = True       # every run states its seed

    @property
    def declared(self) -> bool:
        """Whether every log names its seeds beforehand."""
        return all(log.header.get("seeds") is not None for log in self.logs)

    @property
    def codes(self) -> set:
        """sha256 of each log's code, None where it is not said."""
        sums = [log.foreign or log.header.get("sha256") for log in self.logs]
        return {str(of["code"]) if isinstance(of, dict) and "code" in of else None for of in sums}

    @property
    def forked(self) -> bool:
        """Whether a log starts from another run's checkpoint: then these runs claim no official step."""
        return any(log.forked for log in self.logs)

    @property
    def sigma(self) -> float | None:
        """The sd of the loss between seeds where the track's rule knows it."""
        track = self.track or dict(name=RACE, official=True)
        return rule.KNOWN_SIGMA.get(track.get("name")) if track.get("official", True) is True else None

    @property
    def last_step(self) -> int:
        """The last step that every seed validates. Refusal where there is none."""
        if not (steps := rule.common_steps(self.series)):
            raise Refusal(f"the seeds of {self.name} share no validation step; test logs of one schedule")
        return steps[-1]

    def official_step(self, target: float) -> dict | None:
        """rule.official_step of these runs; None where they are forks, which claim none."""
        return None if self.forked else rule.official_step(self.on_grid, target, self.sigma)

    def losses_at(self, step: int) -> dict:
        """seed -> loss at `step`. Refusal where a seed has none there."""
        losses = rule.losses_at(self.series, step)
        if missing := [seed for seed in self.series if seed not in losses]:
            near = sorted(rule.common_steps(self.series), key=lambda s: abs(s - step))[:3]
            near = ", ".join(map(str, sorted(near)))
            near = f"name one that all have, as {near}" if near else "no step is in all"
            raise Refusal(f"step {step}: {self.name}, seed {missing[0]} has no validation there; {near}",
                          code=2)
        if bad := [seed for seed, loss in losses.items() if not math.isfinite(loss)]:
            raise Refusal(f"step {step}: the loss of {self.name}, seed {bad[0]} is {losses[bad[0]]} there")
        return losses

    def of_same_data(self, other: "RecipeRuns") -> bool:
        """The same validation shards, and training shards as far as both go: a longer run may read more."""
        if self.data is None or other.data is None:
            return self.data is other.data
        train = [data.get("train") for data in (self.data, other.data)]
        if all(isinstance(shards, list) for shards in train):
            train = [shards[:min(map(len, train))] for shards in train]
        return train[0] == train[1] and self.data.get("val") == other.data.get("val")

    @property
    def doubts(self) -> list[str]:
        """What these logs leave open."""
        found = []
        if not self.declared:
            found.append("these logs declare no seeds, so that n was fixed beforehand cannot be seen")
        if len(self.codes) > 1:
            found.append(f"the logs of {self.name} hold {len(self.codes)} versions of the code")
        return found


def read_runs(paths: list[Path]) -> RecipeRuns:
    """The runs in `paths`, logs or folders of logs. Refusal as `runs_of`."""
    return runs_of(map(read_log, log_files(paths)))


def runs_of(logs: Iterable[Log]) -> RecipeRuns:
    """The runs in `logs`, at least one. Refusal for a log that is not whole, of another recipe than the
    first, without exactly its declared seeds, or with a seed that is there already."""
    found = None
    for log in logs:
        where = printable(log.path)
        if log.problems:
            line, what = log.problems[0]
            more = f" (and {len(log.problems) - 1} more)" if len(log.problems) > 1 else ""
            raise Refusal(f"{where}:{line}: {what}{more}; only whole logs are tested: leave it out, or see "
                          "what `scripts/verify.py` says of it")
        if log.foreign is None and log.status != "complete":
            raise Refusal(f"{where}: the run is {log.status}; a test without all its seeds is of survivors, "
                          "so finish the run")
        track, recipe, data = (value if isinstance(value := log.header.get(name), dict) else None
                               for name in ("track", "recipe", "data"))
        if found is None:
            name = printable((recipe or {}).get("name", "a recipe without a name"), 60)
            found = RecipeRuns(name, track, recipe, data)
        if [without_note(part) for part in (track, recipe, data)] != [
                found.track, without_note(found.recipe), found.data]:
            raise Refusal(f"{where} is of another track, recipe or data than the logs before it; test one "
                          "recipe at a time")
        _enter(found, log, where)
    return found


def log_files(paths: list[Path]) -> list[Path]:
    found = []
    for path in paths:
        inside = [path]
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
            if not inside:
                raise Refusal(f"{printable(path)} holds no log ({', '.join(SUFFIXES)}); name a record "
                              "folder or logs", code=2)
        found += inside
    return found


def _enter(runs: RecipeRuns, log: Log, where: str) -> None:
    """Put the runs of one log among those of its recipe."""
    declared = log.header.get("seeds")
    if declared is not None and declared != list(log.series):
        raise Refusal(f"{where}: declared are the seeds {printable(declared)}, in the log are "
                      f"{printable(list(log.series))}; every declared seed counts, and no other: leave "
                      "this log out")
    if not log.series:
        raise Refusal(f"{where}: no validation in this log")
    runs.logs.append(log)
    on_grid = log.series if log.foreign or schema_errors(log.header) else track_series(log)
    for run, points in log.series.items():
        seed = log.foreign["seeds"].get(run) if log.foreign else run
        if seed is None:
            runs.paired, seed = False, f"{where}:{run}"
        if seed in runs.series:
            raise Refusal(f"{where}: seed {seed} of this recipe is in a run before it; a seed counts once")
        runs.series[seed], runs.on_grid[seed] = points, on_grid[run]
