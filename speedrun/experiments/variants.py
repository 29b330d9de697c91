"""The variants of a fork: recipes with overrides that agree up to the step at which they part."""
import re
from dataclasses import dataclass

import train_gpt
from optimizers import Recipe, TailAverage
from speedrun.cli import Refusal
from speedrun.log.command import Command
from speedrun.training import resume

SCHEDULE = ("steps", "schedule_steps", "cooldown_frac", "warmup_steps")  # act through lr_factor alone
NAME = re.compile(r"[\w.+=-]+", re.ASCII)  # what a variant's folder may be called


@dataclass
class Variant:
    """A recipe with overrides, "aurora+cooldown_frac=0.5", and what it means on the track of the fork."""

    name: str
    recipe: str
    overrides: list[tuple[str, str]]  # (field, text)
    common: list[str]                 # the arguments of every run of the fork
    plan: train_gpt.Plan

    def command(self, seeds: list[int], without: tuple = ()) -> Command:
        """For these seeds, but for the overrides of the fields `without`."""
        fields = [("recipe", field, text) for field, text in self.overrides if field not in without]
        return Command().plus(recipe=self.recipe, overrides=fields).plus(*self.common, seeds=seeds)

    def plan_of(self, seed: int) -> train_gpt.Plan:
        """Its run of one seed."""
        return train_gpt.parse(list(self.command([seed]).words))


def read_variant(text: str, common: list[str], seeds: list[int]) -> Variant:
    """The variant that `text` names, run with the further arguments `common`. Refusal (exit 2)."""
    recipe, *changes = re.split(r"\+(?=[A-Za-z_][\w.]*=)", text)
    if not NAME.fullmatch(text) or "=" in recipe:
        raise Refusal(f"--variants {text!r}: write a recipe and its overrides like "
                      "aurora+cooldown_frac=0.5+aux.head_lr=0.005", code=2)
    found = Variant(text, recipe, [tuple(change.split("=", 1)) for change in changes], common, None)
    found.plan = train_gpt.parse(list(found.command(seeds).words))
    return found


def read_variants(texts: list[str], common: list[str], seeds: list[int], at: int) -> list[Variant]:
    """The variants, which agree up to step `at`. Refusal (exit 2) that names where they do not."""
    variants = [read_variant(text, common, seeds) for text in texts]
    first = variants[0]
    for variant in variants:
        if not 0 < at < variant.plan.recipe.steps:
            raise Refusal(f"--at {at}: {variant.name} takes {variant.plan.recipe.steps} steps; fork at "
                          "a step between the first and the last", code=2)
        if apart := differs(first.plan.recipe, variant.plan.recipe, at):
            sooner = "fork earlier, or " * ("at step" in apart)
            raise Refusal(f"{first.name} (there) and {variant.name} (here) differ before step {at}, "
                          f"{apart}; {sooner}compare them by scripts/compare.py", code=2)
    return variants


def differs(there: Recipe, here: Recipe, at: int) -> str | None:
    """What in the first `at` steps keeps two recipes from sharing them, None where nothing does.

    The fields of the schedule may differ while every learning rate before step `at` is the same, and so may
    tail averages that begin after it; nothing else may.
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
    found["wrappers"] = [repr(wrapper) for wrapper in recipe.wrappers if not waits(wrapper, at)]
    found["aux"] = {name: value for name, value in found["aux"].items() if name != "cooldown_frac"}
    return {name: dict(enumerate(value)) if isinstance(value, list) else value
            for name, value in found.items() if name not in ("name", "note", *SCHEDULE)}


def waits(wrapper, at: int) -> bool:
    """Has this wrapper no state yet, and no effect, when `at` steps are taken?"""
    return isinstance(wrapper, TailAverage) and wrapper.first > at
