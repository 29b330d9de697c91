"""Forks: runs that share their first steps are trained once up to there, and then each goes on by itself.

    DIR/seed0             the trunk: a run of the first variant, with a checkpoint at the step of the fork
    DIR/seed0_VARIANT     goes on from that checkpoint; a `fork` event in its log says so

A fork's folder is that of a run that stopped at the step of the fork, so that `train_gpt.py --resume` trains
the rest. All the variants see the same weights, optimizer states and data up to there, so what they end with
is what full runs of theirs end with (on the CPU to the digit), and the runs of one seed are paired.
"""
import hashlib
import os
import re
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import train_gpt
from optimizers import Recipe, TailAverage, build_optimizers
from speedrun.cli import Refusal
from speedrun.log.command import Command
from speedrun.log.folder import checkpoint_name, the_log
from speedrun.log.format import Log, digest, now, sums
from speedrun.log.reader import read_log
from speedrun.log.writer import LogWriter
from speedrun.training import checkpoint, resume
from speedrun.training.begin import run_header

SCHEDULE = ("steps", "schedule_steps", "cooldown_frac", "warmup_steps")  # act through lr_factor alone
NAME = re.compile(r"[\w.+=-]+", re.ASCII)  # what a variant's folder may be called


@dataclass
class Variant:
    """A recipe with overrides, "aurora+cooldown_frac=0.5", and what it means on the track of the fork."""

    name: str
    recipe: str
    overrides: list[tuple[str, str]]
    plan: train_gpt.Plan

    def words(self, without: tuple = ()) -> list[str]:
        """Its arguments for train_gpt.py, but the overrides of the fields `without`."""
        fields = [("recipe", field, text) for field, text in self.overrides if field not in without]
        return list(Command().plus(recipe=self.recipe, overrides=fields).words)


def read_variant(text: str, common: list[str], seeds: list[int]) -> Variant:
    """The variant that `text` names, run with the further arguments `common`. Refusal (exit 2)."""
    recipe, *changes = re.split(r"\+(?=[A-Za-z_][\w.]*=)", text)
    if not NAME.fullmatch(text) or "=" in recipe:
        raise Refusal(f"--variants {text!r}: write a recipe and its overrides like "
                      "aurora+cooldown_frac=0.5+aux.head_lr=0.005", code=2)
    found = Variant(text, recipe, [tuple(change.split("=", 1)) for change in changes], None)
    found.plan = train_gpt.parse(list(Command(found.words()).plus(*common, seeds=seeds).words))
    return found


########################################
#        What recipes have in common   #
########################################


def differs(there: Recipe, here: Recipe, at: int) -> str | None:
    """What in the first `at` steps keeps two recipes from sharing them, None where nothing does.

    The fields of the schedule may differ while every learning rate before step `at` is the same, and so may
    tail averages that begin behind it; nothing else may.
    """
    if found := resume.difference(_early(there, at), _early(here, at)):
        return found[0]
    for which, name in (("hidden matrices", "cooldown_frac"), ("auxiliary AdamW", "aux_cooldown_frac")):
        shares = [getattr(recipe, name) for recipe in (there, here)]
        for step in range(at):
            a, b = (train_gpt.lr_factor(step, r, share) for r, share in zip((there, here), shares))
            if a != b:
                return f"the lr of the {which} at step {step}: {a:.6g} of its peak there, {b:.6g} here"
    return None


def _early(recipe: Recipe, at: int) -> dict:
    """The fields of a recipe that act before step `at`, but through lr_factor; lists by number."""
    found = recipe.resolved()
    found["wrappers"] = [repr(wrapper) for wrapper in recipe.wrappers if not _waits(wrapper, at)]
    found["aux"] = {name: value for name, value in found["aux"].items() if name != "cooldown_frac"}
    return {name: dict(enumerate(value)) if isinstance(value, list) else value
            for name, value in found.items() if name not in ("name", "note", *SCHEDULE)}


def _waits(wrapper, at: int) -> bool:
    """Has this wrapper no state yet, and no effect, when `at` steps are taken?"""
    return isinstance(wrapper, TailAverage) and wrapper.first > at


def at_the_fork(tensors: dict, trunk: Recipe, plan: train_gpt.Plan, at: int) -> dict:
    """The tensors of a trunk's checkpoint as `plan` goes on from them: of the param groups only their share
    of the cooldown may differ, and wrappers that wait have taken `at` steps and keep nothing."""
    with torch.device("meta"):
        fresh = build_optimizers(train_gpt.GPT(plan.track.model), plan.recipe)
    optimizers = []
    for optimizer, state in zip(fresh, tensors["optimizers"], strict=True):
        groups = [dict(group, cooldown_frac=new["cooldown_frac"]) for group, new in
                  zip(state["param_groups"], optimizer.param_groups, strict=True)]
        optimizers.append(dict(state, param_groups=groups))
    kept = iter([state for wrapper, state in zip(trunk.wrappers, tensors["wrappers"], strict=True)
                 if not _waits(wrapper, at)])
    wrappers = [dict(step=at, state={}) if _waits(wrapper, at) else next(kept)
                for wrapper in plan.recipe.wrappers]
    return dict(tensors, optimizers=optimizers, wrappers=wrappers)


########################################
#         Trunks and their forks       #
########################################


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
        """The trunk in `folder`. Refusal where it is not one of this seed and track that `first` goes on
        from at step `at`."""
        path = the_log(folder)
        log = read_log(path)
        plan = train_gpt.parse(resume.arguments(folder))
        apart = differs(plan.recipe, first.plan.recipe, at)
        wrong = [what for here, what in (
            (log.problems, "its log is damaged"), (log.status != "complete", f"it is {log.status}"),
            (log.header.get("seeds") != [seed], f"it is not of seed {seed} alone"),
            (plan.track != first.plan.track, f"it is of another track than {first.name}"),
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
        """Does this log say that it goes on from here, under the recipe and on the track of `plan`?"""
        said = [(data.get("sha256"), data.get("step")) for _, data in log.of_kind("fork")]
        own = sums({}, asdict(plan.track), plan.recipe.resolved(), {})
        theirs = log.header.get("sha256", {})
        return said == [(self.sha256, self.at)] and all(theirs.get(name) == own[name]
                                                        for name in ("track", "recipe"))


def own_header(plan: train_gpt.Plan) -> dict:
    """What opening.run_header says of `plan`."""
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
