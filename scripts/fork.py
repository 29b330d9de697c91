#!/usr/bin/env python3
"""Train what recipes share once, continue it under each of them, and test the differences, paired by seed.

For each seed a trunk, a run of the first variant, is trained up to step --at, where it leaves a checkpoint;
each variant continues from there to its end. The variants may differ in what acts after that step alone: the
schedule (cooldown_frac, schedule_steps, steps) and the start of a tail average. Every run is a process of
train_gpt.py with a log of its own in DIR. What is done already is kept: run the same command again after an
interruption, or with more seeds or variants. Further arguments go to every train_gpt.py.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speedrun.cli import Parser, Refusal, command, need, print_json

need("numpy", "scipy", "torch")

from speedrun.experiments.fork import fork
from speedrun.experiments.fork_figures import lines
from speedrun.experiments.variants import read_variants

EXAMPLE = """examples:
  python scripts/fork.py --trunk logs/cooldown --at 90 --track laptop \\
      --variants aurora aurora+cooldown_frac=0.5 --seeds 0 1 2 3 4
  python scripts/fork.py --trunk logs/cooldown --at 970 --variants aurora aurora+cooldown_frac=0.6 --nproc 8
"""
OURS = ("--recipe", "--log-dir", "--resume", "--list", "--dry-run", "--help")  # not for every train_gpt.py


def parse(argv: list[str]):
    """The arguments, with `common`: those of every train_gpt.py. Refusal (exit 2)."""
    parser = Parser(prog="fork.py", description=__doc__, epilog=EXAMPLE)
    add = parser.add_argument
    add("--trunk", type=Path, required=True, metavar="DIR", help="the folder of the trunks and their forks")
    add("--at", type=int, required=True, metavar="STEP", help="the step at which the variants part")
    add("--variants", nargs="+", required=True, metavar="R", help="recipes, with overrides where wanted: "
        "aurora+cooldown_frac=0.5; the others are compared with the first")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="K", help="default: 0 1 2")
    add("--track", metavar="T", help="default: train_gpt.py's own")
    add("--nproc", type=int, metavar="N", help="processes of each run (default: one a GPU; 1 on a CPU)")
    add("--json", action="store_true", help="print one JSON object")
    args, args.common = parser.parse_known_args(argv)
    for word in args.common:
        flag = word.split("=")[0]
        if flag in OURS or flag.startswith("--recipe."):
            raise Refusal(f"{flag} is not for all the runs; write what differs into the variants, like "
                          "aurora+lr=0.02", code=2)
    if args.track:
        args.common = ["--track", args.track, *args.common]
    if args.nproc is not None and args.nproc < 1:
        raise Refusal(f"--nproc {args.nproc}: give at least 1", code=2)
    if len(set(args.variants)) < max(2, len(args.variants)):
        raise Refusal(f"--variants {' '.join(args.variants)}: name at least two, each once", code=2)
    return args


@command
def main(argv: list[str]) -> int:
    """Train what is missing, and print what the runs show; the exit code is 0 whatever that is."""
    args = parse(argv)
    variants = read_variants(args.variants, args.common, args.seeds, args.at)
    found = fork(variants, args.seeds, args.trunk.absolute(), args.at, args.nproc)
    if args.json:
        print_json(found)
    else:
        print("\n".join(lines(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
