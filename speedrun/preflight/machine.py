"""Preflight: what would stop or spoil a run, found before it costs anything, each with its fix.

`quick` is what train_gpt.py asks before it allocates anything: versions, GPUs, disk and memory. What
scripts/preflight.py asks besides is in preflight_shards.py, preflight_run.py and collective.py.
"""
import csv
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from speedrun import ROOT
from speedrun.cli import Refusal
from speedrun.training.estimate import _numbers, disk_bytes, estimate, first_micro_batch
from speedrun.training.machine import versions
from speedrun.training.world import World

LEVELS = ("stop", "warn", "ok")
TESTED_TORCH = "2.13.0", "2.11.0"  # on the CPU; nothing has been tested on a GPU yet
PROCESS_BYTES = 2**29    # room for Python, torch and CUDA before any tensor

FIELDS = ("index", "uuid", "name", "driver_version", "clocks.sm", "clocks.max.sm", "temperature.gpu",
          "memory.used")
# Bits of the reasons why a GPU's clock is held down, as NVML defines them (nvml.h,
# nvmlClocksEventReasons), and what to do. Bit 0, an idle GPU, is none.
THROTTLING = {
    0x02: ("the application clocks are set", "run `sudo nvidia-smi -i {index} -rac`"),
    0x04: ("the power limit is reached", "raise it: run `sudo nvidia-smi -i {index} -pl WATTS`"),
    0x08: ("the hardware slows it down", "see why: run `nvidia-smi -q -d PERFORMANCE -i {index}`"),
    0x20: ("it is too hot", "fix the cooling: run `nvidia-smi -q -d TEMPERATURE -i {index}`"),
    0x40: ("it is far too hot", "fix the cooling: run `nvidia-smi -q -d TEMPERATURE -i {index}`"),
    0x80: ("the power supply brakes it", "fix the supply: run `nvidia-smi -q -d POWER -i {index}`"),
}


@dataclass(frozen=True)
class Finding:
    """One answer of a check. level: "stop" (the run would not start, not end, or count for nothing), "warn"
    or "ok"; `what` it is, what it would `cost`, and the `fix`, a command wherever there is one."""

    level: str
    check: str
    what: str
    cost: str = ""
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.check}: " + "; ".join(part for part in (self.what, self.cost, self.fix) if part)


def quick(plan, world: World, model: nn.Module) -> list[Finding]:
    """Rank 0's checks before step 0: versions, GPUs, disk, memory. It prints one line a warning to stderr.

    plan: a train_gpt.Plan; model: its GPT on the meta device. Reads no shard and starts no collective.
    Raises Refusal on the first finding that would stop the run.
    """
    if world.rank != 0:
        return []
    queried = query_gpus()
    findings = [*torch_versions(plan, queried), *gpus(plan, queried), *disk(plan, model),
                *memory(plan, world, model)]
    for finding in findings:
        if finding.level == "stop":
            raise Refusal(str(finding))
    for finding in findings:
        if finding.level == "warn":
            print(f"train_gpt.py: warning: {finding}", file=sys.stderr, flush=True)
    return findings


