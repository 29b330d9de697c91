"""What a log says about where a run happened: versions, settings, hardware, sources, git. No host or user
names."""
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy
import torch
from torch.nn.attention import SDPBackend

from speedrun.log.command import Command
from speedrun.log.format import now, sums
from speedrun.log.writer import LogWriter
from speedrun.text import source_text

from .provenance import OURS, git_state, imports
from .world import World

# How the names of environment variables begin that torch and what it is built on read.
SETTINGS = ("ATEN_", "CUBLAS", "CUDA_", "CUDNN_", "MKL_", "NCCL_", "NVIDIA_TF32_", "OMP_", "PYTORCH_",
            "TORCH_", "TORCHDYNAMO_", "TORCHINDUCTOR_", "TRITON_")
PRIVATE = re.compile("ADDR|AUTH|COMM_ID|CRED|HOST|IFNAME|KEY|PASS|SECRET|TOKEN|USER")  # in a name: not logged
PLAIN = re.compile(r"[\w.,:;=+-]{0,100}", re.ASCII)  # numbers, words, and lists of them


def _output(*words: str) -> str | None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def versions() -> dict:
    """Python, torch, numpy, and CUDA, cuDNN and NCCL where this torch has them."""
    found = dict(python=platform.python_version(), torch=torch.__version__, numpy=numpy.__version__)
    if torch.cuda.is_available():
        found.update(cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version(),
                     nccl=".".join(map(str, torch.cuda.nccl.version())))
    return found


def settings() -> dict[str, str]:
    """The environment variables that torch, CUDA and NCCL read, some of which change digits or speed; DIR for
    one that names a folder, "..." for any other text. None whose name speaks of a secret, host or user."""
    return {name: "DIR" if "/" in value else value if PLAIN.fullmatch(value) else "..."
            for name, value in sorted(os.environ.items())
            if name.startswith(SETTINGS) and not PRIVATE.search(name)}


def software() -> dict:
    """What a log or a result says of the software it ran on."""
    return dict(versions=versions(), settings=settings(), imports=imports())


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def hardware(world: World) -> dict:
    """This rank's processor and device, and `gpus`, each rank's. A collective: every rank must call it."""
    device = world.device
    found = dict(system=platform.system(), processor=_processor(), cores=os.cpu_count(),
                 threads=torch.get_num_threads(), device=device.type)
    if device.type == "cuda":
        found["gpus"] = world.gather(_gpu(device))
        found["name"] = found["gpus"][world.rank]["name"]
    else:
        found["name"] = found["processor"]
    return found


def _gpu(device: torch.device) -> dict:
    """A GPU's name and, where nvidia-smi tells, driver, clocks (MHz), power limit (W), temperature (C)."""
    about = torch.cuda.get_device_properties(device)
    fields = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
    row = _output("nvidia-smi", f"--id=GPU-{about.uuid}", f"--query-gpu={fields}",
                  "--format=csv,noheader,nounits")
    return dict(name=about.name, **dict(zip(fields.split(","), (row or "").split(", "))) if row else {})


def attention_backend(device: torch.device, dtype: str, head_dim: int, length: int) -> str | None:
    """The backend that scaled_dot_product_attention takes for causal heads of this shape, None if untold."""
    try:
        options = dict(dtype=getattr(torch, dtype), device=device, requires_grad=True)
        q = torch.zeros((1, 1, length, head_dim), **options)
        return SDPBackend(torch._fused_sdp_choice(q, q, q, is_causal=True)).name.lower()
    except (AttributeError, ValueError, RuntimeError):  # torch promises no answer to this
        return None


def loaded_sources(root: Path) -> dict[str, str]:
    """Path under `root` and text of every module of the project that this process has loaded."""
    found, ours = {}, set(OURS)
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if not path or not path.endswith(".py") or not os.path.isabs(path):  # torch has made-up ones
            continue
        if not ours & {*Path(path).parts}:  # resolve() takes long for the thousands that are torch's
            continue
        path = Path(path).resolve()
        if path.is_relative_to(root):
            inner = path.relative_to(root)
            if inner.parts[0] in ours:  # not what is installed in an environment under the root
                found[inner.as_posix()] = source_text(path)
    return dict(sorted(found.items()))


def write_header(log: LogWriter, root: Path, world_size: int, machine: dict, argv: list, track: dict,
                 recipe: dict, seeds: list, data: dict) -> None:
    """The sources of the run and its `run` event, from plain JSON; `machine` is what hardware() found, `data`
    what shards.inspect did."""
    sources = loaded_sources(root)
    for path, text in sources.items():
        log.source(path, text)
    log.event("run", started=now(), command=Command(argv).logged(), seeds=seeds, track=track, recipe=recipe,
              sha256=sums(sources, track, recipe, data), data=data, world_size=world_size,
              **software(), hardware=machine, git=git_state(root))
