"""The runs of a study: tuning, then every cell and seed that is not done, each a process of train_gpt.py."""
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from speedrun import ROOT, launch
from speedrun.cli import Refusal, stop_signals
from speedrun.log.command import Command
from speedrun.log.folder import lock_folder, logs_in
from speedrun.log.reader import read_log
from speedrun.text import printable, source_text, without_folders

from .study import Cell, Study

GRACE = 20  # seconds that a run has to close its log


@dataclass
class Task:
    """A process to run; `name` for messages, `cell` None for a sweep."""

    name: str
    words: list[str]
    folder: Path
    cell: Cell | None = None
    seed: int = 0


def slots(study: Study, jobs: int | None) -> list[dict]:
    """The environment of each process that runs at the same time: one GPU each, or a share of the cores.

    Refusal (exit 2) for more jobs than GPUs.
    """
    gpus = 0 if study.device == "cpu" else torch.cuda.device_count()
    if gpus:
        if (jobs or gpus) > gpus:
            raise Refusal(f"--jobs {jobs}: this machine has {gpus} GPU(s), and a run takes one", code=2)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        return [dict(CUDA_VISIBLE_DEVICES=number) for number in visible.split(",")[:jobs or gpus]]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = jobs or cores
    hidden = dict(CUDA_VISIBLE_DEVICES="") if study.device == "cpu" else {}
    return [dict(OMP_NUM_THREADS=str(max(1, cores // jobs)), **hidden)] * jobs


@contextmanager
def _signals():
    """The signals received meanwhile; they end nothing by themselves."""
    received: list[int] = []
    before = {number: signal.signal(number, lambda got, _frame: received.append(got))
              for number in stop_signals()}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_all(tasks: list[Task], places: list[dict], ended) -> None:
    """Run the tasks in order, as many at a time as there are places, and call ended(task, exit code) for
    each. A signal, or an error of `ended`, ends the processes that are under way, then this one."""
    queue, running = deque(tasks), {}
    with _signals() as received:
        try:
            while (queue or running) and not received:
                for place in range(len(places)):
                    if queue and place not in running:
                        running[place] = _start(queue.popleft(), places[place])
                time.sleep(0.1)
                for place, (process, task) in list(running.items()):
                    if process.poll() is not None:
                        del running[place]
                        ended(task, process.returncode)
        finally:
            _end([process for process, _ in running.values()])
    if received:
        raise Refusal(f"stopped by {signal.Signals(received[0]).name}; what is done is kept, and the same "
                      "command runs the rest", code=128 + received[0])


def _start(task: Task, place: dict):
    shutil.rmtree(task.folder, ignore_errors=True)  # of a run that was interrupted
    task.folder.mkdir(parents=True)
    env = launch.environment()
    print(f"{task.name}: running", file=sys.stderr, flush=True)
    with open(task.folder / "output.log", "wb") as file:
        # A session of its own: Ctrl-C in the terminal reaches it once, through _end, with its children.
        return subprocess.Popen(task.words, env={**env, **place}, stdin=subprocess.DEVNULL, stdout=file,
                                stderr=subprocess.STDOUT, start_new_session=True), task


def _end(processes: list) -> None:
    """End the process groups: politely, then not."""
    for number, grace in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        for process in processes:
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                pass
        until = time.monotonic() + grace
        while any(process.poll() is None for process in processes) and time.monotonic() < until:
            time.sleep(0.05)


def said(task: Task) -> str:
    """Why a process failed: the trainer's own line, else the last one."""
    lines = (task.folder / "output.log").read_text(errors="replace").splitlines()
    ours = [words for line in lines if (words := launch.own_words(line))]
    return printable((ours or [line for line in lines if line.strip()] or ["it said nothing"])[-1], 400)


########################################
#         Tuning and the runs          #
########################################


def tune(study: Study, places: list[dict], work: Path, data_dir: Path | None) -> None:
    """Complete the tables of the study's tuning by scripts/sweep.py, which skips what they hold. Several runs
    at a time share the cores; on GPUs there is one at a time."""
    if study.tuning is None:
        return
    jobs = len(places) if "OMP_NUM_THREADS" in places[0] else 1
    tasks = []
    for recipe, grid in study.tuning.grids.items():
        study.table(recipe).parent.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, str(ROOT / "scripts" / "sweep.py"), "--track", study.track,
                 "--recipe", recipe, "--lr", *map(str, grid["lr"]),
                 "--weight-decay", *map(str, grid["weight_decay"]),
                 "--seeds", *map(str, study.tuning.seeds), "--jobs", str(jobs),
                 "--out", str(study.table(recipe)),
                 *(["--data-dir", str(data_dir)] if data_dir else [])]
        tasks.append(Task(f"tuning {recipe}", words, work / f"tuning_{recipe}"))

    def ended(task, code):
        if code:
            raise Refusal(f"{task.name} failed: {said(task)}")
        print(f"{task.name}: {said(task)}", file=sys.stderr, flush=True)

    # One after the other, since each sweep uses all the places; it shares the cores among its runs itself.
    run_all(tasks, [{k: v for k, v in places[0].items() if k != "OMP_NUM_THREADS"}], ended)


def run_missing(study: Study, places: list[dict], work: Path, data_dir: Path | None) -> list[str]:
    """Run every cell and seed that is not done and keep its log; what diverged, one line each.

    Refusal where a run fails for another reason, with that reason.
    """
    missing, diverged = study.missing(), []
    for cell in study.cells:
        if cell.logs is not None and not study.logs(cell):
            print(f"cell {cell.label}: {printable(cell.logs)} has no logs yet; run the study that makes "
                  "them", file=sys.stderr, flush=True)
    for cell in {cell.label: cell for cell, _ in missing}.values():
        _check_code(study, cell)
    tasks = []
    for cell, seed in missing:
        folder = work / cell.label / f"seed{seed}"
        words = Command(cell.words).plus(seeds=[seed], log_dir=folder, data_dir=data_dir).words
        tasks.append(Task(f"{cell.label}, seed {seed}", launch.command_words(ROOT / "train_gpt.py", words),
                          folder, cell, seed))
    done = 0

    def ended(task, code):
        nonlocal done
        done += 1
        if code:
            logs = logs_in(task.folder)
            if not logs or read_log(logs[0]).status != "diverged":
                raise Refusal(f"{task.name} failed: {said(task)}; fix it and run the same command again")
            diverged.append(f"{task.name} diverged: {said(task)}")
            path = study.end(task.cell, task.seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(dict(why=without_folders(said(task)), command=task.cell.words)) + "\n")
            print(diverged[-1], file=sys.stderr, flush=True)
            return
        loss = _keep(study, task)
        print(f"{task.name}: val_loss {loss:.5f} ({done} of {len(tasks)})", file=sys.stderr, flush=True)

    run_all(tasks, places, ended)
    return diverged


def _keep(study: Study, task: Task) -> float:
    """Move the log of a run that ended well to its place; its final loss. Refusal where it does not belong to
    its cell, or trained other code than the cell's other seeds."""
    text = logs_in(task.folder)[0]
    log, path = read_log(text), study.path(task.cell, task.seed)
    if why := task.cell.misfit(log):
        raise Refusal(f"{task.name} made a log that does not fit: {why}; it is {printable(text)}")
    for other in study.logs(task.cell)[:1]:
        if read_log(other).header["sha256"]["code"] != log.header["sha256"]["code"]:
            raise Refusal(f"{task.name} trained other code than {printable(other)}: a file was edited in "
                          f"between. Its log is {printable(text)}; train a cell's seeds by one version, in "
                          "a clone that nobody edits")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".partial")
    part.write_bytes(lzma.compress(text.read_bytes(), preset=9))
    part.replace(path)
    shutil.rmtree(task.folder)
    return log.series[task.seed][-1].val_loss


def _check_code(study: Study, cell: Cell) -> None:
    """Refusal where this checkout's code is not that of the cell's other seeds."""
    for path in study.logs(cell)[:1]:
        for name, text in read_log(path).sources.items():
            file = ROOT / name
            if not file.is_file() or source_text(file) != text:
                raise Refusal(f"cell {cell.label}: {printable(path)} is of other code than this checkout "
                              f"({printable(name)} differs). Run the missing seeds in a clone of its "
                              "commit, or move the cell's folder away to run all of them again")


@contextmanager
def workplace(study: Study):
    """The folder of the runs under way, in logs/ beside the records, held by this process alone."""
    work = study.folder.parents[2] / "logs" / f"study_{study.name}"
    lock = lock_folder(work)
    try:
        yield work
    finally:
        lock.close()
