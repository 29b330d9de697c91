"""What only scripts/preflight.py asks, shards apart: ranks, attention, other programs, the log folder."""
import importlib.util
import math
import os
import shlex
import shutil
import sysconfig
import tempfile
from pathlib import Path

import torch

from speedrun.cli import Refusal, go_on
from speedrun.log.folder import LOCK, lock_folder, logs_in
from speedrun.training.machine import attention_backend
from speedrun.training.world import World

from .machine import Finding, existing, log_folder, readable

BUSY_MIB = 1024  # what the desktop and this check itself may hold of a GPU
CPU_FLOPS = 1e11  # a second, in round numbers: a core trains the laptop track at half of it


def launcher(plan, ranks: int, script: str = "train_gpt.py") -> str:
    """The command that starts `script` with the plan on `ranks` processes of this machine."""
    words = f"{script} {shlex.join(plan.args.argv)}".strip()
    return f"`torchrun --standalone --nproc_per_node={ranks} {words}`"


def world_size(plan, size: int, launched: bool) -> list[Finding]:
    """The number of ranks against the sequences of a step and of the validation, and against the machine.

    launched: the ranks are given (torchrun, or asked for); else one process, which may leave GPUs idle.
    """
    track = plan.track
    sequences, held_out = track.tokens_per_step // track.context, track.val_tokens // track.context
    common = math.gcd(sequences, held_out)
    fitting = [n for n in range(1, common + 1) if common % n == 0]
    if size not in fitting:
        below = max(n for n in fitting if n < size)
        return [Finding("stop", "ranks", f"{size} ranks do not divide the {sequences} sequences of a step "
                        f"and the {held_out} of the validation; {', '.join(map(str, fitting))} do",
                        "the run would not start", f"run {launcher(plan, below)}")]
    local = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    cuda = plan.device == "cuda"
    places = torch.cuda.device_count() if cuda else os.cpu_count() or 1
    most = max(n for n in fitting if n <= places)
    if local > places:
        level, cost = ("stop", "the run would not start") if cuda else ("warn", "ranks wait for each other")
        what = f"{local} ranks on this machine's {places} {'GPUs' if cuda else 'cores'}"
        return [Finding(level, "ranks", what, cost, f"run {launcher(plan, most)}")]
    if cuda and not launched and most > 1:
        return [Finding("warn", "ranks", f"one process, so {places - 1} of {places} GPUs would be idle",
                        f"the run takes some {most} times as long", f"run {launcher(plan, most)}")]
    share = f"{sequences // size} of a step's {sequences} sequences"
    return [Finding("ok", "ranks", f"{size}, each with {share}")]


def not_asked(plan, size: int) -> Finding:
    """For a sum over more ranks than this command starts by itself."""
    return Finding("warn", "collective", f"not checked: {size} ranks are too many to start for a look",
                   "ranks that cannot reach each other show when the run begins",
                   f"run {launcher(plan, size, 'scripts/preflight.py')}")


def collective(plan, size: int, milliseconds: float | None, failure: str = "") -> Finding:
    """What came of a sum over the ranks."""
    backend, variable = ("nccl", "NCCL") if plan.device == "cuda" else ("gloo", "GLOO")
    if failure:
        return Finding("stop", "collective", f"a sum over {size} ranks ({backend}) fails: {failure}",
                       "the run would hang or end before its first step",
                       f"name the network that joins them: `export {variable}_SOCKET_IFNAME=NAME`, a NAME "
                       "of `ip addr`; `export TORCH_DISTRIBUTED_DEBUG=DETAIL NCCL_DEBUG=INFO` says more")
    return Finding("ok", "collective", f"a sum of 1 MB over {size} ranks ({backend}): {milliseconds:.1f} ms")