def readable(size: int) -> str:
    """Bytes in MB or GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def torch_versions(plan, queried: tuple[list[dict], str]) -> list[Finding]:
    """torch against the versions the tests ran on; with CUDA all is untested, the driver included."""
    found, fix = versions(), f"run `.venv/bin/pip install torch=={TESTED_TORCH[0]}`"
    torch_version, plain = found["torch"], found["torch"].split("+")[0]
    if plan.device == "cuda":
        found["driver"] = queried[0][0]["driver_version"] if queried[0] else "n/a"
        shown = ", ".join(f"{name} {found[name]}" for name in found if name not in ("python", "numpy"))
        fix = "try it first: run `python train_gpt.py --steps 20`" if plain in TESTED_TORCH else fix
        return [Finding("warn", "versions", f"{shown}: no GPU run of this code has been tested",
                        "an error may come late, after compilation and warm-up", fix)]
    if plain not in TESTED_TORCH:
        known = " and ".join(TESTED_TORCH)
        return [Finding("warn", "versions", f"torch {torch_version} is untested; tested: {known}",
                        "its defects become those of the run, and losses differ in their last digits", fix)]
    return [Finding("ok", "versions", f"torch {torch_version}, Python {found['python']}, numpy "
                    f"{found['numpy']}: tested on the CPU")]


def query_gpus() -> tuple[list[dict], str]:
    """What nvidia-smi says of each GPU that CUDA_VISIBLE_DEVICES shows, by FIELDS and "throttling"; and why
    there is none."""
    said = "no nvidia-smi"
    for reasons in ("clocks_event_reasons.active", "clocks_throttle_reasons.active"):  # the second: older
        query = f"--query-gpu={','.join((*FIELDS, reasons))}"
        words = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=10)
        except FileNotFoundError:
            return [], said
        except (OSError, subprocess.SubprocessError) as error:
            return [], f"nvidia-smi does not answer ({type(error).__name__})"
        if done.returncode == 0:
            rows = csv.reader(done.stdout.splitlines(), skipinitialspace=True)
            found = [dict(zip((*FIELDS, "throttling"), row)) for row in rows if len(row) > len(FIELDS)]
            return [gpu for gpu in found if _visible(gpu)], "nvidia-smi shows no GPU to this process"
        said = f"nvidia-smi fails: {' '.join((done.stdout + done.stderr).split())[:200]}"
    return [], said


def _visible(gpu: dict) -> bool:
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return shown is None or any(word == gpu["index"] or (word and gpu["uuid"].startswith(word))
                                for word in map(str.strip, shown.split(",")))


def gpus(plan, queried: tuple[list[dict], str]) -> list[Finding]:
    """Clocks and throttling of each GPU; GPUs that the run would leave idle."""
    rows, reason = queried
    if plan.device == "cpu":
        if not rows or plan.args.device == "cpu":
            return [Finding("ok", "gpus", "none in use, the run is on the CPU")]
        why, fix = "this torch is a build for the CPU", "run `scripts/setup.sh`, which changes it"
        if torch.version.cuda:
            why = f"torch's CUDA {torch.version.cuda} does not start on driver {rows[0]['driver_version']}"
            fix = "run `nvidia-smi` and update the driver, or say `--device cpu`"
        return [Finding("warn", "gpus", f"{len(rows)} x {rows[0]['name']} would be idle: {why}",
                        f"the run takes the CPU and track {plan.track.name}", fix)]
    if not rows:
        return [Finding("warn", "gpus", f"clocks and throttling n/a: {reason}",
                        "a slow GPU would go unnoticed, and slows all ranks", "run `nvidia-smi`")]
    shown = ", ".join(f"GPU {gpu['index']} {gpu['clocks.sm']} of {gpu['clocks.max.sm']} MHz "
                      f"{gpu['temperature.gpu']} C" + ("" if _tells(gpu) else ", throttling n/a")
                      for gpu in rows)
    kind = f"{len(rows)} x {rows[0]['name']}, driver {rows[0]['driver_version']}"
    throttled = [finding for gpu in rows for finding in _throttling(gpu)]
    return [*throttled, Finding("ok", "gpus", f"{kind}: {shown}")]


def _tells(gpu: dict) -> bool:
    """Whether nvidia-smi has throttling reasons of this kind of GPU; else it says [N/A]."""
    return re.fullmatch(r"0x[0-9a-fA-F]{1,16}", gpu["throttling"]) is not None


def _throttling(gpu: dict) -> list[Finding]:
    reasons = int(gpu["throttling"], 16) if _tells(gpu) else 0
    return [Finding("warn", "gpus", f"GPU {gpu['index']} ({gpu['name']}) is throttled: {why}",
                    "every step waits for the slowest GPU, so no time of this run compares",
                    fix.format(index=gpu["index"]))
            for bit, (why, fix) in THROTTLING.items() if reasons & bit]


def existing(folder: Path) -> Path:
    """`folder`, or the nearest of its parents that is there."""
    folder = Path(os.path.abspath(folder))
    return next(place for place in (folder, *folder.parents) if os.path.exists(place))


def log_folder(plan) -> Path:
    """Where the run's folder would be, or be made."""
    return plan.args.resume or plan.args.log_dir or ROOT / "logs"


