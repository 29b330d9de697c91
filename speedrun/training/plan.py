"""A run as its command line asks for it."""
import argparse
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from data import shards
from optimizers import RECIPES, Recipe, resolve
from speedrun import ROOT
from speedrun.cli import Parser, Refusal, near
from speedrun.log.command import add_flags
from tracks import PRESETS, TRACKS, Track

from .overrides import apply_overrides, read_overrides
from .world import ALONE, World

DESCRIPTION = ("Train a GPT-2-small-class model to a target validation loss, with Aurora or a baseline; "
               "log the evidence.")
EXAMPLE = """examples:
  python train_gpt.py --track laptop --recipe muon --seeds 0 1 2
  torchrun --standalone --nproc_per_node=8 train_gpt.py --recipe.lr 0.03
"""


@dataclass
class Plan:
    """A run as the command line asks for it."""

    args: argparse.Namespace
    track: Track
    recipe: Recipe
    data_dir: Path
    device: str


def parse(argv: list[str]) -> Plan:
    """The plan of a command line; Refusal (exit 2) for one that cannot be."""
    parser = Parser(prog="train_gpt.py", description=DESCRIPTION, epilog=EXAMPLE)
    add_flags(parser, recipes=", ".join(RECIPES))
    args, rest = parser.parse_known_args(argv, argparse.Namespace(argv=argv))
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise Refusal("--device cuda: this torch sees no CUDA device; check nvidia-smi, or use cpu", code=2)
    name, tracks = args.track or ("fineweb-124m" if device == "cuda" else "laptop"), {**TRACKS, **PRESETS}
    for noun, given, known in (("track", name, tracks), ("recipe", args.recipe, RECIPES)):
        if given not in known:
            raise Refusal(f"unknown {noun} {given!r}; {near(given, known)}", code=2)
    if len(set(args.seeds)) < len(args.seeds) or not 0 <= min(args.seeds) <= max(args.seeds) < 2**32:
        raise Refusal(f"--seeds {' '.join(map(str, args.seeds))}: each seed once, in 0..2**32-1", code=2)
    for flag, every in (("--val-every", args.val_every), ("--checkpoint-every", args.checkpoint_every)):
        if every is not None and every < 1:
            raise Refusal(f"{flag} {every}: give a number of steps of at least 1", code=2)
    flags = [*parser._option_string_actions, *(f"--recipe.{f.name}" for f in fields(Recipe)[2:-2])]
    overrides = read_overrides(rest, flags)
    overrides += [] if args.steps is None else [("recipe", "steps", str(args.steps))]
    track, recipe = apply_overrides(tracks[name], resolve(args.recipe, name), overrides, args.allow_custom)
    folder = args.data_dir or ROOT / "data"
    nested = folder / track.data  # --data-dir may name the shards' folder or the one around it
    return Plan(args, track, recipe, nested if nested.is_dir() or not args.data_dir else folder, device)


def open_streams(plan: Plan, world: World = ALONE) -> tuple[shards.TokenStream, shards.TokenStream]:
    """The training and validation streams; Refusal where the shards are missing, broken, or too few."""
    fix = f"run `python {shards.fetch_words(plan.track, plan.recipe.steps)}`"
    if plan.args.data_dir:
        fix += " and leave --data-dir out, or fit the track to your data: --allow-custom --track.val_tokens N"
    return shards.open_streams(plan.data_dir, plan.track, plan.recipe.steps, world.rank, world.size, fix)
