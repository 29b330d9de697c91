#!/usr/bin/env python3
"""How long a training step of train_gpt.py takes on this machine, and where the time goes.

Takes the arguments of train_gpt.py; under torchrun it measures all ranks together. With --against FILE it
runs train_gpt.py and another trainer script in turn and gives the ratio of their times a step; with --check
it compares the losses of --fast with those of the plain path; with --estimate it computes, without a GPU,
what models need. Nothing is written to a log.
"""
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler announces each start otherwise

from speedrun.bench.modes import MODES, TOLERANCE, settle
from speedrun.cli import Parser, command, print_json

EXAMPLE = """examples:
  python scripts/bench_step.py --track laptop --recipe muon
  torchrun --standalone --nproc_per_node=8 scripts/bench_step.py --synthetic --fast --json > step.json
  python scripts/bench_step.py --fast --against train_gpt_simple.py --pairs 4
  python scripts/bench_step.py --estimate --nproc 8
All other arguments are those of train_gpt.py, see `train_gpt.py --help`.
"""

def parse(argv: list[str]):
    """The arguments of this command, and the words that are train_gpt.py's."""
    parser = Parser(prog="bench_step.py", description=__doc__, epilog=EXAMPLE)
    add = parser.add_argument
    add("--steps", type=int, metavar="N", help="timed steps (default: 20; of --check and --against: 50)")
    add("--synthetic", action="store_true", help="random tokens, so no shards are needed")
    add("--against", type=Path, metavar="FILE", help="a script that prints modded-nanogpt's lines; it runs "
        "as a copy with fewer steps and validations; that its model is alike is for you to see")
    add("--pairs", type=int, metavar="K", help="with --against: runs of each side (default: 4)")
    add("--nproc", type=int, metavar="N", help="with --against: processes of a run; with --estimate: ranks")
    add("--check", action="store_true", help=f"exit 1 where --fast changes a training loss by {TOLERANCE}")
    add("--estimate", action="store_true", help="memory by micro-batch, bytes sent, FLOPs; computed")
    add("--json", action="store_true", help="print one JSON object")
    args, words = parser.parse_known_args(argv)
    settle(args, int(os.environ.get("WORLD_SIZE", 1)))
    return args, words


@command
def main(argv: list[str]) -> int:
    """Run the benchmark; the exit code."""
    args, words = parse(argv)
    from speedrun.bench import step  # after the arguments: it loads torch
    mode = MODES[args.mode]
    found = getattr(step, mode.found_by)(words, *(getattr(args, name) for name in mode.takes))
    lines = getattr(step, mode.lines)
    if found:  # rank 0
        print_json(found) if args.json else print("\n".join(lines(found)))
    return 0 if not found or found.get("stands", True) else 1


if __name__ == "__main__":
    sys.exit(main())
