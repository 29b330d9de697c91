"""Runs of two ranks that are made to fail: a tiny version of the laptop track, real processes and signals.

The ranks are forked from a server process that has imported torch once, which makes a run cheap; with
`torchrun` they are started as a person starts them.
"""
import contextlib
import ctypes
import json
import multiprocessing
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

import train_gpt
from speedrun import ROOT
from speedrun.log.reader import read_log
from speedrun.training import checkpoint, world

TINY = ["--track", "laptop", "--device", "cpu", "--recipe", "muon", "--allow-custom", "--track.context", "64",
        "--track.tokens_per_step", "256", "--track.val_tokens", "1024", "--track.val_every", "6",
        "--track.tail", "0", "--track.model.num_layers", "1", "--track.model.model_dim", "48",
        "--track.model.head_dim", "16", "--steps", "30", "--checkpoint-every", "6", "--save"]
BEHIND_TWO = r"(?m)^@ checkpoint .*\"step\": 12"  # in the log: two checkpoints are written
LOCAL = dict(OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["train_gpt", "torch._dynamo"])  # the second is what the first step imports


def text(folder):
    return "".join(path.read_text(errors="replace") for path in Path(folder).glob("*.txt"))


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def command(laptop, folder, *args):
    return list(map(str, [*TINY, "--data-dir", laptop, "--log-dir", folder, *args]))


def obey_modes():
    """From now on the modes of files and folders bind this process, though it is root's."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # capset(2): version 3, this process
    sets = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capget(header, sets) == 0:
        sets[0] &= ~0b10  # CAP_DAC_OVERRIDE, of the effective set
        libc.capset(header, sets)


def _rank(words, environment, output, settings):
    """The body of a forked rank. settings: the `timeout` of its collectives, the seconds that rank 1 comes
    `late`, and whether to `obey_modes`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    torch.set_num_threads(1)
    if "timeout" in settings:
        world.TIMEOUT = settings["timeout"]
    if environment["RANK"] == "1":
        time.sleep(settings.get("late", 0))
    if settings.get("obey_modes"):
        obey_modes()
    sys.exit(train_gpt.main(words))


def _trainer(words, environment, outputs, folder):
    """The body of a forked train_gpt.py, in a session of its own."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment)
    os.chdir(folder)
    for number, path in zip((1, 2), outputs):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    torch.set_num_threads(1)
    sys.argv = ["train_gpt.py", *words]
    sys.exit(train_gpt.main())


class Trainer:
    """`python train_gpt.py WORDS` as subprocess.Popen has it, but forked from the server, which takes a
    fraction of a second instead of the import of torch. Its outputs are files, read when it has ended."""

    def __init__(self, words, folder, environment=None):
        beside = Path(tempfile.mkdtemp(dir=folder))
        self.outputs = [beside / "stdout", beside / "stderr"]
        environment = dict(LOCAL, **(environment or {}))
        self.process = _server.Process(target=_trainer, args=(list(map(str, words)), environment,
                                                              self.outputs, folder))
        self.process.start()
        self.pid = self.process.pid

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.returncode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self.process.kill()

    def communicate(self, timeout=None):
        self.process.join(timeout)
        assert self.returncode is not None, f"the trainer hangs: {self.outputs[1].read_text()[-3000:]}"
        return tuple(path.read_text() if path.exists() else "" for path in self.outputs)


def limit_files(pid, size):
    """No file that the process writes may get longer than `size` bytes: its next write ends there, as one
    does where the disk is full."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


