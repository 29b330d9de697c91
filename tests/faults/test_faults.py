"""The fault matrix: runs of two ranks that are made to fail. No damaged file is accepted, a resumed run has
the digits of one that nothing disturbed, and its log or the terminal says what happened.

One case a fault runs always; `pytest -m faults` runs the rest, and prints the matrix. Here: ranks and
launchers, and kills within a write; test_faults_storage.py has what happens to disks and files.
"""
import contextlib
import os
import random
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from speedrun.text import without_folders
from speedrun.training import world
from speedrun.training.world import World
from tests.support.ranks import (
    BEHIND_TWO,
    LAUNCHERS,
    Ranks,
    Torchrun,
    checkpoints,
    full,
    goes_on,
    kill,
    last_resume,
    ours,
    outcome,
    reason,
    same,
    text,
    wait_for,
)

pytestmark = [pytest.mark.process,
              pytest.mark.skipif(sys.platform != "linux", reason="/proc and PR_SET_PDEATHSIG are Linux's")]

########################################
#          Ranks and launchers         #
########################################


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=full)])  # test_resume.py kills it under torchrun
def test_a_rank_is_killed(laptop, tmp_path, undisturbed, matrix, launcher, victim):
    folder = tmp_path / "log"
    with launcher(laptop, folder) as run:
        wait_for(run, BEHIND_TWO)
        os.kill(run.pids()[victim], signal.SIGKILL)
        run.wait()
        said = ours(run.said())
    lost = rf"rank {1 - victim} lost the other ranks at step \d+ of seed 0"
    assert len(said) == 1 and re.match(lost, said[0])
    assert victim == 0 or said[0].startswith(reason(folder))
    kept = checkpoints(folder)[0]
    goes_on(laptop, folder, undisturbed)
    matrix("SIGKILL", f"rank {victim}, {launcher.__name__.lower()}", kept, said[0])


def test_a_rank_hangs(laptop, tmp_path, undisturbed, matrix):
    folder = tmp_path / "log"
    with Ranks(laptop, folder, timeout=3) as run:
        wait_for(run, BEHIND_TWO)
        os.kill(run.pids()[1], signal.SIGSTOP)
        run.processes[0].join(60)
        said = ours(run.said())
    waited = r"rank 0 waited 3 s at step \d+ of seed 0 for the other ranks"
    assert len(said) == 1 and re.match(waited, said[0])
    assert said[0].startswith(reason(folder))
    kept = checkpoints(folder)[0]
    goes_on(laptop, folder, undisturbed)
    matrix("SIGSTOP", "rank 1", kept, said[0])


def test_a_rank_says_where_it_is_before_nccl_ends_it(capsys, monkeypatch):
    monkeypatch.setattr(world, "TIMEOUT", 1)
    with World(1, 2, torch.device("cuda")).together(lambda: "step 7 of seed 3"):  # starts nothing on a GPU
        time.sleep(1.3)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "rank 1 has waited 1 s at step 7 of seed 3" in err


@pytest.mark.parametrize("launcher", [Ranks, pytest.param(Torchrun, marks=full)])
def test_sigterm(laptop, tmp_path, undisturbed, matrix, launcher):
    folder = tmp_path / "log"
    with launcher(laptop, folder) as run:
        wait_for(run, BEHIND_TWO)
        for pid in [run.launcher.pid] if launcher is Torchrun else run.pids():
            os.kill(pid, signal.SIGTERM)
        codes = run.wait()
        said = ours(run.said())
    assert launcher is Torchrun or codes == [143, 143]
    assert len(said) == 1 and said[0].endswith(f"--resume {folder}")
    assert "stopped by a signal" in said[0] and without_folders(said[0]) == reason(folder)
    kept = checkpoints(folder)[0]
    assert max(kept) > 12  # of where it was stopped
    goes_on(laptop, folder, undisturbed)
    assert last_resume(folder)["step"] == max(kept)
    matrix("SIGTERM", "both ranks" if launcher is Ranks else "torchrun", kept, said[0])


@full
@pytest.mark.parametrize("begins", [False, True], ids=["in training", "while its workers begin"])
def test_torchrun_is_killed(laptop, tmp_path, undisturbed, matrix, begins):
    folder = tmp_path / "log"
    with Torchrun(laptop, folder) as run:
        while begins and len(run.pids()) < 2:
            time.sleep(0.002)
        if not begins:
            wait_for(run, BEHIND_TWO)
        left = run.pids()
        assert len(left) == 2
        run.launcher.kill()
        run.launcher.wait()
        deadline = time.monotonic() + 60
        while any(Path(f"/proc/{pid}").exists() for pid in left) and time.monotonic() < deadline:
            time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in left)
    kept = checkpoints(folder)[0]
    assert len(kept) == (0 if begins else 2)
    if not begins:
        goes_on(laptop, folder, undisturbed)
    matrix("SIGKILL", f"torchrun, {'beginning' if begins else 'training'}", kept, "(workers end with it)",
           None if begins else True)


@full
def test_torchrun_restarts_by_itself(laptop, tmp_path, undisturbed, matrix):
    folder = tmp_path / "log"
    with Torchrun(laptop, folder, restarts=3) as run:
        for times, victim in enumerate((0, 1, 0)):
            wait_for(run, "(?ms)" + r"^@ resume \{.*?" * times + r"^@ checkpoint \{")
            while len(run.pids()) < 2:
                time.sleep(0.01)
            os.kill(run.pids()[victim], signal.SIGKILL)
            wait_for(run, "(?ms)" + r"^@ resume \{.*?" * (times + 1))
        assert run.wait() == [0], run.said()
    assert same(outcome(folder), undisturbed) and text(folder).count("\n@ resume {") == 3
    matrix("SIGKILL", "ranks 0, 1, 0, --max-restarts 3", checkpoints(folder)[0], "(goes on by itself)")


