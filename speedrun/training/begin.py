"""How a run begins: its folder, its lock, and its log, new or that of a run that stopped."""
import time
from dataclasses import asdict
from pathlib import Path

from data import shards
from speedrun.cli import Refusal, go_on
from speedrun.log.folder import lock_folder
from speedrun.log.format import digest
from speedrun.log.writer import LogWriter

from . import resume
from .machine import hardware, loaded_sources, software, write_header
from .progress import say


def run_header(plan, train, val) -> dict:
    """The part of a log's header that a train_gpt.Plan decides: track, recipe, seeds, and the shards that it
    reads of the streams `train` and `val`, checked whole. Refusal where one is broken."""
    track, recipe = plan.track, plan.recipe
    fix = f"run `python {shards.fetch_words(track, recipe.steps)}`"
    used = {"train": train.shards_for(recipe.steps), "val": val.shards_for(1)}
    pinned = track.sha256 if track.official else {}
    data = {split: shards.inspect(paths, track.model.vocab_size, pinned, fix)
            for split, paths in used.items()}
    return dict(track=asdict(track), recipe=recipe.resolved(), seeds=plan.args.seeds, data=data)


def open_log(run, root: Path, folder: Path | None) -> None:
    """Rank 0 locks the folder, checks the shards whole and writes the log's header. With the folder of a run
    that stopped, every rank finds where it goes on, and rank 0 opens its log again. Returns when all have.

    run: train_gpt.Run, whose folder, lock, log, identity and start are set. Refusal where the folder cannot
    be used, a shard is broken, the run is another one, or the ranks do not find the same checkpoint.
    """
    world = run.world
    with world.together(lambda: "the start of the run", everywhere=True):  # rank 0 tells the reason
        _open_log(run, root, folder, hardware(world))
        step = run.start.step
        lowest, highest = world.minimum(step), -world.minimum(-step)
    if lowest != highest:
        raise Refusal(f"{run.folder}: the ranks find checkpoints of different steps, {lowest} and {highest}; "
                      "give all of them the same --log-dir on a shared disk, and start again")


def _open_log(run, root: Path, folder: Path | None, machine: dict) -> None:
    args = run.plan.args
    name = f"{time.strftime('%Y%m%d-%H%M%S')}_{run.plan.track.label}_{run.plan.recipe.name}"[:120]
    run.folder, rank0 = folder or args.log_dir or root / "logs" / name, run.world.rank == 0
    run.lock = lock_folder(run.folder) if rank0 else None
    if not rank0 and folder is None:
        return
    if rank0 and folder is None and any(run.folder.glob("*.txt")):
        raise Refusal(f"the log folder {run.folder} holds a run already; go on with it by "
                      f"{go_on(run.folder)}, or name a new --log-dir")
    header = run_header(run.plan, run.train, run.val)
    if folder is None:
        resume.mark(run.folder)
        run.log = LogWriter(run.folder / f"{name}.txt")
        write_header(run.log, root, run.world.size, machine, args.argv, **header)
        run.identity = digest(resume.identity(header, loaded_sources(root)))
        return
    run.start, log = resume.resume(folder, root, header)
    run.identity = digest(resume.identity(log.header, log.sources))
    say(run, where_from(run.start))
    if rank0:
        run.log = LogWriter.reopen(log.path, seed=run.start.seed, step=run.start.step,
                                   world_size=run.world.size, **software(), hardware=machine)


def where_from(start: resume.Start) -> str:
    """For the person: where a run goes on."""
    if start.seed is None:
        return "every seed is done; the log is closed"
    if start.tensors is None and start.seed in start.begun:
        return f"seed {start.seed} starts again from step 0: it has no checkpoint that is whole"
    return f"goes on with seed {start.seed} from step {start.step}"
