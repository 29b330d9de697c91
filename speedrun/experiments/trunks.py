"""The trunk of a fork, and the folder of a run that starts from its checkpoint.

A fork's folder is made that of a run that stopped at the step of the fork, so that `train_gpt.py --resume`
trains the rest.
"""
import hashlib
import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import train_gpt
from optimizers import Recipe, build_optimizers
from speedrun.cli import Refusal
from speedrun.log.command import Command
from speedrun.log.folder import checkpoint_name, the_log
from speedrun.log.format import Log, digest, now, sums
from speedrun.log.reader import read_log
from speedrun.log.writer import LogWriter
from speedrun.training import checkpoint, resume
from speedrun.training.begin import run_header

from .variants import Variant, differs, waits


def at_the_fork(tensors: dict, trunk: Recipe, plan: train_gpt.Plan, at: int) -> dict:
    """The tensors of a trunk's checkpoint as `plan` starts from them: of the param groups only their share
    of the cooldown may differ, and wrappers that wait have taken `at` steps and keep nothing."""
    with torch.device("meta"):
        fresh = build_optimizers(train_gpt.GPT(plan.track.model), plan.recipe)
    optimizers = []
    for optimizer, state in zip(fresh, tensors["optimizers"], strict=True):
        groups = [dict(group, cooldown_frac=new["cooldown_frac"]) for group, new in
                  zip(state["param_groups"], optimizer.param_groups, strict=True)]
        optimizers.append(dict(state, param_groups=groups))
    kept = iter([state for wrapper, state in zip(trunk.wrappers, tensors["wrappers"], strict=True)
                 if not waits(wrapper, at)])
    wrappers = [dict(step=at, state={}) if waits(wrapper, at) else next(kept)
                for wrapper in plan.recipe.wrappers]
    return dict(tensors, optimizers=optimizers, wrappers=wrappers)


@dataclass
class Trunk:
    """A complete run with a checkpoint at the step of the fork."""

    folder: Path
    seed: int
    at: int
    log: Log
    recipe: Recipe
    sha256: str  # of its log

    @classmethod
    def of(cls, folder: Path, seed: int, at: int, first: Variant) -> "Trunk":
        """The trunk in `folder`. Refusal where it is not one of this seed and track that `first` continues
        at step `at`."""
        path = the_log(folder)
        log = read_log(path)
        command = Command(resume.arguments(folder))
        plan, changed = train_gpt.parse(list(command.words)), command.differs(first.command([seed]))
        apart = differs(plan.recipe, first.plan.recipe, at)
        wrong = [what for here, what in (
            (log.problems, "its log is damaged"), (log.status != "complete", f"it is {log.status}"),
            (log.header.get("seeds") != [seed], f"it is not of seed {seed} alone"),
            (plan.track != first.plan.track, f"it is of another track than {first.name}"),
            (changed, f"it has another {changed} than {first.name}"),
            (apart, f"{first.name} differs from it before step {at}, {apart}")) if here]
        if wrong:
            raise Refusal(f"the trunk {folder} cannot be used: {wrong[0]}; name another --trunk folder, or "
                          f"delete {folder} and {folder}_* and run this again")
        return cls(folder, seed, at, log, plan.recipe, hashlib.sha256(path.read_bytes()).hexdigest())

    def checkpoint(self) -> tuple[dict, dict]:
        """(about, tensors) at the fork. Refusal where the checkpoint is missing or damaged."""
        path = self.folder / f"{checkpoint_name(0, self.at)}.json"
        try:
            about, tensors = checkpoint.load(path)
            of = about["seed"], about["step"], about["identity"]
            if of != (self.seed, self.at, digest(resume.identity(self.log.header, self.log.sources))):
                raise ValueError("it is of another run")
        except ValueError as error:
            raise Refusal(f"the trunk's {path.stem} in {self.folder} cannot be used: {error}; delete that "
                          f"folder and {self.folder}_* and run this again, or name another --trunk "
                          "folder") from None
        return about, tensors

    def leads_to(self, log: Log, plan: train_gpt.Plan) -> bool:
        """Does this log say that it continues from here, as `plan` does?"""
        said = [(data.get("sha256"), data.get("step")) for _, data in log.of_kind("fork")]
        own = sums({}, asdict(plan.track), plan.recipe.resolved(), {})
        theirs, command = log.header.get("sha256", {}), Command.read(str(log.header.get("command")))
        return said == [(self.sha256, self.at)] and not command.differs(Command(plan.args.argv)) and all(
            theirs.get(name) == own[name] for name in ("track", "recipe"))


def own_header(plan: train_gpt.Plan) -> dict:
    """What begin.run_header says of `plan`."""
    return run_header(plan, *train_gpt.open_streams(plan))


def prepare(folder: Path, trunk: Trunk, plan: train_gpt.Plan, header: dict, world_size: int) -> None:
    """Make `folder` that of a run of `plan` that stopped at the trunk's checkpoint: a log whose header says
    what the rest is and where the trunk was trained, its `fork` event, and the checkpoint.

    header: own_header(plan). Refusal where the trunk's data or checkpoint cannot be used, or the disk is
    full.
    """
    data, theirs = header["data"], trunk.log.header["data"]
    if data["val"] != theirs["val"] or data["train"][:len(theirs["train"])] != theirs["train"]:
        raise Refusal(f"the trunk {trunk.folder} was trained on other shards than those in {plan.data_dir}; "
                      "give its --data-dir")
    about, tensors = trunk.checkpoint()
    part = folder.with_name(folder.name + ".part")  # whole where it has its name
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    log = LogWriter(part / f"{time.strftime('%Y%m%d-%H%M%S')}_{plan.track.label}_{plan.recipe.name}.txt")
    for path, text in trunk.log.sources.items():
        log.source(path, text)
    own = dict(header, sha256=sums(trunk.log.sources, header["track"], header["recipe"], data))
    log.event("run", **{**trunk.log.header, **own, "started": now(), "world_size": world_size,
                        "command": Command(plan.args.argv).logged()})
    log.event("fork", trunk=trunk.log.path.name, sha256=trunk.sha256, step=trunk.at,
              seconds=round(about["seconds"], 3))
    os.close(log.file)
    identity = digest(resume.identity(own, trunk.log.sources))
    try:
        checkpoint.save(part, 0, dict(about, identity=identity),
                        at_the_fork(tensors, trunk.recipe, plan, trunk.at))
    except Refusal as refusal:
        raise Refusal(f"{str(refusal).split(';')[0]}; free space and run this again, what is done is "
                      "kept") from None
    part.rename(folder)


def resumable(folder: Path) -> bool:
    """Has a fork's folder a whole checkpoint? Without one it would start from the initial weights."""
    for path in folder.glob("checkpoint_*.json"):
        try:
            checkpoint.load(path)
            return True
        except ValueError:
            continue
    return False
