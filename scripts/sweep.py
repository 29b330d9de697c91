#!/usr/bin/env python3
"""Tune lr and weight decay of recipes, one coordinate after the other, with equally many runs for each.

First every --lr at the first --weight-decay, then every other --weight-decay at the best lr. Each run is a
process of train_gpt.py; validation is at the first and the last step only, which makes the runs `custom`.
The table is written after every run, and runs that it already holds are not made again.
"""
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speedrun.cli import Parser, Refusal, command, need, print_json

need("numpy", "torch")

from speedrun.experiments.sweep import sweep
from speedrun.log.command import Command

EXAMPLE = """example:
  python scripts/sweep.py --recipe muon --lr 0.02 0.04 --weight-decay 0.025 0 0.1 --out muon.json
"""


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
    runs = Command().plus(track=args.track, recipe=args.recipe, seeds=args.seeds, data_dir=args.data_dir)
    found = sweep(runs, args.lr, args.weight_decay, args.out, args.jobs)
    best = found["best"]
    if args.json:
        print_json(json.loads(args.out.read_text()))
    else:
        print(f"best: lr {best['lr']} weight_decay {best['weight_decay']} val_loss {best['val_loss']} "
              f"({found['runs']} runs, table in {args.out})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
