#!/usr/bin/env python3
"""HellaSwag accuracy of the weights that `train_gpt.py --save` wrote, as lm-evaluation-harness counts it.

A model reads an item's query and each of its four endings. `acc` takes the ending with the highest
log-probability, `acc_norm` the one with the highest log-probability per character. Each comes with its 95 %
Wilson interval, which is over items: another seed, another interval. Without --data the 10,042 validation
items are fetched from the hub once (6.3 MB). Models of GPT-2's vocabulary read its tokens, models of 256
tokens read bytes. Zero-shot; nothing stands before the query.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speedrun.cli import need

need("numpy", "scipy", "torch")

import torch

from speedrun.cli import Parser, Refusal, command, print_json
from speedrun.evaluate.hellaswag import evaluate, lines

EXAMPLE = """examples:
  python scripts/eval_hellaswag.py logs/RUN/weights_seed0.pt
  python scripts/eval_hellaswag.py weights.pt --track 1b --data hellaswag_val.jsonl --json
"""


def parse(argv: list[str]):
    """The arguments. Refusal (exit 2)."""
    parser = Parser(prog="eval_hellaswag.py", description=__doc__, epilog=EXAMPLE)
    add = parser.add_argument
    add("weights", type=Path, metavar="WEIGHTS", help="a file that `train_gpt.py --save` wrote")
    add("--track", metavar="NAME", help="track or preset whose model it is (default: what the log beside the "
        "weights says)")
    add("--data", type=Path, metavar="FILE", help="the items, .jsonl or .parquet as published (default: "
        "fetched into data/hellaswag)")
    add("--limit", type=int, metavar="N", help="only the first N items: a quick look, not a result")
    add("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    add("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    if args.limit is not None and args.limit < 1:
        raise Refusal(f"--limit {args.limit}: give at least 1", code=2)
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise Refusal("--device cuda: this torch sees no CUDA device; check nvidia-smi, or use cpu", code=2)
    return args


@command
def main(argv: list[str]) -> int:
    """Evaluate, and print what is found; the exit code is 0 whatever that is."""
    args = parse(argv)
    found = evaluate(args.weights, args.track, args.data, args.limit, args.device)
    print_json(found) if args.json else print("\n".join(lines(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
