"""What ranks say of their machines: a log names the GPU of every rank, and no other."""
import json
import os
import socket
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from speedrun.cli import Refusal
from speedrun.training import machine
from speedrun.training.world import World

# A driver that knows GPUs 5a and 6b alone, and answers for the one that is asked for.
DRIVER = """#!/bin/sh
case "$1" in --id=GPU-5a | --id=GPU-6b) echo "570.1, 1755, 1980, 2619, 700.00, 41";; *) exit 6;; esac
"""


def one_rank(rank, port, folder, names):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=len(names))
    torch.cuda.get_device_properties = lambda device: SimpleNamespace(**names[rank])
    found = machine.hardware(World(rank, len(names), torch.device("cuda", 0)))
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.mark.process
@pytest.mark.parametrize("other, told", [
    (dict(name="NVIDIA H100", uuid="6b"), {"driver_version": "570.1", "clocks.max.sm": "1980"}),
    (dict(name="NVIDIA A100", uuid="cc"), {})])  # one of which nvidia-smi says nothing
def test_every_rank_s_gpu_is_named(tmp_path, monkeypatch, other, told):
    driver = tmp_path / "nvidia-smi"
    driver.write_text(DRIVER)
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    mp.spawn(one_rank, (port, tmp_path, [dict(name="NVIDIA H100", uuid="5a"), other]), nprocs=2)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0]["gpus"] == found[1]["gpus"] and len(found[0]["gpus"]) == 2
    assert found[0]["gpus"][0] == {
        "name": "NVIDIA H100", "driver_version": "570.1", "clocks.sm": "1755", "clocks.max.sm": "1980",
        "clocks.mem": "2619", "power.limit": "700.00", "temperature.gpu": "41"}
    assert found[1]["gpus"][1]["name"] == found[1]["name"] == other["name"]
    assert told.items() <= found[0]["gpus"][1].items() and ("clocks.sm" in found[0]["gpus"][1]) == bool(told)


def test_what_nccl_says_is_not_lost():
    """It may fail on one rank alone, without any other's message."""
    said = "NCCL error in: ProcessGroupNCCL.cpp:4, unhandled system error\nLast error: /dev/shm: No space"
    with pytest.raises(Refusal, match="the other ranks at step 3.*Last error: /dev/shm: No space") as no:
        with World(0, 2, torch.device("cpu")).together(lambda: "step 3", everywhere=True):
            raise RuntimeError(said)
    assert not no.value.everywhere and "\n" not in str(no.value)
