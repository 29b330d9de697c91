"""Checkpoints: all that a run needs to go on as if it had never stopped.

    checkpoint_000_0000250.pt     tensors: weights, optimizers, wrappers, generator; the first seed declared
    checkpoint_000_0000250.json   what they are of: seed, step, clock, the run; sha256 of the other file

Both are written beside and renamed, the JSON last, so a checkpoint is whole where its JSON is; a file that
changed later does not have its sha256 and is passed over. The last two are kept. The data stream and the
schedule are functions of the step. Loading unpickles nothing: torch's weights_only. On a CPU the digits are
those of a run that never stopped; on a GPU sums by atomics differ between any two runs.
"""
import hashlib
import io
import json
import math
import os
import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

from speedrun.cli import Refusal, go_on
from speedrun.log.format import Log, read_log
from speedrun.text import source_text

from .machine import digest

KEEP = 2
NAME = re.compile(r"checkpoint_(\d+)_(\d+)\.(?:json|pt)")


@dataclass
class Start:
    """Where a run goes on: seeds with an outcome are done, `seed` starts from `step` with `tensors`."""

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


def collect(model, optimizers: list, wrappers: list) -> dict:
    """The tensors of a checkpoint; a collective, for each optimizer's state is gathered.

    The generator is the CPU's: training draws no numbers on a GPU. The log needs no position: it is read up
    to its last whole line.
    """
    return dict(model=model.state_dict(), optimizers=[o.state_dict() for o in optimizers],
                wrappers=[w.state_dict() for w in wrappers], generator=torch.get_rng_state())


