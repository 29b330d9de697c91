#!/usr/bin/env python3
"""Which of two runs of train_gpt.py is faster on this machine, and which ends at the lower loss?

A and B are trained in turn, A B B A A B B A ..., so that a machine that warms up or slows down does so for
both. Pair k trains seed k, unless both sides name the same --seeds. Times are of the training clock, which
excludes warm-up and validation; an even number of pairs cancels a steady drift.
"""
import shlex
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speedrun.cli import Parser, Refusal, command, need, print_json

need("numpy", "scipy", "torch")

from speedrun import ROOT
from speedrun.experiments import pairs
from speedrun.text import printable

EXAMPLE = """examples:
  python scripts/compare.py --a "--recipe aurora" --b "--recipe muon" --pairs 4
  python scripts/compare.py --a "" --b "--recipe.lr 0.02" --pairs 6 --nproc 8 --out logs/lr
"""


def parse(argv: list[str]):
    parser = Parser(prog="compare.py", description=__doc__, epilog=EXAMPLE)
    add = parser.add_argument
    for name in "ab":
        add(f"--{name}", required=True, metavar='"ARGS"', help="arguments of train_gpt.py, in quotes")
    add("--pairs", type=int, required=True, metavar="K", help="runs of each side")
    add("--nproc", type=int, default=1, metavar="N", help="processes of each run (default: 1)")
    add("--out", type=Path, metavar="D", help="a new folder for the logs (default: logs/compare_<time>)")
    add("--json", action="store_true", help="print one JSON object")
    joined, words = [], iter(argv)
    for word in words:  # argparse takes `--a --recipe=muon` for two options
        value = next(words, None) if word in ("--a", "--b") else None
        joined.append(word if value is None else f"{word}={value}")
    args = parser.parse_args(joined)
    for name in ("pairs", "nproc"):
        if getattr(args, name) < 1:
            raise Refusal(f"--{name} {getattr(args, name)}: give at least 1", code=2)
    args.out = (args.out or ROOT / "logs" / f"compare_{time.strftime('%Y%m%d-%H%M%S')}").absolute()
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise Refusal(f"--out {printable(args.out)} is there already, and nothing is resumed; name a new "
                      "folder", code=2)
    return args


@command
def main(argv: list[str]) -> int:
    """Train the pairs and print what they show; the exit code is 0 whatever that is."""
    args = parse(argv)
    a, b = pairs.read_side("A", args.a), pairs.read_side("B", args.b)
    found = pairs.compare(a, b, args.pairs, args.out, args.nproc)
    if args.json:
        print_json(found)
        return 0
    print("\n".join(pairs.lines(found)))
    where = shlex.quote(str(args.out))
    seeds = "" if a.names_seeds else f"; by seed: `scripts/stats.py pair --a {where}/*_a --b {where}/*_b`"
    print(f"logs: {where}{seeds}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
