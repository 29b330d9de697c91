"""The processes of a run: this one's place among them, their common clock, and how they stop together."""
import ctypes
import os
import re
import signal
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from .cli import Refusal

LOST = re.compile(r"(?i)connection|timed? ?out|socket|broken pipe|nccl|gloo|remote process|watchdog")


def divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit`."""
    return next(d for d in range(max(1, min(number, limit)), 0, -1) if number % d == 0)


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

    @contextmanager
    def together(self, place):
        """Turns the error of a collective whose other ranks are gone or late into a Refusal that names this
        rank and place()."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not LOST.search(str(error)):
                raise
            raise Refusal(f"rank {self.rank} lost the other ranks at {place()}: one of them stopped or did "
                          "not answer in time; see its message, then go on with --resume LOGDIR, or use "
                          "torchrun's --max-restarts, which does so by itself", everywhere=False) from None

    def minimum(self, value: int) -> int:
        """The least of the ranks' values."""
        value = torch.tensor(value, device=self.device)
        if self.size > 1:
            dist.all_reduce(value, op=dist.ReduceOp.MIN)
        return int(value)


def die_with_launcher() -> None:
    """End this process when torchrun does: a launcher that is killed would leave its workers training."""
    if "LOCAL_RANK" not in os.environ:
        return
    launcher = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != launcher:  # it died before the call
            os.kill(os.getpid(), signal.SIGKILL)
        return

    def watch():
        while os.getppid() == launcher:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=watch, daemon=True).start()


def join_world(device_type: str, sequences: int, val_sequences: int) -> World:
    """This process's place among the ranks that torchrun started, or a world of one.

    Refusal (exit 2) where the world size does not divide the sequences of a step and of the validation.
    """
    die_with_launcher()
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

    def __init__(self, world: World, seconds: float = 0.0):
        self.world, self.seconds, self.started = world, seconds, None

    def start(self) -> None:
        """Starts the clock where it stands still."""
        if self.started is None:
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