def restore(tensors: dict, model, optimizers: list, wrappers: list) -> None:
    """Put a checkpoint's tensors back. Refusal where they are not of this model and these optimizers."""
    try:
        model.load_state_dict(tensors["model"])
        for kind, parts in (("optimizers", optimizers), ("wrappers", wrappers)):
            for part, state in zip(parts, tensors[kind], strict=True):
                part.load_state_dict(state)
        torch.set_rng_state(tensors["generator"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = (str(error).splitlines() or [""])[0][:160]
        raise Refusal(f"the newest checkpoint does not fit this run ({type(error).__name__}: {reason}); "
                      "delete it and go on with --resume, which takes the one before") from None


def save_weights(path: Path, model) -> None:
    """Write the model's weights, whole or not at all. Refusal where the disk is full."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    _write(path, buffer.getbuffer(), "weights")


def _write(path: Path, data: bytes, what: str = "checkpoint") -> None:
    beside = path.with_suffix(path.suffix + ".part")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise Refusal(f"cannot write the {what} {path} ({error.strerror}); checkpoints before it are whole: "
                      f"free space, then go on with {go_on(path.parent)}", everywhere=False) from None


def save(folder: Path, number: int, about: dict, tensors: dict) -> str:
    """Write the checkpoint of seed `number` (of those declared) at about["step"], and delete all but
    this one and the one written before it; its name. Refusal where the disk is full."""
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    data = buffer.getbuffer()
    path = folder / f"checkpoint_{number:03d}_{about['step']:07d}.pt"
    about = dict(about, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    _write(path, data)
    _write(path.with_suffix(".json"), json.dumps(dict(about, check=digest(about))).encode())
    others = [old for old in names(folder) if old.stem != path.stem]
    for old in sorted(others, key=lambda old: old.stat().st_mtime_ns, reverse=True)[KEEP - 1:]:
        old.unlink(missing_ok=True)  # the JSON first: without it the other is no checkpoint
        old.with_suffix(".pt").unlink(missing_ok=True)
    return path.stem


def keep(run, seed: int, step: int, seconds: float, optimizers: list, wrappers: list) -> None:
    """Write a checkpoint of what `step` of a train_gpt.Run starts from, all ranks together, and log it.
    seconds: the training clock's."""
    tensors = collect(run.model, optimizers, wrappers)
    if run.world.rank == 0:
        about = dict(seed=seed, step=step, seconds=seconds, identity=run.identity)
        name = save(run.folder, run.plan.args.seeds.index(seed), about, tensors)
        run.log.event("checkpoint", seed=seed, step=step, name=name)
    run.world.barrier()


def names(folder: Path) -> list[Path]:
    """The JSONs of the folder's checkpoints, the newest first."""
    found = [path for path in folder.glob("checkpoint_*.json") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: tuple(map(int, NAME.fullmatch(path.name).groups())), reverse=True)


def load(path: Path) -> tuple[dict, dict]:
    """(about, tensors) of the checkpoint whose JSON is `path`. ValueError saying what is damaged."""
    try:
        about = json.loads(path.read_bytes())
        check = about.pop("check")
        if digest(about) != check:
            raise ValueError("its JSON does not have the sha256 it states")
        whole = all(type(about[name]) is int and about[name] >= 0 for name in ("seed", "step", "bytes"))
        if not whole or not (type(about["seconds"]) in (int, float) and 0 <= about["seconds"] < math.inf):
            raise ValueError("a number in its JSON is none")
        data = path.with_suffix(".pt").read_bytes()
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"its JSON is damaged ({error})") from None
    if len(data) != about["bytes"] or hashlib.sha256(data).hexdigest() != about.get("sha256"):
        raise ValueError(f"{path.stem}.pt does not have the sha256 that its JSON states")
    try:
        return about, torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # what an unpickler raises on bytes that are none of ours has no end
        raise ValueError(f"{path.stem}.pt holds no tensors ({type(error).__name__})") from None


def the_log(folder: Path) -> Path:
    """The one log of a run's folder. Refusal where there is none, or more than one."""
    if not folder.is_dir():
        what = "is a file; name the folder it lies in" if folder.exists() else "there is no such folder"
        raise Refusal(f"--resume {folder}: {what}", code=2)
    logs = sorted(folder.glob("*.txt"))
    if len(logs) != 1:
        raise Refusal(f"--resume {folder}: it holds {len(logs)} logs (*.txt), not one; name the --log-dir "
                      "of a run", code=2)
    return logs[0]


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
    """The arguments of the run in `folder`, but those that name the user's own folders."""
    path = the_log(folder)
    try:
        words = shlex.split(str(read_log(path).header.get("command", "")))[1:]
    except ValueError as error:
        raise Refusal(f"--resume {folder}: the command in {path.name} cannot be read ({error}); start a new "
                      "run") from None
    at = [i for i, word in enumerate(words) if word in ("--log-dir", "--data-dir")]
    return [word for i, word in enumerate(words) if i not in at and i - 1 not in at]


def plan_of(parse, argv: list[str]):
    """train_gpt.parse(argv); with --resume, of the arguments of that run and of `argv` behind them. Refusal
    where a --log-dir names another folder than --resume, and where the run began with another --val-every
    (its log's grid would not stand) or --fast (its log would not tell)."""
    plan = parse(argv)
    there, named = plan.args.resume, plan.args.log_dir
    if there and named and there.absolute() != named.absolute():
        raise Refusal(f"--resume {there} goes on in that folder, not in --log-dir {named}; leave --log-dir "
                      "out", code=2)
    if not there:
        return plan
    unfinished(there)
    words = arguments(there)
    begun, plan = parse([*words, "--device", plan.device]).args, parse([*words, *argv])
    for flag in ("val_every", "fast"):
        if getattr(begun, flag) != getattr(plan.args, flag):
            name = flag.replace("_", "-")
            raise Refusal(f"--resume {there}: --{name} cannot change within a run; leave it out, and the run "
                          "goes on as it began", code=2)
    return plan


def resume(folder: Path, root: Path, header: dict) -> tuple[Start, Log]:
    """Where the run in `folder` goes on. Refusal where it is complete, or where its recipe, track, data,
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
                      f"{'; ...' if len(differs) > 4 else ''}; use its code and arguments, or start anew")
    outcomes = [data for _, kind, data in log.events if kind == "outcome"]
    left = [seed for seed in header["seeds"] if seed not in {outcome["seed"] for outcome in outcomes}]
    start = Start(outcomes, left[0] if left else None,
                  logged={seed: (points[-1].step, points[-1].train_time)
                          for seed, points in log.series.items()},
                  begun={data.get("seed") for _, kind, data in log.events if kind == "seed"})
    target = header["track"]["target"]
    start.reached = next((dict(step=point.step, seconds=point.train_time)
                          for point in log.series.get(start.seed, ())
                          if target is not None and point.val_loss <= target), None)
    start.seconds = start.logged.get(start.seed, (0, 0.0))[1]  # the log's times never run back
    for path in names(folder):
        try:
            about, tensors = load(path)
            if about["step"] > header["recipe"]["steps"]:
                raise ValueError(f"its step {about['step']} is behind the last one")
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
        marked = [path.parent for path in root.glob("logs/*/.run_id") if path.read_text() == run_id
                  and not any(read_log(log).status == "complete" for log in path.parent.glob("*.txt"))]
        log_dir = max(marked, default=None)
    if log_dir is None or not any(log_dir.glob("*.txt")):
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
        (folder / ".run_id").write_text(os.environ["TORCHELASTIC_RUN_ID"])
