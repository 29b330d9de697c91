"""How a run that stopped is resumed: its plan, the checkpoint it starts from, what must not have changed."""
import hashlib
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from speedrun.cli import Refusal
from speedrun.log.command import Command
from speedrun.log.folder import RUN_ID, logs_in, the_log
from speedrun.log.format import Log, digest
from speedrun.log.reader import read_log
from speedrun.text import source_text

from .checkpoint import load, names


@dataclass
class Start:
    """Where a run is resumed: seeds with an outcome are done, `seed` starts from `step` with `tensors`."""

    outcomes: list = field(default_factory=list)
    seed: int | None = None
    step: int = 0
    seconds: float = 0.0
    reached: dict | None = None                        # where the log first has the track's target
    tensors: dict | None = None                        # None: from the initial weights
    logged: dict = field(default_factory=dict)         # seed -> the last step whose validation is in the log
    begun: set = field(default_factory=set)            # seeds whose `seed` event is in the log


def identity(header: dict, sources: dict[str, str]) -> dict:
    """What must be equal for a run to be continued, of a log's header: recipe, track, data, seeds, and the
    code (path -> text)."""
    code = {path: hashlib.sha256(text.encode()).hexdigest() for path, text in sources.items()}
    fixed = {name: header.get(name) for name in ("recipe", "track", "data", "seeds")}
    return json.loads(json.dumps(dict(**fixed, sources=code)))


def difference(there: dict, here: dict, prefix: str = "") -> list[str]:
    """The fields that differ, as "name: value there, value here"; of sources only the names."""
    found = []
    for name in sorted({*there, *here}):
        a, b = there.get(name), here.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += difference(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append(name if prefix == "sources." else f"{prefix}{name}: {a} there, {b} here")
    return found


def unfinished(folder: Path) -> Log:
    """The log of the run in `folder`. Refusal where that is complete, or was never begun."""
    log = read_log(the_log(folder))
    if log.status == "complete":
        raise Refusal(f"--resume {folder}: that run is complete; its log is {log.path.name}")
    if not log.header:
        raise Refusal(f"--resume {folder}: the log ends within its header, so nothing was trained; start "
                      "a new run")
    return log


def arguments(folder: Path) -> list[str]:
    """The arguments of the run in `folder`, but those that name the user's own folders. Refusal where this
    train_gpt.py does not know them."""
    path = the_log(folder)
    command = Command.read(str(read_log(path).header.get("command", "")))
    if command.wrong:
        raise Refusal(f"--resume {folder}: the command in {path.name} cannot be read ({command.wrong}); "
                      "start a new run")
    return list(command.without_folders().words)


def plan_of(parse, argv: list[str]):
    """train_gpt.parse(argv); with --resume, of the arguments of that run and then of `argv`. Refusal where a
    --log-dir names another folder than --resume, and where a flag changes that may change a loss and that no
    header holds: --val-every (the log would not keep to its grid), --fast (it would not tell)."""
    plan = parse(argv)
    there, named = plan.args.resume, plan.args.log_dir
    if there and named and there.absolute() != named.absolute():
        raise Refusal(f"--resume {there} resumes in that folder, not in --log-dir {named}; leave --log-dir "
                      "out", code=2)
    if not there:
        return plan
    unfinished(there)
    begun = Command(arguments(there))
    if changed := begun.differs(now := begun.plus(*argv)):
        raise Refusal(f"--resume {there}: {changed} cannot change within a run; leave it out, and the run "
                      "resumes as it began", code=2)
    return parse(list(now.words))


def resume(folder: Path, root: Path, header: dict) -> tuple[Start, Log]:
    """Where the run in `folder` is resumed. Refusal where it is complete, or where its recipe, track, data,
    seeds or code is not that of `header` and of the files under `root`; damaged checkpoints are named on
    stderr and passed over."""
    log = unfinished(folder)
    there = identity(log.header, log.sources)
    files = {path: (root / path).resolve() for path in log.sources}
    now = {path: source_text(file) for path, file in files.items()
           if file.is_relative_to(root) and file.is_file()}
    differs = difference(there, identity(header, now))
    if differs:
        raise Refusal(f"--resume {folder}: that was another run: {'; '.join(differs[:4])}"
                      f"{'; ...' if len(differs) > 4 else ''}; use its code and arguments, or start a "
                      "new run")
    outcomes = [data for _, data in log.of_kind("outcome")]
    left = [seed for seed in header["seeds"] if seed not in {outcome["seed"] for outcome in outcomes}]
    start = Start(outcomes, left[0] if left else None,
                  logged={seed: (points[-1].step, points[-1].train_time)
                          for seed, points in log.series.items()},
                  begun={data.get("seed") for _, data in log.of_kind("seed")})
    target = header["track"]["target"]
    start.reached = next((dict(step=point.step, seconds=point.train_time)
                          for point in log.series.get(start.seed, ())
                          if target is not None and point.val_loss <= target), None)
    start.seconds = start.logged.get(start.seed, (0, 0.0))[1]  # the log's times never run back
    for path in names(folder):
        try:
            about, tensors = load(path)
            if about["step"] > header["recipe"]["steps"]:
                raise ValueError(f"its step {about['step']} is after the last one")
        except ValueError as error:
            print(f"{path.stem} is passed over: {error}", file=sys.stderr, flush=True)
            continue
        if about["identity"] == digest(there) and about["seed"] == start.seed:
            start.step, start.tensors = about["step"], tensors
            start.seconds = max(about["seconds"], start.seconds)
            break
    return start, log


def folder_of_restart(root: Path, log_dir: Path | None) -> Path | None:
    """The folder of the run that this process restarts under torchrun --max-restarts, or None.

    Without --log-dir it is found by torchrun's run id, which `mark` noted there; a complete run is a former
    one of the same id.
    """
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) == 0:
        return None
    if log_dir is None:
        run_id = os.environ.get("TORCHELASTIC_RUN_ID", "")
        marked = [path.parent for path in root.glob(f"logs/*/{RUN_ID}") if path.read_text() == run_id
                  and not any(read_log(log).status == "complete" for log in logs_in(path.parent))]
        log_dir = max(marked, default=None)
    if log_dir is None or not logs_in(log_dir):
        return None  # it died before it had a log
    rank0 = int(os.environ.get("RANK", 0)) == 0
    try:
        log = the_log(log_dir)
        if read_log(log).header:
            return log_dir
        if rank0:
            log.rename(log.with_suffix(".aborted"))  # within its header: nothing was trained
    except Refusal:
        if rank0:
            raise  # else rank 0 has renamed it in between
    return None


def mark(folder: Path) -> None:
    """Note torchrun's run id, so that a restart finds this folder."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        (folder / RUN_ID).write_text(os.environ["TORCHELASTIC_RUN_ID"])
