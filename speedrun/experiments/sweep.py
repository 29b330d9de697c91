#!/usr/bin/env python3
"""Tune lr and weight decay of recipes, one coordinate after the other, with equally many runs for each.

First every --lr at the first --weight-decay, then every other --weight-decay at the best lr. Each run is a
process of train_gpt.py; validation is at the first and the last step only, which makes the runs `custom`.
The table is written after every run, and runs that it already holds are not made again.
"""
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speedrun import ROOT
from speedrun.cli import Parser, Refusal, command, print_json
from speedrun.launch import command_words, environment
from speedrun.log.command import Command
from speedrun.log.format import digest
from speedrun.studies.study import resolved
from speedrun.text import without_folders

EXAMPLE = """example:
  python scripts/sweep.py --recipe muon --lr 0.02 0.04 --weight-decay 0.025 0 0.1 --out muon.json
"""


RARELY = [("track", "val_every", 10**6), ("track", "val_every_tail", 10**6)]


def run_one(args, lr: float, weight_decay: float) -> dict:
    """The mean final loss over the seeds at one point of the grid."""
    command = Command().plus(
        track=args.track, recipe=args.recipe, json=True, seeds=args.seeds, allow_custom=True,
        data_dir=args.data_dir,
        overrides=[("recipe", "lr", lr), ("recipe", "weight_decay", weight_decay), *RARELY])
    words = command_words(ROOT / "train_gpt.py", command.words)
    threads = str(max(1, (os.cpu_count() or 1) // args.jobs))
    env = {**environment(), "OMP_NUM_THREADS": threads}
    done = subprocess.run(words, capture_output=True, text=True, env=env)
    point = dict(lr=lr, weight_decay=weight_decay, seeds=args.seeds)
    if done.returncode:
        error = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        if "diverged" not in error:  # a run that diverges is a result: it loses
            raise Refusal(f"lr {lr} weight_decay {weight_decay} did not run: {error}", code=done.returncode)
        return dict(point, val_loss=None, error=without_folders(error))
    losses = [seed["val_loss"] for seed in json.loads(done.stdout)["seeds"]]
    return dict(point, val_loss=round(mean(losses), 5), val_losses=losses)


def sweep(args, rows: list[dict], points: list[tuple]) -> dict:
    """Run the points that `rows` lacks, `--jobs` at a time, and write the table; the best row of all."""
    todo = [p for p in points if p not in {(r["lr"], r["weight_decay"]) for r in rows}]
    with ThreadPoolExecutor(args.jobs) as pool:
        for row in pool.map(lambda p: run_one(args, *p), todo):
            rows.append(row)
            print(f"{args.recipe}: lr {row['lr']} weight_decay {row['weight_decay']} "
                  f"val_loss {row['val_loss']}", file=sys.stderr, flush=True)
            table = dict(track=args.track, recipe=args.recipe, fixed=args.fixed, seeds=args.seeds,
                         runs=len(rows), best=best(rows), rows=rows)
            beside = args.out.with_name(args.out.name + ".part")
            beside.write_text(json.dumps(table, indent=1) + "\n")
            beside.replace(args.out)  # a kill leaves the table whole
    return best(rows)


def fixed(recipe: str, track: str) -> str:
    """The sha256 of all that the sweep leaves as it is in a recipe. Refusal for an unknown one."""
    of = resolved(recipe, track)
    return digest({name: of[name] for name in of if name not in ("name", "note", "lr", "weight_decay")})


def best(rows: list[dict]) -> dict:
    finite = [row for row in rows if row["val_loss"] is not None]
    return min(finite, key=lambda row: row["val_loss"]) if finite else rows[0]


@command
def main(argv: list[str]) -> int:
    """Run the sweep; the exit code."""
    parser = Parser(prog="sweep.py", description=__doc__.split("\n")[0], epilog=EXAMPLE)
    parser.add_argument("--track", default="laptop")
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--lr", type=float, nargs="+", required=True)
    parser.add_argument("--weight-decay", type=float, nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100],
                        help="not those you will report (default: 100)")
    parser.add_argument("--jobs", type=int, default=1,
                        help="runs at a time, which share the cores (default: 1)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="the folder of the shards")
    parser.add_argument("--out", type=Path, required=True, help="the table, JSON")
    parser.add_argument("--json", action="store_true", help="print the table as one JSON object")
    args = parser.parse_args(argv)
    if args.jobs < 1:
        raise Refusal(f"--jobs {args.jobs}: give at least 1", code=2)
    rows, args.fixed = [], fixed(args.recipe, args.track)
    if args.out.exists():
        try:
            table = json.loads(args.out.read_text())
            same = all(table[key] == getattr(args, key) for key in ("track", "recipe", "seeds", "fixed"))
            rows = [dict(row, lr=float(row["lr"]), weight_decay=float(row["weight_decay"]),
                         val_loss=row["val_loss"]) for row in table["rows"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            same = False
        if not same:
            raise Refusal(f"{args.out} is no table of this recipe as it is now, track and seeds; choose "
                          "another --out")
    elif not args.out.resolve().parent.is_dir():
        raise Refusal(f"--out {args.out}: there is no such folder; make it first", code=2)
    found = sweep(args, rows, [(lr, args.weight_decay[0]) for lr in args.lr])
    found = sweep(args, rows, [(found["lr"], decay) for decay in args.weight_decay])
    if args.json:
        print_json(json.loads(args.out.read_text()))
    else:
        print(f"best: lr {found['lr']} weight_decay {found['weight_decay']} val_loss {found['val_loss']} "
              f"({len(rows)} runs, table in {args.out})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