class Ranks:
    """A run of `size` ranks on its way; a context manager that ends them all."""

    def __init__(self, laptop, folder, *args, size=2, environment=None, **settings):
        self.folder, port = Path(folder), str(free_port())
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.outputs = [self.folder.with_name(f"{self.folder.name}.{r}.out") for r in range(size)]
        self.processes = []
        for rank, output in enumerate(self.outputs):
            place = dict(LOCAL, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size),
                         MASTER_ADDR="127.0.0.1", MASTER_PORT=port) | (environment or {})
            words = command(laptop, folder, *args)
            self.processes.append(_server.Process(target=_rank, args=(words, place, output, settings)))
            self.processes[-1].start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.join()

    def pids(self):
        return [process.pid for process in self.processes]

    def alive(self):
        return any(process.is_alive() for process in self.processes)

    def said(self):
        """What the ranks printed to their terminals, without progress."""
        lines = "".join(path.read_text() for path in self.outputs if path.exists()).splitlines()
        return [line for line in lines if line.startswith("train_gpt.py: ") or "Traceback" in line
                or " is passed over: " in line]

    def wait(self, seconds=100):
        """The exit codes, by rank."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        assert not self.alive(), "the ranks hang"
        return [process.exitcode for process in self.processes]


class Torchrun(Ranks):
    """The same under torchrun, in a session of its own."""

    def __init__(self, laptop, folder, *args, size=2, restarts=0):
        self.folder, self.outputs = Path(folder), [Path(f"{folder}.out")]
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                 f"--nproc_per_node={size}", f"--max-restarts={restarts}", ROOT / "train_gpt.py",
                 *command(laptop, folder, *args)]
        with open(self.outputs[0], "w") as output:
            self.launcher = subprocess.Popen(list(map(str, words)), stdout=output, stderr=output,
                                             env={**os.environ, **LOCAL}, start_new_session=True)

    def __exit__(self, *_):
        self.launcher.kill()  # which its workers must not outlive
        self.launcher.wait()

    def pids(self):
        """Of the workers, by rank; none while there are not all."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                words = (folder / "environ").read_bytes().split(b"\0")
            except OSError:  # it ended in between
                continue
            ranks = [int(word[5:]) for word in words if word.startswith(b"RANK=")]
            if parent == self.launcher.pid and ranks:
                found[ranks[0]] = int(folder.name)
        return [found[rank] for rank in sorted(found)]

    def alive(self):
        return self.launcher.poll() is None

    def said(self):
        lines = super().said()
        if "Traceback (most recent call last):" in lines:
            lines.remove("Traceback (most recent call last):")  # torchrun's own, of its ChildFailedError
        return lines

    def wait(self, seconds=300):
        return [self.launcher.wait(seconds)]


full = pytest.mark.faults
LAUNCHERS = [pytest.param(Ranks, id="ranks"), pytest.param(Torchrun, id="torchrun", marks=full)]


def wait_for(run, pattern, seconds=120):
    """Until the run's log matches."""
    deadline = time.monotonic() + seconds
    alive = True
    while not re.search(pattern, text(run.folder)):
        assert time.monotonic() < deadline and alive, run.said()
        time.sleep(0.005)
        alive = run.alive()  # what it wrote before its end is looked at once more


def finish(laptop, folder, *args, **settings):
    """Go on with the run in `folder` until it is complete; what the ranks said."""
    with Ranks(laptop, folder, "--resume", folder, *args, **settings) as run:
        codes = run.wait()
        assert codes == [0] * len(codes), run.said()
        return run.said()


def outcome(folder):
    """(losses by step, final weights) of a run; its log must be whole and complete."""
    (path,) = Path(folder).glob("*.txt")
    log = read_log(path)
    assert (log.problems, log.status) == ([], "complete")
    losses = {seed: [(p.step, p.val_loss) for p in points] for seed, points in log.series.items()}
    return losses, torch.load(folder / "weights_seed0.pt", weights_only=True)


def same(a, b):
    """Whether two outcomes are equal to the last bit."""
    return a[0] == b[0] and a[1].keys() == b[1].keys() and all(torch.equal(a[1][n], b[1][n]) for n in a[1])


def checkpoints(folder):
    """The steps of the checkpoints in `folder` that load; those that claim to be whole and do not load."""
    good, bad = [], []
    for path in sorted(Path(folder).glob("checkpoint_*.json")):
        try:
            good.append(checkpoint.load(path)[0]["step"])
        except ValueError:
            bad.append(path.name)
    return good, bad


def last_resume(folder):
    """The last `resume` event of a log."""
    (path,) = Path(folder).glob("*.txt")
    return [data for _, kind, data in read_log(path).events if kind == "resume"][-1]


def reason(folder):
    """Why the log says that the run ended last; "" where it was killed before it could."""
    ends = re.findall(r"(?m)^@ end (\{.*\}) #", text(folder))
    return json.loads(ends[-1]).get("reason", json.loads(ends[-1])["status"]) if ends else ""


def kill(run):
    """SIGKILL every rank, and wait for their end."""
    for pid in run.pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    run.wait()


def goes_on(laptop, folder, undisturbed):
    """Resume the run in `folder`: all its checkpoints load, and its outcome is the undisturbed one. What the
    ranks said."""
    assert checkpoints(folder)[1] == []
    said = finish(laptop, folder)
    assert same(outcome(folder), undisturbed)
    return said


def ours(said):
    """The trainer's own lines; there is no traceback."""
    assert not any("Traceback" in line for line in said), said
    return [line.removeprefix("train_gpt.py: ") for line in said if line.startswith("train_gpt.py: ")]
