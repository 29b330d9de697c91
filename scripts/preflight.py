#!/usr/bin/env python3
"""Everything that would stop or spoil a run of train_gpt.py, in seconds, with one fix a finding.

Takes the arguments of train_gpt.py and looks at what they need: shards (present, enough, whole, those
recorded), disk, memory, versions, attention, GPUs (clocks, throttling), ranks, log folder. Under torchrun
the ranks also sum a number; `--nproc N` starts N processes here that do. Exit 1 where a finding is a stop.
"""
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speedrun.cli import Parser, Refusal, command

EXAMPLE = """examples:
  python scripts/preflight.py --track laptop --recipe muon
  python scripts/preflight.py --nproc 8 --full
  torchrun --standalone --nproc_per_node=8 scripts/preflight.py
All other arguments, --json too, are those of train_gpt.py, see `train_gpt.py --help`.
"""


@command
def main(argv: list[str]) -> int:
    """Print the findings; the exit code."""
    parser = Parser(prog="preflight.py", description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--full", action="store_true", help="hash every shard that has a recorded sha256")
    parser.add_argument("--nproc", type=int, metavar="N", help="as if N processes ran on this machine")
    args, rest = parser.parse_known_args(argv)
    if args.nproc is not None and args.nproc < 1:
        raise Refusal(f"--nproc {args.nproc}: give at least 1", code=2)
    import torch  # after the arguments: --help needs none of it

    from speedrun.preflight.ranks import look, report
    from speedrun.training import resume
    from train_gpt import GPT, parse
    plan = resume.plan_of(parse, rest)
    with torch.device("meta"):
        model = GPT(plan.track.model)
    found = look(plan, model, args.nproc, args.full)
    if os.environ.get("RANK", "0") == "0":
        return report(found, plan.args.json)
    for finding in found:
        if finding.level != "ok":  # of another machine of the run
            print(f"rank {os.environ['RANK']}: {finding.level} {finding}", file=sys.stderr, flush=True)
    return 1 if any(finding.level == "stop" for finding in found) else 0


if __name__ == "__main__":
    sys.exit(main())
