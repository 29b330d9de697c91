"""records/preflight.py and records/memory.py: memory, versions, GPUs. nvidia-smi is a script on the PATH
that prints what a driver prints: no GPU is needed."""
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import train_gpt
from optimizers import RECIPES, Soap, build_optimizers
from optimizers.stack import CPU_STACK_BYTES
from speedrun.cli import Refusal
from speedrun.preflight import machine, run
from speedrun.training import estimate
from speedrun.training.world import World
from tests.support.plans import ONE, folder, found, meta, only, plan_of  # noqa: F401
from tracks import FINEWEB

pytestmark = pytest.mark.process

# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mlp", ["relu2", "swiglu"])
def test_activations_of_a_sequence_against_what_autograd_keeps(dtype, mlp):
    model = train_gpt.GPT(train_gpt.ModelConfig(1024, 3, 128, 64, 4, mlp, dtype))
    own, kept = {p.data_ptr() for p in model.parameters()}, {}

    def note_storage(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    tokens = torch.zeros((4, 256), dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(note_storage, lambda tensor: tensor):
        model(tokens, tokens)
    real = sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in own)
    need = estimate.estimate(model.to("meta"), RECIPES["muon"], context=256)
    # 8 of the estimate's 24 V bytes a token are gradients, which autograd makes later.
    assert 0.95 * real < need.casts + 4 * (need.sequence - 8 * 1024 * 256) < 1.3 * real


@pytest.mark.parametrize("name", ["adamw", "muon", "track3-10", "track3-5", "soap"])
def test_optimizer_state_is_counted_as_it_is_allocated(name):
    recipe = RECIPES.get(name) or replace(RECIPES["muon"], matrices=(Soap(), *RECIPES["muon"].matrices))
    model = train_gpt.GPT(train_gpt.ModelConfig(64, 3, 32, 16, 3, "swiglu"))
    train_gpt.initialise(model, 0, recipe.init)
    optimizers = build_optimizers(model, recipe)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    for optimizer in optimizers:
        optimizer.step()
    real = sum(value.nbytes for optimizer in optimizers for state in optimizer.state.values()
               for value in state.values() if value.ndim)
    one, two = (estimate.estimate(model.to("meta"), recipe, 16, world_size=n) for n in (1, 2))
    assert one.state == real and one.weights == sum(p.nbytes for p in model.parameters())
    assert (two.state < one.state) == (name != "adamw")  # matrices are sharded


STEP = """
import re, torch
from pathlib import Path
from optimizers import RECIPES, MatrixOptimizer

def resident(field):
    return 1024 * int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

params = [torch.nn.Parameter(torch.randn(512, 128)) for _ in range(128)]  # 34 MB: an allocation each
optimizer = MatrixOptimizer([dict(params=params, balance="rows")], RECIPES["aurora"].matrices, lr=0.01)
for p in params:
    p.grad = torch.randn_like(p)
optimizer.step()
Path("/proc/self/clear_refs").write_text("5")  # resets the mark
before = resident("VmRSS")
optimizer.step()
print(resident("VmHWM") - before)
"""


def test_a_step_takes_no_more_than_the_estimate():
    """The resident memory's high-water mark of a step, less what was resident before it; in a process of its
    own, whose allocator gives back at once what is freed: memory that it keeps would not be seen."""
    done = subprocess.run([sys.executable, "-c", STEP], cwd=train_gpt.ROOT, capture_output=True, text=True,
                          timeout=120, env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"})
    if "clear_refs" in done.stderr:
        pytest.skip("this system keeps no high-water mark that can be reset")
    assert done.returncode == 0, done.stderr
    # A CPU steps parts of the stack, one after the other; the estimate counts the whole one of a GPU.
    assert 0.6 < int(done.stdout) / ((2 + 10) * CPU_STACK_BYTES) < 1.05


def test_micro_batches_that_fit(folder, monkeypatch):
    plan = plan_of(folder, "--track.tokens_per_step", 2**19)
    need = estimate.estimate(meta(plan), plan.recipe, 1024, world_size=8)
    assert [need.fitting(need.needed(7) + extra) for extra in (0, -1)] == [7, 6]
    assert need.fitting(need.needed(1) - 1) == 0
    # A GPU of 80 GB of which others hold what leaves room for 7 sequences: no such machine runs the tests.
    gpu, free = World(0, 8, torch.device("cuda", 0)), machine.PROCESS_BYTES + need.needed(7)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H100")
    for free, level, words in ((free, "ok", "micro-batches of 7"), (need.fixed, "warn", "are needed")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 80 * 10**9))
        finding = machine.memory(plan, gpu, meta(plan))[0]
        assert finding.level == level and words in finding.what, finding


def test_memory_stops_and_warns(folder):
    assert machine.memory(plan_of(folder), ONE, meta(plan_of(folder)))[0].level == "ok"
    sizes = [f"--track.{name}={2**26}" for name in ("context", "tokens_per_step", "val_tokens")]
    long = plan_of(folder, *sizes)
    assert "are needed by this estimate" in only(machine.memory(long, ONE, meta(long)), "warn").what
    large = plan_of(folder, "--track.model.model_dim", 2**16, "--track.model.num_layers", 99)
    assert "fewer processes" in only(machine.memory(large, ONE, meta(large)), "stop").fix
    large.args.checkpoint_every = 0  # its checkpoints would fill the disk, and that finding comes first
    with pytest.raises(Refusal, match="^memory: weights .* end before its first step"):
        machine.quick(large, ONE, meta(large))


# ---------------------------------------------------------------- versions and GPUs


def driver(tmp_path, monkeypatch, script):
    """An nvidia-smi that is this shell script."""
    path = tmp_path / "bin" / "nvidia-smi"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def row(index, throttling="0x0000000000000000", name="NVIDIA H100 80GB HBM3", used=4):
    return f"{index}, GPU-{index}a-77, {name}, 570.124.06, 1980, 1980, 35, {used}, {throttling}"


def on_cuda(folder):
    return replace(plan_of(folder), device="cuda")


def test_healthy_gpus(folder, tmp_path, monkeypatch):
    driver(tmp_path, monkeypatch, f"echo '{row(0)}\n{row(1, '0x0000000000000001')}'")  # 1: idle
    finding = machine.gpus(on_cuda(folder), machine.query_gpus())[0]
    assert finding.level == "ok" and "2 x NVIDIA H100" in finding.what and "1980 of 1980 MHz" in finding.what
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1a")
    assert [gpu["index"] for gpu in machine.query_gpus()[0]] == ["1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.query_gpus()[0] == []


def test_throttled_mixed_and_busy_gpus(folder, tmp_path, monkeypatch):
    driver(tmp_path, monkeypatch, f"echo '{row(0)}\n{row(3, '0x0000000000000024')}\n"
                                  f"{row(4, '[N/A]', 'NVIDIA A100-SXM4-80GB', used=30000)}'")
    queried = machine.query_gpus()
    power, heat = found(machine.gpus(on_cuda(folder), queried), "warn")
    assert "GPU 3 " in power.what and "power limit" in power.what and "-i 3 -pl" in power.fix
    assert "GPU 3 " in heat.what and "too hot" in heat.what
    clocks = found(machine.gpus(on_cuda(folder), queried), "ok")[0].what
    assert "GPU 3 1980 of 1980 MHz 35 C, GPU 4 1980 of 1980 MHz 35 C, throttling n/a" in clocks
    busy, mixed = found(run.other_programs(queried[0]), "warn")
    assert "GPU 4: other programs hold 31.5 GB" in busy.what and "A100" in mixed.what


def test_a_cpu_that_would_take_days_is_named(folder):
    flops = train_gpt.flops_per_token(meta(plan_of(folder)), FINEWEB)
    whole = replace(plan_of(folder), track=FINEWEB, recipe=RECIPES["aurora"])
    warn, = run.length(whole, flops)
    assert warn.level == "warn" and "days" in warn.what and "--track laptop" in warn.fix
    assert run.length(replace(whole, device="cuda"), flops) == []
    assert run.length(plan_of(folder), flops) == []  # five small steps


@pytest.mark.parametrize("script, words", [
    ("echo 'NVIDIA-SMI has failed because it could not talk to the driver'; exit 9", "could not talk"),
    ("echo 'No devices were found'; exit 6", "No devices"), ("exit 0", "shows no GPU"),
    ("echo ', , ,'", "shows no GPU"), ("echo garbage", "shows no GPU")])
def test_an_nvidia_smi_that_tells_nothing(folder, tmp_path, monkeypatch, script, words):
    driver(tmp_path, monkeypatch, script)
    warn = only(machine.gpus(on_cuda(folder), machine.query_gpus()), "warn")
    assert "n/a" in warn.what and words in warn.what


def test_older_drivers_and_machines_without(folder, tmp_path, monkeypatch):
    unknown = "echo 'Field clocks_event_reasons.active is not a valid field to query.'; exit 2"
    driver(tmp_path, monkeypatch, f"case $* in *clocks_event*) {unknown};; *) echo '{row(0, '0x8')}';; esac")
    assert "the hardware slows it down" in only(machine.gpus(on_cuda(folder), machine.query_gpus()),
                                                "warn").what
    (tmp_path / "bin" / "nvidia-smi").unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert machine.query_gpus() == ([], "no nvidia-smi")


def test_quick_prints_a_line_a_warning_and_returns_every_finding(laptop, tmp_path, monkeypatch, capsys):
    driver(tmp_path, monkeypatch, f"echo '{row(0)}'")
    plan = train_gpt.parse(["--track", "laptop", "--data-dir", str(laptop)])
    plan.device = plan.args.device = "cpu"  # asked for
    monkeypatch.setattr(machine, "TESTED_TORCH", ("1.0.0",))
    findings = machine.quick(plan, ONE, meta(plan))
    assert [f.check for f in findings] == ["versions", "gpus", "disk", "memory"]
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("train_gpt.py: warning: versions: torch ")
    plan.args.device = None  # the CPU was taken because torch saw no GPU, which is there
    machine.quick(plan, ONE, meta(plan))
    assert "1 x NVIDIA H100 80GB HBM3 would be idle" in capsys.readouterr().err


def test_cuda_is_untested_and_says_so(folder):
    warn = only(machine.torch_versions(on_cuda(folder), ([dict(driver_version="570.1")], "")), "warn")
    assert "driver 570.1" in warn.what and "no GPU run" in warn.what


def test_wandb_is_missed_early(folder, monkeypatch):
    assert run.tracker(plan_of(folder)) == []
    monkeypatch.setitem(sys.modules, "wandb", None)  # as where it is not installed
    assert "pip install" in only(run.tracker(plan_of(folder, "--wandb")), "stop").fix


def test_attention_names_its_backend(folder):
    assert run.attention(plan_of(folder), ONE)[0].what.endswith("for heads of 128 in bfloat16")
