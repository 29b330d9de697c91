"""train_gpt.py in a process of its own, as compare, replay, fork, verify and the benchmarks start it."""
import os
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path

from .cli import Refusal, stop_signals
from .text import printable

# Left over from another launcher these would make a single process wait for peers that do not exist.
LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def environment() -> dict[str, str]:
    """This process's environment, for a trainer that is not of the same launcher."""
    return {name: value for name, value in os.environ.items() if name not in LAUNCHER}


def command_words(script: Path, args: list, processes: int = 1) -> list[str]:
    """`python SCRIPT ARGS`, or torchrun where there is more than one process."""
    # -P: torchrun itself imports nothing from the folder it starts in
    torchrun = ["-P", "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return [sys.executable, *(torchrun if processes > 1 else []), str(script), *map(str, args)]


def own_words(line: str) -> str:
    """What train_gpt.py or sweep.py says in this line of why it ends; "" for any other, and a warning."""
    name, colon, said = line.partition(".py: ")
    return said if colon and name in ("train_gpt", "sweep") and not said.startswith("warning: ") else ""


def run(words: list[str], folder: Path, on_line) -> tuple[int, str]:
    """Run `words` in `folder`, without a shell, and hand each line that it prints to `on_line`.

    Returns the exit code and the line that tells why it failed: the trainer's own, else the last one.
    A signal to this process goes to the run, which closes its log; then Refusal (exit 128 + number).
    """
    env = environment()
    if "torch.distributed.run" in words:
        env.setdefault("OMP_NUM_THREADS", "1")  # what torchrun would set itself, noisily
    process, received, ours, last = None, [], "", deque(maxlen=1)

    def forward(number, _frame):
        received.append(number)
        if process is not None:
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in stop_signals()}
    try:
        # A session of its own: Ctrl-C reaches it once, through `forward`; twice would kill it mid-line.
        process = subprocess.Popen(words, cwd=folder, env=env, stdin=subprocess.DEVNULL, text=True,
                                   encoding="utf-8", errors="replace", stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, start_new_session=True)
        for number in received[:1]:
            process.send_signal(number)
        for line in iter(lambda: process.stdout.readline(10_000), ""):
            ours = ours or own_words(line)
            if line.strip():
                last.append(line)
            on_line(line)
        process.wait()
    finally:
        if process is not None and process.poll() is None:  # on_line failed: a full disk
            process.terminate()
            process.communicate()
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        name = signal.Signals(received[0]).name
        raise Refusal(f"stopped by {name}; the logs so far are kept", code=128 + received[0])
    return process.returncode, printable((ours or "".join(last) or "it said nothing").strip(), 400)
