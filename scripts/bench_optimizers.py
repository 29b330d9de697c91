#!/usr/bin/env python3
"""Optimizers side by side in one run: time, FLOPs, launches, memory, and what the update looks like.

Every optimizer steps the same stack of matrices on the same gradients, in turn, for `--repeat` rounds. Times
are medians, ratios are medians over rounds. Memory is the peak beyond what is held between steps. The figures
of the update are those of the tall matrices (of all where there is none): means of row spread, of row norms
(over sqrt(cols / rows), those of even rows) and of alignment, extremes of the singular values.
"""
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speedrun.cli import need

need("torch")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler announces each start otherwise

import torch

from speedrun.bench.optimizers import GPT2_SMALL, ONE_LAYER, chosen, lines, measure, parse_stack
from speedrun.cli import Parser, Refusal, command, print_json

EXAMPLE = """examples:
  python scripts/bench_optimizers.py --stack 3072x768:1 768x3072:1 768x768:4 --only muon aurora torch
  python scripts/bench_optimizers.py --device cuda --json > optimizers.json
"""


@command
def main(argv: list[str]) -> int:
    """Run the benchmark; the exit code."""
    parser = Parser(prog="bench_optimizers.py", description=__doc__.split("\n")[0], epilog=EXAMPLE)
    add = parser.add_argument
    add("--stack", nargs="+", metavar="RxC:N",
        help="matrices (default: the 124M model's on CUDA, those of one of its layers on the CPU)")
    add("--only", nargs="+", metavar="WORD", help="only optimizers whose name contains one of these (default:"
        " all; on CUDA all but the exact polars, whose SVDs take minutes)")
    add("--repeat", type=int, default=7, help="timed rounds (default: 7)")
    add("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    add("--precision", choices=("float32", "bfloat16"), help="of our polars on the CPU (torch.optim.Muon's "
        "is bfloat16); default float32")
    add("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise Refusal("--device cuda: this torch sees no CUDA device; use cpu", code=2)
    if args.repeat < 1:
        raise Refusal(f"--repeat {args.repeat}: give at least 1", code=2)
    stack = parse_stack(args.stack or (GPT2_SMALL if device == "cuda" else ONE_LAYER))
    rows = measure(chosen(args.precision, args.only, device), stack, args.repeat, device)
    name = torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    if args.json:
        print_json(dict(device=name, torch=torch.__version__, precision=args.precision, repeat=args.repeat,
                        stack=args.stack, rows=rows))
    else:
        print("\n".join(lines(rows, name, device == "cuda", len(stack), args.repeat)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
