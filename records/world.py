"""The processes of a run: this one's place among them, their common clock, and how they stop together."""
import os
import signal
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from .cli import Refusal


@dataclass
class World:
    """This process among the `size` ranks of a run."""

    rank: int
    size: int
    device: torch.device

    def barrier(self) -> None:
        """Returns when every rank and every device has come this far."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        if self.size > 1:
            dist.barrier()

    def sum(self, value: Tensor) -> Tensor:
        """`value` summed over ranks, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def minimum(self, value: int) -> int:
        """The least of the ranks' values."""
        value = torch.tensor(value, device=self.device)
        if self.size > 1:
            dist.all_reduce(value, op=dist.ReduceOp.MIN)
        return int(value)


def join_world(device_type: str, sequences: int, val_sequences: int) -> World:
    """This process's place among the ranks that torchrun started, or a world of one.

    Refusal (exit 2) where the world size does not divide the sequences of a step and of the validation.
    """
    defaults = dict(RANK=0, WORLD_SIZE=1, LOCAL_RANK=0)
    rank, size, local = (int(os.environ.get(name, default)) for name, default in defaults.items())
    fitting = [n for n in range(1, sequences + 1) if sequences % n == 0 and val_sequences % n == 0]
    if size not in fitting:
        raise Refusal(f"world size {size} does not divide the {sequences} sequences of a step; use as many "
                      f"processes as one of {', '.join(map(str, fitting))}", code=2)
    device = torch.device(device_type)
    if device_type == "cuda":
        if local >= torch.cuda.device_count():
            raise Refusal(f"rank {rank} wants GPU {local}, this machine shows {torch.cuda.device_count()}; "
                          "lower --nproc_per_node", everywhere=False)
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if size > 1:
        dist.init_process_group("nccl" if device_type == "cuda" else "gloo",
                                device_id=device if device_type == "cuda" else None)
    return World(rank, size, device)


class Clock:
    """The training clock: seconds between start and stop, every rank and device synchronised at both."""

    def __init__(self, world: World):
        self.world, self.seconds, self.started = world, 0.0, None

    def start(self) -> None:
        self.world.barrier()
        self.started = time.perf_counter()

    def stop(self) -> float:
        """Stops the clock where it runs; the seconds so far."""
        self.world.barrier()
        self.seconds, self.started = self.read(), None
        return self.seconds

    def read(self) -> float:
        """The seconds so far, waiting for nothing."""
        return self.seconds + (time.perf_counter() - self.started if self.started is not None else 0.0)


class StopSignal:
    """Turns the first SIGINT or SIGTERM into a request the ranks agree on at a step; a second one kills."""

    def __init__(self):
        self.number = 0

    def __enter__(self):
        self.before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _note(self, number, _frame):
        self.number = number
        signal.signal(number, signal.SIG_DFL)

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)
