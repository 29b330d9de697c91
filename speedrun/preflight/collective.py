"""A sum over the ranks of a run, under a time limit: whether they find each other before it matters."""
import json
import os
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta

import torch
import torch.distributed as dist

from speedrun import ROOT

LIMIT = 60  # seconds in which the ranks must meet and sum
VALUES = 2**18  # of 4 bytes


def rank_and_size() -> tuple[int, int]:
    """This process's place as torchrun says it; (0, 1) without one."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def sum_over_ranks(device_type: str, give_up) -> float:
    """Join the ranks that the environment names (as torchrun sets it), sum their numbers, leave; the
    milliseconds of a second sum of VALUES float32.

    Raises RuntimeError where that fails. Where the others do not come within LIMIT seconds, give_up(message)
    is called and the process ends with 1: a collective that waits cannot be called back.
    """
    rank, size = rank_and_size()

    def end():
        give_up(f"rank {rank} of {size} waited {LIMIT} s for the others")
        os._exit(1)

    timer = threading.Timer(LIMIT, end)
    timer.daemon = True
    timer.start()
    try:
        device = torch.device(device_type)
        if device_type == "cuda":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device_type == "cuda" else "gloo",
                                timeout=timedelta(seconds=2 * LIMIT))
        for _ in range(2):  # the first opens the connections
            started, value = time.perf_counter(), torch.full((VALUES,), float(rank), device=device)
            dist.all_reduce(value)
            total = float(value[-1])  # waits for the device
            seconds = time.perf_counter() - started
        if total != size * (size - 1) / 2:
            raise RuntimeError(f"the sum of the ranks 0 to {size - 1} came out as {total}")
        dist.destroy_process_group()  # not after a failure: nccl's would wait for the other ranks
        return 1000 * seconds
    finally:
        timer.cancel()


def worker(device_type: str) -> None:
    """A process of Workers: rank 0 prints the milliseconds; exit 1 and one line where it fails."""
    try:
        milliseconds = sum_over_ranks(device_type, lambda said: print(said, file=sys.stderr, flush=True))
    except (RuntimeError, ValueError, OSError) as error:
        sys.exit(f"rank {rank_and_size()[0]}: {' '.join(str(error).split())[:300]}")
    if rank_and_size()[0] == 0:
        print(json.dumps(milliseconds))


class Workers:
    """`size` processes on this machine that do sum_over_ranks, started at once and asked later; a context
    manager that ends them all."""

    def __init__(self, size: int, device_type: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        program = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
                   f"from speedrun.preflight.collective import worker; worker({device_type!r})")
        place = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(size))
        self.processes = []
        for rank in map(str, range(size)):
            self.processes.append(subprocess.Popen(
                [sys.executable, "-P", "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                text=True, env={**os.environ, **place, "RANK": rank, "LOCAL_RANK": rank}))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def milliseconds(self) -> float:
        """Of a sum; RuntimeError with what the first rank that failed said."""
        try:
            said = [process.communicate(timeout=2 * LIMIT) for process in self.processes]
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"the ranks did not answer in {2 * LIMIT} s") from None
        failures = [(err.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
                    for process, (_, err) in zip(self.processes, said) if process.returncode]
        if failures:  # the one that failed first, not those that waited for it
            raise RuntimeError(next((line for line in failures if " waited " not in line), failures[0]))
        return json.loads(said[0][0])
