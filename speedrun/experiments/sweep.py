"""Tunes lr and weight decay of a recipe, one coordinate after the other, with equally many runs for each.

First every lr at the first weight decay, then every other weight decay at the best lr. Each run is a process
of train_gpt.py; validation is at the first and the last step only, which makes the runs `custom`.
"""
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean

from speedrun import ROOT
from speedrun.cli import Refusal
from speedrun.launch import command_words, environment
from speedrun.log.command import Command
from speedrun.log.format import digest
from speedrun.studies.study import resolved
from speedrun.text import without_folders

RARELY = [("track", "val_every", 10**6), ("track", "val_every_tail", 10**6)]


def sweep(command: Command, lrs: list[float], weight_decays: list[float], out: Path, jobs: int = 1) -> dict:
    """Tune the recipe of `command`, which has track, recipe, seeds and whatever else the runs share.

    The table in `out` is written after every run, and runs that it holds already are not made again. At most
    `jobs` of them run at a time and share the cores. Returns best (a row of the table) and runs.
    Refusal where `out` is of another recipe, track or seeds, or cannot be written, or a run cannot start.
    """
    args = command.args
    about = dict(track=args.track, recipe=args.recipe, fixed=fixed(args.recipe, args.track), seeds=args.seeds)
    rows = held(out, about)
    complete([(lr, weight_decays[0]) for lr in lrs], command, about, rows, out, jobs)
    complete([(best(rows)["lr"], decay) for decay in weight_decays], command, about, rows, out, jobs)
    return dict(best=best(rows), runs=len(rows))


def complete(points: list[tuple], command: Command, about: dict, rows: list[dict], out: Path, jobs: int):
    """Run the points that `rows` lacks, add their rows, and write the table after each."""
    todo = [point for point in points if point not in {(row["lr"], row["weight_decay"]) for row in rows}]
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ThreadPoolExecutor(jobs) as pool:
        for row in pool.map(lambda point: run_one(command, *point, threads), todo):
            rows.append(row)
            print(f"{about['recipe']}: lr {row['lr']} weight_decay {row['weight_decay']} "
                  f"val_loss {row['val_loss']}", file=sys.stderr, flush=True)
            table = dict(about, runs=len(rows), best=best(rows), rows=rows)
            beside = out.with_name(out.name + ".part")
            beside.write_text(json.dumps(table, indent=1) + "\n")
            beside.replace(out)  # a kill leaves the table whole


def run_one(command: Command, lr: float, weight_decay: float, threads: int) -> dict:
    """The mean final loss over the seeds at one point of the grid, nats; None where a seed diverges."""
    command = command.plus(json=True, allow_custom=True, overrides=[
        ("recipe", "lr", lr), ("recipe", "weight_decay", weight_decay), *RARELY])
    done = subprocess.run(command_words(ROOT / "train_gpt.py", command.words), capture_output=True, text=True,
                          env={**environment(), "OMP_NUM_THREADS": str(threads)})
    point = dict(lr=lr, weight_decay=weight_decay, seeds=command.args.seeds)
    if done.returncode:
        error = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        if "diverged" not in error:  # a run that diverges is a result: it loses
            raise Refusal(f"lr {lr} weight_decay {weight_decay} did not run: {error}", code=done.returncode)
        return dict(point, val_loss=None, error=without_folders(error))
    losses = [seed["val_loss"] for seed in json.loads(done.stdout)["seeds"]]
    return dict(point, val_loss=round(mean(losses), 5), val_losses=losses)


def fixed(recipe: str, track: str) -> str:
    """The sha256 of all that the sweep leaves as it is in a recipe. Refusal for an unknown one."""
    of = resolved(recipe, track)
    return digest({name: of[name] for name in of if name not in ("name", "note", "lr", "weight_decay")})


def best(rows: list[dict]) -> dict:
    """The row of the lowest loss; the first where every one diverged."""
    finite = [row for row in rows if row["val_loss"] is not None]
    return min(finite, key=lambda row: row["val_loss"]) if finite else rows[0]


def held(out: Path, about: dict) -> list[dict]:
    """The rows of the table in `out`, [] where there is none. Refusal where it is of another sweep."""
    if not out.exists():
        if not out.resolve().parent.is_dir():
            raise Refusal(f"--out {out}: there is no such folder; make it first", code=2)
        return []
    try:
        table = json.loads(out.read_text())
        same = all(table[key] == value for key, value in about.items())
        rows = [dict(row, lr=float(row["lr"]), weight_decay=float(row["weight_decay"]),
                     val_loss=row["val_loss"]) for row in table["rows"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        same = False
    if not same:
        raise Refusal(f"{out} is no table of this recipe as it is now, track and seeds; choose another --out")
    return rows
