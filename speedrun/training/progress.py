"""What the trainer tells a person: tracks and recipes, progress, the outcome. Of a run only rank 0 speaks."""
import sys
from dataclasses import asdict

import torch

from speedrun.cli import Refusal, print_json
from speedrun.log.peaks import peak_flops


def listing(tracks: dict, presets: dict, recipes: dict, as_json: bool) -> None:
    """Tracks, presets and recipes, for --list."""
    every = {**tracks, **presets}
    if as_json:
        print_json(dict(tracks={name: dict(target=t.target, tokens_per_step=t.tokens_per_step, data=t.data,
                                           preset=name in presets) for name, t in every.items()},
                        recipes={name: dict(steps=r.steps, note=r.note) for name, r in recipes.items()}))
        return
    for name, t in every.items():
        target = f"target {t.target}" if t.target else "no target"
        print(f"track   {name:13} {t.tokens_per_step:7,} tokens a step, {target:11} data/{t.data}"
              + ("" if name in tracks else "  (preset: runs as `custom`)"))
    for name, r in recipes.items():
        print(f"recipe  {name:13} {r.steps:5,} steps of a 124M track. {r.note}")


def say(run, line: str) -> None:
    """A line for the person, by rank 0; with --json stdout is kept for the one object."""
    if run.world.rank == 0:
        print(line, file=sys.stderr if run.plan.args.json else sys.stdout, flush=True)


def report(run, step: int, seconds: float, train_loss, val_loss=None) -> None:
    """One line for the person, by rank 0 of a train_gpt.Run. Losses in nats, or None; seconds of the training
    clock."""
    if run.world.rank != 0:
        return
    rate = step * run.plan.track.tokens_per_step / seconds if seconds else 0
    peak = peak_flops(torch.cuda.get_device_name()) if run.world.device.type == "cuda" else None
    mfu = rate * run.flops / (peak * run.world.size) if peak else None
    say(run, progress(step, run.plan.recipe.steps, seconds, rate, mfu, train_loss, val_loss))


def progress(step: int, steps: int, seconds: float, rate: float, mfu, train_loss, val_loss) -> str:
    """One line of a run's progress: losses in nats, rate in tokens/s; what is None is left out."""
    parts = [f"step {step}/{steps}"]
    losses = {"val_loss": val_loss and round(val_loss, 5), "train_loss": train_loss}  # as the log rounds
    parts += [f"{name} {loss:.4f}" for name, loss in losses.items() if loss is not None]
    if rate:
        parts += [f"{rate:,.0f} tokens/s", *([f"mfu {mfu:.1%}"] if mfu else []), f"elapsed {seconds:.0f}s",
                  f"left {seconds / step * (steps - step):.0f}s"]
    return "  ".join(parts)


def dry_run(plan, parameters: int, flops_per_token: float, held) -> None:
    """What would run: one fact a line, then one field of the track and of the recipe a line, by the names
    that override them. held: the steps that the shards hold, or the Refusal they are answered with."""
    track, recipe = plan.track, plan.recipe.resolved()
    hidden = ("name", "official", "sha256")
    fixed = {name: value for name, value in asdict(track).items() if name not in hidden}
    found = dict(track=track.label, seeds=plan.args.seeds, device=plan.device, steps=plan.recipe.steps,
                 parameters=parameters,
                 training_flops=flops_per_token * track.tokens_per_step * plan.recipe.steps)
    if isinstance(held, Refusal):
        found.update(data=f"not ready: {held}")
    else:
        found.update(data=str(plan.data_dir), steps_that_the_shards_hold=held)
    if plan.args.json:
        return print_json({**found, "track_fields": fixed, "recipe": recipe})
    found.update({f"track.{name}": value for name, value in fixed.items() if name != "model"})
    found.update({f"track.model.{name}": value for name, value in fixed["model"].items()})
    found.update({f"recipe.{name}": value for name, value in recipe.items()})
    for name, value in found.items():
        print(f"{name:26} {value}")


def summary(run, outcomes: list[dict]) -> None:
    """What happened, in a few lines or as one JSON object, by rank 0."""
    if run.world.rank != 0:
        return
    track, recipe, world = run.plan.track, run.plan.recipe, run.world
    if run.plan.args.json:
        return print_json(dict(status="complete", track=track.label, recipe=recipe.name, target=track.target,
                               log=str(run.opened.log.path), seeds=outcomes))
    for o in outcomes:
        target = "" if track.target is None or not track.official else f"; target {track.target} not reached"
        if o["reached"] and track.official:
            target = (f"; target {track.target} reached at step {o['reached']['step']} "
                      f"after {o['reached']['seconds']:.1f} s")
        print(f"seed {o['seed']}: val_loss {o['val_loss']:.4f} at step {o['steps']}{target}; "
              f"{o['tokens_per_second']:,} tokens/s on {world.size} x {world.device.type}")
    other = "muon" if recipe.name.startswith("aurora") else "aurora"
    print(f"log: {run.opened.log.path}\nnext: `--recipe {other}` to compare, `--seeds 0 1 2` to repeat, "
          "`--list` for all recipes")


def start_wandb(run, seed: int):
    """A Weights & Biases run for a seed of a train_gpt.Run; WANDB_MODE=offline needs no account. Refusal
    where it cannot start."""
    config = dict(seed=seed, track=asdict(run.plan.track), recipe=run.plan.recipe.resolved())
    try:
        import wandb
        folder = run.opened.folder
        return wandb.init(project="aurora-speedrun", name=f"{folder.name}_seed{seed}", dir=folder,
                          config=config)
    except ImportError:
        raise Refusal("--wandb: wandb is not installed; run `pip install -r requirements.txt`") from None
    except Exception as error:  # wandb's own errors: no key, no network
        raise Refusal(f"--wandb: {error}; log in with `wandb login` or set WANDB_MODE=offline") from None