def disk(plan, model: nn.Module) -> list[Finding]:
    """Free disk for the log, the weights (--save) and the checkpoints."""
    needs, folder = disk_bytes(plan, model), existing(log_folder(plan))
    free, needed = shutil.disk_usage(folder).free, sum(needs.values())
    parts = ", ".join(f"{name} {readable(size)}" for name, size in needs.items())
    what = f"{readable(free)} free in {folder}, the run may write {readable(needed)} ({parts})"
    if free < needed:
        return [Finding("stop", "disk", what, "the run would end when the disk is full",
                        f"free {readable(needed - free)}, or choose another disk with `--log-dir DIR`")]
    return [Finding("ok", "disk", what)]


def memory(plan, world: World, model: nn.Module) -> list[Finding]:
    """The estimate of records/memory.py against the GPU, or against the machine's memory. What is exact
    (weights, gradients, state) stops a run that cannot hold it; the estimated rest warns."""
    context = plan.track.context
    need = estimate(model, plan.recipe, context, world.size)
    sequences = first_micro_batch(_share(plan, world), world.device.type, context)
    if world.device.type == "cuda":
        (free, total), ranks = torch.cuda.mem_get_info(world.device), 1
        where, fix = torch.cuda.get_device_name(world.device), "run it on more GPUs, or on larger ones"
        busy = f"see what else holds it: `nvidia-smi -i {world.device.index or 0}`; or {fix}"
    else:
        (total, free), ranks = main_memory(), int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
        where = "main memory"
        fix = "run fewer processes, a smaller track, or a larger machine"
        busy = f"end what else holds it (`ps aux --sort=-rss | head`), or {fix}"
    one, most = (ranks * (PROCESS_BYTES + need.needed(n)) for n in (1, sequences))
    what = (f"{ranks} x " if ranks > 1 else "") + (
        f"weights {readable(need.weights)}, gradients {readable(need.gradients)}, optimizer state "
        f"{readable(need.state)}, at most {readable(need.sequence)} a sequence; {where} has "
        f"{readable(total)}, {readable(free)} free")
    if ranks * need.fixed > total:
        return [Finding("stop", "memory", what, "the run would end before its first step", fix)]
    if world.device.type == "cuda" and one <= free:  # the trainer halves the micro-batch until it fits
        most, fits = one, min(sequences, need.fitting(free - PROCESS_BYTES))
        what += f", enough for micro-batches of {fits} by this estimate ({sequences} are tried first)"
    if most > free:
        return [Finding("warn", "memory", f"{what}: {readable(most)} are needed by this estimate",
                        "the run may end at its first step for want of memory", busy)]
    return [Finding("ok", "memory", what)]


def _share(plan, world: World) -> int:
    """Sequences of a step that fall to a rank."""
    return max(1, plan.track.tokens_per_step // plan.track.context // world.size)


def main_memory() -> tuple[int, int]:
    """Bytes of main memory that this process may use, and how many of them are free: the machine's, or its
    control group's where that has a limit."""
    total = free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = 1024 * _numbers("/proc/meminfo").get("MemAvailable", free // 1024)
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # no control groups, or "max"
        return total, free
    # "anon" is what cannot be given back: the shards in the page cache count as used, too.
    return min(total, limit), min(free, limit - _numbers("/sys/fs/cgroup/memory.stat").get("anon", 0))
