"""How a run begins: its folder, its lock, and its log, new or that of a run that stopped."""
import time
from dataclasses import asdict
from pathlib import Path

from data import shards

from . import checkpoint
from .environment import digest, loaded_sources, write_header
from .log import LogWriter, lock_folder


def open_log(run, root: Path, folder: Path | None, fix: str) -> None:
    """Rank 0 locks the folder, checks the shards whole and writes the log's header. With the folder of a run
    that stopped, every rank finds where it goes on, and rank 0 opens its log again.

    run: train_gpt.Run, whose folder, lock, log, identity and start are set. fix: the command that fetches
    the shards. Refusal where the folder cannot be used, a shard is broken, or the run is another one.
    """
    args, track, recipe = run.plan.args, run.plan.track, run.plan.recipe
    name = f"{time.strftime('%Y%m%d-%H%M%S')}_{track.label}_{recipe.name}"
    run.folder, rank0 = folder or args.log_dir or root / "logs" / name, run.world.rank == 0
    run.lock = lock_folder(run.folder) if rank0 else None
    if not rank0 and folder is None:
        return
    used = {"train": run.train.shards_for(recipe.steps), "val": run.val.shards_for(1)}
    pinned = track.sha256 if track.official else {}
    data = {split: shards.inspect(paths, track.model.vocab_size, pinned, fix)
            for split, paths in used.items()}
    header = dict(track=asdict(track), recipe=recipe.resolved(), seeds=args.seeds, data=data)
    if folder is None:
        checkpoint.mark(run.folder)
        run.log = LogWriter(run.folder / f"{name}.txt")
        write_header(run.log, root, run.world, args.argv, **header)
        run.identity = digest(checkpoint.identity(header, loaded_sources(root)))
        return
    run.start, log = checkpoint.resume(folder, root, header)
    run.identity = digest(checkpoint.identity(log.header, log.sources))
    if rank0:
        run.log = LogWriter.reopen(log.path, seed=run.start.seed, step=run.start.step,
                                   world_size=run.world.size)
