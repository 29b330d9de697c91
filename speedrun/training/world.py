"""The processes of a run: this one's place among them, their common clock, and how they stop together."""
import ctypes
import math
import os
import re
import signal
import socket
import sys
import threading
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from speedrun.cli import Refusal, stop_signals

TIMEOUT = 600  # seconds that a collective waits for a rank; rank 0 may hash 20 GB of shards in them
LATE = re.compile(r"(?i)timed out waiting|wait timeout|timeout after")
LOST = re.compile(rf"{LATE.pattern}|timed out|connection|socket|broken pipe|nccl|gloo|remote process")


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

    def gather(self, value) -> list:
        """Each rank's `value`, plain data, in order of rank."""
        found = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(found, value)
        return found

    @contextmanager
    def together(self, place, everywhere: bool = False):
        """Turns the error of a collective whose other ranks are gone or late into a Refusal that names this
        rank and place(); everywhere as in Refusal."""
        ended = threading.Event()
        if self.size > 1 and self.device.type == "cuda":
            threading.Thread(target=self._last_word, args=(place, ended), daemon=True).start()
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not LOST.search(str(error)):
                raise
            late, nccl = LATE.search(str(error)) is not None, "nccl" in str(error).lower()
            what = (f"waited {TIMEOUT} s at {place()} for the other ranks: one of them hangs" if late else
                    f"lost the other ranks at {place()}: one of them stopped")
            # nccl may have failed by itself, on this rank alone (no room in /dev/shm, a GPU used twice)
            said = f"; if none said why it stopped, this is why: {' '.join(str(error).split())[-400:]}"
            raise Refusal(f"rank {self.rank} {what}; see its message, then go on with --resume LOGDIR, or "
                          f"use torchrun's --max-restarts, which does so by itself{said if nccl else ''}",
                          everywhere=everywhere and not late and not nccl) from None
        finally:
            ended.set()

    def _last_word(self, place, ended: threading.Event) -> None:
        """Say where this rank stands before NCCL's watchdog, which names no step, ends the process."""
        was, since = place(), time.monotonic()
        while not ended.wait(0.1):
            if place() != was:
                was, since = place(), time.monotonic()
            elif time.monotonic() - since > 0.95 * TIMEOUT:
                print(f"train_gpt.py: rank {self.rank} has waited {0.95 * TIMEOUT:.0f} s at {was}; NCCL ends "
                      f"the run where it waits {TIMEOUT} s for a rank that hangs; then go on with --resume "
                      "LOGDIR", file=sys.stderr, flush=True)
                since = math.inf

    def minimum(self, value: int) -> int:
        """The least of the ranks' values."""
        value = torch.tensor(value, device=self.device)
        if self.size > 1:
            dist.all_reduce(value, op=dist.ReduceOp.MIN)
        return int(value)


ALONE = World(0, 1, torch.device("cpu"))


def die_with_launcher() -> None:
    """End this process when torchrun does: a launcher that is killed would leave its workers training.

    Refusal where it is gone already.
    """
    if "LOCAL_RANK" not in os.environ:
        return
    launcher = os.getppid()
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        try:  # the store of the first node's launcher: where it is gone, it died while this process began
            socket.create_connection((os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]), 30).close()
        except OSError as error:
            raise Refusal(f"torchrun's store does not answer ({error}), so torchrun has ended; start it "
                          "again", everywhere=False) from None
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
    common = math.gcd(sequences, val_sequences)
    if common % size:
        fitting = [n for n in range(1, min(common, 4096) + 1) if common % n == 0]
        raise Refusal(f"world size {size} does not divide the {sequences} sequences of a step; use as many "
                      f"processes as one of {', '.join(map(str, fitting))}", code=2)
    device = torch.device(device_type)
    if device_type == "cuda":
        if local >= torch.cuda.device_count():
            raise Refusal(f"rank {rank} wants GPU {local}, this machine shows {torch.cuda.device_count()}; "
                          "lower --nproc_per_node", everywhere=False)
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
        # For diagnostics: its library takes memory beside torch's, now that there is some.
        torch.linalg.eigh(torch.eye(2, device=device))
    world = World(rank, size, device)
    if size > 1:
        with world.together(lambda: "the start of the run", everywhere=True):
            dist.init_process_group("nccl" if device_type == "cuda" else "gloo", rank=rank, world_size=size,
                                    store=_store(rank, size), timeout=timedelta(seconds=TIMEOUT),
                                    device_id=device if device_type == "cuda" else None)
    return world


def _store(rank: int, size: int) -> dist.Store:
    """What the ranks find each other by: a part of the launcher's store that only they know.

    torchrun keeps its store over --max-restarts, with the addresses of the ranks before; a rank that is
    early reads one of those, and waits for a rank that is gone. So rank 0 names a new part, and answers
    each rank by a name that is new as well, until all have said that they know it.
    """
    store = next(dist.rendezvous("env://", timeout=timedelta(seconds=TIMEOUT)))[0]
    own, end = uuid.uuid4().hex, time.monotonic() + TIMEOUT
    if rank:
        store.set(f"rank {rank}", own)
        name = store.get(f"answer to {own}").decode()
        store.set(f"{name} {rank}", "known")
        return dist.PrefixStore(name, store)
    left = set(range(1, size))
    while left:
        for other in sorted(left):
            if store.check([f"rank {other}"]):  # it may be of a rank before
                store.set(f"answer to {store.get(f'rank {other}').decode()}", own)
            if store.check([f"{own} {other}"]):
                left.remove(other)
        if time.monotonic() > end:
            raise RuntimeError(f"timed out waiting for the ranks {sorted(left)}")
        time.sleep(0.01)
    return dist.PrefixStore(own, store)


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
    """Turns the first SIGINT, SIGTERM or SIGHUP (unless it is ignored, as under nohup) into a request the
    ranks agree on at a step; a second one kills."""

    def __init__(self):
        self.number = 0

    def __enter__(self):
        self.before = {s: signal.signal(s, self._note) for s in stop_signals()}
        return self

    def _note(self, number, _frame):
        self.number = number
        signal.signal(number, signal.SIG_DFL)

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)
