#!/usr/bin/env python3
"""Everything that would stop or spoil a run of train_gpt.py, in seconds, with one fix a finding.

Takes the arguments of train_gpt.py and looks at what they need: shards (present, enough, whole, those
recorded), disk, memory, versions, attention, GPUs (clocks, throttling), ranks, log folder. Under torchrun
the ranks also sum a number; `--nproc N` starts N processes here that do. Exit 1 where a finding is a stop.
"""
import contextlib
import os
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


from speedrun.cli import Parser, Refusal, command, print_json

EXAMPLE = """examples:
  python scripts/preflight.py --track laptop --recipe muon
  python scripts/preflight.py --nproc 8 --full
  torchrun --standalone --nproc_per_node=8 scripts/preflight.py
All other arguments, --json too, are those of train_gpt.py, see `train_gpt.py --help`.
"""


def report(findings: list, as_json: bool) -> int:
    """Print the findings, worst first; the exit code."""
    from speedrun.preflight.machine import LEVELS
    findings = sorted(findings, key=lambda finding: LEVELS.index(finding.level))
    count = {level: sum(finding.level == level for finding in findings) for level in LEVELS}
    if as_json:
        print_json(dict(ready=not count["stop"], **count, findings=list(map(asdict, findings))))
    else:
        for finding in findings:
            print(f"{finding.level:5} {finding}", flush=True)
        print(f"{'not ready' if count['stop'] else 'ready'}: {count['stop']} stop, {count['warn']} warn, "
              f"{count['ok']} ok", flush=True)
    return 1 if count["stop"] else 0


def checks(plan, world, full: bool) -> list:
    """All findings of this machine but those of the ranks; of the log folder on rank 0 alone."""
    import torch

    import train_gpt
    from speedrun.preflight import machine, run
    from speedrun.preflight.shards import shards
    with torch.device("meta"):
        model = train_gpt.GPT(plan.track.model)
    queried = machine.query_gpus()
    found = [*shards(plan, full), *machine.torch_versions(plan, queried), *machine.gpus(plan, queried),
             *run.attention(plan, world), *machine.memory(plan, world, model),
             *run.length(plan, train_gpt.flops_per_token(model, plan.track))]
    if plan.device == "cuda":
        found += run.other_programs(queried[0])
    if world.rank == 0:
        found += [*run.folder(plan), *machine.disk(plan, model), *run.tracker(plan)]
    return found


def sum_here(plan, size: int):
    """The finding of a sum over the ranks that torchrun started, of which this process is one."""
    from speedrun.preflight.collective import rank_and_size, sum_over_ranks
    from speedrun.preflight.run import collective

    def give_up(message: str) -> None:
        if rank_and_size()[0] == 0:
            report([collective(plan, size, None, message)], plan.args.json)

    try:
        return collective(plan, size, sum_over_ranks(plan.device, give_up))
    except (RuntimeError, ValueError, OSError) as error:
        return collective(plan, size, None, " ".join(str(error).split())[:300])


def sum_of(workers, plan, size: int):
    """The finding of a sum over `workers`, which are started already."""
    from speedrun.preflight.run import collective
    try:
        return collective(plan, size, workers.milliseconds())
    except RuntimeError as error:
        return collective(plan, size, None, str(error))


def look(plan, nproc: int | None, full: bool) -> list:
    """The findings of this process; none from a rank that is not the first of its machine."""
    import torch

    from speedrun.preflight.collective import Workers, rank_and_size
    from speedrun.preflight.run import not_asked, world_size
    from speedrun.training.world import World
    (rank, size), launched = rank_and_size(), "WORLD_SIZE" in os.environ
    if nproc is not None and launched:
        raise Refusal("--nproc asks what torchrun has answered; leave one of them out", code=2)
    size = nproc or size
    found = world_size(plan, size, launched or nproc is not None)
    world = World(rank, size, torch.device(plan.device))
    joins = size > 1 and found[0].level != "stop"
    if launched:
        found += [sum_here(plan, size)] if joins else []
        return found + checks(plan, world, full) if os.environ.get("LOCAL_RANK", "0") == "0" else []
    few = size <= max(4, os.cpu_count() or 1)  # more would take longer to start than they may
    with Workers(size, plan.device) if joins and few else contextlib.nullcontext() as workers:
        found += checks(plan, world, full)
        found += [sum_of(workers, plan, size)] if workers else []
        return found + [not_asked(plan, size)] * (joins and not few)


@command
def main(argv: list[str]) -> int:
    """Print the findings; the exit code."""
    parser = Parser(prog="preflight.py", description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--full", action="store_true", help="hash every shard that has a recorded sha256")
    parser.add_argument("--nproc", type=int, metavar="N", help="as if N processes ran on this machine")
    args, rest = parser.parse_known_args(argv)
    if args.nproc is not None and args.nproc < 1:
        raise Refusal(f"--nproc {args.nproc}: give at least 1", code=2)
    import train_gpt
    from speedrun.training import resume
    plan = resume.plan_of(train_gpt.parse, rest)
    found = look(plan, args.nproc, args.full)
    if os.environ.get("RANK", "0") == "0":
        return report(found, plan.args.json)
    for finding in found:
        if finding.level != "ok":  # of another machine of the run
            print(f"rank {os.environ['RANK']}: {finding.level} {finding}", file=sys.stderr, flush=True)
    return 1 if any(finding.level == "stop" for finding in found) else 0


if __name__ == "__main__":
    sys.exit(main())
