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

from speedrun.cli import Parser, Refusal, command, print_json

EXAMPLE = """examples:
  python scripts/bench_step.py --track laptop --recipe muon
  torchrun --standalone --nproc_per_node=8 scripts/bench_step.py --synthetic --fast --json > step.json
  python scripts/bench_step.py --fast --against train_gpt_simple.py --pairs 4
  python scripts/bench_step.py --estimate --nproc 8
All other arguments are those of train_gpt.py, see `train_gpt.py --help`.
"""
TOLERANCE = 2e-3  # nats: as speedrun/bench/step.py has it, which --help does not load


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
    modes = [name for name in ("against", "check", "estimate") if getattr(args, name)]
    if len(modes) > 1:
        raise Refusal(f"--{modes[0]} and --{modes[1]}: ask for one of them", code=2)
    args.mode = modes[0] if modes else "measure"
    for name, modes in (("pairs", ("against",)), ("nproc", ("against", "estimate"))):
        if getattr(args, name) is not None and args.mode not in modes:
            raise Refusal(f"--{name} goes with {' or '.join(f'--{mode}' for mode in modes)}; otherwise ranks "
                          "are started by torchrun", code=2)
    defaults = dict(steps=20 if args.mode == "measure" else 50, pairs=4, nproc=1)
    for name, default in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
        if getattr(args, name) < 1:
            raise Refusal(f"--{name} {getattr(args, name)}: give at least 1", code=2)
    if args.mode == "against" and args.synthetic:
        raise Refusal("--synthetic: another script reads its own shards; leave it out", code=2)
    if args.mode in ("against", "estimate") and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise Refusal(f"--{args.mode} is not for torchrun; give --nproc", code=2)
    return args, words


@command
def main(argv: list[str]) -> int:
    """Run the benchmark; the exit code."""
    args, words = parse(argv)
    from speedrun.bench import step  # after the arguments: it loads torch
    if args.mode == "against":
        found = step.against(words, args.against, args.steps, args.pairs, args.nproc)
        lines = step.ratio_lines
    elif args.mode == "estimate":
        found, lines = step.estimated(words, args.nproc), step.estimate_lines
    elif args.mode == "check":
        found, lines = step.checked(words, args.steps, args.synthetic), step.check_lines
    else:
        found, lines = step.measured(words, args.steps, args.synthetic), step.step_lines
    if found:  # rank 0
        print_json(found) if args.json else print("\n".join(lines(found)))
    return 0 if not found or found.get("stands", True) else 1


if __name__ == "__main__":
    sys.exit(main())
