"""How a run begins: its folder, its lock, and its log, new or that of a run that stopped."""
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from data import shards
from speedrun.cli import Refusal, go_on
from speedrun.log.folder import lock_folder, logs_in
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


@dataclass
class Opened:
    """A run's folder and log, and where the run starts. Only rank 0 holds the log and the folder's lock."""

    folder: Path | None = None
    lock: object = None
    log: LogWriter | None = None
    start: resume.Start = field(default_factory=resume.Start)
    identity: str = ""  # what a checkpoint must be of to be continued


def open_log(run, root: Path, folder: Path | None) -> Opened:
    """Rank 0 locks the folder, checks the shards whole and writes the log's header. With the folder of a run
    that stopped, every rank finds where it resumes, and rank 0 opens its log again. Returns when all have.

    run: train_gpt.Run. Refusal where the folder cannot be used, a shard is broken, the run is another one,
    or the ranks do not find the same checkpoint.
    """
    world = run.world
    with world.together(lambda: "the start of the run", everywhere=True):  # rank 0 tells the reason
        machine = hardware(world)
        opened = _new(run, root, machine) if folder is None else _resumed(run, root, folder, machine)
        step = opened.start.step
        lowest, highest = world.minimum(step), -world.minimum(-step)
    if lowest != highest:
        raise Refusal(f"{opened.folder}: the ranks find checkpoints of different steps, {lowest} and "
                      f"{highest}; give all of them the same --log-dir on a shared disk, and start again")
    return opened


def _new(run, root: Path, machine: dict) -> Opened:
    args, plan = run.plan.args, run.plan
    name = f"{time.strftime('%Y%m%d-%H%M%S')}_{plan.track.label}_{plan.recipe.name}"[:120]
    opened = Opened(args.log_dir or root / "logs" / name)
    if run.world.rank != 0:
        return opened
    opened.lock = lock_folder(opened.folder)
    if logs_in(opened.folder):
        raise Refusal(f"the log folder {opened.folder} holds a run already; resume it by "
                      f"{go_on(opened.folder)}, or name a new --log-dir")
    header = run_header(plan, run.train, run.val)
    resume.mark(opened.folder)
    opened.log = LogWriter(opened.folder / f"{name}.txt")
    write_header(opened.log, root, run.world.size, machine, args.argv, **header)
    opened.identity = digest(resume.identity(header, loaded_sources(root)))
    return opened


def _resumed(run, root: Path, folder: Path, machine: dict) -> Opened:
    rank0 = run.world.rank == 0
    opened = Opened(folder, lock_folder(folder) if rank0 else None)
    opened.start, log = resume.resume(folder, root, run_header(run.plan, run.train, run.val))
    opened.identity = digest(resume.identity(log.header, log.sources))
    say(run, where_from(opened.start))
    if rank0:
        opened.log = LogWriter.reopen(log.path, seed=opened.start.seed, step=opened.start.step,
                                      world_size=run.world.size, **software(), hardware=machine)
    return opened


def where_from(start: resume.Start) -> str:
    """For the person: where a run resumes."""
    if start.seed is None:
        return "every seed is done; the log is closed"
    if start.tensors is None and start.seed in start.begun:
        return f"seed {start.seed} starts again from step 0: it has no checkpoint that is whole"
    return f"resumes seed {start.seed} from step {start.step}"
