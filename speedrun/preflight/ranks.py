"""All findings of one process of a run, and a sum over its ranks, those of torchrun or started here."""
import contextlib
import os
from dataclasses import asdict

import torch

from speedrun.cli import Refusal, print_json
from speedrun.training.estimate import flops_per_token
from speedrun.training.world import World

from . import machine, run
from .collective import Workers, rank_and_size, sum_over_ranks
from .machine import LEVELS
from .shards import shards


def report(findings: list, as_json: bool) -> int:
    """Print the findings, worst first; the exit code."""
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


def checks(plan, world, model, full: bool) -> list:
    """All findings of this machine but those of the ranks; of the log folder on rank 0 alone."""
    queried = machine.query_gpus()
    found = [*shards(plan, full), *machine.torch_versions(plan, queried), *machine.gpus(plan, queried),
             *run.attention(plan, world), *machine.memory(plan, world, model),
             *run.length(plan, flops_per_token(model, plan.track))]
    if plan.device == "cuda":
        found += run.other_programs(queried[0])
    if world.rank == 0:
        found += [*run.folder(plan), *machine.disk(plan, model), *run.tracker(plan)]
    return found


def sum_here(plan, size: int):
    """The finding of a sum over the ranks that torchrun started, of which this process is one."""
    def give_up(message: str) -> None:
        if rank_and_size()[0] == 0:
            report([run.collective(plan, size, None, message)], plan.args.json)

    try:
        return run.collective(plan, size, sum_over_ranks(plan.device, give_up))
    except (RuntimeError, ValueError, OSError) as error:
        return run.collective(plan, size, None, " ".join(str(error).split())[:300])


def sum_of(workers, plan, size: int):
    """The finding of a sum over `workers`, which are started already."""
    try:
        return run.collective(plan, size, workers.milliseconds())
    except RuntimeError as error:
        return run.collective(plan, size, None, str(error))


def look(plan, model, nproc: int | None, full: bool) -> list:
    """The findings of this process; none from a rank that is not the first of its machine. `model`: the
    plan's, on the meta device; `nproc`: as if so many processes ran here; `full`: hash every shard."""
    (rank, size), launched = rank_and_size(), "WORLD_SIZE" in os.environ
    if nproc is not None and launched:
        raise Refusal("--nproc asks what torchrun has answered; leave one of them out", code=2)
    size = nproc or size
    found = run.world_size(plan, size, launched or nproc is not None)
    world = World(rank, size, torch.device(plan.device))
    joins = size > 1 and found[0].level != "stop"
    if launched:
        found += [sum_here(plan, size)] if joins else []
        return found + checks(plan, world, model, full) if os.environ.get("LOCAL_RANK", "0") == "0" else []
    few = size <= max(4, os.cpu_count() or 1)  # more would take longer to start than they may
    with Workers(size, plan.device) if joins and few else contextlib.nullcontext() as workers:
        found += checks(plan, world, model, full)
        found += [sum_of(workers, plan, size)] if workers else []
        return found + [run.not_asked(plan, size)] * (joins and not few)