def attention(plan, world: World) -> list[Finding]:
    """The backend of scaled_dot_product_attention, and on a GPU what compilation and bfloat16 need."""
    model = plan.track.model
    backend, found = attention_backend(world.device, model.dtype, model.head_dim, plan.track.context), []
    if backend in (None, "math", "error"):
        found.append(Finding("warn", "attention", f"no fused backend for heads of {model.head_dim} in "
                             f"{model.dtype} on this device ({backend or 'torch does not say'})",
                             "memory grows with the square of the context, and steps are slow",
                             "choose heads that torch fuses: `--allow-custom --track.model.head_dim 64`"))
    else:
        shape = f"heads of {model.head_dim} in {model.dtype}"
        found.append(Finding("ok", "attention", f"{backend} for {shape}"))
    if world.device.type == "cuda":
        if model.dtype == "bfloat16" and torch.cuda.get_device_capability(world.device) < (8, 0):
            name = torch.cuda.get_device_name(world.device)
            found.append(Finding("warn", "attention", f"{name} has no bfloat16 units",
                                 "steps are many times slower", "use an Ampere or newer GPU, or "
                                 "`--allow-custom --track.model.dtype float32`"))
        if not any(map(shutil.which, (os.environ.get("CC") or "cc", "gcc", "clang"))):
            found.append(Finding("warn", "compiler", "no C compiler, which torch.compile calls",
                                 "the run may end in its warm-up", "run `sudo apt install gcc`"))
        if not Path(sysconfig.get_path("include"), "Python.h").is_file():  # for what Triton builds
            found.append(Finding("warn", "compiler", "no Python.h, which torch.compile needs for GPUs",
                                 "the run may end in its warm-up", "run `sudo apt install python3-dev`"))
    return found


def length(plan, flops_per_token: float) -> list[Finding]:
    """A plan that would keep a CPU for more than a day."""
    flops = flops_per_token * plan.track.tokens_per_step * plan.recipe.steps
    days = flops / CPU_FLOPS / 86400
    if plan.device != "cpu" or days < 1:
        return []
    what = f"{flops:.1e} FLOPs are some {days:,.0f} days of a CPU at {CPU_FLOPS / 1e12:g} TFLOP/s"
    return [Finding("warn", "length", what, "the run would hardly end",
                    "train on a GPU, or take `--track laptop`; `--steps 2` is a look")]


def other_programs(rows: list[dict]) -> list[Finding]:
    """GPUs that others hold, and GPUs of several kinds; `rows` as preflight.query_gpus gives them."""
    found = []
    for gpu in rows:
        index, used = gpu["index"], gpu["memory.used"]
        if used.isdigit() and int(used) > BUSY_MIB:
            found.append(Finding("warn", "gpus", f"GPU {index}: other programs hold "
                                 f"{readable(int(used) * 2**20)}", "the run is slower, or does not fit",
                                 f"run `nvidia-smi -i {index}` and end them"))
    if len(kinds := {gpu["name"] for gpu in rows}) > 1:
        found.append(Finding("warn", "gpus", f"GPUs of several kinds: {', '.join(sorted(kinds))}",
                             "all wait for the slowest, and the run makes no time claim",
                             "choose those of one kind: `export CUDA_VISIBLE_DEVICES=0,1`"))
    return found


def folder(plan) -> list[Finding]:
    """Whether the log can be written, and nobody else writes there. Leaves no file."""
    wanted, fix = log_folder(plan), "choose another with `--log-dir DIR`"
    place = existing(wanted)
    try:
        tempfile.TemporaryFile(dir=place).close()
        if (wanted / LOCK).exists():
            lock_folder(wanted).close()
    except OSError as error:
        return [Finding("stop", "folder", f"cannot write in the log folder {wanted} ({error.strerror})",
                        "the run would not start", fix)]
    except Refusal as refusal:
        what, _, fix = str(refusal).rpartition("; ")
        return [Finding("stop", "folder", what, "the run would not start", fix)]
    if not plan.args.resume and logs_in(wanted):
        return [Finding("stop", "folder", f"the log folder {wanted} holds a run already",
                        "the run would not start", f"go on with it by `{go_on(wanted)}`, or {fix}")]
    return [Finding("ok", "folder", f"{wanted} can be written, and no other run holds it")]


def tracker(plan) -> list[Finding]:
    """wandb is imported only after the warm-up, so it would be missed late."""
    if not plan.args.wandb or importlib.util.find_spec("wandb"):
        return []
    return [Finding("stop", "wandb", "--wandb is given, but wandb is not installed",
                    "the run would end after its compilation", "run `pip install -r requirements.txt`")]
