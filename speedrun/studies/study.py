"""A named study: cells (a recipe and what is changed in it) times seeds, and the logs that it has.

file.py reads one, runs.py runs what is missing, figures.py says what the logs show. A cell's learning rate
and weight decay are those that records/tuning holds as its recipe's best, where there is such a table and the
cell does not set them.
"""
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from optimizers import RECIPES, resolve
from speedrun.cli import Refusal, near
from speedrun.log.command import Command
from speedrun.log.folder import SUFFIXES
from speedrun.log.format import Log
from speedrun.log.header import schema_errors
from speedrun.log.reader import read_log
from speedrun.text import printable
from speedrun.training.plan import Plan, parse


@dataclass
class Tuning:
    """Grids for scripts/sweep.py: recipe -> lr, weight_decay. Every recipe has equally many runs."""

    seeds: list[int]
    grids: dict[str, dict]

    @property
    def runs(self) -> int:
        """Of each recipe: every lr, then every weight decay but the first at the best lr."""
        return max(len(grid["lr"]) + len(grid["weight_decay"]) - 1 for grid in self.grids.values())


@dataclass
class Cell:
    """One row of a study. `overrides` are (kind, dotted field, text) as train_gpt.py reads them; `x` is its
    place on the axis of a picture that has one."""

    label: str
    recipe: str | None
    logs: Path | None
    baseline: str | None
    seeds: list[int]
    overrides: list[tuple[str, str, str]]
    x: float | None = None
    line: str | None = None
    track: str = ""
    tuning: Path = Path()

    @property
    def words(self) -> list[str]:
        """For train_gpt.py, but for seeds and folders."""
        named = {dotted for kind, dotted, _ in self.overrides if kind == "recipe"}
        own = resolved(self.recipe, self.track)
        tuned = [("recipe", name, repr(value)) for name, value in self.tuned().items()
                 if name not in named and value != own[name]]
        custom = any(kind == "track" for kind, _, _ in self.overrides)
        return list(Command().plus(track=self.track, recipe=self.recipe, allow_custom=custom,
                                   overrides=(*tuned, *self.overrides)).words)

    def tuned(self) -> dict:
        """The best lr and weight_decay of the recipe's table, {} where there is none."""
        path = self.tuning / f"{self.track}_{self.recipe}.json"
        if not path.exists():
            return {}
        try:
            best = json.loads(path.read_text())["best"]
            return {name: float(best[name]) for name in ("lr", "weight_decay")}
        except (ValueError, KeyError, TypeError):
            raise Refusal(f"{path} is no table of scripts/sweep.py; restore it, or delete it and tune "
                          "again") from None

    @cached_property
    def plan(self) -> Plan:
        """What train_gpt.py makes of the words; Refusal for what it refuses."""
        try:
            return parse(self.words)
        except Refusal as refusal:
            raise Refusal(f"cell {self.label}: {refusal}", code=2) from None

    def misfit(self, log: Log) -> str | None:
        """Why `log` does not belong to this cell; None where it does. Fields that only one of the two has,
        and the form of a stage, are later additions to the code and do not count."""
        if wrong := log.problems or [(0, what) for what in schema_errors(log.header)]:
            return f"it is damaged: {printable(wrong[0][1])}"
        if log.status != "complete":
            return f"its run is {log.status}"
        there, here = Command.read(log.header["command"]), self.plan
        pairs = [("recipe", there.args.recipe, here.args.recipe),
                 ("stages", _stages(there.overrides), _stages(self.overrides))]
        for kind, ours in (("recipe", here.recipe.resolved()), ("track", asdict(here.track))):
            theirs = log.header[kind]
            pairs += [(f"{kind}.{name}", theirs[name], value) for name, value in _plain(ours).items()
                      if name in theirs and (kind, name) not in LATER]
        for name, theirs, ours in pairs:
            if theirs != ours:
                return f"its {name} is {printable(theirs, 60)}, the study's {printable(ours, 60)}"
        return None


@dataclass(frozen=True)
class Contrast:
    """The difference of[0] - of[1] of two cells, by label, or with `minus` that of two such differences."""

    label: str
    of: list[str]
    minus: list[str]


LATER = (("recipe", "name"), ("recipe", "note"), ("recipe", "matrices"), ("recipe", "wrappers"))


def _stages(overrides) -> list:
    return sorted([dotted, text] for kind, dotted, text in overrides
                  if kind == "recipe" and dotted.split(".")[0] in ("matrices", "wrappers"))


def _plain(value):
    return json.loads(json.dumps(value))


def resolved(recipe: str, track: str) -> dict:
    """The fields of a named recipe on a track; Refusal for an unknown one."""
    if recipe not in RECIPES:
        raise Refusal(f"unknown recipe {printable(recipe)!r}; {near(recipe, RECIPES)}", code=2)
    return resolve(recipe, track).resolved()


@dataclass
class Study:
    """A study file, and where its logs are."""

    name: str
    question: str
    seeds: list[int]            # of a cell that has none of its own
    cells: list[Cell]
    contrasts: list[Contrast]
    tuning: Tuning | None
    track: str
    device: str | None
    picture: str                # one of PICTURES
    axis: str                   # what the cells' x is
    over: str                   # what the gains of a picture of growth are over
    note: str                   # for its page
    ranges: list[list]          # of x, each of which gets a rank correlation of its own
    folder: Path                # of its logs, README.md and picture

    def table(self, recipe: str) -> Path:
        """Where scripts/sweep.py keeps what it found for a recipe."""
        return self.folder.parents[1] / "tuning" / f"{self.track}_{recipe}.json"

    def path(self, cell: Cell, seed: int) -> Path:
        return self.folder / cell.label / f"seed{seed}.txt.xz"

    def diverged(self, cell: Cell) -> list[int]:
        """The seeds whose run diverged: a result, so it is not run again."""
        return [seed for seed in cell.seeds if cell.logs is None and self.end(cell, seed).exists()]

    def end(self, cell: Cell, seed: int) -> Path:
        """The file that says why a run diverged."""
        return self.folder / cell.label / f"seed{seed}.diverged.json"

    def logs(self, cell: Cell) -> list[Path]:
        """Of the cell's seeds that are done; all that there are, where they were made elsewhere."""
        if cell.logs is not None:
            return sorted(path for path in cell.logs.glob("*") if path.suffix in SUFFIXES)
        return [path for seed in cell.seeds if (path := self.path(cell, seed)).exists()]

    def missing(self) -> list[tuple[Cell, int]]:
        """What is left to run, seed by seed, so that every cell has its first seed before any has its
        second. Refusal where a log in the place of one is not of its cell."""
        left = []
        for seed in dict.fromkeys(seed for cell in self.cells for seed in cell.seeds):
            for cell in self.cells:
                path = self.path(cell, seed)
                if cell.logs is not None or seed not in cell.seeds:
                    continue
                if not path.exists():
                    left += [(cell, seed)] * (not self.end(cell, seed).exists())
                elif why := cell.misfit(read_log(path)):
                    raise Refusal(f"{printable(path)} is not of cell {cell.label}: {why}; move it away to "
                                  "run the seed again, or fix the study file")
        return left
