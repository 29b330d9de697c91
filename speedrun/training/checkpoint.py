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
from pathlib import Path

import torch

from speedrun.cli import Refusal, go_on
from speedrun.log.folder import CHECKPOINT, checkpoint_name
from speedrun.log.format import digest

KEEP = 2


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
    path = folder / f"{checkpoint_name(number, about['step'])}.pt"
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
        about = dict(seed=seed, step=step, seconds=seconds, identity=run.opened.identity)
        name = save(run.opened.folder, run.plan.args.seeds.index(seed), about, tensors)
        run.opened.log.event("checkpoint", seed=seed, step=step, name=name)
    run.world.barrier()


def names(folder: Path) -> list[Path]:
    """The JSONs of the folder's checkpoints, the newest first."""
    found = [path for path in folder.glob("checkpoint_*.json") if CHECKPOINT.fullmatch(path.name)]
    order = {path: tuple(map(int, CHECKPOINT.fullmatch(path.name).groups())) for path in found}
    return sorted(found, key=order.get, reverse=True)


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