def test_ranks_that_are_restarted_do_not_look_for_those_before(laptop, tmp_path, undisturbed, matrix):
    """torchrun's store outlives its workers, and with it the addresses of those that are gone."""
    folder, store = tmp_path / "log", torch.distributed.TCPStore("127.0.0.1", 0, is_master=True,
                                                                 wait_for_workers=False)
    launcher = dict(TORCHELASTIC_USE_AGENT_STORE="True", MASTER_PORT=str(store.port))
    with Ranks(laptop, folder, environment=launcher) as run:
        wait_for(run, BEHIND_TWO)
        kill(run)
    with Ranks(laptop, folder, "--resume", folder, environment=launcher, late=1) as run:
        assert run.wait() == [0, 0], run.said()
    assert same(outcome(folder), undisturbed)
    matrix("SIGKILL", "both ranks, the same store", checkpoints(folder)[0], "(goes on)")


def test_a_second_run_in_the_folder_is_refused(laptop, tmp_path, undisturbed, matrix):
    folder = tmp_path / "log"
    with Ranks(laptop, folder) as run:
        wait_for(run, BEHIND_TWO)
        for pid in run.pids():
            os.kill(pid, signal.SIGSTOP)
        before = text(folder)
        with Ranks(laptop, folder) as second:
            assert second.wait() == [1, 1]
        assert text(folder) == before
        for pid in run.pids():
            os.kill(pid, signal.SIGCONT)
        assert run.wait() == [0, 0]
    said = ours(run.said())
    assert same(outcome(folder), undisturbed)
    assert len(said) == 1 and "another run is writing in" in said[0]
    matrix("a second run", "the same folder", checkpoints(folder)[0], said[0])


########################################
#       Kills within a write           #
########################################


def kill_within(run, rng, writing):
    """Kill rank 0 at a random moment at which writing() holds: it is stopped first, and then looked at."""
    deadline, pid = time.monotonic() + 120, run.pids()[0]
    while True:
        while not writing():
            assert time.monotonic() < deadline and run.alive(), run.said()
        time.sleep(rng.random() * 0.003)
        os.kill(pid, signal.SIGSTOP)
        while (state := Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]) not in "TZ":
            assert time.monotonic() < deadline, f"rank 0 does not stop, it is in state {state}"
            time.sleep(0.001)
        if writing():
            return kill(run)
        os.kill(pid, signal.SIGCONT)


def half_written(folder):
    """The files, and when they were written, of checkpoints on their way: those beside their place, and
    tensors still without their JSON."""
    found = set()
    for path in folder.glob("checkpoint_*"):
        with contextlib.suppress(FileNotFoundError):
            if path.suffix == ".part" or path.suffix == ".pt" and not path.with_suffix(".json").exists():
                found.add((path.name, path.stat().st_mtime_ns))
    return found


@pytest.mark.parametrize("moments", [1, pytest.param(20, marks=full)])
def test_kills_during_a_checkpoint_write(laptop, tmp_path, undisturbed, matrix, moments):
    folder, rng = tmp_path / "log", random.Random(0)
    for moment in range(moments):
        before = half_written(folder)
        with Ranks(laptop, folder, "--checkpoint-every", "1", *["--resume", folder][:2 * moment]) as run:
            wait_for(run, r"(?m)^@ checkpoint \{")
            kill_within(run, rng, lambda: half_written(folder) - before)
        assert half_written(folder) - before
        kept, bad = checkpoints(folder)
        assert kept and bad == []
    goes_on(laptop, folder, undisturbed)
    matrix("SIGKILL", f"within a checkpoint write, {moments} times", kept, "(what is torn has no JSON)")


@pytest.mark.parametrize("moments", [1, pytest.param(10, marks=full)])
def test_kills_during_a_log_append(laptop, tmp_path, undisturbed, matrix, moments):
    """A write of one line is whole or absent where only the process dies; a machine that dies may tear it."""
    folder, rng = tmp_path / "log", random.Random(1)
    for moment in range(moments):
        before = len(re.findall("\n(?:step:|@ resume {)", text(folder)))
        with Ranks(laptop, folder, "--val-every", "1", *["--resume", folder][:2 * moment]) as run:
            while len(re.findall("\n(?:step:|@ resume {)", text(folder))) < before + 2:
                assert run.alive(), run.said()
                time.sleep(0.002)
            (path,) = folder.glob("*.txt")
            size = path.stat().st_size
            kill_within(run, rng, lambda: path.stat().st_size > size)
        last = path.read_bytes().rstrip(b"\n").rfind(b"\n") + 1
        os.truncate(path, rng.randrange(last + 1, path.stat().st_size))
    with Ranks(laptop, folder, "--val-every", "1", "--resume", folder) as run:
        assert run.wait() == [0, 0], run.said()
    cut = last_resume(folder)["cut_bytes"]
    losses, weights = outcome(folder)
    grid = {seed: [point for point in points if point[0] % 6 == 0] for seed, points in losses.items()}
    assert same((grid, weights), undisturbed) and cut > 0
    kept = checkpoints(folder)[0]
    matrix("SIGKILL", f"within a log append, {moments} times", kept, f"resume: cut_bytes {cut}")
