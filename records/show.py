"""What the trainer tells a person: the list of tracks and recipes, and the outcome of a run."""
from .cli import Refusal, print_json


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


def progress(step: int, steps: int, seconds: float, rate: float, mfu, train_loss, val_loss) -> str:
    """One line of a run's progress: losses in nats, rate in tokens/s; what is None is left out."""
    parts = [f"step {step}/{steps}"]
    parts += [f"{name} {loss:.4f}" for name, loss in (("val_loss", val_loss), ("train_loss", train_loss))
              if loss is not None]
    if rate:
        parts += [f"{rate:,.0f} tokens/s", *([f"mfu {mfu:.1%}"] if mfu else []), f"elapsed {seconds:.0f}s",
                  f"left {seconds / step * (steps - step):.0f}s"]
    return "  ".join(parts)


def facts(found: dict, recipe: dict, as_json: bool) -> None:
    """One fact a line, then one field of the recipe a line, for --dry-run."""
    if as_json:
        return print_json({**found, "recipe": recipe})
    for name, value in found.items():
        print(f"{name:26} {value}")
    for name, value in recipe.items():
        print(f"recipe.{name:19} {value}")


def summary(track, recipe, outcomes: list[dict], log_path, world, as_json: bool) -> None:
    """What happened, in a few lines or as one JSON object."""
    if as_json:
        return print_json(dict(status="complete", track=track.label, recipe=recipe.name, target=track.target,
                               log=str(log_path), seeds=outcomes))
    for o in outcomes:
        target = "" if track.target is None else f"; target {track.target} not reached"
        if o["reached"]:
            target = (f"; target {track.target} reached at step {o['reached']['step']} "
                      f"after {o['reached']['seconds']:.1f} s")
        print(f"seed {o['seed']}: val_loss {o['val_loss']:.4f} at step {o['steps']}{target}; "
              f"{o['tokens_per_second']:,} tokens/s on {world.size} x {world.device.type}")
    other = "muon" if recipe.name.startswith("aurora") else "aurora"
    print(f"log: {log_path}\nnext: `--recipe {other}` to compare, `--seeds 0 1 2` to repeat, "
          "`--list` for all recipes")


def start_wandb(name: str, folder, config: dict):
    """A Weights & Biases run; WANDB_MODE=offline needs no account. Refusal where it cannot start."""
    try:
        import wandb
        return wandb.init(project="aurora-speedrun", name=name, dir=folder, config=config)
    except ImportError:
        raise Refusal("--wandb: wandb is not installed; run `pip install -r requirements.txt`") from None
    except Exception as error:  # wandb's own errors: no key, no network
        raise Refusal(f"--wandb: {error}; log in with `wandb login` or set WANDB_MODE=offline") from None
